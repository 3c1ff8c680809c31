"""The six baselines agree with a slow pass over one image in float64, with public packages, and with themselves."""

import inspect
from functools import cached_property

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from xaikit.saliency import tower as tower_parts
from xaikit.saliency.cam import grad_cam as cam_of_layer
from xaikit.saliency.relevance import linear_relevance, product_relevance, sum_relevance
from xaikit.saliency.vit import (
    BASELINES,
    attention_rollout,
    chefer,
    grad_cam,
    lrp,
    partial_lrp,
    raw_attention,
    text_directions,
    upsample,
)
from xaikit.storage import seeding

DESIGNS: dict[str, dict[str, object]] = {
    "plain": {},
    "quick_gelu": {"act_layer": QuickGELU},
    "layer_scale": {"ls_init_value": 0.1},
    "no_ln_pre": {"no_ln_pre": True},
    "norm_after_pooling": {"final_ln_after_pool": True},
    "oblong": {"image_size": (18, 26), "patch_size": (6, 8)},  # two pixels are left over in each row of patches
}


def build(**changes: object) -> VisionTransformer:
    """A small tower whose biases, gains and positions are not what they are made as."""
    settings = {"image_size": 24, "patch_size": 8, "width": 24, "layers": 3, "heads": 3, "mlp_ratio": 2.0}
    torch.manual_seed(0)
    tower = VisionTransformer(**{**settings, "output_dim": 14, **changes})
    draw = seeding.generator(0, "tower")
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if name.endswith("in_proj_weight"):
                parameter.mul_(2)  # attention far from uniform
            elif name.endswith("gamma"):
                parameter.copy_(noise / 3)  # of both signs
            elif parameter.ndim == 1:
                parameter.copy_(noise / 3 + (1 if name.endswith("weight") else 0))
    return tower.eval()


def inputs(tower: VisionTransformer, count: int = 4) -> tuple[Tensor, Tensor]:
    draw = seeding.generator(0, "inputs")
    images = torch.randn(count, 3, *tower.image_size, generator=draw)
    return images, F.normalize(torch.randn(count, 14, generator=draw), dim=1)


@pytest.fixture(params=list(DESIGNS))
def design(request) -> VisionTransformer:
    return build(**DESIGNS[request.param])


@pytest.fixture
def tower() -> VisionTransformer:
    return build()


