"""The zoo of notebook 05: small classifiers of which it is known what they use.

Each is made by a `Spec`: a task, an architecture, and what agreed with the class in its training. Some have a shortcut
of a known strength, some two of which they may learn one, some one that is in the data and that they cannot have
learned; some have another head on the same backbone; some were trained on shuffled labels or not at all. What each uses
is measured by `truths`: the share of its answers that change when one factor alone is redrawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xaikit.companion.profiles import Settings
from xaikit.importance.interface import Classifier
from xaikit.metrics.intervals import Interval, bootstrap_mean
from xaikit.models.clip import Clip, load_from
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import generator, seed_for
from xaikit.storage.side_by_side import fetch_all
from xaikit.studies.zoo_tasks import PIXELS, TASKS, Pictures, deal
from xaikit.texplain.mitigation import Recipe, fine_tune

MEAN, STD = (0.5,) * 3, (0.5,) * 3
PLACEBO = "placebo"
Make = Literal["trained", "untrained", "shuffled", "unlearned", "head"]
# Where each kind has its last maps or tokens before the head, those for Grad-CAM, and an earlier layer for TCAV.
_LAYERS = {
    "resnet": ("model.layer4", "model.layer4", "model.layer2"),
    "vit": ("model.norm", "model.blocks.-1.norm1", "model.blocks.0"),
    "probe": ("0", "0.model.transformer.resblocks.-1.ln_1", "0.model.transformer.resblocks.3"),
}


@dataclass(frozen=True)
class Spec:
    """How one classifier is made.

    `agreement` is the share of training pictures in which a factor's value is the class's. "unlearned": it is so in the
    data, but training saw each picture with the other value as well. "head": the backbone is trained without a
    shortcut, and a head of its own tells `reads`.
    """

    task: str
    kind: str
    agreement: tuple[tuple[str, float], ...] = ()
    make: Make = "trained"
    reads: str = ""
    twin: int = 0

    @property
    def name(self) -> str:
        """All of it in a few words."""
        how = " ".join(f"{name} {share:g}" for name, share in self.agreement) or "no shortcut"
        parts = [self.task, self.kind, how if self.make != "head" else f"head for {self.reads}"]
        parts += [] if self.make in ("trained", "head") else [self.make]
        return ", ".join(parts + ([f"twin {self.twin}"] if self.twin else []))

    @property
    def shortcut(self) -> str:
        """The factor that agrees with the class most, or that a head tells; none where none does."""
        if self.make == "head":
            return "" if self.reads == TASKS[self.task].names[0] else self.reads
        return max(self.agreement, key=lambda pair: pair[1])[0] if self.agreement else ""


def specs(cfg: Settings) -> list[Spec]:
    """All classifiers of a profile: `tasks`, `kinds` and `strengths`, and the controls that `controls` names."""
    found = []
    for task, kind in product(cfg.tasks, cfg.kinds):
        shortcuts = TASKS[task].shortcuts[: cfg.shortcuts]
        plain = Spec(task, kind)
        found += [replace(plain, twin=twin) for twin in range(cfg.twins)]
        found += [replace(plain, agreement=((name, share),)) for name, share in product(shortcuts, cfg.strengths)]
        if "untrained" in cfg.controls:
            found.append(replace(plain, make="untrained"))
        if "shuffled" in cfg.controls:
            found.append(replace(plain, agreement=((shortcuts[0], 1.0),), make="shuffled"))
        if "competing" in cfg.controls:
            found.append(replace(plain, agreement=tuple((name, 1.0) for name in TASKS[task].shortcuts)))
        if "unlearned" in cfg.controls:
            found += [replace(plain, agreement=((name, 1.0),), make="unlearned") for name in shortcuts]
        if "head" in cfg.controls and kind == "resnet":
            found += [replace(plain, make="head", reads=name) for name in (TASKS[task].names[0], *shortcuts)]
    return found


def network(kind: str, seed: int) -> Preprocessed:
    """A small ResNet, whose last maps are 8 × 8, or a small ViT of as many patches, with random weights."""
    torch.manual_seed(seed_for(seed, "zoo", kind))
    if kind == "resnet":
        sizes = {"channels": (16, 24, 32, 48), "stem_width": 16, "output_stride": 8}
        model: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=2, **sizes)
    elif kind == "vit":
        model = VisionTransformer(img_size=PIXELS, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=2)
    else:
        raise ValueError(f"Unknown kind of network {kind!r}: choose resnet or vit.")
    return Preprocessed(model, PIXELS, MEAN, STD).eval()


@dataclass(frozen=True, eq=False)
class Member:
    """A classifier of the zoo, and its weights: of all of it, or of a probe's head."""

    spec: Spec
    classifier: Classifier
    state: dict[str, Tensor]


