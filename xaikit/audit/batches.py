"""As many pictures at once as there is memory for."""

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int64
from torch import Tensor, nn

Result = TypeVar("Result")
# Pictures of 224 x 224 at first, and of smaller ones at most so many times `SMALLER`. A CPU is slower with more: what a
# layer gives is then so large that the system takes it back each time, and most of the time goes into new pages.
ON_CPU, ON_GPU, SMALLER = 8, 256, 8
_FULL = "ALLOC_FAILED"  # what cuDNN and cuBLAS say of it, by no class of its own

_fits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def at_once(model: nn.Module, sides: tuple[int, int], device: str = "cpu") -> int:
    """How many pictures of height and width `sides` go through a model at once: what fitted before, or a first guess.

    The guess is a bound on pixels. On a CPU it holds; on a GPU `in_batches` and `with_memory` halve it where it is too
    much, and what then fits is kept for the model.
    """
    if model in _fits:
        return _fits[model]
    most = ON_CPU if torch.device(device).type == "cpu" else ON_GPU
    return max(1, min(SMALLER * most, most * 224 * 224 // (sides[0] * sides[1])))


def in_batches(
    work: Callable[[Int64[Tensor, " batch"]], Result],
    count: int,
    model: nn.Module,
    sides: tuple[int, int],
    device: str = "cpu",
    batch: int | None = None,
) -> list[Result]:
    """What `work(rows)` gives for the rows 0 … count - 1, batch by batch; `batch` in place of what memory allows.

    Raises RuntimeError where one picture alone is too much.
    """
    found: list[Result] = []
    size, start = batch or at_once(model, sides, device), 0
    while start < count:
        rows = torch.arange(start, min(start + size, count))
        fits, result = _tried(lambda rows=rows: work(rows))
        if fits:
            found.append(result)
            start += len(rows)
        else:
            size = _halved(len(rows), model)
    return found


def with_memory(work: Callable[[int], Result], model: nn.Module, sides: tuple[int, int], device: str = "cpu") -> Result:
    """What `work(size)` gives, all of it anew with half of the size where that was too much; raises as `in_batches`."""
    size = at_once(model, sides, device)
    while True:
        fits, result = _tried(lambda size=size: work(size))
        if fits:
            return result
        size = _halved(size, model)


def _tried(work: Callable[[], Result]) -> tuple[bool, Result | None]:
    """Whether there was memory for it, and what came out. Once this returns, the error holds no tensors any more."""
    try:
        return True, work()
    except torch.OutOfMemoryError:
        return False, None
    except RuntimeError as error:
        if _FULL not in str(error):
            raise
        return False, None


def _halved(size: int, model: nn.Module) -> int:
    if size == 1:
        raise RuntimeError("The GPU has not the memory for one picture at a time: take a larger one, or --device cpu.")
    _fits[model] = size // 2
    torch.cuda.empty_cache()
    return size // 2
