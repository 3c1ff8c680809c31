"""The experiments of paper 3: explanations of CLIP as a zero-shot classifier and with a linear probe (Agarwal)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from xaikit.companion.profiles import Settings
from xaikit.metrics.intervals import Interval, bootstrap, proportion
from xaikit.metrics.pointing import pointing_game
from xaikit.metrics.ranking import auc
from xaikit.models.clip import Clip
from xaikit.models.hooks import at_least_float32, evaluating
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.scores import Score, class_score
from xaikit.perturbation.linear_probe import LinearProbe, ZeroShot, embed, train_head
from xaikit.perturbation.removal import (
    centre_attribution,
    random_attribution,
    removal_curves,
    substitute,
)
from xaikit.perturbation.search import (
    PAPER_PIXELS,
    PRESETS,
    MaskChecks,
    Recipe,
    attribution,
    check_masks,
    meaningful_perturbation,
)
from xaikit.saliency.masking import rise
from xaikit.saliency.path_gradients import integrated_gradients
from xaikit.saliency.vit import grad_cam, upsample
from xaikit.storage.seeding import generator, seed_for
from xaikit.storage.side_by_side import fetch_all, in_parts, side_by_side
from xaikit.studies.choosing import stratified
from xaikit.studies.vlm_pictures import Classified

Maps = Float[Tensor, "images height width"]
SETTINGS = ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"
# How deletion is measured, and which field of a `Removal` that is.
PROTOCOLS = {"as-published": "published", "corrected": "corrected"}


@dataclass(frozen=True, eq=False)
class Setting:
    """CLIP as a classifier: `model` gives cosines (zero-shot) or logits (fine-tuned).

    `scale` is what they are multiplied by before a softmax, exp(logit scale) or 1; `published` what the paper's score
    takes: None for the cosine itself, else the factor before its softmax.
    """

    name: str
    model: ZeroShot | LinearProbe | Preprocessed
    scale: float
    published: float | None

    def answers(self, embeddings: Float[Tensor, "images features"]) -> Int64[Tensor, " images"]:
        """The class with the highest output for each unit embedding (`embed`)."""
        with torch.inference_mode():
            return self.classifier.classify(embeddings.to(next(self.model.encoder.parameters()).device)).argmax(1).cpu()

    @property
    def classifier(self) -> ZeroShot | LinearProbe:
        """The model, where it is one of the two. Raises TypeError for a planted one."""
        if not isinstance(self.model, ZeroShot | LinearProbe):
            raise TypeError(f"The {self.name} classifies images, and has no embeddings.")
        return self.model

    def score(self, targets: Int64[Tensor, " images"], *, published: bool) -> Score:
        """The paper's score of this setting, or the softmax's probability as in the other one."""
        return class_score(self.model, targets, softmax=self.published if published else self.scale)


def settings(clip: Clip, train: Classified, *, device: str, seed: int, epochs: int) -> tuple[Setting, Setting]:
    """The two settings for the classes of `train`, on whose images the probe learns."""
    encoder = clip.image_encoder
    zero_shot = ZeroShot(encoder, clip.encode_texts(list(train.prompts))).to(device)
    head = train_head(embed(encoder, train.batches(), device), train.labels, len(train.names), seed=seed, epochs=epochs)
    return (
        Setting(ZERO_SHOT, zero_shot, clip.logit_scale, None),
        Setting(FINE_TUNED, LinearProbe(encoder, head).to(device), 1.0, 1.0),
    )


HEADS = 3  # that are trained anew for each control of table 2


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Table 2 of one task: which answers are right, by setting, and its controls.

    A control for which heads are trained anew has a row for each.
    """

    right: dict[str, Float[np.ndarray, " images"]]
    controls: dict[str, Float[np.ndarray, "*heads images"]]


