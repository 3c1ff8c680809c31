"""Network surgery: the activation maps of a classifier, transplanted into CLIP (Koller et al., section 2.4).

`choose_maps` reads the matching scores, and `network_surgery` swaps the chosen maps into CLIP's image tower (Eq. 4).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from xaikit.models.hooks import at_least_float32, evaluating, hooked, is_map, listening
from xaikit.surgery.matching import SMALLEST_STD, ActivationStatistics, Maps


@dataclass(frozen=True, eq=False)
class Choice:
    """For each target map: which source map replaces it, the score of that pair, and whether it is swapped at all."""

    source: Int64[Tensor, " targets"]
    score: Float[Tensor, " targets"]
    swapped: Bool[Tensor, " targets"]

    def distinct(self) -> int:
        """How many different source maps are carried over."""
        return len(self.source[self.swapped].unique())


def choose_maps(
    scores: Float[Tensor, "sources targets"],
    rule: str = "best",
    *,
    generator: torch.Generator | None = None,
) -> Choice:
    """Choose a source map for every target map.

    "best": the highest score, so one source map may serve many targets. That is what the published code does; the
    paper's "largest entries" of the matrix would leave targets alone. "one-to-one": the assignment of different
    source maps with the highest total. "random": any source map with equal chance, a control (needs `generator`).

    Raises ValueError for an unknown rule, or fewer sources than targets where the rule is one-to-one.
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


def shuffled(choice: Choice, statistics: ActivationStatistics, generator: torch.Generator) -> Choice:
    """The same source maps for each stage, dealt to its maps at random: a control that keeps all but the matching."""
    order = torch.cat(
        [torch.randperm(span.stop - span.start, generator=generator) + span.start for span in statistics.span.values()]
    )
    return Choice(choice.source[order], choice.score[order], choice.swapped)


def strongest(choice: Choice, statistics: ActivationStatistics, fraction: float) -> Choice:
    """Swap only the `fraction` of each stage's maps whose |Z| is largest. Raises ValueError outside [0, 1]."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"The fraction of maps to swap is {fraction}; it must be in [0, 1].")
    swapped = torch.zeros_like(choice.swapped)
    for span in statistics.span.values():
        count = round(fraction * (span.stop - span.start))
        swapped[span.start + choice.score[span].abs().topk(count).indices] = True
    return replace(choice, swapped=swapped)


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
    if len(choice.source) != len(target_statistics.mean) or choice.source.max() >= len(source_statistics.mean):
        raise ValueError("The choice of maps belongs to other models; match these two again.")

    stages = target.layers if only is None else only
    plan = {name: _transplants(name, target_statistics, source_statistics, choice) for name in stages}
    wanted = {t.layer: source.layers[t.layer] for transplants in plan.values() for t in transplants}
    current: dict[str, Tensor] = {}

    def run_source(_module: nn.Module, inputs: tuple, named: dict[str, Tensor]) -> None:
        current.clear()
        source.model(*inputs, *named.values())

    def swap_in(name: str, _inputs: tuple, output: Tensor) -> Tensor:
        if not is_map(output):
            raise ValueError(f"The output of {name} is not made of activation maps; choose convolutional layers.")
        output = output.clone()
        for t in plan[name]:
            maps = at_least_float32(current[t.layer][:, t.columns.to(output.device)]).to(output.device)
            before, scale, after = (values.to(maps)[:, None, None] for values in (t.before, t.scale, t.after))
            maps = maps - before
            if maps.shape[-2:] != output.shape[-2:]:
                maps = F.interpolate(maps, size=output.shape[-2:], mode=interpolation)
            output[:, t.channels.to(output.device)] = (maps * scale + after).to(output)
        return output

    with ExitStack() as stack:
        stack.enter_context(evaluating(source.model))
        # Copies, because an in-place ReLU right behind a convolution overwrites what it gave.
        stack.enter_context(listening(source.model, wanted, lambda name, maps: current.update({name: maps.clone()})))
        stack.enter_context(target.model.register_forward_pre_hook(run_source, with_kwargs=True))
        stack.enter_context(hooked(target.model, {name: target.layers[name] for name in stages}, swap_in))
        yield


@dataclass(frozen=True)
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


# --- the protocol as published -----------------------------------------------------------------------------------
