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
_PARTS = re.compile(r"^(?=#{1,3} |\*\*(?:Notice|Predict|Instrument|By hand|Rate it yourself)\.|\*Question\.)", re.M)
_EXERCISES = "## Exercises"
# Its own template leaves the texts out that stand in the place of pictures.
_TEMPLATE = """{% extends 'index.html.j2' %}
{% block data_png scoped %}
<img alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
  src="data:image/png;base64,{{ output.data['image/png'] }}">
{% endblock %}"""
_SEEN = ("image/png", "text/html")


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
    cells = []
    for cell in _shown(notebook):
        begins = cell.cell_type == "markdown" and cell.source.startswith("#")
        slideshow = {"slide_type": "slide" if begins or not cells else "subslide"}
        cells.append(NotebookNode({**cell, "metadata": {**cell.metadata, "slideshow": slideshow}}))
    return new_notebook(cells=cells, metadata=notebook.metadata)


def _shown(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The parts of texts, and cells with a picture or a table, up to the exercises."""
    for cell in notebook.cells:
        if sources.of_exercise(sources.counted(cell)):
            continue
        if cell.cell_type == "code":
            outputs = [each for each in cell.outputs if any(kind in each.get("data", {}) for kind in _SEEN)]
            if outputs:
                yield NotebookNode({**cell, "outputs": outputs})
            continue
        for part in _PARTS.split(cell.source):
            if part.startswith(_EXERCISES):
                return
            if part.strip():
                yield new_markdown_cell(part.strip())
