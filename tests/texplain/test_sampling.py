"""Nucleus sampling against one sentence at a time without a cache, an exact enumeration, and transformers' generate."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BlipTextConfig,
    BlipTextLMHeadModel,
    DynamicCache,
    EncoderDecoderCache,
)
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopPLogitsWarper,
)

from xaikit.storage.seeding import generator
from xaikit.texplain.sampling import _DRAWS, _Conditioned, _draw, _least, _processed, _Rules, sample

PROMPT, END, PAD = [1, 4, 5], 2, 0
KINDS = ("bert", "blip")
LOOKS = {"bert": 16, "blip": 12}  # the width of the conditioning


def build(kind: str, vocabulary: int = 20, ending: float = 0.0) -> nn.Module:
    """A small decoder with random weights in float64, so that no choice hangs on rounding, whatever is done at once.

    `ending` is added to the logit of the end.
    """
    torch.manual_seed(3)
    size = dict(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=24, initializer_range=0.4, pad_token_id=PAD, bos_token_id=1, eos_token_id=END,
    )  # fmt: skip
    if kind == "bert":
        decoder = BertLMHeadModel(BertConfig(**size, is_decoder=True, add_cross_attention=True))
    else:
        decoder = BlipTextLMHeadModel(BlipTextConfig(**size, encoder_hidden_size=LOOKS["blip"], sep_token_id=END))
    decoder.cls.predictions.bias.data[END] += ending
    return decoder.double().eval().requires_grad_(False)


def looks(kind: str, features: int, tokens: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return 2 * torch.randn(features, tokens, LOOKS[kind], generator=draw, dtype=torch.float64)


def generate(decoder: nn.Module, conditioning: Tensor, n: int, **options: object) -> Tensor:
    """What transformers' own loop gives for one prompt a feature, without the prompt."""
    ones = torch.ones(conditioning.shape[:2], dtype=torch.int64)
    prompt = torch.tensor(PROMPT).expand(len(conditioning), -1)
    cache = EncoderDecoderCache(DynamicCache(config=decoder.config), DynamicCache(config=decoder.config))
    found = decoder.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), encoder_hidden_states=conditioning,
        encoder_attention_mask=ones, num_return_sequences=n, eos_token_id=END, pad_token_id=PAD,
        past_key_values=cache, **options,
    )  # fmt: skip
    return found[:, len(PROMPT) :].unflatten(0, (-1, n))


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """The fewest most probable tokens that reach top_p, one by one."""
    inside, reached = np.zeros(len(probabilities), dtype=bool), 0.0
    for token in np.argsort(-probabilities):
        if reached >= top_p:
            break
        inside[token] = True
        reached += probabilities[token]
    return inside


def plain(decoder: nn.Module, conditioning: Tensor, uniform: np.ndarray, top_p: float, least: int) -> list[int]:
    """One sentence, without a cache; `uniform` [tokens, draws] are its random numbers."""
    tokens = list(PROMPT)
    for step, numbers in enumerate(uniform):
        logits = decoder(torch.tensor([tokens]), encoder_hidden_states=conditioning[None]).logits[0, -1]
        if step < least:
            logits[END] = -math.inf
        probabilities = logits.softmax(0).numpy()
        inside = nucleus(probabilities, top_p)
        for number in numbers[:-1]:
            token = int(np.argmax(probabilities.cumsum() >= number * probabilities.sum()))
            if inside[token]:
                break
        else:
            within = (probabilities * inside).cumsum()
            token = int(np.argmax(within >= numbers[-1] * within[-1]))
        tokens.append(token)
        if token == END:
            break
    new = tokens[len(PROMPT) :]
    return new + [PAD] * (len(uniform) - len(new))


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_of_each_step_are_those_of_the_decoder_without_a_cache(kind: str) -> None:
    decoder, conditioning = build(kind), looks(kind, 3)
    ids = torch.randint(20, (3, 4, 7), generator=torch.Generator().manual_seed(2))
    conditioned = _Conditioned(decoder, conditioning)
    cache = conditioned.cache(12, 7)
    found = torch.stack([conditioned(ids[:, :, place], cache, place) for place in range(7)], dim=2)
    expected = decoder(ids.flatten(0, 1), encoder_hidden_states=conditioning.repeat_interleave(4, dim=0)).logits
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-9)
    other = decoder(ids.flatten(0, 1), encoder_hidden_states=conditioning.flip(0).repeat_interleave(4, dim=0)).logits
    assert (other - expected).abs().max() > 0.1  # what it is conditioned on matters


