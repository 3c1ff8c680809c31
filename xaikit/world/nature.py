"""Places in nature and on the land. Each paints the whole canvas, with decisions from the stream that it is given."""

import math
from collections.abc import Callable
from random import Random

import numpy as np

from xaikit.world.canvas import Brush, Colour, Points, darker, lighter, mix, varied

_SKY: tuple[Colour, Colour] = ((125, 180, 228), (190, 218, 236))
Place = Callable[[Brush, Random], None]


def _sky(b: Brush, r: Random, horizon: float, clouds: int = 3) -> None:
    b.backdrop(0, horizon, varied(_SKY[0], r, 14), varied(_SKY[1], r, 10), r, 4)
    for _ in range(r.randrange(clouds + 1)):
        x, y, s = r.random(), r.uniform(0.0, 0.75) * horizon, r.uniform(0.05, 0.1)
        for k in (-1, 0, 1):
            b.ellipse(x + k * s, y, s, s * (0.5 if k else 0.75), (232, 238, 242))


def _waves(b: Brush, r: Random, top: float, n: int, colour: Colour, size: float) -> None:
    """Flat crescents, larger the nearer they are."""
    marks: list[Points] = []
    for _ in range(n):
        depth = r.random()
        x, y, s = r.random(), top + (1 - top) * depth, size * (0.4 + depth)
        marks.append(
            ((x - s, y), (x - 0.4 * s, y - 0.22 * s), (x + 0.4 * s, y - 0.22 * s), (x + s, y), (x, y - 0.08 * s))
        )
    b.polygons(marks, colour)


def _blades(b: Brush, r: Random, top: float, n: int, colour: Colour, size: float = 0.05) -> None:
    """Tufts of grass, larger the nearer they are."""
    marks: list[Points] = []
    for _ in range(n):
        depth = r.random()
        x, y, s = r.random(), top + (1 - top) * depth, size * (0.4 + depth)
        marks.append(
            (
                (x - 0.5 * s, y - s),
                (x - 0.1 * s, y),
                (x + 0.1 * s, y - 1.3 * s),
                (x + 0.3 * s, y),
                (x + 0.6 * s, y - s),
                (x, y + 0.2 * s),
            )
        )
    b.polygons(marks, colour)


def _dots(b: Brush, r: Random, top: float, n: int, colour: Colour, size: float) -> None:
    """Small diamonds: flowers, pebbles."""
    marks: list[Points] = []
    for _ in range(n):
        depth = r.random()
        x, y, s = r.random(), top + (1 - top) * depth, size * (0.5 + depth)
        marks.append(((x - s, y), (x, y - s), (x + s, y), (x, y + s)))
    b.polygons(marks, colour)


def _hills(b: Brush, r: Random, y: float, height: float, colour: Colour) -> None:
    for k in range(3):
        b.ellipse(k / 2 + r.uniform(-0.15, 0.15), y, r.uniform(0.25, 0.5), height * r.uniform(0.5, 1.1), colour)


def _fir(b: Brush, x: float, foot: float, height: float, colour: Colour) -> None:
    w, y = 0.22 * height, foot - 0.12 * height
    b.box(x - 0.06 * height, y, x + 0.06 * height, foot, (90, 66, 46))
    profile = ((1.0, 0.0), (0.4, 0.3), (0.8, 0.3), (0.3, 0.58), (0.6, 0.58))  # half widths and heights of its tiers
    left = [(x - u * w, y - v * height) for u, v in profile]
    b.polygon((*left, (x, y - 0.9 * height), *((2 * x - u, v) for u, v in reversed(left))), colour)


def _tree(b: Brush, x: float, foot: float, height: float, colour: Colour) -> None:
    b.box(x - 0.05 * height, foot - 0.5 * height, x + 0.05 * height, foot, (98, 72, 48))
    b.ellipse(x, foot - 0.68 * height, 0.3 * height, 0.33 * height, colour)
    b.ellipse(x - 0.08 * height, foot - 0.76 * height, 0.15 * height, 0.15 * height, lighter(colour, 0.15))


