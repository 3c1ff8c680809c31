"""A figure with sliders: a still picture where nobody can move them, and a new picture where somebody does."""

from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

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


def test_in_a_live_notebook_every_move_draws_anew(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def interact(function: Any, **sliders: Any) -> None:
        made.update(sliders)
        for slider in sliders.values():
            slider.observe(lambda _: function(**{name: each.value for name, each in sliders.items()}), "value")
        function(**{name: each.value for name, each in sliders.items()})

    monkeypatch.setattr(module, "get_ipython", object)
    monkeypatch.delenv("XAIKIT_OUT", raising=False)
    monkeypatch.setattr(module.ipywidgets, "interact", interact)
    draw = Drawn()
    by_hand(draw, ALT, maps=[1, 10, 100])
    made["maps"].value = 100
    assert draw == [{"maps": 10}, {"maps": 100}] and shown == [ALT, ALT]


@pytest.mark.parametrize("choices", [{}, {"maps": []}])
def test_nothing_to_choose_is_said(choices: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        by_hand(Drawn(), ALT, **choices)
