"""Masks lie where the maps point, fine-tuning does what its recipe says, and groups are counted as they should be."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import Dataset

from xaikit.metrics.groups import group_accuracy
from xaikit.texplain.mitigation import (
    MASKTUNE,
    Recipe,
    averages,
    fine_tune,
    flagged,
    group_weights,
    masked,
    randomly_masked,
    retrain_last_layer,
    salient,
)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- what is masked -----------------------------------------------------------------------------------------------


def test_images_are_flagged_whose_first_word_is_not_in_the_lexicon_of_their_class() -> None:
    lexicons = {0: {"bird", "duck"}, 1: ["bird"]}
    words, labels = ["bird", "water", "duck", "duck", None, "bird"], torch.tensor([0, 0, 0, 1, 1, 1])
    assert flagged(words, labels, lexicons).tolist() == [False, True, False, True, False, False]
    with pytest.raises(ValueError, match=r"labels of flagged .* there is nothing in it"):
        flagged([], torch.zeros(0, dtype=torch.int64), lexicons)
    with pytest.raises(ValueError, match="5 words for 6 labels"):
        flagged(words[1:], labels, lexicons)
    with pytest.raises(ValueError, match="Class 1 has no lexicon"):
        flagged(words, labels, {0: {"bird"}})
    # A string would be searched for letters.
    with pytest.raises(TypeError, match=r"lexicons\[0\] of flagged is 'bird'"):
        flagged(words, labels, {0: "bird", 1: {"bird"}})


def slowly_enlarged(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement, pixel by pixel: pixels and cells are squares, whose values belong to their centres."""

    def place(pixel: int, pixels: int, cells: int) -> tuple[int, int, float]:
        at = min(max((pixel + 0.5) * cells / pixels - 0.5, 0), cells - 1)
        return math.floor(at), min(math.floor(at) + 1, cells - 1), at - math.floor(at)

    large = np.zeros((height, width))
    for row in range(height):
        above, below, down = place(row, height, grid.shape[0])
        for column in range(width):
            left, right, across = place(column, width, grid.shape[1])
            upper = (1 - across) * grid[above, left] + across * grid[above, right]
            lower = (1 - across) * grid[below, left] + across * grid[below, right]
            large[row, column] = (1 - down) * upper + down * lower
    return large


@pytest.mark.parametrize("size", [None, (13, 18)])
def test_salient_pixels_lie_two_deviations_above_the_mean_of_the_positive_ones(size) -> None:
    maps = torch.randn(6, 5, 6, generator=draw(), dtype=torch.float64) ** 3
    maps[1] = -maps[1].abs()
    maps[2] = 0
    maps[3] = 0.1  # all alike: none stands out
    maps[4] = 0
    maps[4, 2, 3] = 1
    found = salient(maps, size)
    for each, mine in zip(maps.numpy(), found.numpy(), strict=True):
        heat = each if size is None else slowly_enlarged(each, *size)
        positive = heat[heat > 0]
        threshold = np.mean(positive) + 2 * np.std(positive) if len(positive) else np.inf
        clear = np.abs(heat - threshold) > 1e-12  # enlarged, a map that is all alike is so but for rounding
        np.testing.assert_array_equal(mine[clear], heat[clear] > threshold)
    assert found[[0, 5]].any() and not found[1:3].any() and (size or not found[3].any())
    with pytest.raises(ValueError, match="NaN or infinity"):
        salient(maps * torch.inf)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_bright_patch_of_a_map_is_covered_exactly(dtype) -> None:
    images = torch.full((2, 3, 24, 40), 200).to(dtype)
    maps = torch.full((2, 24, 40), 0.01)
    places = [(slice(3, 8), slice(30, 36)), (slice(20, 24), slice(0, 4))]
    for each, place in zip(maps, places, strict=True):
        each[place] = 1
    found = masked(images, maps)
    expected = images.clone()
    for image, (rows, columns) in zip(expected, places, strict=True):
        image[:, rows, columns] = 0
    assert found.dtype == dtype and torch.equal(found, expected)
    assert (images == 200).all()


