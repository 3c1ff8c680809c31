"""Heavy results, kept by what they were made from.

A result's key is the content of all that it depends on: the code that produces it, its inputs, torch's
version, the kind of device and the name of the arithmetic (`storage.arithmetic`). Nothing ever has to be deleted by
hand: what is stale is no longer asked for.

Under the portable arithmetic a result is the same to the last bit whatever Intel CPU made it. The name "native" says
nothing of CPU and threads, and no key says in which batches a result was made where the batch is no input; so a run may
read what another arithmetic has left, and a run that was stopped and goes on may hold both. What one forward pass gives
is then the same within rounding: of CLIP's coefficients and features, in batches of 1, 4, 8 and 32, on 1 and 2 threads,
with AVX-512, with AVX2 and with neither, no tensor was further apart than 3e-6 of its largest entry (a test allows
2e-5). What was *trained* is another network altogether: rounding grows with every step.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xaikit.storage import canonical, paths, sources
from xaikit.storage.files import replacing

log = logging.getLogger(__name__)
# The text that this process runs, or ran when it was first asked; what is on disk may have been edited since.
_text_loaded = dict(canonical.read().texts)


def fetch(producer: Callable[..., dict[str, Any]], /, **inputs: Any) -> dict[str, Any]:
    """Return `producer(**inputs)`, read from disk where it is there already.

    The result is a dictionary of tensors (they come back on the CPU), numpy arrays and values that json can
    hold. Inputs may be those, and dataclasses, paths (the content of a file or folder counts), devices,
    dtypes and modules. The same dictionary comes back whether it was read or computed; a damaged file is
    computed anew, with a warning.
    Raises TypeError for a producer that is not a function at the top of a module and for inputs or results of
    other types; RuntimeError when code was edited after it was loaded; and what the producer raises.
    """
    name = _name(producer)
    path = path_of(producer, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of two processes one computes, and the other reads
        if (result := kept(path)) is not None:
            log.info("read %s", name)
            return result
        start = time.monotonic()
        result = write(path, name, producer(**inputs))
        log.info("computed %s in %.1f s", name, time.monotonic() - start)
        return result


def path_of(producer: Callable[..., dict[str, Any]], inputs: Mapping[str, Any]) -> Path:
    """The file in which `fetch` keeps `producer(**inputs)`; raises what `fetch` raises before it computes."""
    return paths.CACHE / f"{_name(producer)}-{_key(producer, inputs)}.safetensors"


def kept(path: Path) -> dict[str, Any] | None:
    """What the cache holds, or None; a damaged file counts as none, with a warning."""
    try:
        return read(path) if path.exists() else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged and is computed anew: {error}", stacklevel=3)
        return None


def _name(producer: Callable[..., Any]) -> str:
    name = getattr(producer, "__name__", repr(producer))
    module = sys.modules.get(getattr(producer, "__module__", None) or "")
    if not (name.isidentifier() and name == producer.__qualname__ and hasattr(module, "__file__")):
        raise TypeError(f"{name} cannot be cached: make it a function at the top of a module")
    return name


def _key(producer: Callable[..., Any], inputs: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    made_by = (_code(producer), torch.__version__, os.environ.get("XAIKIT_ARITHMETIC", "native"))
    digest.update(" ".join(made_by).encode())
    for argument, value in sorted(inputs.items()):
        try:
            _feed(digest, argument)
            _feed(digest, value)
        except TypeError as error:
            raise TypeError(
                f"{producer.__name__} cannot be cached: its argument {argument!r} holds {error}; pass "
                "numbers, text, paths, arrays, tensors or modules"
            ) from None
    return digest.hexdigest()[:32]


def _code(thing: Callable[..., Any] | type) -> str:
    """What a function or class does, with all that it reaches (`storage.canonical`)."""
    file, name = canonical.place_of(thing)
    code = canonical.read_with(file)
    for path in sorted(code.files(file, [name])):
        if _text_loaded.setdefault(path, code.texts[path]) != code.texts[path]:
            raise RuntimeError(f"{path} was edited after it was loaded: restart Python to run the new code")
    return code.digest(file, [name])


@functools.cache  # what a loaded class does stays as it is
def _class(kind: type) -> str:
    """What objects of a class do: it and its bases, by their code where they are of this package, else by name."""
    ours = [each.__module__.partition(".")[0] == canonical.PACKAGE for each in kind.__mro__]
    return " ".join(_code(each) if own else each.__qualname__ for each, own in zip(kind.__mro__, ours, strict=True))


def _feed(digest: Any, value: Any) -> None:
    """Add a value to the digest, so that no two different values add the same bytes."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | torch.dtype() | torch.device():
            digest.update(f"{type(value).__name__} {value!r};".encode())
        case list() | tuple():
            digest.update(f"sequence {len(value)};".encode())
            for item in value:
                _feed(digest, item)
        case Mapping():
            _feed(digest, [(key, value[key]) for key in sorted(value, key=repr)])
        case Path():
            files = [file for file in (value, *value.rglob("*")) if file.is_file()]
            if not value.exists():
                raise FileNotFoundError(f"{value} does not exist: it was to be an input of a cached result")
            digest.update(f"path {sources.text_hash(files, value.parent)};".encode())
        case Tensor():
            digest.update(f"tensor {value.dtype} {tuple(value.shape)} {value.device.type};".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        case np.ndarray() if not value.dtype.hasobject:
            digest.update(f"array {value.dtype.str} {value.shape};".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        case nn.Module():
            described = re.sub(r"0x[0-9a-f]+", "", repr(value))  # addresses differ in every process
            _feed(
                digest,
                ([_class(type(part)) for part in value.modules()], described, value.training, value.state_dict()),
            )
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            _feed(digest, (_class(type(value)), fields))
        case _:
            raise TypeError(f"an object of type {type(value).__name__}")


def write(path: Path, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write one safetensors file: arrays as tensors, all else and a checksum of the whole in its header.

    Returns what reading it will give. Raises TypeError, with the `name` of what was to be kept, for a value that is no
    tensor, array or json.
    """
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
    header = json.dumps({"order": list(result), "arrays": arrays, "values": values})
    metadata = {"header": header, "blake2b": _checksum(header, tensors)}
    with replacing(path) as part:
        save_file(tensors, part, metadata)
    return _assemble(header, tensors)


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
    digest = hashlib.blake2b(digest_size=32)
    _feed(digest, (header, tensors))
    return digest.hexdigest()