def table2(clip: Clip, train: Classified, test: Classified, cfg: Settings, seed: int) -> Accuracies:
    """Both settings on the test pictures of a task (`vlm_pictures.harder`), after learning from those of training.

    Controls, of the fine-tuned classifier unless both are named: both settings against those of a tower that learned
    nothing ("trained-minus-untrained"); all training pictures against `cfg.few` a class ("many-minus-few"), and against
    the same recipe from another seed ("again", and turned round), each in `HEADS` draws; and the more accurate of both
    ("best"), which must not be perfect.
    """
    own = seed_for(seed, "table 2")
    options = {"device": cfg.device, "seed": own, "epochs": cfg.epochs}
    both = settings(clip, train, **options)

    def right(of: Setting, encoder: nn.Module) -> np.ndarray:
        return (of.answers(embed(encoder, test.batches(), cfg.device)) == test.labels).double().numpy()

    encoder = clip.image_encoder
    seen = embed(encoder, test.batches(), cfg.device)
    found = {each.name: (each.answers(seen) == test.labels).double().numpy() for each in both}
    learned = embed(encoder, train.batches(), cfg.device)

    def probe(rows: Tensor, draw: int) -> np.ndarray:
        head = train_head(learned[rows], train.labels[rows], len(train.names), seed=draw, epochs=cfg.epochs)
        return (LinearProbe(encoder, head).classify(seen).argmax(1) == test.labels).double().numpy()

    few = [stratified(train.labels, cfg.few * len(train.names), own, "few", head) for head in range(HEADS)]
    bare = copy.deepcopy(clip.image_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "random weights"))
        reset(bare)
    untrained = settings(replace(clip, image_encoder=bare), train, **options)
    nothing = [right(each, bare) for each in untrained]
    zero_shot, fine_tuned = found.values()
    again = np.stack([probe(torch.arange(len(train)), own + 1 + head) for head in range(HEADS)])
    best = max(found.values(), key=lambda values: values.mean())
    controls = {
        "trained-minus-untrained": (zero_shot + fine_tuned - sum(nothing)) / 2,
        "many-minus-few": fine_tuned - np.stack([probe(rows, own) for rows in few]),
        "again": again - fine_tuned,
        "again-back": fine_tuned - again,
        "best": best,
    }
    return Accuracies(found, controls)


def right_in_all(
    answers: Sequence[Int64[Tensor, " images"]],
    labels: Int64[Tensor, " images"],
    most: int,
    seed: int,
    *,
    rehearsing: bool = False,
) -> Int64[Tensor, " chosen"]:
    """The positions of images that all settings classify correctly, as the paper explains only those; `most` of them.

    Which ones is drawn, as many of each class as there are. Raises ValueError for fewer than two, of which nothing can
    be said; `rehearsing`, where the models know nothing, takes others in their place.
    """
    right = torch.stack([answer == labels for answer in answers]).all(0).nonzero()[:, 0]
    if len(right) < 2:
        if not rehearsing:
            raise ValueError(
                f"{len(right)} of {len(labels)} images are classified correctly in all settings, too few to explain: "
                "check the models."
            )
        right = torch.arange(len(labels))
    return right[stratified(labels[right], most, seed, "explained")]


# --- maps ---------------------------------------------------------------------------------------------------------


SATURATED = 0.05  # a probability that no deletion lowers by as much gives next to no gradient to follow


def recipe_of(cfg: Settings, size: int) -> Recipe:
    """The profile's recipe for images of that side, from the best of several deletions."""
    return replace(PRESETS[cfg.preset], steps=cfg.steps, start="deletions").at(size)


@dataclass(frozen=True, eq=False)
class Found:
    """Attributions by meaningful perturbation, their masks, and what each mask does.

    `saturated` are the pictures whose probability no deletion lowers, so that they were searched by its log-odds.
    """

    maps: Maps
    masks: Float[Tensor, "images side side"]
    checks: MaskChecks
    saturated: Bool[Tensor, " images"]

    @property
    def size(self) -> np.ndarray:
        """The mean of each map."""
        return self.maps.mean((1, 2)).double().cpu().numpy()

    @property
    def taken(self) -> float:
        """By how much the masks lower the score, on average."""
        return (self.checks.before - self.checks.after).mean().item()


