"""Intervals and the verdicts that rest on them: every comparison in a notebook carries one."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from xaikit.arguments import Count, Numbers, Seed, Within, public

LEVEL = 0.95
RESAMPLES = 2000
FEW = 5  # as many different values may come out of a handful of yes and no
LEAST_SPREAD = 0.05  # of a resample, as a part of the sample's: else one of equal rows counts as infinitely far
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
        return replace(self, low=max(self.low, low), high=min(self.high, high))

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
    """The share `successes / n` with its exact interval (Clopper and Pearson 1934), which covers at least 95 %.

    Score intervals are narrower, and near 0 and 1 they cover less than they say: 84 % at a share of 0.01 of 20.
    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"No proportion: {successes} of {n}; give 0 <= successes <= n and n >= 1.")
    hits, error = int(successes), (1 - LEVEL) / 2
    low = special.betaincinv(hits, n - hits + 1, error) if hits else 0.0
    return Interval(hits / n, float(low), upper_end(hits, int(n), error), int(n))


def upper_end(hits: int, n: int, error: float) -> float:
    """What the true share of `hits` in `n` lies above with a probability of `error` at most."""
    return 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - error))


@public
def over_runs(values: Sequence[float | int], rows: Count | None = None) -> Runs:
    """The mean over at least 3 runs (seeds) of a number, with Student's t interval.

    A minimum, such as the worst group's accuracy, is to be taken within each run before. Where the values are shares of
    right or wrong, give `rows`, of how many different images all runs together are: the interval then holds the exact
    one of so many (`proportion`). Near 0 and 1 runs agree more often than they are sure, and t alone covers 72 % (three
    runs of 40 at a share of 0.01) to 90 %. Other runs that are all equal have the interval of a handful of equal values
    in `bootstrap_mean`.
    Raises ValueError for fewer runs, for NaN, and where `rows` are given for what is no share.

    >>> from xaikit import over_runs
    >>> print(over_runs([0.90, 0.94, 0.92]), over_runs([1.0, 1.0, 1.0], rows=120))
    0.92 [0.87, 0.97] 1.00 [0.97, 1.00]
    """
    if len(values) < 3 or not np.isfinite(values).all():
        raise ValueError(f"The {len(values)} runs are too few, or one is NaN: give 3 finite values or more.")
    if rows is not None and not 0 <= min(values) <= max(values) <= 1:
        raise ValueError(f"Runs between {min(values)} and {max(values)} are no shares: leave rows out.")
    value, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * sd / len(values) ** 0.5
    low, high = value - half, value + half
    if rows is not None or min(values) == max(values):
        least = proportion(round(value * rows), rows) if rows else _of_few(np.asarray(values, np.float64))
        low, high = min(low, least.low), max(high, least.high)
    return Runs(value, low, high, len(values), sd)


