"""Is the difference of two counts more than chance? Exact tests."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from xaikit.metrics.intervals import checked, proportion


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """The exact two-sided p of McNemar's test that two verdicts on the same items, [n] each, are as often true.

    Only the items on which they differ count. Raises ValueError on empty input, unlike shapes, and other values than
    true and false.
    Source: McNemar (1947), by the binomial distribution.
    """
    first, second = checked(first, "sample"), checked(second, "sample")
    if first.shape != second.shape or not np.isin([first, second], (0, 1)).all():
        raise ValueError(
            f"McNemar's test got shapes {first.shape}, {second.shape}: give two equal rows of true and false."
        )
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def fisher(successes: int, n: int, other_successes: int, other_n: int) -> float:
    """The two-sided p of Fisher's exact test that two independent shares are equal; raises as `proportion` does."""
    for hits, size in ((successes, n), (other_successes, other_n)):
        proportion(hits, size)  # for its checks
    table = [[successes, n - successes], [other_successes, other_n - other_successes]]
    return float(stats.fisher_exact(table).pvalue)
