"""Intervals cover what they promise, AUC and rank correlation agree with their slow or library references."""

from itertools import permutations
from math import comb

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from xaikit.metrics.exact_tests import fisher, mcnemar, permutation_p
from xaikit.metrics.groups import group_accuracy
from xaikit.metrics.intervals import (
    Interval,
    bootstrap,
    bootstrap_mean,
    cluster_bootstrap,
    over_runs,
    proportion,
    verdict,
)
from xaikit.metrics.ranking import auc, bootstrap_auc, defined, spearman


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_an_interval_reads_as_value_and_bounds() -> None:
    assert str(Interval(0.811, 0.757, 0.859, 200)) == "0.81 [0.76, 0.86]"


@pytest.mark.parametrize(
    ("bounds", "threshold", "expected"),
    [
        ((0.1, 0.2), 0.0, "holds"),
        ((-0.2, -0.1), 0.0, "fails"),
        ((-0.1, 0.1), 0.0, "inconclusive"),
        ((0.0, 0.1), 0.0, "inconclusive"),
        ((-0.1, 0.0), 0.0, "inconclusive"),
        ((0.1, 0.2), 0.5, "fails"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(bounds, threshold, expected) -> None:
    assert verdict(bounds, threshold) == expected
    assert verdict(Interval(sum(bounds) / 2, *bounds, n=9), threshold) == expected


@pytest.mark.parametrize("bounds", [(0.2, 0.1), (float("nan"), 1.0), (0.0, float("nan"))])
def test_a_verdict_refuses_bounds_without_order(bounds) -> None:
    with pytest.raises(ValueError, match=r"has no order|give a finite number"):
        verdict(bounds)


def test_proportion_has_the_ends_that_the_exact_test_just_rejects() -> None:
    for successes, n in [(8, 10), (1, 200), (150, 200)]:
        interval = proportion(np.int64(successes), n)
        assert interval.low < interval.value == successes / n < interval.high
        assert scipy_stats.binom.sf(successes - 1, n, interval.low) == pytest.approx(0.025)
        assert scipy_stats.binom.cdf(successes, n, interval.high) == pytest.approx(0.025)


def test_proportion_at_the_ends_stays_within_zero_and_one() -> None:
    assert proportion(0, 20).low == pytest.approx(0, abs=1e-12) and 0.1 < proportion(0, 20).high < 0.2
    assert proportion(20, 20).high == pytest.approx(1) and 0.8 < proportion(20, 20).low < 0.9


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_proportion_refuses_impossible_counts(successes, n) -> None:
    with pytest.raises(ValueError, match=r"No proportion|of proportion is"):
        proportion(successes, n)


# ---- coverage ----
#
# Nothing is decided by an interval that covers the truth less often than this. What is drawn is like what the notebooks
# measure: accuracies, differences of verdicts, shares of pixels, scores that are skewed or heap up at their ends.

LEAST = 0.93
DATA = {
    "normal": (lambda r, s: r.normal(size=s), 0.0),
    "skewed": (lambda r, s: r.exponential(size=s), 1.0),
    "very skewed": (lambda r, s: r.lognormal(0, 0.7, size=s), np.exp(0.245)),
    "bounded": (lambda r, s: r.beta(0.5, 0.5, size=s), 0.5),
    "near an end": (lambda r, s: r.beta(0.5, 3, size=s), 1 / 7),
    "mostly nothing": (lambda r, s: r.exponential(size=s) * (r.random(s) < 0.3), 0.3),
    "few failures": (lambda r, s: np.where(r.random(s) < 0.9, r.beta(8, 2, size=s), r.beta(1, 4, size=s)), 0.74),
    "counts of ten": (lambda r, s: r.binomial(10, 0.55, size=s) * 1.0, 5.5),
    "half": (lambda r, s: (r.random(s) < 0.5) * 1.0, 0.5),
    "seldom": (lambda r, s: (r.random(s) < 0.03) * 1.0, 0.03),
    "nearly always": (lambda r, s: (r.random(s) < 0.95) * 1.0, 0.95),
    "verdicts that seldom differ": (lambda r, s: r.choice([-1.0, 0, 1], p=[0.02, 0.96, 0.02], size=s), 0.0),
    "verdicts that get better": (lambda r, s: r.choice([-1.0, 0, 1], p=[0.02, 0.88, 0.1], size=s), 0.08),
    "verdicts that often differ": (lambda r, s: r.choice([-1.0, 0, 1], p=[0.3, 0.4, 0.3], size=s), 0.0),
    "thirds": (lambda r, s: r.choice([0, 1 / 3, 2 / 3, 1.0], p=[0.1, 0.1, 0.2, 0.6], size=s), 23 / 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("kind", DATA)
def test_the_interval_of_a_mean_covers_what_it_promises(rng, kind, n) -> None:
    draw, truth = DATA[kind]
    samples = draw(rng, (600, n))
    covered = np.mean([covers(bootstrap_mean(sample, i, 300), truth) for i, sample in enumerate(samples)])
    assert covered >= LEAST


@pytest.mark.parametrize("p", [0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [5, 8, 16, 20, 90, 200])
def test_a_share_is_covered_for_sure(p, n) -> None:
    counts = np.arange(n + 1)
    assert scipy_stats.binom.pmf(counts, n, p) @ [covers(proportion(k, n), p) for k in counts] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "bounded", "skewed"])
def test_the_interval_over_runs_covers_what_it_promises(rng, kind, n) -> None:
    """Numbers of trained models are means over many images, so about normal: each is one of 20 draws here."""
    draw, truth = DATA[kind]
    covered = [covers(over_runs(run.mean(1)), truth) for run in draw(rng, (1500, n, 20))]
    assert np.mean(covered) >= LEAST


def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return a.sum(axis) / b.sum(axis)


def difference_of_means(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return a.mean(axis) - b.mean(axis)


def covariance(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return (a * b).mean(axis) - a.mean(axis) * b.mean(axis)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n"),
    [("ratio", 50), ("ratio", 200), ("difference", 20), ("difference", 50), ("covariance", 90)],
)
def test_the_bootstrap_covers_what_it_promises(rng, kind, n) -> None:
    def one(seed: int) -> tuple[Interval, float]:
        if kind == "difference":
            samples = rng.exponential(size=n), 2 * rng.exponential(size=n)
            return bootstrap(difference_of_means, *samples, seed=seed, resamples=300, paired=False), -1.0
        if kind == "ratio":
            size = rng.gamma(4, size=n)
            return bootstrap(ratio, size * rng.beta(4, 2, size=n), size, seed=seed, resamples=300), 2 / 3
        flips = (rng.random(n) < 0.3) * 1.0
        said = (rng.random(n) < 0.2 + 0.2 * flips) * rng.random(n)
        return bootstrap(covariance, flips, said, seed=seed, resamples=300), 0.021

    assert np.mean([covers(*one(seed)) for seed in range(1000)]) >= LEAST


@pytest.mark.parametrize("sure", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("size", [20, 75])
def test_the_worst_group_is_covered_although_it_was_chosen(rng, sure, size) -> None:
    groups = np.repeat(range(4), size)
    for others in (sure, min(1.0, sure + 0.1)):
        p = np.repeat([sure, others, others, others], size)
        hits = [covers(group_accuracy(rng.random(len(p)) < p, groups).worst, sure) for _ in range(400)]
        assert np.mean(hits) >= LEAST


def test_a_single_value_has_no_interval() -> None:
    for interval in (
        lambda: bootstrap_mean([1.0], seed=0), lambda: bootstrap(np.mean, [1.0], seed=0), lambda: over_runs([1.0, 2.0]),
        lambda: cluster_bootstrap([np.ones(2)], seed=0), lambda: spearman([1.0], [1.0]),
        lambda: bootstrap_auc([0.1, 0.9], [0, 1], seed=0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"two or more|3 finite values or more|2 or more|5 or more"):
            interval()


def test_values_that_are_all_alike_are_not_sure() -> None:
    sure = bootstrap_mean([1.0] * 20, 0)
    assert sure.low < 0.95 < sure.value == 1 <= sure.high
    none = bootstrap_mean([0.0] * 20, 0)
    assert none.low <= none.value == 0 and 0.05 < none.high < 0.2
    half = bootstrap_mean([0.5] * 20, 0)
    assert half.low < 0.5 < half.high and half.high - half.low < 0.2


def test_the_interval_of_seldom_verdicts_is_not_wider_than_need_be() -> None:
    one, both = bootstrap_mean([1.0] + [0.0] * 89, 0), bootstrap_mean([1.0, -1.0] + [0.0] * 88, 0)
    assert one.low < 0 < one.high < 0.06  # no share for sure: that they are no differences is not said
    assert both.low < 0 < both.high and both.high - both.low < 0.1


def test_the_studentised_interval_is_that_of_its_definition(rng) -> None:
    """Stretched to hold Student's t; drawn one resample at a time."""
    rows = rng.lognormal(size=30)
    draws = np.random.default_rng(4).integers(30, size=(500, 30))
    error = rows.std(ddof=1) / 30**0.5
    t = [(rows[d].mean() - rows.mean()) / (rows[d].std(ddof=1) / 30**0.5) for d in draws]
    low, high = rows.mean() - np.quantile(t, 0.975) * error, rows.mean() - np.quantile(t, 0.025) * error
    student = scipy_stats.t.interval(0.95, 29, rows.mean(), error)
    ours = bootstrap_mean(rows, 4, 500)
    assert (ours.low, ours.high) == pytest.approx((min(low, student[0]), max(high, student[1])))


def test_permutations_are_counted(rng) -> None:
    """All 24 orders of four by hand; many at random near the exact p of a correlation."""
    values, labels = np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 3, 2])
    found = [float(np.dot(values, order)) for order in permutations(labels)]
    expected = np.mean([each >= np.dot(values, labels) - 1e-9 for each in found])
    assert permutation_p(lambda a, b: float(np.dot(a, b)), values, labels, seed=0) == pytest.approx(expected)
    x = rng.normal(size=40)
    y = 0.4 * x + rng.normal(size=40)
    p = permutation_p(lambda a, b: float(np.corrcoef(a, b)[0, 1]), x, y, seed=0, permutations=2000)
    assert p == pytest.approx(scipy_stats.pearsonr(x, y, alternative="greater").pvalue, abs=0.01)


@pytest.mark.slow
def test_bootstrap_auc_covers_about_95_percent(rng) -> None:
    label = np.arange(100) % 2
    truth = scipy_stats.norm.cdf(1 / np.sqrt(2))  # two normal scores, one standard deviation apart
    hits = [covers(bootstrap_auc(rng.normal(size=100) + label, label, i, 300), truth) for i in range(200)]
    assert 0.90 < np.mean(hits) < 0.99


def test_bootstrap_agrees_with_scipy(rng) -> None:
    """BCa as scipy has it, a little further out (Student's t for the normal distribution)."""
    size = rng.gamma(4, size=80)
    samples = size * rng.beta(4, 2, size=80), size
    reference = scipy_stats.bootstrap(samples, ratio, paired=True, n_resamples=20_000, method="BCa", rng=1)
    low, high = reference.confidence_interval
    ours = bootstrap(ratio, *samples, seed=0, resamples=20_000)
    assert ours.value == ratio(*samples) and ours.n == 80
    slack = 0.06 * (high - low)
    assert low - slack < ours.low < low + slack / 6 and high - slack / 6 < ours.high < high + slack


def test_bootstrap_gives_the_same_with_and_without_vectorisation(rng, monkeypatch) -> None:
    x, y = rng.normal(size=(2, 50))
    fast = bootstrap(lambda a, b, axis=-1: (a - b).mean(axis), x, y, seed=3)
    slow = bootstrap(lambda a, b: (a - b).mean(), x, y, seed=3)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-12)
    monkeypatch.setattr("xaikit.metrics.intervals.CHUNK", 1000)
    in_chunks = bootstrap(lambda a, b: (a - b).mean(), x, y, seed=3)
    assert (in_chunks.low, in_chunks.high) == pytest.approx((slow.low, slow.high), abs=0.05)


def test_pairing_removes_what_the_samples_share(rng) -> None:
    image = rng.normal(size=200)
    before, after = image + 0.1 * rng.normal(size=200), image + 0.1 * rng.normal(size=200) + 0.1

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return b.mean() - a.mean()

    paired = bootstrap(difference, before, after, seed=0)
    unpaired = bootstrap(difference, before, after, seed=0, paired=False)
    assert verdict(paired) == "holds" and verdict(unpaired) == "inconclusive"


def test_bootstrap_draws_rows_of_a_table_whole(rng) -> None:
    table = np.repeat(rng.normal(size=(40, 1)), 3, axis=1)
    assert bootstrap(lambda t: np.abs(t[:, 0] - t[:, 2]).max(), table, seed=0).high == 0
    by_column = bootstrap(lambda column: column.mean(), table[:, 0], seed=0)
    assert str(bootstrap(np.mean, table, seed=0)) == str(by_column)


def test_the_seed_decides_the_interval(rng) -> None:
    values = rng.normal(size=30)
    assert bootstrap_mean(values, 1) == bootstrap_mean(values, 1) != bootstrap_mean(values, 2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), "give at least one"),
        (([],), "is empty"),
        (([1.0, np.nan],), "NaN or infinity"),
        (([1.0, np.inf],), "NaN or infinity"),
        (([1.0, 2.0], [1.0]), "equally long"),
    ],
)
def test_bootstrap_refuses_bad_samples(samples, message) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(lambda *arrays: 0.0, *samples, seed=0)


def test_bootstrap_refuses_a_statistic_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bootstrap(lambda a: float("nan"), [1.0, 2.0], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize(("models", "images", "spread"), [(3, 60, 1.0), (5, 60, 1.0), (5, 200, 0.1)])
def test_cluster_bootstrap_covers_about_95_percent(rng, crossed, models, images, spread) -> None:
    def sample() -> np.ndarray:
        image = rng.normal(size=(1, images)) if crossed else 0.0
        return spread * rng.normal(size=(models, 1)) + image + rng.normal(size=(models, images))

    hits = [covers(cluster_bootstrap(sample(), seed=i, crossed=crossed, resamples=150), 0.0) for i in range(250)]
    assert 0.89 < np.mean(hits) < 0.995


def test_cluster_bootstrap_of_means_is_the_t_interval_of_the_group_means(rng) -> None:
    groups = rng.normal(size=(6, 1)) + rng.normal(size=(6, 50))
    reference = scipy_stats.ttest_1samp(groups.mean(1), 0).confidence_interval(0.95)
    ours = cluster_bootstrap(groups, seed=0, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=0.03)
    assert ours.value == pytest.approx(groups.mean()) and ours.n == 300


def test_cluster_bootstrap_takes_groups_of_unlike_length(rng) -> None:
    groups = [rng.normal(size=20), rng.normal(size=30), rng.normal(size=25)]
    interval = cluster_bootstrap(groups, seed=0)
    assert interval.value == pytest.approx(np.concatenate(groups).mean()) and interval.n == 75


def test_crossed_bootstrap_hands_whole_tables_to_the_statistic(rng) -> None:
    # Column 1 repeats column 0, so a statistic that pairs them sees no difference in any resample.
    table = np.repeat(rng.normal(size=(4, 30, 1)), 2, axis=2)
    shapes = set()

    def difference(drawn: np.ndarray) -> float:
        shapes.add(drawn.shape)
        return np.abs(drawn[..., 0] - drawn[..., 1]).max()

    interval = cluster_bootstrap(table, difference, seed=0, crossed=True)
    assert shapes == {(4, 30, 2)} and interval == Interval(0.0, 0.0, 0.0, 30)


def test_crossed_bootstrap_counts_shared_images_once(rng) -> None:
    # Five identical models know no more than one does: the interval must not shrink.
    one = rng.normal(size=200)
    crossed = cluster_bootstrap(np.tile(one, (5, 1)), seed=0, crossed=True)
    alone = bootstrap_mean(one, seed=0)
    assert crossed.high - crossed.low == pytest.approx(alone.high - alone.low, rel=0.1)


@pytest.mark.parametrize(
    ("groups", "crossed", "message"),
    [
        ([np.ones(3)], False, "give 2 or more"),
        ([np.ones(3), np.ones(0)], False, "is empty"),
        ([np.ones(3), np.ones(4)], True, "differ in shape"),
        ([np.ones(3), np.full(3, np.nan)], True, "NaN or infinity"),
    ],
)
def test_cluster_bootstrap_refuses_bad_groups(groups, crossed, message) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(groups, seed=0, crossed=crossed)


@pytest.mark.parametrize("levels", [3, 1000])  # few levels make many ties
def test_auc_agrees_with_scikit_learn_and_with_counting_pairs(rng, levels) -> None:
    score, label = rng.integers(levels, size=120) / levels, rng.random(120) < 0.3
    pairs = score[label][:, None] - score[~label]
    assert auc(score, label) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-12)
    assert auc(score, label.astype(int)) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_auc_takes_many_rows_at_once(rng) -> None:
    score, label = rng.normal(size=(2, 3, 40)), np.arange(40) % 3 == 0
    rows = [[auc(row, label) for row in block] for block in score]
    np.testing.assert_allclose(auc(score, label), rows, atol=1e-12)
    np.testing.assert_allclose(auc(score, np.broadcast_to(label, score.shape)), rows, atol=1e-12)


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([], [], "is empty"),
        ([0.1, np.nan], [0, 1], "NaN or infinity"),
        ([0.1, 0.2], [0, 2], "other than 0 and 1"),
        ([0.1, 0.2], [0, 1, 1], "do not fit"),
        ([0.1, 0.2], [1, 1], "both classes"),
        ([0.1, 0.2], [0, 0], "both classes"),
    ],
)
@pytest.mark.parametrize("function", [auc, lambda score, label: bootstrap_auc(score, label, seed=0)])
def test_auc_refuses_bad_input(function, score, label, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(score, label)


def test_bootstrap_auc_keeps_the_class_sizes() -> None:
    interval = bootstrap_auc([0.1, 0.2, 0.3, 0.8, 0.9], [0, 0, 0, 1, 1], seed=0)
    assert interval == Interval(1.0, 1.0, 1.0, 5)


def test_spearman_agrees_with_scipy_and_a_bootstrap(rng) -> None:
    x = rng.integers(6, size=40)
    y = x + 3 * rng.normal(size=40)
    reference = scipy_stats.bootstrap(
        (x, y), lambda a, b: scipy_stats.spearmanr(a, b)[0], paired=True, n_resamples=1000, rng=1
    ).confidence_interval  # fmt: skip
    ours = spearman(x, y)
    assert ours.value == pytest.approx(scipy_stats.spearmanr(x, y)[0]) and ours.n == 40
    assert (ours.low, ours.high) == pytest.approx(tuple(reference), abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("n", [12, 14, 30])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_spearman_covers_about_95_percent(rng, n, rho) -> None:
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of two normal variables with that correlation
    x = rng.normal(size=(1500, n))
    y = rho * x + (1 - rho**2) ** 0.5 * rng.normal(size=x.shape)
    assert np.mean([covers(spearman(*pair), truth) for pair in zip(x, y, strict=True)]) >= LEAST


def test_spearman_of_a_perfect_order_is_not_sure() -> None:
    for n, least in ((5, 0.1), (14, 0.97)):
        up = np.arange(float(n))
        interval = spearman(up, np.exp(up))
        assert least < interval.low < interval.value == interval.high == pytest.approx(1)
        assert spearman(up, -up).high == pytest.approx(-interval.low)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [], "is empty"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "give 5 or more"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4], "two equal rows"),
        ([1, 2, 3, 4, 5], [2, 2, 2, 2, 2], "of a constant"),
        ([1, 2, 3, 4, np.nan], [1, 2, 3, 4, 5], "NaN or infinity"),
    ],
)
def test_spearman_refuses_bad_input(x, y, message) -> None:
    with pytest.raises(ValueError, match=message):
        spearman(x, y)


