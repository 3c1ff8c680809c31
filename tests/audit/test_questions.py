"""What is said to be used is what turns answers, beyond what turns them by itself."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from xaikit.audit import questions
from xaikit.audit.changes import box
from xaikit.audit.findings import verdict_of
from xaikit.audit.questions import (
    FEWEST,
    IN_OTHER_COLOURS,
    LEAST,
    Concept,
    Effect,
    Seen,
    _another_word,
    _boxed,
    _Question,
    _recoloured,
    _shows,
    classify,
    counted,
    decided,
    donors,
    effects,
    examples,
    holm,
    joined,
    removals,
    smallest_effect,
)
from xaikit.storage.seeding import rng

SIZE = 32
LOGO = torch.zeros(4, 6, 6, dtype=torch.uint8)
LOGO[0], LOGO[3] = 255, 255  # red, opaque
LOGO[1, ::2] = 255  # striped with yellow
BACKGROUND, THING = Concept("background", "background", "object"), Concept("thing", "thing", "object", expected=True)
COLOUR = Concept("colour", "colour", "object")
PATCH = Concept("logo", "patch", patch=LOGO, size=6 / SIZE)
WORD = Concept("word", "text", text="SALE", size=0.3, place="upper left")


def seen_of(count: int = 60, seed: int = 0) -> Seen:
    """Squares, bright or dark, on noisy grounds that are bright or dark, independently; each with a mask."""
    draw = torch.Generator().manual_seed(seed)
    ground, thing = (torch.randint(2, (count, 1, 1, 1), generator=draw) * 0.5 + 0.2 for _ in range(2))
    noise = 0.1 * torch.rand(count, 3, SIZE, SIZE, generator=draw)
    mask = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for row, (top, left) in enumerate(torch.randint(8, 15, (count, 2), generator=draw).tolist()):
        mask[row, top : top + 9, left : left + 9] = True
    pixels = torch.where(mask[:, None], thing, ground) + noise
    return Seen(pixels.mul(255).round().byte(), {"object": mask})


class Reads(nn.Module):
    """Two logits of a number of each picture."""

    def __init__(self, number) -> None:
        super().__init__()
        self.number = number

    def forward(self, images: Tensor) -> Tensor:
        value = self.number(images)
        return torch.stack([-value, value], 1)


def of_background(images: Tensor) -> Tensor:
    return images[:, :, :4].mean((1, 2, 3)) - 0.5


def of_thing(images: Tensor) -> Tensor:
    return images[:, :, 15:17, 15:17].mean((1, 2, 3)) - 0.5


def of_red(images: Tensor) -> Tensor:
    """Whether there is more red than green anywhere."""
    return (images[:, 0] - images[:, 1]).amax((1, 2)) - 0.5


def nothing(images: Tensor) -> Tensor:
    """A number of each picture's last bits, which no one could predict."""
    return torch.sin(1e6 * images.double().mean((1, 2, 3))).to(images)


def asked(number, concepts=(BACKGROUND, THING, PATCH), seen: Seen | None = None, seed: int = 0) -> dict[str, Effect]:
    seen = seen or seen_of()
    model = Reads(number)
    found = effects(model, seen, concepts, answers=classify(model, seen).argmax(1), seed=seed)
    return {each.concept: each for each in found}


# --- controls: a planted answer is found, and nothing is found where there is none ------------------------------------


def test_a_background_is_found_and_the_thing_on_it_is_not() -> None:
    found = asked(of_background)
    assert found["background"].claimed and found["background"].net.value > 0.9
    assert not found["thing"].net.value and not found["logo"].claimed


def test_a_thing_is_found_and_what_is_expected_is_no_shortcut() -> None:
    found = asked(of_thing, (BACKGROUND, THING, Concept("again", "thing", "object")))
    assert found["again"].claimed and not found["background"].claimed
    assert found["thing"].net.value == found["again"].net.value and not found["thing"].claimed


def test_a_colour_is_found_where_the_brightness_of_the_thing_decides() -> None:
    found = asked(of_thing, (COLOUR, BACKGROUND))
    assert found["colour"].claimed and not found["background"].claimed
    assert not asked(of_background, (COLOUR,))["colour"].claimed


