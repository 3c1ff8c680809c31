"""Paper 4: which heads of CLIP speak of a factor? By the texts that TextSpan picks, and by the probe's weights."""

import torch
from torch import Tensor

from xaikit.decomposition.decompose import decompose
from xaikit.decomposition.textspan import ContributionMoments, textspan
from xaikit.importance.interface import Classifier, Concepts, Images, Scores, method

TEXTS = 3  # that TextSpan picks for a head


def _on_clip(classifier: Classifier, _concepts: Concepts) -> bool:
    return classifier.clip is not None


def _named(classifier: Classifier, images: Images, concepts: Concepts) -> tuple[Tensor, Tensor]:
    """What each head adds to each embedding, and the share of its variance that texts of each factor explain."""
    assert classifier.clip is not None
    tower = classifier.clip.image_encoder
    parts = [decompose(tower, part, "head").attention.flatten(1, 2) for part in images.split(50)]
    added = torch.cat(parts).double()
    texts = [(text, column) for column, each in enumerate(concepts.texts) for text in each]
    pool = classifier.clip.encode_texts([text for text, _ in texts])
    span = textspan(ContributionMoments().add(added), pool, TEXTS)
    gains = span.explained.diff(dim=1, prepend=torch.zeros_like(span.explained[:, :1])).double()
    explained = torch.zeros(added.shape[1], len(concepts.names), dtype=torch.float64)
    for head, (picks, shares) in enumerate(zip(span.picks.tolist(), gains.tolist(), strict=True)):
        for pick, share in zip(picks, shares, strict=True):
            if pick >= 0:  # else its span was exhausted before
                explained[head, texts[pick][1]] += share
    return added, explained


@method("heads and TextSpan", "as published", paper=4, applies=_on_clip)
def as_published(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Variance of the heads' output that texts of the factor explain."""
    added, explained = _named(classifier, images, concepts)
    return added.var(0).sum(-1).cpu() @ explained


@method("heads, weighted", "tied to the decision", paper=4, applies=_on_clip)
def weighted(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """The same, each head by the variance that it gives to the margin."""
    added, explained = _named(classifier, images, concepts)
    return (added @ classifier.weight.double()).var(0).cpu() @ explained
