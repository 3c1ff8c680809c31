"""Run notebooks headless: the results of a run appear at its end, all together, or not at all.

    xaikit run 01_caption_driven --profile mini

A run is skipped when what it would be made from (see `xaikit.storage.sources`) is what its results were made from.
What a run has finished when it fails stays beside them, in build/, as of an unfinished run (`companion.progress`).
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xaikit.companion import preflight, profiles, rehearsal
from xaikit.companion.progress import Progress, record_text, some
from xaikit.companion.progress import read as read_progress
from xaikit.storage import arithmetic as arithmetics
from xaikit.storage import sources
from xaikit.storage.files import read_toml, replacing, write_text
from xaikit.storage.paths import ROOT, shipped, workplace

# Of glibc: a third of the time of a small network's training went into handing its tensors back to the system, and into
# the pages of the next ones. So a kernel keeps up to half a gigabyte. What a user has set comes first.
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "536870912"}
DEFAULT_SEED = 0
PAGES_OF = "mini"  # the profile whose executed pages are committed


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
        """What else a run leaves in the build folder: .ipynb, .log, .stamp, and .unfinished until it has ended well."""
        return self.work / f"{self.name}{suffix}"


def jobs(
    names: Sequence[str],
    profile: str,
    seed: int = DEFAULT_SEED,
    root: Path = ROOT,
    arithmetic: str | None = None,
) -> list[Job]:
    """The jobs for the named notebooks, or for all that the profile is of.

    Raises ValueError for a notebook, profile or arithmetic that there is not, for a notebook that the profile leaves
    out, and where there is no notebook at all.
    """
    folder = root / sources.PACKAGE / "companion" / "profiles"
    own = profiles.arithmetic(profile, folder)
    if arithmetic is not None and arithmetic not in arithmetics.ARITHMETICS:
        raise ValueError(f"unknown arithmetic {arithmetic!r}: choose one of {', '.join(arithmetics.ARITHMETICS)}")
    arithmetic = None if arithmetic == own else arithmetic
    known = sorted(file.stem for file in (shipped(root) / "notebooks").glob("[0-9][0-9]_*.py"))
    if not known:
        raise ValueError(f"there are no notebooks in {root}: they are named like notebooks/01_name.py")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown notebook {name!r}: choose one of {', '.join(known)}")
    only = read_toml(folder / f"{profile}.toml").get("only", known)  # its own: one that is like it is of all
    in_profile = [name for name in known if name in only]
    if strays := [name for name in names if name not in in_profile]:
        raise ValueError(f"the profile {profile!r} has no {strays[0]}: it has {', '.join(in_profile)}")
    return [Job(name, profile, seed, root, arithmetic) for name in names or in_profile]


def variants_run(job: Job) -> list[Job]:
    """The runs of a notebook with other seeds and arithmetics that were begun in the build folder."""
    found = []
    files = (workplace(job.root) / "build" / job.profile).glob(f"seed-*/{job.name}*")
    started = (job.name, f"{job.name}.run.json", f"{job.name}.lock")
    for folder in sorted({file.parent for file in files if file.name in started}):
        _, seed, *arithmetic = folder.name.split("-", 2)
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

    `parameters` are for the notebook's cell tagged so, beside `profile` and `seed`; the notebook may take
    `timeout` seconds (by default what the profile says). `arithmetic` is one of `storage.arithmetic`, by default
    the profile's. Another process that runs the same notebook is waited for.
    Raises ValueError for an unknown name, profile or parameter, and RuntimeError, saying what failed and
    where the log is, when the notebook fails; an earlier run's results then stay, but count as stale.
    """
    (job,) = jobs([name], profile, seed, root, arithmetic)
    try:
        json.dumps(dict(parameters or {}))
    except TypeError:
        raise ValueError(
            f"parameters must be numbers, texts, lists or dictionaries of them, not {parameters}"
        ) from None
    timeout = timeout or profiles.time_limit(profile, root / "xaikit" / "companion" / "profiles")
    made_from = _made_from(job, parameters)
    with _exclusive(job):
        if not force and is_fresh(job, made_from):
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

    The arguments are those of `run_notebook`, and so is what is raised, but for a failure (of the notebook, of its code
    or of the disk), which stops no other one.
    Raises RuntimeError, before anything runs, where files or weights of the profile are missing (`preflight.require`).
    """
    _require(chosen, force, parameters)
    failed = []
    for job in chosen:
        try:
            run_notebook(
                job.name, job.profile, seed=job.seed, force=force, timeout=timeout, parameters=parameters,
                root=job.root, arithmetic=job.arithmetic,
            )  # fmt: skip
        except (RuntimeError, OSError, SyntaxError) as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(job.name)
    return failed


def _require(chosen: Sequence[Job], force: bool, parameters: Mapping[str, Any] | None) -> None:
    named = {job.name: job for job in chosen}

    def up_to_date(name: str) -> bool:
        return not force and is_fresh(named[name], _made_from(named[name], parameters))

    for profile, root in dict.fromkeys((job.profile, job.root) for job in chosen):
        folder = root / sources.PACKAGE / "companion" / "profiles"
        preflight.require(list(named), profile, folder, skipping=up_to_date)


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


def _made_from(job: Job, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"source": sources.notebook_source(job.name, job.profile, job.root), "parameters": dict(parameters or {})}


def is_fresh(job: Job, made_from: Mapping[str, Any]) -> bool:
    """Whether the results are those of a whole run here, from `made_from` (the hash of the source, the parameters)."""
    expected = json.loads(json.dumps({**made_from, "files": checksums(job)}))  # as it was written: tuples are lists
    return stamp(job) == expected


def stamp(job: Job) -> dict[str, Any] | None:
    """What the last whole run here was made from, and the checksums of what it left; None where there is none."""
    try:
        found = json.loads(job.file(".stamp").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def renew_record(job: Job, renewed: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Change what the record of an ordinary run says of other runs; its results stay as fresh as they were."""
    file = job.results / "numbers.json"
    if not file.exists():
        return
    with _exclusive(job):
        left = stamp(job)
        as_it_was = left is not None and left.get("files") == checksums(job)
        write_text(file, record_text(renewed(json.loads(file.read_text(encoding="utf-8")))))
        if as_it_was:
            write_text(job.file(".stamp"), json.dumps({**left, "files": checksums(job)}, indent=1) + "\n")


