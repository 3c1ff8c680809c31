"""Intervals of a notebook: recorded under its paper's name, with their values, by the interval that suits them."""

import numpy as np
import pandas as pd
import pytest
from noted import numbers

from xaikit.companion.notes import Notes
from xaikit.metrics.intervals import bootstrap_mean, cluster_bootstrap, over_runs, proportion

NOTEBOOK, PAPER = "01_x", "paper"


def test_an_interval_is_recorded_under_the_paper_and_handed_on(note: Notes) -> None:
    share = proportion(3, 4)
    assert note("share", share, "Figure 4", "as-published") is share
    number = numbers(note)["share"]
    assert [number[key] for key in ("value", "n", "unit", "protocol")] == [0.75, 4, "fraction", "as-published"]
    assert (number["low"], number["high"]) == pytest.approx((share.low, share.high), abs=1e-5)


def test_the_values_of_a_mean_are_kept_beside_it(note: Notes) -> None:
    note("share", proportion(1, 2), "Figure 4", values=[0, 1], of="digits")
    kept = pd.read_csv(note.record.folder / "values_digits.csv")
    assert kept["paper.share"].tolist() == [0, 1]


def test_the_mean_of_verdicts_has_the_exact_interval(note: Notes) -> None:
    verdicts = [True] * 7 + [False] * 3
    assert note.mean("right", verdicts, "Table 1") == proportion(7, 10)


def test_the_mean_of_other_values_has_that_of_the_bootstrap_of_this_seed(note: Notes) -> None:
    values = [0.1, 0.25, 0.3, 0.8, 0.4]
    assert note.mean("energy", values, "Table 1") == bootstrap_mean(values, 3)
    differences = [0, 1, 0, 1, 1]  # may be -1 too, which a share may not
    assert note.mean("gain", differences, "Table 1", unit="difference") == bootstrap_mean(differences, 3)


def test_what_a_number_is_over_is_said_with_it(note: Notes) -> None:
    note("share", proportion(1, 2), "Figure 4")
    note("runs", over_runs([0.5, 0.6, 0.7], rows=90).within(0, 1), "Figure 4")
    note("rank", proportion(1, 2), "Figure 4", over="networks")
    note.mean("score", [0.1, 0.2], "Table 1", over="prompts")
    assert {id: each["of"] for id, each in numbers(note).items()} == {
        "share": "images", "runs": "runs", "rank": "networks", "score": "prompts",
    }  # fmt: skip


def test_the_mean_over_models_and_things_is_over_both(note: Notes) -> None:
    values = np.random.default_rng(0).random((3, 40))
    found = note.mean("share", values, "Table 1", of="digits")
    assert found == cluster_bootstrap(values, seed=3, crossed=True).within(0, 1) and found.n == 40
    kept = pd.read_csv(note.record.folder / "values_digits.csv")
    np.testing.assert_allclose(kept["paper.share"], values.mean(0), rtol=1e-5)
    apart = values + np.array([[0.0], [0.3], [-0.3]])  # models that differ make it wider than one's pictures do
    wide = note.mean("difference", apart, "Table 1", unit="difference")
    alone = bootstrap_mean(apart.mean(0), 3)
    assert wide.high - wide.low > 3 * (alone.high - alone.low)


def test_numbers_and_values_of_another_model_have_its_name(note: Notes) -> None:
    other = Notes(note.record, "paper", "vit-l-14")
    for each in (note, other):
        each("share", proportion(1, 2), "Figure 4", values=[0, 1], of="digits")
    assert set(numbers(note)) == {"share", "share.vit-l-14"}
    assert (note.record.folder / "values_digits_of_vit_l_14.csv").exists()
    assert other.id("share") == "paper.share.vit-l-14"
