"""Jobs side by side give what they give alone, and say whose error it is."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import is_running, wait_for
from torch import nn

from xaikit.storage import paths
from xaikit.storage import side_by_side as module
from xaikit.storage.side_by_side import fetch_all, in_parts, side_by_side

pytestmark = pytest.mark.filterwarnings("ignore:.*is damaged and is computed anew")


def trained(seed: int, width: int = 24) -> dict[str, torch.Tensor]:
    """A small network after some steps: any other order of summation shows in its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        images, labels = torch.rand(64, 3, 20, 20), torch.randint(0, 2, (64,))
        model(images)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(10):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()
    return {**model.state_dict(), "threads": torch.tensor(torch.get_num_threads())}


def fails(seed: int, log: str) -> dict[str, int]:
    Path(log, str(seed)).touch()
    if seed == 1:
        raise ValueError("The loss is nan in step 3; lower the learning rate.")
    return {"seed": seed}


def killed(seed: int) -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {"seed": seed}


def sleeps(folder: str) -> dict[str, int]:
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)
    return {}


def half_done(seed: int, checkpoint: Path) -> dict[str, int | str]:
    if not checkpoint.exists():
        checkpoint.write_text("half")
        raise ValueError("It was stopped.")
    return {"seed": seed, "went on from": checkpoint.read_text()}


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_the_results_are_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {f"network {seed}": {"seed": seed} for seed in range(3)}
    beside = dict(side_by_side(trained, jobs))
    monkeypatch.setattr(module, "cores", lambda: 1)
    before = torch.get_num_threads()
    alone = dict(side_by_side(trained, dict(reversed(jobs.items()))))
    assert torch.get_num_threads() == before
    assert beside.keys() == alone.keys() == jobs.keys()
    for name, state in beside.items():
        assert state["threads"] == 1
        assert state.keys() == alone[name].keys()
        assert all(torch.equal(value, alone[name][key]) for key, value in state.items())
    assert not torch.equal(beside["network 0"]["0.weight"], beside["network 1"]["0.weight"])


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_names_its_job_and_what_is_finished_is_kept(tmp_path: Path, device: str) -> None:
    jobs = {f"model {seed}": {"seed": seed, "log": str(tmp_path)} for seed in (0, 1)}
    with pytest.raises(ValueError, match=r"^model 1: The loss is nan in step 3; lower the learning rate\.$"):
        fetch_all(fails, jobs, label="training", device=device)
    (tmp_path / "0").unlink()
    jobs["model 1"]["seed"] = 2
    # Only what is missing is computed, and the results come in the order in which they were asked for.
    assert list(fetch_all(fails, jobs, label="training", device=device).items()) == [
        ("model 0", {"seed": 0}),
        ("model 1", {"seed": 2}),
    ]
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {"1", "2"}


@pytest.mark.usefixtures("two_cores")
def test_a_killed_process_is_an_error_in_a_sentence() -> None:
    with pytest.raises(
        RuntimeError, match=r"^model \d: its process, or one beside it, was killed, perhaps for want of"
    ):
        dict(side_by_side(killed, {f"model {seed}": {"seed": seed} for seed in (0, 1)}))


def test_memory_bounds_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 64)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30}))
    monkeypatch.setattr(module, "ProcessPoolExecutor", None)  # so with one process there is no pool
    assert dict(side_by_side(trained, {"a": {"seed": 0}, "b": {"seed": 1}})).keys() == {"a", "b"}


def test_the_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    code = (
        "from xaikit.storage import side_by_side as module; from test_side_by_side import sleeps\n"
        f"module.cores = lambda: 2; job = {{'folder': {str(tmp_path)!r}}}\n"
        "dict(module.side_by_side(sleeps, {'a': job, 'b': job}))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2, seconds=90)
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(is_running(int(file.name)) for file in tmp_path.iterdir()), seconds=30)
    finally:
        parent.kill()


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_stopped_goes_on_from_its_checkpoint_which_then_goes(device: str) -> None:
    options = {"label": "training", "device": device, "checkpoints": True}
    jobs = {f"model {seed}": {"seed": seed} for seed in (0, 1)}
    with pytest.raises(ValueError, match="It was stopped"):
        fetch_all(half_done, {"model 0": jobs["model 0"]}, **options)
    with pytest.raises(ValueError, match="model 1: It was stopped"):
        fetch_all(half_done, jobs, **options)
    found = fetch_all(half_done, jobs, **options)
    assert found == {f"model {seed}": {"seed": seed, "went on from": "half"} for seed in (0, 1)}
    assert not list(paths.CACHE.rglob("*.checkpoint"))


@pytest.mark.parametrize(
    ("count", "most", "parts"), [(1, 20, 1), (20, 20, 1), (21, 20, 2), (60, 20, 4), (7, 2, 4), (5, 1, 5)]
)
def test_parts_are_one_or_an_even_number_and_hold_every_row_once(count: int, most: int, parts: int) -> None:
    found = list(in_parts(count, most).values())
    assert len(found) == parts and torch.equal(torch.cat(found), torch.arange(count))
    assert max(map(len, found)) <= most and max(map(len, found)) - min(map(len, found)) <= 1


def process(seed: int) -> int:
    return os.getpid()


@pytest.mark.usefixtures("two_cores")
def test_the_processes_wait_for_the_next_jobs_but_not_with_old_code_or_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {f"job {seed}": {"seed": seed} for seed in range(6)}
    first = set(dict(side_by_side(process, jobs)).values())
    assert os.getpid() not in first
    assert set(dict(side_by_side(process, jobs)).values()) <= set(module._Workers.waiting[0].pool._processes) >= first
    monkeypatch.setenv("XAIKIT_SOMETHING", "else")
    second = set(dict(side_by_side(process, jobs)).values())
    assert not first & second
    code = tmp_path / "of_a_hand.py"
    code.write_text("answer = 1")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("of_a_hand")
    third = set(dict(side_by_side(process, jobs)).values())
    os.utime(code, (time.time() + 100, time.time() + 100))
    fourth = set(dict(side_by_side(process, jobs)).values())
    assert not second & third and not third & fourth
    wait_for(lambda: not any(is_running(number) for number in first | second | third), seconds=30)


@pytest.mark.usefixtures("two_cores")
def test_a_process_of_jobs_starts_no_others() -> None:
    jobs = {f"job {seed}": {"jobs": 3} for seed in (0, 1)}
    for own, each in dict(side_by_side(within, jobs)).values():
        assert each == {own}


def within(jobs: int) -> tuple[int, set[int]]:
    return os.getpid(), set(dict(side_by_side(process, {f"{seed}": {"seed": seed} for seed in range(jobs)})).values())


def test_where_the_working_folder_is_gone_the_jobs_are_done_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = dict(side_by_side(process, {"a": {"seed": 0}, "b": {"seed": 1}}))
    assert set(found.values()) == {os.getpid()}
