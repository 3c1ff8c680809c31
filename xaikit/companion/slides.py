"""Slides of the notebooks: what is said and what is seen, without the code and the exercises.

    xaikit course --edition slides -o slides

A heading begins a slide; below it stand, one under the other, what it says, each picture or table of its cells, what to
notice, and the questions. The files hold their pictures; reveal.js, which turns the slides, and what sets the formulas
come from the network when they are shown.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xaikit.companion.course import with_outputs
from xaikit.companion.run import Job
from xaikit.storage import sources
from xaikit.storage.extras import extra
from xaikit.storage.files import write_text

with extra("notebooks"):
    from nbconvert.exporters import SlidesExporter
    from nbformat import NotebookNode
    from nbformat.v4 import new_markdown_cell, new_notebook

# Where a text is parted: before a heading, and before what a speaker asks or shows by itself.
_PARTS = re.compile(
    r"^(?=#{1,3} |\*\*(?:Notice|Predict|Instrument|By hand|Rate it yourself)\.|\*Question\.|You will$|\*\*After it)",
    re.M,
)
SHORT = 300  # characters of a text that leads to the picture below it, on the same slide
_EXERCISES = "## Exercises"
# Its own template leaves the texts out that stand in the place of pictures.
_TEMPLATE = """{% extends 'index.html.j2' %}
{% block data_png scoped %}
<img alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
  src="data:image/png;base64,{{ output.data['image/png'] }}">
{% endblock %}"""
_SEEN = ("image/png", "text/html")
LINES = 12  # of what is printed; more is a log


def write(chosen: Sequence[Job], folder: Path) -> list[Path]:
    """Write the slides of notebooks, as their pages were executed, into a folder; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    exporter = SlidesExporter(
        raw_template=_TEMPLATE,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        reveal_scroll=True,
    )
    files = []
    for job in chosen:
        notebook = slides_of(with_outputs(job))
        body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": job.name}})
        files.append(folder / f"{job.name}.html")
        write_text(files[-1], body)
    return files


def slides_of(notebook: NotebookNode) -> NotebookNode:
    """A notebook whose cells say which slide each is of, for nbconvert."""
    cells: list[NotebookNode] = []
    for cell in _shown(notebook):
        kind = "slide" if not cells or (cell.cell_type == "markdown" and cell.source.startswith("#")) else "subslide"
        if cell.cell_type == "code" and cells and _leads_on(cells[-1]):
            kind = "-"  # goes on with the slide
        cells.append(NotebookNode({**cell, "metadata": {**cell.metadata, "slideshow": {"slide_type": kind}}}))
    return new_notebook(cells=cells, metadata=notebook.metadata)


def _leads_on(cell: NotebookNode) -> bool:
    """Whether a cell is a sentence or two, of a thought that goes on, and not one that asks or begins a section."""
    return cell.cell_type == "markdown" and len(cell.source) <= SHORT and not _PARTS.match(cell.source)


def _is_seen(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout" and len(output.text.splitlines()) <= LINES
    return any(kind in output.get("data", {}) for kind in _SEEN)


def _shown(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The parts of texts, and cells with a picture, a table or a few printed lines, up to the exercises."""
    for cell in notebook.cells:
        if sources.of_exercise(sources.counted(cell)):
            continue
        if cell.cell_type == "code":
            if outputs := [each for each in cell.outputs if _is_seen(each)]:
                yield NotebookNode({**cell, "outputs": outputs})
            continue
        for part in _PARTS.split(cell.source):
            if part.startswith(_EXERCISES):
                return
            if part.strip():
                yield new_markdown_cell(part.strip())
