"""The formulas against the networks: torch's counter, the parameters there are, the tensors that autograd keeps."""

import open_clip
import pytest
import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from transformers import BlipTextConfig, BlipTextLMHeadModel

from xaikit.companion.towers import (
    RESNET50,
    STABLE_DIFFUSION,
    VIT_B16_384,
    Decoder,
    ResNet,
    ViT,
    open_clip_texts,
    open_clip_tower,
)

OPEN_CLIP = ("RN50-quickgelu", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14", "ViT-H-14")


def counted(network: nn.Module, *arguments: torch.Tensor, **options: object) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*arguments, **options)
    return counter.get_total_flops()


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def kept(network: nn.Module, images: torch.Tensor) -> int:
    """The numbers of the tensors that autograd keeps, each storage once, parameters left out."""
    own = {each.untyped_storage().data_ptr() for each in network.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    assert output.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_towers_of_open_clip_cost_what_torch_counts(name: str):
    model = open_clip.create_model(name, device="meta")
    images = torch.empty(1, 3, 224, 224, device="meta")
    tower, texts = open_clip_tower(name), open_clip_texts(name)
    assert tower.flops == pytest.approx(counted(model.visual, images), rel=0.002)
    assert tower.parameters == pytest.approx(parameters(model.visual), rel=0.01)
    tokens = torch.empty(1, texts.length, dtype=torch.int64, device="meta")
    assert texts.flops == pytest.approx(counted(TextOf(model), tokens), rel=0.01)


class TextOf(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(tokens)


def test_classifiers_cost_what_torch_counts():
    with torch.device("meta"):
        vit, resnet = timm.create_model("vit_base_patch16_384"), resnet50()
        assert VIT_B16_384.flops == pytest.approx(counted(vit, torch.empty(1, 3, 384, 384)), rel=0.002)
        assert RESNET50.flops == pytest.approx(counted(resnet, torch.empty(1, 3, 224, 224)), rel=0.002)
    assert VIT_B16_384.parameters == pytest.approx(parameters(vit), rel=0.01)
    assert RESNET50.parameters == pytest.approx(parameters(resnet), rel=0.01)
    assert open_clip_tower("ViT-H-14").heads == 16 and VIT_B16_384.tokens == 577


def test_a_small_tower_costs_what_torch_counts():
    """Of odd sizes, so that no two of them can be taken for each other."""
    network = timm.models.VisionTransformer(
        img_size=24, patch_size=4, embed_dim=24, depth=3, num_heads=2, mlp_ratio=3.0, num_classes=5
    )
    tower = ViT(24, 4, 24, 3, 2, 5, 3.0)
    assert tower.flops == counted(network, torch.rand(1, 3, 24, 24))
    assert tower.flops * 7 == counted(network, torch.rand(7, 3, 24, 24))


def test_a_tower_keeps_what_autograd_keeps():
    network = timm.models.VisionTransformer(
        img_size=48, patch_size=4, embed_dim=48, depth=3, num_heads=2, num_classes=5
    )
    tower, batch = ViT(48, 4, 48, 3, 2, 5), 4
    images = torch.rand(batch, 3, 48, 48)
    assert tower.kept() * batch == pytest.approx(kept(network, images), rel=0.15)
    network.requires_grad_(False)
    images.requires_grad_()
    assert tower.kept(frozen=True) * batch == pytest.approx(kept(network, images), rel=0.15)


def test_a_resnet_keeps_what_autograd_keeps():
    network, images = resnet50(), torch.rand(2, 3, 64, 64)
    assert ResNet(64).kept() * 2 == pytest.approx(kept(network, images), rel=0.2)


def test_a_decoder_costs_what_torch_counts():
    words, conditions = 20, 577
    with torch.device("meta"):
        network = BlipTextLMHeadModel(BlipTextConfig(attn_implementation="eager"))
        found = counted(
            network, input_ids=torch.zeros(1, words, dtype=torch.int64),
            encoder_hidden_states=torch.empty(1, conditions, 768),
        )  # fmt: skip
    assert Decoder().flops(words, conditions) == pytest.approx(found, rel=0.02)
    assert Decoder().parameters == pytest.approx(parameters(network), rel=0.1)


def test_stable_diffusion_costs_what_torch_counts():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=512,
        )  # fmt: skip
        latent = torch.empty(1, 4, 64, 64)
        step = counted(unet, latent, torch.zeros(1), torch.empty(1, 77, 768))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            vae.decode(latent)
    assert step == STABLE_DIFFUSION.step
    assert counter.get_total_flops() == STABLE_DIFFUSION.decode
    assert parameters(unet) + parameters(vae) < STABLE_DIFFUSION.parameters


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="no model 'ViT-Z'"):
        open_clip_tower("ViT-Z")
