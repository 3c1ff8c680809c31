"""`xaikit towers`: which image towers can be decomposed and explained, over all configurations of open_clip.

Each is built in small, with its own kind of blocks, pooling and head: what can be done with a tower hangs on these and
not on its size. `docs/towers.md` holds the table.
"""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from open_clip.model import _build_vision_tower
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import nn

_WIDTH, _HEADS, _LAYERS, _FEATURES = 48, 4, 2, 24


def names() -> list[str]:
    """All configurations that open_clip has."""
    return sorted(open_clip.list_models())


def small(name: str, seed: int = 0) -> nn.Module:
    """The image tower of a configuration with 2 layers, 4 heads and a few patches; no weight of it is trivial.

    A tower of convolutions is on the meta device, in its full size.
    """
    config = open_clip.get_model_config(name)
    vision = dict(config["vision_cfg"])
    trunk = vision.get("timm_model_name", "")
    if isinstance(vision.get("layers"), list) or trunk.startswith(("convnext", "fastvit", "swin")):
        with torch.device("meta"):
            return _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if trunk:
            with patch.object(timm, "create_model", _create_small):
                tower = _build_vision_tower(_features(vision), vision)
        else:
            patch_size = vision["patch_size"]
            changes = {"layers": _LAYERS, "width": _WIDTH, "head_width": _WIDTH // _HEADS, "image_size": 3 * patch_size}
            changes |= {"attn_pooler_heads": 3, "attn_pooler_queries": 5}
            tower = _build_vision_tower(_FEATURES, vision | changes, config.get("quick_gelu", False))
        return draw(tower).eval()


def _features(vision: Mapping[str, Any]) -> int:
    """What a tower without a projection gives is as wide as it is."""
    return _WIDTH if vision.get("timm_proj") == "none" else _FEATURES


_create = timm.create_model


def _create_small(name: str, **told: Any) -> nn.Module:
    """`timm.create_model` with small sizes, which open_clip does not hand on."""
    small: dict[str, Any] = {"depth": _LAYERS, "embed_dim": _WIDTH, "num_heads": _HEADS}
    if name.startswith("vitamin"):
        small |= {
            "img_size": 48,
            "embed_cfg": VitCfg((8, 16, _WIDTH), (1, 1, 1), 8, VitConvCfg(norm_layer="layernorm2d")),
        }
    elif name == "vit_base_mci_224":
        del small["embed_dim"]  # its stem is as wide as it is
        small |= {"img_size": 48, "num_heads": 12, "mlp_ratio": 0.1}
    else:
        small["img_size"] = 3 * int(name.partition("patch")[2].partition("_")[0])
    return _create(name, **told, **small)


@torch.no_grad()
def draw(tower: nn.Module) -> nn.Module:
    """Weights at which everything counts: gains that are not 1, biases and LayerScale that are not 0."""
    for parameter in tower.parameters():
        if parameter.ndim < 2:
            parameter.uniform_(0.3, 1.2).mul_(torch.randint(2, parameter.shape) * 2.0 - 1)
        else:
            parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return tower
