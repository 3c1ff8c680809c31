import errno
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jupytext
import nbformat
import pytest
from processes import is_running, wait_for
from typer.testing import CliRunner

from xaikit import __main__ as main
from xaikit.__main__ import app
from xaikit.companion import execute, report, run
from xaikit.storage import arithmetic, paths
from xaikit.studies import train_models
from xaikit.studies.extract import extract
from xaikit.studies.train_translator import train_translator

NAME = "01_small"


@pytest.fixture(autouse=True)
def _misleading_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's Jupyter has a `python3` of its own, which must not be taken."""
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))


def times_run(root: Path) -> list[str]:
    return (root / "build" / "runs.txt").read_text().splitlines()


def edit(root: Path, old: str, new: str) -> None:
    script = root / "notebooks" / f"{NAME}.py"
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))


def results(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "figures" / "mini" / NAME).iterdir()}


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xaikit", *arguments]
    return subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that run in the background of a shell inherit an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_run_leaves_its_results_and_a_second_one_does_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.run_notebook(NAME, root=checkout)
    assert folder == checkout / "figures" / "mini" / NAME
    assert sorted(results(checkout)) == ["fig1.pdf", "fig1.png", "numbers.json"]
    assert [line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "A notebook in small",
        "Figure 1: a line",
        "The record",
    ]
    assert "drew it" in (checkout / "build" / "mini" / f"{NAME}.log").read_text()
    page = nbformat.read(checkout / "build" / "mini" / f"{NAME}.ipynb", as_version=4)
    script = jupytext.read(checkout / "notebooks" / f"{NAME}.py")
    assert [(cell.cell_type, cell.source) for cell in page.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    assert "image/png" in page.cells[3].outputs[0].data

    stamp = checkout / "build" / "mini" / f"{NAME}.stamp"
    os.utime(stamp, (0, 0))
    run.run_notebook(NAME, root=checkout)
    assert capsys.readouterr().out == f"{NAME}: up to date\n"
    assert stamp.stat().st_mtime > 0
    assert times_run(checkout) == ["0 1"]

    edit(checkout, "Some words about it.", "Other words about it.")
    run.run_notebook(NAME, root=checkout)
    assert len(times_run(checkout)) == 1
    (folder / "fig1.pdf").unlink()
    run.run_notebook(NAME, root=checkout)
    assert len(times_run(checkout)) == 2
    run.run_notebook(NAME, root=checkout)
    assert len(times_run(checkout)) == 2


def test_pages_and_results_repeat(checkout: Path) -> None:
    seen = []
    for _ in range(2):
        run.run_notebook(NAME, root=checkout, force=True)
        run.write_pages(run.jobs([], "mini", root=checkout))
        content = results(checkout)
        record = json.loads(content.pop("numbers.json"))
        record.pop("seconds"), record.pop("machine")
        page = checkout / "notebooks" / f"{NAME}.ipynb"
        assert page.stat().st_mtime <= (checkout / "notebooks" / f"{NAME}.py").stat().st_mtime
        seen.append((content, record, page.read_bytes()))
    assert seen[0] == seen[1]
    assert len(times_run(checkout)) == 2


def test_a_page_shows_prose_comments_and_imports_that_need_no_run(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = run.jobs([], "mini", root=checkout)
    run.write_pages([job])
    assert not run.page_is_older(job)
    edit(checkout, "import matplotlib.pyplot as plt", "from matplotlib import pyplot as plt  # to draw with")
    edit(
        checkout,
        "# # A notebook in small",
        "# # Another title\n\n# %% [markdown]\n# A cell more.\n\n# %%\n# A comment alone",
    )
    edit(checkout, "Some words about it.", "Other words about it.")
    edit(checkout, "import Record\n\nwith", "import Record\n\n# %%\nwith")  # imports in a cell of their own
    assert run.page_is_older(job)
    for said in ("wrote", "notebooks/01_small.ipynb is as it was"):
        capsys.readouterr()
        run.write_pages([job])
        assert said in capsys.readouterr().out
        assert not run.page_is_older(job)
    assert len(times_run(checkout)) == 1
    page = nbformat.read(checkout / "notebooks" / f"{NAME}.ipynb", as_version=4)
    script = jupytext.read(checkout / "notebooks" / f"{NAME}.py")
    assert [cell.source for cell in page.cells] == [cell.source for cell in script.cells]
    assert "image/png" in page.cells[6].outputs[0].data
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5] and not code[0].outputs


def test_a_failing_cell_is_reported_and_the_old_results_stay(checkout: Path) -> None:
    run.run_notebook(NAME, root=checkout)
    before = results(checkout)
    edit(checkout, 'print("drew it")', 'print("almost")\nraise KeyError("no such map")')
    with pytest.raises(RuntimeError) as caught:
        run.run_notebook(NAME, root=checkout)
    log = checkout / "build" / "mini" / f"{NAME}.log"
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{NAME}: failed in section 'Figure 1: a line', in the cell that begins"
    assert lines[1] == "    import matplotlib.pyplot as plt"
    assert lines[-2] == "KeyError: 'no such map'"
    assert lines[-1] == f"log: {log}"
    assert len(lines) < 13 and "\x1b" not in str(caught.value)
    assert "almost" in log.read_text() and "no such map" in log.read_text()
    assert results(checkout) == before
    assert not (checkout / "build" / "mini" / f"{NAME}.stamp").exists()


def test_a_killed_kernel_leaves_nothing_and_the_next_run_finishes(checkout: Path) -> None:
    died = checkout / "build" / "died"
    die_once = "import os\nif not died.exists():\n    died.touch()\n    os.kill(os.getpid(), 9)"
    die_once = f"from pathlib import Path\ndied = Path({str(died)!r})\n{die_once}"
    edit(checkout, 'print("drew it")', die_once)
    with pytest.raises(RuntimeError, match=r"the kernel died: .* there are [\d.]+ GB, [\d.]+ of them free now\. Close"):
        run.run_notebook(NAME, root=checkout)
    assert not (checkout / "figures").exists()
    run.run_notebook(NAME, root=checkout)
    assert "numbers.json" in results(checkout)


def test_memory_that_was_refused_is_said(checkout: Path) -> None:
    edit(checkout, 'print("drew it")', "import numpy\nnumpy.ones(2**60, dtype=numpy.uint8)")
    with pytest.raises(RuntimeError, match=r"it asked for more memory than it could have: there are [\d.]+ GB"):
        run.run_notebook(NAME, root=checkout)
    for said in (
        "MemoryError", "RuntimeError: [enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "ValueError: no memory of it",
    ):  # fmt: skip
        assert bool(execute._NO_MEMORY.search(said)) == ("ValueError" not in said)


@pytest.mark.parametrize("earlier", [False, True])
def test_results_may_lie_on_another_file_system(earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, folder = tmp_path / "build" / "01.part", tmp_path / "figures" / "01"
    part.mkdir(parents=True)
    (part / "new.txt").write_text("new")
    if earlier:
        folder.mkdir(parents=True)
        (folder / "old.txt").write_text("old")
        (tmp_path / "figures" / ".01.new").mkdir()  # of a process that was killed
    rename = os.rename

    def within_one(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", within_one)

    def full(*_: object, **__: object) -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    with (
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match=r"cannot be put into .*No space left.*stays"),
    ):
        patch.setattr(shutil, "copytree", full)
        run._publish(part, folder)
    assert (part / "new.txt").exists() and (folder / "old.txt").exists() == earlier
    assert [path.name for path in folder.parent.iterdir()] == ["01"] * earlier
    run._publish(part, folder)
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert not part.exists() and list(folder.parent.iterdir()) == [folder]


def test_a_notebook_has_a_time_limit_for_all_its_cells_together(checkout: Path) -> None:
    edit(checkout, 'print("drew it")', "import time\ntime.sleep(5)")
    edit(checkout, "record.save()", "time.sleep(5)\nrecord.save()")
    with pytest.raises(RuntimeError, match="the notebook took longer than 9 s: give a longer --timeout"):
        run.run_notebook(NAME, root=checkout, timeout=9)
    assert not (checkout / "figures").exists()


def test_code_edited_during_the_run_is_noticed(checkout: Path) -> None:
    edit(checkout, 'print("drew it")', f'open("notebooks/{NAME}.py", "a").write("more = 1\\n")')
    with pytest.raises(RuntimeError, match="changed while it ran: run it again"):
        run.run_notebook(NAME, root=checkout)
    assert not (checkout / "figures").exists()


def test_a_notebook_must_save_its_record_under_its_own_name(checkout: Path) -> None:
    edit(checkout, "profile, seed)", "profile, 4)")
    with pytest.raises(RuntimeError, match="its record has seed 4: pass on the parameter, 0"):
        run.run_notebook(NAME, root=checkout)
    edit(checkout, "record.save()", "")
    with pytest.raises(RuntimeError, match=r"it wrote no numbers\.json: end the notebook with the record's save"):
        run.run_notebook(NAME, root=checkout)


def test_other_seeds_and_parameters_keep_apart(checkout: Path) -> None:
    run.run_notebook(NAME, root=checkout)
    folder = run.run_notebook(NAME, root=checkout, seed=3, parameters={"extra": "more"})
    assert folder == checkout / "build" / "mini" / "seed-3" / NAME
    assert times_run(checkout) == ["0 1", "3 more"]
    assert json.loads((folder / "numbers.json").read_text())["numbers"][1]["value"] == 0.53
    run.run_notebook(NAME, root=checkout)
    assert len(times_run(checkout)) == 2
    run.run_notebook(NAME, root=checkout, seed=3)  # the same seed with other parameters is another run
    assert times_run(checkout)[2] == "3 1"


def test_bad_requests_are_named_and_write_nothing(checkout: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^unknown profile 'huge': choose one of full, mini, paper, rehearsal, smoke$"
    ):
        run.run_notebook(NAME, "huge", root=checkout)
    with pytest.raises(ValueError, match=r"^unknown notebook '02_none': choose one of 01_small$"):
        run.run_notebook("02_none", root=checkout)
    declared = r"^01_small declares no parameter 'sede': its cell tagged 'parameters' has profile, seed, extra$"
    with pytest.raises(ValueError, match=declared):
        run.run_notebook(NAME, root=checkout, parameters={"sede": 3})
    edit(checkout, "\nseed = 0", "")
    with pytest.raises(ValueError, match="declares no parameter 'seed'"):
        run.run_notebook(NAME, root=checkout)
    assert not (checkout / "figures").exists()
    assert [file.name for file in (checkout / "build" / "mini").iterdir()] == [f"{NAME}.lock"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_can_be_stopped_and_started_again(checkout: Path, how: signal.Signals) -> None:
    waiting = checkout / "build" / "waiting"
    lines = [
        "import os, pathlib, time",
        f"waiting = pathlib.Path({str(waiting)!r})",
        "if not waiting.exists():",
        "    waiting.write_text(f'{os.getpid()} ')",
        "    time.sleep(600)",
    ]
    edit(checkout, 'print("drew it")', "\n".join(lines))
    stopped = start(checkout, "run", NAME)
    wait_for(lambda: waiting.exists() and waiting.read_text().endswith(" "))
    stopped.send_signal(how)
    said, _ = stopped.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert stopped.returncode == 130
        assert said.splitlines()[-1] == "interrupted: what was finished is kept, and nothing half-done"
        assert "Traceback" not in said
    wait_for(lambda: not is_running(int(waiting.read_text())))
    assert not (checkout / "figures").exists()
    assert not (checkout / "build" / "mini" / f"{NAME}.stamp").exists()
    run.run_notebook(NAME, root=checkout)
    assert "numbers.json" in results(checkout)


def test_the_kernel_has_the_arithmetic_of_the_profile_or_the_one_asked_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(
        checkout,
        'print("drew it")',
        'import os\nprint(os.environ.get("XAIKIT_ARITHMETIC"), os.environ.get("MKL_CBWR"))',
    )
    profile = checkout / "xaikit" / "companion" / "profiles" / "mini.toml"
    profile.write_text('[common]\narithmetic = "portable"\n' + profile.read_text())
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.delenv("XAIKIT_ARITHMETIC", raising=False)
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx2"}))

    def said(folder: Path) -> str:
        work = checkout / "build" / "mini" / folder
        return re.search(r"^(\w+ \S+)$", (work / f"{NAME}.log").read_text(), re.MULTILINE)[1]

    assert run.run_notebook(NAME, root=checkout) == checkout / "figures" / "mini" / NAME
    assert said(Path()) == "portable AVX2,STRICT"
    assert run.run_notebook(NAME, root=checkout, arithmetic="portable") == checkout / "figures" / "mini" / NAME
    assert len(times_run(checkout)) == 1
    folder = run.run_notebook(NAME, root=checkout, arithmetic="native")
    assert folder == checkout / "build" / "mini" / "seed-0-native" / NAME and said(folder.parent) == "None COMPATIBLE"
    run.run_notebook(NAME, root=checkout, seed=3, arithmetic="plain")
    assert said(Path("seed-3-plain")) == "plain AVX2"
    run.run_notebook(NAME, root=checkout, seed=3)
    job = run.jobs([NAME], "mini", root=checkout)[0]
    assert [(each.seed, each.arithmetic) for each in run.variants_run(job)] == [(0, "native"), (3, None), (3, "plain")]
    assert len(times_run(checkout)) == 4
    with pytest.raises(ValueError, match="unknown arithmetic 'fast': choose one of portable"):
        run.run_notebook(NAME, root=checkout, arithmetic="fast")


def test_two_processes_run_a_notebook_once(checkout: Path) -> None:
    both = [start(checkout, "run", NAME) for _ in range(2)]
    said = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert times_run(checkout) == ["0 1"]
    assert f"{NAME}: up to date" in said and "waiting for another run" in said


def test_the_command_reports_failures(checkout: Path) -> None:
    """A notebook that fails stops no other one; the report comes after all of them."""
    text = (checkout / "notebooks" / f"{NAME}.py").read_text()
    (checkout / "notebooks" / "02_later.py").write_text(text.replace(f'"{NAME}"', '"02_later"'))
    edit(checkout, 'print("drew it")', "1 / 0")
    failed = start(checkout, "run", "--parameter", "extra=(2, 3)", "--parameter", "extra=more")
    said = failed.communicate(timeout=120)[0]
    assert failed.returncode == 1
    assert "ZeroDivisionError" in said and "Traceback (most recent call last):\n  File" not in said
    assert [line for line in said.splitlines() if "failed" in line][-1] == f"failed: {NAME}"
    rows = [line.replace("│", " ").split() for line in said.splitlines() if "│" in line]
    assert [row[:2] for row in rows] == [[NAME, "failed"], ["02_later", "fresh"]]
    assert times_run(checkout) == ["0 more"] * 2
    refused = start(checkout, "run", "--profile", "huge")
    assert (
        refused.communicate(timeout=60)[0]
        == "unknown profile 'huge': choose one of full, mini, paper, rehearsal, smoke\n"
    )
    assert refused.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--parameter", "extra"], 2, "'extra' is not of the form name=value"),
        (["--parameter", "seed=3"], 2, "give the seed as --seed"),
        (["--native", "--arithmetic", "plain"], 2, "exclude each other"),
        (["--seed", "one"], 2, "'--seed'"),
        (["--arithmetic", "fast"], 1, "unknown arithmetic 'fast': choose one of portable"),
        (["04_none"], 1, "unknown notebook '04_none': choose one of"),
    ],
)
def test_what_the_command_cannot_do_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, sentence: str
) -> None:
    monkeypatch.setattr(run, "run_notebook", lambda *names, **options: pytest.fail("it ran"))
    refused = CliRunner().invoke(app, ["run", *arguments])
    said = " ".join(refused.stderr.replace("│", " ").split())
    assert refused.exit_code == status and sentence in said and refused.stdout == ""


