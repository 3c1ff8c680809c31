"""Paper 3: meaningful perturbation. Without which pixels does the answer go, and which factor is seen there?"""

import torch

from xaikit.importance.interface import FEW, Classifier, Concepts, Images, Scores, method, over_area, share_inside
from xaikit.importance.maps import answer
from xaikit.perturbation.search import PRESETS, attribution, check_masks, meaningful_perturbation

LOWERED = 0.5  # of the range that deletions reach: a mask that lowers less has not found what the answer rests on


def _searched(classifier: Classifier, images: Images, concepts: Concepts) -> tuple[torch.Tensor, torch.Tensor]:
    """The attribution of the first pictures, and how much of its range each mask takes from the margin."""
    few = images[:FEW]
    score, recipe = answer(classifier, few), PRESETS["quick"].at(images.shape[-1])
    masks = meaningful_perturbation(score, few, recipe, seed=concepts.seed)
    checks = check_masks(score, few, masks, recipe)
    size = (images.shape[-2], images.shape[-1])
    return attribution(masks, size, recipe), torch.where(checks.empty, 0.0, checks.lowered)


@method("perturbation", "as published", paper=3)
def as_published(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of the deleted pixels where the factor is seen."""
    maps, _ = _searched(classifier, images, concepts)
    return share_inside(maps, concepts.masks[:, : len(maps)]).mean(0)


@method("perturbation, checked", "tied to the decision", paper=3)
def checked(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """The same beyond its area, of maps that take the answer away."""
    maps, lowered = _searched(classifier, images, concepts)
    found = over_area(maps, concepts.masks[:, : len(maps)])
    good = (lowered >= LOWERED).to(found)
    return (found * good[:, None]).mean(0)  # a map that deletes nothing says nothing
