"""A CLIP image tower, written out, so that attention, its gradients and its relevance are plain tensors.

For a stock open_clip `VisionTransformer` that pools its class token. The tower is not called: its weights are read, so
nothing (hooks, flags, gradients) can be left behind in it. Going down from the last block (`walk_down`), only inputs
of the blocks are kept and each block is computed again: memory is that of one block and these inputs.

Any other ViT that pools its class token is called, and what it asks of scaled_dot_product_attention is computed as a
softmax whose weights are kept, all layers at a time; relevance has no rules for what such a tower may do beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.models.hooks import check_hookable, evaluating, with_gradients
from xaikit.models.streams import Tower, asked_attention, describe
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
    if not relevances and not is_written_out(tower):
        yield from _watched(tower, images, directions, gradients)
        return
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


def precision(tower: nn.Module) -> torch.dtype:
    """What maps are given in: the tower's own precision, but at least float32."""
    weight = tower.conv1.weight if isinstance(tower, VisionTransformer) else next(tower.parameters())
    return torch.promote_types(weight.dtype, torch.float32)


# --- towers that are called -----------------------------------------------------------------------------------------


class _Shown(TorchFunctionMode):
    """Computes attention as a softmax whose weights are kept, and let gradients be taken to them if asked to."""

    def __init__(self, *, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.weights: list[Attention] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        like = args[0] if args else kwargs["query"]
        query, key, value, mask = asked_attention(args, kwargs or {}, like.dtype)
        scores = query @ key.mT
        weights = (scores if mask is None else scores + mask).softmax(-1)
        if self.gradients and not weights.requires_grad:
            weights.requires_grad_()
        self.weights.append(weights)
        return weights @ value


def _watched(tower: nn.Module, images: Images, directions: Directions | None, gradients: bool) -> Iterator[Layer]:
    parts = _class_token(tower)
    check_hookable(tower)
    # What stands before the tower, or a tower of any size, looks at sizes itself.
    _check_images(images, parts.image if parts.image and parts.root is tower else tuple(images.shape[1:]))
    images = with_gradients(tower, images) if gradients else images
    shown, gradient = _Shown(gradients=gradients), [None] * len(parts.blocks)
    with evaluating(tower), torch.set_grad_enabled(gradients), shown:
        output = parts.embedding(tower(images.to(next(tower.parameters()).dtype)))
    if len(shown.weights) != len(parts.blocks):
        raise ValueError(
            f"The tower asks {len(shown.weights)} times for scaled_dot_product_attention and has {len(parts.blocks)} "
            "layers, so its attention is not known: let it use that (fused_attn, attn_implementation='sdpa')."
        )
    if directions is not None:
        _check_directions(directions, (len(images), output.shape[1]))
        if gradients:
            with torch.enable_grad():
                score = (F.normalize(output, dim=1) * directions.to(output).clone()).sum()
            gradient = torch.autograd.grad(score, shown.weights)
    for weights, each in zip(reversed(shown.weights), reversed(gradient), strict=True):
        like = precision(tower)
        yield Layer(weights.detach().to(like), each if each is None else each.to(like), None, None)


def _class_token(tower: nn.Module) -> Tower:
    parts = describe(tower)
    if parts.pools != "class":
        way = {"mean": "the mean of its tokens", "attention": "attention of its own"}[parts.pools]
        raise ValueError(f"The tower pools by {way}, so no class token attends: take one that pools its class token.")
    return parts


def count_layers(tower: nn.Module) -> int:
    """How many blocks a tower has. Raises ValueError for one that is neither written out nor known."""
    return len(tower.transformer.resblocks if is_written_out(tower) else _class_token(tower).blocks)


def on_grid(
    tower: nn.Module, images: Images, tokens: Float[Tensor, "*cells tokens"]
) -> Float[Tensor, "*cells rows columns"]:
    """What belongs to tokens, in rows and columns of the patches. Raises ValueError for patches that fill no grid."""
    if is_written_out(tower):
        return tokens[..., 1:].unflatten(-1, tower.grid_size)
    parts = describe(tower)
    height, width = parts.image[1:] if parts.image else images.shape[-2:]
    tokens = tokens[..., parts.before :]
    rows = round((tokens.shape[-1] * height / width) ** 0.5)
    if rows * (tokens.shape[-1] // rows) != tokens.shape[-1]:
        raise ValueError(f"The {tokens.shape[-1]} patches of images {(height, width)} fill no grid: give squares.")
    return tokens.unflatten(-1, (rows, -1))


# --- checks ---------------------------------------------------------------------------------------------------------


def is_written_out(tower: nn.Module) -> bool:
    """Is it a tower whose blocks are computed here, with relevance?"""
    try:
        check_tower(tower)
    except ValueError:
        return False
    return True


def check_tower(tower: nn.Module) -> None:
    """Raise ValueError, with the name of what stands in the way, for a tower that is not written out here."""
    if not isinstance(tower, VisionTransformer):
        name = type(tower).__name__
        raise ValueError(
            f"The {name} is no open_clip VisionTransformer, whose relevance is written out: give such an image tower "
            "(model.visual) itself."
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
    _check_images(images, (3, *tower.image_size))
    if directions is not None:
        width = len(tower.ln_post.weight) if tower.proj is None else tower.proj.shape[1]
        _check_directions(directions, (len(images), width))


def _check_images(images: Images, shape: tuple[int, ...]) -> None:
    if not len(images):
        raise ValueError("There is no image: give at least one.")
    if tuple(images.shape[1:]) != shape:
        raise ValueError(f"The images are {tuple(images.shape[1:])}; the tower takes {shape}: resize first.")
    if not images.isfinite().all():
        raise ValueError("Some pixels are NaN or infinite: leave such images out.")


def _check_directions(directions: Directions, expected: tuple[int, int]) -> None:
    if tuple(directions.shape) != expected:
        raise ValueError(f"The directions are {tuple(directions.shape)}, not {expected}: give one an image.")
    if not directions.isfinite().all() or not directions.any(1).all():
        raise ValueError("A direction is zero, NaN or infinite, so there is no score to explain: give text embeddings.")
