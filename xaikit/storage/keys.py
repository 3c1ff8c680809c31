"""All that a result was made from, as one hash: values, code, and the state of objects and modules.

What code does is hashed, not where it lies: of this package by `storage.canonical`; of a notebook or any other file of
the user by its bytecode, with the functions, classes and values that it reaches. A library's function or class counts
by its name and the library's version. Of a module count its class, its parameters and buffers (those too that it does
not save), its hooks and every other attribute. What cannot be hashed is refused by name, never passed over.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.storage import canonical, sources

# The text that this process runs, or ran when it was first asked; what is on disk may have been edited since.
_text_loaded = dict(canonical.read().texts)
_LIBRARIES = tuple({f"{Path(sysconfig.get_path(name)).resolve()}{os.sep}" for name in ("stdlib", "platlib", "purelib")})
_OF_MODULES = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
# What libraries note in their objects of the place that a model was read from and of the hashes of this process.
_OF_THE_RUN = {"_name_or_path", "name_or_path", "_original_object_hash", "_use_default_values"}
# What Python makes of a class beside what was written.
_OF_CLASSES = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__"),
    *("_abc_impl", "__orig_bases__", "__parameters__", "__dataclass_fields__", "__dataclass_params__"),
    *("__slots__", "__slotnames__", "__match_args__", "__conditional_annotations__", "__jaxtyped__"),
}
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.ClassMethodDescriptorType,
    np.ufunc,
)


def digest(value: Any) -> str:
    """64 hexadecimal digits that no other value has. Raises TypeError, saying what it is, for what has no hash."""
    key = _Key()
    try:
        key.add(value)
    except RecursionError:
        raise TypeError("something that holds itself") from None
    return key.hexdigest()


def code_of(thing: Callable[..., Any] | type) -> str:
    """What a function or class at the top of a file does, with all that it reaches (`storage.canonical`).

    Raises RuntimeError where its file was edited after it was loaded.
    """
    file, name = canonical.place_of(thing)
    code = canonical.read_with(file)
    for path in sorted(code.files(file, [name])):
        if _text_loaded.setdefault(path, code.texts[path]) != code.texts[path]:
            raise RuntimeError(f"{path} was edited after it was loaded: restart Python to run the new code")
    return code.digest(file, [name])


@functools.cache  # what a loaded class does stays as it is
def _code_of_class(kind: type) -> str:
    return code_of(kind)


class _Key:
    """A digest to which values are added so that no two different ones add the same bytes."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=32)
        self._known: dict[int, int] = {}  # objects that may be reached again, from themselves or from others
        self._held: list[Any] = []

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def _say(self, text: str) -> None:
        self._digest.update(f"{text};".encode())

    def _is_again(self, value: Any) -> bool:
        """Whether an object was added before, in which case its number is what is added."""
        if id(value) in self._known:
            self._say(f"again {self._known[id(value)]}")
            return True
        self._known[id(value)] = len(self._known)
        self._held.append(value)  # so that its id is nobody else's
        return False

    def _named(self, name: str, value: Any, where: str) -> None:
        """Add something that has a name; who cannot be hashed is refused with it."""
        try:
            self._say(name)
            self.add(value)
        except TypeError as error:
            raise TypeError(f"{error}, as {name!r} of {where}") from None

    def add(self, value: Any) -> None:
        match value:
            case enum.Enum():
                self._say(f"enum {value.name}")
                self._class(type(value))
            case None | bool() | int() | float() | complex() | str() | bytes() | range() | slice() | torch.dtype():
                self._say(f"{type(value).__name__} {value!r}")
            case np.generic() | types.EllipsisType() | torch.memory_format() | torch.layout():
                self._say(f"{type(value).__name__} {value!r}")
            case torch.device():
                self._say(f"device {value.type}")
            case list() | tuple():
                self._say(f"sequence {len(value)}")
                for item in value:
                    self.add(item)
            case set() | frozenset():
                self._say(f"set {sorted(digest(item) for item in value)}")
            case Mapping():
                left = _OF_THE_RUN if _is_library(type(value)) and type(value) is not dict else ()
                self.add([(key, value[key]) for key in sorted(value, key=repr) if key not in left])
            case Path():
                self._path(value)
            case Tensor():
                self._tensor(value)
            case np.ndarray() if not value.dtype.hasobject:
                self._say(f"array {value.dtype.str} {value.shape}")
                self._digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
            case nn.Module():
                self._module(value)
            case type():
                self._class(value)
            case types.ModuleType():
                self._say(f"module {value.__name__} {_version(value.__name__)}")
            case functools.partial():
                self.add(("partial", value.func, value.args, value.keywords))
            case types.MethodType():
                self.add(("method", value.__func__, value.__self__))
            case types.FunctionType():
                self._function(value)
            case _ if isinstance(value, _BUILTINS):
                self._builtin(value)
            case _ if dataclasses.is_dataclass(value):
                fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
                extra = vars(value) if _is_library(type(value)) and hasattr(value, "__dict__") else {}
                self._object(value, fields | extra)
            case _ if _is_plain(value):
                self._object(value, vars(value))
            case _:
                raise TypeError(f"an object of type {type(value).__name__}")

    def _path(self, path: Path) -> None:
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: it was to be an input of a cached result")
        self._say(f"path {sources.text_hash(files, path.parent)}")

    def _tensor(self, tensor: Tensor) -> None:
        self._say(f"tensor {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}")
        try:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            if len(plain):  # torch sees nothing else in an empty one
                self._digest.update(plain.view(torch.uint8).numpy())
        except (RuntimeError, NotImplementedError):
            raise TypeError(f"a {tensor.layout} tensor on the device {tensor.device.type}") from None

    def _object(self, value: Any, attributes: Mapping[str, Any]) -> None:
        self._say("object")
        if not self._is_again(value):
            self._class(type(value))
            for name in sorted(attributes.keys() - _OF_THE_RUN):
                self._named(name, attributes[name], f"a {type(value).__name__}")

    def _module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            raise TypeError(f"a compiled or scripted {type(module).__name__}")
        self._say(f"module {module.training}")
        if self._is_again(module):
            return
        self._class(type(module))
        where = f"a {type(module).__name__}"
        for name, parameter in module._parameters.items():
            self._named(name, parameter, where)
            self._say(f"{parameter is not None and parameter.requires_grad}")
        for part in (module._buffers, module._modules):
            self._say(f"parts {len(part)}")
            for name, value in part.items():
                self._named(name, value, where)
        for name, value in sorted(vars(module).items()):
            if name not in _OF_MODULES | _OF_THE_RUN:
                hooks = "hook" in name and isinstance(value, Mapping)
                self._named(name, list(value.values()) if hooks else value, where)

    # Code.

    def _class(self, kind: type) -> None:
        """What objects of a class do: it and its bases."""
        for each in kind.__mro__:
            if _is_library(each):
                self._say(f"class {each.__module__}.{each.__qualname__} {_version(each.__module__)}")
            elif _is_ours(each):
                self._say(f"class {_code_of_class(each)}")
            elif not self._is_again(each):
                own = {name: value for name, value in vars(each).items() if name not in _OF_CLASSES}
                self._say(f"class {len(own)}")
                for name in sorted(own):
                    self._named(name, _unwrapped(own[name]), each.__qualname__)

    def _builtin(self, function: Any) -> None:
        name = getattr(function, "__qualname__", function.__name__)
        owner = getattr(function, "__objclass__", None)
        module = getattr(function, "__module__", None) or getattr(owner, "__module__", "")
        self._say(f"builtin {module}.{name} {_version(module)}")
        bound = getattr(function, "__self__", None)
        if bound is not None and not isinstance(bound, types.ModuleType | type):
            self.add(bound)

    def _function(self, function: types.FunctionType) -> None:
        self._say("function")
        if self._is_again(function):
            return
        if _is_library(function):
            self._say(f"{function.__module__}.{function.__qualname__} {_version(function.__module__)}")
        elif _is_ours(function):
            self._say(f"{code_of(function)} {function.__qualname__}")
        else:
            self._bytecode(function.__code__)
            self.add((function.__defaults__, function.__kwdefaults__))
            for name in sorted(_globals(function.__code__) & function.__globals__.keys()):
                self._named(name, function.__globals__[name], function.__qualname__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # nothing is in it yet
                continue
            self._named(name, content, function.__qualname__)

    def _bytecode(self, code: types.CodeType) -> None:
        self.add((code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable))
        for constant in code.co_consts:
            self._bytecode(constant) if isinstance(constant, types.CodeType) else self.add(constant)


def _unwrapped(value: Any) -> Any:
    """The functions behind what a class makes of them."""
    match value:
        case staticmethod() | classmethod():
            return (type(value).__name__, value.__func__)
        case property():
            return ("property", value.fget, value.fset, value.fdel)
        case functools.cached_property():
            return ("cached", value.func)
    return value


def _globals(code: types.CodeType) -> set[str]:
    """The names that some code reads from its module."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*map(_globals, inner))


def _is_plain(value: Any) -> bool:
    """Whether an object is of a class written in Python that has no state but its attributes."""
    kind = type(value)
    plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    # What is written in C has its state beyond the two pointers, to attributes and weak references, of a Python class.
    return plain and hasattr(value, "__dict__") and kind.__basicsize__ <= object.__basicsize__ + 16


def _is_ours(thing: Any) -> bool:
    return (thing.__module__ or "").partition(".")[0] == canonical.PACKAGE


def _is_library(thing: Any) -> bool:
    """Whether a function or class came with Python or was installed, and is not of this package."""
    name = thing.__module__ or ""
    if name == "__main__" or _is_ours(thing):
        return False
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return name in sys.builtin_module_names or name.partition(".")[0] in sys.stdlib_module_names
    return str(Path(file).resolve()).startswith(_LIBRARIES)


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))
