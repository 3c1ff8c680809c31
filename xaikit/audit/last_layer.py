"""What the last linear layer of a classifier is given: the features that its answers are read from."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xaikit.audit.questions import Seen
from xaikit.models.hooks import hooked

TOGETHER = 64  # pictures of a pass


def last_layer(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, where there is one; whether it gives the answers, `inputs_of` sees."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None


def in_parts(seen: Seen) -> Iterator[Float[Tensor, "_ 3 height width"]]:
    """All pictures in [0, 1], some at a time."""
    for start in range(0, len(seen), TOGETHER):
        yield seen.images(slice(start, start + TOGETHER))


def reading(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer is given, and the model's logits. Raises ValueError for a layer that is not used exactly once."""
    held: list[Tensor] = []

    def see(_name: str, inputs: tuple, _output: object) -> None:
        held.append(inputs[0].detach())

    with hooked(model, {"its last linear layer": layer}, see):
        logits = model(images)
    return held[0], logits


def inputs_of(
    model: nn.Module, last: nn.Linear, parts: Iterable[Float[Tensor, "_ 3 height width"]], device: str
) -> Float[Tensor, "pictures features"] | None:
    """What the last layer is given, on the CPU, where what it gives are the logits; else None."""
    found = []
    with torch.no_grad():
        for part in parts:
            try:
                inputs, logits = reading(model, last, part.to(device))
            except ValueError:
                return None
            given = last(inputs)
            if inputs.ndim != 2 or given.shape != logits.shape or not torch.allclose(given, logits, atol=1e-4):
                return None
            found.append(inputs.float().cpu())
    return torch.cat(found)
