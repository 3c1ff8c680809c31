"""Networks whose use of colour is known by intervention, and each explanation of notebook 01 on all of them.

What a network makes of colour is the share of its answers that flip when the digits are repainted. An explanation is
trusted as far as it says the same: here each is brought to one value an image, so that the same controls fit all.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from xaikit.datasets.digits import ColouredDigits
from xaikit.metrics.intervals import Interval, bootstrap
from xaikit.models.classifiers import Recipe, build, predict
from xaikit.models.clip import Clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.scores import class_score
from xaikit.saliency.cam import grad_cam
from xaikit.saliency.masking import rise
from xaikit.saliency.path_gradients import integrated_gradients
from xaikit.storage.seeding import seed_for
from xaikit.studies import caption_driven as study
from xaikit.studies.caption_driven import CAPTIONS

KINDS = ("colour in part", "biased", "unbiased", "shape user", "head for colour", "head for shape", "untrained",
         "shuffled labels")  # fmt: skip
NOTHING_LEARNED = ("untrained", "shuffled labels")
PerImage = Float[np.ndarray, " images"]


@dataclass(frozen=True, eq=False)
class Known:
    """A network of the grid, of one of the `KINDS`, and the digits on which what it uses was found out."""

    name: str
    kind: str
    model: Preprocessed
    flips: Bool[np.ndarray, " images"]  # whether each answer changes when its digit is repainted

    @property
    def truth(self) -> float:
        """The share of answers that colour alone decides."""
        return float(self.flips.mean())


def known(name: str, kind: str, model: Preprocessed, data: ColouredDigits) -> Known:
    """Find out by repainting `data` what a network does with colour."""
    return Known(name, kind, model, study.flips(model, data))


def untrained(recipe: Recipe, data: ColouredDigits, seed: int, index: int, device: str = "cpu") -> Preprocessed:
    """A network with random weights, all of its residual blocks at work, that was shown `data` and learned nothing.

    Its batch norms are calibrated on the images, and its head's bias such that half of them get each answer: a network
    that says the same of everything would be no test.
    """
    torch.manual_seed(seed_for(seed, "untrained", index))
    model = build(recipe, pretrained=False).to(device)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    model.train()
    parts = [part.to(device) for part in data.image.split(100)]
    with torch.no_grad():
        update_bn(iter(parts), model)
        model.eval()
        logits = torch.cat([model(part) for part in parts])
        model.model.fc.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return model.requires_grad_(False)


def with_head(model: Preprocessed, data: ColouredDigits, cue: str) -> Preprocessed:
    """The same backbone with a head that was fitted to name a `cue` of `data`: logistic regression on its features."""
    model, found = _plain(model), list[Tensor]()
    listening = model.model.fc.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    try:
        device = next(model.parameters()).device
        for part in data.image.split(100):
            predict(model, part)
    finally:
        listening.remove()
    features, label = torch.cat(found).float().cpu(), study.labels_of(data)[cue]
    mean, std = features.mean(0), features.std(0).clamp_min(1e-3)
    standard = (features - mean) / std
    weight = torch.zeros(2, features.shape[1], requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(standard, weight, bias), label) + 1e-3 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    own = copy.deepcopy(model).requires_grad_(False)
    weight, bias = weight.detach(), bias.detach()
    own.model.fc.weight.data = (weight / std).to(device)
    own.model.fc.bias.data = (bias - (weight / std) @ mean).to(device)
    return own


# --- one value an image, for each explanation ----------------------------------------------------------------------


# Each explanation as a reader would take it: higher means that colour decides more. What it is called in figures, too.
INSTRUMENTS = {
    "published": "colour share,\nas published",
    "mended": "colour share,\nindexing mended",
    "dominance": "colour minus shape\naccuracy, corrected",
    "auc": "colour minus\nshape AUC",
    "fidelity": "shape caption is\nthe own answer",
    "causal": "shape caption flips,\nsurgery as published",
    "chosen": "shape caption flips,\nrelevant maps chosen",
    "dimmed": "shape caption flips,\nother maps dimmed",
    "no-surgery": "CLIP's own captions\nbeside the answers",
    "grad-cam": "Grad-CAM\non the stroke",
    "rise": "RISE\non the stroke",
    "integrated-gradients": "integrated gradients\non the stroke",
}
SALIENCY = ("grad-cam", "rise", "integrated-gradients")


@dataclass(frozen=True, eq=False)
class Readings:
    """What CLIP says of the digits after one surgery, and of the same digits repainted."""

    similarity: Float[Tensor, "images captions"]
    repainted: Float[Tensor, "images captions"]

    def dominance(self, data: ColouredDigits) -> PerImage:
        """The right colour beats the wrong one, minus the same of the shape: in [−1, 1]."""
        right = study.right(study.contrasts(self.similarity, data))
        return right["colour"] - right["shape"]

    def auc(self, data: ColouredDigits) -> PerImage:
        """The AUC of the colour captions minus that of the shape captions, image by image (`placements`)."""
        label = study.labels_of(data)
        own = {cue: placements(_lead(self.similarity, cue), label[cue].numpy()) for cue in CAPTIONS.cues}
        return own["colour"] - own["shape"]

    def fidelity(self, answer: Tensor) -> PerImage:
        """Whether the shape caption that wins is the network's own answer."""
        return (_winner(self.similarity, "shape") == answer).double().numpy()

    def flips(self) -> PerImage:
        """Whether another shape caption wins when the digit is repainted: the causal readout, in [0, 1].

        A caption wins where it leads by more than its median lead over all digits in both colours: surgery moves all
        pictures towards some caption, and that says nothing of a picture.
        """
        leads = torch.stack([_lead(each, "shape") for each in (self.similarity, self.repainted)])
        wins = leads > leads.median()
        return (wins[0] != wins[1]).double().numpy()