def is_running(job: Job) -> bool:
    """Whether a process runs it at this moment."""
    if not job.file(".lock").exists():
        return False
    try:
        with FileLock(job.file(".lock"), timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's, say
        return False


def checksums(job: Job) -> dict[str, str]:
    """sha256 of each file of the results, and of the executed notebook."""
    files = [file for file in (*sorted(job.results.glob("*")), job.file(".ipynb")) if file.is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _execute(job: Job, made_from: Mapping[str, Any], timeout: int) -> None:
    from xaikit.companion import execute  # here, as Jupyter takes seconds to import and often nothing is to be done

    notebook = execute.without_exercises(execute.read(job.script))
    parameters = {"profile": job.profile, "seed": job.seed, **made_from["parameters"]}
    execute.check_parameters(notebook, job.name, parameters)

    label = f"{job.name} ({job.variant})" if job.variant else job.name
    if stopped := read_progress(job.file(".run.json")):
        print(f"{label}: the last run {stopped.forecast(_cache(job))}", flush=True)
    progress = Progress(job.file(".run.json"), execute.headings(notebook))
    job.file(".stamp").unlink(missing_ok=True)
    shutil.rmtree(progress.folder, ignore_errors=True)
    progress.folder.mkdir()
    progress.reach("", 0.0)

    def reached(section: str, seconds: float) -> None:
        progress.reach(section, seconds)
        if section:
            print(f"{label} {seconds:6.0f} s  {section}", flush=True)

    own = profiles.arithmetic(job.profile, job.root / sources.PACKAGE / "companion" / "profiles")
    environment = KEEPS_MEMORY | arithmetics.environment(job.arithmetic or own)
    log = job.file(".log")
    try:
        if profiles.rehearses(job.profile, job.root / sources.PACKAGE / "companion" / "profiles"):
            environment |= rehearsal.environment(job.root / "build" / job.profile)
        # Fixed hashes, as the order of a set of strings must not differ from run to run.
        environment |= {"XAIKIT_OUT": str(progress.folder), "TQDM_MININTERVAL": "5", "PYTHONHASHSEED": "0"}
        executed = execute.execute(
            notebook,
            job.file(".part.ipynb"),
            log,
            parameters=parameters,
            environment=environment,
            folder=workplace(job.root),
            timeout=timeout,
            reached=reached,
        )
        _check_record(job, progress.folder / "numbers.json", made_from["source"])
        with replacing(job.file(".ipynb")) as page:
            execute.write(executed, page)
        _publish(progress.folder, job.results)
        job.file(".part.ipynb").unlink()
        write_text(job.file(".stamp"), json.dumps({**made_from, "files": checksums(job)}, indent=1) + "\n")
    except BaseException as error:
        progress.stop("" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__)
        if kept := progress.artefacts:
            print(f"{label}: what it finished, {some(kept, 'file')}, is kept in {progress.folder}", flush=True)
        if isinstance(error, RuntimeError):
            raise RuntimeError(f"{job.name}: {error}\nlog: {log}") from None
        raise
    progress.end()


def _cache(job: Job) -> Path:
    return Path(os.environ.get("XAIKIT_CACHE", workplace(job.root) / "build" / "cache"))


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
    new, old = (results.with_name(f".{results.name}.{word}") for word in ("new", "old"))
    for left_over in (new, old):  # by a process that was killed here
        shutil.rmtree(left_over, ignore_errors=True)
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
    """Put the executed notebooks beside their scripts: run first where their results are of other code or settings.

    Where the results came with the repository and are of the present source, so are the outputs on the page: then it
    takes over prose and exercises without a run.
    """
    from xaikit.companion import execute

    for job in chosen:
        page = workplace(job.root) / "notebooks" / f"{job.name}.ipynb"
        executed = page
        if is_fresh(job, _made_from(job, None)) or not _is_of_the_source(page, job):
            run_notebook(job.name, job.profile, seed=job.seed, root=job.root, arithmetic=job.arithmetic)
            executed = job.file(".ipynb")
        page.parent.mkdir(exist_ok=True)
        before = page.read_bytes() if page.exists() else b""
        with replacing(page) as part:
            execute.write(execute.page_of(executed, job.script), part)
        written = job.script.stat().st_mtime
        os.utime(page, (written, written))  # Jupytext refuses a page that is newer than its script
        name = page.relative_to(workplace(job.root))
        print(f"{job.name}: " + (f"{name} is as it was" if page.read_bytes() == before else f"wrote {name}"))


def _is_of_the_source(page: Path, job: Job) -> bool:
    """Whether a committed page shows what the present source gives, as far as page and record say."""
    if job.variant or job.profile != PAGES_OF:
        return False
    try:
        record = json.loads((job.results / "numbers.json").read_text(encoding="utf-8"))
        shown = json.loads(page.read_text(encoding="utf-8"))["cells"]
        same = sources.same_code(sources.holding_something(shown), job.script, job.root)
        return same and record["source"] == sources.notebook_source(job.name, job.profile, job.root)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):  # not there, or damaged
        return False


def page_is_older(job: Job) -> bool:
    """Whether a notebook's page does not show the cells that its script has now."""
    page = workplace(job.root) / "notebooks" / f"{job.name}.ipynb"
    try:
        shown = json.loads(page.read_text(encoding="utf-8"))["cells"]
        return sources.holding_something(shown) != sources.cells(job.script, job.root)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, SyntaxError):  # a damaged page, or a script that is no notebook
        return True
