"""Nine kinds of things, each with a home: the stand-in for ImageNet-9 and its variants (Xiao et al., 2021)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import cv2

from xaikit.arguments import public
from xaikit.world.canvas import Brush, Colour, darker, lighter, outline, varied
from xaikit.world.language import article, chosen, joined, opened
from xaikit.world.palette import COLOURS, twigs
from xaikit.world.places import PHRASES, PLACES
from xaikit.world.scene import Scene, Value, factor

# Each category with the place where it is at home; "the next class" of the variant mixed_next is the next here.
HOMES: dict[str, str] = {
    "dog": "living room",
    "bird": "sky",
    "vehicle": "road",
    "reptile": "desert",
    "carnivore": "savanna",
    "insect": "flower bed",
    "instrument": "stage",
    "primate": "jungle",
    "fish": "reef",
}
VARIANTS = ("original", "only_bg_b", "only_bg_t", "no_fg", "only_fg", "mixed_same", "mixed_rand", "mixed_next")
PATTERNS = ("plain", "striped", "spotted")
# What captions call each category; the name itself comes first.
NOUNS: dict[str, tuple[str, ...]] = {
    "dog": ("dog",),
    "bird": ("bird",),
    "vehicle": ("vehicle", "truck"),
    "reptile": ("reptile", "lizard"),
    "carnivore": ("carnivore", "lion"),
    "insect": ("insect", "butterfly"),
    "instrument": ("instrument", "guitar"),
    "primate": ("primate", "monkey"),
    "fish": ("fish",),
}
_BACKGROUND, _OBJECT, _OCCLUDER = 0, 1, 2


@public
@dataclass(frozen=True)
class Nine(Scene):
    """One thing of nine categories, with a colour and a pattern, in one of the nine homes.

    `variant` is as in ImageNet-9. only_bg_b: the box of the object is black; only_bg_t: the object is not there (what
    the paper fills with tiles is the true background here); no_fg: the object's silhouette is black; only_fg: all but
    the object is black; mixed_same, mixed_rand, mixed_next: the object before another background, from the home of
    its own, a random or the next category. Derived factor: `place`, where the picture is set (None with only_fg).
    Parts: object, background, and the twigs in front (occluder).
    """

    category: str = factor(*HOMES)
    colour: str = factor(*COLOURS)
    pattern: str = factor(*PATTERNS)
    background: str = factor(*HOMES.values())
    variant: str = factor(*VARIANTS, default="original")

    PARTS: ClassVar = {"background": (_BACKGROUND,), "object": (_OBJECT,), "occluder": (_OCCLUDER,)}
    CLASS: ClassVar = "category"
    DERIVED: ClassVar = {"place": (*HOMES.values(), None)}
    PROMPTS: ClassVar[dict[str, dict[Value, str]]] = {
        "category": {name: f"a photo of {article(name)}" for name in HOMES},
        "colour": {name: f"a photo of something {name}" for name in COLOURS},
        "pattern": {name: f"a photo of something {name}" for name in PATTERNS},
        "background": {name: f"a photo of something {PHRASES[name][0]}" for name in HOMES.values()},
    }

    @property
    def place(self) -> str | None:
        categories = list(HOMES)
        match self.variant:
            case "only_fg":
                return None
            case "mixed_same":
                return HOMES[self.category]
            case "mixed_rand":
                return HOMES[self.stream("mixed_rand").choice(categories)]
            case "mixed_next":
                return HOMES[categories[(categories.index(self.category) + 1) % len(categories)]]
            case _:
                return self.background

    @property
    def factors(self) -> dict[str, Value]:
        return {**super().factors, "place": self.place}

    def _paint(self, brush: Brush) -> None:
        if self.place is not None:
            mixed = self.variant if self.variant.startswith("mixed") else ""
            PLACES[self.place](brush, self.stream(f"background {mixed} {self.place}"))
        if not self.variant.startswith("only_bg"):
            self._paint_object(brush)
        twigs(brush.labelled(_OCCLUDER), self.stream("occluder"))
        match self.variant:
            case "only_bg_b":
                alone = Brush(len(brush.pixels))
                self._paint_object(alone)
                x, y, width, height = cv2.boundingRect(alone.where(_OBJECT))
                brush.pixels[y : y + height, x : x + width] = 0
            case "no_fg":
                brush.blacken(brush.where(_OBJECT))
            case "only_fg":
                brush.blacken(cv2.bitwise_not(brush.where(_OBJECT)))

    def _paint_object(self, brush: Brush) -> None:
        pose = self.stream("object")
        frame = brush.labelled(_OBJECT).at(
            pose.uniform(0.4, 0.6),
            pose.uniform(0.44, 0.64),
            pose.uniform(0.54, 0.72),
            pose.uniform(-0.2, 0.2),
            pose.random() < 0.5,
        )
        colour = varied(COLOURS[self.colour], self.stream("colour"), 12)

        def pattern() -> None:
            paint_pattern(frame, self.pattern, colour, self.stream("pattern"))

        OBJECTS[self.category](frame, colour, pattern, pose)

    def _caption(self, random: Random, everything: bool) -> str:
        seen = {
            "only_bg_b": ("background",),
            "only_bg_t": ("background",),
            "no_fg": ("category", "background"),
            "only_fg": ("category", "colour", "pattern"),
        }.get(self.variant, ("category", "colour", "pattern", "background"))
        named = chosen(seen, random, everything)
        adjectives = [getattr(self, name) for name in ("pattern", "colour") if name in named]
        if "category" in named:
            phrase = article(joined(*adjectives, random.choice(NOUNS[self.category])))
        elif len(seen) == 1:
            phrase = random.choice(("a place", "an empty place"))
        else:
            phrase = joined("something", " and ".join(adjectives))
        place = random.choice(PHRASES[self.place]) if self.place is not None and "background" in named else None
        return opened(joined(phrase, place), random)


def paint_pattern(b: Brush, pattern: str, colour: Colour, random: Random) -> None:
    """Stripes or spots on all that has the brush's label so far; dark on light colours and light on dark ones."""
    contrast = darker(colour, 0.6) if sum(colour) > 420 else lighter(colour, 0.5)
    shift, lean = random.uniform(-0.06, 0.06), random.uniform(-0.12, 0.12)
    if pattern == "striped":
        xs = [shift + 0.135 * k for k in range(-5, 6)]
        marks = [((x + lean, -0.75), (x + lean + 0.052, -0.75), (x - lean + 0.052, 0.75), (x - lean, 0.75)) for x in xs]
        b.within(b.label, marks, contrast)
    elif pattern == "spotted":
        ring = [(0.048 * math.cos(k * math.pi / 5), 0.048 * math.sin(k * math.pi / 5)) for k in range(10)]
        centres = [
            (0.15 * i + 0.075 * (j % 2) + shift + random.uniform(-0.015, 0.015), 0.13 * j + lean)
            for i in range(-4, 5)
            for j in range(-4, 5)
        ]
        b.within(b.label, [[(x + dx, y + dy) for dx, dy in ring] for x, y in centres], contrast)


