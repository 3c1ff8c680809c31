"""Intervals and the verdicts that rest on them: every comparison in a notebook carries one."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from xaikit.arguments import Count, Numbers, Seed, Within, public

LEVEL = 0.95
RESAMPLES = 2000
CHUNK = 2**20  # numbers resampled at once, which bounds the memory at a few tens of MB

Verdict = Literal["holds", "fails", "inconclusive"]


@public
@dataclass(frozen=True)
class Interval:
    """An estimate `value` from `n` observations with its 95 % interval from `low` to `high`.

    All three are in the unit of what is estimated.

    >>> from xaikit import Interval
    >>> Interval(value=0.9, low=0.8, high=1.1, n=40).within(0.0, 1.0)  # of an accuracy
    Interval(value=0.9, low=0.8, high=1.0, n=40)
    """

    value: float
    low: float
    high: float
    n: Count

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(
                f"The interval from low {self.low} to high {self.high} has no order: give the lower first."
            )

    def within(self, low: float | int, high: float | int) -> "Interval":
        """The part of the interval that is possible, for a statistic that lies in [low, high].

        Raises ValueError where no part is.
        """
        if low > high:
            raise ValueError(f"The range from low {low} to high {high} has no order: give the lower first.")
        return Interval(self.value, max(self.low, low), min(self.high, high), self.n)

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@public
@dataclass(frozen=True)
class Runs(Interval):
    """The mean of `n` runs with its 95 % interval, and the standard deviation `sd` between runs."""

    sd: float


@public
def verdict(interval: Interval | tuple[float, float], threshold: float = 0.0) -> Verdict:
    """Say whether a quantity exceeds `threshold`; inconclusive where its interval reaches across.

    Raises ValueError if a bound is NaN or the bounds are in the wrong order.

    >>> from xaikit import Interval, verdict
    >>> verdict(Interval(0.3, 0.1, 0.5, n=40)), verdict((-0.1, 0.2)), verdict((0.4, 0.6), threshold=0.7)
    ('holds', 'inconclusive', 'fails')
    """
    low, high = (interval.low, interval.high) if isinstance(interval, Interval) else interval
    if not low <= high:  # also so if one is NaN
        raise ValueError(f"The interval [{low}, {high}] has no order: give two numbers, the lower first.")
    if low > threshold:
        return "holds"
    return "fails" if high < threshold else "inconclusive"


@public
def proportion(
    successes: Annotated[int | np.integer, Within(0)], n: Annotated[int | np.integer, Within(1)]
) -> Interval:
    """The share `successes / n` with its Wilson score interval (Wilson 1927), good near 0 and 1 too.

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"No proportion: {successes} of {n}; give 0 <= successes <= n and n >= 1.")
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return Interval(float(successes / n), float(low), float(high), int(n))


@public
def over_runs(values: Sequence[float | int]) -> Runs:
    """The mean over at least 3 runs (seeds) of a number, with Student's t interval.

    A minimum, such as the worst group's accuracy, is to be taken within each run before. Raises ValueError for fewer
    runs and for NaN.
    """
    if len(values) < 3 or not np.isfinite(values).all():
        raise ValueError(f"The {len(values)} runs are too few, or one is NaN: give 3 finite values or more.")
    value, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * sd / len(values) ** 0.5
    return Runs(value, value - half, value + half, len(values), sd)


@public
def bootstrap(
    statistic: Callable[..., float | np.ndarray],
    *samples: Numbers,
    seed: Seed,
    resamples: Count = RESAMPLES,
    paired: bool = True,
) -> Interval:
    """Percentile bootstrap over rows (images) of `statistic(*samples)`, stretched to hold the estimate itself.

    Arguments: `samples` are arrays [rows, ...]; `paired` ones share their rows and are drawn together, others
    each on their own. A statistic with an `axis` argument (`np.mean`) is called on many resamples of
    one-dimensional samples at once, any other one on each resample.
    Result: `n` is the number of rows of the smallest sample.
    Raises ValueError on no or empty samples, NaN, paired samples of unlike length, a statistic not finite.
    Source: Efron and Tibshirani (1993), section 13.3.
    """
    arrays = [checked(sample, "sample") for sample in samples]
    lengths = [len(array) for array in arrays]
    if not arrays or (paired and len(set(lengths)) > 1):
        raise ValueError(f"Samples of {lengths} rows: give at least one, equally long ones if paired.")
    takes_axis = "axis" in inspect.signature(statistic).parameters
    vectorised = takes_axis and all(array.ndim == 1 for array in arrays)
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // max(array.size for array in arrays))
    draws: list[float] = []
    while len(draws) < resamples:
        count = min(at_once, resamples - len(draws))
        if paired:
            rows = [rng.integers(lengths[0], size=(count, lengths[0]))] * len(arrays)
        else:
            rows = [rng.integers(length, size=(count, length)) for length in lengths]
        drawn = [array[row] for array, row in zip(arrays, rows, strict=True)]
        if vectorised:
            draws.extend(statistic(*drawn, axis=1))
        else:
            draws.extend(statistic(*resample) for resample in zip(*drawn, strict=True))
    return percentile(statistic(*arrays), draws, min(lengths))


