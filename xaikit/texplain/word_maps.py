"""Where in an image a word, or a class, comes from: maps on the tokens of a vision transformer.

TExplain masks the area of the first dominant word that does not belong to the class (section 4.4). The paper says
"GradCAM" and no more; here are the two readings: of the word that the decoder says, through the translator
(`word_grad_cam`), and of the class that the classifier predicts, as in MaskTune (`classifier_grad_cam`). A map of the
word that finds the word's thing where that is known is `word_attention`: what the decoder looks at, by the gradient.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xaikit.arguments import Count, Natural, Side, public
from xaikit.models.hooks import check_hookable, evaluating, hooked, in_own_precision
from xaikit.saliency.cam import cam, class_gradient
from xaikit.texplain.translator import log_probabilities

Tokens = Float[Tensor, "batch tokens width"]
Maps = Float[Tensor, "batch rows columns"]


@public
def token_cam(features: Tokens, gradient: Tokens, grid: Side, *, weights: Literal["grad", "xgrad"] = "grad") -> Maps:
    """ReLU(Σ_c w_c A_c) on the patch tokens A, with the `gradient` g of a score with respect to them.

    A class token, where there is one in front of the rows × columns patches of the `grid`, is left out. By "grad" w_c
    is the mean of g_c over the patches; by "xgrad" it is Σ g_c A_c / (Σ A_c + 1e-7), which was made for features >= 0:
    of tokens of either sign the sum below can come near 0.
    Raises ValueError for tokens that do not fit the grid, unknown weights, and maps with NaN or infinity.
    Source: Selvaraju et al. (2017), Eq. 1 and 2; Fu et al. (2020) for "xgrad".
    """
    patches = grid[0] * grid[1]
    if features.shape[1] not in (patches, patches + 1):
        raise ValueError(
            f"There are {features.shape[1]} tokens for {patches} patches: give the patches' grid, and tokens that are "
            "the patches, or one class token and the patches."
        )
    a, g = (each[:, -patches:].mT.unflatten(2, grid) for each in (features, gradient))
    if weights == "grad":
        w = g.mean((2, 3))
    elif weights == "xgrad":
        w = (g * a).sum((2, 3)) / (a.sum((2, 3)) + 1e-7)
    else:
        raise ValueError(f"Unknown weights {weights!r}: choose 'grad' or 'xgrad'.")
    maps = cam(a, w).relu()
    if not maps.isfinite().all():
        raise ValueError("The Grad-CAM maps hold NaN or infinity: look for them in the inputs and in the weights.")
    return maps


@public
@in_own_precision()
def word_grad_cam(
    decoder: nn.Module,
    translator: nn.Module,
    features: Tokens,
    sentences: Int64[Tensor, "images n length"],
    says: Bool[Tensor, "images n length"],
    *,
    grid: Side,
    pad: Natural,
    prompt: Count = 1,
    most: Count = 16,
) -> Maps:
    """Which of the classifier's patches make the decoder say a word: maps >= 0, not normalised.

    Arguments: `features` are the classifier's tokens, which the `translator` takes; `sentences` hold, of each image,
    the ones that were sampled for it: `prompt` tokens, words, the end and padding. `says` marks in each sentence the
    tokens that write the image's word where the sentence first has it: one, or the pieces of a longer word, as
    `first_said` finds them.
    The score of an image is the mean, over the first `most` sentences that have the word, of log p(the word | what
    stands before it), the sum over its pieces. It is differentiated with respect to the features, through the
    translator in evaluation mode, so that no image depends on another. Of a word that is all but certain (log p near 0)
    hardly a gradient is left, and its sign means little. Batch × `most` sentences go through the decoder at once.
    Raises ValueError for no image, numbers of images that differ, `prompt` or `most` below 1, an image of which no
    sentence has its word, and as `token_cam` does.
    Source: TExplain, section 4.4, where the score is not said; Selvaraju et al. (2017), Eq. 1 and 2, who take the log
    probability of a caption so.

    >>> import torch
    >>> from transformers import BertConfig, BertLMHeadModel
    >>> from xaikit import Translator, word_grad_cam
    >>> sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> decoder = BertLMHeadModel(BertConfig(**sizes, is_decoder=True, add_cross_attention=True))
    >>> features, sentences = torch.rand(1, 9, 8), torch.tensor([[[1, 5, 6, 2], [1, 7, 5, 2]]])
    >>> translator = Translator(tokens=9, width=8, to_width=16)
    >>> word_grad_cam(decoder, translator, features, sentences, sentences == 5, grid=(3, 3), pad=0).shape
    torch.Size([1, 3, 3])
    """
    image, own, marked, share = _saying(features, sentences, says, pad, prompt, most)
    with torch.enable_grad(), evaluating(translator):
        leaf = features.detach().clone().requires_grad_()
        logs = log_probabilities(decoder, translator(leaf)[image], own, pad=pad)
        said = logs.where(marked[:, 1:], 0.0).sum(1)  # position 0 is given, so its token has no entry
        (gradient,) = torch.autograd.grad((said * share).sum(), leaf)
    return token_cam(leaf.detach(), gradient, grid)


@public
@in_own_precision()
def word_attention(
    decoder: nn.Module,
    translator: nn.Module,
    features: Tokens,
    sentences: Int64[Tensor, "images n length"],
    says: Bool[Tensor, "images n length"],
    *,
    grid: Side,
    pad: Natural,
    prompt: Count = 1,
    most: Count = 16,
    layer: Natural | None = None,
) -> Maps:
    """Which of the classifier's patches the decoder looks at to say a word: maps >= 0, not normalised.

    The arguments are those of `word_grad_cam`. In the decoder's `layer`, counted from 0, A[h, q, k] is how much head h
    attends at the token q to the translated patch k; g is the gradient of log p(the word) with respect to it. The map
    is the mean over heads and sentences of ReLU(g) A at the tokens from which the word is predicted. So it needs a
    translator that leaves each token in its place ("token"), or none: `torch.nn.Identity()`. By default it is the
    middle one of the layers that attend to the picture, the lower one of two.
    Raises ValueError for a layer that the decoder does not have, attentions that it does not give (load it with
    attn_implementation="eager"), a translator that mixes or loses tokens, and as `word_grad_cam` does.
    Source: the maps of ALBEF (Li et al., 2021), which BLIP's authors took on; theirs is the third of the six layers
    that attend to the picture.

    >>> import torch
    >>> from transformers import BertConfig, BertLMHeadModel
    >>> from xaikit import Translator
    >>> from xaikit.texplain import word_attention
    >>> sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> config = BertConfig(**sizes, is_decoder=True, add_cross_attention=True, attn_implementation="eager")
    >>> features, sentences = torch.rand(1, 9, 8), torch.tensor([[[1, 5, 6, 2], [1, 7, 5, 2]]])
    >>> decoder, translator = BertLMHeadModel(config), Translator(tokens=9, width=8, to_width=16)
    >>> word_attention(decoder, translator, features, sentences, sentences == 5, grid=(3, 3), pad=0).shape
    torch.Size([1, 3, 3])
    """
    if getattr(translator, "whole", False):
        raise ValueError("This translator mixes all tokens, so a patch has no place in what it gives: take 'token'.")
    image, own, marked, share = _saying(features, sentences, says, pad, prompt, most)
    looking = [module for name, module in decoder.named_modules() if name.endswith("crossattention.self")]
    layer = (len(looking) - 1) // 2 if layer is None else layer
    if not 0 <= layer < len(looking):
        raise ValueError(f"There is no layer {layer} with cross-attention: the decoder has {len(looking)}, from 0 on.")
    kept: list[Tensor] = []

    def keep(_name: str, _inputs: tuple, output: object) -> None:
        attention = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(attention, Tensor):
            raise ValueError('The decoder gives no attentions: load it with attn_implementation="eager".')
        kept.append(attention)

    with torch.enable_grad(), evaluating(translator), hooked(decoder, {f"layer {layer}": looking[layer]}, keep):
        given = translator(features.detach())[image].detach().requires_grad_()  # so that attentions have a gradient
        logs = log_probabilities(decoder, given, own, pad=pad)
        said = logs.where(marked[:, 1:], 0.0).sum(1)
        (gradient,) = torch.autograd.grad((said * share).sum(), kept[0])
    looked = (kept[0].detach() * gradient.relu()).mean(1)  # over heads: [rows, tokens but the last, patches]
    each = looked.where(marked[:, 1:, None], 0.0).sum(1)  # the token at q predicts the one behind it
    patches = grid[0] * grid[1]
    if each.shape[1] not in (patches, patches + 1):
        raise ValueError(f"The decoder looks at {each.shape[1]} tokens for {patches} patches: give the patches' grid.")
    maps = each.new_zeros(len(features), patches).index_add(0, image, each[:, -patches:])
    if not maps.isfinite().all():
        raise ValueError("The maps hold NaN or infinity: look for them in the inputs and in the weights.")
    return maps.unflatten(1, grid)


def _saying(
    features: Tokens, sentences: Tensor, says: Tensor, pad: int, prompt: int, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first `most` sentences of each image that say its word: whose they are, they, its tokens, and their share."""
    if not len(features) or not len(features) == len(sentences) or sentences.shape != says.shape:
        raise ValueError(
            f"There are features of {len(features)} images, sentences {tuple(sentences.shape)} and marks of a word "
            f"{tuple(says.shape)}: give one of each for each image, and at least one image."
        )
    if prompt < 1 or most < 1:
        raise ValueError(f"A prompt of {prompt} tokens and at most {most} sentences: give at least 1 of each.")
    sentences = sentences.to(features.device).clone()  # autograd can make no use of what was made in inference mode
    says = says.to(features.device) & (sentences != pad)
    says[:, :, :prompt] = False  # the prompt is given, not said
    has = says.any(2)
    if (without := ~has.any(1)).any():
        raise ValueError(
            f"No sentence of image {int(without.nonzero()[0])} has its word: sample more sentences, or leave it out."
        )
    chosen = has & (has.cumsum(1) <= most)
    image, sentence = chosen.nonzero(as_tuple=True)
    return image, sentences[image, sentence], says[image, sentence], 1 / chosen.sum(1)[image].to(features)


