"""The pictures of notebook 02."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from xaikit.companion import plots
from xaikit.companion.plots import BLUE, DARK, GREEN, GREY, ORANGE, VERMILLION
from xaikit.metrics.intervals import Interval, proportion
from xaikit.storage.extras import extra
from xaikit.texplain.words import dominant

MOST_WORDS = 30  # of a cloud
SENTENCES = 9  # that stand beside a picture
LIKELIEST = 5  # outputs of a classifier, beside a picture
LOOKED_AT = 3  # pictures, each with its word maps


def word_cloud(ax: Axes, frequencies: Mapping[str, float], highlight: Collection[str] = ()) -> None:
    """Draw words as large as they are frequent, those in `highlight` (the category's own) in vermillion.

    Warns of words that do not fit, and of letters that the font lacks. Raises ValueError if there is no word, or a
    frequency is not positive.
    """
    with extra("notebooks"):
        from wordcloud import WordCloud

    if not frequencies or not all(0 < frequency < np.inf for frequency in frequencies.values()):
        raise ValueError("A word cloud needs words, each with a positive frequency: leave the others out.")
    path = font_manager.findfont("DejaVu Sans")
    known = font_manager.get_font(path).get_charmap()
    if lacking := sorted({sign for word in frequencies for sign in word if ord(sign) not in known}):
        warnings.warn(f"The cloud's font lacks {', '.join(lacking[:5])} ({len(lacking)} signs).", stacklevel=2)
    cloud = WordCloud(
        max_words=len(frequencies),
        width=900,
        height=600,
        background_color="white",
        font_path=path,
        random_state=0,
        color_func=lambda word, **kwargs: VERMILLION if word in highlight else DARK,
    )
    # The layout depends on the order of the words: sort, so that equal counts give equal pictures.
    ranked = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
    ax.imshow(cloud.generate_from_frequencies(dict(ranked)).to_array(), interpolation="bilinear")
    fitting = {word for (word, _), *_ in cloud.layout_}
    if lost := [word for word in frequencies if word not in fitting]:
        warnings.warn(f"{len(lost)} of {len(frequencies)} words do not fit: {', '.join(lost[:5])}.", stacklevel=2)
    ax.axis("off")


def cloud(
    ax: Axes,
    frequencies: Mapping[str, float],
    title: str,
    own: Collection[str] = (),
    attributes: Collection[str] = (),
) -> None:
    """Draw the cloud of the dominant things and places, those of the category (`own`) in vermillion.

    `attributes`, which captions name as often, stand below: they are no things.
    """
    shown = dominant(frequencies)
    things = [word for word in shown if word not in attributes][:MOST_WORDS]
    if things:
        word_cloud(ax, {word: frequencies[word] for word in things}, own)
    else:
        ax.text(0.5, 0.5, "no dominant thing", ha="center", va="center")
        ax.axis("off")
    looks = ", ".join(word for word in shown if word in attributes)
    ax.text(0.5, -0.02, looks, transform=ax.transAxes, ha="center", va="top", fontsize=7, color=GREY)
    ax.set_title(title, fontsize=10)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in [0, 1], or in 8 bits, under its title."""

    image: Float[Tensor, "3 height width"] | UInt8[Tensor, "3 height width"]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Cloud:
    """The cloud of words by their frequencies, under its title; `own` are those of the category."""

    words: Mapping[str, float]
    title: str = ""
    own: Collection[str] = ()


def montage(images: Float[Tensor, "n 3 height width"], a_row: int) -> Float[Tensor, "3 rows columns"]:
    """Images side by side in one, so many a row."""
    return make_grid(images, nrow=a_row, padding=0)


def panels(
    columns: Sequence[Sequence[Picture | Cloud]],
    size: tuple[float, float],
    attributes: Collection[str],
    heights: Sequence[float] | None = None,
) -> Figure:
    """Pictures and clouds, column by column from the top, on a figure of `size` inches, with these `heights` of rows.

    Of clouds, `attributes` stand below them.
    """
    rows = max(map(len, columns))
    figure, axes = plt.subplots(rows, len(columns), figsize=size, height_ratios=heights, squeeze=False)
    for column, items in enumerate(columns):
        for ax, item in zip(axes[:, column], items, strict=False):
            if isinstance(item, Cloud):
                cloud(ax, item.words, item.title, item.own, attributes)
            else:
                ax.imshow(_pixels(item.image))
                ax.axis("off")
                ax.set_title(item.title, fontsize=10)
    return figure


@dataclass(frozen=True, eq=False)
class Example:
    """One picture all the way: its name, features and sentences, the words in them, and those of its category (`own`).

    `leads` says whether its category is the one that is said most.
    """

    name: str
    image: Float[Tensor, "3 height width"]
    features: Float[Tensor, "tokens channels"]
    sentences: Sequence[str]
    words: Mapping[str, float]
    own: Collection[str]
    leads: bool


def pipeline(examples: Sequence[Example], attributes: Collection[str]) -> Figure:
    """A row for each example: the picture, its features as numbers, its first sentences, and the cloud of words."""
    figure, axes = plt.subplots(
        len(examples), 4, figsize=(12, 3.3 * len(examples)), width_ratios=[1, 0.9, 1.5, 1.5], squeeze=False
    )
    for row, each in zip(axes, examples, strict=True):
        row[0].imshow(_pixels(each.image))
        row[0].set_title(f"image $I$: {each.name}", parse_math=True)
        row[1].imshow(each.features.numpy(), aspect="auto", cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")
        row[1].set_title("features $Z$", parse_math=True)
        row[1].set_xlabel(f"{each.features.shape[1]} numbers")
        row[1].set_ylabel(f"{each.features.shape[0]} tokens")
        row[2].text(0, 0.5, "\n".join(each.sentences[:SENTENCES]), va="center", fontsize=8)
        row[2].set_title(f"the first {SENTENCES} of {len(each.sentences):,} sentences")
        title = "its category leads" if each.leads else "another category leads"
        cloud(row[3], each.words, title, each.own, attributes)
        for ax in (row[0], row[2]):
            ax.axis("off")
        row[1].set_xticks([])
        row[1].set_yticks([])
    return figure


def word_shares(frequencies: Mapping[str, float], sentences: int, title: str, own: Collection[str] = ()) -> Figure:
    """The shares of so many `sentences` that hold each word, with their intervals; `own` words are in vermillion."""
    figure, ax = plt.subplots(figsize=(6, 0.7 + 0.24 * len(frequencies)))
    shares = [proportion(round(share * sentences), sentences) for share in frequencies.values()]
    colours = [VERMILLION if word in own else GREY for word in frequencies]
    plots.interval_bars(ax, list(frequencies), shares, colours=colours)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"share of {sentences} sentences")
    ax.set_title(title)
    return figure


def learning(held_out: Mapping[str, Sequence[float]], fresh: Mapping[str, Interval]) -> Figure:
    """The losses of three translators, in nats a token: on held-out pairs after each epoch, and on fresh pictures."""
    colours = [ORANGE, BLUE, GREEN]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    for (name, losses), colour in zip(held_out.items(), colours, strict=True):
        axes[0].plot(range(1, len(losses) + 1), losses, marker="o", color=colour, label=name)
    axes[0].set_xlabel("epochs")
    axes[0].set_ylabel("loss of held-out pairs, nats a token")
    axes[0].legend()
    plots.interval_bars(axes[1], list(fresh), list(fresh.values()), colours=colours)
    axes[1].set_xlabel("loss of fresh pictures' captions, nats a token")
    return figure


def relevance(
    matches: Mapping[str, Float[np.ndarray, " pictures"]], most: int, shares: Mapping[str, Mapping[str, Interval]]
) -> Figure:
    """Left, how many of the `most` most frequent words are true; right, how often the top word goes with a prediction.

    Arguments: `matches`, of the picture itself and of another one by these names, or none; `shares`, for each kind of
    words, those by the own prediction and by another's.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    for (name, counts), colour in zip(matches.items(), (BLUE, ORANGE), strict=False):
        axes[0].hist(counts, np.arange(most + 2) - 0.5, alpha=0.6, color=colour, label=name)
    if matches:
        axes[0].legend()
    axes[0].set_xlabel(f"how many of the {most} words are true of …")
    axes[0].set_ylabel("pictures")
    rows = [(kind, whose, each) for kind, both in shares.items() for whose, each in both.items()]
    plots.interval_bars(
        axes[1], [f"{kind},\n{whose} prediction" for kind, whose, _ in rows], [each for *_, each in rows],
        colours=[BLUE if whose == "own" else ORANGE for _, whose, _ in rows],
    )  # fmt: skip
    axes[1].set_xlabel("pictures whose top word goes with the prediction")
    axes[1].set_xlim(0, 1)
    return figure


def likeliest(
    images: Mapping[str, Float[Tensor, "shown 3 height width"]],
    probabilities: Mapping[str, Float[Tensor, "shown outputs"]],
    names: Sequence[str],
    right: Bool[Tensor, "shown outputs"],
) -> Figure:
    """Beside each picture the likeliest outputs by name, the `right` ones in vermillion; a row for each title."""
    some = len(right)
    figure, axes = plt.subplots(
        len(images), 2 * some, figsize=(4.6 * some, 4.2), width_ratios=[1, 1.4] * some, squeeze=False
    )
    for row, (title, shown) in enumerate(images.items()):
        for column, image in enumerate(shown):
            picture, bars = axes[row, 2 * column : 2 * column + 2]
            picture.imshow(_pixels(image))
            picture.axis("off")
            best = probabilities[title][column].topk(LIKELIEST)
            own = right[column, best.indices].tolist()
            bars.barh(range(LIKELIEST), best.values.numpy(), color=[VERMILLION if each else GREY for each in own])
            bars.set_yticks(range(LIKELIEST), [names[output] for output in best.indices.tolist()], fontsize=8)
            bars.set_xlim(0, 1)
            bars.invert_yaxis()
            bars.set_xlabel("probability" if row else "", fontsize=9)
        axes[row, 0].set_title(title, fontsize=10)
    return figure


def planted(images: Float[Tensor, "n 3 height width"], title: str, measured: pd.DataFrame) -> Figure:
    """Left, training pictures, four a row; right, what is said, done and decoded by each network and case.

    `measured` is what `texplain_tables.planted` gives; a measure that a case has not is left out.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.6), width_ratios=[1, 2.6])
    axes[0].imshow(_pixels(make_grid(images, nrow=4, padding=2)))
    axes[0].set_title(title, fontsize=10)
    axes[0].axis("off")
    labels = {
        "word": "“red” said, beyond without",
        "flips": "answers that flip",
        "decodes": "probe tells the colour",
    }
    table = pd.DataFrame([
        {"where": f"{row['network']}, {row['case']}", "what": label, **vars(row[key])}
        for row in measured.to_dict("records")
        for key, label in labels.items()
        if isinstance(row[key], Interval)
    ])  # fmt: skip
    plots.grouped_intervals(
        axes[1], table, place="where", group="what", places=list(dict.fromkeys(table["where"])), chance=0.0,
        colours=dict(zip(dict.fromkeys(table["what"]), (BLUE, ORANGE, GREY), strict=True)),
    )  # fmt: skip
    axes[1].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    axes[1].set_xlabel("share of sentences, of answers, of pictures (probe: chance is 0.5)")
    return figure


