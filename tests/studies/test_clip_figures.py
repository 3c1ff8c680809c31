"""What the pictures of notebook 04 show is what was given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from torch import Tensor

from xaikit.companion import plots
from xaikit.decomposition.textspan import TextSpan
from xaikit.studies import clip_figures as figures
from xaikit.studies.clip_asked import Several
from xaikit.studies.clip_decomposition import Labels, Pool, Role
from xaikit.studies.clip_heads import Chosen, HeadTexts

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("style")

TEXTS = ("a photo of a red duck", "a photo of a lake", "a photo of a dog")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def span() -> TextSpan:
    """Of two heads: the first takes all three texts, the second has nothing left after one."""
    explained = torch.tensor([[0.4, 0.6, 0.7], [0.9, 0.9, 0.9]], dtype=torch.float64)
    return TextSpan(torch.tensor([[1, 2, 0], [0, -1, -1]]), explained, torch.zeros(2, 3), torch.eye(3).repeat(2, 1, 1))


def shown(ax: Axes) -> Tensor:
    """The picture of an axis, [3, height, width]."""
    return torch.tensor(np.asarray(ax.images[0].get_array())).permute(2, 0, 1)


def lines(ax: Axes) -> dict[str, list[float]]:
    return {line.get_label(): line.get_ydata().tolist() for line in ax.lines if not line.get_label().startswith("_")}


def test_a_curve_for_each_kind_of_means_and_a_panel_for_each_model() -> None:
    rows = [
        {"layers": layers, "means": means, "value": value, "low": value - 0.1, "high": value + 0.1}
        for means, values in (("corrected", (0.8, 0.7)), ("as-published", (0.9, 0.6)))
        for layers, value in enumerate(values)
    ]
    figure = figures.cumulative_ablation({"one": rows, "two": rows[:1] + rows[2:3]}, {"one": 0.2, "two": 0.1})
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    assert lines(figure.axes[0]) == {"means corrected": [0.8, 0.7], "means as-published": [0.9, 0.6]}
    assert [ax.lines[-1].get_ydata()[0] for ax in figure.axes] == [0.2, 0.1]


def test_a_curve_for_each_pool() -> None:
    names = ("general", "common words", "class-specific", "random")
    rows = pd.DataFrame(
        [
            {"pool": name, "texts": m, "in the pool": 1500, "value": 0.1 * number + m / 10, "low": 0.0, "high": 1.0}
            for number, name in enumerate(names)
            for m in (1, 2)
        ]
    )
    (ax,) = figures.pools(rows, 0.9).axes
    assert lines(ax)["common words (1,500)"] == pytest.approx([0.2, 0.3])
    assert len(lines(ax)) == 4 and ax.get_xticks().tolist() == [1, 2]


@pytest.mark.parametrize(("row", "m", "words", "bars"), [
    (0, 2, ["a lake", "a dog"], [0.4, 0.2]), (1, 3, ["a red duck"], [0.9]),
])  # fmt: skip
def test_a_head_shows_its_own_texts_and_what_each_adds(span, row, m, words, bars) -> None:
    figure = figures.span_of_head("L4.H0", {"general": span, "random": span}, row, TEXTS, m)
    left, right = figure.axes
    assert lines(left)["random"] == pytest.approx(span.explained[row].tolist())
    assert [label.get_text() for label in right.get_yticklabels()] == words
    assert [bar.get_width() for bar in right.patches] == pytest.approx(bars)
    assert f"{sum(bars):.2f}" in right.get_title(loc="left")


def test_a_label_is_blue_where_it_is_what_moves_the_head_most(span) -> None:
    effects = {"colour": np.array([0.9, 0.1]), "place": np.array([0.2, 0.6])}
    draw = tuple(Role((0, head), TEXTS, 0.5, {}, "colour") for head in (0, 1))
    found = Labels(((0, 0), (0, 1)), (), (), (draw,) * 3)
    oracle = {(0, 0): "colour", (0, 1): "place"}
    figure = figures.specialisation(effects, oracle, {"two-topic": found, "one-topic": found}, 1)
    marks = [
        each for each in figure.axes[0].collections if len(each.get_offsets()) and each.get_label().startswith("draw 1")
    ]
    assert {each.get_label(): each.get_offsets().tolist() for each in marks} == {
        "draw 1 says what moves it most": [[0.2, 0.5]], "draw 1 says something else": [[0.2, 1.5]],
    }  # fmt: skip
    assert [tuple(each.get_facecolor()[0]) for each in marks] == [to_rgba(plots.BLUE), to_rgba(plots.VERMILLION)]


def test_the_gallery_of_a_head_and_its_bars(images) -> None:
    clear, papers = Chosen("colour", (4, 0), "a red duck"), Chosen("place", (4, 1), "a lake", clear=False)
    rows = pd.DataFrame(
        {"topic": ["colour", "colour", "place"], "by": ["the head", "chance", "the head"], "value": [0.7, 0.2, np.nan]}
    )
    gallery = {"colour": [3, 1, 0, 2, 4, 5, 6], "place": list(range(7))}
    figure = figures.retrieval(images, [clear, papers], gallery, rows, 10)
    axes = np.array(figure.axes).reshape(2, 8)
    for ax, index in zip(axes[0], gallery["colour"], strict=False):
        torch.testing.assert_close(shown(ax), images[index])
    assert [bar.get_width() for bar in axes[0, 7].patches] == [0.7, 0.2]
    assert axes[1, 7].texts[0].get_text() == "no labels"
    assert "no clear role" in axes[1, 0].get_ylabel() and "no clear role" not in axes[0, 0].get_ylabel()


def test_the_highest_and_lowest_pictures_of_a_text(images, span) -> None:
    texts = HeadTexts(((4, 0), (4, 1)), span, Pool(torch.eye(3), TEXTS))
    written = torch.zeros(12, 3)
    written[:, 1] = torch.arange(12)  # along the head's first text, a lake
    figure = figures.extremes(images, [Chosen("place", (4, 0), "a lake")], texts, {"place": written})
    torch.testing.assert_close(shown(figure.axes[0]), images[11])
    torch.testing.assert_close(shown(figure.axes[-1]), images[0])
    assert "a lake" in figure.axes[0].texts[0].get_text().replace("\n", " ")


def test_a_map_for_each_text_and_for_each_head(images, span) -> None:
    maps = torch.rand(2, 3, 8, 8)
    axes = np.array(figures.text_maps(images[:2], TEXTS, maps).axes).reshape(2, 4)
    assert [ax.get_title() for ax in axes[0, 1:]] == ["a red duck", "a lake", "a dog"]
    np.testing.assert_allclose(axes[1, 2].images[1].get_array(), maps[1, 1], rtol=0, atol=1e-6)

    texts = HeadTexts(((4, 0), (4, 1)), span, Pool(torch.eye(3), TEXTS))
    chosen = [Chosen("place", (4, 0), "a lake"), Chosen("object", (4, 0), "a lake"), Chosen("colour", (4, 1), "a duck")]
    tokens = torch.rand(2, 2, 5, 3) * torch.tensor([0.01, 0.01, 1.0])  # all most like the dog
    axes = np.array(figures.head_maps(images[:2], chosen, texts, tokens, 3).axes).reshape(2, 3)
    assert axes[0, 1].get_title() == "place, object: L4.H0\n\na dog"
    assert axes[1, 2].get_title() == "a red duck"  # all that this head has


def test_masks_stand_between_pictures_and_maps(images) -> None:
    masks, maps = (images[:2, 0] > 0.5).float(), {"ours": torch.rand(2, 8, 8), "rollout": torch.rand(2, 8, 8)}
    axes = np.array(figures.segmentation(images[:2], masks, maps).axes).reshape(2, 4)
    assert [ax.get_title() for ax in axes[0]] == ["image", "mask", "ours", "rollout"]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), masks[1])
    drawn = axes[1, 3].images[1].get_array()
    assert np.argmax(drawn) == int(maps["rollout"][1].argmax()) and drawn.min() == 0


def test_what_is_asked_for_has_a_row_with_its_own_mask_and_map(images) -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    several = Several(images[:2], (masks, masks), ((0, 1), (1, 2)), (("a photo of a dog",), ("a duck",), ("a car",)))
    own = list(torch.rand(4, 8, 8))
    figure = figures.asked(several, {"ours": own}, [each / 2 for each in own], pictures=[1])
    axes = np.array(figure.axes).reshape(2, 4)
    assert [ax.texts[0].get_text() for ax in axes[:, 0]] == ["a duck", "a car"]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), masks[1])
    np.testing.assert_allclose(axes[1, 2].images[1].get_array(), own[3], rtol=0, atol=1e-6)
    assert axes[1, 3].get_title() == "ours, a dog"
