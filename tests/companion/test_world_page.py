"""The world's page says how hard its tasks are now, and shows what is drawn now."""

import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from xaikit.companion import world_page
from xaikit.companion.world_page import FIGURES, PAGE, SEED, TEST, accuracy, pixels_of
from xaikit.models.clip import load_from
from xaikit.world import TASKS, Task, birds, task

TEXT = PAGE.read_text(encoding="utf-8")
# Of two machines' arithmetics the probe differs in a few answers of 500; of another set of pictures in many more.
CLOSE = 0.02


def rows(table: str) -> dict[str, list[str]]:
    """The rows of a table of the page, by their first cell."""
    found = re.search(rf"<!-- {table}: [^\n]*-->\n(.*?)<!-- end of {table} -->", TEXT, re.DOTALL)[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.split("\n") if line[:2] == "| "]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_can_be_decided_and_is_as_hard_as_the_page_says(name: str) -> None:
    encoder = load_from({"weights": "clip-vit-mini"}, "cpu").image_encoder
    asked = task(name, seed=SEED, test=TEST)
    found = accuracy(asked, encoder).value
    assert 0.7 <= found <= 0.95
    classes, n, noise, said = rows("tasks")[name]
    assert (int(classes), int(n), float(noise)) == (len(asked.classes), TASKS[name].n, TASKS[name].noise)
    assert abs(float(said.split()[0]) - found) <= CLOSE


def test_each_knob_makes_its_tasks_harder() -> None:
    for table, fixed in (("noise", 1), ("pictures", 1), ("size", 0)):
        lines = {name: list(map(float, cells[fixed:])) for name, cells in rows(table).items() if name in TASKS}
        assert lines
        for name, line in lines.items():
            harder = line if table != "pictures" else line[::-1]
            if table != "noise" or TASKS[name].noise:  # the others are hard without
                assert harder[-1] < harder[0] and all(b < a + 0.05 for a, b in pairwise(harder))


def test_a_probe_is_graded_by_the_labels() -> None:
    """Of pictures that it learnt from it knows nearly all, and of repainted ones what they were painted with."""
    encoder = load_from({"weights": "clip-vit-mini"}, "cpu").image_encoder
    scenes = birds(200, seed=5, alignment=0.5)
    assert accuracy(Task(scenes, scenes, "colour"), encoder).value > 0.9
    other = birds(200, seed=6, alignment=0.5)
    asked = Task(scenes, other.replace(colour="red"), "colour")
    assert asked.labels("test").unique().tolist() == [0]
    assert accuracy(asked, encoder).value > 0.9


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_what_is_drawn_now(name: str) -> None:
    kept = np.asarray(Image.open(PAGE.parent / name).convert("RGB")).astype(int)
    drawn = pixels_of(FIGURES[name]()).astype(int)
    assert kept.shape == drawn.shape
    # What is kept has 128 colours, too few for static; another scene is three times as far away.
    assert np.abs(kept - drawn).mean() < 15, "write it anew with: xaikit world"
    assert (PAGE.parent / name).stat().st_size < 100_000
    alt = re.search(rf"!\[([^\]]+)\]\({name}\)", TEXT)
    assert alt and len(alt[1]) > 60


def test_masks_are_shown_in_their_colours() -> None:
    drawing = world_page.EXAMPLES[1].draw(64)
    shown = world_page.marked(drawing)[2::4, 2::4].astype(int)
    coloured = (shown.max(-1) - shown.min(-1)) > 20
    things = np.logical_or.reduce([drawing.masks[part] for part in ("thing1", "thing2", "thing3", "sign")])
    assert coloured[things].mean() > 0.95
    assert coloured[~things].mean() < 0.1  # the boxes' lines
