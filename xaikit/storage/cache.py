"""Heavy results, kept by what they were made from.

A result's key is the content of all that it depends on (`storage.keys`): the code that produces it, its inputs, torch's
version, the kind of device and the name of the arithmetic (`storage.arithmetic`). Nothing ever has to be deleted by
hand: what is stale is no longer asked for, and what was not asked for longest goes when all results together, with
checkpoints and stores (folders of results), take more than XAIKIT_CACHE_GB.

Results lie in one folder, which processes and machines may share: a lock lets one compute and the others wait, and
where the file system has none, both compute the same. What cannot be kept, as the folder is read-only or the disk is
full, is said and returned all the same. XAIKIT_CACHE_SHARED names a folder below it that is only ever read.

Under the portable arithmetic a result is the same to the last bit whatever Intel CPU made it. The name "native" says
nothing of CPU and threads, and no key says in which batches a result was made where the batch is no input; so a run may
read what another arithmetic has left, and a run that was stopped and goes on may hold both. What one forward pass gives
is then the same within rounding: of CLIP's coefficients and features, in batches of 1, 4, 8 and 32, on 1 and 2 threads,
with AVX-512, with AVX2 and with neither, no tensor was further apart than 3e-6 of its largest entry (a test allows
2e-5). What was *trained* is another network altogether: rounding grows with every step.
"""

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xaikit.storage import keys, paths
from xaikit.storage.files import locked, replacing

log = logging.getLogger(__name__)
LARGEST = 100.0  # gigabytes (10⁹ bytes) of all results together, where XAIKIT_CACHE_GB says nothing
STORES = "coefficients-"  # how the names of the cache's folders begin that hold one result in many files
_LEFT_OVER = 86_400  # seconds after which a part of a file is one of a process that was killed, and a store not in use


def fetch(producer: Callable[..., dict[str, Any]], /, **inputs: Any) -> dict[str, Any]:
    """Return `producer(**inputs)`, read from disk where it is there already.

    The result is a dictionary of tensors (they come back on the CPU), numpy arrays and values that json can
    hold. Inputs may be those, and dataclasses, paths (the content of a file or folder counts), devices, dtypes,
    functions, classes, plain objects and modules. The same dictionary comes back whether it was read or computed; a
    damaged file is computed anew, and what cannot be kept is returned, each with a warning.
    Raises TypeError for a producer that is not a function at the top of a module and for inputs or results of
    other types; RuntimeError when code was edited after it was loaded; ValueError where XAIKIT_CACHE_GB is no number;
    and what the producer raises.
    """
    name, path = _name(producer), path_of(producer, inputs)
    with locked(path):  # of two processes one computes, and the other reads
        if (result := kept(path)) is not None:
            log.info("read %s", name)
            return result
        start = time.monotonic()
        result = keep(path, name, producer(**inputs))
        log.info("computed %s in %.1f s", name, time.monotonic() - start)
        return result


def path_of(producer: Callable[..., dict[str, Any]], inputs: Mapping[str, Any]) -> Path:
    """The file in which `fetch` keeps `producer(**inputs)`; raises what `fetch` raises before it computes."""
    _largest()
    return paths.CACHE / f"{_name(producer)}-{_key(producer, inputs)}.safetensors"


def kept(path: Path) -> dict[str, Any] | None:
    """What the cache, or the shared one below it, holds, or None; a damaged file counts as none, with a warning."""
    shared = [] if paths.SHARED_CACHE is None else [paths.SHARED_CACHE / path.name]
    for each in (path, *shared):
        try:
            result = read(each) if each.exists() else None
        except FileNotFoundError:  # another process has just made room
            continue
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{each} is damaged and is computed anew: {error}", stacklevel=3)
            continue
        if result is not None:
            _touch(each)
            return result
    return None


