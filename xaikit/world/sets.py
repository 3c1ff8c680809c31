"""Sets of scenes with known correlations, exact to a scene, drawn when they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from xaikit.arguments import Count, Pixels, Probability, Seed, public
from xaikit.storage.cache import fetch
from xaikit.storage.seeding import rng, seed_for
from xaikit.world.scene import Scene, Value, listed
from xaikit.world.scene_birds import LANDBIRDS, SCENERY, WATERBIRDS, Birds
from xaikit.world.scene_cars import MAKES, Cars
from xaikit.world.scene_nine import HOMES, Nine
from xaikit.world.scene_people import USUAL, WORKPLACES, People

FAMILIES: dict[str, type[Scene]] = {"birds": Birds, "nine": Nine, "people": People, "cars": Cars}
SPLITS = ("train", "validation", "test", "corpus")  # the last for what a foundation model learns from


@public
@dataclass(frozen=True, eq=False)
class SceneSet(Sequence[Scene]):
    """A sequence of scenes of one family, held as numbers: a scene is made, and drawn, when it is asked for.

    `codes` gives for each factor the position of every scene's value in `family.values(factor)`.
    """

    family: type[Scene]
    seeds: Int64[np.ndarray, " n"]
    codes: dict[str, Int64[np.ndarray, " n"]]

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "SceneSet":
        """The set of the given scenes. Raises ValueError where there is none, or they are of different families."""
        families = {type(scene) for scene in scenes}
        if len(families) != 1:
            raise ValueError(f"A set holds scenes of one family, not of {len(families)}; give some of the same one.")
        family = families.pop()
        codes = {
            name: np.array([family.values(name).index(getattr(scene, name)) for scene in scenes], np.int64)
            for name in family.factor_names()
        }
        return cls(family, np.array([scene.seed for scene in scenes], np.int64), codes)

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | Tensor) -> "SceneSet": ...

    def __getitem__(self, index: Any) -> "Scene | SceneSet":
        """The scene at a position, or the set of those at a slice, at positions or where a mask is True."""
        if isinstance(index, slice | np.ndarray | Tensor | list):
            index = index if isinstance(index, slice) else np.asarray(index)
            return SceneSet(self.family, self.seeds[index], {name: code[index] for name, code in self.codes.items()})
        values = {name: self.family.values(name)[code[index]] for name, code in self.codes.items()}
        return self.family(seed=int(self.seeds[index]), **values)

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(len(self)))

    def replace(self, **changes: Value) -> "SceneSet":
        """The same scenes with some factors replaced in all of them: counterfactuals, pair by pair.

        Raises ValueError for factors and values that the family does not have.
        """
        if len(self):
            self[0].replace(**changes)  # says what is wrong with them
        fixed = {name: np.full(len(self), self.family.values(name).index(value)) for name, value in changes.items()}
        return SceneSet(self.family, self.seeds, {**self.codes, **fixed})

    def values(self, name: str) -> tuple[Value, ...]:
        """The values of a factor, in the order that `labels` counts them in. Raises ValueError for an unknown one."""
        return self.family.shown(name)

    def labels(self, name: str) -> Int64[Tensor, " n"]:
        """For every scene the position of its factor's value in `values(name)`."""
        values = self.values(name)
        if name in self.family.DERIVED:
            return torch.tensor([values.index(scene.factors[name]) for scene in self], dtype=torch.int64)
        return torch.from_numpy(self.codes[name].copy())

    @property
    def captions(self) -> list[tuple[str, str, str, str, str]]:
        """The five captions of every scene."""
        return [scene.captions for scene in self]

    def pixels(self, size: Pixels = 64) -> UInt8[Tensor, "n 3 size size"]:
        """All pictures, 0..255, drawn once and then read from the cache."""
        return fetch(_pixels, **self._recipe(size))["pixels"]

    def images(self, size: Pixels = 64) -> Float[Tensor, "n 3 size size"]:
        """All pictures, in [0, 1]; kept as 8 bits in the cache."""
        return self.pixels(size).float().div_(255)

    def masks(self, part: str, size: Pixels = 64) -> Bool[Tensor, "n size size"]:
        """The masks of one part, drawn once and then read from the cache. Raises ValueError for an unknown part."""
        if part not in self.family.PARTS:
            raise ValueError(f"{self.family.__name__} has no part {part!r}; choose from {listed(self.family.PARTS)}.")
        return fetch(_masks, part=part, **self._recipe(size))["masks"]

    def batches(self, size: Pixels = 64, batch: Count = 256) -> Iterator[Float[Tensor, "batch 3 size size"]]:
        """The pictures in [0, 1], batch by batch, each drawn when its turn comes; nothing is kept."""
        if batch < 1:
            raise ValueError(f"A batch of {batch} scenes cannot be drawn; take at least 1.")
        for start in range(0, len(self), batch):
            yield _drawn(self[start : start + batch], size).float().div_(255)

    def _recipe(self, size: int) -> dict[str, Any]:
        name = next((name for name, family in FAMILIES.items() if family is self.family), None)
        if name is None:
            raise ValueError(
                f"{self.family.__name__} is no family of the world, so it is not cached: use batches(...)."
            )
        return {"family": name, "seeds": self.seeds, "codes": self.codes, "size": size}