@public
def first_said(
    sentences: Int64[Tensor, "images n length"],
    words: Sequence[Collection[str]],
    tokenizer: PreTrainedTokenizerBase,
    word_of: Callable[[str], Collection[str]],
) -> Bool[Tensor, "images n length"]:
    """The tokens with which each sentence first says one of its image's `words`.

    `word_of` gives what a written word counts as (`words.words_of`: its singular, nothing for a stop word). A word is a
    token with the pieces that continue it, which the tokenizer marks with ##, as BERT's and BLIP's do: "sea" in
    "sea ##gull" is no sea. Raises ValueError for numbers of images that differ.
    """
    if len(sentences) != len(words):
        raise ValueError(f"There are sentences of {len(sentences)} images and words of {len(words)}: give one of each.")
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if sentences.min() < 0 or sentences.max() >= len(vocabulary):
        raise ValueError(f"Some sentences hold tokens outside of 0 to {len(vocabulary) - 1}: give the tokenizer's own.")
    special, found = set(tokenizer.all_special_ids), torch.zeros(sentences.shape, dtype=torch.bool)
    counts_as: dict[str, Collection[str]] = {}
    for image, (own, wanted) in enumerate(zip(sentences.tolist(), map(frozenset, words), strict=True)):
        for row, tokens in enumerate(own):
            start = 0
            while start < len(tokens):
                end = start + 1
                while end < len(tokens) and vocabulary[tokens[end]].startswith("##"):
                    end += 1
                written = vocabulary[tokens[start]] + "".join(vocabulary[each][2:] for each in tokens[start + 1 : end])
                if written not in counts_as:
                    counts_as[written] = () if tokens[start] in special else word_of(written)
                if not wanted.isdisjoint(counts_as[written]):
                    found[image, row, start:end] = True
                    break
                start = end
    return found


