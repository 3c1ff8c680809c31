"""The figures of notebook 05."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from xaikit.companion import plots
from xaikit.importance.interface import METHODS
from xaikit.metrics.intervals import Interval
from xaikit.studies.which_explanation import Board
from xaikit.studies.zoo import PLACEBO, Spec, Truth
from xaikit.studies.zoo_tasks import TASKS

COLOURS = {
    "as published": plots.VERMILLION, "tied to the decision": plots.BLUE, "baseline": plots.GREEN, "null": plots.GREY,
    "ceiling": plots.DARK,
}  # fmt: skip


def truth(known: Mapping[str, Truth], specs: Mapping[str, Spec]) -> Figure:
    """What the zoo uses: for every classifier of a task, the share of answers that each factor flips."""
    tasks = list(dict.fromkeys(spec.task for spec in specs.values()))
    most = max(sum(spec.task == task for spec in specs.values()) for task in tasks)
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.6 * len(tasks), 1.4 + 0.19 * most), squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        names = [name for name, spec in specs.items() if spec.task == task]
        columns = [*TASKS[task].names, PLACEBO]
        table = pd.DataFrame(
            [[known[name].share(column) for column in columns] for name in names],
            index=[name.removeprefix(f"{task}, ") for name in names], columns=columns,
        )  # fmt: skip
        image = _heat(ax, table)
        ax.set_title(task)
        ax.tick_params(axis="y", labelsize=8)
        ax.tick_params(axis="x", labelrotation=60)
    figure.colorbar(image, ax=axes, label="share of answers that change", shrink=0.6, aspect=30)
    return figure


def leaderboard(means: Mapping[str, float], intervals: Mapping[str, Interval | None], null: float) -> Figure:
    """Each method's rank correlation with the truth; the line is the best of what never sees the model."""
    names = sorted((name for name in means if METHODS[name].form != "null"), key=means.__getitem__)
    nulls = sorted((name for name in means if METHODS[name].form == "null"), key=means.__getitem__)
    figure, ax = plt.subplots(figsize=(7.2, 0.3 * len(means) + 1.2))
    for row, name in enumerate([*nulls, *names]):
        colour, interval = COLOURS[METHODS[name].form], intervals[name]
        if interval is not None:
            ax.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2, alpha=0.6)
        ax.plot(means[name], row, "s" if name in nulls else "o", color=colour)
    ax.axvline(null, color=plots.DARK, linestyle="--", linewidth=1)
    ax.set(yticks=range(len(means)), yticklabels=[*nulls, *names], xlim=(-1.02, 1.02))
    ax.set_xlabel("rank correlation, over a classifier's factors, with the share of answers that they flip")
    for form, colour in COLOURS.items():
        if any(METHODS[name].form == form for name in means):
            ax.plot([], [], "o", color=colour, label=form)
    ax.plot([], [], "--", color=plots.DARK, label="best null")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def scatter(board: Board) -> Figure:
    """Importance, as a rank among all that a method says of a task, against the truth; one panel a method."""
    rows = board.rows.copy()
    rows["rank"] = rows.groupby(["method", "task"]).importance.rank(pct=True)
    columns = 5
    lines = -(-len(board.methods) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.3 * lines), sharex=True, sharey=True)
    for ax, name in zip(axes.flat, board.methods, strict=False):
        own = rows[rows.method == name]
        for is_class, marker, colour in ((False, "o", plots.BLUE), (True, "x", plots.ORANGE)):
            some = own[own.is_class == is_class]
            ax.plot(some["rank"], some.flips, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0.8)
        ax.set_title(name, fontsize=9, color=COLOURS[METHODS[name].form])
    for ax in axes.flat[len(board.methods) :]:
        ax.set_axis_off()
    axes.flat[0].plot([], [], "o", color=plots.BLUE, label="another factor")
    axes.flat[0].plot([], [], "x", color=plots.ORANGE, label="the class")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower right")
    figure.supxlabel("importance (rank within a task)")
    figure.supylabel("share of answers that the factor flips")
    return figure


def strength(board: Board, shown: Sequence[str]) -> Figure:
    """How importance answers to the strength of a shortcut, beside the truth; standardised within task and kind."""
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(2.5 * (len(shown) + 1), 2.9), sharex=True)
    first = board.rows.method == board.methods[0]
    panels = [("truth", board.rows[first].assign(importance=board.rows[first].flips))]
    panels += [(name, board.rows[board.rows.method == name]) for name in shown]
    for ax, (name, rows) in zip(axes, panels, strict=True):
        points = []
        for (task, kind), own in rows.groupby(["task", "kind"], sort=False):
            spread = own.importance.std() or 1.0
            for shortcut in TASKS[str(task)].shortcuts:
                for row in own[own.factor == shortcut].itertuples():
                    spec = board.specs[row.classifier]
                    if spec.make == "trained" and len(spec.agreement) <= 1 and spec.shortcut in ("", shortcut):
                        agreed = dict(spec.agreement).get(shortcut, 0.5)
                        value = row.importance if name == "truth" else (row.importance - own.importance.mean()) / spread
                        points.append({"strength": agreed, "importance": value, "of": f"{task}, {kind}, {shortcut}"})
        table = pd.DataFrame(points).groupby(["of", "strength"], as_index=False).importance.mean()
        for _, own in table.groupby("of"):
            ax.plot(own.strength, own.importance, color=plots.GREY, linewidth=0.7, alpha=0.6)
        mean = table.groupby("strength").importance.mean()
        colour = plots.BLACK if name == "truth" else COLOURS[METHODS[name].form]
        ax.plot(mean.index, mean, "o-", color=colour, linewidth=2)
        ax.set_title(name, fontsize=9)
        ax.set_ylabel("share of answers" if name == "truth" else "importance (standard deviations)", fontsize=8)
        ax.set_xticks(sorted(mean.index))
    figure.supxlabel("share of a class's training pictures that have the shortcut (0.5: none)")
    return figure