@public
def bootstrap_mean(values: Numbers, seed: Seed, resamples: Count = RESAMPLES) -> Interval:
    """The mean of `values` [rows] with its bootstrap interval; raises as `bootstrap` does.

    >>> from xaikit import bootstrap_mean
    >>> found = bootstrap_mean([0.0, 1.0, 1.0, 1.0] * 25, seed=0)
    >>> found.value, found.low < 0.75 < found.high, found.n
    (0.75, True, 100)
    """
    return bootstrap(np.mean, values, seed=seed, resamples=resamples)


@public
def cluster_bootstrap(
    groups: Sequence[np.ndarray] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: Seed,
    crossed: bool = False,
    resamples: Count = RESAMPLES,
) -> Interval:
    """The interval of a statistic over groups (trained models, seeds) and the rows (images) in them.

    Arguments: `groups` holds one array [rows, ...] a group. Nested (the default): each group has rows of its
    own, and the statistic sees the rows of all drawn groups, joined. `crossed`: all groups saw the same rows,
    `groups` is [groups, rows, ...], an image is drawn for all models at once, and the statistic sees such an
    array.
    Result: value ± t · standard error, so symmetric, and for a share it may pass 0 or 1. The variance is the
    bootstrap's over groups, times groups / (groups - 1), plus if crossed the one over rows; t has
    Satterthwaite's degrees of freedom. Plain percentiles would be far too narrow here: where groups differ as
    much as rows, they cover the truth about 75 % of the time from 3 groups and 85 % from 5, instead of 95 %.
    `n` counts the rows: of all groups together if nested, once if crossed.
    Raises ValueError on fewer than 2 groups, no rows, NaN, unlike groups if crossed, a statistic not finite.
    Source: Davison and Hinkley (1997), section 3.8 (groups are drawn, their rows kept); Owen (2007), the
    pigeonhole bootstrap, for crossed; Satterthwaite (1946).
    """
    arrays = [checked(group, "group") for group in groups]
    count = len(arrays)
    if count < 2:
        raise ValueError(f"The spread between groups cannot be seen in {count}: give 2 or more.")
    if crossed and len({array.shape for array in arrays}) > 1:
        raise ValueError("Crossed groups differ in shape: give each the same rows, or set crossed=False.")
    rng = np.random.default_rng(seed)
    join = np.stack if crossed else np.concatenate
    table = join(arrays)
    n = table.shape[1] if crossed else len(table)
    value = float(statistic(table))
    if statistic is np.mean and crossed:  # what infinitely many resamples would give
        between = np.var(table.mean(axis=1)) / (count - 1)
        within = np.var(table.mean(axis=0)) / n
    else:
        draws = [
            statistic(join([arrays[group] for group in rng.integers(count, size=count)])) for _ in range(resamples)
        ]
        between = _variance(draws) * count / (count - 1)
        within = 0.0
        if crossed:
            within = _variance([statistic(table[:, rng.integers(n, size=n)]) for _ in range(resamples)])
    if not np.isfinite([value, between, within]).all():
        raise ValueError("The statistic is not finite on the groups or on a resample: is a denominator zero?")
    variance = between + within
    freedom = variance**2 / (between**2 / (count - 1) + within**2 / max(n - 1, 1)) if variance else np.inf
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return _finite(value, value - half, value + half, n)


def _variance(draws: Sequence[float]) -> float:
    return float(np.var(draws)) if np.isfinite(draws).all() else np.nan


def percentile(value: float | np.ndarray, draws: Sequence[float] | np.ndarray, n: int) -> Interval:
    """`value` with the middle 95 % of what resamples gave; raises ValueError where one of these is not finite."""
    # Resamples of a minimum over groups lie below it, and those of a constant beside it by rounding.
    low, high = (float(end) for end in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return _finite(float(value), min(low, float(value)), max(high, float(value)), n)


def _finite(value: float, low: float, high: float, n: int) -> Interval:
    if not np.isfinite([value, low, high]).all():
        raise ValueError("The statistic is not finite on the sample or on a resample: is a denominator zero?")
    return Interval(value, low, high, n)


def checked(values: ArrayLike, name: str) -> np.ndarray:
    """The values [rows, ...] as an array. Raises ValueError, with their name, where there are none, or NaN."""
    array = np.atleast_1d(np.asarray(values))
    if array.size == 0:
        raise ValueError(f"The {name} is empty: give at least one row.")
    if not np.isfinite(array).all():
        raise ValueError(f"The {name} holds NaN or infinity: mend its source or leave those rows out.")
    return array
