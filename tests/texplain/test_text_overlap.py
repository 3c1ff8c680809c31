"""ROUGE against rouge_score, METEOR against its formula, embeddings against one text at a time, shuffles by chance."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import nltk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.corpus.reader import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.stem import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from xaikit.texplain import alignment, text_overlap
from xaikit.texplain.alignment import Links, align
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


def alignments(matches: list[list[int]], taken: frozenset[int] = frozenset()) -> Iterator[Links]:
    """All sets of links in which no word has two."""
    if not matches:
        yield {}
        return
    for rest in alignments(matches[:-1], taken):
        yield rest
    for other in matches[-1]:
        if other not in taken:
            for rest in alignments(matches[:-1], taken | {other}):
                yield {**rest, len(matches) - 1: other}


def crossings(links: Links) -> int:
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(links.items(), 2))


def chunks(links: Links) -> int:
    return sum(links.get(place - 1) != other - 1 or other == 0 for place, other in links.items())


def by_trying_all(matches: list[list[int]], before: Links) -> Links:
    """Of the largest alignments those with the fewest crossings, of them the fewest chunks, and the first words."""
    return min(
        alignments(matches),
        key=lambda links: (-len(links), crossings(links), chunks(before | links), sum(links) + sum(links.values())),
    )


@st.composite
def stages(draw: st.DrawFn) -> tuple[list[list[int]], Links]:
    """What a stage may find: words that repeat, or, as synonyms, anything; and a link of the stage before."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    if draw(st.booleans()):
        first, second = (draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size)) for size in (n, m))
        matches = [[place for place in range(m) if second[place] == word] for word in first]
    else:
        matches = [sorted(draw(st.sets(st.integers(0, m - 1), max_size=3))) for _ in range(n)]
    before = {}
    if draw(st.booleans()):
        before = {draw(st.integers(0, n - 1)): draw(st.integers(0, m - 1))}
        matches = [
            [] if place in before else [other for other in others if other not in before.values()]
            for place, others in enumerate(matches)
        ]
    return matches, before


@given(stages())
@settings(max_examples=300, deadline=None)
def test_alignments_have_the_most_links_then_the_fewest_crossings_then_the_fewest_chunks(stage) -> None:
    matches, before = stage
    links, certain = align(matches, before)
    expected = by_trying_all(matches, before)
    assert certain and all(other in matches[place] for place, other in links.items())
    assert len(set(links.values())) == len(links) == len(expected)
    assert (crossings(links), chunks(before | links)) == (crossings(expected), chunks(before | expected))
    assert sum(links) + sum(links.values()) == sum(expected) + sum(expected.values())


def plain_meteor(first: list[str], second: list[str]) -> float:
    """Banerjee & Lavie's score, stage by stage, by trying all alignments."""
    links: Links = {}
    for key in (str, PorterStemmer().stem):
        matches = [
            [
                other
                for other, its in enumerate(second)
                if place not in links and other not in links.values() and key(word) == key(its)
            ]
            for place, word in enumerate(first)
        ]
        links |= by_trying_all(matches, links)
    if not links:
        return 0.0
    precision, recall = len(links) / len(first), len(links) / len(second)
    return 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (chunks(links) / len(links)) ** 3)


SENTENCES = st.lists(st.sampled_from(["the", "a", "bird", "birds", "sea", "runs", "running"]), min_size=1, max_size=6)


@given(SENTENCES, SENTENCES)
@settings(max_examples=200, deadline=None)
def test_meteor_equals_its_formula_by_trying_all_alignments(first: list[str], second: list[str]) -> None:
    assert meteor([" ".join(first)], [" ".join(second)])[0] == pytest.approx(plain_meteor(first, second), abs=1e-12)


def test_what_matches_exactly_goes_before_what_crosses_less() -> None:
    """ "birds" takes the equal word across two others, though its singular would cross none."""
    found = meteor(["birds a b"], ["bird a b birds"])
    precision, recall = 1.0, 3 / 4
    assert found[0] == pytest.approx(10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (2 / 3) ** 3))


def test_long_texts_of_few_words_are_aligned_by_a_bounded_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are a thousand ways to choose from, and what is not certain to cross least is said."""
    chance = random.Random(0)
    ordered = ["the cat and the dog and the bird " * 6, "and the cat the dog the bird and a " * 5]
    score = meteor(ordered[:1], ordered[1:])
    assert 0.5 < score[0] < 1 and meteor(ordered[:1], ordered[:1])[0] == pytest.approx(1, abs=1e-3)
    monkeypatch.setattr(alignment, "WORK", 10_000)
    mixed = [" ".join(chance.choices("abcdef", k=60)) for _ in range(2)]
    matches = [[place for place, its in enumerate(mixed[1].split()) if its == word] for word in mixed[0].split()]
    links, certain = align(matches, {})
    assert len(links) == (Counter(mixed[0].split()) & Counter(mixed[1].split())).total() and not certain
    with pytest.warns(UserWarning, match="METEOR of 1 pairs of long texts .* may not be those with the fewest"):
        meteor(mixed[:1], mixed[1:])


def test_meteor_of_nltks_example_crosses_once() -> None:
    """nltk takes the last "the" and another "that", and so makes 6 chunks and 0.6944 where 4 and 0.7270 are right."""
    candidate = "It is a guide to action which ensures that the military always obeys the commands of the party"
    reference = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert meteor([candidate], [reference]) == pytest.approx([20 / 27 * (1 - 0.5 * (4 / 12) ** 3)])


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
