"""Order, scale and repetition of images change what they must in every metric, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaikit.metrics import (
    auc,
    average_precision,
    bootstrap_mean,
    foreground,
    group_accuracy,
    mcnemar,
    normalise,
    pointing_game,
    segmentation_scores,
    spearman,
)

quick = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)
scales = st.floats(0.1, 10)


def case(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in which some are equal, labels of both classes, and an order of them."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(n) % 2)
    return draw.integers(0, 8, n) / 8, labels, draw.permutation(n)


def pictures(seed: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heat maps, masks that are never empty, and an order of them."""
    draw = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, 6, 7, generator=draw) < 0.4
    masks[:, 0, 0] = True
    return torch.rand(n, 6, 7, generator=draw), masks, torch.randperm(n, generator=draw)


@quick
@given(seeds, scales)
def test_auc_knows_only_the_order_of_the_scores(seed: int, scale: float) -> None:
    score, label, order = case(seed)
    value = auc(score, label)
    assert auc(score[order], label[order]) == pytest.approx(value)
    assert auc(np.exp(scale * score) - 3, label) == pytest.approx(value)
    assert auc(np.tile(score, 2), np.tile(label, 2)) == pytest.approx(value)
    assert auc(-score, label) == pytest.approx(1 - value) == auc(score, 1 - label)


@quick
@given(seeds, scales)
def test_rank_correlation_knows_only_the_order(seed: int, scale: float) -> None:
    x, _, order = case(seed)
    y = np.random.default_rng(seed + 1).normal(size=len(x))
    if len(set(x)) == 1:
        return
    value = spearman(x, y).value
    assert spearman(x[order], y[order]).value == pytest.approx(value)
    assert spearman(np.exp(scale * x), y**3).value == pytest.approx(value)
    assert spearman(-x, y).value == pytest.approx(-value)


@quick
@given(seeds, scales)
def test_a_mean_moves_with_its_values_and_its_interval_too(seed: int, scale: float) -> None:
    values, _, order = case(seed)
    values = values + np.linspace(0, 1, len(values))  # of a few different ones the ends of their range count too
    found = bootstrap_mean(values, seed=0, resamples=200)
    moved = bootstrap_mean(scale * values + 1, seed=0, resamples=200)
    expected = [scale * each + 1 for each in (found.value, found.low, found.high)]
    assert [moved.value, moved.low, moved.high] == pytest.approx(expected)
    assert bootstrap_mean(values[order], seed=0, resamples=200).value == pytest.approx(found.value)


@quick
@given(seeds)
def test_groups_count_alike_in_any_order_and_twice_as_often_counts_twice(seed: int) -> None:
    score, label, order = case(seed)
    correct, groups = label, (8 * score).astype(int) % 3
    found = group_accuracy(correct, groups)
    assert group_accuracy(correct[order], groups[order]) == found
    twice = group_accuracy(np.tile(correct, 2), np.tile(groups, 2))
    for name, interval in found.groups.items():
        assert twice.groups[name].value == interval.value and twice.groups[name].n == 2 * interval.n
    assert twice.worst_group == found.worst_group


@quick
@given(seeds)
def test_mcnemar_is_the_same_both_ways_and_in_any_order(seed: int) -> None:
    score, label, order = case(seed)
    other = (score > 0.5).astype(int)
    value = mcnemar(label, other)
    assert mcnemar(other, label) == pytest.approx(value) == mcnemar(1 - label, 1 - other)
    assert mcnemar(label[order], other[order]) == pytest.approx(value)


@quick
@given(seeds, scales)
def test_maps_are_each_on_their_own_and_their_scale_does_not_count(seed: int, scale: float) -> None:
    heat, masks, order = pictures(seed)
    found = segmentation_scores(heat, masks)
    scaled = heat.clone()
    scaled[0] = scale * scaled[0] + 1
    again = torch.cat([heat, heat]), torch.cat([masks, masks])
    for changed, rows in (
        (segmentation_scores(heat[order], masks[order]), order),
        (segmentation_scores(scaled, masks), torch.arange(3)),
        (segmentation_scores(*again), torch.arange(6) % 3),
    ):
        for name, values in vars(found).items():
            np.testing.assert_allclose(vars(changed)[name], values[rows.numpy()], atol=1e-6)
    torch.testing.assert_close(normalise(scaled), normalise(heat), atol=1e-5, rtol=1e-5)
    assert torch.equal(foreground(heat[order])[0], foreground(heat)[0][order])


@quick
@given(seeds, scales)
def test_pointing_knows_neither_order_nor_scale(seed: int, scale: float) -> None:
    heat, masks, order = pictures(seed)
    found = pointing_game(heat, masks)
    for changed, rows in (
        (pointing_game(heat[order], masks[order]), order),
        (pointing_game(scale * heat, masks), torch.arange(3)),
        (pointing_game(torch.cat([heat, heat]), torch.cat([masks, masks])), torch.arange(6) % 3),
    ):
        for name, values in vars(found).items():
            np.testing.assert_allclose(vars(changed)[name], values[rows.numpy()], atol=1e-6)


@quick
@given(seeds, scales)
def test_average_precision_knows_only_the_order_of_the_scores(seed: int, scale: float) -> None:
    heat, masks, _ = pictures(seed)
    scores, labels = heat.flatten(1), masks.flatten(1)
    found, order = average_precision(scores, labels), torch.randperm(42, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(average_precision(scores[:, order], labels[:, order]), found)
    torch.testing.assert_close(average_precision((scale * scores.double()).exp(), labels), found)
