"""The pictures of paper 2: drawn scenes under the mini profile; ImageNet-9, Waterbirds and COCO under the other."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import ConcatDataset

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.datasets import captions as real_captions
from xaikit.datasets import imagenet9
from xaikit.datasets import waterbirds as real_waterbirds
from xaikit.models import clip_vit_mini
from xaikit.storage.paths import DATASETS
from xaikit.storage.seeding import rng
from xaikit.studies.clip_pictures import WORLD, Prepared, read_birds
from xaikit.studies.vlm_pictures import Classified
from xaikit.world import SceneSet
from xaikit.world.language import article
from xaikit.world.scene_nine import HOMES

BIRDS = ("landbird", "waterbird")


@dataclass(frozen=True, eq=False)
class Grouped(Classified):
    """Classified images, each in one of the groups of `group_names`."""

    groups: Int64[Tensor, " images"] = dataclasses.field(kw_only=True)
    group_names: tuple[str, ...] = real_waterbirds.GROUP_NAMES

    def named_groups(self) -> list[str]:
        """The name of each image's group."""
        return [self.group_names[group] for group in self.groups.tolist()]


def nine(cfg: Settings, seed: int, split: str, variant: str = "original") -> Classified:
    """The nine categories in a variant of the Background Challenge; drawn things are at home in nine of ten cases."""
    if cfg.data == WORLD:
        scenes = world.nine(cfg.nine[split], seed=seed, split=split, alignment=0.9, variant=variant)
        names = tuple(str(value) for value in scenes.values("category"))
        return Classified(scenes.images(cfg.size), scenes.labels("category"), names, _prompts(names), scenes)
    found = imagenet9.read_imagenet9(DATASETS / cfg.imagenet9, variant, check="subset" not in cfg)
    chosen = rng(seed, "nine").permutation(len(found))[: cfg.nine[split]]  # the same images of each variant
    found = found.select(sorted(chosen.tolist()))
    return Classified(Prepared(found, cfg.size), found.labels, found.names, _prompts(found.names))


def birds(cfg: Settings, seed: int, split: str) -> Grouped:
    """Waterbirds and landbirds; 95 % of those in training are at home, half of the others."""
    if cfg.data == WORLD:
        scenes = world.birds(cfg.birds[split], seed=seed, split=split)
        groups = scenes.labels("group")
        return Grouped(scenes.images(cfg.size), groups // 2, BIRDS, _prompts(BIRDS), scenes, groups=groups)
    found = read_birds(cfg, seed, split)
    return Grouped(Prepared(found, cfg.size), found.labels, BIRDS, _prompts(BIRDS), groups=found.groups)


@dataclass(frozen=True, eq=False)
class Captioned:
    """Images in [0, 1] by position, with the captions of each."""

    images: Any
    captions: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.captions)


def captioned(
    cfg: Settings, families: Sequence[str] = (), size: int | None = None, *, count: int | None = None, skip: int = 0
) -> Captioned:
    """The image-caption pairs that translators learn from: general ones, not those explained.

    There are `count` of them, `cfg.pairs` by default, after the first `skip`; images are of `size` pixels, by default
    the profile's. Drawn ones, of the `families` given, of the profile's or of all, are some of those that the mini
    captioner learned from, as COCO is of BLIP's. Raises ValueError for families that the corpus does not have.
    """
    size, count, families = size or cfg.size, count or cfg.pairs, families or cfg.get("families", ())
    if cfg.data != WORLD:
        found = real_captions.read_coco(DATASETS / cfg.coco, "train")
        found = found.select(range(min(skip, len(found)), min(skip + count, len(found))))
        return Captioned(Prepared(found, size), found.captions)
    parts: dict[str, SceneSet] = {
        name: scenes for name, scenes in clip_vit_mini.corpus().items() if not families or name in families
    }
    if not parts:
        raise ValueError(f"The corpus has no scenes of {', '.join(families)}: name families of the world.")
    first, last = skip // len(parts), (skip + count) // len(parts)
    parts = {name: scenes[first:last] for name, scenes in parts.items()}
    images = ConcatDataset([scenes.images(size) for scenes in parts.values()])
    return Captioned(images, [five for name, scenes in parts.items() for five in clip_vit_mini.captions(name, scenes)])


def generator_prompts(cfg: Settings, seed: int) -> dict[str, list[str]]:
    """What the generator is asked to draw of each of `cfg.categories`: `cfg.generated` pictures.

    Each prompt, a caption, stands there `cfg.images_a_prompt` times on end, as each of the paper's has 100 pictures.
    """
    each = min(cfg.images_a_prompt, cfg.generated)
    if cfg.generated % each:
        raise ValueError(
            f"{cfg.generated} pictures of a category are no whole number of {each} a prompt: mend the profile."
        )
    found = _captions_of_categories(cfg, seed)
    return {name: [text for text in texts for _ in range(each)][: cfg.generated] for name, texts in found.items()}


def _captions_of_categories(cfg: Settings, seed: int) -> dict[str, list[str]]:
    if cfg.data == WORLD:
        scenes = list(world.nine(len(HOMES) * cfg.generated, seed=seed, split="validation"))
        return {name: [scene.captions[0] for scene in scenes if scene.category == name] for name in cfg.categories}
    found = real_captions.read_coco(DATASETS / cfg.coco, "val")
    return {name: real_captions.captions_naming(found, name)[: cfg.generated] for name in cfg.categories}


def _prompts(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"a photo of {article(name)}" for name in names)


def batches(images: Any, count: int, size: int) -> Iterator[Tensor]:
    """The images at positions 0 to `count`, `size` at a time."""
    for start in range(0, count, size):
        yield torch.stack([images[index] for index in range(start, min(start + size, count))])
