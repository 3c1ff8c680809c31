"""Sets hold the correlations that were asked for, to a scene, and draw what their scenes draw."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from xaikit.storage import paths
from xaikit.world import FAMILIES, SPLITS, Birds, SceneSet, birds, cars, nine, people
from xaikit.world.scene_nine import HOMES
from xaikit.world.scene_people import USUAL
from xaikit.world.sets import largest_remainder

MAKERS = (birds, nine, people, cars)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)


def test_largest_remainder() -> None:
    assert largest_remainder(100, [0.95, 0.05]).tolist() == [95, 5]
    assert largest_remainder(10, [1, 1, 1]).tolist() == [4, 3, 3]
    assert largest_remainder(7, [0.5, 0.3, 0.2]).tolist() == [4, 2, 1]
    for n in range(60):
        assert largest_remainder(n, [0.35, 0.4, 0.25]).sum() == n


def test_groups_of_birds_are_exact() -> None:
    train, test = birds(400, seed=0), birds(400, seed=0, split="test")
    assert train.values("group") == ("landbird/land", "landbird/water", "waterbird/land", "waterbird/water")
    assert torch.bincount(train.labels("group")).tolist() == [190, 10, 10, 190]
    assert torch.bincount(test.labels("group")).tolist() == [100, 100, 100, 100]
    few = birds(200, seed=0, alignment=0.9, waterbirds=0.25)
    assert torch.bincount(few.labels("group")).tolist() == [135, 15, 5, 45]
    for data in (train, test):
        counts = Counter((scene.species, scene.background) for scene in data)
        for kind in (0, 1):
            own = [n for (species, _), n in counts.items() if (species in Birds.values("species")[:4]) == kind]
            assert sum(own) == 200
        for name in ("colour", "count", "scenery"):
            tally = torch.bincount(data.labels(name))
            assert tally.max() - tally.min() <= 1
        assert max(Counter(scene.species for scene in data).values()) <= 50 + 2


def test_correlations_of_the_other_families_are_exact() -> None:
    data = nine(900, seed=1, alignment=0.8)
    home = Counter(scene.category for scene in data if scene.background == HOMES[scene.category])
    assert set(home.values()) == {80} and len(home) == 9
    away = Counter((s.category, s.background) for s in data if s.background != HOMES[s.category])
    assert set(away.values()) <= {2, 3} and len(away) == 72
    assert {scene.variant for scene in nine(9, seed=0, variant="mixed_rand")} == {"mixed_rand"}

    crew = people(300, seed=1, alignment=0.8, workplace=0.7, masked=0.1)
    assert Counter(s.profession for s in crew if s.presentation == USUAL[s.profession]) == dict.fromkeys(USUAL, 24)
    assert Counter(s.profession for s in crew if s.factors["background"] == s.profession) == dict.fromkeys(USUAL, 21)
    assert Counter(s.profession for s in crew if s.face_mask) == dict.fromkeys(USUAL, 3)
    assert all(s.factors["clothing"] == s.factors["tool"] == s.profession for s in crew)

    fleet = cars(400, seed=1, written=0.4, alignment=0.9)
    assert set(Counter(s.make for s in fleet if s.text).values()) == {40}
    assert set(Counter(s.make for s in fleet if s.text == s.make).values()) == {36}
    assert not any(s.text for s in cars(40, seed=1, written=0.0))


@pytest.mark.parametrize("make", MAKERS)
def test_splits_and_seeds_share_no_scene(make) -> None:
    sets = [make(90, seed=seed, split=split) for seed in (0, 1) for split in SPLITS]
    seeds = [scene.seed for data in sets for scene in data]
    assert len(set(seeds)) == len(seeds) == 90 * 2 * len(SPLITS)
    again = make(90, seed=0, split=SPLITS[0])
    assert list(again) == list(sets[0]) and list(again) != list(sets[1])


@pytest.mark.parametrize("make", MAKERS)
def test_sets_are_sequences_whose_labels_are_those_of_their_scenes(make) -> None:
    data = make(24, seed=3)
    assert len(data) == 24 and data[0] == next(iter(data)) and data[-1] == list(data)[-1]
    assert isinstance(data[3:9], SceneSet) and list(data[3:9]) == list(data)[3:9]
    assert list(data[np.array([5, 2])]) == [data[5], data[2]]
    assert list(data[data.labels(data.family.CLASS) == 0]) == [
        scene for scene in data if getattr(scene, data.family.CLASS) == data.values(data.family.CLASS)[0]
    ]
    for name in data[0].factors:
        labels = data.labels(name)
        assert labels.dtype == torch.int64
        assert [data.values(name)[label] for label in labels] == [scene.factors[name] for scene in data]
    assert list(SceneSet.of(list(data))) == list(data)
    assert data.captions == [scene.captions for scene in data]
    with pytest.raises(IndexError):
        data[24]


def test_counterfactual_sets() -> None:
    data = birds(12, seed=0)
    moved = data.replace(background="land")
    assert [a.replace(background="land") for a in data] == list(moved)
    with pytest.raises(ValueError, match="The background of Birds cannot be 'moon'"):
        data.replace(background="moon")
    with pytest.raises(ValueError, match="Birds has no factor 'weather'"):
        data.replace(weather="rain")


def test_images_come_from_the_cache_and_equal_the_scenes(monkeypatch) -> None:
    data = cars(7, seed=0)
    images = data.images(64)
    assert images.shape == (7, 3, 64, 64) and images.dtype == torch.float32
    for image, scene in zip(images, data, strict=True):
        assert torch.equal(image, torch.from_numpy(scene.image(64)).permute(2, 0, 1).float() / 255)
    assert torch.equal(torch.cat(list(data.batches(64, 3))), images)
    assert [len(batch) for batch in data.batches(64, 3)] == [3, 3, 1]
    masks = data.masks("emblem", 64)
    assert masks.dtype == torch.bool
    assert torch.equal(masks, torch.stack([torch.from_numpy(scene.masks(64)["emblem"]) for scene in data]))

    def no_drawing(*_, **__) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("xaikit.world.scene.Scene.draw", no_drawing)
    assert torch.equal(data.images(64), images)
    assert torch.equal(data.masks("emblem", 64), masks)
    assert torch.equal(SceneSet.of(list(data)).images(64), images)  # the recipe is what the scenes are
    with pytest.raises(AssertionError, match="drawn again"):
        data.images(32)
    with pytest.raises(AssertionError, match="drawn again"):
        data[1:].images(64)
    with pytest.raises(AssertionError, match="drawn again"):
        data.replace(colour="red").images(64)


def test_pixels_alone_do_not_tell_the_kind_of_a_bird() -> None:
    """A linear model of the raw pixels stays far from solving it where the background tells nothing."""
    sets = birds(500, seed=0, alignment=0.5), birds(250, seed=0, split="test")
    train, test = (torch.cat(list(data.batches(64, 100))).flatten(1).numpy() for data in sets)
    for name, chance in (("kind", 1 / 2), ("species", 1 / 8)):
        labels = [data.labels(name).numpy() for data in sets]
        model = RidgeClassifier(alpha=300.0).fit(train, labels[0])
        assert model.score(train, labels[0]) > 0.9  # it learns what it can
        assert model.score(test, labels[1]) < 0.75
        assert model.score(test, labels[1]) > 0.8 * chance
    # The same model does tell the background, which is plain in the pixels: it is no weak one.
    labels = [data.labels("background").numpy() for data in sets]
    assert RidgeClassifier(alpha=300.0).fit(train, labels[0]).score(test, labels[1]) > 0.85


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: birds(0, seed=0), "n of birds is 0; give 1 or more."),
        (lambda: nine(5, seed=0, split="dev"), "Unknown split 'dev'; choose from 'train', "),
        (lambda: birds(5, seed=0, alignment=1.2), "alignment of birds is 1.2; give numbers in [0, 1]."),
        (lambda: cars(5, seed=0, written=float("nan")), "written of cars is nan; give a finite number."),
        (lambda: nine(5, seed=0, variant="x"), "The variant of Nine cannot be 'x'"),
        (lambda: birds(5, seed=0).labels("size"), "Birds has no factor 'size'; choose from 'species', "),
        (lambda: birds(5, seed=0).masks("beak"), "Birds has no part 'beak'; choose from "),
        (lambda: next(birds(5, seed=0).batches(64, 0)), "batch of SceneSet.batches is 0; give 1 or more."),
        (lambda: SceneSet.of([]), "A set holds scenes of one family, not of 0; give some of the same one."),
        (lambda: SceneSet.of([birds(1, seed=0)[0], cars(1, seed=0)[0]]), "A set holds scenes of one family, not of 2"),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        make()
    assert str(raised.value).startswith(message)


def test_all_families_are_listed() -> None:
    assert [make.__name__ for make in MAKERS] == list(FAMILIES)
    for name, make in zip(FAMILIES, MAKERS, strict=True):
        assert make(1, seed=0).family is FAMILIES[name]
