"""A CLIP image tower, written out, so that attention, its gradients and its relevance are plain tensors.

For a stock open_clip `VisionTransformer` that pools its class token. The tower is not called: its weights are read, so
nothing (hooks, flags, gradients) can be left behind in it. Going down from the last block (`walk_down`), only inputs
of the blocks are kept and each block is computed again: memory is that of one block and these inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from xaikit.models.hooks import with_gradients
from xaikit.saliency.relevance import linear_relevance, product_relevance, stable_ratio, sum_relevance

Images = Float[Tensor, "batch 3 height width"]
Directions = Float[Tensor, "directions dimensions"]  # one an image
Maps = Float[Tensor, "batch rows columns"]
Tokens = Float[Tensor, "batch tokens channels"]
Attention = Float[Tensor, "batch heads queries keys"]


class Layer(NamedTuple):
    """A block's attention with what reached it from the score, and the relevance of the block's input."""

    attention: Attention
    gradient: Attention | None
    attention_relevance: Attention | None
    entry_relevance: Tokens | None


def walk_down(
    tower: nn.Module,
    images: Images,
    directions: Directions | None = None,
    *,
    gradients: bool = False,
    relevances: bool = False,
) -> Iterator[Layer]:
    """The blocks from the last to the first, each computed when it is asked for."""
    _check(tower, images, directions)
    if gradients:
        images = with_gradients(tower, images)
    # Ratios of sums that nearly cancel make relevance ill-conditioned: in float32, LRP of a random ViT-B-16 is wrong
    # in the first digit.
    entries, final = _entries(tower, images.to(torch.float64 if relevances else precision(tower)))
    gradient = relevance = attention_gradient = attention_relevance = None
    if directions is not None:
        directions = directions.to(final).clone()  # one made in inference mode is of no use to autograd
        gradient = _score_gradient(tower, final, directions) if gradients else None
        relevance = _score_relevance(tower, final, directions) if relevances else None
    for weights in reversed(tower.transformer.resblocks):
        entry = entries.pop()
        linears = _linears(weights, entry)
        if not gradients and not relevances:  # only the attention is asked for: a third of the block's work
            yield Layer(_attend(weights, linears, entry)[-1], None, None, None)
            continue
        with torch.set_grad_enabled(gradients):
            block = _block(weights, linears, entry.requires_grad_(gradients))
            if gradients:
                attention_gradient, gradient = torch.autograd.grad(block.output, (block.attention, entry), gradient)
        if relevances:
            attention_relevance, relevance = _block_relevance(linears, entry, block, relevance)
        yield Layer(block.attention.detach(), attention_gradient, attention_relevance, relevance)


@dataclass(frozen=True, eq=False)
class _Block:
    """What a residual attention block computes, in its order; queries, keys and values by head."""

    normed: Tokens
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Attention
    mixed: Tokens
    attended: Tokens
    middle: Tokens
    normed_middle: Tokens
    hidden: Float[Tensor, "batch tokens mlp_width"]
    written: Tokens
    output: Tokens


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor


_Linears = tuple[_Linear, _Linear, _Linear, _Linear]


def _linears(block: ResidualAttentionBlock, like: Tensor) -> _Linears:
    """The linear layers of a block: queries, keys and values; heads' output; MLP in; MLP out."""

    def linear(weight: Tensor, bias: Tensor, scale: nn.Module | None = None) -> _Linear:
        weight, bias = constant(weight, like), constant(bias, like)
        if not hasattr(scale, "gamma"):
            return _Linear(weight, bias)
        gain = constant(scale.gamma, like)
        return _Linear(weight * gain[:, None], bias * gain)

    attn, mlp = block.attn, block.mlp
    return (
        linear(attn.in_proj_weight, attn.in_proj_bias),
        linear(attn.out_proj.weight, attn.out_proj.bias, block.ls_1),
        linear(mlp.c_fc.weight, mlp.c_fc.bias),
        linear(mlp.c_proj.weight, mlp.c_proj.bias, block.ls_2),
    )


