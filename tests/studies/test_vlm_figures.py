"""The pictures of notebook 03: what is drawn is what was given, in its place."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from xaikit.perturbation.search import MaskChecks, Recipe
from xaikit.studies import vlm_figures as figures
from xaikit.studies.vlm_explanations import FINE_TUNED, PROTOCOLS, SETTINGS, ZERO_SHOT, Found

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("style")


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def bars(ax: Axes) -> list[float]:
    return [bar.get_height() for bar in ax.patches]


def test_a_gallery_shows_each_picture_beside_its_two_maps() -> None:
    images, both = drawn(3, 3, 8, 8), list(drawn(2, 3, 8, 8))
    parts = figures.triples(["a", "b", "c"], images, both, range(1, 9))  # no more than there are
    assert [title for title, *_ in parts] == ["b", "c"]
    figure = figures.gallery([*parts, parts[0]], columns=2)
    assert len(figure.axes) == 12 and [figure.axes[place].get_title() for place in (0, 3, 6)] == ["b", "c", "b"]
    for place, which in ((0, 1), (3, 2), (6, 1)):
        for setting, ax in enumerate(figure.axes[place + 1 : place + 3]):
            np.testing.assert_array_equal(ax.images[1].get_array(), both[setting][which])
            assert ax.images[1].get_clim() == (0, 1)  # maps of one brightness are of one attribution
        np.testing.assert_array_equal(figure.axes[place].images[0].get_array(), images[which].permute(1, 2, 0))
    assert [figure.axes[place].get_title() for place in (1, 2, 4, 5)] == list(SETTINGS) * 2
    assert not figure.axes[9].images  # no fourth


def test_deletion_has_a_pair_of_bars_for_each_order_and_pale_ones_for_controls() -> None:
    keys = [(task, setting, order, protocol) for task in ("cars", "jobs") for setting in SETTINGS
            for order in ("map", "random") for protocol in PROTOCOLS]  # fmt: skip
    table = pd.DataFrame(keys, columns=["task", "setting", "order", "protocol"])
    table["value"] = np.arange(len(table)) / 10
    table["low"], table["high"] = table.value - 0.05, table.value + 0.05
    figure = figures.deletion(table)
    for number, (task, protocol) in enumerate((task, protocol) for task in ("cars", "jobs") for protocol in PROTOCOLS):
        ax = figure.axes[number]
        mine = table[(table.task == task) & (table.protocol == protocol)].set_index(["order", "setting"])
        wanted = [mine.value[order, setting] for order in ("map", "random") for setting in SETTINGS]
        assert bars(ax) == pytest.approx(wanted)
        assert [bar.get_alpha() for bar in ax.patches] == [1, 1, 0.35, 0.35]
        assert ax.get_title() == f"{task}, {protocol.replace('-', ' ')}"
        ends = np.array([line.get_ydata() for line in ax.lines[:4]])
        np.testing.assert_allclose(ends, [(value - 0.05, value + 0.05) for value in wanted])


def test_masked_faces_are_hatched() -> None:
    keys = [(setting, kind, protocol) for protocol in PROTOCOLS for setting in SETTINGS
            for kind in ("original", "masked")]  # fmt: skip
    table = pd.DataFrame(keys, columns=["setting", "pictures", "protocol"])
    table["value"] = table["low"] = table["high"] = np.arange(8) / 10
    first, second = figures.masked_faces(table).axes
    assert bars(first) + bars(second) == pytest.approx(np.arange(8) / 10)
    assert [bar.get_hatch() for bar in first.patches] == [None, "///"] * 2
    assert [tick.get_text() for tick in first.get_xticklabels()] == [f"{s}\n{k}" for s, k, _ in keys[:4]]


def test_causes_are_told_by_flips_beside_attribution_and_area() -> None:
    rows = []
    for part, start in (("cars: text", 0.1), ("cars: body", 0.5)):
        for shift, setting in enumerate(SETTINGS):
            row = {"part": part, "setting": setting, "area": start}
            for measure, more in (("flips", 0.0), ("attribution", 0.2)):
                value = start + more + 0.01 * shift
                row |= {f"{measure} value": value, f"{measure} low": value - 0.1, f"{measure} high": value + 0.1}
            rows.append(row)
    flips, attribution = figures.causal(pd.DataFrame(rows)).axes
    assert [bar.get_width() for bar in flips.patches] == pytest.approx([0.1, 0.5, 0.11, 0.51])
    assert [bar.get_width() for bar in attribution.patches] == pytest.approx([0.3, 0.7, 0.31, 0.71])
    assert [tick.get_text() for tick in flips.get_yticklabels()] == ["cars: text", "cars: body"]
    areas = attribution.collections[-1].get_segments()
    assert [segment[0][0] for segment in areas] == pytest.approx([0.1, 0.5])
    assert flips.yaxis_inverted()


def test_one_picture_says_what_is_deleted_and_what_that_does() -> None:
    image, checks = torch.full((3, 32, 32), 0.5), MaskChecks(*torch.tensor([[0.25], [0.9], [0.1], [0.1], [0.0]]))
    found = Found(torch.full((1, 32, 32), 0.25), torch.zeros(1, 28, 28), checks, torch.zeros(1, dtype=torch.bool))
    figure = figures.one_picture(image, {ZERO_SHOT: found, FINE_TUNED: found}, Recipe().at(32))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["zero-shot", "deletes 25% of it", "cosine 0.90 → 0.10"]
    assert titles[5] == "probability 0.90 → 0.10"
    np.testing.assert_array_equal(figure.axes[1].images[1].get_array(), found.maps[0])
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), 0.5, atol=1e-6)  # blurred, one colour is the same
