"""Papers 1, 2 and 4 on the audited classifier, and concepts that are given in words or by pictures.

Nothing is claimed of any of it: these methods say what can be *read* from a classifier, or goes with its answers. Each
has its controls on this very model, and where they fail its row says why (`why`), and is grey on the page.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xaikit.audit.batches import in_batches
from xaikit.audit.language import Language
from xaikit.audit.last_layer import inputs_of, last_layer
from xaikit.audit.load import ByTexts, Loaded
from xaikit.audit.maps import MISSING, SAME, can_be_shuffled, shuffled
from xaikit.audit.measures import DRAWS, within_labels
from xaikit.audit.photographs import NO_LABEL, Pictures
from xaikit.audit.questions import ALPHA, FEWEST, Concept, Seen, beyond, classify, holm
from xaikit.decomposition.decompose import decompose, image_tower
from xaikit.decomposition.textspan import textspan
from xaikit.importance.interface import probes
from xaikit.metrics.ranking import spearman
from xaikit.models.captioner import Captioner, LanguageModel
from xaikit.models.clip import Clip
from xaikit.models.tokens import LossWarning
from xaikit.storage.seeding import rng, seed_for
from xaikit.surgery.matching import activation_statistics, convolutions, match_activations, stages
from xaikit.surgery.transplant import choose_maps, network_surgery
from xaikit.texplain.sampling import sample
from xaikit.texplain.training import InMemory, Recipe, train
from xaikit.texplain.translator import Translator
from xaikit.texplain.words import words_of

CONCEPTS = ["concept", "given by", "found", "by chance", "p", "p, weights shuffled", "why"]
SURGERY = ["concept", "kept", "low", "high", "of CLIP's own maps", "weights shuffled", "why"]
WORDS = ["answer", "word", "told", "of other answers", "p", "of captions", "weights shuffled", "why"]
HEADS = ["layer", "head", "share of variance", "texts", "explained", "in other heads", "turned", "by other heads",
         "why"]  # fmt: skip

MATCHED, READ = 32, 200  # pictures that maps are matched on, and that are read after surgery
MOST_SCORES = 2 * 10**8  # of a map of the classifier and one of CLIP, 0.8 GB
STEPS, BATCH, LONGEST = 300, 32, 40  # of a translator's training, and tokens of a caption
TOLD, SHOWN = 16, 3  # sentences of a picture, and words of an answer
COMMON, ANSWERS = 5, 5  # captions that have a word, and answers whose words are told
DECOMPOSED, TOP = 200, 5  # pictures that heads are read from, and heads that are shown


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass(frozen=True, eq=False)
class Readings:
    """What words say of a classifier: a table each, and of what was not asked the reason (`missing`).

    `concepts`: of each one that is given by texts, the share of the logits' variance within classes that goes with
    them in CLIP, beside that of other directions of CLIP; by pictures, the largest cosine of its probe and a class's
    weights, beside those of probes of shuffled pictures. `surgery` (paper 1): how well the order of pictures along its
    texts is kept where CLIP sees the classifier's maps. `words` (paper 2): what sentences told from the features of
    pictures with an answer say more often. `heads` (paper 4): those of an audited CLIP that move its margins most.
    """

    concepts: pd.DataFrame = field(default_factory=lambda: _empty(CONCEPTS))
    surgery: pd.DataFrame = field(default_factory=lambda: _empty(SURGERY))
    words: pd.DataFrame = field(default_factory=lambda: _empty(WORDS))
    heads: pd.DataFrame = field(default_factory=lambda: _empty(HEADS))
    missing: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The tables, to be read by a program."""
        tables = {name: getattr(self, name) for name in ("concepts", "surgery", "words", "heads")}
        found = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        return {**found, "not asked": dict(self.missing)}


