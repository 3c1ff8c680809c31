"""How good is an explanation, or a classifier, in numbers? Segmentation, pointing, and accuracy by group."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from xaikit.metrics import intervals as stats
from xaikit.saliency.cam import normalise

# --- segmentation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """What segmentation by heatmaps got right, image by image, so that any measure has an interval over images.

    `counts` holds the labelled pixels of each image, [images, truth, prediction], background before foreground.
    `average_precision` [images] is of both classes pooled, as published; `foreground_average_precision` of the
    foreground alone: the first is near 1 wherever most pixels are clearly background, whatever the object gets.
    """

    MEASURES: ClassVar = ("pixel-accuracy", "miou", "map", "foreground-ap")

    counts: Int[np.ndarray, "images 2 2"]
    average_precision: Float[np.ndarray, " images"]
    foreground_average_precision: Float[np.ndarray, " images"]

    @classmethod
    def join(cls, batches: Iterable["SegmentationScores"]) -> "SegmentationScores":
        """The scores of all batches, in their order. Raises ValueError if there is none."""
        parts = list(batches)
        if not parts:
            raise ValueError("There are no segmentation scores to join: score at least one batch.")
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in (field.name for field in fields(cls)))
        )

    def interval(self, measure: str, seed: int) -> stats.Interval:
        """One of `MEASURES`, with its interval over images.

        "pixel-accuracy" is the share of labelled pixels in the right class, and "miou" the mean of background's and
        foreground's intersection over union, each pooled over images; "map" is the mean over images of the average
        precision as published, "foreground-ap" of that of the foreground alone.
        Raises ValueError for another measure, and where a class occurs neither in the masks nor in the predictions.
        """
        return stats.bootstrap(_measure(measure), *self._columns(measure), seed=seed)

    def minus(self, other: "SegmentationScores", measure: str, seed: int) -> stats.Interval:
        """How much better a measure is than that of `other`, for the same images; raises as `interval`."""
        if len(self.counts) != len(other.counts):
            raise ValueError(
                f"Scores of {len(self.counts)} and {len(other.counts)} images: score the same images twice."
            )
        statistic, columns = _measure(measure), self._columns(measure)

        def difference(*both: np.ndarray, axis: int = -1) -> float | np.ndarray:
            half = len(both) // 2
            return statistic(*both[:half], axis=axis) - statistic(*both[half:], axis=axis)

        return stats.bootstrap(difference, *columns, *other._columns(measure), seed=seed)

    def _columns(self, measure: str) -> tuple[np.ndarray, ...]:
        if measure == "map":
            return (self.average_precision,)
        if measure == "foreground-ap":
            return (self.foreground_average_precision,)
        return tuple(self.counts.reshape(-1, 4).T)


def segmentation_scores(
    heatmaps: Float[Tensor, "batch height width"],
    masks: Shaped[Tensor, "masks mask_height mask_width"],
    *,
    clip: bool = False,
    ignore: int | None = None,
) -> SegmentationScores:
    """Segment each image by its heatmap (`foreground`) and compare with its mask.

    Arguments: `masks` has the shape of `heatmaps` and is true or 1 in the foreground, false or 0 in the background,
    `ignore` where nothing is known: such pixels count nowhere but in the heatmap's range and mean. `clip` as in
    `foreground`. The average precision is that of the heatmap stretched to 0..1, h, for the foreground, and of 1 - h
    for the background, whose pixels are pooled with those of the foreground as published.
    Raises ValueError if there is no image, shapes or values of masks do not fit, heatmaps hold NaN or infinity, or a
    mask has no foreground, where the average precision is undefined.
    Source: Gandelsman et al. (2024), zero-shot segmentation, by the evaluation code of Chefer et al. (2021).
    """
    if not len(masks) or masks.shape != heatmaps.shape:
        raise ValueError(f"The masks are {tuple(masks.shape)}, the heatmaps {tuple(heatmaps.shape)}: give equal ones.")
    masks = masks.to(heatmaps.device)
    truth = masks == 1
    known = torch.ones_like(truth) if ignore is None else masks != ignore
    if (known & ~truth & (masks != 0)).any():
        raise ValueError("A mask holds values other than 0 and 1: name the one that stands for no label as ignore.")
    truth &= known
    if not (filled := truth.flatten(1).any(1)).all():
        bare = int(filled.logical_not().nonzero()[0])
        raise ValueError(f"The mask of image {bare} has no foreground, so no average precision: leave the image out.")
    predicted, heat = foreground(heatmaps, clip=clip)
    cells = (truth * 2 + predicted).flatten(1)
    counts = torch.stack([((cells == cell) & known.flatten(1)).sum(1) for cell in range(4)], 1)
    truth, known, heat = truth.flatten(1), known.flatten(1), heat.flatten(1)
    both = average_precision(
        torch.cat([1 - heat, heat], 1), torch.cat([~truth, truth], 1), torch.cat([known, known], 1)
    )
    alone = average_precision(heat, truth, known)
    return SegmentationScores(counts.view(-1, 2, 2).cpu().numpy(), both.cpu().numpy(), alone.cpu().numpy())


def foreground(
    heatmaps: Float[Tensor, "batch height width"], *, clip: bool = False
) -> tuple[Bool[Tensor, "batch height width"], Float[Tensor, "batch height width"]]:
    """Where a heatmap stretched to 0..1 exceeds its mean, and that heatmap, in float64; each image on its own.

    With `clip`, negative heat counts as 0 first: so for the decomposition's heatmaps, not for the baselines'. A
    constant heatmap becomes 0 and has no foreground. Raises ValueError on NaN or infinity.
    Source: as for `segmentation_scores`.
    """
    if not heatmaps.isfinite().all():
        raise ValueError("A heatmap holds NaN or infinity: look for them where it was made.")
    heat = normalise(heatmaps.double().clamp(min=0) if clip else heatmaps.double())
    return heat > heat.mean((1, 2), keepdim=True), heat


def average_precision(
    scores: Float[Tensor, "batch items"],
    labels: Bool[Tensor, "batch items"],
    known: Bool[Tensor, "batch items"] | None = None,
) -> Float[Tensor, " batch"]:
    """Σ_k (R_k − R_{k−1}) P_k over the distinct scores from the highest on, for each row, in float64.

    Items with equal scores enter together; those that are not `known` count as absent.
    Raises ValueError on NaN, and for a row without a known positive, where the average precision is undefined.
    Source: the definition of scikit-learn's `average_precision_score`, which it equals.
    """
    if scores.isnan().any():
        raise ValueError("A score is NaN: leave such items out.")
    known = torch.ones_like(labels) if known is None else known
    scores, order = scores.sort(dim=1, descending=True)
    positive = (labels & known).gather(1, order).double()
    if not positive.any(1).all():
        raise ValueError("A row has no positive item, so no average precision: leave it out.")
    found, seen = positive.cumsum(1), known.gather(1, order).double().cumsum(1)
    # Each item takes the precision at the last item of its score: the index of that is a minimum from behind.
    index = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    last = torch.ones_like(labels)
    last[:, :-1] = scores[:, 1:] < scores[:, :-1]
    end = index.where(last, scores.shape[1]).flip(1).cummin(1).values.flip(1)
    precision = (found / seen.clamp(min=1)).gather(1, end)
    return (positive * precision).sum(1) / found[:, -1]


def _measure(name: str) -> Callable[..., float | np.ndarray]:
    known = {"pixel-accuracy": _pixel_accuracy, "miou": _mean_iou, "map": np.mean, "foreground-ap": np.mean}
    if name not in known:
        raise ValueError(f"Unknown measure {name!r}: choose one of {', '.join(known)}.")
    return known[name]


def _pixel_accuracy(
    background: np.ndarray, false: np.ndarray, missed: np.ndarray, found: np.ndarray, axis: int = -1
) -> float | np.ndarray:
    right = (background + found).sum(axis)
    return right / (right + (false + missed).sum(axis))


def _mean_iou(
    background: np.ndarray, false: np.ndarray, missed: np.ndarray, found: np.ndarray, axis: int = -1
) -> float | np.ndarray:
    wrong = (false + missed).sum(axis)
    background, found = background.sum(axis), found.sum(axis)
    with np.errstate(invalid="ignore"):  # the bootstrap refuses what is not finite
        return (background / (background + wrong) + found / (found + wrong)) / 2


# --- the pointing game --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pointing:
    """How much of each image's attribution lies in a region, [images] each, and what chance would give.

    `hit` is the share of the pixels of highest attribution (one, or several equal ones) in the region or within the
    tolerance of it, and `hit_chance` the area of that; `top` the share of the highest pixels that lies in the region,
    `energy` that of the attribution itself, and `area` the region's share of the image, by chance what both are.
    """

    hit: Float[np.ndarray, " images"]
    hit_chance: Float[np.ndarray, " images"]
    top: Float[np.ndarray, " images"]
    energy: Float[np.ndarray, " images"]
    area: Float[np.ndarray, " images"]

    @property
    def lift(self) -> Float[np.ndarray, " images"]:
        """How many times more of the attribution lies in the region than chance would put there."""
        return self.energy / self.area


def pointing_game(
    attributions: Float[Tensor, "images height width"],
    regions: Bool[Tensor, "regions rows columns"],
    *,
    tolerance: float | int = 0.0,
    fraction: float | int = 0.05,
) -> Pointing:
    """Does an attribution point at a region, such as a face?

    Arguments: `tolerance` in pixels, the radius of the discs around the region's pixels in which a hit counts too (15
    at 224 pixels in the original); `fraction` of an image's pixels are its top, equal ones taken in parts. Attributions
    are not negative; one of zeros points nowhere, and gets what chance gives.
    Raises ValueError for no image, shapes that do not fit, NaN, negative attributions, and a region without pixels.
    Source: Zhang et al. (2018), section 4.1, the hit; Agarwal's fairness accuracy is its share of images.
    """
    if not len(attributions) or attributions.shape != regions.shape:
        raise ValueError(
            f"Regions {tuple(regions.shape)} do not fit attributions {tuple(attributions.shape)}: give equal ones."
        )
    if not (attributions >= 0).all() or attributions.isinf().any():
        raise ValueError("Attributions hold NaN, infinity or negative numbers: clamp them, or mend their source.")
    if not (filled := regions.flatten(1).any(1)).all():
        raise ValueError(f"The region of image {int((~filled).nonzero()[0])} has no pixels: leave the image out.")
    heat, inside = attributions.double().flatten(1), regions.double().flatten(1)
    near = _dilated(regions, tolerance).double().flatten(1)
    highest = (heat == heat.amax(1, keepdim=True)).double()
    area, count = inside.mean(1), max(1, round(fraction * heat.shape[1]))
    total = heat.sum(1)
    energy = torch.where(total > 0, (heat * inside).sum(1) / total.clamp_min(1e-300), area)
    least = heat.topk(count).values[:, -1:]
    above, level = (heat > least).double(), (heat == least).double()
    share = (count - above.sum(1)) / level.sum(1)  # of those at the level of the last one, so many are among the top
    top = ((above * inside).sum(1) + share * (level * inside).sum(1)) / count
    found = ((highest * near).sum(1) / highest.sum(1), near.mean(1), top, energy, area)
    return Pointing(*(each.cpu().numpy() for each in found))


def _dilated(regions: Bool[Tensor, "images height width"], radius: float) -> Bool[Tensor, "images height width"]:
    reach = int(radius)
    if not reach:
        return regions
    steps = torch.arange(-reach, reach + 1, device=regions.device)
    disc = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    return F.conv2d(regions.float()[:, None], disc[None, None], padding=reach)[:, 0] > 0.5


def box_masks(boxes: Sequence[Sequence[float | int]], size: tuple[int, int]) -> Bool[Tensor, "boxes height width"]:
    """The pixels of each box (x0, y0, x1, y1), in pixels of images of `size` (height, width).

    A pixel belongs to a box that holds its centre. What lies outside of the image is cut off; raises ValueError for a
    box of which nothing is left, or whose ends are in the wrong order.
    """
    height, width = size
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask |= ((down >= y0) & (down < y1))[:, None] & ((across >= x0) & (across < x1))
        if not mask.any():
            raise ValueError(
                f"The box {(x0, y0, x1, y1)} holds no pixel of an image of {width} x {height}: is it (x0, y0, x1, y1)?"
            )
    return masks


# --- groups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy of each group, in the order of their names, with Wilson's intervals, and of all items together.

    The interval of the worst group is its own: it does not allow for having been chosen as the worst.
    """

    groups: dict[str | int, stats.Interval]
    overall: stats.Interval

    @property
    def worst_group(self) -> str | int:
        """The name of the group with the lowest accuracy, the first of equals."""
        return min(self.groups, key=lambda group: self.groups[group].value)

    @property
    def worst(self) -> stats.Interval:
        """The accuracy of the worst group."""
        return self.groups[self.worst_group]


def group_accuracy(correct: ArrayLike, groups: ArrayLike) -> GroupAccuracy:
    """The accuracy of each group: `correct` [items] says which predictions are right, `groups` [items] names groups.

    Raises ValueError if there is no item, the lengths differ, or `correct` holds other values than true and false.
    """
    correct, groups = np.asarray(correct), np.asarray(groups)
    if correct.ndim != 1 or correct.shape != groups.shape or not len(correct):
        raise ValueError(f"Of shapes {correct.shape} and {groups.shape}: give one verdict and one group an item.")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("Verdicts hold values other than true and false: pass prediction == label.")
    names, members = np.unique(groups, return_inverse=True)
    right, sizes = np.bincount(members, correct.astype(bool)), np.bincount(members)
    rows = zip(names.tolist(), right.astype(int), sizes, strict=True)
    accuracies = {name: stats.proportion(hits, size) for name, hits, size in rows}
    return GroupAccuracy(accuracies, stats.proportion(int(correct.sum()), len(correct)))