def false_alarms(rates: pd.DataFrame) -> Figure:
    """Hits beside false alarms of each method, at a threshold from other tasks; a row a method."""
    figure, ax = plt.subplots(figsize=(7.2, 0.3 * len(rates) + 1.4))
    markers = {"hits": ("o", plots.BLUE), "all": ("s", plots.VERMILLION)}
    others = [column for column in rates if column not in markers]
    rows = np.arange(len(rates))[::-1]
    ax.hlines(rows, rates["all"], rates["hits"], color=plots.GREY, linewidth=1)
    for column, (marker, colour) in markers.items():
        label = "hits: used, and said so" if column == "hits" else "alarms: ignored, and said to be used"
        ax.plot(rates[column], rows, marker, color=colour, label=label)
    for column, marker in zip(others, "^v<>", strict=False):
        ax.plot(rates[column], rows, marker, color=plots.ORANGE, markersize=4, mfc="none", label=column)
    ax.set(yticks=rows, yticklabels=rates.index, xlim=(-0.02, 1.02), xlabel="share of factors (other than the class)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def repair(pairs: Sequence[tuple[str, str]], means: Mapping[str, Mapping[str, float]], null: float) -> Figure:
    """From as published to tied to the decision: a line a task, and the mean over tasks."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(2.6 * len(pairs), 3.2), sharey=True, squeeze=False)
    for ax, (before, after) in zip(axes[0], pairs, strict=True):
        for task in means[before]:
            if task in means[after]:
                ax.plot([0, 1], [means[before][task], means[after][task]], "o-", color=plots.GREY, alpha=0.7)
        both = [np.mean(list(means[name].values())) for name in (before, after)]
        ax.plot([0, 1], both, "o-", color=plots.BLUE, linewidth=2.5)
        ax.axhline(null, color=plots.DARK, linestyle="--", linewidth=1)
        ax.set(xticks=[0, 1], xticklabels=["as\npublished", "tied to the\ndecision"], xlim=(-0.4, 1.9))
        ax.set_title(before, fontsize=9)
        named = [task for task in means[before] if task in means[after]]
        plots.name_points(ax, [(1.0, means[after][task]) for task in named], named)
    axes[0][0].set_ylabel("rank correlation with the truth")
    return figure


def cases(board: Board, names: Sequence[str], shown: Sequence[str], images: Mapping[str, Tensor]) -> Figure:
    """Classifiers of which methods disagree: a picture of the task, what each method says, and the truth."""
    figure, axes = plt.subplots(len(names), 2, figsize=(9.5, 2.3 * len(names)), width_ratios=(1, 3.6), squeeze=False)
    for (left, right), name in zip(axes, names, strict=True):
        spec = board.specs[name]
        left.imshow(images[spec.task].permute(1, 2, 0))
        left.set_axis_off()
        left.set_title(name, fontsize=8)
        factors = list(TASKS[spec.task].names)
        rows = board.rows[board.rows.classifier == name]
        said = rows.pivot(index="factor", columns="method", values="importance").reindex(index=factors)
        table = pd.DataFrame({"truth": [board.known[name].share(factor) for factor in factors]}, index=factors)
        for method in shown:
            if method in said:
                table[method] = said[method] / max(float(said[method].abs().max()), 1e-12)
        _heat(right, table.T, numbers=True)
        right.tick_params(axis="y", labelrotation=0, labelsize=8)
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Which methods say the same."""
    figure, ax = plt.subplots(figsize=(0.36 * len(table) + 3, 0.34 * len(table) + 2.2))
    image = _heat(ax, table, "RdBu_r", -1.0)
    ax.tick_params(axis="x", labelrotation=90)
    figure.colorbar(image, ax=ax, label="rank correlation of what two methods say", shrink=0.7)
    return figure


def _heat(
    ax: Axes, table: pd.DataFrame, colours: str = "viridis", lowest: float = 0.0, *, numbers: bool = False
) -> AxesImage:
    """A table in colours up to 1, with its row and column names, and if wanted its numbers."""
    image = ax.imshow(table.to_numpy(float), cmap=colours, vmin=lowest, vmax=1, aspect="auto")
    ax.set(xticks=range(table.shape[1]), xticklabels=table.columns, yticks=range(len(table)), yticklabels=table.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for row, values in enumerate(table.to_numpy(float)) if numbers else ():
        for column, value in enumerate(values):
            colour = "black" if value > 0.6 else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    return image