def agreement(similarity: Tensor, answer: Tensor) -> PerImage:
    """How closely the colour captions go with the answers, minus the same of the shape captions: in [−1, 1].

    A cue that goes with the answers the other way round (green with five) goes with them as closely.
    """
    agree = []
    for cue in ("colour", "shape"):
        same = (_winner(similarity, cue) == answer).double().numpy()
        agree.append(same if same.mean() >= 0.5 else 1 - same)
    return agree[0] - agree[1]


def placements(score: Tensor, label: np.ndarray) -> PerImage:
    """For each image the share of the other class that it is on the right side of; their mean in a class is the AUC."""
    value = score.double().numpy()
    high, low = value[label == 1], value[label == 0]
    if not len(high) or not len(low):
        return np.full(len(value), 0.5)
    result = np.empty(len(value))
    beats = (high[:, None] > low).astype(float) + (high[:, None] == low) / 2
    result[label == 1], result[label == 0] = beats.mean(1), beats.mean(0)
    return result


def _lead(similarity: Tensor, cue: str) -> Tensor:
    columns = CAPTIONS.columns(cue)
    return similarity[:, columns.start + 1] - similarity[:, columns.start]


def _winner(similarity: Tensor, cue: str) -> Tensor:
    return (_lead(similarity, cue) > 0).long()


def explain(
    network: Known,
    clip: Clip,
    matching_on: ColouredDigits,
    data: ColouredDigits,
    before: Float[Tensor, "images captions"],
    *,
    tied_on: int,
) -> dict[str, PerImage]:
    """Each of the captions' `INSTRUMENTS` on `data`, image by image; `before` are CLIP's similarities to them.

    All networks are matched on the same digits, so that nothing but the network differs.
    """
    repainted = data.flipped()
    case = study.match(network.model, clip, matching_on, tied_on=tied_on)
    after = {
        name: Readings(each.similarities(data), each.similarities(repainted))
        for name, each in {"plain": case, "chosen": case.of_relevant(), "dimmed": case.dimmed()}.items()
    }
    answer = predict(network.model, data.image)
    plain = after["plain"]
    return {
        "published": study.names_cue(study.published_run(case, data)["influence"], "colour").numpy(),
        "mended": study.names_cue(plain.similarity - before, "colour").numpy(),
        "dominance": plain.dominance(data),
        "auc": plain.auc(data),
        "fidelity": plain.fidelity(answer),
        "causal": plain.flips(),
        "chosen": after["chosen"].flips(),
        "dimmed": after["dimmed"].flips(),
        "no-surgery": agreement(before, answer),
    }