def assert_close(ours: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of each map's own largest value, which must not be zero."""
    scale = expected.double().abs().amax((1, 2), keepdim=True)
    assert ours.shape == expected.shape and (scale > 0).all()
    assert ((ours.double() - expected).abs() / scale).amax() < tolerance


# --- the slow reference -----------------------------------------------------------------------------------------


class Slow:
    """One image, one head at a time, in float64, and LRP one output at a time with each rule as the paper has it."""

    def __init__(self, tower: VisionTransformer, image: Tensor, direction: Tensor) -> None:
        self.tower, self.image, self.direction = tower, image.double(), direction.double()

    def forward(self, nudges: dict[tuple[int, int], Tensor] | None = None) -> Tensor:
        """The score, with `nudges` [N, N] added to the attention of (layer, head)."""
        tower = self.tower
        self.patches = tower.conv1(self.image[None])[0].flatten(1).T
        self.tokens = torch.cat([tower.class_embedding[None], self.patches])
        x = tower.ln_pre(self.tokens + tower.positional_embedding)
        self.attention, self.tape = [], []
        for layer, block in enumerate(tower.transformer.resblocks):
            tape = {"entry": x, "normed": block.ln_1(x)}
            q, k, v = (tape["normed"] @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, 1)
            width = q.shape[1] // block.attn.num_heads
            heads = []
            for head in range(block.attn.num_heads):
                part = slice(head * width, (head + 1) * width)
                attention = torch.softmax(q[:, part] @ k[:, part].T / width**0.5, 1)
                if nudges and (layer, head) in nudges:
                    attention = attention + nudges[layer, head]
                heads.append((q[:, part], k[:, part], v[:, part], attention))
            self.attention.append([head[3] for head in heads])
            tape["heads"] = heads
            tape["mixed"] = torch.cat([a @ v for _, _, v, a in heads], 1)
            tape["attended"] = block.ls_1(block.attn.out_proj(tape["mixed"]))
            tape["middle"] = x + tape["attended"]
            tape["normed_middle"] = block.ln_2(tape["middle"])
            tape["hidden"] = block.mlp.gelu(block.mlp.c_fc(tape["normed_middle"]))
            tape["written"] = block.ls_2(block.mlp.c_proj(tape["hidden"]))
            x = tape["middle"] + tape["written"]
            self.tape.append(tape)
        self.pooled = tower.ln_post(x[0])
        embedding = self.pooled @ tower.proj
        return embedding @ self.direction / embedding.norm()

    def gradients(self) -> list[list[Tensor]]:
        score = self.forward()
        flat = [attention for heads in self.attention for attention in heads]
        gradients = iter(torch.autograd.grad(score, flat))
        return [[next(gradients) for _ in heads] for heads in self.attention]

    @cached_property
    @torch.no_grad()
    def relevance(self) -> tuple[list[list[Tensor]], Tensor]:
        """The relevance of each attention, and of the pixels."""
        self.forward()
        tower = self.tower
        relevance = torch.zeros_like(self.tape[0]["entry"])
        head_row = tower.proj @ self.direction
        relevance[0] = z_plus(self.pooled[None], head_row[None], torch.ones(1, 1).double())[0]
        of_attention = []
        for block, tape in zip(reversed(tower.transformer.resblocks), reversed(self.tape), strict=True):
            gains = [getattr(scale, "gamma", torch.ones(1))[..., None] for scale in (block.ls_1, block.ls_2)]
            direct, written = added(tape["middle"], tape["written"], relevance)
            hidden = z_plus(tape["hidden"], block.mlp.c_proj.weight * gains[1], written)
            middle = direct + z_plus(tape["normed_middle"], block.mlp.c_fc.weight, hidden)
            direct, attended = added(tape["entry"], tape["attended"], middle)
            mixed = z_plus(tape["mixed"], block.attn.out_proj.weight * gains[0], attended)
            columns: dict[str, list[Tensor]] = {"q": [], "k": [], "v": [], "a": []}
            for (q, k, v, attention), part in zip(tape["heads"], mixed.chunk(block.attn.num_heads, 1), strict=True):
                a, of_v = (half / 2 for half in deep_taylor(lambda x, y: x @ y, [attention, v], part))
                of_q, of_k = (half / 2 for half in deep_taylor(lambda x, y: x @ y.T, [q, k], a))
                for name, value in (("q", of_q), ("k", of_k), ("v", of_v), ("a", a)):
                    columns[name].append(value)
            projected = torch.cat(columns["q"] + columns["k"] + columns["v"], 1)
            relevance = direct + z_plus(tape["normed"], block.attn.in_proj_weight, projected)
            of_attention.insert(0, columns["a"])
        patches = added(self.tokens, tower.positional_embedding, relevance)[0][1:]
        return of_attention, self.pixels(patches)

    def pixels(self, relevance: Tensor) -> Tensor:
        """The z-box rule as written: shares of x w − l w⁺ − h w⁻, one output of one patch at a time."""
        high, wide = self.tower.patch_size
        result = torch.zeros(self.image.shape[1:]).double()
        low, top = self.image.min(), self.image.max()
        for place, row in enumerate(relevance):
            y, x = place // self.tower.grid_size[1] * high, place % self.tower.grid_size[1] * wide
            window = self.image[:, y : y + high, x : x + wide]
            for kernel, value in zip(self.tower.conv1.weight, row, strict=True):
                parts = window * kernel - low * kernel.clamp(min=0) - top * kernel.clamp(max=0)
                result[y : y + high, x : x + wide] += (parts / parts.sum() * value).sum(0)
        return result


def deep_taylor(function, tensors: list[Tensor], relevance: Tensor) -> list[Tensor]:
    """Eq. 2 of Chefer et al.: x ⊙ Σ_i ∂L_i/∂x R_i / L_i, by automatic differentiation."""
    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*tensors)
        gradients = torch.autograd.grad(output, tensors, relevance / output.detach())
    return [tensor.detach() * gradient for tensor, gradient in zip(tensors, gradients, strict=True)]


