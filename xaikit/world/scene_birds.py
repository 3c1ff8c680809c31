"""Birds on water and on land: the stand-in for Waterbirds (Sagawa et al., 2020)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from xaikit.arguments import public
from xaikit.world.canvas import Brush, Colour, darker, lighter, outline, varied
from xaikit.world.language import NUMBERS, article, chosen, joined, opened
from xaikit.world.palette import COLOURS, twigs
from xaikit.world.places import PHRASES, PLACES
from xaikit.world.scene import Scene, Value, factor

WATERBIRDS = ("duck", "gull", "heron", "swan")
LANDBIRDS = ("crow", "owl", "parrot", "robin")
SCENERY = {"water": ("sea", "lake"), "land": ("forest", "meadow")}
# Kind and background, in the order of the paper's tables.
GROUPS = ("landbird/land", "landbird/water", "waterbird/land", "waterbird/water")
GENERAL = {"water": ("on the water",), "land": ("on land",)}  # where a caption does not say which scenery
_BILLS: tuple[Colour, ...] = ((245, 150, 30), (245, 200, 60), (120, 108, 100), (70, 62, 58))


@public
@dataclass(frozen=True)
class Birds(Scene):
    """One to three birds of one species and colour, on water or on land (each with two sceneries).

    Derived factors: `kind` ("landbird", "waterbird"), `place` (sea, lake, forest or meadow) and `group`
    (kind/background, in the order of the paper). Parts: bird1, bird2, bird3, all birds, the background, and the twigs
    in front (occluder).
    """

    species: str = factor(*WATERBIRDS, *LANDBIRDS)
    colour: str = factor(*COLOURS)
    count: int = factor(1, 2, 3)
    background: str = factor(*SCENERY)
    scenery: int = factor(0, 1, default=0)

    PARTS: ClassVar = {
        "background": (0,), "bird1": (1,), "bird2": (2,), "bird3": (3,), "occluder": (4,), "birds": (1, 2, 3)
    }  # fmt: skip
    SEVERAL: ClassVar = ("birds",)
    CLASS: ClassVar = "species"
    DERIVED: ClassVar = {
        "kind": ("landbird", "waterbird"), "place": tuple(name for names in SCENERY.values() for name in names),
        "group": GROUPS,
    }  # fmt: skip
    PROMPTS: ClassVar[dict[str, dict[Value, str]]] = {
        "species": {name: f"a photo of {article(name)}" for name in (*WATERBIRDS, *LANDBIRDS)},
        "kind": {name: f"a photo of a {name}" for name in ("landbird", "waterbird")},
        "colour": {name: f"a photo of a {name} bird" for name in COLOURS},
        "count": {n: f"a photo of {NUMBERS[n]} bird{'s' if n > 1 else ''}" for n in NUMBERS},
        "background": {name: f"a photo of a bird {GENERAL[name][0]}" for name in SCENERY},
        "place": {name: f"a photo of a bird {PHRASES[name][0]}" for names in SCENERY.values() for name in names},
    }

    @property
    def kind(self) -> str:
        return "waterbird" if self.species in WATERBIRDS else "landbird"

    @property
    def place(self) -> str:
        return SCENERY[self.background][self.scenery]

    @property
    def factors(self) -> dict[str, Value]:
        return {**super().factors, "kind": self.kind, "place": self.place, "group": f"{self.kind}/{self.background}"}

    def _paint(self, brush: Brush) -> None:
        PLACES[self.place](brush, self.stream(f"background {self.place}"))
        # Three places on a ring, one for each bird, so that a second leaves the first where it was.
        layout, flock = self.stream("layout"), self.stream("plumage")
        start, way = layout.uniform(0, 2 * math.pi), layout.choice((-1, 1))
        plumage, bill = varied(COLOURS[self.colour], flock, 12), varied(flock.choice(_BILLS), flock, 8)
        birds = []
        for index in range(self.count):
            pose, angle = self.stream(f"bird{index + 1}"), start + way * index * 2 * math.pi / 3
            x, y = 0.5 + 0.23 * math.cos(angle), 0.52 + 0.2 * math.sin(angle)
            frame = brush.labelled(index + 1).at(
                x + pose.uniform(-0.06, 0.06),
                y + pose.uniform(-0.06, 0.06),
                pose.uniform(0.4, 0.56),
                pose.uniform(-0.2, 0.2),
                pose.random() < 0.5,
            )
            birds.append((y, frame, pose))
        for _, frame, pose in sorted(birds, key=lambda bird: bird[0]):  # the lower are in front
            SPECIES[self.species](frame, plumage, bill, pose)
        twigs(brush.labelled(4), self.stream("occluder"))

    def _caption(self, random: Random, everything: bool) -> str:
        named = chosen(("species", "colour", "count", "background"), random, everything)
        noun = self.species if "species" in named else random.choice((self.kind, "bird", "bird"))
        colour = self.colour if "colour" in named else None
        if self.count == 1:
            phrase = joined("one", colour, noun) if random.random() < 0.3 else article(joined(colour, noun))
        elif "count" in named:
            number = NUMBERS[self.count]
            if random.random() < 0.25:
                number = {2: "a pair of", 3: "a group of three"}[self.count]
            phrase = joined(number, colour, noun + "s")
        else:
            phrase = joined(random.choice(("some", None)), colour, noun + "s")
        place = None
        if "background" in named:
            general = not everything and random.random() < 0.4
            place = random.choice(GENERAL[self.background] if general else PHRASES[self.place])
        return opened(joined(phrase, place), random)


# Each species in a frame of its own: about 1 wide, facing right, with the origin at the centre.

_DUCK = outline(
    (-0.50, -0.12), (-0.36, 0.0), (-0.1, -0.06), (0.12, -0.08), (0.15, -0.22), (0.18, -0.34), (0.28, -0.39),
    (0.37, -0.31), (0.34, -0.2), (0.31, -0.1), (0.36, 0.04), (0.25, 0.2), (-0.05, 0.26), (-0.34, 0.17),
)  # fmt: skip
_SWAN = outline(
    (-0.52, -0.16), (-0.3, -0.16), (-0.08, -0.2), (0.14, -0.06), (0.33, 0.08), (0.22, 0.25), (-0.1, 0.3), (-0.38, 0.18)
)
_SWAN_NECK = outline(
    (0.2, 0.12), (0.26, -0.04), (0.2, -0.2), (0.13, -0.34), (0.18, -0.48), (0.3, -0.52), (0.38, -0.45), (0.34, -0.37),
    (0.27, -0.39), (0.24, -0.32), (0.32, -0.18), (0.39, 0.0), (0.34, 0.14),
)  # fmt: skip
_CROW = outline(
    (0.18, -0.29), (0.3, -0.3), (0.38, -0.2), (0.32, -0.08), (0.26, 0.06), (0.08, 0.17), (-0.14, 0.16), (-0.52, 0.27),
    (-0.56, 0.15), (-0.24, -0.04), (0.0, -0.14), (0.11, -0.22),
)  # fmt: skip
_HERON = outline((-0.4, 0.12), (-0.26, -0.06), (-0.04, -0.14), (0.14, -0.12), (0.16, 0.0), (-0.02, 0.1), (-0.22, 0.1))
_HERON_NECK = outline(
    (0.02, -0.04), (0.14, -0.16), (0.1, -0.28), (0.05, -0.38), (0.1, -0.5), (0.22, -0.52), (0.28, -0.46), (0.24, -0.42),
    (0.14, -0.41), (0.16, -0.34), (0.22, -0.24), (0.22, -0.12), (0.12, 0.02),
)  # fmt: skip
_PARROT = outline(
    (0.1, -0.46), (0.22, -0.4), (0.24, -0.26), (0.2, -0.06), (0.2, 0.1), (0.08, 0.24), (-0.1, 0.56), (-0.2, 0.54),
    (-0.12, 0.22), (-0.14, -0.02), (-0.06, -0.26), (-0.02, -0.4),
)  # fmt: skip


def _legs(b: Brush, xs: tuple[float, float], top: float, bottom: float, colour: Colour, foot: float = 0.08) -> None:
    for x in xs:
        b.line(((x, top), (x, bottom), (x + foot, bottom + 0.01)), 0.03, colour)


def _eye(b: Brush, x: float, y: float, size: float = 0.03) -> None:
    b.ellipse(x, y, size + 0.012, size + 0.012, (240, 240, 235))
    b.ellipse(x, y, size, size, (15, 15, 15))


def _duck(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    _legs(b, (-0.08, 0.1), 0.22, 0.38, bill, 0.1)
    b.polygon(_DUCK, c, darker(c, 0.6))
    b.ellipse(-0.1, 0.07, 0.23, 0.11, darker(c), turn=pose.uniform(-0.2, 0.1))
    b.ellipse(-0.02, 0.05, 0.12, 0.05, lighter(c, 0.25))
    b.polygon(((0.16, -0.16), (0.35, -0.14), (0.35, -0.09), (0.15, -0.11)), (245, 245, 240))  # the ring of the drake
    b.polygon(((0.34, -0.33), (0.46, -0.28), (0.58, -0.27), (0.57, -0.2), (0.34, -0.21)), bill, darker(bill, 0.5))
    _eye(b, 0.28, -0.3)


def _gull(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    lift, tip = pose.uniform(-0.06, 0.06), (60, 60, 66)
    edge = darker(c, 0.6)
    far = ((-0.06, 0.06), (-0.24, -0.16), (-0.52, -0.34 + lift), (-0.36, -0.06), (-0.2, 0.08))
    b.polygon(far, darker(c, 0.2), edge)
    b.polygon(((-0.4, -0.26 + lift), (-0.52, -0.34 + lift), (-0.43, -0.2 + lift)), tip)
    b.polygon(((-0.26, 0.08), (-0.5, 0.06), (-0.48, 0.18), (-0.24, 0.16)), lighter(c, 0.15), edge)
    b.ellipse(0.02, 0.12, 0.31, 0.12, c, edge)
    b.ellipse(0.3, 0.05, 0.12, 0.11, c, edge)
    b.ellipse(0.0, 0.17, 0.2, 0.06, lighter(c, 0.3))
    b.polygon(((0.39, 0.01), (0.54, 0.06), (0.53, 0.12), (0.39, 0.1)), bill, darker(bill, 0.5))
    near = ((0.2, 0.06), (0.18, -0.14), (0.36, -0.52 - lift), (0.1, -0.26), (-0.12, 0.1))
    b.polygon(near, darker(c, 0.12), edge)
    b.polygon(((0.28, -0.35 - lift), (0.36, -0.52 - lift), (0.22, -0.39 - lift)), tip)
    _eye(b, 0.33, 0.02)


def _heron(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    stride = pose.uniform(-0.06, 0.06)
    b.line(((-0.08, 0.06), (-0.1 - stride, 0.28), (-0.08, 0.54), (0.0, 0.55)), 0.032, darker(bill, 0.2))
    b.line(((0.0, 0.06), (0.04 + stride, 0.28), (0.04, 0.54), (0.12, 0.55)), 0.032, darker(bill, 0.2))
    b.polygon(_HERON_NECK, c, darker(c, 0.6))
    b.polygon(_HERON, c, darker(c, 0.6))
    b.ellipse(-0.12, -0.01, 0.2, 0.07, darker(c), turn=-0.25)
    b.polygon(((0.14, -0.5), (0.06, -0.54), (-0.14, -0.44), (0.08, -0.47)), darker(c, 0.6))
    b.polygon(((0.24, -0.52), (0.6, -0.42), (0.25, -0.43)), bill, darker(bill, 0.5))
    _eye(b, 0.19, -0.48, 0.022)


def _swan(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    b.polygon(_SWAN_NECK, c, darker(c, 0.6))
    b.polygon(_SWAN, c, darker(c, 0.6))
    for k in range(3):
        b.ellipse(
            -0.16 - 0.07 * k, -0.02 + 0.06 * k, 0.22, 0.06, darker(c, 0.2 + 0.08 * k), turn=pose.uniform(0.1, 0.3)
        )
    b.polygon(((0.34, -0.5), (0.5, -0.38), (0.47, -0.34), (0.34, -0.4)), bill, darker(bill, 0.5))
    b.ellipse(0.37, -0.47, 0.035, 0.035, (30, 30, 30))
    _eye(b, 0.28, -0.46, 0.022)


def _crow(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    _legs(b, (-0.02, 0.1), 0.1, 0.38, bill)
    b.polygon(_CROW, c, darker(c, 0.6))
    tip = pose.uniform(0.2, 0.3)
    b.polygon(((0.16, -0.1), (-0.1, -0.06), (-0.44, tip), (-0.14, 0.12), (0.12, 0.06)), darker(c), darker(c, 0.6))
    b.polygon(((0.34, -0.29), (0.5, -0.22), (0.6, -0.12), (0.34, -0.12)), bill, darker(bill, 0.5))
    _eye(b, 0.28, -0.22)


def _owl(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    edge, look = darker(c, 0.6), pose.uniform(-0.02, 0.02)
    for side in (-1, 1):
        b.polygon(((side * 0.27, -0.26), (side * 0.27, -0.54), (side * 0.05, -0.36)), darker(c, 0.2), edge)
    b.ellipse(0.0, 0.06, 0.29, 0.42, c, edge)
    b.ellipse(0.0, -0.2, 0.3, 0.23, c, edge)
    for side in (-1, 1):
        b.ellipse(side * 0.25, 0.12, 0.09, 0.27, darker(c), turn=side * -0.15)
        b.ellipse(side * 0.13, -0.2, 0.135, 0.135, lighter(c, 0.65), edge)
        b.ellipse(side * 0.13 + look, -0.2, 0.085, 0.085, (250, 200, 40))
        b.ellipse(side * 0.13 + look, -0.2, 0.045, 0.045, (15, 15, 15))
        b.ellipse(side * 0.1, 0.48, 0.07, 0.035, bill)
    b.ellipse(0.0, 0.22, 0.15, 0.2, lighter(c, 0.4))
    b.polygons([((x - 0.04, y), (x + 0.04, y), (x, y + 0.05)) for x in (-0.06, 0.06) for y in (0.12, 0.24)], edge)
    b.polygon(((-0.045, -0.14), (0.045, -0.14), (0.0, -0.03)), bill)


def _parrot(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    edge = darker(c, 0.6)
    crest = pose.uniform(-0.05, 0.05)
    for k in range(3):
        tip = (-0.18 + 0.11 * k + crest, -0.66 + 0.03 * k)
        b.polygon(((0.0, -0.38), tip, (0.14, -0.42)), lighter(c, 0.3), edge)
    b.polygon(_PARROT, c, edge)
    b.ellipse(-0.02, 0.08, 0.1, 0.25, darker(c), turn=0.2)
    b.polygon(((-0.06, 0.26), (0.02, 0.28), (-0.14, 0.52)), lighter(c, 0.35))
    b.ellipse(0.13, -0.3, 0.085, 0.08, (245, 243, 235))
    b.polygon(
        ((0.19, -0.4), (0.33, -0.37), (0.38, -0.26), (0.33, -0.14), (0.28, -0.24), (0.2, -0.24)),
        bill,
        darker(bill, 0.5),
    )
    b.ellipse(0.13, -0.31, 0.032, 0.032, (15, 15, 15))
    _legs(b, (0.02, 0.12), 0.2, 0.33, darker(bill, 0.2), 0.06)


def _robin(b: Brush, c: Colour, bill: Colour, pose: Random) -> None:
    edge = darker(c, 0.6)
    _legs(b, (-0.02, 0.1), 0.24, 0.44, bill)
    up = pose.uniform(-0.06, 0.04)
    b.polygon(((-0.14, 0.0), (-0.38, -0.3 + up), (-0.26, -0.36 + up), (-0.04, -0.12)), darker(c), edge)
    b.ellipse(0.0, 0.06, 0.3, 0.26, c, edge)
    b.ellipse(0.16, -0.16, 0.19, 0.17, c, edge)
    b.ellipse(0.18, 0.08, 0.12, 0.18, (240, 225, 195), turn=0.2)
    b.ellipse(-0.1, 0.05, 0.17, 0.11, darker(c), turn=0.3)
    b.polygon(((0.33, -0.21), (0.47, -0.16), (0.33, -0.12)), bill)
    _eye(b, 0.22, -0.19)


SPECIES: dict[str, Callable[[Brush, Colour, Colour, Random], None]] = {
    "duck": _duck, "gull": _gull, "heron": _heron, "swan": _swan,
    "crow": _crow, "owl": _owl, "parrot": _parrot, "robin": _robin,
}  # fmt: skip
