"""Each notebook up to its first figure, at the smallest sizes: what works is seen before anything long begins.

    xaikit smoke

All that it leaves, its cache included, is in build/smoke/, anew each time: it touches no record and no stamp of a run.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xaikit.companion import profiles
from xaikit.companion.run import Job, jobs
from xaikit.storage import arithmetic, sources
from xaikit.storage.paths import workplace

PROFILE = "smoke"
BESIDE = 2  # notebooks at once: each takes a core, and 1.5 GB of memory


def first_figures(chosen: Sequence[Job]) -> list[str]:
    """Draw the first figure of each notebook, two at once, and return the names of those that failed.

    Each has a line with its seconds and the file, or, on stderr, a sentence that says where it failed.
    """
    # With a single core a notebook starts no processes for its trainings, whose start would take most of the time.
    free: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ():
        free.put(core)
    failed = []
    with ThreadPoolExecutor(min(BESIDE, arithmetic.cores()), initializer=_stay_on_one, initargs=(free,)) as threads:
        running = {threads.submit(_apart, job): job.name for job in chosen}
        for each in as_completed(running):
            seconds, figure, error = each.result()
            if error:
                failed.append(running[each])
                print(f"{running[each]}: {error}", file=sys.stderr, flush=True)
            else:
                print(f"{running[each]:<22} {seconds:4.0f} s  {figure}", flush=True)
    return failed


def _stay_on_one(free: "SimpleQueue[int]") -> None:
    """Keep this thread, and the processes that it starts, on a core of its own, where the system can do so."""
    if not free.empty():
        os.sched_setaffinity(0, {free.get()})


def _apart(job: Job) -> tuple[float, str, str]:
    """Seconds, figure and error of one notebook, in a process of its own."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", __name__, job.name], capture_output=True, text=True)
    if done.returncode < 0:
        return 0.0, "", f"its process was stopped by signal {-done.returncode}."
    figure, error = (said.strip().rpartition("\n")[2] for said in (done.stdout, done.stderr))
    return time.monotonic() - start, figure, error if done.returncode else ""


def draw(job: Job) -> Path:
    """Run the cells of a notebook as far as the one that draws its first figure; the file of the figure.

    Raises ValueError for a notebook that records no figure, and RuntimeError, with a sentence, for a cell that fails.
    """
    from xaikit.companion import execute  # here, as Jupyter takes seconds to import

    notebook = execute.read(job.script)
    last, name = next(_figures(notebook.cells), (0, ""))
    if not name:
        raise ValueError("no cell of it calls record.figure with a name, so there is no first figure to draw.")
    notebook.cells = notebook.cells[: last + 1]
    out, cache, log = job.file(""), job.work / "cache" / job.name, job.file(".log")
    for left in (out, cache):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir(parents=True)
    folder = job.root / sources.PACKAGE / "companion" / "profiles"
    own = {"XAIKIT_OUT": str(out), "XAIKIT_CACHE": str(cache), "PYTHONHASHSEED": "0"}
    try:
        execute.execute(
            notebook,
            job.file(".ipynb"),
            log,
            parameters={"profile": job.profile, "seed": job.seed},
            environment=arithmetic.environment(profiles.arithmetic(job.profile, folder)) | own,
            folder=workplace(job.root),
            timeout=profiles.time_limit(job.profile, folder),
            reached=lambda section, seconds: None,
        )
    except RuntimeError as error:
        where, *_, reason = str(error).splitlines()
        raise RuntimeError(f"{where.partition(', in the cell')[0]}: {reason} (all of it is in {log})") from None
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    return out / f"{name}.png"


def _figures(cells: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Each figure that a cell records, not a function that it defines: the number of the cell, and the name."""
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            calls = (node for node in _run_at_once(ast.parse(cell["source"])) if isinstance(node, ast.Call))
            for call in calls:
                named = call.args and isinstance(call.args[0], ast.Constant)
                if named and ast.unparse(call.func) == "record.figure":
                    yield number, call.args[0].value


def _run_at_once(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from _run_at_once(child)


if __name__ == "__main__":
    (asked,) = jobs(sys.argv[1:], PROFILE)
    try:
        print(draw(asked).relative_to(workplace(asked.root)))
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:
        sys.exit(str(error))
