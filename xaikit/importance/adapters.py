"""Explainers of other libraries as methods: what gives a map, or one for each channel, becomes a number a factor.

captum's `Saliency(model).attribute` and Quantus' explanation functions, which give arrays, are called as they are.
"""

from collections.abc import Callable
from typing import Any

import torch

from xaikit.importance.interface import Classifier, Concepts, Images, Scores, method, share_inside

# A model, images and the class of each to explain, to maps [images, (channels,) height, width], tensors or arrays.
Explain = Callable[..., Any]


def from_maps(name: str, explain: Explain, *, form: str = "baseline", batch: int = 50) -> None:
    """Register an explainer as the method `name`: the share of the size of its maps where the factor is seen.

    Raises ValueError as `method` does; the method itself, for maps that are not one an image and of its size.

    >>> import torch
    >>> from xaikit.importance import METHODS, adapters
    >>> adapters.from_maps("brightness", lambda model, images, targets: images)
    >>> METHODS.pop("brightness").what
    'Share of the size of the maps where the factor is seen'
    """

    def of_maps(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
        """Share of the size of the maps where the factor is seen."""
        answers = (classifier.margins(images) > 0).long()
        parts = zip(images.split(batch), answers.split(batch), strict=True)
        # captum warns of images that take no gradient.
        found = [explain(classifier.model, part.clone().requires_grad_(), target) for part, target in parts]
        maps = torch.cat([torch.as_tensor(each).detach() for each in found])
        maps = maps.abs().sum(1) if maps.ndim == 4 else maps.abs()
        if maps.shape != (len(images), *images.shape[-2:]):
            raise ValueError(f"{name} gives maps {tuple(maps.shape)} for {len(images)} images: give one of their size.")
        return share_inside(maps, concepts.masks)

    method(name, form)(of_maps)