def readings_of(
    loaded: Loaded,
    pictures: Pictures,
    concepts: Sequence[Concept],
    language: Language | None,
    logits: Float[Tensor, "pictures classes"],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> Readings:
    """Ask what can be asked with what there is: the classifier's kind, the concepts, CLIPs, a captioner, captions."""
    language = language or Language({})
    missing: dict[str, str] = {}
    answers = logits.argmax(1).numpy()
    labels = np.where(pictures.labels != NO_LABEL, pictures.labels, answers)
    other, null = None, None
    if can_be_shuffled(loaded.model):
        other = shuffled(loaded.model, seed)
        null = classify(other, pictures.seen, device)
        if not null.isfinite().all():  # shuffled, it overflows: no control
            other, null = None, None
    features = tuple(_features(each, pictures.seen, device) for each in (loaded.model, other))
    named, tables = [each for each in concepts if each.texts], []
    reader = next(iter(language.clips.values()), loaded.clip)
    if named and reader is None:
        missing["concepts in words"] = "no CLIP was named that could read them (--clip)"
    elif named and reader is not None:
        known, unread = _readable(named, reader)
        missing |= unread
        if known:
            tables.append(by_texts(pictures.seen, known, reader, logits, null, labels, device=device, seed=seed))
    shown = [each for each in concepts if each.shown is not None]
    if shown and features[0] is None:
        missing["concepts by pictures"] = "the classifier has no last linear layer that gives its answers"
    elif shown:
        tables.append(by_pictures(loaded.model, other, shown, np.unique(answers), device=device, seed=seed))
    surgery = _asked(_surgery, SURGERY, missing, "network surgery (paper 1)", loaded.model, other, pictures.seen, named,
                     language, device, seed)  # fmt: skip
    words = _asked(_words, WORDS, missing, "TExplain (paper 2)", features, pictures, answers, language, device, seed)
    heads = _asked(_heads, HEADS, missing, "heads and TextSpan (paper 4)", loaded, pictures.seen, named, labels, device,
                   seed)  # fmt: skip
    found = pd.concat(tables, ignore_index=True) if tables else _empty(CONCEPTS)
    return Readings(found, surgery, words, heads, missing)


class _NotAsked(Exception):
    """Why a method has nothing to say of this classifier."""


def _asked(
    method: Callable[..., list[tuple]], columns: Sequence[str], missing: dict[str, str], name: str, *arguments: Any
) -> pd.DataFrame:
    try:
        with _losses() as lost:
            found = pd.DataFrame(method(*arguments), columns=list(columns))
    except _NotAsked as reason:
        missing[name] = str(reason)
        return _empty(columns)
    if lost:
        missing[f"{name}, in part"] = lost[0]
    return found


@contextmanager
def _losses() -> Iterator[list[str]]:
    """What tokenizers say that they lose, in place of their warnings; other warnings are given as ever."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LossWarning)
        yield said
    for each in caught:
        if issubclass(each.category, LossWarning):
            said.append(str(each.message).rstrip("."))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _features(model: nn.Module | None, seen: Seen, device: str) -> Tensor | None:
    last = None if model is None else last_layer(model)
    return None if last is None else inputs_of(model, last, seen.images, len(seen), seen.sides, device)


# --- concepts in words and by pictures --------------------------------------------------------------------------------


def _readable(concepts: Sequence[Concept], clip: Clip) -> tuple[list[Concept], dict[str, str]]:
    """Those whose texts a CLIP knows every word of, and of the others why not."""
    known, unread = [], {}
    for each in concepts:
        with _losses() as lost:
            clip.encode_texts([*each.texts, *each.against])
        if lost:
            unread[each.name] = f"its texts cannot be read: {lost[0]}"
        else:
            known.append(each)
    return known, unread


def _embedded(clip: Clip, seen: Seen, device: str) -> Float[Tensor, "pictures features"]:
    """The pictures in CLIP, at unit length, on the CPU: as the classifier sees them."""
    assert clip.image_encoder is not None
    return F.normalize(classify(clip.image_encoder, seen, device), dim=1)


def direction(clip: Clip, concept: Concept) -> Float[Tensor, " features"]:
    """Where its texts point in CLIP, away from those of its absence where there are any."""
    found = clip.encode_texts(list(concept.texts)).mean(0)
    return (found - clip.encode_texts(list(concept.against)).mean(0) if concept.against else found).cpu()


def by_texts(
    seen: Seen,
    concepts: Sequence[Concept],
    clip: Clip,
    logits: Float[Tensor, "pictures classes"],
    null: Float[Tensor, "pictures classes"] | None,
    labels: Int64[np.ndarray, " pictures"],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> pd.DataFrame:
    """The share of the logits' variance within classes that goes with a concept's texts in CLIP.

    Chance are 999 random directions of CLIP, as whatever a network looks at goes with some direction or other; `null`
    are the logits of the network with shuffled weights, where there are any to shuffle. p allows for all concepts.
    """
    images = within_labels(_embedded(clip, seen, device).double().numpy(), labels)
    draw = rng(seed, "audit", "directions")
    others = draw.standard_normal((images.shape[1], DRAWS))
    wanted = np.stack([direction(clip, each).double().numpy() for each in concepts], 1)
    shares, by_chance = {}, {}
    for which, given in (("own", logits), ("null", logits if null is None else null)):
        values = given.double().numpy()
        values = within_labels(values - values.mean(1, keepdims=True), labels)
        shares[which], by_chance[which] = (_share(values, images @ each) for each in (wanted, others))
    ps = {
        which: [(1 + (by_chance[which] >= share - 1e-12).sum()) / (1 + DRAWS) for share in shares[which]]
        for which in shares
    }
    chance = float(np.quantile(by_chance["own"], 0.95))
    without = [float("nan")] * len(concepts) if null is None else ps["null"]
    rows = zip(concepts, shares["own"], holm(ps["own"]), without, strict=True)
    return pd.DataFrame(
        [(each.name, "texts", share, chance, p, other, _why(p, other)) for each, share, p, other in rows],
        columns=CONCEPTS,
    )


def _share(
    values: Float[np.ndarray, "pictures classes"], scores: Float[np.ndarray, "pictures scores"]
) -> Float[np.ndarray, " scores"]:
    """The share of the values' variance that goes with each column of scores; all are centred."""
    along = (scores.T @ values) ** 2
    return along.sum(1) / np.maximum((scores**2).sum(0) * (values**2).sum(), 1e-24)


def _why(p: float, other: float) -> str:
    if p > ALPHA:
        return "no more than by chance"
    return MISSING if other != other else SAME if other <= ALPHA else ""


def by_pictures(
    model: nn.Module,
    other: nn.Module | None,
    concepts: Sequence[Concept],
    classes: Int64[np.ndarray, " classes"],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> pd.DataFrame:
    """The largest cosine of a concept's probe, in the last layer's features, and the weights of any class.

    The probe tells the pictures that have it from those that have not (ridge regression); chance are probes of the
    same pictures, dealt to the two sides at random. The two folders have to be alike in all else, the classes above
    all: what else tells them apart counts as the concept. Weights are less their mean over classes. `other` is the
    network with shuffled weights, where there is one.
    """
    found = []
    for each in concepts:
        assert each.shown is not None and each.without is not None
        seen = Seen(torch.cat([each.shown, each.without]))
        dealt = torch.zeros(len(seen), 1 + DRAWS, dtype=torch.int64)
        dealt[: len(each.shown), 0] = 1
        draw = rng(seed, "audit", "dealt", each.name)
        for column in range(1, 1 + DRAWS):
            dealt[torch.from_numpy(draw.permutation(len(seen))[: len(each.shown)]), column] = 1
        own = _cosines(model, seen, dealt, classes, device)
        null = None if other is None else _cosines(other, seen, dealt, classes, device)
        ps = _p_of(own), float("nan") if null is None else _p_of(null)
        found.append((each.name, "pictures", own[0], np.quantile(own[1:], 0.95), *ps))
    adjusted = holm([row[4] for row in found])
    rows = [(*row[:4], p, row[5], _why(p, row[5])) for row, p in zip(found, adjusted, strict=True)]
    return pd.DataFrame(rows, columns=CONCEPTS)


def _p_of(cosines: np.ndarray) -> float:
    """How often chance, all but the first, has as much as the first."""
    return (1 + (cosines[1:] >= cosines[0] - 1e-12).sum()) / (1 + DRAWS)


def _cosines(model: nn.Module, seen: Seen, dealt: Tensor, classes: np.ndarray, device: str) -> np.ndarray:
    """For each way of dealing, the largest |cosine| of its probe and a class's weights, of standardised features."""
    last = last_layer(model)
    assert last is not None
    features = inputs_of(model, last, seen.images, len(seen), seen.sides, device)
    assert features is not None
    deviation = features.double().std(0).clamp_min(1e-9)
    weight = last.weight.detach().double().cpu()
    weight = (weight - weight.mean(0))[torch.from_numpy(classes)] * deviation
    directions = F.normalize(probes(features.double() / deviation, dealt), dim=1)
    return (directions @ F.normalize(weight, dim=1).T).abs().amax(1).numpy()


# --- paper 1 ----------------------------------------------------------------------------------------------------------


def _surgery(
    model: nn.Module, other: nn.Module | None, seen: Seen, concepts: Sequence[Concept], language: Language, device: str,
    seed: int,
) -> list[tuple]:  # fmt: skip
    """Of each concept, the rank correlation of its texts' scores in CLIP before and after surgery.

    Where CLIP does not read a concept from the maps of its own copy, surgery loses it, whatever the classifier holds.
    """
    clip = next((each for each in language.clips.values() if _has_stages(each)), None)
    if clip is None:
        raise _NotAsked("network surgery needs a CLIP-ResNet (--clip RN50:openai, say)")
    if other is None:
        raise _NotAsked(MISSING)
    concepts, _ = _readable(concepts, clip)
    if not concepts:
        raise _NotAsked("no concept has texts that the CLIP-ResNet can read")
    if len(seen) < MATCHED + FEWEST:
        raise _NotAsked(f"network surgery needs {MATCHED + FEWEST} pictures")
    order = torch.from_numpy(rng(seed, "audit", "surgery").permutation(len(seen)))
    matched, read = order[:MATCHED].sort().values, order[MATCHED : MATCHED + READ].sort().values
    tower, images = clip.image_encoder, seen.images(matched, device)
    assert tower is not None
    target = stages(tower)
    try:
        sources = [convolutions(network, images[:2]) for network in (model, copy.deepcopy(tower), other)]
    except ValueError as error:
        raise _NotAsked(f"network surgery needs convolutions, and {error}") from error
    texts = F.normalize(torch.stack([direction(clip, each) for each in concepts]), dim=1).to(device)

    def scores() -> Tensor:
        with torch.no_grad():
            parts = [F.normalize(tower(seen.images(part, device)), dim=-1) @ texts.T for part in read.split(16)]
        return torch.cat(parts).double().cpu()

    few, before = images.split(8), scores()
    theirs = activation_statistics(target, few)
    after = []
    for source in sources:
        statistics = activation_statistics(source, few)
        if len(statistics.mean) * len(theirs.mean) > MOST_SCORES:
            raise _NotAsked(f"{len(statistics.mean)} maps are too many to match with CLIP's {len(theirs.mean)}")
        choice = choose_maps(match_activations(source, statistics, target, theirs, few))
        with network_surgery(target, theirs, source, statistics, choice):
            after.append(scores())
    rows = []
    for column, each in enumerate(concepts):
        try:
            kept, own, null = (spearman(before[:, column].numpy(), given[:, column].numpy()) for given in after)
        except ValueError as error:
            rows.append((each.name, *[np.nan] * 5, str(error)))
            continue
        if own.low <= max(0.0, null.high):
            why = "CLIP does not read it from the maps of its own copy"
        else:
            why = "nothing of it is kept" if kept.low <= 0 else SAME if null.high >= kept.low else ""
        rows.append((each.name, kept.value, kept.low, kept.high, own.value, null.value, why))
    return rows


def _has_stages(clip: Clip) -> bool:
    try:
        stages(clip.image_encoder)
    except ValueError:
        return False
    return True


# --- paper 2 ----------------------------------------------------------------------------------------------------------


def _words(
    features: tuple[Tensor | None, Tensor | None], pictures: Pictures, answers: np.ndarray, language: Language,
    device: str, seed: int,
) -> list[tuple]:  # fmt: skip
    """Words that sentences, told from the features of pictures with an answer, have more often than of the others.

    The translator learns from half of the pictures and tells of the other half. p is by permutations of the answers,
    and allows for all words. Captions, which never saw the classifier, have to have a word more often too, or else the
    translator made it up.
    """
    captioner, (own, null) = language.captioner, features
    if captioner is None:
        raise _NotAsked("TExplain needs a captioner (--captioner)")
    if own is None:
        raise _NotAsked("the classifier has no last linear layer whose features could be translated")
    if null is None:
        raise _NotAsked(MISSING)
    order = rng(seed, "audit", "told").permutation(len(pictures))
    learn, tell = (np.sort(part) for part in np.array_split(order, 2))
    common = [each for each, n in zip(*np.unique(answers[tell], return_counts=True), strict=True) if n >= FEWEST]
    if len(learn) < 2 * FEWEST or not common or len(np.unique(answers[tell])) < 2:
        raise _NotAsked(f"TExplain needs {4 * FEWEST} pictures, and {FEWEST} of an answer beside others")
    captions = list(pictures.captions) or _captions(captioner, pictures.seen, device, seed)
    said = {
        name: _sentences(each, captions, captioner, learn, tell, device, seed)
        for name, each in (("own", own), ("null", null))
    }
    said["captions"] = [[captions[row]] for row in tell]
    sets = {name: [[words_of(text) for text in texts] for texts in each] for name, each in said.items()}
    counts = pd.Series([word for each in sets["own"] for word in set().union(*each)]).value_counts()
    vocabulary = sorted(counts[counts >= COMMON].index)
    if not vocabulary:
        raise _NotAsked("the sentences have no words in common")
    shares = {
        name: np.array([[np.mean([word in own for own in each]) for word in vocabulary] for each in told])
        for name, told in sets.items()
    }
    rows = []
    for answer in sorted(common, key=lambda each: -int((answers[tell] == each).sum()))[:ANSWERS]:
        having = answers[tell] == answer
        ps = {name: _permuted(share, having, seed) for name, share in shares.items()}
        apart = {name: share[having].mean(0) - share[~having].mean(0) for name, share in shares.items()}
        for place in sorted(range(len(vocabulary)), key=lambda each: (ps["own"][each], -apart["own"][each]))[:SHOWN]:
            if (own := ps["own"][place]) > ALPHA:
                why = "no more than by chance"
            elif ps["captions"][place] > ALPHA:
                why = "captions of these pictures do not have it more often"
            else:
                why = SAME if ps["null"][place] <= ALPHA else ""
            rows.append((
                int(answer), vocabulary[place], shares["own"][having, place].mean(),
                shares["own"][~having, place].mean(), own, apart["captions"][place],
                apart["null"][place], why,
            ))  # fmt: skip
    return rows


def _permuted(shares: np.ndarray, having: np.ndarray, seed: int) -> np.ndarray:
    """The p of each word's difference, by how often the largest of any word is as large, in units of its spread."""
    scale = shares.std(0).clip(1e-6)
    draw = rng(seed, "audit", "told", "permuted")

    def apart(own: np.ndarray) -> np.ndarray:
        return (shares[own].mean(0) - shares[~own].mean(0)) / scale

    largest = np.array([apart(having[draw.permutation(len(having))]).max() for _ in range(DRAWS)])
    return (1 + (largest[:, None] >= apart(having) - 1e-12).sum(0)) / (1 + DRAWS)


def _captions(captioner: Captioner, seen: Seen, device: str, seed: int) -> list[str]:
    """A sentence of each picture, by the captioner itself."""
    with torch.no_grad():
        parts = in_batches(
            lambda rows: captioner.image_encoder(seen.images(rows, device)).cpu(), len(seen), captioner.image_encoder,
            seen.sides, device,
        )  # fmt: skip
    told = []
    for number, part in enumerate(torch.cat(parts).split(64)):
        told += _told(captioner, part.to(device), 1, seed_for(seed, "audit", "captions", number))
    return [each[0] for each in told]


def _told(captioner: Captioner, conditioning: Tensor, n: int, seed: int) -> list[list[str]]:
    language = captioner.language
    tokens = sample(
        language.decoder, conditioning, n, prompt=language.prompt, end=language.end, pad=language.pad, seed=seed,
        min_new_tokens=3, max_new_tokens=LONGEST // 2,
    ).cpu()  # fmt: skip
    tokens = tokens.masked_fill((tokens == language.pad).cumsum(2) > 0, language.pad)
    return [language.decode(each) for each in tokens]


def _cut(caption: str, language: LanguageModel) -> str:
    """The caption, without the words behind those that a translator learns from."""
    words = caption.split()[:LONGEST] or ["."]
    while len(words) > 1 and len(language.tokenizer(" ".join(words), add_special_tokens=False).input_ids) >= LONGEST:
        words.pop()
    return " ".join(words)


def _sentences(
    features: Tensor, captions: Sequence[str], captioner: Captioner, learn: np.ndarray, tell: np.ndarray, device: str,
    seed: int,
) -> list[list[str]]:  # fmt: skip
    """What a translator that learned from some pictures makes of the features of others."""
    language = captioner.language
    scaled = (features - features[learn].mean(0)) / features[learn].std(0).clamp_min(1e-6)
    sentences = language.encode([_cut(captions[row], language) for row in learn], LONGEST + len(language.prompt))
    torch.manual_seed(seed_for(seed, "audit", "translator"))
    translator = Translator(tokens=1, width=features.shape[1], to_width=language.width)
    batches = InMemory(scaled[learn][:, None], sentences[:, None], min(BATCH, len(learn)), seed)
    epochs = max(1, STEPS // len(batches))
    train(
        translator, language.decoder, batches, Recipe(epochs, batch=min(BATCH, len(learn))),
        prompt=len(language.prompt), pad=language.pad, steps_an_epoch=len(batches), seed=seed,
        device=device,
    )  # fmt: skip
    with torch.no_grad():
        conditioning = translator(scaled[tell][:, None].to(device))
    return _told(captioner, conditioning, TOLD, seed_for(seed, "audit", "sentences"))


# --- paper 4 ----------------------------------------------------------------------------------------------------------


def _heads(
    loaded: Loaded, seen: Seen, concepts: Sequence[Concept], labels: np.ndarray, device: str, seed: int
) -> list[tuple]:
    """The heads whose part of the margin varies most within classes, with texts, and the answers that each turns.

    The margin is the answer's logit less the mean of all. A head is replaced by its mean; the controls are all other
    heads of its layer, one by one, and for its texts what they explain of these.
    """
    clip = loaded.clip
    if clip is None:
        raise _NotAsked("heads with TextSpan are those of a CLIP, and the classifier is none (open_clip:NAME)")
    try:
        image_tower(clip.image_encoder)
    except ValueError as error:
        raise _NotAsked(f"heads cannot be told apart in this CLIP: {error}") from error
    rows = torch.from_numpy(np.sort(rng(seed, "audit", "heads").permutation(len(seen))[:DECOMPOSED]))
    parts = [decompose(clip.image_encoder, seen.images(part, device), "head") for part in rows.split(16)]
    added = torch.cat([part.attention.cpu() for part in parts])
    embedding = torch.cat([part.embedding.cpu() for part in parts])
    prompts = next(module for module in loaded.model.modules() if isinstance(module, ByTexts)).texts.cpu()
    answers = (embedding @ prompts.T).argmax(1)
    towards = prompts[answers] - prompts.mean(0)
    margins = torch.einsum("nlhd,nd->nlh", added, towards).double().numpy()
    heads = margins.shape[2]
    varying = within_labels(margins.reshape(len(rows), -1), labels[rows.numpy()]).var(0)
    share = varying / varying.sum().clip(1e-24)
    known, _ = _readable(concepts, clip)
    pool = list(dict.fromkeys([text for each in known for text in (*each.texts, *each.against)]))
    texts = clip.encode_texts(pool).cpu() if len(pool) > 1 else prompts
    names = pool if len(pool) > 1 else list(loaded.names)
    wanted, found = min(3, len(names)), []

    def turned(layer: int, head: int) -> Bool[np.ndarray, " pictures"]:
        without = embedding + added[:, layer, head].mean(0) - added[:, layer, head]
        return ((without @ prompts.T).argmax(1) != answers).numpy()

    for place in np.argsort(-share, kind="stable")[:TOP]:
        layer, head = divmod(int(place), heads)
        siblings = [each for each in range(heads) if each != head]
        span = textspan(added[:, layer, [head]].double(), texts, wanted)
        picks = [pick for pick in span.picks[0].tolist() if pick >= 0]
        explained = [_explained(added[:, layer, each], texts[picks]) for each in (head, *siblings)]
        own, most = turned(layer, head), np.zeros(len(rows), bool)
        most = max((turned(layer, each) for each in siblings), key=np.sum, default=most)
        why = "" if beyond(own, most) <= ALPHA else "it turns no more answers than another head of its layer"
        found.append((
            layer, head, share[place], "; ".join(names[pick] for pick in picks), explained[0],
            float(np.mean(explained[1:])) if siblings else np.nan, own.mean(), most.mean(), why,
        ))  # fmt: skip
    return found


def _explained(added: Float[Tensor, "pictures features"], texts: Float[Tensor, "texts features"]) -> float:
    """The share of a head's variance that lies in the span of texts."""
    centred = (added - added.mean(0)).double()
    basis, _ = torch.linalg.qr(texts.double().T)
    return float((centred @ basis).square().sum() / centred.square().sum().clamp_min(1e-24))
