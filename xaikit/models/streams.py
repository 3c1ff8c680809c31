"""Where a vision transformer adds to its residual stream, and how its embedding is read off the end of it.

One description, `Tower`, for the ViTs of open_clip, timm and transformers: what differs between libraries is only where
things lie. Classes are known by their names, so that no library is loaded for the towers of another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Block:
    """One block: x + gain ⊙ norm(W_O heads(x)), then x + MLP.

    `entry` takes the stream itself as its input, and `mlp` gives what the MLP adds to it. `output` is W_O; it is called
    with the heads' values side by side, except by nn.MultiheadAttention, which is `packed` and reads W_O's weights: its
    input is then what `entry` gives. `norm` and `gain` act behind W_O, `inner_norm` and `head_gain` before it.
    """

    entry: nn.Module
    heads: int
    output: nn.Module
    mlp: nn.Module
    packed: nn.Module | None = None
    norm: nn.Module | None = None
    gain: Tensor | None = None
    inner_norm: nn.Module | None = None
    head_gain: Tensor | None = None
    gated: bool = False

    def written(
        self, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "width heads_times_rows"], Float[Tensor, " width"], int]:
        """W and b of what attention adds, W u + b, and the rows of u a head: its values, where `norm` is, times 1/σ.

        Behind a norm with σ of W_O's output, u of a head ends with 1/σ, which takes a head's share of W_O's own bias.
        """
        weight = self.output.weight.to(dtype)
        bias = weight.new_zeros(len(weight)) if self.output.bias is None else self.output.bias.to(dtype)
        if self.norm is not None:
            shares = (bias / self.heads)[:, None, None].expand(-1, self.heads, 1)
            weight = torch.cat([weight.unflatten(1, (self.heads, -1)), shares], 2).flatten(1)
            weight = weight - weight.mean(0) if centres(self.norm) else weight
            weight, bias = weight * gain_of(self.norm, weight.T)[:, None], bias_of(self.norm, weight.T)
        if self.gain is not None:
            gain = self.gain.to(dtype)
            weight, bias = weight * gain[:, None], bias * gain
        return weight, bias, weight.shape[1] // self.heads

    def scaled(
        self, mixed: Float[Tensor, "batch tokens mixed"], output: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch tokens numbers"], Float[Tensor, "batch tokens 1"] | None]:
        """What W reads, from what W_O was called with and gave, and 1/σ of the norm behind it, where there is one."""
        if self.norm is None:
            return mixed, None
        scale = 1 / statistics(self.norm, output)[1][..., None]
        mixed = F.pad(mixed.unflatten(2, (self.heads, -1)), (0, 1), value=1.0)
        return mixed.flatten(2) * scale, scale


@dataclass(frozen=True, eq=False)
class AttentionPool:
    """Attention with queries of its own that stands for the pooling; `mlp` is what is added behind it.

    `query` is what keys are multiplied with; keys and values are read from tokens, and `output` follows.
    """

    query: Float[Tensor, "heads head_width"]
    key: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]
    key_norm: nn.Module
    mlp: nn.Module | None

    def weights(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch heads tokens"]:
        """How much each head looks at each token."""
        heads, width = self.query.shape
        keys = F.linear(tokens, *(part.to(tokens) for part in self.key)).unflatten(-1, (heads, -1))
        keys = normalised(self.key_norm, keys)
        return (torch.einsum("bnhd,hd->bhn", keys, self.query.to(tokens)) * width**-0.5).softmax(-1)


@dataclass(frozen=True, eq=False)
class Tower:
    """A ViT: blocks, then `norm`, pooling, maybe a `second` norm, and the projection.

    Pooling takes the class token, the first one (`pools` "class"), the mean over the tokens from `start` on ("mean"),
    or attends to those ("attention"). `norm` acts on each token where `each` is true, or else on what was pooled.
    `before` counts the tokens that are no patches. `embedding` finds the embeddings in the output of `root`.
    """

    root: nn.Module
    blocks: tuple[Block, ...]
    norm: nn.Module
    pools: str
    before: int
    start: int = 0
    each: bool = True
    pool: AttentionPool | None = None
    second: nn.Module | None = None
    projection: Tensor | None = None
    bias: Tensor | None = None
    image: tuple[int, int, int] | None = None
    batch_first: bool = True
    embedding: Callable[[object], Tensor] = lambda output: output

    def __post_init__(self) -> None:
        for norm in (self.norm, self.second, *(each.norm for each in self.blocks)):
            if norm is not None:
                centres(norm)  # which names a norm that is not known here

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: the tower's own precision, but at least float32."""
        return torch.promote_types(self.blocks[0].output.weight.dtype, torch.float32)

    @property
    def ahead(self) -> bool:
        """Does what is read from a token hang on the end of the stream? Not where the stream is pooled, then normed."""
        return self.pools == "attention" or (self.pools == "mean" and self.each and not is_identity(self.norm))

    @property
    def adds(self) -> bool:
        """Do attention pooling or a second norm add something by themselves?"""
        return self.pool is not None or self.second is not None

    @property
    def reads(self) -> slice:
        """The tokens that the pooling reads."""
        return slice(0, 1) if self.pools == "class" else slice(self.start, None)

    def maps(self, dtype: torch.dtype) -> tuple[Float[Tensor, "width joint"], Float[Tensor, "joint features"] | None]:
        """What the normed stream is multiplied with, and what the values of attention pooling are, if there is any.

        A `second` norm's gain, and that it takes off means, is in it; its σ is not.
        """
        width = self.blocks[0].output.weight
        if self.pool is not None:
            width = self.pool.output[0]
        tail = torch.eye(len(width), dtype=dtype, device=width.device) if self.projection is None else self.projection
        tail = tail.to(dtype)
        if self.second is not None:
            tail = gain_of(self.second, tail.T)[:, None] * tail
            tail = tail - tail.mean(0) if centres(self.second) else tail
        if self.pool is None:
            return tail, None
        return self.pool.value[0].to(dtype).T, self.pool.output[0].to(dtype).T @ tail


