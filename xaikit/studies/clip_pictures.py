"""The pictures and texts of paper 4: drawn scenes under the mini profile, the paper's data sets under its own."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.companion.record import is_published, published
from xaikit.datasets import imagenet
from xaikit.datasets import waterbirds as real_waterbirds
from xaikit.datasets.imagenet_segmentation import read_segmentation
from xaikit.models.clip import Clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.paths import DATASETS
from xaikit.storage.seeding import generator, rng
from xaikit.studies.choosing import part_of
from xaikit.studies.clip_decomposition import Backbone, Decomposed, Head, Pool, topics_of
from xaikit.world import Scene, SceneSet
from xaikit.world.language import article
from xaikit.world.scene import Value
from xaikit.world.scene_birds import Birds

WORLD = "world"  # the value of a profile's `data` that asks for drawn scenes


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images in [0, 1] by position, the class of each, and what else is known of them.

    `prompts` holds the sentences of each class, `families` its family: an image is chosen a class among those of its
    own class's family (ImageNet has one family; the mini CLIP learned to tell captions apart within a family only).
    `factors` gives for each topic the value's number, -1 where an image
    has no such factor. `groups` numbers the groups of `group_names`, where there are any. `what` names the data set and
    its split; `ids` stand for the images in a store, where these are files.
    """

    what: str

    images: Any
    labels: Int64[Tensor, " images"]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    families: Int64[Tensor, " classes"]
    factors: dict[str, Int64[Tensor, " images"]]
    groups: Int64[Tensor, " images"] | None = None
    group_names: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def choices(self) -> Bool[Tensor, "images classes"]:
        """The classes that each image can have."""
        return self.families[self.labels][:, None] == self.families

    def class_name(self, index: int) -> str:
        """The name of the class of an image."""
        return self.names[int(self.labels[index])]


