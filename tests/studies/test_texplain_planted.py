"""The planted concept: who carries it, what the twin shares, and what is read from features of known colour."""

import numpy as np
import pytest
import torch

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
