"""The standalone classifiers of paper 1: torchvision ResNet-50s that call a digit five or eight."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.models import ResNet50_Weights, resnet50

from xaikit.arguments import UNIT, Count, public
from xaikit.models.hooks import evaluating
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage import cache
from xaikit.storage.arithmetic import training_precision
from xaikit.storage.seeding import generator, seed_for
from xaikit.storage.side_by_side import fetch_all

# CLIP's normalisation, which the published code gives to the standalone model too.
SAVE_EVERY = 60.0  # seconds, or an epoch where that takes longer; a checkpoint of ResNet-50 has 0.3 GB
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: AdamW (Adam where `weight_decay` is 0), cross-entropy, no augmentation."""

    pixels: int
    epochs: int
    measurements: int  # how many times, evenly spaced, the learning curves are measured
    batch: int
    learning_rate: float
    pretrained: str | None = None  # torchvision's name of the weights to start from; None is from scratch
    schedule: str = "constant"  # or "one-cycle"
    weight_decay: float = 0.0
    precision: str = "float32"  # or "bfloat16", on a GPU that has it
    grey: bool = False  # behind a colour-to-grey preprocessor, which is then a part of the model
    # Before each measurement and at the end, batch norms get their averages from all training images, in batches of 100
    # (Wu and Johnson, 2021). Running averages of a dozen steps are still on their way, and whether a network is right
    # would be a matter of luck.
    precise_batch_norm: bool = False


@dataclass(frozen=True)
class Trained:
    """A classifier in evaluation mode, and its learning curves: epoch, set and accuracy of each measurement."""

    model: Preprocessed
    curves: list[dict[str, float | str]] = field(repr=False)


def build(recipe: Recipe, classes: int = 2, *, pretrained: bool = True) -> Preprocessed:
    """A ResNet-50 with a new head, which takes images in [0, 1]; its body has the recipe's pretrained weights.

    `pretrained=False` leaves those out, for weights that are loaded afterwards. From scratch each residual block
    starts as the identity (torchvision's `zero_init_residual`), so that few steps will do. Raises ValueError for an
    unknown name of weights.
    """
    model = resnet50(zero_init_residual=True)
    if recipe.pretrained and pretrained:
        try:
            weights = ResNet50_Weights.verify(recipe.pretrained)
        except (KeyError, ValueError) as error:
            raise ValueError(f"torchvision's resnet50 has no weights {recipe.pretrained!r}: {error}.") from error
        # As torchvision does it, but for `weights_only`: the file is a pickle, of which nothing but tensors is read.
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, classes)
    return Preprocessed(model, recipe.pixels, MEAN, STD, grey=recipe.grey)


