"""Where a CLIP image tower looks: the six saliency baselines that Gandelsman et al. compare their decomposition with.

Each explains one number an image, the dot product of its unit embedding with a direction (`text_directions`), on a
stock open_clip `VisionTransformer` that pools its class token. The tower is not called: its weights are read, and the
forward pass is written out below, so that attention probabilities, their gradients and their relevance are plain
tensors, and nothing (hooks, flags, gradients) can be left behind in the tower. Going down from the last block, only
the inputs of the blocks are kept and each block is computed again: memory is that of one block and these inputs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from xaikit.saliency.cam import cam
from xaikit.saliency.relevance import hand_out, linear_relevance, product_relevance, stable_ratio, sum_relevance

Images = Float[Tensor, "batch 3 height width"]
Directions = Float[Tensor, "directions dimensions"]  # one an image
Maps = Float[Tensor, "batch rows columns"]
Tokens = Float[Tensor, "batch tokens channels"]
Attention = Float[Tensor, "batch heads queries keys"]


def text_directions(
    texts: Float[Tensor, "texts dimensions"], labels: Int[Tensor, " batch"], *, minus_mean: bool = False
) -> Directions:
    """The direction to explain for each image: the text embedding of its label, less the texts' mean if `minus_mean`.

    Raises ValueError for a label that is no text, and for the mean of a single text, which would leave nothing.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= len(texts):
        raise ValueError(f"The labels are none, or not among the {len(texts)} texts: give rows of the texts.")
    if minus_mean and len(texts) < 2:
        raise ValueError("The mean over one text is the text itself: give two texts or more.")
    return (texts - texts.mean(0) if minus_mean else texts)[labels]


