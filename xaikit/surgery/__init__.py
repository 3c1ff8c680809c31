"""Paper 1, Caption-Driven Explainability (Koller et al.): network surgery into CLIP.

`matching` finds which map of a classifier looks like which map of CLIP (sections 2.2 and 2.3, Eq. 2 and 3),
`transplant` swaps them in (section 2.4, Eq. 4), and `captions` reads what CLIP then says (section 3, Eq. 1), by the
published and by a corrected protocol.
"""

from xaikit.surgery.captions import (
    Captions,
    cue_contrast,
    cue_share,
    dominant_captions,
    published_columns,
    published_values,
    similarities,
    stale_edits,
)
from xaikit.surgery.matching import (
    ActivationStatistics,
    Maps,
    activation_statistics,
    convolutions,
    map_shapes,
    match_activations,
    stages,
    upsampling_adjoint,
)
from xaikit.surgery.transplant import Choice, choose_maps, from_stage_on, network_surgery, shuffled, strongest

__all__ = [
    "ActivationStatistics",
    "Captions",
    "Choice",
    "Maps",
    "activation_statistics",
    "choose_maps",
    "convolutions",
    "cue_contrast",
    "cue_share",
    "dominant_captions",
    "from_stage_on",
    "map_shapes",
    "match_activations",
    "network_surgery",
    "published_columns",
    "published_values",
    "shuffled",
    "similarities",
    "stages",
    "stale_edits",
    "strongest",
    "upsampling_adjoint",
]
