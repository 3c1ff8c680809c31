"""Two or three things at once, so that a text can ask for one that is not salient.

The things are those of the other families, drawn by their own painters at a place of this scene's choice (`_Stand`).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from xaikit.arguments import public
from xaikit.storage.seeding import seed_for
from xaikit.world.canvas import Brush, Number, darker, lighter, varied
from xaikit.world.language import article, joined, opened
from xaikit.world.lettering import width, write_word
from xaikit.world.palette import COLOURS
from xaikit.world.places import PHRASES, PLACES
from xaikit.world.scene import Scene, Value, factor
from xaikit.world.scene_birds import LANDBIRDS, WATERBIRDS, Birds
from xaikit.world.scene_cars import MAKES, MODELS, Cars
from xaikit.world.scene_nine import NOUNS, PATTERNS, Nine

# What captions call each thing of the nine categories, and its category. (Birds have names of their own here.)
CREATURES: dict[str, str] = {nouns[-1]: category for category, nouns in NOUNS.items() if category != "bird"}
SPECIES = (*WATERBIRDS, *LANDBIRDS)
KINDS = (*CREATURES, *SPECIES, *MODELS)
SIZES = {"tiny": 0.17, "small": 0.27, "large": 0.42}  # about the width of the thing
COLUMNS = {"left": 0.2, "middle": 0.5, "right": 0.8}
DEPTHS = {"back": 0.57, "middle": 0.75, "front": 0.93}  # how far down it stands; what is nearer hides what is farther
ORDERS = tuple("".join(order) for order in permutations("123"))
PLACES_OF_SEVERAL = (
    "meadow", "forest", "desert", "savanna", "farm", "country road", "road", "street", "airport", "construction site"
)  # fmt: skip
# Each time of day with the colour of its light and what captions say.
TIMES: dict[str, tuple[tuple[float, float, float], str]] = {
    "day": ((1.0, 1.0, 1.0), "by day"),
    "dusk": ((1.0, 0.78, 0.6), "at dusk"),
    "night": ((0.48, 0.54, 0.8), "at night"),
}
_LABELS = {"1": 8, "2": 9, "3": 10}
_DISTRACTORS, _BOARD, _TEXT, _NOWHERE = 1, 2, 3, 255
_FEET = 0.42  # how far below its centre a thing ends, as a share of its width


@public
@dataclass(frozen=True)
class Several(Scene):
    """Two or three things in a place at a time of day; `kind3` None leaves the third away.

    Each thing has a kind, a colour, a pattern (seen on what is no bird and no car), a size and a depth; what is nearer
    hides what is farther. `order` says which things stand left, in the middle and right: "213" is the second left of
    the first. `sign` is a word on a board above, whether it is right or not, `distractors` a number of small things
    that no caption names.
    Derived factors: `things` (how many), `leftmost` and `rightmost` (kinds), `leftmost_colour` and
    `rightmost_colour`, and a `column` for each thing. Factors are None where they are of a thing that is not there, a
    pattern where it is not seen. Parts: background, thing1, thing2, thing3, all things, distractors, the sign, and its
    text.
    """

    kind1: str = factor(*KINDS)
    kind2: str = factor(*KINDS)
    kind3: str | None = factor(None, *KINDS, default=None)
    colour1: str = factor(*COLOURS, default="red")
    colour2: str = factor(*COLOURS, default="blue")
    colour3: str = factor(*COLOURS, default="yellow")
    pattern1: str = factor(*PATTERNS, default="plain")
    pattern2: str = factor(*PATTERNS, default="plain")
    pattern3: str = factor(*PATTERNS, default="plain")
    size1: str = factor(*SIZES, default="large")
    size2: str = factor(*SIZES, default="large")
    size3: str = factor(*SIZES, default="large")
    depth1: str = factor(*DEPTHS, default="middle")
    depth2: str = factor(*DEPTHS, default="middle")
    depth3: str = factor(*DEPTHS, default="middle")
    order: str = factor(*ORDERS, default="132")
    place: str = factor(*PLACES_OF_SEVERAL, default="meadow")
    time: str = factor(*TIMES, default="day")
    sign: str | None = factor(None, *KINDS, default=None)
    distractors: int = factor(0, 1, 2, 3, default=0)

    PARTS: ClassVar = {
        "background": (0,), "thing1": (8,), "thing2": (9,), "thing3": (10,), "things": (8, 9, 10),
        "distractors": (_DISTRACTORS,), "sign": (_BOARD, _TEXT), "text": (_TEXT,),
    }  # fmt: skip
    SEVERAL: ClassVar = ("things",)
    CLASS: ClassVar = "kind1"
    DERIVED: ClassVar = {
        "things": (2, 3), "leftmost": KINDS, "rightmost": KINDS, "leftmost_colour": tuple(COLOURS),
        "rightmost_colour": tuple(COLOURS), **{f"pattern{k}": (*PATTERNS, None) for k in "123"},
        **{f"column{k}": (*COLUMNS, None) for k in "123"}, "colour3": (*COLOURS, None), "size3": (*SIZES, None),
        "depth3": (*DEPTHS, None),
    }  # fmt: skip
    PROMPTS: ClassVar[dict[str, dict[Value, str]]] = {
        "leftmost": {kind: f"a photo of {article(kind)} on the left" for kind in KINDS},
        "rightmost": {kind: f"a photo of {article(kind)} on the right" for kind in KINDS},
        "leftmost_colour": {name: f"a photo of something {name} on the left" for name in COLOURS},
        "rightmost_colour": {name: f"a photo of something {name} on the right" for name in COLOURS},
        "place": {name: f"a photo of something {PHRASES[name][0]}" for name in PLACES_OF_SEVERAL},
        "time": {name: f"a photo of something {phrase}" for name, (_, phrase) in TIMES.items()},
        "sign": {
            None: "a photo of something with no sign",
            **{kind: f"a photo of a sign that says {kind}" for kind in KINDS},
        },
    }

    @property
    def slots(self) -> str:
        """The numbers of the things that are there, from left to right."""
        return self.order if self.kind3 is not None else self.order.replace("3", "")

    @property
    def factors(self) -> dict[str, Value]:
        slots = self.slots
        found = super().factors
        for slot in "123":
            there = slot in slots
            found[f"column{slot}"] = tuple(COLUMNS)[self.order.index(slot)] if there else None
            if not there:
                found |= {f"{name}{slot}": None for name in ("colour", "pattern", "size", "depth")}
            elif found[f"kind{slot}"] not in CREATURES:
                found[f"pattern{slot}"] = None
        for side, slot in (("leftmost", slots[0]), ("rightmost", slots[-1])):
            found |= {side: found[f"kind{slot}"], f"{side}_colour": found[f"colour{slot}"]}
        return {**found, "things": len(slots)}

    def _of(self, name: str, slot: str) -> str:
        """A factor of one thing."""
        return getattr(self, name + slot)

    def _paint(self, brush: Brush) -> None:
        PLACES[self.place](brush, self.stream(f"background {self.place}"))
        depths = list(DEPTHS)
        for depth in depths:
            if depth == "middle":
                self._paint_distractors(brush.labelled(_DISTRACTORS))
            for slot in sorted(self.slots):
                if self._of("depth", slot) == depth:
                    self._paint_thing(brush, slot)
        if self.sign is not None:
            self._paint_sign(brush, self.sign)

    def _paint_thing(self, brush: Brush, slot: str) -> None:
        spot = self.stream(f"spot{slot}")
        scale = SIZES[self._of("size", slot)] * spot.uniform(0.92, 1.08)
        x = list(COLUMNS.values())[self.order.index(slot)] + spot.uniform(-0.02, 0.02)
        y = DEPTHS[self._of("depth", slot)] - _FEET * scale + spot.uniform(-0.015, 0.015)
        thing = _scene_of(
            self._of("kind", slot), self._of("colour", slot), self._of("pattern", slot),
            seed_for(self.seed, "world", "Several", f"thing{slot}"),
        )  # fmt: skip
        thing._paint(_Stand(brush, _LABELS[slot], x, y, scale, thing))

    def _paint_distractors(self, brush: Brush) -> None:
        for index in range(self.distractors):
            r = self.stream(f"distractor{index}")
            shape, x, y, scale = (
                r.choice(DISTRACTORS),
                r.uniform(0.05, 0.95),
                r.uniform(0.6, 0.94),
                r.uniform(0.1, 0.14),
            )
            shape(brush.at(x, y - scale / 2, scale, r.uniform(-0.2, 0.2)), r)

    def _paint_sign(self, brush: Brush, word: str) -> None:
        r = self.stream("sign")
        wood, x, y = varied((96, 70, 48), r, 10), r.random(), r.uniform(0.1, 0.13)
        height = min(0.125, 0.84 / width(word))
        half = height * width(word) / 2 + 0.035
        x = half + 0.02 + x * (0.96 - 2 * half)
        board = brush.labelled(_BOARD)
        for side in (-0.7, 0.7):
            board.line(((x + side * half, -0.02), (x + side * half, y)), 0.016, wood)
        board.box(x - half, y - 0.085, x + half, y + 0.085, (250, 250, 246), wood)
        write_word(brush.labelled(_TEXT).at(x, y, height), word, (28, 28, 34))

    def _gain(self, size: int) -> Float32[np.ndarray, "size size 3"]:
        return super()._gain(size) * np.array(TIMES[self.time][0], np.float32)

    # What captions say.

    @property
    def captions(self) -> tuple[str, str, str, str, str]:
        """Five different captions: of all things, of one, of another one, of how two stand, and any of these.

        Things are always named, what they look like, the place, the time and the sign sometimes; the first tells all
        of the things, the place and the time. Of "left of" and "in front of" the other may be meant by the second.
        """
        random = self.stream("captions")
        first, second = random.sample(self.slots, 2)
        found = [self._caption(random, everything=True)]
        for form in (
            lambda: self._one(random, first), lambda: self._one(random, second), lambda: self._related(random),
            lambda: self._caption(random, everything=False),
        ):  # fmt: skip
            caption = form()
            while caption in found:
                caption = form()
            found.append(caption)
        a, b, c, d, e = found
        return a, b, c, d, e

    def _caption(self, random: Random, everything: bool) -> str:
        if everything:
            return opened(joined(self._all(random, 1.0), *self._scenery(random, 1.0)), random)
        forms: list[Callable[[], str]] = [
            lambda: opened(self._all(random, 0.3), random),
            lambda: self._related(random),
            lambda: self._aside(random),
        ]
        if self.sign is not None:
            forms += [lambda: self._signed(random)] * 2
        return random.choice(forms)()

    def _named(self, slot: str, random: Random, share: float) -> str:
        """A thing, with each of its attributes at the chance `share`."""
        kind = self._of("kind", slot)
        names = ("size", "pattern", "colour") if kind in CREATURES else ("size", "colour")
        seen = [self._of(name, slot) for name in names if random.random() < share]
        noun = kind
        general = _general(kind)
        alone = sum(_general(self._of("kind", other)) == general for other in self.slots) == 1
        if general and alone and share < 1 and random.random() < 0.2:
            noun = general
        return article(joined(*seen, noun))

    def _all(self, random: Random, share: float) -> str:
        slots = random.sample(self.slots, len(self.slots))
        return " and ".join(self._named(slot, random, share) for slot in slots)

    def _scenery(self, random: Random, share: float) -> tuple[str | None, str | None]:
        place = random.choice(PHRASES[self.place]) if random.random() < share else None
        time = TIMES[self.time][1] if random.random() < share else None
        return place, time

    def _one(self, random: Random, slot: str) -> str:
        return opened(joined(self._named(slot, random, 0.5), *self._scenery(random, 0.3)), random)

    def _related(self, random: Random) -> str:
        a, b = random.sample(self.slots, 2)
        relation = random.choice(self._relations(a, b))
        return opened(joined(self._named(a, random, 0.5), relation, self._named(b, random, 0.5)), random)

    def _relations(self, one: str, other: str) -> tuple[str, ...]:
        """What can be said of how the thing `one` stands to the thing `other`, both among `slots`.

        In front and behind are those of which one hides the other, or might: things in neighbouring columns.
        """
        apart = self.order.index(one) - self.order.index(other)
        depths = list(DEPTHS)
        nearer = depths.index(self._of("depth", one)) - depths.index(self._of("depth", other))
        found = ["left of" if apart < 0 else "right of"]
        if nearer and abs(apart) == 1:
            found.append("in front of" if nearer > 0 else "behind")
        return tuple(found)

    def _aside(self, random: Random) -> str:
        side = random.choice((0, -1))
        where = "on the right" if side else "on the left"
        return opened(joined(self._named(self.slots[side], random, 0.5), where), random)

    def _signed(self, random: Random) -> str:
        thing = self._named(random.choice(self.slots), random, 0.3)
        return opened(joined(thing, f"and a sign that says {self.sign}"), random)


def _general(kind: str) -> str | None:
    """The word for a bird or a car of any kind."""
    return "bird" if kind in SPECIES else "car" if kind in MODELS else None


def _scene_of(kind: str, colour: str, pattern: str, seed: int) -> Scene:
    """A scene of the thing's own family; its place, of which nothing is drawn, is one that is soon done."""
    if kind in MODELS:
        return Cars(seed, MAKES[seed % len(MAKES)], kind, colour, "showroom")
    if kind in SPECIES:
        return Birds(seed, kind, colour, 1, "water")
    return Nine(seed, CREATURES[kind], colour, pattern, "sky")