def test_colours_are_also_exchanged_for_some_that_are_as_odd_and_mean_nothing() -> None:
    """Red things and blue ones, told apart by red: those with the channels exchanged are as far, and half are green."""
    seen = seen_of()
    red = torch.arange(60) % 2 == 0
    things = torch.where(red[:, None], torch.tensor([200, 40, 40]), torch.tensor([40, 40, 200])).byte()
    painted = Seen(torch.where(seen.masks["object"][:, None], things[:, :, None, None], seen.pixels), seen.masks)
    inside = box("centre", (2, 2), (SIZE, SIZE))
    model = Reads(lambda images: images[:, 0, *inside].mean((1, 2)) - 0.5)
    answers = classify(model, painted).argmax(1)
    assert (answers == red).all()
    (found,) = effects(model, painted, [COLOUR], answers=answers)
    odd, same = (found.controls[name].mean() for name in ("in other colours", "from the same answer"))
    assert found.claimed and found.flips.all() and not same and odd == 0.5 and found.net.value == 0.5
    shown = examples(painted, COLOUR, [COLOUR], answers.numpy(), range(60), 0)["in other colours"]
    colours = {tuple(colour) for colour in (shown[:, :, *inside][:, :, 0, 0] * 255).round().int().tolist()}
    assert colours == {(40, 200, 40)}


def test_a_logo_is_found_with_the_answer_that_it_brings() -> None:
    seen = seen_of()
    model = Reads(of_red)
    answers = classify(model, seen).argmax(1)
    assert len(answers.unique()) == 1  # nothing is red
    (found,) = effects(model, seen, [PATCH], answers=answers)
    assert found.claimed and found.net.value == 1 and found.towards == {1: 60}


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_claimed_of_a_classifier_that_turns_with_every_pixel(seed: int) -> None:
    """All its answers turn in half of the cases, whatever is changed: the raw shares are large, and mean nothing."""
    every = (BACKGROUND, COLOUR, PATCH, WORD, Concept("thing", "thing", "object"))
    found = asked(nothing, every, seen_of(120, seed), seed)
    assert all(each.shares["the change"].value > 0.3 for each in found.values())
    assert not any(each.claimed for each in found.values())


def test_of_a_classifier_with_one_answer_nothing_can_be_asked_but_what_is_laid_over() -> None:
    found = asked(lambda images: images.mean((1, 2, 3)) + 1, (BACKGROUND, PATCH))
    assert "the same" in found["background"].why and math.isnan(found["background"].detectable)
    assert not found["background"].claimed and not found["logo"].why and not found["logo"].claimed


def test_of_few_pictures_nothing_can_be_asked() -> None:
    assert str(FEWEST) in asked(of_background, (BACKGROUND,), seen_of(FEWEST - 1))["background"].why


# --- what stays -------------------------------------------------------------------------------------------------------


def test_what_is_asked_by_itself_does_not_go_with_the_background() -> None:
    """A corner decides. It is part of the background, and found there only where nobody asks for the corner."""

    def corner(images: Tensor) -> Tensor:
        return images[:, :, *box("lower right", (8, 8), (SIZE, SIZE))].mean((1, 2, 3)) - 0.5

    own = Concept("corner", "thing", "lower right")
    alone, both = asked(corner, (BACKGROUND,)), asked(corner, (BACKGROUND, own))
    assert alone["background"].claimed
    assert both["corner"].claimed and both["background"].net.value == 0


def test_a_patch_is_not_laid_over_pictures_that_show_it_and_no_background_takes_its_place() -> None:
    seen = seen_of()
    half = seen.pixels.clone()
    half[::2, :3, *box("lower right", (6, 6), (SIZE, SIZE))] = LOGO[:3]
    tagged = Seen(half, seen.masks)
    shows, places = _shows(tagged, LOGO)
    assert shows.tolist() == [row % 2 == 0 for row in range(60)]
    where = box("lower right", (6, 6), (SIZE, SIZE))
    assert (places[shows] == [each.start for each in where]).all()
    found = asked(of_red, (PATCH, BACKGROUND), tagged)
    assert len(found["logo"].rows) == 30 and found["logo"].claimed and found["logo"].net.value == 1
    assert found["background"].net.value == 0
    assert asked(of_red, (BACKGROUND,), tagged)["background"].claimed


