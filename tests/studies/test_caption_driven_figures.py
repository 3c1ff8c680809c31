"""Figures and tables of notebook 01: what is drawn and recorded is what was given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from noted import recorded

from xaikit.datasets.digits import ColouredDigits
from xaikit.metrics.intervals import Interval
from xaikit.studies import caption_driven_figures as figures
from xaikit.studies import caption_driven_tables as tables
from xaikit.studies.caption_driven import CAPTIONS, PARAPHRASES, Matched
from xaikit.studies.caption_driven_grid import INSTRUMENTS, Known
from xaikit.surgery.matching import ActivationStatistics
from xaikit.surgery.transplant import Choice

NOTEBOOK, PAPER = "01_caption_driven", "koller"

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("style")
SOME = Interval(0.5, 0.4, 0.7, 9)


@pytest.fixture
def case() -> Matched:
    """Five standalone maps in two layers; of CLIP's four, in two stages, three take the same one."""
    choice = Choice(torch.tensor([0, 0, 4, 0]), torch.tensor([0.2, 0.4, 0.9, 0.1]), torch.ones(4, dtype=torch.bool))
    source = ActivationStatistics({"first": 2, "second": 3}, torch.zeros(5), torch.ones(5))
    target = ActivationStatistics({"one": 2, "two": 2}, torch.zeros(4), torch.ones(4))
    matched = object.__new__(Matched)  # without networks: what is counted here asks none
    vars(matched).update(source_statistics=source, target_statistics=target, choices={"best": choice})
    return matched


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def digits() -> ColouredDigits:
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return ColouredDigits(images, torch.tensor([0, 1]), torch.tensor([0, 1]), (255 * images[:, 0]).byte())


@pytest.fixture
def networks() -> list[Known]:
    """A biased network, whose every answer flips, one that used colour in part, and an untrained one."""
    kinds = {"biased": "biased", "p = 0.8, seed 1": "colour in part", "untrained 1": "untrained"}
    flips = ([True] * 4, [True] + [False] * 3, [False] * 4)
    found = [object.__new__(Known) for _ in kinds]  # without networks: what repainting showed is given
    for each, (name, kind), flipped in zip(found, kinds.items(), flips, strict=True):
        vars(each).update(name=name, kind=kind, flips=np.array(flipped))
    return found


def titles(figure: Figure) -> list[str]:
    return [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center") if ax.get_title(loc)]


def measured(*accuracies: float) -> pd.DataFrame:
    rows = [(epoch, name, value) for epoch, value in enumerate(accuracies) for name in figures.SETS]
    return pd.DataFrame(rows, columns=["epoch", "set", "accuracy"])


def test_learning_curves_are_those_that_were_given() -> None:
    (ax,) = figures.learning_curves(measured(0.5, 0.75, 1.0)).axes
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(curves) == 4 and all(list(line.get_ydata()) == [0.5, 0.75, 1.0] for line in curves)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(figures.SETS)


def test_every_layer_has_a_bar_as_high_as_it_has_maps() -> None:
    figure = figures.open_maps({"a": (64, 8, 8), "b": (16, 4, 4)}, {name: (5, 2, 2) for name in "abcd"})
    above, below = figure.axes
    assert [bar.get_height() for bar in above.patches] == [64, 16]
    assert above.get_title() == "standalone ResNet-50: 80 maps in 2 layers"
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["8 × 8", "4 × 4"]
    assert below.get_title() == "CLIP image tower: 20 maps in 4 layers"


def test_matches_show_score_and_source_of_every_map(case) -> None:
    figure = figures.matches({"biased": case.choice, "unbiased": case.choice}, case.target_statistics.span)
    scores, _, sources, _ = figure.axes
    np.testing.assert_allclose(scores.collections[0].get_offsets()[:, 1], case.choice.score)
    np.testing.assert_allclose(sources.collections[0].get_offsets()[:, 1], case.choice.source)
    assert [line.get_xdata()[0] for line in scores.lines] == [2]  # where the second stage begins


def test_similarities_stand_under_the_names_of_their_surgeries(images) -> None:
    readings = {name: torch.full((2, 4), value) for name, value in (("a", 0.1), ("b", 0.25), ("c", 0.3))}
    for draw, written in ((figures.similarity_matrices, "0.25"), (figures.two_heads, "0.250")):
        figure = draw(readings, CAPTIONS.texts, images)
        assert titles(figure) == ["a", "b", "c"]
        assert {text.get_text() for text in figure.axes[1].texts} == {written}


def test_captions_of_one_digit_stand_before_and_after(images) -> None:
    before, after = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    readings = {"biased": after, "unbiased": before}
    figure = figures.captions_of_one(images[0], CAPTIONS.texts, before, readings, "4 of 8 maps")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0].permute(1, 2, 0))
    assert titles(figure) == ["4 of 8 maps", "biased model inside", "unbiased model inside"]
    drawn = [line.get_xdata() for line in figure.axes[1].lines]
    np.testing.assert_allclose(drawn, torch.stack([before, after]))
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == list(CAPTIONS.texts)


