"""Figures that a hand can change: a slider for each choice in a live notebook, a still picture everywhere else."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from IPython import get_ipython
from matplotlib.figure import Figure

from xaikit.companion import plots


def by_hand(draw: Callable[..., Figure], alt: str, **choices: Sequence[Any]) -> None:
    """Show `draw(name=value, ...)` with a slider over the values of each name; they start in the middle.

    Where no hand is there (a run without a window, a page, the site) it is the picture of the middle values; `alt` says
    what is to be seen.
    Raises ValueError where nothing is to be chosen.
    """
    if not choices or not all(len(values) for values in choices.values()):
        raise ValueError("There is nothing to choose: give each name a list of values.")
    start = {name: values[len(values) // 2] for name, values in choices.items()}
    if get_ipython() is None or "XAIKIT_OUT" in os.environ:
        return plots.show(draw(**start), alt)

    sliders = {
        name: ipywidgets.SelectionSlider(options=list(values), value=start[name], continuous_update=False)
        for name, values in choices.items()
    }
    ipywidgets.interact(lambda **chosen: plots.show(draw(**chosen), alt), **sliders)
    return None