@pytest.mark.parametrize(("kind", "top_p"), [("bert", 0.9), ("blip", 0.9), ("blip", 0.4)])
def test_sentences_are_those_that_are_made_one_at_a_time(kind: str, top_p: float) -> None:
    decoder, conditioning = build(kind, ending=2.0), looks(kind, 2)
    found = sample(
        decoder, conditioning, 8, prompt=PROMPT, end=END, pad=PAD, seed=5, top_p=top_p, min_new_tokens=2,
        max_new_tokens=9,
    )  # fmt: skip
    for feature, own in enumerate(conditioning):
        uniform = 1 - torch.rand(8, 9, _DRAWS, generator=generator(5, "nucleus", feature)).numpy().astype(float)
        for sentence in range(8):
            assert found[feature, sentence].tolist() == plain(decoder, own, uniform[sentence], top_p, 2)


def enumerated(decoder: nn.Module, conditioning: Tensor, vocabulary: int, length: int, top_p: float) -> dict:
    """The probability of every sentence of `length` tokens, of which the first is no end."""
    found = {}
    for words in itertools.product(range(vocabulary), repeat=length):
        words = tuple(PAD if END in words[:place] else word for place, word in enumerate(words))
        if words in found:
            continue
        ids = torch.tensor([[*PROMPT, *words]])
        logits = decoder(ids, encoder_hidden_states=conditioning[None]).logits[0, len(PROMPT) - 1 : -1]
        logits[0, END] = -math.inf
        probability = 1.0
        for place, word in enumerate(words):
            each = logits[place].softmax(0).numpy()
            each = each * nucleus(each, top_p)
            probability *= each[word] / each.sum()
            if word == END:
                break
        found[words] = probability
    return found


