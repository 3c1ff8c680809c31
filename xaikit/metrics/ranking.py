"""Does one order agree with another? AUC and rank correlation, with their intervals."""

import warnings
from dataclasses import replace
from typing import Annotated

import numpy as np
from jaxtyping import Float
from scipy import stats

from xaikit.arguments import ANYTHING, Count, Numbers, Seed, public
from xaikit.metrics.intervals import LEVEL, RESAMPLES, Interval, bootstrap, checked

FEWEST_POINTS = 5  # with 4 points even a perfect order has p = 2/4! = 0.083 and says nothing at the 5 % level


@public
def auc(score: Numbers, label: Numbers) -> float | np.ndarray:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counted half.

    Arguments: `score` [..., n]; `label` of the same shape or [n], true (1) for positives.
    Result: a float for one row of scores, else an array [...].
    Raises ValueError on empty input, NaN, labels other than 0 and 1, shapes that do not fit, or one class.
    Source: Hanley and McNeil (1982); Mann-Whitney U from mid-ranks, O(n log n).
    """
    score, label = checked(score, "score"), checked(label, "label")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("AUC labels hold values other than 0 and 1: pass label == positive_class.")
    if label.shape not in (score.shape, score.shape[-1:]):
        raise ValueError(f"AUC labels {label.shape} do not fit scores {score.shape}: give one a score.")
    positive = np.broadcast_to(label.astype(bool), score.shape)
    positives = positive.sum(-1)
    negatives = score.shape[-1] - positives
    if (positives == 0).any() or (negatives == 0).any():
        raise ValueError("AUC needs both classes, and the labels hold one only: add items of the other.")
    rank_sum = (stats.rankdata(score, axis=-1) * positive).sum(-1)
    area = (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
    return float(area) if score.ndim == 1 else area


@public
def bootstrap_auc(score: Numbers, label: Numbers, seed: Seed, resamples: Count = RESAMPLES) -> Interval:
    """`auc` of `score` [n] and `label` [n] with its bootstrap interval; rows are drawn within each class.

    The class sizes stay as they are, so no resample lacks a class. Raises as `auc` does.
    """
    auc(score, label)  # for its checks
    score, positive = np.asarray(score), np.asarray(label).astype(bool)
    classes = score[positive], score[~positive]

    def of_classes(positives: np.ndarray, negatives: np.ndarray, axis: int = -1) -> float | np.ndarray:
        drawn_label = np.repeat([True, False], [positives.shape[axis], negatives.shape[axis]])
        return auc(np.concatenate([positives, negatives], axis), drawn_label)

    interval = bootstrap(of_classes, *classes, seed=seed, resamples=resamples, paired=False)
    return replace(interval, n=len(score))


@public
def spearman(x: Numbers, y: Numbers) -> Interval:
    """Rank correlation of `x` [n] and `y` [n] with its interval over the points.

    The interval is that of Fisher's z with Bonett and Wright's variance, (1 + r^2 / 2) / (n - 3). A perfect order
    counts as one that is half a swap short of it, so that its interval has a width.
    Raises ValueError on fewer than 5 points, where any order may be chance, unlike lengths, NaN, or a constant input.
    Source: Bonett and Wright (2000).
    """
    x, y = checked(x, "x"), checked(y, "y")
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"Rank correlation got shapes {x.shape} and {y.shape}: give two equal rows.")
    n = len(x)
    if n < FEWEST_POINTS:
        raise ValueError(f"Rank correlation got {n} points: give {FEWEST_POINTS} or more.")
    if (x == x[0]).all() or (y == y[0]).all():
        raise ValueError("Rank correlation of a constant does not exist: vary both x and y.")
    value = float(stats.spearmanr(x, y).statistic)
    most = 1 - 6 / (n * (n**2 - 1))
    z = np.arctanh(np.clip(value, -most, most))
    half = stats.norm.ppf((1 + LEVEL) / 2) * ((1 + value**2 / 2) / (n - 3)) ** 0.5
    low, high = np.tanh([z - half, z + half])
    return Interval(value, min(float(low), value), max(float(high), value), n)


@public
def defined(values: Annotated[Numbers, ANYTHING], what: str) -> Float[np.ndarray, " known"]:
    """The values [n] that are not NaN; warns of how many are left out, and the places of the first five.

    A correlation with what is constant does not exist, and is neither 0 nor anything else. Raises ValueError where
    nothing is left.
    """
    values = np.asarray(values, dtype=float)
    lost = np.flatnonzero(np.isnan(values))
    if len(lost) == len(values):
        raise ValueError(f"{what}: none of {len(values)} is defined, as each has something constant in it.")
    if len(lost):
        places = ", ".join(map(str, lost[:5]))
        warnings.warn(f"{what}: {len(lost)} of {len(values)} are not defined and left out ({places}).", stacklevel=2)
    return values[~np.isnan(values)]
