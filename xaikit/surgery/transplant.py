"""Network surgery into CLIP, and what captions say about the result (Koller et al., sections 2.4 and 3).

`choose_maps` reads the matching scores, `network_surgery` swaps the chosen maps into CLIP's image tower (Eq. 4),
`similarities` reads the captions (Eq. 1), and two protocols score them: `published_values` and `dominant_captions` do
what the public notebook does, `cue_contrast` asks each image the question that the paper asks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from xaikit.models.hooks import evaluating, listening
from xaikit.surgery.matching import SMALLEST_STD, ActivationStatistics, Batches, Maps, checked


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
    "bicubic" in the published code). Both models see the same images. Stages are swapped where they stand, so a
    later one sees what the earlier ones now give; `only` names the target layers to touch. A map that is swapped
    for itself does not change, to the last bit. The models are as before afterwards, whatever happens inside.

    Raises ValueError for an unknown layer or interpolation, models that share layers, and a choice, statistics and
    layers that do not belong together.
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

    def run_source(_module: nn.Module, inputs: tuple) -> None:
        source.model(*inputs)

    def swap_in(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
            output = output.clone()
            for t in plan[name]:
                maps = current[t.layer][:, t.columns.to(output.device)]
                if maps.shape[-2:] != output.shape[-2:]:
                    maps = F.interpolate(maps, size=output.shape[-2:], mode=interpolation)
                scale, shift = (values.to(output)[:, None, None] for values in (t.scale, t.shift))
                output[:, t.channels.to(output.device)] = maps.to(output) * scale + shift
            return output

        return hook

    with ExitStack() as stack:
        stack.enter_context(evaluating(source.model))
        if wanted:
            # Copies, because an in-place ReLU right behind a convolution overwrites what it gave.
            stack.enter_context(listening(wanted, lambda name, maps: current.update({name: maps.clone()})))
        for handle in (
            target.model.register_forward_pre_hook(run_source),
            *(target.layers[name].register_forward_hook(swap_in(name)) for name in stages),
        ):
            stack.callback(handle.remove)
        yield


@dataclass(frozen=True)
class _Transplant:
    """The maps that one stage takes from one source layer, and the affine map that Eq. 2 and Eq. 4 make together."""

    layer: str
    columns: Tensor  # channels in the source layer
    channels: Tensor  # channels in the target stage
    scale: Tensor
    shift: Tensor


def _transplants(
    stage: str, target: ActivationStatistics, source: ActivationStatistics, choice: Choice
) -> list[_Transplant]:
    span = target.span[stage]
    chosen, swapped = choice.source[span], choice.swapped[span]
    # σ_j / σ_i is exactly 1, and the shift exactly 0, where a map is swapped for itself.
    scale = target.std[span].clamp_min(SMALLEST_STD) / source.std[chosen].clamp_min(SMALLEST_STD)
    shift = target.mean[span] - source.mean[chosen] * scale
    transplants = []
    for layer, layer_span in source.span.items():
        channels = ((chosen >= layer_span.start) & (chosen < layer_span.stop) & swapped).nonzero()[:, 0]
        if len(channels):
            columns = chosen[channels] - layer_span.start
            transplants.append(_Transplant(layer, columns, channels, scale[channels], shift[channels]))
    return transplants


@dataclass(frozen=True)
class Captions:
    """For each cue ("shape", "colour", …) one caption for each value that the cue can take."""

    cues: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.cues:
            raise ValueError("There is no caption; give each cue one caption for each of its values.")
        for cue, captions in self.cues.items():
            if len(captions) < 2:
                raise ValueError(
                    f"The cue {cue!r} has {len(captions)} caption; it needs at least two, a right and a wrong one."
                )

    @property
    def texts(self) -> list[str]:
        """All captions, cue after cue: the columns of a similarity matrix."""
        return [caption for captions in self.cues.values() for caption in captions]

    def columns(self, cue: str) -> slice:
        """Where the captions of `cue` stand among all. Raises ValueError for a cue without captions."""
        if cue not in self.cues:
            raise ValueError(f"There is no caption for the cue {cue!r}; there are some for {', '.join(self.cues)}.")
        names = list(self.cues)
        start = sum(len(self.cues[name]) for name in names[: names.index(cue)])
        return slice(start, start + len(self.cues[cue]))


def similarities(
    encoder: nn.Module, text_features: Float[Tensor, "captions features"], batches: Batches
) -> Float[Tensor, "images captions"]:
    """Cosine similarity of every image to every caption (Eq. 1), on the CPU.

    `encoder` maps images to features, with or without surgery around the call. Raises ValueError where a
    similarity is NaN.
    """
    text_features = F.normalize(text_features, dim=-1)
    with evaluating(encoder), torch.no_grad():
        parts = [
            (F.normalize(encoder(images), dim=-1) @ text_features.to(images).T).cpu() for images in checked(batches)
        ]
    result = torch.cat(parts)
    if not result.isfinite().all():
        raise ValueError("Some similarities are NaN; check the swapped statistics and the model's weights.")
    return result


# --- the corrected protocol ------------------------------------------------------------------------------------


def cue_contrast(
    similarity: Float[Tensor, "images captions"],
    captions: Captions,
    cue: str,
    label: Int64[Tensor, " images"],
) -> Float[Tensor, " images"]:
    """Similarity to the right caption of `cue` minus that to the best wrong one, for each image.

    Positive where the image is read rightly; half the time by chance, with two captions on balanced data. Take it
    after the surgery, or take the difference of its values after and before: one image, one cue, one stage.

    Raises ValueError for a cue without captions and for labels that have none (grey has no right colour).
    """
    values = similarity[:, captions.columns(cue)]
    if label.shape != values.shape[:1]:
        raise ValueError(f"There are {len(label)} labels of {cue!r} for {len(values)} images; give one an image.")
    if label.min() < 0 or label.max() >= values.shape[1]:
        raise ValueError(f"Some images have no right caption for the cue {cue!r}; contrast only images that have one.")
    right = values.gather(1, label[:, None])[:, 0]
    wrong = values.scatter(1, label[:, None], -torch.inf).amax(dim=1)
    return right - wrong


# --- the protocol as published -----------------------------------------------------------------------------------


def dominant_captions(
    values: Float[Tensor, "images captions"], captions: Captions, labels: dict[str, Int64[Tensor, " images"]]
) -> dict[str, float]:
    """The share of images whose highest value is a right or a wrong caption of each cue (section 3).

    A cue whose labels are all negative has no right caption (grey digits): its shares are summed up as "any". Keys
    are "correct shape", "wrong shape", "any colour" and so on; the shares add up to one. Raises ValueError where
    captions and labels do not name the same cues, and where some labels of a cue have a caption and others none.
    """
    if set(labels) != set(captions.cues):
        raise ValueError(f"There are labels for {sorted(labels)} but captions for {sorted(captions.cues)}; give both.")
    top = values.argmax(dim=1)
    shares = {}
    for cue, label in labels.items():
        columns = captions.columns(cue)
        named = (top >= columns.start) & (top < columns.stop)
        if (label < 0).all():
            shares[f"any {cue}"] = named.double().mean().item()
        elif label.min() < 0 or label.max() >= len(captions.cues[cue]):
            raise ValueError(f"Some images have no right caption for the cue {cue!r}; score such images on their own.")
        else:
            correct = top == label + columns.start
            shares[f"correct {cue}"] = correct.double().mean().item()
            shares[f"wrong {cue}"] = (named & ~correct).double().mean().item()
    return shares


def cue_share(shares: dict[str, float], cue: str) -> float:
    """The part of `dominant_captions` that names `cue`, rightly, wrongly or any: the bars of Figure 4."""
    return sum(share for key, share in shares.items() if key.split(" ", 1)[1] == cue)


def published_values(
    first: Float[Tensor, "settings batch captions"], swapped: Float[Tensor, "images captions"]
) -> dict[str, Float[Tensor, "images captions"]]:
    """What the public notebook scores: similarities "zero" layers swapped, all "swapped", and their "influence".

    `first[s]` are the true similarities of the first batch with the first s of the stages swapped, `swapped` those of
    all images with all stages swapped; no more of the truth reaches the notebook's columns. They have two defects:
    edits of the batch before are still in place (`stale_edits`), and the columns taken for "before" and "after" belong
    to other images and stages (`published_columns`). Row n is scored with the labels of image n all the same.

    Raises ValueError where the images do not fill whole batches.
    """
    columns = [published_columns(similarity) for similarity in stale_edits(first, swapped)]
    before, after = (torch.cat(parts) for parts in zip(*columns, strict=True))
    return {"zero": before, "swapped": after, "influence": after - before}


def stale_edits(
    first: Float[Tensor, "settings batch captions"], swapped: Float[Tensor, "images captions"]
) -> Float[Tensor, "batches settings batch captions"]:
    """What is seen when the edits of one batch stay in place during the next, as in the public notebook.

    CLIP is restored once, before the first batch. Later, as long as the last stage has not been edited anew, its
    output is still that of the batch before, and nothing upstream of it reaches the embedding: every setting but
    the last shows the fully swapped similarities of the previous batch. Raises ValueError where the images do not
    fill whole batches.
    """
    settings, batch, _ = first.shape
    if len(swapped) % batch:
        raise ValueError(f"{len(swapped)} images do not fill batches of {batch}; leave out the last few.")
    now = swapped.unflatten(0, (-1, batch))[1:]
    previous = swapped.unflatten(0, (-1, batch))[:-1]
    later = torch.cat([previous[:, None].expand(-1, settings - 1, -1, -1), now[:, None]], dim=1)
    return torch.cat([first[None], later])


def published_columns(
    similarity: Float[Tensor, "settings images captions"],
) -> tuple[Float[Tensor, "images captions"], Float[Tensor, "images captions"]]:
    """The columns that the public notebook takes for "before" and "after" the swap of one batch.

    It stacks similarities setting by setting, then takes every S-th column from the first and from the last of the
    S settings on, as if they were stacked image by image. Of 25 images and 5 settings only image 0 "before" and
    image 24 "after" are what they are taken for.
    """
    settings = len(similarity)
    columns = similarity.flatten(0, 1)
    return columns[::settings], columns[settings - 1 :: settings]
