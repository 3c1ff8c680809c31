"""What the check of an exercise says: what is wrong and where to look, never the answer.

    from xaikit.companion import check

    check.same(overlap(first, second), reference, "overlap(first, second)")
    check.function(overlap, reference, (first, second), (second, second), name="overlap")
    check.that(worst <= mean, "worst", "a minimum lies above the mean of the same numbers")

Each prints one line where all is right, and else raises `NotYet` with a sentence, which Jupyter shows without a trace.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch


class NotYet(AssertionError):
    """An exercise is not solved yet: why, in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it."""
        return [f"Not yet: {self}"]


def same(found: Any, wanted: Any, name: str, *, tolerance: float = 1e-4, hint: str = "") -> None:
    """Compare a number, an array, a tensor, a text or a collection of texts with what it should be.

    Numbers may differ by `tolerance`, relative to the largest wanted one (from zeros by as much); `hint` is added to
    what is wrong.
    Raises NotYet, which says what kind of difference there is, and not what is wanted.
    """
    _compare(found, wanted, name, tolerance, hint)
    print(f"{name}: right.")


def function(
    own: Callable[..., Any], reference: Callable[..., Any], *cases: tuple[Any, ...], name: str,
    tolerance: float = 1e-4, hint: str = "",
) -> None:  # fmt: skip
    """Compare a function with a reference on some inputs; each case is a tuple of arguments, as in `same`.

    Raises NotYet where it raises anything, and for the first case on which the two differ.
    """
    for number, case in enumerate(cases, start=1):
        which = f"{name}, on input {number} of {len(cases)}" if len(cases) > 1 else name
        wanted = reference(*deepcopy(case))
        try:
            found = own(*deepcopy(case))
        except Exception as error:
            raise NotYet(f"{which}: it raises {type(error).__name__}: {error}") from error
        _compare(found, wanted, which, tolerance, hint)
    print(f"{name}: right.")


def that(condition: Any, name: str, otherwise: str) -> None:
    """Check one property. Raises NotYet with `otherwise`, what is wrong, where the condition is false."""
    if not condition:
        raise NotYet(_ended(f"{name}: {otherwise}"))
    print(f"{name}: right.")


def _compare(found: Any, wanted: Any, name: str, tolerance: float, hint: str) -> None:
    if found is None or found is ...:
        raise NotYet(f"{name}: nothing yet; put something in place of the dots.")
    if wrong := _difference(found, wanted, tolerance):
        raise NotYet(_ended("; ".join(filter(None, (f"{name}: {wrong}", hint)))))


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _difference(found: Any, wanted: Any, tolerance: float) -> str:
    """What is wrong, to be said behind the name; empty where nothing is."""
    if not (is_number := _numbers(wanted) is not None) and type(wanted) is not type(found):
        return f"a {type(found).__name__}, where a {type(wanted).__name__} is wanted"
    if not is_number:
        return "" if found == wanted else _of_texts(found, wanted)
    here, there = _numbers(found), _numbers(wanted)
    if here is None:
        return f"a {type(found).__name__}, where {_kind(there)} is wanted"
    if here.shape != there.shape:
        swapped = here.shape == there.shape[::-1] and here.ndim > 1
        return f"the shape {here.shape}, where {there.shape} is wanted" + ("; are its axes swapped?" if swapped else "")
    if not np.isfinite(here).all():
        return "a number that is not finite; is something divided by zero?"
    error = np.asarray(here - there)
    bad = np.asarray(np.abs(error) > tolerance * (np.abs(there).max(initial=0.0) or 1.0))
    if not bad.any():
        return ""
    return _of_numbers(here, there, error, bad)


def _of_numbers(here: np.ndarray, there: np.ndarray, error: np.ndarray, bad: np.ndarray) -> str:
    if here.size == 1:
        return f"too {'large' if error.item() > 0 else 'small'}"
    if here.size > 2:
        if np.allclose(here, -there):
            return "the wrong sign everywhere"
        factor = (here * there).sum() / max((there * there).sum(), 1e-12)
        if factor and np.allclose(here, factor * there, rtol=1e-3, atol=1e-6 * np.abs(here).max()):
            return f"too {'large' if abs(factor) > 1 else 'small'} by one and the same factor"
        if np.allclose(error, error.mean(), rtol=1e-3, atol=1e-6 * np.abs(here).max()):
            return f"too {'large' if error.mean() > 0 else 'small'} by one and the same amount"
        if np.allclose(np.sort(here, axis=None), np.sort(there, axis=None), rtol=1e-3):
            return "the right numbers in the wrong places"
    first = tuple(np.argwhere(bad)[0].tolist())
    size = "large" if error[first] > 0 else "small"
    return f"{bad.sum()} of {bad.size} places differ; at {list(first)} it is too {size}"


def _of_texts(found: Any, wanted: Any) -> str:
    if isinstance(wanted, str) or len(found) == len(wanted):
        return "not what it should be"
    return f"{len(found)} entries, {'more' if len(found) > len(wanted) else 'fewer'} than there should be"


def _numbers(value: Any) -> np.ndarray | None:
    """A number, tensor, array or nested list of numbers in float64; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64)
    try:
        array = np.asarray(value)
    except ValueError:  # of lists of different lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in "biuf" else None


def _kind(array: np.ndarray) -> str:
    return "a number" if array.ndim == 0 else f"a tensor of shape {array.shape}"
