"""The instruments of paper 2 measure what they say, on inputs whose outcome is known."""

import numpy as np
import pytest
import torch

from xaikit.studies import texplain_instruments as instruments
from xaikit.studies.texplain_instruments import Learning


def test_birds_cover_as_much_as_is_asked() -> None:
    scenes = instruments.covered_birds(12, seed=3, size=64)
    cover = scenes.masks("birds", 64).double().mean((1, 2))
    assert len(scenes) == 12 and bool(((cover >= 0.1) & (cover <= 0.3)).all())


def test_shares_on_birds_are_counted_by_hand() -> None:
    birds = torch.zeros(3, 8, 8, dtype=torch.bool)
    birds[:, :4, :4] = True
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0] = 1  # the birds' quarter, smoothed over its edges
    maps[1, 1, 1] = 1
    found = instruments.on_birds(maps, birds)
    assert found.mass[0] > 0.6 > 0.1 > found.mass[1] and found.mass[2] == 0 == found.pixels[2]
    large = torch.nn.functional.interpolate(maps[:1, None].double(), (8, 8), mode="bilinear")[0, 0]
    expected = float(large[:4, :4].sum() / large.sum())
    assert found.mass[0] == pytest.approx(expected)


def test_the_best_map_is_better_than_any_constant_one() -> None:
    scenes = instruments.covered_birds(6, seed=5, size=64)
    best = instruments.best_map(scenes, (8, 8), 64)
    flat = instruments.on_birds(torch.ones(6, 8, 8), scenes.masks("birds", 64))
    assert (best.mass > flat.mass + 0.2).all() and best.pixels.mean() > 0.6
    np.testing.assert_allclose(flat.mass, scenes.masks("birds", 64).double().mean((1, 2)))


def test_the_loss_over_the_floor_is_a_ratio_of_means() -> None:
    own, floor = np.array([1.1, 2.2, 3.3]), np.array([1.0, 2.0, 3.0])
    found = Learning({}, {"own": own, "floor": floor}).over_floor("own", 0)
    assert found.value == pytest.approx(0.1) and found.low == pytest.approx(0.1) == found.high
