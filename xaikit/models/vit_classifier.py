"""Vision transformers of timm as classifiers: the models whose features paper 2 explains."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from xaikit.models import clip_vit_mini
from xaikit.models.cards import shipped
from xaikit.models.clip import load_clip
from xaikit.models.hub import timm_model
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import seed_for

TOKENS = "model.norm"  # of what `build` gives: all tokens after the last norm, as the head reads them
_MINI = {"img_size": clip_vit_mini.PIXELS, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 8}


def build(
    settings: Mapping[str, Any], seed: int, classes: int | None = None, *, pretrained: bool = True
) -> Preprocessed:
    """A ViT of timm behind its preprocessing, which takes images in [0, 1] and gives logits.

    `settings` name either the `weights` of the mini CLIP in data/weights/, whose image tower it starts from, or a
    `name` of timm's and maybe the `revision` of its weights (`models.hub`). `classes` is the size of a new head;
    without it the model keeps its own. `pretrained=False` leaves all weights random. Raises ValueError for a name that
    timm does not know, that is no vision transformer, or whose preprocessing is not known here.
    """
    torch.manual_seed(seed_for(seed, "vit classifier"))
    if "weights" in settings:
        model = timm.create_model("vit_base_patch16_clip_224", num_classes=classes or 0, **_MINI)
        if pretrained:
            _start_from_clip(model, settings["weights"])
        prepared = Preprocessed(model, clip_vit_mini.PIXELS, clip_vit_mini.MEAN, clip_vit_mini.STD)
    else:
        head = {} if classes is None else {"num_classes": classes}
        model = timm_model(settings["name"], pretrained=pretrained, revision=settings.get("revision"), **head)
        prepared = Preprocessed.of(model)
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"{settings['name']} is no vision transformer; name one of timm's vit_... models.")
    return prepared.eval()


def _start_from_clip(model: nn.Module, weights: str) -> None:
    visual = load_clip(f"local-dir:{shipped(weights)}").model.visual
    state = checkpoint_filter_fn({f"visual.{name}": value for name, value in visual.state_dict().items()}, model)
    head = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
    model.load_state_dict({**{name: value for name, value in state.items() if name not in head}, **head})
