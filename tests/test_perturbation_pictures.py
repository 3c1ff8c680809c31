"""Meaningful perturbation end to end: real photographs, a really trained classifier, deletion against random orders."""

import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor, nn

from xaikit.datasets.imagenet import read_validation
from xaikit.models.preprocessing import Preprocessed
from xaikit.paths import ROOT
from xaikit.perturbation import AGARWAL_2023, attribution, meaningful_perturbation
from xaikit.removal import random_attribution, removal_curves, substitute
from xaikit.scores import class_score
from xaikit.stats import bootstrap_mean

DATA = ROOT.parent / "shared" / "data"
PHOTOGRAPHS, WEIGHTS = DATA / "imagenette-val", DATA / "mobilenetv2-imagenet"


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    spec = importlib.util.spec_from_file_location("load_mobilenetv2", WEIGHTS / "load_mobilenetv2.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    network = loader.build(str(WEIGHTS / "mnv2_int8_repacked.pt")).requires_grad_(False)
    return Preprocessed(network, 224, (0.5,) * 3, (0.5,) * 3).eval()


@pytest.fixture(scope="module")
def explained(classifier: nn.Module) -> tuple[Tensor, Tensor]:
    """The first two photographs of each class that the classifier gets right, 224 pixels a side."""
    photographs = read_validation(PHOTOGRAPHS, subset=True)
    crop = Preprocessed(nn.Identity(), 224, (0.0,) * 3, (1.0,) * 3).prepare
    found: dict[int, list[Tensor]] = {}
    for index, label in enumerate(photographs.labels.tolist()):
        if len(found.setdefault(label, [])) < 2:
            image = crop(photographs[index].image[None] / 255)
            with torch.inference_mode():
                if int(classifier(image).argmax()) == label:
                    found[label].append(image[0])
    images = [image for each in found.values() for image in each]
    return torch.stack(images), torch.tensor([label for label, each in found.items() for _ in each])


@pytest.mark.skipif(
    not (PHOTOGRAPHS.is_dir() and WEIGHTS.is_dir()), reason="there are no photographs and weights beside the checkout"
)
def test_maps_of_photographs_delete_far_better_than_random_orders(
    classifier: nn.Module, explained: tuple[Tensor, Tensor]
) -> None:
    images, targets = explained
    assert len(images) == 20
    recipe = dataclasses.replace(AGARWAL_2023, steps=60)
    score = class_score(classifier, targets, softmax=1.0)
    maps = attribution(meaningful_perturbation(score, images, recipe, seed=0, batch=5), (224, 224), recipe)
    assert 0.01 < maps.mean() < 0.5  # it deletes something, and by far not everything
    # Deleted to what the masks were sought with. To grey, random orders are as good: scattered grey pixels blind this
    # network at once, whatever they cover.
    soft = substitute(images, "blur", blur=recipe.blur)
    areas = [
        removal_curves(score, images, order, soft, step=224 * 14, seed=0, batch=32).areas()
        for order in (maps, random_attribution(len(images), (224, 224), 0))
    ]
    gain = bootstrap_mean((areas[1] - areas[0]).numpy(), seed=0)
    assert gain.low > 0
    assert areas[0].mean() < 0.75 * areas[1].mean()
