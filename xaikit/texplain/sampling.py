"""Nucleus sampling (Holtzman et al., 2020) of many sentences for each of several conditionings of a text decoder.

The decoder is a BERT with cross-attention, as BLIP has it. Three things make a thousand sentences a feature cheap.
Sentences that begin alike are one until they part, so the decoder sees each different beginning once. The
cross-attention is not causal, so a feature's sentences are queries of one attention whose keys and values exist once.
And the vocabulary is seldom sorted: a token of the whole distribution is in the nucleus with probability `top_p` or
more, and whether it is takes one sum to see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import BertLMHeadModel, BlipTextLMHeadModel

from xaikit.arguments import Count, Natural, Positive, PositiveShare, Seed, public
from xaikit.models.hooks import at_least_float32, evaluating
from xaikit.storage.seeding import generator

_DRAWS = 4  # at most for a token; each but the last succeeds with a probability of top_p or more
_PREFILTER = 512  # this many of the most probable tokens are sorted before the whole vocabulary is

Cache = list[Float[Tensor, "2 rows heads positions size"]]  # of a layer each: keys, values


@dataclass(frozen=True)
class _Rules:
    """Which sentences there can be."""

    prompt: list[int]
    end: int
    pad: int
    top_p: float | int
    min_new_tokens: int
    max_new_tokens: int
    repetition_penalty: float | int

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.max_new_tokens


@public
def sample(
    decoder: nn.Module,
    conditioning: Float[Tensor, "features tokens width"],
    n: Count,
    *,
    prompt: Sequence[int],
    end: Natural,
    pad: Natural,
    seed: Seed,
    top_p: PositiveShare = 0.95,
    min_new_tokens: Natural = 20,
    max_new_tokens: Count = 30,
    repetition_penalty: Positive = 1.0,
    ids: Sequence[str | int] | None = None,
    rows: Count = 4096,
) -> Int64[Tensor, "features n length"]:
    """The tokens of `n` sentences for each feature that the decoder is conditioned on, `max_new_tokens` long.

    `decoder` is a `BlipTextLMHeadModel` or a `BertLMHeadModel` with cross-attention. Every sentence continues `prompt`,
    which is not in the result; behind `end`, which is, there is only `pad`. Each token comes from the nucleus: the
    fewest most probable tokens that together reach `top_p`. Before `min_new_tokens` tokens there is no `end`. A
    `repetition_penalty` above 1 makes the tokens of prompt and sentence less likely. All of these are as in
    `transformers.generate`, with no top-k.
    At most `rows` sentences are held at once, and no more features than take as much memory for their keys and values.
    A sentence depends on `seed`, its number and the id of its feature (by default its position), but for rounding not
    on `rows`, on `n` or on how many features there are: give another batch of features other ids, or another seed.
    Raises ValueError for another decoder or one without cross-attention; for conditioning of another width, without
    tokens, NaN or infinite; for tokens outside the vocabulary, sentences beyond the decoder's positions, and settings
    outside their range; for ids that are not one a feature; and for a decoder whose logits are NaN or infinite.
    Source: TExplain, section 3 (1000 sentences, top_p = 0.95, 20 to 30 tokens).

    >>> import torch
    >>> from transformers import BertConfig, BertLMHeadModel
    >>> from xaikit import sample
    >>> sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> decoder = BertLMHeadModel(BertConfig(**sizes, is_decoder=True, add_cross_attention=True))
    >>> of_two_images, settings = torch.rand(2, 9, 16), dict(min_new_tokens=3, max_new_tokens=8)
    >>> sample(decoder, of_two_images, 5, prompt=[1], end=2, pad=0, seed=0, **settings).shape
    torch.Size([2, 5, 8])
    """
    rules = _Rules(list(prompt), end, pad, top_p, min_new_tokens, max_new_tokens, repetition_penalty)
    _check(decoder, conditioning, rules)
    if n < 1 or rows < 1:
        raise ValueError(f"There are {n} sentences to sample, {rows} at once: give 1 or more.")
    features, tokens, _ = conditioning.shape
    ids = range(features) if ids is None else ids
    if len(ids) != features or len(set(ids)) != features:
        raise ValueError(f"There are {len(set(ids))} different ids for {features} features: give each its own.")
    together = max(1, min(rows // n, rows * rules.longest // tokens))
    sentences = torch.full((features, n, max_new_tokens), pad, device=conditioning.device)
    with evaluating(decoder), torch.no_grad():
        for some in torch.arange(features).split(together):
            conditioned = _Conditioned(decoder, conditioning[some])
            # The prompt's keys and values, and the logits behind it, are the same for all sentences of a feature.
            start = conditioned.cache(len(some), len(prompt))
            for place, token in enumerate(prompt):
                logits = conditioned(torch.full((len(some), 1), token, device=decoder.device), start, place)
            streams = [generator(seed, "nucleus", ids[feature]) for feature in some.tolist()]
            for part in torch.arange(n).split(rows):
                size = (len(part), max_new_tokens, _DRAWS)
                # Above 0, so that no token of probability 0 is drawn.
                uniform = torch.stack([1 - torch.rand(size, generator=stream) for stream in streams])
                found = _continue(conditioned, start, logits, uniform.to(logits.device), rules)
                sentences[some[:, None], part] = found.to(sentences.device)
    return sentences


def _check(decoder: nn.Module, conditioning: Float[Tensor, "features tokens width"], rules: _Rules) -> None:
    if not isinstance(decoder, BlipTextLMHeadModel | BertLMHeadModel):
        raise ValueError(
            f"{type(decoder).__name__} is no known decoder: give a BlipTextLMHeadModel or BertLMHeadModel."
        )
    config, layers = decoder.config, decoder.bert.encoder.layer
    if not all(hasattr(layer, "crossattention") for layer in layers):
        raise ValueError(
            "The decoder has no cross-attention: build it with is_decoder (BERT: and add_cross_attention)."
        )
    width = layers[0].crossattention.self.key.in_features
    if conditioning.shape[2] != width or not conditioning.shape[1] or not conditioning.isfinite().all():
        raise ValueError(
            f"The conditioning is {tuple(conditioning.shape)}, or NaN or infinite somewhere: give finite numbers"
            f" [features, tokens, {width}]."
        )
    if not rules.prompt:
        raise ValueError("The prompt is empty: start it with the decoder's first token.")
    if not all(0 <= token < config.vocab_size for token in (*rules.prompt, rules.end, rules.pad)):
        raise ValueError(
            f"Prompt {rules.prompt}, end {rules.end} or pad {rules.pad} is outside the vocabulary: give tokens of 0 to"
            f" {config.vocab_size - 1}."
        )
    if not 0 <= rules.min_new_tokens <= rules.max_new_tokens or not rules.max_new_tokens:
        raise ValueError(
            f"Sentences of {rules.min_new_tokens} to {rules.max_new_tokens} new tokens cannot be: give a minimum from 0"
            " and a maximum from 1 that is no smaller."
        )
    if rules.longest > config.max_position_embeddings:
        raise ValueError(
            f"The prompt and {rules.max_new_tokens} new tokens are {rules.longest}, but the decoder has"
            f" {config.max_position_embeddings} positions: take fewer."
        )
    if not 0 < rules.top_p <= 1 or not rules.repetition_penalty > 0:
        raise ValueError(
            f"top_p is {rules.top_p} and the repetition penalty {rules.repetition_penalty}: give one in (0, 1], and one"
            " above 0."
        )


class _Conditioned:
    """The decoder on some features, with the keys and values of its cross-attention."""

    def __init__(self, decoder: nn.Module, conditioning: Float[Tensor, "features tokens width"]) -> None:
        self.decoder, self.layers = decoder, decoder.bert.encoder.layer
        conditioning = conditioning.to(decoder.device, decoder.dtype)
        attentions = [layer.crossattention.self for layer in self.layers]
        self.cross = [[_heads(each(conditioning), own) for each in (own.key, own.value)] for own in attentions]

    def cache(self, rows: int, length: int) -> Cache:
        """Room for the keys and values of `rows` sentences."""
        return [keys.new_empty(2, rows, keys.shape[1], length, keys.shape[3]) for keys, _ in self.cross]

    def __call__(
        self, ids: Int64[Tensor, "features sentences"], cache: Cache, place: int
    ) -> Float[Tensor, "features sentences vocabulary"]:
        """The logits behind the tokens `ids` at the position `place`, whose keys and values go into the cache."""
        features, sentences = ids.shape
        hidden = self.decoder.bert.embeddings(ids.reshape(-1, 1), past_key_values_length=place)
        for layer, own, cross in zip(self.layers, cache, self.cross, strict=True):
            attention = layer.attention.self
            for kind, projection in enumerate((attention.key, attention.value)):
                own[kind, :, :, place : place + 1] = _heads(projection(hidden), attention)
            # With one query for each row, two products are faster than the fused attention is.
            keys, values = own[:, :, :, : place + 1]
            queries = _heads(attention.query(hidden), attention) * attention.attention_head_size**-0.5
            context = (queries @ keys.mT).softmax(3) @ values
            hidden = layer.attention.output(context.transpose(1, 2).flatten(2), hidden)
            # Not causal: all sentences of a feature are queries of the same keys and values.
            attention = layer.crossattention.self
            queries = attention.query(hidden).view(features, sentences, -1)
            context = F.scaled_dot_product_attention(_heads(queries, attention), *cross)
            hidden = layer.crossattention.output(context.transpose(1, 2).reshape(hidden.shape), hidden)
            hidden = layer.feed_forward_chunk(hidden)
        return self.decoder.cls(hidden).view(features, sentences, -1)


def _heads(
    states: Float[Tensor, "batch positions width"], attention: nn.Module
) -> Float[Tensor, "batch heads positions size"]:
    return states.unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)


def _continue(
    conditioned: _Conditioned,
    start: Cache,
    logits: Float[Tensor, "features 1 vocabulary"],
    uniform: Float[Tensor, "features n new draws"],
    rules: _Rules,
) -> Int64[Tensor, "features n new"]:
    """Sentences behind a prompt with keys and values `start` and logits `logits`.

    They grow as a tree: each feature has a row in the cache for every beginning that some of its sentences share, and
    as many rows as the feature with the most of them, until more than half of the sentences are alone.
    """
    (features, n, _, _), prompt, device = uniform.shape, len(rules.prompt), logits.device
    every = torch.arange(features, device=device)
    uniform = uniform.flatten(0, 1)
    tokens = torch.full((features * n, rules.longest), rules.pad, device=device)
    tokens[:, :prompt] = torch.tensor(rules.prompt, device=device)
    going = torch.arange(features * n, device=device)  # the sentences that have not ended
    row, rows = going // n, 1  # where each of them is in the cache, and how many rows a feature has there
    first = n * every  # a sentence of each row
    cache = conditioned.cache(features, rules.longest - 1)
    for own, common in zip(cache, start, strict=True):
        own[:, :, :, :prompt] = common
    for step, place in enumerate(range(prompt, rules.longest)):
        if step:
            logits = conditioned(tokens[first, place - 1].view(features, rows), cache, place - 1)
        logits = _processed(logits.flatten(0, 1), tokens[first, :place], rules, ending=step >= rules.min_new_tokens)
        drawn = _draw(at_least_float32(logits).softmax(1), row, uniform[going, step], rules.top_p)
        tokens[going, place] = drawn
        goes = drawn != rules.end
        going, row, drawn = going[goes], row[goes], drawn[goes]
        if not len(going):
            break
        beginnings, which = (row * logits.shape[1] + drawn).unique(return_inverse=True)
        parents = beginnings // logits.shape[1]
        most = int((parents // rows).bincount(minlength=features).max())
        # Where no sentence parts from others, all stay where they are until half of the rows are of ended ones.
        if most <= rows // 2 or len(parents.unique()) < len(parents):
            if most > n // 2:  # few are alike: each gets a row of its own, as moving at every parting costs more
                parents, which = row, torch.arange(len(row), device=device)
            feature = parents // rows
            counts = feature.bincount(minlength=features)
            most = int(counts.max())
            rank = torch.arange(len(parents), device=device) - (counts.cumsum(0) - counts)[feature]
            kept = (rows * every).repeat_interleave(most)  # what fills a feature's rows up does not matter
            kept[most * feature + rank] = parents
            grown = conditioned.cache(len(kept), rules.longest - 1)
            for own, new in zip(cache, grown, strict=True):
                new[:, :, :, :place] = own[:, kept, :, :place]
            cache = grown
            row, rows = (most * feature + rank)[which], most
        first = (n * every).repeat_interleave(rows)
        first[row] = going
    return tokens[:, prompt:].unflatten(0, (features, n))


def _processed(
    logits: Float[Tensor, "rows vocabulary"], seen: Int64[Tensor, "rows places"], rules: _Rules, *, ending: bool
) -> Float[Tensor, "rows vocabulary"]:
    """The logits with the penalty for what was seen, and without the end where it is too early for it."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not logits.sum().isfinite():
        raise ValueError("The decoder's logits are NaN or infinite: check its weights, or run it in float32.")
    if rules.repetition_penalty != 1:
        known = logits.gather(1, seen)
        known = torch.where(known < 0, known * rules.repetition_penalty, known / rules.repetition_penalty)
        logits = logits.scatter(1, seen, known)
    return logits if ending else logits.index_fill(1, torch.tensor(rules.end, device=logits.device), -torch.inf)


