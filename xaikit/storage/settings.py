"""A profile's tables, as they lie in its TOML file and in the one that it is like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xaikit.storage.files import read_toml


def read(folder: Path, name: str) -> dict[str, Any]:
    """The tables of `folder`/`name`.toml.

    With `like = "other"` at its top a profile has all that the other one has, but for what it says itself: tables are
    merged key by key, at any depth. Raises FileNotFoundError where a file is missing, and ValueError for one that is no
    TOML and for two profiles that are each like the other.
    """
    return _read(folder, name, ())


def _read(folder: Path, name: str, passed: tuple[str, ...]) -> dict[str, Any]:
    if name in passed:
        raise ValueError(f"the profiles {', '.join(passed)} are like each other in a circle: let one stand by itself")
    tables = read_toml(folder / f"{name}.toml")
    like = tables.pop("like", None)
    return tables if like is None else _merged(_read(folder, like, (*passed, name)), tables)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], own[key])
        for key in own
        if isinstance(own[key], dict) and isinstance(base.get(key), dict)
    }
    return {**base, **own, **both}
