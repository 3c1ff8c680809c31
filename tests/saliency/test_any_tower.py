"""Attention's maps on towers that are called are those on towers that are written out, and fit what was computed."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from xaikit.companion import known_towers
from xaikit.models.streams import describe
from xaikit.saliency import tower as written_out
from xaikit.saliency.vit import attention_rollout, chefer, grad_cam, raw_attention

BY_ATTENTION = {
    "raw": lambda tower, images, directions: raw_attention(tower, images),
    "rollout": lambda tower, images, directions: attention_rollout(tower, images),
    "rollout from 0": lambda tower, images, directions: attention_rollout(tower, images, start=0),
    "Grad-CAM": grad_cam,
    "Chefer": lambda tower, images, directions: chefer(tower, images, directions, rule="iccv2021"),
}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", BY_ATTENTION)
def test_a_tower_that_is_called_gives_what_it_gives_written_out(name: str) -> None:
    sizes = {"image_size": (24, 40), "patch_size": 8, "width": 24, "layers": 3, "heads": 3, "mlp_ratio": 2.0}
    stock, called = (
        VisionTransformer(**sizes, output_dim=14, ls_init_value=0.5, block_type=kind) for kind in ("default", "custom")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known_towers.draw(stock)
    called.load_state_dict(stock.state_dict())
    assert written_out.is_written_out(stock) and not written_out.is_written_out(called)
    images, directions = drawn(1, 3, 3, 24, 40), drawn(2, 3, 14)
    expected = BY_ATTENTION[name](stock.double(), images, directions)
    found = BY_ATTENTION[name](called.double(), images, directions)
    assert found.shape == (3, 3, 5) and expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_grad_cam_of_a_tower_with_registers_is_the_gradient_of_its_score() -> None:
    """By finite differences: what a small push of one attention weight does to the score."""
    tower = known_towers.small("EVA02-B-16").double()
    images, directions = drawn(1, 1, *describe(tower).image), drawn(2, 1, 24)
    (layer, _) = written_out.walk_down(tower, images, directions, gradients=True)
    attention = tower.trunk.blocks[-1].attn
    values: list[Tensor] = []
    handle = attention.v_proj.register_forward_hook(lambda _module, _inputs, output: values.append(output))
    with torch.no_grad():
        base = F.normalize(tower(images), dim=1) @ directions.T
    handle.remove()
    value = values[0].unflatten(-1, (4, -1))[0, 5, 2]  # of token 5, head 2
    pushed, width = 1e-6, value.numel()

    def push(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        mixed = inputs[0].clone()
        mixed[0, 0, 2 * width : 3 * width] += pushed * value
        return (mixed,)

    handle = attention.norm.register_forward_pre_hook(push)  # before the norm within attention, behind the softmax
    with torch.no_grad():
        changed = F.normalize(tower(images), dim=1) @ directions.T
    handle.remove()
    torch.testing.assert_close((changed - base)[0, 0] / pushed, layer.gradient[0, 2, 0, 5], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(layer.attention.sum(-1), torch.ones_like(layer.attention[..., 0]))


@pytest.mark.parametrize(
    ("kind", "config", "before"),
    [("CLIPVisionModelWithProjection", "CLIPVisionConfig", 1), ("DINOv3ViTModel", "DINOv3ViTConfig", 3)],
)
def test_raw_attention_is_what_transformers_reports(kind: str, config: str, before: int) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"image_size": 24, "patch_size": 8}
    sizes |= {"num_register_tokens": 2} if before == 3 else {"projection_dim": 12}
    called, reporting = (
        getattr(transformers, kind)(getattr(transformers, config)(**sizes, attn_implementation=way)).eval()
        for way in ("sdpa", "eager")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known_towers.draw(called)
    reporting.load_state_dict(called.state_dict())
    images = drawn(1, 2, 3, 24, 24).float()
    with torch.no_grad():
        expected = reporting(images, output_attentions=True).attentions[-1][:, :, 0].mean(1)[:, before:]
    torch.testing.assert_close(raw_attention(called, images), expected.unflatten(1, (3, 3)), rtol=1e-4, atol=1e-6)
    assert attention_rollout(called, images).shape == (2, 3, 3)


def test_a_tower_is_left_as_it_was_and_what_shows_no_attention_is_refused() -> None:
    tower = known_towers.small("vit_relpos_medium_patch16_cls_224").train()
    images, directions = drawn(1, 2, 3, 48, 48).float(), drawn(2, 2, 24).float()
    first, second = (chefer(tower, images, directions, rule="iccv2021") for _ in range(2))
    assert torch.equal(first, second) and first.shape == (2, 3, 3)
    assert tower.training and all(parameter.grad is None for parameter in tower.parameters())
    with pytest.raises(ValueError, match="images are"):
        raw_attention(tower, images[..., :32])
    with pytest.raises(ValueError, match="directions are"):
        grad_cam(tower, images, directions[:, :4])
    tower.trunk.blocks[0].attn.fused_attn = False
    with pytest.raises(ValueError, match="asks 1 times for scaled_dot_product_attention and has 2 layers"):
        raw_attention(tower, images)
