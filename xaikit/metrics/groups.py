"""How good is a classifier where it is worst? Accuracy by group."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xaikit.arguments import Numbers, public
from xaikit.metrics.intervals import LEVEL, Interval, proportion, upper_end


@public
@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy of each group, in the order of their names, with exact intervals, and of all items together."""

    groups: dict[str | int, Interval]
    overall: Interval

    @property
    def worst_group(self) -> str | int:
        """The name of the group with the lowest accuracy, the first of equals."""
        return min(self.groups, key=lambda group: self.groups[group].value)

    @property
    def worst(self) -> Interval:
        """The accuracy of the worst group, with an interval that allows for its having been chosen as the worst.

        The lowest accuracy is at least the least of the lower ends, each of which its own group keeps; and at most the
        least of the upper ends where all groups keep theirs, so these share the error among them (Bonferroni). It
        covers at least 95 % whatever the groups are; the interval of the one that came out lowest is too low.
        """
        found = self.groups[self.worst_group]
        error = (1 - LEVEL) / 2 / len(self.groups)
        highs = (upper_end(round(group.value * group.n), group.n, error) for group in self.groups.values())
        return Interval(
            found.value, min(group.low for group in self.groups.values()), max(found.value, min(highs)), found.n
        )


@public
def group_accuracy(correct: Numbers, groups: ArrayLike) -> GroupAccuracy:
    """The accuracy of each group: `correct` [items] says which predictions are right, `groups` [items] names groups.

    Raises ValueError if there is no item, the lengths differ, or `correct` holds other values than true and false.
    Source: Clopper and Pearson (1934) for the intervals; Sagawa et al. (2020) for the worst group.

    >>> from xaikit import group_accuracy
    >>> found = group_accuracy([True, True, False, True, False, False], ["land"] * 3 + ["water"] * 3)
    >>> found.worst_group, round(found.worst.value, 2), found.overall.value
    ('water', 0.33, 0.5)
    """
    correct, groups = np.asarray(correct), np.asarray(groups)
    if correct.ndim != 1 or correct.shape != groups.shape or not len(correct):
        raise ValueError(f"Of shapes {correct.shape} and {groups.shape}: give one verdict and one group an item.")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("Verdicts hold values other than true and false: pass prediction == label.")
    names, members = np.unique(groups, return_inverse=True)
    right, sizes = np.bincount(members, correct.astype(bool)), np.bincount(members)
    rows = zip(names.tolist(), right.astype(int), sizes, strict=True)
    accuracies = {name: proportion(hits, size) for name, hits, size in rows}
    return GroupAccuracy(accuracies, proportion(int(correct.sum()), len(correct)))
