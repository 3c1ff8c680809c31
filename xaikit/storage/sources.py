"""What a result was made from, as hashes: the code that it reaches, its profile, weights and lock."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from xaikit.storage import canonical
from xaikit.storage.paths import ROOT, shipped
from xaikit.storage.settings import read as read_settings

PACKAGE = canonical.PACKAGE


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

    That is what the notebook's code does (`storage.canonical`), cell by cell, its prose, its own and the common
    settings of the profile, the shipped weights that these name (their keys `weights`), and `requirements.lock`.
    Raises FileNotFoundError when one of them is missing.
    """
    tables = read_settings(root / PACKAGE / "companion" / "profiles", profile)
    settings = {section: tables.get(section, {}) for section in ("common", name)}
    given = shipped(root)
    parts = {
        "profile": profile,
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "lock": text_hash([given / "requirements.lock"], given),
        "weights": {weights: _whole(given / "data" / "weights" / weights) for weights in _weights_named(settings)},
        "cells": _cells((given / "notebooks" / f"{name}.py").read_text(encoding="utf-8"), root),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _whole(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; run `make models` or restore the folder from the repository.")
    return weights_hash(folder)


def _cells(script: str, root: Path) -> list[list[str]]:
    """What counts of each cell of a percent script: its heading with tags, and its prose or what its code does."""
    first, *others = re.split(r"^(# %%.*)$", script, flags=re.MULTILINE)  # Jupytext's own lines come first: comments
    headings, bodies = ["", *others[::2]], [first, *others[1::2]]
    is_prose = [re.match(r"# %%.*\[(markdown|md|raw)\]", heading) is not None for heading in headings]
    code = ["" if prose else _python(body) for body, prose in zip(bodies, is_prose, strict=True)]
    digests = canonical.read(root).script(code)
    return [
        [heading.strip(), body.strip() if prose else digest, *([] if prose else _magics(body))]
        for heading, body, prose, digest in zip(headings, bodies, is_prose, digests, strict=True)
    ]


def _magics(cell: str) -> list[str]:
    return [line for line in cell.splitlines() if line.startswith(("%", "!"))]


def _python(cell: str) -> str:
    return "\n".join("" if line.startswith(("%", "!")) else line for line in cell.split("\n"))


def _weights_named(table: dict[str, object]) -> set[str]:
    named: set[str] = set()
    for key, value in table.items():
        if isinstance(value, dict):
            named |= _weights_named(value)
        elif key == "weights" and isinstance(value, str):
            named.add(value)
    return named