def train(
    recipe: Recipe,
    images: Float[Tensor, "n 3 height width"],
    labels: Int64[Tensor, " n"],
    watched: Mapping[str, tuple[Tensor, Tensor]],
    seed: int,
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> Trained:
    """Train a classifier on `images` in [0, 1], and measure it now and then on the `watched` (images, labels).

    The curves hold, as the set "train", the accuracy of the training batches since the last measurement.
    A run that was killed goes on from its `checkpoint`, written between epochs, and ends with the weights and curves
    that it would have had; one of another training is not told apart. One that cannot be written, as the disk is full,
    is a warning.
    Raises ValueError for an empty training set, an unknown schedule, and a loss that is not finite.
    """
    if len(images) < 2:
        raise ValueError(f"There are {len(images)} images to train on; choose a split that is not empty.")
    torch.manual_seed(seed_for(seed, "classifier", "weights"))
    trained = build(recipe).to(device)
    order = generator(seed, "classifier", "batches")
    parameters = trained.parameters()
    optimiser = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    chunks = -(-len(images) // recipe.batch)
    steps = recipe.epochs * chunks
    if recipe.schedule == "one-cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, steps)
    elif recipe.schedule == "constant":
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1)
    else:
        raise ValueError(f"Unknown schedule {recipe.schedule!r}; choose 'constant' or 'one-cycle'.")
    measured_at = {round(steps * (i + 1) / recipe.measurements) for i in range(recipe.measurements)}

    curves: list[dict[str, float | str]] = []
    start = seen = correct = 0
    if checkpoint is not None and (saved := cache.kept(checkpoint)) is not None:
        start, seen, correct, curves = (saved.pop(key) for key in ("step", "seen", "correct", "curves"))
        order.set_state(saved.pop("order"))
        schedule.load_state_dict(saved.pop("schedule"))
        _restore(trained, optimiser, saved)
    saved_at = time.monotonic()
    trained.train()
    for step in range(start, steps):
        if step % chunks == 0:
            if checkpoint is not None and step > start and time.monotonic() - saved_at >= SAVE_EVERY:
                about = {"step": step, "seen": seen, "correct": correct, "curves": curves, "order": order.get_state()}
                about["schedule"] = schedule.state_dict()
                cache.keep(checkpoint, "the training so far", about | _state(trained, optimiser))
                saved_at = time.monotonic()
            # Parts of nearly one size: a last batch of a single image would have no batch statistics.
            epoch = torch.randperm(len(images), generator=order).tensor_split(chunks)
        rows = epoch[step % chunks]
        target = labels[rows].to(device)
        with training_precision(device, recipe.precision):
            logits = trained(images[rows].to(device)).float()
        loss = F.cross_entropy(logits, target)
        if not loss.isfinite():
            raise ValueError(f"The loss is {loss.item()} in step {step + 1}; lower the learning rate.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        seen, correct = seen + len(rows), correct + (logits.argmax(1) == target).sum().item()
        if recipe.precise_batch_norm and (step + 1 in measured_at or step + 1 == steps):
            update_bn((part.to(device) for part in images.tensor_split(-(-len(images) // 100))), trained)
        if step + 1 in measured_at:
            now = {"epoch": (step + 1) / chunks}
            curves.append({**now, "set": "train", "accuracy": correct / seen})
            for name, (watched_images, watched_labels) in watched.items():
                right = predict(trained, watched_images).eq(watched_labels).double().mean().item()
                curves.append({**now, "set": name, "accuracy": right})
            seen = correct = 0
    return Trained(trained.eval(), curves)


def _state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a model and its optimiser hold, for `cache.keep`."""
    own = optimiser.state_dict()
    moments = {f"optimiser.{index}.{key}": value for index, each in own["state"].items() for key, value in each.items()}
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"groups": own["param_groups"], **weights, **moments}


def _restore(model: nn.Module, optimiser: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give a model and its optimiser what `_state` took."""
    model.load_state_dict({key.removeprefix("model."): value for key, value in saved.items() if key[:6] == "model."})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": saved["groups"]})


def train_all(jobs: Mapping[str, Mapping[str, Any]], device: str = "cpu") -> dict[str, Trained]:
    """`train(**job, device=device)` for each job by its name, or what it gave before; the weights are frozen.

    On a CPU they are trained side by side, each on one thread. What was stopped goes on between two epochs.
    """
    results = fetch_all(
        _trained, {name: {**job, "device": device} for name, job in jobs.items()},
        label="training classifiers", device=device, checkpoints=True,
    )  # fmt: skip
    return {name: _rebuilt(jobs[name]["recipe"], result, device) for name, result in results.items()}


def _rebuilt(recipe: Recipe, result: dict[str, Any], device: str) -> Trained:
    curves = result.pop("curves")
    with torch.device("meta"):  # no time is spent on weights that are replaced at once
        model = build(recipe, pretrained=False)
    model.load_state_dict(result, assign=True)
    return Trained(model.to(device).eval().requires_grad_(False), curves)


def _trained(**job: Any) -> dict[str, Any]:
    trained = train(**job)
    return {**trained.model.state_dict(), "curves": trained.curves}


@public
def predict(
    model: nn.Module, images: Annotated[Float[Tensor, "n 3 height width"], UNIT], batch: Count = 200
) -> Int64[Tensor, " n"]:
    """The class of each image, on the CPU. Raises ValueError where there is no image."""
    if not len(images):
        raise ValueError("There is no image to classify; choose a split that is not empty.")
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        return torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(batch)])
