"""Any ViT is decomposed exactly, or refused with its reason: all configurations of open_clip, timm, transformers."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from open_clip.transformer import VisionTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, ParallelScalingBlock, ResPostBlock
from torch import Tensor, nn

from xaikit.companion.known_towers import draw, names, small
from xaikit.decomposition.decompose import LEVELS, Readout, coefficients, decompose, image_tower
from xaikit.decomposition.heads import class_heatmaps, mean_contributions
from xaikit.decomposition.store import DecomposedDataset, fill
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.streams import describe
from xaikit.saliency.vit import attention_rollout

CONVOLUTIONS = ("RN", "convnext", "MobileCLIP-S", "MobileCLIP2-S", "swin")


def images_for(tower: nn.Module, count: int = 2) -> Tensor:
    shape = describe(tower).image or (3, 48, 48)
    dtype = next(tower.parameters()).dtype
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def check_exact(tower: nn.Module, tolerance: float = 1e-5, own_mean: bool = False) -> None:
    """All levels sum to what the tower itself gives, and each to the coarser ones."""
    images, readout = images_for(tower), Readout.of(tower, own_mean=own_mean)
    with torch.no_grad():
        output = F.normalize(describe(tower).embedding(tower(images)), dim=1)
    found = {level: decompose(tower, images, level, readout) for level in LEVELS}
    for parts in found.values():
        assert (parts.total() - output).norm(dim=1).max() < tolerance
        torch.testing.assert_close(parts.mlps, found["head"].mlps, rtol=0, atol=tolerance)
        assert parts.before == describe(tower).before
    cells = found["head-token"].attention
    for level, dims in {"head": 3, "layer": (2, 3), "token": (1, 2)}.items():
        assert (cells.sum(dims) - found[level].attention).norm(dim=-1).max() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_configuration_of_open_clip_is_exact_or_refused_with_its_reason(name: str) -> None:
    tower = small(name)
    if not name.startswith(CONVOLUTIONS):
        return check_exact(tower)
    kind = type(getattr(tower, "trunk", tower)).__name__
    for use in (image_tower, Readout.of, lambda each: coefficients(each, torch.zeros(1, 3, 32, 32))):
        with pytest.raises(ValueError, match=rf"The {kind} cannot be taken: .*; give another ViT"):
            use(tower)


def own(**changes: object) -> VisionTransformer:
    sizes = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2, "output_dim": 20}
    sizes["attn_pooler_heads"] = 5
    return VisionTransformer(**(sizes | changes))


def of_timm(name: str, **changes: object) -> nn.Module:
    patch = int(name.partition("patch")[2].partition("_")[0])
    sizes = {"img_size": 3 * patch, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 12}
    return timm.create_model(name, **(sizes | changes))


def of_transformers(kind: str, config: str, **changes: object) -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"image_size": 24, "patch_size": 8}
    return getattr(transformers, kind)(getattr(transformers, config)(**(sizes | changes)))


ROPE = "vit_medium_patch16_rope_reg1_gap_256"
TOWERS: dict[str, Callable[[], nn.Module]] = {
    "open_clip, attentional pooling": lambda: own(attentional_pool=True, attn_pooler_queries=3),
    "open_clip, each token normed": lambda: own(pool_type="avg"),
    "open_clip, qk_norm": lambda: own(qk_norm=True, pool_type="avg", final_ln_after_pool=True),
    "open_clip, scale_heads": lambda: own(scale_heads=True),
    "open_clip, scale_attn_inner": lambda: own(scale_attn_inner=True, scale_heads=True, pool_type="avg"),
    "open_clip, scale_attn": lambda: own(scale_attn=True, ls_init_value=0.3),
    "open_clip, patch dropout": lambda: own(patch_dropout=0.5),
    "timm, class token": lambda: of_timm("vit_base_patch16_224"),
    "timm, no head": lambda: of_timm("vit_base_patch16_224", num_classes=0),
    "timm, no class token": lambda: of_timm("vit_base_patch16_224", class_token=False, global_pool="avg"),
    "timm, prefix pooled": lambda: of_timm("vit_base_patch16_224", global_pool="avg", pool_include_prefix=True),
    "timm, each token normed": lambda: of_timm("vit_base_patch16_224", reg_tokens=2, global_pool="avg", fc_norm=False),
    "timm, no norm": lambda: of_timm("vit_base_patch16_224", final_norm=False, global_pool="avg"),
    "timm, map and a second norm": lambda: of_timm("vit_base_patch16_224", global_pool="map", fc_norm=True),
    "timm, qk-norm and RMS": lambda: of_timm(
        "vit_base_patch16_224", qk_norm=True, norm_layer="rmsnorm", scale_attn_norm=True, init_values=1.0
    ),
    "timm, post-norm": lambda: of_timm("vit_base_patch16_rpn_224"),
    "timm, SwiGLU and LayerScale": lambda: of_timm("vit_giant_patch14_dinov2"),
    "timm, registers": lambda: of_timm("vit_small_patch14_reg4_dinov2"),
    "timm, DINOv3": lambda: of_timm("vit_small_patch16_dinov3"),
    "timm, rope": lambda: of_timm(ROPE),
    "timm, rope in layers": lambda: of_timm("vit_base_patch16_rope_mixed_224"),
    "timm, grouped queries": lambda: of_timm(ROPE, num_kv_heads=2, qkv_fused=False, attn_type="rope", qk_norm=True),
    "timm, two norms": lambda: of_timm("eva02_base_patch14_224", use_post_transformer_norm=True, use_fc_norm=True),
    "timm, relative positions": lambda: of_timm("vit_srelpos_small_patch16_224"),
    "timm, relative positions and post-norm": lambda: of_timm("vit_relpos_base_patch32_plus_rpn_256"),
    "timm, BEiT": lambda: of_timm("beitv2_base_patch16_224", init_values=0.1, global_pool="token"),
    "transformers, CLIP": lambda: of_transformers(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", projection_dim=9
    ),
    "transformers, CLIP without projection": lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig"),
    "transformers, MetaCLIP 2": lambda: of_transformers("MetaClip2VisionModelWithProjection", "MetaClip2VisionConfig"),
    "transformers, SigLIP": lambda: of_transformers("SiglipVisionModel", "SiglipVisionConfig"),
    "transformers, DINOv2": lambda: of_transformers("Dinov2Model", "Dinov2Config", use_swiglu_ffn=True),
    "transformers, registers": lambda: of_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
    "transformers, DINOv3": lambda: of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2),
}


def built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return draw(build()).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_every_design_is_exact(name: str) -> None:
    if name == "timm, grouped queries" and "num_kv_heads" not in inspect.signature(Eva.__init__).parameters:
        pytest.skip("this timm is older")
    tower = built(TOWERS[name])
    check_exact(tower)
    check_exact(tower.double(), 1e-12, own_mean=True)


# --- against forward passes that keep each term apart ---------------------------------------------------------------


def rescaled(rows: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A norm's mean and standard deviation of each row, as a column."""
    if isinstance(norm, nn.Identity):
        return torch.zeros_like(rows[..., :1]), torch.ones_like(rows[..., :1])
    return rows.mean(-1, keepdim=True), (rows.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()


@torch.no_grad()
def written_out(vit: nn.Module, image: Tensor, own_mean: bool) -> tuple[Tensor, Tensor]:
    """timm's VisionTransformer on one image: cells [layers, heads, tokens, features]; z0, MLPs and the pooling's."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))[0]
    cells, terms = [], [x]  # cells [heads, queries, tokens, width]
    for block in vit.blocks:
        attention, after = block.attn, isinstance(block, ResPostBlock)
        qkv = attention.qkv(x if after else block.norm1(x)).unflatten(1, (3, attention.num_heads, -1))
        q, k, v = qkv.permute(1, 2, 0, 3)
        alpha = (attention.q_norm(q) @ attention.k_norm(k).mT / q.shape[-1] ** 0.5).softmax(-1)
        mixed = alpha[..., None] * v[:, None]
        heads, tokens = alpha.shape[:2]
        if not isinstance(attention.norm, nn.Identity):
            rows = mixed.sum(2).transpose(0, 1).flatten(1)
            std = rescaled(rows, attention.norm)[1]
            gain = attention.norm.weight.view(heads, 1, 1, -1)
            rest = attention.norm(rows).view(tokens, heads, -1).transpose(0, 1) - (mixed * gain).sum(2) / std
            mixed = mixed * gain / std[None, :, None] + rest[:, :, None] / tokens
        weight = attention.proj.weight.view(len(attention.proj.weight), heads, -1)
        each = torch.einsum("hqtr,whr->hqtw", mixed, weight) + attention.proj.bias / (heads * tokens)
        if after:
            std = rescaled(each.sum((0, 2)), block.norm1)[1][None, :, None]
            each = (each - each.mean(-1, keepdim=True)) / std * block.norm1.weight + block.norm1.bias / (heads * tokens)
        each = each * getattr(getattr(block, "ls1", None), "gamma", 1)
        cells.append(each)
        x = x + each.sum((0, 2))
        terms.append(block.norm2(block.mlp(x)) if after else block.ls2(block.mlp(block.norm2(x))))
        x = x + terms[-1]
    norm, head = (vit.norm if isinstance(vit.fc_norm, nn.Identity) else vit.fc_norm), vit.head
    start = vit.num_prefix_tokens
    values, added = [head.weight.T], torch.zeros_like(head.bias)
    if vit.global_pool == "map":
        pool = vit.attn_pool
        q, (k, v) = pool.q(pool.latent)[0, 0], pool.kv(vit.norm(x)[start:]).chunk(2, -1)
        q, k = (part.unflatten(-1, (pool.num_heads, -1)) for part in (q, k))
        alpha = (torch.einsum("hr,thr->ht", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        value, value_bias = (part.chunk(2)[1] for part in (pool.kv.weight, pool.kv.bias))
        split = zip(value.chunk(pool.num_heads), pool.proj.weight.chunk(pool.num_heads, 1), strict=True)
        values = [one.T @ two.T @ head.weight.T for one, two in split]
        pooled = torch.cat([a @ part for a, part in zip(alpha, v.chunk(pool.num_heads, -1), strict=True)])
        mlp = pool.mlp(pool.norm(pool.proj(pooled)))
        added = (pool.proj(F.linear(norm.bias, value, value_bias)) + mlp) @ head.weight.T + head.bias
        shared = torch.zeros_like(head.bias)
    else:
        alpha = torch.zeros(1, tokens).to(x)
        alpha[:, 0 if vit.global_pool == "token" else slice(start, None)] = 1
        alpha = alpha / alpha.sum()
        shared = norm.bias @ head.weight.T + head.bias
    if vit.global_pool == "map" and start:
        alpha = F.pad(alpha, (start, 0))
    length = vit(image[None])[0].norm()
    count = 2 * len(cells) + 1

    def read(r: Tensor, parts: int) -> Tensor:
        """Of r [..., queries, width], one of so many parts of a layer."""
        if vit.global_pool == "avg" and norm is vit.fc_norm:  # the mean is normed
            mean, std = rescaled(alpha @ x, norm)
            rows = [(r.mT @ alpha.T)[..., 0]]
            centre = rows[0].mean(-1, keepdim=True) if own_mean else mean[0] / (count * parts)
            total = (rows[0] - centre) / std[0] * norm.weight @ values[0]
        else:
            mean, std = rescaled(x, norm)
            total = 0
            for a, value in zip(alpha, values, strict=True):
                centre = r.mean(-1, keepdim=True) if own_mean else mean / (count * parts)
                total = total + ((r - centre) / std * a[:, None]).sum(-2) * norm.weight @ value
        return (total + shared / (count * parts)) / length

    attention = torch.stack([read(each.transpose(1, 2), heads * tokens) for each in cells])
    return attention, torch.cat(
        [torch.stack([read(r, 1) for r in terms]), *([added[None] / length] if added.any() else [])]
    )


PLAIN = {
    "class token": {},
    "registers, mean of normed tokens": {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2, "init_values": 0.5},
    "normed mean": {"global_pool": "avg", "class_token": False},
    "attention pooling": {"global_pool": "map", "class_token": False},
    "attention pooling without the class token": {"global_pool": "map", "block_fn": ResPostBlock},
    "norms within and after": {"scale_attn_norm": True, "qk_norm": True, "block_fn": ResPostBlock},
    "all at once": {
        "scale_attn_norm": True,
        "qk_norm": True,
        "block_fn": Block,
        "global_pool": "map",
        "init_values": 0.5,
    },
}


@pytest.mark.parametrize("own_mean", [False, True])
@pytest.mark.parametrize("variant", PLAIN)
def test_each_term_is_that_of_a_pass_written_out(variant: str, own_mean: bool) -> None:
    tower = built(lambda: of_timm("vit_base_patch16_224", img_size=32, **PLAIN[variant])).double()
    images = images_for(tower)
    readout = Readout.of(tower, own_mean=own_mean)
    found = decompose(tower, images, "head-token", readout)
    expected = [
        torch.stack(parts) for parts in zip(*(written_out(tower, each, own_mean) for each in images), strict=True)
    ]
    torch.testing.assert_close(found.attention, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mlps, expected[1], rtol=0, atol=1e-12)
    heads = decompose(tower, images, "head-token", readout, heads=[(1, 3), (0, 2)]).attention
    torch.testing.assert_close(heads, torch.stack([found.attention[:, 1, 3], found.attention[:, 0, 2]], 1))


# --- one tower in three libraries ------------------------------------------------------------------------------------


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    result = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        result[key] = value
    return result


def test_a_clip_is_decomposed_alike_in_open_clip_timm_and_transformers() -> None:
    first = built(lambda: own(act_layer=nn.GELU)).double()
    state = first.state_dict()
    state["proj"] = state["proj"].T
    state["class_embedding"], positions = state["class_embedding"][None, None], state.pop("positional_embedding")
    second = timm.create_model(
        "vit_base_patch16_clip_224", img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2,
        num_classes=20, norm_layer=nn.LayerNorm,
    ).double()  # fmt: skip
    second.head = nn.Linear(32, 20, bias=False).double()
    second.load_state_dict(
        renamed(
            state | {"pos_embed": positions[None]},
            {"transformer.resblocks": "blocks", "ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.",
             "out_proj": "proj", "c_fc": "fc1", "c_proj": "fc2", "ln_pre": "norm_pre", "ln_post": "norm",
             "conv1": "patch_embed.proj", "class_embedding": "cls_token"} | {},
        ) | {"head.weight": state["proj"]},
        strict=False,
    )  # fmt: skip
    third = of_transformers(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", intermediate_size=64, projection_dim=20, hidden_act="gelu"
    ).double()
    split = {}
    for key, value in state.items():
        if "in_proj_" in key:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                split[key.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = part
        else:
            split[key] = value
    split["class_embedding"] = state["class_embedding"].flatten()
    third.load_state_dict(
        renamed(
            split | {"positions": positions},
            {"transformer.resblocks": "vision_model.encoder.layers", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
             "attn.out_proj": "self_attn.out_proj", "self_self": "self", "c_fc": "fc1", "c_proj": "fc2",
             "ln_pre": "vision_model.pre_layrnorm", "ln_post": "vision_model.post_layernorm",
             "conv1": "vision_model.embeddings.patch_embedding",
             "class_embedding": "vision_model.embeddings.class_embedding",
             "positions": "vision_model.embeddings.position_embedding.weight"},
        ) | {"visual_projection.weight": state["proj"]},
        strict=False,
    )  # fmt: skip
    images = images_for(first)
    for level in LEVELS:
        expected = decompose(first, images, level)
        for other in (second.eval(), third.eval()):
            found = decompose(other, images, level)
            torch.testing.assert_close(found.attention, expected.attention, rtol=0, atol=1e-12)
            torch.testing.assert_close(found.mlps, expected.mlps, rtol=0, atol=1e-12)


# --- what cannot be had ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: own(attentional_pool="parallel"), "'parallel'"),
        (lambda: own(attentional_pool="cascade"), "'cascade'"),
        (lambda: own(attentional_pool=True, pool_type="avg"), "'avg'"),
        (lambda: of_timm("vit_base_patch16_224", global_pool="avgmax"), "'avgmax'"),
        (lambda: of_timm("vit_base_patch16_224", global_pool="prr"), "AttentionPoolPrr"),
        (lambda: of_timm("vit_base_patch16_224", block_fn=ParallelScalingBlock), "ParallelScalingBlock"),
        (lambda: of_timm("vit_base_patch16_224", attn_layer="diff"), "DiffAttention"),
        (lambda: of_timm("deit_tiny_distilled_patch16_224"), "two heads on two tokens"),
        (lambda: of_transformers("SiglipVisionModel", "SiglipVisionConfig", vision_use_head=False), "vision_use_head"),
        (lambda: nn.ModuleList([own(), own()]), "2 image towers"),
        (
            lambda: transformers.CLIPModel(transformers.CLIPConfig(
                text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
                vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
            )),
            "give a CLIPVisionModelWithProjection",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(build: Callable[[], nn.Module], named: str) -> None:
    tower = build()
    for use in (image_tower, Readout.of, lambda each: coefficients(each, torch.zeros(1, 3, 24, 24))):
        with pytest.raises(ValueError, match=named):
            use(tower)


def test_tokens_are_refused_where_their_weights_are_not_shown_and_heads_are_not() -> None:
    slow = built(TOWERS["timm, class token"])
    eager = built(lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig", attn_implementation="eager"))
    gated = copy.deepcopy(slow)
    for block in slow.blocks:
        block.attn.fused_attn = False
    for block in gated.blocks:
        block.attn.gate = nn.Linear(32, 32)
    for tower, named in ((slow, "0 times"), (eager, "attn_implementation='sdpa'"), (gated, "gated")):
        images = images_for(tower)
        for level in ("token", "head-token"):
            with pytest.raises(ValueError, match=named):
                decompose(tower, images, level)
        parts = decompose(tower, images)
        assert (parts.total() - parts.embedding).norm(dim=1).max() < 1e-5


def test_heads_behind_attention_pooling_have_no_basis() -> None:
    found = coefficients(small("ViT-B-16-SigLIP"), torch.randn(1, 3, 48, 48))
    with pytest.raises(ValueError, match="take their contributions"):
        found.coordinates()


# --- what else is made of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "EVA02-E-14"])
def test_a_data_set_of_any_tower_is_kept_and_read(name: str, tmp_path: Path) -> None:
    tower = small(name)
    images, readout = images_for(tower, 5), Readout.of(tower)
    store = DecomposedDataset(tower, images, shard_size=2, batch_size=2, folder=tmp_path)
    fill([store])
    again = DecomposedDataset(tower, images, shard_size=2, batch_size=2, folder=tmp_path)
    expected = decompose(tower, images, "head", readout)
    found = torch.cat([shard.contributions(readout).attention for shard in again])
    torch.testing.assert_close(found, expected.attention, rtol=0, atol=1e-5)
    total = torch.cat([shard.contributions(readout, "layer").total() for shard in again])
    torch.testing.assert_close(total, expected.embedding, rtol=0, atol=1e-5)


def test_heatmaps_leave_out_what_stands_before_the_patches() -> None:
    for name, before in (("timm, registers", 5), ("transformers, SigLIP", 0), ("timm, class token", 1)):
        tower = built(TOWERS[name])
        parts = decompose(tower, images_for(tower), "token")
        assert parts.before == before and parts.attention.shape[1] == before + 9
        classes = torch.eye(parts.embedding.shape[1])[:3]
        found = class_heatmaps(parts, classes, (3, 3), chosen=torch.tensor([1, 2]))
        scores = parts.attention[:, before:] @ (classes - classes.mean(0)).T
        torch.testing.assert_close(found.flatten(1), torch.stack([scores[0, :, 1], scores[1, :, 2]]))
        averaged = mean_contributions([parts])
        assert averaged.before == before


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "EVA02-B-16", "coca_ViT-B-32"])
def test_towers_in_half_precision_are_decomposed_in_float32(name: str, precision: torch.dtype) -> None:
    tower = small(name)
    exact = decompose(tower, images_for(tower))
    tower = tower.to(precision)
    found = decompose(tower, images_for(tower))
    assert found.attention.dtype == torch.float32
    assert (found.total() - found.embedding).norm(dim=1).max() < torch.finfo(precision).eps ** 0.5
    assert (found.attention - exact.attention).abs().max() < 16 * torch.finfo(
        precision
    ).eps * exact.attention.abs().max()


@pytest.mark.parametrize("name", ["timm, DINOv3", "timm, map and a second norm"])
def test_a_tower_behind_its_preprocessing_gives_what_it_gives_bare(name: str) -> None:
    tower = built(TOWERS[name])
    side = (describe(tower).image or (3, 48, 48))[1]
    wrapped = Preprocessed(tower, side, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    images = torch.rand(2, 3, side + 9, side, generator=torch.Generator().manual_seed(3))
    found, bare = decompose(wrapped, images, "token"), decompose(tower, wrapped.prepare(images), "token")
    assert torch.equal(found.attention, bare.attention) and torch.equal(found.embedding, bare.embedding)
    assert image_tower(wrapped) is tower
    if describe(tower).pools == "class":
        assert torch.equal(attention_rollout(wrapped, images), attention_rollout(tower, wrapped.prepare(images)))