def zoo(cfg: Settings, wanted: Sequence[Spec]) -> dict[str, Member]:
    """The classifiers by their names: trained side by side, each on a thread, or read from the cache."""
    clip = load_from(cfg.clip, cfg.device)
    jobs = {
        spec.name: {
            **{key: value for key, value in vars(spec).items() if key != "agreement"},
            "agreement": dict(spec.agreement), "n": cfg.learned_from, "seed": cfg.seed,
            "recipe": Recipe(**cfg[spec.kind]) if spec.kind != "probe" else None,
            "clip": dict(cfg.clip) if spec.kind == "probe" else None, "device": cfg.device,
        }
        for spec in wanted
    }  # fmt: skip
    states = fetch_all(_made, jobs, label="making classifiers", device=cfg.device)
    return {
        spec.name: Member(spec, classifier_of(spec.kind, states[spec.name], clip, cfg.device), states[spec.name])
        for spec in wanted
    }


def classifier_of(kind: str, state: Mapping[str, Tensor], clip: Clip | None, device: str) -> Classifier:
    """The classifier of a kind with these weights; a probe needs the CLIP that it is on."""
    layer, map_layer, middle = _LAYERS[kind]
    if kind == "probe":
        assert clip is not None
        head = nn.Linear(state["weight"].shape[1], 2)
        head.load_state_dict(dict(state))
        model: nn.Module = nn.Sequential(clip.image_encoder, head)
        weight = head.weight
    else:
        model = network(kind, 0)
        model.load_state_dict(dict(state))
        weight = model.model.fc.weight if kind == "resnet" else model.model.head.weight
    model = model.to(device).eval().requires_grad_(False)
    difference = (weight[1] - weight[0]).detach().to(device)
    return Classifier(model, layer, map_layer, middle, difference, clip if kind == "probe" else None)


def training_pictures(
    spec: Spec, n: int, seed: int
) -> tuple[Int64[Tensor, " pictures"], Int64[Tensor, "pictures factors"]]:
    """The answers that training took for right, and the value of every factor, in the training pictures."""
    pictures = _training_pictures(spec.task, dict(spec.agreement), n, seed, spec.twin)
    return _right(spec.make, spec.reads, pictures, seed), torch.from_numpy(pictures.codes.copy())


def _training_pictures(task: str, agreement: Mapping[str, float], n: int, seed: int, twin: int) -> Pictures:
    return deal(TASKS[task], n, seed_for(seed, "zoo", "twin", twin), "train", agreement)


def _right(make: str, reads: str, pictures: Pictures, seed: int) -> Int64[Tensor, " pictures"]:
    """The answers that training took for right."""
    if make == "head":
        return torch.from_numpy(pictures.codes[:, pictures.task.names.index(reads)].copy())
    labels = pictures.labels
    if make == "shuffled":
        return labels[torch.randperm(len(labels), generator=generator(seed, "zoo", "shuffled", pictures.task.name))]
    return labels


