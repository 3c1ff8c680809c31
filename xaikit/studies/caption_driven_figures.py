"""The pictures of notebook 01."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from xaikit.companion.plots import BLACK, BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, pictures_of
from xaikit.metrics.intervals import Interval
from xaikit.studies.caption_driven_grid import INSTRUMENTS, Known

# Who is who in every figure of this notebook.
SHAPE, COLOUR = BLUE, VERMILLION
MODEL = {"biased": ORANGE, "unbiased": GREEN}


def similarity_matrix(
    ax: Axes,
    values: Float[Tensor, "captions images"],
    captions: Sequence[str],
    images: Float[Tensor, "images 3 height width"],
    *,
    decimals: int = 2,
) -> None:
    """Show similarities [captions, images] as in CLIP's paper: images on top, captions at the left.

    The highest value of each column, the caption that an image gets, is outlined.
    Raises ValueError if the captions are not one a row, or image values lie outside 0..1.
    """
    if len(captions) != len(values):
        raise ValueError(f"There are {len(captions)} captions for {len(values)} rows of values: give one each.")
    pictures = pictures_of(images)
    table = values.detach().cpu().numpy()
    heat = ax.imshow(table, cmap="viridis")
    height = 0.94 * images.shape[2] / images.shape[3]
    for column, picture in enumerate(pictures):
        ax.imshow(picture, extent=(column - 0.47, column + 0.47, -0.6, -0.6 - height))
        winner = int(table[:, column].argmax())
        ax.add_patch(Rectangle((column - 0.46, winner - 0.46), 0.92, 0.92, fill=False, color=VERMILLION, lw=2))
        for row, value in enumerate(table[:, column]):
            light = heat.norm(value) > 0.6  # where viridis turns from dark to light
            ax.text(
                column,
                row,
                f"{value:.{decimals}f}",
                ha="center",
                va="center",
                color=DARK if light else "white",
            )
    ax.set_anchor("NW")  # centred, the square cells would let the layout cut long captions off
    ax.set_xlim(-0.5, len(pictures) - 0.5)
    ax.set_ylim(len(captions) - 0.5, -0.65 - height)
    ax.set_xticks([])
    ax.set_yticks(range(len(captions)), captions, parse_math=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


# Kinds of networks whose use of colour is known; told apart by shape as well as by colour.
_KIND = {
    "biased": ("o", ORANGE),
    "unbiased": ("s", GREEN),
    "shape user": ("^", BLUE),
    "colour in part": ("o", SKY),
    "head for colour": ("D", VERMILLION),
    "head for shape": ("D", BLACK),
    "untrained": ("X", GREY),
    "shuffled labels": ("P", PURPLE),
}


def marker(kind: str) -> tuple[str, dict[str, Any]]:
    """How a kind of network is drawn: matplotlib's marker, and its colour as a keyword."""
    form, colour = _KIND[kind]
    return form, {"color": colour, "linestyle": "none"}


def instruments(
    networks: Sequence[Known],
    readings: Mapping[str, Mapping[str, Float[np.ndarray, " images"]]],
    ranked: Mapping[str, Interval],
    alarms: Mapping[str, int],
) -> Figure:
    """Explanation against truth, one panel an instrument: each point a network, by kind.

    Above each panel stand its rank correlation over networks and how many of those that learned nothing it calls users
    of colour.
    """
    columns = 4
    rows = -(-len(INSTRUMENTS) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12.5, 3.0 * rows), sharex=True, squeeze=False)
    idle = sum(network.kind in ("untrained", "shuffled labels") for network in networks)
    for ax, (instrument, title) in zip(axes.flat, INSTRUMENTS.items(), strict=False):
        for network in networks:
            form, look = marker(network.kind)
            value = readings[instrument][network.name].mean()
            ax.plot(network.truth, value, form, markersize=7, markeredgecolor="white", label=network.kind, **look)
        heads = [network for network in networks if network.kind.startswith("head")]
        ends = [(each.truth, readings[instrument][each.name].mean()) for each in heads]
        ax.plot(*zip(*ends, strict=True), color=BLACK, linewidth=0.8, linestyle=":", zorder=0)
        rank = f"rank correlation {ranked[instrument].value:.2f}" if instrument in ranked else "no order"
        ax.set_title(f"{title}\n{rank}\nfalse alarms {alarms[instrument]} of {idle}", fontsize=9)
        ax.set_xlim(-0.05, 1.05)
        ax.margins(y=0.12)
    for ax in axes.flat[len(INSTRUMENTS) :]:
        ax.axis("off")
    for ax in axes.flat[: len(INSTRUMENTS)][-columns:]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("truth: answers that flip")
    for row in axes:
        row[0].set_ylabel("explanation")
    found = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    names = [kind for kind in _KIND if kind in found]
    place = "outside lower center" if len(INSTRUMENTS) % columns == 0 else "lower right"
    figure.legend([found[name] for name in names], names, title="kind of network (dotted: one backbone, two heads)",
        loc=place, ncols=4 if place.startswith("outside") else 2)  # fmt: skip
    return figure


