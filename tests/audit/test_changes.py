"""What is changed in a picture is what was asked for, and nothing else is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from xaikit.audit.changes import (
    PLACES,
    box,
    filled,
    grown,
    on_background,
    with_colour,
    with_patch,
    with_thing,
    without,
    word_patch,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def square(top: int, left: int, side: int, size: int = 24, count: int = 1) -> Tensor:
    mask = torch.zeros(count, size, size, dtype=torch.bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


def pulled_and_pushed(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The obvious way, pixel by pixel, of one channel."""
    height, width = known.shape
    if known.all():
        return image
    if max(height, width) == 1:
        return np.where(known, image, 0.5)
    half = np.zeros(((height + 1) // 2, (width + 1) // 2))
    there = np.zeros_like(half, bool)
    for row in range(half.shape[0]):
        for column in range(half.shape[1]):
            part = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            if known[part].any():
                half[row, column], there[row, column] = image[part][known[part]].mean(), True
    coarse = pulled_and_pushed(half, there)
    result = image.copy()
    for row, column in zip(*np.nonzero(~known), strict=True):
        y = np.clip((row + 0.5) * half.shape[0] / height - 0.5, 0, half.shape[0] - 1)
        x = np.clip((column + 0.5) * half.shape[1] / width - 0.5, 0, half.shape[1] - 1)
        top, left = int(y), int(x)
        down, right = min(top + 1, half.shape[0] - 1), min(left + 1, half.shape[1] - 1)
        rows = [coarse[each, left] * (1 - x + left) + coarse[each, right] * (x - left) for each in (top, down)]
        result[row, column] = rows[0] * (1 - y + top) + rows[1] * (y - top)
    return result


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (1, 5), (7, 1)])
def test_holes_are_filled_as_the_obvious_way_does(size: tuple[int, int]) -> None:
    image, holes = drawn(3, 3, *size), drawn(3, *size, seed=1) > 0.4
    found = filled(image, holes)
    for row in range(3):
        for channel in range(3):
            wanted = pulled_and_pushed(image[row, channel].double().numpy(), ~holes[row].numpy())
            np.testing.assert_allclose(found[row, channel], wanted, atol=1e-5)


def test_what_is_known_stays_and_nothing_known_is_grey() -> None:
    image, holes = drawn(2, 3, 24, 24), square(5, 5, 9, count=2)
    assert torch.equal(filled(image, holes)[:, :, ~holes[0]], image[:, :, ~holes[0]])
    assert (filled(image, torch.ones(2, 24, 24, dtype=torch.bool)) == 0.5).all()


def test_a_mask_grows_by_a_pixel_at_least() -> None:
    assert torch.equal(grown(square(8, 8, 4)), square(7, 7, 6))


@pytest.mark.parametrize("by", ["mean", "blur", "surroundings"])
def test_without_a_region_nothing_of_it_is_left_and_the_rest_is_as_it_was(by) -> None:
    image, region = drawn(1, 3, 24, 24), square(6, 6, 8)
    other = torch.where(region[:, None], 1 - image, image)
    first, second = without(image, region, by), without(other, region, by)
    assert torch.equal(first, second)  # what was in it makes no difference
    assert torch.equal(first[:, :, ~region[0]], image[:, :, ~region[0]])
    assert not torch.allclose(first[:, :, region[0]], image[:, :, region[0]])


def test_the_mean_is_of_the_rest() -> None:
    image, region = drawn(1, 3, 24, 24), square(6, 6, 8)
    wanted = image[0, :, ~region[0]].mean(1)
    assert torch.allclose(without(image, region)[0, :, 10, 10], wanted, atol=1e-6)


def test_another_background_brings_nothing_of_the_other_thing() -> None:
    image, other = drawn(1, 3, 24, 24), drawn(1, 3, 24, 24, seed=1)
    thing, theirs = square(2, 2, 6), square(12, 12, 6)
    found = on_background(image, thing, other, theirs)
    assert torch.equal(found[:, :, thing[0]], image[:, :, thing[0]])
    rest = ~thing[0] & ~grown(theirs)[0]
    assert torch.equal(found[:, :, rest], other[:, :, rest])
    changed = torch.where(theirs[:, None], 1 - other, other)
    assert torch.equal(on_background(image, thing, changed, theirs), found)