def word_maps(
    images: Float[Tensor, "n 3 height width"],
    maps: Mapping[str, Float[Tensor, "n rows columns"]],
    shares: pd.DataFrame,
    cover: float,
) -> Figure:
    """Left, the first pictures with the maps of each title; right, the shares of masked pixels that lie on birds.

    `shares` has the columns map, where, value, low and high; the dashed line is at `cover`, the birds' own share.
    """
    figure = plt.figure(figsize=(12, 4.6))
    grid = figure.add_gridspec(LOOKED_AT, 8, width_ratios=[1, 1, 1, 1, 1, 0.7, 1, 1])
    for row in range(LOOKED_AT):
        for column, title in enumerate(("image", *maps)):
            ax = figure.add_subplot(grid[row, column])
            if column:
                plots.overlay(ax, images[row], maps[title][row])
            else:
                ax.imshow(_pixels(images[row]))
                ax.axis("off")
            if not row:
                ax.set_title(title, fontsize=8)
    ax = figure.add_subplot(grid[:, 6:])
    plots.grouped_intervals(
        ax, shares, place="where", group="map", places=["bird", "place", "another picture", "untrained"],
        colours=dict(zip(dict.fromkeys(shares["map"]), (ORANGE, BLUE), strict=True)), chance=cover,
    )  # fmt: skip
    ax.set_xlabel("masked pixels that lie on birds")
    ax.set_xlim(0, 1)
    ax.legend(fontsize=8)
    return figure


