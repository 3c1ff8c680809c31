"""Meaningful perturbation end to end: pictures, a really trained classifier, deletion against random orders."""

import dataclasses
import importlib.util
from collections.abc import Iterable

import pytest
import torch
from real_files import BESIDE, written_or_real
from torch import Tensor, nn

from xaikit.datasets.imagenet import read_validation
from xaikit.metrics.intervals import bootstrap_mean
from xaikit.models.clip import load_from
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.scores import class_score
from xaikit.perturbation.linear_probe import ZeroShot
from xaikit.perturbation.removal import random_attribution, removal_curves, substitute
from xaikit.perturbation.search import AGARWAL_2023, attribution, meaningful_perturbation
from xaikit.world import Nine, nine

WEIGHTS = BESIDE / "mobilenetv2-imagenet"


def drawn() -> tuple[nn.Module, float, Iterable[tuple[Tensor, int]]]:
    """The mini CLIP, asked which of nine things a drawn scene shows."""
    clip, scenes = load_from({"weights": "clip-vit-mini"}), nine(54, seed=0, split="test")
    classes = clip.encode_texts(list(Nine.PROMPTS["category"].values()))
    pairs = zip(scenes.images(64), scenes.labels("category").tolist(), strict=True)
    return ZeroShot(clip.image_encoder, classes), clip.logit_scale, pairs


def photographed() -> tuple[nn.Module, float, Iterable[tuple[Tensor, int]]]:
    """MobileNetV2 on photographs of ImageNet, 224 pixels a side."""
    spec = importlib.util.spec_from_file_location("load_mobilenetv2", WEIGHTS / "load_mobilenetv2.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    network = loader.build(str(WEIGHTS / "mnv2_int8_repacked.pt")).requires_grad_(False)
    photographs = read_validation(BESIDE / "imagenette-val", subset=True)
    crop = Preprocessed(nn.Identity(), 224, (0.0,) * 3, (1.0,) * 3).prepare
    pairs = ((crop(photograph.image[None] / 255)[0], photograph.label) for photograph in photographs)
    return Preprocessed(network, 224, (0.5,) * 3, (0.5,) * 3).eval(), 1.0, pairs


def explained(classifier: nn.Module, pairs: Iterable[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """The first two pictures of each class that the classifier gets right."""
    found: dict[int, list[Tensor]] = {}
    for image, label in pairs:
        if len(found.setdefault(label, [])) < 2:
            with torch.inference_mode():
                if int(classifier(image[None]).argmax()) == label:
                    found[label].append(image)
    images = [image for each in found.values() for image in each]
    return torch.stack(images), torch.tensor([label for label, each in found.items() for _ in each])


@pytest.mark.slow
@written_or_real("imagenette-val", "mobilenetv2-imagenet")
def test_maps_delete_far_better_than_random_orders(kind: str) -> None:
    classifier, scale, pairs = photographed() if kind == "real" else drawn()
    images, targets = explained(classifier, pairs)
    assert len(images) == (20 if kind == "real" else 18)
    side = images.shape[-1]
    recipe = dataclasses.replace(AGARWAL_2023.at(side), steps=60)
    score = class_score(classifier, targets, softmax=scale)
    maps = attribution(meaningful_perturbation(score, images, recipe, seed=0, batch=5), (side, side), recipe)
    assert 0.01 < maps.mean() < 0.5  # it deletes something, and by far not everything
    # Deleted to what the masks were sought with. To grey, random orders are as good: scattered grey pixels blind
    # MobileNetV2 at once, whatever they cover.
    soft = substitute(images, "blur", blur=recipe.blur)
    areas = [
        removal_curves(score, images, order, soft, step=side * side // 16, seed=0, batch=32).areas()
        for order in (maps, random_attribution(len(images), (side, side), 0))
    ]
    gain = bootstrap_mean((areas[1] - areas[0]).numpy(), seed=0)
    assert gain.low > 0
    assert areas[0].mean() < 0.75 * areas[1].mean()
