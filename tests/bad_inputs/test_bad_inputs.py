"""Whatever is given by mistake to a public function is refused, in one sentence that names the argument."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import wrong_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from right_calls import CALLS, network
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from wrong_values import anything, wrong_values

import xaikit
from xaikit.arguments import Count, Within, is_public, public

FOLDERS = ("surgery", "texplain", "perturbation", "decomposition", "saliency", "metrics", "models", "datasets", "world",
           "audit")  # fmt: skip
# What has no arguments, or only such that may be anything.
TAKE_ALL = {"Contributions.total", "Choice.distinct", "Coefficients.coordinates", "Preprocessed.extra_repr",
            "Preprocessed.of", "Scene.factor_names", "Scene.replace", "SceneSet.replace",
            "SceneSet.__getitem__", "SeveralSet.__getitem__", "SeveralSet.replace"}  # fmt: skip
ABSTRACT = {"Scene"}  # its families are called
NEEDS_A_LIBRARY = {"mtcnn", "read_shards"}
READ_LAYOUTS = {"read_cars", "read_coco", "read_imagenet9", "read_in9l", "read_professions", "read_segmentation",
                "read_validation", "read_waterbirds", "ImageNetSegmentation.__getitem__"}  # fmt: skip


def contracts() -> dict[str, Any]:
    """What `public` knows of every public function, class and method, by its label."""
    found = {}
    for folder in FOLDERS:
        package = importlib.import_module(f"xaikit.{folder}")
        for name in package.__all__:
            item = getattr(package, name)
            if not getattr(item, "__module__", "").startswith("xaikit.") or not callable(item) or name == "Score":
                continue
            assert is_public(item), f"{folder}.{name} is handed on, so its arguments are looked at: mark it `@public`"
            for member in vars(item).values() if inspect.isclass(item) else [item]:
                contract = getattr(getattr(member, "__func__", member), "_contract", None)
                if contract is not None:
                    found[contract.label] = contract
    return found


CONTRACTS = contracts()


def refuses(call: Callable[[], Any], argument: str, label: str = "") -> None:
    """A call raises ValueError or TypeError, of Python itself, with one sentence that names the argument."""
    with pytest.raises((ValueError, TypeError)) as caught:
        made = call()
        if inspect.isgenerator(made):
            next(made)
    said = str(caught.value)
    assert type(caught.value) in (ValueError, TypeError), f"a foreign exception: {caught.value!r}"
    assert argument.lower() in said.lower() and label in said, said
    assert "\n" not in said and said.endswith((".", "?")) and len(said) < 400, said


def every_argument() -> Iterator[tuple[str, str]]:
    for label, contract in CONTRACTS.items():
        yield from ((label, name) for name in contract.hints if label in CALLS)


# --- what is wrong for a type, a shape, a range -----------------------------------------------------------------------


def test_each_public_name_is_called_here() -> None:
    marked = {name for name in xaikit.__all__ if is_public(getattr(xaikit, name))}
    assert marked == set(xaikit.__all__) - set(FOLDERS)
    known = CALLS.keys() | TAKE_ALL | ABSTRACT | NEEDS_A_LIBRARY | READ_LAYOUTS
    assert not CONTRACTS.keys() ^ known


@pytest.mark.parametrize("label", CALLS)
def test_the_right_call_is_taken(label: str, tmp_path: Path) -> None:
    function, arguments = CALLS[label](tmp_path)
    assert set(arguments) <= set(CONTRACTS[label].parameters)
    if label == "Shards.pairs":
        pytest.skip("the shards are not there")
    made = function(**arguments)
    if inspect.isgenerator(made):
        next(made)


@pytest.mark.parametrize(("label", "argument"), list(every_argument()))
def test_what_the_annotation_rules_out_is_refused(label: str, argument: str, tmp_path: Path) -> None:
    contract, (function, arguments) = CONTRACTS[label], CALLS[label](tmp_path)
    if argument not in arguments:
        pytest.skip("an argument that may be left out, of a kind that others stand for")
    default = contract.parameters[argument].default
    for said, value in wrong_values(contract.hints[argument], arguments[argument]):
        if value is not default:
            wrong = {**arguments, argument: value}
            try:
                refuses(lambda wrong=wrong: function(**wrong), argument, label)
            except BaseException as error:
                raise AssertionError(f"{label}({argument}) given {said}: {error}") from error


@pytest.mark.parametrize(
    ("label", "argument"),
    [(name, "folder") for name in sorted(READ_LAYOUTS - {"read_segmentation", "ImageNetSegmentation.__getitem__"})],
)
def test_folders_of_data_sets_are_paths(label: str, argument: str) -> None:
    function = getattr(xaikit.datasets, label)
    needed = {"split": "test"} if "split" in CONTRACTS[label].parameters else {}
    needed |= {"variant": "original"} if "variant" in CONTRACTS[label].parameters else {}
    for value in (3, None, ["a"], ""):
        refuses(lambda value=value: function(value, **needed), argument, label)
    for name in needed:
        refuses(lambda name=name: function("folder", **{**needed, name: 3}), name, label)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_nothing_at_all_makes_a_check_stumble(data: st.DataObject) -> None:
    """Whatever is given, it is taken as right or refused, and refused by the sentence alone: nothing else is raised."""
    label, argument = data.draw(st.sampled_from(sorted(every_argument())))
    value = data.draw(anything())
    contract = CONTRACTS[label]
    try:
        contract.take((), {argument: value})
    except (ValueError, TypeError) as error:
        said = str(error)
        assert type(error) in (ValueError, TypeError) and argument in said and label in said and "\n" not in said, said


# --- what is wrong for a function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", wrong_calls.WRONG, ids=lambda wrong: f"{wrong.label}-{'-'.join(wrong.changes)}")
def test_what_does_not_fit_is_refused(wrong: wrong_calls.Wrong, tmp_path: Path) -> None:
    function, arguments = CALLS[wrong.label](tmp_path)
    refuses(lambda: function(**{**arguments, **wrong.changes}), wrong.names)


def test_there_are_many(tmp_path: Path) -> None:
    count = len(wrong_calls.WRONG)
    for label, argument in every_argument():
        arguments = CALLS[label](tmp_path)[1] if label in CALLS else {}
        if argument in arguments:
            count += sum(1 for _ in wrong_values(CONTRACTS[label].hints[argument], arguments[argument]))
    assert count > 2000


# --- the decorator ----------------------------------------------------------------------------------------------------


@public
def twice(n: Count, *more: Count, factor: float | int = 2) -> list[object]:
    """For the tests below."""
    return [n, *more, factor]


def test_numbers_of_numpy_are_numbers() -> None:
    made = twice(np.int64(3), np.int8(4), factor=np.float32(0.5))
    assert made == [3, 4, 0.5] and [type(each) for each in made] == [int, int, float]


def test_what_is_missing_or_too_much_is_said_by_python() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'n'"):
        twice()
    with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
        twice(1, m=3)


def test_what_public_functions_hand_each_other_is_not_looked_at() -> None:
    class Looked(Within):
        calls = 0

        def broken(self, value: Any) -> None:
            type(self).calls += 1

    @public
    def inner(n: Annotated[int, Looked()]) -> int:
        return n

    @public
    def outer(n: int) -> int:
        return inner(n) + inner("n") if n else inner(n)

    inner(3)
    assert Looked.calls == 1
    with pytest.raises(TypeError, match="unsupported operand"):  # "n" was let in
        outer(1)
    assert outer(0) == 0 and Looked.calls == 1
    inner(3)
    assert Looked.calls == 2, "after an error it looks again"


def test_it_is_silent_where_there_are_no_values() -> None:
    with FakeTensorMode():
        assert xaikit.substitute(torch.empty(2, 3, 8, 8), "black").shape == (2, 3, 8, 8)
    assert xaikit.substitute(torch.empty(2, 3, 8, 8, device="meta"), "black").shape == (2, 3, 8, 8)
    black = torch.func.vmap(lambda images: xaikit.substitute(images, "black"))(torch.rand(2, 2, 3, 8, 8))
    assert black.shape == (2, 2, 3, 8, 8)


def test_gradients_and_compilation_go_through() -> None:
    model = xaikit.Preprocessed(network(), 32, (0.5,) * 3, (0.5,) * 3).eval()
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    function = torch.compile(lambda images: xaikit.substitute(images, "black"), backend="eager")
    assert not function(images.detach()).any()


def test_a_class_stays_what_it_is() -> None:
    assert inspect.signature(xaikit.Captions).parameters.keys() == {"cues"}
    assert isinstance(xaikit.LinearProbe(nn.Identity(), nn.Linear(2, 2)), nn.Module)
    assert not xaikit.Captions.__init__.__doc__ or "cues" not in (xaikit.Captions.__init__.__doc__ or "")