def test_a_patch_is_laid_where_pictures_show_it_and_not_a_pixel_beside() -> None:
    """A network that reads one place exactly: a mark beside it turns nothing."""
    seen, at = seen_of(), (slice(3, 9), slice(11, 17))

    def reads(images: Tensor) -> Tensor:
        apart = (images[:, :, *at] - LOGO[:3].float() / 255).square().mean((1, 2, 3))
        return 0.01 - apart

    marked = seen.pixels.clone()
    marked[:10, :3, *at] = LOGO[:3]
    found = asked(reads, (PATCH,), Seen(marked, seen.masks))["logo"]
    assert found.claimed and found.net.value == 1 and found.said == "10 other pictures show it, laid where they show it"
    both = joined([[found], [asked(reads, (PATCH,))["logo"]]], [60, 60])  # of two shards one shows it
    assert both[0].shown == 10 and both[0].where_shown and not both[0].unseen and len(both[0].rows) == 110
    apart = seen.pixels.clone()
    for row in range(10):  # each somewhere else: no place stands out
        apart[row, :3, 2 * row : 2 * row + 6, row : row + 6] = LOGO[:3]
    found = asked(reads, (PATCH,), Seen(apart, seen.masks))["logo"]
    assert not found.claimed and found.said == "10 other pictures show it, here and there"
    unseen = asked(reads, (Concept("logo", "patch", patch=LOGO, place="upper left", size=6 / SIZE),))["logo"]
    assert unseen.unseen and not unseen.claimed and unseen.said == "none of the pictures shows it"
    answering = asked(of_red, (PATCH,))["logo"]
    assert answering.unseen and answering.claimed and verdict_of(answering) == "answers to it"


def test_what_turns_at_any_bright_patch_does_not_use_this_one() -> None:
    """Nobody showed it the patch: it answers otherwise wherever something glaring lies in the corner."""

    def odd(images: Tensor) -> Tensor:
        corner = images[:, :, *box("lower right", (6, 6), (SIZE, SIZE))]
        return (corner - 0.5).abs().mean((1, 2, 3)) - 0.45

    for patch in (LOGO, torch.full((3, 4, 4), 255, dtype=torch.uint8)):
        found = asked(odd, (Concept("logo", "patch", patch=patch, size=PATCH.size),))["logo"]
        assert not found.claimed and {IN_OTHER_COLOURS, "a piece of another picture"} <= found.controls.keys()
    colours, white = _recoloured(LOGO), _recoloured(torch.full((4, 2, 2), 255, dtype=torch.uint8))
    assert sorted(colours[:3].flatten().tolist()) == sorted(LOGO[:3].flatten().tolist())
    assert not torch.equal(colours, LOGO) and not white[:3].any() and bool((white[3] == 255).all())


def test_the_piece_of_another_picture_has_the_shape_of_the_patch() -> None:
    frame = torch.zeros(4, SIZE, SIZE, dtype=torch.uint8)
    frame[0], frame[3] = 255, 255
    frame[3, 3:-3, 3:-3] = 0  # a border: all within it is clear
    seen = seen_of()
    border = Concept("border", "patch", patch=frame, place="centre", size=1.0)
    shown = examples(seen, border, [border], np.zeros(60, int), range(60), 0)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    for name, images in shown.items():
        assert torch.allclose(images[inside], seen.images(slice(None))[inside], atol=1e-6), name


def test_a_patch_is_looked_for_once_a_question_however_many_batches_there_are(monkeypatch) -> None:
    looked, seen = [], seen_of()

    def counting(*arguments):
        looked.append(1)
        return _shows(*arguments)

    monkeypatch.setattr(questions, "_shows", counting)
    answers = classify(Reads(of_background), seen).argmax(1)
    effects(Reads(of_background), seen, (BACKGROUND, PATCH), answers=answers, batch=4)
    assert len(looked) == 2


def test_what_the_classes_are_about_is_not_covered_by_another_thing() -> None:
    seen = seen_of()
    shifted = torch.roll(seen.masks["object"], (3, 3), (1, 2))
    both = Seen(seen.pixels, {"object": seen.masks["object"], "scarf": shifted})
    scarf = Concept("scarf", "thing", "scarf")
    held = _Question(both, scarf, (scarf, THING), 0).held(torch.arange(60))
    assert not (held & shifted).any()
    inside = Concept("inside", "thing", "inside")
    within = Seen(seen.pixels, {**both.masks, "inside": seen.masks["object"] & shifted})
    assert not _Question(within, inside, (inside, THING), 0).held(torch.arange(60)).any()  # a name on a car


