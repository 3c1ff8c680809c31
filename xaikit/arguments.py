"""What a user hands over is looked at once, where it comes in, and a mistake is named in one sentence.

`public` marks what users call. Called from outside, its arguments are held against their annotations: shapes and dtypes
by jaxtyping, where the name of an axis is one number in a call, and what there is no sentence for here by beartype.
Numbers and arrays are finite, and arrays hold something, unless the annotation says otherwise: `Annotated[..., rule]`
adds what no type says, a range for instance. What public functions hand each other is not looked at, nor are values
under torch.compile, vmap and fake tensors, where there are none.

Decided once, for all functions: numbers of numpy count as Python's, a str as a path, a list as a tuple, a column of
numpy, torch or pandas as a sequence of its items; a bool is no number, a str no sequence of strings, an array of numpy
no tensor.
"""

import functools
import inspect
import math
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import AbstractArray, jaxtyped
from numpy.typing import ArrayLike
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Item = TypeVar("Item", bound=Callable[..., Any])
NOT_FINITE = "holds NaN or infinity; give finite numbers"


# --- rules, for Annotated ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Within:
    """Numbers, or all entries of an array, lie in a range; its ends belong to it unless they are `above` or `below`."""

    low: float | int = -np.inf
    high: float | int = np.inf
    above: bool = False
    below: bool = False

    def broken(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        least, most = _ends(value)
        if not (math.isfinite(least) and math.isfinite(most)):
            return NOT_FINITE
        inside = (least > self.low if self.above else least >= self.low) and (
            most < self.high if self.below else most <= self.high
        )
        if inside:
            return None
        outside = most if least >= self.low and not (self.above and least == self.low) else least
        found = f"is {value!r}" if isinstance(value, Real) else f"holds {outside:g}"
        return f"{found}; give {self.wanted}"

    @property
    def wanted(self) -> str:
        """The range in words."""
        if np.isinf(self.high):
            return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        if np.isinf(self.low):
            return f"less than {self.high:g}" if self.below else f"{self.high:g} or less"
        return f"numbers in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Holding:
    """A collection has so many items at least."""

    least: int = 1

    def broken(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if not hasattr(value, "__len__") or len(value) >= self.least:
            return None
        return f"is empty; give {self.least} or more" if not len(value) else f"holds {len(value)}; give {self.least}"


@dataclass(frozen=True)
class Sized:
    """Axes of an array have so many entries at least: `Sized(axis0, axis1, ...)`, of an array that has them."""

    least: tuple[int, ...]

    def broken(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        shape = tuple(value.shape)
        if all(side >= least for side, least in zip(shape, self.least, strict=False)):
            return None
        return f"is of shape {shape}; give {' by '.join(map(str, self.least))} or more"


class _Anything:
    """The entries of an array may be NaN, infinite, or none at all."""

    def broken(self, value: Any) -> None:
        """Nothing is."""


class _Numeric:
    """What numpy makes of the value are numbers."""

    def broken(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        kind = np.asarray(value).dtype.kind
        return None if kind in "biuf" else f"holds {_KINDS.get(kind, 'objects')}; give numbers"


class _Places:
    """A device that is here."""

    def broken(self, value: str) -> str | None:
        """What is wrong with a value, or None."""
        try:
            kind = torch.device(value).type
        except RuntimeError:
            return f"is {value!r}; give 'cpu' or 'cuda'"
        if kind == "cuda" and not torch.cuda.is_available():
            return f"is {value!r}, and there is no GPU here; give 'cpu'"
        return None


_KINDS = {"U": "strings", "S": "bytes", "c": "complex numbers", "O": "objects or rows of unlike length", "M": "dates"}
ANYTHING = _Anything()
UNIT = Within(0, 1)

Count = Annotated[int, Within(1)]
Natural = Annotated[int, Within(0)]
Seed = Annotated[int, Within(0)]
Positive = Annotated[float | int, Within(0, above=True)]
NotNegative = Annotated[float | int, Within(0)]
Probability = Annotated[float | int, UNIT]
PositiveShare = Annotated[float | int, Within(0, 1, above=True)]
Pixels = Annotated[int, Within(8)]  # of a side of a drawn picture
Side = Annotated[tuple[int, int], Within(1)]  # height and width
Texts = Annotated[Sequence[str], Holding()]
Numbers = Annotated[ArrayLike, _Numeric()]
Device = Annotated[str, _Places()]


# --- the decorator ----------------------------------------------------------------------------------------------------


class _Inside(threading.local):
    active = False


_inside = _Inside()
_LOOKED_AT = ("__init__", "__call__", "__getitem__")


def public(item: Item) -> Item:
    """Look at the arguments of a function, or of a class and its public methods, when they are called from outside.

    The function then raises TypeError for what is of another type or dtype, and ValueError for a shape, an entry or a
    number that cannot be; both name the argument, say what it is, and what is wanted.
    """
    if not isinstance(item, type):
        return _looking(item, item.__name__)
    if is_dataclass(item):
        item.__no_type_check__ = True  # else jaxtyping's import hook looks before this does, and says less
    for name, member in list(vars(item).items()):
        if name.startswith("_") and name not in _LOOKED_AT:
            continue
        label = item.__name__ if name == "__init__" else f"{item.__name__}.{name}"
        if isinstance(member, classmethod | staticmethod):
            setattr(item, name, type(member)(_looking(member.__func__, label)))
        elif inspect.isfunction(member):
            setattr(item, name, _looking(member, label))
    return item


def is_public(item: Callable[..., Any]) -> bool:
    """Whether `public` has been there."""
    return hasattr(item.__init__ if isinstance(item, type) else item, "_contract")


def _looking(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    contract = _Contract(function, label)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _inside.active:
            return function(*args, **kwargs)
        args, kwargs = contract.take(args, kwargs)
        _inside.active = True
        try:
            return function(*args, **kwargs)
        finally:
            _inside.active = False

    call._contract = contract
    return call


class _Contract:
    """What the arguments of one function have to be."""

    def __init__(self, function: Callable[..., Any], label: str) -> None:
        self.function, self.label = function, label

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """By name; read when it is first called, when all that annotations name is there."""
        return dict(inspect.signature(self.function).parameters)

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """The annotation of each parameter that has one."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        hints.pop("return", None)
        return hints

    @functools.cached_property
    def positional(self) -> list[str]:
        """The names of parameters that can be given by their place."""
        kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        return [name for name, each in self.parameters.items() if each.kind in kinds]

    @functools.cached_property
    def rest(self) -> str | None:
        """The name of `*args`, if there are such."""
        kind = inspect.Parameter.VAR_POSITIONAL
        return next((name for name, each in self.parameters.items() if each.kind == kind), None)

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function gets them."""
        names = self.positional[: len(args)] + [self.rest] * (len(args) - len(self.positional))
        with jaxtyped("context"):
            taken = tuple(self._one(name, value) for name, value in zip(names, args, strict=True))
            return taken, {name: self._one(name, value) for name, value in kwargs.items()}

    def _one(self, name: str | None, value: Any) -> Any:
        hint = self.hints.get(name, Any)
        if hint is Any:
            return value
        default = self.parameters[name].default
        if value is default:  # None for "by default", whatever the annotation says
            return value
        taken = self._named(name, value, hint)
        inner = typing.get_args(hint)
        if isinstance(taken, Iterator) and typing.get_origin(hint) is Iterable and inner:
            return (self._named(name, item, inner[0], f"[{i}]") for i, item in enumerate(taken))
        return taken

    def _named(self, name: str, value: Any, hint: Any, place: str = "") -> Any:
        try:
            return _take(value, hint)
        except _Fault as fault:
            raise fault.kind(f"{name}{place}{fault.place} of {self.label} {fault.said}.") from None


class _Fault(Exception):
    """Something is wrong with an argument: what, and with which part of it."""

    def __init__(self, kind: type[Exception], said: str, place: str = "") -> None:
        super().__init__(said)
        self.kind, self.said, self.place = kind, said, place


# --- a value against an annotation ------------------------------------------------------------------------------------


def _take(value: Any, hint: Any, rules: tuple[Any, ...] = ()) -> Any:
    """The value as the annotation has it. Raises _Fault where it is something else."""
    hint, more = _bare(hint)
    rules += more
    value = _of_kind(value, hint, rules)
    if value is not None:
        for rule in rules:
            if said := _has_values(value) and rule.broken(value):
                raise _Fault(ValueError, said)
    return value


@functools.cache
def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without `Annotated`, and the rules that this adds."""
    rules: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        rules += tuple(more)
    return hint, rules


_origin = functools.cache(typing.get_origin)


def _of_kind(value: Any, hint: Any, rules: tuple[Any, ...]) -> Any:
    if hint is int or hint is float:
        return _number(value, hint)
    origin = _origin(hint)
    if hint is Any or hint is object or isinstance(hint, TypeVar):
        return value
    if hint is ArrayLike:
        return _array_like(value, rules)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, typing.get_args(hint), rules)
    if origin is Literal:
        if isinstance(value, str | int | None) and value in typing.get_args(hint):
            return value
        kind = ValueError if isinstance(value, str) else TypeError
        raise _Fault(kind, f"is {_short(value)}; give {_listed(map(repr, typing.get_args(hint)))}")
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return _array(value, hint, rules)
    if hint is bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise _Fault(TypeError, f"is {_short(value)}; give True or False")
    if hint is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
        raise _Fault(TypeError, f"is {_short(value)}; give a path")
    if origin is type:
        return _subclass(value, typing.get_args(hint))
    if hint is Callable or origin is Callable:
        return _function(value, typing.get_args(hint))
    container = origin or hint
    if isinstance(container, type) and issubclass(container, Iterable) and container not in (str, bytes):
        return _container(value, container, typing.get_args(hint))
    if isinstance(hint, type):
        if isinstance(value, hint):
            return value
        raise _Fault(TypeError, f"is {_short(value)}; give {_kind(hint)}")
    return _by_beartype(value, hint)


def _array(value: Any, hint: Any, rules: tuple[Any, ...]) -> Any:
    """A tensor, or an array of numpy, of the dtype and shape that jaxtyping's annotation says."""
    kind = hint.array_type
    if isinstance(kind, type) and not isinstance(value, kind):
        mend = " (torch.from_numpy makes one)" if kind is Tensor and isinstance(value, np.ndarray) else ""
        raise _Fault(TypeError, f"is {_short(value)}; give {_arrays(hint)}{mend}")
    if not isinstance(value, hint):
        dtype = str(value.dtype).removeprefix("torch.")
        if hint.dtypes is not _any_dtype() and not _has_dtype(dtype, hint):
            raise _Fault(TypeError, f"is of {dtype}; give {_arrays(hint)}")
        fits = " that fits the other arguments" if _has_axes(value, hint) else ""
        raise _Fault(ValueError, f"is of shape {tuple(value.shape)}; give {_arrays(hint)}{fits}")
    if ANYTHING in rules:
        return value
    if 0 in value.shape:
        raise _Fault(
            ValueError, f"is of shape {tuple(value.shape)}, so there is nothing in it; give one or more of each"
        )
    if not any(isinstance(rule, Within) for rule in rules):  # which sees NaN and infinity in the same pass
        _check_finite(value)
    return value


def _check_finite(value: Any) -> None:
    if isinstance(value, Tensor):
        if not value.is_floating_point() or not _has_values(value):
            return
        # The sum is one pass, but may overflow; of a number torch's own isfinite takes as long as of many.
        finite = math.isfinite(value.detach().sum().item()) or value.detach().isfinite().all()
    else:
        finite = value.dtype.kind != "f" or np.isfinite(value).all()
    if not finite:
        raise _Fault(ValueError, NOT_FINITE)


def _array_like(value: Any, rules: tuple[Any, ...]) -> Any:
    """What numpy makes an array of: numbers, strings, sequences of them, tensors of the CPU."""
    if value is None or isinstance(value, str | bytes | Mapping | set | frozenset) or callable(value):
        raise _Fault(TypeError, f"is {_short(value)}; give an array or a list")
    if isinstance(value, Tensor) and (value.requires_grad or value.device.type != "cpu"):
        if not _has_values(value):
            return value
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise _Fault(
            TypeError, f"is {_short(value)}, of which numpy makes no array; give an array or a list"
        ) from error
    if not array.ndim:
        raise _Fault(TypeError, f"is {_short(value)}; give an array or a list")
    if ANYTHING in rules:
        return value
    if not array.size:
        raise _Fault(ValueError, "is empty; give one entry or more")
    if array.dtype.kind == "O":
        raise _Fault(TypeError, "holds objects or rows of unlike length; give numbers or strings")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _Fault(ValueError, NOT_FINITE)
    return value


def _one_of(value: Any, hints: tuple[Any, ...], rules: tuple[Any, ...]) -> Any:
    if value is None and type(None) in hints:
        return value
    faults = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _of_kind(value, hint, rules) if typing.get_origin(hint) is not Annotated else _take(value, hint)
            except _Fault as fault:
                faults.append(fault)
    if len(faults) == 1 or {float, int} >= {hint for hint in hints if hint is not type(None)}:
        raise faults[0]
    # One that is of the right kind, but not as it should be, says more than that it is none of the others.
    nearest = next((fault for fault in faults if fault.kind is ValueError or fault.place), None)
    if nearest is not None:
        raise nearest
    wanted = _listed(dict.fromkeys(fault.said.partition("; give ")[2] for fault in faults))
    raise _Fault(TypeError, f"is {_short(value)}; give {wanted}")


def _number(value: Any, hint: type) -> int | float:
    if type(value) is int or (type(value) is hint and math.isfinite(value)):  # as it nearly always is
        return value
    whole = hint is int
    wanted = "a whole number" if whole else "a number"
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral if whole else Real):
        if whole and isinstance(value, Real) and not isinstance(value, bool | np.bool_):
            raise _Fault(TypeError, f"is {value!r}; give {wanted}")
        mend = " (item() makes one)" if isinstance(value, Tensor | np.ndarray) else ""
        raise _Fault(TypeError, f"is {_short(value)}; give {wanted}{mend}")
    if not np.isfinite(float(value)):
        raise _Fault(ValueError, f"is {value!r}; give a finite number")
    return value.item() if isinstance(value, np.generic) else value


def _function(value: Any, inner: tuple[Any, ...]) -> Any:
    if not callable(value):
        raise _Fault(TypeError, f"is {_short(value)}; give a function")
    if inner and isinstance(inner[0], list):
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):  # it does not say
            return value
        try:
            signature.bind(*inner[0])
        except TypeError:
            raise _Fault(TypeError, f"does not take {len(inner[0])} arguments; give a function that does") from None
    return value


def _subclass(value: Any, kinds: tuple[Any, ...]) -> Any:
    if isinstance(value, type) and all(not isinstance(kind, type) or issubclass(value, kind) for kind in kinds):
        return value
    raise _Fault(TypeError, f"is {_short(value)}; give a class such as {_listed(map(_kind, kinds))}")


def _container(value: Any, container: type, inner: tuple[Any, ...]) -> Any:
    """A sequence, tuple, mapping or other collection; what gives its items only once is looked at as it is read."""
    wanted = {Mapping: "a mapping", dict: "a dict", tuple: "a tuple"}.get(container, "a sequence")
    if inner and not issubclass(container, Mapping) and getattr(value, "ndim", None) == 1:
        value = value.tolist()  # a column of numpy, torch or pandas
    if container is tuple and isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str | bytes) or not isinstance(value, container):
        of = f" of {_kind(inner[0])}" if len(inner) == 1 or (container is tuple and inner) else ""
        raise _Fault(TypeError, f"is {_short(value)}; give {wanted}{of}")
    if not inner or (not isinstance(value, Collection) or isinstance(value, Tensor)):
        return value
    if isinstance(value, Mapping):
        if len(inner) == 2:
            for key, item in value.items():
                _item(key, inner[0], f"'s key {key!r}")
                _item(item, inner[1], f"[{key!r}]")
        return value
    if container is tuple and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise _Fault(ValueError, f"has {len(value)} items; give {len(inner)}")
        items = [_item(item, hint, f"[{i}]") for i, (item, hint) in enumerate(zip(value, inner, strict=True))]
    elif isinstance(value, np.ndarray) and not value.ndim:
        raise _Fault(TypeError, "is an array of numpy without an axis; give several")
    elif isinstance(value, list | tuple | np.ndarray | set | frozenset | range):
        items = [_item(item, inner[0], f"[{i}]") for i, item in enumerate(value)]
    else:  # a data set, of which an item may be a file to read
        return value
    return type(value)(items) if type(value) in (list, tuple) else value


def _item(value: Any, hint: Any, place: str) -> Any:
    try:
        return _take(value, hint)
    except _Fault as fault:
        raise _Fault(fault.kind, fault.said, place + fault.place) from None


def _by_beartype(value: Any, hint: Any) -> Any:
    from beartype.door import is_bearable  # late, as it takes a while

    if is_bearable(value, hint):
        return value
    raise _Fault(TypeError, f"is {_short(value)}; give {hint}")


# --- words for values and annotations ---------------------------------------------------------------------------------


def _has_values(value: Any) -> bool:
    """Whether one can look at the entries: not of a tensor that is only thought of, or one of a batch."""
    if not isinstance(value, Tensor):
        return True
    return not (
        value.is_meta or isinstance(value, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def _ends(value: Any) -> tuple[float, float]:
    """The least and the greatest of some numbers."""
    if type(value) in (int, float):
        return value, value
    if type(value) is tuple and value and all(type(each) is int for each in value):
        return min(value), max(value)
    if isinstance(value, Tensor):
        if not value.numel():
            return np.inf, -np.inf
        if value.dtype == torch.bool:
            value = value.byte()
        return tuple(end.item() for end in value.detach().aminmax())
    array = np.asarray(value)
    return (float(array.min()), float(array.max())) if array.size else (np.inf, -np.inf)


@functools.cache
def _any_dtype() -> Any:
    from jaxtyping import Shaped

    return Shaped[Tensor, "..."].dtypes


def _has_dtype(dtype: str, hint: Any) -> bool:
    return any(each == dtype for each in hint.dtypes)


def _has_axes(value: Any, hint: Any) -> bool:
    """Whether there are as many axes as the annotation has, so that one of them must be of the wrong length."""
    return hint.index_variadic is None and len(value.shape) == len(hint.dims)


def _arrays(hint: Any) -> str:
    """The arrays that an annotation is of, in words."""
    kind = "a tensor" if hint.array_type is Tensor else "an array"
    return f"{kind} [{', '.join(hint.dim_str.split())}] of {_dtypes(hint)}"


def _dtypes(hint: Any) -> str:
    if hint.dtypes is _any_dtype():
        return "any dtype"
    names = {str(each) for each in hint.dtypes}
    for word, one in (("floating point numbers", "float32"), ("whole numbers", "int64"), ("truth values", "bool")):
        if one in names and (len(names) > 1 or one == "bool"):
            return word
    return " or ".join(sorted(names))


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return _kind(type(value))


def _kind(hint: Any) -> str:
    """A type in words, with its article."""
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _listed(map(_kind, typing.get_args(hint)))
    words = {str: "strings", int: "whole numbers", float: "numbers"}
    if hint in words:
        return words[hint]
    name = getattr(hint, "__name__", str(hint))
    if hint is np.ndarray:
        return "an array of numpy"
    if hint is Tensor:
        return "a tensor"
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _listed(words: Iterable[str]) -> str:
    *some, last = words
    return f"{', '.join(some)} or {last}" if some else last


def names_of(function: Callable[..., Any]) -> Iterator[str]:
    """The arguments that `public` looks at."""
    item = function.__init__ if isinstance(function, type) else function
    yield from item._contract.hints
