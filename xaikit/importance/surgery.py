"""Paper 1: the classifier's maps in CLIP's place. Which factor's captions does CLIP then read rightly?

The CLIP of the tools "clip_resnet" knows digits and their colours, so only classifiers of these can be asked.
"""

import torch
from torch import Tensor

from xaikit.importance.interface import Classifier, Concepts, Images, Scores, method
from xaikit.surgery.captions import Captions, cue_contrast, similarities
from xaikit.surgery.matching import activation_statistics, convolutions, match_activations, stages
from xaikit.surgery.transplant import choose_maps, network_surgery

MATCHED = 32  # pictures that maps are matched on


def _applies(classifier: Classifier, concepts: Concepts) -> bool:
    return classifier.convolutional and "clip_resnet" in concepts.tools


def _read(classifier: Classifier, images: Images, concepts: Concepts, *, tied: bool) -> Tensor:
    """For each factor the share of pictures whose right caption wins after surgery, beyond chance; 0 without one."""
    clip = concepts.tools["clip_resnet"]
    captions = Captions(
        {name: texts for name, texts in zip(concepts.names, concepts.texts, strict=True) if len(texts) > 1}
    )
    source, target = convolutions(classifier.model), stages(clip.image_encoder)
    few = images[:MATCHED].split(16)
    statistics = [activation_statistics(maps, few) for maps in (source, target)]
    scores, own = match_activations(source, statistics[0], target, statistics[1], few), statistics[0]
    if tied:
        relevance = concepts.tools["answer_relevance"](source, statistics[0], few)
        scores = scores * relevance.square().to(scores)[:, None]
    with network_surgery(target, statistics[1], source, own, choose_maps(scores)):
        found = similarities(clip.image_encoder, clip.encode_texts(captions.texts), images.split(50))
    right = torch.zeros(len(concepts.names), dtype=torch.float64)
    for column, name in enumerate(concepts.names):
        if name in captions.cues:
            contrast = cue_contrast(found, captions, name, concepts.labels[:, column])
            right[column] = (contrast > 0).double().mean() - 0.5
    return right.clamp_min(0)


@method("network surgery", "as published", paper=1, applies=_applies)
def as_published(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """How often CLIP reads the factor rightly from the classifier's maps."""
    return _read(classifier, images, concepts, tied=False)


@method("network surgery, by relevance", "tied to the decision", paper=1, applies=_applies)
def tied(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """The same, of maps that speak for the answer."""
    return _read(classifier, images, concepts, tied=True)
