"""Independent jobs side by side, each on one thread in a process of its own: the same results on any number of cores.

Two threads on one small network spend much of their time waiting for each other, and far more of it where something
else runs; two networks on a thread each do not. The processes wait for the next jobs: each takes seconds to start, most
of them for torch.
"""

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
from tqdm import tqdm

from xaikit.storage import cache
from xaikit.storage.arithmetic import cores
from xaikit.storage.files import locked

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 1.5 * 2**30  # of a job: a ResNet-50 in training at 28 pixels takes 1.2 GB, 0.4 of it torch itself


def side_by_side(
    function: Callable[..., Any], jobs: Mapping[str, Mapping[str, Any]], *, device: str = "cpu"
) -> Iterator[tuple[str, Any]]:
    """Call `function(**job)` for each job and yield (its name, the result) in the order in which they end.

    `function` is one at the top of a module; jobs and results are sent by pickle. A job's result does not depend on
    the others, nor on how many run at once: each has one thread, and draws from generators of its own. There are as
    many processes as cores, fewer where memory is short. On a GPU, for one job, and where the working folder was
    deleted, in which no process can start, all is done in this one.
    Raises what a job raises, with the job's name before its message, and RuntimeError for a process that was killed;
    the others are then stopped.
    """
    asked = min(len(jobs), cores())
    processes = min(asked, max(1, int((psutil.virtual_memory().available + _Workers.held()) / MEMORY)))
    alone = processes <= 1 or multiprocessing.parent_process() is not None or _folder() is None
    if device != "cpu" or alone:
        for name, job in jobs.items():
            with _named(name), _one_thread(device):
                result = function(**job)
            yield name, result
        return
    workers = _Workers.idle(processes, asked)
    try:
        # Pickled here: left to multiprocessing, torch would move the tensors to shared memory, of which containers
        # have little. Both ends are this program's, and nothing of it is ever kept.
        deterministic = _deterministic()
        futures = {
            workers.pool.submit(_call, pickle.dumps((deterministic, function, dict(job)))): name
            for name, job in jobs.items()
        }
        for future in as_completed(futures):
            yield futures[future], pickle.loads(_result(future, futures[future]))
    except BaseException:
        workers.stop()
        raise
    workers.rest()


@dataclass(frozen=True, eq=False)
class _Workers:
    """Processes that wait for jobs, and what they were started with: other code or settings need others."""

    pool: ProcessPoolExecutor
    processes: int
    started_with: object

    waiting: ClassVar[list["_Workers"]] = []  # at most one

    @classmethod
    def idle(cls, processes: int, asked: int) -> "_Workers":
        """Those that wait, or new ones; more than are `asked` for will do, as the others then have no job."""
        here = _started_with()
        while cls.waiting:
            workers = cls.waiting.pop()
            fit = workers.processes == processes or workers.processes > processes == asked
            if fit and workers.started_with == here and not workers.pool._broken:
                return workers
            workers.stop()
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that torch's threads hold
        return cls(ProcessPoolExecutor(processes, context, initializer=_begin), processes, here)

    @classmethod
    def held(cls) -> int:
        """The bytes that those which wait hold: the next jobs have them."""
        found = 0
        for process in (each for workers in cls.waiting for each in list(workers.pool._processes.values())):
            with suppress(psutil.Error):
                found += psutil.Process(process.pid).memory_info().rss
        return found

    def rest(self) -> None:
        """Wait for the next jobs, unless others do."""
        if self.waiting:
            self.pool.shutdown()
        else:
            self.waiting.append(self)

    def stop(self) -> None:
        for process in list((self.pool._processes or {}).values()):  # it has no public way to stop what is running
            process.terminate()
        self.pool.shutdown(cancel_futures=True)


def _started_with() -> object:
    """What a new process would take from this one or from its files: a module that was changed since, above all."""
    code = 0
    for module in list(sys.modules.values()):
        if file := getattr(module, "__file__", None):
            with suppress(OSError):
                code = max(code, os.stat(file).st_mtime_ns)
    return dict(os.environ), tuple(sys.path), _folder(), code


def _folder() -> str | None:
    """The working folder; None where it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def in_parts(count: int, most: int) -> dict[str, "Tensor"]:
    """The positions of `count` images in parts of about the same size, by name: as jobs to be done side by side.

    They are one part, or an even number of parts of `most` or less, so that two cores end together; none is empty.
    """
    import torch

    parts = torch.arange(count).tensor_split(1 if count <= most else min(count, 2 * -(-count // (2 * most))))
    return {f"part {number} of {len(parts)}": rows for number, rows in enumerate(parts, start=1)}


def fetch_all(
    producer: Callable[..., dict[str, Any]],
    jobs: Mapping[str, Mapping[str, Any]],
    *,
    label: str,
    device: str = "cpu",
    checkpoints: bool = False,
) -> dict[str, dict[str, Any]]:
    """`cache.fetch(producer, **job)` for independent jobs, by their names: what is missing is computed `side_by_side`.

    Each is kept as soon as it ends, so that of a run that was stopped only what was going on is lost. With
    `checkpoints` the producer is also given one, the path of a file beside its result, from which it can go on; it is
    removed when the result is there. A bar with the `label` counts them. Raises what `cache.fetch` raises, with the
    name of the job before the message.
    """
    found = {name: cache.path_of(producer, job) for name, job in jobs.items()}
    with ExitStack() as locks:
        for path in sorted(set(found.values())):  # in one order, so that two processes never wait for each other
            locks.enter_context(locked(path))
        results = {name: result for name, path in found.items() if (result := cache.kept(path)) is not None}
        missing = {name: job for name, job in jobs.items() if name not in results}
        if checkpoints:
            missing = {name: {**job, "checkpoint": _checkpoint(found[name])} for name, job in missing.items()}
        with tqdm(total=len(jobs), initial=len(results), desc=label, mininterval=0) as progress:
            for name, result in side_by_side(producer, missing, device=device):
                results[name] = cache.keep(found[name], name, result)
                _checkpoint(found[name]).unlink(missing_ok=True)
                progress.set_postfix_str(f"{name} done")
                progress.update()
    return {name: results[name] for name in jobs}


def _checkpoint(path: Path) -> Path:
    return path.with_suffix(".checkpoint")


def _result(future: Future[bytes], name: str) -> bytes:
    with _named(name):
        try:
            return future.result()
        except BrokenProcessPool:
            raise RuntimeError("its process, or one beside it, was killed, perhaps for want of memory") from None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say whose error it is."""
    try:
        yield
    except Exception as error:
        error.args = (f"{name}: {error}", *error.args[1:])
        raise


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _call(pickled: bytes) -> bytes:
    import torch

    deterministic, function, job = pickle.loads(pickled)
    torch.use_deterministic_algorithms(deterministic)
    return pickle.dumps(function(**job))


def _deterministic() -> bool:
    import torch

    return torch.are_deterministic_algorithms_enabled()


def _begin() -> None:
    """Make a new process one of a single thread, which ends with the one that started it."""
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # bars of many jobs would run into each other
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = False