def test_crossed_mean_in_closed_form_equals_many_resamples() -> None:
    table = np.random.default_rng(5).normal(size=(4, 1)) + np.random.default_rng(6).normal(size=(4, 60))
    closed = cluster_bootstrap(table, seed=0, crossed=True)
    drawn = cluster_bootstrap(table, lambda values: float(np.mean(values)), seed=0, crossed=True, resamples=20_000)
    np.testing.assert_allclose([closed.low, closed.high], [drawn.low, drawn.high], rtol=0.03)


def test_within_cuts_an_interval_to_what_is_possible() -> None:
    assert Interval(0.9, 0.7, 1.1, 5).within(0.0, 1.0) == Interval(0.9, 0.7, 1.0, 5)
    assert Interval(0.1, -0.2, 0.4, 5).within(0.0, 1.0) == Interval(0.1, 0.0, 0.4, 5)


def test_mcnemar_counts_only_what_differs() -> None:
    first = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 0], bool)
    # 4 against 1 of the 5 that differ: 2 (C(5, 0) + C(5, 1)) / 2^5
    assert mcnemar(first, second) == pytest.approx(12 / 32)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1.0
    for bad in (second[1:], second * 2, second[:0]):
        with pytest.raises(ValueError):
            mcnemar(first[: len(bad)] if not len(bad) else first, bad)


