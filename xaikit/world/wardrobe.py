"""What people wear and hold: the uniform, the headwear and the tool of each profession.

Frames have their origin at the centre of the head; those of the tools at the hand.
"""

import math
from collections.abc import Callable
from random import Random

from xaikit.world.canvas import Brush, Colour, darker, lighter, outline, varied

_TORSO = outline(
    (-0.08, 0.18), (0.08, 0.18), (0.24, 0.25), (0.29, 0.4), (0.3, 1.3), (-0.3, 1.3), (-0.29, 0.4), (-0.24, 0.25)
)
_GOLD: Colour = (232, 190, 70)
_WHITE: Colour = (240, 241, 243)


def _torso(b: Brush, r: Random, raised: float, colour: Colour, sleeves: Colour | None = None) -> Colour:
    """The trunk with one arm down and one that holds the tool; returns the colour as it was varied."""
    colour = varied(colour, r, 18)
    sleeve = varied(sleeves, r, 18) if sleeves else darker(colour, 0.1)
    b.polygon(((0.17, 0.27), (0.28, 0.28), (0.4, 0.6), (0.3, 0.66)), sleeve, darker(sleeve, 0.5))
    b.polygon(_TORSO, colour, darker(colour, 0.5))
    b.polygon(((-0.24, 0.26), (-0.3, 0.34), (-0.34, 1.3), (-0.24, 1.3), (-0.2, 0.4)), sleeve, darker(sleeve, 0.5))
    hand = 0.36 + raised
    b.polygon(((0.3, 0.64), (0.41, 0.62), (0.395, hand + 0.02), (0.305, hand + 0.02)), sleeve, darker(sleeve, 0.5))
    return colour


def _collar(b: Brush, colour: Colour, depth: float = 0.34) -> None:
    b.polygon(((-0.08, 0.17), (0.0, depth), (0.08, 0.17)), colour)


def _buttons(b: Brush, x: float, ys: tuple[float, ...], colour: Colour) -> None:
    for y in ys:
        b.ellipse(x, y, 0.016, 0.016, colour)


def _chef(b: Brush, r: Random, raised: float) -> None:
    _torso(b, r, raised, _WHITE)
    b.polygon(((-0.1, 0.18), (0.1, 0.18), (0.03, 0.27), (-0.06, 0.27)), (206, 50, 50))
    b.line(((0.0, 0.26), (0.0, 1.3)), 0.01, (170, 170, 176))
    for x in (-0.07, 0.07):
        _buttons(b, x, (0.36, 0.46, 0.56), (50, 50, 54))


def _doctor(b: Brush, r: Random, raised: float) -> None:
    _torso(b, r, raised, _WHITE)
    b.polygon(((-0.08, 0.17), (0.08, 0.17), (0.06, 1.3), (-0.06, 1.3)), (70, 160, 150))
    for side in (-1, 1):
        b.polygon(((side * 0.08, 0.17), (side * 0.15, 0.3), (side * 0.06, 0.42)), (214, 218, 224))
    b.line(((-0.09, 0.19), (-0.1, 0.36), (0.0, 0.44), (0.1, 0.36), (0.09, 0.19)), 0.018, (50, 54, 66))
    b.ellipse(0.0, 0.46, 0.032, 0.032, (170, 176, 186), (50, 54, 66))


def _engineer(b: Brush, r: Random, raised: float) -> None:
    orange = _torso(b, r, raised, (244, 122, 36), (96, 116, 150))
    _collar(b, (96, 116, 150))
    for side in (-1, 1):
        b.polygon(((side * 0.11, 0.21), (side * 0.16, 0.22), (side * 0.16, 1.3), (side * 0.11, 1.3)), (238, 240, 170))
    b.box(-0.21, 0.46, 0.24, 0.52, (238, 240, 170))
    b.line(((0.0, 0.34), (0.0, 1.3)), 0.01, darker(orange))