def test_a_thing_comes_to_where_the_own_one_was() -> None:
    image, other = torch.full((1, 3, 24, 24), 0.2), torch.full((1, 3, 24, 24), 0.4)
    thing, theirs = square(2, 3, 5), square(14, 12, 7)
    other = torch.where(theirs[:, None], 0.9, other)
    found = with_thing(torch.where(thing[:, None], 0.6, image), thing, other, theirs)
    wanted = torch.where(square(1, 2, 7)[:, None], 0.9, image)  # its middle on the middle of the own one
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_thing_that_would_reach_beyond_the_edge_is_cut_and_does_not_come_in_again() -> None:
    image, thing, theirs = torch.zeros(1, 3, 24, 24), square(0, 0, 3), square(8, 8, 11)
    other = torch.where(theirs[:, None], 1.0, torch.zeros(1, 3, 24, 24))
    found = with_thing(image, thing, other, theirs)
    assert (found[0, 0] > 0.5).sum() == 7 * 7 and (found[0, :, 12:] == 0).all()


def test_where_the_other_has_no_thing_the_own_one_goes() -> None:
    image, thing = torch.full((1, 3, 24, 24), 0.3), square(6, 6, 8)
    found = with_thing(torch.where(thing[:, None], 1.0, image), thing, image, torch.zeros_like(thing))
    assert torch.allclose(found, image, atol=1e-6)


def test_colours_become_those_of_the_other_and_what_is_darker_stays_darker() -> None:
    images, others = drawn(2, 3, 24, 24), 0.5 * drawn(2, 3, 24, 24, seed=2)
    region, theirs = square(4, 4, 9, count=2), square(10, 3, 9, count=2)
    found = with_colour(images, region, others, theirs)
    assert torch.equal(found[:, :, region[0]].sort().values, others[:, :, theirs[0]].sort().values)
    assert torch.equal(found[:, :, region[0]].argsort(), images[:, :, region[0]].argsort())
    assert torch.equal(found[:, :, ~region[0]], images[:, :, ~region[0]])
    twice = with_colour(found, region, images, region)
    assert torch.equal(twice, images)


def test_a_red_car_with_black_wheels_becomes_a_blue_one_whatever_their_sizes() -> None:
    def car(colour: tuple[float, float, float], side: int) -> tuple[Tensor, Tensor]:
        image, body = torch.full((1, 3, 24, 24), 0.7), square(4, 4, side)
        image = torch.where(body[:, None], torch.tensor(colour)[:, None, None], image)
        image[:, :, 4 + side // 2 : 4 + side, 4 : 4 + side] = 0.0  # a half of it is wheels
        return image, body

    (red, own), (blue, theirs) = car((0.8, 0.1, 0.1), 8), car((0.1, 0.1, 0.8), 12)
    assert torch.equal(with_colour(red, own, blue, theirs), car((0.1, 0.1, 0.8), 8)[0])
    assert torch.equal(with_colour(red, own, blue, torch.zeros_like(theirs)), red)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [(4, 6), (24, 24), (1, 1)])
def test_a_patch_lies_within_the_picture_and_is_all_there(place, size: tuple[int, int]) -> None:
    image, patch = torch.zeros(1, 3, 24, 24), torch.ones(3, *size)
    found = with_patch(image, patch, place)
    assert found.sum() == patch.sum()
    rows, columns = box(place, size, (24, 24))
    assert (found[0, :, rows, columns] == 1).all()


def test_what_is_clear_of_a_patch_shows_the_picture() -> None:
    image, patch = drawn(1, 3, 24, 24), torch.ones(4, 6, 6)
    patch[3, :3] = 0
    found = with_patch(image, patch, "centre")
    assert torch.equal(found[0, :, 9:12, 9:15], image[0, :, 9:12, 9:15]) and (found[0, :, 12:15, 9:15] == 1).all()
    with pytest.raises(ValueError, match="more pixels"):
        with_patch(image, torch.ones(3, 30, 6), "centre")


def test_a_word_is_as_wide_as_it_is_long() -> None:
    short, long = word_patch("SA", 12), word_patch("SALES", 12)
    assert short.shape[0] == 4 and long.shape[2] > 1.5 * short.shape[2]
    assert 0 < (short[3] > 128).float().mean() < 1 and short[:3].max() > 240
