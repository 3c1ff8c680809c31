"""Network surgery: the activation maps of a classifier, transplanted into CLIP (Koller et al., section 2.4).

`choose_maps` reads the matching scores, and `network_surgery` swaps the chosen maps into CLIP's image tower (Eq. 4),
of which `from_stage_on` leaves out what is written over.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from xaikit.arguments import Probability, public
from xaikit.models.hooks import at_least_float32, evaluating, hooked, is_map, listening
from xaikit.surgery.matching import SMALLEST_STD, ActivationStatistics, Maps, stages


@public
@dataclass(frozen=True, eq=False)
class Choice:
    """For each target map: which source map replaces it, the score of that pair, and whether it is swapped at all."""

    source: Int64[Tensor, " targets"]
    score: Float[Tensor, " targets"]
    swapped: Bool[Tensor, " targets"]

    def distinct(self) -> int:
        """How many different source maps are carried over."""
        return len(self.source[self.swapped].unique())


@public
def choose_maps(
    scores: Float[Tensor, "sources targets"],
    rule: str = "best",
    *,
    generator: torch.Generator | None = None,
) -> Choice:
    """Choose a source map for every target map, by the scores Z of `match_activations` (section 2.3).

    "best": the highest score, so one source map may serve many targets. That is what the published code does; the
    paper's "largest entries" of the matrix would leave targets alone. "one-to-one": the assignment of different
    source maps with the highest total. "random": any source map with equal chance, a control (needs `generator`).

    Raises ValueError for an unknown rule, or fewer sources than targets where the rule is one-to-one.

    >>> import torch
    >>> from xaikit import choose_maps
    >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.7]])  # of two source maps (rows) for two target maps (columns)
    >>> choose_maps(scores).source, choose_maps(scores, "one-to-one").source
    (tensor([0, 0]), tensor([0, 1]))
    """
    sources, targets = scores.shape
    if rule == "best":
        chosen = scores.argmax(dim=0)
    elif rule == "one-to-one":
        if sources < targets:
            raise ValueError(f"{sources} maps cannot replace {targets} one-to-one; use the rule 'best'.")
        rows, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
        chosen = torch.empty(targets, dtype=torch.int64)
        chosen[torch.from_numpy(columns)] = torch.from_numpy(rows)
    elif rule == "random":
        if generator is None:
            raise ValueError("The rule 'random' needs a generator, so that the draw can be repeated.")
        chosen = torch.randint(sources, (targets,), generator=generator)
    else:
        raise ValueError(f"Unknown rule {rule!r}; choose 'best', 'one-to-one' or 'random'.")
    chosen = chosen.to(scores.device)
    score = scores.gather(0, chosen[None])[0]
    return Choice(chosen.cpu(), score.cpu(), torch.ones(targets, dtype=torch.bool))


@public
def shuffled(choice: Choice, statistics: ActivationStatistics, generator: torch.Generator) -> Choice:
    """The same source maps for each stage, dealt to its maps at random: a control that keeps all but the matching."""
    order = torch.cat(
        [torch.randperm(span.stop - span.start, generator=generator) + span.start for span in statistics.span.values()]
    )
    return Choice(choice.source[order], choice.score[order], choice.swapped)


@public
def strongest(choice: Choice, statistics: ActivationStatistics, fraction: Probability) -> Choice:
    """Swap only the `fraction` of each stage's maps whose |Z| is largest. Raises ValueError outside [0, 1]."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"The fraction of maps to swap is {fraction}; it must be in [0, 1].")
    swapped = torch.zeros_like(choice.swapped)
    for span in statistics.span.values():
        count = round(fraction * (span.stop - span.start))
        swapped[span.start + choice.score[span].abs().topk(count).indices] = True
    return replace(choice, swapped=swapped)


