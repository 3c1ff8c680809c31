"""The pictures of notebook 04."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from xaikit.companion.plots import BLACK, BLUE, DARK, GREEN, GREY, ORANGE, SKY, VERMILLION, overlay
from xaikit.decomposition.textspan import TextSpan
from xaikit.metrics.heatmaps import normalise
from xaikit.studies.clip_asked import Several
from xaikit.studies.clip_decomposition import Head, Labels, name_of
from xaikit.studies.clip_heads import Chosen, HeadTexts
from xaikit.studies.clip_tables import Row

_MEANS = {"corrected": (BLUE, "o-", 4), "as-published": (ORANGE, "s--", 9)}  # colour, line and size of the marker
_POOLS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (BLACK, "^"))
_TITLES = {"two-topic": "labels by texts as published", "one-topic": "labels by texts of one topic"}


def cumulative_ablation(curves: Mapping[str, Sequence[Row]], chance: Mapping[str, float]) -> Figure:
    """Accuracy over the number of attention layers replaced by their mean, from the first; a panel for each model."""
    figure, axes = plt.subplots(1, len(curves), figsize=(6.4 * len(curves), 3.6), sharey=True, squeeze=False)
    for ax, (name, rows) in zip(axes[0], curves.items(), strict=True):
        table = pd.DataFrame(rows)
        for protocol, (colour, marker, size) in _MEANS.items():
            mine = table[table.means == protocol]
            ax.fill_between(mine.layers, mine.low, mine.high, color=colour, alpha=0.2, linewidth=0)
            ax.plot(
                mine.layers, mine.value, marker, color=colour, label=f"means {protocol}", markersize=size, mfc="none"
            )
        ax.axhline(chance[name], color=GREY, linestyle="--", linewidth=1)
        ax.text(0, chance[name] + 0.015, "chance", color=DARK)
        ax.set(xlabel="attention layers replaced by their mean, from the first", ylim=(0, 1.02))
        if len(curves) > 1:
            ax.set_title(name)
    axes[0, 0].set_ylabel("zero-shot accuracy")
    axes[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 0.12))
    return figure


# --- texts and roles ----------------------------------------------------------------------------------------------


def pools(rows: pd.DataFrame, in_full: float) -> Figure:
    """Accuracy over the directions that each head keeps, by pool; a dashed line is that of the heads `in_full`."""
    figure, ax = plt.subplots(figsize=(6.8, 4))
    sizes = rows.texts.unique().tolist()
    for name, (colour, marker) in zip(rows.pool.unique(), _POOLS, strict=True):
        mine = rows[rows.pool == name]
        ax.fill_between(mine.texts, mine.low, mine.high, color=colour, alpha=0.15, linewidth=0)
        label = f"{name} ({mine['in the pool'].iloc[0]:,})"
        ax.plot(mine.texts, mine.value, marker + "-", color=colour, markersize=4, label=label)
    ax.axhline(in_full, color=GREY, linestyle="--", linewidth=1)
    ax.text(sizes[0], in_full - 0.02, "heads in full", color=DARK, va="top")
    ax.set(xlabel="directions for each head, m", ylabel="zero-shot accuracy", ylim=(0, 1.02), xscale="log")
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.legend(title="pool (texts in it)", loc="lower right")
    return figure


def span_of_head(head: str, spans: Mapping[str, TextSpan], row: int, texts: Sequence[str], m: int) -> Figure:
    """How much of a head's variance its first texts explain, by pool, and the first `m` texts of the first pool.

    `row` is the head's in the spans, `texts` are those of the first pool; a bar says what each text adds.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1, 1))
    for (name, span), (colour, marker) in zip(spans.items(), _POOLS, strict=False):
        explained = span.explained[row].numpy()
        left.plot(range(1, len(explained) + 1), explained, marker + "-", color=colour, markersize=4, label=name)
    left.axvline(m, color=VERMILLION, linewidth=1, zorder=0)
    left.set(
        xlabel="texts or random directions, m",
        ylabel="share of the head's variance explained",
        ylim=(0, 1.02),
        title=head,
    )
    left.legend(title="pool", loc="lower right")

    span = next(iter(spans.values()))
    picks = [int(pick) for pick in span.picks[row, :m] if pick >= 0]
    added = np.diff(span.explained[row, : len(picks)].numpy(), prepend=0.0)
    right.barh(range(len(picks)), added, color=BLUE)
    right.set_yticks(range(len(picks)), [texts[pick].removeprefix("a photo of ") for pick in picks], fontsize=8)
    right.set(xlim=(0, 1), ylim=(span.picks.shape[1] - 0.5, -0.5), xlabel="share that each text adds")
    total = float(added.sum())
    right.set_title(f"{len(picks)} {'text' if len(picks) == 1 else 'texts'} explain {total:.2f}", loc="left")
    return figure


