"""A command as a job: on this machine it really runs; for SLURM what would be submitted is read."""

import os
import sys
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import DelayedSubmission
from typer.testing import CliRunner

from xaikit.__main__ import JOB_OPTIONS, app
from xaikit.companion import submit as jobs
from xaikit.companion.submit import Command, JobFailed, Resources, submit, without
from xaikit.storage import paths

UNKNOWN = "unknown notebook '99_none': choose one of "


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with commands of SLURM that take everything and do nothing."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, body in {"sbatch": "echo Submitted batch job 4217", "srun": "exit 0", "scontrol": "exit 1"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def asked_for(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.partition("=")[::2] for line in lines)


# ---- here ----


def test_a_job_here_runs_and_gives_what_it_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = submit(["run", "--check"], "local", Resources(), shared=False, folder=tmp_path)
    assert said == "xaikit-run is done: The profile mini has all it needs."
    log = Path(capsys.readouterr().out.split("its log is ")[1].strip())
    assert log.parent == tmp_path and "The profile mini has all it needs." in log.read_text()


def test_a_job_here_that_fails_says_why_in_a_sentence(tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        submit(["run", "99_none"], "local", Resources(), shared=False, folder=tmp_path)
    said = str(caught.value)
    assert said.startswith(f"xaikit-run failed: {UNKNOWN}") and "(log: " in said and "\n" not in said


def test_several_processes_fail_with_the_sentence_of_one(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(JobFailed, match=f"^{UNKNOWN}"):
        Command(("run", "99_none"), processes=2)()
    assert capfd.readouterr().out.count(UNKNOWN) >= 1


def test_the_command_line_is_submitted_without_what_is_of_the_job(monkeypatch: pytest.MonkeyPatch):
    taken = []

    def take(arguments: list[str], executor: str, resources: Resources, *, shared: bool) -> str:
        taken.append((arguments, executor, resources, shared))
        return "taken"

    monkeypatch.setattr(jobs, "submit", take)
    line = [
        "run",
        "04_clip_decomposition",
        "--seed=3",
        "--executor",
        "slurm",
        "--gpus=1",
        "--hours",
        "4",
        "--memory",
        "64",
    ]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0 and result.output == "taken\n", result.output
    line = [
        "train-translator",
        "out",
        "--executor=local",
        "--nodes",
        "4",
        "--gpus",
        "8",
        "--partition",
        "p",
        "--batch",
        "64",
    ]
    assert CliRunner().invoke(app, line).exit_code == 0
    assert taken == [
        (["run", "04_clip_decomposition", "--seed=3"], "slurm", Resources(1, 1, 4.0, 64), False),
        (["train-translator", "out", "--batch", "64"], "local", Resources(4, 8, 24.0, None, "p"), True),
    ]


def test_what_is_missing_is_said_before_a_job_is_submitted(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(paths, "DATASETS", tmp_path / "data")
    monkeypatch.setattr(jobs, "submit", lambda *_, **__: pytest.fail("a job was submitted"))
    result = CliRunner().invoke(app, ["run", "--profile", "paper", "--executor", "slurm"])
    assert result.exit_code == 1 and "cannot run under paper" in result.stderr


def test_options_of_a_job_need_one():
    result = CliRunner().invoke(app, ["train-translator", "out", "--nodes", "2"])
    assert result.exit_code == 2 and "--executor" in result.stderr


# ---- on a cluster ----


def test_slurm_is_asked_for_what_was_said(cluster: Path, tmp_path: Path):
    resources = Resources(nodes=4, gpus=8, hours=1.5, memory=200, partition="long")
    said = submit(["extract", "--profile", "paper"], "slurm", resources, shared=True, folder=tmp_path)
    assert said == f"xaikit-extract is job 4217; its log will be {tmp_path / '4217_0_log.out'}"
    (script,) = tmp_path.glob("*_submission.sh")
    asked = asked_for(script.read_text())
    wanted = {"nodes": "4", "gpus-per-node": "8", "ntasks-per-node": "1", "time": "90", "partition": "long",
              "mem": "200GB", "job-name": "xaikit-extract", "cpus-per-task": "64"}  # fmt: skip
    assert wanted.items() <= asked.items()
    assert "submitit.core._submit" in script.read_text()
    (pickled,) = tmp_path.glob("*_submitted.pkl")
    assert DelayedSubmission.load(pickled).function == Command(("extract", "--profile", "paper"), 4, 8)


def test_a_notebook_takes_one_gpu(cluster: Path, tmp_path: Path):
    submit(["run", "--profile", "paper"], "slurm", Resources(gpus=1), shared=False, folder=tmp_path)
    (script,) = tmp_path.glob("*_submission.sh")
    assert "mem" not in asked_for(script.read_text()) and asked_for(script.read_text())["gpus-per-node"] == "1"
    with pytest.raises(ValueError, match="one GPU of one machine"):
        submit(["run"], "slurm", Resources(nodes=2), shared=False, folder=tmp_path)


def test_each_node_starts_the_launcher_with_one_meeting_place(monkeypatch: pytest.MonkeyPatch):
    command = Command(("extract",), nodes=3, processes=8)
    monkeypatch.setenv("SLURM_JOB_ID", "4217")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[07-09]")
    lines = []
    for node in range(3):
        for name, value in (("PROCID", node), ("NODEID", node), ("LOCALID", 0), ("NTASKS", 3), ("JOB_NUM_NODES", 3)):
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        lines.append(command.line())
    assert lines[0] == lines[1] == lines[2]
    launcher, own = lines[0][: lines[0].index("xaikit") - 1], lines[0][-3:]
    assert own == ["-m", "xaikit", "extract"] and launcher[:3] == [sys.executable, "-m", "torch.distributed.run"]
    options = dict(zip(launcher[3::2], launcher[4::2], strict=True))
    assert options["--nnodes"] == "3" and options["--nproc-per-node"] == "8" and options["--rdzv-id"] == "4217"
    assert options["--rdzv-endpoint"] == "gpu07:24217"


def test_one_process_needs_no_launcher():
    assert Command(("run",)).line() == [sys.executable, "-m", "xaikit", "run"]
    assert "--standalone" in Command(("extract",), processes=8).line()


def test_a_job_that_is_stopped_is_queued_again_as_it_was():
    command = Command(("extract",), 4, 8)
    again = command.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission) and again.function == command


def test_without_slurm_the_error_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no SLURM on this machine .* take --executor local"):
        submit(["run"], "slurm", Resources(), shared=False, folder=tmp_path)


def test_a_cluster_that_refuses_is_quoted(cluster: Path, tmp_path: Path):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match=r"did not take the job: .*invalid partition") as caught:
        submit(["run"], "slurm", Resources(partition="nope"), shared=False, folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus": -1}, {"hours": 0}])
def test_resources_that_make_no_job(wrong: dict[str, int]):
    with pytest.raises(ValueError, match="make no job"):
        Resources(**wrong)


def test_options_go_with_their_values():
    line = ["run", "--gpus", "8", "a", "--executor=slurm", "--check", "--nodes=2"]
    assert without(line, JOB_OPTIONS) == ["run", "a", "--check"]
