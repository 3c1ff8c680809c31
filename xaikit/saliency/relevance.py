"""Rules that hand relevance down through a network, each of which keeps its sum (layer-wise relevance propagation)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xaikit.arguments import public

# Added to each denominator of a relevance rule, with its sign: a total of 0 has nothing to hand out.
STABILISER = 1e-9


@public
def linear_relevance(
    inputs: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    relevance: Float[Tensor, "*rows outputs"],
) -> Float[Tensor, "*rows inputs"]:
    """R_j = Σ_i x_j w_ij / Σ_j' x_j' w_ij' · R_i, both sums over products > 0 only: LRP-α1β0 for inputs of any sign.

    Keeps Σ R but for outputs without a positive product, whose relevance is lost. Source: Chefer et al. (2021a), Eq. 5.
    """
    return hand_out(inputs.clamp(min=0), inputs.clamp(max=0), weight, relevance)


@public
def product_relevance(
    left: Float[Tensor, "*rows n k"], right: Float[Tensor, "*rows k m"], relevance: Float[Tensor, "*rows n m"]
) -> tuple[Float[Tensor, "*rows n k"], Float[Tensor, "*rows k m"]]:
    """The relevance of both factors of `left @ right`: of each product in proportion to it, half to either factor.

    Keeps Σ R. Source: Chefer et al. (2021a), section 3.2; the halves are those of the released code.
    """
    share = stable_ratio(relevance, left @ right) / 2
    return left * (share @ right.mT), right * (left.mT @ share)


@public
def sum_relevance(
    one: Float[Tensor, "batch *rest"], other: Float[Tensor, "batch *rest"], relevance: Float[Tensor, "batch *rest"]
) -> tuple[Float[Tensor, "batch *rest"], Float[Tensor, "batch *rest"]]:
    """The relevance of both terms of `one + other`: in proportion to them, then weighed as wholes, image by image.

    Where the terms' totals have different signs they are rescaled to positive shares |Σ R_one| : |Σ R_other|, so that
    cancelling elements cannot blow up. Keeps Σ R. Source: Chefer et al. (2021a), section 3.2.
    """
    share = stable_ratio(relevance, one + other)
    parts = one * share, other * share
    rest = tuple(range(1, one.ndim))
    totals = [part.sum(rest, keepdim=True) for part in parts]
    scale = stable_ratio(relevance.sum(rest, keepdim=True), totals[0].abs() + totals[1].abs())
    return parts[0] * totals[0].sign() * scale, parts[1] * totals[1].sign() * scale


def hand_out(positive: Tensor, negative: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of inputs that act on positive weights by `positive` >= 0, on negative ones by `negative` <= 0."""
    exciting, inhibiting = weight.clamp(min=0), weight.clamp(max=0)
    share = stable_ratio(relevance, F.linear(positive, exciting) + F.linear(negative, inhibiting))
    return positive * (share @ exciting) + negative * (share @ inhibiting)


def stable_ratio(relevance: Tensor, total: Tensor) -> Tensor:
    """relevance / total, where a total of 0 hands out nothing."""
    return relevance / (total + torch.where(total < 0, -STABILISER, STABILISER))