def sea(b: Brush, r: Random) -> None:
    """Open water up to a high, straight horizon, with crests of foam and a sail."""
    horizon = r.uniform(0.14, 0.3)
    water = varied((38, 112, 168), r, 14)
    _sky(b, r, horizon)
    b.backdrop(horizon, 1, darker(water, 0.15), lighter(water, 0.08), r, 12)
    if r.random() < 0.5:
        x, s = r.uniform(0.1, 0.9), r.uniform(0.05, 0.09)
        b.polygon(((x, horizon - 1.6 * s), (x + s, horizon - 0.1 * s), (x, horizon - 0.1 * s)), (240, 238, 230))
        b.polygon(
            (
                (x - s, horizon),
                (x + 1.2 * s, horizon),
                (x + 0.8 * s, horizon + 0.4 * s),
                (x - 0.6 * s, horizon + 0.4 * s),
            ),
            (120, 70, 50),
        )
    _waves(b, r, horizon + 0.05, 16, lighter(water, 0.62), 0.09)
    _waves(b, r, horizon + 0.05, 14, darker(water, 0.25), 0.1)


def lake(b: Brush, r: Random) -> None:
    """Calm water with flat ripples under a wooded shore, reeds and lily pads."""
    shore = r.uniform(0.26, 0.4)
    water = varied((98, 158, 178), r, 14)
    _sky(b, r, shore)
    _hills(b, r, shore, 0.2, varied((112, 140, 138), r, 12))
    wood = varied((58, 98, 62), r, 14)
    b.box(0, shore - 0.04, 1, shore + 0.02, wood)
    for _ in range(7):
        _fir(b, r.random(), shore + 0.01, r.uniform(0.12, 0.2), varied(wood, r, 12))
    b.backdrop(shore, 1, darker(mix(water, wood, 0.45), 0.1), lighter(water, 0.12), r, 8)
    marks: list[Points] = []
    for _ in range(12):
        x, y, s = r.random(), r.uniform(shore + 0.06, 1), r.uniform(0.05, 0.16)
        marks.append(((x - s, y), (x, y - 0.007), (x + s, y), (x, y + 0.007)))
    b.polygons(marks, lighter(water, 0.45))
    pad = varied((92, 150, 70), r, 12)
    for _ in range(r.randint(3, 6)):
        x, y, s = r.random(), r.uniform(shore + 0.2, 1), r.uniform(0.03, 0.055)
        b.ellipse(x, y, s, 0.45 * s, pad, darker(pad))
    x = r.choice((0.0, 1.0)) + r.uniform(-0.08, 0.08)
    for _ in range(7):
        foot, lean = x + r.uniform(-0.1, 0.1), r.uniform(-0.04, 0.04)
        top = r.uniform(0.45, 0.75)
        b.polygon(((foot - 0.012, 1), (foot + lean, top), (foot + 0.012, 1)), (84, 120, 50))
        b.ellipse(foot + lean, top, 0.014, 0.045, (110, 74, 42))


def forest(b: Brush, r: Random) -> None:
    """Trunks one behind the other, hardly any sky, ferns and leaves on the ground."""
    ground = r.uniform(0.55, 0.72)
    leaves, soil = varied((74, 116, 66), r, 14), varied((112, 98, 62), r, 12)
    b.backdrop(0, ground, leaves, lighter(leaves, 0.3), r, 24)
    b.backdrop(ground, 1, soil, mix(soil, leaves, 0.3), r, 14)
    for depth in (0, 1, 2):
        for _ in range(4 - depth):
            x, w = r.random(), (0.022 + 0.02 * depth) * r.uniform(0.8, 1.3)
            bark = mix(varied((98, 74, 52), r, 12), lighter(leaves, 0.25), 0.45 - 0.2 * depth)
            foot = ground + 0.06 * depth + r.uniform(0, 0.05)
            b.polygon(((x - w, 0), (x + w, 0), (x + 1.2 * w, foot), (x - 1.2 * w, foot)), bark)
            b.box(x + 0.4 * w, 0, x + 1.05 * w, foot, darker(bark, 0.2))
    for _ in range(7):
        b.ellipse(
            r.random(), r.uniform(-0.02, 0.16), r.uniform(0.08, 0.16), r.uniform(0.05, 0.1), varied(leaves, r, 22)
        )
    _blades(b, r, ground + 0.05, 14, varied((70, 118, 52), r, 14), 0.07)