def z_plus(rows: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    result = torch.zeros_like(rows)
    for n, row in enumerate(rows):
        for i, weights in enumerate(weight):
            products = row * weights
            products = torch.where(products > 0, products, 0)
            result[n] += products / products.sum() * relevance[n, i]
    return result


def added(one: Tensor, other: Tensor, relevance: Tensor) -> list[Tensor]:
    parts = deep_taylor(lambda x, y: x + y, [one, other], relevance)
    whole = sum(part.sum().abs() for part in parts)
    return [part * (part.sum().abs() / whole) * (relevance.sum() / part.sum()) for part in parts]


def of_class(matrices: list[Tensor], tower: VisionTransformer) -> Tensor:
    """Abnar and Zuidema's product, from the first matrix up, in full; then the class row, patches only."""
    product = np.eye(len(matrices[0]))
    for matrix in matrices:
        product = matrix.detach().numpy() @ product
    return torch.from_numpy(product[0, 1:].reshape(tower.grid_size))


def slow_map(name: str, slow: Slow, start: int) -> Tensor:
    tower = slow.tower
    slow.forward()
    attention = [torch.stack(heads).detach() for heads in slow.attention]
    one = torch.eye(attention[0].shape[1])
    if name == "raw attention":
        return attention[-1].mean(0)[0, 1:].reshape(tower.grid_size)
    if name == "rollout":
        mixed = [a.mean(0) + one for a in attention[start:]]
        return of_class([a / a.sum(1, keepdim=True) for a in mixed], tower)
    if name in ("LRP", "partial-LRP", "Chefer et al."):
        relevances, pixels = slow.relevance
        if name == "LRP":
            return pixels
        if name == "partial-LRP":
            return sum(r.clamp(min=0)[0, 1:] for r in relevances[-1]).reshape(tower.grid_size) / len(relevances[-1])
    gradients = slow.gradients()
    if name == "GradCAM":
        pairs = zip(gradients[-1], attention[-1], strict=True)
        total = sum(gradient[0, 1:].mean() * a[0, 1:] for gradient, a in pairs) / len(attention[-1])
        return total.clamp(min=0).reshape(tower.grid_size)
    weights = relevances if name == "Chefer et al." else attention
    matrices = [
        one + sum((g * w).clamp(min=0) for g, w in zip(gradients[layer], weights[layer], strict=True)) / len(heads)
        for layer, heads in list(enumerate(attention))[start:]
    ]
    return of_class(matrices, tower)


def test_each_baseline_equals_the_slow_reference(design) -> None:
    images, directions = inputs(design, 2)
    maps = {name: function(design, images, directions) for name, function in BASELINES.items()}
    maps["iccv2021"] = chefer(design, images, directions, rule="iccv2021")
    design.double()
    references = [Slow(design, *pair) for pair in zip(images, directions, strict=True)]
    for name, ours in maps.items():
        expected = torch.stack([slow_map(name, slow, start=1) for slow in references])
        assert ours.dtype == torch.float32 and not ours.requires_grad
        if name == "GradCAM":  # may be zero all over
            torch.testing.assert_close(ours.double(), expected, atol=1e-7, rtol=1e-4)
        else:
            assert_close(ours, expected)


def test_grad_cam_is_not_zero_all_over(tower) -> None:
    assert grad_cam(tower, *inputs(tower)).amax() > 1e-4


@pytest.mark.parametrize("start", [0, 2])
def test_rollouts_start_where_they_are_told(tower, start) -> None:
    images, directions = inputs(tower, 1)
    ours = {
        "rollout": attention_rollout(tower, images, start=start),
        "Chefer et al.": chefer(tower, images, directions, start=start),
        "iccv2021": chefer(tower, images, directions, start=start, rule="iccv2021"),
    }
    slow = Slow(tower.double(), images[0], directions[0])
    for name, maps in ours.items():
        assert_close(maps, slow_map(name, slow, start)[None])


def test_the_pass_written_out_is_the_towers_own(design) -> None:
    images, _ = inputs(design)
    pooled, proj = tower_parts._head(design, tower_parts._entries(design, images)[1])
    torch.testing.assert_close(pooled @ proj, design(images), atol=2e-6, rtol=1e-5)


def test_raw_attention_is_what_the_attention_module_reports(design) -> None:
    images, _ = inputs(design)
    last, seen = design.transformer.resblocks[-1], []
    with torch.no_grad(), last.ln_1.register_forward_hook(lambda module, given, output: seen.append(output)):
        design(images)
        weights = last.attn(seen[0], seen[0], seen[0], need_weights=True, average_attn_weights=False)[1]
    torch.testing.assert_close(raw_attention(design, images).flatten(1), weights[:, :, 0, 1:].mean(1))


def test_gradients_of_the_attention_are_finite_differences_of_the_score(tower) -> None:
    tower.double()
    images, directions = (values.double() for values in inputs(tower, 2))
    slow = Slow(tower, images[1], directions[1])
    layers = list(tower_parts.walk_down(tower, images, directions, gradients=True))[::-1]
    step, draw = 1e-5, seeding.generator(0, "nudges")
    for layer in range(3):
        nudge = torch.randn(3, 10, 10, generator=draw, dtype=torch.float64) * step
        scores = [slow.forward({(layer, head): sign * nudge[head] for head in range(3)}).item() for sign in (1, -1)]
        expected = (layers[layer].gradient[1] * nudge).sum().item()
        assert abs(expected) > 1e-9
        assert (scores[0] - scores[1]) / 2 == pytest.approx(expected, rel=1e-6)


def test_results_of_a_batch_are_those_of_its_images(design) -> None:
    images, directions = inputs(design)
    images[2] *= 5  # no image may lend another one its range or its total relevance
    for function in BASELINES.values():
        together = function(design, images, directions)
        alone = torch.cat([function(design, images[i : i + 1], directions[i : i + 1]) for i in (1, 2)])
        torch.testing.assert_close(together[1:3], alone, atol=1e-5 * alone.abs().amax().item(), rtol=1e-5)


def test_a_batch_as_large_as_the_number_of_tokens_is_not_mistaken(tower) -> None:
    images, directions = inputs(tower, 10)
    for function in BASELINES.values():
        torch.testing.assert_close(
            function(tower, images, directions)[7:], function(tower, images[7:], directions[7:]), atol=1e-6, rtol=1e-5
        )


# --- the rules --------------------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(seed, *shape), dtype=torch.float64)


def test_linear_and_product_rules_keep_the_sum_of_each_row() -> None:
    x, weight, relevance = random(2, 5, 30), random(20, 30), random(2, 5, 20)
    parts = linear_relevance(x, weight, relevance)
    torch.testing.assert_close(parts.sum(2), relevance.sum(2), atol=1e-7, rtol=0)
    left, right, relevance = random(2, 3, 4, 5), random(2, 3, 5, 6), random(2, 3, 4, 6)
    halves = product_relevance(left, right, relevance)
    torch.testing.assert_close(halves[0].sum(3), relevance.sum(3) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(halves[1].sum(2), relevance.sum(2) / 2, atol=1e-6, rtol=0)


def test_the_sum_rule_keeps_each_images_sum_and_rescales_where_shares_differ_in_sign() -> None:
    one, other = torch.tensor([[3.0, 1.0], [-2.0, 1.0]]), torch.tensor([[1.0, 3.0], [6.0, -5.0]])
    relevance = torch.tensor([[4.0, 8.0], [2.0, 2.0]])
    a, b = sum_relevance(one, other, relevance)
    # The first image's shares, 3 + 2 and 1 + 6, are of one sign and stay. The second's are -1 - 0.5 and 3 + 2.5, of
    # totals -1.5 and 5.5, and become 4 · 1.5 / 7 and 4 · 5.5 / 7.
    torch.testing.assert_close(a, torch.tensor([[3.0, 2.0], [4 / 7, 2 / 7]]))
    torch.testing.assert_close(b, torch.tensor([[1.0, 6.0], [12 / 7, 10 / 7]]))
    x, y, relevance = random(4, 5, 6, seed=1), random(4, 5, 6, seed=2), random(4, 5, 6, seed=3)
    parts = sum_relevance(x, y, relevance)
    torch.testing.assert_close((parts[0] + parts[1]).sum((1, 2)), relevance.sum((1, 2)), atol=1e-6, rtol=0)


def test_relevance_is_kept_down_to_the_blocks_inputs_and_the_pixels(design) -> None:
    images, directions = inputs(design)
    for layer in tower_parts.walk_down(design, images, directions, relevances=True):
        total = layer.entry_relevance.sum((1, 2))
        torch.testing.assert_close(total, torch.ones(4).double(), atol=1e-6, rtol=0)
    tokens, positions = tower_parts.embed(design, images.double())
    shares = sum_relevance(tokens, positions, layer.entry_relevance)
    elsewhere = shares[0][:, 0].sum(1) + shares[1].sum((1, 2))
    assert (elsewhere.abs() > 1e-3).all()
    torch.testing.assert_close(lrp(design, images, directions).sum((1, 2)) + elsewhere, total, atol=1e-5, rtol=0)


def test_what_has_no_share_gets_none_and_nothing_is_nan() -> None:
    relevance = torch.ones(1, 2)
    none = linear_relevance(torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, -1.0], [1.0, 3.0]]), relevance)
    torch.testing.assert_close(none, torch.tensor([[1 / 7, 6 / 7]]))
    zeros = torch.zeros(1, 2)
    assert torch.equal(torch.cat(sum_relevance(zeros, zeros, relevance)), torch.zeros(2, 2))