def _draw(
    probabilities: Float[Tensor, "rows vocabulary"],
    row: Int64[Tensor, " sentences"],
    uniform: Float[Tensor, "sentences draws"],
    top_p: float | int,
) -> Int64[Tensor, " sentences"]:
    """A token for each sentence from the nucleus of its row, by its probability there.

    It is drawn from the whole distribution, and drawn again where it is outside the nucleus; the last draw is from the
    nucleus alone. Either way a token that is in a nucleus of mass m comes with its probability divided by m.
    """
    if uniform.shape[1] == 1:
        probabilities = probabilities.double()
        nucleus = probabilities.where(probabilities >= _least(probabilities, top_p), 0)
        return _quantile(nucleus, row, uniform[:, 0])
    drawn = _quantile(probabilities, row, uniform[:, 0])
    pairs, which = (row * probabilities.shape[1] + drawn).unique(return_inverse=True)
    each, own = probabilities[pairs // probabilities.shape[1]], probabilities.flatten()[pairs]
    # A token is in the nucleus where the more probable ones do not reach top_p. Rounding keeps their sum, but also the
    # whole, from 1: with the whole, a token of probability 0 is outside even where top_p is 1.
    # Their sum is what they exceed the token by, and as often the token: masks of booleans are far slower.
    whole, excess = each.sum(1), (each - own[:, None]).relu_()
    likelier = excess.sum(1) + own * excess.sign_().sum(1)
    outside = (likelier >= top_p * whole)[which]
    if outside.any():
        needed, among = row[outside].unique(return_inverse=True)
        drawn[outside] = _draw(probabilities[needed], among, uniform[outside, 1:], top_p)
    return drawn


def _quantile(
    weights: Float[Tensor, "rows vocabulary"], row: Int64[Tensor, " sentences"], uniform: Float[Tensor, " sentences"]
) -> Int64[Tensor, " sentences"]:
    """Where the running sum of the weights of each sentence's row reaches the share `uniform` of the whole."""
    running = weights.cumsum(1, dtype=torch.float64)
    # All rows behind one another ascend from 0 to their number, so that there is one search for all sentences.
    running.div_(running[:, -1:].clone()).add_(torch.arange(len(weights), device=weights.device)[:, None])
    return torch.searchsorted(running.flatten(), row + uniform.double()) - row * weights.shape[1]


def _least(
    probabilities: Float[Tensor, "rows vocabulary"], top_p: float | int, prefilter: int = _PREFILTER
) -> Float[Tensor, "rows 1"]:
    """The least probability in each row's nucleus: that of the token with which `top_p` is reached.

    Tokens exactly as probable as that one are all in the nucleus.
    """
    likeliest = probabilities.topk(min(prefilter, probabilities.shape[1]), dim=1).values
    short = (likeliest.cumsum(1) < top_p).sum(1, keepdim=True)
    least = likeliest.gather(1, short.clamp(max=likeliest.shape[1] - 1))
    beyond = short[:, 0] == likeliest.shape[1]
    if likeliest.shape[1] < probabilities.shape[1] and beyond.any():
        least[beyond] = _least(probabilities[beyond], top_p, probabilities.shape[1])
    return least
