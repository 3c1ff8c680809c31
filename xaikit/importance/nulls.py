"""Nulls: what can be said without a look at the model. A method that is no better explains the data, not the model."""

import torch

from xaikit.importance.interface import (
    Classifier,
    Concepts,
    Images,
    Scores,
    correlation,
    method,
    names_it,
    with_captions,
)


@method("captions of the pictures", "null", applies=with_captions)
def captions(_classifier: Classifier, _images: Images, concepts: Concepts) -> Scores:
    """Share of captions of the same pictures that have a word of the factor."""
    said = [names_it(concepts.tools["captions"], words).sum(1) for words in concepts.words]
    return torch.stack(said, 1)


@method("co-occurrence", "null")
def co_occurrence(_classifier: Classifier, _images: Images, concepts: Concepts) -> Scores:
    """How the factor goes with the right answer in the training data."""
    right, labels = concepts.learned_from
    return correlation(labels.double(), right[:, None].double())[:, 0].abs()


@method("size", "null")
def size(_classifier: Classifier, _images: Images, concepts: Concepts) -> Scores:
    """Share of the picture that the factor takes."""
    return concepts.masks.double().mean((2, 3)).T


@method("constant order", "null")
def constant(_classifier: Classifier, _images: Images, concepts: Concepts) -> Scores:
    """The class first, then the others, always in the order in which they are listed."""
    return torch.arange(len(concepts.names), 0, -1).double()