def _farmer(b: Brush, r: Random, raised: float) -> None:
    red = _torso(b, r, raised, (186, 62, 56))
    for k in range(5):
        b.box(-0.2 + 0.1 * k, 0.22, -0.18 + 0.1 * k, 1.3, lighter(red, 0.35))
    for k in range(3):
        b.box(-0.22, 0.28 + 0.1 * k, 0.25, 0.295 + 0.1 * k, darker(red, 0.4))
    denim: Colour = (70, 98, 156)
    b.box(-0.16, 0.4, 0.16, 1.3, denim, darker(denim))
    for side in (-1, 1):
        b.polygon(((side * 0.16, 0.2), (side * 0.1, 0.2), (side * 0.09, 0.42), (side * 0.15, 0.42)), denim)
        b.ellipse(side * 0.12, 0.43, 0.02, 0.02, _GOLD)


def _firefighter(b: Brush, r: Random, raised: float) -> None:
    _torso(b, r, raised, (62, 60, 66))
    b.line(((0.0, 0.2), (0.0, 1.3)), 0.014, (30, 30, 32))
    b.box(-0.23, 0.4, 0.25, 0.47, (226, 232, 60))
    b.box(-0.24, 0.58, 0.26, 0.65, (226, 232, 60))
    b.box(0.31, 0.5, 0.4, 0.56, (226, 232, 60))
    b.polygon(((-0.12, 0.17), (0.12, 0.17), (0.08, 0.24), (-0.08, 0.24)), (40, 40, 44))


def _judge(b: Brush, r: Random, raised: float) -> None:
    black = _torso(b, r, raised, (38, 36, 42))
    for side in (-1, 1):
        b.polygon(
            ((side * 0.07, 0.19), (side * 0.16, 0.22), (side * 0.1, 1.3), (side * 0.03, 1.3)), lighter(black, 0.18)
        )
        b.polygon(
            ((side * 0.005, 0.22), (side * 0.05, 0.22), (side * 0.07, 0.42), (side * 0.01, 0.42)), (246, 246, 246)
        )
    b.polygon(((-0.08, 0.17), (0.08, 0.17), (0.06, 0.24), (-0.06, 0.24)), (246, 246, 246))


def _mechanic(b: Brush, r: Random, raised: float) -> None:
    grey = _torso(b, r, raised, (128, 134, 142))
    b.line(((0.0, 0.2), (0.0, 1.3)), 0.016, (70, 74, 80))
    _collar(b, (200, 60, 50), 0.27)
    b.box(0.06, 0.36, 0.17, 0.46, darker(grey, 0.2), darker(grey, 0.5))
    b.box(-0.17, 0.36, -0.05, 0.41, (236, 236, 230), darker(grey, 0.5))
    for x, y in ((-0.12, 0.54), (0.1, 0.56), (-0.04, 0.5)):
        b.ellipse(x, y, 0.03, 0.02, (62, 58, 56))


def _pilot(b: Brush, r: Random, raised: float) -> None:
    navy = _torso(b, r, raised, (36, 44, 82))
    _collar(b, (244, 244, 246), 0.44)
    b.polygon(((-0.02, 0.2), (0.02, 0.2), (0.03, 0.4), (0.0, 0.44), (-0.03, 0.4)), (20, 22, 34))
    for side in (-1, 1):
        b.polygon(((side * 0.08, 0.17), (side * 0.15, 0.26), (side * 0.0, 0.46)), lighter(navy, 0.15))
        b.polygon(((side * 0.14, 0.22), (side * 0.24, 0.25), (side * 0.24, 0.29), (side * 0.14, 0.26)), _GOLD)
        _buttons(b, side * 0.05, (0.52, 0.6), _GOLD)
    for k in range(3):
        b.box(0.305, 0.44 + 0.05 * k, 0.405, 0.462 + 0.05 * k, _GOLD)
    b.polygon(((0.07, 0.37), (0.18, 0.34), (0.18, 0.38), (0.12, 0.4)), _GOLD)


