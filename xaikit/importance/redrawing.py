"""The ceiling: redraw a factor, and see whether the answer changes. It takes a world that can be drawn anew."""

import torch

from xaikit.importance.interface import FEW, Classifier, Concepts, Images, Scores, method
from xaikit.storage.seeding import generator


@method("intervention", "ceiling")
def flips(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Share of answers that change with the factor, on a few pictures."""
    rows, count = torch.arange(min(FEW, len(images))), len(concepts.names)
    before = classifier.margins(images[: len(rows)]) > 0
    which = torch.eye(count, dtype=torch.bool)
    changed = [
        (classifier.margins(concepts.redraw(rows, which[factor].expand(len(rows), -1))) > 0) != before
        for factor in range(count)
    ]
    return torch.stack(changed, 1).double().mean(0)


@method("SHAP over factors", "ceiling")
def shapley(classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """Mean size of the Shapley value of redrawing the factor, by two orders a picture."""
    rows, count = torch.arange(min(FEW // 2, len(images))), len(concepts.names)
    draw = generator(concepts.seed, "shapley")
    total = torch.zeros(len(rows), count, dtype=torch.float64)
    for _ in range(2):
        orders = torch.stack([torch.randperm(count, generator=draw) for _ in rows])
        which = torch.zeros(len(rows), count, dtype=torch.bool)
        before = classifier.margins(images[: len(rows)]).double().cpu()
        for step in range(count):
            which = which.scatter(1, orders[:, step : step + 1], True)
            after = classifier.margins(concepts.redraw(rows, which)).double().cpu()
            total.scatter_add_(1, orders[:, step : step + 1], (after - before)[:, None] / 2)
            before = after
    return total.abs().mean(0)