def maps(
    model: nn.Module,
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    recipe: Recipe,
    *,
    softmax: float | None,
    seed: int,
    batch: int,
    autocast: bool = False,
    start: Float[Tensor, "images side side"] | None = None,
) -> Found:
    """The attributions by meaningful perturbation, kept in the cache; `start` are masks to start from.

    They are sought side by side, a `batch` or less of them at a time.
    """
    options = {"model": model, "recipe": recipe, "softmax": softmax, "seed": seed, "batch": batch, "autocast": autocast}
    jobs = {
        name: {
            "images": images[rows], "targets": targets[rows], "ids": rows.tolist(),
            "start": None if start is None else start[rows], **options,
        }
        for name, rows in in_parts(len(images), batch).items()
    }  # fmt: skip
    found = list(fetch_all(_masks, jobs, label="searching masks", device=images.device.type).values())
    masks, saturated = (torch.cat([each[name] for each in found]) for name in ("masks", "saturated"))
    checks = MaskChecks(*torch.cat([each["checks"] for each in found], 1))
    size, masks = (images.shape[-2], images.shape[-1]), masks.to(images.device)
    return Found(attribution(masks, size, recipe), masks, checks, saturated)


def _masks(
    model: nn.Module,
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    ids: Sequence[int],
    recipe: Recipe,
    softmax: float | None,
    seed: int,
    batch: int,
    autocast: bool,
    start: Float[Tensor, "images side side"] | None,
) -> dict[str, Tensor]:
    options: dict[str, Any] = {"batch": batch, "autocast": autocast}
    with evaluating(model):
        score, every = class_score(model, targets, softmax=softmax), torch.arange(len(images))
        masks = torch.ones(len(images), recipe.side, recipe.side).to(images)
        saturated = torch.zeros(len(images), dtype=torch.bool)
        if softmax is not None and recipe.start == "deletions" and start is None:
            whole = check_masks(score, images, masks, recipe, **options)
            saturated = whole.range < SATURATED
        for rows, softer in ((every[~saturated], False), (every[saturated], True)):
            if len(rows):
                own = class_score(model, targets[rows], softmax=softmax)
                masks[rows.to(masks.device)] = meaningful_perturbation(
                    log_odds(model, images[rows], targets[rows], softmax) if softer and softmax else own,
                    images[rows], recipe, seed=seed, ids=[ids[row] for row in rows.tolist()],
                    start=None if start is None else start[rows], **options,
                )  # fmt: skip
        checks = check_masks(score, images, masks, recipe, **options)
        if saturated.any():  # Eq. 1 itself says whether the mask is better than none
            worse = (checks.loss >= checks.before) & saturated
            masks[worse.to(masks.device)] = 1
            checks = check_masks(score, images, masks, recipe, **options)
    return {"masks": masks, "checks": torch.stack(list(vars(checks).values())), "saturated": saturated}


def log_odds(
    model: nn.Module,
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    softmax: float,
) -> Score:
    """The log-odds of each image's class over what they are for the whole image: 1 before, and never saturated."""

    def odds(seen: Tensor, which: Tensor) -> Tensor:
        logits = softmax * at_least_float32(model(seen))
        own = targets[which.to(targets.device)].to(logits.device)[:, None]
        rest = logits.scatter(1, own, -torch.inf)
        return logits.gather(1, own)[:, 0] - rest.logsumexp(1)

    with torch.no_grad():
        rows = torch.arange(len(images)).split(64)
        whole = torch.cat([odds(images[each], each) for each in rows]).clamp_min(1)
    return lambda seen, which: odds(seen, which) / whole[which.to(whole.device)]


def scaled(recipe: Recipe, ratio: float) -> Recipe:
    """The recipe with both λ times `ratio`: those of a score that masks lower by so much of what they lower another.

    Raises ValueError for a ratio that is not positive, where there is nothing to match.
    """
    if not ratio > 0:
        raise ValueError(f"One score is lowered by {ratio} of what the other is: with no drop nothing can be matched.")
    return replace(recipe, area=recipe.area * ratio, variation=recipe.variation * ratio)


# --- how good they are --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Removal:
    """Deletion or insertion of one set of maps, [images] each.

    `published` is the area under the setting's own score, divided by the curve's maximum; `corrected` that under the
    probability, divided by what random orders give for the same image; `spread` how far other orders of equal pixels
    move the mean of the former, as a standard deviation.
    """

    published: np.ndarray
    corrected: np.ndarray
    spread: float


