"""Planted readers: small networks of which intervention shows what they read, and nothing else.

Each is trained in the drawn world on scenes whose factors have nothing to do with each other, to name one factor that
is seen in one part of the picture. To redraw that factor changes its answer, to redraw any other one does not: so an
explanation has to point at that part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from tqdm import tqdm

from xaikit import world
from xaikit.companion.profiles import Settings
from xaikit.metrics.pointing import box_masks, pointing_game
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.seeding import generator, rng, seed_for
from xaikit.storage.side_by_side import fetch_all, side_by_side
from xaikit.studies.vlm_explanations import Found, maps, rank_in, recipe_of
from xaikit.studies.vlm_pictures import CARS, OCCUPATION
from xaikit.world import SceneSet


@dataclass(frozen=True)
class Reader:
    """What a network is to read: a `factor` of the drawn pictures of a `task`, seen in `parts` of them."""

    task: str
    factor: str
    parts: tuple[str, ...]


READERS = {
    "text": Reader(CARS, "text", ("text",)),
    "body": Reader(CARS, "model", ("body", "wheels")),
    "face": Reader(OCCUPATION, "face_mask", ("face",)),  # a black patch, or none
    "clothing": Reader(OCCUPATION, "clothing", ("clothing", "headwear")),
}
# The factors that are redrawn one by one, of each task.
FACTORS = {
    CARS: ("make", "model", "colour", "background", "text"),
    OCCUPATION: ("presentation", "clothing", "tool", "background", "face_mask"),
}
SMALLER = {"text": "body", "face": "clothing"}  # which reader of a task reads the smaller part
MEAN, STD = (0.5,) * 3, (0.5,) * 3


def mixed(task: str, n: int, seed: int, split: str) -> SceneSet:
    """`n` scenes of a task in which no factor says anything about another.

    All cars have a name, half of the faces a patch, and clothing, tool and place are those of any profession.
    """
    own = seed_for(seed, "planted", task)
    if task == CARS:
        return world.cars(n, seed=own, split=split, written=1.0, alignment=0.25)
    found = world.people(n, seed=own, split=split, alignment=0.5, masked=0.5)
    draw, codes = rng(own, "planted", split), dict(found.codes)
    for cue in ("clothing", "tool", "background"):
        values = [k for k, value in enumerate(found.family.values(cue)) if value is not None]
        codes[cue] = draw.permutation(np.resize(values, n)).astype(np.int64)
    return SceneSet(found.family, found.seeds, codes)


def told(reader: Reader, scenes: SceneSet) -> Int64[Tensor, " scenes"]:
    """The answer to each scene: the position of its factor's value among those that are not None."""
    values = scenes.family.values(reader.factor)
    known = [value for value in values if value is not None]
    place = torch.tensor([known.index(value) if value is not None else -1 for value in values])
    return place[torch.from_numpy(scenes.codes[reader.factor])]


def answers_of(reader: Reader) -> int:
    """How many answers it has."""
    family = world.FAMILIES[{CARS: "cars", OCCUPATION: "people"}[reader.task]]
    return sum(value is not None for value in family.values(reader.factor))


def network(classes: int, seed: int, size: int) -> Preprocessed:
    """A small convolutional network with random weights."""
    torch.manual_seed(seed_for(seed, "planted reader"))
    widths, layers = (3, 24, 48, 64), []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 5, 2, 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return Preprocessed(model.to(memory_format=torch.channels_last), size, MEAN, STD)  # a sixth less time on a CPU


