"""Paper 2: the features, translated for a language model. Which factor do its sentences name?

The tool "sentences" has a translator trained for a classifier's tokens, and gives the sentences that they make.
"""

import torch

from xaikit.importance.interface import Classifier, Concepts, Images, Scores, method, names_it

SENTENCES = 400  # of each class


def _applies(_classifier: Classifier, concepts: Concepts) -> bool:
    return "sentences" in concepts.tools


@method("words of TExplain", "as published", paper=2, applies=_applies)
def as_published(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of sentences that have a word of the factor."""
    told = concepts.tools["sentences"](classifier.tokens(images))
    return torch.stack([names_it(told, words).sum(1) for words in concepts.words], 1)


@method("words of the class direction", "tied to the decision", paper=2, applies=_applies)
def along_the_weight(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """How the factor's words change when the features move along the head's weight.

    The mean token of all pictures is moved to where the margin is that of either class: what is said of the two?
    """
    tokens = classifier.tokens(images)
    margins, weight = classifier.margins(images), classifier.weight
    reached = 2 * margins.std().clamp_min(1e-6) / weight.square().sum().clamp_min(1e-12)
    mean = tokens.mean(0, keepdim=True)
    both = torch.cat([mean - reached * weight, mean + reached * weight])
    told = concepts.tools["sentences"](both, n=SENTENCES)
    found = []
    for words in concepts.words:
        said = names_it(told, words)
        found.append((said[1] - said[0]).abs().max())
    return torch.stack(found)
