"""ROUGE against rouge_score, METEOR against its formula, embeddings against one text at a time, shuffles by chance."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from pathlib import Path

import nltk
import numpy as np
import pytest
import torch
from nltk.corpus.reader import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.stem import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from xaikit.texplain import text_overlap
from xaikit.texplain.text_overlap import (
    embedding_cosine,
    mean_pooled,
    meteor,
    over_samples,
    overlap,
    rouge,
    shuffled,
    wordnet_available,
)
from xaikit.world import birds

FEW = ["the", "a", "running", "runs", "runner", "birds", "bird", "flies", "on", "sea", "seas", "2", "happily"]
REAL = [
    "A man riding a wave on top of a surfboard.",
    "Two women are sitting at the table, eating pizzas!",
    "a kitchen with a stove, a microwave and a refrigerator",
    "The man's 2 dogs were running happily after the runners' dog",
    "BUS",
    "a double-decker bus drives down the street; people walking next to it",
]
SCORES = ("rouge1", "rouge2", "rougeL")


def pairs() -> tuple[list[str], list[str]]:
    """Random sentences of few words, so that they repeat, and all pairs of the real ones."""
    chance = random.Random(0)
    drawn = [" ".join(chance.choices(FEW, k=chance.randint(1, 25))) for _ in range(300)]
    return drawn[:150] + [a for a in REAL for _ in REAL], drawn[150:] + REAL * len(REAL)


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_rouge_equals_the_package_rouge_score(use_stemmer: bool) -> None:
    candidates, references = pairs()
    scorer = RougeScorer(list(SCORES), use_stemmer=use_stemmer)
    expected = [scorer.score(reference, candidate) for candidate, reference in zip(candidates, references, strict=True)]
    found = rouge(candidates, references, use_stemmer=use_stemmer)
    for name in SCORES:
        np.testing.assert_allclose(found[name], [each[name].fmeasure for each in expected], rtol=0, atol=1e-12)
    assert found["rouge2"].max() == 1 and found["rouge1"].min() == 0


def test_of_several_references_the_best_counts_for_each_score() -> None:
    candidates, references = pairs()
    several = [references[place : place + 3] for place in range(len(references))]
    scorer = RougeScorer(list(SCORES))
    found = rouge(candidates, several)
    for name in SCORES:
        expected = [scorer.score_multi(r, c)[name].fmeasure for c, r in zip(candidates, several, strict=True)]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-12)
    single = [meteor(candidates, [each[min(i, len(each) - 1)] for each in several]) for i in range(3)]
    np.testing.assert_array_equal(meteor(candidates, several), np.max(single, axis=0))


def plain_meteor(candidate: str, reference: str) -> float:
    """Banerjee & Lavie's score of the alignment with most matches and then fewest chunks, by trying all of them."""
    stem = PorterStemmer().stem
    first, second = ([stem(word) for word in text.split()] for text in (candidate, reference))
    matches = (Counter(first) & Counter(second)).total()
    if not matches:
        return 0.0
    places = [*range(len(second)), *[None] * len(first)]
    fewest = len(first)
    for chosen in set(permutations(places, len(first))):
        kept = [(i, j) for i, j in enumerate(chosen) if j is not None]
        if len(kept) == matches and all(first[i] == second[j] for i, j in kept):
            fewest = min(fewest, 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in pairwise(kept)))
    precision, recall = matches / len(first), matches / len(second)
    return 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (fewest / matches) ** 3)


def test_meteor_equals_its_formula_where_no_word_repeats() -> None:
    chance = random.Random(1)
    words = ["birds", "running", "seas", "happy", "red"], ["bird", "runs", "sea", "happiness", "red"]
    candidates = [" ".join(chance.sample(words[0], chance.randint(1, 4))) for _ in range(12)]
    references = [" ".join(chance.sample(words[1], chance.randint(1, 4))) for _ in range(12)]
    expected = [plain_meteor(*pair) for pair in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(meteor(candidates, references), expected, rtol=0, atol=1e-12)
    assert len(set(expected)) > 5


def test_meteor_gives_the_example_of_nltk() -> None:
    candidate = "It is a guide to action which ensures that the military always obeys the commands of the party"
    reference = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert meteor([candidate], [reference]) == pytest.approx([0.6944], abs=5e-5)  # from nltk's documentation


@pytest.fixture
def no_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])


