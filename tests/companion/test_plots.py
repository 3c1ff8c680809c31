"""Pictures repeat byte for byte, nothing is cut off, and what is drawn is what was given."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from xaikit.companion import plots
from xaikit.metrics.intervals import Interval
from xaikit.studies import caption_driven_figures as figures
from xaikit.studies.texplain_figures import word_cloud

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture
def ax() -> Axes:
    return plt.subplots()[1]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def colours_in(ax: Axes) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in ax.images[0].get_array().reshape(-1, 3).tolist()}


def bytes_of(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in to_rgb(colour))


def test_the_style_undoes_what_was_set_before() -> None:
    plt.rcParams["axes.facecolor"] = "black"
    plots.use_style()
    assert plt.rcParams["axes.facecolor"] == "white"
    assert not plt.rcParams["axes.spines.top"] and plt.rcParams["svg.hashsalt"] == "xaikit"


def test_the_meanings_have_colours_of_their_own() -> None:
    for group in ([figures.SHAPE, figures.COLOUR], figures.MODEL.values()):
        assert len(set(group)) == 2
    symbols, colours = zip(*plots.VERDICTS.values(), strict=True)
    assert len(set(symbols)) == len(set(colours)) == 5


def test_image_grid_shows_every_image_under_its_title(images) -> None:
    figure = plots.image_grid(images, ["a", "b\nc", "d", "e", "f"], columns=3)
    assert len(figure.axes) == 6 and not any(ax.axison for ax in figure.axes)
    for image, ax, title in zip(images, figure.axes, ["a", "b\nc", "d", "e", "f"], strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), image.permute(1, 2, 0))
        assert ax.get_title() == title and ax.images[0].get_interpolation() == "nearest"
    assert not figure.axes[5].images
    assert len(plots.image_grid(images).axes) == 5


def test_image_grid_refuses_what_it_would_show_wrongly(images) -> None:
    for bad in (images * 2, images - 0.5, images * torch.nan, images[:0]):
        with pytest.raises(ValueError, match=r"lie in 0\.\.1"):
            plots.image_grid(bad)
    with pytest.raises(ValueError, match="4 titles for 5 images"):
        plots.image_grid(images, list("abcd"))


def test_overlay_stretches_a_small_map_over_the_whole_image(ax, images) -> None:
    attribution = torch.arange(4.0).reshape(2, 2)
    heat = plots.overlay(ax, images[0], attribution, alpha=0.4)
    assert len(ax.images) == 2 and ax.images[1] is heat
    assert heat.get_extent() == ax.images[0].get_extent() and heat.get_alpha() == 0.4
    assert heat.get_clim() == (0, 3)
    with pytest.raises(ValueError, match=r"lie in 0\.\.1"):
        plots.overlay(ax, images[0] + 1, attribution)


@pytest.mark.parametrize("horizontal", [True, False])
def test_interval_bars_draw_value_bounds_and_chance(ax, horizontal) -> None:
    intervals = [Interval(0.5, 0.4, 0.7, 9), Interval(0.9, 0.8, 0.95, 9)]
    colours = [figures.SHAPE, figures.COLOUR]
    plots.interval_bars(ax, ["a", "b"], intervals, colours=colours, chance=0.5, horizontal=horizontal)
    along = (lambda line: line.get_xdata()) if horizontal else (lambda line: line.get_ydata())
    drawn = [list(along(line)) for line in ax.lines]
    assert drawn == [[0.4, 0.7], [0.5], [0.8, 0.95], [0.9], [0.5, 0.5]]
    assert [line.get_color() for line in ax.lines[:4:2]] == colours
    ticks = ax.get_yticklabels() if horizontal else ax.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["a", "b"]
    assert ax.yaxis_inverted() == horizontal  # the first label on top


def test_interval_bars_refuse_rows_that_do_not_match(ax) -> None:
    interval = Interval(0.5, 0.4, 0.7, 9)
    for labels, intervals, colours in [
        ([], [], None),
        (["a"], [], None),
        (["a"], [interval], ["red", "blue"]),
    ]:
        with pytest.raises(ValueError, match="one of each"):
            plots.interval_bars(ax, labels, intervals, colours=colours)


def test_names_of_points_cover_neither_points_nor_each_other(ax) -> None:
    points = [(0.5, 0.5), (0.52, 0.5), (0.5, 0.53), (0.1, 0.9), (0.9, 0.1)]
    ax.set(xlim=(0, 1), ylim=(0, 1))
    names = ["colour", "pattern", "count", "species", "costs $5"]
    plots.name_points(ax, points, names)
    assert [text.get_text() for text in ax.texts] == ["costs $5", "colour", "pattern", "count", "species"]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
    assert not any(box.contains(*at) for box in boxes for at in ax.transData.transform(points))
    with pytest.raises(ValueError, match="5 points and 1 names"):
        plots.name_points(ax, points, ["one"])


def test_a_shown_figure_is_closed_and_says_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plots, "get_ipython", lambda: "a notebook")
    monkeypatch.setattr(plots, "display", lambda figure, metadata: shown.append((figure, metadata)))
    figure, _ = plt.subplots()
    plots.show(figure, "Nothing but two axes.")
    assert shown == [(figure, {"image/png": {"alt": "Nothing but two axes."}})]
    assert figure.number not in plt.get_fignums()


def test_similarity_matrix_outlines_the_best_caption_of_each_image(images) -> None:
    values = torch.tensor([[0.1, 0.3, 0.25, 0.2, 0.1], [0.2, 0.1, 0.26, 0.1, 0.3]])
    figure, ax = plt.subplots(figsize=(7, 2.2))
    figures.similarity_matrix(ax, values, ["short", "a photo of a very long caption"], images, decimals=3)
    outlined = [(round(box.get_x() + 0.46), round(box.get_y() + 0.46)) for box in ax.patches]
    assert outlined == [(0, 1), (1, 0), (2, 1), (3, 0), (4, 1)]
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(c, r): f"{values[r, c]:.3f}" for r in range(2) for c in range(5)}
    for column, (picture, image) in enumerate(zip(ax.images[1:], images, strict=True)):
        np.testing.assert_array_equal(picture.get_array(), image.permute(1, 2, 0))
        left, right, bottom, top = picture.get_extent()
        assert (left + right) / 2 == pytest.approx(column) and top < bottom < -0.5
    figure.canvas.draw()
    inside = ax.get_tightbbox()
    assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= figure.bbox.x1 and inside.y1 <= figure.bbox.y1
    assert png(figure) == png(figure)  # the layout has settled, so png and pdf agree


def test_similarity_matrix_refuses_captions_that_do_not_match(ax, images) -> None:
    with pytest.raises(ValueError, match="1 captions for 2 rows"):
        figures.similarity_matrix(ax, torch.rand(2, 5), ["a"], images)


def test_word_cloud_colours_the_highlight_only(ax) -> None:
    word_cloud(ax, {"water": 3.0, "bird": 2.0, "boat": 1.0}, highlight={"bird"})
    assert {bytes_of(plots.VERMILLION), bytes_of(plots.DARK)} <= colours_in(ax)
    other = plt.subplots()[1]
    word_cloud(other, {"water": 3.0, "bird": 2.0, "boat": 1.0})
    assert bytes_of(plots.DARK) in colours_in(other) and bytes_of(plots.VERMILLION) not in colours_in(other)


def test_word_cloud_does_not_depend_on_the_order_of_equal_words() -> None:
    words = {word: 1.0 for word in ("water", "bird", "boat", "sky")}
    pictures = []
    for frequencies in (words, dict(reversed(words.items()))):
        figure, ax = plt.subplots()
        word_cloud(ax, frequencies, highlight="sky")
        pictures.append(png(figure))
    assert pictures[0] == pictures[1]


def test_word_cloud_names_words_that_do_not_fit_and_letters_without_a_sign(ax) -> None:
    many = {f"{'long' * 9}{n}": 1.0 for n in range(400)}
    with pytest.warns(UserWarning, match=r"\d+ of 400 words do not fit: longlong"):
        word_cloud(ax, many)
    with pytest.warns(UserWarning, match="font lacks 猫"):
        word_cloud(ax, {"cat": 2.0, "猫": 1.0})


NASTY = [r"price $\frac$ x", "a $5 bill and a $10 bill", "a_b^c {d}", r"back\slash $x$ %"]
CAPTIONED = {
    "similarity_matrix": lambda ax, images: figures.similarity_matrix(ax, torch.rand(4, 5), NASTY, images),
    "image_grid": lambda ax, images: plots.image_grid(images[:4], NASTY),
    "interval_bars": lambda ax, images: plots.interval_bars(ax, NASTY, [Interval(0.5, 0.4, 0.6, 9)] * 4),
    "upright interval_bars": lambda ax, images: plots.interval_bars(
        ax, NASTY, [Interval(0.5, 0.4, 0.6, 9)] * 4, horizontal=False
    ),
    "grouped_intervals": lambda ax, images: plots.grouped_intervals(
        ax, pd.DataFrame({"p": NASTY, "g": "$a$", "value": 0.5, "low": 0.4, "high": 0.6}),
        place="p", group="g", places=NASTY, colours={"$a$": plots.BLUE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("styled", [True, False])
@pytest.mark.parametrize("kind", CAPTIONED)
def test_captions_are_drawn_as_they_are_on_every_figure(kind, styled, images) -> None:
    if not styled:
        plt.rcdefaults()
    CAPTIONED[kind](plt.subplots()[1], images)
    drawn = plt.gcf()
    drawn.canvas.draw()
    found = [text for text in drawn.findobj(matplotlib.text.Text) if text.get_text() in NASTY]
    assert {text.get_text() for text in found} == set(NASTY)
    assert not any(text.get_parse_math() for text in found)


def test_in_the_style_of_the_notebooks_a_dollar_is_a_dollar(ax) -> None:
    ax.set(title="a $5 bill and a $10 bill", xlabel=r"$\frac$")
    ax.plot([0, 1], label="$_$")
    ax.legend()
    plt.gcf().canvas.draw()
    ax.set_title("formulas must say $x^2$", parse_math=True)
    assert ax.title.get_parse_math() and not ax.xaxis.label.get_parse_math()


@pytest.mark.parametrize("frequencies", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": float("nan")}])
def test_word_cloud_refuses_words_without_a_frequency(ax, frequencies) -> None:
    with pytest.raises(ValueError, match="positive frequency"):
        word_cloud(ax, frequencies)


def test_claims_say_their_verdict_in_a_symbol_and_a_colour() -> None:
    claims = pd.DataFrame({"text": list("abcde"), "verdict": list(plots.VERDICTS)})
    html = plots.style_claims(claims).to_html()
    for verdict, (symbol, colour) in plots.VERDICTS.items():
        assert f">{symbol} {verdict}</td>" in html and f"color: {colour}" in html
    assert html == plots.style_claims(claims.copy()).to_html()


@pytest.mark.parametrize("claims", [pd.DataFrame({"text": ["a"]}), pd.DataFrame({"verdict": ["maybe"]})])
def test_claims_refuse_unknown_verdicts(claims) -> None:
    with pytest.raises(ValueError, match="among holds, fails, inconclusive, no-instrument, not-run"):
        plots.style_claims(claims)
