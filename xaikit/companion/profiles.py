"""Which models, data, sizes and budgets a run uses: one TOML a profile, one table in it a notebook."""

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xaikit.storage import settings
from xaikit.storage.arithmetic import NATIVE, check_precision, without_tf32

FOLDER = Path(__file__).parent / "profiles"


class Settings(Mapping[str, Any]):
    """A read-only table of settings: `cfg.standalone.epochs`; lists are tuples."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        frozen = {key: _frozen(value, f"{where}.{key}") for key, value in values.items()}
        object.__setattr__(self, "_values", frozen)
        object.__setattr__(self, "_where", where)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for these before there are any values
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(
                f"{self._where} has no setting {name!r}: it has {', '.join(self._values) or 'none'}"
            ) from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self._where}.{name} is read-only: change the profile's TOML")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self.as_dict()!r})"

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain nested dictionaries."""
        return {key: value.as_dict() if isinstance(value, Settings) else value for key, value in self._values.items()}


def names(folder: Path = FOLDER) -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def check(name: str, folder: Path = FOLDER) -> None:
    """Raise ValueError, naming the known profiles, unless `name` is one of them."""
    if name not in names(folder):
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(names(folder))}")


def time_limit(name: str, folder: Path = FOLDER) -> int:
    """Seconds that a notebook may take under a profile; four hours where its TOML says nothing."""
    check(name, folder)
    tables = settings.read(folder, name)
    return int(tables.get("common", {}).get("time_limit", 14_400))


def arithmetic(name: str, folder: Path = FOLDER) -> str:
    """The arithmetic (`storage.arithmetic`) of the notebooks under a profile; the machine's own where it names none."""
    check(name, folder)
    tables = settings.read(folder, name)
    return str(tables.get("common", {}).get("arithmetic", NATIVE))


def subset(name: str, section: str, folder: Path = FOLDER) -> int | None:
    """How many of each data set a notebook takes at most under a profile; None, all, for a name that is no profile."""
    tables = settings.read(folder, name) if name in names(folder) else {}
    return {**tables.get("common", {}), **tables.get(section, {})}.get("subset")


def rehearses(name: str, folder: Path = FOLDER) -> bool:
    """Whether a profile runs on stand-ins for data and weights (`companion.rehearsal`)."""
    check(name, folder)
    return bool(settings.read(folder, name).get("common", {}).get("stand_ins", False))


def precisions(name: str, section: str, folder: Path = FOLDER) -> dict[str, str]:
    """The settings named `precision` of a notebook under a profile, by the table that they are in; all else is float32.

    Raises ValueError for an unknown profile, and another precision than float32 and bfloat16.
    """
    check(name, folder)
    tables = settings.read(folder, name)
    own = {**tables.get("common", {}), **tables.get(section, {})}
    nested = {key: value for key, value in own.items() if isinstance(value, dict)}
    found = {key: value["precision"] for key, value in {section: own, **nested}.items() if "precision" in value}
    for precision in found.values():
        check_precision(precision)
    return found


def load(name: str, section: str, seed: int, folder: Path = FOLDER) -> Settings:
    """The settings of one notebook (`section`) under a profile.

    The table `[common]` holds for every section, a section's own values before it. `seed`, `profile` and
    `device` ("cuda" where there is one, else "cpu") are added.
    Raises ValueError for an unknown profile or section.
    """
    check(name, folder)
    tables = settings.read(folder, name)
    common = tables.pop("common", {})
    if section not in tables:
        raise ValueError(f"profile {name!r} has no section {section!r}: it has {', '.join(tables) or 'none'}")

    import torch  # here, as reading names and settings must stay quick

    device = "cuda" if torch.cuda.is_available() else "cpu"
    added = {"seed": seed, "profile": name, "device": device}
    return Settings({**common, **tables[section], **added}, f"profile {name!r}, section {section!r}")


def prepare(seed: int) -> None:
    """Seed Python, numpy and torch, and ask torch for deterministic algorithms and for no less than float32.

    On a GPU an algorithm without a deterministic form warns, on a CPU it raises.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    without_tf32()
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time in every layer


def _frozen(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return Settings(value, where)
    if isinstance(value, list):
        return tuple(_frozen(item, f"{where}[{index}]") for index, item in enumerate(value))
    return value
