"""What a result was made from, as hashes: the code that it reaches, its profile, weights and lock."""

import ast
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from xaikit.storage.paths import ROOT, shipped

PACKAGE = "xaikit"
# Fields that differ between Python versions or say nothing about what the code does.
_IGNORED_FIELDS = {"kind", "type_ignores", "type_params"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def modules_reached(path: Path, root: Path = ROOT) -> list[Path]:
    """The files of xaikit that `path` imports, directly or not, sorted.

    Found without running anything, from the import statements. A module of xaikit reaches itself and the
    `__init__.py` of its packages. Lines that begin with % or ! (notebook magics) are passed over.
    """
    start = _dotted(path, root)
    reached = {file for name in _with_parents(start) if (file := _module_file(name, root))}
    pending = {path, *reached}
    while pending:
        current = pending.pop()
        found = {
            file
            for name in _imported_by(current, current.read_text(encoding="utf-8"), _package_of(current, root))
            for prefix in _with_parents(name)
            if (file := _module_file(prefix, root))
        }
        pending |= found - reached
        reached |= found
    return sorted(reached)


def code_hash(paths: Iterable[Path], root: Path = ROOT) -> str:
    """sha256 of what the Python files do: comments, docstrings and formatting leave it as it is."""
    return _hash((_relative(path, root), _meaning(path, path.read_text(encoding="utf-8"))) for path in paths)


def text_hash(paths: Iterable[Path], root: Path = ROOT) -> str:
    """sha256 of the names (relative to `root`) and the bytes of the files."""
    return _hash((_relative(path, root), path.read_bytes()) for path in paths)


def notebook_source(name: str, profile: str, root: Path = ROOT) -> str:
    """sha256 of everything that the result of a notebook comes from, save its seed.

    That is the notebook's text, the code of the xaikit modules that it reaches, its own and the common settings of
    the profile, the shipped weights that these name (their keys `weights`), and `requirements.lock`.
    Raises FileNotFoundError when one of them is missing.
    """
    given = shipped(root)
    notebook = given / "notebooks" / f"{name}.py"
    tables = tomllib.loads((root / PACKAGE / "companion" / "profiles" / f"{profile}.toml").read_text(encoding="utf-8"))
    settings = {section: tables.get(section, {}) for section in ("common", name)}
    inputs = [notebook, given / "requirements.lock"]
    for weights in sorted(_weights_named(settings)):
        folder = given / "data" / "weights" / weights
        inputs += [file for file in folder.rglob("*") if file.is_file()]
    code = code_hash(modules_reached(notebook, root), root)
    parts = (profile, json.dumps(settings, sort_keys=True, default=str), text_hash(inputs, given), code)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _hash(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(parts):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _parse(path: Path, text: str) -> ast.Module:
    python = "\n".join("" if line.startswith(("%", "!")) else line for line in text.split("\n"))
    return ast.parse(python, filename=str(path))


@functools.cache  # a process asks for the hash of the same modules at every step of its way
def _meaning(path: Path, text: str) -> bytes:
    return _canonical(_parse(path, text)).encode()


@functools.cache
def _imported_by(path: Path, text: str, package: str) -> tuple[str, ...]:
    """The dotted names that may be modules of xaikit, among those that the import statements name."""
    return tuple(_imported(_parse(path, text), package))


def _canonical(node: object) -> str:
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            fields["body"] = fields["body"][1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 leaves empty pieces in some f-strings
            fields["values"] = [piece for piece in node.values if getattr(piece, "value", None) != ""]
        said = (
            f"{name}={_canonical(value)}"
            for name, value in fields.items()
            if name not in _IGNORED_FIELDS and value is not None and value != []
        )
        return f"{type(node).__name__}({','.join(said)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _module_file(name: str, root: Path) -> Path | None:
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    base = root.joinpath(*parts)
    candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((file for file in candidates if file.is_file()), None)


def _dotted(path: Path, root: Path) -> str:
    """`xaikit.models.clip` for its file; an empty name for files outside the package."""
    if not path.is_relative_to(root / PACKAGE) or path.is_relative_to(shipped(root) / "notebooks"):
        return ""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package_of(path: Path, root: Path) -> str:
    return _dotted(path, root) if path.name == "__init__.py" else _dotted(path, root).rpartition(".")[0]


def _weights_named(table: dict[str, object]) -> set[str]:
    named: set[str] = set()
    for key, value in table.items():
        if isinstance(value, dict):
            named |= _weights_named(value)
        elif key == "weights" and isinstance(value, str):
            named.add(value)
    return named