def keep(path: Path, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """`write` what was computed, where that can be, and make room for it; returns what reading it would give."""
    header, tensors = _packed(name, result)
    try:
        _save(path, header, tensors)
        make_room(path)
    except OSError as error:
        warnings.warn(f"{name} cannot be kept and will be computed again: {error}", stacklevel=3)
    return _assemble(header, tensors)


def make_room(newest: Path, largest: float | None = None) -> None:
    """Remove what was not asked for longest, but `newest`, until the cache takes at most `largest` gigabytes.

    That is XAIKIT_CACHE_GB by default, else `LARGEST`. Results and checkpoints go one by one, a store as a whole and
    only where nobody has asked for it for a day, as it may have taken many hours. What was removed is said in the log,
    and which stores still take more than that. Where `newest` is in another folder than the cache, nothing is removed:
    what else lies there is not the cache's. Raises ValueError where the variable is no number.
    """
    bound = _largest() if largest is None else largest
    if not newest.is_relative_to(paths.CACHE):
        return
    found, stores, now = [], set(), time.time()
    for path in paths.CACHE.iterdir():
        if path.is_dir() and path.name.startswith(STORES):
            stores.add(path)
            files = _sizes(path)
            found.append((max((at for at, _ in files), default=now), sum(size for _, size in files), path))
        elif path.suffix in (".safetensors", ".checkpoint"):
            found.extend((*about, path) for about in _sizes(path))
        elif path.suffix == ".part" and any(now - at > _LEFT_OVER for at, _ in _sizes(path)):
            path.unlink(missing_ok=True)
    total, removed = sum(size for _, size, _ in found), []
    for asked_for, size, path in sorted(found):
        if total <= bound * 1e9:
            break
        if not newest.is_relative_to(path) and (path not in stores or now - asked_for > _LEFT_OVER):
            shutil.rmtree(path, ignore_errors=True) if path in stores else path.unlink(missing_ok=True)
            stores.discard(path)
            removed.append(size)
            total -= size
    if removed:
        log.warning(
            "the cache had more than %g GB: removed the %d results that were not asked for longest, %.2f GB",
            bound, len(removed), sum(removed) / 1e9,
        )  # fmt: skip
    if total > bound * 1e9 and stores:
        # Once a message, not once a shard: warnings are told apart by their text.
        warnings.warn(
            f"the cache takes more than the {bound:g} GB of XAIKIT_CACHE_GB, as these stores are in use: "
            f"{', '.join(sorted(map(str, stores)))}; give it more, or delete those that are not needed",
            stacklevel=3,
        )


def _sizes(path: Path) -> list[tuple[float, int]]:
    """When each file of a path was last asked for, and its bytes; nothing of what another process has just removed."""
    found = []
    for file in path.iterdir() if path.is_dir() else [path]:
        try:
            about = file.stat()
            found.append((about.st_mtime, about.st_size))
        except OSError:  # of another process, which has just ended or made room
            continue
    return found


def _largest() -> float:
    said = os.environ.get("XAIKIT_CACHE_GB", "")
    try:
        bound = float(said or LARGEST)
    except ValueError:
        bound = -1
    if not bound >= 0:
        raise ValueError(f"XAIKIT_CACHE_GB is {said!r}: give the gigabytes that the cache may take, as a number.")
    return bound


def _touch(path: Path) -> None:
    """Say that a result was asked for, where that can be said."""
    try:
        os.utime(path)
    except OSError:
        log.debug("%s is only read", path)


def _name(producer: Callable[..., Any]) -> str:
    name = getattr(producer, "__name__", repr(producer))
    module = sys.modules.get(getattr(producer, "__module__", None) or "")
    if not (name.isidentifier() and name == producer.__qualname__ and hasattr(module, "__file__")):
        raise TypeError(f"{name} cannot be cached: make it a function at the top of a module")
    return name


def _key(producer: Callable[..., Any], inputs: Mapping[str, Any]) -> str:
    made_by = (keys.code_of(producer), torch.__version__, os.environ.get("XAIKIT_ARITHMETIC", "native"))
    parts = []
    for argument, value in sorted(inputs.items()):
        try:
            parts.append((argument, keys.digest(value)))
        except TypeError as error:
            raise TypeError(
                f"{producer.__name__} cannot be cached: its argument {argument!r} holds {error}; pass "
                "numbers, text, paths, arrays, tensors or modules"
            ) from None
    return keys.digest((made_by, parts))[:32]


def write(path: Path, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write one safetensors file: arrays as tensors, all else and a checksum of the whole in its header.

    Returns what reading it will give. Raises TypeError, with the `name` of what was to be kept, for a value that is no
    tensor, array or json, and OSError where it cannot be written.
    """
    header, tensors = _packed(name, result)
    _save(path, header, tensors)
    return _assemble(header, tensors)


def _packed(name: str, result: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    arrays = [key for key, value in result.items() if isinstance(value, np.ndarray)]
    tensors = {key: value for key, value in result.items() if isinstance(value, Tensor)}
    values = {key: value for key, value in result.items() if key not in {*arrays, *tensors}}
    key = ""
    try:
        for key in arrays:
            tensors[key] = torch.from_numpy(np.array(result[key], order="C"))
        for key in values:
            json.dumps(values[key])
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be cached: its result {key!r} is no tensor, array or json: {error}") from None
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return json.dumps({"order": list(result), "arrays": arrays, "values": values}), tensors


def _save(path: Path, header: str, tensors: dict[str, Tensor]) -> None:
    metadata = {"header": header, "blake2b": _checksum(header, tensors)}
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata)
    except SafetensorError as error:  # as it calls a full disk
        raise OSError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """What `write` has written. Raises ValueError, KeyError, OSError or SafetensorError for a damaged file."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copied, as they are maps of the file: were it cut short later, touching them would kill the process.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no dictionary)
    if _checksum(metadata["header"], tensors) != metadata["blake2b"]:
        raise ValueError("its checksum does not agree")
    return _assemble(metadata["header"], tensors)


def _assemble(description: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    header = json.loads(description)
    read = header["values"] | tensors | {key: tensors[key].numpy() for key in header["arrays"]}
    return {key: read[key] for key in header["order"]}


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    return keys.digest((header, tensors))
