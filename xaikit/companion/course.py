"""Exercises, and the two editions of the notebooks that a course needs, from one source.

    xaikit course --edition student -o course

In a script an exercise is a row of cells that are told apart by their tags. It begins with a markdown cell tagged
`exercise`, with a heading "### Exercise 1: ..." and a line "*Difficulty 2 of 3 · 10 minutes*". Then follow, in any
number, code tagged `given` (imports and inputs), `exercise` (to be completed by the reader), `check`
(`companion.check`), markdown tagged `hint`, the `solution`, which stands in place of the code to be completed, and
`wrong` solutions, one a cell, which the check has to refuse: tests alone read these.

No run executes these cells, and no result depends on them (`storage.sources.OF_EXERCISES`): each exercise stands on its
own `given` cells.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xaikit.companion import execute
from xaikit.companion.run import Job
from xaikit.storage import sources
from xaikit.storage.extras import extra
from xaikit.storage.files import replacing, write_text

with extra("notebooks"):
    from nbformat import NotebookNode
    from nbformat import read as read_page

Edition = Literal["student", "solution"]
_HEADING = re.compile(r"^### Exercise \d+: (?P<title>.+)$", re.M)
_EFFORT = re.compile(r"^\*Difficulty (?P<difficulty>[123]) of 3 · (?P<minutes>\d+) minutes\*$", re.M)
_README = {
    "student": "Complete the cells with dots; the cell below each says whether it is right. Hints are folded.",
    "solution": "Solutions stand in place of the cells to be completed, so every notebook runs from top to bottom.",
}


@dataclass
class Exercise:
    """An exercise: its title, how hard it is (1 to 3), its minutes, and its cells by their tag."""

    title: str
    difficulty: int
    minutes: int
    text: NotebookNode
    parts: dict[str, list[NotebookNode]] = field(
        default_factory=lambda: {tag: [] for tag in ("given", "exercise", "check", "hint", "solution", "wrong")}
    )

    def code(self, *tags: str) -> list[str]:
        """The sources of its code cells with these tags, in the order of the tags."""
        return [cell.source for tag in tags for cell in self.parts[tag] if cell.cell_type == "code"]

    def cells(self, edition: Edition) -> list[NotebookNode]:
        """Its cells in one of the editions, in order."""
        own = "exercise" if edition == "student" else "solution"
        return [self.text, *(cell for tag in ("given", own, "check", "hint") for cell in self.parts[tag])]


def exercises(notebook: NotebookNode, where: str) -> list[Exercise]:
    """The exercises of a notebook, in order. Raises ValueError, naming the place, for one that is not whole."""
    return [each for each in _parts(notebook, where) if isinstance(each, Exercise)]


def edition_of(notebook: NotebookNode, where: str, edition: Edition) -> NotebookNode:
    """A notebook in one of the editions: paired with no script, as it is another notebook than the script is."""
    cells: list[NotebookNode] = []
    for each in _parts(notebook, where):
        cells += each.cells(edition) if isinstance(each, Exercise) else [each]
    cells = [NotebookNode({**cell, "id": f"cell-{index}"}) for index, cell in enumerate(cells)]
    metadata = NotebookNode({key: value for key, value in notebook.metadata.items() if key != "jupytext"})
    return NotebookNode({**notebook, "cells": cells, "metadata": metadata})


def write(chosen: Sequence[Job], edition: Edition, folder: Path) -> list[Path]:
    """Write notebooks in one edition, with a README that lists their exercises, into a folder; the files written.

    Outputs are those of the executed page where it shows the script's cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, rows = [], []
    for job in chosen:
        notebook = with_outputs(job)
        file = folder / f"{job.name}.ipynb"
        with replacing(file) as part:
            execute.write(edition_of(notebook, job.script.name, edition), part)
        files.append(file)
        rows += [
            f"| [`{job.name}`]({file.name}) | {each.title} | {'●' * each.difficulty} | {each.minutes} |"
            for each in exercises(notebook, job.script.name)
        ]
    minutes = sum(int(row.split("|")[-2]) for row in rows)
    lines = [
        f"# xaikit: notebooks and exercises, {edition} edition", "", _README[edition],
        "An exercise needs xaikit and its own cells alone: nothing above it has to be run before.", "",
        f"{len(rows)} exercises, about {minutes / 60:.0f} hours:", "",
        "| notebook | exercise | difficulty | minutes |", "|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    write_text(folder / "README.md", "\n".join(lines))
    return [*files, folder / "README.md"]


def with_outputs(job: Job) -> NotebookNode:
    """A notebook with the outputs of its page, where that is of the code of its script; else it warns, without any."""
    page = job.script.with_suffix(".ipynb")
    if page.is_file():
        shown = sources.holding_something(read_page(page, as_version=4).cells)
        if sources.same_code(shown, job.script, job.root):
            return execute.page_of(page, job.script)
        warnings.warn(f"{page.name} is of other code than its script, so no pictures: make notebooks", stacklevel=2)
    return execute.clean(execute.read(job.script))


def _parts(notebook: NotebookNode, where: str) -> Iterator[NotebookNode | Exercise]:
    """The cells of no exercise, and the exercises, in order."""
    found: Exercise | None = None
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", ())) & sources.OF_EXERCISES
        begins = "exercise" in tags and cell.cell_type == "markdown"
        if found and (begins or not tags):
            yield _whole(found, where)
            found = None
        if not tags:
            yield cell
        elif begins:
            found = _begun(cell, where)
        elif found is None or len(tags) > 1:
            raise ValueError(f"{where}: the cell that begins {_first_line(cell)!r} is of no exercise, or of two parts")
        else:
            found.parts[min(tags)].append(cell)
    if found:
        yield _whole(found, where)


def _begun(cell: NotebookNode, where: str) -> Exercise:
    heading, effort = _HEADING.search(cell.source), _EFFORT.search(cell.source)
    if heading is None or effort is None:
        raise ValueError(
            f"{where}: the exercise that begins {_first_line(cell)!r} needs a heading '### Exercise 1: what it is of' "
            "and a line '*Difficulty 2 of 3 · 10 minutes*'"
        )
    return Exercise(heading["title"], int(effort["difficulty"]), int(effort["minutes"]), cell)


def _whole(exercise: Exercise, where: str) -> Exercise:
    missing = [tag for tag, cells in exercise.parts.items() if tag != "given" and not cells]
    if missing:
        raise ValueError(f"{where}: the exercise {exercise.title!r} has no cell tagged {missing[0]!r}")
    return exercise


def _first_line(cell: NotebookNode) -> str:
    return cell.source.strip().partition("\n")[0]