class _Stand(Brush):
    """The brush with which another scene draws its thing into a picture.

    Wherever and how large that scene would have it, it stands here, with one label for all its parts, turned and
    mirrored as there; the place around it and what hangs in front are not drawn.
    """

    def __init__(self, brush: Brush, label: int, x: Number, y: Number, scale: Number, scene: Scene) -> None:
        self.__dict__.update(brush.__dict__)
        self.left_out = {_NOWHERE, *brush.left_out}
        self.own = label
        self.unseen: Collection[int] = (*scene.PARTS["background"], *scene.PARTS["occluder"])
        self.spot: tuple[Number, Number, Number] | None = (x, y, scale)
        self.label = _NOWHERE  # that of the place, which comes first

    def _copy(self) -> "_Stand":
        copy = object.__new__(_Stand)
        copy.__dict__.update(self.__dict__)
        return copy

    def labelled(self, label: int) -> Brush:
        brush = self._copy()
        brush.label = _NOWHERE if label in self.unseen else self.own
        return brush

    def at(self, x: Number, y: Number, scale: Number = 1.0, turn: Number = 0.0, flip: bool = False) -> Brush:
        """As of any brush, but where the scene puts its thing into the picture, it is put to its spot."""
        if self.spot is None:
            return super().at(x, y, scale, turn, flip)
        brush = self._copy()
        brush.spot = None
        return brush.at(*self.spot, turn, flip)


