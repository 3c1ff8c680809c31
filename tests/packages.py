"""Files written from a table, for tests that read or lint a small package, or the real one with a change in it."""

import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

from xaikit.storage.paths import ROOT


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write each text, without its common indentation, under its name below `root`, and return `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return root


def copy_package(root: Path, file: str, more: str) -> Path:
    """The package as it is, and pyproject.toml, below `root`, with `more` lines at the end of one of its files."""
    shutil.copytree(ROOT / "xaikit", root / "xaikit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    text = (root / "xaikit" / file).read_text(encoding="utf-8")
    (root / "xaikit" / file).write_text(f"{text}\n{more}\n", encoding="utf-8")
    return root
