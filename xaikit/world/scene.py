"""A scene: a typed record of factors and a seed, of which everything else is a pure function.

Each part of a picture draws its random decisions from a stream of its own, so a scene in which one factor is replaced
differs from the first in that part only. Light and noise come last, as a gain for each pixel that does not depend on
what is seen there; it multiplies, so what is black stays black.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from statistics import NormalDist
from typing import Any, ClassVar, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from xaikit.arguments import Pixels, Seed, public
from xaikit.storage.seeding import seed_for
from xaikit.world.canvas import Brush, halved, subpixels

Value = str | int | bool | None
Box = tuple[float, float, float, float]
Same = TypeVar("Same", bound="Scene")

_GRAIN = 64  # the noise is drawn on a grid of this side, whatever the size of the image
_NOISE = np.array([0.03 * NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


def factor(*values: Value, **options: Any) -> Any:
    """A field of a scene that may have one of `values`."""
    return field(metadata={"values": values}, **options)


def listed(values: Collection[Value]) -> str:
    return ", ".join(map(repr, values))


@public
@dataclass(frozen=True)
class Scene(ABC):
    """What all families have in common. `seed` decides everything that is not a factor: pose, place, light, noise."""

    seed: Seed

    PARTS: ClassVar[dict[str, tuple[int, ...]]]  # the labels that each part is drawn with; a label may serve two parts
    SEVERAL: ClassVar[tuple[str, ...]] = ()  # parts that are several things, one a label: each has a box of its own
    CLASS: ClassVar[str]  # the factor that classifiers of this family tell
    # The values of what `factors` holds besides the factors that can be set, or where those are resolved.
    DERIVED: ClassVar[dict[str, tuple[Value, ...]]] = {}
    # One plain caption, in the words of the corpus, for every value of every factor that captions name.
    PROMPTS: ClassVar[dict[str, dict[Value, str]]]

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"The seed of a scene is {self.seed!r}; give a whole number.")
        for name in self.factor_names():
            value, legal = getattr(self, name), self.values(name)
            if not any(value is known or (value == known and type(value) is type(known)) for known in legal):
                raise ValueError(
                    f"The {name} of {type(self).__name__} cannot be {value!r}; choose from {listed(legal)}."
                )

    @classmethod
    def factor_names(cls) -> tuple[str, ...]:
        """The names of the factors that can be set, in their order."""
        return tuple(f.name for f in dataclasses.fields(cls) if "values" in f.metadata)

    @classmethod
    def values(cls, name: str) -> tuple[Value, ...]:
        """The legal values of a factor. Raises ValueError for one that the family does not have."""
        if name not in cls.factor_names():
            raise ValueError(f"{cls.__name__} has no factor {name!r}; choose from {listed(cls.factor_names())}.")
        return cls.__dataclass_fields__[name].metadata["values"]

    @classmethod
    def shown(cls, name: str) -> tuple[Value, ...]:
        """The values that `factors` can have for `name`. Raises ValueError for one that it does not hold."""
        if name in cls.DERIVED:
            return cls.DERIVED[name]
        if name not in cls.factor_names():
            known = dict.fromkeys((*cls.factor_names(), *cls.DERIVED))
            raise ValueError(f"{cls.__name__} has no factor {name!r}; choose from {listed(known)}.")
        return cls.values(name)

    def replace(self: Same, **changes: Any) -> Same:
        """The same scene with some factors (or the seed) replaced, and nothing else changed.

        Raises ValueError for factors and values that the family does not have.
        """
        for name in changes:
            if name != "seed":
                self.values(name)
        return dataclasses.replace(self, **changes)

    @property
    def factors(self) -> dict[str, Value]:
        """Every factor with its value; families add those that follow from others."""
        return {name: getattr(self, name) for name in self.factor_names()}

    def stream(self, part: str) -> Random:
        """The random decisions of one part. (Python's own generator: a numpy one costs three times a whole shape.)"""
        return Random(seed_for(self.seed, "world", type(self).__name__, part))

    def draw(self, size: Pixels = 64, without: Collection[str] = ()) -> "Drawing":
        """Draw the scene at `size` x `size` pixels, leaving out the parts in `without`: what they hid is seen.

        Raises ValueError for a size below 8 or a part that the family does not have.
        """
        if size < 8:
            raise ValueError(f"A scene cannot be drawn at {size} x {size} pixels; take at least 8.")
        unknown = sorted(set(without) - set(self.PARTS))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no part {unknown[0]!r}; choose from {listed(self.PARTS)}.")
        times = subpixels(size).bit_length() - 1
        brush = Brush(size << times, {label for part in without for label in self.PARTS[part]})
        self._paint(brush)
        return Drawing(brush.pixels, times, self._gain(size), self.PARTS, self.SEVERAL)

    def image(self, size: Pixels = 64, without: Collection[str] = ()) -> UInt8[np.ndarray, "size size 3"]:
        """The picture, red, green and blue in 0..255."""
        return self.draw(size, without).image

    def masks(self, size: Pixels = 64) -> dict[str, Bool[np.ndarray, "size size"]]:
        """Where each part is what is seen most in a pixel; all False for a part that is not in the picture."""
        return self.draw(size).masks

    def coverage(self, size: Pixels = 64) -> dict[str, Float32[np.ndarray, "size size"]]:
        """The exact share of each pixel in which each part is seen. Other pixels do not depend on that part."""
        return self.draw(size).coverage

    def boxes(self, size: Pixels = 64) -> dict[str, list[Box]]:
        """The tight boxes (x0, y0, x1, y1) in pixels around each part's mask; no box where nothing of it is seen."""
        return self.draw(size).boxes

    @property
    def captions(self) -> tuple[str, str, str, str, str]:
        """Five different captions. The first names every factor, the others some."""
        random = self.stream("captions")
        found = [self._caption(random, everything=True)]
        while len(found) < 5:
            caption = self._caption(random, everything=False)
            if caption not in found:
                found.append(caption)
        a, b, c, d, e = found
        return a, b, c, d, e

    def _gain(self, size: int) -> Float32[np.ndarray, "size size 3"]:
        light, noise = self.stream("light"), self.stream("noise")
        level, right, down = light.uniform(0.84, 1.08), light.uniform(-0.22, 0.22), light.uniform(-0.22, 0.22)
        tint = np.array([light.uniform(0.95, 1.05) for _ in range(3)], np.float32)
        at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        plane = level * (1 + right * at[None, :] + down * at[:, None])
        grain = cv2.LUT(np.frombuffer(noise.randbytes(_GRAIN * _GRAIN), np.uint8).reshape(_GRAIN, _GRAIN), _NOISE)
        if size != _GRAIN:
            method = cv2.INTER_LINEAR if size > _GRAIN else cv2.INTER_AREA
            grain = cv2.resize(grain, (size, size), interpolation=method)
        return (plane + grain)[..., None] * tint

    @abstractmethod
    def _paint(self, brush: Brush) -> None:
        """Draw all parts, each with its label, from back to front."""

    @abstractmethod
    def _caption(self, random: Random, everything: bool) -> str:
        """A caption that names every factor, or some of them."""


@public
@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn scene: its picture, and where each part is seen."""

    subpixels: UInt8[np.ndarray, "side side 4"]  # red, green, blue, label
    halvings: int  # of a side, from subpixels to pixels
    gain: Float32[np.ndarray, "size size 3"]
    parts: dict[str, tuple[int, ...]]
    several: tuple[str, ...] = ()

    @cached_property
    def image(self) -> UInt8[np.ndarray, "size size 3"]:
        """The picture, red, green and blue in 0..255."""
        flat = cv2.cvtColor(halved(self.subpixels, self.halvings), cv2.COLOR_RGBA2RGB)
        return cv2.multiply(flat, self.gain, dtype=cv2.CV_8U)

    @cached_property
    def _counts(self) -> dict[int, np.ndarray]:
        """How many subpixels of each pixel show each label that is in the picture; exact, as all averages are whole."""
        labels = cv2.extractChannel(self.subpixels, 3)
        whole = 4**self.halvings
        kind = np.uint8 if whole < 256 else np.float32
        found = {}
        for label in sorted({label for part in self.parts.values() for label in part}):
            inside = cv2.compare(labels, label, cv2.CMP_EQ)
            if cv2.hasNonZero(inside):
                found[label] = halved((inside & 1).astype(kind) * kind(whole), self.halvings)
        return found

    @cached_property
    def coverage(self) -> dict[str, Float32[np.ndarray, "size size"]]:
        """The exact share of each pixel in which each part is seen. Other pixels do not depend on that part."""
        found = {}
        for part, labels in self.parts.items():
            count = np.zeros(self.gain.shape[:2], np.float32)
            for label in labels:
                if label in self._counts:
                    count += self._counts[label]
            found[part] = count / np.float32(4**self.halvings)
        return found

    @cached_property
    def _winner(self) -> np.ndarray:
        """The label that is seen most in each pixel; of two, the higher."""
        (first, most), *others = self._counts.items()
        most, winner = most.copy(), np.full(most.shape, first, np.uint8)
        for label, count in others:
            better = count >= most
            np.copyto(winner, np.uint8(label), where=better)
            np.copyto(most, count, where=better)
        return winner

    @cached_property
    def masks(self) -> dict[str, Bool[np.ndarray, "size size"]]:
        """Where each part is what is seen most in a pixel; all False for a part that is not in the picture."""
        shown = {label: self._winner == label for labels in self.parts.values() for label in labels}
        return {
            part: np.logical_or.reduce([shown[label] for label in labels]) if len(labels) > 1 else shown[labels[0]]
            for part, labels in self.parts.items()
        }

    @cached_property
    def boxes(self) -> dict[str, list[Box]]:
        """The tight boxes (x0, y0, x1, y1) in pixels around each part's mask; no box where nothing of it is seen."""
        found = {}
        for part, labels in self.parts.items():
            things = [self._winner == label for label in labels] if part in self.several else [self.masks[part]]
            found[part] = [_tight_box(thing) for thing in things if thing.any()]
        return found


def _tight_box(mask: Bool[np.ndarray, "height width"]) -> Box:
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return float(x0), float(y0), float(x0 + width), float(y0 + height)
