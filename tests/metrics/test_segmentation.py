"""Segmentation measures agree with scikit-learn and with direct counts; pointing and group accuracy with loops."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score
from torch import Tensor

from xaikit.metrics.groups import group_accuracy
from xaikit.metrics.intervals import Interval, proportion
from xaikit.metrics.pointing import box_masks, pointing_game
from xaikit.metrics.segmentation import SegmentationScores, average_precision, foreground, segmentation_scores
from xaikit.storage import seeding


@pytest.fixture
def heatmaps() -> Tensor:
    """Signed maps of unlike ranges with many equal values, among them one that is constant."""
    maps = torch.randn(9, 11, 13, generator=seeding.generator(0, "heat")).mul(3).round() / 3
    maps *= torch.arange(1, 10)[:, None, None]
    maps[4] = 2.5
    return maps


@pytest.fixture
def masks(heatmaps) -> Tensor:
    """Unlike shares of foreground, somewhat where the heat is; -1 where nothing is known."""
    noise = torch.randn(heatmaps.shape, generator=seeding.generator(0, "masks"))
    marks = (heatmaps / heatmaps.std() + noise > torch.linspace(-1, 1, 9)[:, None, None]).int()
    marks[noise.abs() < 0.2] = -1
    marks[3] = marks[3].abs()  # an image whose every pixel is known
    return marks


def slow(heatmaps: Tensor, masks: Tensor, clip: bool) -> dict[str, object]:
    """One image at a time, with scikit-learn's average precision and intersection over union."""
    pooled, foreground_only, truths, predictions = [], [], [], []
    for heat, mask in zip(heatmaps.double().numpy(), masks.numpy(), strict=True):
        heat = np.maximum(heat, 0) if clip else heat
        heat = (heat - heat.min()) / (np.ptp(heat) or 1)
        predicted, known = heat > heat.mean(), mask >= 0
        truth, heat = mask[known] == 1, heat[known]
        one_hot = np.stack([~truth, truth])
        pooled.append(average_precision_score(one_hot.ravel(), np.stack([1 - heat, heat]).ravel()))
        foreground_only.append(average_precision_score(truth, heat))
        truths.append(truth)
        predictions.append(predicted[known])
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    return {
        "accuracy": (truth == predicted).mean(),
        "iou": np.mean([jaccard_score(truth, predicted, pos_label=label) for label in (True, False)]),
        "pooled": pooled,
        "foreground": foreground_only,
    }


@pytest.mark.parametrize("clip", [False, True])
def test_segmentation_equals_scikit_learn_and_direct_counts(heatmaps, masks, clip) -> None:
    scores = segmentation_scores(heatmaps, masks, clip=clip, ignore=-1)
    expected = slow(heatmaps, masks, clip)
    np.testing.assert_allclose(scores.average_precision, expected["pooled"], atol=1e-12)
    np.testing.assert_allclose(scores.foreground_average_precision, expected["foreground"], atol=1e-12)
    assert scores.interval("pixel-accuracy", seed=0).value == pytest.approx(expected["accuracy"], abs=1e-12)
    assert scores.interval("miou", seed=0).value == pytest.approx(expected["iou"], abs=1e-12)
    assert scores.interval("map", seed=0).value == pytest.approx(np.mean(expected["pooled"]))
    corrected = scores.interval("foreground-ap", seed=0)
    assert corrected.value == pytest.approx(np.mean(expected["foreground"])) and corrected.n == 9
    assert scores.counts.sum() == (masks >= 0).sum() < masks.numel()
    assert abs(expected["accuracy"] - expected["iou"]) > 0.05  # the measures are told apart


def test_counts_are_truth_by_prediction(heatmaps) -> None:
    heat = torch.tensor([[[0.0, 1.0, 5.0, 6.0, 7.0]]])  # the mean is 3.8
    mask = torch.tensor([[[1, 1, 1, 0, 0]]])
    scores = segmentation_scores(heat, mask)
    assert scores.counts.tolist() == [[[0, 2], [2, 1]]]
    assert segmentation_scores(heat, mask.bool()).counts.tolist() == [[[0, 2], [2, 1]]]
    assert segmentation_scores(heat, mask.where(heat != 6, 255), ignore=255).counts.tolist() == [[[0, 1], [2, 1]]]
    # By falling heat the labels are 0 0 1 1 1.
    assert scores.foreground_average_precision[0] == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3)


