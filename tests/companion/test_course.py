"""Every exercise of every notebook by itself: a solution passes its check, the starter and wrong solutions do not."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from xaikit.companion import course, execute, run
from xaikit.companion.check import NotYet
from xaikit.companion.course import Exercise, exercises
from xaikit.storage import sources
from xaikit.storage.paths import NOTEBOOKS

SCRIPTS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
LONGEST_CELL = 25  # lines: what is longer is bookkeeping, which belongs into xaikit/studies, or two thoughts
OF_PAPERS = [script for script in SCRIPTS if not script.stem.startswith("00")]


@cache
def of(script: Path) -> list[Exercise]:
    return exercises(execute.read(script), script.name)


ALL = [
    pytest.param(each, id=f"{script.stem[:2]}-{number}")
    for script in SCRIPTS
    for number, each in enumerate(of(script), start=1)
]


def done(*sources: str) -> dict[str, Any]:
    """The names after some cells, run in a namespace of their own."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in sources:
        exec(compile(source, "<cell>", "exec"), names)
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_no_cell_is_longer_than_a_reader_can_hold(script: Path) -> None:
    lengths = {
        cell.source.partition("\n")[0]: len(cell.source.splitlines())
        for cell in execute.read(script).cells
        if cell.cell_type == "code"
    }
    assert {first: lines for first, lines in lengths.items() if lines > LONGEST_CELL} == {}


@pytest.mark.parametrize("script", OF_PAPERS, ids=lambda script: script.stem)
def test_there_are_five_exercises_and_an_easy_one_among_them(script: Path) -> None:
    assert len(of(script)) >= 5
    assert min(each.difficulty for each in of(script)) == 1
    assert len({each.title for each in of(script)}) == len(of(script))


