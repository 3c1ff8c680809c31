"""The pictures of paper 3: drawn cars and people under the mini profile, StanfordCars and IdenProf under the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.datasets import idenprof, stanford_cars
from xaikit.metrics.pointing import box_masks
from xaikit.perturbation.faces import Box, find_faces, mtcnn, read_boxes, write_boxes
from xaikit.perturbation.texts import craft
from xaikit.storage.paths import DATASETS
from xaikit.storage.seeding import generator, rng
from xaikit.studies.choosing import part_of
from xaikit.studies.clip_pictures import WORLD, Prepared
from xaikit.world import SceneSet
from xaikit.world.language import article

CARS, OCCUPATION = "cars", "occupation"
TASKS = (CARS, OCCUPATION)


@dataclass(frozen=True, eq=False)
class Classified:
    """Images in [0, 1] by position, the class of each, and the prompt of each class.

    `scenes` are what the images were drawn from, where they were drawn.
    """

    images: Any
    labels: Int64[Tensor, " images"]
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    scenes: SceneSet | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int = 128) -> Iterator[Float[Tensor, "batch 3 height width"]]:
        """The images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.stack(range(start, min(start + size, len(self))))

    def stack(self, positions: Sequence[int]) -> Float[Tensor, "chosen 3 height width"]:
        """The images at `positions`, in that order."""
        return torch.stack([self.images[int(index)] for index in positions])


def task(name: str, cfg: Settings, seed: int, split: str, *, workplace: float = 1.0) -> Classified:
    """The images of one of `TASKS`: `split` is train or test; a share `workplace` of drawn people is at their own.

    Drawn cars are told apart by make and model; half of them have the name of their make on the door, never another.
    Drawn people look as is usual for their profession in nine cases of ten in training, in half of them in the test.
    """
    if cfg.data != WORLD:
        read = {CARS: stanford_cars.read_cars, OCCUPATION: idenprof.read_professions}[name]
        # One that is damaged is left out by name, and stops no run after hours.
        found = part_of(read(DATASETS / cfg.folders[name], split), cfg, seed, name, split).readable()
        prompts = tuple(f"a photo of a {each}" for each in found.names)
        return Classified(Prepared(found, cfg.size), found.labels, found.names, prompts)
    if name == CARS:
        scenes = world.cars(cfg[split][CARS], seed=seed, split=split, written=0.5, alignment=1.0)
        makes, models = scenes.values("make"), scenes.values("model")
        names = tuple(f"{make} {model}" for make in makes for model in models)
        labels = scenes.labels("make") * len(models) + scenes.labels("model")
    else:
        alignment = {"train": 0.9, "test": 0.5}[split]
        scenes = world.people(cfg[split][OCCUPATION], seed=seed, split=split, alignment=alignment, workplace=workplace)
        names = tuple(str(value) for value in scenes.values("profession"))
        labels = scenes.labels("profession")
    prompts = tuple(f"a photo of {article(name)}" for name in names)
    return Classified(scenes.images(cfg.size), labels, names, prompts, scenes)


def harder(name: str, cfg: Settings, seed: int, split: str) -> Classified:
    """The pictures of Table 2: of drawn ones such that not all are told apart, with `cfg.grain` on every pixel.

    Half of the people are where another profession works. Photographs are what they are.
    """
    found = task(name, cfg, seed, split, workplace=0.5)
    return found if found.scenes is None else grainy(found, cfg.grain[name], seed, split)


def grainy(data: Classified, deviation: float, seed: int, split: str) -> Classified:
    """The same pictures with Gaussian noise of that deviation on every pixel, so that not all are told apart."""
    images = data.stack(range(len(data)))
    grain = torch.randn(images.shape, generator=generator(seed, "grain", split, len(data)))
    return replace(data, images=(images + deviation * grain).clamp(0, 1))


def attacked(data: Classified, positions: Int64[Tensor, " chosen"]) -> Classified:
    """Drawn cars with the name of the next make on the door, and the class that the name lies for: that make's.

    Typographic attacks: the word is the only thing in the picture that speaks for the class.
    Source: Goh et al. (2021).
    """
    makes, found = data.scenes.values("make"), data.scenes[positions]
    others = (found.labels("make") + 1) % len(makes)
    texts = found.family.values("text")
    codes = np.array([texts.index(makes[other]) for other in others.tolist()], np.int64)
    scenes = SceneSet(found.family, found.seeds, {**found.codes, "text": codes})
    labels = others * len(found.values("model")) + found.labels("model")
    return Classified(scenes.images(data.images.shape[-1]), labels, data.names, data.prompts, scenes)