# --- norms --------------------------------------------------------------------------------------------------------


def is_identity(norm: nn.Module) -> bool:
    """Is it no norm at all?"""
    return isinstance(norm, nn.Identity)


def centres(norm: nn.Module) -> bool:
    """Does it take off the mean? Raises ValueError for a norm that is not known here."""
    if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 1:
        return True
    if isinstance(norm, nn.Identity | nn.RMSNorm) or type(norm).__name__ in ("RmsNorm", "RmsNormFp32"):
        return False
    raise ValueError(f"The tower normalises by {type(norm).__name__}: give one with LayerNorm or RMSNorm.")


def gain_of(norm: nn.Module, like: Float[Tensor, "*rows width"]) -> Float[Tensor, " width"]:
    """The gains of a norm of such rows, in their precision."""
    gain = getattr(norm, "weight", None)
    return like.new_ones(like.shape[-1]) if gain is None else gain.to(like)


def bias_of(norm: nn.Module, like: Float[Tensor, "*rows width"]) -> Float[Tensor, " width"]:
    """The biases of a norm of such rows, in their precision."""
    bias = getattr(norm, "bias", None)
    return like.new_zeros(like.shape[-1]) if bias is None else bias.to(like)


def statistics(norm: nn.Module, rows: Float[Tensor, "*rows width"]) -> tuple[Tensor, Tensor]:
    """What a norm takes off each row, and what it divides by."""
    if is_identity(norm):
        return torch.zeros_like(rows[..., 0]), torch.ones_like(rows[..., 0])
    eps = torch.finfo(rows.dtype).eps if norm.eps is None else norm.eps
    if centres(norm):
        return rows.mean(-1), (rows.var(-1, correction=0) + eps).sqrt()
    return torch.zeros_like(rows[..., 0]), (rows.square().mean(-1) + eps).sqrt()