def on_stroke(
    network: Known, layer: str, data: ColouredDigits, *, masks: int, steps: int, seed: int
) -> dict[str, PerImage]:
    """The share of three saliency maps of each digit's own answer that lies on the stroke: what a reader sees of them.

    RISE hides pixels behind grey, integrated gradients start from it; maps count from their lowest value on.
    """
    model = _plain(network.model)
    # At the network's own size: a gradient through bicubic resizing has no deterministic form on a GPU.
    images = data.image
    if images.shape[-1] != model.size:
        images = resize(images, [model.size] * 2, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    answer = predict(model, images)
    device = next(model.parameters()).device
    grey = torch.full_like(images[:1], 0.5).to(device)
    layers = dict(model.model.named_modules())
    score = class_score(model, answer)
    found = {
        "grad-cam": grad_cam(model, layers[layer], images.to(device)),
        "rise": rise(score, images.to(device), grey, seed=seed, masks=masks),
        "integrated-gradients": integrated_gradients(score, images.to(device), grey, steps=steps).clamp_min(0),
    }
    stroke = (images.amax(1) > 64 / 255).double()
    shares = {}
    for name, maps in found.items():
        heat = maps.double().cpu()
        heat = heat - heat.amin((1, 2), keepdim=True)
        total = heat.sum((1, 2))
        even = stroke.mean((1, 2))  # of a map that is the same everywhere
        shares[name] = torch.where(total > 0, (heat * stroke).sum((1, 2)) / total.clamp_min(1e-30), even).numpy()
    return shares


def _plain(model: Preprocessed) -> Preprocessed:
    """The classifier without its memory, which gradients would clear."""
    network = getattr(model.model, "network", model.model)
    return Preprocessed(network, model.size, model.mean, model.std, grey=model.grey).eval()


# --- the same controls for all -------------------------------------------------------------------------------------


def calibrated(reading: float, colour_user: float, shape_user: float, truths: tuple[float, float]) -> float:
    """A reading on the scale of the truth, on which the two users of known cues stand right; within [−1, 2].

    Where the reading, or the truth, does not tell these two apart, nothing can be read: that counts as 2.
    """
    gap, span = colour_user - shape_user, truths[0] - truths[1]
    if not gap or not span:
        return 2.0
    return float(np.clip(truths[1] + (reading - shape_user) / gap * span, -1, 2))


def controls(values: Mapping[str, PerImage], networks: Sequence[Known], seed: int) -> dict[str, Interval]:
    """What one explanation makes of networks that are known; `values` holds its values an image, by network.

    "gap": the biased network minus the shape user. "heads": the head for colour minus the head for shape on one
    backbone, as a part of what repainting finds between them, after `calibrated`. "untrained", "shuffled": how far the
    calibrated reading of networks that learned nothing exceeds their truth. Intervals are over images.
    """
    of = {kind: [each for each in networks if each.kind == kind] for kind in KINDS}

    def mean_of(kind: str) -> tuple[PerImage, float]:
        return np.mean([values[each.name] for each in of[kind]], 0), float(np.mean([each.truth for each in of[kind]]))

    (colour_user, high), (shape_user, low) = mean_of("biased"), mean_of("shape user")

    def over_images(function: Callable[[np.ndarray], float], *columns: PerImage) -> Interval:
        return bootstrap(lambda rows: function(rows.mean(0)), np.stack(columns, 1), seed=seed)

    def scaled(reading: float, means: np.ndarray) -> float:
        return calibrated(reading, means[0], means[1], (high, low))

    found = {"gap": over_images(lambda means: means[0] - means[1], colour_user, shape_user)}
    (one, most), (other, least) = mean_of("head for colour"), mean_of("head for shape")
    found["heads"] = over_images(
        lambda means: (scaled(means[2], means) - scaled(means[3], means)) / (most - least or np.inf),
        colour_user, shape_user, one, other,
    )  # fmt: skip
    for name, kind in (("untrained", "untrained"), ("shuffled", "shuffled labels")):
        own, truth = mean_of(kind)
        found[name] = over_images(
            lambda means, truth=truth: scaled(means[2], means) - truth, colour_user, shape_user, own
        )
    return found


def false_alarms(values: Mapping[str, PerImage], networks: Sequence[Known]) -> int:
    """How many networks that learned nothing read, `calibrated`, a quarter or more above their truth."""
    first = {kind: next(each for each in networks if each.kind == kind) for kind in ("biased", "shape user")}
    ends = [values[each.name].mean() for each in first.values()]
    truths = tuple(each.truth for each in first.values())
    return sum(
        calibrated(values[each.name].mean(), *ends, truths) - each.truth >= 0.25
        for each in networks
        if each.kind in NOTHING_LEARNED
    )


def rank_gain(
    truth: Float[np.ndarray, " networks"],
    one: Float[np.ndarray, " networks"],
    other: Float[np.ndarray, " networks"],
    *,
    seed: int,
) -> Interval:
    """How much higher the rank correlation of `one` with the truth is than that of `other`, over networks."""

    def gain(rows: np.ndarray) -> float:
        if any(len(np.unique(column)) < 2 for column in rows.T):
            return 0.0  # a resample of one network alone has no order
        ranks = rankdata(rows, axis=0)
        correlation = np.corrcoef(ranks.T)
        return float(correlation[0, 1] - correlation[0, 2])

    return bootstrap(gain, np.stack([truth, one, other], 1), seed=seed)