# Small things that no caption names, each about 1 wide and high around the origin.


def _ball(b: Brush, r: Random) -> None:
    colour = varied((226, 120, 44), r, 30)
    b.ellipse(0, 0, 0.5, 0.5, colour, darker(colour, 0.5))
    b.line(((-0.5, 0.0), (0.0, 0.12), (0.5, 0.0)), 0.1, lighter(colour, 0.6))


def _mushroom(b: Brush, r: Random) -> None:
    cap = varied((178, 52, 60), r, 20)
    b.box(-0.14, 0.0, 0.14, 0.5, (236, 226, 206), (150, 140, 120))
    b.ellipse(0, -0.08, 0.48, 0.32, cap, darker(cap, 0.5))
    for x, y in ((-0.24, -0.1), (0.02, -0.24), (0.24, -0.06)):
        b.ellipse(x, y, 0.09, 0.08, (246, 240, 230))


def _crate(b: Brush, r: Random) -> None:
    wood = varied((170, 128, 78), r, 16)
    b.box(-0.5, -0.42, 0.5, 0.5, wood, darker(wood, 0.5))
    b.line(((-0.42, -0.34), (0.42, 0.42)), 0.12, darker(wood, 0.3))
    b.line(((-0.42, 0.42), (0.42, -0.34)), 0.12, darker(wood, 0.3))


def _bucket(b: Brush, r: Random) -> None:
    tin = varied((120, 150, 160), r, 20)
    b.polygon(((-0.44, -0.3), (0.44, -0.3), (0.3, 0.5), (-0.3, 0.5)), tin, darker(tin, 0.5))
    b.ellipse(0, -0.3, 0.44, 0.14, darker(tin, 0.4), darker(tin, 0.6))


DISTRACTORS: tuple[Callable[[Brush, Random], None], ...] = (_ball, _mushroom, _crate, _bucket)