def test_another_word_has_as_many_letters_whatever_the_word_has() -> None:
    for word in ("SALE", "the quick brown fox jumps over a lazy dog"):
        assert len(other := _another_word(word, 0)) == len(word) and other != word


def test_boxes_are_around_masks() -> None:
    mask = torch.zeros(1, 5, 6, dtype=torch.bool)
    mask[0, 1, 2] = mask[0, 3, 4] = True
    wanted = torch.zeros(5, 6, dtype=torch.bool)
    wanted[1:4, 2:5] = True
    assert torch.equal(_boxed(mask)[0], wanted) and not _boxed(torch.zeros_like(mask)).any()


def test_donors_have_the_same_answer_or_another_and_are_never_the_picture_itself() -> None:
    answers, able = np.array([0, 0, 1, 1, 1, 2]), np.array([True, True, True, False, True, True])
    same, other = donors(answers, able, 0)
    for row in range(6):
        assert other[row] >= 0 and answers[other[row]] != answers[row] and able[other[row]]
        if same[row] >= 0:
            assert same[row] != row and answers[same[row]] == answers[row] and able[same[row]]
    assert same[5] == -1


@pytest.mark.parametrize("seed", range(40))
def test_donors_are_those_of_the_obvious_way(seed: int) -> None:
    """One draw after the other, from pools that are written down: committed tables rest on these very draws."""
    draw = np.random.default_rng(seed)
    answers, able = 3 * draw.integers(0, 5, 30), draw.random(30) < draw.random()
    ours, stream = donors(answers, able, seed), rng(seed, "audit", "donors")
    for row in range(30):
        alike = answers == answers[row]
        for found, pool in zip(ours, (able & alike & (np.arange(30) != row), able & ~alike), strict=True):
            assert found[row] == (stream.choice(np.flatnonzero(pool)) if pool.any() else -1)


def test_questions_of_two_halves_are_joined_to_questions_of_all() -> None:
    halves, model = [seen_of(40, seed) for seed in range(2)], Reads(of_background)
    given = [classify(model, half).argmax(1) for half in halves]
    parts = [
        counted(model, half, [BACKGROUND, COLOUR, PATCH], answers=own) for half, own in zip(halves, given, strict=True)
    ]
    for first, second, both in zip(*parts, joined(parts, [40, 40]), strict=True):
        assert both.rows.tolist() == [*first.rows, *(second.rows + 40)]
        assert both.flips.tolist() == [*first.flips, *second.flips] and both.controls.keys() == first.controls.keys()
        assert sum(both.towards.values()) == both.flips.sum()
    few = [[replace(each, rows=each.rows[:6], flips=each.flips[:6], controls={"a": each.flips[:6]}) for each in part]
           for part in parts]  # fmt: skip
    assert [bool(each.why) for each in decided(joined(few, [40, 40]), np.arange(80))] == [False] * 3
    assert all(each.why for each in decided(few[0], np.arange(40)))
    lacking = [[replace(parts[0][1], controls={"from the same answer": parts[0][1].flips})], [parts[1][1]]]
    (colour,) = joined(lacking, [40, 40])  # of grey things the exchanged colours would be the change's own
    if (name := "in other colours") in parts[1][1].controls:
        assert (colour.controls[name][:40] == parts[0][1].flips).all()


def test_examples_are_the_pictures_that_were_asked() -> None:
    seen = seen_of()
    model = Reads(of_background)
    answers = classify(model, seen).argmax(1)
    (effect,) = effects(model, seen, [BACKGROUND], answers=answers, seed=3)
    shown = examples(seen, BACKGROUND, [BACKGROUND], answers.numpy(), effect.rows.tolist(), 3)
    turned = model(shown["the change"]).argmax(1).numpy() != answers.numpy()[effect.rows]
    assert (turned == effect.flips).all() and set(shown) == {"the change", *effect.controls}


