"""How good is an explanation, or a classifier, and how sure is that?

`segmentation` and `pointing` compare heat maps with masks, `groups` finds the group in which a classifier is worst;
`intervals`, `ranking` and `exact_tests` say how far a number can be trusted, and `verdict` what follows.
"""

from xaikit.metrics.exact_tests import fisher, mcnemar, permutation_p
from xaikit.metrics.groups import GroupAccuracy, group_accuracy
from xaikit.metrics.heatmaps import normalise
from xaikit.metrics.intervals import (
    Interval,
    Runs,
    bootstrap,
    bootstrap_mean,
    cluster_bootstrap,
    over_runs,
    proportion,
    verdict,
)
from xaikit.metrics.pointing import Pointing, box_masks, pointing_game
from xaikit.metrics.ranking import auc, bootstrap_auc, defined, spearman
from xaikit.metrics.segmentation import SegmentationScores, average_precision, foreground, segmentation_scores

__all__ = [
    "GroupAccuracy",
    "Interval",
    "Pointing",
    "Runs",
    "SegmentationScores",
    "auc",
    "average_precision",
    "bootstrap",
    "bootstrap_auc",
    "bootstrap_mean",
    "box_masks",
    "cluster_bootstrap",
    "defined",
    "fisher",
    "foreground",
    "group_accuracy",
    "mcnemar",
    "normalise",
    "over_runs",
    "permutation_p",
    "pointing_game",
    "proportion",
    "segmentation_scores",
    "spearman",
    "verdict",
]
