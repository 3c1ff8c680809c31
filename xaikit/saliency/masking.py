"""RISE: the mean of random masks, weighted by what the model says behind each (Petsiuk et al., 2018)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from xaikit.arguments import UNIT, Count, PositiveShare, Seed, Side, public
from xaikit.models.scores import Score, is_one_each, name_saturated, shape_of
from xaikit.storage.seeding import generator


@public
def rise(
    score: Score,
    images: Annotated[Float[Tensor, "images 3 height width"], UNIT],
    substitutes: Annotated[Float[Tensor, "#images 3 height width"], UNIT],
    *,
    seed: Seed,
    masks: Count = 4_000,
    cells: Count = 7,
    keep: PositiveShare = 0.5,
    batch: Count = 256,
) -> Float[Tensor, "images height width"]:
    """The mean of random masks, each weighted by the score of the image seen through it, over `keep`.

    Each mask is a grid of `cells` × `cells`, each kept with probability `keep`, enlarged bilinearly and moved by less
    than a cell; what it hides shows `substitutes`. The masks are the same for all images. `score` as for
    `meaningful_perturbation`, without gradients. Raises ValueError for no image or mask, a `keep` outside (0, 1], and a
    score that is NaN, infinite or of the wrong shape.
    Source: Petsiuk et al. (2018), Eq. 6 and section 3.2.

    >>> import torch
    >>> from xaikit import rise
    >>> corner = lambda images, which: images[:, :, :8, :8].mean((1, 2, 3))  # looks at the upper left quarter alone
    >>> maps = rise(corner, torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), seed=0, masks=100)
    >>> maps.shape, bool(maps[:, :8, :8].mean() > maps[:, 8:, 8:].mean())
    (torch.Size([1, 16, 16]), True)
    """
    if not len(images) or masks < 1 or not 0 < keep <= 1:
        raise ValueError(f"{len(images)} images, {masks} masks, keep = {keep}: give one or more, and keep in (0, 1].")
    size, draw = images.shape[-2:], generator(seed, "rise")
    total = torch.zeros(len(images), *size, dtype=torch.float64, device=images.device)
    lowest, highest = ([end] * len(images) for end in (math.inf, -math.inf))
    for start in tqdm(range(0, masks, batch), desc="masking", leave=False):
        drawn = random_masks(min(batch, masks - start), size, cells, keep, draw).to(images)
        with torch.inference_mode():
            for row, image in enumerate(images):
                other = substitutes[row if len(substitutes) > 1 else 0]
                seen = torch.lerp(other, image, drawn[:, None])
                values = score(seen, torch.full((len(seen),), row))
                if not is_one_each(values, len(seen)):
                    raise ValueError(
                        f"The score of image {row} behind {len(seen)} masks is {shape_of(values)}, or holds NaN or "
                        "infinity: give one number each."
                    )
                lowest[row] = min(lowest[row], float(values.min()))
                highest[row] = max(highest[row], float(values.max()))
                total[row] += torch.einsum("m,mhw->hw", values.double(), drawn.double())
    flat = [row for row in range(len(images)) if lowest[row] == highest[row]] if masks > 1 else []
    name_saturated(flat, len(images), "its map is that of the masks alone")
    return (total / (masks * keep)).to(images)


@public
def random_masks(
    count: Count, size: Side, cells: Count, keep: PositiveShare, draw: torch.Generator
) -> Float[Tensor, "count height width"]:
    """Coarse random masks in [0, 1], enlarged to one cell more than `size` and cut out at a random place."""
    step = [-(-side // cells) for side in size]
    grid = (torch.rand(count, 1, cells, cells, generator=draw) < keep).float()
    large = F.interpolate(grid, [(cells + 1) * each for each in step], mode="bilinear", align_corners=False)[:, 0]
    top, left = (torch.randint(each, (count,), generator=draw) for each in step)
    rows, columns = top[:, None] + torch.arange(size[0]), left[:, None] + torch.arange(size[1])
    return large[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].clamp(0, 1)
