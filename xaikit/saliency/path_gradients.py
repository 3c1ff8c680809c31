"""Integrated gradients: what each pixel adds on the way from a baseline to the image (Sundararajan et al., 2017)."""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from xaikit.arguments import UNIT, Count, public
from xaikit.models.scores import Score, name_saturated, shape_of


@public
def integrated_gradients(
    score: Score,
    images: Annotated[Float[Tensor, "images 3 height width"], UNIT],
    baselines: Annotated[Float[Tensor, "#images 3 height width"], UNIT],
    *,
    steps: Count = 50,
    batch: Count = 64,
) -> Float[Tensor, "images height width"]:
    """(x − x') ∫₀¹ ∂score/∂x (x' + α(x − x')) dα for each pixel, summed over its colours: signed.

    The integral is taken at `steps` points by Gauss and Legendre's rule. The map of an image sums to the difference of
    its score from that of its baseline, but for the error of the integral. `score` as for `meaningful_perturbation`.
    Raises ValueError for no image or step, and for a score without gradients with respect to the image,
    that is NaN or infinite, or of the wrong shape.
    Source: Sundararajan et al. (2017), Eq. 1.

    >>> import torch
    >>> from xaikit import class_score, integrated_gradients
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> score = class_score(model, torch.tensor([0, 3]))
    >>> images, black, which = torch.rand(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.arange(2)
    >>> maps = integrated_gradients(score, images, black)
    >>> torch.allclose(maps.sum((1, 2)), score(images, which) - score(black, which), atol=1e-4)
    True
    """
    if not len(images) or steps < 1:
        raise ValueError(f"There are {len(images)} images and {steps} steps: give at least one of each.")
    points, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(steps))
    points, weights = ((points + 1) / 2).to(images), (weights / 2).to(images)
    total = torch.zeros_like(images)
    pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(steps))
    for rows, at in tqdm([part.T for part in pairs.split(batch)], desc="integrating", leave=False):
        start = baselines[rows] if len(baselines) > 1 else baselines.expand(len(rows), -1, -1, -1)
        path = torch.lerp(start, images[rows], points[at][:, None, None, None]).requires_grad_()
        with torch.enable_grad():
            value = score(path, rows)
        if not isinstance(value, Tensor):
            raise ValueError(f"The score of {len(rows)} images is {shape_of(value)}: give one number each.")
        if not value.requires_grad:
            raise ValueError("The score has no gradient: compute it from the images with torch, and not under no_grad.")
        (gradient,) = torch.autograd.grad(value.sum(), path)
        right = value.isfinite() & gradient.isfinite().flatten(1).all(1) if value.shape == rows.shape else None
        if right is None or not right.all():
            bad = rows[0 if right is None else int((~right).nonzero()[0])]
            raise ValueError(
                f"The score of {len(rows)} images is {tuple(value.shape)}, or it or its gradient is NaN or infinite "
                f"for image {int(bad)}: give one number each."
            )
        total.index_add_(0, rows.to(total.device), gradient * weights[at][:, None, None, None])
    flat = (total == 0).flatten(1).all(1).nonzero()[:, 0].tolist()
    name_saturated(flat, len(images), "its map is 0")
    return ((images - baselines) * total).sum(1)
