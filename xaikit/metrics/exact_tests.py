"""Is the difference of two counts, or how well two rows go together, more than chance? Exact and permutation tests."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from xaikit.arguments import Count, Natural, Numbers, Seed, public
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


@public
def permutation_p(
    statistic: Callable[[np.ndarray, np.ndarray], float | int],
    values: Numbers,
    labels: Numbers,
    seed: Seed,
    permutations: Count = 9999,
) -> float:
    """The one-sided p that `statistic(values, labels)` is as high as it is if the labels had been dealt at random.

    Arguments: `values` [n, ...] and `labels` [n]; all orders are tried where there are no more than `permutations`.
    Raises ValueError on empty input, NaN and unlike lengths.
    Source: Phipson and Smyth (2010), for the order that was found counting as one of them.

    >>> from xaikit import permutation_p
    >>> right = lambda answers, labels: (answers == labels).mean()
    >>> permutation_p(right, [0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2], seed=0) < 0.05
    True
    """
    values, labels = checked(values, "sample"), checked(labels, "sample")
    if len(values) != len(labels) or labels.ndim != 1:
        raise ValueError(f"Of shapes {values.shape} and {labels.shape}: give one label a value.")
    found = stats.permutation_test(
        (labels,), lambda dealt: float(statistic(values, dealt)), permutation_type="pairings", alternative="greater",
        n_resamples=permutations, vectorized=False, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
