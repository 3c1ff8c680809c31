"""Scenes are pure functions of their records, counterfactuals are exact, and masks say what is drawn where."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from xaikit.world import Birds, Cars, Nine, People, Scene, Several

BIRDS = Birds(seed=3, species="duck", colour="red", count=2, background="water", scenery=0)
NINE = Nine(seed=7, category="dog", colour="blue", pattern="spotted", background="living room")
PEOPLE = People(seed=5, profession="chef")
CARS = Cars(seed=2, make="vega", model="sedan", colour="yellow", background="street", text="orso")
SEVERAL = Several(
    seed=4, kind1="lion", kind2="van", kind3="duck", pattern1="striped", size3="small", depth2="front", sign="van",
    distractors=2,
)  # fmt: skip
SCENES = (BIRDS, NINE, PEOPLE, CARS, SEVERAL)
# For every factor another value, and the parts that it may change.
CHANGES = [
    (BIRDS, "species", "heron", {"birds"}),
    (BIRDS, "colour", "black", {"birds"}),
    (BIRDS, "count", 1, {"bird2"}),
    (BIRDS, "count", 3, {"birds"}),
    (BIRDS, "background", "land", {"background"}),
    (BIRDS, "scenery", 1, {"background"}),
    (NINE, "category", "fish", {"object"}),
    (NINE, "colour", "white", {"object"}),
    (NINE, "pattern", "striped", {"object"}),
    (NINE, "background", "sky", {"background"}),
    (NINE, "variant", "only_bg_t", {"object"}),
    (NINE, "variant", "no_fg", {"object"}),
    (NINE, "variant", "only_fg", {"background", "occluder"}),
    (NINE, "variant", "mixed_next", {"background"}),
    (PEOPLE, "profession", "judge", {"clothing", "headwear", "tool", "background"}),
    (PEOPLE, "presentation", "long hair", {"hair"}),
    (PEOPLE, "clothing", "pilot", {"clothing", "headwear"}),
    (PEOPLE, "tool", "farmer", {"tool"}),
    (PEOPLE, "background", "farmer", {"background"}),
    (PEOPLE, "face_mask", True, {"face"}),
    (CARS, "make", "kite", {"emblem"}),
    (CARS, "model", "van", {"body"}),
    (CARS, "colour", "black", {"body", "emblem"}),
    (CARS, "background", "showroom", {"background"}),
    (CARS, "text", None, {"text"}),
    (CARS, "text", "lumo", {"text"}),
    (SEVERAL, "kind1", "dog", {"thing1"}),
    (SEVERAL, "kind2", "truck", {"thing2"}),
    (SEVERAL, "kind3", None, {"thing3"}),
    (SEVERAL, "colour2", "yellow", {"thing2"}),
    (SEVERAL, "order", "312", {"things"}),
    (SEVERAL, "place", "farm", {"background"}),
    (SEVERAL, "sign", "lion", {"sign"}),
    (SEVERAL, "sign", None, {"sign"}),
]
LEAVES = {
    Birds: {"background", "bird1", "bird2", "bird3", "occluder"},
    Nine: {"background", "object", "occluder"},
    People: {"background", "body", "face", "hair", "clothing", "headwear", "tool"},
    Cars: {"background", "body", "text", "emblem", "wheels", "occluder"},
    Several: {"background", "thing1", "thing2", "thing3", "distractors", "sign"},
}


def family(scene: Scene) -> str:
    return type(scene).__name__


def others(scene: Scene, n: int) -> list[Scene]:
    """The scene and others of its family, with different seeds and factors."""
    found = [scene]
    for seed in range(1, n):
        values = {name: scene.values(name)[seed % len(scene.values(name))] for name in scene.factor_names()}
        values.pop("variant", None)
        found.append(scene.replace(seed=seed, **values))
    return found


@pytest.mark.parametrize("scene", SCENES, ids=family)
def test_equal_records_give_equal_bytes_and_other_seeds_other_ones(scene: Scene) -> None:
    again = type(scene)(**{name: getattr(scene, name) for name in ("seed", *scene.factor_names())})
    assert again == scene and again is not scene
    assert np.array_equal(again.image(64), scene.image(64))
    assert scene.image(64).shape == (64, 64, 3) and scene.image(64).dtype == np.uint8
    other = scene.replace(seed=scene.seed + 1)
    assert other.factors == scene.factors
    assert (other.image(64) != scene.image(64)).mean() > 0.5
    assert scene.captions == again.captions


def test_another_process_draws_the_same() -> None:
    def digest(scenes: tuple[Scene, ...]) -> str:
        content = b"".join(scene.image(size).tobytes() for scene in scenes for size in (64, 96))
        return hashlib.sha256(content + repr([scene.captions for scene in scenes]).encode()).hexdigest()

    program = (
        "import hashlib\nfrom xaikit.world import Birds, Cars, Nine, People, Several\n"
        f"scenes = ({', '.join(map(repr, SCENES))})\n"
        "content = b''.join(scene.image(size).tobytes() for scene in scenes for size in (64, 96))\n"
        "print(hashlib.sha256(content + repr([scene.captions for scene in scenes]).encode()).hexdigest())"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.strip() == digest(SCENES)


@pytest.mark.parametrize(("scene", "name", "value", "parts"), CHANGES)
@pytest.mark.parametrize("seed", [None, 11])
def test_one_factor_changes_its_own_parts_and_nothing_else(
    scene: Scene, name: str, value: object, parts: set[str], seed: int | None
) -> None:
    scene = scene if seed is None else scene.replace(seed=seed)
    before, after = scene.draw(64), scene.replace(**{name: value}).draw(64)
    allowed = sum(drawing.coverage[part] for drawing in (before, after) for part in parts) > 0
    changed = (before.image != after.image).any(-1)
    assert not (changed & ~allowed).any()
    assert changed.sum() > 15
    assert np.array_equal(before.gain, after.gain)  # the light knows nothing of what is seen


@pytest.mark.parametrize("scene", [scene for first in SCENES for scene in others(first, 4)], ids=family)
def test_parts_are_exactly_where_the_picture_depends_on_them(scene: Scene) -> None:
    drawing = scene.draw(64)
    for part in LEAVES[type(scene)]:
        covered = drawing.coverage[part] > 0
        changed = (drawing.image != scene.image(64, without={part})).any(-1)
        assert not (changed & ~covered).any()
        if part == "background":  # left out it is black, so that all of it changes
            assert changed[drawing.coverage[part] > 0.5].mean() > 0.99
        elif drawing.masks[part].sum() > 12:
            assert changed[drawing.masks[part]].mean() > 0.8  # where it is not like what lies behind it


@pytest.mark.parametrize("scene", [scene for first in SCENES for scene in others(first, 4)], ids=family)
@pytest.mark.parametrize("size", [32, 64, 100])
def test_coverage_masks_and_boxes_agree_with_slow_references(scene: Scene, size: int) -> None:
    drawing = scene.draw(size)
    k = len(drawing.subpixels) // size
    blocks = drawing.subpixels.reshape(size, k, size, k, 4).transpose(0, 2, 1, 3, 4).reshape(size, size, k * k, 4)
    leaves = sorted(LEAVES[type(scene)])
    total = np.zeros((size, size))
    for part, labels in drawing.parts.items():
        share = np.isin(blocks[..., 3], labels).astype(np.float64).mean(-1)
        assert np.array_equal(drawing.coverage[part], share)
        total += share if part in leaves else 0
    assert np.array_equal(total, np.ones((size, size)))

    counts = np.stack([(blocks[..., 3] == label).sum(-1) for label in range(11)])
    winner = 10 - counts[::-1].argmax(0)
    for part, labels in drawing.parts.items():
        assert np.array_equal(drawing.masks[part], np.isin(winner, labels))
        things = labels if part in drawing.several else [labels]
        expected = []
        for thing in things:
            ys, xs = np.nonzero(np.isin(winner, thing))
            if len(ys):
                expected.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        assert drawing.boxes[part] == expected
    assert np.array_equal(sum(drawing.masks[part].astype(int) for part in leaves), np.ones((size, size)))

    image = (blocks[..., :3].astype(np.float64).mean(2) * drawing.gain).clip(0, 255)
    assert np.abs(drawing.image - image).max() < 2.5  # each halving rounds once


@pytest.mark.parametrize("scene", SCENES, ids=family)
def test_sizes_show_the_same_picture(scene: Scene) -> None:
    small, large = scene.draw(64), scene.draw(256)
    for part in scene.PARTS:
        pooled = large.masks[part].reshape(64, 4, 64, 4).mean((1, 3))
        assert np.abs(pooled - small.coverage[part]).mean() < 0.02
        if small.masks[part].sum() > 200:
            union = (small.masks[part] | (pooled > 0.5)).sum()
            assert (small.masks[part] & (pooled > 0.5)).sum() > 0.88 * union
    pooled = large.image.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(pooled - small.image).mean() < 6


def test_what_hangs_in_front_hides_at_most_a_third() -> None:
    seen = 0
    for make in (lambda seed: NINE.replace(seed=seed), lambda seed: BIRDS.replace(seed=seed, count=1)):
        for seed in range(60):
            scene = make(seed)
            part = "object" if isinstance(scene, Nine) else "birds"
            whole = scene.draw(64, without={"occluder"}).coverage[part].sum()
            visible = scene.draw(64).coverage[part].sum()
            assert visible > 2 / 3 * whole
            seen += visible < whole
    assert 10 < seen < 60  # it does hide something, now and then


def test_parts_of_birds() -> None:
    three = BIRDS.replace(count=3)
    for scene in (BIRDS, three):
        boxes = scene.boxes(64)
        assert len(boxes["birds"]) == scene.count
        assert boxes["birds"] == [box for k in (1, 2, 3) for box in boxes[f"bird{k}"]]
    assert not BIRDS.masks(64)["bird3"].any()
    # A second bird leaves the first where it was, save for what it hides of it.
    one, two = BIRDS.replace(count=1).coverage(64)["bird1"], BIRDS.coverage(64)["bird1"]
    assert (two <= one).all() and two.sum() > 0.5 * one.sum()
    assert Birds(1, "owl", "red", 1, "water").kind == "landbird" and BIRDS.kind == "waterbird"
    assert BIRDS.factors["group"] == "waterbird/water"


def test_variants_of_imagenet_9() -> None:
    original = NINE.draw(64)
    images = {variant: NINE.replace(variant=variant).draw(64) for variant in Nine.values("variant")}
    inside = original.coverage["object"] == 1
    assert np.array_equal(images["original"].image, original.image)
    assert np.array_equal(images["only_bg_t"].image, NINE.image(64, without={"object"}))
    assert (images["no_fg"].image[inside] == 0).all()
    assert np.array_equal(images["only_fg"].image[inside], original.image[inside])
    assert (images["only_fg"].image[original.coverage["object"] == 0] == 0).all()

    clear = NINE.draw(64, without={"occluder"})
    x0, y0, x1, y1 = (int(edge) for edge in clear.boxes["object"][0])
    black = images["only_bg_b"].image
    assert (black[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] == 0).all()
    outside = np.ones((64, 64), bool)
    outside[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = False
    assert np.array_equal(black[outside], original.image[outside]) and outside.any()
    assert not images["only_bg_b"].masks["object"].any()

    for variant in ("mixed_same", "mixed_rand", "mixed_next"):
        assert np.array_equal(images[variant].image[inside], original.image[inside])
        assert (images[variant].image[original.coverage["background"] == 1] != original.image[
            original.coverage["background"] == 1
        ]).any(-1).mean() > 0.5  # fmt: skip
    homes = dict(zip(Nine.values("category"), Nine.values("background"), strict=True))
    away = NINE.replace(background="desert")
    assert away.replace(variant="mixed_same").place == homes["dog"]
    assert away.replace(variant="mixed_next").place == homes["bird"]
    assert NINE.replace(category="fish", variant="mixed_next").place == homes["dog"]
    places = {NINE.replace(seed=seed, variant="mixed_rand").place for seed in range(80)}
    assert places == set(homes.values())
    assert NINE.replace(variant="only_fg").place is None


def test_cues_of_people_follow_the_profession_until_they_are_replaced() -> None:
    judge = PEOPLE.replace(profession="judge")
    assert judge.factors["clothing"] == "judge" and judge.factors["place"] == "courtroom"
    odd = judge.replace(tool="farmer")
    assert odd.factors["tool"] == "farmer" and odd.factors["clothing"] == "judge"
    same = PEOPLE.replace(clothing="judge", tool="judge", background="judge")
    assert np.array_equal(same.image(64), judge.image(64))


def test_the_patch_over_the_face_is_black_and_covers_it() -> None:
    for seed in range(5):
        masked = PEOPLE.replace(seed=seed, face_mask=True).draw(64)
        dark = (masked.image == 0).all(-1)
        assert dark.sum() > 60
        assert not (dark & (masked.coverage["face"] == 0)).any()
        bare = PEOPLE.replace(seed=seed).masks(64)["face"]
        assert dark[bare].mean() > 0.75


def test_letters_are_not_mirrored_with_the_car() -> None:
    """Cars face both ways, the text does not: its mask is the same up to a shift of place and size."""
    found = {}
    for seed in range(30):
        drawing = CARS.replace(seed=seed, text="lumo").draw(64)
        (x0, _, x1, _), (emblem_x0, _, emblem_x1, _) = drawing.boxes["text"][0], drawing.boxes["emblem"][0]
        x0, y0, x1, y1 = (int(edge) for edge in drawing.boxes["text"][0])
        left = emblem_x1 - x1 < x0 - emblem_x0
        letters = drawing.image[y0:y1, x0:x1].mean(-1)
        quarter = (x1 - x0) // 4
        # The first letter, L, is empty at the top right, the last, O, is not: the left is brighter than the right.
        found.setdefault(left, []).append(letters[:, :quarter].mean() - letters[:, -quarter:].mean())
    assert len(found) == 2
    for differences in found.values():
        assert np.mean(differences) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BIRDS.replace(species="dodo"), "The species of Birds cannot be 'dodo'; choose from 'duck', "),
        (lambda: BIRDS.replace(count=4), "The count of Birds cannot be 4; choose from 1, 2, 3"),
        (lambda: BIRDS.replace(count=True), "The count of Birds cannot be True"),
        (lambda: BIRDS.replace(size=4), "Birds has no factor 'size'; choose from 'species', "),
        (lambda: CARS.replace(text="bmw"), "The text of Cars cannot be 'bmw'; choose from None, 'vega'"),
        (lambda: NINE.replace(variant="none"), "The variant of Nine cannot be 'none'"),
        (lambda: BIRDS.replace(seed=True), "The seed of a scene is True; give a whole number"),
        (lambda: BIRDS.image(4), "size of Scene.image is 4; give 8 or more"),
        (lambda: BIRDS.image(64, without={"beak"}), "Birds has no part 'beak'; choose from 'background', "),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        make()
    assert str(raised.value).startswith(message)
