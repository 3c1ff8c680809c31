"""The pictures of notebook 01."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from xaikit.companion import plots
from xaikit.companion.plots import BLACK, BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, pictures_of
from xaikit.metrics.heatmaps import normalise
from xaikit.metrics.intervals import Interval
from xaikit.studies.caption_driven_grid import INSTRUMENTS, Known
from xaikit.surgery.transplant import Choice

Shape = tuple[int, int, int]  # of a layer's maps: how many, height, width

# Who is who in every figure of this notebook.
SHAPE, COLOUR = BLUE, VERMILLION
CUE = {"colour": COLOUR, "shape": SHAPE}
MODEL = {"biased": ORANGE, "unbiased": GREEN}
SETS = {"train": SKY, "validation": BLUE, "test": GREEN, "real world": VERMILLION}


def learning_curves(curves: pd.DataFrame) -> Figure:
    """The accuracy of each of the `SETS` over the epochs, the mean of all folds in a band from the least to the most.

    `curves` has the columns epoch, set and accuracy (`caption_driven_tables.curves`).
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.6))
    sns.lineplot(
        curves, x="epoch", y="accuracy", hue="set", style="set", markers=True, dashes=False, ax=ax,
        hue_order=list(SETS), style_order=list(SETS), errorbar=("pi", 100), palette=list(SETS.values()),
    )  # fmt: skip
    ax.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    ax.text(ax.get_xlim()[1], 0.49, "chance ", color=DARK, ha="right", va="top")
    ax.set(xlabel="epoch", ylabel="accuracy", ylim=(0.4, 1.02))
    ax.set_title("Biased standalone model, all folds (band: range)")
    ax.legend(title="", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def open_maps(standalone: Mapping[str, Shape], clip: Mapping[str, Shape]) -> Figure:
    """How many maps each layer of both networks offers for swapping, tinted by their size."""
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), height_ratios=(2, 1.1))
    networks = {"standalone ResNet-50": standalone, "CLIP image tower": clip}
    for ax, (where, layers) in zip(axes, networks.items(), strict=True):
        maps, heights, _ = zip(*layers.values(), strict=True)
        sizes = sorted(set(heights), reverse=True)
        tints = {size: plt.get_cmap("cividis")(i / max(len(sizes) - 1, 1)) for i, size in enumerate(sizes)}
        width = 0.8 if len(layers) > 9 else 0.4
        ax.bar(range(1, len(layers) + 1), maps, color=[tints[height] for height in heights], width=width)
        handles = [Rectangle((0, 0), 1, 1, color=tints[size]) for size in sizes]
        ax.legend(handles, [f"{size} × {size}" for size in sizes], title="map size", ncols=len(sizes), loc="upper left")
        ax.set(title=f"{where}: {sum(maps):,} maps in {len(layers)} layers", ylabel="maps")
        ax.margins(y=0.45)
    axes[0].set_xlabel("convolution, from the input on")
    axes[1].set(xlabel="stage", xticks=range(1, 5), xlim=(0.3, 4.7))
    return figure


def matches(choices: Mapping[str, Choice], stages: Mapping[str, slice]) -> Figure:
    """For each of the `MODEL`s and each map of CLIP, stage by stage: the best score, and which map was chosen."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 5.2), sharex=True, sharey="row")
    for (score, source), (name, choice) in zip(axes.T, choices.items(), strict=True):
        look = {"s": 3, "color": MODEL[name], "linewidths": 0}
        score.scatter(range(len(choice.score)), choice.score, **look)
        source.scatter(range(len(choice.source)), choice.source, alpha=0.4, **look)
        smooth = uniform_filter1d(choice.source.double().numpy(), 42, mode="nearest")
        source.plot(smooth, color=BLACK, linewidth=1.2, label="moving average, 42 maps")
        score.set_title(f"{name} model")
        source.set_xlabel("CLIP map, stage by stage")
        for ax in (score, source):
            for span in list(stages.values())[1:]:
                ax.axvline(span.start, color=GREY, linewidth=0.8)
    axes[0, 0].set_ylabel("best score $\\max_i Z_{ij}$", parse_math=True)
    axes[1, 0].set_ylabel("chosen standalone map $i$", parse_math=True)
    axes[1, 1].legend(loc="upper left")
    return figure


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


def similarity_matrices(
    readings: Mapping[str, Float[Tensor, "images captions"]],
    captions: Sequence[str],
    images: Float[Tensor, "images 3 height width"],
) -> Figure:
    """A `similarity_matrix` below the other for each of three readings of the same images, under its name.

    Raises ValueError as `similarity_matrix` does.
    """
    figure, axes = plt.subplots(3, 1, figsize=(7.5, 9.6))
    for ax, (title, values) in zip(axes, readings.items(), strict=True):
        similarity_matrix(ax, values.T, captions, images)
        ax.set_title(title, loc="left")
    return figure


def two_heads(
    readings: Mapping[str, Float[Tensor, "images captions"]],
    captions: Sequence[str],
    images: Float[Tensor, "images 3 height width"],
) -> Figure:
    """A `similarity_matrix` beside the other for each of three readings of the same images; the captions stand once.

    Raises ValueError as `similarity_matrix` does.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6))
    for ax, (title, values) in zip(axes, readings.items(), strict=True):
        similarity_matrix(ax, values.T, captions, images, decimals=3)
        ax.set_title(title, loc="left")
        if ax is not axes[0]:
            ax.set_yticks([])
    return figure