def _drawn(scenes: SceneSet, size: int) -> UInt8[Tensor, "n 3 size size"]:
    pixels = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    for target, scene in zip(pixels, scenes, strict=True):
        target.copy_(torch.from_numpy(scene.image(size)).permute(2, 0, 1))
    return pixels


def _pixels(
    family: str, seeds: Int64[np.ndarray, " n"], codes: dict[str, Int64[np.ndarray, " n"]], size: int
) -> dict[str, Any]:
    return {"pixels": _drawn(SceneSet(FAMILIES[family], seeds, codes), size)}


def _masks(
    family: str, seeds: Int64[np.ndarray, " n"], codes: dict[str, Int64[np.ndarray, " n"]], size: int, part: str
) -> dict[str, Any]:
    scenes = SceneSet(FAMILIES[family], seeds, codes)
    masks = torch.empty(len(scenes), size, size, dtype=torch.bool)
    for target, scene in zip(masks, scenes, strict=True):
        target.copy_(torch.from_numpy(scene.masks(size)[part]))
    return {"masks": masks}


@public
def birds(
    n: Count, *, seed: Seed, split: str = "train", alignment: Probability | None = None, waterbirds: Probability = 0.5
) -> SceneSet:
    """`n` scenes of birds, a share `waterbirds` of them of that kind (0.23 in Waterbirds itself).

    A share `alignment` of each kind is in its own place; None is what the paper has, 0.95 in training and 0.5
    elsewhere. All counts are exact by largest remainder, and species, colours, counts and sceneries are equally
    frequent. Raises ValueError for an unknown split, no scene, or a share outside [0, 1].
    """
    alignment = (0.95 if split in ("train", "corpus") else 0.5) if alignment is None else alignment
    maker = _Maker("birds", n, seed, split, alignment=alignment, waterbirds=waterbirds)
    kind = maker.dealt("kind", None, [1 - waterbirds, waterbirds])
    away = maker.dealt_within("background", kind, [alignment, 1 - alignment])
    own = np.where(kind == 1, list(SCENERY).index("water"), list(SCENERY).index("land"))
    background = np.where(away == 0, own, 1 - own)
    each = maker.dealt_within("species", 2 * kind + background, [1 / 4] * 4)
    known = Birds.values("species")
    by_kind = np.array([[known.index(name) for name in names] for names in (LANDBIRDS, WATERBIRDS)])
    return maker.made(background=background, species=by_kind[kind, each])


@public
def nine(
    n: Count, *, seed: Seed, split: str = "train", alignment: Probability = 0.9, variant: str = "original"
) -> SceneSet:
    """`n` scenes of the nine categories, equally frequent; a share `alignment` of each is at home.

    The others are in the eight other places equally often. Raises ValueError as `birds` does, or for a variant that
    ImageNet-9 does not have.
    """
    maker = _Maker("nine", n, seed, split, alignment=alignment)
    count = len(HOMES)
    category = maker.dealt("category", None, [1 / count] * count)
    away = maker.dealt_within("background", category, [alignment] + [(1 - alignment) / (count - 1)] * (count - 1))
    made = maker.made(category=category, background=(category + away) % count, variant=np.zeros(n, np.int64))
    return made.replace(variant=variant)