def _attend(
    block: ResidualAttentionBlock, linears: _Linears, entry: Tokens
) -> tuple[Tokens, Tensor, Tensor, Tensor, Attention]:
    """The first five of a `_Block`."""
    normed = _norm(block.ln_1, entry)
    projected = F.linear(normed, *linears[0])
    query, key, value = projected.unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return normed, query, key, value, (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def _block(block: ResidualAttentionBlock, linears: _Linears, entry: Tokens) -> _Block:
    _, join, widen, narrow = linears
    *parts, value, attention = _attend(block, linears, entry)
    mixed = (attention @ value).transpose(1, 2).flatten(2)
    attended = F.linear(mixed, *join)
    middle = entry + attended
    normed_middle = _norm(block.ln_2, middle)
    hidden = block.mlp.gelu(F.linear(normed_middle, *widen))
    written = F.linear(hidden, *narrow)
    rest = mixed, attended, middle, normed_middle, hidden, written, middle + written
    return _Block(*parts, value, attention, *rest)


@torch.no_grad()
def _block_relevance(linears: _Linears, entry: Tokens, block: _Block, relevance: Tokens) -> tuple[Attention, Tokens]:
    """The relevance of a block's attention and of its input, from that of its output."""
    project, join, widen, narrow = linears
    direct, written = sum_relevance(block.middle, block.written, relevance)
    hidden = linear_relevance(block.hidden, narrow.weight, written)
    middle = direct + linear_relevance(block.normed_middle, widen.weight, hidden)
    direct, attended = sum_relevance(entry, block.attended, middle)
    mixed = linear_relevance(block.mixed, join.weight, attended)
    mixed = mixed.unflatten(2, (block.attention.shape[1], -1)).transpose(1, 2)
    attention, value = product_relevance(block.attention, block.value, mixed)
    query, key = product_relevance(block.query, block.key.mT, attention)
    projected = torch.stack([query, key.mT, value]).permute(1, 3, 0, 2, 4).flatten(2)
    return attention, direct + linear_relevance(block.normed, project.weight, projected)


def embed(tower: VisionTransformer, images: Images) -> tuple[Tokens, Tokens]:
    """Class and patch tokens, and the positions that are added to them."""
    patches = F.conv2d(images, constant(tower.conv1.weight, images), stride=tower.patch_size).flatten(2).mT
    start = constant(tower.class_embedding, images).expand(len(images), 1, -1)
    tokens = torch.cat([start, patches], 1)
    return tokens, constant(tower.positional_embedding, images).expand_as(tokens)


@torch.no_grad()
def _entries(tower: VisionTransformer, images: Images) -> tuple[list[Tokens], Tokens]:
    """The input of each block, and the output of the last one."""
    tokens, positions = embed(tower, images)
    stream = [_norm(tower.ln_pre, tokens + positions)]
    for block in tower.transformer.resblocks:
        stream.append(_block(block, _linears(block, images), stream[-1]).output)
    return stream[:-1], stream[-1]


def _head(
    tower: VisionTransformer, final: Tokens
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "channels dimensions"]]:
    """The normed class token and `proj`; a norm before or after the pooling of the class token is the same."""
    pooled = _norm(tower.ln_post, final[:, 0])
    return pooled, torch.eye(pooled.shape[1]).to(final) if tower.proj is None else constant(tower.proj, final)


def _score_gradient(tower: VisionTransformer, final: Tokens, directions: Directions) -> Tokens:
    with torch.enable_grad():
        final = final.detach().requires_grad_()
        pooled, proj = _head(tower, final)
        score = (F.normalize(pooled @ proj, dim=1) * directions).sum()  # no image's score depends on another image
        return torch.autograd.grad(score, final)[0]


@torch.no_grad()
def _score_relevance(tower: VisionTransformer, final: Tokens, directions: Directions) -> Tokens:
    pooled, proj = _head(tower, final)
    products = (pooled * (directions @ proj.T)).clamp(min=0)
    relevance = torch.zeros_like(final)
    relevance[:, 0] = stable_ratio(products, products.sum(1, keepdim=True))
    return relevance


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    return F.layer_norm(x, norm.normalized_shape, constant(norm.weight, x), constant(norm.bias, x), norm.eps)


def constant(parameter: Tensor, like: Tensor) -> Tensor:
    """A weight that gets no gradient, in the precision of `like`."""
    return parameter.detach().to(like.dtype)


def precision(tower: VisionTransformer) -> torch.dtype:
    """What maps are given in: the tower's own precision, but at least float32."""
    return torch.promote_types(tower.conv1.weight.dtype, torch.float32)


def check_tower(tower: nn.Module) -> None:
    """Raise ValueError, with the name of what stands in the way, for a tower that is not written out here."""
    if not isinstance(tower, VisionTransformer):
        name = type(tower).__name__
        raise ValueError(
            f"The {name} is no open_clip VisionTransformer: give such an image tower (model.visual) itself."
        )
    if tower.attn_pool is not None:
        raise ValueError("The tower ends in attentional pooling: take one that pools its class token.")
    if tower.pool_type != "tok":
        raise ValueError(f"The tower pools by {tower.pool_type!r}: take one that pools its class token ('tok').")
    strange = {type(block).__name__ for block in tower.transformer.resblocks} - {ResidualAttentionBlock.__name__}
    if strange:
        raise ValueError(
            f"The tower has blocks of type {', '.join(strange)}: only ResidualAttentionBlock is written out."
        )


def _check(tower: nn.Module, images: Images, directions: Directions | None) -> None:
    check_tower(tower)
    size = tuple(tower.image_size)
    if not len(images):
        raise ValueError("There is no image: give at least one.")
    if tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"The images are {tuple(images.shape[1:])}; the tower takes {(3, *size)}: resize first.")
    if not images.isfinite().all():
        raise ValueError("Some pixels are NaN or infinite: leave such images out.")
    if directions is None:
        return
    expected = (len(images), len(tower.ln_post.weight) if tower.proj is None else tower.proj.shape[1])
    if tuple(directions.shape) != expected:
        raise ValueError(f"The directions are {tuple(directions.shape)}, not {expected}: give one an image.")
    if not directions.isfinite().all() or not directions.any(1).all():
        raise ValueError("A direction is zero, NaN or infinite, so there is no score to explain: give text embeddings.")
