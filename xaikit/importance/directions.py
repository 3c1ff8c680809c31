"""Which directions of the features does the head read? Concept probes, TCAV, text-to-concept, CLIP-dissect."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.importance.interface import Classifier, Concepts, Images, Scores, _pooled, correlation, method, probes
from xaikit.saliency.cam import class_gradient

RIDGE = 1.0  # of the map from features to CLIP's, a share of their mean variance


@method("probe × weight", "baseline")
def probe_times_weight(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Cosine of the factor's probe and the head's weight, of standardised features."""
    features = classifier.features(images).double()
    deviation = features.std(0).clamp_min(1e-9)
    directions = probes(features / deviation, concepts.labels)
    return F.cosine_similarity(directions, (classifier.weight.double() * deviation)[None], dim=1).abs()


@method("decodability", "baseline")
def decodability(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """How well a linear probe tells the factor from the features (it asks no head)."""
    features = classifier.features(images).double()
    features = (features - features.mean(0)) / features.std(0).clamp_min(1e-9)
    halves = [(features[half::2], concepts.labels[half::2]) for half in (0, 1)]
    found = torch.zeros(len(concepts.names), dtype=torch.float64)
    for (seen, labels), (asked, answers) in (halves, halves[::-1]):
        said = (asked - seen.mean(0)) @ probes(seen, labels).T > 0
        found += (said.cpu() == answers.bool()).double().mean(0) / 2
    return found - 0.5


@method("TCAV", "baseline")
def tcav(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """How one-sided the margin moves along the factor's direction in an earlier layer."""
    directions = probes(_pooled(classifier, images, classifier.middle), concepts.labels)
    name, layer = classifier.middle, classifier.model.get_submodule(classifier.middle)
    parts = []
    for part in images.split(50):
        ones = torch.ones(len(part), dtype=torch.int64, device=part.device)
        maps, gradient = class_gradient(classifier.model, name, layer, part, ones, lambda _: True, "")
        if gradient is None:
            raise ValueError(f"The layer {name!r} does not reach the logits: name one on the way.")
        # Along one direction at every place: the derivative is the gradient's sum over places.
        whole = gradient.sum((2, 3)) if maps.ndim == 4 else gradient.sum(1)
        parts.append(whole.double() @ directions.T > 0)
    return (torch.cat(parts).double().mean(0) - 0.5).abs() * 2


def _in_clip(classifier: Classifier, images: Images, concepts: Concepts) -> tuple[Tensor, Tensor]:
    """The images in CLIP, centred, and for each factor the difference of its two captions; 0 without captions."""
    clip = concepts.tools["clip"]
    with torch.no_grad():
        seen = torch.cat([clip.image_encoder(part) for part in images.split(100)])
    seen = F.normalize(seen, dim=1).double()
    said = []
    for texts in concepts.texts:
        pair = clip.encode_texts(list(texts)).double() if texts else None
        said.append(torch.zeros_like(seen[0]) if pair is None else pair[1] - pair[0])
    return seen - seen.mean(0), torch.stack(said)


@method("text-to-concept", "baseline")
def text_to_concept(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Cosine of the factor's captions and the head's weight, brought into CLIP."""
    seen, said = _in_clip(classifier, images, concepts)
    features = classifier.features(images).double()
    features = features - features.mean(0)
    scatter = features.T @ features / len(features)
    scatter += RIDGE * scatter.diagonal().mean() * torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    aligned = torch.linalg.solve(scatter, features.T @ seen / len(features))  # features to CLIP's, by ridge regression
    return F.cosine_similarity(said, (classifier.weight.double() @ aligned)[None], dim=1).abs()


@method("CLIP-dissect", "baseline")
def dissect(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of the head's weight on neurons that follow the factor's captions most."""
    seen, said = _in_clip(classifier, images, concepts)
    features = classifier.features(images).double()
    alike = correlation(features, seen @ said.T).abs()
    strength = (classifier.weight.double() * features.std(0)).abs()
    named = F.one_hot(alike.argmax(1), len(concepts.names)).double() * (alike.amax(1) > 0)[:, None]
    return strength @ named / strength.sum().clamp_min(1e-12)
