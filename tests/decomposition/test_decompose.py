"""Every term agrees with a slow forward pass that keeps each one apart, and the sums are exact."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, Transformer, VisionTransformer
from torch import Tensor, nn

from xaikit.decomposition.decompose import LEVELS, Readout, coefficients, decompose, image_tower
from xaikit.decomposition.store import DecomposedDataset
from xaikit.models.preprocessing import Preprocessed

SMALL = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "heads": 4, "mlp_ratio": 2, "output_dim": 20}
VARIANTS = {
    "plain": {},
    "quick_gelu": {"act_layer": QuickGELU},
    "layer_scale": {"ls_init_value": 0.3},
    "no_ln_pre": {"no_ln_pre": True},
    "norm_after_pooling": {"final_ln_after_pool": True},
    "average_pooling": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "average_pooling_layer_scale": {"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.3},
    "odd_sizes": {"image_size": (21, 35), "patch_size": 7, "width": 30, "heads": 3, "layers": 2, "output_dim": 37},
    "own_attention_module": {"scale_fc": True},
    "gives_tokens_too": {"output_tokens": True},
}


def build(**changes: object) -> VisionTransformer:
    """A tower whose biases and gains are neither 0 nor 1, so that each of them counts."""
    torch.manual_seed(0)
    tower = VisionTransformer(**(SMALL | changes))
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return tower.eval()


def draw(tower: VisionTransformer, count: int = 3) -> Tensor:
    noise = torch.randn(count, 3, *tower.image_size, generator=torch.Generator().manual_seed(1))
    return noise.to(tower.proj.dtype)


@torch.no_grad()
def slow(tower: VisionTransformer, images: Tensor, own_mean: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The forward pass in float64, written out: cells [batch, L, H, N, D], z0 and MLPs [batch, L+1, D], embedding."""
    tower = copy.deepcopy(tower).double()
    results = [_slow_image(tower, image.double(), own_mean) for image in images]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _slow_norm(rows: Tensor, norm: nn.Module) -> Tensor:
    if isinstance(norm, nn.Identity):
        return rows
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def _slow_image(tower: VisionTransformer, image: Tensor, own_mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    patch, (rows, columns) = tower.patch_size[0], tower.grid_size
    patches = [
        (tower.conv1.weight * image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]).sum((1, 2, 3))
        for r in range(rows)
        for c in range(columns)
    ]
    stream = _slow_norm(torch.stack([tower.class_embedding, *patches]) + tower.positional_embedding, tower.ln_pre)
    tokens, width = stream.shape
    read = list(range(1, tokens)) if tower.pool_type == "avg" else [0]
    terms = [stream[read].mean(0)]  # z0 and the MLPs
    cells = []
    for block in tower.transformer.resblocks:
        x, heads = _slow_norm(stream, block.ln_1), block.attn.num_heads
        size = width // heads
        q, k, v = (x @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, 1)
        gain1 = getattr(block.ls_1, "gamma", torch.ones(width).double())
        gain2 = getattr(block.ls_2, "gamma", torch.ones(width).double())
        layer, out = torch.zeros(heads, tokens, width).double(), stream.clone()
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for query in range(tokens):
                scores = (q[query, part] * k[:, part]).sum(1) / math.sqrt(size)
                alpha = scores.exp() / scores.exp().sum()
                each = (alpha[:, None] * v[:, part]) @ block.attn.out_proj.weight[:, part].T  # [tokens, width]
                each = gain1 * (each + block.attn.out_proj.bias / (heads * tokens))
                out[query] = out[query] + each.sum(0)
                if query in read:
                    layer[h] = layer[h] + each / len(read)
        cells.append(layer)
        hidden = _slow_norm(out, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        if isinstance(block.mlp.gelu, QuickGELU):
            hidden = hidden * (1.702 * hidden).sigmoid()
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        hidden = _slow_norm(hidden, getattr(block.mlp, "ln", nn.Identity()))
        mlp = gain2 * (hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias)
        terms.append(mlp[read].mean(0))
        stream = out + mlp
    z = stream[read].mean(0)
    mean, std = z.mean(), (z.var(correction=0) + tower.ln_post.eps).sqrt()
    embedding = ((z - mean) / std * tower.ln_post.weight + tower.ln_post.bias) @ tower.proj
    total = 2 * len(cells) + 1

    def contribute(r: Tensor, parts: int) -> Tensor:
        centre = r.mean() if own_mean else mean / (total * parts)
        c = (r - centre) / std * tower.ln_post.weight + tower.ln_post.bias / (total * parts)
        return c @ tower.proj / embedding.norm()

    attention = torch.stack(
        [torch.stack([torch.stack([contribute(r, len(h) * len(layer)) for r in h]) for h in layer]) for layer in cells]
    )
    return attention, torch.stack([contribute(r, 1) for r in terms]), embedding / embedding.norm()


CONTRACTED = {"head-token": (), "head": (3,), "layer": (2, 3), "token": (1, 2)}


@pytest.mark.parametrize("own_mean", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_term_is_that_of_a_slow_forward_pass_and_all_sum_to_the_unit_embedding(
    variant: str, own_mean: bool
) -> None:
    tower = build(**VARIANTS[variant])
    images = draw(tower, 2)
    cells, mlps, embedding = slow(tower, images, own_mean)
    double = copy.deepcopy(tower).double()
    for model, tolerance, exact in ((double, 1e-12, 1e-10), (tower, 2e-6, 1e-6)):
        readout = Readout.of(model, own_mean=own_mean)
        with torch.no_grad():
            output = model(images.to(model.proj.dtype))
        output = F.normalize(output[0] if isinstance(output, tuple) else output, dim=1)
        for level in LEVELS:
            found = decompose(model, images.to(model.proj.dtype), level, readout)
            expected = cells.sum(CONTRACTED[level]) if CONTRACTED[level] else cells
            torch.testing.assert_close(found.attention.double(), expected, rtol=0, atol=tolerance)
            torch.testing.assert_close(found.mlps.double(), mlps, rtol=0, atol=tolerance)
            torch.testing.assert_close(found.embedding.double(), embedding, rtol=0, atol=tolerance)
            assert (found.total() - output).abs().max() < exact
            assert found.level == level and found.attention.dtype == model.proj.dtype


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "width", "layers", "features", "precision", "tolerance"),
    [
        (16, 768, 12, 512, torch.float32, 1e-6),
        (16, 768, 12, 512, torch.float64, 1e-10),
        (14, 1024, 24, 768, torch.float32, 1e-6),
    ],
    ids=["ViT-B-16", "ViT-B-16 in float64", "ViT-L-14"],
)
def test_the_sum_is_exact_at_the_sizes_of_the_paper(
    patch: int, width: int, layers: int, features: int, precision: torch.dtype, tolerance: float
) -> None:
    tower = build(
        image_size=224,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=width // 64,
        mlp_ratio=4,
        output_dim=features,
    ).to(precision)
    found = coefficients(tower, draw(tower, 1))
    readout = Readout.of(tower)
    assert found.heads.shape == (1, layers, width // 64, 64)
    for level in ("head", "layer"):
        total = found.contributions(readout, level).total()
        assert (total - found.embedding).abs().max() < tolerance


@pytest.mark.parametrize("count", [1, 10])
def test_a_batch_of_one_and_of_as_many_as_there_are_tokens_whatever_the_layout(count: int) -> None:
    tower = build().double()
    assert tower.positional_embedding.shape[0] == 10
    images = draw(tower, count)
    expected = [decompose(tower, image[None], "head-token").attention for image in images]
    sequence_first = copy.deepcopy(tower)
    sequence_first.transformer = Transformer(32, 3, 4, 2, batch_first=False).double().eval()
    sequence_first.transformer.load_state_dict(tower.transformer.state_dict())
    for model in (tower, sequence_first):
        found = decompose(model, images, "head-token")
        torch.testing.assert_close(found.attention, torch.cat(expected), rtol=0, atol=1e-12)
        assert (found.total() - found.embedding).abs().max() < 1e-12


def test_coefficients_hold_head_and_layer_level_without_loss() -> None:
    tower = build(ls_init_value=0.3).double()
    found = coefficients(tower, draw(tower, 40))
    assert found.heads.shape == (40, 3, 4, 8)
    for own_mean in (False, True):
        readout = Readout.of(tower, own_mean=own_mean)
        heads = found.contributions(readout).attention
        torch.testing.assert_close(heads.sum(2), found.contributions(readout, "layer").attention, rtol=0, atol=1e-13)
        torch.testing.assert_close(heads[5:7], found[5:7].contributions(readout).attention, rtol=0, atol=1e-13)
        for head in heads.flatten(1, 2).unbind(1):  # the rank that the fast TextSpan rests on
            assert torch.linalg.matrix_rank(head, rtol=1e-10) <= 8 + 3
    assert torch.linalg.matrix_rank(heads.flatten(0, 2)) == 20


def test_heads_chosen_by_name_are_those_among_all_heads() -> None:
    tower = build().double()
    images = draw(tower)
    everything = decompose(tower, images, "head-token").attention
    heads = [(2, 1), (0, 3), (2, 0)]
    found = decompose(tower, images, "head-token", heads=heads).attention
    torch.testing.assert_close(found, torch.stack([everything[:, a, b] for a, b in heads], 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_towers_in_half_precision_are_decomposed_in_float32(precision: torch.dtype) -> None:
    tower = build().to(precision)
    found = decompose(tower, draw(tower))
    assert found.attention.dtype == torch.float32
    exact = decompose(copy.deepcopy(tower).float(), draw(tower).float())
    error = (found.attention - exact.attention).abs().max() / exact.attention.abs().max()
    assert error < 8 * torch.finfo(precision).eps
    assert (found.total() - found.embedding).norm(dim=1).max() < torch.finfo(precision).eps ** 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_autocast_around_it_changes_nothing(level: str) -> None:
    tower = build()
    expected = decompose(tower, draw(tower), level)
    with torch.autocast("cpu", torch.bfloat16):
        found = decompose(tower, draw(tower), level)
    assert torch.equal(found.attention, expected.attention) and torch.equal(found.mlps, expected.mlps)


def test_a_tower_behind_its_preprocessing_gives_what_it_gives_bare() -> None:
    tower = build()
    wrapped = Preprocessed(tower, 24, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    images = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(3))
    found, bare = decompose(wrapped, images), decompose(tower, wrapped.prepare(images))
    assert torch.equal(found.attention, bare.attention) and torch.equal(found.embedding, bare.embedding)
    assert image_tower(wrapped) is tower


def test_the_tower_is_left_as_it_was_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tower.modules())

    tower = build(patch_dropout=0.5).train()  # which would drop other patches in each pass
    tower.transformer.resblocks[0].eval()
    flags = [module.training for module in tower.modules()]
    found = decompose(tower, draw(tower))
    assert torch.equal(found.attention, decompose(tower, draw(tower)).attention)
    assert not found.attention.requires_grad and all(p.grad is None for p in tower.parameters())
    assert [module.training for module in tower.modules()] == flags and not hooks()

    monkeypatch.setattr(tower, "_pool", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decompose(tower, draw(tower))
    assert [module.training for module in tower.modules()] == flags and not hooks()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attentional_pool": "parallel"}, "attentional pooling"),
        ({"pool_type": "none"}, "'none'"),
        ({"scaled_cosine_attn": True}, "scaled_cosine_attn"),
    ],
)
def test_other_designs_are_named_and_refused(changes: dict, named: str) -> None:
    tower = build(output_dim=32, **changes)
    for use in (image_tower, Readout.of, lambda t: coefficients(t, draw(tower)), lambda t: DecomposedDataset(t, [1])):
        with pytest.raises(ValueError, match=named):
            use(tower)


def test_what_is_no_such_tower_is_refused() -> None:
    with torch.device("meta"):
        resnet = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, width=8)
    with pytest.raises(ValueError, match="ModifiedResNet cannot be taken"):
        image_tower(Preprocessed(resnet, 24, [0.0] * 3, [1.0] * 3))
    with pytest.raises(ValueError, match="Linear is no image tower"):
        image_tower(nn.Linear(2, 2))
    tower = build()
    tower.proj = None
    with pytest.raises(ValueError, match="no final LayerNorm and projection"):
        image_tower(tower)