def meadow(b: Brush, r: Random) -> None:
    """Bright grass under a wide sky, with flowers and a tree far off."""
    horizon = r.uniform(0.3, 0.45)
    grass = varied((124, 178, 72), r, 14)
    _sky(b, r, horizon)
    _hills(b, r, horizon + 0.01, 0.1, mix(grass, (120, 160, 150), 0.5))
    for _ in range(r.randint(1, 2)):
        _tree(b, r.random(), horizon + 0.02, r.uniform(0.16, 0.24), varied((72, 124, 58), r, 12))
    b.backdrop(horizon, 1, darker(grass, 0.05), lighter(grass, 0.06), r, 12)
    _blades(b, r, horizon + 0.04, 22, darker(grass, 0.25))
    _dots(b, r, horizon + 0.06, 12, (250, 246, 235), 0.012)
    _dots(b, r, horizon + 0.06, 9, (238, 190, 70), 0.012)
    _dots(b, r, horizon + 0.06, 7, (214, 110, 160), 0.012)


def sky(b: Brush, r: Random) -> None:
    """Nothing but air and clouds."""
    top = varied((92, 154, 222), r, 14)
    b.backdrop(0, 1, top, lighter(top, 0.5), r, 6)
    for _ in range(r.randint(4, 7)):
        x, y, s = r.random(), r.random(), r.uniform(0.07, 0.14)
        for dx, dy, f in ((-1, 0.2, 0.7), (1, 0.2, 0.65), (0, 0, 1), (0.4, -0.25, 0.6)):
            b.ellipse(x + dx * s, y + dy * s, f * s, 0.6 * f * s, (236, 240, 245))


def desert(b: Brush, r: Random) -> None:
    """Dunes under a pale sky, cactuses and stones."""
    horizon = r.uniform(0.22, 0.36)
    sand = varied((226, 186, 116), r, 10)
    b.backdrop(0, horizon + 0.12, varied((158, 200, 228), r, 10), (238, 224, 196), r, 4)
    b.ellipse(r.random(), 0.09, 0.06, 0.06, (255, 236, 150))
    _hills(b, r, horizon + 0.06, 0.12, darker(sand, 0.12))
    b.backdrop(horizon + 0.06, 1, sand, mix(sand, (200, 140, 80), 0.4), r, 10)
    for k in range(3):
        y = horizon + 0.16 + 0.2 * k + r.uniform(0, 0.08)
        x = r.uniform(-0.2, 0.6)
        b.polygon(
            ((x - 0.3, y + 0.03), (x + 0.2, y - 0.03), (x + 0.7, y + 0.03), (x + 0.2, y + 0.01)), darker(sand, 0.16)
        )
    for _ in range(r.randint(1, 3)):
        x, foot, h = r.random(), r.uniform(horizon + 0.1, 0.75), r.uniform(0.16, 0.28)
        green = varied((78, 128, 70), r, 10)
        b.line(((x, foot), (x, foot - h)), 0.2 * h, green)
        b.line(((x, foot - 0.4 * h), (x - 0.3 * h, foot - 0.45 * h), (x - 0.3 * h, foot - 0.75 * h)), 0.13 * h, green)
        b.line(((x, foot - 0.3 * h), (x + 0.3 * h, foot - 0.35 * h), (x + 0.3 * h, foot - 0.65 * h)), 0.13 * h, green)
    _dots(b, r, horizon + 0.1, 12, darker(sand, 0.35), 0.012)


