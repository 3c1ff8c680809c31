"""Paper 3 on the audited classifier: where are the pixels that the answer rests on, and do its controls hold here?"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xaikit.audit.batches import in_batches, with_memory
from xaikit.audit.questions import Seen
from xaikit.metrics.intervals import Interval, bootstrap_mean
from xaikit.perturbation.search import PRESETS, attribution, meaningful_perturbation
from xaikit.saliency.masking import rise
from xaikit.storage.seeding import generator, rng

MASKS = 256  # of RISE, which is asked where there are no gradients
MISSING = "the network's weights cannot be shuffled, so that a control is missing"
SAME = "the same is found of the network with shuffled weights"


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of some pictures, and how much of each lies in a region beyond what chance puts there.

    `rows` [maps] are the pictures, `maps` [maps, height, width] what the classifier rests on, by `method`. `beyond`: of
    each region, the share of a map in its mask less that in another picture's mask. `untrained` is the same of the
    same network with its weights shuffled within each layer, and empty where these cannot be reached. Where that one's
    interval lies above 0 as well or is not there, or the first does not, the region's map says nothing here: `why` has
    the reason.
    """

    method: str
    rows: Int64[np.ndarray, " maps"]
    maps: Float[Tensor, "maps height width"] = field(repr=False)
    beyond: dict[str, Interval]
    untrained: dict[str, Interval]

    def why(self, region: str) -> str:
        """Why the maps say nothing of a region; empty where they do."""
        if self.beyond[region].low <= 0:
            return "no more of a map lies in its mask than in another picture's"
        if region not in self.untrained:
            return MISSING
        if self.untrained[region].low > 0:
            return SAME
        return ""


def can_be_shuffled(model: nn.Module) -> bool:
    """Whether there are weights to shuffle: of what another program runs there are none."""
    return any(tensor.numel() > 1 for tensor in model.parameters())


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose weights are shuffled within each tensor: as large as before, and knowing nothing."""
    other, draw = copy.deepcopy(model), generator(seed, "audit", "shuffled")
    with torch.no_grad():
        for tensor in other.parameters():
            if tensor.numel() > 1:
                order = torch.randperm(tensor.numel(), generator=draw).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))
    return other


def maps_of(
    model: nn.Module,
    seen: Seen,
    answers: Int64[Tensor, " pictures"],
    rows: Sequence[int],
    *,
    gradients: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> Maps:
    """Meaningful perturbation of the answers to the pictures `rows`, or RISE where there are no gradients."""
    chosen = torch.as_tensor(rows)
    images = seen.images(chosen, device)
    found = _maps(model, images, answers[chosen].to(device), gradients, device, seed)
    null = None
    if can_be_shuffled(model):
        null = _maps(shuffled(model, seed), images, answers[chosen].to(device), gradients, device, seed)
    beyond, untrained = {}, {}
    for region, masks in seen.masks.items():
        own = masks[chosen]
        there = own.flatten(1).any(1)
        if int(there.sum()) < 4:
            continue
        beyond[region] = _beyond(found[there], own[there], seed)
        if null is not None:
            untrained[region] = _beyond(null[there], own[there], seed)
    method = "meaningful perturbation" if gradients else "RISE"
    return Maps(method, chosen.numpy(), found, beyond, untrained)


def _maps(model: nn.Module, images: Tensor, targets: Tensor, gradients: bool, device: str, seed: int) -> Tensor:
    sides = (images.shape[-2], images.shape[-1])

    def odds(seen: Tensor, which: Tensor) -> Tensor:
        # With gradients all has to go through at once: the search of masks has batches of its own.
        logits = model(seen).float() if torch.is_grad_enabled() else torch.cat(_logits(seen))
        target = targets[which.to(targets.device)][:, None]
        return logits.gather(1, target)[:, 0] - logits.scatter(1, target, -torch.inf).logsumexp(1)

    def _logits(seen: Tensor) -> list[Tensor]:
        return in_batches(lambda rows: model(seen[rows]).float(), len(seen), model, sides, device)

    with torch.no_grad():
        before = odds(images, torch.arange(len(images)))

    def score(seen: Tensor, which: Tensor) -> Tensor:
        """1 where the log odds of the answer are as before and 0 where they are gone, however sure it was.

        The probability of a sure answer stays 1 whatever is taken away, and the log odds have no end.
        """
        return 2 * (odds(seen, which) - before[which.to(before.device)]).sigmoid()

    if not gradients:
        found = rise(score, images, images.mean((2, 3), keepdim=True).expand_as(images), seed=seed, masks=MASKS)
        return (found - found.amin((1, 2), keepdim=True)).cpu()
    recipe = PRESETS["quick"].at(images.shape[-1])

    def search(size: int) -> Tensor:
        return meaningful_perturbation(score, images, recipe, seed=seed, batch=size)

    return attribution(with_memory(search, model, sides, device), sides, recipe).cpu()


def _beyond(maps: Tensor, masks: Tensor, seed: int) -> Interval:
    """The share of each map in its own mask less that in another picture's, over pictures."""
    positive = maps.clamp_min(0)
    total = positive.sum((1, 2)).clamp_min(1e-12)
    order = torch.from_numpy(
        np.roll(np.arange(len(maps)), 1 + int(rng(seed, "audit", "others").integers(len(maps) - 1)))
    )
    own, other = ((positive * each).sum((1, 2)) / total for each in (masks, masks[order]))
    return bootstrap_mean((own - other).numpy(), seed).within(-1.0, 1.0)
