"""The experiments of paper 2: a classifier's features told in words, and what the words are worth."""

import copy
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModel, AutoTokenizer

from xaikit.companion.profiles import Settings
from xaikit.datasets import imagenet, imagenet9
from xaikit.metrics.intervals import Interval, bootstrap
from xaikit.models import vit_classifier
from xaikit.models.captioner import LanguageModel
from xaikit.models.clip import load_from
from xaikit.models.generator import Generator
from xaikit.models.hooks import at_least_float32, evaluating
from xaikit.models.hub import find, load_whole, remember, said
from xaikit.models.tokens import report_losses
from xaikit.storage.paths import DATASETS
from xaikit.storage.seeding import seed_for
from xaikit.storage.side_by_side import fetch_all, in_parts, side_by_side
from xaikit.studies import lexicon
from xaikit.studies import texplain_pictures as pictures
from xaikit.studies.clip_pictures import WORLD
from xaikit.studies.lexicon import named_factors, true_words, words_for
from xaikit.studies.texplain_pictures import Captioned, batches
from xaikit.studies.vlm_pictures import Classified
from xaikit.texplain.mitigation import Recipe, fine_tune
from xaikit.texplain.sampling import sample
from xaikit.texplain.text_overlap import Embed, has_words, mean_pooled, over_samples, overlap
from xaikit.texplain.training import InMemory, read_translator
from xaikit.texplain.training import Recipe as TranslatorRecipe
from xaikit.texplain.training import train as train_translator
from xaikit.texplain.translator import Translator, log_probabilities
from xaikit.texplain.words import document_frequency, dominant, explained_by_prior, words_of
from xaikit.world import SceneSet
from xaikit.world.scene import Scene, Value
from xaikit.world.scene_birds import Birds
from xaikit.world.scene_nine import HOMES

Tokens = Float[Tensor, "images tokens width"]
Sentences = Int64[Tensor, "images n length"]


