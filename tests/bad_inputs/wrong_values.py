"""What is wrong for an annotation: values of each kind that people give by mistake, and others that chance finds."""

import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jaxtyping import AbstractArray
from numpy.typing import ArrayLike
from torch import Tensor, nn

from xaikit.arguments import ANYTHING, Holding, Within

Wrong = tuple[str, Any]


def wrong_values(hint: Any, right: Any) -> Iterator[Wrong]:
    """Values that the annotation rules out, each with what is wrong; made from the `right` one where that helps."""
    rules: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        rules += tuple(more)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return
    if hint is ArrayLike:
        yield from _no_array_likes(right, rules)
    elif origin in (Union, UnionType):
        yield from _of_none(hint, right, rules)
    elif isinstance(hint, type) and issubclass(hint, AbstractArray):
        yield from _no_arrays(hint, right, rules)
    elif hint in (int, float):
        yield from _no_numbers(hint, rules)
    elif hint is bool:
        yield from [("a number", 1), ("a word", "yes"), ("None", None), ("an array", np.ones(2, bool))]
    elif hint is str:
        yield from [("a number", 3), ("None", None), ("bytes", b"abc"), ("a list of strings", ["a"])]
    elif origin is Literal:
        yield from [("an unknown word", "no such thing"), ("a number", 3), ("None", None), ("a list", list(inner))]
    elif hint is Path:
        yield from [("a number", 3), ("None", None), ("a list of paths", [Path("a")]), ("an empty string", "")]
    elif origin is type:
        yield from [("an object", object()), ("a string", "Birds"), ("another class", int)]
    elif hint is Callable or origin is Callable:
        yield from [("a number", 3), ("None", None), ("a string", "mean")]
    elif isinstance(origin or hint, type) and issubclass(origin or hint, Collection | typing.Iterable):
        yield from _no_collections(origin or hint, inner, right, rules)
    elif isinstance(hint, type):
        yield from [("a string", "resnet50"), ("None", None), ("a number", 3), ("an object", object())]
        if not issubclass(hint, nn.Module):
            yield "a module", nn.Identity()


def _of_none(hint: Any, right: Any, rules: tuple[Any, ...]) -> Iterator[Wrong]:
    """What is wrong for every part of a union."""
    parts = typing.get_args(hint)
    yield "an object", object()
    if not any(part in (int, float) or typing.get_origin(part) is Annotated for part in parts):
        yield "a number", 3
    if type(None) not in parts:
        yield "None", None
    for part in parts:
        if part is not type(None):
            for said, value in wrong_values(Annotated[part, *rules] if rules else part, right):
                if said in ("NaN", "infinity", "too little", "too much", "no item", "a bool"):
                    yield said, value
    if len(parts) == 2 and type(None) in parts:
        (part,) = (part for part in parts if part is not type(None))
        for said, value in wrong_values(Annotated[part, *rules] if rules else part, right):
            if value is not None:
                yield said, value


def _no_numbers(kind: type, rules: tuple[Any, ...]) -> Iterator[Wrong]:
    yield from [("a word", "3"), ("None", None), ("a list", [1]), ("a bool", True), ("a complex number", 1j)]
    yield from [("NaN", float("nan")), ("infinity", float("inf")), ("a tensor", torch.tensor(3))]
    if kind is int:
        yield from [("a fraction", 2.5), ("a whole number as a float", 2.0)]
    for rule in rules:
        if isinstance(rule, Within):
            yield from _outside(rule, kind)


def _outside(rule: Within, kind: type) -> Iterator[Wrong]:
    step = 1 if kind is int else 0.5
    if np.isfinite(rule.low):
        yield "too little", kind(rule.low - (0 if rule.above else step))
        yield "far too little", kind(rule.low - 1000)
    if np.isfinite(rule.high):
        yield "too much", kind(rule.high + (0 if rule.below else step))
        yield "far too much", kind(rule.high + 1000)