# Each thing in a frame of its own: about 1 wide, facing right, with the origin at the centre. First what takes the
# pattern, then the pattern, then what lies over it.

_Pattern = Callable[[], None]
_DOG = outline(
    (-0.36, -0.1), (-0.1, -0.13), (0.14, -0.14), (0.2, -0.26), (0.26, -0.37), (0.38, -0.38), (0.45, -0.28),
    (0.57, -0.24), (0.56, -0.15), (0.42, -0.12), (0.34, -0.04), (0.3, 0.1), (0.1, 0.15), (-0.2, 0.13), (-0.36, 0.14),
    (-0.41, 0.02),
)  # fmt: skip
_LIZARD = outline(
    (0.56, 0.02), (0.44, -0.09), (0.3, -0.1), (0.16, -0.07), (0.0, -0.12), (-0.16, -0.1), (-0.32, 0.0), (-0.46, -0.02),
    (-0.56, -0.14), (-0.62, -0.13), (-0.55, 0.05), (-0.4, 0.12), (-0.2, 0.1), (0.0, 0.12), (0.2, 0.09), (0.42, 0.08),
)  # fmt: skip
_LION = outline(
    (-0.46, -0.06), (-0.3, -0.14), (0.0, -0.14), (0.26, -0.12), (0.26, 0.14), (0.0, 0.16), (-0.3, 0.16), (-0.46, 0.12)
)
_WING = outline((0.02, 0.0), (0.16, -0.26), (0.4, -0.38), (0.5, -0.24), (0.42, -0.06), (0.2, 0.04))
_HIND_WING = outline((0.02, 0.04), (0.22, 0.04), (0.38, 0.14), (0.36, 0.32), (0.22, 0.38), (0.08, 0.22))
_GUITAR = outline(
    (-0.46, 0.0), (-0.42, -0.18), (-0.28, -0.23), (-0.14, -0.14), (-0.06, -0.13), (0.06, -0.17), (0.13, -0.08),
    (0.13, 0.08), (0.06, 0.17), (-0.06, 0.13), (-0.14, 0.14), (-0.28, 0.23), (-0.42, 0.18),
)  # fmt: skip
_FISH = outline(
    (0.48, 0.0), (0.34, -0.17), (0.08, -0.25), (-0.16, -0.15), (-0.3, 0.0), (-0.16, 0.15), (0.08, 0.24), (0.34, 0.16)
)
_FLYING = outline(
    (-0.34, 0.02), (-0.1, -0.07), (0.2, -0.12), (0.36, -0.16), (0.45, -0.06), (0.36, 0.06), (0.14, 0.15), (-0.12, 0.12)
)


