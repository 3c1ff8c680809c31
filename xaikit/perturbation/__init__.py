"""Paper 3, Intriguing Properties of Visual-Language Model Explanations (Agarwal).

`search` finds the pixels without which the answer goes (meaningful perturbation, Eq. 1), `removal` grades any
explanation by deletion and insertion (section 3.1), `linear_probe` is the fine-tuned CLIP beside the zero-shot one
(section 2.1), and `faces` tells where the faces are.
"""

from xaikit.perturbation.faces import find_faces, mtcnn, read_boxes, write_boxes
from xaikit.perturbation.linear_probe import LinearProbe, ZeroShot, embed, train_head
from xaikit.perturbation.removal import (
    RemovalCurves,
    centre_attribution,
    random_attribution,
    removal_curves,
    removal_order,
    substitute,
)
from xaikit.perturbation.search import (
    AGARWAL_2023,
    PRESETS,
    MaskChecks,
    Recipe,
    attribution,
    blurred,
    check_masks,
    deletions,
    meaningful_perturbation,
    variation,
)

__all__ = [
    "AGARWAL_2023",
    "PRESETS",
    "LinearProbe",
    "MaskChecks",
    "Recipe",
    "RemovalCurves",
    "ZeroShot",
    "attribution",
    "blurred",
    "centre_attribution",
    "check_masks",
    "deletions",
    "embed",
    "find_faces",
    "meaningful_perturbation",
    "mtcnn",
    "random_attribution",
    "read_boxes",
    "removal_curves",
    "removal_order",
    "substitute",
    "train_head",
    "variation",
    "write_boxes",
]