def _no_arrays(hint: Any, right: Any, rules: tuple[Any, ...]) -> Iterator[Wrong]:
    tensor = hint.array_type is Tensor
    yield from [("a number", 3), ("None", None), ("a string", "a.png"), ("a list", np.asarray(right).tolist())]
    yield ("an array of numpy", right.numpy()) if tensor else ("a tensor", torch.from_numpy(right.copy()))
    names = {str(each) for each in hint.dtypes} if isinstance(hint.dtypes, list | tuple) else set()
    dtypes = {"float32": 0.5, "int64": 1, "bool": True, "complex64": 1j, "int32": 1}
    for name, value in dtypes.items():
        if names and name not in names:
            full = torch.full(tuple(right.shape), value, dtype=getattr(torch, name))
            yield f"of {name}", full if tensor else full.numpy()
    if hint.index_variadic is None:
        yield "an axis more", right[None]
        if len(right.shape):
            yield "an axis less", right[0] if len(right.shape) > 1 else right.sum().to(right) if tensor else right[0]
        for axis, dim in enumerate(hint.dims):
            if getattr(dim, "size", None) is not None and right.shape[axis] == dim.size:
                yield f"more than {dim.size} along an axis", _longer(right, axis)
    if ANYTHING in rules:
        return
    yield "of no entry", right[:0] if len(right.shape) else right
    if "float32" in names:
        for said, value in (("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
            yield said, _with(right, value)
    for rule in rules:
        if isinstance(rule, Within):
            for said, value in _outside(rule, float if right.dtype.is_floating_point else int):
                yield said, _with(right, value)


def _longer(right: Any, axis: int) -> Any:
    return torch.cat([right, right], axis) if isinstance(right, Tensor) else np.concatenate([right, right], axis)


def _with(right: Any, value: float) -> Any:
    copy = right.detach().clone(memory_format=torch.contiguous_format) if isinstance(right, Tensor) else right.copy()
    copy.reshape(-1)[-1] = value
    return copy


def _no_array_likes(right: Any, rules: tuple[Any, ...]) -> Iterator[Wrong]:
    yield from [("None", None), ("a string", "0.5"), ("a dict", {"a": 1}), ("a function", len), ("a number", 3)]
    if ANYTHING not in rules:
        yield from [("no item", []), ("rows of unlike length", [[1], [1, 2]])]
    if isinstance(right[0], int | float) and ANYTHING not in rules:
        yield "NaN", [*right[:-1], float("nan")]
    if rules and ANYTHING not in rules:
        yield from [("words", ["a"] * len(right)), ("complex numbers", [1j] * len(right))]


def _no_collections(container: type, inner: tuple[Any, ...], right: Any, rules: tuple[Any, ...]) -> Iterator[Wrong]:
    yield from [("a number", 3), ("None", None), ("an object", object())]
    if any(isinstance(rule, Holding) for rule in rules):
        yield "no item", type(right)()
    if not inner or not isinstance(right, Collection) or not len(right):
        return
    if issubclass(container, Mapping):
        yield from [("a list", [1]), ("a string", "abc")]
        key, value = next(iter(right.items()))
        for said, wrong in [("None as a value", {key: None}), ("an object as a value", {key: object()})]:
            if not _takes_all(inner[1]):
                yield said, wrong
        yield "an object as a key", {object(): value}
        return
    yield "a string in place of a list", "abc"
    for said, value in wrong_values(inner[0], _first(right)):
        if said not in ("an array of numpy", "a list"):
            yield f"{said} in it", type(right)([value]) if isinstance(right, list | tuple) else [value]
    if container is tuple and inner[-1] is not Ellipsis:
        yield "an item more", (*right, right[-1])
        yield "an item less", right[:-1]
    for rule in rules:
        if isinstance(rule, Within):
            for said, value in _outside(rule, int):
                yield said, (value, *right[1:])


def _first(right: Any) -> Any:
    return next(iter(right))


def _takes_all(hint: Any) -> bool:
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar)


# --- by chance --------------------------------------------------------------------------------------------------------


def anything() -> st.SearchStrategy[Any]:
    """Values of many kinds; most are wrong wherever they are given."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
    numpys = arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    )
    nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=2))
    return nested | numpys | numpys.map(torch.from_numpy) | st.sampled_from([object(), int, len, 1j, nn.Identity()])