# --- parts of drawn pictures --------------------------------------------------------------------------------------


def regions(data: Classified, part: str, size: int) -> Bool[Tensor, "images height width"]:
    """Where a part of drawn scenes is seen, by image; nowhere in photographs, where nobody knows."""
    if data.scenes is None:
        return torch.zeros(len(data), size, size, dtype=torch.bool)
    return data.scenes.masks(part, size)


def text_regions(
    data: Classified, positions: Int64[Tensor, " chosen"], cfg: Settings
) -> tuple[Bool[Tensor, "chosen height width"], str | None]:
    """Where the pictures at `positions` show writing, and why that is not known, where it is not.

    Drawn scenes know it. The boxes of photographs are read from texts.json, beside the folder that they are in, so that
    they can come from anywhere (`write_boxes`). For a picture that is not listed there a detector is asked, where one
    is installed (`perturbation.texts`), and its boxes are added to the file.
    """
    if data.scenes is not None:
        return data.scenes.masks("text", cfg.size)[positions], None
    photographs, size = data.images.photographs, (cfg.size, cfg.size)
    file = photographs.root.parent / "texts.json"
    boxes = read_boxes(file) if file.is_file() else {}
    unlisted = [index for index in positions.tolist() if photographs.ids[index] not in boxes]
    reason = None
    if unlisted:
        try:
            pixels = ((photographs.ids[i], photographs[i].image.permute(1, 2, 0).numpy()) for i in unlisted)
            boxes |= find_faces(pixels, craft(cfg.device))
            write_boxes(file, boxes)
        except ImportError as error:
            reason = f"{file.name} lists {len(positions) - len(unlisted)} of {len(positions)} pictures, and {error}"
    found = torch.zeros(len(positions), *size, dtype=torch.bool)
    for row, index in enumerate(positions.tolist()):
        own = boxes.get(photographs.ids[index], ())
        shown = [box for each in own if (box := cropped(each, photographs[index].image.shape[1:], cfg.size))]
        if shown:
            found[row] = box_masks(shown, size).any(0)
    return found, reason


OBJECTS = {CARS: "car", OCCUPATION: "person"}
USED = {CARS: ("emblem", "body"), OCCUPATION: ("clothing", "headwear")}  # what flips most answers when it is redrawn


def oracle(data: Classified, task: str, size: int) -> Bool[Tensor, "images height width"]:
    """Where the parts are that intervention says are used; nowhere in photographs."""
    return torch.stack([regions(data, part, size) for part in USED[task]]).any(0)


@dataclass(frozen=True, eq=False)
class Cause:
    """Pictures of a task, which ones of it (`chosen`), after one cause was changed; and the part that shows it.

    `region` is where the part is seen in every picture of the task, before.
    """

    task: str
    part: str
    chosen: Int64[Tensor, " chosen"]
    after: Classified
    region: Bool[Tensor, "images height width"]


def causes(test: dict[str, Classified], size: int) -> list[Cause]:
    """What drawn pictures of both tasks show, and how it is changed; nothing for photographs.

    Clothing, tool and place become those of the next profession; make, model and place of a car become the next ones;
    looks are exchanged, faces hidden. The name on a car is replaced by that of another make, on those that have one;
    where none has, that cause is left out.
    """
    if any(data.scenes is None for data in test.values()):
        return []
    found = []
    for part, factor in (("face", "face_mask"), ("hair", "presentation"), ("clothing", "clothing"), ("tool", "tool"),
                         ("background", "background")):  # fmt: skip
        found.append(_cause(OCCUPATION, part, test[OCCUPATION], factor, size))
    for part, factor in (("text", "text"), ("emblem", "make"), ("body", "model"), ("background", "background")):
        if factor != "text" or len(with_text(test[CARS])):
            found.append(_cause(CARS, part, test[CARS], factor, size))
    return found


def _cause(task: str, part: str, data: Classified, factor: str, size: int) -> Cause:
    chosen = with_text(data) if factor == "text" else torch.arange(len(data))
    changed = []
    for scene in data.scenes[chosen]:
        # `factors` has the cues of people resolved; a car's text keeps to names.
        values = [value for value in scene.values(factor) if value is not None]
        changed.append(scene.replace(**{factor: values[(values.index(scene.factors[factor]) + 1) % len(values)]}))
    scenes = SceneSet.of(changed)
    after = Classified(scenes.images(size), data.labels[chosen], data.names, data.prompts, scenes)
    return Cause(task, part, chosen, after, data.scenes.masks(part, size))