def masked(columns: Sequence[Mapping[str, UInt8[Tensor, "3 height width"]]], titles: Sequence[str]) -> Figure:
    """A picture a column, under its title: as it is, and as each way has masked it, by names at the left."""
    figure, axes = plt.subplots(len(columns[0]), len(columns), figsize=(1.7 * len(columns), 9), squeeze=False)
    for column, (shown, title) in enumerate(zip(columns, titles, strict=True)):
        for ax, (name, picture) in zip(axes[:, column], shown.items(), strict=True):
            ax.imshow(_pixels(picture))
            ax.set_xticks([])
            ax.set_yticks([])
            if not column:
                ax.set_ylabel(name)
        axes[0, column].set_title(title, fontsize=8)
    return figure


def dependence(causal: pd.DataFrame) -> Figure:
    """Each factor of each classifier: the answers that flip with it, against two readings of what is said of it.

    `causal` has the columns model, factor, flips, mentions and excess.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
    labels = {
        "mentions": "sentences that name the factor",
        "excess": "true value named, minus another value",
    }
    models = list(causal.groupby("model", sort=False))
    for ax, (key, label) in zip(axes, labels.items(), strict=True):
        for (model, each), colour, marker in zip(models, (BLUE, ORANGE, GREEN), "os^", strict=True):
            ax.scatter(each[key], each["flips"], color=colour, marker=marker, label=model, s=45)
        ax.set_xlabel(label)
        ax.margins(x=0.2)
        plots.name_points(ax, list(zip(causal[key], causal["flips"], strict=True)), causal["factor"].tolist())
    axes[0].set_ylabel("answers that flip with the factor")
    axes[0].legend()
    return figure


def samples(agreement: pd.DataFrame, sizes: Sequence[int], reference: int) -> Figure:
    """The rank correlation with the words of `reference` other sentences over the `sizes` of samples, with a band.

    `agreement` has the columns sentences, value, low and high.
    """
    figure, ax = plt.subplots(figsize=(5.4, 3.2))
    ax.plot(agreement["sentences"], agreement["value"], marker="o", color=BLUE)
    ax.fill_between(agreement["sentences"], agreement["low"], agreement["high"], alpha=0.2, color=BLUE)
    ax.set_xscale("log")
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.set_xlabel("sentences a picture")
    ax.set_ylabel(f"rank correlation with\n{reference:,} other sentences")
    return figure


def _pixels(image: Tensor) -> np.ndarray:
    """An image [3, height, width] as matplotlib wants it."""
    return image.permute(1, 2, 0).numpy()
