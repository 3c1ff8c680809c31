"""Away from a shortcut: mask what a classifier should not look at, fine-tune it on the rest, and count by groups.

In the order of TExplain's section 4.4: choose the training images whose explanation names something else than their
class, black out what their maps point at, fine-tune on the masked images alone. MaskTune masks all images, RandMask
random squares; resampling and last-layer retraining know the groups, which the others do not.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64, Shaped
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import trange

from xaikit.arguments import Count, Device, Numbers, Positive, Seed, Side, public
from xaikit.metrics.groups import group_accuracy
from xaikit.storage.arithmetic import check_precision, training_precision
from xaikit.storage.seeding import generator, seed_for

# --- what is masked ---------------------------------------------------------------------------------------------


@public
def flagged(
    top_words: Sequence[str | None], labels: Int64[Tensor, " labels"], lexicons: Mapping[int, Collection[str]]
) -> Bool[Tensor, " labels"]:
    """The images whose first dominant word is not in the lexicon of their class: {"bird"} for both in the paper.

    An image without a dominant word (None) is not flagged: there is nothing to mask. Raises ValueError for numbers that
    differ, a class without a lexicon, and a lexicon that is one word and not a collection of words.
    Source: TExplain, section 4.4.
    """
    if len(top_words) != len(labels):
        raise ValueError(f"There are {len(top_words)} words for {len(labels)} labels: give one an image.")
    for label in labels.unique().tolist():
        if isinstance(lexicons.get(label, ""), str):
            raise ValueError(f"Class {label} has no lexicon: give it a collection of words.")
    pairs = zip(top_words, labels.tolist(), strict=True)
    return torch.tensor([word is not None and word not in lexicons[label] for word, label in pairs], dtype=torch.bool)


@public
def salient(maps: Float[Tensor, "batch rows columns"], size: Side | None = None) -> Bool[Tensor, "batch height width"]:
    """The pixels of each map above the mean + 2 standard deviations of its positive ones; none if none is positive.

    With `size` (height, width) the maps are enlarged to it first, bilinearly. Raises ValueError on NaN or infinity.
    Source: MaskTune (Asgari et al., 2022), its released code.
    """
    if not maps.isfinite().all():
        raise ValueError("The maps hold NaN or infinity: look for them where the maps were made.")
    if size is not None:
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    heat = maps.double()
    positive = heat > 0
    count = positive.sum((1, 2), keepdim=True).clamp_min(1)
    mean = heat.clamp_min(0).sum((1, 2), keepdim=True) / count
    variance = ((heat - mean).square() * positive).sum((1, 2), keepdim=True) / count
    return positive & (heat > mean + 2 * variance.sqrt())


@public
def masked(
    images: Shaped[Tensor, "images 3 height width"], maps: Float[Tensor, "maps rows columns"]
) -> Shaped[Tensor, "images 3 height width"]:
    """The images with the `salient` pixels of their maps black: 0, so the images are raw RGB, not normalised.

    A map covers its whole image: give images as the model saw them, after a crop. (The published code of MaskTune
    stretches the map of a crop over the whole image.) Raises ValueError for numbers that differ, and as `salient`.
    """
    if len(images) != len(maps):
        raise ValueError(f"There are {len(maps)} maps for {len(images)} images: give one an image.")
    return images.masked_fill(salient(maps, images.shape[-2:]).to(images.device)[:, None], 0)


@public
def randomly_masked(
    images: Shaped[Tensor, "images 3 height width"],
    areas: Int[Tensor, " areas"],
    seed: Seed,
    *,
    ids: Sequence[str | int] | None = None,
) -> Shaped[Tensor, "images 3 height width"]:
    """RandMask: the images with one black square each, of the given area in pixels, anywhere inside the image.

    The side is the root of the area, rounded, at most the shorter side of the image: so the area is met to within a
    side, and an area of 0 leaves the image as it is. Where the square is depends on `seed` and the image's id (by
    default its position), so data that come in parts need ids. Raises ValueError for numbers that differ, and an area
    that is negative or larger than the image.
    Source: TExplain, Table 2, "RandMask"; that the areas are those of the other method's masks is our reading.
    """
    ids = range(len(images)) if ids is None else ids
    if not len(images) == len(areas) == len(ids):
        raise ValueError(f"There are {len(areas)} areas and {len(ids)} ids for {len(images)} images: give one each.")
    height, width = images.shape[-2:]
    if len(areas) and (areas.min() < 0 or areas.max() > height * width):
        raise ValueError(f"An area is not between 0 and the {height * width} pixels of an image: count pixels.")
    images = images.clone()
    for image, area, name in zip(images, areas.tolist(), ids, strict=True):
        side = min(round(area**0.5), height, width)
        draw = generator(seed, "random mask", name)
        top, left = (int(torch.randint(rest + 1, (), generator=draw)) for rest in (height - side, width - side))
        image[:, top : top + side, left : left + side] = 0
    return images


# --- fine-tuning ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a classifier is fine-tuned: cross-entropy, no schedule, no augmentation.

    An epoch is as many images as there are; `steps`, where given, are that many batches in place of the epochs, so
    that methods with fewer images can be given equal time. "sgd" has momentum 0.9. The optimizer's `weight_decay` is
    part of the gradient in "sgd", apart from it in "adamw". Of a batch `at_once` images, where given, are in memory at
    a time: the step is the same but for rounding, unless the model has batch norms, which see these alone.
    """

    epochs: int
    batch: int
    learning_rate: float | int
    weight_decay: float | int = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    steps: int | None = None
    precision: str = "float32"  # or "bfloat16", on a GPU that has it
    at_once: int | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if min(self.epochs, self.batch, *(each for each in (self.steps, self.at_once) if each is not None)) < 1:
            raise ValueError("A recipe has less than one epoch, step or image a batch: give at least 1 of each.")
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"Unknown optimizer {self.optimizer!r}: choose 'sgd' or 'adamw'.")