def _police_officer(b: Brush, r: Random, raised: float) -> None:
    blue = _torso(b, r, raised, (86, 130, 206))
    _collar(b, lighter(blue, 0.3), 0.27)
    b.polygon(((-0.022, 0.23), (0.022, 0.23), (0.032, 0.56), (0.0, 0.6), (-0.032, 0.56)), (24, 28, 50))
    b.ellipse(-0.13, 0.37, 0.04, 0.048, _GOLD, (140, 100, 20))
    b.box(0.07, 0.36, 0.17, 0.43, darker(blue, 0.2), darker(blue, 0.5))
    b.box(-0.28, 0.66, 0.28, 0.72, (26, 26, 32))


def _waiter(b: Brush, r: Random, raised: float) -> None:
    black = _torso(b, r, raised, (44, 42, 48), (242, 242, 244))
    _collar(b, (244, 244, 246), 0.46)
    for side in (-1, 1):
        b.polygon(((0.0, 0.235), (side * 0.08, 0.19), (side * 0.08, 0.28)), (190, 30, 46))
    _buttons(b, 0.0, (0.5, 0.58), lighter(black, 0.5))


CLOTHING: dict[str, Callable[[Brush, Random, float], None]] = {
    "chef": _chef, "doctor": _doctor, "engineer": _engineer, "farmer": _farmer, "firefighter": _firefighter,
    "judge": _judge, "mechanic": _mechanic, "pilot": _pilot, "police officer": _police_officer, "waiter": _waiter,
}  # fmt: skip

_DOME = outline((-0.15, -0.1), (-0.14, -0.2), (-0.07, -0.27), (0.07, -0.27), (0.14, -0.2), (0.15, -0.1), (0.0, -0.09))


def _toque(b: Brush) -> None:
    grey = (150, 152, 158)
    for x in (-0.1, 0.1, 0.0):
        b.ellipse(x, -0.3, 0.09, 0.08, _WHITE, grey)
    b.box(-0.13, -0.29, 0.13, -0.1, _WHITE, grey)
    b.box(-0.12, -0.32, 0.12, -0.2, _WHITE)


def _surgical_cap(b: Brush) -> None:
    b.polygon(_DOME, (70, 160, 150), (30, 90, 84))
    b.box(-0.14, -0.125, 0.14, -0.09, (110, 190, 180))


def _hard_hat(b: Brush) -> None:
    yellow = (248, 206, 44)
    b.polygon(_DOME, yellow, darker(yellow, 0.5))
    b.box(-0.025, -0.28, 0.025, -0.11, lighter(yellow, 0.4))
    b.ellipse(0, -0.105, 0.19, 0.028, yellow, darker(yellow, 0.5))


def _straw_hat(b: Brush) -> None:
    straw = (224, 190, 112)
    b.ellipse(0, -0.11, 0.27, 0.045, straw, darker(straw, 0.5))
    b.polygon(((-0.12, -0.12), (-0.1, -0.26), (0.1, -0.26), (0.12, -0.12)), straw, darker(straw, 0.5))
    b.polygon(((-0.12, -0.12), (-0.113, -0.165), (0.113, -0.165), (0.12, -0.12)), (150, 60, 46))


def _fire_helmet(b: Brush) -> None:
    red = (204, 36, 34)
    b.polygon(_DOME, red, darker(red, 0.5))
    b.polygon(
        ((-0.21, -0.07), (-0.15, -0.14), (0.15, -0.14), (0.21, -0.07), (0.0, -0.1)), darker(red, 0.15), darker(red, 0.5)
    )
    b.polygon(((-0.05, -0.12), (-0.05, -0.22), (0.0, -0.25), (0.05, -0.22), (0.05, -0.12)), _GOLD, (120, 80, 20))


def _wig(b: Brush) -> None:
    wool, grey = (232, 230, 224), (160, 158, 152)
    b.polygon(_DOME, wool, grey)
    for side in (-1, 1):
        for k in range(4):
            b.ellipse(side * 0.155, -0.12 + 0.085 * k, 0.042, 0.045, wool, grey)
    for x in (-0.09, -0.03, 0.03, 0.09):
        b.ellipse(x, -0.13, 0.032, 0.035, wool, grey)