class RemovalTest:
    """Deletion and insertion for one setting and one set of images; what random orders give is measured once.

    Pixels are deleted to the `mean` colour, to black or into a blur (`fill`), `step` at a time, and inserted into the
    blur. Every order is taken `ties` times, each time with equal pixels in another order.
    """

    def __init__(
        self,
        setting: Setting,
        images: Float[Tensor, "images 3 height width"],
        targets: Int64[Tensor, " images"],
        *,
        mean: Sequence[float],
        step: int,
        seed: int,
        ties: int,
        fill: Literal["mean", "black", "blur"] = "mean",
    ) -> None:
        self.images, self.step, self.seed, self.ties = images, step, seed, ties
        self.model = setting.model
        self.targets, self.factors = targets, (setting.published, setting.scale)
        self.chance: dict[bool, np.ndarray] = {}
        blur = 5.0 * images.shape[-1] / PAPER_PIXELS
        self.substitutes = {
            False: substitute(images if fill == "blur" else images[:1], fill, mean=mean, blur=blur),
            True: substitute(images, "blur", blur=blur),
        }

    def deletion(self, attributions: Maps) -> Removal:
        """Take the pixels of highest attribution away first: low is good."""
        return self._removal(attributions, insertion=False)

    def insertion(self, attributions: Maps) -> Removal:
        """Put the pixels of highest attribution in first: high is good."""
        return self._removal(attributions, insertion=True)

    def _removal(self, attributions: Maps, *, insertion: bool) -> Removal:
        areas = [self._areas(attributions, number, insertion) for number in range(self.ties)]
        published, corrected = map(np.stack, zip(*areas, strict=True))
        relative = corrected.mean(0) / self._of_random_orders(insertion)
        return Removal(published.mean(0), relative, float(published.mean(1).std()))

    def _of_random_orders(self, insertion: bool) -> np.ndarray:
        if insertion not in self.chance:
            count, size = len(self.images), (self.images.shape[-2], self.images.shape[-1])
            orders = (random_attribution(count, size, seed_for(self.seed, "order", k)) for k in range(self.ties))
            self.chance[insertion] = np.mean([self._areas(order, 0, insertion)[1] for order in orders], axis=0)
        return self.chance[insertion]

    def _areas(self, attributions: Maps, number: int, insertion: bool) -> tuple[np.ndarray, np.ndarray]:
        """The areas under the setting's own score, of which the highest is 1, and under the probability."""
        substitutes = self.substitutes[insertion]
        options = {"model": self.model, "factors": self.factors, "step": self.step, "insertion": insertion}
        jobs = {
            name: {
                "images": self.images[rows], "targets": self.targets[rows],
                "attributions": attributions[rows].to(self.images.device),
                "substitutes": substitutes[rows] if len(substitutes) > 1 else substitutes,
                "seed": seed_for(self.seed, "ties", number, *rows[:1].tolist()), **options,
            }
            for name, rows in in_parts(len(self.images), TOGETHER).items()
        }  # fmt: skip
        found = dict(side_by_side(_areas, jobs, device=self.images.device.type))
        published, probability = torch.cat([found[name] for name in jobs]).numpy().T
        return published, probability


TOGETHER = 20  # images of which pixels are removed by one process


def _areas(
    model: nn.Module,
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    factors: Sequence[float | None],
    attributions: Maps,
    substitutes: Float[Tensor, "#images 3 height width"],
    step: int,
    insertion: bool,
    seed: int,
) -> Float[Tensor, "images kinds"]:
    def scores(seen: Float[Tensor, "batch 3 height width"], rows: Int64[Tensor, " batch"]) -> Tensor:
        """The setting's own score and the probability, [batch, 2], from one forward pass."""
        outputs = model(seen)
        both = [class_score(lambda _: outputs, targets, softmax=factor) for factor in factors]
        return torch.stack([score(seen, rows) for score in both], 1)

    with evaluating(model):
        curves = removal_curves(scores, images, attributions, substitutes, step=step, insertion=insertion, seed=seed)
    return torch.stack([curves.areas("max")[:, 0], curves.areas()[:, 1]], 1)