def captions_of_one(
    image: Float[Tensor, "3 height width"],
    captions: Sequence[str],
    before: Float[Tensor, " captions"],
    after: Mapping[str, Float[Tensor, " captions"]],
    title: str,
) -> Figure:
    """One digit and, for each of the `MODEL`s inside of CLIP, its captions' cosines before (rings) and after (points).

    Raises ValueError if image values lie outside 0..1.
    """
    figure, axes = plt.subplots(1, 1 + len(after), figsize=(11, 2.6), width_ratios=(0.6, *[1] * len(after)))
    axes[0].imshow(pictures_of(image[None])[0])
    axes[0].axis("off")
    axes[0].set_title(title)
    places, start = range(len(captions)), before.detach().cpu().numpy()
    for ax, (name, values) in zip(axes[1:], after.items(), strict=True):
        end = values.detach().cpu().numpy()
        ax.hlines(places, start, end, color=GREY, linewidth=1.5, zorder=0)
        ax.plot(start, places, "o", color=BLACK, fillstyle="none", label="CLIP before")
        ax.plot(end, places, "o", color=MODEL[name], label="after")
        ax.set(title=f"{name} model inside", xlabel="cosine with the caption", xlim=(-0.35, 1.0))
        ax.set_yticks(places, captions if ax is axes[1] else [""] * len(captions), parse_math=False)
        ax.set_ylim(len(captions) - 0.5, -0.5)
    axes[1].legend(loc="upper left", bbox_to_anchor=(0, -0.25), ncols=2)
    return figure


def three_scores(shares: Mapping[tuple[str, str, str], Interval], printed: Mapping[tuple[str, str], float]) -> Figure:
    """What the captions say of both `MODEL`s, cue beside cue, by three ways of scoring.

    `shares` has an interval for each (measure, model, cue), `printed` what the paper has of (model, cue).
    """
    panels = {
        "as published": "share of the highest difference,\nas published",
        "indexing mended": "the same,\nindexing mended",
        "accuracy": "right caption beats wrong one,\ncorrected protocol",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True)
    for ax, (measure, title) in zip(axes, panels.items(), strict=True):
        for cue, at in (("colour", -0.17), ("shape", 0.17)):
            values = [shares[measure, name, cue] for name in MODEL]
            places = [place + at for place in range(2)]
            ax.bar(places, [v.value for v in values], width=0.3, color=CUE[cue], alpha=0.35, label=cue)
            ax.vlines(places, [v.low for v in values], [v.high for v in values], color=CUE[cue], linewidth=2)
            if measure == "as published":
                paper = [printed[name, cue] for name in MODEL]
                label = "in the paper" if cue == "shape" else None
                ax.plot(places, paper, "D", color=BLACK, fillstyle="none", markersize=8, label=label)
        ax.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        ax.set(title=title, xticks=(0, 1), xticklabels=[f"{name} model" for name in MODEL], ylim=(0, 1.05))
    axes[0].set_ylabel("fraction of images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def loop(
    trained_on: Mapping[str, Float[Tensor, "two 3 height width"]],
    right: Mapping[str, Mapping[str, Interval]],
    said: Mapping[str, Mapping[str, Interval]],
) -> Figure:
    """The paper's loop in six panels: for each of the `MODEL`s two training digits, its accuracies, its captions.

    `right` has the accuracy of a model on each colouring, `said` how often the right caption of each cue wins.
    """
    figure = plt.figure(figsize=(14, 3.4))
    layout = figure.add_gridspec(2, 6, width_ratios=(0.8, 1.6, 0.9, 0.8, 1.6, 0.9))
    for column, name in ((0, "biased"), (3, "unbiased")):
        for row in (0, 1):
            ax = figure.add_subplot(layout[row, column])
            ax.imshow(pictures_of(trained_on[name])[row])
            ax.axis("off")
            if row == 0:
                ax.set_title(f"{column + 1}. train on\n{'coloured' if name == 'biased' else 'grey'} digits")
        ax = figure.add_subplot(layout[:, column + 1])
        schemes, intervals = list(right[name]), list(right[name].values())
        plots.interval_bars(ax, schemes, intervals, colours=[MODEL[name]] * len(schemes), chance=0.5)
        ax.set(xlim=(-0.03, 1.03), xlabel="accuracy in the real world", title=f"{column + 2}. {name} model")
    for column, name in ((2, "biased"), (5, "unbiased")):
        ax = figure.add_subplot(layout[:, column])
        shares = [said[name][cue] for cue in CUE]
        ax.bar(list(CUE), [each.value for each in shares], color=list(CUE.values()), alpha=0.6)
        ends = [each.low for each in shares], [each.high for each in shares]
        ax.vlines(range(2), *ends, color=list(CUE.values()), linewidth=2)
        ax.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1.05), title=f"{column + 1}. the captions say", ylabel="right caption beats wrong one")
    return figure