def normalised(norm: nn.Module, rows: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """What a norm makes of rows, in their own precision."""
    if is_identity(norm):
        return rows
    mean, std = statistics(norm, rows)
    return (rows - mean[..., None]) / std[..., None] * gain_of(norm, rows) + bias_of(norm, rows)


# --- attention ----------------------------------------------------------------------------------------------------


def asked_attention(
    args: tuple, kwargs: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What a call of PyTorch's scaled_dot_product_attention was about, in such a precision.

    Scaled queries, keys and values [batch, heads, tokens, width], and what is added to the scores [batch, heads,
    queries, keys], if anything. Raises ValueError for causal attention.
    """
    names = "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"
    told = dict(zip(names, args, strict=False)) | kwargs
    if told.get("is_causal"):
        raise ValueError("The tower's attention is causal, as that of no image tower known here.")
    query, key, value = (told[name].to(dtype) for name in names[:3])
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) if groups > 1 else each for each in (key, value))
    query = query * (query.shape[-1] ** -0.5 if told.get("scale") is None else told["scale"])
    mask = told.get("attn_mask")
    if mask is None:
        return query, key, value, None
    mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
    return query, key, value, mask.to(dtype).expand(*query.shape[:3], key.shape[2])


# --- where things lie ---------------------------------------------------------------------------------------------


def describe(model: nn.Module) -> Tower:
    """The one ViT tower in `model` (itself, or behind what prepares its images).

    Raises ValueError, with the name of what stands in the way, for another kind of network, several towers, and parts
    that do not simply add to the stream.
    """
    found = [tower for module in _outermost(model) for tower in [KNOWN[_kind(module)](module)]]
    if len(found) != 1:
        name = type(getattr(model, "model", model)).__name__
        if len(found) > 1:
            raise ValueError(f"The {name} holds {len(found)} image towers: give one of them.")
        for module in model.modules():
            _refuse(module)
        raise ValueError(f"The {name} is no image tower that is known here: give a ViT, such as that of ViT-B-16.")
    return found[0]


def _outermost(module: nn.Module) -> list[nn.Module]:
    if _kind(module) in KNOWN:
        return [module]
    if _kind(module) in _WHOLE:
        raise ValueError(f"The {type(module).__name__} reads texts too: give {_WHOLE[_kind(module)]}.")
    return [found for child in module.children() for found in _outermost(child)]


def _kind(module: nn.Module) -> str:
    if isinstance(module, VisionTransformer):
        return "open_clip.VisionTransformer"
    return f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"


def _only(module: nn.Module, known: str, what: str) -> None:
    if _kind(module) not in known.split():
        raise ValueError(f"The tower's {what} are of type {type(module).__name__}, which is not known here.")


_WHY_NOT = {
    "ModifiedResNet": "a ReLU acts on the sum behind every block, so its stream is no sum",
    "ConvNeXt": "it is made of convolutions, without attention heads, and its stream is cut down between stages",
    "SwinTransformer": "its windows are merged between stages by a norm and a linear layer, so no stream goes through",
    "FastVit": "its stages are convolutions, between which the stream is cut down and activated",
    "VisionTransformerDistilled": "its embedding is the mean of two heads on two tokens",
    "Siglip2VisionModel": "it takes patches with sizes (NaFlex) and no images",
    "NaFlexVit": "it takes patches with sizes (NaFlex) and no images",
}


def _refuse(module: nn.Module) -> None:
    if (why := _WHY_NOT.get(type(module).__name__)) is not None:
        raise ValueError(f"The {type(module).__name__} cannot be taken: {why}; give another ViT.")


def _of_open_clip(vit: nn.Module) -> Tower:
    pooled: dict = {"pools": "class" if vit.pool_type == "tok" else "mean", "start": 1}
    pooled |= {"norm": vit.ln_post, "each": not vit.final_ln_after_pool}
    if vit.attn_pool is not None:
        if vit.attn_pool_contrastive is not None or vit.pool_type != "tok":
            way = vit.attn_pool_type or vit.pool_type
            raise ValueError(
                f"The tower's attentional pooling is of type {way!r}: give one that takes the first query."
            )
        pool = vit.attn_pool
        query = normalised(pool.ln_q, pool.query[:1].detach())
        pooled = {"pools": "attention", "norm": pool.ln_k, "second": vit.ln_post, "pool": _of_packed(pool.attn, query)}
    elif vit.pool_type not in ("tok", "avg"):
        raise ValueError(f"The tower has pool_type {vit.pool_type!r}, no pooling: give one with tok or avg.")
    if vit.proj is None or not isinstance(vit.ln_post, nn.LayerNorm):
        raise ValueError("The tower has no final LayerNorm and projection: give it as open_clip builds it.")
    return Tower(
        vit,
        tuple(_open_clip_block(block) for block in vit.transformer.resblocks),
        before=1,
        projection=vit.proj,
        image=(vit.conv1.in_channels, *vit.image_size),
        batch_first=getattr(vit.transformer, "batch_first", True),
        embedding=lambda output: output[0] if isinstance(output, tuple) else output,
        **pooled,
    )


def _open_clip_block(block: nn.Module) -> Block:
    attention = block.attn
    parts = {"entry": block.ln_1, "heads": attention.num_heads, "output": attention.out_proj, "mlp": block.ls_2}
    parts["gain"] = getattr(block.ls_1, "gamma", None)
    if isinstance(block, ResidualAttentionBlock):
        return Block(**parts, packed=attention)
    if not isinstance(block, CustomResidualAttentionBlock):
        raise ValueError(f"The tower's blocks are of type {type(block).__name__}, which is not known here.")
    if attention.logit_scale is not None:
        raise ValueError("The tower's blocks use scaled_cosine_attn, which open_clip itself cannot run.")
    return Block(
        **parts, norm=_real(block.ln_attn), inner_norm=_real(attention.ln_inner), head_gain=attention.head_scale
    )


def _real(norm: nn.Module | None) -> nn.Module | None:
    return None if norm is None or is_identity(norm) else norm


def _of_packed(attention: nn.MultiheadAttention, query: Float[Tensor, "one width"]) -> AttentionPool:
    """Attention pooling by nn.MultiheadAttention with that one query."""
    weights = attention.in_proj_weight
    if weights is None:
        weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    else:
        weights = weights.chunk(3)
    (q, *rest) = zip(weights, attention.in_proj_bias.chunk(3), strict=True)
    query = F.linear(query, *q).view(attention.num_heads, -1).detach()
    output = attention.out_proj.weight, attention.out_proj.bias
    return AttentionPool(query, *rest, output, nn.Identity(), None)


def _of_latent(pool: nn.Module) -> AttentionPool:
    """timm's attention pooling."""
    _only(pool, "timm.AttentionPoolLatent", "poolings")
    if pool.latent_len != 1 or pool.pos_embed is not None or pool.mlp is None:
        raise ValueError("The tower's attention pooling has several queries, positions, or no MLP: not known here.")
    query = pool.q(pool.latent)[0].view(pool.num_heads, pool.head_dim)
    query = normalised(pool.q_norm, query.detach())
    weights = pool.kv.weight.chunk(2)
    biases = weights[0].new_zeros(2, len(weights[0])) if pool.kv.bias is None else pool.kv.bias.chunk(2)
    key, value = zip(weights, biases, strict=True)
    return AttentionPool(query, key, value, (pool.proj.weight, pool.proj.bias), pool.k_norm, pool.mlp)


def _of_open_clip_timm(tower: nn.Module) -> Tower:
    trunk, head = tower.trunk, tower.head
    if _kind(trunk) not in KNOWN:
        _refuse(trunk)
        raise ValueError(f"timm's {type(trunk).__name__} is no vision transformer that is known here: give a ViT.")
    behind = [module for name, module in head.named_children() if name != "drop"]
    if not behind:
        return _of_timm(trunk, tower)
    if len(behind) > 1 or not isinstance(behind[0], nn.Linear):
        names = ", ".join(name for name, _ in head.named_children())
        raise ValueError(f"The tower ends in {names}, which is not linear: give one that ends in a linear projection.")
    return _of_timm(trunk, tower, behind[0])


def _of_timm(vit: nn.Module, root: nn.Module | None = None, behind: nn.Module | None = None) -> Tower:
    include = getattr(vit, "pool_include_prefix", False) or _kind(vit) == "timm.Eva"
    before, kind = getattr(vit, "num_prefix_tokens", 1), vit.global_pool
    norms = [_real(vit.norm), _real(vit.fc_norm)]
    parts: dict = {"norm": norms[0] or vit.norm, "second": norms[1]}
    if (attention := getattr(vit, "attn_pool", None)) is not None:
        parts |= {"pools": "attention", "start": 0 if include else before, "pool": _of_latent(attention)}
    elif kind in ("token", "avg"):
        if norms[0] is None and norms[1] is not None:
            parts = {"norm": norms[1], "each": False}
        include = include and _kind(vit) != "timm.Eva"
        parts |= {"pools": "class" if kind == "token" else "mean", "start": 0 if include else before}
    else:
        raise ValueError(f"The tower pools by {kind!r}: give one that pools by token, avg or map.")
    heads = [layer for layer in (vit.head, behind) if layer is not None and not is_identity(layer)]
    if len(heads) > 1 or not all(isinstance(layer, nn.Linear) for layer in heads):
        raise ValueError("The tower ends in more than one linear layer: give one with a single projection.")
    fixed = not (getattr(vit, "dynamic_img_size", False) or vit.patch_embed.img_size is None)
    return Tower(
        root or vit,
        tuple(_timm_block(block) for block in vit.blocks),
        before=before,
        projection=heads[0].weight.T if heads else None,
        bias=heads[0].bias if heads else None,
        image=(vit.in_chans, *vit.patch_embed.img_size) if fixed else None,
        **parts,
    )


def _timm_block(block: nn.Module) -> Block:
    _only(
        block,
        "timm.Block timm.ResPostBlock timm.EvaBlock timm.EvaBlockPostNorm timm.RelPosBlock timm.ResPostRelPosBlock",
        "blocks",
    )
    attention = block.attn
    _only(attention, "timm.Attention timm.AttentionRope timm.EvaAttention timm.RelPosAttention", "attentions")
    after = "Post" in type(block).__name__  # what attention gives is normed, and not what it takes
    gain = getattr(getattr(block, "ls1", None), "gamma", getattr(block, "gamma_1", None))
    return Block(
        attention if after else block.norm1,
        attention.num_heads,
        attention.proj,
        block.drop_path2,
        norm=_real(block.norm1) if after else None,
        gain=gain,
        inner_norm=_real(getattr(attention, "norm", None)),
        gated=getattr(attention, "gate", None) is not None,
    )


def _of_transformers_clip(model: nn.Module) -> Tower:
    whole = getattr(model, "vision_model", model)
    return Tower(
        model,
        tuple(_transformers_block(layer) for layer in whole.encoder.layers),
        norm=whole.post_layernorm,
        pools="class",
        before=1,
        each=False,
        projection=None if whole is model else model.visual_projection.weight.T,
        image=_sides(whole),
        embedding=(lambda output: output.pooler_output) if whole is model else (lambda output: output.image_embeds),
    )


def _of_transformers_siglip(model: nn.Module) -> Tower:
    if not model.use_head:
        raise ValueError("The SiglipVisionModel has no pooling (vision_use_head): give one with its head.")
    pool = replace(_of_packed(model.head.attention, model.head.probe[0]), mlp=model.head.mlp)
    return Tower(
        model,
        tuple(_transformers_block(layer) for layer in model.encoder.layers),
        norm=model.post_layernorm,
        pools="attention",
        before=0,
        pool=pool,
        image=_sides(model),
        embedding=lambda output: output.pooler_output,
    )


def _of_transformers_dino(model: nn.Module) -> Tower:
    third = _kind(model) == "transformers.DINOv3ViTModel"
    return Tower(
        model,
        tuple(_transformers_block(layer) for layer in (model.model if third else model.encoder).layer),
        norm=model.norm if third else model.layernorm,
        pools="class",
        before=1 + getattr(model.config, "num_register_tokens", 0),
        embedding=lambda output: output.pooler_output,
    )


def _sides(model: nn.Module) -> tuple[int, int, int]:
    return model.config.num_channels, model.config.image_size, model.config.image_size


def _transformers_block(layer: nn.Module) -> Block:
    attention = getattr(layer, "self_attn", None) or layer.attention
    mixes = getattr(attention, "attention", attention)  # apart from its output in DINOv2 of older versions
    output = getattr(attention, "out_proj", None) or getattr(attention, "o_proj", None) or attention.output.dense
    return Block(
        getattr(layer, "layer_norm1", None) or layer.norm1,
        getattr(mixes, "num_heads", None) or mixes.num_attention_heads,
        output,
        getattr(layer, "layer_scale2", layer.mlp),
        gain=getattr(getattr(layer, "layer_scale1", None), "lambda1", None),
    )


KNOWN: Mapping[str, Callable[[nn.Module], Tower]] = {
    "open_clip.VisionTransformer": _of_open_clip,
    "open_clip.TimmModel": _of_open_clip_timm,
    "timm.VisionTransformer": _of_timm,
    "timm.Eva": _of_timm,
    "timm.VisionTransformerRelPos": _of_timm,
    "timm.Beit": _of_timm,
    "transformers.CLIPVisionModel": _of_transformers_clip,
    "transformers.CLIPVisionModelWithProjection": _of_transformers_clip,
    "transformers.MetaClip2VisionModel": _of_transformers_clip,
    "transformers.MetaClip2VisionModelWithProjection": _of_transformers_clip,
    "transformers.SiglipVisionModel": _of_transformers_siglip,
    "transformers.Dinov2Model": _of_transformers_dino,
    "transformers.Dinov2WithRegistersModel": _of_transformers_dino,
    "transformers.DINOv3ViTModel": _of_transformers_dino,
}
_WHOLE: Mapping[str, str] = {
    "transformers.CLIPModel": "a CLIPVisionModelWithProjection",
    "transformers.MetaClip2Model": "a MetaClip2VisionModelWithProjection",
    "transformers.SiglipModel": "its vision_model",
    "transformers.Siglip2Model": "a SiglipVisionModel",
}