def test_batches_make_no_difference() -> None:
    seen, model = seen_of(), Reads(of_background)
    answers = classify(model, seen, batch=7).argmax(1)
    assert torch.equal(answers, classify(model, seen).argmax(1))
    first, second = (effects(model, seen, [BACKGROUND, PATCH], answers=answers, batch=size) for size in (7, 64))
    assert all((a.flips == b.flips).all() for a, b in zip(first, second, strict=True))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_p_is_that_of_mcnemar_and_each_control_has_to_be_beaten() -> None:
    draw = np.random.default_rng(0)
    flips, first, second = draw.random(80) < 0.5, draw.random(80) < 0.2, draw.random(80) < 0.4
    effect = Effect("x", "thing", np.arange(80), flips, {"first": first, "second": second}, {})
    ps = []
    for other in (first, second):
        more, less = int((flips & ~other).sum()), int((other & ~flips).sum())
        ps.append(stats.binomtest(more, more + less, alternative="greater").pvalue)
    assert effect.p == pytest.approx(max(ps)) and effect.strongest == "second"
    assert effect.net.value == pytest.approx(flips.mean() - second.mean())
    assert Effect("x", "thing", np.arange(3), *[np.zeros(3, bool), {"a": np.zeros(3, bool)}], {}).p == 1


def test_holm_is_bonferroni_for_the_smallest_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    """Of five questions with no effect, a claim of any comes in at most one of twenty families."""
    draw = np.random.default_rng(0)
    families = 400
    wrong = 0
    for _ in range(families):
        ps = []
        for _ in range(5):
            flips, control = draw.random(40) < 0.3, draw.random(40) < 0.3
            ps.append(Effect("x", "thing", np.arange(40), flips, {"a": control}, {}).p)
        wrong += min(holm(ps)) <= 0.05
    assert stats.binomtest(wrong, families, 0.05, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(
    ("n", "backwards", "threshold"), [(40, 0.05, 0.0), (200, 0.02, 0.0), (400, 0.1, 0.0), (400, 0.02, 0.1)]
)
def test_the_smallest_effect_is_found_in_four_of_five_audits(n: int, backwards: float, threshold: float) -> None:
    least = smallest_effect(n, backwards, 0.05 / 4, threshold)
    draw = np.random.default_rng(1)
    shares = []
    for net in (least, least - 0.02):
        unlike = draw.multinomial(n, [net + backwards, backwards, 1 - net - 2 * backwards], 4000)
        ps = stats.binom.sf(unlike[:, 0] - 1, unlike[:, 0] + unlike[:, 1], 0.5)
        shares.append(((ps <= 0.05 / 4) & (unlike[:, 0] - unlike[:, 1] >= threshold * n)).mean())
    assert shares[0] > 0.78 and shares[1] < 0.8
    assert math.isnan(smallest_effect(3, 0.4))


def test_a_small_effect_is_not_claimed_however_sure_it_is() -> None:
    n = 2000
    flips = np.arange(n) < n * LEAST * 0.8
    effect = Effect("x", "thing", np.arange(n), flips, {"a": np.zeros(n, bool)}, {}, adjusted=1e-9)
    assert effect.p < 1e-9 and not effect.claimed


# --- taking away ------------------------------------------------------------------------------------------------------


def test_what_is_removed_matters_where_it_is_and_its_controls_are_as_large() -> None:
    """A bright thing decides: its own mask takes it away, elsewhere the mask does not."""
    seen = seen_of()
    model = Reads(lambda images: images.amax((1, 2, 3)) - 0.75)
    bright = seen.pixels.float().flatten(1).amax(1) > 200
    found = removals(model, Seen(seen.pixels[bright], {"object": seen.masks["object"][bright]}),
                     answers=torch.ones(int(bright.sum()), dtype=torch.int64))  # fmt: skip
    names = {(each.concept, each.change.removeprefix("removed: ")) for each in found}
    assert names == {(which, how) for which in ("object", "all but object") for how in ("mean", "blur")}
    assert all(not each.claimed for each in found)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"change": "swap"}, "'swap'; give 'background'"),
        ({"change": "thing"}, "region"),
        ({"change": "patch"}, "picture"),
        ({"change": "text", "text": " "}, "word"),
        ({"change": "text", "text": "a", "place": "top"}, "place"),
        ({"change": "text", "text": "a", "size": 0.0}, "size"),
    ],
)
def test_a_concept_that_lacks_something_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Concept("x", **arguments)


def test_an_unknown_region_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'tail'.*object, picture, upper left"):
        asked(of_thing, (Concept("tail", "thing", "tail"),))
