"""What a result was made from, as hashes: the code that it reaches, its profile, weights and lock."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xaikit.storage import canonical
from xaikit.storage.extras import extra
from xaikit.storage.files import read_toml, write_text
from xaikit.storage.paths import ROOT, shipped, workplace
from xaikit.storage.settings import read as read_settings

if TYPE_CHECKING:
    from nbformat import NotebookNode

PACKAGE = canonical.PACKAGE
# The tags of an exercise's cells (`companion.course`): they are for readers, no run has them, and no result is of them.
OF_EXERCISES = frozenset({"exercise", "given", "check", "hint", "solution", "wrong"})
# What jupytext writes above the first cell: formats, kernel, its own version. It differs from one Jupyter to the next.
_HEADER = re.compile(r"\s*(#!.*\n|# -\*-.*\n)*\s*# ---\n(#.*\n)*?# ---[ \t]*(\n|$)")


class Cell(NamedTuple):
    """What counts of a notebook's cell: not its id, outputs and metadata, and of its tags not the order."""

    kind: str  # code, markdown or raw
    source: str
    tags: tuple[str, ...]


def text_hash(paths: Iterable[Path], root: Path = ROOT) -> str:
    """sha256 of the names (relative to `root`) and the bytes of the files."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def weights_hash(folder: Path) -> str:
    """sha256 of a folder of weights: of every file in it but its card, and hidden ones as file managers leave them."""
    files = [file for file in folder.rglob("*") if file.is_file() and file != folder / "card.json"]
    return text_hash([file for file in files if not file.name.startswith(".")], folder)


def notebook_source(name: str, profile: str, root: Path = ROOT) -> str:
    """sha256 of everything that the result of a notebook comes from, save its seed.

    That is what the code of its cells does (`storage.canonical`) with their tags, its own and the common settings of
    the profile, the shipped weights that these name (their keys `weights`), what data/claims.toml states for it, and
    `requirements.lock`. Its prose and its exercises are on pages alone.
    Raises FileNotFoundError when one of them is missing, and SyntaxError for a cell that is no Python or has tags that
    are none.
    """
    tables = read_settings(root / PACKAGE / "companion" / "profiles", profile)
    settings = {section: tables.get(section, {}) for section in ("common", name)}
    given = shipped(root)
    script = given / "notebooks" / f"{name}.py"
    parts = {
        "profile": profile,
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "lock": text_hash([given / "requirements.lock"], given),
        "weights": {weights: _whole(given / "data" / "weights" / weights) for weights in _weights_named(settings)},
        "claims": json.dumps(_stated(given / "data" / "claims.toml", name), sort_keys=True),
        "cells": _code(cells(script, root), script, root),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_notebook(script: Path) -> "NotebookNode":
    """The notebook that a percent script stands for, by jupytext's own reader; what its header says does not count."""
    return _parsed(script, script.read_text(encoding="utf-8-sig"))


def cells(script: Path, root: Path = ROOT) -> list[Cell]:
    """The cells of a percent script that hold something.

    Jupytext takes two seconds to load, so what it read is kept in build/, where there is one, for the next question.
    """
    text = script.read_text(encoding="utf-8-sig")
    file = workplace(root) / "build" / "cells" / f"{script.stem}.json"
    key = hashlib.sha256(f"{version('jupytext')} {text}".encode()).hexdigest()
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [Cell(kind, source, tuple(tags)) for kind, source, tags in kept["cells"]]
    found = holding_something(_parsed(script, text).cells)
    if file.parent.parent.is_dir():
        with suppress(OSError):
            write_text(file, json.dumps({"key": key, "cells": found}))
    return found


def holding_something(notebook_cells: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """What counts of the cells of a notebook: none that is empty, as Jupyter adds one where the last one is run."""
    return [cell for each in notebook_cells if (cell := counted(each)).source]


def of_exercise(cell: Cell) -> bool:
    """Whether a cell belongs to an exercise, by its tags."""
    return not OF_EXERCISES.isdisjoint(cell.tags)


def does_something(cell: Cell) -> bool:
    """Whether a run executes a cell: it holds code, and not comments alone, and belongs to no exercise."""
    code = cell.kind == "code" and re.search(r"^\s*[^\s#]", cell.source, re.MULTILINE) is not None
    return code and not of_exercise(cell)


def only_imports(cell: Cell) -> bool:
    """Whether a cell of code does nothing but import: it counts by what uses its names, and may come and go."""
    with suppress(SyntaxError):
        return all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in ast.parse(cell.source).body)
    return False


def same_code(found: Iterable[Cell], script: Path, root: Path = ROOT) -> bool:
    """Whether cells, of a page say, run what those of a script do.

    Raises SyntaxError for a cell that is no Python.
    """
    return _code(found, script, root) == _code(cells(script, root), script, root)


def counted(cell: Mapping[str, Any]) -> Cell:
    """What counts of a notebook's cell."""
    source, tags = cell["source"], cell["metadata"].get("tags") or ()
    source = source if isinstance(source, str) else "".join(source)  # a file has its lines
    tags = [tags] if isinstance(tags, str) else tags
    return Cell(cell["cell_type"], source.replace("\r\n", "\n").strip(), tuple(sorted({*tags})))


def _stated(file: Path, name: str) -> list[dict[str, Any]]:
    """The claims and instruments of a notebook: no result is of a rule that was written after it."""
    tables = read_toml(file) if file.exists() else {}
    return [entry for kind in sorted(tables) for entry in tables[kind] if entry.get("notebook") == name]


def _whole(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; run `make models` or restore the folder from the repository.")
    return weights_hash(folder)


def _parsed(script: Path, text: str) -> "NotebookNode":
    with extra("notebooks"):
        import jupytext
        from nbformat import ValidationError

    header = _HEADER.match(text)
    try:
        return jupytext.reads(text[header.end() if header else 0 :].strip() + "\n", fmt="py:percent")
    except ValidationError as error:
        raise SyntaxError(f"{script} is no notebook: {error.message}") from None


def _code(found: Iterable[Cell], script: Path, root: Path) -> list[list[object]]:
    """The tags of each cell of code that is run, and what it does: of one that only imports, nothing by itself."""
    code = [cell for cell in found if does_something(cell)]
    digests = canonical.read(root).script([_python(cell.source, script) for cell in code])
    return [[cell.tags, digest] for cell, digest in zip(code, digests, strict=True) if not only_imports(cell)]


def _python(source: str, script: Path) -> str:
    """A cell's code with its magics as the calls that IPython makes of them; the body of a cell magic as code too."""
    with suppress(SyntaxError):
        ast.parse(source)
        return source
    from IPython.core.inputtransformer2 import TransformerManager  # late, as it takes a while

    python = TransformerManager().transform_cell(source)
    if source.startswith("%%"):
        with suppress(SyntaxError):
            body = source.partition("\n")[2]
            ast.parse(body)
            python += body
    try:
        ast.parse(python)
    except SyntaxError as error:
        first = source.partition("\n")[0]
        raise SyntaxError(f"{script}, in the cell that begins {first!r}: {error.msg} (line {error.lineno})") from None
    return python


def _weights_named(table: dict[str, object]) -> set[str]:
    named: set[str] = set()
    for key, value in table.items():
        if isinstance(value, dict):
            named |= _weights_named(value)
        elif key == "weights" and isinstance(value, str):
            named.add(value)
    return named
