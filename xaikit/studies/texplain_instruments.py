"""Instruments of paper 2: what each of its measures finds where the answer is known, and where there is nothing."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.metrics.intervals import Interval, bootstrap
from xaikit.models import vit_classifier
from xaikit.models.captioner import Captioner, LanguageModel
from xaikit.storage.seeding import seed_for
from xaikit.studies import lexicon
from xaikit.studies import texplain_pictures as pictures
from xaikit.studies.texplain import Explainer, encoded, features_of, held_out_losses, learned_translators
from xaikit.studies.texplain_mitigation import maps_of
from xaikit.texplain.mitigation import salient
from xaikit.texplain.translator import Features, Translator
from xaikit.texplain.word_maps import first_said, word_attention, word_grad_cam
from xaikit.texplain.words import words_of
from xaikit.world import SceneSet
from xaikit.world.scene_birds import Birds

# --- the word map -----------------------------------------------------------------------------------------------------

WORD_MAPS: dict[str, Callable[..., Tensor]] = {"Grad-CAM": word_grad_cam, "attention": word_attention}
UNTRAINED = 3
COVER = (0.1, 0.3)  # of a picture, by its birds: then a share of one half on them is no chance


@dataclass(frozen=True, eq=False)
class OnBirds:
    """Where the maps of one kind lie: of each picture the share of the map's mass, and of its masked pixels, on birds.

    Where several models were looked into, there is a row for each. `maps` are those of the first pictures, to be looked
    at.
    """

    mass: Float[np.ndarray, "*models pictures"]
    pixels: Float[np.ndarray, "*models pictures"]
    maps: Float[Tensor, "few rows columns"]


def covered_birds(count: int, seed: int, size: int) -> SceneSet:
    """Drawn birds that cover `COVER` of their pictures. Raises ValueError where the world gives too few."""
    scenes = world.birds(4 * count, seed=seed_for(seed, "covered birds"), split="test")
    cover = scenes.masks("birds", size).double().mean((1, 2))
    rows = ((cover >= COVER[0]) & (cover <= COVER[1])).nonzero()[:count, 0]
    if len(rows) < count:
        raise ValueError(f"Only {len(rows)} of {4 * count} scenes have birds of the right size: ask for fewer.")
    return scenes[rows]


def bird_words(scenes: SceneSet) -> list[set[str]]:
    """The words for the birds of each scene."""
    return [{"bird", str(scene.factors["species"]), str(scene.factors["kind"])} for scene in scenes]


def place_words(scenes: SceneSet) -> list[set[str]]:
    """The words for the place of each scene."""
    background, place = (lexicon.words_for(Birds, name) for name in ("background", "place"))
    return [{*background[scene.factors["background"]], *place[scene.factors["place"]]} for scene in scenes]


def word_map_controls(
    captioner: Captioner, scenes: SceneSet, sampling: Mapping[str, float], seed: int, cfg: Settings
) -> tuple[dict[str, dict[str, OnBirds]], SceneSet]:
    """Of each kind of map, where it lies by words for the birds and for the place, and in two cases without an answer.

    Of those of the `scenes`, which are handed back, of which both kinds of words are said.

    The captioner tells its own pictures, with the identity in the translator's place: it is known that its words come
    from the picture, and the world knows where birds are. "another picture": the maps of the birds judged by the birds
    of the next picture; "untrained": those of the same sentences through each of `UNTRAINED` translators that have
    learned nothing, as one of them may happen to look at birds.
    """
    grid, size, language = tuple(cfg.grid), cfg.size, captioner.language
    own = Explainer(captioner.image_encoder, nn.Identity(), language, sampling)
    features = features_of(captioner.image_encoder, scenes.images(size), len(scenes), cfg.device)
    sentences = own.sentences(features, cfg.flag_sentences, seed_for(seed, "word map controls"))
    both = torch.ones(len(scenes), dtype=torch.bool)  # of pictures of which both kinds of words are said
    for words in (bird_words(scenes), place_words(scenes)):
        both &= first_said(sentences, words, language.tokenizer, words_of).any(2).any(1)
    scenes, features, sentences = scenes[both], features[both], sentences[both]
    blank = []
    for number in range(UNTRAINED):
        torch.manual_seed(seed_for(seed, "untrained translator", number))
        translator = Translator(features.shape[1], features.shape[2], captioner.language.width).to(cfg.device).eval()
        blank.append(dataclasses.replace(own, translator=translator.requires_grad_(False)))
    birds, found = scenes.masks("birds", size), {}
    for kind, word_map in WORD_MAPS.items():
        of: dict[str, OnBirds] = {}
        for name, speakers, words in (
            ("bird", [own], bird_words(scenes)),
            ("place", [own], place_words(scenes)),
            ("untrained", blank, bird_words(scenes)),
        ):
            maps = [maps_of(who, features, sentences, words, grid, word_map)[0] for who in speakers]
            of[name], *others = [on_birds(each, birds) for each in maps]
            if others:
                mass, pixels = (
                    np.stack([getattr(each, key) for each in (of[name], *others)]) for key in ("mass", "pixels")
                )
                of[name] = dataclasses.replace(of[name], mass=mass, pixels=pixels)
            if name == "bird":
                of["another picture"] = on_birds(maps[0], birds.roll(1, 0))
        found[kind] = of
    return found, scenes


def best_map(scenes: SceneSet, grid: tuple[int, int], size: int) -> OnBirds:
    """Where a map lies that is, at each patch, the share of it that birds cover."""
    birds = scenes.masks("birds", size)
    return on_birds(F.adaptive_avg_pool2d(birds[:, None].float(), grid)[:, 0], birds)


def on_birds(maps: Float[Tensor, "images rows columns"], birds: Bool[Tensor, "images height width"]) -> OnBirds:
    """The shares of maps on birds; 0 where a map is empty, or masks nothing."""
    size = tuple(birds.shape[-2:])
    large = F.interpolate(maps[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0]
    black = salient(maps, size).double()
    mass, pixels = (((each * birds).sum((1, 2)) / each.sum((1, 2)).clamp_min(1e-30)).numpy() for each in (large, black))
    return OnBirds(mass, pixels, maps[:8])


# --- the classifier ---------------------------------------------------------------------------------------------------


def not_trained(cfg: Settings, seed: int, classes: int, *, pretrained: bool) -> Features:
    """The features of a network that was not trained on the categories: `pretrained` otherwise, or not at all."""
    network = vit_classifier.build(cfg.classifier, seed_for(seed, "untrained"), classes, pretrained=pretrained)
    return Features(network.to(cfg.device).requires_grad_(False), vit_classifier.TOKENS)


# --- the translator ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Learning:
    """How far a translator is from what it could learn.

    `held_out`: after each epoch, of each training. `losses`: of each fresh picture's captions, in nats a token, through
    the translator in use ("own"), one that learned from a quarter of the pairs ("few pairs"), and one that learned from
    twice the pairs in twice the steps ("floor").
    """

    held_out: dict[str, list[float]]
    losses: dict[str, np.ndarray]

    def over_floor(self, name: str, seed: int) -> Interval:
        """The loss over that of the floor, minus 1."""

        def of_means(own: np.ndarray, floor: np.ndarray) -> float:
            return float(own.mean() / floor.mean() - 1)

        return bootstrap(of_means, self.losses[name], self.losses["floor"], seed=seed)


def learning(features: nn.Module, language: LanguageModel, settings: Settings, seed: int, cfg: Settings) -> Learning:
    """Train translators of the same features from fewer and more pairs than `cfg.pairs`, those of the one in use."""
    counts = {"few pairs": cfg.pairs // 4, "own": cfg.pairs, "floor": 2 * cfg.pairs}
    fresh = pictures.captioned(cfg, count=cfg.fresh_pairs, skip=2 * cfg.pairs)
    z = features_of(features, fresh.images, len(fresh), cfg.device)
    told = encoded(language, [text for five in fresh.captions for text in five], settings.longest)
    told = told.unflatten(0, (len(fresh), -1))
    held_out, losses = {}, {}
    for name, count in counts.items():
        pairs = pictures.captioned(cfg, count=count)
        found = learned_translators({name: features}, pairs, language, settings, {name: seed}, cfg.device)[name]
        held_out[name] = found.held_out
        losses[name] = (
            held_out_losses(found.translator, z, told, language.decoder, len(language.prompt), language.pad)
            .double()
            .numpy()
        )
    return Learning(held_out, losses)
