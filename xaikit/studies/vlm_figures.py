"""The figures of notebook 03."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from xaikit.companion import plots
from xaikit.perturbation.search import Recipe, blurred
from xaikit.studies.vlm_explanations import FINE_TUNED, PROTOCOLS, ZERO_SHOT, Found, Maps
from xaikit.studies.vlm_planted import Planted

COLOURS = {ZERO_SHOT: plots.BLUE, FINE_TUNED: plots.ORANGE}
Triple = tuple[str, Float[Tensor, "3 height width"], Float[Tensor, "height width"], Float[Tensor, "height width"]]


def triples(
    titles: Sequence[str],
    images: Float[Tensor, "images 3 height width"],
    both: Sequence[Maps],
    which: Iterable[int],
) -> list[Triple]:
    """What `gallery` shows of the pictures at the positions `which`, those that there are: titles, pictures, maps.

    `both` are the maps of all pictures in the zero-shot and in the fine-tuned setting.
    """
    zero_shot, fine_tuned = both
    return [(titles[i], images[i].cpu(), zero_shot[i], fine_tuned[i]) for i in which if i < len(images)]


def gallery(parts: Sequence[Triple], columns: int) -> Figure:
    """Triples of picture, zero-shot map and fine-tuned map, `columns` triples a row; a map is black at 0."""
    rows = -(-len(parts) // columns)
    figure, axes = plt.subplots(rows, 3 * columns, figsize=(3.3 * columns, 1.3 * rows + 0.2), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for place, (title, image, *both) in enumerate(parts):
        row, start = axes[place // columns], 3 * (place % columns)
        _picture(row[start], image)
        row[start].set_title(title, fontsize=9)
        for ax, own in zip(row[start + 1 : start + 3], both, strict=True):
            plots.overlay(ax, image, own).set_clim(0, 1)
    for start in range(0, 3 * columns, 3):
        axes[0, start + 1].set_title(ZERO_SHOT, fontsize=9, color=plots.BLUE)
        axes[0, start + 2].set_title(FINE_TUNED, fontsize=9, color=plots.VERMILLION)
    return figure


def planted(readers: Mapping[str, tuple[Planted, Found]], size: int) -> Figure:
    """Three pictures of each planted reader, of `size` pixels a side, and below each the map of its answer."""
    figure, axes = plt.subplots(2, 3 * len(readers), figsize=(3.0 * len(readers), 2.3))
    for place, (name, (reader, each)) in enumerate(readers.items()):
        for column in range(min(3, len(each.maps))):
            shown = reader.scenes[column].image(size)
            image = torch.from_numpy(shown.copy()).permute(2, 0, 1).float() / 255
            top, below = axes[:, 3 * place + column]
            _picture(top, image)
            plots.overlay(below, image, each.maps[column]).set_clim(0, 1)
        axes[0, 3 * place + 1].set_title(f"reads only the {name}", fontsize=9)
    for ax in axes.flat:
        ax.axis("off")
    return figure


def deletion(table: pd.DataFrame) -> Figure:
    """Figure 4, of the table of `vlm_numbers.deletion`: a panel for each task (down) and protocol (across).

    In each a pair of bars, zero-shot and fine-tuned, for the maps and, pale, for every other order.
    """
    tasks = list(table.task.unique())
    figure, axes = plt.subplots(len(tasks), 2, figsize=(10, 3.0 * len(tasks)), sharex="col", squeeze=False)
    for column, protocol in zip(axes.T, PROTOCOLS, strict=True):
        for ax, name in zip(column, tasks, strict=True):
            mine = table[(table.protocol == protocol) & (table.task == name)]
            for place, (order, group) in enumerate(mine.groupby("order", sort=False)):
                for shift, row in zip((-0.2, 0.2), group.itertuples(), strict=True):
                    _bar(ax, place + shift, row, width=0.36, color=COLOURS[row.setting],
                         alpha=1 if order == "map" else 0.35, label=row.setting if not place else None)  # fmt: skip
            ax.set_xticks(range(mine.order.nunique()), [each.replace(" ", "\n") for each in mine.order.unique()])
            ax.set_title(f"{name}, {protocol.replace('-', ' ')}")
            ax.axhline(1 if protocol == "corrected" else 0, color=plots.GREY, linestyle="--", linewidth=1)
            ax.set_ylabel("probability / random" if protocol == "corrected" else "own score / its maximum")
    axes[0, 0].legend(loc="upper left")
    return figure


def masked_faces(table: pd.DataFrame) -> Figure:
    """Figure 5, of the table of `vlm_numbers.masked_faces`: a panel for each protocol; hatched is behind the patch."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for ax, protocol in zip(axes, PROTOCOLS, strict=True):
        mine = table[table.protocol == protocol]
        for place, row in enumerate(mine.itertuples()):
            hatch = "///" if row.pictures == "masked" else None
            _bar(ax, place, row, color=COLOURS[row.setting], hatch=hatch, edgecolor="white")
        ax.set_xticks(range(len(mine)), [f"{row.setting}\n{row.pictures}" for row in mine.itertuples()], fontsize=8)
        ax.set_title(protocol.replace("-", " "))
    axes[0].set_ylabel("deletion, own score / its maximum")
    axes[1].set_ylabel("deletion, probability / random order")
    return figure


