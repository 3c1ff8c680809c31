"""How well do heat maps segment the thing? Pixel accuracy, intersection over union, average precision."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.metrics import average_precision_score
from torch import Tensor

from xaikit.arguments import Seed, public
from xaikit.metrics.heatmaps import normalise
from xaikit.metrics.intervals import Interval, bootstrap


@public
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

    def interval(self, measure: str, seed: Seed) -> Interval:
        """One of `MEASURES`, with its interval over images.

        "pixel-accuracy" is the share of labelled pixels in the right class, and "miou" the mean of background's and
        foreground's intersection over union, each pooled over images; "map" is the mean over images of the average
        precision as published, "foreground-ap" of that of the foreground alone.
        Raises ValueError for another measure, and where a class occurs neither in the masks nor in the predictions.
        """
        return bootstrap(_measure(measure), *self._columns(measure), seed=seed)

    def minus(self, other: "SegmentationScores", measure: str, seed: Seed) -> Interval:
        """How much better a measure is than that of `other`, for the same images; raises as `interval`."""
        if len(self.counts) != len(other.counts):
            raise ValueError(
                f"Scores of {len(self.counts)} and {len(other.counts)} images: score the same images twice."
            )
        statistic, columns = _measure(measure), self._columns(measure)

        def difference(*both: np.ndarray, axis: int = -1) -> float | np.ndarray:
            half = len(both) // 2
            return statistic(*both[:half], axis=axis) - statistic(*both[half:], axis=axis)

        return bootstrap(difference, *columns, *other._columns(measure), seed=seed)

    def _columns(self, measure: str) -> tuple[np.ndarray, ...]:
        if measure == "map":
            return (self.average_precision,)
        if measure == "foreground-ap":
            return (self.foreground_average_precision,)
        return tuple(self.counts.reshape(-1, 4).T)


@public
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

    >>> import torch
    >>> from xaikit import segmentation_scores
    >>> heatmaps, masks = torch.tensor([[[0.1, 0.2], [0.0, 0.9]]]), torch.tensor([[[0, 0], [0, 1]]])
    >>> scores = segmentation_scores(heatmaps, masks)
    >>> scores.counts.tolist(), scores.foreground_average_precision.item()  # 3 pixels of background, 1 of the thing
    ([[[3, 0], [0, 1]]], 1.0)
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


@public
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


@public
def average_precision(
    scores: Float[Tensor, "batch items"],
    labels: Bool[Tensor, "batch items"],
    known: Bool[Tensor, "batch items"] | None = None,
) -> Float[Tensor, " batch"]:
    """scikit-learn's average precision, Σ_k (R_k − R_{k−1}) P_k over the distinct scores, of each row, in float64.

    Items with equal scores enter together; those that are not `known` count as absent.
    Raises ValueError on NaN, and for a row without a known positive, where the average precision is undefined.
    """
    if scores.isnan().any():
        raise ValueError("A score is NaN: leave such items out.")
    known = torch.ones_like(labels) if known is None else known
    if not (labels & known).any(1).all():
        raise ValueError("A row has no positive item, so no average precision: leave it out.")
    rows = zip(*(each.cpu().numpy() for each in (labels, scores, known)), strict=True)
    found = [average_precision_score(label[here], score[here]) for label, score, here in rows]
    return torch.tensor(found, dtype=torch.float64, device=scores.device)


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
