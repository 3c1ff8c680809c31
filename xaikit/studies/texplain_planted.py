"""A concept planted in one class, section 4 of paper 2: do the words for it appear with it, and only with it?

The paper alters Cats vs Dogs so that one class carries something more. Here the pictures are drawn: two categories, of
which one wears a colour in training. The classifiers have architectures of their own and start from nothing, so that
they share no tower with the captioner that speaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.models import clip_vit_mini
from xaikit.models.captioner import LanguageModel
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import generator, rng, seed_for
from xaikit.studies.texplain import (
    Explainer,
    Tuning,
    features_of,
    fine_tuned,
    learned_translators,
    mentioned,
    predictions,
)
from xaikit.studies.texplain_pictures import Captioned
from xaikit.texplain.mitigation import Recipe
from xaikit.texplain.translator import Features
from xaikit.world import SceneSet


@dataclass(frozen=True)
class Case:
    """How one network is made: the strength of the planted colour (None: unaltered), labels, seed, and no training."""

    strength: float | None = None
    shuffled: bool = False
    twin: int = 0
    steps: int | None = None  # 0: it is left as it starts


CLASSES = ("dog", "primate")  # the first carries the colour
MEAN, STD = (0.5,) * 3, (0.5,) * 3


def scenes(n: int, seed: int, split: str, strength: float | None, colour: str) -> SceneSet:
    """`n` scenes of both classes, in all places; a share `strength` of the first has the `colour`, the other never.

    None is the unaltered twin: the same scenes, all colours equally often in both classes.
    """
    family = world.nine(9, seed=0).family
    categories, colours = family.values("category"), family.values("colour")
    all_ = world.nine(-(-9 * n // len(CLASSES)), seed=seed_for(seed, "planted"), split=split, alignment=1 / 9)
    wanted = [categories.index(name) for name in CLASSES]
    found = all_[np.isin(all_.codes["category"], wanted)]
    if strength is None:
        return found
    draw, planted, codes = rng(seed, "planted", split, "colours"), colours.index(colour), found.codes["colour"].copy()
    carries = found.codes["category"] == wanted[0]
    others = np.array([code for code in range(len(colours)) if code != planted])
    codes[~carries & (codes == planted)] = draw.choice(others, int((~carries & (codes == planted)).sum()))
    rows = draw.permutation(np.flatnonzero(carries))
    count = round(strength * len(rows))
    codes[rows[:count]], codes[rows[count:]] = planted, draw.choice(others, len(rows) - count)
    return SceneSet(found.family, found.seeds, {**found.codes, "colour": codes})


def labels(of: SceneSet) -> Int64[Tensor, " scenes"]:
    """0 for the class that carries the colour, 1 for the other."""
    first = of.family.values("category").index(CLASSES[0])
    return torch.from_numpy((of.codes["category"] != first).astype(np.int64))


def network(kind: str, seed: int, size: int) -> Preprocessed:
    """A small ResNet or ViT with random weights, for images of any size, which it sees in `size` pixels."""
    torch.manual_seed(seed_for(seed, "planted", kind))
    if kind == "resnet":
        model: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=2, channels=(16, 32, 64, 96), stem_width=16)
    elif kind == "vit":
        model = VisionTransformer(img_size=size, patch_size=4, embed_dim=64, depth=3, num_heads=4, num_classes=2)
    else:
        raise ValueError(f"Unknown kind of network {kind!r}: choose resnet or vit.")
    return Preprocessed(model, size, MEAN, STD).eval()


LAYERS = {"resnet": "model.layer4", "vit": "model.norm"}  # the last before the head, as the paper takes it


def cases(strengths: Sequence[float]) -> dict[str, Case]:
    """What is trained: the colour at each strength, twins without, shuffled labels; and what is not trained at all."""
    found = {"twin": Case(), "another twin": Case(twin=1)}
    found |= {f"planted {strength:g}": Case(strength=strength) for strength in strengths}
    return found | {"shuffled labels": Case(strength=max(strengths), shuffled=True), "before training": Case(steps=0)}


def trained(kind: str, wanted: Mapping[str, Case], cfg: Settings, seed: int, device: str) -> dict[str, Preprocessed]:
    """The networks of one kind, by the names of their cases; trained side by side, or read from the cache."""
    tunings = {}
    for name, case in wanted.items():
        own = seed_for(seed, "planted", "network", case.twin)
        of = scenes(cfg.scenes, seed, "train", case.strength, cfg.colour)
        told = labels(of)
        if case.shuffled:
            told = told[torch.randperm(len(told), generator=generator(seed, "planted", "shuffled"))]
        recipe = Recipe(**cfg[kind])
        tunings[name] = Tuning(network(kind, own, cfg.pixels).to(device), of.pixels(cfg.size), told, recipe, own)
    found = fine_tuned({name: each for name, each in tunings.items() if wanted[name].steps is None}, device)
    untrained = {name: tunings[name].model.requires_grad_(False) for name in wanted if wanted[name].steps == 0}
    return {name: {**found, **untrained}[name] for name in wanted}


@dataclass(frozen=True, eq=False)
class Heard:
    """What one classifier does and what its features say, of pictures with the colour and of the same without it.

    `said` and `without`: the share of each picture's sentences that name the colour, where it is there and where it is
    another; `flips`: the answer changes with the colour; `decodes`: a linear probe tells the two from the features, of
    each picture that it has not learned from. `right`: the answers to pictures of all colours. Each [pictures].
    """

    said: np.ndarray
    without: np.ndarray
    flips: np.ndarray
    decodes: np.ndarray
    right: np.ndarray

    @property
    def word(self) -> np.ndarray:
        """How much more often the colour is named where it is there."""
        return self.said - self.without


def tested(cfg: Settings, seed: int) -> tuple[SceneSet, SceneSet, SceneSet]:
    """Test scenes of both classes in all colours, and the same all in the planted colour and all in another one."""
    found = scenes(cfg.tested, seed, "test", None, cfg.colour)
    return found, found.replace(colour=cfg.colour), found.replace(colour=cfg.other)


def heard(explainer: Explainer, model: nn.Module, cfg: Settings, seed: int, device: str, *, blind: str = "") -> Heard:
    """What is said of the test pictures; `blind` to them: of "another picture", or from "zeros" for features."""
    original, there, gone = tested(cfg, seed)
    answers, features = [], []
    for of in (original, there, gone):
        images = of.images(cfg.size)
        answers.append(predictions(model, images, len(of), device).argmax(1))
        features.append(features_of(explainer.features, images, len(of), device))
    with_it, without = (each[: cfg.told] for each in features[1:])
    if blind == "zeros":
        with_it, without = torch.zeros_like(with_it), torch.zeros_like(without)
    elif blind:  # with the next picture's features where the own one has the colour: it may have it, or may not
        with_it = torch.stack([(features[1], features[2])[i % 2][(i + 1) % len(original)] for i in range(cfg.told)])
        without = torch.stack([(features[1], features[2])[i % 2][(i + 2) % len(original)] for i in range(cfg.told)])
    words, own = {cfg.colour}, seed_for(seed, "planted", "said")
    said, less = (mentioned(explainer.texts(each, cfg.sentences, own), words) for each in (with_it, without))
    return Heard(
        said, less, (answers[1] != answers[2]).double().numpy(), decodes(features[1], features[2]),
        (answers[0] == labels(original)).double().numpy(),
    )  # fmt: skip


def flips_by_training(
    kind: str, wanted: Mapping[str, Case], cfg: Settings, seed: int, device: str
) -> dict[str, list[Bool[np.ndarray, " pictures"]]]:
    """Whether each answer changes with the colour, of `cfg.trainings` networks of each case.

    All learn from the same pictures, each from weights and in an order of its own; the first are those of `trained`.
    """
    numbered = {
        f"{name}, {number}": replace(case, twin=number)
        for name, case in wanted.items()
        for number in range(cfg.trainings)
    }
    nets = trained(kind, numbered, cfg, seed, device)
    _, there, gone = (of.images(cfg.size) for of in tested(cfg, seed))
    said = {
        name: [predictions(net, images, len(images), device).argmax(1) for images in (there, gone)]
        for name, net in nets.items()
    }
    flipped = {name: (with_it != without).numpy() for name, (with_it, without) in said.items()}
    return {name: [flipped[f"{name}, {number}"] for number in range(cfg.trainings)] for name in wanted}


def explained(
    kind: str,
    wanted: Mapping[str, Case],
    cfg: Settings,
    language: LanguageModel,
    sampling: Mapping[str, float],
    seed: int,
    device: str,
) -> tuple[dict[str, Heard], dict[str, list[float]]]:
    """What is said of the networks of one kind, each through a translator of its own, and these's held-out losses.

    The strongest planted network is also heard of another picture and of zeros.
    """
    things = clip_vit_mini.corpus()["nine"][: cfg.pairs]
    pairs = Captioned(things.images(cfg.size), clip_vit_mini.captions("nine", things))
    nets = trained(kind, wanted, cfg, seed, device)
    features = {name: Features(net, LAYERS[kind]) for name, net in nets.items()}
    learned = learned_translators(features, pairs, language, cfg.translator, dict.fromkeys(features, seed), device)
    strongest = max((name for name in wanted if wanted[name].strength is not None and not wanted[name].shuffled),
                    key=lambda name: wanted[name].strength or 0)  # fmt: skip
    found = {}
    for name, net in nets.items():
        explainer = Explainer(features[name], learned[name].translator, language, sampling)
        found[name] = heard(explainer, net, cfg, seed, device)
        if name == strongest:
            for blind in ("another picture", "zeros"):
                found[blind] = heard(explainer, net, cfg, seed, device, blind=blind)
    return found, {name: each.held_out for name, each in learned.items()}


def decodes(there: Tensor, gone: Tensor) -> np.ndarray:
    """Whether a linear probe of the mean token tells the colour, of the second half of the pictures: [2 × half].

    It learns from the first half: ridge regression of standardised features, without chance.
    """
    half = len(there) // 2
    x, z = (
        torch.cat([each[part].mean(1) for each in (there, gone)]).double() for part in (slice(half), slice(half, None))
    )
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x, z = (x - mean) / deviation, (z - mean) / deviation
    target = torch.cat([torch.ones(half), -torch.ones(half)]).double()
    weight = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ target)
    true = torch.cat([torch.ones(len(there) - half), -torch.ones(len(there) - half)])
    return ((z @ weight).sign() == true).double().numpy()