def test_scores_do_not_depend_on_the_batches(heatmaps, masks) -> None:
    together = segmentation_scores(heatmaps, masks, ignore=-1)
    parts = zip(heatmaps.split([1, 5, 3]), masks.split([1, 5, 3]), strict=True)
    joined = SegmentationScores.join(segmentation_scores(*part, ignore=-1) for part in parts)
    np.testing.assert_array_equal(joined.counts, together.counts)  # no heat lies within rounding of its map's mean
    for name in ("average_precision", "foreground_average_precision"):
        np.testing.assert_allclose(getattr(joined, name), getattr(together, name), rtol=0, atol=1e-12)
    assert joined.interval("miou", seed=3) == together.interval("miou", seed=3)
    with pytest.raises(ValueError, match="no segmentation scores to join"):
        SegmentationScores.join([])


def test_intervals_are_those_of_resampled_images(heatmaps, masks) -> None:
    scores = segmentation_scores(heatmaps, masks, ignore=-1)
    drawn = np.random.default_rng(7).integers(9, size=(4000, 9))
    accuracies, ious = [], []
    for rows in drawn:
        (a, b), (c, d) = scores.counts[rows].sum(0)
        accuracies.append((a + d) / (a + b + c + d))
        ious.append((a / (a + b + c) + d / (b + c + d)) / 2)
    for interval, values in (
        (scores.interval("pixel-accuracy", seed=0), accuracies),
        (scores.interval("miou", seed=0), ious),
    ):
        low, high = np.quantile(values, [0.025, 0.975])
        assert low < high and interval.n == 9 and interval.low <= interval.value <= interval.high
        for own, drawn_end in ((interval.low, low), (interval.high, high)):  # of nine it reaches further out
            assert own == pytest.approx(drawn_end, abs=0.5 * (high - low))


def test_a_perfect_map_scores_one_and_an_inverted_one_does_not() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2], mask[1, 3, 1:] = True, True
    perfect, inverted = (segmentation_scores(heat, mask) for heat in (mask.float(), 1 - mask.float()))
    for interval in (
        perfect.interval("pixel-accuracy", 0),
        perfect.interval("miou", 0),
        perfect.interval("map", 0),
        perfect.interval("foreground-ap", 0),
    ):
        assert (interval.value, interval.low, interval.high) == (1, 1, 1)
    assert inverted.interval("pixel-accuracy", 0).value == inverted.interval("miou", 0).value == 0
    np.testing.assert_allclose(inverted.foreground_average_precision, [8 / 16, 3 / 16])


def test_the_published_average_precision_is_high_where_the_background_is_easy() -> None:
    """The reason for the corrected one: heat on a wrong spot, next to a small object, in a large background."""
    heat, mask = torch.zeros(1, 20, 20), torch.zeros(1, 20, 20, dtype=torch.bool)
    heat[0, 5, 5:9], mask[0, 5, 9:13] = 1.0, True
    scores = segmentation_scores(heat, mask)
    assert scores.average_precision[0] > 0.97 and scores.foreground_average_precision[0] < 0.02


def test_foreground_is_above_the_mean_of_each_stretched_map() -> None:
    maps = torch.tensor([[[-9.0, 0.0], [1.0, 2.0]], [[-1.0, 3.0], [3.0, 3.0]], [[7.0, 7.0], [7.0, 7.0]]])
    where, heat = foreground(maps)
    assert where.int().tolist() == [[[0, 1], [1, 1]], [[0, 1], [1, 1]], [[0, 0], [0, 0]]]
    assert heat.dtype == torch.float64 and heat.amin() == 0 and heat.amax((1, 2)).tolist() == [1, 1, 0]
    clipped, heat = foreground(maps, clip=True)
    assert clipped.int().tolist() == [[[0, 0], [1, 1]], [[0, 1], [1, 1]], [[0, 0], [0, 0]]]
    assert heat[0].tolist() == [[0, 0], [0.5, 1]]


def test_the_foreground_of_an_image_depends_on_no_other_image(heatmaps) -> None:
    for image, where in zip(heatmaps, foreground(heatmaps)[0], strict=True):
        # No heat lies within rounding of its map's mean, so that other batches must choose the same pixels.
        assert torch.equal(foreground(image[None])[0][0], where)