def goodness(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of a chi-square test; what is expected fewer than five times is one class."""
    assert not observed[probabilities == 0].any()
    expected = probabilities * observed.sum()
    rare = expected < 5
    observed, expected = (np.append(each[~rare], each[rare].sum()) for each in (observed, expected))
    return chisquare(observed[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_are_distributed_as_an_enumeration_of_all_of_them_says(kind: str) -> None:
    decoder, conditioning = build(kind, vocabulary=6, ending=1.0), looks(kind, 1)
    options = dict(prompt=PROMPT, end=END, pad=PAD, min_new_tokens=1, max_new_tokens=3, rows=2000)
    found = sample(decoder, conditioning, 6000, seed=1, top_p=0.8, **options)[0].tolist()
    expected = enumerated(decoder, conditioning[0], 6, 3, 0.8)
    assert sum(expected.values()) == pytest.approx(1)
    counts = dict.fromkeys(expected, 0)
    for sentence in found:
        counts[tuple(sentence)] += 1
    observed = np.array([counts[words] for words in expected])
    assert goodness(observed, np.array(list(expected.values()))) > 1e-3
    wrong = enumerated(decoder, conditioning[0], 6, 3, 0.95)
    assert goodness(observed, np.array([wrong[words] for words in expected])) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_tokens_are_distributed_as_those_of_generate(kind: str) -> None:
    decoder, conditioning = build(kind, ending=1.0), looks(kind, 1)
    options = dict(min_new_tokens=1, max_new_tokens=2, repetition_penalty=1.3)
    ours = sample(decoder, conditioning, 5000, prompt=PROMPT, end=END, pad=PAD, seed=2, top_p=0.8, **options)

    def equal(top_p: float) -> float:
        torch.manual_seed(0)
        theirs = generate(decoder, conditioning, 5000, do_sample=True, top_k=0, top_p=top_p, **options)
        pairs = [np.bincount((each[0, :, 0] * 20 + each[0, :, 1]).numpy(), minlength=400) for each in (ours, theirs)]
        table = np.stack(pairs)
        rare = table.sum(0) < 20
        table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
        return chi2_contingency(table[:, table.sum(0) > 0]).pvalue

    assert equal(0.8) > 1e-3
    assert equal(0.9) < 1e-6


@pytest.mark.parametrize("penalty", (1.0, 1.5))
@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_nucleus_is_the_greedy_sentence_of_generate(kind: str, penalty: float) -> None:
    decoder, conditioning = build(kind, ending=4.0), looks(kind, 6)
    options = dict(min_new_tokens=3, max_new_tokens=12, repetition_penalty=penalty)
    found = sample(decoder, conditioning, 2, prompt=PROMPT, end=END, pad=PAD, seed=0, top_p=1e-6, **options)
    expected = generate(decoder, conditioning, 1, do_sample=False, **options)
    expected = nn.functional.pad(expected, (0, 12 - expected.shape[2]), value=PAD)
    assert torch.equal(found, expected.expand(-1, 2, -1))
    assert len(expected.flatten(0, 1).unique(dim=0)) > 1
    assert (expected == END).any()


def test_the_nucleus_is_that_of_transformers() -> None:
    draw = torch.Generator().manual_seed(0)
    for vocabulary, scale, top_p in itertools.product((30, 700), (0.1, 2.0, 8.0), (0.01, 0.5, 0.9, 0.95, 0.999)):
        logits = scale * torch.randn(50, vocabulary, generator=draw, dtype=torch.float64)
        expected = TopPLogitsWarper(top_p)(None, logits).isfinite()
        probabilities = logits.softmax(1)
        assert torch.equal(probabilities >= _least(probabilities, top_p), expected)


def test_the_token_that_reaches_top_p_is_the_last_of_the_nucleus() -> None:
    halves = torch.tensor([[0.125, 0.5, 0.125, 0.25]], dtype=torch.float64)
    last = {0.5: 0.5, 0.5001: 0.25, 0.75: 0.25, 0.7501: 0.125, 1: 0.125}
    for top_p, least in last.items():
        assert _least(halves, top_p).item() == least
    for top_p in (0.4999, 0.5001, 0.7499, 0.7501):
        expected = TopPLogitsWarper(top_p)(None, halves[:, [1, 3]].log())  # two tokens, so that none are tied
        two = halves[:, [1, 3]] / 0.75
        assert torch.equal(two >= _least(two, top_p), expected.isfinite())


def test_the_prefilter_finds_what_a_full_sort_finds() -> None:
    scales = torch.tensor([0.0, 0.1, 1.0, 3.0, 6.0, 20.0]).repeat(5)[:, None]
    probabilities = (scales * torch.randn(30, 3000, generator=torch.Generator().manual_seed(0))).double().softmax(1)
    for top_p in (0.3, 0.95, 1):
        assert torch.equal(_least(probabilities, top_p, 512), _least(probabilities, top_p, 3000))
    sizes = (probabilities >= _least(probabilities, 0.95)).sum(1)
    assert sizes.min() < 512 < sizes.max()


@pytest.mark.parametrize("top_p", (0.05, 0.6, 0.95, 1))
def test_draws_over_a_grid_of_numbers_come_by_the_probability_in_the_nucleus(top_p: float) -> None:
    probabilities = (1.5 * torch.randn(30, generator=torch.Generator().manual_seed(1))).double().softmax(0)
    probabilities[[7, 29]] = 0
    side, rows = 400, torch.stack([probabilities, probabilities.flip(0)])
    numbers = (torch.arange(side) + 1.0) / side
    grid = torch.cartesian_prod(numbers, numbers).repeat_interleave(2, dim=0)
    drawn = _draw(rows, torch.arange(2).repeat(side**2), grid, top_p)
    for row, own in zip(rows, drawn.view(-1, 2).T, strict=True):
        expected = torch.from_numpy(nucleus(row.numpy(), top_p)) * row
        shares = own.bincount(minlength=30) / side**2
        torch.testing.assert_close(shares.double(), expected / expected.sum(), rtol=0, atol=2 / side)
        assert not shares[expected == 0].any()


def test_a_feature_has_the_same_sentences_however_many_are_made_at_once() -> None:
    decoder, conditioning = build("blip", ending=2.0), looks("blip", 5)
    options = dict(prompt=PROMPT, end=END, pad=PAD, min_new_tokens=1, max_new_tokens=10)
    whole = sample(decoder, conditioning, 11, seed=4, **options)
    for rows in (1, 3, 11, 25):
        assert torch.equal(sample(decoder, conditioning, 11, seed=4, rows=rows, **options), whole)
    assert torch.equal(sample(decoder, conditioning[:2], 11, seed=4, **options), whole[:2])
    assert torch.equal(sample(decoder, conditioning, 6, seed=4, **options), whole[:, :6])
    assert torch.equal(sample(decoder, conditioning[2:], 11, seed=4, ids=[2, 3, 4], **options), whole[2:])
    assert not torch.equal(sample(decoder, conditioning, 11, seed=5, **options), whole)
    same = sample(decoder, conditioning[:1].expand(2, -1, -1), 11, seed=4, **options)
    assert not torch.equal(same[0], same[1])  # two features get numbers of their own


def test_sentences_end_between_the_shortest_and_the_longest_and_are_padded() -> None:
    decoder, conditioning = build("bert", ending=2.5), looks("bert", 3)
    found = sample(
        decoder, conditioning, 100, prompt=PROMPT, end=END, pad=PAD, seed=0, min_new_tokens=4, max_new_tokens=8
    )
    assert found.shape == (3, 100, 8)
    assert found.dtype == torch.int64
    ends = set()
    for sentence in found.flatten(0, 1).tolist():
        if END in sentence:
            ends.add(sentence.index(END))
            assert not any(sentence[sentence.index(END) + 1 :])
        else:
            ends.add("cut")
    assert ends == {4, 5, 6, 7, "cut"}


def test_the_penalty_and_the_shortest_sentence_are_those_of_transformers() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, seen = torch.randn(40, 15, generator=draw), torch.randint(15, (40, 9), generator=draw)
    for penalty, ending in itertools.product((1.0, 1.2, 0.8), (True, False)):
        rules = _Rules([1] * 4, END, PAD, 0.9, 7, 9, penalty)
        expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits)
        expected = MinNewTokensLengthLogitsProcessor(4, 5 if ending else 6, END)(seen, expected)
        assert torch.equal(_processed(logits, seen, rules, ending=ending), expected)


def test_a_feature_is_encoded_once_and_no_more_is_held_than_asked_for() -> None:
    decoder, conditioning = build("blip", ending=3.0), looks("blip", 7, tokens=20)
    encoded, held = [], []
    decoder.bert.encoder.layer[1].crossattention.self.key.register_forward_hook(lambda _m, x, _y: encoded.append(x[0]))
    decoder.cls.register_forward_hook(lambda _m, x, _y: held.append(len(x[0])))
    options = dict(prompt=PROMPT, end=END, pad=PAD, seed=0, min_new_tokens=2, max_new_tokens=20)
    for n, rows, together in ((6, 4, 1), (6, 13, 2), (1, 2, 2), (1, 3, 3)):
        sample(decoder, conditioning, n, rows=rows, **options)
        assert torch.equal(torch.cat(encoded), conditioning)
        assert max(map(len, encoded)) == together
        assert max(held) <= rows
        encoded.clear(), held.clear()
    short = {**options, "max_new_tokens": 2}
    sample(decoder, conditioning, 1, rows=16, **short)  # a feature has as many keys as four sentences of five tokens
    assert max(map(len, encoded)) == 4


@pytest.mark.parametrize(("ending", "top_p"), ((5.0, 1), (3.0, 0.95), (0.0, 0.5), (2.0, 0.2)))
def test_the_decoder_sees_a_beginning_once_for_all_sentences_that_go_on_from_it(ending: float, top_p: float) -> None:
    decoder, conditioning = build("bert", ending=ending), looks("bert", 3)
    held = []
    decoder.cls.register_forward_hook(lambda _m, x, _y: held.append(len(x[0])))
    options = dict(prompt=PROMPT, end=END, pad=PAD, seed=0, top_p=top_p, min_new_tokens=2, max_new_tokens=9)
    found = sample(decoder, conditioning, 50, **options).tolist()
    going = [
        max(len({tuple(each[:k]) for each in of_one if END not in each[:k]}) for of_one in found) for k in range(9)
    ]
    assert held[:3] == [3, 3, 3] and going[0] == 1
    steps = sum(most > 0 for most in going)
    assert len(held) == len(PROMPT) + steps - 1
    for k in range(1, steps):
        # Where no sentence parts from others, up to as many rows may be of sentences that have ended.
        assert 3 * going[k] <= held[2 + k] < 2 * 3 * going[k]


def test_the_decoder_is_left_as_it_was() -> None:
    decoder, conditioning = build("bert"), looks("bert", 1).requires_grad_()
    options = dict(prompt=PROMPT, end=END, pad=PAD, seed=0, min_new_tokens=0, max_new_tokens=5)
    frozen = sample(decoder, conditioning, 20, **options)
    decoder.train().requires_grad_(True)
    decoder.cls.eval()
    assert torch.equal(sample(decoder, conditioning, 20, **options), frozen)  # no dropout
    assert decoder.training and decoder.bert.training and not decoder.cls.training
    assert not frozen.is_inference()  # they may be words to learn from


def test_a_decoder_in_half_precision_takes_conditioning_in_full() -> None:
    decoder, conditioning = build("blip").to(torch.bfloat16), looks("blip", 2).float()
    found = sample(decoder, conditioning, 3, prompt=PROMPT, end=END, pad=PAD, seed=0, max_new_tokens=20)
    assert found.shape == (2, 3, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n of sample"),
        ({"rows": 0}, "rows of sample"),
        ({"top_p": 0}, "top_p of sample"),
        ({"top_p": 1.01}, "top_p of sample"),
        ({"top_p": math.nan}, "top_p of sample"),
        ({"repetition_penalty": 0.0}, "repetition_penalty of sample"),
        ({"min_new_tokens": 9}, "9 to 8 new tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens of sample"),
        ({"min_new_tokens": 0, "max_new_tokens": 0}, "max_new_tokens of sample"),
        ({"max_new_tokens": 22}, "22 new tokens are 25, but the decoder has 24 positions"),
        ({"prompt": []}, "prompt is empty"),
        ({"ids": []}, "0 different ids for 1 features"),
        ({"prompt": [1, 20]}, "outside the vocabulary: give tokens of 0 to 19"),
        ({"end": -1}, "end of sample"),
        ({"pad": 20}, "pad 20"),
        ({"conditioning": torch.zeros(1, 5, 13)}, "give finite numbers .features, tokens, 12."),
        ({"conditioning": torch.zeros(1, 0, 12)}, "conditioning of sample"),
        ({"conditioning": torch.full((1, 5, 12), torch.nan)}, "conditioning of sample"),
        ({"conditioning": torch.full((1, 5, 12), -torch.inf)}, "conditioning of sample"),
        ({"decoder": nn.Linear(2, 2)}, "Linear is no known decoder"),
        (
            {"decoder": BertForMaskedLM(BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=0))},
            "MaskedLM is no",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_sentence(change: dict, message: str) -> None:
    given = {"decoder": build("blip"), "conditioning": looks("blip", 1), "n": 2, "prompt": PROMPT, "end": END,
             "pad": PAD, "seed": 0, "min_new_tokens": 2, "max_new_tokens": 8, **change}  # fmt: skip
    with pytest.raises(ValueError, match=message) as error:
        sample(given.pop("decoder"), given.pop("conditioning"), given.pop("n"), **given)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_decoders_without_cross_attention_or_with_broken_weights_are_refused() -> None:
    size = dict(vocab_size=20, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    options = dict(prompt=PROMPT, end=END, pad=PAD, seed=0, min_new_tokens=2, max_new_tokens=8)
    for decoder in (
        BertLMHeadModel(BertConfig(**size, is_decoder=True)),
        BlipTextLMHeadModel(BlipTextConfig(**size, encoder_hidden_size=12, is_decoder=False)),
    ):
        with pytest.raises(ValueError, match="no cross-attention"):
            sample(decoder, torch.zeros(1, 5, 12), 2, **options)
    decoder = build("blip")
    decoder.cls.predictions.bias[7] = torch.nan
    with pytest.raises(ValueError, match="logits are NaN"):
        sample(decoder, looks("blip", 1), 2, **options)
