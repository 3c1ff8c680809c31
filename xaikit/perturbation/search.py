"""Meaningful perturbation (Fong & Vedaldi, 2017) as Agarwal's *Intriguing Properties* uses it, for many images at once.

A mask M in [0, 1] keeps an image where it is 1 and blurs it where it is 0. The one that is sought deletes little, is
smooth, and takes the score away:

    min over M of  λ1 ‖1 − M‖₁ + λ2 TV_β(M) + score(M · x + (1 − M) · blur(x)),

by Adam, with M clamped to [0, 1] after each step. The attribution is 1 − M (Agarwal's Eq. 1 is written in it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm import tqdm

from xaikit.arguments import UNIT, Count, NotNegative, Positive, Probability, Seed, Side, public
from xaikit.models.scores import Score, is_one_each, name_saturated, shape_of
from xaikit.storage.seeding import generator

Images = Annotated[Float[Tensor, "images 3 height width"], UNIT]
Masks = Annotated[Float[Tensor, "images side side"], UNIT]

_EPSILON = 1e-8  # of Adam
_STILL = (
    "The score of image {} does not change with the image: give one that is computed from the pixels with gradients, "
    "and images that are not of one colour."
)
PAPER_PIXELS = 224  # the side of the images that the presets' lengths are meant for


@public
@dataclass(frozen=True)
class Recipe:
    """How the mask is sought.

    Adam takes `steps` of the `rate`, and `decays` are those of its two averages. `area` and `variation` are λ1 and λ2,
    of sums over the mask's `side` × `side` cells or, with `mean`, of means. `power` is β. Variation is of each
    direction by itself, Σ|dx|^β + |dy|^β, or with `isotropic` Σ(dx² + dy²)^{β/2}. `blur` is the deviation of the
    Gaussian in pixels, or the side of a `median` filter. Each step sees the image at one of `jitter`² offsets under the
    mask, a pixel apart, and with Gaussian `noise` of that deviation on it. `start` is the first mask: everything kept,
    half of everything, uniformly random, or of several `deletions`, and of those of the image's steepest cells, the one
    of the lowest loss (from a saturated score half a blur may lead nowhere); then a mask that has no lower loss than to
    keep everything is given up for that. `smooth` is the deviation in pixels of a
    Gaussian over the enlarged mask, which with `corners` is enlarged so that its corner cells lie on the image's.
    """

    steps: Count = 300
    rate: Positive = 0.1
    decays: tuple[Probability, Probability] = (0.9, 0.999)
    side: Count = 28
    area: NotNegative = 1e-4
    variation: NotNegative = 1e-2
    power: Positive = 3.0
    mean: bool = False
    isotropic: bool = False
    enlarged: Literal["bilinear", "nearest"] = "bilinear"
    smooth: NotNegative = 0.0
    blur: Positive = 10.0
    median: bool = False
    jitter: Count = 4
    noise: NotNegative = 0.0
    start: Literal["half", "uniform", "ones", "deletions"] = "half"
    corners: bool = False

    def at(self, pixels: Count) -> "Recipe":
        """The recipe for images of that side: lengths in pixels shrink or grow with it, from the 224 they are for."""
        scale = pixels / PAPER_PIXELS
        blur = 2 * round(self.blur * scale / 2 - 0.5) + 1 if self.median else self.blur * scale
        # Offsets a pixel apart span one pixel less than there are of them: so four at 224 are still two at 64.
        return replace(self, blur=max(blur, 3) if self.median else blur, smooth=self.smooth * scale,
                       jitter=1 + round((self.jitter - 1) * scale))  # fmt: skip


# What each source is known to do: the paper's appendix A.1, or public code. Left out are how images were cropped
# before, and the disc with which Fong & Vedaldi may start. "quick" is ours: in 22 steps about the maps that 300 give
# from the same start (benchmarks/perturbation/search.py).
AGARWAL_2023 = Recipe()
PRESETS = {
    "quick": replace(AGARWAL_2023, steps=22, rate=0.15, decays=(0.8, 0.95), start="deletions"),
    "agarwal2023": AGARWAL_2023,
    "fong2017": replace(AGARWAL_2023, enlarged="nearest", smooth=5.0, isotropic=True, start="uniform"),
    "agarwal2020": replace(AGARWAL_2023, enlarged="nearest", start="uniform"),
    "jacobgil": Recipe(
        steps=500, area=0.01, variation=0.2, mean=True, blur=11, median=True, jitter=1, noise=0.2, start="ones",
        corners=True,
    ),
}  # fmt: skip
_REST = 0.02  # what a deletion to start from keeps: at 0 the clamp would hold cells back
_SHARES = (0.25, 0.6)  # of the cells, those that are steepest
_SOFT = 0.05  # of the edge of such a share
_DISCS, _EDGE = (0.45, 0.8), 0.08  # radii and softness, of half the mask's side
EMPTY = 0.05  # a map that is nowhere higher deletes nothing that could be seen


@public
def meaningful_perturbation(
    score: Score,
    images: Images,
    recipe: Recipe = AGARWAL_2023,
    *,
    seed: Seed,
    ids: Sequence[str | int] | None = None,
    batch: Count = 32,
    patience: int | None = None,
    autocast: bool = False,
    start: Masks | None = None,
) -> Masks:
    """The masks M of images in [0, 1]; `attribution` brings 1 − M to the images' size.

    `score(perturbed, which)` gives for each perturbed image the number that is to be taken away, from that image alone
    and differentiably (`class_score`); `which` are their positions in `images`. Only the masks get gradients; freeze
    the model's weights, or it computes theirs in vain. With `autocast` the score's tower runs in bfloat16; all else
    does not, nor do the cosines and heads of `linear_probe`.
    An image's random start and noise depend on `seed` and its id (by default its position), the offsets of each step
    on `seed` alone: so a mask is the same in whatever batch it is found. With `patience`, an image whose loss has not
    become lower for that many steps stops, with the mask that it has. `start` are masks to start from in place of the
    recipe's, such as those found for a similar score. `check_masks` says whether what is found deletes anything.
    An image whose score is saturated, so that its gradient is exactly 0 at the first mask, is named in a logged
    warning, and does not stop the others.
    Raises ValueError for no image, pixels outside [0, 1], images smaller than the mask, ids or starts that do not fit,
    and a score that is NaN, of the wrong shape, or does not change with any image.
    Source: Agarwal, Eq. 1; Fong & Vedaldi (2017), Eq. 4.

    >>> import torch
    >>> from xaikit import class_score, meaningful_perturbation
    >>> from xaikit.perturbation import Recipe
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5)).requires_grad_(False)
    >>> score = class_score(model, torch.tensor([0, 3]), softmax=1.0)
    >>> masks = meaningful_perturbation(score, torch.rand(2, 3, 32, 32), Recipe(steps=5, side=8).at(32), seed=0)
    >>> masks.shape, bool((masks >= 0).all() and (masks <= 1).all())
    (torch.Size([2, 8, 8]), True)
    """
    if not len(images) or not ((images >= 0) & (images <= 1)).all():
        raise ValueError("The images are none, or some pixels are NaN or outside [0, 1]; give images in [0, 1].")
    if min(images.shape[-2:]) < recipe.side:
        raise ValueError(f"The images are smaller than a mask of {recipe.side} cells a side; enlarge them.")
    ids = range(len(images)) if ids is None else ids
    if len(ids) != len(images) or len(set(ids)) != len(images):
        raise ValueError(f"There are {len(set(ids))} different ids for {len(images)} images: give each its own.")
    if start is not None and start.shape != (len(images), recipe.side, recipe.side):
        raise ValueError(f"Starts {tuple(start.shape)} do not fit {len(images)} masks of {recipe.side} cells a side.")
    found = torch.empty(len(images), recipe.side, recipe.side, dtype=images.dtype, device=images.device)
    still: list[str | int] = []
    with tqdm(total=len(images), desc="perturbing", unit="image", leave=False) as progress:
        for rows in torch.arange(len(images)).split(batch):
            search = _Search(score, images, rows, [ids[row] for row in rows.tolist()], recipe, seed, autocast)
            search.begin(None if start is None else start[rows])
            found[rows] = search.run(patience)
            still += search.still
            progress.update(len(rows))
    if len(still) == len(images):
        raise ValueError(_STILL.format(still[0]))
    name_saturated(still, len(images), "its mask follows from its area and smoothness alone")
    return found


@public
def deletions(recipe: Recipe = AGARWAL_2023) -> Float[Tensor, "deletions side side"]:
    """The masks that a search may start from: all of everything, and two discs around the centre.

    Source: Fong & Vedaldi (2017), section 4.4, start from the smallest disc that takes the score away.
    """
    side = recipe.side
    across = torch.linspace(-1, 1, side)
    distance = (across[:, None].square() + across.square()).sqrt()
    discs = [1 - (1 - _REST) * torch.sigmoid((radius - distance) / _EDGE) for radius in _DISCS]
    return torch.stack([torch.full((side, side), _REST), *discs])


@public
@dataclass(frozen=True, eq=False)
class MaskChecks:
    """What each mask does, [images] each.

    `highest` is the largest attribution of its map. `before` is the image's score, `after` that with the mask, and
    `lowest` the lowest that the mask or any of the recipe's `deletions` reaches; `loss` is that of Eq. 1, without
    jitter and noise.
    """

    highest: Float[Tensor, " images"]
    before: Float[Tensor, " images"]
    after: Float[Tensor, " images"]
    lowest: Float[Tensor, " images"]
    loss: Float[Tensor, " images"]

    @property
    def empty(self) -> Bool[Tensor, " images"]:
        """Whether the map is nowhere as high as `EMPTY`: it says that nothing has to go."""
        return self.highest < EMPTY

    @property
    def range(self) -> Float[Tensor, " images"]:
        """How far the score can be lowered at all, as far as it was tried; not below 0."""
        return (self.before - self.lowest).clamp_min(0)

    @property
    def lowered(self) -> Float[Tensor, " images"]:
        """The share of that range by which the mask lowers the score; 0 where nothing lowers it."""
        return torch.where(self.range > 0, (self.before - self.after) / self.range.clamp_min(1e-12), 0.0)


@public
def check_masks(
    score: Score,
    images: Images,
    masks: Masks,
    recipe: Recipe = AGARWAL_2023,
    *,
    batch: Count = 32,
    autocast: bool = False,
) -> MaskChecks:
    """Whether masks of `meaningful_perturbation` delete anything, and take the score away; the arguments are its own.

    On the CPU. Raises ValueError for no image, masks that do not fit, and a score that is NaN or of the wrong shape.

    >>> import torch
    >>> from xaikit.perturbation import Recipe, check_masks
    >>> images, recipe = torch.rand(2, 3, 32, 32), Recipe(side=8).at(32)
    >>> contrast = lambda images, which: images.std((1, 2, 3))
    >>> checks = check_masks(contrast, images, torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]), recipe)
    >>> checks.empty.tolist(), [round(each, 2) for each in checks.lowered.tolist()]
    ([True, False], [0.0, 1.0])
    """
    if not len(images) or masks.shape != (len(images), recipe.side, recipe.side):
        raise ValueError(f"Masks {tuple(masks.shape)} do not fit {len(images)} images: give one each of the recipe's.")
    parts = []
    for rows in torch.arange(len(images)).split(batch):
        of = _Search(score, images, rows, rows.tolist(), recipe, 0, autocast)
        own = masks[rows].to(images)
        with torch.no_grad():
            before = of._scored(images[rows], rows).to(own)
            loss, after = of._unmoved(own)
            tried = [of._unmoved(each.to(own).expand_as(own))[1] for each in deletions(recipe)]
        highest = attribution(own, (images.shape[-2], images.shape[-1]), recipe).amax((1, 2))
        parts.append(torch.stack([highest, before, after, torch.stack([after, *tried]).amin(0), loss]).cpu())
    return MaskChecks(*torch.cat(parts, 1))


@public
def attribution(masks: Masks, size: Side, recipe: Recipe = AGARWAL_2023) -> Float[Tensor, "images height width"]:
    """A = 1 − M at the images' size (height, width), in [0, 1], enlarged as it was while it was sought.

    `masks` and `recipe` are those of `meaningful_perturbation`, which raises ValueError where they do not fit.
    Source: Agarwal, section 2.2, whose Eq. 1 is written in A.

    >>> import torch
    >>> from xaikit import attribution
    >>> masks = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])  # the answer goes where the first cell is hidden
    >>> attribution(masks, (8, 8))[0, ::7, ::7]  # at the corners
    tensor([[1., 0.],
            [0., 0.]])
    """
    return 1 - _enlarge(masks, size, recipe).clamp(0, 1)


@public
def variation(masks: Masks, recipe: Recipe = AGARWAL_2023) -> Float[Tensor, " images"]:
    """TV_β of each mask: a sum, or mean, over pairs of neighbours."""
    down, right = masks.diff(dim=1), masks.diff(dim=2)
    total = torch.mean if recipe.mean else torch.sum
    if recipe.isotropic:
        # As a power of the square: through the root the derivative at 0 would be NaN.
        squares = down[:, :, :-1].square() + right[:, :-1].square()
        return total(squares ** (recipe.power / 2), dim=(1, 2))
    return total(down.abs() ** recipe.power, dim=(1, 2)) + total(right.abs() ** recipe.power, dim=(1, 2))


@public
def blurred(images: Images, recipe: Recipe = AGARWAL_2023) -> Images:
    """What a mask of 0 leaves of the images: a Gaussian blur, cut off at four deviations, or a median filter."""
    if recipe.median:
        side = int(recipe.blur)
        padded = F.pad(images, (side // 2,) * 4, mode="replicate")
        # One image at a time: each window holds side² copies of a pixel. The middle one is the median, which itself has
        # no deterministic form on a GPU.
        windows = (image.unfold(1, side, 1).unfold(2, side, 1).flatten(3) for image in padded)
        return torch.stack([window.kthvalue((side**2 + 1) // 2, 3).values for window in windows])
    return _gaussian(images, recipe.blur).clamp(0, 1)


class _Search:
    """The masks of one batch, from their start to their end; all of them move by the same Adam, cell by cell."""

    def __init__(
        self,
        score: Score,
        images: Images,
        rows: Tensor,
        ids: list[str | int],
        recipe: Recipe,
        seed: int,
        autocast: bool,
    ) -> None:
        self.score, self.recipe, self.seed, self.autocast = score, recipe, seed, autocast
        self.rows, self.ids = rows, ids
        self.still: list[str | int] = []  # the images whose score does not change with the first mask
        sharp = images[rows]
        self.pictures = sharp, blurred(sharp, recipe)
        self.noise = [generator(seed, "noise", id) for id in ids]

    def begin(self, start: Masks | None) -> None:
        """Take the masks to start from, the recipe's or those given."""
        sharp = self.pictures[0]
        if start is not None:
            self.masks = start.to(sharp).clone()
        elif self.recipe.start == "deletions":
            self.masks = self._best_deletion()
        else:
            self.masks = self._start().to(sharp)

    def _best_deletion(self) -> Masks:
        """Of each image the one of the recipe's deletions that has the lowest loss, without jitter and noise."""
        fixed = deletions(self.recipe).to(self.pictures[0])[:, None].expand(-1, len(self.rows), -1, -1)
        tried = torch.cat([fixed, self._steepest()])
        with torch.no_grad():
            losses = torch.stack([self._unmoved(each)[0] for each in tried])
        return tried[losses.argmin(0), torch.arange(len(self.rows), device=tried.device)].clone()

    def _steepest(self) -> Float[Tensor, "shares images side side"]:
        """Deletions of the cells, smoothed, at which the score of the half blurred image falls most with more blur."""
        side, sharp = self.recipe.side, self.pictures[0]
        half = torch.full((len(self.rows), side, side), 0.5).to(sharp).requires_grad_()
        score = self._unmoved(half)[1]
        if not score.requires_grad:
            raise ValueError(_STILL.format(self.ids[0]))
        slope = torch.autograd.grad(score.sum(), half)[0]
        slope = _gaussian(slope[:, None], side / 20).flatten(1)
        place = slope.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(-1, side, side) / side**2
        return torch.stack([1 - (1 - _REST) * torch.sigmoid((share - place) / _SOFT) for share in _SHARES])

    def _unmoved(self, masks: Masks) -> tuple[Float[Tensor, " images"], Float[Tensor, " images"]]:
        """Loss and score of the images under masks, as they stand."""
        sharp, soft = self.pictures
        perturbed = torch.lerp(soft, sharp, _enlarge(masks, sharp.shape[-2:], self.recipe)[:, None]).clamp(0, 1)
        score = self._scored(perturbed, self.rows).to(masks)
        return self._price(masks) + score, score

    def _scored(self, perturbed: Images, rows: Tensor) -> Tensor:
        with torch.autocast(perturbed.device.type, torch.bfloat16, enabled=self.autocast):
            score = self.score(perturbed, rows)
        if not is_one_each(score, len(rows)):
            raise ValueError(f"The score of {len(rows)} images is {shape_of(score)}, or NaN: give one number each.")
        return score

    def _price(self, masks: Masks) -> Float[Tensor, " images"]:
        """What a mask costs before it takes anything away: λ1 ‖1 − M‖₁ + λ2 TV_β(M)."""
        total = torch.mean if self.recipe.mean else torch.sum
        return self.recipe.area * total((1 - masks).abs(), dim=(1, 2)) + self.recipe.variation * variation(
            masks, self.recipe
        )

    def run(self, patience: int | None) -> Masks:
        recipe, sought = self.recipe, torch.arange(len(self.rows))
        final, masks = self.masks.clone(), self.masks
        first, second = torch.zeros_like(masks), torch.zeros_like(masks)
        lowest = torch.full_like(masks[:, 0, 0], torch.inf)
        waited = torch.zeros_like(lowest, dtype=torch.int64)
        offsets = torch.randint(recipe.jitter, (recipe.steps, 2), generator=generator(self.seed, "offsets")).tolist()
        for step, offset in enumerate(offsets, start=1):
            loss, gradient = self._loss(masks, sought, offset, check=step == 1)
            with torch.no_grad():
                first = torch.lerp(gradient, first, recipe.decays[0])
                second = torch.lerp(gradient.square(), second, recipe.decays[1])
                root = (second / (1 - recipe.decays[1] ** step)).sqrt() + _EPSILON
                masks = (masks - recipe.rate * first / (1 - recipe.decays[0] ** step) / root).clamp(0, 1)
            if patience is None:
                continue
            waited = torch.where(loss < lowest, 0, waited + 1)
            lowest = torch.minimum(loss, lowest)
            if (stops := waited >= patience).any():
                final[sought[stops.cpu()]] = masks[stops]
                masks, first, second, lowest, waited = (each[~stops] for each in (masks, first, second, lowest, waited))
                sought = sought[~stops.cpu()]
                if not len(sought):
                    break
        if len(sought):
            final[sought] = masks
        return self._no_worse_than_nothing(final) if recipe.start == "deletions" else final

    def _no_worse_than_nothing(self, masks: Masks) -> Masks:
        """The masks, but that which keeps everything where that has no higher loss: a few steps may not get there."""
        with torch.no_grad():
            worse = self._unmoved(masks)[0] >= self._scored(self.pictures[0], self.rows).to(masks)
        return torch.where(worse[:, None, None], 1.0, masks)

    def _loss(
        self, masks: Masks, sought: Tensor, offset: Sequence[int], *, check: bool
    ) -> tuple[Float[Tensor, " images"], Masks]:
        """Each image's loss, and the gradient of their sum: so no image's step depends on the others."""
        recipe = self.recipe
        masks = masks.requires_grad_()
        sharp, soft = (_moved(pictures[sought], offset, recipe.jitter) for pictures in self.pictures)
        perturbed = torch.lerp(soft, sharp, _enlarge(masks, sharp.shape[-2:], recipe)[:, None])
        # Rounding alone may leave [0, 1]; to cut that off must not cut the gradient off.
        perturbed = perturbed + (perturbed.clamp(0, 1) - perturbed).detach()
        if recipe.noise:
            drawn = torch.stack([torch.randn(sharp.shape[1:], generator=self.noise[row]) for row in sought.tolist()])
            perturbed = (perturbed + recipe.noise * drawn.to(sharp)).clamp(0, 1)
        score = self._scored(perturbed, self.rows[sought]).to(masks)
        if check:
            self._check(score, masks)
        loss = self._price(masks) + score
        (gradient,) = torch.autograd.grad(loss.sum(), masks)
        masks.requires_grad_(False)
        return loss.detach(), gradient

    def _check(self, score: Float[Tensor, " images"], masks: Masks) -> None:
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score.sum(), masks, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(_STILL.format(self.ids[0]))
        still = (gradient == 0).all((1, 2))
        self.still = [id for id, is_still in zip(self.ids, still.tolist(), strict=True) if is_still]

    def _start(self) -> Masks:
        size = (self.recipe.side, self.recipe.side)
        if self.recipe.start == "uniform":
            return torch.stack([torch.rand(size, generator=generator(self.seed, "start", id)) for id in self.ids])
        return torch.full((len(self.ids), *size), 0.5 if self.recipe.start == "half" else 1.0)


def _enlarge(masks: Masks, size: Sequence[int], recipe: Recipe) -> Float[Tensor, "images height width"]:
    options = {"align_corners": recipe.corners} if recipe.enlarged == "bilinear" else {}
    large = F.interpolate(masks[:, None], tuple(size), mode=recipe.enlarged, **options)
    if recipe.smooth:
        large = _gaussian(large, recipe.smooth)
    return large[:, 0]


def _gaussian(
    images: Float[Tensor, "images channels height width"], deviation: float | int
) -> Float[Tensor, "images channels height width"]:
    radius = min(round(4 * deviation), *(side - 1 for side in images.shape[-2:]))
    return gaussian_blur(images, [2 * radius + 1] * 2, [deviation] * 2)


def _moved(images: Images, offset: Sequence[int], jitter: int) -> Images:
    """The images moved by some of `jitter` pixels either way, their edges repeated."""
    before, after = (jitter - 1) // 2, jitter // 2
    if not before + after:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    return padded[:, :, offset[0] : offset[0] + height, offset[1] : offset[1] + width]
