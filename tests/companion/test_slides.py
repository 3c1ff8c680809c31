"""Slides have what is said and seen, in order, a slide a heading; no code, no exercise, and a text for each picture."""

from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from xaikit.companion import run, slides
from xaikit.storage.paths import NOTEBOOKS

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = 'A dot, "grey" & small.'


@pytest.fixture
def notebook() -> NotebookNode:
    picture = new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": ALT}})
    printed = new_output("stream", text="a line of a log\n" * (slides.LINES + 1))
    said = new_output("stream", text="what came out")
    return new_notebook(cells=[
        new_markdown_cell("# A title\n\nWhat it is about."),
        new_code_cell("seed = 0", outputs=[printed]),
        new_markdown_cell("**Notice.** An end.\n\n## The next one\n\nIts text.\n\n**Predict.** What comes?"),
        new_code_cell("draw()", outputs=[printed, picture]),
        new_markdown_cell("And, in a word:"),
        new_code_cell("print()", outputs=[said]),
        new_markdown_cell("## Exercises\n\nFive of them."),
        new_markdown_cell("### Exercise 1: solve\n\n*Difficulty 1 of 3 · 5 minutes*", metadata={"tags": ["exercise"]}),
    ])  # fmt: skip


def test_a_heading_begins_a_slide_and_what_is_below_it_stands_below_it(notebook: NotebookNode) -> None:
    found = slides.slides_of(notebook).cells
    assert [(cell.metadata["slideshow"]["slide_type"], cell.source.partition("\n")[0]) for cell in found] == [
        ("slide", "# A title"),
        ("subslide", "**Notice.** An end."),
        ("slide", "## The next one"),
        ("subslide", "**Predict.** What comes?"),
        ("subslide", "draw()"),
        ("subslide", "And, in a word:"),
        ("-", "print()"),
    ]
    assert [output.output_type for output in found[4].outputs] == ["display_data"]


def test_a_file_shows_pictures_with_their_texts_and_no_code(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "with_outputs", lambda job: notebook)
    (file,) = slides.write(run.jobs(["06_audit"], "mini"), tmp_path / "slides")
    page = file.read_text(encoding="utf-8")
    assert file.name == "06_audit.html" and "reveal" in page
    assert f"data:image/png;base64,{PIXEL}" in page and "alt='A dot, \"grey\" &amp; small.'" in page
    assert "what came out" in page
    for absent in ("draw()", "seed = 0", "a line of a log", "Exercise 1"):
        assert absent not in page


@pytest.mark.parametrize("script", sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py")), ids=lambda script: script.stem)
def test_every_notebook_has_some(script: Path) -> None:
    (job,) = run.jobs([script.stem], "mini")
    found = slides.slides_of(slides.with_outputs(job)).cells
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in found]
    assert kinds[0] == "slide" and kinds.count("slide") >= 4
    assert not any("Exercise" in cell.source for cell in found if cell.cell_type == "markdown")