def test_fisher_is_the_sum_of_the_tables_that_are_no_likelier() -> None:
    def chance(hits: int) -> float:
        return comb(9, hits) * comb(7, 6 - hits) / comb(16, 6)

    observed = chance(5)
    expected = sum(chance(hits) for hits in range(7) if chance(hits) <= observed * (1 + 1e-9))
    assert fisher(5, 9, 1, 7) == pytest.approx(expected)
    with pytest.raises(ValueError, match="No shares: successes 5 of 4"):
        fisher(5, 4, 1, 7)


def test_the_interval_over_runs_is_students() -> None:
    values = [0.91, 0.95, 0.88, 0.93]
    found = over_runs(values)
    low, high = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.value == pytest.approx(sum(values) / 4) and found.n == 4
    assert found.sd**2 == pytest.approx(sum((v - sum(values) / 4) ** 2 for v in values) / 3)
    for bad in ([0.9, 0.8], [0.9, 0.8, float("nan")]):
        with pytest.raises(ValueError, match=r"values\[2\] of over_runs|3 finite values or more"):
            over_runs(bad)


def test_runs_that_are_all_equal_are_not_sure() -> None:
    none = over_runs([0.0] * 5, rows=200)
    assert (none.low, none.high, none.n, none.sd) == (0, proportion(0, 200).high, 5, 0)
    third = over_runs([1 / 3] * 3, rows=60)
    assert (third.low, third.high) == (proportion(20, 60).low, proportion(20, 60).high) and third.value == 1 / 3
    odd = over_runs([0.5] * 3, rows=3)  # of three rows none is a half
    assert odd.low <= odd.value <= odd.high
    unknown = over_runs([1, 1, 1])
    assert unknown.low < 0.5 < unknown.value == 1 <= unknown.high
    apart = over_runs([0.2, 0.5, 0.8], rows=2000)  # the runs differ by more than chance would have them
    assert apart == over_runs([0.2, 0.5, 0.8]) and apart.high - apart.low > 0.5
    for values in ([1.2, 1.2, 1.2], [-0.1, 0, 0]):
        with pytest.raises(ValueError, match="are no shares"):
            over_runs(values, rows=5)