@dataclass(frozen=True, eq=False)
class Planted:
    """A network, trained or not, and its test pictures: what they show, and where the part is that it reads."""

    reader: Reader
    model: nn.Module
    scenes: SceneSet
    labels: Int64[Tensor, " pictures"]
    region: Bool[Tensor, "pictures height width"]
    regions: dict[str, Bool[Tensor, "pictures height width"]]  # of all readers of the task

    def answers(self, scenes: SceneSet, cfg: Settings) -> Int64[Tensor, " pictures"]:
        """What the network says of pictures of the size that it learned from."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            return torch.cat(
                [self.model(each.to(device)).argmax(1).cpu() for each in scenes.images(cfg.planted["size"]).split(128)]
            )

    def flips(self, cfg: Settings) -> dict[str, np.ndarray]:
        """Whether each answer changes when one factor is redrawn, by the factor; the next value is taken."""
        before = self.answers(self.scenes, cfg)
        found = {}
        for factor in FACTORS[self.reader.task]:
            values = [k for k, value in enumerate(self.scenes.family.values(factor)) if value is not None]
            codes = self.scenes.codes[factor]
            moved = np.array([values[(values.index(int(code)) + 1) % len(values)] for code in codes], np.int64)
            after = SceneSet(self.scenes.family, self.scenes.seeds, {**self.scenes.codes, factor: moved})
            found[factor] = (self.answers(after, cfg) != before).double().numpy()
        return found


def planted(name: str, cfg: Settings, seed: int, weights: Mapping[str, Tensor] | None = None) -> Planted:
    """A reader, with trained `weights` or those that it starts from, and the test pictures that it is explained on.

    Those of the face reader have the patch: only there is something to find.
    """
    reader, own = READERS[name], cfg.planted
    size = own["size"]
    model = network(answers_of(reader), seed, size)
    if weights is not None:
        model.load_state_dict(weights)
    model = model.to(cfg.device).eval().requires_grad_(False)
    scenes = mixed(reader.task, 2 * own["explained"], seed, "test")
    if reader.factor == "face_mask":
        scenes = scenes.replace(face_mask=True)
    seen = {other: where(each, scenes, size) for other, each in READERS.items() if each.task == reader.task}
    there = torch.stack([each.flatten(1).any(1) for each in seen.values()]).all(0)
    rows = there.nonzero()[: own["explained"], 0]  # the same for all readers of a task
    regions = {other: each[rows] for other, each in seen.items()}
    return Planted(reader, model, scenes[rows], told(reader, scenes[rows]), regions[name], regions)


def learned(cfg: Settings, seed: int) -> dict[str, dict[str, Tensor]]:
    """The weights of one training of each reader, by name; those that are missing are trained side by side."""
    own = cfg.planted
    drawn = {task: mixed(task, own["train"][task], seed, "train") for task in FACTORS}
    pixels = {task: scenes.pixels(own["size"]) for task, scenes in drawn.items()}
    jobs = {
        name: {
            "model": network(answers_of(reader), seed, own["size"]), "pixels": pixels[reader.task],
            "labels": told(reader, drawn[reader.task]), "epochs": own["epochs"], "seed": seed, "device": cfg.device,
        }
        for name, reader in READERS.items()
    }  # fmt: skip
    return fetch_all(_learned, jobs, label="training readers", device=cfg.device)


def where(reader: Reader, scenes: SceneSet, size: int) -> Bool[Tensor, "scenes height width"]:
    """Where the part that is read is seen; of a face the box that the patch fills."""
    if reader.factor == "face_mask":
        return box_masks([scene.boxes(size)["face"][0] for scene in scenes], (size, size))
    return torch.stack([scenes.masks(part, size) for part in reader.parts]).any(0)


def _learned(
    model: nn.Module, pixels: Tensor, labels: Int64[Tensor, " scenes"], epochs: int, seed: int, device: str
) -> dict[str, Any]:
    """AdamW on a one-cycle schedule, each picture shifted by up to four pixels."""
    batch, draw = 64, generator(seed, "planted reader", "batches")
    model = model.to(device).train()
    steps = epochs * (len(labels) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=draw).split(batch):
            if len(rows) < batch:
                continue
            images = pixels[rows].to(device).float().div(255)
            loss = F.cross_entropy(model(images), labels[rows].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return dict(model.cpu().state_dict())


# --- explained --------------------------------------------------------------------------------------------------------


def read(
    cfg: Settings, seed: int
) -> tuple[dict[str, Float[np.ndarray, " trainings"]], dict[str, tuple[Planted, Found]]]:
    """What is found of each reader, trained and not: by the name of the number a mean over pictures for each training.

    Where a network looks depends on the weights that it started from and the pictures that it saw, so that one training
    says little: there are `cfg.planted.trainings` of each reader, with pictures of their own. With it the maps of the
    first. For the numbers see `read_once`.
    """
    jobs = {
        f"training {number + 1}": {"cfg": cfg, "seed": seed_for(seed, "planted readers", number)}
        for number in range(cfg.planted["trainings"])
    }
    done = side_by_side(read_once, jobs, device=cfg.device)
    found = dict(tqdm(done, "training and reading readers", len(jobs), mininterval=0))
    values = [found[name][0] for name in jobs]
    means = {id: np.array([float(each[id].mean()) for each in values]) for id in values[0]}
    return means, found["training 1"][1]


def read_once(cfg: Settings, seed: int) -> tuple[dict[str, np.ndarray], dict[str, tuple[Planted, Found]]]:
    """What is found of one training of each reader, as values of pictures by the name of the number; and the maps.

    `lift` is how many times more of a map lies on a part than the part's area, by chance 1; `hit`, `rank` and `size`
    are as in the notebook. "on-…" is a reader judged by the part that another one reads, and "more-than-on-…" its lift
    on its own part minus that. An untrained one reads nothing: its maps should be empty, of which neither a lift nor a
    rank says anything, so `size` and `hit` alone are found.
    """
    found: dict[str, np.ndarray] = {}
    shown: dict[str, tuple[Planted, Found]] = {}
    recipe = recipe_of(cfg, cfg.planted["size"])
    weights = learned(cfg, seed)
    for name, reader in READERS.items():
        for trained in (True, False):
            own = planted(name, cfg, seed, weights[name] if trained else None)
            images = own.scenes.images(cfg.planted["size"]).to(cfg.device)
            explained = maps(own.model, images, own.labels, recipe, softmax=1.0, seed=seed, batch=cfg.batch)
            slug, heat = name if trained else f"{name}.untrained", explained.maps.cpu()
            if trained:
                flips = own.flips(cfg)
                others = {factor: values for factor, values in flips.items() if factor != reader.factor}
                found[f"{slug}.right"] = (own.answers(own.scenes, cfg) == own.labels).double().numpy()
                found |= {f"{slug}.flips.{factor}": values for factor, values in flips.items()}
                found[f"{slug}.flips.own"] = flips[reader.factor]
                found[f"{slug}.flips.other"] = max(others.values(), key=lambda values: values.mean())
                found[f"{slug}.empty"] = explained.checks.empty.double().numpy()
                shown[name] = own, explained
            found[f"{slug}.size"] = explained.size
            for part, region in own.regions.items():
                at = slug if part == name else f"{slug}.on-{part}"
                pointing = pointing_game(heat, region)
                found[f"{at}.hit"] = pointing.hits.astype(float)
                if trained:
                    found[f"{at}.lift"] = pointing.lift
                    found[f"{at}.rank"] = rank_in(heat, region)
            if trained:
                for part in own.regions.keys() - {name}:
                    found[f"{name}.more-than-on-{part}"] = found[f"{name}.lift"] - found[f"{name}.on-{part}.lift"]
    for small, large in SMALLER.items():
        found[f"{small}.smaller-than-{large}"] = found[f"{small}.size"] - found[f"{large}.size"]
    return found, shown