@pytest.fixture(params=["folder", "zip"])
def small_wordnet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A WordNet with one synset, in the format of the real one."""
    folder = tmp_path / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name in WordNetCorpusReader._FILES:
        (folder / name).write_text("")
    (folder / "lexnames").write_text("00\tnoun.all\t1\n")
    (folder / "data.adj").write_text("  1 WordNet 3.0 Copyright\n")
    (folder / "index.noun").write_text("couch n 1 0 1 0 00000000\nsofa n 1 0 1 0 00000000\n")
    (folder / "data.noun").write_text("00000000 00 n 02 couch 0 sofa 0 000 | a soft seat\n")
    if request.param == "zip":
        shutil.make_archive(str(folder), "zip", folder.parent, "wordnet")
        shutil.rmtree(folder)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    # nltk's own loader keeps what it once loaded
    reader = LazyCorpusLoader("wordnet", WordNetCorpusReader, LazyCorpusLoader("omw-1.4", WordNetCorpusReader))
    monkeypatch.setattr(text_overlap, "wordnet", reader)
    yield
    for stream in reader._data_file_map.values():
        stream.close()


@pytest.mark.usefixtures("no_wordnet")
def test_without_wordnet_meteor_is_labelled_exact_and_stem() -> None:
    assert not wordnet_available()
    found = overlap(["a red couch"], ["a red sofa"])
    assert list(found) == ["rouge1", "rouge2", "rougeL", "meteor_exact_stem"]
    with pytest.raises(ValueError, match=r"WordNet is not on the disk: python -m nltk\.downloader wordnet"):
        meteor(["a red couch"], ["a red sofa"], synonyms=True)


@pytest.mark.usefixtures("small_wordnet")
def test_with_wordnet_synonyms_match_too() -> None:
    assert wordnet_available()
    found = overlap(["a red couch", "a dog"], ["a red sofa", "a cat"])
    assert found["meteor"] == pytest.approx([1 - 0.5 / 27, 0.25], abs=1e-12)
    assert found["meteor_exact_stem"] == pytest.approx([2 / 3 * (1 - 0.5 / 8), 0.25], abs=1e-12)


def unit_counts(texts: list[str]) -> np.ndarray:
    """Embeddings by hand: how often each letter occurs."""
    counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_the_cosine_of_each_pair_and_of_the_best_reference() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return unit_counts(texts)

    candidates, references = ["ab", "ab", "cc"], [["ab", "cd"], ["bc", "ca"], ["cd", "b"]]
    found = embedding_cosine(candidates, references, embed)
    np.testing.assert_allclose(found, [1, 0.5, np.sqrt(0.5)], rtol=0, atol=1e-12)
    assert len(asked) == len(set(asked)) == 6


@pytest.mark.parametrize(
    "embed",
    [lambda texts: 2 * unit_counts(texts), lambda texts: unit_counts(texts)[:1], lambda texts: unit_counts(texts)[0]],
)
def test_embeddings_that_are_no_unit_rows_are_refused(embed: Callable) -> None:
    with pytest.raises(ValueError, match="not rows of unit length"):
        embedding_cosine(["ab"], ["cd"], embed)


def test_mean_pooling_equals_one_text_at_a_time() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = BertModel(config)
    model.train()
    ids = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "bird", "on", "the", "sea", "two", "red"])}
    raw = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", model_max_length=512)
    texts = ["a bird", "two red bird on the sea", "sea", "a bird on a red sea"]
    found = mean_pooled(model, tokenizer, texts, batch=3)
    assert model.training and found.dtype == np.float32
    model.double().eval()
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            state = model(input_ids=torch.tensor([[ids[word] for word in text.split()]])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (state / state.norm()).numpy(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no text to embed"):
        mean_pooled(model, tokenizer, [])


def test_unrelated_pairs_score_lower_than_true_ones() -> None:
    captions = birds(60, seed=0, alignment=0.5).captions
    candidates, references = [each[0] for each in captions], [list(each[1:]) for each in captions]
    other = shuffled(len(captions), seed=0)
    true = overlap(candidates, references, embed=unit_counts)
    unrelated = overlap(candidates, [references[place] for place in other], embed=unit_counts)
    assert list(true) == list(unrelated) and "cosine" in true
    for name, scores in true.items():
        assert scores.shape == (60,) and 0 <= unrelated[name].mean() < scores.mean() <= 1


def test_shuffling_leaves_no_pair_and_draws_all_derangements_alike() -> None:
    counts = Counter(tuple(shuffled(4, seed).tolist()) for seed in range(1800))
    assert all(place != partner for order in counts for place, partner in enumerate(order))
    assert len(counts) == 9 and all(sorted(order) == [0, 1, 2, 3] for order in counts)
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 26.1  # chi-squared, 8 degrees: p = 0.001
    np.testing.assert_array_equal(shuffled(50, 3), shuffled(50, 3))
    assert (shuffled(50, 3) != shuffled(50, 4)).any()
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"Among {n} items there is no unrelated pair"):
            shuffled(n, 0)


def test_over_samples_takes_the_best_or_the_mean() -> None:
    scores = np.array([[0.1, 0.5, 0.3], [0.2, 0.2, 0.8]])
    np.testing.assert_allclose(over_samples(scores, "max"), [0.5, 0.8])
    np.testing.assert_allclose(over_samples(scores, "mean"), [0.3, 0.4])
    with pytest.raises(ValueError, match="give some a row"):
        over_samples(np.zeros((2, 0)), "max")


@pytest.mark.parametrize("score", [rouge, meteor, overlap, lambda c, r: embedding_cosine(c, r, unit_counts)])
def test_bad_texts_are_refused_by_their_place(score: Callable) -> None:
    for candidates, references in (([], []), (["a"], []), (["a", "b"], ["a"])):
        with pytest.raises(ValueError, match="are no pairs"):
            score(candidates, references)
    with pytest.raises(ValueError, match="Candidate 1 has no letter or digit"):
        score(["a", "... !"], ["a", "b"])
    for references in (["a", "b", ""], [["a"], ["b"], ["c", "?"]], [["a"], ["b"], []]):
        with pytest.raises(ValueError, match="Reference 2 has no letter or digit"):
            score(["a", "b", "c"], references)