def savanna(b: Brush, r: Random) -> None:
    """Dry yellow grass under an orange sky, with flat-topped acacias."""
    horizon = r.uniform(0.3, 0.45)
    grass = varied((196, 164, 78), r, 12)
    b.backdrop(0, horizon, varied((236, 158, 96), r, 12), (250, 214, 150), r, 5)
    b.ellipse(r.random(), horizon, 0.09, 0.09, (255, 232, 160))
    for _ in range(r.randint(2, 3)):
        x, s = r.random(), r.uniform(0.12, 0.2)
        b.polygon(
            (
                (x - 0.014, horizon + 0.03),
                (x - 0.01, horizon - s),
                (x + 0.01, horizon - s),
                (x + 0.014, horizon + 0.03),
            ),
            (80, 58, 40),
        )
        b.ellipse(x, horizon - s, 1.1 * s, 0.22 * s, varied((94, 104, 52), r, 10))
    b.backdrop(horizon, 1, grass, darker(grass, 0.15), r, 12)
    _blades(b, r, horizon + 0.03, 26, darker(grass, 0.3), 0.07)
    _blades(b, r, horizon + 0.03, 14, lighter(grass, 0.35), 0.07)


_FLOWER = np.array(
    [
        ((1.05 + 0.35 * math.cos(5 * a)) * math.sin(a), (1.05 + 0.35 * math.cos(5 * a)) * math.cos(a))
        for a in np.arange(30) * (2 * math.pi / 30)
    ],
    np.float32,
)


def flower_bed(b: Brush, r: Random) -> None:
    """Leaves close by, and large flowers on them."""
    leaf = varied((76, 138, 62), r, 14)
    b.backdrop(0, 1, leaf, darker(leaf, 0.25), r, 18)
    _blades(b, r, 0.05, 24, darker(leaf, 0.3), 0.09)
    for _ in range(10):
        x, y, s = r.random(), r.random(), r.uniform(0.045, 0.085)
        petal = varied(r.choice(((232, 120, 170), (240, 236, 240), (170, 110, 210), (245, 150, 80))), r, 10)
        b.polygon(s * _FLOWER + (x, y), petal)
        b.ellipse(x, y, 0.5 * s, 0.5 * s, (246, 206, 70))


def jungle(b: Brush, r: Random) -> None:
    """Dense dark green: palms, hanging vines, broad leaves."""
    deep = varied((34, 82, 52), r, 10)
    b.backdrop(0, 1, lighter(deep, 0.16), darker(deep, 0.1), r, 14)
    for _ in range(3):
        x, y, s = r.random(), r.uniform(0.12, 0.4), r.uniform(0.2, 0.3)
        green = varied((70, 148, 72), r, 16)
        b.polygon(((x - 0.018, y), (x + 0.018, y), (x + 0.06, 1), (x, 1)), (96, 78, 52))
        for k in range(6):
            a = -math.pi * k / 5
            mid, tip = (
                (x + 0.6 * s * math.cos(a), y + 0.5 * s * math.sin(a) - 0.05),
                (x + s * math.cos(a), y + 0.5 * s * math.sin(a) + 0.07),
            )
            b.polygon(((x, y), mid, tip, (mid[0], mid[1] + 0.06)), green)
    for _ in range(3):
        x, sway = r.random(), r.uniform(-0.05, 0.05)
        b.line(((x, -0.02), (x + sway, 0.2), (x, r.uniform(0.3, 0.6))), 0.012, (112, 140, 60))
    for _ in range(7):
        x, y, s = r.random(), r.uniform(0.72, 1.02), r.uniform(0.09, 0.16)
        b.ellipse(x, y, s, 0.36 * s, varied((58, 128, 66), r, 18), turn=r.uniform(-1, 1))


