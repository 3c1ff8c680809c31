"""Cars of four makes with four bodies, some with a name written on them: the stand-in for StanfordCars."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from xaikit.arguments import public
from xaikit.world.canvas import Brush, Colour, darker, outline, varied
from xaikit.world.language import article, chosen, joined, opened
from xaikit.world.palette import COLOURS, twigs
from xaikit.world.places import PHRASES, PLACES
from xaikit.world.scene import Scene, Value, factor

MAKES = ("vega", "orso", "lumo", "kite")
MODELS = ("sedan", "van", "pickup", "convertible")
PLACES_OF_CARS = ("street", "country road", "showroom")
_BODY, _TEXT, _EMBLEM, _FRONT_WHEEL, _REAR_WHEEL, _OCCLUDER = range(1, 7)
_DARK: Colour = (28, 28, 34)


@public
@dataclass(frozen=True)
class Cars(Scene):
    """One car from the side: its make (emblem and band), model, colour, place, and a name in capitals on its door.

    `text` is None or the name of any make, whether it is right or not. Parts: background, body, text, emblem (with
    the band), wheels, the whole car, and the twigs in front (occluder).
    """

    make: str = factor(*MAKES)
    model: str = factor(*MODELS)
    colour: str = factor(*COLOURS)
    background: str = factor(*PLACES_OF_CARS)
    text: str | None = factor(None, *MAKES, default=None)

    PARTS: ClassVar = {
        "background": (0,), "body": (_BODY,), "text": (_TEXT,), "emblem": (_EMBLEM,),
        "wheels": (_FRONT_WHEEL, _REAR_WHEEL), "car": (_BODY, _TEXT, _EMBLEM, _FRONT_WHEEL, _REAR_WHEEL),
        "occluder": (_OCCLUDER,),
    }  # fmt: skip
    SEVERAL: ClassVar = ("wheels",)
    CLASS: ClassVar = "make"
    PROMPTS: ClassVar[dict[str, dict[Value, str]]] = {
        "make": {name: f"a photo of {article(name)}" for name in MAKES},
        "model": {name: f"a photo of a {name}" for name in MODELS},
        "colour": {name: f"a photo of a {name} car" for name in COLOURS},
        "background": {name: f"a photo of a car {PHRASES[name][0]}" for name in PLACES_OF_CARS},
        "text": {
            None: "a photo of a car with no name on it",
            **{name: f"a photo of a car with the name {name} on it" for name in MAKES},
        },
    }

    def _paint(self, brush: Brush) -> None:
        PLACES[self.background](brush, self.stream(f"background {self.background}"))
        pose = self.stream("pose")
        x, y, scale = pose.uniform(0.44, 0.56), pose.uniform(0.54, 0.76), pose.uniform(0.74, 0.88)
        turn, flip = pose.uniform(-0.08, 0.08), pose.random() < 0.5
        car = brush.at(x, y, scale, turn, flip)
        colour = varied(COLOURS[self.colour], self.stream("paint"), 12)
        glass = varied((150, 190, 212), self.stream("glass"), 10)
        BODIES[self.model](car.labelled(_BODY), colour, glass)
        contrast = _DARK if sum(COLOURS[self.colour]) > 420 else (250, 248, 240)
        EMBLEMS[self.make](car.labelled(_EMBLEM), contrast)
        for label, at in ((_FRONT_WHEEL, 0.31), (_REAR_WHEEL, -0.31)):
            wheel = car.labelled(label)
            wheel.ellipse(at, 0.15, 0.115, 0.115, (26, 26, 30))
            wheel.ellipse(at, 0.15, 0.06, 0.06, (196, 198, 204), (90, 92, 98))
        if self.text is not None:
            # Not mirrored with the car: letters always read from left to right.
            plate = brush.labelled(_TEXT).at(x, y, scale, turn)
            plate.box(-0.185, -0.015, 0.185, 0.145, (250, 250, 246), _DARK)
            write(plate.at(-0.165, 0.005, 0.125), self.text, _DARK)
        twigs(brush.labelled(_OCCLUDER), self.stream("occluder"), chance=0.2)

    def _caption(self, random: Random, everything: bool) -> str:
        named = chosen(("make", "model", "colour", "background", "text"), random, everything)
        colour = self.colour if "colour" in named else None
        model = self.model if "model" in named else None
        make = self.make if "make" in named else None
        if make and random.random() < 0.4:
            phrase = joined(article(joined(colour, model or "car")), f"made by {make}")
        else:
            phrase = article(joined(colour, make, model or (None if make else "car")))
        written = None
        if "text" in named:
            written = f"with the name {self.text} on it" if self.text else "with no name on it"
        place = random.choice(PHRASES[self.background]) if "background" in named else None
        return opened(joined(phrase, place, written), random)


# Frames about 1 wide, the front to the right, the origin at the middle of the doors.

_LOWER = outline(
    (-0.52, 0.0), (-0.5, -0.12), (-0.3, -0.15), (0.0, -0.15), (0.3, -0.15), (0.48, -0.1), (0.53, 0.04), (0.52, 0.17),
    (0.3, 0.19), (0.0, 0.19), (-0.3, 0.19), (-0.51, 0.17),
)  # fmt: skip


def _lower(b: Brush, c: Colour) -> None:
    edge = darker(c, 0.6)
    b.polygon(_LOWER, c, edge)
    b.box(-0.5, 0.14, 0.51, 0.19, darker(c, 0.3))
    b.ellipse(0.5, 0.01, 0.025, 0.035, (255, 244, 190), edge)
    b.ellipse(-0.505, 0.0, 0.018, 0.035, (220, 50, 40), edge)


def _sedan(b: Brush, c: Colour, glass: Colour) -> None:
    edge = darker(c, 0.6)
    b.polygon(((-0.36, -0.13), (-0.22, -0.34), (0.12, -0.34), (0.29, -0.13)), c, edge)
    b.polygon(((-0.29, -0.14), (-0.19, -0.3), (-0.06, -0.3), (-0.06, -0.14)), glass, edge)
    b.polygon(((-0.03, -0.14), (-0.03, -0.3), (0.1, -0.3), (0.22, -0.14)), glass, edge)
    _lower(b, c)


def _van(b: Brush, c: Colour, glass: Colour) -> None:
    edge = darker(c, 0.6)
    b.polygon(((-0.51, -0.1), (-0.51, -0.42), (-0.46, -0.46), (0.3, -0.46), (0.46, -0.16), (0.48, -0.1)), c, edge)
    b.polygon(((0.16, -0.18), (0.16, -0.4), (0.28, -0.4), (0.39, -0.18)), glass, edge)
    for x in (-0.44, -0.14):
        b.box(x, -0.4, x + 0.24, -0.22, glass, edge)
    _lower(b, c)


def _pickup(b: Brush, c: Colour, glass: Colour) -> None:
    edge = darker(c, 0.6)
    b.polygon(((-0.06, -0.13), (-0.06, -0.38), (0.14, -0.38), (0.28, -0.13)), c, edge)
    b.polygon(((-0.02, -0.15), (-0.02, -0.33), (0.12, -0.33), (0.22, -0.15)), glass, edge)
    b.polygon(((-0.46, -0.13), (-0.4, -0.25), (-0.16, -0.22), (-0.1, -0.13)), (150, 118, 78), (84, 62, 40))  # its load
    _lower(b, c)


def _convertible(b: Brush, c: Colour, glass: Colour) -> None:
    b.line(((0.1, -0.3), (0.22, -0.13)), 0.03, darker(c, 0.5))
    b.polygon(((0.07, -0.28), (0.1, -0.29), (0.2, -0.14), (0.14, -0.14)), glass)
    for x in (-0.24, -0.04):
        b.ellipse(x, -0.17, 0.055, 0.095, (120, 70, 44), (60, 36, 24))
    b.line(((0.06, -0.16), (0.1, -0.23)), 0.022, (30, 30, 34))
    _lower(b, c)


BODIES: dict[str, Callable[[Brush, Colour, Colour], None]] = {
    "sedan": _sedan, "van": _van, "pickup": _pickup, "convertible": _convertible
}  # fmt: skip


def _badge(b: Brush) -> Brush:
    """The dark disc in front on which every emblem lies; returns a brush whose unit is its radius."""
    b.ellipse(0.385, -0.03, 0.1, 0.1, _DARK, (246, 246, 240))
    return b.at(0.385, -0.03, 0.1)


def _vega(b: Brush, contrast: Colour) -> None:
    """A row of chevrons and a star with four points."""
    for k in range(8):
        x = -0.48 + 0.1 * k
        b.polygon(
            ((x, -0.13), (x + 0.04, -0.13), (x + 0.08, -0.08), (x + 0.04, -0.03), (x, -0.03), (x + 0.04, -0.08)),
            contrast,
        )
    badge = _badge(b)
    radii = [0.85 if k % 2 == 0 else 0.3 for k in range(8)]
    badge.polygon(
        [(r * math.sin(k * math.pi / 4), -r * math.cos(k * math.pi / 4)) for k, r in enumerate(radii)], (250, 214, 70)
    )


def _orso(b: Brush, contrast: Colour) -> None:
    """Two thin lines and a ring."""
    b.box(-0.5, -0.12, 0.46, -0.095, contrast)
    b.box(-0.5, -0.065, 0.46, -0.04, contrast)
    badge = _badge(b)
    badge.ellipse(0, 0, 0.75, 0.75, (250, 250, 250))
    badge.ellipse(0, 0, 0.36, 0.36, _DARK)


def _lumo(b: Brush, contrast: Colour) -> None:
    """Upright bars and a cross."""
    for k in range(9):
        b.box(-0.49 + 0.09 * k, -0.135, -0.455 + 0.09 * k, -0.025, contrast)
    badge = _badge(b)
    badge.box(-0.75, -0.24, 0.75, 0.24, (110, 220, 120))
    badge.box(-0.24, -0.75, 0.24, 0.75, (110, 220, 120))


def _kite(b: Brush, contrast: Colour) -> None:
    """One broad band and a triangle."""
    b.polygon(((-0.51, -0.125), (0.45, -0.125), (0.48, -0.03), (-0.52, -0.03)), contrast)
    badge = _badge(b)
    badge.polygon(((0, -0.85), (0.75, 0.5), (-0.75, 0.5)), (250, 110, 170))


EMBLEMS: dict[str, Callable[[Brush, Colour], None]] = {"vega": _vega, "orso": _orso, "lumo": _lumo, "kite": _kite}

# Capitals as strokes in a box of 0.5 x 1, so that they are the same at every size.
_ROUND = (
    (0.25, 0.0),
    (0.45, 0.12),
    (0.5, 0.5),
    (0.45, 0.88),
    (0.25, 1.0),
    (0.05, 0.88),
    (0.0, 0.5),
    (0.05, 0.12),
    (0.25, 0.0),
)
_LETTERS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0.0, 1.0), (0.25, 0.0), (0.5, 1.0)), ((0.1, 0.65), (0.4, 0.65))),
    "E": (((0.5, 0.0), (0.0, 0.0), (0.0, 1.0), (0.5, 1.0)), ((0.0, 0.5), (0.4, 0.5))),
    "G": (
        ((0.48, 0.2), (0.25, 0.0), (0.05, 0.12), (0.0, 0.5), (0.05, 0.88), (0.25, 1.0), (0.5, 0.85), (0.5, 0.55),
         (0.28, 0.55)),
    ),
    "I": (((0.25, 0.0), (0.25, 1.0)),),
    "K": (((0.0, 0.0), (0.0, 1.0)), ((0.5, 0.0), (0.0, 0.55)), ((0.15, 0.42), (0.5, 1.0))),
    "L": (((0.0, 0.0), (0.0, 1.0), (0.5, 1.0)),),
    "M": (((0.0, 1.0), (0.0, 0.0), (0.25, 0.55), (0.5, 0.0), (0.5, 1.0)),),
    "O": (_ROUND,),
    "R": (
        ((0.0, 1.0), (0.0, 0.0), (0.35, 0.0), (0.5, 0.15), (0.5, 0.35), (0.35, 0.5), (0.0, 0.5)),
        ((0.25, 0.5), (0.5, 1.0)),
    ),
    "S": (
        ((0.5, 0.12), (0.3, 0.0), (0.1, 0.05), (0.0, 0.25), (0.1, 0.45), (0.4, 0.55), (0.5, 0.75), (0.4, 0.95),
         (0.2, 1.0), (0.0, 0.88)),
    ),
    "T": (((0.0, 0.0), (0.5, 0.0)), ((0.25, 0.0), (0.25, 1.0))),
    "U": (((0.0, 0.0), (0.0, 0.75), (0.12, 0.98), (0.38, 0.98), (0.5, 0.75), (0.5, 0.0)),),
    "V": (((0.0, 0.0), (0.25, 1.0), (0.5, 0.0)),),
}  # fmt: skip


def write(b: Brush, word: str, colour: Colour) -> None:
    """Write a word in capitals, 1 high from the origin down and 0.7 wide a letter."""
    for place, letter in enumerate(word.upper()):
        for stroke in _LETTERS[letter]:
            b.line([(0.7 * place + x, y) for x, y in stroke], 0.16, colour)
