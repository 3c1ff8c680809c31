"""One style for all figures, and the few kinds of picture that several notebooks share."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from pandas.io.formats.style import Styler
from torch import Tensor

from xaikit.metrics.intervals import Interval

# Okabe and Ito's palette, which people with any common colour vision tell apart.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, DARK = "#8C8C8C", "#333333"

HOLDS, FAILS, INCONCLUSIVE, NO_INSTRUMENT, NOT_RUN = GREEN, VERMILLION, DARK, PURPLE, GREY
VERDICTS = {  # a symbol as well as a colour, for those who see none
    "holds": ("✓", HOLDS),
    "fails": ("✗", FAILS),
    "inconclusive": ("?", INCONCLUSIVE),
    "no-instrument": ("⊘", NO_INSTRUMENT),
    "not-run": ("–", NOT_RUN),
}


def use_style() -> None:
    """Set matplotlib up for all notebooks: the same picture on every machine, readable at print size."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 160,
            "svg.hashsalt": "xaikit",  # else the ids in an SVG differ from run to run
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",  # comes with matplotlib, so no machine lacks it
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=[BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK]),
            "legend.frameon": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
            "text.parse_math": False,  # a dollar in a caption is a dollar; formulas say parse_math=True
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, once, with a text in its place for those who do not see it; then close it."""
    if get_ipython() is not None:
        display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def image_grid(
    images: Float[Tensor, "n 3 height width"], titles: Sequence[str] | None = None, *, columns: int = 8
) -> Figure:
    """Show images [n, 3, height, width] with values 0..1 row by row, each under its title.

    Raises ValueError if there is none, values lie outside 0..1, or titles and images differ in number.
    """
    pictures = pictures_of(images)
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"There are {len(titles)} titles for {len(pictures)} images: give one each.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = 0 if titles is None else max(title.count("\n") + 1 for title in titles)
    cell = (1.25, 1.25 * images.shape[2] / images.shape[3] + 0.2 * lines)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * cell[0], rows * cell[1]), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture, interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[index], parse_math=False)
    return figure


def overlay(
    ax: Axes,
    image: Float[Tensor, "3 height width"],
    attribution: Float[Tensor, "map_height map_width"],
    alpha: float = 0.6,
) -> AxesImage:
    """Lay an attribution over its image (values 0..1) as a heat map from its lowest to its highest value.

    Result: the heat map, from which a colour bar can be made. Raises ValueError if values lie outside 0..1.
    """
    (picture,) = pictures_of(image[None])
    height, width = picture.shape[:2]
    ax.imshow(picture, interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # a smaller map is stretched over the whole image
    heat = ax.imshow(attribution.detach().cpu().numpy(), cmap="inferno", alpha=alpha, extent=extent)
    ax.axis("off")
    return heat


def interval_bars(
    ax: Axes,
    labels: Sequence[str],
    intervals: Sequence[Interval],
    *,
    colours: Sequence[str] | None = None,
    chance: float | None = None,
    horizontal: bool = True,
) -> None:
    """Draw each estimate as a point on its 95 % interval, labelled, with a dashed line at chance.

    Raises ValueError if labels, intervals and colours differ in number, or there are none.
    """
    colours = [BLUE] * len(labels) if colours is None else colours
    if not labels or not len(labels) == len(intervals) == len(colours):
        counts = f"{len(labels)} labels, {len(intervals)} intervals and {len(colours)} colours"
        raise ValueError(f"Bars need one of each for every row, and there are {counts}.")
    for place, (interval, colour) in enumerate(zip(intervals, colours, strict=True)):
        bounds, at = [interval.low, interval.high], [place, place]
        ax.plot(
            *((bounds, at) if horizontal else (at, bounds)),
            color=colour,
            linewidth=2.5,
            solid_capstyle="butt",
        )
        ax.plot(*((interval.value, place) if horizontal else (place, interval.value)), "o", color=colour)
    places, beyond = range(len(labels)), (-0.5, len(labels) - 0.5)
    if horizontal:
        ax.set_yticks(places, labels, parse_math=False)
        ax.set_ylim(*reversed(beyond))  # read from the top
    else:
        ax.set_xticks(places, labels, parse_math=False)
        ax.set_xlim(*beyond)
    if chance is not None:
        (ax.axvline if horizontal else ax.axhline)(chance, color=GREY, linestyle="--", linewidth=1, zorder=0)


def name_points(ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write its name beside each point, on the side where it covers least of the other points and names.

    Call it when all else is drawn. Raises ValueError where there are not as many names as points.
    """
    if len(points) != len(names):
        raise ValueError(f"There are {len(points)} points and {len(names)} names; give each point one.")
    ax.figure.draw_without_rendering()  # which settles the places
    radius = 0.06 * ax.figure.dpi  # in pixels, of a marker
    at = ax.transData.transform(points)
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in at]
    for place in np.lexsort(at.T):  # from the bottom
        name = ax.annotate(
            names[place], points[place], xytext=(0, 0), textcoords="offset points", fontsize=8, parse_math=False
        )
        boxes = {}
        for side in _SIDES:
            _put(name, side)
            boxes[side] = name.get_window_extent()
        best = min(_SIDES, key=lambda side: sum(_covered(boxes[side], other) for other in taken))
        _put(name, best)
        taken.append(boxes[best])


