"""`xaikit towers`: which image towers can be decomposed and explained, over all configurations of open_clip.

Each is built in small, with its own kind of blocks, pooling and head: what can be done with a tower hangs on these and
not on its size. `docs/towers.md` holds the table.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch
from open_clip.model import _build_vision_tower
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import nn

from xaikit.companion import tables
from xaikit.decomposition.decompose import decompose
from xaikit.models.streams import KNOWN, describe
from xaikit.saliency.vit import BASELINES, chefer
from xaikit.storage.paths import ROOT

_WIDTH, _HEADS, _LAYERS, _FEATURES = 48, 4, 2, 24


def names() -> list[str]:
    """All configurations that open_clip has."""
    return sorted(open_clip.list_models())


def small(name: str) -> nn.Module:
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
        torch.manual_seed(0)
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


# --- the table ------------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "towers.md"
_POOLS = {"class": "class token", "mean": "mean of tokens", "attention": "attention"}
_RELEVANCE = "LRP", "partial-LRP", "Chefer et al."


@dataclass(frozen=True)
class Row:
    """What can be done with a tower: the reasons why not, or "" where a thing is done."""

    tower: str
    pools: str
    decomposed: str
    by_attention: tuple[str, ...]
    by_relevance: tuple[str, ...]


def row(name: str) -> Row:
    """Of one configuration; each thing is tried."""
    tower = small(name)
    trunk = getattr(tower, "trunk", tower)
    pools, width, images = "", 8, torch.zeros(1, 3, 32, 32)
    with suppress(ValueError):
        parts = describe(tower)
        images = torch.rand(1, *parts.image, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            width = parts.embedding(tower(images)).shape[1]
        pools = _POOLS[parts.pools]
    directions = torch.randn(1, width, generator=torch.Generator().manual_seed(1))
    explainers = {**BASELINES, "Chefer et al., iccv2021": partial(chefer, rule="iccv2021")}
    tried = {label: _why_not(partial(explain, tower, images, directions)) for label, explain in explainers.items()}
    return Row(
        f"{type(trunk).__module__.partition('.')[0]}'s {type(trunk).__name__}",
        pools,
        _why_not(partial(decompose, tower, images, "head-token")),
        tuple(why for label, why in tried.items() if label not in _RELEVANCE),
        tuple(why for label, why in tried.items() if label in _RELEVANCE),
    )


def _why_not(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def page_tables() -> Mapping[str, str]:
    """The tables of the page, by name."""
    rows = {name: row(name) for name in names()}
    groups: dict[tuple[str, ...], list[str]] = {}
    reasons: list[str] = []

    def said(*found: str) -> str:
        reasons.extend(why for why in dict.fromkeys(found) if why and why not in reasons)
        return " / ".join(f"no ({reasons.index(why) + 1})" if why else "yes" for why in dict.fromkeys(found))

    for name, each in rows.items():
        cells = each.tower, each.pools, said(each.decomposed), said(*each.by_attention), said(*each.by_relevance)
        groups.setdefault(cells, []).append(name)
    headings = ["tower", "pools by", "decomposed", "attention", "relevance", "configurations"]
    body = [[*cells, f"{len(found)}: {', '.join(found)}"] for cells, found in sorted(groups.items())]
    libraries: dict[str, list[str]] = {}
    for kind in KNOWN:
        libraries.setdefault(kind.partition(".")[0], []).append(f"`{kind.partition('.')[2]}`")
    return {
        "configurations": tables.markdown(headings, body),
        "reasons": "\n".join(f"{number}. {why}" for number, why in enumerate(reasons, 1)),
        "classes": tables.markdown(
            ["library", "classes"], [[name, ", ".join(each)] for name, each in libraries.items()]
        ),
    }


def write(file: Path = PAGE) -> None:
    """Bring the page up to date."""
    tables.fill(file, page_tables())