class Prepared(Dataset):
    """Photographs of any size as the model sees them, but in [0, 1]: resized and cropped one by one."""

    def __init__(self, photographs: Sequence[Any], size: int) -> None:
        self.photographs = photographs
        self.crop = Preprocessed(torch.nn.Identity(), size, (0.0,) * 3, (1.0,) * 3).prepare

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> Float[Tensor, "3 size size"]:
        return self.crop(self.photographs[index].image[None] / 255)[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the files, each with its size in bytes, of photographs that lie in files."""
        return tuple(f"{path.name} {path.stat().st_size}" for path in self.photographs.paths)


# --- what is classified -------------------------------------------------------------------------------------------


def classification(cfg: Settings, seed: int, split: str = "test") -> Labelled:
    """The images of the zero-shot classification: all classes of the drawn world, or ImageNet.

    Of the drawn scenes nothing goes together: each class is anywhere. ImageNet's validation images are test images, as
    in the paper; as its "validation" part serve every tenth of them, which then are no test images.
    """
    if cfg.data == WORLD:
        return _scenes(cfg.per_class, seed, split)
    everything = imagenet.read_validation(DATASETS / cfg.imagenet, subset="subset" in cfg, least=2 * cfg.size)
    held_out = [index % 10 == 0 for index in range(len(everything))]
    chosen = everything.select([i for i, out in enumerate(held_out) if out == (split == "validation")])
    chosen = part_of(chosen, cfg, seed, "imagenet", split)
    prompts = tuple(tuple(imagenet.prompts(name)) for name in imagenet.CLASS_NAMES)
    one_family = torch.zeros(len(prompts), dtype=torch.int64)
    images, what = Prepared(chosen, cfg.size), f"ImageNet {split}"
    known = {"object": chosen.labels}
    return Labelled(what, images, chosen.labels, imagenet.CLASS_NAMES, prompts, one_family, known, ids=images.ids)


def _scenes(per_class: int, seed: int, split: str) -> Labelled:
    """Scenes of all families: `per_class` of each of the 8 species, 9 categories and 10 professions.

    So many of each of the 16 cars are there on average: makes and models are dealt on their own, so it is left to the
    seed how often each pair of them is there.
    """
    sets = {
        "birds": world.birds(8 * per_class, seed=seed, split=split, alignment=0.5),
        "nine": world.nine(9 * per_class, seed=seed, split=split, alignment=1 / 9),
        "people": world.people(10 * per_class, seed=seed, split=split, alignment=0.5, workplace=0.1),
        "cars": world.cars(16 * per_class, seed=seed, split=split, written=0.5, alignment=1.0),
    }
    names: list[str] = []
    labels, families = [], []
    for number, (family, scenes) in enumerate(sets.items()):
        own, label = _classes(family, scenes)
        labels.append(label + len(names))
        families += [number] * len(own)
        names += own
    label = torch.cat(labels)
    # The names of the same factor in different families; -1 where a family has none.
    topics = {
        "object": None,
        "colour": {"birds": "colour", "nine": "colour", "cars": "colour"},
        "count": {"birds": "count"},
        "place": {"birds": "place", "nine": "place", "people": "place", "cars": "background"},
        "pattern": {"nine": "pattern"},
        "looks": {"people": "presentation"},
        "text": {"cars": "text"},
    }
    factors = {topic: label if columns is None else _joined(sets, columns) for topic, columns in topics.items()}
    prompts = tuple((prompt_of(name),) for name in names)
    images = ConcatDataset([scenes.images() for scenes in sets.values()])
    return Labelled(f"scenes {split}", images, label, tuple(names), prompts, torch.tensor(families), factors)


def prompt_of(name: str) -> str:
    """The sentence of a class of the drawn world."""
    return f"a photo of {article(name)}"


def _classes(family: str, scenes: SceneSet) -> tuple[list[str], Int64[Tensor, " n"]]:
    """The class names of a family and the class of each scene; a car's class is its make and model."""
    if family != "cars":
        own = scenes.family.CLASS
        return [str(value) for value in scenes.values(own)], scenes.labels(own)
    makes, models = scenes.values("make"), scenes.values("model")
    names = [f"{make} {model}" for make in makes for model in models]
    return names, scenes.labels("make") * len(models) + scenes.labels("model")


def _joined(sets: dict[str, SceneSet], columns: dict[str, str]) -> Int64[Tensor, " images"]:
    """One factor over all families, its values numbered by their names."""
    numbers: dict[Any, int] = {}
    parts = []
    for family, scenes in sets.items():
        if family in columns:
            values = [numbers.setdefault(value, len(numbers)) for value in scenes.values(columns[family])]
            parts.append(torch.tensor(values)[scenes.labels(columns[family])])
        else:
            parts.append(torch.full((len(scenes),), -1))
    return torch.cat(parts)


def read_birds(cfg: Settings, seed: int, split: str) -> real_waterbirds.Waterbirds:
    """The photographs of one split of Waterbirds, or the part of them that the profile asks for."""
    name = {"validation": "val"}.get(split, split)
    found = real_waterbirds.read_waterbirds(DATASETS / cfg.waterbirds, name, check="subset" not in cfg)
    return part_of(found, cfg, seed, "waterbirds", split)


def waterbirds(cfg: Settings, seed: int, split: str = "test") -> Labelled:
    """Waterbirds and landbirds, each as often on water as on land, with the four groups."""
    if cfg.data == WORLD:
        scenes = world.birds(cfg.birds[split], seed=seed, split=split, alignment=0.5)
        names = ("landbird", "waterbird")
        groups = scenes.labels("group")
        label, background = groups // 2, groups % 2
        images, ids = scenes.images(), None
        prompts = tuple((Birds.PROMPTS["kind"][name],) for name in names)
    else:
        chosen = read_birds(cfg, seed, split)
        names, label, background = real_waterbirds.CLASS_NAMES, chosen.labels, chosen.backgrounds
        images, groups = Prepared(chosen, cfg.size), chosen.groups
        ids = images.ids
        prompts = tuple(tuple(imagenet.prompts(name)) for name in names)
    factors = {"object": label, "place": background}
    families = torch.zeros(len(names), dtype=torch.int64)
    known = real_waterbirds.GROUP_NAMES
    return Labelled(f"Waterbirds {split}", images, label, names, prompts, families, factors, groups, known, ids)


SPLITS = ("validation", "test")  # of both data sets, whose decompositions the notebook reads


def decomposed(cfg: Settings, model: Backbone, data: Labelled) -> Decomposed:
    """The decomposition of a data set by a model, read from its store, which is filled where it is not yet.

    `xaikit extract` fills the same ones beforehand.
    """
    how = f"{cfg.size} pixels, {data.images.crop.__self__!r}" if isinstance(data.images, Prepared) else "drawn"
    about = {**model.about, "images": data.what, "preprocessing": " ".join(how.split())}
    return Decomposed.of(
        model.clip, data.images, f"{data.what} by {model.name}", ids=data.ids, about=about,
        dtype=getattr(torch, cfg.store_dtype), workers=cfg.get("workers", 0),
    )  # fmt: skip


# --- what is segmented ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Segmented:
    """Images in [0, 1] with the masks of their objects, by position, and the prompts of the classes they may have."""

    read: Callable[[int], tuple[Tensor, Tensor]]
    count: int
    prompts: tuple[tuple[str, ...], ...]

    def batches(
        self, size: int
    ) -> Iterator[tuple[Float[Tensor, "batch 3 height width"], Bool[Tensor, "batch height width"]]]:
        """Batches of `size`, in order; images without an object are left out."""
        for start in range(0, self.count, size):
            pairs = [self.read(index) for index in range(start, min(start + size, self.count))]
            if pairs := [(image, mask) for image, mask in pairs if mask.any()]:
                yield torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


def segmentation(cfg: Settings, seed: int) -> list[Segmented]:
    """Images of single objects with exact masks, by family: drawn birds and things, or ImageNet-Segmentation."""
    if cfg.data == WORLD:
        half = cfg.segmented // 2
        birds = world.birds(half, seed=seed, split="test", alignment=0.5).replace(count=1)
        things = world.nine(half, seed=seed, split="test", alignment=1 / 9)
        return [_segmented(birds, "birds"), _segmented(things, "object")]
    scenes = read_segmentation(DATASETS / cfg.segmentation, cfg.size, cfg.alignment, check="subset" not in cfg)
    count = min(len(scenes), cfg.get("subset", len(scenes)))
    prepared = Prepared(scenes, cfg.size)
    prompts = tuple(tuple(imagenet.prompts(name)) for name in imagenet.CLASS_NAMES)
    return [Segmented(lambda index: (prepared[index], scenes[index].mask), count, prompts)]


def photographs_with_masks(
    cfg: Settings, seed: int, count: int
) -> tuple[
    Float[Tensor, "photographs 3 size size"], Bool[Tensor, "photographs size size"], tuple[tuple[str, ...], ...]
]:
    """So many photographs of ImageNet-Segmentation, or all there are, with the masks of their things, at random.

    Beside them the prompts of the classes that they may have.
    """
    (photographs,) = segmentation(cfg, seed)
    chosen = rng(seed, "photographs with masks").permutation(photographs.count)[:count]
    pairs = [(image, mask) for image, mask in map(photographs.read, map(int, chosen)) if mask.any()]
    images, masks = (torch.stack(each) for each in zip(*pairs, strict=True))
    return images, masks, photographs.prompts


def _segmented(scenes: SceneSet, part: str) -> Segmented:
    images, masks = scenes.images(), scenes.masks(part)
    prompts = tuple((prompt_of(str(name)),) for name in scenes.values(scenes.family.CLASS))
    return Segmented(lambda index: (images[index], masks[index]), len(images), prompts)


def heatmap_examples(cfg: Settings, seed: int) -> tuple[Float[Tensor, "images 3 height width"], list[str]]:
    """A few images, and texts to look for in them."""
    texts = list(cfg.heatmap_texts)
    if cfg.data == WORLD:
        return torch.stack([SceneSet.of([scene]).images()[0] for scene in heatmap_scenes(seed)]), texts
    data = classification(cfg, seed)
    chosen = rng(seed, "heatmaps").choice(len(data), min(4, len(data)), replace=False)
    return torch.stack([data.images[int(index)] for index in chosen]), texts


def heatmap_scenes(seed: int) -> list[Scene]:
    """Two birds on water, one on land, a red dog, and a car with a name on its door."""
    birds = world.birds(200, seed=seed, split="test", alignment=0.5)
    things = world.nine(100, seed=seed, split="test", alignment=0.0)
    cars = world.cars(100, seed=seed, split="test", written=1.0)
    return [
        scene_with(birds, count=2, background="water"),
        scene_with(birds, count=1, background="land"),
        scene_with(things, category="dog", colour="red"),
        cars[0],
    ]


def scene_with(scenes: SceneSet, **factors: Value) -> Scene:
    """The first scene with these factors; where no scene has them all, the first one, drawn anew with them.

    Which factors meet in a set is left to its seed, so whoever needs a certain picture asks for it here.
    Raises ValueError for no scene, and for factors and values that the family does not have.
    """
    if not len(scenes):
        raise ValueError("There is no scene to choose from: make a set of at least one.")
    anew = scenes[:1].replace(**factors)  # also says what is wrong with the factors
    matches = np.all([scenes.codes[name] == anew.codes[name] for name in factors], axis=0)
    return scenes[int(matches.argmax())] if matches.any() else anew[0]


# --- texts ----------------------------------------------------------------------------------------------------------


POOLS = ("general", "common words", "class-specific", "random")
_FILES = {
    "general": "image_descriptions_general.txt",
    "common words": "google_3498_english.txt",
    "class-specific": "image_descriptions_per_class.txt",
}


def pools(cfg: Settings, clip: Clip, seed: int, names: Sequence[str] = POOLS) -> dict[str, Pool]:
    """The pools of candidate texts: general descriptions, common words, class-specific texts, random directions.

    Under the mini profile they come from the world's own grammar, as its CLIP knows no other words; the common words
    are its whole vocabulary. Under the paper profile they are the published lists. Of random directions there are as
    many as of general descriptions.
    """
    draw = rng(seed, "pools")
    made: dict[str, Sequence[str]] = {}
    if cfg.data == WORLD:
        made["general"] = world.descriptions(draw, cfg.pool)
        special = [f"<{name}>" for name in ("pad", "unk", "start", "end")]
        made["common words"] = sorted(word for word in clip.tokenizer.tokenizer.get_vocab() if word not in special)
        each = cfg.class_pool // len(world.FAMILIES)
        made["class-specific"] = [
            text for family in world.FAMILIES.values() for text in world.class_descriptions(family, draw, each)
        ]
    else:
        for name in (name for name in _FILES if name in names):
            lines = (DATASETS / cfg.text_pools / _FILES[name]).read_text(encoding="utf-8").splitlines()
            made[name] = distinct_texts(clip, lines, _FILES[name])
    found = {name: Pool.of(clip, texts) for name, texts in made.items() if name in names}
    if "random" in names:
        size, features = found["general"].embeddings.shape
        found["random"] = Pool.random(size, features, generator(seed, "pools", "random"))
    return found


DRAWS = 3  # of the texts: is a role that of a head, or of the draw?


def draws_of_two_topics(cfg: Settings, clip: Clip, seed: int, general: Pool) -> list[Pool]:
    """The general pool and two more: drawn anew from the world's grammar, or random halves of the authors' list."""
    found = [general]
    for number in range(1, DRAWS):
        draw = rng(seed, "pools", "two topics", number)
        if cfg.data == WORLD:
            found.append(Pool.of(clip, world.descriptions(draw, cfg.pool)))
        else:
            half = sorted(draw.permutation(len(general.texts))[: (len(general.texts) + 1) // 2].tolist())
            found.append(Pool(general.embeddings[half], tuple(general.texts[row] for row in half)))
    return found


def draws_of_one_topic(cfg: Settings, clip: Clip, seed: int, general: Pool) -> list[tuple[Pool, Pool]]:
    """Pools of texts that name one topic each, as many of every topic, and for each pool texts that it lacks.

    From the world's grammar, the others being its phrases without an opener; or the texts of the authors' list whose
    words name exactly one of the profile's topics. Of those a topic may have too few: two thirds are then in the pool,
    and with less than three it is left out.
    """
    if cfg.data == WORLD:
        plain = Pool.of_topics(clip, world.one_topic_phrases())
        draws = [rng(seed, "pools", "one topic", number) for number in range(DRAWS)]
        return [(Pool.of_topics(clip, world.one_topic_descriptions(each, cfg.one_topic)), plain) for each in draws]
    found = []
    wanted = cfg.one_topic + cfg.one_topic // 2
    known: dict[str, list[str]] = {topic: [] for topic in cfg.topics}
    for text in general.texts:
        if len(named := topics_of(text, cfg.topics)) == 1:
            known[named[0]].append(text)
    for number in range(DRAWS):
        draw = rng(seed, "pools", "one topic", number)
        drawn = {
            topic: [texts[i] for i in draw.permutation(len(texts))[:wanted]]
            for topic, texts in known.items() if len(texts) > 2
        }  # fmt: skip
        halves = (
            {topic: texts[: 2 * len(texts) // 3] for topic, texts in drawn.items()},
            {topic: texts[2 * len(texts) // 3 :] for topic, texts in drawn.items()},
        )
        found.append((Pool.of_topics(clip, halves[0]), Pool.of_topics(clip, halves[1])))
    return found


def distinct_texts(clip: Clip, lines: Sequence[str], name: str) -> list[str]:
    """The lines of a list that say something, the first of those that are the same to the model.

    CLIP lowercases, so "A photo of Cardiff" and "a photo of cardiff" are one text; a warning counts what was merged.
    """
    texts = [line.strip() for line in lines if line.strip()]
    first: dict[bytes, str] = {}
    merged = []
    for start in range(0, len(texts), 1_000):
        part = texts[start : start + 1_000]
        for text, row in zip(part, clip.tokenizer(part).numpy(), strict=True):
            if row.tobytes() in first:
                merged.append(text)
            else:
                first[row.tobytes()] = text
    if merged:
        named = ", ".join(map(repr, merged[:5])) + (", …" if len(merged) > 5 else "")
        warnings.warn(
            f"{name}: {len(merged)} of {len(texts)} texts are to the model what an earlier one is, and are left out: "
            f"{named}", stacklevel=2,
        )  # fmt: skip
    return list(first.values())


# --- what the paper says --------------------------------------------------------------------------------------------


def published_id(model: Backbone, pattern: str | None) -> str | None:
    """The id of a published number, `{model}` in its pattern being the model; None for a model that has none.

    Numbers that name no model stand beside the first one.
    """
    if pattern is None or ("{model}" in pattern and model.published_as is None) or not (model.first or "{" in pattern):
        return None
    return f"gandelsman.{pattern.format(model=model.published_as)}"


def published_heads(model: Backbone) -> tuple[Head, ...]:
    """The heads for places that the authors chose by hand for a model of theirs, to silence them; none for others."""
    if not model.is_the_papers:
        return ()
    base = f"waterbirds.{model.published_as}.ablated"
    return tuple(dict.fromkeys(head for kind in ("geo", "setting") for head in _numbered(f"{base}.{kind}")))


# What the paper calls a head of ViT-L-14, and the topic that this is here.
_NAMED = {
    "geo-locations": "place", "counting": "count", "colours": "colour", "animals": "object", "textures": "pattern",
    "shapes": "shape",
}  # fmt: skip


def named_heads(model: Backbone) -> dict[str, tuple[Head, ...]]:
    """The heads of a model that the paper gives a role, by topic: those in its table, and those for places."""
    found: dict[str, list[Head]] = {}
    if model.is_the_papers and model.published_as == "vit-l-14":
        for kind, topic in _NAMED.items():
            found.setdefault(topic, []).append(_head(f"heads.{kind}"))
    for head in published_heads(model):
        found.setdefault("place", []).append(head)
    return {topic: tuple(dict.fromkeys(heads)) for topic, heads in found.items()}


def _numbered(start: str) -> Iterator[Head]:
    number = 1
    while is_published(f"gandelsman.{start}-{number}.layer"):
        yield _head(f"{start}-{number}")
        number += 1


def _head(id: str) -> Head:
    return int(published(f"gandelsman.{id}.layer")), int(published(f"gandelsman.{id}.head"))