def test_scores_are_bars_of_both_cues_beside_what_the_paper_prints() -> None:
    measures, cues = ("as published", "indexing mended", "accuracy"), ("colour", "shape")
    keys = [(measure, name, cue) for measure in measures for name in figures.MODEL for cue in cues]
    shares = {key: Interval(place / 20, 0.0, 1.0, 9) for place, key in enumerate(keys)}
    printed = {(name, cue): 0.25 for name in figures.MODEL for cue in cues}
    figure = figures.three_scores(shares, printed)
    for ax, measure in zip(figure.axes, measures, strict=True):
        drawn = [bar.get_height() for bar in ax.patches]  # both models' colour, then both models' shape
        assert drawn == [shares[measure, name, cue].value for cue in cues for name in figures.MODEL]
    assert [len(ax.lines) for ax in figure.axes] == [3, 1, 1]
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.25, 0.25]


def test_the_loop_has_digits_accuracies_and_captions_of_both_models(images) -> None:
    right = {name: {"correlated": SOME, "grey": SOME} for name in figures.MODEL}
    said = {name: {"colour": Interval(0.9, 0.8, 1.0, 9), "shape": SOME} for name in figures.MODEL}
    figure = figures.loop(dict.fromkeys(figures.MODEL, images), right, said)
    assert [title[:2] for title in titles(figure)] == ["1.", "2.", "4.", "5.", "3.", "6."]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1].permute(1, 2, 0))
    assert [bar.get_height() for bar in figure.axes[-1].patches] == [0.9, 0.5]


def test_panels_of_cues_have_a_line_for_each_place() -> None:
    rows = pd.DataFrame(
        [(place, name, cue, 0.5, 0.4, 0.7) for place in "ab" for name in figures.MODEL for cue in figures.CUE],
        columns=["control", "model", "cue", "value", "low", "high"],
    )
    figure = figures.cue_panels(rows, "control")
    assert titles(figure) == ["biased model", "unbiased model"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert [list(line.get_xdata()) for line in figure.axes[1].lines[:2]] == [[0.5, 0.5]] * 2


def test_a_measure_that_grey_digits_do_not_have_is_named() -> None:
    measures = ("colour share, as published", "colour, corrected", "shape, corrected")
    cells = [("biased", "coloured", measures), ("biased", "grey", (measures[0], measures[2]))]
    rows = pd.DataFrame(
        [(name, kind, measure, 0.5, 0.4, 0.7) for name, kind, those in cells for measure in those],
        columns=["model", "cell", "measure", "value", "low", "high"],
    )
    figure = figures.two_by_two(rows)
    assert titles(figure) == list(measures)
    assert [[text.get_position()[1] for text in ax.texts] for ax in figure.axes] == [[], [1], []]


def test_heat_lies_over_each_digit_in_the_row_of_its_model(images) -> None:
    maps = torch.arange(8.0).reshape(2, 2, 2)
    figure = figures.heat_maps(images, {"biased": maps, "unbiased": maps.flip(2)})
    rows = np.array(figure.axes).reshape(3, 2)
    assert [len(ax.images) for ax in rows.flat] == [1, 1, 2, 2, 2, 2]
    assert [row[0].texts[0].get_text() for row in rows] == ["digit", "biased\nmodel", "unbiased\nmodel"]
    hottest = [row[0].images[1].get_array().argmax() for row in rows[1:]]
    assert hottest == [3, 2]


def test_dose_and_response_stand_over_how_often_colour_told_the_digit(networks) -> None:
    readings = {each: {network.name: np.full(4, 0.3) for network in networks} for each in INSTRUMENTS}
    truth, *explained = figures.dose_response(networks, readings).axes
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in truth.lines] == [(1.0, 1.0), (0.8, 0.25)]
    assert all([line.get_ydata()[0] for line in ax.lines] == pytest.approx([0.3, 0.3]) for ax in explained)


