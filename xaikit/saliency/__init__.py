"""Explainers that several papers compare with: where does a model look?

`cam` has CAM and Grad-CAM, `path_gradients` integrated gradients, `masking` RISE; `vit` the six that paper 4 compares
with (its Table 3), on a CLIP tower that `tower` writes out, with the rules of `relevance`.
"""

from xaikit.saliency.cam import cam, grad_cam
from xaikit.saliency.masking import random_masks, rise
from xaikit.saliency.path_gradients import integrated_gradients
from xaikit.saliency.relevance import linear_relevance, product_relevance, sum_relevance
from xaikit.saliency.vit import BASELINES, attention_rollout, chefer, lrp, partial_lrp, raw_attention, text_directions

__all__ = [
    "BASELINES",
    "attention_rollout",
    "cam",
    "chefer",
    "grad_cam",
    "integrated_gradients",
    "linear_relevance",
    "lrp",
    "partial_lrp",
    "product_relevance",
    "random_masks",
    "raw_attention",
    "rise",
    "sum_relevance",
    "text_directions",
]