def _legs(b: Brush, xs: tuple[float, ...], top: float, bottom: float, width: float, c: Colour, step: float) -> None:
    for k, x in enumerate(xs):
        lean = step * (-1) ** k
        shade = darker(c, 0.2) if k % 2 else c
        points = ((x - width, top), (x + width, top), (x + width + lean, bottom), (x - width + lean, bottom))
        b.polygon(points, shade, darker(c, 0.6))


def _dog(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge = darker(c, 0.6)
    wag = r.uniform(-0.06, 0.06)
    b.polygon(((-0.34, 0.0), (-0.54 + wag, -0.3), (-0.47 + wag, -0.34), (-0.28, -0.08)), c, edge)
    _legs(b, (-0.3, -0.2, 0.12, 0.23), 0.08, 0.42, 0.045, c, r.uniform(-0.04, 0.04))
    b.polygon(_DOG, c, edge)
    pattern()
    b.polygon(((0.19, -0.09), (0.36, -0.05), (0.35, 0.0), (0.17, -0.03)), (60, 180, 150))
    b.polygon(((0.24, -0.36), (0.32, -0.34), (0.3, -0.14), (0.2, -0.12), (0.18, -0.24)), darker(c, 0.45), edge)
    b.ellipse(0.56, -0.22, 0.035, 0.03, (20, 20, 22))
    b.ellipse(0.4, -0.28, 0.035, 0.035, (240, 240, 236))
    b.ellipse(0.405, -0.28, 0.022, 0.022, (15, 15, 15))


def _bird(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, lift = darker(c, 0.6), r.uniform(-0.05, 0.05)
    b.polygon(((0.1, 0.0), (0.26, -0.24), (0.22, -0.46 - lift), (0.02, -0.3), (-0.12, -0.02)), darker(c, 0.25), edge)
    b.polygon(((-0.26, 0.0), (-0.56, -0.06), (-0.5, 0.05), (-0.56, 0.14), (-0.24, 0.1)), c, edge)
    b.polygon(_FLYING, c, edge)
    b.polygon(((0.18, 0.02), (0.02, -0.3), (-0.34, -0.5 - lift), (-0.3, -0.26), (-0.2, 0.08)), c, edge)
    pattern()
    b.polygon(((0.43, -0.12), (0.57, -0.06), (0.43, -0.02)), (246, 170, 40), (150, 90, 20))
    b.ellipse(0.36, -0.08, 0.035, 0.035, (240, 240, 236))
    b.ellipse(0.365, -0.08, 0.022, 0.022, (15, 15, 15))


def _vehicle(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, high = darker(c, 0.6), r.uniform(0.3, 0.38)
    b.box(-0.5, -high, 0.14, 0.16, c, edge)
    b.polygon(((0.16, 0.16), (0.16, -0.24), (0.36, -0.24), (0.47, -0.04), (0.52, 0.0), (0.52, 0.16)), c, edge)
    pattern()
    b.polygon(((0.21, -0.18), (0.33, -0.18), (0.42, -0.03), (0.21, -0.03)), (186, 216, 232), edge)
    b.box(-0.52, 0.14, 0.54, 0.2, (64, 64, 70))
    b.box(0.48, 0.04, 0.53, 0.09, (255, 240, 160))
    for x in (-0.32, -0.08, 0.34):
        b.ellipse(x, 0.21, 0.105, 0.105, (30, 30, 34))
        b.ellipse(x, 0.21, 0.045, 0.045, (180, 182, 188))


def _reptile(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge = darker(c, 0.6)
    step = r.uniform(-0.04, 0.04)
    for x, way in ((-0.2, -1), (0.22, 1)):
        for near in (0, 1):
            knee, foot = x + way * (0.08 + 0.05 * near) + step * near, x + way * (0.05 + 0.1 * near)
            b.line(((x, 0.06), (knee, 0.14), (foot, 0.24), (foot + 0.06, 0.25)), 0.05, c if near else darker(c, 0.3))
    xs = [-0.3 + 0.085 * k for k in range(8)]
    b.polygons([((x - 0.04, -0.06), (x - 0.02, -0.2 + 0.1 * abs(x)), (x + 0.05, -0.06)) for x in xs], darker(c, 0.4))
    b.polygon(_LIZARD, c, edge)
    pattern()
    b.line(((0.55, 0.03), (0.66, 0.05), (0.7, 0.02)), 0.014, (230, 60, 80))
    b.line(((0.3, 0.05), (0.52, 0.03)), 0.012, edge)
    b.ellipse(0.4, -0.05, 0.035, 0.035, (250, 220, 60))
    b.ellipse(0.405, -0.05, 0.014, 0.026, (15, 15, 15))


def _carnivore(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, mane = darker(c, 0.6), darker(c, 0.42)
    swing = r.uniform(-0.08, 0.08)
    b.line(((-0.42, 0.0), (-0.55, 0.06), (-0.58 + swing, 0.26)), 0.035, darker(c, 0.2))
    b.ellipse(-0.58 + swing, 0.28, 0.05, 0.07, mane)
    _legs(b, (-0.36, -0.25, 0.08, 0.2), 0.06, 0.42, 0.06, c, r.uniform(-0.04, 0.04))
    b.polygon(_LION, c, edge)
    pattern()
    for k in range(12):
        a = k * math.pi / 6
        b.ellipse(0.28 + 0.17 * math.cos(a), -0.16 + 0.18 * math.sin(a), 0.09, 0.09, mane)
    b.ellipse(0.28, -0.16, 0.2, 0.2, mane)
    for x in (0.16, 0.4):
        b.ellipse(x, -0.31, 0.05, 0.05, c, edge)
    b.ellipse(0.28, -0.16, 0.15, 0.16, c, edge)
    b.ellipse(0.28, -0.08, 0.085, 0.065, lighter(c, 0.55))
    b.polygon(((0.23, -0.13), (0.33, -0.13), (0.28, -0.07)), (40, 24, 24))
    for x in (0.22, 0.34):
        b.ellipse(x, -0.2, 0.028, 0.028, (250, 210, 70))
        b.ellipse(x, -0.2, 0.014, 0.02, (15, 15, 15))


def _insect(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, open_ = darker(c, 0.65), r.uniform(0.9, 1.1)
    for side in (False, True):
        wing = b.at(0, 0, flip=side)
        wing.polygon(_HIND_WING * (open_, 1.0), darker(c, 0.15), edge)
        wing.polygon(_WING * (open_, 1.0), c, edge)
    pattern()
    for x in (-0.16, 0.16):
        b.line(((0, -0.16), (0.6 * x, -0.34), (x, -0.4)), 0.016, (30, 26, 24))
        b.ellipse(x, -0.4, 0.02, 0.02, (30, 26, 24))
    b.ellipse(0, 0.06, 0.042, 0.24, (48, 40, 36))
    b.ellipse(0, -0.17, 0.055, 0.055, (48, 40, 36))


def _instrument(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    b = b.at(0, 0, 1, -r.uniform(0.2, 1.0))
    edge = darker(c, 0.6)
    b.polygon(_GUITAR, c, edge)
    pattern()
    b.box(0.08, -0.032, 0.52, 0.032, (96, 62, 40), (50, 32, 22))
    b.polygon(((0.5, -0.04), (0.64, -0.065), (0.64, 0.065), (0.5, 0.04)), (70, 46, 32), (40, 26, 20))
    b.ellipse(-0.04, 0.0, 0.075, 0.075, (34, 24, 20), (226, 200, 150))
    b.box(-0.33, -0.09, -0.28, 0.09, (60, 40, 30))
    b.box(0.02, -0.032, 0.14, 0.032, (96, 62, 40))
    for y in (-0.018, 0.0, 0.018):
        b.box(-0.31, y - 0.003, 0.54, y + 0.003, (236, 232, 220))


def _primate(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, skin = darker(c, 0.6), (232, 190, 150)
    reach = r.uniform(-0.06, 0.06)
    b.line(((0.16, 0.34), (0.4, 0.36), (0.48, 0.2), (0.4, 0.1), (0.33, 0.18)), 0.05, darker(c, 0.2))
    for side in (-1, 1):
        b.line(((side * 0.12, -0.02), (side * 0.34, 0.1 + reach * side), (side * 0.26, 0.34)), 0.08, c)
        b.ellipse(side * 0.26, 0.36, 0.05, 0.045, skin, edge)
        b.ellipse(side * 0.17, 0.44, 0.12, 0.07, c, edge)
    b.ellipse(0, 0.2, 0.2, 0.27, c, edge)
    for side in (-1, 1):
        b.ellipse(side * 0.21, -0.24, 0.085, 0.085, c, edge)
    b.ellipse(0, -0.24, 0.2, 0.2, c, edge)
    pattern()
    for side in (-1, 1):
        b.ellipse(side * 0.21, -0.24, 0.05, 0.05, skin)
        b.ellipse(side * 0.065, -0.26, 0.085, 0.095, skin)
    b.ellipse(0, -0.15, 0.125, 0.09, skin)
    for side in (-1, 1):
        b.ellipse(side * 0.06, -0.26, 0.026, 0.032, (20, 16, 16))
    b.line(((-0.05, -0.12), (0, -0.1), (0.05, -0.12)), 0.016, (110, 60, 50))


def _fish(b: Brush, c: Colour, pattern: _Pattern, r: Random) -> None:
    edge, fin = darker(c, 0.6), darker(c, 0.2)
    swing = r.uniform(-0.05, 0.05)
    b.polygon(((-0.24, 0.0), (-0.52, -0.22 + swing), (-0.44, 0.0 + swing), (-0.52, 0.22 + swing)), fin, edge)
    b.polygon(((0.2, -0.2), (0.02, -0.38), (-0.16, -0.32), (-0.12, -0.14)), fin, edge)
    b.polygon(((0.1, 0.2), (-0.04, 0.34), (-0.14, 0.28), (-0.08, 0.16)), fin, edge)
    b.polygon(_FISH, c, edge)
    pattern()
    b.line(((0.24, -0.17), (0.18, 0.0), (0.24, 0.16)), 0.016, edge)
    b.polygon(((0.12, 0.02), (-0.06, -0.02), (-0.04, 0.12)), fin, edge)
    b.ellipse(0.34, -0.05, 0.055, 0.055, (245, 245, 240), edge)
    b.ellipse(0.35, -0.05, 0.028, 0.028, (15, 15, 15))


OBJECTS: dict[str, Callable[[Brush, Colour, _Pattern, Random], None]] = {
    "dog": _dog, "bird": _bird, "vehicle": _vehicle, "reptile": _reptile, "carnivore": _carnivore,
    "insect": _insect, "instrument": _instrument, "primate": _primate, "fish": _fish,
}  # fmt: skip