def specialisation(
    effects: Mapping[str, Float[np.ndarray, " heads"]],
    oracle: Mapping[Head, str],
    labels: Mapping[str, Labels],
    last: int,
) -> Figure:
    """Heads by factors: the share of variance that redrawing gives, and marks where each draw of texts puts the label.

    A mark is blue where the label is the factor that moves the head most (`oracle`). A line stands above the `last` so
    many heads.
    """
    heads = list(oracle)
    carried = pd.DataFrame(effects, index=[name_of(head) for head in heads])
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.17 * len(heads) + 2), sharey=True, width_ratios=(1, 1.12))
    for ax, (kind, mine) in zip(axes, labels.items(), strict=True):
        bar = {"label": "moved by redrawing it: share of the head's variance", "shrink": 0.6}
        sns.heatmap(carried, ax=ax, cmap="Greys", vmin=0, vmax=1, cbar=kind == "one-topic", cbar_kws=bar)
        for number, (drawn, mark) in enumerate(zip(mine.draws, "osD", strict=True)):
            there = [(row, list(carried).index(role.topic)) for row, role in enumerate(drawn) if role.topic in carried]
            right = [oracle[heads[row]] == carried.columns[column] for row, column in there]
            for hit, colour, what in (
                (True, BLUE, "what moves it most"),
                (False, VERMILLION, "something else"),
            ):
                rows, columns = ([each[i] for each, ok in zip(there, right, strict=True) if ok == hit] for i in (0, 1))
                ax.scatter(np.array(columns) + 0.2 + 0.3 * number, np.array(rows) + 0.5, s=20, marker=mark,
                           color=colour, edgecolor="white", linewidth=0.5,
                           label=f"draw {number + 1} says {what}")  # fmt: skip
        ax.axhline(len(heads) - last, color=GREEN, linewidth=1.5)
        ax.set_title(_TITLES[kind])
        ax.set_ylabel("")
        ax.tick_params(axis="y", rotation=0, labelsize=7)
        ax.tick_params(axis="x", rotation=45)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


# --- heads and the pictures ---------------------------------------------------------------------------------------


def retrieval(
    images: Any, chosen: Sequence[Chosen], gallery: Mapping[str, Sequence[int]], rows: pd.DataFrame, k: int
) -> Figure:
    """For each head a query and its nearest pictures, and how often the topic's value is shared among `k` neighbours.

    `images` [i] are [3, height, width] in [0, 1], of which the `gallery` has the numbers; `rows` are those of
    `clip_heads.retrieved`.
    """
    size = (12, 1.4 * len(chosen))
    figure, axes = plt.subplots(len(chosen), 8, figsize=size, width_ratios=(1,) * 7 + (2.2,), squeeze=False)
    measured = rows[rows.value.notna()]
    for row, one in zip(axes, chosen, strict=True):
        for place, (ax, index) in enumerate(zip(row, gallery[one.name], strict=False)):
            ax.imshow(images[index].permute(1, 2, 0).numpy())
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=not place, color=VERMILLION, linewidth=2)
        row[0].set_ylabel(_label(one), rotation=0, ha="right", va="center")
        mine = measured[measured.topic == one.name]
        if mine.empty:
            row[7].axis("off")
            row[7].text(0, 0.5, "no labels", color=DARK, va="center")
            continue
        row[7].barh(mine.by, mine.value, color=[BLUE, SKY, GREY][: len(mine)])
        row[7].set(xlim=(0, 1), ylim=(2.6, -0.6))
        row[7].yaxis.tick_right()
        if one.name != measured.topic.iloc[-1]:
            row[7].set_xticklabels([])
    axes[0, 0].set_title("query")
    axes[0, 1].text(
        0, 1.06, "nearest neighbours by the head", transform=axes[0, 1].transAxes, fontsize=11, in_layout=False
    )
    axes[0, 7].set_title(f"same value among {k}")
    return figure


def _label(one: Chosen) -> str:
    if one.papers:
        return f"{one.topic}\n{name_of(one.head)}, the paper's: “{one.text}”"
    label = f"{one.topic}\n{name_of(one.head)}: " + textwrap.fill(f"“{one.text}”", 26)
    return label + ("" if one.clear else "\n(no clear role)")


