"""Looking into a model while it runs, and leaving it as it was: the one place where hooks are set.

Every layer that is looked at must run exactly once in each pass of its model. One that runs twice, never, or outside of
a pass is named; so is a model in which hooks are not heard. What a hook computes is not subject to autocast.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module is put back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def check_hookable(model: nn.Module) -> None:
    """Raise ValueError for a model in which hooks are not heard, or heard several times: scripted, compiled, copied."""
    for module in model.modules():
        name = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"The {name} is scripted, and hooks in it are not heard: give the model as it was before.")
        if name == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(f"The {name} is compiled, and hooks in it are not heard: give the model as it was before.")
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError(f"The {name} runs a copy of each layer a device: give the model in it (model.module).")


@contextmanager
def in_own_precision() -> Iterator[None]:
    """Inside, no autocast, which would round to half precision, and no inference mode, of which autograd uses nothing.

    Whether gradients are taken stays as it is.
    """
    gradients = torch.is_grad_enabled()  # to leave inference mode switches them on
    with (
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
    ):
        yield


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or as they are where they have more digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def with_gradients(model: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Tensor:
    """The images, so that gradients can be taken behind them; to be called `in_own_precision`.

    Raises ValueError for a model whose weights were made in inference mode, which autograd cannot use.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            f"The weights of the {type(model).__name__} were made in inference mode: load it outside of that."
        )
    return images.clone() if images.is_inference() else images


@contextmanager
def hooked(
    model: nn.Module, layers: Mapping[str, nn.Module], receive: Callable[[str, tuple, object], object]
) -> Iterator[None]:
    """Call `receive(name, inputs, output)` at each layer in each pass of the model; the hooks go whatever happens.

    What `receive` returns takes the place of the layer's output, unless it is None. Raises ValueError for a model in
    which hooks are not heard, for a layer that a pass does not use exactly once, and for one that runs outside of a
    pass: when a part of the model is called, or a checkpoint computes it again.
    """
    check_hookable(model)
    heard: Counter[str] = Counter()
    passing = False

    def begin(_module: nn.Module, _inputs: tuple) -> None:
        nonlocal passing
        heard.clear()
        passing = True

    def count(_module: nn.Module, _inputs: tuple, _output: object) -> None:
        for name in layers:
            if heard[name] != 1:
                raise ValueError(
                    f"The layer {name!r} is used {heard[name]} times a pass of the {type(model).__name__}: take layers "
                    "that are used once."
                )

    def end(_module: nn.Module, _inputs: tuple, _output: object) -> None:
        nonlocal passing
        passing = False

    def hook_for(name: str) -> Callable[[nn.Module, tuple, object], object]:
        def hook(_module: nn.Module, inputs: tuple, output: object) -> object:
            if not passing:
                raise ValueError(
                    f"The layer {name!r} runs outside of a pass of the {type(model).__name__}: call that model as a "
                    "whole, without checkpoints."
                )
            heard[name] += 1
            with in_own_precision():
                return receive(name, inputs, output)

        return hook

    with ExitStack() as stack:
        stack.enter_context(model.register_forward_pre_hook(begin))
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(hook_for(name)))
        # Behind the layers, as the model may be a layer of its own.
        stack.enter_context(model.register_forward_hook(count))
        stack.enter_context(model.register_forward_hook(end, always_call=True))
        yield


@contextmanager
def watching(model: nn.Module, see: Callable[[nn.Module, object], None]) -> Iterator[None]:
    """Call `see(module, output)` whenever a module of the model runs, however often; for a look at what is there."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(module.register_forward_hook(lambda each, _inputs, output: see(each, output)))
        yield


def is_map(output: object) -> bool:
    """Is it [batch, channels, height, width]?"""
    return isinstance(output, Tensor) and output.ndim == 4


def listening(
    model: nn.Module, layers: Mapping[str, nn.Module], receive: Callable[[str, Tensor], object]
) -> AbstractContextManager[None]:
    """Call `receive(name, activation)` at each layer in each pass of the model, as `hooked` does.

    The activation is handed over as it is made, before an in-place ReLU behind it can overwrite it; what `receive`
    returns is not used. Raises ValueError as `hooked` does, and where a layer's output is not [batch, channels, height,
    width].
    """

    def hear(name: str, _inputs: tuple, output: object) -> None:
        if not is_map(output):
            raise ValueError(f"The output of {name} is not made of activation maps; choose convolutional layers.")
        receive(name, output)

    return hooked(model, layers, hear)
