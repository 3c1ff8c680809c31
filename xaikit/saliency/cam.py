"""Where a classifier looks: CAM, Grad-CAM, integrated gradients and RISE."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.models.hooks import evaluating
from xaikit.models.scores import Score
from xaikit.storage.seeding import generator


def cam(
    features: Float[Tensor, "batch channels height width"], class_weights: Float[Tensor, "batch channels"]
) -> Float[Tensor, "batch height width"]:
    """Class activation map: sum_k w_k f_k, signed, at the resolution of the features.

    `class_weights` holds, for each image, the row of the linear head (after average pooling) of its class.
    Source: Zhou et al. (2016), Eq. 2.
    """
    return torch.einsum("bkhw,bk->bhw", features, class_weights)


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    target: Int[Tensor, "batch"] | None = None,
    *,
    upsample: bool = True,
) -> Float[Tensor, "batch map_height map_width"]:
    """Grad-CAM of each image: ReLU(sum_k alpha_k A_k), where alpha_k is the spatial mean of dy/dA_k.

    Arguments: `model` gives logits [batch, classes]; `layer` is a module inside it, used once, with an output
    A [batch, channels, h, w]; `target` holds the class whose logit is y, by default the highest one.
    Result: maps >= 0, not normalised, bilinearly resized to the images unless `upsample` is false. The model
    runs in eval mode and is left as it was: training flags, gradients, hooks.
    Raises ValueError if there is no image, images or maps hold NaN, a target is no class, or the layer is not
    in the model, not used exactly once, not 4-D in its output, or not on the way to the logits.
    Source: Selvaraju et al. (2017), Eq. 1 and 2.
    """
    name = type(layer).__name__
    if not any(module is layer for module in model.modules()):
        raise ValueError(f"The {name} is no layer of this model: pick one from model.modules().")
    if not len(images) or not images.isfinite().all():
        raise ValueError("The images are none, or hold NaN or infinity: leave such images out.")
    outputs: list[Tensor] = []

    def start_graph_here(module: nn.Module, inputs: tuple, output: object) -> Tensor:
        # Cutting the graph lets frozen parameters do no harm; the clone may be changed in place further on.
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise ValueError(f"The output of the {name} is not 4-D: pick a convolution or a stage.")
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    with evaluating(model), layer.register_forward_hook(start_graph_here), torch.enable_grad():
        logits = model(images)
        if len(outputs) != 1:
            raise ValueError(f"The {name} is used {len(outputs)} times an image: pick one that is used once.")
        target = logits.argmax(1) if target is None else target.to(logits.device)
        if target.min() < 0 or target.max() >= logits.shape[1]:
            raise ValueError(f"A target is not among the model's classes 0 to {logits.shape[1] - 1}.")
        y = logits.gather(1, target.long()[:, None]).sum()  # no image's logit depends on another image
        gradient = torch.autograd.grad(y, outputs, allow_unused=True)[0] if y.requires_grad else None
    if gradient is None:
        raise ValueError(f"The output of the {name} does not reach the logits: pick a layer on the way.")
    alpha = gradient.mean((2, 3))  # Eq. 1
    maps = cam(outputs[0].detach(), alpha).relu()  # Eq. 2
    if not maps.isfinite().all():
        raise ValueError("The Grad-CAM maps hold NaN or infinity: look for them in the model's weights.")
    if not upsample:
        return maps
    return F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def integrated_gradients(
    score: Score,
    images: Float[Tensor, "images 3 height width"],
    baselines: Float[Tensor, "#images 3 height width"],
    *,
    steps: int = 50,
    batch: int = 64,
) -> Float[Tensor, "images height width"]:
    """(x − x') ∫₀¹ ∂score/∂x (x' + α(x − x')) dα for each pixel, summed over its colours: signed.

    The integral is taken at `steps` points by Gauss and Legendre's rule. The map of an image sums to the difference of
    its score from that of its baseline, but for the error of the integral. `score` as for `meaningful_perturbation`.
    Raises ValueError for no image or step, and for a score without gradients with respect to the image.
    Source: Sundararajan et al. (2017), Eq. 1.
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
        if not value.requires_grad:
            raise ValueError("The score has no gradient: compute it from the images with torch, and not under no_grad.")
        (gradient,) = torch.autograd.grad(value.sum(), path)
        total.index_add_(0, rows.to(total.device), gradient * weights[at][:, None, None, None])
    return ((images - baselines) * total).sum(1)


def rise(
    score: Score,
    images: Float[Tensor, "images 3 height width"],
    substitutes: Float[Tensor, "#images 3 height width"],
    *,
    seed: int,
    masks: int = 4_000,
    cells: int = 7,
    keep: float = 0.5,
    batch: int = 256,
) -> Float[Tensor, "images height width"]:
    """The mean of random masks, each weighted by the score of the image seen through it, over `keep`.

    Each mask is a grid of `cells` × `cells`, each kept with probability `keep`, enlarged bilinearly and moved by less
    than a cell; what it hides shows `substitutes`. The masks are the same for all images. `score` as for
    `meaningful_perturbation`, without gradients. Raises ValueError for no image or mask, or a `keep` outside (0, 1].
    Source: Petsiuk et al. (2018), Eq. 6 and section 3.2.
    """
    if not len(images) or masks < 1 or not 0 < keep <= 1:
        raise ValueError(f"{len(images)} images, {masks} masks, keep = {keep}: give one or more, and keep in (0, 1].")
    size, draw = images.shape[-2:], generator(seed, "rise")
    total = torch.zeros(len(images), *size, dtype=torch.float64, device=images.device)
    for start in tqdm(range(0, masks, batch), desc="masking", leave=False):
        drawn = random_masks(min(batch, masks - start), size, cells, keep, draw).to(images)
        with torch.inference_mode():
            for row, image in enumerate(images):
                other = substitutes[row if len(substitutes) > 1 else 0]
                seen = torch.lerp(other, image, drawn[:, None])
                values = score(seen, torch.full((len(seen),), row))
                total[row] += torch.einsum("m,mhw->hw", values.double(), drawn.double())
    return (total / (masks * keep)).to(images)


def random_masks(
    count: int, size: Sequence[int], cells: int, keep: float, draw: torch.Generator
) -> Float[Tensor, "count height width"]:
    """Coarse random masks in [0, 1], enlarged to one cell more than `size` and cut out at a random place."""
    step = [-(-side // cells) for side in size]
    grid = (torch.rand(count, 1, cells, cells, generator=draw) < keep).float()
    large = F.interpolate(grid, [(cells + 1) * each for each in step], mode="bilinear", align_corners=False)[:, 0]
    top, left = (torch.randint(each, (count,), generator=draw) for each in step)
    rows, columns = top[:, None] + torch.arange(size[0]), left[:, None] + torch.arange(size[1])
    return large[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].clamp(0, 1)


def normalise(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Stretch each map to 0..1 for display; a constant map has nothing to show and becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny), 0.0)
