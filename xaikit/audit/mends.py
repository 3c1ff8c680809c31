"""What might be done about it, tried here: the last layer learned anew on pictures whose cue was exchanged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from xaikit.audit.last_layer import inputs_of, last_layer, reading
from xaikit.audit.questions import Concept, Effect, Seen, askable, classify, effects, examples
from xaikit.metrics.intervals import Interval, proportion
from xaikit.storage.seeding import rng

FEWEST = 20  # pictures of each half


@dataclass(frozen=True, eq=False)
class Mend:
    """A cue before and after the last layer was learned anew, on pictures that it was not learned from.

    `before` and `after`: its effect; `right_before`, `right_after`: the accuracy. `why` says why it was not tried.
    """

    concept: str
    before: Effect | None = None
    after: Effect | None = None
    right_before: Interval | None = None
    right_after: Interval | None = None
    why: str = ""


def mend(
    model: nn.Module,
    seen: Seen,
    labels: Int64[np.ndarray, " pictures"],
    concept: Concept,
    concepts: Sequence[Concept],
    answers: Int64[np.ndarray, " pictures"],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> Mend:
    """Learn the last linear layer anew on half of the pictures, each as it is and with the cue exchanged.

    A logistic regression of what that layer is given, regularised by 1; the other half judges, and nothing of it is in
    the pictures that were exchanged. Source: Kirichenko et al. (2023), last layer re-training, with exchanged cues for
    balanced groups.
    """
    last = last_layer(model)
    known = np.flatnonzero(labels >= 0)
    classes = np.unique(labels[known])
    if last is None:
        return Mend(concept.name, why="the classifier has no linear layer that can be learned anew")
    if len(known) < 2 * FEWEST or len(classes) < 2:
        return Mend(concept.name, why=f"{2 * FEWEST} pictures with labels of two classes are needed")
    draw = rng(seed, "audit", "halves")
    learn, judge = (np.sort(part) for part in np.array_split(draw.permutation(known), 2))
    learned = _some(seen, learn)
    exchanged = askable(learned, concept, answers[learn], seed)
    images = learned.images(slice(None))
    if len(exchanged):
        other = examples(learned, concept, concepts, answers[learn], exchanged, seed)["the change"]
        images = torch.cat([images, other])
    inputs = inputs_of(model, last, lambda rows: images[rows], len(images), seen.sides, device)
    if inputs is None:
        return Mend(concept.name, why="its last linear layer is not the one that gives the answers")
    fitted = LogisticRegression(max_iter=1000).fit(inputs.numpy(), labels[np.concatenate([learn, learn[exchanged]])])
    mended, own = _Mended(model, last, fitted, classes), _some(seen, judge)
    found = []
    for which in (model, mended):
        given = classify(which, own, device).argmax(1)
        every = effects(which, own, concepts, answers=given, device=device, seed=seed)
        effect = next(each for each in every if each.concept == concept.name)
        found.append((effect, proportion(int((given.numpy() == labels[judge]).sum()), len(judge))))
    (before, right_before), (after, right_after) = found
    return Mend(concept.name, before, after, right_before, right_after)


def _some(seen: Seen, rows: Int64[np.ndarray, " rows"]) -> Seen:
    return Seen(seen.pixels[rows], {name: masks[rows] for name, masks in seen.masks.items()})


class _Mended(nn.Module):
    """The classifier with another last layer; classes that had no pictures are never its answer."""

    def __init__(self, model: nn.Module, last: nn.Linear, fitted: LogisticRegression, classes: np.ndarray) -> None:
        super().__init__()
        self.model, self.last, self.classes = model, last, torch.from_numpy(classes)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(classes) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self.weight, self.bias = (torch.from_numpy(each).float() for each in (weight, bias))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """The logits of the new layer; those of other classes are minus infinity."""
        inputs, logits = reading(self.model, self.last, images)
        own = inputs.float() @ self.weight.to(images).T + self.bias.to(images)
        return torch.full_like(logits, -torch.inf).index_copy(1, self.classes.to(images.device), own.to(logits))