def _made(
    task: str,
    kind: str,
    agreement: Mapping[str, float],
    make: Make,
    reads: str,
    twin: int,
    n: int,
    seed: int,
    recipe: Recipe | None,
    clip: Mapping[str, str] | None,
    device: str,
) -> dict[str, Tensor]:
    """The weights of one classifier: of all of it, or of a probe's head."""
    own = seed_for(seed, "zoo", task, kind, make, twin)
    pictures = _training_pictures(task, agreement, n, seed, twin)
    if make == "unlearned":
        (name,) = agreement
        other = pictures.redrawn_in(name)
        images, right = torch.cat([pictures.pixels(), other.pixels()]), pictures.labels.repeat(2)
    else:
        images, right = pictures.pixels(), _right(make, reads, pictures, seed)
    if clip is not None:
        encoder = load_from(clip, device).image_encoder
        width = encoder.model.output_dim
        if make == "untrained":
            draw = generator(own, "head")
            return {"weight": torch.randn(2, width, generator=draw), "bias": torch.zeros(2)}
        with torch.no_grad():
            features = torch.cat([encoder(part.to(device).float() / 255).cpu() for part in images.split(100)])
        return logistic(features, right)
    assert recipe is not None
    model = network(kind, own).to(device)
    if make == "untrained":
        return dict(model.state_dict())
    if make == "unlearned":
        recipe = replace(recipe, epochs=max(1, recipe.epochs // 2))  # of twice as many pictures
    model = fine_tune(model, images, pictures.labels if make == "head" else right, recipe, own, device=device)
    state = dict(model.state_dict())
    if make == "head":
        assert kind == "resnet"
        pooled = nn.Sequential(model, nn.Identity())
        model.model.reset_classifier(0)
        with torch.no_grad():
            features = torch.cat([pooled(part.to(device).float() / 255).cpu() for part in images.split(100)])
        head = logistic(features, right)
        state |= {"model.fc.weight": head["weight"], "model.fc.bias": head["bias"]}
    return state


def logistic(
    features: Float[Tensor, "images width"], labels: Int64[Tensor, " images"], decay: float = 1e-2, steps: int = 100
) -> dict[str, Tensor]:
    """Weight [2, width] and bias [2] of a logistic regression of standardised features, for the features as they are.

    `decay` times half the squared weights is added to the mean loss. Raises ValueError for a single class.
    """
    if len(labels.unique()) != 2:
        raise ValueError(f"There are {len(labels.unique())} classes to tell apart: give features of two.")
    x = features.double()
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / deviation
    weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    target = labels.double()
    optimiser = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weight[:-1] + weight[-1], target)
        value = value + decay / 2 * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    found = weight.detach()
    slope = found[:-1] / deviation
    bias = found[-1] - slope @ mean
    return {"weight": torch.stack([-slope / 2, slope / 2]).float(), "bias": torch.stack([-bias / 2, bias / 2]).float()}


# --- what each uses ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Truth:
    """What a classifier does with independent pictures, and with the same ones redrawn.

    `flips[factor]`: for each picture, whether its answer changes with the factor alone; under `PLACEBO`, with nothing
    but the static. `inside`: right answers to pictures as in training; `outside`: to independent ones.
    """

    flips: dict[str, Bool[np.ndarray, " pictures"]]
    inside: Bool[np.ndarray, " pictures"]
    outside: Bool[np.ndarray, " pictures"]

    def share(self, name: str) -> float:
        """The share of answers that a factor flips."""
        return float(self.flips[name].mean())

    def interval(self, name: str, seed: int) -> Interval:
        """The same with its interval."""
        return bootstrap_mean(self.flips[name].astype(float), seed).within(0.0, 1.0)


def truths(cfg: Settings, members: Mapping[str, Member]) -> dict[str, Truth]:
    """What each classifier uses, by its name: on `cfg.tested` pictures of its task, the same for all of a task."""
    groups: dict[str, list[Member]] = {}
    for member in members.values():
        groups.setdefault(f"{member.spec.task}, {member.spec.kind}", []).append(member)
    jobs = {
        name: {"specs": [member.spec for member in some], "states": [member.state for member in some],
               "clip": dict(cfg.clip), "tested": cfg.tested, "seed": cfg.seed, "device": cfg.device}
        for name, some in groups.items()
    }  # fmt: skip
    found: dict[str, Truth] = {}
    for name, result in fetch_all(_truths, jobs, label="redrawing", device=cfg.device).items():
        for row, member in enumerate(groups[name]):
            columns = (*TASKS[member.spec.task].names, PLACEBO)
            flips = dict(zip(columns, result["flips"][row], strict=True))
            found[member.spec.name] = Truth(flips, result["inside"][row], result["outside"][row])
    return {name: found[name] for name in members}


def _truths(
    specs: Sequence[Spec],
    states: Sequence[Mapping[str, Tensor]],
    clip: Mapping[str, str],
    tested: int,
    seed: int,
    device: str,
) -> dict[str, np.ndarray]:
    """The truths of classifiers of one task and kind, as arrays [classifiers, ...]."""
    probed = load_from(clip, device) if specs[0].kind == "probe" else None
    found = [
        truth_of(classifier_of(spec.kind, state, probed, device).model, spec, tested, seed, device)
        for spec, state in zip(specs, states, strict=True)
    ]
    return {
        "flips": np.stack([list(each.flips.values()) for each in found]),
        "inside": np.stack([each.inside for each in found]), "outside": np.stack([each.outside for each in found]),
    }  # fmt: skip


def truth_of(model: nn.Module, spec: Spec, tested: int, seed: int, device: str) -> Truth:
    """What one classifier uses: its answers to `tested` pictures of its task, and to the same ones redrawn."""
    pictures, images, redrawn = _redrawn(spec.task, tested, seed)
    inside = deal(pictures.task, tested, seed_for(seed, "inside"), "test", dict(spec.agreement))
    reads = pictures.task.names.index(spec.reads) if spec.reads else 0
    before = margins(model, images, device)
    flips = {name: ((before > 0) != (margins(model, other, device) > 0)).numpy() for name, other in redrawn.items()}
    answers = [(margins(model, inside.images(), device), inside), (before, pictures)]
    right = [((margin > 0).numpy() == of.codes[:, reads].astype(bool)) for margin, of in answers]
    return Truth(flips, *right)


@lru_cache(maxsize=1)
def _redrawn(task: str, tested: int, seed: int) -> tuple[Pictures, Tensor, dict[str, Tensor]]:
    """Pictures in which all factors are independent, and the same with each factor, or only the static, drawn anew."""
    pictures = deal(TASKS[task], tested, seed, "test")
    redrawn = {name: pictures.redrawn_in(name).images() for name in pictures.task.names}
    return pictures, pictures.images(), redrawn | {PLACEBO: replace(pictures, grain=1).images()}


def margins(model: nn.Module, images: Float[Tensor, "n 3 height width"], device: str) -> Float[Tensor, " n"]:
    """The logit of class 1 minus that of class 0, on the CPU."""
    with torch.no_grad():
        logits = torch.cat([model(part.to(device)).float().cpu() for part in images.split(100)])
    return logits[:, 1] - logits[:, 0]


def card(spec: Spec, truth: Truth, seed: int) -> dict[str, Any]:
    """A row of the zoo's table: what it is, how often it is right, what it uses."""
    row: dict[str, Any] = {"classifier": spec.name, "task": spec.task, "kind": spec.kind, "made": spec.make}
    row |= {"shortcut": spec.shortcut, "inside": truth.inside.mean(), "outside": truth.outside.mean()}
    for name in truth.flips:
        interval = truth.interval(name, seed)
        factor = "class" if name == TASKS[spec.task].names[0] else name
        row |= {f"{factor}": interval.value, f"{factor} low": interval.low, f"{factor} high": interval.high}
    return row
