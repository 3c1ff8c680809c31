"""Which factors does a classifier use? Many methods behind one interface, so that they can be compared.

`interface` says what a method is given and gives; every other module holds some, registered in `METHODS`: the four
papers' as published and tied to the decision, baselines, nulls that never see the model, and ceilings that intervene.
Notebook 05 ranks them; docs/leaderboard.md says how to add one.
"""

from xaikit.importance import (
    adapters,
    answers,
    directions,
    heads,
    maps,
    nulls,
    perturbing,
    redrawing,
    saying,
    surgery,
)
from xaikit.importance.interface import FORMS, METHODS, Classifier, Concepts, Method, importance, method

__all__ = [
    "FORMS",
    "METHODS",
    "Classifier",
    "Concepts",
    "Method",
    "adapters",
    "answers",
    "directions",
    "heads",
    "importance",
    "maps",
    "method",
    "nulls",
    "perturbing",
    "redrawing",
    "saying",
    "surgery",
]
