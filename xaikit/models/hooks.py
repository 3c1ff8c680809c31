"""Looking into a model while it runs, and leaving it as it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

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


@contextmanager
def listening(layers: Mapping[str, nn.Module], receive: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call `receive(name, activation)` at each layer of each forward pass; the hooks go whatever happens.

    The activation is handed over as it is made, before an in-place ReLU behind it can overwrite it.
    Raises ValueError where a layer's output is not [batch, channels, height, width].
    """
    handles = []

    def hook_for(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise ValueError(f"The output of {name} is not made of activation maps; choose convolutional layers.")
            receive(name, output)

        return hook

    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook_for(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