def test_the_command_hands_on_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[run.Job, dict]] = []
    reported: list[list[str]] = []

    def run_none(chosen: list[run.Job], **options: object) -> list[str]:
        asked.extend((job, options) for job in chosen)
        return []

    monkeypatch.setattr(run, "run_notebooks", run_none)
    monkeypatch.setattr(report, "report", lambda chosen, parameters: reported.append([job.name for job in chosen]))
    options = ["--seed", "3", "--native", "--force", "--timeout", "9", "--parameter", "a=[1]", "--parameter", "b=c=d"]
    assert CliRunner().invoke(app, ["run", "02_texplain", *options]).exit_code == 0
    given = {"force": True, "timeout": 9, "parameters": {"a": [1], "b": "c=d"}}
    assert asked == [(run.Job("02_texplain", "mini", 3, arithmetic="native"), given)] and not reported
    asked.clear()
    assert CliRunner().invoke(app, ["run"]).exit_code == 0
    names = [job.name for job in run.jobs([], "mini")]
    assert [job.name for job, _ in asked] == names and reported == [names]
    assert asked[0][1] == {"force": False, "timeout": None, "parameters": {}}


def test_pages_are_written_by_the_command(checkout: Path) -> None:
    """And papermill's own command runs them: beside the figures, not over them, and it says where."""
    written = start(checkout, "notebooks")
    assert f"{NAME}: wrote notebooks/{NAME}.ipynb" in written.communicate(timeout=120)[0]
    before = results(checkout)
    papermill = [sys.executable, "-m", "papermill", f"notebooks/{NAME}.ipynb", "build/out.ipynb"]
    parameters = ["-p", "profile", "mini", "-p", "seed", "4"]
    variables = {key: value for key, value in os.environ.items() if key != "JUPYTER_PATH"}  # there is no other one
    variables |= {"PYTHONPATH": str(checkout)}
    ran = subprocess.run([*papermill, *parameters], cwd=checkout, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert times_run(checkout) == ["0 1", "4 1"] and results(checkout) == before
    folder = checkout / "build" / "interactive" / "mini" / NAME
    assert sorted(file.name for file in folder.iterdir()) == ["fig1.pdf", "fig1.png", "numbers.json"]
    assert json.loads((folder / "numbers.json").read_text())["seed"] == 4
    page = nbformat.read(checkout / "build" / "out.ipynb", as_version=4)
    said = "".join(shown.get("text", "") for cell in page.cells for shown in cell.get("outputs", []))
    assert f"Figures, tables and numbers go to {folder}\n" in said


def test_the_lab_starts_in_the_arithmetic_of_the_notebooks(tmp_path: Path) -> None:
    """What the user has set of the same libraries is gone, as it is where a notebook is run."""
    (tmp_path / "jupyterlab.py").write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))")
    set_before = {"GOMP_SPINCOUNT": "9", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OMP_NUM_THREADS": "7"}
    variables = {**os.environ, **set_before, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(paths.ROOT)])}
    command = [sys.executable, "-m", "xaikit", "lab", "--port", "9999", "--no-browser"]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    arguments, seen = json.loads(ran.stdout)
    assert arguments[-3:] == ["--port", "9999", "--no-browser"]
    assert f"--ServerApp.root_dir={paths.ROOT}" in arguments
    wanted = arithmetic.environment(arithmetic.PORTABLE)
    assert not {"GOMP_SPINCOUNT", "MKL_ENABLE_INSTRUCTIONS"} & seen.keys()
    names = {name for values in arithmetic.ARITHMETICS.values() for name in values} | {arithmetic.VARIABLE}
    assert {name: seen.get(name) for name in names} == {name: wanted.get(name) for name in names}
    assert seen["OMP_NUM_THREADS"] == "2"


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    """Nor does a run that has nothing to do."""
    heavy = "{'torch', 'numpy', 'pandas', 'scipy', 'matplotlib', 'papermill', 'jupytext'}"
    code = (
        "import sys\nimport xaikit.companion.run, xaikit.companion.report\nfrom xaikit.__main__ import app\n"
        f"app(['--help'], prog_name='xaikit', standalone_mode=False)\nprint(sorted({heavy} & set(sys.modules)))"
    )
    variables = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert ran.stdout.splitlines()[-1] == "[]"
    listed = re.findall(r"^│ ([a-z][a-z-]*) ", ran.stdout, re.MULTILINE)
    named = (
        "run smoke report review score notebooks course lab audit download extract train-translator cost train-models "
        "towers world states accept"
    )
    assert listed == named.split()