# --- from images to words ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Explainer:
    """Features of a frozen model, the translator that was trained on them, and the frozen language model."""

    features: nn.Module  # images in [0, 1] to tokens [batch, tokens, width]
    translator: nn.Module
    language: LanguageModel
    sampling: Mapping[str, Any]

    def condition(self, features: Tokens) -> Float[Tensor, "images conditions channels"]:
        """What the decoder is told of features."""
        device = next(self.language.decoder.parameters()).device
        with torch.no_grad():
            return torch.cat([self.translator(part.to(device)) for part in features.split(64)])

    def sentences(self, features: Tokens, n: int, seed: int) -> Sentences:
        """`n` sentences for each image's features, without the prompt; a padding that was sampled ends one, too."""
        language, given = self.language, self.condition(features)
        options = {"prompt": language.prompt, "end": language.end, "pad": language.pad, "seed": seed, **self.sampling}
        # On a GPU all at once, or as many as `sample` takes.
        together = max(1, TOGETHER // n) if given.device.type == "cpu" else len(given)
        jobs = {
            name: {"decoder": language.decoder, "conditioning": given[rows], "n": n, "ids": rows.tolist(), **options}
            for name, rows in in_parts(len(given), together).items()
        }
        parts = dict(side_by_side(sample, jobs, device=given.device.type))
        found = torch.cat([parts[name] for name in jobs]).cpu()
        return found.masked_fill((found == language.pad).cumsum(2) > 0, language.pad)

    def texts(self, features: Tokens, n: int, seed: int) -> list[list[str]]:
        """The same as texts, a list for each image."""
        return decoded(self.language, self.sentences(features, n, seed))


TOGETHER = 600  # sentences that one process samples


def decoded(language: LanguageModel, sentences: Sentences) -> list[list[str]]:
    """The texts of the sentences of each image."""
    distinct, which = sentences.flatten(0, 1).unique(dim=0, return_inverse=True)  # many are alike
    texts = language.decode(distinct)
    return [[texts[i] for i in each] for each in which.view(sentences.shape[:2]).tolist()]


def features_of(module: nn.Module, images: Any, count: int, device: str, size: int = 64) -> Tokens:
    """The features of the images at positions 0 to `count`, on the CPU."""
    with torch.no_grad():
        return torch.cat([module(part.to(device)).cpu() for part in batches(images, count, size)])


def trained_translator(
    features: nn.Module,
    pairs: Captioned,
    language: LanguageModel,
    settings: Settings,
    seed: int,
    device: str,
    *,
    start: Translator | None = None,
    file: str | None = None,
    **options: Any,
) -> Translator:
    """A translator (with `options`) from `features` to the language model, trained on image-caption pairs.

    The features of all pairs are computed once and kept; what was trained before is read from the cache. With `start`
    it goes on from another translator of the same shape. `settings` are those of `training.Recipe`, and `longest`, the
    tokens of a caption. With `file`, a name in the data folder, nothing is trained where that is there: it is what
    `xaikit train-translator` has written. Raises ValueError for no pair.
    """
    if file and (DATASETS / file).is_file():
        return read_translator(DATASETS / file, device)
    seeds, of = {"translator": seed}, {"translator": features}
    return trained_translators(of, pairs, language, settings, seeds, device, start=start, **options)["translator"]


def learned_from(file: str) -> str | None:
    """What the translator of a file in the data folder has learned from, in words; None where there is no such file.

    `xaikit train-translator` leaves training.json beside it, which says it.
    """
    path = DATASETS / file
    if not file or not path.is_file():
        return None
    about = path.with_name("training.json")
    if not about.is_file():
        return "pairs that nothing tells of"
    options = json.loads(about.read_text(encoding="utf-8"))["options"]
    epochs = dict(zip(("web", "coco"), re.findall(r"\d+", options["epochs"]), strict=True))
    parts = [f"{int(options['pairs']):,} pairs × {epochs['web']} epochs"] if int(options["pairs"]) else []
    parts += [f"COCO × {epochs['coco']}"] if options["coco"] != "None" else []
    return " and ".join(parts)


def trained_translators(
    features: Mapping[str, nn.Module],
    pairs: Captioned,
    language: LanguageModel,
    settings: Settings,
    seeds: Mapping[str, int],
    device: str,
    *,
    start: Translator | None = None,
    **options: Any,
) -> dict[str, Translator]:
    """A translator as `trained_translator` gives for each of `features`, by their names; trained side by side."""
    found = learned_translators(features, pairs, language, settings, seeds, device, start=start, **options)
    return {name: learned.translator for name, learned in found.items()}


@dataclass(frozen=True, eq=False)
class Learned:
    """A translator, and its loss on held-out pairs after each epoch, in nats a token: that of the least is kept."""

    translator: Translator
    held_out: list[float]


def learned_translators(
    features: Mapping[str, nn.Module],
    pairs: Captioned,
    language: LanguageModel,
    settings: Settings,
    seeds: Mapping[str, int],
    device: str,
    *,
    start: Translator | None = None,
    **options: Any,
) -> dict[str, Learned]:
    """The same, with the losses of the pairs that are held out: one of `HELD_OUT`, where that leaves enough to learn.

    Training ends when the loss has not fallen for `settings.patience` epochs (by default it does not end early).
    """
    if not len(pairs):
        raise ValueError("There is no image with captions to learn from: ask for at least two pairs.")
    each = min(map(len, pairs.captions))
    flat = [text for texts in pairs.captions for text in texts[:each]]
    common = {
        "sentences": encoded(language, flat, settings.longest).unflatten(0, (-1, each)),
        "decoder": language.decoder,
        "prompt": len(language.prompt),
        "pad": language.pad,
        "arguments": {"to_width": language.width, **options} if start is None else dict(start.arguments),
        "start": start,
        "recipe": TranslatorRecipe(
            settings.epochs,
            settings.batch,
            settings.learning_rate,
            precision=settings.get("precision", "float32"),
            at_once=settings.get("at_once"),
        ),
        "patience": settings.get("patience", settings.epochs),
        "device": device,
    }
    found = {}
    # On a GPU they are trained one after the other, so the features of one at a time are kept in memory.
    rounds = [features] if device == "cpu" else [{name: module} for name, module in features.items()]
    for turn in rounds:
        jobs = {
            name: {**common, "features": features_of(module, pairs.images, len(pairs), device), "seed": seeds[name]}
            for name, module in turn.items()
        }
        for name, state in fetch_all(_translator, jobs, label="training translators", device=device).items():
            losses = state.pop("held_out").tolist()
            translator = _new_translator(jobs[name]["features"], common["arguments"])
            translator.load_state_dict(state)
            found[name] = Learned(translator.to(device).eval().requires_grad_(False), losses)
    return found


HELD_OUT = 10  # one pair of so many: the training looks at its loss, and does not learn from it


def held_out_losses(
    translator: nn.Module,
    features: Tokens,
    sentences: Int64[Tensor, "rows captions length"],
    decoder: nn.Module,
    prompt: int,
    pad: int,
) -> Float[Tensor, " images"]:
    """The loss of each image's captions, in nats a token, on the CPU."""
    device, found = next(decoder.parameters()).device, []
    with torch.no_grad(), evaluating(translator):
        for z, told in zip(features.split(64), sentences.split(64), strict=True):
            given = translator(z.to(device).float()).repeat_interleave(told.shape[1], 0)
            flat = told.flatten(0, 1).to(device)
            logs = log_probabilities(decoder, given, flat, pad=pad)[:, prompt - 1 :].sum(1)
            count = (flat[:, prompt:] != pad).sum(1)
            found.append(-(logs.view(len(z), -1).sum(1) / count.view(len(z), -1).sum(1)).cpu())
    return torch.cat(found)


def encoded(
    language: LanguageModel, texts: Sequence[str], longest: int, counts: Counter[str] | None = None
) -> Int64[Tensor, "texts length"]:
    """Prompt, words and end of each caption, padded behind; what is longer than `longest` tokens is cut off.

    A warning names what is cut and what the tokenizer does not know (`report_losses`), or `counts` grows by how many.
    Raises ValueError where the prompt leaves no room for a word.
    """
    room = longest - len(language.prompt) - 1
    if room < 1:
        raise ValueError(f"No word has room in {longest} tokens with the prompt: give more.")
    tokenizer = language.tokenizer
    rows = tokenizer(list(texts), add_special_tokens=False).input_ids
    unknown = tokenizer.unk_token_id
    if counts is None:
        report_losses(texts, tokenizer, longest, prompt=len(language.prompt) + 1)
    else:
        counts["cut off"] += sum(len(row) > room for row in rows)
        counts["with an unknown word"] += sum(unknown in row for row in rows)
    sentences = [torch.tensor([*language.prompt, *(row[:room] or [unknown]), language.end]) for row in rows]
    return nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=language.pad)