# For Waterbirds, by the released code, which also crops and flips at random.
MASKTUNE = Recipe(epochs=1, batch=128, learning_rate=1e-4, weight_decay=1e-4)


@public
def fine_tune(
    model: nn.Module,
    images: Tensor | Sequence | Dataset,
    labels: Int64[Tensor, " labels"],
    recipe: Recipe,
    seed: Seed,
    *,
    weights: Float[Tensor, " weights"] | None = None,
    parameters: Collection[str] | None = None,
    device: Device = "cpu",
) -> nn.Module:
    """A copy of `model`, fine-tuned on `images` and frozen, in evaluation mode; `model` itself is not touched.

    Arguments: `model` takes images [batch, 3, height, width] in [0, 1] and gives logits. `images` is a tensor, or
    anything that gives one image at each position, read batch by batch; pixels of 8 bits are divided by 255. With
    `weights` (`group_weights`) each batch's images are drawn with such probabilities, with replacement. With
    `parameters`, names of parameters or of modules, only these learn, and the model does so in evaluation mode: no
    dropout, no new averages in batch norms. The copy is in float32, whatever the recipe computes in.
    Raises ValueError where there is no image, labels or weights do not fit, a name is not in the model, and a loss is
    not finite.
    Source: TExplain, section 4.4, where the recipe is not said; MaskTune (Asgari et al., 2022).
    """
    count = len(images)
    if not count:
        raise ValueError("There is no image to fine-tune on: where no sample is flagged, there is nothing to mend.")
    if len(labels) != count or labels.min() < 0:
        raise ValueError(f"The {len(labels)} labels are not one class, from 0 on, for each of {count} images.")
    if weights is not None and (len(weights) != count or not (weights >= 0).all() or not 0 < weights.sum() < torch.inf):
        raise ValueError(f"The weights are not one for each of {count} images, at least 0 and not all 0.")
    tuned = copy.deepcopy(model).float().to(device)
    learning = _learning(tuned, parameters)
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(learning, recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.AdamW(learning, recipe.learning_rate, weight_decay=recipe.weight_decay)
    tuned.train(parameters is None)
    highest, chunks = int(labels.max()), -(-count // recipe.batch)
    steps = trange(recipe.steps or recipe.epochs * chunks, desc="fine-tuning", unit="batch", leave=False)
    batches = _batches(count, chunks, weights, generator(seed, "fine-tuning", "batches"))
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed_for(seed, "fine-tuning", "dropout"))
        for step, batch in zip(steps, batches, strict=False):
            for rows in batch.split(recipe.at_once or len(batch)):
                with training_precision(device, recipe.precision):
                    logits = tuned(_pixels(images, rows, device)).float()
                if highest >= logits.shape[1]:
                    raise ValueError(f"Label {highest} is not among the model's classes 0 to {logits.shape[1] - 1}.")
                loss = F.cross_entropy(logits, labels[rows].to(device))
                if not loss.isfinite():
                    raise ValueError(f"The loss is {loss.item()} in step {step + 1}: lower the learning rate.")
                (loss if len(rows) == len(batch) else loss * len(rows) / len(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return tuned.eval().requires_grad_(False)


def _learning(model: nn.Module, names: Collection[str] | None) -> list[nn.Parameter]:
    """The parameters that learn; the others are frozen."""
    model.requires_grad_(names is None)
    if names is None:
        return list(model.parameters())
    chosen = {}
    for wanted in names:
        own = {name: p for name, p in model.named_parameters() if name == wanted or name.startswith(f"{wanted}.")}
        if not own:
            raise ValueError(f"The model has no parameter or module {wanted!r} to learn: see named_parameters().")
        chosen |= own
    return [parameter.requires_grad_() for parameter in chosen.values()]


def _batches(
    count: int, chunks: int, weights: Tensor | None, draw: torch.Generator
) -> Iterator[Int64[Tensor, " batch"]]:
    """The positions of each batch, epoch after epoch, of nearly one size: one image has no batch statistics."""
    while True:
        if weights is None:
            order = torch.randperm(count, generator=draw)
        else:
            order = torch.multinomial(weights.cpu(), count, replacement=True, generator=draw)
        yield from order.tensor_split(chunks)


def _pixels(images: Tensor | Sequence | Dataset, rows: Tensor, device: str) -> Float[Tensor, "batch 3 height width"]:
    found = images[rows] if isinstance(images, Tensor) else torch.stack([images[row] for row in rows.tolist()])
    found = found.to(device)
    return found / 255 if found.dtype == torch.uint8 else found.float()


# --- with known groups ------------------------------------------------------------------------------------------


@public
def group_weights(groups: Int64[Tensor, " images"]) -> Float[Tensor, " images"]:
    """A weight for each image, so that each group weighs the same and all together 1, in float64."""
    _, members, sizes = groups.unique(return_inverse=True, return_counts=True)
    return 1 / (sizes.double() * len(sizes))[members]


@public
def retrain_last_layer(
    features: Float[Tensor, "images width"],
    labels: Int64[Tensor, " labels"],
    groups: Int64[Tensor, " groups"],
    *,
    l2: Positive = 0.01,
    steps: Count = 1000,
) -> nn.Linear:
    """A new last layer on frozen features, in which each group counts the same: min_W Σ_i w_i CE_i + l2/2 ‖W‖².

    The features are standardised, without which the penalty would depend on their units; the layer that is returned
    takes them as they are. Computed in float64 by L-BFGS, without chance. DFR draws balanced subsets and penalises
    |W|; here the groups are weighted (w_i = `group_weights`) and the penalty is of squares, not of the bias.
    Raises ValueError where there is no image, numbers differ, a class of 0 to the highest has no image, features are
    not finite, `l2` is not positive, or the optimum is not found in so many `steps`.
    Source: Kirichenko et al. (2023), deep feature reweighting.
    """
    if not len(features) or not len(features) == len(labels) == len(groups) or not features.isfinite().all():
        raise ValueError(
            f"There are {len(features)} features, {len(labels)} labels and {len(groups)} groups, or some are NaN: give "
            "one of each for each image, and at least one image."
        )
    classes = int(labels.max()) + 1
    if labels.min() < 0 or len(labels.unique()) < classes:
        raise ValueError(f"The labels do not cover the {classes} classes from 0 on: give each class an image.")
    if not l2 > 0:
        raise ValueError(f"Without a penalty (l2 = {l2}) there may be no optimum: give a positive one.")
    x, target = features.detach().double(), labels.to(features.device)
    each = group_weights(groups).to(x)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation > 1e-9 * x.abs().amax(0), deviation, 1)  # but for rounding, a constant
    x = (x - mean) / deviation
    weight, bias = x.new_zeros(classes, x.shape[1]).requires_grad_(), x.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = F.cross_entropy(F.linear(x, weight, bias), target, reduction="none")
        total = (each * errors).sum() + l2 / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
        loss()  # for the gradient where the search ended
    if max(weight.grad.abs().max(), bias.grad.abs().max()) > 1e-6:
        raise ValueError(f"The optimum was not found in {steps} steps: raise l2, or give more steps.")
    layer = nn.Linear(x.shape[1], classes, device=features.device).requires_grad_(False).eval()
    layer.weight.copy_(weight.detach() / deviation)
    layer.bias.copy_((bias - (weight / deviation) @ mean).detach())
    return layer


# --- what came of it --------------------------------------------------------------------------------------------
#
# The accuracy of each group and of the worst one, in one run, is `metrics.group_accuracy`.


@public
@dataclass(frozen=True)
class Averages:
    """Accuracies over all groups: `micro` over items, `macro` over groups, `train_weighted` as groups are in training.

    The last is what the code of group DRO reports as the average of a test set whose groups are balanced otherwise.
    """

    micro: float
    macro: float
    train_weighted: float


@public
def averages(correct: Numbers, groups: ArrayLike, train_groups: ArrayLike) -> Averages:
    """Three averages of the verdicts `correct` [items]; `train_groups` names the group of each training image.

    Raises ValueError as `group_accuracy`, and for training groups that are none or of which no item is in `groups`.
    """
    found = group_accuracy(correct, groups)
    accuracies = {group: interval.value for group, interval in found.groups.items()}
    names, sizes = np.unique(np.asarray(train_groups), return_counts=True)
    if not len(names) or not set(names.tolist()) <= set(accuracies):
        raise ValueError(f"The training groups {names.tolist()} are none, or not all among those tested: test each.")
    weighted = np.average([accuracies[name] for name in names.tolist()], weights=sizes)
    return Averages(found.overall.value, float(np.mean(list(accuracies.values()))), float(weighted))
