"""Does an explanation point at the thing? The pointing game (Zhang et al., 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from xaikit.arguments import NotNegative, Probability, Side, public


@public
@dataclass(frozen=True, eq=False)
class Pointing:
    """How much of each image's attribution lies in a region, [images] each, and what chance would give.

    `hit` is the share of the pixels of highest attribution (one, or several equal ones) in the region or within the
    tolerance of it, and `hit_chance` the area of that; `top` the share of the highest pixels that lies in the region,
    `energy` that of the attribution itself, and `area` the region's share of the image, by chance what both are.
    An attribution is `flat` where all of its pixels are equal: it points nowhere.
    """

    hit: Float[np.ndarray, " images"]
    hit_chance: Float[np.ndarray, " images"]
    top: Float[np.ndarray, " images"]
    energy: Float[np.ndarray, " images"]
    area: Float[np.ndarray, " images"]
    flat: Bool[np.ndarray, " images"]

    @property
    def hits(self) -> Bool[np.ndarray, " images"]:
        """Whether a pixel of highest attribution lies in the region or within the tolerance; of flat ones none does."""
        return (self.hit > 0) & ~self.flat

    @property
    def lift(self) -> Float[np.ndarray, " images"]:
        """How many times more of the attribution lies in the region than chance would put there."""
        return self.energy / self.area


@public
def pointing_game(
    attributions: Float[Tensor, "images height width"],
    regions: Bool[Tensor, "regions rows columns"],
    *,
    tolerance: NotNegative = 0.0,
    fraction: Probability = 0.05,
) -> Pointing:
    """Does an attribution point at a region, such as a face?

    Arguments: `tolerance` in pixels, the radius of the discs around the region's pixels in which a hit counts too (15
    at 224 pixels in the original); `fraction` of an image's pixels are its top, equal ones taken in parts. Attributions
    are not negative. One that is the same everywhere gets what chance gives, and `hits` nothing.
    Raises ValueError for no image, shapes that do not fit, NaN, negative attributions, and a region without pixels.
    Source: Zhang et al. (2018), section 4.1, the hit; Agarwal's fairness accuracy is the share that it `hits`.

    >>> import torch
    >>> from xaikit import pointing_game
    >>> attributions, faces = torch.tensor([[[0.1, 0.2], [0.0, 0.7]]]), torch.tensor([[[False, False], [False, True]]])
    >>> found = pointing_game(attributions, faces)
    >>> found.hit.item(), found.hit_chance.item(), round(found.energy.item(), 2)
    (1.0, 0.25, 0.7)
    """
    if not len(attributions) or attributions.shape != regions.shape:
        raise ValueError(
            f"Regions {tuple(regions.shape)} do not fit attributions {tuple(attributions.shape)}: give equal ones."
        )
    if not (attributions >= 0).all() or attributions.isinf().any():
        raise ValueError("Attributions hold NaN, infinity or negative numbers: clamp them, or mend their source.")
    if not (filled := regions.flatten(1).any(1)).all():
        raise ValueError(f"The region of image {int((~filled).nonzero()[0])} has no pixels: leave the image out.")
    heat, inside = attributions.double().flatten(1), regions.double().flatten(1)
    near = _dilated(regions, tolerance).double().flatten(1)
    highest = (heat == heat.amax(1, keepdim=True)).double()
    area, count = inside.mean(1), max(1, round(fraction * heat.shape[1]))
    total = heat.sum(1)
    energy = torch.where(total > 0, (heat * inside).sum(1) / total.clamp_min(1e-300), area)
    least = heat.topk(count).values[:, -1:]
    above, level = (heat > least).double(), (heat == least).double()
    share = (count - above.sum(1)) / level.sum(1)  # of those at the level of the last one, so many are among the top
    top = ((above * inside).sum(1) + share * (level * inside).sum(1)) / count
    flat = heat.amin(1) == heat.amax(1)
    found = ((highest * near).sum(1) / highest.sum(1), near.mean(1), top, energy, area, flat)
    return Pointing(*(each.cpu().numpy() for each in found))


def _dilated(regions: Bool[Tensor, "images height width"], radius: float) -> Bool[Tensor, "images height width"]:
    reach = int(radius)
    if not reach:
        return regions
    steps = torch.arange(-reach, reach + 1, device=regions.device)
    disc = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    return F.conv2d(regions.float()[:, None], disc[None, None], padding=reach)[:, 0] > 0.5


@public
def box_masks(
    boxes: Sequence[tuple[float | int, float | int, float | int, float | int]], size: Side
) -> Bool[Tensor, "boxes height width"]:
    """The pixels of each box (x0, y0, x1, y1), in pixels of images of `size` (height, width).

    A pixel belongs to a box that holds its centre. What lies outside of the image is cut off; raises ValueError for a
    box of which nothing is left, or whose ends are in the wrong order.
    """
    height, width = size
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask |= ((down >= y0) & (down < y1))[:, None] & ((across >= x0) & (across < x1))
        if not mask.any():
            raise ValueError(
                f"The box {(x0, y0, x1, y1)} holds no pixel of an image of {width} x {height}: is it (x0, y0, x1, y1)?"
            )
    return masks
