"""A figure with sliders: a still picture where nobody can move them, and a new picture where somebody does."""

from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from xaikit.companion import by_hand as module
from xaikit.companion import plots
from xaikit.companion.by_hand import by_hand

ALT = "A line that goes up."


class Drawn(list):
    """Notes what it was asked to draw."""

    def __call__(self, **chosen: Any) -> Figure:
        self.append(chosen)
        return plt.figure()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(plots, "show", lambda figure, alt: (plt.close(figure), texts.append(alt))[0])
    return texts


def test_without_a_kernel_it_is_the_middle_picture(shown: list[str]) -> None:
    draw = Drawn()
    by_hand(draw, ALT, maps=[1, 10, 100], side=["left", "right"])
    assert draw == [{"maps": 10, "side": "right"}] and shown == [ALT]


def test_a_run_without_a_window_shows_the_same_picture(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_ipython", object)
    monkeypatch.setenv("XAIKIT_OUT", "somewhere")
    draw = Drawn()
    by_hand(draw, ALT, maps=[1, 10, 100])
    assert draw == [{"maps": 10}] and shown == [ALT]


LIVE = """
import ipywidgets
import matplotlib.pyplot as plt
from xaikit.companion.by_hand import by_hand

drawn, made = [], []
ipywidgets.Widget.on_widget_constructed(made.append)

def draw(maps):
    drawn.append(maps)
    return plt.figure()

by_hand(draw, "A line that goes up.", maps=[1, 10, 100])
"""
MOVE = """
(slider,) = (each for each in made if isinstance(each, ipywidgets.SelectionSlider))
(place,) = (each for each in made if isinstance(each, ipywidgets.Output))
slider.value = 100
print(drawn, [output["metadata"]["image/png"]["alt"] for output in place.outputs])
"""


def test_in_a_live_notebook_every_move_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real kernel: the picture stands below its slider, alone, with its text."""
    monkeypatch.delenv("XAIKIT_OUT", raising=False)
    notebook = new_notebook(cells=[new_code_cell(LIVE), new_code_cell(MOVE)])
    NotebookClient(notebook, timeout=120).execute()
    shown, said = (cell.outputs for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in shown[-1]["data"]
    assert said[0]["text"].strip() == f"[10, 100] {[ALT]}"


@pytest.mark.parametrize("choices", [{}, {"maps": []}])
def test_nothing_to_choose_is_said(choices: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        by_hand(Drawn(), ALT, **choices)