def reef(b: Brush, r: Random) -> None:
    """Under water: light from above, bubbles, weed, corals on the ground."""
    water = varied((42, 140, 178), r, 12)
    b.backdrop(0, 1, lighter(water, 0.3), darker(water, 0.45), r, 8)
    for _ in range(3):
        x, w, lean = r.random(), r.uniform(0.03, 0.07), r.uniform(-0.3, 0.3)
        b.polygon(((x, 0), (x + w, 0), (x + lean + 3 * w, 0.7), (x + lean, 0.7)), lighter(water, 0.24))
    b.polygon(((0, 0.9), (0.3, 0.84), (0.7, 0.9), (1, 0.85), (1, 1), (0, 1)), varied((208, 188, 140), r, 10))
    for _ in range(4):
        x, h = r.random(), r.uniform(0.14, 0.34)
        weed = varied((46, 128, 84), r, 14)
        b.line([(x + 0.022 * (-1) ** k, 0.96 - h * k / 4) for k in range(5)], 0.024, weed)
    for _ in range(3):
        x, s = r.random(), r.uniform(0.05, 0.08)
        coral = varied(r.choice(((226, 116, 110), (226, 156, 90), (190, 110, 180))), r, 12)
        for a in (-0.7, 0.0, 0.7):
            b.line(((x, 0.97), (x + 1.6 * s * math.sin(a), 0.95 - 1.7 * s * math.cos(a))), 0.4 * s, coral)
    for _ in range(9):
        s = r.uniform(0.008, 0.02)
        b.ellipse(r.random(), r.uniform(0, 0.85), s, s, lighter(water, 0.65))


def farm(b: Brush, r: Random) -> None:
    """A ploughed field in rows that run to the horizon, and a red barn."""
    horizon = r.uniform(0.36, 0.46)
    soil = varied((150, 112, 66), r, 10)
    _sky(b, r, horizon)
    b.backdrop(horizon, 1, soil, darker(soil, 0.1), r, 8)
    vanishing = r.uniform(0.2, 0.8)
    for k in range(-6, 14):
        x = -0.5 + 0.2 * k + 0.1
        b.polygon(((vanishing - 0.004, horizon), (vanishing + 0.004, horizon), (x + 0.09, 1), (x, 1)), (112, 158, 62))
    x, s = r.choice((r.uniform(0.02, 0.12), r.uniform(0.72, 0.84))), r.uniform(0.2, 0.26)
    y, red = horizon + 0.05, varied((168, 54, 44), r, 10)
    b.box(x, y - 0.6 * s, x + s, y, red)
    b.polygon(
        ((x - 0.1 * s, y - 0.55 * s), (x + 0.2 * s, y - s), (x + 0.8 * s, y - s), (x + 1.1 * s, y - 0.55 * s)),
        (92, 70, 66),
    )
    b.box(x + 0.33 * s, y - 0.38 * s, x + 0.67 * s, y, (238, 228, 214))
    _tree(b, (x + 0.55) % 1, horizon + 0.03, 0.2, varied((80, 130, 60), r, 12))


def country_road(b: Brush, r: Random) -> None:
    """A narrow earth road seen from the side, between green fields, a fence and hills."""
    horizon = r.uniform(0.3, 0.4)
    grass = varied((112, 168, 74), r, 12)
    _sky(b, r, horizon)
    _hills(b, r, horizon + 0.02, 0.16, mix(grass, (110, 150, 140), 0.5))
    b.backdrop(horizon, 0.66, grass, darker(grass, 0.1), r, 10)
    for _ in range(3):
        _tree(b, r.random(), horizon + 0.08, r.uniform(0.2, 0.32), varied((66, 122, 56), r, 12))
    rail = (170, 134, 92)
    shift = r.uniform(0, 0.12)
    b.boxes([(shift + 0.13 * k - 0.1, 0.5, shift + 0.13 * k - 0.075, 0.64) for k in range(9)], rail)
    b.box(0, 0.53, 1, 0.55, rail)
    b.backdrop(0.66, 0.88, varied((186, 158, 116), r, 8), (168, 140, 100), r, 10)
    b.backdrop(0.88, 1, grass, darker(grass, 0.1), r, 10)
    _blades(b, r, 0.88, 16, darker(grass, 0.3), 0.06)


NATURE: dict[str, Place] = {
    "sea": sea, "lake": lake, "forest": forest, "meadow": meadow, "sky": sky, "desert": desert, "savanna": savanna,
    "flower bed": flower_bed, "jungle": jungle, "reef": reef, "farm": farm, "country road": country_road,
}  # fmt: skip
