"""One notebook, executed from its first cell to its last: read by jupytext, run by papermill."""

import ast
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from xaikit.storage import sources
from xaikit.storage.extras import extra

with extra("notebooks"):
    import nbformat
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

try:
    import resource
except ImportError:  # of Windows
    resource = None

_INJECTED = "injected-parameters"
_FOLDED = {"solution", "wrong"}  # tags of cells that JupyterLab opens folded
# What Python, numpy and torch say when memory runs out, on a CPU and on a GPU.
_NO_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory|CUDA out of memory|OutOfMemoryError")
_METADATA = {
    # As JupyterLab leaves it in page and script: else opening a page changes its script, or is refused. No version of
    # jupytext is written, and of a cell's metadata only its tags.
    "jupytext": {
        "cell_metadata_filter": "tags,-all",
        "formats": "ipynb,py:percent",
        "notebook_metadata_filter": "kernelspec,jupytext,-jupytext.text_representation.jupytext_version",
    },
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(file: Path) -> NotebookNode:
    """The notebook that the percent script `file` stands for."""
    return sources.read_notebook(file)


def without_exercises(notebook: NotebookNode) -> NotebookNode:
    """The cells that a run executes, and the prose around them."""
    kept = [cell for cell in notebook.cells if not sources.of_exercise(sources.counted(cell))]
    return NotebookNode({**notebook, "cells": kept})


def write(notebook: NotebookNode, file: Path) -> None:
    """Write a notebook as an .ipynb file, the same bytes for the same notebook."""
    nbformat.write(notebook, file)


def page_of(executed: Path, script: Path) -> NotebookNode:
    """The cells of a script with the outputs of its run, whose prose, comments and imports may have been older.

    Those of exercises are there as they are written, for readers to execute. A page without the solutions would be
    handsomer, but page and script are a pair: JupyterLab refuses a pair that differs, or writes one over the other. So
    solutions are folded; `xaikit course` writes notebooks without them.
    """
    page = read(script)
    ran, code = (
        [
            cell
            for cell in notebook.cells
            if sources.does_something(own := sources.counted(cell)) and not sources.only_imports(own)
        ]
        for notebook in (nbformat.read(executed, as_version=4), page)
    )
    for shown, cell in zip(ran, code, strict=True):
        cell.outputs = shown.outputs
    for cell in page.cells:
        if cell.cell_type == "code" and cell.source.strip() and not sources.of_exercise(sources.counted(cell)):
            cell.execution_count = 1  # counted anew below
    return clean(page)


def headings(notebook: NotebookNode) -> list[str]:
    """The titles of its sections."""
    return [title for cell in notebook.cells if (title := _heading(cell))]


def _heading(cell: NotebookNode) -> str:
    found = re.search(r"^#+\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
    return found[1].strip() if found else ""


def check_parameters(notebook: NotebookNode, name: str, given: Iterable[str]) -> None:
    """Raise ValueError if the notebook's cell tagged `parameters` does not declare all the `given` ones."""
    cells = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell = next(cells, NotebookNode(source=""))
    declared = [
        target.id
        for statement in ast.parse(cell.source).body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    ]
    unknown = [parameter for parameter in given if parameter not in declared]
    if unknown:
        raise ValueError(
            f"{name} declares no parameter {', '.join(map(repr, unknown))}: "
            f"its cell tagged 'parameters' has {', '.join(declared) or 'none'}"
        )


def execute(
    notebook: NotebookNode,
    output: Path,
    log: Path,
    *,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    timeout: int,
    reached: Callable[[str, float], None],
) -> NotebookNode:
    """Run a notebook in a kernel of this interpreter, in `folder`, and return it with its outputs, cleaned.

    `environment` holds all of the kernel's environment variables.
    `output` follows the run cell by cell, `log` gets all that the cells print, and `reached` each heading with the
    seconds since the start, at the end an empty one. All cells together may take `timeout` seconds.
    Raises RuntimeError with a few lines that name the section, the cell and the error.
    """
    start = time.monotonic()
    section, source = "the start", ""

    with log.open("w", encoding="utf-8") as log_file:

        def begin(cell: NotebookNode, **_: Any) -> None:
            nonlocal section, source
            source = cell.source
            if heading := _heading(cell):
                section = heading
                reached(section, time.monotonic() - start)
                log_file.write(f"\n== {section} ({time.monotonic() - start:.0f} s)\n")

        def end(cell: NotebookNode, **_: Any) -> None:
            for shown in cell.get("outputs", []):
                log_file.write(shown.get("data", {}).get("text/plain", "") + "\n" if "data" in shown else "")
            log_file.flush()

        def failure(reason: str, trace: str = "") -> RuntimeError:
            log_file.write(f"{trace}\n{reason}\n")
            first_line = source.strip().partition("\n")[0]
            where = f"failed in section '{section}', in the cell that begins\n    {first_line}"
            return RuntimeError(f"{where}\n{reason}")

        try:
            executed = papermill.execute_notebook(
                notebook,
                output,
                parameters=dict(parameters),
                cwd=folder,
                progress_bar=False,
                stdout_file=log_file,
                stderr_file=log_file,
                timeout_func=lambda _cell: max(1, math.ceil(start + timeout - time.monotonic())),
                coalesce_streams=True,  # where prints and progress alternate, chance cuts them into pieces
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_manager(environment, log_file),
                on_cell_start=begin,
                on_cell_executed=end,
            )
        except PapermillExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            last_lines = [line for line in trace.splitlines() if line.strip()][-8:]
            if _NO_MEMORY.search(trace):
                last_lines.append(_memory("it asked for more memory than it could have"))
            raise failure("\n".join(last_lines), trace) from None
        except CellTimeoutError:
            raise failure(f"the notebook took longer than {timeout} s: give a longer --timeout") from None
        except DeadKernelError:
            raise failure(_memory("the kernel died: it was killed, perhaps for want of memory")) from None
        reached("", time.monotonic() - start)
    return clean(executed)


def _memory(what: str) -> str:
    """What happened, with the memory that there is: of the machine, or as far as this process may go."""
    bounds = [psutil.virtual_memory().total]
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        bounds.append(limit)
    with suppress(OSError, ValueError):  # of the container, where it has a bound
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    free = min(*bounds, psutil.virtual_memory().available)
    return (
        f"{what}: there are {min(bounds) / 1e9:.1f} GB, {free / 1e9:.1f} of them free now. Close other programs, or "
        "give the notebook more memory; what it had finished is in the cache, and it goes on from there."
    )


def _kernel_manager(environment: Mapping[str, str], log: TextIO) -> type[AsyncKernelManager]:
    class ThisInterpreter(AsyncKernelManager):
        """Whatever `python3` may mean among the user's kernels, here it is the Python that runs this."""

        transport_encryption = "auto"  # its sockets are open to all users of the machine

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

        async def start_kernel(self, **options: Any) -> None:
            given = {"env": dict(environment), "stdout": log, "stderr": log}
            await super().start_kernel(**(options | given))

    return ThisInterpreter


def clean(executed: NotebookNode) -> NotebookNode:
    """The executed notebook as a page that repeats: no times, no progress bars, the cells of the script."""
    cells = [cell for cell in executed.cells if _INJECTED not in cell.metadata.get("tags", [])]
    count = 0
    for index, cell in enumerate(cells):
        cell.id = f"cell-{index}"
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        if _FOLDED.intersection(tags or ()):
            cell.metadata["jupyter"] = NotebookNode(source_hidden=True)
        if cell.cell_type == "code":
            cell.outputs = [shown for shown in cell.outputs if not _is_progress(shown)]
            count += cell.execution_count is not None
            cell.execution_count = count if cell.execution_count is not None else None
            for shown in cell.outputs:
                if "execution_count" in shown:
                    shown.execution_count = count
    return NotebookNode(
        {**executed, "cells": cells, "metadata": NotebookNode(_METADATA), "nbformat": 4, "nbformat_minor": 5}
    )


def _is_progress(shown: NotebookNode) -> bool:
    on_stderr = shown.output_type == "stream" and shown.name == "stderr"
    return on_stderr or "application/vnd.jupyter.widget-view+json" in shown.get("data", {})
