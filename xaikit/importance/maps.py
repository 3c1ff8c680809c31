"""Where does it look? Maps, and how much of each lies where a factor is seen: Grad-CAM, RISE, integrated gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.importance.interface import FEW, Classifier, Concepts, Images, Scores, method, share_inside
from xaikit.models.scores import Score
from xaikit.saliency.cam import grad_cam
from xaikit.saliency.masking import rise
from xaikit.saliency.path_gradients import integrated_gradients
from xaikit.texplain.word_maps import classifier_grad_cam

GRID = (8, 8)  # patches of the transformers
MASKS, STEPS = 64, 8


@method("Grad-CAM", "baseline")
def by_grad_cam(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of the map of the answer where the factor is seen."""
    if classifier.convolutional:
        layer = classifier.model.get_submodule(classifier.map_layer)
        maps = torch.cat([grad_cam(classifier.model, layer, part) for part in images.split(50)])
    else:
        of = [classifier_grad_cam(classifier.model, classifier.map_layer, part, grid=GRID) for part in images.split(50)]
        maps = F.interpolate(torch.cat(of)[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    return share_inside(maps, concepts.masks)


@method("Grad-CAM, beyond area", "baseline")
def by_grad_cam_beyond_area(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """The same less the share of the picture that the factor takes."""
    return by_grad_cam(classifier, images, concepts) - concepts.masks.double().mean((2, 3)).T.to(images.device)


@method("RISE", "baseline")
def by_rise(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of the map of the answer where the factor is seen."""
    grey, few = _grey(images), images[:FEW]
    maps = rise(answer(classifier, few), few, grey, seed=concepts.seed, masks=MASKS)
    lowest = maps.amin((1, 2), keepdim=True)  # what every mask has
    return share_inside(maps - lowest, concepts.masks[:, :FEW]).mean(0)


@method("integrated gradients", "baseline")
def by_integrated_gradients(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of what speaks for the answer where the factor is seen."""
    grey, few = _grey(images), images[:FEW]
    maps = integrated_gradients(answer(classifier, few), few, grey, steps=STEPS)
    return share_inside(maps, concepts.masks[:, :FEW]).mean(0)


def _grey(images: Images) -> Tensor:
    """A picture of the images' mean colour."""
    return images.mean((0, 2, 3))[None, :, None, None].expand(1, -1, *images.shape[-2:])


def answer(classifier: Classifier, images: Images) -> Score:
    """The margin of each image for the answer that it has."""
    sign = classifier.margins(images).sign()

    def score(seen: Tensor, which: Tensor) -> Tensor:
        return classifier.margin(seen) * sign[which.to(sign.device)]

    return score