@public
def bootstrap_mean(values: Numbers, seed: Seed, resamples: Count = RESAMPLES) -> Interval:
    """The mean of `values` [rows, ...] with its interval over rows (images), of which there are two or more.

    The interval is the studentised bootstrap's, stretched to hold Student's t: the first follows the skew of the data,
    the second is there where few resamples differ. Of verdicts and their differences (-1, 0 and 1) it is Student's t
    with two more rows, one at either end of what is there and 0, as resamples miss what is rare; where other values are
    no more than five different ones, it is stretched to hold that too. (Of a share `proportion` is exact. Values 0 and
    1 alone do not say that they are no differences.)
    Its coverage, at least 0.93 from 20 rows on, is simulated by a test.
    Raises ValueError for fewer than two rows, and NaN.
    Source: Efron and Tibshirani (1993), section 12.5; Agresti and Caffo (2000), for the two rows.

    >>> from xaikit import bootstrap_mean
    >>> found = bootstrap_mean([0.0, 1.0, 1.0, 1.0] * 25, seed=0)
    >>> found.value, found.low < 0.75 < found.high, found.n
    (0.75, True, 100)
    """
    array = checked(values, "sample").astype(np.float64)
    rows = array.reshape(len(array), -1).mean(axis=1)
    n = len(rows)
    if n < 2:
        raise ValueError("The spread of a single value cannot be seen: give two or more.")
    value, error = float(rows.mean()), float(rows.std(ddof=1)) / n**0.5
    low, high = value, value
    if not np.isin(rows, (-1, 0, 1)).all():
        below, above = np.quantile(_studentised(rows, seed, resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        half = error * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
        low, high = min(value - half, value - above * error), max(value + half, value - below * error)
    if len(np.unique(rows)) <= FEW:
        few = _of_few(rows)
        low, high = min(low, few.low), max(high, few.high)
    return _finite(value, low, high, n)


def _of_few(rows: np.ndarray) -> Interval:
    """Student's t of the rows and two more, at either end of what is there and 0: resamples miss what is rare."""
    n, value, largest = len(rows), float(rows.mean()), float(np.abs(rows).max()) or 1.0
    more = np.append(rows, [-largest if (rows < 0).any() else 0.0, largest])
    half = float(more.std(ddof=1)) / (n + 2) ** 0.5 * float(stats.t.ppf((1 + LEVEL) / 2, n + 1))
    return Interval(value, min(value, float(more.mean()) - half), max(value, float(more.mean()) + half), n)


def _studentised(rows: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(mean - own mean) / standard error of resamples; one whose rows are nearly all equal has no small error."""
    rng, n = np.random.default_rng(seed), len(rows)
    centred = rows - rows.mean()
    least = LEAST_SPREAD * float(centred.std(ddof=1))
    draws: list[np.ndarray] = []
    if least == 0:
        return np.zeros(1)
    for start in range(0, resamples, at_once := max(1, CHUNK // n)):
        drawn = centred[rng.integers(n, size=(min(at_once, resamples - start), n))]
        draws.append(drawn.mean(axis=1) / np.maximum(drawn.std(axis=1, ddof=1), least))
    return np.concatenate(draws) * n**0.5


@public
def bootstrap(
    statistic: Callable[..., float | np.ndarray],
    *samples: Numbers,
    seed: Seed,
    resamples: Count = RESAMPLES,
    paired: bool = True,
) -> Interval:
    """The BCa bootstrap over rows (images) of `statistic(*samples)`; of a mean, `bootstrap_mean` covers better.

    Percentiles of the resamples, corrected for bias and for the skew that the jackknife shows, as far out as Student's
    t is further out than the normal distribution, and stretched to hold the jackknife's own t interval. Of a smooth
    statistic (a ratio, a difference of means, an AUC) it covers at least 0.93 from 50 rows on, and of a covariance from
    90, as a test simulates; with 20 rows it may be 0.85.
    Arguments: `samples` are arrays [rows, ...]; `paired` ones share their rows and are drawn together, others
    each on their own. A statistic with an `axis` argument (`np.mean`) is called on many resamples of
    one-dimensional samples at once, any other one on each resample.
    Result: `n` is the number of rows of the smallest sample.
    Raises ValueError on no or empty samples, fewer than two rows, NaN, paired samples of unlike length, a statistic
    not finite.
    Source: Efron (1987); Hesterberg (2015), for the small samples.
    """
    arrays = [checked(sample, "sample") for sample in samples]
    lengths = [len(array) for array in arrays]
    if not arrays or (paired and len(set(lengths)) > 1):
        raise ValueError(f"Samples of {lengths} rows: give at least one, equally long ones if paired.")
    if min(lengths) < 2:
        raise ValueError(f"Samples of {lengths} rows: the spread of a single one cannot be seen, give two or more.")
    takes_axis = "axis" in inspect.signature(statistic).parameters
    vectorised = takes_axis and all(array.ndim == 1 for array in arrays)

    def of_rows(chosen: Sequence[np.ndarray]) -> Sequence[float] | np.ndarray:
        """The statistic of the rows [resamples, rows] chosen of each sample."""
        drawn = [array[row] for array, row in zip(arrays, chosen, strict=True)]
        if vectorised:
            return statistic(*drawn, axis=1)
        return [float(statistic(*resample)) for resample in zip(*drawn, strict=True)]

    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // max(array.size for array in arrays))
    draws: list[float] = []
    while len(draws) < resamples:
        count = min(at_once, resamples - len(draws))
        if paired:
            rows = [rng.integers(lengths[0], size=(count, lengths[0]))] * len(arrays)
        else:
            rows = [rng.integers(length, size=(count, length)) for length in lengths]
        draws.extend(of_rows(rows))
    everything = [np.arange(length)[None] for length in lengths]
    value = float(of_rows(everything)[0])
    influence = []
    for left_out in [range(len(arrays))] if paired else [[each] for each in range(len(arrays))]:
        length = lengths[left_out[0]]
        without: list[float] = []
        for start in range(0, length, at_once):
            rows = _without(length, start, min(start + at_once, length))
            chosen = [
                rows if each in left_out else np.broadcast_to(full, (len(rows), full.shape[1]))
                for each, full in enumerate(everything)
            ]
            without.extend(of_rows(chosen))
        influence.append((np.mean(without) - np.asarray(without)) * (length - 1) / length)
    return _bca(value, np.asarray(draws), np.concatenate(influence), min(lengths))


def _without(length: int, start: int, stop: int) -> np.ndarray:
    """The rows that are left where row `start`, ..., `stop` - 1 is left out: [stop - start, length - 1]."""
    rows, left_out = np.arange(length - 1), np.arange(start, stop)
    return rows + (rows >= left_out[:, None])


def _bca(value: float, draws: np.ndarray, influence: np.ndarray, n: int) -> Interval:
    """The corrected percentiles of the draws, stretched to hold `value` and the jackknife's interval."""
    if not (np.isfinite([value]).all() and np.isfinite(draws).all() and np.isfinite(influence).all()):
        return _finite(value, np.nan, np.nan, n)
    below = (np.sum(draws < value) + np.sum(draws == value) / 2) / len(draws)
    bias = stats.norm.ppf(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    spread = float((influence**2).sum())
    skew = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    far = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * (n / (n - 1)) ** 0.5
    ends = bias + np.array([-far, far])
    low, high = np.quantile(draws, stats.norm.cdf(bias + ends / np.maximum(1 - skew * ends, 0.1)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * (spread * n / (n - 1)) ** 0.5
    low, high = min(low, value - half), max(high, value + half)
    return _finite(value, min(float(low), value), max(float(high), value), n)


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
    Of a mean where all groups are equal, and if crossed all rows, no spread is seen, and yet it is not sure: then it is
    Student's t with two more rows, as in `bootstrap_mean`.
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
    if variance == 0 and statistic is np.mean:
        return _of_few(table.mean(axis=0).reshape(n, -1).mean(axis=1) if crossed else table.reshape(n, -1).mean(axis=1))
    freedom = variance**2 / (between**2 / (count - 1) + within**2 / max(n - 1, 1)) if variance else np.inf
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return _finite(value, value - half, value + half, n)


def _variance(draws: Sequence[float]) -> float:
    return float(np.var(draws)) if np.isfinite(draws).all() else np.nan


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
