"""Is the difference of two counts more than chance? Exact tests."""

import numpy as np
from scipy import stats

from xaikit.arguments import Count, Natural, Numbers, public
from xaikit.metrics.intervals import checked


@public
def mcnemar(first: Numbers, second: Numbers) -> float:
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


@public
def fisher(successes: Natural, n: Count, other_successes: Natural, other_n: Count) -> float:
    """The two-sided p of Fisher's exact test that two independent shares are equal; raises as `proportion` does."""
    if successes > n or other_successes > other_n:
        raise ValueError(
            f"No shares: successes {successes} of {n}, other_successes {other_successes} of {other_n}; give no more "
            "than there are."
        )
    table = [[successes, n - successes], [other_successes, other_n - other_successes]]
    return float(stats.fisher_exact(table).pvalue)
