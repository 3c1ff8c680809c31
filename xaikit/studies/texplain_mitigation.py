"""Table 2 of paper 2: classifiers of birds tuned on masked pictures, beside a baseline without masks."""

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset

from xaikit.companion.record import published
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import rng
from xaikit.studies.texplain import (
    Explainer,
    Sentences,
    Tokens,
    concepts,
    decoded,
    features_of,
    frequencies,
)
from xaikit.studies.texplain_pictures import Grouped
from xaikit.texplain.mitigation import flagged, masked, randomly_masked, retrain_last_layer
from xaikit.texplain.translator import Features
from xaikit.texplain.word_maps import classifier_grad_cam, first_said, word_grad_cam
from xaikit.texplain.words import words_of

MOST_SENTENCES = 16  # of an image, that its word map is made of
# Sentences × tokens that go through the decoder at once: 16 pictures of the mini profile's, 7 of the paper's.
WORD_MAPS = 70_000


@dataclass(frozen=True, eq=False)
class Blacked(Dataset):
    """Some of the pictures in 8 bits with pixels blacked out, made when one asks for them: a bit is kept for each.

    Under the paper profile a copy for each method and run would take 2 GB, and all of them together 30.
    """

    whole: UInt8[Tensor, "images 3 height width"]
    rows: Int64[Tensor, " chosen"]
    bits: UInt8[np.ndarray, "chosen bytes"]

    @classmethod
    def of(
        cls,
        whole: UInt8[Tensor, "images 3 height width"],
        chosen: Bool[Tensor, " images"],
        pixels: UInt8[Tensor, "chosen 3 height width"],
    ) -> "Blacked":
        """The chosen ones of the whole set, which are `pixels` once they are masked."""
        rows = chosen.nonzero()[:, 0]
        bits = [
            np.packbits((part != whole[own]).any(1).flatten(1).numpy(), axis=1)
            for part, own in zip(pixels.split(256), rows.split(256), strict=True)
        ]
        return cls(whole, rows, np.concatenate(bits))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> UInt8[Tensor, "*some 3 height width"]:
        return self.whole[self.rows[index]].masked_fill(self.black(index)[..., None, :, :], 0)

    def black(self, index: int | slice | Tensor = slice(None)) -> Bool[Tensor, "*some height width"]:
        """Which pixels of pictures are blacked out: those that were black before are not among them."""
        height, width = self.whole.shape[-2:]
        found = np.unpackbits(self.bits[index], axis=-1, count=height * width)
        return torch.from_numpy(found).bool().unflatten(-1, (height, width))


@dataclass(frozen=True, eq=False)
class Masks:
    """What the methods of Table 2 black out in the training images: which images, and their masked pixels in 8 bits."""

    chosen: Bool[Tensor, " images"]
    pixels: UInt8[Tensor, "chosen 3 height width"] | Blacked

    def black(self, whole: UInt8[Tensor, "images 3 height width"]) -> Bool[Tensor, "chosen height width"]:
        """Which pixels of the chosen images they black out."""
        if isinstance(self.pixels, Blacked):
            return self.pixels.black()
        return (self.pixels != whole[self.chosen]).any(1)


def lightly(masking: Callable[..., Masks]) -> Callable[..., Masks]:
    """Have what masks its argument `pixels` give them `Blacked`."""

    @functools.wraps(masking)
    def masks(*args: Any, **kwargs: Any) -> Masks:
        found = masking(*args, **kwargs)
        if isinstance(found.pixels, Blacked) or not len(found.pixels):
            return found
        whole = inspect.signature(masking).bind(*args, **kwargs).arguments["pixels"]
        return Masks(found.chosen, Blacked.of(whole, found.chosen, found.pixels))

    return masks


@lightly
def masktune(
    model: nn.Module, layer: str, pixels: UInt8[Tensor, "images 3 height width"], grid: tuple[int, int], device: str
) -> Masks:
    """All images, each without what the classifier's own prediction leans on (XGradCAM, as in MaskTune's code)."""
    parts = [
        masked(part, classifier_grad_cam(model, layer, part.to(device) / 255, grid=grid, weights="xgrad").cpu())
        for part in pixels.split(64)
    ]
    return Masks(torch.ones(len(pixels), dtype=torch.bool), torch.cat(parts))


@dataclass(frozen=True, eq=False)
class Flags:
    """The first dominant word (or concept) of each training image, and which images it flags."""

    top: list[str | None]
    chosen: Bool[Tensor, " images"]
    concepts: Mapping[str, Sequence[str]]

    @property
    def share(self) -> float:
        """The share of the images that are flagged."""
        return self.chosen.double().mean().item()

    @classmethod
    def of(
        cls,
        explainer: Explainer,
        sentences: Sentences,
        labels: Int64[Tensor, " images"],
        lexicons: Mapping[int, Collection[str]],
        concepts: Mapping[str, Sequence[str]],
        ignore: Sequence[str] = (),
    ) -> "Flags":
        """Flag the images whose first word is not in the lexicon of their class."""
        texts = decoded(explainer.language, sentences)
        top = [next(iter(each), None) for each in frequencies(texts, ignore=ignore, concepts=concepts)]
        return cls(top, flagged(top, labels, lexicons), concepts)


def lexicons(data: Grouped) -> dict[int, set[str]]:
    """The first words that do not flag an image: "bird", and of drawn birds their own kind."""
    kinds = concepts(data)
    return {label: {"bird", *({name} & set(kinds))} for label, name in enumerate(data.names)}