def _cap(b: Brush) -> None:
    red = (190, 52, 46)
    b.polygon(_DOME, red, darker(red, 0.5))
    b.polygon(((-0.02, -0.12), (0.25, -0.1), (0.25, -0.07), (0.0, -0.085)), darker(red), darker(red, 0.6))


def _peaked(b: Brush, top: Colour, band: Colour, badge: Colour) -> None:
    b.polygon(
        ((-0.2, -0.22), (-0.1, -0.27), (0.1, -0.27), (0.2, -0.22), (0.14, -0.15), (-0.14, -0.15)), top, darker(top, 0.5)
    )
    b.box(-0.14, -0.16, 0.14, -0.1, band)
    b.polygon(((-0.14, -0.1), (0.14, -0.1), (0.1, -0.06), (-0.1, -0.06)), (20, 20, 26))
    b.ellipse(0, -0.17, 0.034, 0.04, badge, (120, 90, 20))


def _pilot_cap(b: Brush) -> None:
    _peaked(b, _WHITE, (30, 36, 66), _GOLD)


def _police_cap(b: Brush) -> None:
    _peaked(b, (52, 92, 176), (30, 44, 92), (230, 232, 236))
    for k in range(4):
        b.box(-0.13 + 0.07 * k, -0.15, -0.095 + 0.07 * k, -0.11, _WHITE)


def _bareheaded(b: Brush) -> None:
    """Waiters wear nothing on their heads."""


HEADWEAR: dict[str, Callable[[Brush], None]] = {
    "chef": _toque, "doctor": _surgical_cap, "engineer": _hard_hat, "farmer": _straw_hat, "firefighter": _fire_helmet,
    "judge": _wig, "mechanic": _cap, "pilot": _pilot_cap, "police officer": _police_cap, "waiter": _bareheaded,
}  # fmt: skip


def _pan(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.3, 0.1))
    b.box(-0.016, -0.16, 0.016, 0.06, (100, 70, 46))
    b.ellipse(0.0, -0.22, 0.105, 0.105, (54, 56, 62), (20, 20, 24))
    b.ellipse(0.0, -0.22, 0.08, 0.08, (86, 88, 96))
    b.ellipse(0.01, -0.22, 0.05, 0.042, (250, 250, 244))
    b.ellipse(0.015, -0.22, 0.022, 0.022, (250, 190, 40))


def _syringe(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.3, 0.2))
    b.box(-0.006, -0.36, 0.006, -0.22, (90, 96, 110))
    b.box(-0.036, -0.24, 0.036, 0.02, (236, 244, 250), (70, 80, 100))
    b.box(-0.03, -0.14, 0.03, 0.0, (226, 60, 90))
    b.box(-0.012, 0.02, 0.012, 0.1, (90, 96, 110))
    b.box(-0.05, 0.09, 0.05, 0.11, (70, 80, 100))


def _blueprint(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.2, 0.2))
    blue = (44, 92, 190)
    b.box(-0.13, -0.3, 0.13, 0.02, blue, (230, 236, 246))
    for points in (
        ((-0.08, -0.06), (-0.08, -0.18), (0.0, -0.25), (0.08, -0.18), (0.08, -0.06), (-0.08, -0.06)),
        ((-0.08, -0.18), (0.08, -0.18)),
    ):
        b.line(points, 0.014, (230, 238, 250))
    b.ellipse(0, 0.03, 0.14, 0.022, lighter(blue, 0.3), darker(blue))


def _pitchfork(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.15, 0.15))
    b.box(-0.014, -0.2, 0.014, 0.5, (140, 96, 56), (80, 54, 32))
    iron = (74, 78, 86)
    b.line(((-0.09, -0.36), (-0.09, -0.22), (0.09, -0.22), (0.09, -0.36)), 0.026, iron)
    b.line(((0.0, -0.36), (0.0, -0.18)), 0.026, iron)


