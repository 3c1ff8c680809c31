"""The planted concept: who carries it, what the twin shares, and what is read from features of known colour."""

import numpy as np
import pytest
import torch

from xaikit.companion.profiles import Settings
from xaikit.storage.seeding import seed_for
from xaikit.studies import texplain_planted as planted


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_share_of_the_first_class_carries_the_colour_and_the_other_never(strength) -> None:
    found = planted.scenes(60, 3, "train", strength, "red")
    first, red = (
        planted.labels(found).numpy() == 0,
        np.array([scene.factors["colour"] == "red" for scene in found]),
    )
    assert red[first].mean() == pytest.approx(strength, abs=0.02) and not red[~first].any()
    assert {scene.factors["category"] for scene in found} == set(planted.CLASSES)


def test_the_twin_has_the_same_scenes_but_for_the_colour() -> None:
    twin, other = planted.scenes(60, 3, "train", None, "red"), planted.scenes(60, 3, "train", 1.0, "red")
    assert np.array_equal(twin.seeds, other.seeds)
    assert all(np.array_equal(twin.codes[name], other.codes[name]) for name in twin.codes if name != "colour")
    colours = np.bincount(twin.codes["colour"], minlength=len(twin.values("colour")))
    assert colours.min() > 0  # all are there, in either class


def test_cases_hold_a_twin_three_strengths_and_what_has_learned_nothing() -> None:
    cases = planted.cases((0.6, 0.8, 1.0))
    assert list(cases) == [
        "twin", "another twin", "planted 0.6", "planted 0.8", "planted 1", "shuffled labels", "before training"
    ]  # fmt: skip
    assert cases["twin"].strength is None and cases["shuffled labels"].shuffled and cases["before training"].steps == 0


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_networks_take_pictures_of_any_size_and_have_the_layer_that_is_explained(kind) -> None:
    found = planted.network(kind, 0, 32)
    assert found(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    assert planted.LAYERS[kind] in dict(found.named_modules())


def test_a_probe_finds_what_is_there_and_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    noise = [torch.randn(200, 3, 8, generator=draw) for _ in range(2)]
    assert abs(planted.decodes(*noise).mean() - 0.5) < 0.12
    moved = noise[1] + 3 * torch.eye(8)[0]
    assert planted.decodes(noise[0], moved).mean() > 0.95


def test_flips_are_those_of_networks_that_start_from_other_weights() -> None:
    resnet = {"epochs": 1, "batch": 16, "learning_rate": 2e-3, "weight_decay": 0.05, "optimizer": "adamw"}
    sizes = {"size": 64, "pixels": 32, "scenes": 40, "tested": 12, "trainings": 3}
    cfg = Settings({**sizes, "colour": "red", "other": "blue", "resnet": resnet}, "planted")
    wanted = {"planted": planted.Case(strength=1.0), "before training": planted.Case(steps=0)}
    found = planted.flips_by_training("resnet", wanted, cfg, 0, "cpu")
    first = planted.trained("resnet", wanted, cfg, 0, "cpu")
    _, there, gone = (scenes.images(64) for scenes in planted.tested(cfg, 0))
    for name, network in first.items():
        turned = network(there).argmax(1) != network(gone).argmax(1)
        np.testing.assert_array_equal(found[name][0], turned.numpy())
        assert [each.shape for each in found[name]] == [(len(there),)] * 3
    starts = [planted.network("resnet", seed_for(0, "planted", "network", twin), 32) for twin in range(3)]
    weights = [next(start.parameters()) for start in starts]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