@lightly
def texplained(
    explainer: Explainer,
    features: Tokens,
    sentences: Sentences,
    pixels: UInt8[Tensor, "images 3 height width"],
    flags: Flags,
    grid: tuple[int, int],
    word_map: Callable[..., Tensor] = word_grad_cam,
) -> Masks:
    """The flagged images, each without the patches that make the decoder say its first word (or concept).

    `word_map` is `word_grad_cam`, as published, or `word_attention`. Raises ValueError where no image is flagged.
    """
    if not flags.chosen.any():
        raise ValueError("No training image is flagged: every first word is its class's; give a narrower lexicon.")
    rows = flags.chosen.nonzero()[:, 0]
    wanted = [{word, *flags.concepts.get(word, ())} for word in (flags.top[row] for row in rows.tolist())]
    maps, _ = maps_of(explainer, features[rows], sentences[rows], wanted, grid, word_map)
    return Masks(flags.chosen, masked(pixels[rows], maps))


def maps_of(
    explainer: Explainer,
    features: Tokens,
    sentences: Sentences,
    words: Sequence[Collection[str]],
    grid: tuple[int, int],
    word_map: Callable[..., Tensor],
) -> tuple[Float[Tensor, "told rows columns"], Bool[Tensor, " images"]]:
    """The maps of the words of each image, of those of whose sentences one has such a word, and which these are."""
    language = explainer.language
    device = next(language.decoder.parameters()).device
    prompt = torch.tensor(language.prompt).expand(len(sentences), sentences.shape[1], -1)
    whole = torch.cat([prompt, sentences], 2)
    said = first_said(sentences, words, language.tokenizer, words_of)
    said = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), said], 2)
    has = said.any(2).any(1)
    rows, parts = has.nonzero()[:, 0], []
    together = min(16, max(1, WORD_MAPS // (MOST_SENTENCES * features.shape[1])))
    for part in rows.split(together):
        parts.append(
            word_map(
                language.decoder, explainer.translator, features[part].to(device), whole[part].to(device), said[part],
                grid=grid, pad=language.pad, prompt=len(language.prompt), most=MOST_SENTENCES,
            ).cpu()
        )  # fmt: skip
    return torch.cat(parts) if parts else features.new_zeros(0, *grid), has


@lightly
def randmasked(masks: Masks, pixels: UInt8[Tensor, "images 3 height width"], seed: int) -> Masks:
    """The images that `masks` has masked, each with a black square of the same area anywhere instead."""
    if not masks.chosen.any():
        return masks
    own = pixels[masks.chosen]
    areas = masks.black(pixels).sum((1, 2))
    return Masks(masks.chosen, randomly_masked(own, areas, seed))


@lightly
def unmasked(count: int, pixels: UInt8[Tensor, "images 3 height width"], seed: int) -> Masks:
    """As many pictures, drawn at random, as they are: what tuning on few pictures does by itself."""
    chosen = torch.zeros(len(pixels), dtype=torch.bool)
    chosen[torch.from_numpy(rng(seed, "unmasked").permutation(len(pixels))[:count])] = True
    return Masks(chosen, pixels[chosen])


@lightly
def without_place(flags: Flags, pixels: UInt8[Tensor, "images 3 height width"], data: Grouped) -> Masks:
    """The flagged pictures with all black but the drawn birds: what a mask of the place could be at best.

    Raises ValueError for photographs, of which nothing says where the bird is.
    """
    if data.scenes is None:
        raise ValueError("Where the bird is in a photograph is not known: this needs drawn scenes.")
    bird = data.scenes[flags.chosen].masks("birds", pixels.shape[-1])
    return Masks(flags.chosen, pixels[flags.chosen] * bird[:, None])


def on_birds(masks: Masks, pixels: UInt8[Tensor, "images 3 height width"], data: Grouped) -> np.ndarray:
    """The share of each masked image's black pixels that lie on a drawn bird; 0 where nothing is black.

    Raises ValueError for photographs, of which nothing says where the bird is.
    """
    if data.scenes is None:
        raise ValueError("Where the bird is in a photograph is not known: this needs drawn scenes.")
    black = masks.black(pixels)
    bird = data.scenes[masks.chosen].masks("birds", pixels.shape[-1])
    return ((black & bird).sum((1, 2)) / black.sum((1, 2)).clamp(min=1)).double().numpy()


def balanced_last_layer(model: Preprocessed, features: Features, data: Grouped, device: str) -> nn.Module:
    """The classifier with a new head, learned from images of known groups in which each group weighs the same."""
    pooled = features_of(features, data.images, len(data), device)[:, 0]
    tuned = copy.deepcopy(model)
    tuned.model.head = retrain_last_layer(pooled, data.labels, data.groups).to(device)
    return tuned.eval().requires_grad_(False)


# --- what is published ------------------------------------------------------------------------------------------------

_PUBLISHED = {"erm": "erm", "randmask": "randmask", "masktune": "masktune", "texplain": "texplain"}
_ROWS = {"worst group": "worst-group", "average": "average", "masked samples": "masked"}


def published_table2(method: str, row: str) -> str | None:
    """The id of the published value; the paper does not say which birds its subgroups 1 to 3 are."""
    if method not in _PUBLISHED or row not in _ROWS or (row, method) == ("masked samples", "erm"):
        return None
    return f"taghanaki.table2.{_ROWS[row]}.{method}"


def published_table2_frame() -> pd.DataFrame:
    """Table 2 as published, in percent."""
    rows = []
    for name in ("s1", "s2", "s3", "worst-group", "average"):
        row = {"published, percent": name}
        for method in _PUBLISHED:
            id = f"taghanaki.table2.{name}.{method}"
            row[method] = f"{published(id):.2f} ± {published(id + '.sd'):.2f}"
        rows.append(row)
    return pd.DataFrame(rows)