@pytest.mark.parametrize("p", [0.002, 0.01, 0.02, 0.9])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_shares_of_runs_are_covered_near_the_ends_too(rng, runs, p) -> None:
    shares = rng.binomial(40, p, size=(600, runs)) / 40
    assert np.mean([covers(over_runs(each.tolist(), rows=40 * runs), p) for each in shares]) >= 0.95


def test_equal_groups_are_not_sure() -> None:
    same = cluster_bootstrap(np.ones((3, 200)), seed=0, crossed=True)
    assert same.low < 0.995 < same.value == 1 <= same.high and same.low > 0.97
    mixed = cluster_bootstrap([np.array([0.0, 1.0] * 50)] * 3, seed=0)  # the groups are equal, their rows are not
    assert mixed.low < 0.45 < mixed.value == 0.5 < 0.55 < mixed.high


def test_undefined_correlations_are_left_out_and_said() -> None:
    assert defined([0.5, 0.25], "maps").tolist() == [0.5, 0.25]
    with pytest.warns(UserWarning, match=r"maps: 2 of 4 are not defined and left out \(0, 2\)"):
        assert defined([np.nan, 0.5, np.nan, -1], "maps").tolist() == [0.5, -1]
    with pytest.raises(ValueError, match="maps: none of 2 is defined"):
        defined([np.nan, np.nan], "maps")
