"""A command of xaikit as a job: through SLURM, or on this machine in the same way, both by submitit.

    xaikit run 04_clip_decomposition --profile paper --executor slurm --gpus 1 --hours 4
    xaikit extract --profile paper --executor slurm --nodes 4 --gpus 8

Commands that share out their work are started on every node by torch's launcher, a process for each GPU. The pickled
command, the script that was submitted, and the logs lie in `build/jobs/`.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xaikit.companion.preflight import gpus as gpus_here
from xaikit.storage import paths
from xaikit.storage.extras import extra

with extra("slurm"):
    import submitit
    from submitit.core.utils import UncompletedJobError

Executor = Literal["slurm", "local"]
CORES = 8  # for each GPU, of a node


@dataclass(frozen=True)
class Resources:
    """What a job asks for: nodes, GPUs and GB of memory on each, hours, and the cluster's partition."""

    nodes: int = 1
    gpus: int = 0
    hours: float | int = 24
    memory: int | None = None
    partition: str | None = None

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus < 0 or self.hours <= 0:
            raise ValueError(f"{self.nodes} nodes with {self.gpus} GPUs for {self.hours} h make no job: ask for more.")


class JobFailed(RuntimeError):
    """What a command said last, before it ended with an error."""


@dataclass(frozen=True)
class Command:
    """`python -m xaikit` with these arguments, called within a job; several `processes` a node share its work.

    Called, it returns the last line that it printed, and raises JobFailed with that of its errors. A job that is
    preempted or comes to its time limit is queued again: commands go on from what they had finished.
    """

    arguments: tuple[str, ...]
    nodes: int = 1
    processes: int = 1

    def __call__(self) -> str:
        with subprocess.Popen(
            self.line(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            before = signal.signal(signal.SIGINT, lambda *_: process.send_signal(signal.SIGINT))
            last, ended = "", False
            try:
                for line in process.stdout or ():
                    print(line, end="", flush=True)  # into the job's log
                    ended = ended or _LAUNCHER.match(line) is not None
                    last = line.strip() if line.strip() and not ended else last
            finally:
                signal.signal(signal.SIGINT, before)
        if process.returncode:
            raise JobFailed(last or f"it ended with status {process.returncode}")
        return last

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The same command again, when submitit queues the job anew."""
        return submitit.helpers.DelayedSubmission(self)

    def line(self) -> list[str]:
        """The command of this node."""
        own = ["-m", "xaikit", *self.arguments]
        if self.nodes == self.processes == 1:
            return [sys.executable, *own]
        where = ["--standalone"]
        if self.nodes > 1:
            job = submitit.JobEnvironment()
            port = 20_000 + int(re.sub(r"\D", "", job.job_id) or 0) % 20_000  # the same on all nodes
            endpoint = f"{job.hostnames[0]}:{port}"
            where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", job.job_id]
        launcher = ["-m", "torch.distributed.run", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)]
        return [sys.executable, *launcher, *where, *own]


# Where a process fails, torch's launcher ends the others and reports at length, which is no command's own sentence.
_LAUNCHER = re.compile(r"[WE]\d{4} .*torch/distributed/elastic")


def submit(
    arguments: Sequence[str],
    executor: Executor,
    resources: Resources,
    *,
    shared: bool,
    folder: Path | None = None,
) -> str:
    """Submit `xaikit` with these arguments, and return what to tell: the job and its log, or what a local job said.

    Where the command's work is `shared`, each GPU of each node has a process. On this machine there is one node, with
    as many processes as there are GPUs, at most those asked for; and the job is waited for.
    Raises RuntimeError, in a sentence, where there is no SLURM, and where a local job fails; ValueError for several
    nodes or GPUs of a command that works on one.
    """
    if not shared and (resources.nodes > 1 or resources.gpus > 1):
        raise ValueError(f"`xaikit {arguments[0]}` works on one GPU of one machine: ask for no more nodes or GPUs.")
    folder = folder or paths.BUILD / "jobs"
    name = f"xaikit-{arguments[0]}"
    if executor == "local":
        processes = max(1, min(resources.gpus, len(gpus_here()))) if shared else 1
        local = submitit.LocalExecutor(folder)
        local.update_parameters(timeout_min=max(1, round(60 * resources.hours)))
        return _waited_for(local.submit(Command(tuple(arguments), 1, processes)), name)
    command = Command(tuple(arguments), resources.nodes, max(1, resources.gpus) if shared else 1)
    try:
        slurm = submitit.SlurmExecutor(folder)
    except RuntimeError as error:
        raise RuntimeError(f"There is no SLURM on this machine ({error}): take --executor local.") from None
    asked = {
        "job_name": name, "nodes": resources.nodes, "ntasks_per_node": 1, "time": max(1, round(60 * resources.hours)),
        "cpus_per_task": CORES * max(1, resources.gpus), "signal_delay_s": 120,
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **({"mem": f"{resources.memory}GB"} if resources.memory else {}),
        **({"partition": resources.partition} if resources.partition else {}),
    }  # fmt: skip
    slurm.update_parameters(**asked)
    try:
        job = slurm.submit(command)
    except submitit.core.utils.FailedJobError as error:
        raise RuntimeError(f"SLURM did not take the job: {_last(str(error))}") from None
    return f"{name} is job {job.job_id}; its log will be {job.paths.stdout}"


def _waited_for(job: submitit.Job[str], name: str) -> str:
    print(f"{name} is job {job.job_id} on this machine; its log is {job.paths.stdout}", flush=True)
    try:
        job.wait()
    except BaseException:
        job.cancel()
        raise
    try:
        return f"{name} is done: {job.result()}"
    except (submitit.core.utils.FailedJobError, UncompletedJobError) as error:
        found = re.search(r"JobFailed: (.+)", str(error))
        reason = found[1] if found else _last(str(error))
        raise RuntimeError(f"{name} failed: {reason} (log: {job.paths.stdout})") from None


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip(" -=")), "no reason is known")


def without(arguments: Iterable[str], options: Sequence[str]) -> list[str]:
    """A command line without some of its options and their values: `--gpus 8` and `--gpus=8` alike."""
    kept, values = [], iter(arguments)
    for argument in values:
        name, equals, _ = argument.partition("=")
        if name in options:
            if not equals:
                next(values, None)
        else:
            kept.append(argument)
    return kept