def test_the_linear_rule_is_captums_on_an_mlp() -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(12, 20, bias=False), nn.ReLU(), nn.Linear(20, 9, bias=False), nn.ReLU())
    mlp.append(nn.Linear(9, 4, bias=False))
    x = torch.rand(6, 12, generator=seeding.generator(0, "mlp"))  # captum's rule takes inputs >= 0 only
    with torch.no_grad():
        first, second = mlp[:2](x), mlp[:4](x)
    relevance = F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float()
    for given, layer in ((second, mlp[4]), (first, mlp[2]), (x, mlp[0])):
        relevance = linear_relevance(given, layer.weight.detach(), relevance)
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            layer.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
    theirs = LRP(mlp).attribute(x.requires_grad_(), target=torch.tensor([0, 1, 2, 3, 0, 1])).detach()
    torch.testing.assert_close(relevance, theirs / theirs.sum(1, keepdim=True), atol=1e-6, rtol=1e-4)


class Tail(nn.Module):
    """A tower as a classifier of texts; its last attention passes through `maps`, as an image with a channel a head."""

    def __init__(self, tower: VisionTransformer, texts: Tensor) -> None:
        super().__init__()
        self.tower, self.texts, self.maps = tower, texts, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        entries, _ = tower_parts._entries(self.tower, images)
        block, x = self.tower.transformer.resblocks[-1], entries[-1].requires_grad_()
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, 2)
        q, k, v = (part.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        row = (q[:, :, :1] @ k.mT / q.shape[3] ** 0.5).softmax(3)[:, :, 0]
        patches = self.maps(row[:, :, 1:].unflatten(2, self.tower.grid_size)).flatten(2)
        mixed = (torch.cat([row[:, :, :1], patches], 2)[:, :, None] @ v).flatten(1)
        x = x[:, 0] + block.attn.out_proj(mixed)
        x = self.tower.ln_post(x + block.mlp(block.ln_2(x))) @ self.tower.proj
        return F.normalize(x, dim=1) @ self.texts.T


def test_grad_cam_is_the_packages_and_our_own_on_the_last_attention_over_the_number_of_heads(tower) -> None:
    images, texts = inputs(tower, 5)
    labels = torch.tensor([0, 3, 2, 4, 4])
    ours = grad_cam(tower, images, texts[labels])
    assert ours.amax() > 1e-4
    tail = Tail(tower, texts)
    own = cam_of_layer(tail, tail.maps, images, labels, upsample=False)
    torch.testing.assert_close(ours, own / 3, atol=1e-8, rtol=1e-4)
    with GradCAM(tail, [tail.maps]) as package:
        package(images, [ClassifierOutputTarget(int(label)) for label in labels])
        recorded = package.activations_and_grads
        activations, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
        raw = np.maximum(package.get_cam_image(images, tail.maps, [], activations, gradients), 0)
    torch.testing.assert_close(ours, torch.from_numpy(raw) / 3, atol=1e-8, rtol=1e-4)


# --- what goes in and what is left behind -----------------------------------------------------------------------


def state(tower: nn.Module) -> dict[str, object]:
    return {
        "training": [module.training for module in tower.modules()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in tower.modules()],
        "requires_grad": [parameter.requires_grad for parameter in tower.parameters()],
        "gradients": [None if p.grad is None else p.grad.sum().item() for p in tower.parameters()],
        "values": [value.sum().item() for value in tower.state_dict().values()],
        "types": [value.dtype for value in tower.state_dict().values()],
    }


def test_a_training_tower_is_explained_as_in_evaluation_and_left_as_it_was() -> None:
    tower = build(patch_dropout=0.5)
    images, directions = inputs(tower)
    expected = [function(tower, images, directions) for function in BASELINES.values()]
    tower.train()
    tower.ln_post.eval()
    tower.conv1.weight.requires_grad_(False)
    tower.proj.grad = torch.ones_like(tower.proj)
    before = state(tower)
    with torch.no_grad():
        for function, maps in zip(BASELINES.values(), expected, strict=True):
            torch.testing.assert_close(function(tower, images, directions), maps)  # a dropped patch would change much
    tower.requires_grad_(False)
    torch.testing.assert_close(chefer(tower, images, directions), expected[-1])
    assert torch.is_grad_enabled()
    tower.requires_grad_(True).conv1.weight.requires_grad_(False)
    assert state(tower) == before and not images.requires_grad and not directions.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_towers_are_explained_in_float32(tower, dtype) -> None:
    images, directions = inputs(tower)
    half = tower.to(dtype)
    maps = [function(half, images, directions) for function in BASELINES.values()]
    for function, ours in zip(BASELINES.values(), maps, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, function(tower.float(), images, directions), atol=0, rtol=0)


def test_a_tower_without_projection_takes_directions_of_its_width(tower) -> None:
    images, directions = inputs(tower)
    tower.proj = nn.Parameter(torch.eye(24))
    wide = directions @ torch.randn(14, 24, generator=seeding.generator(0, "wide"))
    expected = [function(tower, images, wide) for function in BASELINES.values()]
    tower.proj = None
    for function, maps in zip(BASELINES.values(), expected, strict=True):
        torch.testing.assert_close(function(tower, images, wide), maps)


def test_unsupported_towers_are_named() -> None:
    images, directions = inputs(build())
    resnet = ModifiedResNet((1, 1, 1, 1), 14, 2, 24, 8)
    with pytest.raises(ValueError, match="ModifiedResNet cannot be taken: a ReLU"):
        raw_attention(resnet, images)
    with pytest.raises(ValueError, match="ModifiedResNet is no open_clip VisionTransformer"):
        lrp(resnet, images, directions)
    with pytest.raises(ValueError, match="pools by attention of its own"):
        attention_rollout(build(attentional_pool=True, attn_pooler_heads=2), images)
    with pytest.raises(ValueError, match="pools by 'avg'"):
        lrp(build(pool_type="avg", final_ln_after_pool=True), images, directions)
    with pytest.raises(ValueError, match="blocks of type CustomResidualAttentionBlock"):
        chefer(build(qk_norm=True), images, directions)


@pytest.mark.parametrize("name", list(BASELINES))
def test_bad_images_and_directions_are_named(tower, name) -> None:
    images, directions = inputs(tower)
    function = BASELINES[name]
    with pytest.raises(ValueError, match=r"images of |There is no image|pixels are NaN or infinite"):
        function(tower, images[:0], directions[:0])
    with pytest.raises(ValueError, match=r"images are \(3, 24, 16\); the tower takes \(3, 24, 24\): resize"):
        function(tower, images[..., :16], directions)
    for bad in (torch.nan, torch.inf):
        spoilt = images.clone()
        spoilt[1, 0, 2, 3] = bad
        with pytest.raises(ValueError, match=r"images of |There is no image|pixels are NaN or infinite"):
            function(tower, spoilt, directions)
    if name in ("rollout", "raw attention"):
        return
    with pytest.raises(ValueError, match=r"directions are \(4, 13\), not \(4, 14\)"):
        function(tower, images, directions[:, 1:])
    with pytest.raises(ValueError, match=r"directions are \(1, 14\), not \(4, 14\)"):
        function(tower, images, directions[:1])
    for bad in (0.0, torch.nan):
        spoilt = directions.clone()
        spoilt[2] = bad
        with pytest.raises(ValueError, match=r"directions of |A direction is zero"):
            function(tower, images, spoilt)


def test_bad_weights_and_settings_are_named(tower) -> None:
    images, directions = inputs(tower)
    with pytest.raises(ValueError, match="no block 3 to start from: the tower has blocks 0 to 2"):
        attention_rollout(tower, images, start=3)
    with pytest.raises(ValueError, match="no rule 'eccv'"):
        inspect.unwrap(chefer)(tower, images, directions, rule="eccv")
    tower.conv1.weight.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="maps hold NaN"):
        raw_attention(tower, images)
    with pytest.raises(ValueError, match="maps hold NaN"):
        partial_lrp(tower, images, directions)


