"""Heat maps, made comparable."""

import torch
from jaxtyping import Float
from torch import Tensor

from xaikit.arguments import public


@public
def normalise(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Stretch each map to 0..1 for display; a constant map has nothing to show and becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny), 0.0)
