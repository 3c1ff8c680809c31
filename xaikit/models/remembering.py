"""A network that does not run again for images that it has just seen."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xaikit.models.hooks import listening

MEMORY = 300 * 2**20  # bytes a network: all maps of ResNet-50's convolutions for twice 200 images of 28 pixels


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a network gave for some images: its output, and where somebody listened the maps of its layers."""

    images: Tensor
    output: Tensor
    maps: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.images, self.output, *self.maps.values()))

    def answers(self, images: Tensor, listened: bool) -> bool:
        own = self.images
        alike = (own.shape, own.dtype, own.device) == (images.shape, images.dtype, images.device)
        return alike and bool(self.maps or not listened) and torch.equal(own, images)


class Remembering(nn.Module):
    """`network`, which for images of its latest calls gives what it gave, output and maps, and does not run again.

    Listen to `layers`: they stand for those that were named, and are heard whether the network runs or not. Kept is
    what fits into `MEMORY`, and always the last batch; what was not asked for longest goes first. In training mode and
    with gradients the network runs, and all is forgotten, as its weights may be about to change. It also runs where
    hooks hang on its own layers, which may write as well as listen.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network, self._named, self._seen = network, dict(layers), []
        self._heard = nn.ModuleList(nn.Identity() for _ in layers)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """What stands for the named layers; its maps are not to be written to."""
        return dict(zip(self._named, self._heard, strict=True))

    def forward(self, images: Float[Tensor, "batch ..."]) -> Tensor:
        learns = self.training or torch.is_grad_enabled()
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.network.modules())
        if learns:
            self._seen.clear()
        if learns or hooked:
            return self._run(images, {})
        seen = next((each for each in self._seen if each.answers(images, self._listened)), None)
        if seen is None:
            maps: dict[str, Tensor] = {}
            seen = _Seen(images.clone(), self._run(images, maps), maps)
        else:
            self._seen.remove(seen)
            for name, layer in self.layers.items() if self._listened else ():
                layer(seen.maps[name])
        self._seen.append(seen)
        while len(self._seen) > 1 and sum(each.bytes for each in self._seen) > MEMORY:
            self._seen.pop(0)
        return seen.output.clone()

    @property
    def _listened(self) -> bool:
        return any(layer._forward_hooks for layer in self._heard)

    def _run(self, images: Tensor, keep: dict[str, Tensor]) -> Tensor:
        layers = self.layers

        def hear(name: str, maps: Tensor) -> None:
            keep[name] = maps.clone()  # what follows may write over them in place
            layers[name](maps)

        with listening(self._named if self._listened else {}, hear):
            return self.network(images)