def test_text_directions_are_the_texts_of_the_labels() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0]])
    labels = torch.tensor([2, 0])
    assert text_directions(texts, labels).tolist() == [[2, 5], [1, 0]]
    assert text_directions(texts, labels, minus_mean=True).tolist() == [[1, 3], [0, -2]]
    for bad in ([-1], [3], []):
        with pytest.raises(ValueError, match=r"labels of text_directions|The labels are none"):
            text_directions(texts, torch.tensor(bad, dtype=torch.long))
    with pytest.raises(ValueError, match="mean over one text"):
        text_directions(texts[:1], torch.tensor([0]), minus_mean=True)


def test_only_a_direction_less_another_one_explains_their_difference(tower) -> None:
    """The gradient, and so Grad-CAM before its ReLU, is linear in the direction."""
    images, directions = inputs(tower)
    one, two, both = (
        next(tower_parts.walk_down(tower, images, given, gradients=True)).gradient
        for given in (directions, directions.flip(0), directions - directions.flip(0))
    )
    torch.testing.assert_close(both, one - two, atol=1e-7, rtol=1e-4)


def test_upsampling_is_bilinear_and_leaves_maps_of_that_size_alone() -> None:
    maps = torch.randn(2, 3, 4, generator=seeding.generator(0, "maps"))
    assert upsample(maps, (3, 4)) is maps
    large = upsample(maps, (24, 32))
    torch.testing.assert_close(large, F.interpolate(maps[:, None], scale_factor=8, mode="bilinear")[:, 0])
