"""Every state of a notebook's results, driven as its user would: by runs, edits, failures and kills."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from processes import wait_for

from xaikit.companion import progress, report, run, states
from xaikit.companion.freshness import State, status
from xaikit.companion.run import Job

NAME = "01_small"
RAISES = 'print("drew it")', 'raise KeyError("no such map")'


def job(root: Path, **options: object) -> Job:
    return Job(NAME, "mini", root=root, **options)


def edit(root: Path, old: str, new: str) -> None:
    script = root / "notebooks" / f"{NAME}.py"
    text = script.read_text(encoding="utf-8")
    assert old in text
    script.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory: pytest.TempPathFactory, small_checkout: Path) -> Path:
    """A checkout in which the notebook was run, under another seed too; nobody changes it."""
    root = tmp_path_factory.mktemp("ran") / "checkout"
    shutil.copytree(small_checkout, root)
    run.run_notebook(NAME, root=root)
    run.run_notebook(NAME, seed=3, root=root)
    return root


@pytest.fixture
def ran(ran_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(ran_once, tmp_path / "ran")
    return tmp_path / "ran"


def command(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `xaikit`."""
    whole = [sys.executable, "-m", "xaikit", *arguments]
    done = subprocess.run(whole, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the report of a checkout says, in this process."""

    def said(root: Path, *, seeds: bool = False, failed: Sequence[str] = ()) -> str:
        capsys.readouterr()
        assert report.report(run.jobs([], "mini", root=root), seeds=seeds) == [*failed]
        return capsys.readouterr().out

    return said


def rows(said: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if "│" in line]
    return [[cell for cell in row if cell] for row in cells]


def test_a_whole_run_of_the_code_that_is_here_is_fresh(ran: Path) -> None:
    status_code, text = command(ran, "report", "--seeds")
    first, other = rows(text)
    assert status_code == 0
    assert first[:5] == [NAME, "fresh", first[2], "1", "1"] and other[:2] == ["seed-3", "fresh"]
    assert text.splitlines()[-1] == "2 runs: 2 fresh"
    edit(ran, "Some words about it.", "Others.")
    assert status(job(ran)).state == State.FRESH


def test_a_record_that_came_with_the_repository_is_committed(ran: Path, reported: Callable[..., str]) -> None:
    shutil.rmtree(ran / "build")
    assert rows(reported(ran)) == [[NAME, "committed, not run here"]]  # and none of its numbers
    assert not (ran / "build").exists()
    edit(ran, "0.5 + seed / 100", "0.6 + seed / 100")
    assert rows(reported(ran)) == [[NAME, "stale"]]


def test_where_nothing_was_run_there_is_nothing(checkout: Path, reported: Callable[..., str]) -> None:
    assert rows(reported(checkout)) == [[NAME, "no run"]]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (f"notebooks/{NAME}.py", "0.5 + seed", "0.6 + seed"),
        ("xaikit/companion/profiles/mini.toml", "images = 3", "images = 4"),
        ("requirements.lock", "numpy==2.0.0", "numpy==2.0.1"),
    ],
)
def test_a_change_makes_results_stale_those_of_other_seeds_too(
    ran: Path, file: str, old: str, new: str, reported: Callable[..., str]
) -> None:
    text = (ran / file).read_text(encoding="utf-8")
    assert old in text
    (ran / file).write_text(text.replace(old, new), encoding="utf-8")
    text = reported(ran, seeds=True)
    assert rows(text) == [[NAME, "stale"], ["seed-3", "stale"]]
    assert f"{NAME} (seed-3): stale, as code or settings have changed since" in text
    assert text.splitlines()[-1] == "2 runs: 2 stale"
    (ran / file).write_text((ran / file).read_text(encoding="utf-8").replace(new, old), encoding="utf-8")
    assert status(job(ran)).state == State.FRESH


def test_results_that_were_changed_by_hand_are_named(ran: Path) -> None:
    figure = ran / "figures" / "mini" / NAME / "fig1.png"
    before = figure.read_bytes()
    figure.write_bytes(before + b"x")
    assert status(job(ran)).why == "stale, as these were changed since the run: fig1.png"
    figure.unlink()
    assert status(job(ran)).why == "stale, as these were changed since the run: fig1.png"
    page = ran / "build" / "mini" / f"{NAME}.ipynb"
    page.write_text("{")
    assert status(job(ran)).why == "stale, as these were changed since the run: 01_small.ipynb, fig1.png"
    (ran / "build" / "mini" / f"{NAME}.stamp").unlink()
    assert status(job(ran)).why == "stale, as fig1.png is gone"
    figure.write_bytes(before)
    assert status(job(ran)).state == State.COMMITTED


def test_a_restored_record_is_not_taken_for_the_one_that_was_made_here(ran: Path) -> None:
    record = ran / "figures" / "mini" / NAME / "numbers.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**content, "seconds": 99.0}), encoding="utf-8")  # as another machine's is
    assert status(job(ran)).state == State.COMMITTED


def test_other_parameters_than_those_asked_for_are_not_fresh(ran: Path) -> None:
    stamp = ran / "build" / "mini" / f"{NAME}.stamp"
    content = json.loads(stamp.read_text(encoding="utf-8"))
    stamp.write_text(json.dumps({**content, "parameters": {"extra": [2, 3]}}), encoding="utf-8")
    assert status(job(ran)).why == "stale, as it was made with the parameters {'extra': [2, 3]}"
    assert status(job(ran), {"extra": (2, 3)}).state == State.FRESH


def test_what_cannot_be_read_is_stale_and_stops_no_other_notebook(ran: Path, reported: Callable[..., str]) -> None:
    text = (ran / "notebooks" / f"{NAME}.py").read_text(encoding="utf-8").replace(f'"{NAME}"', '"02_later"')
    (ran / "notebooks" / "02_later.py").write_text(text, encoding="utf-8")
    edit(ran, 'print("drew it")', 'print("drew it"')
    text = reported(ran)
    assert rows(text) == [[NAME, "stale"], ["02_later", "no run"]]
    assert "in the cell that begins 'import matplotlib.pyplot as plt': '(' was never closed (line 11)" in text
    status_code, text = command(ran, "run")
    assert (status_code, [row[:2] for row in rows(text)]) == (1, [[NAME, "stale"], ["02_later", "fresh"]])
    assert text.splitlines()[-1] == f"failed: {NAME}"


def test_after_a_failure_nothing_of_an_earlier_run_counts(ran: Path) -> None:
    """And what the run had finished stays, marked, beside the results: the same code again, and they are not fresh."""
    edit(ran, *RAISES)
    with pytest.raises(RuntimeError, match="no such map"):
        run.run_notebook(NAME, root=ran)
    folder = ran / "build" / "mini" / f"{NAME}.unfinished"
    for _ in range(2):
        status_code, text = command(ran, "report")
        assert (status_code, rows(text)) == (1, [[NAME, "failed"]])
        log = ran / "build" / "mini" / f"{NAME}.log"
        assert "so far in" not in text  # its record is marked, and named as any
        assert (
            f"{NAME}: failed in section 'Figure 1: a line'; log: {log}; what it finished, 2 files, is in {folder}"
            in text
        )
        assert text.splitlines()[-2:] == ["1 run: 1 failed", f"failed: {NAME}"]
        edit(ran, *RAISES[::-1]) if RAISES[1] in (ran / "notebooks" / f"{NAME}.py").read_text() else None
    assert sorted(file.name for file in folder.iterdir()) == ["fig1.pdf", "fig1.png", "numbers.json"]
    record = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    assert record["unfinished"] == "failed in section 'Figure 1: a line'"
    assert record["artefacts"] == ["fig1.pdf", "fig1.png"] and not record["numbers"]
    assert "unfinished" not in json.loads((ran / "figures" / "mini" / NAME / "numbers.json").read_text())


def test_a_run_goes_on_and_says_from_what_and_how_long(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ran / "build" / "cache"
    cache.mkdir()
    (cache / "old-0.safetensors").write_bytes(b"")
    os.utime(cache / "old-0.safetensors", (0, 0))
    in_the_end = "record.save()\nrecord.claims()"
    edit(
        ran,
        in_the_end,
        'from pathlib import Path\nPath("build/cache/train-1.safetensors").write_bytes(b"0" * 2_000_000)\n1 / 0',
    )
    with pytest.raises(RuntimeError, match="division by zero"):
        run.run_notebook(NAME, root=ran)
    assert "01_small: what it finished, 2 files, is kept in" in capsys.readouterr().out
    kept = json.loads((ran / "build" / "mini" / f"{NAME}.unfinished" / "numbers.json").read_text(encoding="utf-8"))
    assert [number["id"] for number in kept["numbers"]] == ["small.value", "small.count"] and kept["claims"]
    text = (ran / "notebooks" / f"{NAME}.py").read_text(encoding="utf-8")
    (ran / "notebooks" / f"{NAME}.py").write_text(text.partition("from pathlib")[0] + in_the_end, encoding="utf-8")
    run.run_notebook(NAME, root=ran)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"{NAME}: the last run failed in section 'The record', with 2 of 3 sections done in ")
    assert f"1 step since kept in {cache} (2 MB: train), to be read, not computed; expect " in first
    assert status(job(ran)).state == State.FRESH
    assert not list((ran / "build" / "mini").glob("*.unfinished"))


@pytest.fixture
def sleeping(ran: Path) -> Iterator[subprocess.Popen[str]]:
    """`xaikit run` in the midst of its second section."""
    edit(ran, 'print("drew it")', 'open("build/waiting", "w").close()\nimport time\ntime.sleep(600)')
    process = subprocess.Popen(
        [sys.executable, "-m", "xaikit", "run", NAME], cwd=ran, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (ran / "build" / "waiting").exists(), seconds=300)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_who_runs_it_is_seen_and_who_was_killed_too(
    ran: Path, sleeping: subprocess.Popen[str], reported: Callable[..., str]
) -> None:
    text = reported(ran)
    assert rows(text) == [[NAME, "running"]]
    assert f"{NAME}: running, in section 'Figure 1: a line'" in text
    sleeping.send_signal(signal.SIGKILL)
    sleeping.wait()
    wait_for(lambda: not run.is_running(job(ran)))
    text = reported(ran, failed=[NAME])
    assert rows(text) == [[NAME, "failed"]]
    folder = ran / "build" / "mini" / f"{NAME}.unfinished"
    assert f"{NAME}: stopped in section 'Figure 1: a line'" in text
    assert f"what it finished, 2 files, is in {folder}, its numbers so far in unfinished.json" in text
    so_far = json.loads((folder / "unfinished.json").read_text(encoding="utf-8"))
    assert so_far["unfinished"] == "the run goes on, or was killed" and not (folder / "numbers.json").exists()
    assert states.note(ran) == []  # and no state of an artefact follows from it


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"{}", b'{"numbers": [{"id": 3}]}', b"<<<<"]
)
def test_a_damaged_record_is_named(ran: Path, content: bytes) -> None:
    file = ran / "figures" / "mini" / NAME / "numbers.json"
    file.write_bytes(content)
    assert status(job(ran)).state == State.DAMAGED
    assert status(job(ran)).why.startswith(f"{file} is damaged (")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", "long"), ("seconds", None), ("artefacts", [3]), ("artefacts", None), ("claims", [{}]),
        ("claims", 3), ("numbers", [{"id": "a", "value": "1"}]), ("numbers", [{"id": "a", "value": math.nan}]),
        ("skipped", ["fig1"]),
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_named(ran: Path, key: str, value: object) -> None:
    file = ran / "figures" / "mini" / NAME / "numbers.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, key: value}), encoding="utf-8")
    assert status(job(ran)).why.startswith(f"{file} is damaged (")
    assert status(job(ran, seed=3)).state == State.FRESH


def test_a_damaged_record_stops_no_report_and_is_made_again(ran: Path, reported: Callable[..., str]) -> None:
    file = ran / "figures" / "mini" / NAME / "numbers.json"
    file.write_bytes(file.read_bytes()[:200])
    text = reported(ran, seeds=True)
    assert [row[:2] for row in rows(text)] == [[NAME, "damaged"], ["seed-3", "fresh"]]
    assert f"{NAME}: {file} is damaged (" in text
    run.run_notebook(NAME, root=ran)
    assert status(job(ran)).state == State.FRESH


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"01_small": 3}', '{"01_small": {"numbers": {"small.value": {}}}}']
)
def test_damaged_accepted_numbers_are_named_below_the_table(
    ran: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ran / "data" / "accepted" / "mini.json"
    file.parent.mkdir()
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^no number was compared: .*data/accepted/mini\.json is damaged \("):
        report.report([job(ran)])
    (row,) = rows(capsys.readouterr().out)
    assert row[:5] == [NAME, "fresh", row[2], "1", "1"]


def test_a_run_of_another_seed_that_was_killed_has_its_row(ran: Path, reported: Callable[..., str]) -> None:
    (ran / "build" / "mini" / "seed-5-plain").mkdir()
    progress.Progress(job(ran, seed=5, arithmetic="plain").file(".run.json"), ["a"]).reach("a", 1.0)
    text = reported(ran, seeds=True, failed=[f"{NAME} (seed-5-plain)"])
    assert [row[:2] for row in rows(text)] == [[NAME, "fresh"], ["seed-3", "fresh"], ["seed-5-plain", "failed"]]
    assert f"{NAME} (seed-5-plain): stopped in section 'a'" in text
    assert rows(reported(ran)) == rows(text)[:1]


def test_what_tests_will_run_first_is_said(ran: Path) -> None:
    assert report.to_run([job(ran)]) == "Every notebook is up to date: none is run first."
    edit(ran, "0.5 + seed", "0.6 + seed")
    record = ran / "figures" / "mini" / NAME / "numbers.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 754}), encoding="utf-8")
    assert report.to_run([job(ran)]) == f"Runs first (about 13 min by their records): {NAME} (stale)."
    record.unlink()
    assert report.to_run([job(ran)]) == f"Runs first (how long is not known): {NAME} (no run)."


def test_how_far_a_run_came_is_kept_with_the_longest_of_each_section(tmp_path: Path) -> None:
    file = tmp_path / "01_x.run.json"
    for seconds in ([0.5, 100.5, 300.5], [0.0, 1.0]):
        made = progress.Progress(file, ["a", "b", "c"])
        for section, at in zip(made.sections, seconds, strict=False):
            made.reach(section, at)
    made.stop("it broke")
    found = progress.read(file)
    assert found == made and found.where == "failed in section 'b'"
    said = found.forecast(tmp_path)
    assert said == (
        f"failed in section 'b', with 1 of 3 sections done in 1 s; no step of it is in {tmp_path}; "
        "how long it takes from 'c' on is not known yet"
    )
    whole = progress.Progress(file, ["a", "b", "c"])
    for section, at in [("a", 0.0), ("b", 2.0), ("c", 3.0), ("", 7203.0)]:
        whole.reach(section, at)
    assert found.forecast(tmp_path).endswith("expect 2 h 3 min to 2 h 5 min, by the sections' seconds in earlier runs")
    whole.end()
    assert progress.read(file) is None
    file.write_text("{")
    assert progress.read(file).where == "stopped in section 'the start'"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99.0, "99 s"), (100.0, "2 min"), (5_900.0, "98 min"), (12_000.0, "3 h 20 min")]
)
def test_durations_are_said_as_one_says_them(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_results_may_lie_on_another_file_system(checkout: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == checkout.stat().st_dev:
        pytest.skip("there is no second file system here")
    build = elsewhere / f"xaikit-test-{os.getpid()}-{time.time_ns()}"
    build.mkdir()
    try:
        (checkout / "build").rmdir()
        (checkout / "build").symlink_to(build)
        for _ in range(2):
            run.run_notebook(NAME, root=checkout, force=True)
        assert status(job(checkout)).state == State.FRESH
        assert [file.name for file in (checkout / "figures" / "mini").iterdir()] == [NAME]
    finally:
        shutil.rmtree(build)