def with_text(data: Classified) -> Int64[Tensor, " chosen"]:
    """The positions of drawn cars with a name on the door."""
    return (data.scenes.labels("text") > 0).nonzero()[:, 0]


# --- faces --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Portraits:
    """People twice, as they are and with a black patch on the face, and where the patch is.

    `presentation` numbers `presentations`, -1 where nothing is known.
    """

    original: Float[Tensor, "images 3 height width"]
    masked: Float[Tensor, "images 3 height width"]
    faces: Bool[Tensor, "images height width"]
    labels: Int64[Tensor, " images"]
    presentation: Int64[Tensor, " images"]
    presentations: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: Int64[Tensor, " chosen"]) -> "Portraits":
        """The people at `positions`, in that order."""
        parts = (self.original, self.masked, self.faces, self.labels, self.presentation)
        return Portraits(*(part[positions] for part in parts), self.presentations)


def by_looks(people: Portraits) -> dict[str, Bool[Tensor, " images"]]:
    """Which people are of each group: of all, and of each look that is known; none of one person, who says nothing."""
    groups = {"all": torch.ones(len(people), dtype=torch.bool)}
    groups |= {looks: people.presentation == number for number, looks in enumerate(people.presentations)}
    return {group: members for group, members in groups.items() if members.sum() > 1}


def portraits(data: Classified, cfg: Settings, seed: int) -> Portraits:
    """The people of a task, with and without a black patch over the box of their face.

    Drawn people know their face. Of photographs `cfg.portraits` are taken, in random order, in which MTCNN finds
    exactly one face; the boxes are kept in faces.json beside them, and are read from there when it is there, so that
    they can come from anywhere. What the people look like is not known in photographs: the paper's 200 pictures with
    that note were never released.
    """
    size = (cfg.size, cfg.size)
    if data.scenes is not None:
        masked = data.scenes.replace(face_mask=True)
        boxes = [scene.boxes(cfg.size)["face"] for scene in masked]
        if hidden := [place for place, found in enumerate(boxes) if not found]:
            raise ValueError(f"Nothing is seen of the face of person {hidden[0]}: draw at more than {cfg.size} pixels.")
        faces = box_masks([found[0] for found in boxes], size)
        looks = tuple(str(value) for value in data.scenes.values("presentation"))
        images = data.scenes.images(cfg.size), masked.images(cfg.size)
        return Portraits(*images, faces, data.labels, data.scenes.labels("presentation"), looks)
    photographs = data.images.photographs
    file = photographs.root.parent / "faces.json"
    if not file.is_file():
        pixels = ((p.id, p.image.permute(1, 2, 0).numpy()) for p in photographs)
        write_boxes(file, find_faces(pixels, mtcnn(cfg.device)))
    boxes = read_boxes(file)
    chosen, found = [], []
    for index in rng(seed, "portraits").permutation(len(photographs)).tolist():
        name = photographs.ids[index]
        if len(chosen) < cfg.portraits and len(boxes.get(name, ())) == 1:
            box = cropped(boxes[name][0], photographs[index].image.shape[1:], cfg.size)
            if box is not None:
                chosen.append(index)
                found.append(box)
    if not chosen:
        raise ValueError(f"{file} has no photograph with exactly one face: delete it to detect faces anew.")
    faces, images = box_masks(found, size), data.stack(chosen)
    masked = torch.where(faces[:, None], 0.0, images)
    unknown = torch.full((len(chosen),), -1)
    return Portraits(images, masked, faces, data.labels[chosen], unknown, ())


def cropped(box: Sequence[float | int], size: Sequence[int], side: int) -> Box | None:
    """Where a box in a photograph of `size` (height, width) lies once it is resized and cropped as `Prepared` does it.

    None where less than one pixel of it is left.
    """
    height, width = size
    new = [edge * side // min(height, width) for edge in (height, width)]
    down, across = new[0] / height, new[1] / width
    top, left = (round((edge - side) / 2) for edge in new)
    x0, x1 = (min(max(x * across - left, 0.0), float(side)) for x in (box[0], box[2]))
    y0, y1 = (min(max(y * down - top, 0.0), float(side)) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