def test_a_bright_cell_of_a_coarse_map_is_covered_around_its_centre() -> None:
    for row in range(1, 5):
        for column in range(1, 7):
            maps = torch.zeros(1, 6, 8)
            maps[0, row, column] = 1
            hidden = (masked(torch.ones(1, 3, 48, 64), maps)[0] == 0).all(0).nonzero().double()
            centre = torch.tensor([row * 8 + 3.5, column * 8 + 3.5], dtype=torch.float64)
            torch.testing.assert_close(hidden.mean(0), centre)  # a shift, or a crop that was forgotten, would move it
            assert len(hidden) >= 4 and ((hidden - centre).abs() <= 4).all()


def test_masks_refuse_other_numbers_of_images() -> None:
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        masked(torch.ones(2, 3, 8, 8), torch.ones(1, 4, 4))
    images, areas = torch.ones(2, 3, 8, 8), torch.tensor([4, 4])
    with pytest.raises(ValueError, match="1 areas and 2 ids for 2 images"):
        randomly_masked(images, areas[:1], 0)
    with pytest.raises(ValueError, match="2 areas and 3 ids"):
        randomly_masked(images, areas, 0, ids=["a", "b", "c"])
    for bad in (-1, 65):
        with pytest.raises(ValueError, match="between 0 and the 64 pixels"):
            randomly_masked(images, areas.clamp(bad, bad), 0)


def test_random_squares_have_the_area_nearest_to_the_one_asked_for() -> None:
    images = torch.ones(301, 3, 16, 24)
    areas = torch.arange(301)
    found = randomly_masked(images, areas, 0)
    assert (images == 1).all()
    for image, area in zip(found, areas.tolist(), strict=True):
        hidden = image == 0
        assert torch.equal(hidden[0], hidden[1]) and torch.equal(hidden[0], hidden[2])
        rows, columns = hidden[0].any(1).nonzero(), hidden[0].any(0).nonzero()
        side = len(rows)
        assert len(columns) == side and hidden[0].sum() == side**2  # one square
        assert side == min(range(17), key=lambda each: abs(each**2 - area))
        assert abs(side**2 - area) <= side or side == 16  # as the docstring says


def test_random_squares_lie_anywhere_and_are_the_same_for_the_same_seed_and_id() -> None:
    images, areas = torch.ones(600, 3, 6, 8), torch.full((600,), 16)
    found = randomly_masked(images, areas, 0)
    corners = torch.tensor([(image[0] == 0).nonzero().amin(0).tolist() for image in found])
    counts = torch.bincount(corners[:, 0] * 5 + corners[:, 1], minlength=15)
    assert counts.min() > 15 and counts.max() < 75  # 40 expected at each of 3 × 5 places, sd 6
    assert torch.equal(found, randomly_masked(images, areas, 0))
    assert not torch.equal(found, randomly_masked(images, areas, 1))
    assert torch.equal(found[200:300], randomly_masked(images[:100], areas[:100], 0, ids=range(200, 300)))


