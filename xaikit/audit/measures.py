"""How good is the classifier, where is it worst, and what goes with its mistakes? Each with what chance would give."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike
from scipy import sparse

from xaikit.arguments import Count, Seed
from xaikit.metrics.groups import GroupAccuracy, group_accuracy
from xaikit.metrics.intervals import Interval, bootstrap_mean
from xaikit.storage.seeding import rng
from xaikit.texplain.words import words_of

BINS = 10
DRAWS = 999
FEW = 20  # pictures of a group, below which nothing is decided of it


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far confidence and accuracy are apart.

    `error`: the mean over bins of equally many pictures of |accuracy - confidence|; `by_chance`: what a perfectly
    calibrated classifier of the same confidences has on average in as many pictures, and `p` how often it has as much.
    `overconfident`: mean confidence less accuracy. `bins` has both for each bin.
    """

    error: float
    by_chance: float
    p: float
    overconfident: Interval
    bins: pd.DataFrame = field(repr=False)


def calibration(
    confidence: Float[np.ndarray, " pictures"], correct: Bool[np.ndarray, " pictures"], seed: Seed, bins: Count = BINS
) -> Calibration:
    """The expected calibration error, with what it is by chance: of few pictures it is never 0.

    Source: Naeini et al. (2015), with bins of equal numbers; Vaicenavicius et al. (2019), for the null.
    """
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]

    def error(right: np.ndarray) -> float:
        gaps = [abs(float(right[part].mean() - confidence[part].mean())) * len(part) for part in parts]
        return sum(gaps) / len(confidence)

    draw = rng(seed, "audit", "calibration")
    found = error(correct.astype(float))
    null = [error((draw.random(len(confidence)) < confidence).astype(float)) for _ in range(DRAWS)]
    rows = [(confidence[part].mean(), correct[part].mean(), len(part)) for part in parts]
    return Calibration(
        found, float(np.mean(null)), (1 + sum(each >= found for each in null)) / (1 + DRAWS),
        bootstrap_mean(confidence - correct, seed).within(-1.0, 1.0),
        pd.DataFrame(rows, columns=["confidence", "accuracy", "pictures"]),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Grouping:
    """The accuracy in the groups of one column, and whether its spread is more than chance.

    `spread` is the standard deviation of the groups' accuracies, weighted by their sizes; `p` how often groups of the
    same sizes, dealt at random among the pictures of each class, have as much; `adjusted` allows for all columns.
    """

    column: str
    accuracy: GroupAccuracy
    spread: float
    p: float
    adjusted: float = math.nan


def grouping(
    column: str, groups: ArrayLike, correct: Bool[np.ndarray, " pictures"], labels: Int64[np.ndarray, " pictures"],
    seed: Seed,
) -> Grouping:  # fmt: skip
    """The accuracy by group, of each class or across them; for chance classes are held fixed, as some are harder."""
    names = np.asarray(groups).astype(str)
    codes = np.unique(names, return_inverse=True)[1]

    def spread(own: np.ndarray) -> float:
        sizes = np.bincount(own)
        means = np.bincount(own, correct) / sizes
        return float(np.sqrt((sizes * (means - correct.mean()) ** 2).sum() / len(own)))

    found, draw, alike = spread(codes), rng(seed, "audit", "groups", column), _alike(labels)
    reached = sum(spread(_dealt(codes, alike, draw)) >= found - 1e-12 for _ in range(DRAWS))
    return Grouping(column, group_accuracy(correct, names), found, (1 + reached) / (1 + DRAWS))


def _alike(labels: np.ndarray) -> list[np.ndarray]:
    """The pictures of each label."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _dealt(codes: np.ndarray, alike: Sequence[np.ndarray], draw: np.random.Generator) -> np.ndarray:
    """The codes, dealt anew among the pictures of each label."""
    dealt = codes.copy()
    for rows in alike:
        dealt[rows] = codes[draw.permutation(rows)]
    return dealt


def within_labels(
    values: Float[np.ndarray, "pictures columns"], labels: Int64[np.ndarray, " pictures"]
) -> Float[np.ndarray, "pictures columns"]:
    """The values less their mean over the pictures of each label."""
    found = np.array(values)
    for rows in _alike(labels):
        found[rows] -= found[rows].mean(0)
    return found


def within_classes(groups: ArrayLike, labels: Int64[np.ndarray, " pictures"]) -> float:
    """The share of a column's variance within classes: 0 where the class tells the group, 1 where it does not."""
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    has = np.eye(codes.max() + 1)[codes]
    total = float(((has - has.mean(0)) ** 2).sum())
    return float((within_labels(has, labels) ** 2).sum()) / total if total else 1.0


def margins_by_group(
    column: str, groups: ArrayLike, logits: Float[np.ndarray, "pictures classes"],
    labels: Int64[np.ndarray, " pictures"], seed: Seed,
) -> tuple[float, float]:  # fmt: skip
    """The share of the logits' variance within classes that goes with the groups, and its p by dealing groups anew.

    In notebook 05 this orders what classifiers use best, where groups are independent of each other; where they are
    not, it cannot tell one from another.
    """
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    values, alike = within_labels(logits - logits.mean(1, keepdims=True), labels), _alike(labels)
    total = float((values**2).sum())

    def share(own: np.ndarray) -> float:
        sums = np.zeros((own.max() + 1, values.shape[1]))
        np.add.at(sums, own, values)
        return float((sums**2 / np.bincount(own)[:, None]).sum()) / max(total, 1e-12)

    found, draw = share(codes), rng(seed, "audit", "margins", column)
    reached = sum(share(_dealt(codes, alike, draw)) >= found - 1e-12 for _ in range(DRAWS))
    return found, (1 + reached) / (1 + DRAWS)


def keywords(
    captions: Sequence[str], wrong: Bool[np.ndarray, " pictures"], seed: Seed, most: Count = 8
) -> pd.DataFrame:
    """Words of the captions of mistakes: the share of mistakes and of right answers that have each, and its p.

    By permutations of who is wrong; a word's p is how often the *largest* difference of any word is as large as its
    own, so that a table of many words says nothing of a classifier whose mistakes go with none.
    Source: Kim et al. (2024), Bias-to-Text, without CLIP; Westfall and Young (1993), for the largest of many.
    """
    sets = [words_of(each) for each in captions]
    counts = Counter(word for own in sets for word in own)
    vocabulary = sorted(word for word in counts if counts[word] >= 5)
    columns = ["word", "of mistakes", "of right answers", "difference", "p"]
    if not vocabulary or wrong.sum() < 5 or (~wrong).sum() < 5:
        return pd.DataFrame(columns=columns)
    places = {word: place for place, word in enumerate(vocabulary)}
    rows, which = np.array([(row, places[word]) for row, own in enumerate(sets) for word in own & places.keys()]).T
    has = sparse.csr_array((np.ones(len(rows)), (rows, which)), (len(sets), len(vocabulary)))
    total = has.sum(0)

    def shares(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = own.astype(float) @ has
        return inside / own.sum(), (total - inside) / (~own).sum()

    def difference(own: np.ndarray) -> np.ndarray:
        return np.subtract(*shares(own))

    # In units of each word's own spread: a frequent word varies more by chance.
    scale = np.sqrt(total / len(sets) * (1 - total / len(sets))).clip(1e-6)
    draw, found = rng(seed, "audit", "keywords"), difference(wrong)
    largest = np.array([(difference(wrong[draw.permutation(len(wrong))]) / scale).max() for _ in range(DRAWS)])
    of_mistakes, of_right = shares(wrong)
    ps = [(1 + (largest >= each - 1e-12).sum()) / (1 + DRAWS) for each in found / scale]
    table = zip(vocabulary, of_mistakes, of_right, found, ps, strict=True)
    return pd.DataFrame(table, columns=columns).sort_values("p", kind="stable").head(most).reset_index(drop=True)
