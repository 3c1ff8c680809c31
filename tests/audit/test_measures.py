"""What is measured beside the questions: each finds what was planted, and says of chance that it is chance."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from xaikit.audit import mends
from xaikit.audit.maps import Maps, maps_of, shuffled
from xaikit.audit.measures import calibration, grouping, keywords, margins_by_group
from xaikit.audit.mends import mend
from xaikit.audit.questions import Concept, Seen, classify, examples
from xaikit.metrics.intervals import Interval
from xaikit.storage.seeding import rng


def confident(n: int, seed: int, too: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and verdicts that are right as often as they say, less `too`."""
    draw = np.random.default_rng(seed)
    confidence = draw.uniform(0.5, 1, n)
    return confidence, draw.random(n) < confidence - too


def test_the_calibration_error_is_that_of_the_obvious_way() -> None:
    confidence, correct = confident(97, 0)
    found = calibration(confidence, correct, 0)
    order, total = np.argsort(confidence), 0.0
    for part in np.array_split(order, 10):
        total += abs(correct[part].mean() - confidence[part].mean()) * len(part) / 97
    assert found.error == pytest.approx(total) and found.bins["pictures"].sum() == 97
    assert found.overconfident.value == pytest.approx((confidence - correct).mean())


def test_a_calibrated_classifier_seems_off_by_chance_alone_and_another_one_is() -> None:
    ps = [calibration(*confident(100, seed), seed).p for seed in range(40)]
    assert stats.binomtest(sum(p <= 0.05 for p in ps), 40, 0.05, alternative="greater").pvalue > 0.01
    assert calibration(*confident(100, 0), 0).by_chance > 0.03  # though nothing is wrong
    assert calibration(*confident(200, 0, 0.25), 0).p < 0.01


def test_a_worse_group_is_found_and_groups_that_are_classes_in_disguise_are_not() -> None:
    draw = np.random.default_rng(0)
    labels, groups = draw.integers(0, 2, 400), draw.choice(["day", "night"], 400)
    worse = draw.random(400) < np.where(groups == "night", 0.6, 0.95)
    found = grouping("time", groups.tolist(), worse, labels, 0)
    assert found.accuracy.worst_group == "night" and found.p < 0.01
    harder = draw.random(400) < np.where(labels == 1, 0.6, 0.95)  # a class is harder, and mostly at night
    mostly = np.where(draw.random(400) < 0.9, labels, 1 - labels)
    assert grouping("time", mostly.astype(str).tolist(), harder, labels, 0).p > 0.05


def test_what_moves_the_logits_within_classes_is_found_and_what_goes_with_the_class_is_not() -> None:
    draw = np.random.default_rng(0)
    labels, factor = draw.integers(0, 3, 300), draw.integers(0, 2, 300)
    logits = draw.normal(size=(300, 3)) + 3 * np.eye(3)[labels]
    found, chance = (margins_by_group("x", factor.astype(str).tolist(), each, labels, 0)
                     for each in (logits + 1.5 * factor[:, None] * np.array([1, -1, 0]), logits))  # fmt: skip
    assert found[1] < 0.01 < chance[1] and found[0] > 5 * chance[0]
    assert margins_by_group("x", labels.astype(str).tolist(), logits, labels, 0)[0] == pytest.approx(0, abs=1e-9)


def test_a_word_of_mistakes_is_found_and_of_a_hundred_words_none_by_chance() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    texts = [" ".join(draw.choice(words, 20)) for _ in range(200)]
    chance = [keywords(texts, draw.random(200) < 0.3, seed)["p"].min() for seed in range(20)]
    assert sum(p <= 0.05 for p in chance) <= 4
    wrong = draw.random(200) < 0.3
    snows = draw.random(200) < np.where(wrong, 0.8, 0.2)
    told = [f"{text} snow" if snow else text for text, snow in zip(texts, snows, strict=True)]
    found = keywords(told, wrong, 0)
    assert found["word"][0] == "snow" and found["p"][0] < 0.01 and (found["p"][1:] > 0.01).all()
    assert not len(keywords(told, np.zeros(200, bool), 0)) and not len(keywords([""] * 200, wrong, 0))


# --- maps -------------------------------------------------------------------------------------------------------------