# --- fine-tuning --------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A classifier with everything that has a mode: batch norm, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def coloured(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of 8 bits: class 0 is red, class 1 is green."""
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 150, (n, 3, 6, 6), generator=draw(seed), dtype=torch.uint8)
    pixels[torch.arange(n), labels] += 60
    return pixels, labels


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def accuracy(model: nn.Module, seed: int = 9) -> float:
    pixels, labels = coloured(200, seed)
    with torch.no_grad():
        return (model(pixels / 255).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fine_tuning_learns_and_leaves_the_given_model_alone(model, optimizer) -> None:
    pixels, labels = coloured(120)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(epochs=10, batch=20, learning_rate=0.05, optimizer=optimizer)
    random_state = torch.get_rng_state()
    tuned = fine_tune(model, pixels, labels, recipe, seed=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert accuracy(tuned) > 0.95 > accuracy(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for each in (model, tuned):
        assert not any(module.training for module in each.modules())
        assert all(not p.requires_grad and p.grad is None for p in each.parameters())
    assert same(tuned, fine_tune(model, pixels, labels, recipe, seed=0))  # dropout included
    assert not same(tuned, fine_tune(model, pixels, labels, recipe, seed=1))


def by_hand(model: nn.Linear, x: Tensor, labels: Tensor, recipe: Recipe, steps: int) -> tuple[Tensor, Tensor]:
    """The optimizers as their papers write them, in float64, for a linear model with all images in each batch."""
    w, b = model.weight.double().clone(), model.bias.double().clone()
    x, one_hot = x.double().flatten(1), F.one_hot(labels).double()
    rate, decay = recipe.learning_rate, recipe.weight_decay
    first, second = [torch.zeros_like(w), torch.zeros_like(b)], [torch.zeros_like(w), torch.zeros_like(b)]
    for step in range(1, steps + 1):
        error = ((x @ w.T + b).softmax(1) - one_hot) / len(x)
        gradients = [error.T @ x, error.sum(0)]
        for i, (p, g) in enumerate(zip((w, b), gradients, strict=True)):
            if recipe.optimizer == "sgd":
                first[i] = 0.9 * first[i] + g + decay * p
                p -= rate * first[i]
            else:
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                p *= 1 - rate * decay
                p -= rate * (first[i] / (1 - 0.9**step)) / ((second[i] / (1 - 0.999**step)).sqrt() + 1e-8)
    return w, b


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fine_tuning_takes_the_steps_of_the_recipe(optimizer) -> None:
    pixels, labels = coloured(30)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    recipe = Recipe(epochs=5, batch=30, learning_rate=0.02, weight_decay=0.3, optimizer=optimizer)
    tuned = fine_tune(model, pixels, labels, recipe, seed=0)
    with torch.no_grad():
        weight, bias = by_hand(model[1], pixels / 255, labels, recipe, 5)
    torch.testing.assert_close(tuned[1].weight.double(), weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tuned[1].bias.double(), bias, rtol=1e-4, atol=1e-6)
    assert (tuned[1].weight - model[1].weight).abs().max() > 0.01


class Spy(Dataset):
    """Images one by one, which notes what is asked for."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.asked = pixels, []

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return self.pixels[index]


def listen(model: nn.Module, spy: Spy) -> list[list[int]]:
    """The batches that reach the model, as the positions of their images."""
    batches: list[list[int]] = []

    def note(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        batches.append(list(spy.asked))
        spy.asked.clear()
        assert len(inputs[0]) == len(batches[-1])

    model.register_forward_pre_hook(note)
    return batches


def test_images_are_read_one_batch_at_a_time_in_parts_of_nearly_one_size(model) -> None:
    pixels, labels = coloured(10)
    spy = Spy(pixels)
    batches = listen(model, spy)
    recipe = Recipe(epochs=2, batch=4, learning_rate=0.1)
    lazy = fine_tune(model, spy, labels, recipe, seed=3)
    assert [len(batch) for batch in batches] == [4, 3, 3, 4, 3, 3]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(chain(*epoch)) == list(range(10))
    assert batches[:3] != batches[3:]
    for others in (pixels, pixels / 255, list(pixels)):
        spy.asked = [0] * 10
        model._forward_pre_hooks.clear()
        assert same(lazy, fine_tune(model, others, labels, recipe, seed=3))


def test_steps_stand_in_the_place_of_epochs(model) -> None:
    pixels, labels = coloured(10)
    spy = Spy(pixels)
    batches = listen(model, spy)
    fine_tune(model, spy, labels, Recipe(epochs=1, batch=4, learning_rate=0.1, steps=7), seed=0)
    assert [len(batch) for batch in batches] == [4, 3, 3, 4, 3, 3, 4]


@pytest.mark.parametrize("at_once", [1, 4, 10])
def test_a_batch_in_parts_takes_the_same_steps(at_once) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(96, 2))
    pixels, labels = coloured(20)
    spy = Spy(pixels)
    batches = listen(model, spy)
    whole = Recipe(epochs=3, batch=10, learning_rate=0.05)
    parts = fine_tune(model, spy, labels, dataclasses.replace(whole, at_once=at_once), seed=1)
    assert max(map(len, batches)) == at_once and sum(map(len, batches)) == 60
    model._forward_pre_hooks.clear()
    for one, other in zip(
        parts.parameters(), fine_tune(model, pixels, labels, whole, seed=1).parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(whole, at_once=0)


def test_group_weights_balance_what_is_drawn(model) -> None:
    groups = torch.tensor([0] * 70 + [5] * 20 + [2] * 8 + [3] * 2)
    weights = group_weights(groups)
    for group in (0, 2, 3, 5):
        torch.testing.assert_close(weights[groups == group].sum(), torch.tensor(0.25, dtype=torch.float64))
    pixels, labels = coloured(100)
    spy = Spy(pixels)
    batches = listen(model, spy)
    fine_tune(model, spy, labels, Recipe(epochs=20, batch=50, learning_rate=1e-3), seed=0, weights=weights)
    drawn = groups[torch.tensor([*chain(*batches)])]
    assert len(drawn) == 2000
    for group in (0, 2, 3, 5):
        assert 420 < (drawn == group).sum() < 580  # 500 expected, sd 19


@pytest.mark.parametrize("names", [["head"], ["head.weight", "head.bias"]])
def test_only_the_named_parameters_learn_and_batch_norm_keeps_its_averages(model, names) -> None:
    pixels, labels = coloured(60)
    tuned = fine_tune(model, pixels, labels, Recipe(5, 20, 0.5), seed=0, parameters=names)
    assert same(tuned.body, model.body)
    assert not torch.equal(tuned.head.weight, model.head.weight)
    assert not torch.equal(tuned.head.bias, model.head.bias)
    features = model.body(pixels / 255).mean((2, 3)).view(60, 3, 2, 1)  # what the head learns from has no dropout
    alone = fine_tune(nn.Sequential(nn.Flatten(), model.head), features, labels, Recipe(5, 20, 0.5), seed=0)
    torch.testing.assert_close(alone[1].weight, tuned.head.weight, rtol=1e-4, atol=1e-5)
    bias = fine_tune(model, pixels, labels, Recipe(5, 20, 0.5), seed=0, parameters=["head.bias"])
    assert torch.equal(bias.head.weight, model.head.weight) and not torch.equal(bias.head.bias, model.head.bias)


def test_bad_input_of_fine_tuning(model) -> None:
    pixels, labels = coloured(10)

    def attempt(images: Tensor | Sequence = pixels, target: Tensor = labels, recipe: Recipe = MASKTUNE, **others):
        return fine_tune(model, images, target, recipe, 0, **others)

    with pytest.raises(ValueError, match="labels of fine_tune"):
        attempt(pixels[:0], labels[:0])
    with pytest.raises(ValueError, match="The 9 labels are not one class"):
        attempt(target=labels[1:])
    with pytest.raises(ValueError, match="not one class, from 0 on"):
        attempt(target=labels - 1)
    with pytest.raises(ValueError, match="Label 2 is not among the model's classes 0 to 1"):
        attempt(target=labels + 1)
    for bad in (torch.ones(9), torch.zeros(10), -torch.ones(10), torch.full((10,), torch.nan)):
        with pytest.raises(ValueError, match=r"weights of fine_tune|The weights are not one for each"):
            attempt(weights=bad)
    with pytest.raises(ValueError, match="no parameter or module 'hea'"):
        attempt(parameters=["head", "hea"])
    with pytest.raises(ValueError, match="lower the learning rate"):
        attempt(recipe=Recipe(50, 10, 1e30))
    for bad in ({"epochs": 0}, {"batch": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match="give at least 1 of each"):
            Recipe(**{"epochs": 1, "batch": 1, "learning_rate": 0.1, **bad})


# --- with known groups --------------------------------------------------------------------------------------------


def shortcut(n: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of unlike sizes, one of which is constant and one of which gives the class away in 90 of 100 images."""
    g = draw(5)
    labels = torch.arange(n) % classes
    place = torch.where(torch.rand(n, generator=g) < 0.9, labels, torch.randint(classes, (n,), generator=g))
    features = torch.randn(n, 12, generator=g, dtype=torch.float64)
    features[:, 0] += labels
    features[:, 1] = 20 * place + features[:, 1]
    features[:, 2] = 0.1
    return features * torch.logspace(-2, 2, 12, dtype=torch.float64) + 3, labels, labels * classes + place


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l2", [0.001, 0.1])
def test_last_layer_retraining_equals_scikit_learns_logistic_regression(classes, l2) -> None:
    features, labels, groups = shortcut(400, classes)
    layer = retrain_last_layer(features, labels, groups, l2=l2)
    sizes = {int(group): int((groups == group).sum()) for group in groups.unique()}
    weights = [1 / (len(sizes) * sizes[int(group)]) for group in groups]
    # Both classes of two have a weight vector here, half as long as scikit-learn's one: a penalty half as large.
    strength = (2 if classes == 2 else 1) / l2
    scaler = StandardScaler().fit(features.numpy())
    oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    oracle.fit(scaler.transform(features.numpy()), labels.numpy(), sample_weight=weights)
    expected = oracle.predict_proba(scaler.transform(features.numpy()))
    found = layer.double()(features).softmax(1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    again = retrain_last_layer(features, labels, groups, l2=l2)
    assert torch.equal(again.weight.double(), layer.weight)


def test_retraining_by_groups_mends_the_worst_group() -> None:
    features, labels, groups = shortcut(2000, 2)
    plain = retrain_last_layer(features[:1000], labels[:1000], torch.zeros_like(groups[:1000]))
    by_groups = retrain_last_layer(features[:1000], labels[:1000], groups[:1000])
    worst = [
        group_accuracy(layer.double()(features[1000:]).argmax(1) == labels[1000:], groups[1000:]).worst.value
        for layer in (plain, by_groups)
    ]
    assert worst[1] > worst[0] + 0.2


def test_bad_input_of_last_layer_retraining() -> None:
    features, labels, groups = shortcut(40, 2)
    with pytest.raises(ValueError, match="40 features, 39 labels"):
        retrain_last_layer(features, labels[1:], groups)
    with pytest.raises(ValueError, match="features of retrain_last_layer"):
        retrain_last_layer(features[:0], labels[:0], groups[:0])
    with pytest.raises(ValueError, match="features of retrain_last_layer"):
        retrain_last_layer(features * torch.nan, labels, groups)
    with pytest.raises(ValueError, match="do not cover the 3 classes"):
        retrain_last_layer(features, labels * 2, groups)
    with pytest.raises(ValueError, match="l2 of retrain_last_layer"):
        retrain_last_layer(features, labels, groups, l2=0)
    with pytest.raises(ValueError, match="not found in 2 steps"):
        retrain_last_layer(features, labels, groups, steps=2)


# --- what came of it ----------------------------------------------------------------------------------------------


def test_averages_by_hand() -> None:
    correct = [1, 1, 1, 0, 1, 0, 0, 1, 1, 1]
    groups = ["a", "a", "a", "a", "b", "b", "b", "c", "c", "c"]
    found = averages(correct, groups, ["a"] * 8 + ["b"] * 2)  # a: 3/4, b: 1/3, c: 1, and no c in training
    assert found.micro == pytest.approx(0.7)
    assert found.macro == pytest.approx((3 / 4 + 1 / 3 + 1) / 3)
    assert found.train_weighted == pytest.approx(0.8 * 3 / 4 + 0.2 / 3)
    numbers = torch.tensor(["abc".index(group) for group in groups])
    assert averages(torch.tensor(correct), numbers, torch.tensor([0] * 8 + [1] * 2)) == found
    for bad in ([], ["a", "d"]):
        with pytest.raises(ValueError, match=r"train_groups of averages|training groups .* not all among those tested"):
            averages(correct, groups, bad)