# Where a name stands: how far from its point, in points, and which of its own edges that is.
_SIDES = {
    (6, 0): ("left", "center"), (-6, 0): ("right", "center"), (5, 5): ("left", "bottom"), (5, -5): ("left", "top"),
    (-5, 5): ("right", "bottom"), (-5, -5): ("right", "top"), (0, 7): ("center", "bottom"), (0, -7): ("center", "top"),
}  # fmt: skip


def _put(name: Annotation, side: tuple[int, int]) -> None:
    name.xyann = side
    name.set(horizontalalignment=_SIDES[side][0], verticalalignment=_SIDES[side][1])


def _covered(box: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(box, other)
    return 0.0 if both is None else both.width * both.height


def grouped_intervals(
    ax: Axes,
    rows: pd.DataFrame,
    *,
    place: str,
    group: str,
    places: Sequence[str],
    colours: Mapping[str, str],
    chance: float | None = None,
) -> None:
    """Draw estimates with their 95 % intervals from the columns value, low and high, read from the top.

    Each value of the column `place` has a line of its own, in the order of `places`; on it stand the values of the
    column `group`, each with its colour and marker. A missing combination is left empty.
    """
    for index, (name, colour) in enumerate(colours.items()):
        shift = (index - (len(colours) - 1) / 2) * 0.26
        mine = rows[(rows[group] == name) & rows[place].isin(places)]
        heights = [list(places).index(where) + shift for where in mine[place]]
        ax.hlines(heights, mine["low"], mine["high"], color=colour, linewidth=2.5)
        ax.plot(mine["value"], heights, "os^D"[index % 4], color=colour, label=name)
    ax.set_yticks(range(len(places)), places, parse_math=False)
    ax.set_ylim(len(places) - 0.5, -0.5)
    if chance is not None:
        ax.axvline(chance, color=GREY, linestyle="--", linewidth=1, zorder=0)


def style_claims(claims: pd.DataFrame) -> Styler:
    """Set out a table of claims for a notebook, its column `verdict` with a symbol and a colour.

    Raises ValueError if there is no such column or it holds another word than the five verdicts.
    """
    if "verdict" not in claims or not claims["verdict"].isin(list(VERDICTS)).all():
        raise ValueError(f"The claims need a column verdict with values among {', '.join(VERDICTS)}.")
    return (
        claims.style.set_uuid("claims")  # else the page differs from run to run
        .hide(axis="index")
        .format(lambda verdict: f"{VERDICTS[verdict][0]} {verdict}", subset=["verdict"])
        .map(
            lambda verdict: f"color: {VERDICTS[verdict][1]}; font-weight: bold; white-space: nowrap",
            ["verdict"],
        )
        .set_table_styles([{"selector": "th, td", "props": "text-align: left; vertical-align: top"}])
    )


def pictures_of(images: Float[Tensor, "n 3 height width"]) -> Float[np.ndarray, "n height width 3"]:
    """Images as matplotlib wants them; values outside 0..1 would be cut off without a word."""
    if not images.numel() or not (images.min() >= 0 and images.max() <= 1):  # also so for NaN
        raise ValueError("Images to draw must exist and lie in 0..1: undo their normalisation first.")
    return images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
