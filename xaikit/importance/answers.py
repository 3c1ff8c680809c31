"""What do the answers go with? Variance of the margin, a bottleneck of concepts, keywords of the errors."""

import torch

from xaikit.importance.interface import (
    Classifier,
    Concepts,
    Images,
    Scores,
    correlation,
    method,
    names_it,
    probes,
    with_captions,
)


@method("variance of the margin", "baseline")
def variance(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of the margin's variance that goes with the factor."""
    margin = classifier.margins(images)[:, None]
    return correlation(concepts.labels.to(margin), margin)[:, 0].square()


@method("concept bottleneck", "baseline")
def bottleneck(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Weight of the factor, as the features tell it, in a fit of the margin."""
    features = classifier.features(images).double()
    told = (features - features.mean(0)) @ probes(features, concepts.labels).T
    told = told / told.std(0).clamp_min(1e-9)
    margin = classifier.margins(images).double()
    margin = (margin - margin.mean()) / margin.std().clamp_min(1e-9)
    scatter = told.T @ told / len(told) + 0.1 * torch.eye(told.shape[1], dtype=told.dtype, device=told.device)
    return torch.linalg.solve(scatter, told.T @ margin / len(told)).abs()


@method("B2T", "baseline", applies=with_captions)
def keywords_of_errors(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """How much more often captions of the errors have a word of the factor than other captions."""
    wrong = (classifier.margins(images) > 0).cpu() != concepts.labels[:, 0].bool()
    found = torch.zeros(len(concepts.names), dtype=torch.float64)
    if not wrong.any() or wrong.all():
        return found
    for column, words in enumerate(concepts.words):
        # Within each class: what makes its errors differ from its right answers.
        said = names_it(concepts.tools["captions"], words) if words else None
        for label in (0, 1) if said is not None else ():
            own = concepts.labels[:, 0] == label
            if (own & wrong).any() and (own & ~wrong).any():
                apart = (said[own & wrong].mean(0) - said[own & ~wrong].mean(0)).abs().max()
                found[column] = max(found[column], apart)
    return found