@public
@in_own_precision()
def classifier_grad_cam(
    model: nn.Module,
    layer: str,
    images: Float[Tensor, "batch 3 height width"],
    target: Int[Tensor, " targets"] | None = None,
    *,
    grid: Side,
    weights: Literal["grad", "xgrad"] = "grad",
) -> Maps:
    """Which patches make a vision transformer choose a class: maps >= 0, not normalised, see `token_cam`.

    Arguments: `model` gives logits [batch, classes]; `layer` names a module in it, such as "blocks.-1.norm1", whose
    output is [batch, tokens, width]. Where the head reads the class token, the last block's first norm is the last
    layer of use: behind the last attention nothing goes from the patches to the class token. `target` holds the class
    to explain of each image, by default (MaskTune) the predicted one. The model runs in evaluation mode and is left as
    it was.
    Raises ValueError for no image, NaN in images, a layer that is not there, has another output or whose patches do not
    reach the logits, a target that is no class, and as `hooked` and `token_cam` do.
    Source: Selvaraju et al. (2017), Eq. 1 and 2; Asgari et al. (2022), MaskTune.
    """
    if not len(images) or not images.isfinite().all():
        raise ValueError("The images are none, or hold NaN or infinity: leave such images out.")
    check_hookable(model)
    module = _submodule(model, layer)
    kind = "is not [batch, tokens, width]: pick a layer between blocks"
    features, gradient = class_gradient(model, layer, module, images, target, lambda found: found.ndim == 3, kind)
    if gradient is None or not gradient[:, -grid[0] * grid[1] :].any():
        raise ValueError(
            f"No patch of {layer} reaches the logits: pick an earlier layer, such as the last block's first norm."
        )
    return token_cam(features, gradient, grid, weights=weights)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of that name; -1 in it is the last of its siblings."""
    module = model
    for part in name.split("."):
        children = dict(module.named_children())
        if part.startswith("-") and part[1:].isdecimal() and 0 < int(part[1:]) <= len(children):
            part = list(children)[int(part)]
        if part not in children:
            raise ValueError(f"The model has no layer {name}: {part!r} is none of {', '.join(children) or 'nothing'}.")
        module = children[part]
    return module
