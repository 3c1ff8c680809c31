"""The pictures of notebook 02: what is drawn is what was given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

from xaikit.companion import plots
from xaikit.metrics.intervals import Interval, proportion
from xaikit.studies import texplain_figures as figures

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("style")

WORDS = {"bird": 0.6, "red": 0.5, "lake": 0.4, "dog": 0.01}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], set[str]]]:
    """The words of each cloud that is drawn, and those in colour."""
    drawn: list[tuple[list[str], set[str]]] = []
    monkeypatch.setattr(figures, "word_cloud", lambda ax, words, own: drawn.append((list(words), set(own))))
    return drawn


def shown(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_a_cloud_holds_the_dominant_things_and_the_attributes_stand_below(clouds) -> None:
    ax = plt.subplots()[1]
    figures.cloud(ax, WORDS, "a bird", {"bird"}, ("red", "blue"))
    assert clouds == [(["bird", "lake"], {"bird"})] and texts(ax) == ["red"] and ax.get_title() == "a bird"


def test_where_no_thing_is_dominant_it_is_said(clouds) -> None:
    ax = plt.subplots()[1]
    figures.cloud(ax, {"red": 0.9, "dog": 0.01}, "", (), ("red",))
    assert not clouds and texts(ax) == ["no dominant thing", "red"]


def test_panels_stand_column_by_column(images, clouds) -> None:
    columns = [[figures.Picture(images[i], f"image {i}"), figures.Cloud({f"word{i}": 1.0}, f"{i}")] for i in range(3)]
    figure = figures.panels(columns, (9.0, 4.0), (), heights=[1.0, 0.5])
    grid = np.array(figure.axes).reshape(2, 3)
    for i in range(3):
        np.testing.assert_array_equal(shown(grid[0, i]), images[i].permute(1, 2, 0))
        assert [ax.get_title() for ax in grid[:, i]] == [f"image {i}", f"{i}"]
    assert [words for words, _ in clouds] == [["word0"], ["word1"], ["word2"]]
    assert len(figures.panels([columns[0], columns[1][:1]], (9.0, 4.0), ()).axes) == 4  # a column may end early


def test_a_montage_holds_the_images_row_by_row(images) -> None:
    found = figures.montage(images, 2)
    assert found.shape == (3, 16, 16)
    np.testing.assert_array_equal(found[:, :8, 8:], images[1])
    np.testing.assert_array_equal(found[:, 8:, :8], images[2])


def test_the_pipeline_has_a_row_for_each_example(images, clouds) -> None:
    z = torch.arange(20.0).view(5, 4)
    of = [
        figures.Example(name, images[0], z, ["a bird"] * 12, WORDS, {"bird"}, name == "bird")
        for name in ("bird", "dog")
    ]
    figure = figures.pipeline(of, ())
    rows = np.array(figure.axes).reshape(2, 4)
    np.testing.assert_array_equal(shown(rows[0, 1]), z)
    assert texts(rows[1, 2]) == ["\n".join(["a bird"] * 9)] and rows[1, 2].get_title() == "the first 9 of 12 sentences"
    assert [row[3].get_title() for row in rows] == ["its category leads", "another category leads"]


def test_shares_of_words_are_those_of_the_sentences() -> None:
    ax = figures.word_shares({"bird": 0.75, "lake": 0.0}, 8, "top-p 0.5", {"bird"}).axes[0]
    bars, points = ax.lines[::2], ax.lines[1::2]
    assert ax.get_title() == "top-p 0.5"
    assert [line.get_xdata()[0] for line in points] == [0.75, 0.0]
    assert [tuple(line.get_xdata()) for line in bars] == [
        (each.low, each.high) for each in (proportion(6, 8), proportion(0, 8))
    ]
    assert [to_hex(line.get_color()).upper() for line in points] == [plots.VERMILLION, plots.GREY]


def test_the_losses_are_drawn_over_epochs_and_of_fresh_pictures() -> None:
    held_out = {"few pairs": [3.0, 2.0], "own": [2.5, 1.5], "floor": [2.0, 1.0]}
    left, right = figures.learning(held_out, dict.fromkeys(held_out, Interval(1.0, 0.9, 1.2, 9))).axes
    assert [list(line.get_ydata()) for line in left.lines] == list(held_out.values())
    assert [label.get_text() for label in right.get_yticklabels()] == list(held_out)


def test_matching_words_are_counted_and_photographs_have_none() -> None:
    shares = {"every word": {"own": proportion(3, 4), "another's": proportion(1, 4)}}
    left, right = figures.relevance(
        {"its own": np.array([1.0, 3, 3]), "another": np.array([0.0, 0, 2])}, 3, shares
    ).axes
    heights = [[bar.get_height() for bar in bars] for bars in left.containers]
    assert heights == [[0, 1, 0, 2], [2, 0, 1, 0]]
    assert [line.get_xdata()[0] for line in right.lines[1::2]] == [0.75, 0.25]
    assert not figures.relevance({}, 3, shares).axes[0].containers


def test_the_likeliest_outputs_stand_in_their_order_and_the_right_one_in_colour(images) -> None:
    probabilities = torch.tensor([[0.1, 0.3, 0.2, 0.15, 0.05, 0.2], [0.4, 0.3, 0.1, 0.1, 0.05, 0.05]])
    right = torch.zeros(2, 6, dtype=torch.bool)
    right[:, 1] = True
    of = {"original": images[:2], "background": images[2:]}
    figure = figures.likeliest(
        of, {"original": probabilities, "background": probabilities.flip(1)}, list("abcdef"), right
    )
    rows = np.array(figure.axes).reshape(2, 4)
    bars = rows[0, 1]
    assert bars.get_yticklabels()[0].get_text() == "b"
    assert [patch.get_width() for patch in bars.patches] == pytest.approx([0.3, 0.2, 0.2, 0.15, 0.1])
    assert [to_hex(patch.get_facecolor()).upper() for patch in bars.patches] == [plots.VERMILLION, *[plots.GREY] * 4]
    np.testing.assert_array_equal(shown(rows[1, 2]), images[3].permute(1, 2, 0))
    assert [row[0].get_title() for row in rows] == ["original", "background"]


def test_what_a_planted_case_has_not_is_not_drawn(images) -> None:
    word, flips = Interval(0.3, 0.2, 0.4, 9), proportion(1, 4)
    rows = [{"network": "vit", "case": "twin", "word": word, "flips": flips, "decodes": flips},
            {"network": "vit", "case": "zeros", "word": word}]  # fmt: skip
    left, right = figures.planted(images, "in training", pd.DataFrame(rows)).axes
    assert left.get_title() == "in training" and shown(left).shape[:2] == (12, 42)  # two pixels around each image
    assert [list(line.get_xdata()) for line in right.lines[:3]] == [[0.3, 0.3], [0.25], [0.25]]
    assert [label.get_text() for label in right.get_yticklabels()] == ["vit, twin", "vit, zeros"]


def test_maps_lie_over_their_pictures(images) -> None:
    maps = {"Grad-CAM": torch.rand(4, 2, 2), "attention": torch.rand(4, 2, 2)}
    rows = [{"map": kind, "where": "bird", "value": 0.5, "low": 0.4, "high": 0.6} for kind in maps]
    *grid, shares = figures.word_maps(images, maps, pd.DataFrame(rows), 0.2).axes
    cells = np.array(grid).reshape(3, 3)
    np.testing.assert_array_equal(shown(cells[2, 0]), images[2].permute(1, 2, 0))
    np.testing.assert_array_equal(cells[1, 2].images[1].get_array(), maps["attention"][1])
    assert [ax.get_title() for ax in cells[0]] == ["image", *maps] and shares.lines[-1].get_xdata() == [0.2, 0.2]


def test_masked_pictures_stand_under_their_titles() -> None:
    columns = [
        {"image": torch.full((3, 4, 4), k, dtype=torch.uint8), "RandMask": torch.zeros(3, 4, 4).byte()} for k in (1, 2)
    ]
    axes = np.array(figures.masked(columns, ["same", "same"]).axes).reshape(2, 2)
    assert [shown(ax).max() for ax in axes.ravel()] == [1, 2, 0, 0]
    assert [ax.get_title() for ax in axes[0]] == ["same", "same"] and axes[1, 0].get_ylabel() == "RandMask"


def test_each_factor_is_a_point_of_its_classifier() -> None:
    points = [(model, factor) for model in ("nine", "ERM", "last") for factor in ("place", "count")]
    rows = [
        {"model": model, "factor": factor, "flips": 0.1 * k, "mentions": 0.2 * k, "excess": 0.3 * k}
        for k, (model, factor) in enumerate(points)
    ]
    left, right = figures.dependence(pd.DataFrame(rows)).axes
    np.testing.assert_allclose(left.collections[1].get_offsets(), [[0.4, 0.2], [0.6, 0.3]])
    np.testing.assert_allclose(right.collections[2].get_offsets(), [[1.2, 0.4], [1.5, 0.5]])
    assert sorted(texts(left)) == ["count"] * 3 + ["place"] * 3


def test_agreement_is_drawn_over_the_sizes_of_samples() -> None:
    rows = pd.DataFrame({"sentences": [10, 100], "value": [0.5, 0.9], "low": [0.4, 0.8], "high": [0.6, 1.0]})
    ax = figures.samples(rows, [10, 100], 1_000).axes[0]
    assert list(ax.lines[0].get_ydata()) == [0.5, 0.9] and ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "100"] and "1,000" in ax.get_ylabel()
