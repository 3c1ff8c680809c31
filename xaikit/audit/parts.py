"""What of an audit is finished, in files, until all of it is: one that was stopped goes on where it was."""

import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from torch import Tensor

from xaikit.audit.maps import Maps
from xaikit.audit.mends import Mend
from xaikit.audit.questions import Effect
from xaikit.audit.readings import Readings
from xaikit.metrics.intervals import Interval
from xaikit.storage import cache, keys

Result = TypeVar("Result")
KINDS = {
    kind.__name__: kind for kind in (Effect, Interval, Maps, Mend, Readings)
}  # that a part may hold, beside what json can


@dataclass(frozen=True)
class Parts:
    """Parts of audits in a folder, each under its name and the `key` of all that it is made from."""

    folder: Path
    key: str

    def path(self, name: str) -> Path:
        """The file of a part."""
        readable = re.sub(r"\W+", "-", name)[:40]
        return self.folder / f"{readable}-{keys.digest((self.key, name))[:32]}.safetensors"

    def keep(self, name: str, make: Callable[[], Result]) -> Result:
        """What `make` gives, read where it is there: arrays, tensors, `KINDS`, json; lists, tables, frames of them.

        Tuples come back as lists. A damaged file is made anew, and what cannot be kept is returned, with a warning.
        """
        if (held := cache.kept(self.path(name))) is not None:
            return _unpacked(held["tree"], held)
        found = make()
        arrays: dict[str, np.ndarray | Tensor] = {}
        tree = _packed(found, arrays)
        cache.keep(self.path(name), name, {"tree": tree, **arrays})
        return found

    def remove(self) -> None:
        """Remove the folder: all is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _packed(value: Any, arrays: dict[str, np.ndarray | Tensor]) -> Any:
    """What json can hold; arrays are put beside it, and it has their names."""
    if isinstance(value, np.ndarray | Tensor):
        arrays[str(len(arrays))] = value
        return {"array": str(len(arrays) - 1)}
    if dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {"kind": type(value).__name__, "fields": _packed(fields, arrays)}
    if isinstance(value, pd.DataFrame):
        return {"frame": [list(value.columns), [_packed(row, arrays) for row in value.to_dict("split")["data"]]]}
    if isinstance(value, Mapping):
        return {"table": [[key, _packed(each, arrays)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_packed(each, arrays) for each in value]}
    return value


def _unpacked(tree: Any, arrays: Mapping[str, Any]) -> Any:
    match tree:
        case {"array": name}:
            return arrays[name]
        case {"kind": kind, "fields": fields}:
            return KINDS[kind](**_unpacked(fields, arrays))
        case {"table": pairs}:
            return {key: _unpacked(each, arrays) for key, each in pairs}
        case {"frame": [columns, rows]}:
            return pd.DataFrame([_unpacked(row, arrays) for row in rows], columns=columns)
        case {"list": items}:
            return [_unpacked(each, arrays) for each in items]
    return tree