def edges(images: Float[Tensor, "images 3 height width"]) -> Maps:
    """A map that knows no model: how much the brightness changes around each pixel."""
    bright = images.mean(1, keepdim=True)
    across, down = (F.pad(bright.diff(dim=dim).abs(), pad) for dim, pad in ((3, (0, 1, 0, 0)), (2, (0, 0, 0, 1))))
    deviation = 2.0 * images.shape[-1] / 64
    return gaussian_blur(across + down, [2 * round(2 * deviation) + 1] * 2, [deviation] * 2)[:, 0]


@dataclass(frozen=True, eq=False)
class DeletionControls:
    """Orders of which it is known how good they are, by setting, and by protocol and name what they must show.

    `gaps` [images] are means over both settings, but "same-map": one order's score for the zero-shot model minus that
    for the fine-tuned one.
    """

    orders: dict[str, dict[str, Removal]]
    gaps: dict[tuple[str, str], np.ndarray]


def deletion_controls(
    settings: Sequence[Setting],
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    own: Sequence[Maps],
    oracle: Bool[Tensor, "images height width"],
    measured: Mapping[str, Any],
) -> DeletionControls:
    """Deletion by the part that is used (where the pictures know one), by edges, and by orders that know nothing.

    `own` are the maps of each setting, and `measured` the options of `RemovalTest`.
    """
    count, size, seed = len(images), (images.shape[-2], images.shape[-1]), measured["seed"]
    given: dict[str, Maps] = {
        "edges": edges(images),
        "centre": centre_attribution(count, size),
        "random": random_attribution(count, size, seed_for(seed, "control", 0)),
        "random again": random_attribution(count, size, seed_for(seed, "control", 1)),
    }
    if oracle.flatten(1).any(1).all():
        given = {"oracle": oracle.float(), **given}
    orders: dict[str, dict[str, Removal]] = {}
    for setting, mine in zip(settings, own, strict=True):
        judge = RemovalTest(setting, images, targets, **measured)
        found = {name: judge.deletion(each) for name, each in given.items()}
        orders[setting.name] = found | {"another": judge.deletion(mine.roll(1, 0)), "own": judge.deletion(mine)}
    gaps: dict[tuple[str, str], np.ndarray] = {}
    for protocol, field in PROTOCOLS.items():
        values = {name: [getattr(each[name], field) for each in orders.values()] for name in orders[settings[0].name]}
        mean = {name: np.mean(each, axis=0) for name, each in values.items()}
        if "oracle" in mean:
            gaps[protocol, "oracle-minus-random"] = mean["oracle"] - mean["random"]
            gaps[protocol, "oracle-minus-edges"] = mean["oracle"] - mean["edges"]
        gaps[protocol, "own-minus-another"] = mean["own"] - mean["another"]
        random, same = mean["random again"] - mean["random"], values["centre"][0] - values["centre"][1]
        for name, gap in (("random", random), ("same-map", same)):
            gaps[protocol, name], gaps[protocol, f"{name}-back"] = gap, -gap
    shown = {name: {k: v for k, v in each.items() if k not in ("own", "random again")} for name, each in orders.items()}
    return DeletionControls(shown, gaps)


def energy_in(attributions: Maps, regions: Bool[Tensor, "images height width"]) -> np.ndarray:
    """The share of each image's attribution that lies in its region; for a map of zeros the region's area."""
    return pointing_game(attributions, regions).energy


def rank_in(attributions: Maps, regions: Bool[Tensor, "images height width"]) -> np.ndarray:
    """How high the pixels of a region stand in each map: the chance that one of them has more than one outside.

    Equal ones count half, so that a map that knows nothing gets 0.5. No sum: a map of few high cells and one of many
    can be compared. Raises ValueError for a region without pixels, or without a rest.
    """
    return np.asarray(auc(attributions.double().flatten(1).cpu().numpy(), regions.flatten(1).cpu().numpy()))


