"""Sets of scenes of two and three things: what stands where is dealt as exactly as in the sets of one family."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from xaikit.arguments import Count, Pixels, Probability, Seed, public
from xaikit.storage.cache import fetch
from xaikit.storage.seeding import seed_for
from xaikit.world.palette import COLOURS
from xaikit.world.scene import Scene, Value, listed
from xaikit.world.scene_several import KINDS, Several
from xaikit.world.sets import SceneSet, _drawn, _Maker


@public
class SeveralSet(SceneSet):
    """A set of scenes of several things; all that is asked of sets of other families can be asked of it."""

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "SeveralSet":
        """The set of the given scenes. Raises ValueError where there is none, or one is of another family."""
        found = super().of(scenes)
        if found.family is not Several:
            raise ValueError(f"A set of several things holds scenes of Several, not of {found.family.__name__}.")
        return cls(Several, found.seeds, found.codes)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | Tensor) -> "SeveralSet": ...

    def __getitem__(self, index: Any) -> "Scene | SeveralSet":
        """The scene at a position, or the set of those at a slice, at positions or where a mask is True."""
        found = super().__getitem__(index)
        return SeveralSet(Several, found.seeds, found.codes) if isinstance(found, SceneSet) else found

    def replace(self, **changes: Value) -> "SeveralSet":
        """The same scenes with some factors replaced in all of them: counterfactuals, pair by pair.

        Raises ValueError for factors and values that the family does not have.
        """
        found = super().replace(**changes)
        return SeveralSet(Several, found.seeds, found.codes)

    def pixels(self, size: Pixels = 64) -> UInt8[Tensor, "n 3 size size"]:
        """All pictures, 0..255, drawn once and then read from the cache."""
        return fetch(_pixels, seeds=self.seeds, codes=self.codes, size=size)["pixels"]

    def masks(self, part: str, size: Pixels = 64) -> Bool[Tensor, "n size size"]:
        """The masks of one part, drawn once and then read from the cache. Raises ValueError for an unknown part."""
        if part not in Several.PARTS:
            raise ValueError(f"Several has no part {part!r}; choose from {listed(Several.PARTS)}.")
        return fetch(_masks, seeds=self.seeds, codes=self.codes, size=size, part=part)["masks"]


def _pixels(seeds: Int64[np.ndarray, " n"], codes: dict[str, Int64[np.ndarray, " n"]], size: int) -> dict[str, Any]:
    return {"pixels": _drawn(SceneSet(Several, seeds, codes), size)}


def _masks(
    seeds: Int64[np.ndarray, " n"], codes: dict[str, Int64[np.ndarray, " n"]], size: int, part: str
) -> dict[str, Any]:
    masks = [torch.from_numpy(scene.masks(size)[part]) for scene in SceneSet(Several, seeds, codes)]
    return {"masks": torch.stack(masks)}


@public
def several(
    n: Count,
    *,
    seed: Seed,
    split: str = "train",
    things: int | None = None,
    asked: Sequence[str] = KINDS,
    others: Sequence[str] = KINDS,
    size: str | None = None,
    twins: Probability = 0.0,
    written: Probability = 0.25,
    alignment: Probability = 0.5,
    distractors: int | None = None,
) -> SeveralSet:
    """`n` scenes of `things` things, 2 or 3; with None half of the scenes have three.

    The first thing is one of the kinds `asked`, equally often, and of `size`; with None all are small or large. The
    others are of `others`, equally often beside each kind of the first, no two things of one kind and no two of one
    colour, but a share `twins` has a second thing of the first one's kind. A share `written` has a sign; a share
    `alignment` of these says what the first thing is, the others name a kind that is not in the picture.
    `distractors`, with None 0 to 3, are as many in each. What is not said is equally frequent, each by itself; all
    counts are exact by largest remainder. Raises ValueError as `birds` does, for
    kinds, sizes and numbers that the family does not have, and for fewer than three kinds of others.
    """
    maker = _Maker("several", n, seed, split, twins=twins, written=written, alignment=alignment)
    _check(things, asked, others)
    columns = {
        "kind1": np.array([KINDS.index(kind) for kind in asked])[maker.dealt("kind1", None, [1] * len(asked))],
        "distractors": _dealt(maker, "distractors", None if distractors is None else (distractors,)),
        "size1": _dealt(maker, "size1", ("small", "large") if size is None else (size,)),
        "size2": _dealt(maker, "size2", ("small", "large")),
        "size3": _dealt(maker, "size3", ("small", "large")),
    }
    first, known = columns["kind1"], [KINDS.index(kind) for kind in others]
    twin = maker.dealt_within("twins", first, [1 - twins, twins])
    second = first.copy()
    for kind in np.unique(first):
        members = np.flatnonzero((first == kind) & (twin == 0))
        # From the next kind on: where they cannot be equally often, each is as often among the frequent ones.
        rest = [other for other in known if other > kind] + [other for other in known if other < kind]
        second[members] = np.array(rest)[maker.dealt(f"kind2/{kind}", members, [1] * len(rest))]
    three = maker.dealt("things", None, [1, 1] if things is None else [things == 2, things == 3]) == 1
    third = np.where(three, _other_than(maker, "kind3", known, first, second), -1)
    named = maker.dealt_within("written", first, [1 - written, written])
    wrong = maker.dealt_within("alignment", first + len(KINDS) * named, [alignment, 1 - alignment])
    absent = _other_than(maker, "sign", range(len(KINDS)), first, second, third)
    colour = maker.dealt("colours", None, [1] * len(COLOURS))
    apart = maker.dealt("colour2", None, [1] * (len(COLOURS) - 1))  # how much further among the colours
    further = maker.dealt("colour3", None, [1] * (len(COLOURS) - 2))
    columns |= {
        "kind2": second, "kind3": 1 + third, "sign": np.where(named == 1, 1 + np.where(wrong == 1, absent, first), 0),
        "colour1": colour,  # None is the first of what a third thing and a sign may be
        "colour2": (colour + 1 + apart) % len(COLOURS),
        "colour3": (colour + 1 + further + (further >= apart)) % len(COLOURS),
    }  # fmt: skip
    for factor in Several.factor_names():
        if factor not in columns:
            columns[factor] = _dealt(maker, factor, None)
    seeds = [seed_for(seed, "world", "several", split, index) for index in range(n)]
    codes = {name: columns[name].astype(np.int64) for name in Several.factor_names()}
    return SeveralSet(Several, np.array(seeds, np.int64), codes)


def _dealt(maker: _Maker, factor: str, values: Sequence[Value] | None) -> Int64[np.ndarray, " n"]:
    """A column of some values of a factor, or of all, equally often."""
    known = Several.values(factor)
    for value in values or ():
        if value not in known:
            raise ValueError(f"The {factor} of Several cannot be {value!r}; choose from {listed(known)}.")
    chosen = np.array([known.index(value) for value in (known if values is None else values)])
    return chosen[maker.dealt(factor, None, [1] * len(chosen))]


def _other_than(
    maker: _Maker, column: str, kinds: Sequence[int], *taken: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """For each scene one of `kinds` that is not among those taken there, each of them equally often."""
    left = [[kind for kind in kinds if kind not in here] for here in np.stack(taken, 1).tolist()]
    counts = np.array([len(free) for free in left])
    steps = np.zeros(maker.n, np.int64)
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        steps[members] = maker.dealt(f"{column}/{count}", members, [1] * int(count))
    return np.array([free[step] for free, step in zip(left, steps, strict=True)], np.int64)


def _check(things: int | None, asked: Sequence[str], others: Sequence[str]) -> None:
    if things not in (None, 2, 3):
        raise ValueError(f"Scenes of {things} things cannot be dealt; ask for 2, 3 or None.")
    for name, kinds, least in (("asked", asked, 1), ("others", others, 3)):
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"There is no kind {unknown[0]!r}; choose from {listed(KINDS)}.")
        if len(set(kinds)) < max(least, len(kinds)):
            raise ValueError(f"The kinds {name} are {listed(kinds)}; give {least} or more, each once.")