@pytest.mark.parametrize("exercise", ALL)
def test_the_solution_passes_its_check(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    done(*exercise.code("given", "solution", "check"))
    said = capsys.readouterr().out.splitlines()
    assert said and all(line.endswith(": right.") for line in said)


@pytest.mark.parametrize("exercise", ALL)
def test_the_starter_is_told_in_a_sentence_that_it_is_not_solved(exercise: Exercise) -> None:
    assert any("..." in source for source in exercise.code("exercise"))
    with pytest.raises(NotYet) as caught:
        done(*exercise.code("given", "exercise", "check"))
    assert (
        len(str(caught.value).split()) > 4 and str(caught.value).endswith((".", "?")) and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("exercise", ALL)
def test_each_wrong_solution_is_told_what_is_wrong(exercise: Exercise) -> None:
    for wrong in exercise.code("wrong"):
        with pytest.raises(NotYet) as caught:
            done(*exercise.code("given"), wrong, *exercise.code("check"))
        assert "nothing yet" not in str(caught.value) and "it raises" not in str(caught.value)


@pytest.mark.parametrize("script", OF_PAPERS, ids=lambda script: script.stem)
def test_the_solutions_run_one_after_the_other(script: Path) -> None:
    done(*(source for each in of(script) for source in each.code("given", "solution", "check")))


SMALL = """
# %% [markdown]
# ## Exercises

# %% [markdown] tags=["exercise"]
# ### Exercise 1: a sum
# *Difficulty 1 of 3 · 5 minutes*
#
# Add two numbers.

# %% tags=["given"]
from xaikit.companion import check

# %% tags=["exercise"]
total = ...  # of 1 and 2

# %% tags=["check"]
check.same(total, 3, "total")

# %% [markdown] tags=["hint"]
# There is a sign for it.

# %% tags=["solution"]
total = 1 + 2

# %% tags=["wrong"]
total = 12
"""


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory: pytest.TempPathFactory, small_checkout: Path) -> Path:
    """The small checkout, run, with its page; nobody changes it."""
    root = tmp_path_factory.mktemp("course") / "checkout"
    shutil.copytree(small_checkout, root)
    run.write_pages(run.jobs([], "mini", root=root))
    return root


@pytest.fixture
def with_exercise(ran_once: Path, tmp_path: Path) -> Path:
    """The same, whose notebook has got an exercise since."""
    root = tmp_path / "checkout"
    shutil.copytree(ran_once, root)
    script = root / "notebooks" / "01_small.py"
    script.write_text(script.read_text(encoding="utf-8") + SMALL, encoding="utf-8")
    return root


def test_no_run_has_exercises_and_no_result_depends_on_them(with_exercise: Path) -> None:
    (job,) = run.jobs([], "mini", root=with_exercise)
    record = json.loads((job.results / "numbers.json").read_text(encoding="utf-8"))
    assert sources.notebook_source(job.name, "mini", with_exercise) == record["source"]
    run.run_notebook(job.name, root=with_exercise, force=True)  # the check would stop it
    cells = nbformat.read(job.file(".ipynb"), as_version=4).cells
    assert not any(sources.of_exercise(sources.counted(cell)) for cell in cells)
    assert "## Exercises" in cells[-1].source


@pytest.mark.parametrize("built", [True, False], ids=["run here", "committed"])
def test_a_page_takes_over_exercises_and_prose_without_a_run(with_exercise: Path, built: bool) -> None:
    if not built:
        for file in (with_exercise / "build" / "mini").glob("*"):
            file.unlink()
    script = with_exercise / "notebooks" / "01_small.py"
    script.write_text(script.read_text(encoding="utf-8").replace("Some words about it.", "Others."), encoding="utf-8")
    (job,) = run.jobs([], "mini", root=with_exercise)
    assert run.page_is_older(job)
    run.write_pages([job])
    assert (with_exercise / "build" / "runs.txt").read_text().splitlines() == ["0 1"]
    assert not run.page_is_older(job)
    page = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert any("image/png" in shown.get("data", {}) for cell in code for shown in cell.outputs)
    of_exercises = [cell for cell in code if sources.of_exercise(sources.counted(cell))]
    assert len(of_exercises) == 5 and not any(cell.outputs or cell.execution_count for cell in of_exercises)
    folded = [cell.metadata.tags for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert folded == [["solution"], ["wrong"]]


def test_a_page_of_other_code_is_run_again(with_exercise: Path) -> None:
    for file in (with_exercise / "build" / "mini").glob("*"):
        file.unlink()
    script = with_exercise / "notebooks" / "01_small.py"
    script.write_text(script.read_text(encoding="utf-8").replace("drew it", "drew that"), encoding="utf-8")
    run.write_pages(run.jobs([], "mini", root=with_exercise))
    assert len((with_exercise / "build" / "runs.txt").read_text().splitlines()) == 2


def test_both_editions_are_written_with_a_list_of_their_exercises(with_exercise: Path, tmp_path: Path) -> None:
    jobs = run.jobs([], "mini", root=with_exercise)
    run.write_pages(jobs)
    student, solution = (tmp_path / "student", tmp_path / "solution")
    for edition, folder in (("student", student), ("solution", solution)):
        assert course.write(jobs, edition, folder) == [folder / "01_small.ipynb", folder / "README.md"]
        assert "| [`01_small`](01_small.ipynb) | a sum | ● | 5 |" in (folder / "README.md").read_text(encoding="utf-8")
        page = nbformat.read(folder / "01_small.ipynb", as_version=4)
        nbformat.validate(page)
        assert "jupytext" not in page.metadata
        shown = [out for cell in page.cells if cell.cell_type == "code" for out in cell.outputs]
        assert any("image/png" in each.get("data", {}) for each in shown)
        own = [cell for cell in page.cells if sources.of_exercise(sources.counted(cell))]
        last = "total = ...  # of 1 and 2" if edition == "student" else "total = 1 + 2"
        wanted = [SMALL.splitlines()[11], last, 'check.same(total, 3, "total")', "There is a sign for it."]
        assert [cell.source for cell in own[1:]] == wanted
    with pytest.raises(NotYet, match=r"^total: nothing yet; put something in place of the dots\.$"):
        done(*(cell.source for cell in own[1:2]), "total = ...", own[3].source)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "*Difficulty 1",
            "*Difficulty 4",
            r"^01_x\.py: the exercise that begins '### Exercise 1: a sum' needs a heading",
        ),
        ("### Exercise 1:", "### A task:", r"needs a heading '### Exercise 1: what it is of' and a line"),
        ('tags=["wrong"]', "", r"^01_x\.py: the exercise 'a sum' has no cell tagged 'wrong'$"),
        (
            'tags=["check"]',
            'tags=["check", "hint"]',
            r"'check\.same\(total, 3, \"total\"\)' is of no exercise, or of two",
        ),
        ('[markdown] tags=["exercise"]', "[markdown]", r"'from xaikit\.companion import check' is of no exercise"),
    ],
)
def test_an_exercise_that_is_not_whole_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    script = tmp_path / "01_x.py"
    assert old in SMALL
    script.write_text(SMALL.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        exercises(execute.read(script), script.name)


def test_the_command_writes_every_notebook(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xaikit", "course", "--edition", "solution", "-o", str(tmp_path / "course")]
    subprocess.run(command, cwd=NOTEBOOKS.parent, check=True, capture_output=True)
    assert {file.name for file in (tmp_path / "course").iterdir()} == {
        "README.md", *(f"{script.stem}.ipynb" for script in SCRIPTS),
    }  # fmt: skip
    for script in SCRIPTS:
        text = (tmp_path / "course" / f"{script.stem}.ipynb").read_text(encoding="utf-8")
        assert '"wrong"' not in text
