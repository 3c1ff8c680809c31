"""Run notebooks headless: all that a run leaves appears at its end, or not at all.

    xaikit run 01_caption_driven --profile mini

A run is skipped when what it would be made from (see `xaikit.storage.sources`) is what its results were made from.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xaikit.companion import profiles, rehearsal
from xaikit.storage import arithmetic as arithmetics
from xaikit.storage import sources
from xaikit.storage.files import replacing, write_text
from xaikit.storage.paths import ROOT, shipped, workplace

DEFAULT_SEED = 0


@dataclass(frozen=True)
class Job:
    """One notebook under one profile, seed and arithmetic (None: the profile's own), and where its files are."""

    name: str
    profile: str
    seed: int = DEFAULT_SEED
    root: Path = ROOT
    arithmetic: str | None = None

    @property
    def script(self) -> Path:
        return shipped(self.root) / "notebooks" / f"{self.name}.py"

    @property
    def results(self) -> Path:
        """Figures, tables and numbers; only the ordinary run's are the project's own."""
        if not self.variant:
            return workplace(self.root) / "figures" / self.profile / self.name
        return self.work / self.name

    @property
    def variant(self) -> str:
        """What is not as in the ordinary run: "seed-1-native", say."""
        seed = [] if self.seed == DEFAULT_SEED and self.arithmetic is None else [f"seed-{self.seed}"]
        return "-".join([*seed, *([] if self.arithmetic is None else [self.arithmetic])])

    @property
    def work(self) -> Path:
        return workplace(self.root) / "build" / self.profile / self.variant

    def file(self, suffix: str) -> Path:
        """What else a run leaves in the build folder: .ipynb, .log, .stamp, and .part while it goes on."""
        return self.work / f"{self.name}{suffix}"


def jobs(
    names: Sequence[str],
    profile: str,
    seed: int = DEFAULT_SEED,
    root: Path = ROOT,
    arithmetic: str | None = None,
) -> list[Job]:
    """The jobs for the named notebooks, or for all there are.

    Raises ValueError for a notebook, profile or arithmetic that there is not, and where there is no notebook at all.
    """
    own = profiles.arithmetic(profile, root / sources.PACKAGE / "companion" / "profiles")
    if arithmetic is not None and arithmetic not in arithmetics.ARITHMETICS:
        raise ValueError(f"unknown arithmetic {arithmetic!r}: choose one of {', '.join(arithmetics.ARITHMETICS)}")
    arithmetic = None if arithmetic == own else arithmetic
    known = sorted(file.stem for file in (shipped(root) / "notebooks").glob("[0-9][0-9]_*.py"))
    if not known:
        raise ValueError(f"there are no notebooks in {root}: they are named like notebooks/01_name.py")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown notebook {name!r}: choose one of {', '.join(known)}")
    return [Job(name, profile, seed, root, arithmetic) for name in names or known]


def variants_run(job: Job) -> list[Job]:
    """The runs of a notebook with other seeds and arithmetics whose results lie in the build folder."""
    found = []
    for folder in sorted((workplace(job.root) / "build" / job.profile).glob(f"seed-*/{job.name}")):
        _, seed, *arithmetic = folder.parent.name.split("-", 2)
        found.append(replace(job, seed=int(seed), arithmetic=arithmetic[0] if arithmetic else None))
    return found


def run_notebook(
    name: str,
    profile: str = "mini",
    *,
    seed: int = DEFAULT_SEED,
    force: bool = False,
    timeout: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    root: Path = ROOT,
    arithmetic: str | None = None,
) -> Path:
    """Run one notebook unless its results are up to date, and return the folder that holds them.

    `parameters` are for the notebook's cell tagged so, beside `profile` and `seed`; no cell may take longer
    than `timeout` seconds (by default what the profile says). `arithmetic` is one of `storage.arithmetic`, by default
    the profile's. Another process that runs the same notebook is waited for.
    Raises ValueError for an unknown name, profile or parameter, and RuntimeError, saying what failed and
    where the log is, when the notebook fails; an earlier run's results then stay, but count as stale.
    """
    (job,) = jobs([name], profile, seed, root, arithmetic)
    timeout = timeout or profiles.cell_timeout(profile, root / "xaikit" / "companion" / "profiles")
    made_from = {"source": sources.notebook_source(name, profile, root), "parameters": dict(parameters or {})}
    with _exclusive(job):
        if not force and _is_fresh(job, made_from):
            os.utime(job.file(".stamp"))  # make compares times
            print(f"{name}: up to date")
            return job.results
        _execute(job, made_from, timeout)
    return job.results


def run_notebooks(
    chosen: Sequence[Job],
    *,
    force: bool = False,
    timeout: int | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[str]:
    """Run notebooks one after the other and return the names of those that failed, after saying why on stderr.

    The arguments are those of `run_notebook`, and so is what is raised, but for a failure, which stops no other one.
    """
    failed = []
    for job in chosen:
        try:
            run_notebook(
                job.name, job.profile, seed=job.seed, force=force, timeout=timeout, parameters=parameters,
                root=job.root, arithmetic=job.arithmetic,
            )  # fmt: skip
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed.append(job.name)
    return failed


@contextmanager
def _exclusive(job: Job) -> Iterator[None]:
    lock = FileLock(job.file(".lock"))
    try:
        job.work.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{job.name}: waiting for another run of it", flush=True)
        lock.acquire()
    except OSError as error:
        raise RuntimeError(
            f"{job.name}: nothing can be written to {job.work} ({error.strerror}): run in a copy of the checkout that "
            "is your own"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _is_fresh(job: Job, made_from: Mapping[str, Any]) -> bool:
    try:
        stamp = json.loads(job.file(".stamp").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return stamp == {**made_from, "files": _checksums(job)} and job.file(".ipynb").exists()


def _checksums(job: Job) -> dict[str, str]:
    files = sorted(file for file in job.results.glob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _execute(job: Job, made_from: Mapping[str, Any], timeout: int) -> None:
    from xaikit.companion import execute  # here, as Jupyter takes seconds to import and often nothing is to be done

    notebook = execute.read(job.script)
    parameters = {"profile": job.profile, "seed": job.seed, **made_from["parameters"]}
    execute.check_parameters(notebook, job.name, parameters)

    job.file(".stamp").unlink(missing_ok=True)
    part, log = job.file(".part"), job.file(".log")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    label = f"{job.name} ({job.variant})" if job.variant else job.name
    own = profiles.arithmetic(job.profile, job.root / sources.PACKAGE / "companion" / "profiles")
    environment = arithmetics.environment(job.arithmetic or own)
    if profiles.rehearses(job.profile, job.root / sources.PACKAGE / "companion" / "profiles"):
        environment |= rehearsal.environment(job.root / "build" / job.profile)
    # Fixed hashes, as the order of a set of strings must not differ from run to run.
    environment |= {"XAIKIT_OUT": str(part), "TQDM_MININTERVAL": "5", "PYTHONHASHSEED": "0"}
    try:
        executed = execute.execute(
            notebook,
            job.file(".part.ipynb"),
            log,
            parameters=parameters,
            environment=environment,
            folder=workplace(job.root),
            timeout=timeout,
            say=lambda line: print(f"{label} {line}", flush=True),
        )
        _check_record(job, part / "numbers.json", made_from["source"])
    except RuntimeError as error:
        raise RuntimeError(f"{job.name}: {error}\nlog: {log}") from None

    with replacing(job.file(".ipynb")) as page:
        execute.write(executed, page)
    _publish(part, job.results)
    job.file(".part.ipynb").unlink()
    write_text(job.file(".stamp"), json.dumps({**made_from, "files": _checksums(job)}, indent=1) + "\n")


def _check_record(job: Job, file: Path, source: str) -> None:
    if not file.exists():
        raise RuntimeError("it wrote no numbers.json: end the notebook with the record's save()")
    record = json.loads(file.read_text(encoding="utf-8"))
    for key, expected in {"notebook": job.name, "profile": job.profile, "seed": job.seed}.items():
        if record[key] != expected:
            raise RuntimeError(f"its record has {key} {record[key]!r}: pass on the parameter, {expected!r}")
    if record["source"] != source:
        raise RuntimeError("the notebook or the code behind it changed while it ran: run it again")


def _publish(part: Path, results: Path) -> None:
    """Replace the folder `results` as a whole; `part` may lie on another file system, from which it is copied first."""
    new, old = (results.with_name(f".{results.name}.{which}") for which in ("new", "old"))
    for left in (new, old):  # by a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    results.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.move(part, new)
    except OSError as error:  # shutil's own has a line for each file
        shutil.rmtree(new, ignore_errors=True)
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise RuntimeError(
            f"{results.name}: its results cannot be put into {results.parent} ({reason}); what was there stays. Make "
            "room there and run again: finished steps are read from the cache."
        ) from error
    if results.exists():
        results.rename(old)
    new.rename(results)
    shutil.rmtree(old, ignore_errors=True)


def write_pages(chosen: Sequence[Job]) -> None:
    """Put the executed notebooks, run first where they are not fresh, beside their scripts."""
    from xaikit.companion import execute

    for job in chosen:
        run_notebook(job.name, job.profile, seed=job.seed, root=job.root, arithmetic=job.arithmetic)
        page = workplace(job.root) / "notebooks" / f"{job.name}.ipynb"
        page.parent.mkdir(exist_ok=True)
        with replacing(page) as part:
            execute.write(execute.page_of(job.file(".ipynb"), job.script), part)
        written = job.script.stat().st_mtime
        os.utime(page, (written, written))  # Jupytext refuses a page that is newer than its script
        print(f"{job.name}: wrote {page.relative_to(workplace(job.root))}")
