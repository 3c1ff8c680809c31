"""A network that does not run again for images that it has just seen."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xaikit.models.hooks import listening

MEMORY = 2 * 2**30  # bytes, of all networks: the maps of ResNet-50's convolutions for 15 times 200 images of 28 pixels


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a network gave for some images: its output, and where somebody listened the maps of its layers."""

    network: weakref.ref["Remembering"]
    images: Tensor
    output: Tensor
    maps: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.images, self.output, *self.maps.values()))

    def answers(self, network: "Remembering", images: Tensor) -> bool:
        own = self.images
        alike = (own.shape, own.dtype, own.device) == (images.shape, images.dtype, images.device)
        known = self.network() is network and (self.maps or not network.listened)
        return bool(known and alike and torch.equal(own, images))


_kept: list[_Seen] = []  # what was asked for last stands last


class Remembering(nn.Module):
    """`network`, which for images of its latest calls gives what it gave, output and maps, and does not run again.

    Listen to `layers`: they stand for those that were named, and are heard whether the network runs or not. All such
    networks together keep what fits into `MEMORY`, and always the last batch; what was not asked for longest goes
    first. In training mode and with gradients the network runs, and its share is forgotten, as its weights may be about
    to change (they must not otherwise). It also runs where hooks hang on its own layers, which may write, not listen.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network, self._named = network, dict(layers)
        self._heard = nn.ModuleList(nn.Identity() for _ in layers)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """What stands for the named layers; its maps are not to be written to."""
        return dict(zip(self._named, self._heard, strict=True))

    @property
    def listened(self) -> bool:
        """Whether somebody listens to one of the `layers`."""
        return any(layer._forward_hooks for layer in self._heard)

    def forward(self, images: Float[Tensor, "batch ..."]) -> Tensor:
        """What the network gives for `images`, run now or remembered."""
        learns = self.training or torch.is_grad_enabled()
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.network.modules())
        gone = (None, self) if learns else (None,)
        _kept[:] = [seen for seen in _kept if seen.network() not in gone]
        if learns or hooked:
            return self._run(images, {})
        seen = next((each for each in _kept if each.answers(self, images)), None)
        if seen is None:
            maps: dict[str, Tensor] = {}
            seen = _Seen(weakref.ref(self), images.clone(), self._run(images, maps), maps)
        else:
            _kept.remove(seen)
            for name, layer in self.layers.items() if self.listened else ():
                layer(seen.maps[name])
        _kept.append(seen)
        while len(_kept) > 1 and sum(each.bytes for each in _kept) > MEMORY:
            _kept.pop(0)
        return seen.output.clone()

    def _run(self, images: Tensor, keep: dict[str, Tensor]) -> Tensor:
        layers = self.layers

        def hear(name: str, maps: Tensor) -> None:
            keep[name] = maps.clone()  # what follows may write over them in place
            layers[name](maps)

        with listening(self.network, self._named if self.listened else {}, hear):
            return self.network(images)
