"""Each notebook's first figure, at the smallest sizes: nothing beyond it is run, and no result changes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from small_notebook import NOTEBOOK

from xaikit.companion import execute, run, smoke
from xaikit.storage.paths import ROOT

NAME = "01_small"


@pytest.fixture
def small(checkout: Path) -> Path:
    """A checkout in small, with the profile that is tried here."""
    folder = checkout / "xaikit" / "companion" / "profiles"
    (folder / "smoke.toml").write_text('like = "mini"\n[common]\ntime_limit = 60\n[01_small]\nimages = 1\n')
    return checkout


def tried(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xaikit", "smoke", *names]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def content(root: Path) -> dict[str, str]:
    """Checksums of all that runs leave, but what this leaves."""
    files = [file for file in root.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    kept = {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {name: value for name, value in kept.items() if not name.startswith(("build/smoke/", "build/runs.txt"))}


def test_it_runs_as_far_as_the_first_figure_and_changes_no_result(small: Path) -> None:
    run.run_notebook(NAME, root=small)
    before = content(small)
    assert f"figures/mini/{NAME}/numbers.json" in before and f"build/mini/{NAME}.stamp" in before
    done = tried(small)
    assert done.returncode == 0, done.stderr
    figure = small / "build" / "smoke" / NAME / "fig1.png"
    assert done.stdout.split() == [NAME, done.stdout.split()[1], "s", str(figure.relative_to(small))]
    assert figure.stat().st_size > 0
    assert content(small) == before
    assert not (figure.parent / "numbers.json").exists(), "the cell after the figure was run"
    assert "The record" not in (small / "build" / "smoke" / f"{NAME}.log").read_text()
    figure.write_bytes(b"")
    assert tried(small).returncode == 0 and figure.stat().st_size > 0, "what was there is drawn anew"


def test_what_fails_has_one_sentence_and_stops_no_other_one(small: Path) -> None:
    script = small / "notebooks" / f"{NAME}.py"
    (small / "notebooks" / "02_later.py").write_text(NOTEBOOK.replace(NAME, "02_later"))
    (small / "notebooks" / "03_blind.py").write_text(NOTEBOOK.replace("record.figure(", "print("))
    with (small / "xaikit" / "companion" / "profiles" / "smoke.toml").open("a") as profile:
        profile.write("[02_later]\n[03_blind]\n")
    script.write_text(NOTEBOOK.replace("axes.plot([0, 1])", "1 / 0"))
    done = tried(small)
    assert done.returncode == 1
    assert done.stdout.split()[0] == "02_later" and len(done.stdout.splitlines()) == 1
    *sentences, last = sorted(done.stderr.splitlines()[:-1]) + done.stderr.splitlines()[-1:]
    log = small / "build" / "smoke" / f"{NAME}.log"
    assert sentences == [
        f"{NAME}: failed in section 'Figure 1: a line': ZeroDivisionError: division by zero (all of it is in {log})",
        "03_blind: no cell of it calls record.figure with a name, so there is no first figure to draw.",
    ]
    assert last.startswith("failed: ") and NAME in last and "03_blind" in last
    assert not list((small / "build" / "smoke" / "cache").iterdir())


@pytest.mark.parametrize("job", run.jobs([], smoke.PROFILE), ids=lambda job: job.name)
def test_every_notebook_has_a_first_figure_that_its_run_records(job: run.Job) -> None:
    _, name = next(smoke._figures(execute.read(job.script).cells))
    assert (ROOT / "figures" / "mini" / job.name / f"{name}.png").exists()


def test_a_figure_that_a_function_would_record_is_not_one_yet() -> None:
    code = "def panels(rows):\n    record.figure('later', rows)\nif True:\n    record.figure('now', 1)"
    cells = [{"cell_type": "markdown", "source": "record.figure('told')"}, {"cell_type": "code", "source": code}]
    assert list(smoke._figures(cells)) == [(1, "now")]