def _translator(
    features: Tokens,
    sentences: Int64[Tensor, "rows captions length"],
    decoder: nn.Module,
    prompt: int,
    pad: int,
    arguments: dict[str, Any],
    start: Translator | None,
    recipe: TranslatorRecipe,
    patience: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    torch.manual_seed(seed_for(seed, "translator", "weights"))
    translator = _new_translator(features, arguments)
    if start is not None:
        translator.load_state_dict(start.state_dict())
    held = torch.arange(len(features)) % HELD_OUT == HELD_OUT - 1
    data = InMemory(features[~held], sentences[~held], recipe.batch, seed)
    losses: list[float] = []
    best: dict[str, Tensor] = {}

    def look(_epoch: int) -> bool:
        own = held_out_losses(translator, features[held], sentences[held][:, :2], decoder, prompt, pad)
        losses.append(float(own.double().mean()))
        if losses[-1] == min(losses):
            best.update({name: value.clone() for name, value in translator.state_dict().items()})
        return len(losses) - losses.index(min(losses)) > patience

    train_translator(translator.to(device), decoder, data, recipe, prompt=prompt, pad=pad, steps_an_epoch=len(data),
                     seed=seed, device=device, after_epoch=look if held.any() else None)  # fmt: skip
    return {**(best or translator.state_dict()), "held_out": torch.tensor(losses, dtype=torch.float64)}


def _new_translator(features: Tokens, arguments: dict[str, Any]) -> Translator:
    return Translator(**{"tokens": features.shape[1], "width": features.shape[2], **arguments})


@dataclass(frozen=True, eq=False)
class Tuning:
    """What `mitigation.fine_tune` needs: a model and the pictures, in 8 bits, that it is to learn from."""

    model: nn.Module
    pixels: UInt8[Tensor, "images 3 height width"] | Dataset
    labels: Int64[Tensor, " images"]
    recipe: Recipe
    seed: int


def fine_tuned(tunings: Mapping[str, Tuning], device: str) -> dict[str, nn.Module]:
    """`mitigation.fine_tune` for each, by its name, side by side; or what it gave before."""
    jobs = {name: {**vars(tuning), "device": device} for name, tuning in tunings.items()}
    found = {}
    for name, state in fetch_all(_fine_tuned, jobs, label="fine-tuning", device=device).items():
        found[name] = copy.deepcopy(tunings[name].model)
        found[name].load_state_dict(state)
        found[name].to(device).eval().requires_grad_(False)
    return found


def _fine_tuned(
    model: nn.Module, pixels: Tensor | Dataset, labels: Tensor, recipe: Recipe, seed: int, device: str
) -> dict[str, Any]:
    return dict(fine_tune(model, pixels, labels, recipe, seed, device=device).state_dict())


# --- what words say ---------------------------------------------------------------------------------------------------


def frequencies(texts: Sequence[Sequence[str]], **options: Any) -> list[dict[str, float]]:
    """The document frequencies of the words in each image's sentences."""
    return [document_frequency(each, **options) for each in texts]


def matching(found: Sequence[Mapping[str, float]], truth: Sequence[Collection[str]], most: int) -> np.ndarray:
    """How many of the `most` most frequent words of each image are among those that are true of it."""
    return np.array(
        [sum(word in true for word in list(words)[:most]) for words, true in zip(found, truth, strict=True)], float
    )


def relevant(found: Sequence[Mapping[str, float]], lexicons: Sequence[Collection[str]]) -> np.ndarray:
    """Whether the most frequent word of each image is in its lexicon."""
    return np.array([next(iter(words), None) in own for words, own in zip(found, lexicons, strict=True)], float)


def mentioned(texts: Sequence[Sequence[str]], words: Collection[str]) -> np.ndarray:
    """The share of each image's sentences that hold any of `words`."""
    wanted = frozenset(words)
    return np.array([np.mean([not wanted.isdisjoint(words_of(text)) for text in each]) for each in texts])


def truths(data: Classified) -> list[frozenset[str]]:
    """The words that are true of each drawn scene. Raises ValueError for photographs, which people must rate."""
    if data.scenes is None:
        raise ValueError("What is true of a photograph is not known: have people rate it on the rating page.")
    return [true_words(scene) for scene in data.scenes]


def concepts(data: Classified) -> dict[str, list[str]]:
    """Words that count as the same: those of each class and place of drawn scenes; of photographs none."""
    return {} if data.scenes is None else lexicon.concepts(data.scenes.family)


def class_words(data: Classified, classifier: "NineClassifier | None" = None) -> dict[str, frozenset[str]]:
    """The words that name each class.

    Those of drawn scenes are known. A class of photographs stands for some of the `classifier`'s own classes: each
    counts by the last word of its name, which says what kind of thing it is ("garbage truck", "titi monkey").
    """
    known = {name: set(words) for name, words in concepts(data).items()}
    if data.scenes is None and classifier is not None:
        for output, category in zip(classifier.names, classifier.to_category.tolist(), strict=True):
            if category >= 0:
                known.setdefault(data.names[category], set()).update(words_of(output.split()[-1]))
    return {name: frozenset(known.get(name, ())) | words_of(name) for name in data.names}


def home_words(data: Classified) -> dict[str, frozenset[str]]:
    """The words for the home of each category of drawn things; for photographs none."""
    if data.scenes is None:
        return dict.fromkeys(data.names, frozenset())
    return {name: frozenset(concepts(data)[HOMES[name]]) for name in data.names}


def kind_of_place(data: Classified, name: str) -> frozenset[str]:
    """The words for water or land: those of drawn scenes, or a few of the paper's own."""
    if data.scenes is not None:
        return frozenset(concepts(data)[name])
    return frozenset(
        {"water": ("water", "ocean", "lake", "beach"), "land": ("tree", "branch", "grass", "forest")}[name]
    )


def most_likely(found: Mapping[str, float], names: Mapping[str, Collection[str]]) -> str | None:
    """The class whose words together are the most frequent; none where no class has a word."""
    said = {name: sum(found.get(word, 0.0) for word in words) for name, words in names.items()}
    best = max(said, key=lambda name: said[name])
    return best if said[best] > 0 else None


def category_leads(
    found: Sequence[Mapping[str, float]], names: Sequence[str], words: Mapping[str, Collection[str]]
) -> np.ndarray:
    """Whether the category of each image, by name, is the one whose words are the most frequent: [images]."""
    return np.array([most_likely(each, words) == name for each, name in zip(found, names, strict=True)])


def rank_agreement(found: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Spearman's correlation of the frequencies of the words that are dominant in the reference.

    NaN where one of the two does not tell any words apart.
    """
    judged = dominant(reference)
    both = [[each.get(word, 0.0) for word in judged] for each in (found, reference)]
    if any(len(set(frequencies)) < 2 for frequencies in both):
        return float("nan")
    return float(stats.spearmanr(*both).statistic)


def prior_shares(found: Sequence[Mapping[str, float]], prior: Mapping[str, float], most: int) -> np.ndarray:
    """The mean share of the `most` most frequent words of each image that `words.explained_by_prior` explains.

    Images without a word are left out. Raises ValueError as `words.explained_by_prior` does.
    """
    shares = [list(explained_by_prior(each, prior).values())[:most] for each in found]
    return np.array([np.mean(each) for each in shares if each])


def difference(first: np.ndarray, second: np.ndarray, seed: int) -> Interval:
    """The difference of the means of two sets of images."""

    def of_means(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.mean() - b.mean())

    return bootstrap(of_means, first, second, seed=seed, paired=False)


def covariance(first: np.ndarray, second: np.ndarray, seed: int) -> Interval:
    """The covariance over images; 0, and not undefined, where one of the two never varies."""

    def of_rows(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - a.mean()) * (b - b.mean())).mean())

    return bootstrap(of_rows, first, second, seed=seed)


# --- what the classifier depends on -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NineClassifier:
    """A classifier, the `names` of its outputs, and the category of the nine that each stands for (-1: none)."""

    model: nn.Module
    names: tuple[str, ...]
    to_category: Int64[Tensor, " outputs"]

    def category(self, probabilities: Float[Tensor, "images outputs"]) -> Int64[Tensor, " images"]:
        """The category of each most probable output."""
        return self.to_category[probabilities.argmax(1)]

    def name(self, probabilities: Float[Tensor, " outputs"]) -> str:
        """The name of the most probable output."""
        return self.names[int(probabilities.argmax())]


def nine_classifier(cfg: Settings, seed: int) -> NineClassifier:
    """The classifier that is explained: fine-tuned on drawn things, or one that knows ImageNet's 1,000 classes."""
    if cfg.data != WORLD:
        model = vit_classifier.build(cfg.classifier, seed).to(cfg.device).requires_grad_(False)
        mapping = imagenet9.read_mapping(DATASETS / cfg.in_to_in9)
        return NineClassifier(model, imagenet.CLASS_NAMES, mapping)
    data = pictures.nine(cfg, seed, "train")
    start = vit_classifier.build(cfg.classifier, seed_for(seed, "nine"), len(data.names)).to(cfg.device)
    tuning = Tuning(start, pixels(data), data.labels, Recipe(**cfg.train), seed_for(seed, "nine"))
    model = fine_tuned({"nine": tuning}, cfg.device)["nine"]
    return NineClassifier(model, data.names, torch.arange(len(data.names)))


def pixels(data: Classified) -> UInt8[Tensor, "images 3 height width"]:
    """All images in 8 bits."""
    return torch.cat([part.mul(255).round().byte() for part in data.batches(64)])


def part(data: Classified, count: int) -> Classified:
    """The first images."""
    scenes = None if data.scenes is None else data.scenes[:count]
    images = [data.images[index] for index in range(min(count, len(data)))]
    return Classified(images, data.labels[:count], data.names, data.prompts, scenes)


def predictions(model: nn.Module, images: Any, count: int, device: str) -> Float[Tensor, "images classes"]:
    """The probabilities of all classes."""
    with torch.no_grad():
        return torch.cat(
            [at_least_float32(model(part.to(device))).softmax(1).cpu() for part in batches(images, count, 128)]
        )


@dataclass(frozen=True, eq=False)
class Dependence:
    """What a classifier depends on, and what the words say: each [images].

    `flips`: the answer changes with the factor. `mentions`: the share of sentences that name any of its values, and
    `excess`: the share that name the true value, minus the mean share of the other values.
    """

    flips: np.ndarray
    mentions: np.ndarray
    excess: np.ndarray


def dependences(
    model: nn.Module, data: Classified, texts: Sequence[Sequence[str]], size: int, device: str
) -> dict[str, Dependence]:
    """For every factor of the drawn scenes in `data`: each is given its next value, and the sentences are read.

    Raises ValueError for photographs, of which no factor can be changed.
    """
    if data.scenes is None:
        raise ValueError("A photograph has no factors to change: the causal check needs drawn scenes.")
    scenes, found = data.scenes, {}
    before = predictions(model, data.images, len(data), device).argmax(1)
    for factor in changeable(scenes):
        changed, (named, words) = next_values(scenes, factor), naming(scenes.family, factor)
        after = predictions(model, changed.images(size), len(data), device).argmax(1)
        shares = np.stack([mentioned(texts, own) for own in words.values()], 1)
        true = np.array([list(words).index(scene.factors[named]) for scene in scenes])
        own = shares[np.arange(len(true)), true]
        others = (shares.sum(1) - own) / (len(words) - 1)
        any_of_them = mentioned(texts, frozenset().union(*words.values()))
        found[factor] = Dependence((before != after).double().numpy(), any_of_them, own - others)
    return found


def naming(family: type[Scene], factor: str) -> tuple[str, Mapping[Value, Collection[str]]]:
    """What changes in a scene with a factor, and the words for each of its values.

    The background of things is one of nine places. That of birds is water or land, whatever word is said for it.
    """
    if factor != "background":
        return factor, words_for(family, factor)
    if family is Birds:
        return factor, {name: lexicon.concepts(family)[str(name)] for name in family.values(factor)}
    return "place", words_for(family, "place")


def changeable(scenes: SceneSet) -> list[str]:
    """The factors that can be changed by themselves and that captions name."""
    return [name for name in scenes.family.factor_names() if name in {"background", *named_factors(scenes.family)}]


def next_values(scenes: SceneSet, factor: str) -> SceneSet:
    """The same scenes, in each of which the factor has its next value; a bird's species the next of the other kind."""
    values = scenes.family.values(factor)
    step = len(values) // 2 if factor == "species" else 1
    codes = (scenes.codes[factor] + step) % len(values)
    return SceneSet(scenes.family, scenes.seeds, {**scenes.codes, factor: codes})


# --- a generator's latents --------------------------------------------------------------------------------------------


class LatentTokens(nn.Module):
    """Images in [0, 1] to the latents that the generator would decode to them, as tokens of 2 x 2 cells."""

    def __init__(self, generator: Generator, batch: int) -> None:
        super().__init__()
        self.generator, self.batch = generator, batch

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens features"]:
        return self.tokens(self.generator.encode(images, batch=self.batch))

    @staticmethod
    def tokens(latents: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch tokens width"]:
        """The same of latents: every 2 x 2 cells side by side."""
        return nn.functional.pixel_unshuffle(latents, 2).flatten(2).mT


# What Table 1 publishes; it does not say which ROUGE.
PUBLISHED_TABLE1 = {
    "cosine": "taghanaki.table1.cosine",
    "rougeL": "taghanaki.table1.rouge",
    "meteor_exact_stem": "taghanaki.table1.meteor",
}


def overlaps(candidates: Sequence[str], references: Sequence[str], embed: Embed, each: int) -> dict[str, np.ndarray]:
    """The text overlap of pairs of sentences, the mean over the `each` pairs of every picture.

    The cosine lies in [-1, 1], the others in [0, 100], as Table 1 prints them. A sentence without a letter or digit,
    which a decoder may sample, has nothing in common with any: 0. Raises ValueError for no pair of sentences with one.
    """
    rows = [row for row, pair in enumerate(zip(candidates, references, strict=True)) if all(map(has_words, pair))]
    found = overlap([candidates[row] for row in rows], [references[row] for row in rows], embed=embed)
    scale = {name: 1 if name == "cosine" else 100 for name in found}
    scores = {name: np.zeros(len(candidates)) for name in found}
    for name, own in found.items():
        scores[name][rows] = own
    return {name: scale[name] * over_samples(own.reshape(-1, each), "mean") for name, own in scores.items()}


def sentence_embeddings(cfg: Settings) -> Embed:
    """What embeds sentences: the text tower of the mini CLIP, or the mean of BERT's last hidden states."""
    if cfg.data == WORLD:
        clip = load_from(cfg.classifier)
        return lambda texts: clip.encode_texts(list(texts)).numpy()
    source = find(cfg.sentence_encoder)
    with said(f"The sentence encoder {cfg.sentence_encoder}"):
        # The pooler is not used, and not every BERT has one.
        model = load_whole(AutoModel, source, may_lack="pooler", trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.name, trust_remote_code=False, **source.options)
    remember(source)
    return lambda texts: mean_pooled(model.to(cfg.device), tokenizer, texts)
