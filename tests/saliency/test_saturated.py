"""An image whose score does not change is named by its place, in every explainer, and does not stop the others."""

import logging

import pytest
import torch
from torch import Tensor, nn

from xaikit.perturbation.search import Recipe, meaningful_perturbation
from xaikit.saliency import grad_cam, integrated_gradients, rise
from xaikit.texplain import classifier_grad_cam

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def score(images: Tensor, which: Tensor) -> Tensor:
    """Of image 1 it is 1, and its gradient exactly 0."""
    gain = torch.tensor([1.0, 1e4, 1.0])[which]
    return torch.sigmoid(gain * (images.mean((1, 2, 3)) + 1))


class Dead(nn.Module):
    """A network whose second image's logits nothing before the end reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.tokens, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        found = self.tokens(self.conv(images).flatten(2).mT).mean(1)
        return self.head(found * torch.tensor([1.0, 0.0, 1.0])[:, None])


EXPLAINERS = {
    "meaningful perturbation": lambda: meaningful_perturbation(score, IMAGES, Recipe(steps=2).at(32), seed=0),
    "rise": lambda: rise(score, IMAGES, torch.zeros_like(IMAGES), seed=0, masks=8, batch=3),
    "integrated gradients": lambda: integrated_gradients(score, IMAGES, torch.zeros_like(IMAGES), steps=3),
    "grad-cam": lambda: grad_cam((net := Dead()), net.conv, IMAGES),
    "classifier's grad-cam": lambda: classifier_grad_cam(Dead(), "tokens", IMAGES, grid=(30, 30)),
}


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_saturated_image_is_named_and_the_others_are_explained(explainer: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        maps = EXPLAINERS[explainer]()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "xaikit.models.scores"]
    assert said.startswith("The score of 1 of 3 images (1) does not change with the image, as if it were saturated: ")
    assert maps.isfinite().all() and maps[0].std() > 0 and maps[2].std() > 0


@pytest.mark.parametrize("explainer", ["rise", "integrated gradients"])
def test_a_score_that_moves_is_not_named(explainer: str, caplog, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "score", lambda images, which: images.mean((1, 2, 3)))
    with caplog.at_level(logging.WARNING):
        EXPLAINERS[explainer]()
    assert not caplog.records
