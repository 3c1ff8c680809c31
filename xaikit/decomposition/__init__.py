"""Paper 4, Interpreting CLIP's Image Representation via Text-Based Decomposition (Gandelsman et al.).

`decompose` writes the image embedding as an exact sum over layers, heads and tokens (section 3, Eq. 1 to 4),
`textspan` names what a head writes (section 4, Algorithm 1), `heads` silences heads, retrieves images and segments by
them (sections 3.2 and 5), and `store` keeps the decomposition of a whole data set.
"""

from xaikit.decomposition.decompose import Coefficients, Contributions, Readout, coefficients, decompose, image_tower
from xaikit.decomposition.heads import (
    ablate,
    ablate_attention_cumulatively,
    class_heatmaps,
    heatmaps,
    mean_contributions,
    neighbours,
    precision_at_k,
    replace_heads,
)
from xaikit.decomposition.store import DecomposedDataset, fill
from xaikit.decomposition.textspan import ContributionMoments, TextSpan, textspan, textspan_as_published

__all__ = [
    "Coefficients",
    "ContributionMoments",
    "Contributions",
    "DecomposedDataset",
    "Readout",
    "TextSpan",
    "ablate",
    "ablate_attention_cumulatively",
    "class_heatmaps",
    "coefficients",
    "decompose",
    "fill",
    "heatmaps",
    "image_tower",
    "mean_contributions",
    "neighbours",
    "precision_at_k",
    "replace_heads",
    "textspan",
    "textspan_as_published",
]