@public
def people(
    n: Count,
    *,
    seed: Seed,
    split: str = "train",
    alignment: Probability = 0.9,
    workplace: Probability = 1.0,
    masked: Probability = 0.0,
) -> SceneSet:
    """`n` people of the ten professions, equally frequent, in their own clothes and with their own tools.

    A share `alignment` of each profession has its usual presentation (`scene_people.USUAL`), and a share `workplace`
    is at its own place of work, the others at the nine others equally often. A share `masked` of each has a patch over
    the face. Raises ValueError as `birds` does.
    """
    maker = _Maker("people", n, seed, split, alignment=alignment, workplace=workplace, masked=masked)
    count = len(WORKPLACES)
    profession = maker.dealt("profession", None, [1 / count] * count)
    unusual = maker.dealt_within("presentation", profession, [alignment, 1 - alignment])
    looks = People.values("presentation")
    usual = np.array([looks.index(USUAL[name]) for name in WORKPLACES])[profession]
    away = maker.dealt_within("background", profession, [workplace] + [(1 - workplace) / (count - 1)] * (count - 1))
    follows = np.full(n, count)  # the position of None among the values of a cue
    return maker.made(
        profession=profession,
        presentation=np.where(unusual == 0, usual, 1 - usual),
        clothing=follows,
        tool=follows,
        background=np.where(away == 0, follows, (profession + away) % count),
        face_mask=maker.dealt_within("face_mask", profession, [1 - masked, masked]),
    )


@public
def cars(
    n: Count, *, seed: Seed, split: str = "train", written: Probability = 0.5, alignment: Probability = 0.95
) -> SceneSet:
    """`n` cars of the four makes, equally frequent; a share `written` of each has a name on the door.

    A share `alignment` of those names is right, the others are the three other makes equally often. Raises ValueError
    as `birds` does.
    """
    maker = _Maker("cars", n, seed, split, written=written, alignment=alignment)
    count = len(MAKES)
    make = maker.dealt("make", None, [1 / count] * count)
    named = maker.dealt_within("written", make, [1 - written, written])
    wrong = maker.dealt_within(
        "text", make + count * named, [alignment] + [(1 - alignment) / (count - 1)] * (count - 1)
    )
    text = np.where(named == 1, 1 + (make + wrong) % count, 0)  # None is the first of the values
    return maker.made(make=make, text=text)


class _Maker:
    """Deals the factors of a set: shares become counts by largest remainder, and the order is shuffled."""

    def __init__(self, name: str, n: int, seed: int, split: str, **shares: float | int) -> None:
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; choose from {listed(SPLITS)}.")
        if n < 1:
            raise ValueError(f"A set of {n} scenes cannot be made; ask for at least 1.")
        for knob, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"The share {knob} is {share}; it must be in [0, 1].")
        self.name, self.n, self.seed, self.split = name, n, seed, split

    def dealt(self, column: str, members: np.ndarray | None, shares: Sequence[float | int]) -> Int64[np.ndarray, " n"]:
        """Positions into `shares`, as often as each says, for all scenes (or as many as `members`), shuffled."""
        n = self.n if members is None else len(members)
        counts = largest_remainder(n, shares)
        stream = rng(self.seed, "world", self.name, self.split, column)
        return stream.permutation(np.repeat(np.arange(len(shares)), counts))

    def dealt_within(
        self, column: str, groups: Int64[np.ndarray, " n"], shares: Sequence[float | int]
    ) -> Int64[np.ndarray, " n"]:
        """The same, dealt in each group of scenes by itself."""
        found = np.zeros(self.n, np.int64)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            found[members] = self.dealt(f"{column}/{group}", members, shares)
        return found

    def made(self, **columns: Int64[np.ndarray, " n"]) -> SceneSet:
        """The set with these columns; all other factors get each of their values equally often."""
        family = FAMILIES[self.name]
        for factor in family.factor_names():
            if factor not in columns:
                count = len(family.values(factor))
                columns[factor] = self.dealt(factor, None, [1 / count] * count)
        codes = {factor: columns[factor].astype(np.int64) for factor in family.factor_names()}
        seeds = [seed_for(self.seed, "world", self.name, self.split, index) for index in range(self.n)]
        return SceneSet(family, np.array(seeds, np.int64), codes)


def largest_remainder(n: int, shares: Sequence[float | int]) -> Int64[np.ndarray, " shares"]:
    """Whole numbers in the proportion of `shares` that add up to `n`."""
    quotas = n * np.asarray(shares, np.float64) / sum(shares)
    counts = np.floor(quotas + 1e-9).astype(np.int64)  # 0.95 x 100 is 94.99999999999999
    counts[np.argsort(counts - quotas, kind="stable")[: n - counts.sum()]] += 1
    return counts