def test_a_block_that_does_something_unforeseen_is_found_out() -> None:
    class Louder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1.5 * x

    tower = build()
    tower.transformer.resblocks[1].ls_1 = Louder()
    with pytest.raises(ValueError, match="terms miss the embedding"):
        coefficients(tower, draw(tower))


def test_bad_images_and_names_are_said_in_a_sentence() -> None:
    tower = build()
    images = draw(tower)
    with pytest.raises(ValueError, match=r"image size is \(96, 96\); the tower takes \(24, 24\)"):
        decompose(tower, torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="NaN"):
        decompose(tower, torch.full_like(images, torch.nan))
    with pytest.raises(ValueError, match=r"shape \(0, 3, 24, 24\)"):
        decompose(tower, images[:0])
    with pytest.raises(ValueError, match="Unknown level 'heads'"):
        decompose(tower, images, "heads")
    with pytest.raises(ValueError, match="choose 'head-token'"):
        decompose(tower, images, "head", heads=[(0, 0)])
    for heads in ([], [(3, 0)], [(0, 4)], [(-1, 0)]):
        with pytest.raises(ValueError, match="layers 0 to 2, heads 0 to 3"):
            decompose(tower, images, "head-token", heads=heads)
    found = coefficients(tower, images)
    with pytest.raises(ValueError, match="do not hold the tokens"):
        found.contributions(Readout.of(tower), "token")
    with pytest.raises(ValueError, match="not of the tower"):
        found.contributions(Readout.of(build(layers=2)))
    with torch.no_grad():
        tower.transformer.resblocks[0].mlp.c_fc.bias[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        decompose(tower, images)
