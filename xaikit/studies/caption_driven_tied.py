"""Surgery tied to the decision: what a classifier's head makes of its maps enters the explanation.

The published surgery looks at maps alone, so that two heads on one backbone have the same explanation. Here every map
is weighed by gradient × activation of the classifier's own answer (Shrikumar et al., 2016): `answer_relevance` says how
much a map speaks for it. There are two ways to use that: `relevant_maps` are chosen rather than others, and `dimmed`
lets `network_surgery` transplant each map in proportion to it.

Neither passes all of its controls (notebook 01, "Instruments"), so they stand here, and not among the methods.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from xaikit.models.batches import Batches, checked
from xaikit.models.hooks import at_least_float32, evaluating, hooked, in_own_precision, is_map, with_gradients
from xaikit.surgery.matching import SMALLEST_STD, ActivationStatistics, Maps
from xaikit.surgery.transplant import Choice, choose_maps

SMALLEST_WEIGHT = 1e-6  # of a map that is dimmed: it is then its mean to the last digit, and nothing is divided by 0


@in_own_precision()
def answer_contributions(
    maps: Maps, statistics: ActivationStatistics, images: Float[Tensor, "batch channels height width"]
) -> dict[str, Float[Tensor, "batch maps rows columns"]]:
    """(A − μ) · ∂y/∂A at every place of every map, layer by layer: what its departure from its mean adds to the answer.

    y is the logit of the class that an image gets, minus the mean of the other classes' logits; to first order the sum
    over the maps of one layer is what that layer's departure adds to y. Of one class alone y is its logit.

    Raises ValueError for a model that does not give logits [batch, classes], for layers that do not reach them, where
    something is not finite, and as `hooked` does.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _inputs: tuple, output: object) -> Tensor:
        if not is_map(output):
            raise ValueError(f"The output of {name} is not made of activation maps; choose convolutional layers.")
        found[name] = output
        return output.clone()  # which an in-place ReLU behind it may overwrite

    model = maps.model
    with torch.enable_grad(), evaluating(model):
        with hooked(model, maps.layers, keep):
            logits = model(with_gradients(model, images).detach().clone().requires_grad_())
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(f"The {type(model).__name__} does not give logits [batch, classes]; give a classifier.")
        own = logits.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        others = (logits.sum(1) - own) / max(logits.shape[1] - 1, 1)
        answer = (own - others).sum()  # no image's answer depends on another image
        gradients = torch.autograd.grad(answer, list(found.values()), allow_unused=True)
    result = {}
    for (name, activation), gradient in zip(found.items(), gradients, strict=True):
        if gradient is None:
            raise ValueError(f"The layer {name!r} does not reach the logits; choose layers on the way.")
        centred = statistics.centred(name, activation.detach()).transpose(0, 1)
        result[name] = centred * at_least_float32(gradient)
        if not result[name].isfinite().all():
            raise ValueError(f"The contributions of {name!r} are not finite; check the model's weights and the images.")
    return result


def answer_relevance(maps: Maps, statistics: ActivationStatistics, batches: Batches) -> Float[Tensor, " maps"]:
    """How much each map speaks for the answers, as a share of the most that a map of its layer does; in [0, 1].

    The mean over images of the map's `answer_contributions`, summed over its places: what its departure from its mean
    adds to the answer that each image gets. A map that on the whole speaks against the answers counts as 0. Gradients
    of layers far apart have other scales, so each layer is measured by its own.

    Raises ValueError as `answer_contributions` does.
    """
    total, count = {name: torch.zeros(()) for name in maps.layers}, 0
    for images in checked(batches):
        for name, contribution in answer_contributions(maps, statistics, images).items():
            total[name] = contribution.double().sum((0, 2, 3)) + total[name].to(contribution.device)
        count += len(images)
    means = [(each / count).clamp_min(0) for each in total.values()]
    shares = [mean / mean.max().clamp_min(torch.finfo(torch.float64).tiny) for mean in means]
    return torch.cat(shares).float().to(statistics.mean.device)


def relevant_maps(scores: Float[Tensor, "sources targets"], relevance: Float[Tensor, " sources"]) -> Choice:
    """For every target map the source map with the highest Z · relevance: of those that look like it, one that counts.

    Raises ValueError for relevances that are not one a source map, negative, or not finite.
    """
    _check(relevance, len(scores))
    return choose_maps(scores * relevance.to(scores)[:, None])


def dimmed(statistics: ActivationStatistics, weight: Float[Tensor, " maps"]) -> ActivationStatistics:
    """Statistics with which `network_surgery` transplants weight_i · N_i in place of N_i: σ_i / weight_i for σ_i.

    Give them as the source's, where `weight` is `answer_relevance`: what does not move the answer comes to stand still.
    Raises ValueError for weights that are not one a map, negative, or not finite.
    """
    _check(weight, len(statistics.std))
    std = statistics.std.clamp_min(SMALLEST_STD) / weight.to(statistics.std).clamp_min(SMALLEST_WEIGHT)
    return ActivationStatistics(statistics.channels, statistics.mean, std)


def _check(weight: Tensor, maps: int) -> None:
    if weight.shape != (maps,) or not weight.isfinite().all() or weight.min() < 0:
        raise ValueError(
            f"The weights {tuple(weight.shape)} are not one a map of {maps}, or some are negative or NaN; give what "
            "`answer_relevance` gives."
        )
