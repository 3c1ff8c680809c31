"""What the last linear layer of a classifier is given: the features that its answers are read from."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xaikit.audit.batches import in_batches
from xaikit.models.hooks import hooked


def last_layer(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, where there is one; whether it gives the answers, `inputs_of` sees."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None


def reading(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer is given, and the model's logits. Raises ValueError for a layer that is not used exactly once."""
    held: list[Tensor] = []

    def see(_name: str, inputs: tuple, _output: object) -> None:
        held.append(inputs[0].detach())

    with hooked(model, {"its last linear layer": layer}, see):
        logits = model(images)
    return held[0], logits


def inputs_of(
    model: nn.Module,
    last: nn.Linear,
    images: Callable[[Int64[Tensor, " rows"]], Float[Tensor, "rows 3 height width"]],
    count: int,
    sides: tuple[int, int],
    device: str,
) -> Float[Tensor, "pictures features"] | None:
    """What the last layer is given, on the CPU, where what it gives are the logits; else None.

    `images(rows)` are the pictures, `count` in all, of height and width `sides`.
    """

    def given(rows: Tensor) -> Tensor | None:
        try:
            inputs, logits = reading(model, last, images(rows).to(device))
        except ValueError:
            return None
        own = last(inputs)
        alike = inputs.ndim == 2 and own.shape == logits.shape and torch.allclose(own, logits, atol=1e-4)
        return inputs.float().cpu() if alike else None

    with torch.no_grad():
        parts = in_batches(given, count, model, sides, device)
    return None if any(part is None for part in parts) else torch.cat(parts)