@pytest.mark.parametrize(("given", "set_to"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_command_wait_without_a_core_unless_somebody_wants_it_otherwise(given: str | None, set_to: str):
    """It has to stand in the environment before torch is loaded."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    variables |= {"PYTHONPATH": str(paths.ROOT)} | ({"OMP_WAIT_POLICY": given} if given else {})
    code = "import os, sys, xaikit.__main__; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert ran.stdout.split() == [set_to, "False"]


@pytest.mark.parametrize(("command", "called"), [(main.extract, extract), (main.train_translator, train_translator)])
def test_defaults_are_those_of_what_is_called(command: Callable[..., None], called: Callable[..., None]) -> None:
    behind = inspect.signature(called).parameters
    for name, given in inspect.signature(command).parameters.items():
        if f"--{name}" not in main.JOB_OPTIONS:
            assert (given.default or ()) == (behind[name].default or ()), name


def test_who_trains_models_names_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    names = list(train_models.TRAINERS)
    monkeypatch.setattr(train_models, "TRAINERS", {name: partial(trained.append, name) for name in names})
    refused = CliRunner().invoke(app, ["train-models", names[0], "clip-none"])
    assert (refused.exit_code, trained) == (1, [])
    assert refused.stderr == f"unknown model 'clip-none': choose one of {', '.join(names)}\n"
    for given in ([names[2]], []):
        trained.clear()
        assert CliRunner().invoke(app, ["train-models", *given]).exit_code == 0
        assert trained == (given or names)


def test_the_report_counts_what_the_records_say(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "notebooks" / "02_later.py").write_text("")
    values = {"n.in": 0.5, "n.out": 0.9, "n.new": 1.0, "n.wide": 0.1}
    numbers = [{"id": id, "value": value} for id, value in values.items()]
    verdicts = ["holds"] * 3 + ["fails"] * 2 + ["inconclusive"]
    claims = [{"id": f"claim-{position}", "verdict": verdict} for position, verdict in enumerate(verdicts)]
    claims += [{"id": "given", "verdict": "holds", "by_construction": True}]
    instruments = [
        {"id": "a.ruler", "passes": True, "controls": []},
        {"id": "a.guess", "passes": False, "why": "it has no negative control", "controls": []},
    ]
    claims[0]["instruments"] = ["a.ruler", "a.guess"]
    artefacts = ["fig1.pdf", "fig1.png", "table1.csv"]
    record = {
        "notebook": NAME, "seed": 0, "source": "s" * 64, "device": "cpu", "seconds": 41.7, "artefacts": artefacts,
        "versions": {"torch": "2.15.0"}, "numbers": numbers, "claims": claims, "digest": "d",
        "instruments": instruments, "skipped": {"fig9": "there are no texts"},
        "machine": {"cpu": "a CPU", "flags": "avx2 fma", "cores": 4, "threads": 2, "arithmetic": "portable"},
    }  # fmt: skip
    accepted = {id: {"low": 0.4, "high": 0.6} for id in ("n.in", "n.out", "n.gone")}
    accepted["n.wide"] = {"low": None, "high": None}
    other = {**record, "seed": 12, "claims": [{**claims[0], "verdict": "fails"}, *claims[1:]], "digest": "e"}
    for file, content in {
        f"figures/mini/{NAME}/numbers.json": record,
        f"build/mini/seed-12-native/{NAME}/numbers.json": other,
        "data/accepted/mini.json": {NAME: {"digest": "d", "numbers": accepted}},
    }.items():
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        (checkout / file).write_text(json.dumps(content))
    monkeypatch.setattr(run, "is_fresh", lambda *asked: True)
    assert report.report(run.jobs([], "mini", root=checkout)) == []
    said = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in said.splitlines() if "│" in line]
    counted = [NAME, "fresh", "42", "2", "3", "2", "1", "0", "0", "1", "1", "1", "as", "accepted"]
    assert rows == [counted, ["02_later", "no", "run"]]
    finding = "A number outside is a finding: please report it with this line. "
    assert said.splitlines()[-8:] == [
        f"{NAME}: skipped fig9: there are no texts",
        f"{NAME}: no instrument for 1 claim: a.guess fails, as it has no negative control",
        f"{NAME}: not counted, as nothing could have come out otherwise: 1 claim",
        "outside: n.out = 0.9, accepted 0.4 to 0.6",
        "not recorded, though accepted: n.gone",
        f"{finding}{NAME}, seed 0, source ssssssssssss; torch 2.15.0; cpu, a CPU, portable arithmetic, 2 threads on 4 "
        "cores, avx2 fma",
        f"{NAME}: numbers not accepted yet: 1 (make accept)",
        "2 runs: 1 fresh, 1 no run",
    ]
    report.report(run.jobs([NAME], "mini", root=checkout), seeds=True)
    said = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in said.splitlines() if "│" in line]
    assert rows[0] == counted
    assert rows[1] == ["seed-12-native", "fresh", "42", "2", "2", "3", "1", "0", "0", "1", "1", "1", "other"]
    assert "outside: seed-12-native: n.out = 0.9, accepted 0.4 to 0.6" in said
    assert said.splitlines()[-2:] == ["claim-0: holds 1, fails 1 of 2 runs", "2 runs: 2 fresh"]