def cue_panels(rows: pd.DataFrame, place: str) -> Figure:
    """One panel for each of the `MODEL`s: how often both cues are read rightly, for each value of the column `place`.

    `rows` has the columns model, cue, value, low and high too.
    """
    places = list(rows[place].unique())
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 1.2 + 0.42 * len(places)), sharey=True)
    for ax, model in zip(axes, MODEL, strict=True):
        mine = rows[rows.model == model]
        plots.grouped_intervals(ax, mine, place=place, group="cue", places=places, colours=CUE, chance=0.5)
        ax.set(title=f"{model} model", xlim=(-0.03, 1.03), xlabel="right caption beats wrong one")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def two_by_two(rows: pd.DataFrame) -> Figure:
    """One panel for each of three measures: models and inputs crossed; a measure without a value says so.

    `rows` has the columns model, cell, measure, value, low and high.
    """
    cells = list(rows.cell.unique())
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharex=True, sharey=True)
    for ax, measure in zip(axes, ("colour share, as published", "colour, corrected", "shape, corrected"), strict=True):
        mine = rows[rows.measure == measure]
        for name, tint in (*MODEL.items(), ("unbiased, bare", SKY)):
            colours = {name: tint}
            plots.grouped_intervals(ax, mine, place="cell", group="model", places=cells, colours=colours, chance=0.5)
        for missing in set(cells) - set(mine.cell):
            ax.text(0.02, cells.index(missing), "grey has no right colour", color=DARK, va="center")
        ax.set(title=measure, xlim=(-0.03, 1.03), xlabel="fraction of images")
    return figure


def heat_maps(
    images: Float[Tensor, "images 3 height width"],
    maps: Mapping[str, Float[Tensor, "images map_height map_width"]],
) -> Figure:
    """Images on top, and a row below for each model with its attributions laid over them.

    Raises ValueError as `overlay` does.
    """
    figure, axes = plt.subplots(1 + len(maps), len(images), figsize=(1.5 * len(images) + 0.8, 4.6))
    for column, picture in enumerate(pictures_of(images)):
        axes[0, column].imshow(picture)
    for row, attributions in enumerate(maps.values(), start=1):
        for column, attribution in enumerate(normalise(attributions)):
            plots.overlay(axes[row, column], images[column], attribution)
    for row, label in enumerate(("digit", *[f"{name}\nmodel" for name in maps])):
        for ax in axes[row]:
            ax.axis("off")
        axes[row, 0].text(-0.15, 0.5, label, va="center", ha="right", transform=axes[row, 0].transAxes)
    return figure


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


def dose_response(
    networks: Sequence[Known], readings: Mapping[str, Mapping[str, Float[np.ndarray, " images"]]]
) -> Figure:
    """What repainting and three explanations make of networks, over how often colour and digit agreed in training.

    Networks are left out whose training had no such strength. The unbiased model, which learned from grey, stands
    left of all.
    """
    panels = {
        None: "truth: answers that flip",
        "published": "colour share, as published",
        "dominance": "colour minus shape, corrected",
        "dimmed": "shape caption flips, maps dimmed",
    }
    doses = [each for each in networks if each.kind in ("colour in part", "biased", "unbiased", "shape user")]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
    for ax, (instrument, title) in zip(axes, panels.items(), strict=True):
        for network in doses:
            number = network.name.removeprefix("p = ").split(",")[0]
            strength = {"biased": 1.0, "shape user": 0.5, "unbiased": 0.4}.get(network.name) or float(number)
            value = network.truth if instrument is None else readings[instrument][network.name].mean()
            form, look = marker(network.kind)
            ax.plot(strength, value, form, markersize=8, markeredgecolor="white", **look)
        ax.set(title=title, xlabel="colour agrees with the digit", xticks=(0.4, 0.5, 0.75, 1.0))
        ax.set_xticklabels(["grey", "0.5", "0.75", "1"])
    return figure


def schematic(
    source: Mapping[str, Shape],
    target: Mapping[str, Shape],
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