def _axe(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.2, 0.2))
    b.box(-0.016, -0.32, 0.016, 0.3, (196, 150, 90), (100, 70, 40))
    b.polygon(
        ((-0.03, -0.28), (0.06, -0.3), (0.16, -0.36), (0.18, -0.24), (0.16, -0.12), (0.06, -0.18), (-0.03, -0.2)),
        (200, 206, 214),
        (80, 86, 96),
    )
    b.polygon(((-0.03, -0.28), (0.06, -0.3), (0.06, -0.18), (-0.03, -0.2)), (206, 40, 36))
    b.polygon(((-0.03, -0.27), (-0.1, -0.24), (-0.03, -0.21)), (206, 40, 36))


def _gavel(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.25, 0.15))
    b.box(-0.018, -0.22, 0.018, 0.14, (150, 96, 52), (70, 44, 26))
    b.box(-0.13, -0.31, 0.13, -0.19, (122, 70, 38), (60, 36, 20))
    for side in (-1, 1):
        b.box(side * 0.09 - 0.014, -0.315, side * 0.09 + 0.014, -0.185, _GOLD)


def _wrench(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.25, 0.25))
    steel, edge = (196, 202, 212), (80, 86, 96)
    b.box(-0.028, -0.22, 0.028, 0.16, steel, edge)
    shape = [(0.09 * math.sin(a), -0.26 - 0.09 * math.cos(a)) for a in (0.6, 1.3, 2.1, 2.8, 3.5, 4.2, 5.0, 5.68)]
    b.polygon([*shape, (-0.035, -0.25), (0.035, -0.25)], steel, edge)


def _suitcase(b: Brush, r: Random) -> None:
    swing = r.uniform(-0.08, 0.08)
    b = b.at(0, 0, turn=swing)
    leather = varied((124, 62, 40), r, 8)
    b.line(((-0.05, 0.09), (-0.05, 0.0), (0.05, 0.0), (0.05, 0.09)), 0.022, (50, 34, 28))
    b.box(-0.16, 0.07, 0.16, 0.32, leather, darker(leather, 0.6))
    for x in (-0.1, 0.1):
        b.box(x - 0.014, 0.07, x + 0.014, 0.32, _GOLD)


def _stop_sign(b: Brush, r: Random) -> None:
    b = b.at(0, 0, turn=r.uniform(-0.15, 0.15))
    b.box(-0.014, -0.18, 0.014, 0.1, (220, 220, 224), (110, 110, 116))
    for radius, colour in ((0.15, (246, 246, 246)), (0.13, (210, 30, 36))):
        corners = [
            (radius * math.sin((k + 0.5) * math.pi / 4), -0.24 - radius * math.cos((k + 0.5) * math.pi / 4))
            for k in range(8)
        ]
        b.polygon(corners, colour)
    b.box(-0.09, -0.265, 0.09, -0.215, (246, 246, 246))


def _tray(b: Brush, r: Random) -> None:
    x, silver = r.uniform(-0.05, 0.05), (206, 210, 218)
    b.polygon(
        ((x - 0.05, -0.2), (x + 0.03, -0.2), (x + 0.02, -0.07), (x - 0.04, -0.07)), (196, 40, 60), (240, 246, 250)
    )
    b.polygon(
        ((0.06 + x, -0.16), (0.12 + x, -0.16), (0.11 + x, -0.07), (0.07 + x, -0.07)), (246, 206, 90), (240, 246, 250)
    )
    b.ellipse(0.0, -0.055, 0.19, 0.034, silver, (90, 94, 104))


TOOLS: dict[str, Callable[[Brush, Random], None]] = {
    "chef": _pan, "doctor": _syringe, "engineer": _blueprint, "farmer": _pitchfork, "firefighter": _axe,
    "judge": _gavel, "mechanic": _wrench, "pilot": _suitcase, "police officer": _stop_sign, "waiter": _tray,
}  # fmt: skip