def schematic(
    source: Mapping[str, tuple[int, int, int]],
    target: Mapping[str, tuple[int, int, int]],
    chosen: Int64[Tensor, " maps"],
) -> Figure:
    """The surgery as it is: standalone layers of one map size at the left, CLIP's stages at the right, to scale.

    A band is as high at the right as the stage has maps from that group of layers.
    """
    groups: dict[str, list[int]] = {}
    start = 0
    for channels, height, width in source.values():
        groups.setdefault(f"{height} × {width}", []).extend(range(start, start + channels))
        start += channels
    tints = [plt.get_cmap("cividis")(i / max(len(groups) - 1, 1)) for i in range(len(groups))]
    figure, ax = plt.subplots(figsize=(9.5, 5.4))
    gap, total = 0.04, 1.0
    of_group, place = {}, total + 0.055
    left, bottom = (total - gap * (len(groups) - 1)) / start, total
    for (name, maps), tint in zip(groups.items(), tints, strict=True):
        height = left * len(maps)
        ax.add_patch(Rectangle((0, bottom - height), 0.12, height, color=tint))
        layers = sum(f"{h} × {w}" == name for _, h, w in source.values())
        place = min(bottom - height / 2, place - 0.055)
        convolutions = "convolution" if layers == 1 else "convolutions"
        ax.text(-0.02, place, f"{layers} {convolutions}, {name}, {len(maps):,} maps", ha="right", va="center")
        of_group[name] = (bottom - height, height, set(maps), tint)
        bottom -= height + gap
    count = sum(channels for channels, _, _ in target.values())
    right, bottom, first, place = (total - gap * (len(target) - 1)) / count, total, 0, total + 0.1
    choices = chosen.tolist()
    for stage, (channels, rows, columns) in target.items():
        mine = choices[first : first + channels]
        height = right * channels
        ax.add_patch(Rectangle((0.88, bottom - height), 0.12, height, color=GREY))
        text = f"{stage}, {rows} × {columns}, {channels:,} maps:\n{len(set(mine)):,} different ones inside"
        place = min(bottom - height / 2, place - 0.1)
        ax.text(1.02, place, text, ha="left", va="center")
        top = bottom
        for low, group_height, maps, tint in of_group.values():
            share = sum(each in maps for each in mine) * right
            if share:
                middle = low + group_height / 2
                band = [
                    (0.12, middle + group_height / 2),
                    (0.88, top),
                    (0.88, top - share),
                    (0.12, middle - group_height / 2),
                ]
                ax.add_patch(Polygon(band, color=tint, alpha=0.3, linewidth=0))
            top -= share
        bottom -= height + gap
        first += channels
    ax.text(0.06, 1.07, "standalone ResNet-50", ha="center")
    ax.text(0.94, 1.07, "CLIP image tower", ha="center")
    ax.text(0.94, -0.08, "attention pooling, cosines with captions", ha="center", color=DARK)
    ax.set(xlim=(-0.6, 1.42), ylim=(-0.12, 1.13))
    ax.axis("off")
    return figure
