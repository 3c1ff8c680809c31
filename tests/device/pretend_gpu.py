"""A pretended GPU: tensors lie on the CPU and say "cuda", and what a GPU would refuse is refused.

    with pretend_gpu():
        torch.ones(2, device="cuda") + torch.ones(2)  # RuntimeError: Expected all tensors to be on the same device

Each storage carries a mark: on the GPU, on the CPU (none), or *either*, for what a torch function makes on its way from
tensors of the GPU, as it then makes it where they are. Views share their storage, so its mark is theirs. Torch's own
arithmetic, autograd and modules do the work. What is pretended: `device`, moves, factories, autocast, `torch.cuda`.
What is refused: tensors of both devices in one operation (but for numbers, copies and indices, as torch has it), numpy
of the GPU's tensors, a CPU generator for them, pinning them, and operations that have no deterministic form on CUDA.

What it cannot know: other digits and other memory than a CPU's, and kernels that CUDA does not have.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU, EITHER = "cuda", "cpu", "either"
DEVICE = torch.device("cuda", 0)

# What the documentation of `torch.use_deterministic_algorithms` says raises on CUDA. (`F.interpolate` by itself takes
# other forms of bilinear and bicubic resizing there, and bincount raises with weights only.)
NOT_DETERMINISTIC = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "max_unpool2d", "max_unpool3d",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "put_",
    "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward",
    "_ctc_loss_backward", "histc", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "scatter_reduce",
    "scatter_reduce_", "median.dim", "nanmedian.dim",
}  # fmt: skip
COPIES = {"copy_", "set_", "_to_copy", "_foreach_copy_"}
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
JOINS = {"cat", "stack", "hstack", "vstack"}  # no number can take part in these
MADE_OTHERWISE = {"tensor", "as_tensor", "asarray"}  # they go by no dispatcher, so they are replaced


class State:
    """Whether a torch function is under way that was given a tensor of the GPU."""

    inside = False


# --- marks ----------------------------------------------------------------------------------------------------------


def mark_of(tensor: Tensor) -> str:
    """GPU, CPU or EITHER."""
    storage = _storage(tensor)
    return CPU if storage is None else getattr(storage, "_pretended", CPU)


def mark(tensor: Tensor, on: str) -> Tensor:
    """Say where a tensor is, and all that share its storage."""
    storage = _storage(tensor)
    if storage is not None:
        storage._pretended = on
    return tensor


def _storage(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction():  # so that torch's own answers
        if _device(tensor).type != "cpu":
            return None  # meta tensors are left alone
        try:
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            return tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return None  # sparse


_device: Callable[[Tensor], torch.device] = torch._C.TensorBase.device.__get__


class _Move(torch.autograd.Function):
    """A copy on the other device; its gradient comes back to this one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, on: str) -> Tensor:
        return mark(tensor.detach().clone(), on)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.came_from = mark_of(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return mark(gradient.clone(), ctx.came_from), None


def _moved(tensor: Tensor, device: object) -> Tensor:
    on = torch.device(device).type
    if on == "meta":
        return _to(tensor, device)
    return tensor if mark_of(tensor) == on else _Move.apply(tensor, on)


# --- what replaces torch's own ---------------------------------------------------------------------------------------

_to, _numpy, _parse_to = torch._C.TensorBase.to, torch._C.TensorBase.numpy, torch._C._nn._parse_to


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Tensor.to: another device, another dtype, or those of another tensor."""
    kwargs = dict(kwargs)
    copy = kwargs.pop("copy", False)
    device, dtype, _, memory_format = parse_to(*args, **kwargs)
    moved = self if device is None else _moved(self, device)
    if dtype is None and memory_format is None and not copy:
        return moved
    layout = {} if memory_format is None else {"memory_format": memory_format}
    with torch._C.DisableTorchFunction():
        return _to(moved, self.dtype if dtype is None else dtype, copy=copy and moved is self, **layout)


def parse_to(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """What the arguments of Tensor.to and Module.to ask for; those of another tensor are its device and dtype."""
    device, *rest = _parse_to(*args, **kwargs)
    other = next((arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)), None)
    return (device if other is None else other.device, *rest)


def numpy(self: Tensor, *, force: bool = False) -> Any:
    """Tensor.numpy, which a GPU's tensor does not have."""
    if mark_of(self) == GPU and not force:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )
    with torch._C.DisableTorchFunction():
        return _numpy(self, force=force)


def pin_memory(self: Tensor, *args: Any) -> Tensor:
    """Tensor.pin_memory: the CPU's tensors can be pinned, and here nothing has to be done for it."""
    if mark_of(self) == GPU:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return self


def _made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def make(data: Any, *args: Any, device: object = None, **kwargs: Any) -> Tensor:
        if device is None and isinstance(data, Tensor):
            device = data.device
        made = function(data, *args, **kwargs)
        if function is not torch.tensor and made is data:
            return made if device is None else made.to(device)
        return made if device is None else made.to(device)

    return make


