"""Torch's own fake tensors say the same of the methods as the pretended GPU, wherever they can say anything.

FakeTensorMode knows exactly which operations mix devices. But a fake tensor has no numbers, so what reads one (a check
for NaN, a mask) stops there; and autograd wants a real GPU. So the calls that the cases make on the pretended GPU are
made again, with the same arguments as fake tensors.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from cases import CASES
from pretend_gpu import GPU, mark_of, pretend_gpu
from reached import functions, on_gpu
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

Call = tuple[Callable[..., Any], dict[str, Any], dict[int, bool]]


@contextmanager
def first_calls() -> Iterator[dict[str, Call]]:
    """The arguments of each function's first call with tensors of the GPU, and no model or function among them."""
    wanted = {function.__code__: (name, function) for name, function in functions() if name[:7] != "studies"}
    found: dict[str, Call] = {}

    def called(frame: FrameType, _event: str, _argument: Any) -> None:
        name, function = wanted.get(frame.f_code, (None, None))
        if name is None or name in found or inspect.isgeneratorfunction(function):
            return
        given = {key: frame.f_locals[key] for key in inspect.signature(function).parameters if key in frame.f_locals}
        if all(map(plain, given.values())) and any(map(on_gpu, given.values())):
            found[name] = function, given

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield found
    finally:
        sys.settrace(before)


def plain(value: Any) -> bool:
    """Whether a value is data alone, so that it can be made fake."""
    if isinstance(value, nn.Module) or (callable(value) and not isinstance(value, type)):
        return False
    return all(map(plain, _parts(value)))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    held = dataclasses.is_dataclass(value) or type(value).__module__.startswith("xaikit.")
    return list(vars(value).values()) if held and not isinstance(value, type) else []


def faked(value: Any, mode: FakeTensorMode) -> Any:
    """The same with fake tensors, each on its device."""
    if isinstance(value, Tensor):
        with mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="cuda" if mark_of(value) == GPU else "cpu"
            )
    if isinstance(value, Mapping):
        return {key: faked(each, mode) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(faked(each, mode) for each in value)
    if _parts(value):
        copy = object.__new__(type(value))
        for key, each in vars(value).items():
            object.__setattr__(copy, key, faked(each, mode))
        return copy
    return value


# What they can follow to its end; all else reads a number, or takes a model.
FOLLOWED = {
    "what_captions_say": {"published_values", "stale_edits", "published_columns"},
    "decomposition": {
        "Coefficients.contributions", "Coefficients.coordinates", "Contributions.total", "mean_contributions",
        "ablate_attention_cumulatively", "TextSpan.reconstruct", "replace_heads",
    },
    "saliency": {
        "constant", "stable_ratio", "sum_relevance", "linear_relevance", "hand_out", "product_relevance", "upsample",
        "cam", "at_least_float32",
    },
    "measures": {"normalise"},
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_fake_tensors_agree(name: str) -> None:
    with pretend_gpu(), first_calls() as calls:
        CASES[name]("cuda")
    followed = set()
    for function, (called, arguments) in calls.items():
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        arguments = {key: faked(value, mode) for key, value in arguments.items()}
        try:
            with mode, torch.no_grad():
                called(**arguments)
        except (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException):
            continue
        followed.add(function.split(".", 2)[2])
    assert followed == FOLLOWED[name]
