"""A concept planted in one class, section 4 of paper 2: do the words for it appear with it, and only with it?

The paper alters Cats vs Dogs so that one class carries something more. Here the pictures are drawn: two categories, of
which one wears a colour in training. The classifiers have architectures of their own and start from nothing, so that
they share no tower with the captioner that speaks.
"""

import numpy as np
import torch
from jaxtyping import Int64
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xaikit import world
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import rng, seed_for
from xaikit.world import SceneSet

CLASSES = ("dog", "primate")  # the first carries the colour
MEAN, STD = (0.5,) * 3, (0.5,) * 3


def scenes(n: int, seed: int, split: str, strength: float | None, colour: str) -> SceneSet:
    """`n` scenes of both classes, in all places; a share `strength` of the first has the `colour`, the other never.

    None is the unaltered twin: the same scenes, all colours equally often in both classes.
    """
    family = world.nine(9, seed=0).family
    categories, colours = family.values("category"), family.values("colour")
    all_ = world.nine(-(-9 * n // len(CLASSES)), seed=seed_for(seed, "planted"), split=split, alignment=1 / 9)
    wanted = [categories.index(name) for name in CLASSES]
    found = all_[np.isin(all_.codes["category"], wanted)]
    if strength is None:
        return found
    draw, planted, codes = rng(seed, "planted", split, "colours"), colours.index(colour), found.codes["colour"].copy()
    carries = found.codes["category"] == wanted[0]
    others = np.array([code for code in range(len(colours)) if code != planted])
    codes[~carries & (codes == planted)] = draw.choice(others, int((~carries & (codes == planted)).sum()))
    rows = draw.permutation(np.flatnonzero(carries))
    count = round(strength * len(rows))
    codes[rows[:count]], codes[rows[count:]] = planted, draw.choice(others, len(rows) - count)
    return SceneSet(found.family, found.seeds, {**found.codes, "colour": codes})


def labels(of: SceneSet) -> Int64[Tensor, " scenes"]:
    """0 for the class that carries the colour, 1 for the other."""
    first = of.family.values("category").index(CLASSES[0])
    return torch.from_numpy((of.codes["category"] != first).astype(np.int64))


def network(kind: str, seed: int, size: int) -> Preprocessed:
    """A small ResNet or ViT with random weights."""
    torch.manual_seed(seed_for(seed, "planted", kind))
    if kind == "resnet":
        model: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=2, channels=(16, 32, 64, 96), stem_width=16)
    else:
        model = VisionTransformer(
            img_size=size, patch_size=8, embed_dim=96, depth=3, num_heads=4, num_classes=2, class_token=True
        )
    return Preprocessed(model, size, MEAN, STD)


LAYERS = {"resnet": "model.layer4", "vit": "model.norm"}