def causal(table: pd.DataFrame) -> Figure:
    """What flips answers beside what gets the attribution, by part, of the table of `vlm_numbers.causal`.

    Bars with intervals, zero-shot and fine-tuned; the grey ticks are the areas of the parts.
    """
    parts = list(dict.fromkeys(table.part))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
    titles = {"flips": "share of answers that flip", "attribution": "share of the attribution"}
    for ax, (measure, title) in zip(axes, titles.items(), strict=True):
        for shift, (setting, mine) in zip((-0.18, 0.18), table.groupby("setting", sort=False), strict=True):
            places = [parts.index(part) + shift for part in mine.part]
            ax.barh(places, mine[f"{measure} value"], 0.34, color=COLOURS[setting], label=setting)
            ax.hlines(places, mine[f"{measure} low"], mine[f"{measure} high"], color=plots.BLACK, linewidth=1.2)
        ax.set_title(title)
    area = table.groupby("part", sort=False).area.first()
    axes[1].vlines(area, np.arange(len(parts)) - 0.4, np.arange(len(parts)) + 0.4, color=plots.GREY, linewidth=3,
                   label="area of the part")  # fmt: skip
    for ax in axes:
        ax.set_xlim(0)
    axes[0].set_yticks(range(len(parts)), parts)
    axes[0].invert_yaxis()
    axes[0].legend(*axes[1].get_legend_handles_labels(), loc="upper right")
    return figure


def one_picture(image: Float[Tensor, "3 height width"], both: Mapping[str, Found], recipe: Recipe) -> Figure:
    """One picture, and for each setting (a row) its map and what is left of the picture; `both` hold it alone.

    Above each stand the score before and after, and the share of the picture that is deleted.
    """
    figure, axes = plt.subplots(len(both), 3, figsize=(6.6, 2.5 * len(both)), squeeze=False)
    hidden = blurred(image[None], recipe)[0]
    for (picture, heat, left), (setting, found) in zip(axes, both.items(), strict=True):
        own = found.maps[0].cpu()
        _picture(picture, image)
        picture.set_title(setting, fontsize=10)
        plots.overlay(heat, image, own).set_clim(0, 1)
        heat.set_title(f"deletes {found.size[0]:.0%} of it", fontsize=9)
        _picture(left, (1 - own) * image + own * hidden)
        score = {ZERO_SHOT: "cosine", FINE_TUNED: "probability"}[setting]
        left.set_title(f"{score} {found.checks.before[0]:.2f} → {found.checks.after[0]:.2f}", fontsize=9)
    return figure


def _picture(ax: Axes, image: Float[Tensor, "3 height width"]) -> None:
    """An image as `plots.overlay` shows it, with nothing over it."""
    plots.overlay(ax, image, torch.zeros(image.shape[1:]), alpha=0.0)


def _bar(ax: Axes, place: float | int, row: Any, **look: Any) -> None:
    """A bar as high as the value of a table's row, with its interval."""
    ax.bar(place, row.value, **look)
    ax.plot([place] * 2, [row.low, row.high], color=plots.BLACK, linewidth=1.2)
