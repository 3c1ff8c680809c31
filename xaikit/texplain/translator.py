"""TExplain (Taghanaki et al., 2023): what a frozen image classifier has learned, told by a frozen language model.

    Z = enc(I)                   `Features`: what the frozen classifier makes of an image, before its head, section 2.1
    Z_mapped = t(Z_in)           `Translator`: the only part that is trained, section 2.2
    loss = CE(dec(Z_mapped), S)  `sentence_loss`: of the image's caption S under the frozen text decoder, section 2.2

The decoder is one of transformers' BERTs with cross-attention: `BlipTextLMHeadModel`, or `BertLMHeadModel`.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xaikit.arguments import Count, Natural, public
from xaikit.models.hooks import at_least_float32, check_hookable, evaluating, hooked

BOTTLENECK = 256  # hidden units of the bottleneck translator, if nothing else is said
MOST_PARAMETERS = 10**9  # more than that and a translator is refused


@public
class Features(nn.Module):
    """Z = enc(I) of images, section 2.1: the output of a classifier's module `layer`, as tokens.

    `layer` is a name out of `model.named_modules()`; the paper's is the last one before the head ("norm" in a timm
    ViT). An output [batch, tokens, width] stays as it is, [batch, width] is one token, and the cells of
    [batch, channels, height, width] are tokens row by row (maps with the channels last are not told apart from these);
    of a tuple the first tensor counts. With `pooled` there is one token: the first one, which must be that of the
    class, or the mean over cells.
    The classifier runs frozen and in evaluation mode, and is left as it was. Gradients flow to the images and, from
    any loss, to Z: where none are wanted, say `torch.no_grad()`.
    Raises ValueError for a name that is no layer.

    >>> import torch
    >>> from xaikit import Features
    >>> classifier = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Flatten(), torch.nn.Linear(128, 5))
    >>> Features(classifier, "0")(torch.rand(2, 3, 16, 16)).shape  # 4 × 4 cells of 8 numbers
    torch.Size([2, 16, 8])
    """

    def __init__(self, model: nn.Module, layer: str, *, pooled: bool = False) -> None:
        super().__init__()
        check_hookable(model)
        names = [name for name, _ in model.named_modules() if name]
        if layer not in names:
            close = difflib.get_close_matches(layer, names, 1, cutoff=0.0)
            hint = f"did you mean {close[0]!r}?" if close else "it has no layers: give the classifier itself."
            raise ValueError(f"The {type(model).__name__} has no layer {layer!r}: {hint}")
        self.model, self.layer, self.pooled = model, layer, pooled

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens features"]:
        """In float32 at least. Raises ValueError as `hooked` does, for an output that is not as said, or NaN in it."""
        outputs: list[object] = []
        follows = torch.is_grad_enabled()

        def take(_name: str, _inputs: tuple, output: object) -> None:
            if follows and not torch.is_grad_enabled() and images.requires_grad:
                raise ValueError(
                    f"The layer {self.layer!r} runs without gradients: leave out no_grad and reentrant checkpoints."
                )
            first = next((o for o in output if isinstance(o, Tensor)), None) if isinstance(output, tuple) else output
            # A copy: an in-place operation behind the layer would overwrite it.
            outputs.append(first.clone() if isinstance(first, Tensor) else first)

        with _frozen(self.model), hooked(self.model, {self.layer: self.model.get_submodule(self.layer)}, take):
            self.model(images)
        return self._tokens(outputs[0], len(images))

    def _tokens(self, output: object, batch: Count) -> Float[Tensor, "batch tokens features"]:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or len(output) != batch or not output.numel():
            raise ValueError(
                f"The layer {self.layer!r} gives {shape} for {batch} images: take one that gives [batch, tokens, "
                "width], [batch, width] or [batch, channels, height, width]."
            )
        if not output.isfinite().all():
            raise ValueError(f"The features at {self.layer!r} hold NaN or infinity: look at the images and weights.")
        output = at_least_float32(output)
        if output.ndim == 2:
            return output[:, None]
        if output.ndim == 3:
            return output[:, :1] if self.pooled else output
        tokens = output.flatten(2).mT
        return tokens.mean(1, keepdim=True) if self.pooled else tokens


@public
class Translator(nn.Module):
    """Z_mapped = t(Z), section 2.2: three linear layers, with batch norm after the first two.

    "MLP" and "linear" are both the paper's words: there is no activation, or with `activation` a GELU after each norm.
    Its flattened Z_in of 577 × 768 numbers cannot have dense layers, three of which would have 5.9e11 parameters. So
    there are three variants:
    - "token", the default: the same layers for each token, through `hidden` (as many as `width`) units; batch norm
      takes tokens for channels. It has 1.8 million parameters for the paper's ViT, and is the likeliest reading.
    - "bottleneck": all of Z_in through `hidden` (256) units.
    - "flat": all of Z_in, through as many units as it has numbers.
    `arguments` are those that make its like. Raises ValueError for an unknown variant, sizes below one, `hidden` with
    a flat one, and more than a billion parameters.

    >>> import torch
    >>> from xaikit import Translator
    >>> translator = Translator(tokens=16, width=8, to_width=12)
    >>> translator(torch.rand(2, 16, 8)).shape
    torch.Size([2, 16, 12])
    """

    def __init__(
        self,
        tokens: Count,
        width: Count,
        to_width: Count,
        *,
        variant: str = "token",
        hidden: Count | None = None,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "tokens": tokens, "width": width, "to_width": to_width,
            "variant": variant, "hidden": hidden, "activation": activation,
        }  # fmt: skip
        units = {"token": width, "bottleneck": BOTTLENECK, "flat": tokens * width}
        if variant not in units:
            raise ValueError(f"Unknown translator {variant!r}; choose from {', '.join(units)}.")
        if variant == "flat" and hidden is not None:
            raise ValueError("A flat translator has as many hidden units as features: leave `hidden` out.")
        hidden = units[variant] if hidden is None else hidden
        if min(tokens, width, to_width, hidden) < 1:
            raise ValueError(f"A translator of {tokens} × {width} to {to_width}, hidden {hidden}: give sizes from 1.")
        each = 1 if variant == "token" else tokens
        channels = tokens if variant == "token" else hidden
        sizes = [each * width, hidden, hidden, each * to_width]
        parameters = sum((before + 1) * after for before, after in pairwise(sizes)) + 4 * channels
        if parameters > MOST_PARAMETERS:
            raise ValueError(
                f"The {variant} translator of {tokens} × {width} features would have {parameters:.2g} parameters: take"
                " 'token', or 'bottleneck' with few hidden units."
            )
        self.whole = variant != "token"
        between = [nn.GELU()] if activation else []
        self.layers = nn.Sequential(
            nn.Linear(sizes[0], hidden), _BatchNorm(channels), *between,
            nn.Linear(hidden, hidden), _BatchNorm(channels), *between,
            nn.Linear(hidden, sizes[3]),
        )  # fmt: skip

    def forward(self, features: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens conditions"]:
        """What conditions the decoder.

        Raises ValueError for features of another shape, NaN, or one image in training, which has no batch statistics.
        """
        expected = (self.arguments["tokens"], self.arguments["width"])
        if features.shape[1:] != expected:
            raise ValueError(f"The features are {tuple(features.shape[1:])}; the translator was made for {expected}.")
        if not len(features) or (self.training and len(features) == 1):
            raise ValueError("A batch of one image has no statistics to train on: give several, or say eval().")
        if not features.isfinite().all():
            raise ValueError("Some features are NaN or infinite: leave such images out.")
        if self.whole:
            return self.layers(features.flatten(1)).unflatten(1, (expected[0], -1))
        return self.layers(features)


@public
def log_probabilities(
    decoder: nn.Module,
    conditioning: Float[Tensor, "images tokens features"],
    sentences: Int64[Tensor, "batch length"],
    *,
    pad: Natural,
) -> Float[Tensor, "batch words"]:
    """log p of each next token, given the tokens before it and the conditioning: one less than there are; 0 at padding.

    In float32 at least, the decoder frozen and in evaluation mode; gradients flow to the conditioning alone.
    Raises ValueError for a decoder without cross-attention, a conditioning that is not as wide as it takes, NaN, and
    sentences that do not fit in number, length or vocabulary, or have padding before a word.
    """
    known = _known(decoder, conditioning, sentences, pad)
    with _frozen(decoder):
        logits = decoder(
            input_ids=sentences[:, :-1],
            attention_mask=known[:, :-1].long(),
            encoder_hidden_states=conditioning,
            use_cache=False,
        ).logits
    # Padding is left out before the softmax over the vocabulary, which takes most of the memory.
    words, told = sentences[:, 1:], known[:, 1:]
    chosen = logits[told].to(torch.promote_types(logits.dtype, torch.float32))
    found = -F.cross_entropy(chosen, words[told], reduction="none")
    return found.new_zeros(words.shape).masked_scatter(told, found)


@public
def sentence_loss(
    decoder: nn.Module,
    conditioning: Float[Tensor, "images tokens features"],
    sentences: Int64[Tensor, "batch length"],
    *,
    prompt: Count,
    pad: Natural,
) -> Float[Tensor, ""]:
    """The language model loss of section 2.2: the cross-entropy of captions, in nats a token.

    `sentences` are prompt, words and end, padded behind. The first `prompt` tokens are not counted, the end is. The
    mean is over tokens, so that a long caption counts for more. Raises ValueError as `log_probabilities` does, and for
    a caption without a word.

    >>> import torch
    >>> from transformers import BertConfig, BertLMHeadModel
    >>> from xaikit import sentence_loss
    >>> sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> decoder = BertLMHeadModel(BertConfig(**sizes, is_decoder=True, add_cross_attention=True))
    >>> captions = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])  # start, words, end, padding
    >>> loss = sentence_loss(decoder, torch.rand(2, 9, 16), captions, prompt=1, pad=0)
    >>> round(loss.item(), 1)  # ln 20: it knows nothing yet
    3.0
    """
    if prompt < 1:
        raise ValueError("A sentence starts with a prompt of at least one token, which nothing tells: give its length.")
    counted = (sentences[:, prompt:] != pad).sum(1)
    if not counted.numel() or counted.min() < 2:
        raise ValueError("There is no caption, or one has no word between its prompt and its end: leave it out.")
    return -log_probabilities(decoder, conditioning, sentences, pad=pad)[:, prompt - 1 :].sum() / counted.sum()


def _known(decoder: nn.Module, conditioning: Tensor, sentences: Tensor, pad: int) -> Tensor:
    """Which tokens are not padding, once it is sure that decoder, conditioning and sentences fit each other."""
    keys = [module for name, module in decoder.named_modules() if name.endswith("crossattention.self.key")]
    if not keys:
        name = type(decoder).__name__
        raise ValueError(f"The {name} is a decoder without cross-attention: take one that can be conditioned.")
    if conditioning.shape[2] != keys[0].in_features or not conditioning.shape[1]:
        shape = tuple(conditioning.shape[1:])
        raise ValueError(f"The conditioning is {shape}; the decoder takes tokens of width {keys[0].in_features}.")
    if len(sentences) != len(conditioning) or not len(sentences):
        raise ValueError(f"There are {len(sentences)} sentences for {len(conditioning)} conditionings: give one each.")
    if not conditioning.isfinite().all():
        raise ValueError(
            "The conditioning holds NaN or infinity: look at the translator's weights, or lower its learning rate."
        )
    longest, vocabulary = decoder.config.max_position_embeddings, decoder.config.vocab_size
    if not 2 <= sentences.shape[1] <= longest + 1:
        raise ValueError(f"Sentences of {sentences.shape[1]} tokens do not fit the decoder: give 2 to {longest + 1}.")
    if (strange := (sentences < 0) | (sentences >= vocabulary)).any():
        raise ValueError(
            f"A vocabulary mismatch: token {int(sentences[strange][0])} is not among the decoder's {vocabulary}; take "
            "the tokenizer that belongs to it."
        )
    known = sentences != pad
    if not known[:, 0].all() or (known[:, 1:] & ~known[:, :-1]).any():
        raise ValueError("A sentence is nothing but padding, or has some before a word: pad behind its end.")
    return known


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of parameters inside; the model is left as it was."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad = False
        with evaluating(model):
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad = True


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm over the batches of all processes, on any device: torch's own that does so is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        count = _Sum.apply(precise.new_tensor(x.numel() / x.shape[1]))
        mean = _Sum.apply(precise.sum(axes)) / count
        centred = precise - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of the gradients that come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