def extremes(
    images: Any, chosen: Sequence[Chosen], texts: HeadTexts, written: Mapping[str, Float[Tensor, "images features"]]
) -> Figure:
    """For each head and its first text the six images whose contribution is most along the text, and least.

    `written` are the heads' contributions to `images`, [i] -> [3, height, width] in [0, 1].
    """
    size, ratios = (14, 1.35 * len(chosen)), (1,) * 6 + (0.3,) + (1,) * 6
    figure, axes = plt.subplots(len(chosen), 13, figsize=size, width_ratios=ratios, squeeze=False)
    for row, one in zip(axes, chosen, strict=True):
        text, direction = texts.first(one.head)
        order = (written[one.name] @ direction).argsort(descending=True)
        for ax, index in zip([*row[:6], *row[7:]], [*order[:6].tolist(), *order[-6:].tolist()], strict=True):
            _picture(ax, images[index])
        row[6].axis("off")
        label = f"{name_of(one.head)}\n" + textwrap.fill(f"“{text}”", 24)
        row[0].text(-0.15, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    for column, title in ((0, "highest"), (7, "lowest")):
        axes[0, column].set_title(title, loc="left")
    return figure


def text_maps(
    images: Float[Tensor, "images 3 height width"],
    texts: Sequence[str],
    maps: Float[Tensor, "images texts height width"],
) -> Figure:
    """Images in [0, 1], one a row, and over each the map of every text."""
    figure, axes = plt.subplots(len(images), len(texts) + 1, figsize=(1.7 * (len(texts) + 1), 1.75 * len(images)))
    for image, row, own in zip(images, axes, maps, strict=True):
        _picture(row[0], image)
        for ax, attribution in zip(row[1:], own, strict=True):
            overlay(ax, image, attribution)
    for ax, text in zip(axes[0, 1:], texts, strict=True):
        ax.set_title(text.replace("a photo of ", ""), fontsize=9, wrap=True)
    return figure


def head_maps(
    images: Float[Tensor, "images 3 height width"],
    chosen: Sequence[Chosen],
    texts: HeadTexts,
    tokens: Float[Tensor, "images heads tokens features"],
    among: int,
) -> Figure:
    """Images in [0, 1], one a row, by heads: the map of that of a head's first texts, `among` so many, which fits best.

    `tokens` are the contributions of the different heads of `chosen`, in their order, at each image token.
    """
    names: dict[Head, list[str]] = {}
    for one in chosen:
        names.setdefault(one.head, []).append(one.name)
    size = (2.3 * (len(names) + 1), 2.6 * len(images) + 0.5)
    figure, axes = plt.subplots(len(images), len(names) + 1, figsize=size, squeeze=False)
    for number, (image, row, own) in enumerate(zip(images, axes, tokens, strict=True)):
        _picture(row[0], image)
        for ax, (head, topics), written in zip(row[1:], names.items(), own, strict=True):
            text, attribution = texts.closest(head, written, among, tuple(image.shape[-2:]))
            overlay(ax, image, attribution)
            about = "" if number else f"{', '.join(topics)}: {name_of(head)}\n\n"
            ax.set_title(about + textwrap.fill(text.removeprefix("a photo of "), 24), fontsize=9)
    return figure


# --- segmentation -------------------------------------------------------------------------------------------------


def segmentation(
    images: Float[Tensor, "images 3 height width"],
    masks: Float[Tensor, "images height width"],
    maps: Mapping[str, Float[Tensor, "images height width"]],
) -> Figure:
    """Images in [0, 1], one a row, with the mask of their thing and the map of each method, stretched to 0…1."""
    size = (1.3 * (len(maps) + 2), 8 * len(images) / 6)
    figure, axes = plt.subplots(len(images), len(maps) + 2, figsize=size, squeeze=False)
    for number, (row, image) in enumerate(zip(axes, images, strict=True)):
        _picture(row[0], image)
        row[1].imshow(masks[number].numpy(), cmap="gray")
        row[1].axis("off")
        for ax, own in zip(row[2:], maps.values(), strict=True):
            overlay(ax, image, normalise(own[number][None])[0])
    for ax, name in zip(axes[0], ("image", "mask", *maps), strict=True):
        ax.set_title(name, fontsize=9)
    return figure


def asked(
    several: Several,
    maps: Mapping[str, Sequence[Float[Tensor, "height width"]]],
    absent: Sequence[Float[Tensor, "height width"]],
    pictures: Sequence[int] = (0, 1),
) -> Figure:
    """Each thing of some pictures: its mask, the map of each method for its text, and ours for what is `absent`."""
    rows = [row for row, (picture, _) in enumerate(several.asked) if picture in pictures]
    size = (1.35 * (len(maps) + 3), 1.55 * len(rows))
    figure, axes = plt.subplots(len(rows), len(maps) + 3, figsize=size)
    for axes_of_row, row in zip(axes, rows, strict=True):
        picture, thing = several.asked[row]
        image, place = several.images[picture], axes_of_row[0].transAxes
        axes_of_row[0].imshow(image.permute(1, 2, 0).numpy())
        text = textwrap.fill(_text_of(several, several.classes[picture][thing]), 14)
        axes_of_row[0].text(-0.08, 0.5, text, transform=place, ha="right", va="center", fontsize=9)
        axes_of_row[1].imshow(several.masks[picture][thing].numpy(), cmap="gray")
        for ax, own in zip(axes_of_row[2:], maps.values(), strict=False):
            overlay(ax, image, own[row])
        overlay(axes_of_row[-1], image, absent[row])
        axes_of_row[-1].set_title(f"ours, {_text_of(several, several.elsewhere()[row])}", fontsize=7.5)
        for ax in axes_of_row:
            ax.axis("off")
    for ax, name in zip(axes[0], ("picture", "asked for", *maps), strict=False):
        ax.set_title(name, fontsize=9)
    axes[0, -1].set_title("not there:\n" + axes[0, -1].get_title(), fontsize=7.5)
    return figure


def _text_of(several: Several, number: int) -> str:
    return several.prompts[number][0].removeprefix("a photo of ")


def _picture(ax: Axes, image: Float[Tensor, "3 height width"]) -> None:
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.axis("off")
