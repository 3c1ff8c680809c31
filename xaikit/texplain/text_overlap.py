"""How much sentences have in common with reference sentences: ROUGE, METEOR and the cosine of sentence embeddings.

The paper (section 4.3, Table 1) names the three scores without variant, pairing or baseline. Here each pair of
sentences gets its own score, and `shuffled` pairs say what unrelated sentences get: for raw embeddings that is much.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Literal

import nltk
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from nltk.corpus import wordnet
from nltk.stem import PorterStemmer
from torch import nn

from xaikit.models.hooks import evaluating
from xaikit.models.tokens import report_losses
from xaikit.storage.seeding import rng
from xaikit.texplain.alignment import Links, align
from xaikit.texplain.splitting import split_words

Embed = Callable[[list[str]], Float[np.ndarray, "texts width"]]  # embeddings of unit length
References = Sequence[str] | Sequence[Sequence[str]]

_stem = lru_cache(maxsize=2**16)(PorterStemmer().stem)


def rouge(
    candidates: Sequence[str], references: References, *, use_stemmer: bool = False
) -> dict[str, Float[np.ndarray, " pairs"]]:
    """F1 of the shared words ("rouge1"), word pairs ("rouge2") and longest common subsequence ("rougeL").

    Arguments: one reference a candidate, or several, of which the best counts, for each score on its own.
    `use_stemmer` takes Porter's stem of each word of more than three letters, as the original script does.
    Raises ValueError as `overlap` does.
    Source: Lin (2004), sections 2 and 3, with precision and recall of equal weight.
    """
    candidates, references = _checked(candidates, references)

    @cache
    def counted(text: str) -> tuple[list[str], Counter[str], Counter[tuple[str, str]]]:
        words = split_words(text)
        if use_stemmer:
            words = [_stem(word) if len(word) > 3 else word for word in words]
        return words, Counter(words), Counter(pairwise(words))

    def scores(candidate: str, reference: str) -> tuple[float, float, float]:
        (words, ones, twos), (other_words, other_ones, other_twos) = counted(candidate), counted(reference)
        both = len(words) + len(other_words)
        # 2 p r / (p + r) of p = hits / words and r = hits / other words
        pairs = 2 * (twos & other_twos).total() / max(both - 2, 1)
        return 2 * (ones & other_ones).total() / both, pairs, 2 * _common_subsequence(words, other_words) / both

    found = np.array([_best(scores, *pair) for pair in zip(candidates, references, strict=True)])
    return dict(zip(("rouge1", "rouge2", "rougeL"), found.T, strict=True))


def meteor(candidates: Sequence[str], references: References, *, synonyms: bool = False) -> Float[np.ndarray, " pairs"]:
    """METEOR of each pair: words that match exactly, then by Porter's stem, then, with `synonyms`, by WordNet.

    F (1 - 0.5 (chunks / m)^3) with F = 10 P R / (R + 9 P), P = m / words and R = m / words of the reference, of m words
    that are aligned with the fewest crossings (`alignment`). Two words are synonyms if they share a synset. Without
    `synonyms` it is a lower bound of the full METEOR. Of long texts whose words repeat a lot the fewest crossings may
    not be found; a warning then says of how many pairs.
    Raises ValueError as `overlap` does, and for `synonyms` where `wordnet_available()` is false.
    Source: Banerjee & Lavie (2005), section 2.
    """
    if synonyms and not wordnet_available():
        raise ValueError("WordNet is not on the disk: python -m nltk.downloader wordnet, or leave synonyms out.")
    candidates, references = _checked(candidates, references)
    words, unsure = cache(split_words), []

    @cache
    def score(candidate: str, reference: str) -> float:
        first, second = words(candidate), words(reference)
        links, certain = _aligned(first, second, synonyms)
        if not certain:
            unsure.append(candidate)
        if not links:
            return 0.0
        chunks = sum(links.get(place - 1, -2) != other - 1 for place, other in links.items())
        precision, recall = len(links) / len(first), len(links) / len(second)
        mean = 10 * precision * recall / (recall + 9 * precision)
        return mean * (1 - 0.5 * (chunks / len(links)) ** 3)

    pairs = zip(candidates, references, strict=True)
    found = np.array([max(score(candidate, text) for text in several) for candidate, several in pairs])
    if unsure:
        warnings.warn(
            f"METEOR of {len(unsure)} pairs of long texts rests on alignments that may not be those with the fewest "
            f"crossings ({unsure[0][:60]!r} first); score them by sentences.",
            stacklevel=2,
        )
    return found


def _aligned(first: list[str], second: list[str], synonyms: bool) -> tuple[Links, bool]:
    """The links between the words of two texts after all stages, and whether they are known to cross least."""
    stages: list[Callable[[str], Collection[str]]] = [lambda word: (word,), lambda word: (_stem(word),)]
    links, certain = {}, True
    for keys in [*stages, _synsets] if synonyms else stages:
        places: dict[str, list[int]] = {}
        for place, word in enumerate(second):
            if place not in links.values():
                for key in keys(word):
                    places.setdefault(key, []).append(place)
        matches = [
            [] if place in links else sorted({other for key in keys(word) for other in places.get(key, ())})
            for place, word in enumerate(first)
        ]
        found, sure = align(matches, links)
        links, certain = links | found, certain and sure
    return links, certain


def _synsets(word: str) -> Collection[str]:
    return {synset.name() for synset in wordnet.synsets(word)}


def wordnet_available() -> bool:
    """Whether nltk finds its corpus "wordnet" on this disk, as a folder or a zip file."""
    try:
        nltk.data.find("corpora/wordnet/lexnames")  # some packages of WordNet lack this file, which nltk needs
    except LookupError:
        return False
    return True


def embedding_cosine(candidates: Sequence[str], references: References, embed: Embed) -> Float[np.ndarray, " pairs"]:
    """The cosine of the embeddings of each pair; each distinct sentence is embedded once.

    `embed` maps texts to embeddings of unit length, say `mean_pooled`. Raises ValueError as `overlap` does, and for
    embeddings of another shape or length.
    """
    candidates, references = _checked(candidates, references)
    texts = list(dict.fromkeys([*candidates, *(text for several in references for text in several)]))
    vectors = np.asarray(embed(texts), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.allclose((vectors**2).sum(1), 1, atol=1e-2):
        raise ValueError(
            f"The embeddings {vectors.shape} of {len(texts)} texts are not rows of unit length: mend embed."
        )
    row = {text: vector for text, vector in zip(texts, vectors, strict=True)}
    pairs = zip(candidates, references, strict=True)
    return np.array([max(float(row[candidate] @ row[text]) for text in several) for candidate, several in pairs])


def mean_pooled(
    model: nn.Module, tokenizer: Callable, texts: Sequence[str], batch: int = 64, *, strict: bool = False
) -> Float[np.ndarray, "texts width"]:
    """Sentence embeddings: the mean of a `transformers` encoder's last hidden states over a text's tokens, unit length.

    The tokens are the tokenizer's, special ones included, padding left out. Warns of texts that are cut and
    of words that it does not know. Raises ValueError for no text, and with `strict` in place of the warning.
    """
    if not texts:
        raise ValueError("There is no text to embed: give at least one.")
    report_losses(texts, tokenizer, tokenizer.model_max_length, strict=strict)
    device = next(model.parameters()).device
    found = []
    with torch.inference_mode(), evaluating(model):
        for first in range(0, len(texts), batch):
            inputs = tokenizer(list(texts[first : first + batch]), padding=True, truncation=True, return_tensors="pt")
            inputs = inputs.to(device)
            states = model(**inputs).last_hidden_state.float()
            kept = inputs["attention_mask"][..., None]
            found.append(F.normalize((states * kept).sum(1) / kept.sum(1), dim=1).cpu())
    return torch.cat(found).numpy()


def overlap(
    candidates: Sequence[str], references: References, *, use_stemmer: bool = False, embed: Embed | None = None
) -> dict[str, Float[np.ndarray, " pairs"]]:
    """All scores of each pair: rouge1, rouge2, rougeL, meteor_exact_stem, meteor with WordNet, cosine with `embed`.

    "meteor" is there only where WordNet is on the disk; "meteor_exact_stem" is without synonyms and always there.
    Raises ValueError for no pair, lists of unequal length, and a text without letters and digits, whose place it names.
    """
    found = rouge(candidates, references, use_stemmer=use_stemmer)
    found["meteor_exact_stem"] = meteor(candidates, references)
    if wordnet_available():
        found["meteor"] = meteor(candidates, references, synonyms=True)
    if embed is not None:
        found["cosine"] = embedding_cosine(candidates, references, embed)
    return found


def over_samples(
    scores: Float[np.ndarray, "items samples"], how: Literal["max", "mean"]
) -> Float[np.ndarray, " items"]:
    """One score an item out of those of its sampled sentences: the best one's or the mean.

    The best of more samples is higher by chance alone, so the baseline must have as many. Raises ValueError for no
    sample and another `how`.
    """
    if not scores.size or how not in ("max", "mean"):
        raise ValueError(f"Scores {scores.shape} have no {how!r} over samples: give some a row, and max or mean.")
    return scores.max(1) if how == "max" else scores.mean(1)


def shuffled(n: int, seed: int) -> Int64[np.ndarray, " n"]:
    """For each of `n` items the partner of another one, none twice: a derangement, all equally likely.

    Raises ValueError for fewer than two items.
    """
    if n < 2:
        raise ValueError(f"Among {n} items there is no unrelated pair: give 2 or more.")
    random = rng(seed, "shuffled pairs")
    while True:  # about e times on average
        order = random.permutation(n)
        if (order != np.arange(n)).all():
            return order


def has_words(text: str) -> bool:
    """Whether a text has a letter or digit, without which it cannot be scored."""
    return bool(split_words(text))


def _checked(candidates: Sequence[str], references: References) -> tuple[list[str], list[list[str]]]:
    """Candidates, and a list of references for each."""
    if not len(candidates) or len(candidates) != len(references):
        raise ValueError(
            f"{len(candidates)} candidates and {len(references)} references are no pairs: give as many of both."
        )
    lists = [[each] if isinstance(each, str) else list(each) for each in references]
    for place, (candidate, several) in enumerate(zip(candidates, lists, strict=True)):
        if not split_words(candidate):
            raise ValueError(f"Candidate {place} has no letter or digit: leave its pair out.")
        if not several or not all(map(split_words, several)):
            raise ValueError(f"Reference {place} has no letter or digit: leave it out.")
    return list(candidates), lists


def _best(scores: Callable[[str, str], tuple[float, ...]], candidate: str, references: list[str]) -> tuple[float, ...]:
    """The highest value of each score over the references."""
    return tuple(map(max, zip(*(scores(candidate, reference) for reference in references), strict=True)))


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence.

    The columns of the usual table are bits of one integer: a 0 is a step up. Source: Hyyrö (2004).
    """
    places = dict.fromkeys(first, 0)
    for place, word in enumerate(first):
        places[word] |= 1 << place
    everywhere = (1 << len(first)) - 1
    steps = everywhere
    for word in second:
        matches = steps & places.get(word, 0)
        steps = ((steps + matches) | (steps - matches)) & everywhere
    return len(first) - steps.bit_count()