@public
@contextmanager
def network_surgery(
    target: Maps,
    target_statistics: ActivationStatistics,
    source: Maps,
    source_statistics: ActivationStatistics,
    choice: Choice,
    *,
    only: tuple[str, ...] | None = None,
    interpolation: str = "bilinear",
) -> Iterator[None]:
    """Inside, the forward pass of `target.model` runs with the chosen maps of `source.model` swapped in (Eq. 2, 4).

    Each swapped map j becomes A = σ_j · (A_i − μ_i) / σ_i + μ_j, resized to its new place ("bilinear" in the paper,
    "bicubic" in the published code). It is computed in that order, in float32 at least: with a μ that is large beside
    σ, one factor and one shift in place of Eq. 2 and 4 would leave noise. Both models see the same images. Stages are
    swapped where they stand, so a later one sees what the earlier ones now give; `only` names the target layers to
    touch. A map that is swapped for itself does not change, to the last bit. The models are as before afterwards,
    whatever happens inside.

    Raises ValueError for an unknown layer or interpolation, models that share layers, and a choice, statistics and
    layers that do not belong together; then, as `hooked` does, for layers that do not run once a pass, and for calls of
    a part of `target.model`, which would get the maps of other images.

    >>> import copy, torch
    >>> from xaikit import activation_statistics, choose_maps, convolutions, network_surgery
    >>> model, images = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), torch.rand(2, 3, 8, 8)
    >>> target, source = convolutions(model), convolutions(copy.deepcopy(model))
    >>> statistics = activation_statistics(target, [images])
    >>> with network_surgery(target, statistics, source, statistics, choose_maps(torch.eye(4))):
    ...     after = model(images)
    >>> torch.equal(after, model(images))  # a map's copy in the map's place changes nothing
    True
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"Unknown interpolation {interpolation!r}; choose 'bilinear' or 'bicubic'.")
    if strays := set(only or ()) - set(target.layers):
        raise ValueError(f"There is no layer {', '.join(sorted(strays))} to swap; choose from {list(target.layers)}.")
    if set(source.model.modules()) & set(target.model.modules()):
        raise ValueError("The two models share layers; give copy.deepcopy(model) as the source.")
    for maps, statistics in ((target, target_statistics), (source, source_statistics)):
        if list(maps.layers) != list(statistics.channels):
            raise ValueError(f"The statistics are not those of {type(maps.model).__name__}; compute them again.")
    known = len(source_statistics.mean)
    if len(choice.source) != len(target_statistics.mean) or not 0 <= choice.source.min() <= choice.source.max() < known:
        raise ValueError("The choice of maps belongs to other models; match these two again.")

    plan = {
        name: _transplants(name, target_statistics, source_statistics, choice)
        for name in (target.layers if only is None else only)
    }
    wanted: dict[str, list[_Transplant]] = {}
    for transplant in chain.from_iterable(plan.values()):
        wanted.setdefault(transplant.layer, []).append(transplant)
    current: dict[_Transplant, Tensor] = {}

    def run_source(_module: nn.Module, inputs: tuple, named: dict[str, Tensor]) -> None:
        current.clear()
        source.model(*inputs, *named.values())

    def keep(layer: str, maps: Tensor) -> None:
        # Indexing copies: an in-place ReLU right behind a convolution overwrites what it gave.
        current.update({t: maps[:, t.columns.to(maps.device)] for t in wanted[layer]})

    def swap_in(name: str, _inputs: tuple, output: Tensor) -> Tensor:
        if not is_map(output):
            raise ValueError(f"The output of {name} is not made of activation maps; choose convolutional layers.")
        output = output.clone()
        for t in plan[name]:
            maps = at_least_float32(current[t]).to(output.device)
            before, scale, after = (values.to(maps)[:, None, None] for values in (t.before, t.scale, t.after))
            maps = maps - before
            if maps.shape[-2:] != output.shape[-2:]:
                maps = F.interpolate(maps, size=output.shape[-2:], mode=interpolation)
            output[:, t.channels.to(output.device)] = (maps * scale + after).to(output)
        return output

    with ExitStack() as stack:
        stack.enter_context(evaluating(source.model))
        stack.enter_context(listening(source.model, {layer: source.layers[layer] for layer in wanted}, keep))
        if wanted:
            stack.enter_context(target.model.register_forward_pre_hook(run_source, with_kwargs=True))
        stack.enter_context(hooked(target.model, {name: target.layers[name] for name in plan}, swap_in))
        yield


@dataclass(frozen=True, eq=False)
class _Transplant:
    """The maps that one stage takes from one source layer, and their μ_i, σ_j / σ_i and μ_j of Eq. 2 and Eq. 4."""

    layer: str
    columns: Tensor  # channels in the source layer
    channels: Tensor  # channels in the target stage
    before: Tensor
    scale: Tensor
    after: Tensor


def _transplants(
    stage: str, target: ActivationStatistics, source: ActivationStatistics, choice: Choice
) -> list[_Transplant]:
    span = target.span[stage]
    chosen, swapped = choice.source[span], choice.swapped[span]
    scale = target.std[span].clamp_min(SMALLEST_STD) / source.std[chosen].clamp_min(SMALLEST_STD)
    # Where a map is swapped for itself σ_j / σ_i is exactly 1, and its mean need neither go nor come back.
    same = (scale == 1) & (target.mean[span] == source.mean[chosen])
    before, after = (mean.masked_fill(same, 0) for mean in (source.mean[chosen], target.mean[span]))
    transplants = []
    for layer, layer_span in source.span.items():
        channels = ((chosen >= layer_span.start) & (chosen < layer_span.stop) & swapped).nonzero()[:, 0]
        if len(channels):
            columns = chosen[channels] - layer_span.start
            transplants.append(
                _Transplant(layer, columns, channels, before[channels], scale[channels], after[channels])
            )
    return transplants


@public
def from_stage_on(tower: nn.Module, stage: str, shape: tuple[int, int, int]) -> nn.Sequential:
    """An open_clip ResNet tower without what comes before the end of `stage`, for a surgery that swaps all its maps.

    Only the source's maps reach the embedding then (section 2.1), so that CLIP need not make its own: `stage` gives
    zeros of this `shape` (channels, height, width), for the surgery to write over, and nothing before it runs. The
    stages keep their names. Raises ValueError as `stages` does, and for a stage that there is not.
    """
    layers = stages(tower).layers
    if stage not in layers:
        raise ValueError(f"There is no stage {stage}; choose from {', '.join(layers)}.")
    at = list(layers).index(stage)
    parts = {name: nn.Identity() if i < at else layer for i, (name, layer) in enumerate(layers.items())}
    return nn.Sequential(OrderedDict(parts | {stage: _Blank(shape), "attnpool": tower.attnpool}))


class _Blank(nn.Module):
    """Maps that are yet to be written."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), *self.shape)
