"""Meaningful perturbation against one image at a time, torch's own Adam, and a picture of which the answer is known."""

import copy
import dataclasses

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from xaikit.models.scores import class_score
from xaikit.perturbation.search import (
    AGARWAL_2023,
    PRESETS,
    Recipe,
    _moved,
    attribution,
    blurred,
    check_masks,
    deletions,
    meaningful_perturbation,
    variation,
)
from xaikit.storage.seeding import generator

SHARES = (0.25, 0.6)
SMALL = dataclasses.replace(AGARWAL_2023.at(32), side=8, steps=25, jitter=3)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 5, 2),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(64, 4)).requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 1, 2, 3, 0])


def plain(network: nn.Module, image: Tensor, target: int, recipe: Recipe, offsets: list[list[int]]) -> Tensor:
    """Eq. 1 for one image, written out with torch's Adam; pixels beyond the edge are those at the edge."""
    soft = gaussian_blur(image, [2 * round(4 * recipe.blur) + 1] * 2, [recipe.blur] * 2)
    mask = torch.full((recipe.side, recipe.side), 0.5, dtype=image.dtype, requires_grad=True)
    adam = torch.optim.Adam([mask], recipe.rate)
    before = (recipe.jitter - 1) // 2
    for down, right in offsets:
        rows = (torch.arange(image.shape[1]) + down - before).clamp(0, image.shape[1] - 1)
        columns = (torch.arange(image.shape[2]) + right - before).clamp(0, image.shape[2] - 1)
        x, b = (each[:, rows][:, :, columns] for each in (image, soft))
        large = F.interpolate(mask[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        score = network((large * x + (1 - large) * b)[None]).softmax(1)[0, target]
        total_variation = sum((mask.diff(dim=axis).abs() ** recipe.power).sum() for axis in (0, 1))
        loss = recipe.area * (1 - mask).abs().sum() + recipe.variation * total_variation + score
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return mask.detach()


def test_a_batch_equals_the_equation_image_by_image(network: nn.Module, images: Tensor) -> None:
    exact = network.double()
    score = class_score(exact, TARGETS, softmax=1.0)
    found = meaningful_perturbation(score, images.double(), SMALL, seed=3, batch=3)
    offsets = torch.randint(SMALL.jitter, (SMALL.steps, 2), generator=generator(3, "offsets")).tolist()
    expected = [
        plain(exact, image.double(), int(target), SMALL, offsets) for image, target in zip(images, TARGETS, strict=True)
    ]
    network.float()
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_mask_does_not_depend_on_its_batch(network: nn.Module, images: Tensor, preset: str) -> None:
    recipe = dataclasses.replace(PRESETS[preset].at(32), side=8, steps=15)
    names = ["a", "b", "c", "d", "e"]
    together = meaningful_perturbation(class_score(network, TARGETS, softmax=1.0), images, recipe, seed=0, ids=names)
    for i in (0, 3):
        alone = meaningful_perturbation(
            class_score(network, TARGETS[i : i + 1], softmax=1.0), images[i : i + 1], recipe, seed=0, ids=[names[i]]
        )
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_images_that_stop_early_do_not_disturb_the_others(network: nn.Module, images: Tensor) -> None:
    # In float64, as whether a loss has fallen must not hang on rounding.
    network, images = copy.deepcopy(network).double(), images.double()
    score = class_score(network, TARGETS, softmax=1.0)
    recipe = dataclasses.replace(SMALL, steps=120)
    whole = meaningful_perturbation(score, images, recipe, seed=0)
    stopped = meaningful_perturbation(score, images, recipe, seed=0, patience=3)
    never = meaningful_perturbation(score, images, recipe, seed=0, patience=120)
    torch.testing.assert_close(never, whole, rtol=0, atol=1e-9)
    assert (stopped - whole).abs().amax((1, 2)).max() > 1e-3
    for i in range(len(images)):  # each stops where it would have stopped alone
        alone = meaningful_perturbation(
            class_score(network, TARGETS[i : i + 1], softmax=1.0), images[i : i + 1], recipe, seed=0, patience=3
        )
        torch.testing.assert_close(alone[0], stopped[i], rtol=0, atol=1e-9)


class Corner(nn.Module):
    """Its one output is the contrast in the upper left quarter, and nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, :, :16, :16]
        return torch.stack([corner.std((1, 2, 3)), torch.zeros(len(images), device=images.device)], 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_it_finds_the_part_that_the_score_looks_at(images: Tensor, preset: str) -> None:
    # Eight cells a side instead of 28: the slopes that the weight of the variation allows are steeper by as much.
    blur, weight = 5 if PRESETS[preset].median else 4, PRESETS[preset].variation * (8 / 28) ** 3
    recipe = dataclasses.replace(PRESETS[preset].at(32), side=8, steps=150, blur=blur, variation=weight)
    score = class_score(Corner(), torch.zeros(len(images), dtype=torch.int64))
    found = attribution(meaningful_perturbation(score, images, recipe, seed=0), (32, 32), recipe)
    assert found.shape == (5, 32, 32)
    assert found[:, :12, :12].mean() > 0.5
    assert found[:, 20:, 20:].mean() < 0.1


def test_variation_is_that_of_the_equation() -> None:
    masks = torch.rand(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total, isotropic = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            down = masks[:, i + 1, j] - masks[:, i, j] if i < 4 else torch.zeros(3, dtype=torch.float64)
            right = masks[:, i, j + 1] - masks[:, i, j] if j < 4 else torch.zeros(3, dtype=torch.float64)
            total += down.abs() ** 3 + right.abs() ** 3
            if i < 4 and j < 4:
                isotropic += (down**2 + right**2).sqrt() ** 3
    torch.testing.assert_close(variation(masks), total)
    torch.testing.assert_close(variation(masks, PRESETS["fong2017"]), isotropic)
    assert variation(torch.ones(2, 4, 4)).eq(0).all()


def test_the_median_blur_is_opencvs() -> None:
    image = torch.randint(256, (3, 24, 30), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = cv2.medianBlur(image.permute(1, 2, 0).contiguous().numpy(), 11)
    found = blurred(image[None].double() / 255, PRESETS["jacobgil"])[0] * 255
    torch.testing.assert_close(found.permute(1, 2, 0), torch.from_numpy(expected).double(), rtol=0, atol=1e-9)


def under(image: Tensor, mask: Tensor, recipe: Recipe) -> Tensor:
    """One image under one mask, written out; of a recipe whose blur is Gaussian."""
    soft = gaussian_blur(image, [2 * round(4 * recipe.blur) + 1] * 2, [recipe.blur] * 2)
    large = F.interpolate(mask[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0]
    return (large * image + (1 - large) * soft)[None]


def test_the_search_starts_from_the_deletion_of_the_lowest_loss(network: nn.Module, images: Tensor) -> None:
    network, images = copy.deepcopy(network).double(), images.double()
    recipe = dataclasses.replace(SMALL, start="deletions", steps=3)
    score = class_score(network, TARGETS, softmax=5.0)
    chosen = []
    for image, target in zip(images, TARGETS.tolist(), strict=True):
        losses, slope = [], torch.zeros(8, 8, dtype=torch.float64)
        for kept in (0.5,):
            mask = torch.full((8, 8), kept, dtype=torch.float64, requires_grad=True)
            (5 * network(under(image, mask, recipe))).softmax(1)[0, target].backward()
            slope += mask.grad
        slope = gaussian_blur(slope[None], [5, 5], [0.4, 0.4]).flatten()  # cut off at four deviations
        place = (slope[None] > slope[:, None]).sum(1).double().view(8, 8) / 64  # how many cells are steeper
        tried = [*deletions(recipe).double(), *(1 - 0.98 * torch.sigmoid((k - place) / 0.05) for k in SHARES)]
        for mask in tried:
            probability = (5 * network(under(image, mask, recipe))).softmax(1)[0, target]
            steps = sum((mask.diff(dim=axis).abs() ** 3).sum() for axis in (0, 1))
            losses.append(recipe.area * (1 - mask).sum() + recipe.variation * steps + probability)
        chosen.append(tried[int(torch.stack(losses).argmin())])
    found = meaningful_perturbation(score, images, recipe, seed=0, batch=2)
    given = meaningful_perturbation(
        score, images, dataclasses.replace(recipe, start="ones"), seed=0, start=torch.stack(chosen)
    )
    checks = check_masks(score, images, given, recipe)
    given[checks.loss >= checks.before] = 1  # to keep everything is better there
    torch.testing.assert_close(found, given, rtol=0, atol=1e-9)
    assert (checks.loss < checks.before).any()


def test_a_mask_that_is_worse_than_none_is_given_up(images: Tensor) -> None:
    def score(x: Tensor, which: Tensor) -> Tensor:
        return -x.std((1, 2, 3))  # every blur raises it

    recipe = dataclasses.replace(SMALL, start="deletions", steps=1)
    assert (meaningful_perturbation(score, images, recipe, seed=0) == 1).all()
    assert check_masks(score, images, torch.ones(5, 8, 8), recipe).empty.all()


def test_a_score_that_half_a_blur_leaves_saturated_is_taken_away_from_a_deletion(images: Tensor) -> None:
    def score(x: Tensor, which: Tensor) -> Tensor:
        contrast = x[:, :, :16, :16].std((1, 2, 3))
        # Exactly 1, and without a gradient, until a good part of the contrast is gone.
        return (1 - (0.1 - contrast).clamp_min(0) / 0.1).clamp(max=1)

    recipe = dataclasses.replace(AGARWAL_2023.at(32), side=8, steps=60, blur=4.0, variation=1e-4)
    found = meaningful_perturbation(score, images, dataclasses.replace(recipe, start="deletions"), seed=0)
    checks = check_masks(score, images, found, recipe)
    assert not checks.empty.any() and (checks.lowered > 0.5).all()


def test_the_checks_of_a_mask_are_its_own_scores(network: nn.Module, images: Tensor) -> None:
    score = class_score(network, TARGETS, softmax=1.0)
    masks = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(2))
    masks[0] = 1
    checks = check_masks(score, images, masks, SMALL, batch=2)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        probability = lambda picture, i=i: network(picture).softmax(1)[0, TARGETS[i]].item()  # noqa: E731
        after = probability(under(image, mask, SMALL))
        lowest = min([after, *(probability(under(image, each, SMALL)) for each in deletions(SMALL))])
        price = SMALL.area * (1 - mask).sum() + SMALL.variation * variation(mask[None], SMALL)[0]
        before = probability(image[None])
        assert checks.before[i].item() == pytest.approx(before, abs=1e-6)
        assert checks.after[i].item() == pytest.approx(after, abs=1e-6)
        assert checks.lowest[i].item() == pytest.approx(lowest, abs=1e-6)
        assert checks.loss[i].item() == pytest.approx(after + price.item(), abs=1e-5)
        share = (before - after) / (before - lowest) if before - lowest > 1e-9 else 0.0
        assert checks.lowered[i].item() == pytest.approx(share, abs=1e-2)
    assert checks.empty.tolist() == [True, False, False, False, False] and checks.highest[0] == 0


def test_the_corners_of_jacobgils_mask_lie_on_the_images() -> None:
    masks = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = 1 - nn.UpsamplingBilinear2d(size=(64, 64))(masks[:, None])[:, 0]
    torch.testing.assert_close(attribution(masks, (64, 64), PRESETS["jacobgil"]), expected)
    assert (attribution(masks, (64, 64), AGARWAL_2023) - expected).abs().max() > 0.05


def test_lengths_shrink_with_the_image() -> None:
    half = AGARWAL_2023.at(112)
    assert (half.blur, half.jitter, half.side) == (5.0, 3, 28)  # offsets 0 to 3 become 0 to 1.5
    assert [AGARWAL_2023.at(pixels).jitter for pixels in (28, 64, 224, 448)] == [1, 2, 4, 7]
    assert PRESETS["jacobgil"].at(224).blur == 11
    assert all(preset.at(224) == preset for preset in PRESETS.values())


def test_only_masks_get_gradients(images: Tensor) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    meaningful_perturbation(class_score(network, TARGETS.clamp(max=1), softmax=1.0), images, SMALL, seed=0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bad_input(network: nn.Module, images: Tensor) -> None:
    score = class_score(network, TARGETS, softmax=1.0)
    with pytest.raises(ValueError, match="images of meaningful_perturbation"):
        meaningful_perturbation(score, images * 2, SMALL, seed=0)
    with pytest.raises(ValueError, match="images of meaningful_perturbation"):
        meaningful_perturbation(score, images[:0], SMALL, seed=0)
    with pytest.raises(ValueError, match="smaller than a mask of 28 cells"):
        meaningful_perturbation(score, images[:, :, :20], AGARWAL_2023, seed=0)
    with pytest.raises(ValueError, match="give each its own"):
        meaningful_perturbation(score, images, SMALL, seed=0, ids=["a", "a", "b", "c", "d"])
    with pytest.raises(ValueError, match=r"Starts .* do not fit"):
        meaningful_perturbation(score, images, SMALL, seed=0, start=torch.ones(5, 28, 28))
    with pytest.raises(ValueError, match=r"Masks .* do not fit"):
        check_masks(score, images, torch.ones(5, 9, 9), SMALL)
    with pytest.raises(ValueError, match="score of image 0 does not change"):
        meaningful_perturbation(lambda x, which: (x * 0).sum((1, 2, 3)), images, SMALL, seed=0)
    with pytest.raises(ValueError, match="score of image 0 does not change"):
        meaningful_perturbation(lambda x, which: torch.ones(len(x)), images, SMALL, seed=0)
    with pytest.raises(ValueError, match="or NaN: give one number each"):
        meaningful_perturbation(lambda x, which: x.sum((1, 2, 3)) * torch.nan, images, SMALL, seed=0)
    with pytest.raises(ValueError, match="give one number each"):
        meaningful_perturbation(lambda x, which: x.sum((2, 3)), images, SMALL, seed=0)
    with pytest.raises(ValueError, match="not among the 4 classes"):
        meaningful_perturbation(class_score(network, TARGETS + 1), images, SMALL, seed=0)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_saturated_image_is_named_and_does_not_stop_the_others(images: Tensor, batch: int, caplog) -> None:
    def score(x: Tensor, which: Tensor) -> Tensor:
        gain = torch.tensor([1.0, 1e4, 1.0, 1.0, 1e4])[which]
        return torch.sigmoid(gain * (x[:, :, :9].mean((1, 2, 3)) + 1))

    names = ["a", "b", "c", "d", "e"]
    found = meaningful_perturbation(score, images, SMALL, seed=0, ids=names, batch=batch)
    assert "2 of 5 images (b, e) does not change" in caplog.text
    alone = meaningful_perturbation(lambda x, which: score(x, which * 2), images[[0, 2]], SMALL, seed=0, ids=["a", "c"])
    torch.testing.assert_close(found[[0, 2]], alone)
    assert (found[0] < 1).any() and (found[[1, 4]] == 1).all()


def test_the_jitter_moves_images_from_before_to_behind() -> None:
    """Offset 0 shows what lies before the image's first row and column, the last one what lies behind."""
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    for jitter, before in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2)):
        for down in range(jitter):
            for right in range(jitter):
                found = _moved(image, (down, right), jitter)[0, 0]
                rows, columns = (torch.arange(4).add(shift - before).clamp(0, 3) for shift in (down, right))
                assert torch.equal(found, image[0, 0][rows][:, columns])
