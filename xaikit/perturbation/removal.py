"""Deletion and insertion: how a model's score changes as pixels go, or come, in an attribution's order."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm import tqdm

from xaikit.arguments import UNIT, Count, Positive, Probability, Seed, Side, public
from xaikit.models.scores import Score, shape_of
from xaikit.storage.seeding import generator


@public
@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """The score of each image as more and more of its pixels are taken out, or put in.

    `scores` belong to the shares `fractions` [points] of pixels, from 0 to 1: one curve an image, or several `kinds`.
    """

    scores: Float[Tensor, "images points *kinds"]
    fractions: Float[Tensor, " points"]

    def areas(self, normalise: Literal["none", "initial", "max", "minmax"] = "none") -> Float[Tensor, "images *kinds"]:
        """The area under each curve, by trapezoids, in float64.

        Before, scores are divided by the first one ("initial") or the highest one ("max") of their curve, or stretched
        from its lowest and highest to 0 and 1 ("minmax"). Raises ValueError where that divides by zero, or, for
        "initial" and "max", by a negative number.
        Source: Petsiuk et al. (2018), section 3.3, for "none"; Agarwal & Nguyen's code (2020) for "max".
        """
        scores = self.scores.double()
        high, low = scores.amax(1, keepdim=True), scores.amin(1, keepdim=True)
        zero, one = torch.zeros_like(low), torch.ones_like(low)
        scales = {
            "none": (zero, one),
            "initial": (zero, scores[:, :1]),
            "max": (zero, high),
            "minmax": (low, high - low),
        }
        if normalise not in scales:
            raise ValueError(f"Unknown normalisation {normalise!r}: choose one of {', '.join(scales)}.")
        shift, scale = scales[normalise]
        if not (scale > 0).all():
            bad = int((scale <= 0).nonzero()[0, 0])
            raise ValueError(
                f"The curve of image {bad} cannot be normalised by {normalise!r}: it is constant or below 0."
            )
        heights = ((scores - shift) / scale).movedim(1, -1)
        return torch.trapezoid(heights, self.fractions.double(), dim=-1)


@public
def removal_curves(
    score: Score,
    images: Annotated[Float[Tensor, "images 3 height width"], UNIT],
    attributions: Float[Tensor, "maps rows columns"],
    substitutes: Annotated[Float[Tensor, "#images 3 height width"], UNIT],
    *,
    step: Count,
    insertion: bool = False,
    seed: Seed | None = None,
    batch: Count = 256,
) -> RemovalCurves:
    """Deletion: the `step` pixels of highest attribution are replaced first, then the next `step`, until all are.

    Arguments: `score` as for `meaningful_perturbation`, here without gradients; it may also give several numbers an
    image, [batch, kinds], for a curve each. `substitutes` (`substitute`) is what pixels are replaced by. With
    `insertion`, one starts from the substitute and puts pixels back, the highest first. Pixels of equal attribution go
    in the order of rows, or, with `seed`, in a random order (`removal_order`). Images × steps go through the score
    `batch` at a time.
    Raises ValueError for no image, shapes that do not fit, NaN, a step below 1, and a score of the wrong shape.
    Source: Petsiuk et al. (2018), section 3.3, where the score is the probability of the first answer.

    >>> import torch
    >>> from xaikit import removal_curves, substitute
    >>> images, brightness = torch.rand(2, 3, 8, 8), lambda images, which: images.mean((1, 2, 3))
    >>> curves = removal_curves(brightness, images, images.mean(1), substitute(images, "black"), step=16)
    >>> curves.scores.shape, curves.fractions.tolist()
    (torch.Size([2, 5]), [0.0, 0.25, 0.5, 0.75, 1.0])
    >>> bool((curves.areas("max") < 0.5).all())  # brightest first: faster than the straight line of chance
    True
    """
    if not len(images) or attributions.shape != (len(images), *images.shape[-2:]):
        raise ValueError(
            f"Attributions {tuple(attributions.shape)} do not fit images {tuple(images.shape)}: give one an image."
        )
    if step < 1:
        raise ValueError(f"A step of {step} pixels never ends: take at least 1.")
    ranks = removal_order(attributions, seed).flatten(1).argsort(1).view_as(attributions)[:, None]
    total = ranks[0].numel()
    counts = torch.tensor([*range(0, total, step), total], device=images.device)
    image, point = torch.meshgrid(torch.arange(len(images)), torch.arange(len(counts)), indexing="ij")
    found = []
    with torch.inference_mode():
        pairs = zip(image.flatten().split(batch), point.flatten().split(batch), strict=True)
        for rows, points in tqdm(pairs, total=-(-image.numel() // batch), desc="removing pixels", leave=False):
            first = ranks[rows] < counts[points.to(counts.device), None, None, None]
            other = substitutes[rows] if len(substitutes) > 1 else substitutes
            kept = images[rows]
            values = score(torch.where(first == insertion, kept, other.expand_as(kept)), rows)
            if not isinstance(values, Tensor):
                raise ValueError(f"The score of {len(rows)} images is {shape_of(values)}: give one number each.")
            if values.ndim not in (1, 2) or len(values) != len(rows) or not values.isfinite().all():
                raise ValueError(
                    f"The score of {len(rows)} images is {tuple(values.shape)}, or NaN: give one number each, or a row."
                )
            found.append(values.float())
    scores = torch.cat(found).unflatten(0, (len(images), -1)).cpu()
    return RemovalCurves(scores, (counts / total).float().cpu())


@public
def removal_order(
    attributions: Float[Tensor, "images height width"], seed: Seed | None = None
) -> Int[Tensor, "images pixels"]:
    """The pixels of each image, by position in its rows, from the highest attribution to the lowest.

    Equal ones stay in their order or, with `seed`, are shuffled: a mask with large areas at 0 or 1 has no order there,
    and how much a measure depends on the one that was taken can be seen from several seeds. Raises ValueError on NaN.
    """
    if not attributions.isfinite().all():
        raise ValueError("An attribution holds NaN or infinity: look for them where it was made.")
    flat = attributions.flatten(1)
    if seed is None:
        return flat.argsort(dim=1, descending=True, stable=True)
    shuffled = torch.rand(flat.shape, generator=generator(seed, "ties")).argsort(1).to(flat.device)
    return shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))


@public
def substitute(
    images: Annotated[Float[Tensor, "images 3 height width"], UNIT],
    kind: Literal["mean", "black", "blur"],
    *,
    mean: tuple[Probability, Probability, Probability] | None = None,
    blur: Positive = 5.0,
) -> Float[Tensor, "images 3 height width"]:
    """What pixels are replaced by: a `mean` colour (0 for the model, after its normalisation), black, or a blur.

    `blur` is the deviation of the Gaussian in pixels. Raises ValueError for another kind, and a mean that is not given.
    Source: Petsiuk et al. (2018) delete to the mean and insert into the blur; Agarwal's "zero out" is mean or black.

    >>> import torch
    >>> from xaikit import substitute
    >>> substitute(torch.rand(1, 3, 8, 8), "mean", mean=(0.5, 0.4, 0.3))[0, :, 0, 0]
    tensor([0.5000, 0.4000, 0.3000])
    """
    if kind == "black":
        return torch.zeros_like(images)
    if kind == "blur":
        return gaussian_blur(images, [2 * round(2 * blur) + 1] * 2, [blur] * 2).clamp(0, 1)
    if kind != "mean" or mean is None:
        raise ValueError(
            f"Cannot replace pixels by {kind!r}: take black, blur, or mean with the colour to take as mean."
        )
    return torch.tensor(mean).to(images)[:, None, None].expand_as(images)


@public
def random_attribution(images: Count, size: Side, seed: Seed) -> Float[Tensor, "images height width"]:
    """The baseline that knows nothing: pixels in random order."""
    return torch.rand(images, *size, generator=generator(seed, "random attribution"))


@public
def centre_attribution(images: Count, size: Side) -> Float[Tensor, "images height width"]:
    """The baseline that knows where photographers aim: 1 at the centre, falling with the distance from it."""
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    return torch.exp(-2 * (rows[:, None] ** 2 + columns**2)).expand(images, -1, -1)