CHEQUER = ((torch.arange(32)[:, None] // 2 + torch.arange(32) // 2) % 2).float() - 0.5


class Pattern(nn.Module):
    """Two logits of how much of a chequer there is in the middle, learned by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 2, 32)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[1, :, 10:22, 10:22] = 0.05 * CHEQUER[10:22, 10:22]
            self.look.bias.copy_(torch.tensor([1.5, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images)[:, :, 0, 0]


def pictures(count: int = 20) -> Seen:
    """Chequers in the middle; one region there, and one in a corner."""
    draw = torch.Generator().manual_seed(0)
    images = 0.3 + 0.2 * torch.rand(count, 3, 32, 32, generator=draw)
    masks = {name: torch.zeros(count, 32, 32, dtype=torch.bool) for name in ("middle", "corner")}
    masks["middle"][:, 10:22, 10:22] = True
    masks["corner"][:, :6, :6] = True
    images = torch.where(masks["middle"][:, None], images + 0.4 * CHEQUER, images)
    return Seen(images.mul(255).byte(), masks)


def test_maps_lie_where_the_classifier_looks() -> None:
    seen, model = pictures(), Pattern()
    answers = classify(model, seen).argmax(1)
    assert answers.all()
    found = maps_of(model, seen, answers, range(8))
    inside = found.maps[:, 10:22, 10:22].sum((1, 2)) / found.maps.sum((1, 2))
    assert (inside > 2 * 144 / 1024).all()  # twice what a map that knows nothing has there
    # One that is always in the same place cannot be told from another picture's.
    assert "another picture's" in found.why("middle") and "another picture's" in found.why("corner")


def test_without_gradients_maps_are_of_random_masks() -> None:
    seen, model = pictures(), Pattern()
    found = maps_of(model, seen, classify(model, seen).argmax(1), range(4), gradients=False)
    inside = found.maps[:, 10:22, 10:22].mean((1, 2)) / found.maps.mean((1, 2))
    assert found.method == "RISE" and (inside > 1.2).all()


def test_a_map_says_nothing_where_a_control_fails() -> None:
    above, across = Interval(0.3, 0.2, 0.4, 9), Interval(0.1, -0.1, 0.3, 9)
    for beyond, untrained, why in ((above, across, ""), (across, across, "another"), (above, above, "shuffled")):
        found = Maps("x", np.arange(9), torch.rand(9, 4, 4), {"a": beyond}, {"a": untrained})
        assert why in found.why("a") and bool(why) == bool(found.why("a"))


def test_a_classifier_whose_weights_cannot_be_reached_lacks_a_control() -> None:
    class NoWeights(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.mean((1, 2, 3)), images[:, :, 10:22, 10:22].mean((1, 2, 3))], 1)

    seen = pictures()
    found = maps_of(NoWeights(), seen, torch.ones(20, dtype=torch.int64), range(6), gradients=False)
    above = Interval(0.3, 0.2, 0.4, 6)
    lacking = Maps("RISE", found.rows, found.maps, {"middle": above}, found.untrained)
    assert not found.untrained and "cannot be shuffled" in lacking.why("middle")


def test_weights_are_shuffled_and_the_classifier_is_left_as_it_was() -> None:
    model = Pattern()
    before = model.look.weight.clone()
    other = shuffled(model, 0)
    assert torch.equal(model.look.weight, before) and not torch.equal(other.look.weight, before)
    assert torch.equal(other.look.weight.flatten().sort().values, before.flatten().sort().values)


# --- mends ------------------------------------------------------------------------------------------------------------


class TwoFeatures(nn.Module):
    """A linear layer of the brightness of the thing, and of that of the ground, on which it relies."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, -6.0], [1.0, 6.0]]))
            self.head.bias.copy_(torch.tensor([3.5, -3.5]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.stack([images[:, :, 14:18, 14:18].mean((1, 2, 3)), images[:, :, :4].mean((1, 2, 3))], 1))


def squares(count: int = 120) -> tuple[Seen, np.ndarray]:
    """Bright or dark squares on a ground that mostly goes with them; the label is the square's."""
    draw = torch.Generator().manual_seed(1)
    label = torch.randint(2, (count,), generator=draw)
    ground = torch.where(torch.rand(count, generator=draw) < 0.9, label, 1 - label)
    mask = torch.zeros(count, 32, 32, dtype=torch.bool)
    mask[:, 10:22, 10:22] = True
    noise = 0.1 * torch.rand(count, 3, 32, 32, generator=draw)
    levels = [0.2 + 0.5 * each.float()[:, None, None, None] for each in (label, ground)]
    images = torch.where(mask[:, None], *levels) + noise
    return Seen(images.mul(255).byte(), {"object": mask}), label.numpy()


def test_the_last_layer_learned_anew_on_exchanged_pictures_does_without_the_cue() -> None:
    seen, labels = squares()
    model, ground = TwoFeatures(), Concept("ground", "background", "object")
    answers = classify(model, seen).argmax(1).numpy()
    found = mend(model, seen, labels, ground, [ground], answers)
    assert found.before.net.value > 0.8 and found.before.claimed
    assert abs(found.after.net.value) < 0.05 and found.right_after.value > 0.95 > found.right_before.value


def test_no_picture_that_judges_a_mend_lends_its_background_to_one_that_is_learned_from(monkeypatch) -> None:
    seen, labels = squares()
    learn, judge = np.array_split(rng(0, "audit", "halves").permutation(120), 2)
    asked = []
    monkeypatch.setattr(mends, "examples", lambda given, *rest: asked.append(given) or examples(given, *rest))
    model, ground = TwoFeatures(), Concept("ground", "background", "object")
    mend(model, seen, labels, ground, [ground], classify(model, seen).argmax(1).numpy())
    (given,) = asked
    assert torch.equal(given.pixels, seen.pixels[np.sort(learn)]) and len(given) + len(judge) == 120


def test_a_mend_that_cannot_be_tried_says_why() -> None:
    seen, labels = squares()
    ground = Concept("ground", "background", "object")
    few = mend(TwoFeatures(), seen, np.full(120, -1), ground, [ground], labels)
    assert "labels" in few.why
    none = mend(Pattern(), seen, labels, ground, [ground], labels)
    assert "linear" in none.why