def test_known_networks_have_their_flips_and_what_is_read_of_them(networks, note) -> None:
    readings = {each: {network.name: np.full(4, 0.5) for network in networks} for each in INSTRUMENTS}
    rows = tables.known_networks(note, networks, readings)
    assert rows["answers that flip"].tolist() == [1.0, 0.25, 0.0] and set(rows["rise"]) == {0.5}
    names = ("biased", "p-0.8.seed-1", "untrained-1")
    assert set(recorded(note)) == {f"instruments.truth.{name}" for name in names}


def test_percents_stand_beside_those_of_the_paper() -> None:
    rows = [("biased", "test", column, "wrong shape", 0.25, 0.1) for column in ("influence", "swapped", "zero")]
    table = pd.DataFrame(rows, columns=["model", "set", "column", "caption", "value", "published"])
    wide = tables.beside_printed(table)
    assert list(wide.columns) == ["zero", "swapped", "influence"] and set(wide.to_numpy().flat) == {"25.0 (10.0)"}


def test_the_fold_that_is_kept_is_the_best_one_in_the_end_and_the_first_of_equals() -> None:
    folds = [measured(0.9, 0.5), measured(0.1, 0.8), measured(0.2, 0.8)]
    rows = pd.concat([each.assign(fold=fold) for fold, each in enumerate(folds)], ignore_index=True)
    assert tables.best_fold(rows) == 1
    assert set(tables.at_the_end(rows).accuracy) == {0.5, 0.8}


def test_layers_are_listed_with_number_and_size_of_their_maps() -> None:
    table = tables.layers_of({"one": {"a": (2, 4, 5)}, "other": {"a": (3, 1, 1), "b": (1, 1, 2)}})
    assert table.to_numpy().tolist() == [["one", "a", 2, 4, 5], ["other", "a", 3, 1, 1], ["other", "b", 1, 1, 2]]


def test_what_is_matched_is_counted_stage_by_stage_and_recorded(case, note) -> None:
    table = tables.of_matching({"biased": case})
    assert table["distinct source maps"].tolist() == [1, 2]
    assert table["highest"].tolist() == pytest.approx([0.4, 0.9])
    assert table["median source layer"].tolist() == ["1 of 2", "1 of 2"]
    tables.note_matching(note, "biased", case)
    numbers = recorded(note)
    assert numbers["matching.distinct.biased"] == 2 and numbers["matching.distinct.constant.biased"] == 1
    assert numbers["matching.carried.biased"] == pytest.approx(2 / 5)


def test_cues_are_counted_for_each_surgery_by_its_captions(note, digits) -> None:
    # Both shapes are read rightly and no colour; with other captions it is the other way round.
    right = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    read = {"biased": {"matched": [right], "other, words": [1 - right]}}
    rows = tables.cue_accuracies(note, "Controls", "control", read, digits, {"other, words": PARAPHRASES})
    assert rows[["control", "cue", "value"]].to_numpy().tolist() == [
        ["matched", "shape", 1.0], ["matched", "colour", 0.0], ["other, words", "shape", 0.0],
        ["other, words", "colour", 1.0],
    ]  # fmt: skip
    assert recorded(note)["controls.other-words.biased.colour"] == 1.0


def test_shares_on_the_stroke_leave_out_maps_that_are_zero(note) -> None:
    stroke = torch.zeros(3, 2, 2)
    stroke[:, 0] = 1.0
    heat = torch.zeros(3, 2, 2)
    heat[0, 0, 0], heat[1, 1, 1] = 2.0, 3.0
    rows = tables.on_the_stroke(note, {"biased": heat, "unbiased": torch.zeros(3, 2, 2)}, stroke)
    assert rows["n"].tolist() == [2, 0, 3]
    assert rows["share on the stroke"].tolist() == pytest.approx([0.5, np.nan, 0.5], nan_ok=True)
    assert set(recorded(note)) == {"saliency.on-stroke.biased", "saliency.stroke-area"}


def test_scores_are_recorded_under_their_protocols(note) -> None:
    shares = {(measure, "biased", "colour"): SOME for measure in ("as published", "indexing mended", "retained")}
    assert tables.note_scores(note, shares)["measure"].tolist() == ["as published", "indexing mended", "retained"]
    ids = {"fig4.test.biased.colour", "fig4.mended.biased.colour", "fig4.corrected.biased.colour.retained"}
    assert set(recorded(note)) == ids