def precision_by_definition(labels: list[bool], scores: list[float]) -> float:
    """Σ_k (R_k − R_{k−1}) P_k over the distinct scores, from the highest on."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        recall = sum(chosen) / sum(labels)
        total += (recall - before) * sum(chosen) / len(chosen)
        before = recall
    return total


@pytest.mark.parametrize("values", [2, 5, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_precision_is_its_definition_ties_included(values, dtype) -> None:
    draw = seeding.rng(0, "precision", values)
    scores = torch.from_numpy(draw.integers(values, size=(12, 150)) / values).to(dtype)
    labels = torch.from_numpy(draw.random((12, 150)) < np.linspace(0.02, 1, 12)[:, None])
    labels[:, 0] = True
    known = torch.from_numpy(draw.random((12, 150)) < 0.7)
    known[:, 0] = True
    everything, some = average_precision(scores, labels), average_precision(scores, labels, known)
    for row in range(12):
        expected = precision_by_definition(labels[row].tolist(), scores[row].tolist())
        assert everything[row].item() == pytest.approx(expected, abs=1e-12)
        part = known[row]
        expected = precision_by_definition(labels[row][part].tolist(), scores[row][part].tolist())
        assert some[row].item() == pytest.approx(expected, abs=1e-12)
    assert len(everything.unique()) > 8


def test_average_precision_has_its_limits() -> None:
    one = torch.ones(1, 4)
    assert average_precision(one, torch.tensor([[True, False, False, False]])).item() == 0.25
    assert average_precision(one, torch.ones(1, 4, dtype=torch.bool)).item() == 1
    with pytest.raises(ValueError, match="no positive item"):
        average_precision(one, torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="scores of average_precision"):
        average_precision(one[:, :0], torch.zeros(1, 0, dtype=torch.bool))
    with pytest.raises(ValueError, match="scores of average_precision"):
        average_precision(one * torch.nan, torch.ones(1, 4, dtype=torch.bool))


def test_bad_masks_and_heatmaps_are_named(heatmaps, masks) -> None:
    with pytest.raises(ValueError, match="heatmaps of segmentation_scores"):
        segmentation_scores(heatmaps[:0], masks[:0])
    with pytest.raises(ValueError, match=r"masks are \(9, 11, 12\), the heatmaps \(9, 11, 13\)"):
        segmentation_scores(heatmaps, masks[:, :, 1:])
    with pytest.raises(ValueError, match=r"masks are \(8, 11, 13\)"):
        segmentation_scores(heatmaps, masks[1:])
    with pytest.raises(ValueError, match="values other than 0 and 1"):
        segmentation_scores(heatmaps, masks)
    with pytest.raises(ValueError, match="values other than 0 and 1"):
        segmentation_scores(heatmaps, masks * 2, ignore=-2)
    bare = masks.clone()
    bare[5] = 0
    with pytest.raises(ValueError, match="mask of image 5 has no foreground"):
        segmentation_scores(heatmaps, bare, ignore=-1)
    bare[5] = -1
    with pytest.raises(ValueError, match="mask of image 5 has no foreground"):
        segmentation_scores(heatmaps, bare, ignore=-1)
    for bad in (torch.nan, torch.inf):
        spoilt = heatmaps.clone()
        spoilt[2, 3, 4] = bad
        with pytest.raises(ValueError, match="heatmaps of segmentation_scores"):
            segmentation_scores(spoilt, masks, ignore=-1)


def test_a_class_that_occurs_nowhere_has_no_intersection_over_union() -> None:
    heat = torch.tensor([[[0.0, 1.0, 1.0]]]).expand(2, -1, -1)
    scores = segmentation_scores(heat, torch.tensor([[[7, 1, 1]]]).expand(2, -1, -1), ignore=7)
    assert scores.interval("pixel-accuracy", seed=0).value == 1
    with pytest.raises(ValueError, match="not finite"):
        scores.interval("miou", seed=0)


# --- groups -----------------------------------------------------------------------------------------------------


def test_group_accuracy_counts_each_group_and_finds_the_worst() -> None:
    draw = seeding.rng(0, "groups")
    names = np.array(["land on land", "land on water", "water on land", "water on water"])
    groups = names[draw.choice(4, size=500, p=[0.4, 0.4, 0.15, 0.05])]
    correct = draw.random(500) < np.where(groups == "water on land", 0.4, 0.9)
    result = group_accuracy(correct, groups)
    for name in names:
        chosen = [right for right, group in zip(correct, groups, strict=True) if group == name]
        assert result.groups[name] == proportion(sum(chosen), len(chosen))
    assert list(result.groups) == sorted(names)
    own = result.groups["water on land"]
    assert result.worst_group == "water on land" and (result.worst.value, result.worst.n) == (own.value, own.n)
    assert result.worst.low == own.low and result.worst.high > own.high  # for having been chosen
    assert result.overall == proportion(correct.sum(), 500)


def test_group_accuracy_takes_numbers_lists_and_tensors() -> None:
    result = group_accuracy(torch.tensor([1, 0, 1, 0]), [3, 3, 0, 3])
    assert {group: (part.value, part.n) for group, part in result.groups.items()} == {0: (1, 1), 3: (1 / 3, 3)}
    assert result.worst_group == 3 and result.overall.value == 0.5
    assert group_accuracy([True, True], ["b", "a"]).worst_group == "a"


@pytest.mark.parametrize(
    ("correct", "groups", "sentence"),
    [
        ([], [], "correct of group_accuracy"),
        ([True], ["a", "b"], "one verdict and one group"),
        ([[True]], [["a"]], "one verdict and one group"),
        ([0.5, 1], ["a", "b"], "other than true and false"),
        ([np.nan, 1], ["a", "b"], "correct of group_accuracy"),
    ],
)
def test_bad_groups_are_named(correct, groups, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        group_accuracy(correct, groups)


def test_the_difference_of_two_scores_is_of_the_same_images(heatmaps, masks) -> None:
    better, worse = (segmentation_scores(heat, masks, ignore=-1) for heat in (heatmaps, -heatmaps))
    for measure in SegmentationScores.MEASURES:
        lead = better.minus(worse, measure, seed=0)
        single = better.interval(measure, 0).value - worse.interval(measure, 0).value
        assert lead.value == pytest.approx(single) and lead.low <= lead.value <= lead.high
        assert better.minus(better, measure, seed=0) == Interval(0.0, 0.0, 0.0, len(heatmaps))
    with pytest.raises(ValueError, match="score the same images twice"):
        better.minus(segmentation_scores(heatmaps[:1], masks[:1], ignore=-1), "miou", seed=0)
    with pytest.raises(ValueError, match="choose one of pixel-accuracy"):
        better.interval("dice", seed=0)


# --- the pointing game --------------------------------------------------------------------------------------------


def test_the_pointing_game_is_that_of_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 10, 14, generator=draw).mul(4).round().div(4)  # with many ties
    regions = torch.rand(6, 10, 14, generator=draw) < 0.15
    found = pointing_game(maps, regions, tolerance=2.0, fraction=0.1)
    for i in range(6):
        cells = [(float(maps[i, y, x]), bool(regions[i, y, x]), y, x) for y in range(10) for x in range(14)]

        def near(y: int, x: int, i: int = i) -> bool:
            return any((y - v) ** 2 + (x - u) ** 2 <= 4 for v, u in regions[i].nonzero().tolist())

        best = max(value for value, *_ in cells)
        highest = [near(y, x) for value, _, y, x in cells if value == best]
        assert found.hit[i] == pytest.approx(sum(highest) / len(highest))
        assert found.hit_chance[i] == pytest.approx(sum(near(y, x) for _, _, y, x in cells) / 140)
        assert found.area[i] == pytest.approx(sum(inside for _, inside, *_ in cells) / 140)
        assert found.energy[i] == pytest.approx(sum(v for v, r, *_ in cells if r) / sum(v for v, *_ in cells))
        ranked = sorted(cells, key=lambda cell: -cell[0])
        least = ranked[13][0]
        above, level = [c for c in cells if c[0] > least], [c for c in cells if c[0] == least]
        expected = sum(c[1] for c in above) + (14 - len(above)) * sum(c[1] for c in level) / len(level)
        assert found.top[i] == pytest.approx(expected / 14)


def test_a_map_of_zeros_gets_what_chance_gives() -> None:
    regions = torch.zeros(1, 8, 8, dtype=torch.bool)
    regions[0, :2, :4] = True
    found = pointing_game(torch.zeros(1, 8, 8), regions)
    for each in (found.hit, found.hit_chance, found.top, found.energy, found.area):
        assert each[0] == pytest.approx(8 / 64)
    assert found.lift[0] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_map_hits_nothing_though_all_of_its_pixels_are_the_highest(value: float) -> None:
    maps, regions = torch.full((2, 8, 8), value), torch.zeros(2, 8, 8, dtype=torch.bool)
    regions[:, :2, :4], maps[1, 0, 0] = True, 2.0
    found = pointing_game(maps, regions)
    assert found.flat.tolist() == [True, False] and found.hits.tolist() == [False, True]
    assert pointing_game(maps, ~regions).hits.tolist() == [False, False]


def test_boxes_hold_the_pixels_whose_centres_they_hold() -> None:
    masks = box_masks([(1, 2, 4, 3), (-5, -5, 1.4, 0.6), (6.6, 0, 99, 99)], (5, 8))
    assert masks.sum((1, 2)).tolist() == [3, 1, 5]
    assert masks[0, 2, 1:4].all() and masks[1, 0, 0] and masks[2, :, 7].all()


def test_bad_input_of_the_pointing_game() -> None:
    maps, regions = torch.rand(2, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="do not fit attributions"):
        pointing_game(maps, regions[:, :5])
    with pytest.raises(ValueError, match="NaN, infinity or negative"):
        pointing_game(maps - 1, regions)
    with pytest.raises(ValueError, match="attributions of pointing_game"):
        pointing_game(maps * torch.nan, regions)
    regions[1] = False
    with pytest.raises(ValueError, match="region of image 1 has no pixels"):
        pointing_game(maps, regions)
    for box in ((9, 0, 12, 4), (3, 3, 1, 5), (2.1, 0, 2.2, 4)):
        with pytest.raises(ValueError, match="holds no pixel"):
            box_masks([box], (6, 6))