def _clone_of_storage(clone: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def cloned(self: Any) -> Any:
        copy = clone(self)
        if hasattr(self, "_pretended"):
            copy._pretended = self._pretended
        return copy

    return cloned


class Autocast(torch.amp.autocast_mode.autocast):
    """Autocast for the GPU, by the CPU's, so that dtypes are those that a GPU has."""

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
        if device_type == "cuda" and dtype is None:
            dtype = torch.float16
        super().__init__("cpu", dtype, *args, **kwargs)


def _is_on(*marks: str) -> property:
    return property(lambda self: mark_of(self) in marks)


def _where(self: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return DEVICE if mark_of(self) == GPU else _device(self)


def _of_cuda() -> dict[str, Any]:
    """What `torch.cuda` says and does where there is one GPU."""
    generator = torch.Generator().manual_seed(0)
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "mem_get_info": lambda device=None: (24 * 2**30, 24 * 2**30),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: generator.get_state(),
        "set_rng_state": lambda state, device=None: None,
    }


# --- the modes ------------------------------------------------------------------------------------------------------


class _Functions(TorchFunctionMode):
    """Knows which torch function is called, and so what its parts are made for."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        before = State.inside
        given = any(mark_of(leaf) != CPU for leaf in _tensors((args, kwargs)))
        backward = getattr(func, "__name__", "") in ("backward", "grad")
        State.inside = before or given or backward
        try:
            result = func(*args, **kwargs)
        finally:
            State.inside = before
        if given or kwargs.get("device") is not None:
            device = kwargs.get("device")
            on = GPU if device is None else torch.device(device).type
            for made in _tensors(result):
                if mark_of(made) == EITHER and on in (CPU, GPU):
                    mark(made, on)
        return result


class _Operations(TorchDispatchMode):
    """Marks what each operation makes, and refuses what a GPU refuses."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[-1]
        device = kwargs.get("device")
        asked = None if device is None else torch.device(device).type
        if asked == GPU:
            kwargs["device"] = torch.device("cpu")
        given = _tensors((args, kwargs))
        marks = [mark_of(tensor) for tensor in given]
        if GPU in marks:
            _refuse(func, name, args, kwargs, given, marks)
        on = self._place(name, asked, marks)
        if on == GPU and any(isinstance(each, torch.Generator) for each in (*args, *kwargs.values())):
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
        result = func(*args, **kwargs)
        if name in COPIES and name != "_to_copy":
            if marks and marks[0] == EITHER and len(marks) > 1:
                mark(given[0], marks[1])
            return result
        if isinstance(result, list) and name.startswith("_foreach"):
            for made, one in zip(result, given, strict=False):
                mark(made, mark_of(one))
            return result
        known = {
            storage._cdata: was for t, was in zip(given, marks, strict=True) if (storage := _storage(t)) is not None
        }
        for made in _tensors(result):
            storage = _storage(made)
            if storage is not None and known.get(storage._cdata) in (None, EITHER):
                storage._pretended = on
        return result

    @staticmethod
    def _place(name: str, asked: str | None, marks: list[str]) -> str:
        """Where the result is."""
        if name in INDEXED:
            return marks[0]
        if asked == GPU or GPU in marks:
            return GPU
        if CPU in marks:
            return CPU
        return EITHER if State.inside or EITHER in marks else CPU


def _refuse(func: Any, name: str, args: tuple, kwargs: dict, given: list[Tensor], marks: list[str]) -> None:
    if torch.are_deterministic_algorithms_enabled() and (
        {name, f"{name}.{func._overloadname}"} & NOT_DETERMINISTIC or (name == "bincount" and len(given) > 1)
    ):
        message = (
            f"{name} does not have a deterministic implementation on CUDA, but you set use_deterministic_algorithms"
        )
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=3)
    if name in COPIES or name.startswith("_foreach"):
        return
    both = f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})"
    if name in INDEXED:
        indices = [mark_of(index) for index in args[1] if index is not None]
        if marks[0] == CPU and GPU in indices:
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor (cpu) ({name})"
            )
        if len(args) > 2 and {marks[0], mark_of(args[2])} == {CPU, GPU} and args[2].dim():
            raise RuntimeError(both)
        return
    for tensor, where in zip(given, marks, strict=True):
        if where == CPU and (tensor.dim() or name in JOINS):
            raise RuntimeError(both)
    written = [mark_of(each) for each in _written(func, args, kwargs)]
    if CPU in written:
        raise RuntimeError(both)


def _written(func: Any, args: tuple, kwargs: dict) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from _tensors(value)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Here torch has a GPU, but slowly."""
    _device_constructors()  # a list of functions that torch makes once, of which some are replaced below
    replaced: Iterable[tuple[object, dict[str, Any]]] = [
        (
            torch.Tensor,
            {
                "device": property(_where),
                "is_cuda": _is_on(GPU),
                "is_cpu": _is_on(CPU, EITHER),
                "get_device": lambda self: 0 if mark_of(self) == GPU else -1,
                "to": to,
                "cpu": lambda self, *args, **kwargs: _moved(self, "cpu"),
                "cuda": lambda self, *args, **kwargs: _moved(self, "cuda"),
                "numpy": numpy,
                "pin_memory": pin_memory,
            },
        ),
        (torch, {name: _made(getattr(torch, name)) for name in sorted(MADE_OTHERWISE)} | {"autocast": Autocast}),
        (torch.storage._StorageBase, {"clone": _clone_of_storage(torch.storage._StorageBase.clone)}),
        (torch._C._nn, {"_parse_to": parse_to}),
        (torch.cuda, _of_cuda()),
        (
            torch.accelerator,
            {"current_accelerator": lambda check_available=False: None},
        ),  # asked for graph capture only
    ]
    with ExitStack() as stack:
        for owner, values in replaced:
            for name, value in values.items():
                stack.enter_context(patch.object(owner, name, value, create=not hasattr(owner, name)))
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        yield