def upsample(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch height width"]:
    """Patch maps at the size (height, width) of the images, bilinearly; maps of that size stay as they are."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


# --- the six baselines ------------------------------------------------------------------------------------------
#
# All take images as the tower does (normalised, of its size) and one direction an image, and give maps that are not
# normalised: [batch, rows, columns] of patches, or of pixels (`lrp`), in the tower's precision, float32 at least.
# Relevance (`lrp`, `partial_lrp`, `chefer` by default) is computed in float64: it needs a GPU with that.
# All raise ValueError for a tower of another design, no image, images of another size, NaN or infinity in images,
# directions or weights, and directions that are zero or do not fit.


def raw_attention(tower: nn.Module, images: Images) -> Maps:
    """How much the class token attends to each patch in the last block, mean over heads; knows no direction."""
    layer = next(_layers(tower, images))
    return _patch_map(tower, layer.attention[:, :, 0].mean(1))


def rollout(tower: nn.Module, images: Images, *, start: int = 1) -> Maps:
    """Attention rollout: the class row of Â_L · … · Â_start, where Â = (E_h A + I) / 2; knows no direction.

    `start` is the first block that counts, from 0: 1 in the evaluations of Chefer et al., 0 in the paper.
    Source: Abnar and Zuidema (2020), section 3.
    """
    # Rows of A sum to 1, so dividing by 2 is the paper's row normalisation; E_h A is half of that, I the rest.
    layers = islice(_layers(tower, images), _count(tower, start))
    return _roll_out(tower, (layer.attention.mean(1) for layer in layers), share=0.5)


def grad_cam(tower: nn.Module, images: Images, directions: Directions) -> Maps:
    """Grad-CAM with heads as channels: ReLU of E_h(α_h A_h), A_h the class row of the last block's attention.

    α_h is the mean over patches of dy/dA_h. Source: Selvaraju et al. (2017), Eq. 1 and 2, on attention as Chefer et
    al. (2021a, section 4) evaluate it.
    """
    layer = next(_layers(tower, images, directions, gradients=True))
    attention = layer.attention[:, :, 0, 1:].unflatten(2, tower.grid_size)
    alpha = layer.gradient[:, :, 0, 1:].mean(2)
    return _finished(tower, cam(attention, alpha / attention.shape[1]).relu())


def partial_lrp(tower: nn.Module, images: Images, directions: Directions) -> Maps:
    """The class row of the relevance of the last block's attention, clipped at 0, mean over heads.

    Relevance as in `lrp`, stopped there. Source: Voita et al. (2019), with the rules of Chefer et al. (2021a).
    """
    layer = next(_layers(tower, images, directions, relevances=True))
    return _patch_map(tower, layer.attention_relevance[:, :, 0].clamp(min=0).mean(1))


def lrp(tower: nn.Module, images: Images, directions: Directions) -> Float[Tensor, "batch height width"]:
    """Layer-wise relevance propagation down to the pixels, signed, summed over colours: [batch, height, width].

    Relevance 1 starts at the score and is handed down by these rules, each of which keeps its sum:
    - linear layers: among the products x_j w_ij > 0 in proportion to them, biases left out (`linear_relevance`);
      the last one is the head, `proj` times the direction, as in a classifier with that row;
    - both factors of a matrix product, QKᵀ and AV, half each (`product_relevance`);
    - the terms of a residual sum and of tokens + positions (`sum_relevance`), which then share an input by adding up;
    - layer norms, softmax, GELU and QuickGELU, the unit length: the identity; LayerScale is part of its linear layer;
    - the pixels: the z-box rule, between the least and the greatest value in the image.
    What the class embedding and the positions receive belongs to no pixel: the map sums to 1 less that.
    Source: Chefer et al. (2021a), sections 3.1 and 3.2, image by image; their released code for the halves and the
    identities; Montavon et al. (2017), the z^B rule of deep Taylor decomposition, for the pixels.
    """
    for layer in _layers(tower, images, directions, relevances=True):
        relevance = layer.entry_relevance
    with torch.no_grad():
        images, size = images.to(relevance), tower.patch_size
        tokens, positions = _embed(tower, images)
        patches = sum_relevance(tokens, positions, relevance)[0][:, 1:]
        pixels = F.unfold(images, size, stride=size).mT
        low, high = images.flatten(1).aminmax(dim=1)
        kernel = _constant(tower.conv1.weight, images).flatten(1)
        pixels = hand_out(pixels - low[:, None, None], pixels - high[:, None, None], kernel, patches)
        return _finished(tower, F.fold(pixels.mT, tower.image_size, size, stride=size).sum(1))


def chefer(
    tower: nn.Module,
    images: Images,
    directions: Directions,
    *,
    rule: Literal["cvpr2021", "iccv2021"] = "cvpr2021",
    start: int = 1,
) -> Maps:
    """The class row of Ā_L · … · Ā_start, where Ā = I + E_h(∇A ⊙ R)⁺, and ∇A = dy/dA.

    R is the relevance of the attention (`rule` cvpr2021, the default: Gandelsman et al. compare with this one) or the
    attention A itself (iccv2021, which the authors' own CLIP demonstration uses: no LRP, some five times faster).
    `start` is the first block that counts, from 0: 1 in the authors' evaluation, 0 in the papers.
    The length of the directions matters against I: for CLIP's logits as y, multiply unit ones by exp(logit_scale).
    Source: Chefer et al. (2021a), Eq. 13 and 14; Chefer et al. (2021b), Eq. 5 and 6.
    """
    if rule not in ("cvpr2021", "iccv2021"):
        raise ValueError(f"There is no rule {rule!r}: take cvpr2021 or iccv2021.")
    by_relevance = rule == "cvpr2021"
    layers = _layers(tower, images, directions, gradients=True, relevances=by_relevance)
    weighted = (
        (layer.gradient * (layer.attention_relevance if by_relevance else layer.attention)).clamp(min=0).mean(1)
        for layer in islice(layers, _count(tower, start))
    )
    return _roll_out(tower, weighted)


# By their names in the table of Gandelsman et al., all called as f(tower, images, directions).
BASELINES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "LRP": lrp,
    "partial-LRP": partial_lrp,
    "rollout": lambda tower, images, directions: rollout(tower, images),
    "raw attention": lambda tower, images, directions: raw_attention(tower, images),
    "GradCAM": grad_cam,
    "Chefer et al.": chefer,
}


# --- the tower, written out -------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """A block's attention with what reached it from the score, and the relevance of the block's input."""

    attention: Attention
    gradient: Attention | None
    attention_relevance: Attention | None
    entry_relevance: Tokens | None


def _layers(
    tower: nn.Module,
    images: Images,
    directions: Directions | None = None,
    *,
    gradients: bool = False,
    relevances: bool = False,
) -> Iterator[_Layer]:
    """The blocks from the last to the first, each computed when it is asked for."""
    _check(tower, images, directions)
    # Ratios of sums that nearly cancel make relevance ill-conditioned: in float32, LRP of a random ViT-B-16 is wrong
    # in the first digit.
    entries, final = _entries(tower, images.to(torch.float64 if relevances else _precision(tower)))
    gradient = relevance = attention_gradient = attention_relevance = None
    if directions is not None:
        directions = directions.to(final)
        gradient = _score_gradient(tower, final, directions) if gradients else None
        relevance = _score_relevance(tower, final, directions) if relevances else None
    for weights in reversed(tower.transformer.resblocks):
        entry = entries.pop()
        linears = _linears(weights, entry)
        if not gradients and not relevances:  # only the attention is asked for: a third of the block's work
            yield _Layer(_attend(weights, linears, entry)[-1], None, None, None)
            continue
        with torch.set_grad_enabled(gradients):
            block = _block(weights, linears, entry.requires_grad_(gradients))
            if gradients:
                attention_gradient, gradient = torch.autograd.grad(block.output, (block.attention, entry), gradient)
        if relevances:
            attention_relevance, relevance = _block_relevance(linears, entry, block, relevance)
        yield _Layer(block.attention.detach(), attention_gradient, attention_relevance, relevance)


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
        weight, bias = _constant(weight, like), _constant(bias, like)
        if not hasattr(scale, "gamma"):
            return _Linear(weight, bias)
        gain = _constant(scale.gamma, like)
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


def _embed(tower: VisionTransformer, images: Images) -> tuple[Tokens, Tokens]:
    """Class and patch tokens, and the positions that are added to them."""
    patches = F.conv2d(images, _constant(tower.conv1.weight, images), stride=tower.patch_size).flatten(2).mT
    start = _constant(tower.class_embedding, images).expand(len(images), 1, -1)
    tokens = torch.cat([start, patches], 1)
    return tokens, _constant(tower.positional_embedding, images).expand_as(tokens)


@torch.no_grad()
def _entries(tower: VisionTransformer, images: Images) -> tuple[list[Tokens], Tokens]:
    """The input of each block, and the output of the last one."""
    tokens, positions = _embed(tower, images)
    stream = [_norm(tower.ln_pre, tokens + positions)]
    for block in tower.transformer.resblocks:
        stream.append(_block(block, _linears(block, images), stream[-1]).output)
    return stream[:-1], stream[-1]


def _head(
    tower: VisionTransformer, final: Tokens
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "channels dimensions"]]:
    """The normed class token and `proj`; a norm before or after the pooling of the class token is the same."""
    pooled = _norm(tower.ln_post, final[:, 0])
    return pooled, torch.eye(pooled.shape[1]).to(final) if tower.proj is None else _constant(tower.proj, final)


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
    return F.layer_norm(x, norm.normalized_shape, _constant(norm.weight, x), _constant(norm.bias, x), norm.eps)


def _constant(parameter: Tensor, like: Tensor) -> Tensor:
    return parameter.detach().to(like.dtype)


def _precision(tower: VisionTransformer) -> torch.dtype:
    return torch.promote_types(tower.conv1.weight.dtype, torch.float32)


# --- maps and checks --------------------------------------------------------------------------------------------


def _roll_out(tower: VisionTransformer, matrices: Iterable[Tensor], share: float = 1.0) -> Maps:
    """The class row of the product, from the last block down, of `share` · (I + matrix): row by matrix, O(L N²)."""
    row = None
    for matrix in matrices:
        if row is None:
            row = torch.zeros_like(matrix[:, :1])
            row[..., 0] = 1
        row = share * (row + row @ matrix)
    return _patch_map(tower, row[:, 0])


def _patch_map(tower: VisionTransformer, row: Float[Tensor, "batch tokens"]) -> Maps:
    return _finished(tower, row[:, 1:].unflatten(1, tower.grid_size))


def _finished(tower: VisionTransformer, maps: Maps) -> Maps:
    if not maps.isfinite().all():
        raise ValueError("The saliency maps hold NaN or infinity: look for them in the tower's weights.")
    return maps.to(_precision(tower))


def _count(tower: nn.Module, start: int) -> int:
    """How many blocks there are from `start` on."""
    _check_tower(tower)
    layers = len(tower.transformer.resblocks)
    if not 0 <= start < layers:
        raise ValueError(f"There is no block {start} to start from: the tower has blocks 0 to {layers - 1}.")
    return layers - start


def _check_tower(tower: nn.Module) -> None:
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
    _check_tower(tower)
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