def improvement(ours: np.ndarray, other: np.ndarray, seed: int) -> Interval:
    """By what share of it the mean of `ours` is lower than that of `other`, of the same pictures."""

    def lower(a: np.ndarray, b: np.ndarray) -> float:
        return float(1 - a.mean() / b.mean())

    return bootstrap(lower, ours, other, seed=seed)


def between_groups(values: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int) -> Interval:
    """The mean of the pictures `first` minus that of the pictures `second`, which are others."""

    def gap(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.mean() - b.mean())

    return bootstrap(gap, values[first], values[second], seed=seed, paired=False)


def correlation(first: Maps, second: Maps) -> np.ndarray:
    """Pearson's correlation of two maps over the pixels of each image; NaN where one of them is constant."""
    a, b = (each.double().flatten(1) for each in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(scale > 1e-12, (a * b).sum(1) / scale.clamp_min(1e-12), torch.nan).cpu().numpy()


# --- other models, other explainers -------------------------------------------------------------------------------


def randomised(clip: Clip, setting: Setting, train: Classified, cfg: Settings, seed: int) -> dict[str, Setting]:
    """Models whose maps should differ from the setting's own, and the setting itself, to be explained once more.

    "random weights" has an image tower that learned nothing; "shuffled labels" a probe of shuffled labels or,
    zero-shot, the classes' texts in another order. Source: Adebayo et al. (2018), section 3.
    """
    draw = generator(seed, "randomised", setting.name)
    model = setting.classifier
    untrained = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "random weights"))
        reset(untrained.encoder)
    if isinstance(model, LinearProbe):
        labels = train.labels[torch.randperm(len(train), generator=draw)]
        found = embed(model.encoder, train.batches(), cfg.device)
        head = train_head(found, labels, len(train.names), seed=seed, epochs=cfg.epochs)
        shuffled: ZeroShot | LinearProbe = LinearProbe(model.encoder, head)
    else:
        classes = model.classes
        # Moved by one after shuffling, so that no class keeps its own text.
        order = torch.randperm(len(classes), generator=draw)
        moved = torch.empty_like(order).index_copy_(0, order, order.roll(1))
        shuffled = ZeroShot(model.encoder, classes[moved.to(classes.device)])
    return {
        "itself": setting,
        "random weights": replace(setting, model=untrained),
        "shuffled labels": replace(setting, model=shuffled.to(cfg.device)),
    }


def reset(model: nn.Module) -> None:
    """Give every layer of an image tower the weights that it started with, or others as random."""
    for module in model.modules():
        if callable(restart := getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)):
            restart()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("class_embedding", "positional_embedding", "proj"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)


def other_explainers(
    setting: Setting,
    images: Float[Tensor, "images 3 height width"],
    targets: Int64[Tensor, " images"],
    cfg: Settings,
    seed: int,
) -> dict[str, Maps]:
    """Grad-CAM on the last attention, RISE, and integrated gradients (their absolute values), of the same answers.

    Grad-CAM explains the cosine or logit, which it needs only up to a factor; the others explain the probability.
    """
    model = setting.classifier
    encoder, size = model.encoder, (images.shape[-2], images.shape[-1])
    rows = model.head.weight if isinstance(model, LinearProbe) else model.classes
    probability = setting.score(targets, published=False)
    colour = substitute(images[:1], "mean", mean=cfg.mean)
    with evaluating(model):
        cams = grad_cam(encoder.model, encoder.prepare(images), rows.detach()[targets.to(rows.device)])
        return {
            "Grad-CAM": upsample(cams.to(images), size),
            "RISE": rise(probability, images, colour, seed=seed_for(seed, "rise"), masks=cfg.rise_masks),
            "integrated gradients": integrated_gradients(probability, images, colour, steps=cfg.ig_steps).abs(),
        }


# --- what the answer depends on -----------------------------------------------------------------------------------


def flips(
    setting: Setting, before: Float[Tensor, "images features"], after: Float[Tensor, "images features"]
) -> Interval:
    """How often the answer changes when the images, of these unit embeddings, are redrawn with one cause changed."""
    return proportion(int((setting.answers(before) != setting.answers(after)).sum()), len(before))
