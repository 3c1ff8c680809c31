"""Streets and rooms. Each paints the whole canvas, with decisions from the stream that it is given."""

import math
from random import Random

from xaikit.world.canvas import Brush, Colour, Number, darker, lighter, varied
from xaikit.world.nature import Place


def _room(b: Brush, r: Random, wall: Colour, floor: Colour) -> float:
    """A wall and a floor with varied colours; returns the height at which they meet."""
    meet = r.uniform(0.68, 0.78)
    wall, floor = varied(wall, r, 10), varied(floor, r, 10)
    b.backdrop(0, meet, lighter(wall, 0.06), darker(wall, 0.06), r, 6)
    b.backdrop(meet, 1, floor, darker(floor, 0.15), r, 8)
    b.box(0, meet - 0.012, 1, meet + 0.008, darker(floor, 0.3))
    return meet


def _tiles(b: Brush, x0: Number, y0: Number, x1: Number, y1: Number, step: Number, colour: Colour) -> None:
    """The joints of a tiled wall."""
    b.boxes([(x0 + k * step, y0, x0 + k * step + 0.008, y1) for k in range(math.ceil((x1 - x0) / step))], colour)
    b.boxes([(x0, y0 + k * step, x1, y0 + k * step + 0.008) for k in range(math.ceil((y1 - y0) / step))], colour)


def _houses(b: Brush, r: Random, foot: Number) -> None:
    x, lit, dark = -r.uniform(0, 0.15), [], []
    while x < 1:
        w, h = r.uniform(0.2, 0.3), r.uniform(0.25, 0.9) * foot
        wall = varied(r.choice(((168, 150, 140), (146, 152, 164), (188, 168, 140))), r, 10)
        b.box(x, foot - h, x + w, foot, wall)
        y = foot - h + 0.04
        while y < foot - 0.05:
            for k in range(3):
                window = (x + w * (0.14 + 0.28 * k), y, x + w * (0.28 + 0.28 * k), y + 0.05)
                (lit if r.random() < 0.3 else dark).append(window)
            y += 0.1
        x += w + r.uniform(0.0, 0.03)
    b.boxes(lit, (226, 216, 160))
    b.boxes(dark, (82, 96, 116))


def road(b: Brush, r: Random) -> None:
    """A wide grey road that runs to the horizon, with white dashes."""
    horizon = r.uniform(0.3, 0.42)
    b.backdrop(0, horizon, varied((150, 186, 216), r, 12), (206, 218, 226), r, 4)
    b.backdrop(horizon, 1, varied((132, 150, 96), r, 12), (112, 128, 80), r, 10)
    x = r.uniform(0.35, 0.65)
    b.polygon(((x - 0.05, horizon), (x + 0.05, horizon), (x + 0.75, 1), (x - 0.75, 1)), varied((98, 98, 102), r, 8))
    for side in (-1, 1):
        b.polygon(
            ((x + side * 0.043, horizon), (x + side * 0.048, horizon), (x + side * 0.68, 1), (x + side * 0.62, 1)),
            (228, 226, 216),
        )
    for k in range(4):
        near, far = (0.25 * k + 0.12) ** 2 + 0.02, (0.25 * k + 0.02) ** 2 + 0.02
        y0, y1 = horizon + (1 - horizon) * far, horizon + (1 - horizon) * near
        b.polygon(
            ((x - 0.03 * far, y0), (x + 0.03 * far, y0), (x + 0.035 * near, y1), (x - 0.035 * near, y1)),
            (238, 234, 220),
        )
    for _ in range(3):
        px, s = r.random(), r.uniform(0.1, 0.2)
        b.box(px - 0.006, horizon - s, px + 0.006, horizon + 0.03, (96, 88, 84))
        b.box(px - 0.03, horizon - s, px + 0.03, horizon - s + 0.012, (96, 88, 84))


def street(b: Brush, r: Random) -> None:
    """A street in town seen from the side: houses, pavement, asphalt."""
    foot = r.uniform(0.54, 0.6)
    b.backdrop(0, foot, varied((168, 194, 216), r, 10), (214, 220, 224), r, 4)
    _houses(b, r, foot)
    b.backdrop(foot, 0.66, varied((176, 172, 168), r, 8), (160, 156, 152), r, 6)
    b.backdrop(0.66, 1, varied((96, 96, 102), r, 8), (84, 84, 90), r, 8)
    shift = r.uniform(-0.2, 0.0)
    b.boxes([(shift + 0.3 * k, 0.93, shift + 0.3 * k + 0.16, 0.955) for k in range(5)], (226, 222, 210))


def showroom(b: Brush, r: Random) -> None:
    """A bright hall with a glass front, lamps and a shining floor."""
    meet = _room(b, r, (226, 230, 236), (206, 206, 214))
    for k in range(4):
        x = 0.03 + 0.25 * k
        b.box(x, 0.2, x + 0.2, meet - 0.06, varied((168, 202, 222), r, 8), (120, 126, 136))
        b.polygon(((x + 0.02, meet - 0.1), (x + 0.12, 0.22), (x + 0.16, 0.22), (x + 0.06, meet - 0.1)), (206, 228, 240))
        b.box(x + 0.04, 0.05, x + 0.16, 0.085, (255, 250, 226), (150, 150, 150))
    banner = varied((120, 70, 140), r, 14)
    b.box(0, 0.115, 1, 0.17, banner)
    b.ellipse(0.5, 0.88, 0.46, 0.1, (228, 228, 234), (160, 160, 170))


def living_room(b: Brush, r: Random) -> None:
    """A papered wall with a picture, a lamp, a sofa and a rug."""
    meet = _room(b, r, (214, 186, 164), (150, 106, 70))
    b.boxes([(0.12 * k + 0.02, 0, 0.12 * k + 0.035, meet - 0.012) for k in range(9)], (200, 168, 148))
    x = r.uniform(0.1, 0.7)
    b.box(x, 0.1, x + 0.22, 0.28, varied((130, 160, 170), r, 20), (110, 76, 44))
    sofa, x = varied(r.choice(((96, 128, 110), (128, 96, 130), (92, 110, 150))), r, 12), r.uniform(0.0, 0.35)
    b.box(x, meet - 0.3, x + 0.6, meet - 0.06, sofa, darker(sofa))
    b.box(x, meet - 0.14, x + 0.6, meet + 0.03, lighter(sofa, 0.15), darker(sofa))
    for side in (-0.05, 0.57):
        b.box(x + side, meet - 0.2, x + side + 0.08, meet + 0.04, darker(sofa, 0.15), darker(sofa))
    lamp = (x + 0.76) % 0.9 + 0.05
    b.box(lamp - 0.008, 0.3, lamp + 0.008, meet + 0.02, (90, 74, 62))
    b.polygon(((lamp - 0.05, 0.22), (lamp + 0.05, 0.22), (lamp + 0.1, 0.36), (lamp - 0.1, 0.36)), (248, 226, 156))
    b.ellipse(r.uniform(0.3, 0.7), 0.92, 0.4, 0.07, varied((176, 84, 78), r, 16), (226, 206, 170))


def stage(b: Brush, r: Random) -> None:
    """Red curtains, spotlights and boards."""
    b.backdrop(0, 0.74, varied((58, 38, 76), r, 8), (84, 54, 96), r, 6)
    for _ in range(3):
        x, foot = r.random(), r.random()
        b.polygon(((x - 0.02, 0), (x + 0.02, 0), (foot + 0.16, 0.8), (foot - 0.16, 0.8)), (128, 100, 132))
    board = varied((164, 114, 66), r, 8)
    b.backdrop(0.74, 1, board, darker(board, 0.2), r, 6)
    joints = [(0.5 + 0.16 * k, 0.5 + 0.3 * k) for k in range(-6, 7)]
    b.polygons([((x, 0.74), (x + 0.01, 0.74), (y + 0.01, 1), (y, 1)) for x, y in joints], darker(board, 0.3))
    red, width = varied((156, 30, 44), r, 8), r.uniform(0.14, 0.22)
    for x0, x1 in ((0.0, width), (1 - width, 1.0)):
        b.box(x0, 0, x1, 0.78, red)
        folds = [x0 + (x1 - x0) * (0.15 + 0.33 * k) for k in range(3)]
        b.boxes([(x, 0, x + 0.025, 0.78) for x in folds], darker(red))
    b.box(0, 0, 1, 0.1, red)
    for k in range(8):
        b.ellipse(0.07 + 0.125 * k, 0.1, 0.066, 0.045, red, darker(red))


def kitchen(b: Brush, r: Random) -> None:
    """White tiles, hanging pans, a stove with a hood."""
    meet = _room(b, r, (226, 230, 226), (168, 160, 150))
    _tiles(b, 0, 0, 1, meet, 0.11, (190, 198, 198))
    b.box(0, 0.1, 1, 0.125, (110, 112, 118))
    shift = r.uniform(0, 0.12)
    for k in range(5):
        x, s = 0.04 + shift + 0.21 * k, r.uniform(0.045, 0.06)
        b.box(x - 0.006, 0.12, x + 0.006, 0.2, (96, 98, 104))
        b.ellipse(x, 0.2 + s, s, s, r.choice(((184, 110, 62), (120, 124, 130), (66, 68, 72))), (50, 50, 54))
    x = r.choice((0.02, 0.66))
    b.box(0, 0.5, 1, 0.54, (136, 104, 76))
    b.box(x, 0.54, x + 0.32, 0.92, (176, 180, 186), (96, 98, 104))
    b.box(x + 0.04, 0.64, x + 0.28, 0.82, (58, 60, 66))
    for k in range(3):
        b.polygon(((x + 0.06 + 0.08 * k, 0.5), (x + 0.08 + 0.08 * k, 0.44), (x + 0.1 + 0.08 * k, 0.5)), (246, 150, 50))


def hospital(b: Brush, r: Random) -> None:
    """Pale green wall, a red cross, a curtain, a bed with a drip."""
    meet = _room(b, r, (196, 226, 216), (190, 204, 206))
    b.box(0, 0.46, 1, 0.5, (120, 176, 168))
    x = r.choice((r.uniform(0.06, 0.12), r.uniform(0.7, 0.76)))
    b.box(x, 0.06, x + 0.2, 0.26, (248, 248, 248), (170, 180, 180))
    b.box(x + 0.075, 0.085, x + 0.125, 0.235, (214, 44, 52))
    b.box(x + 0.025, 0.135, x + 0.175, 0.185, (214, 44, 52))
    x = 0.86 - x
    b.box(x - 0.006, 0.12, x + 0.006, meet, (140, 150, 156))
    b.ellipse(x + 0.02, 0.18, 0.035, 0.06, (226, 240, 246), (130, 150, 160))
    x = r.choice((-0.1, 0.62))
    b.box(x, 0.58, x + 0.5, 0.7, (246, 248, 250), (140, 160, 168))
    b.box(x, 0.66, x + 0.5, 0.76, (120, 178, 206))


def construction_site(b: Brush, r: Random) -> None:
    """A crane, girders of an unfinished house, sand and a striped barrier."""
    b.backdrop(0, 0.66, varied((176, 204, 226), r, 8), (222, 226, 226), r, 4)
    b.backdrop(0.66, 1, varied((196, 166, 118), r, 10), (170, 140, 98), r, 10)
    x, side = r.choice(((0.14, 1), (0.86, -1)))
    yellow = (226, 170, 36)
    b.box(x - 0.02, 0.08, x + 0.02, 0.7, yellow)
    b.box(min(x - side * 0.14, x + side * 0.6), 0.1, max(x - side * 0.14, x + side * 0.6), 0.13, yellow)
    b.polygon(((x - 0.02, 0.1), (x, 0.02), (x + 0.02, 0.1)), yellow)
    hook = x + side * r.uniform(0.3, 0.5)
    b.box(hook - 0.004, 0.13, hook + 0.004, 0.3, (70, 70, 70))
    b.box(hook - 0.05, 0.3, hook + 0.05, 0.34, (150, 84, 60))
    left = 0.56 if side > 0 else 0.04
    b.boxes([(left + 0.12 * k, 0.36, left + 0.12 * k + 0.025, 0.7) for k in range(4)], (132, 74, 60))
    b.boxes([(left, 0.4 + 0.1 * k, left + 0.39, 0.42 + 0.1 * k) for k in range(4)], (132, 74, 60))
    b.box(0, 0.8, 1, 0.86, (236, 236, 230))
    b.boxes([(0.2 * k, 0.8, 0.2 * k + 0.1, 0.86) for k in range(5)], (214, 84, 40))


def burning_house(b: Brush, r: Random) -> None:
    """Smoke, a dark house, flames from its windows."""
    b.backdrop(0, 1, varied((74, 66, 76), r, 8), varied((150, 96, 70), r, 10), r, 18)
    for _ in range(5):
        s = r.uniform(0.1, 0.18)
        b.ellipse(r.random(), r.uniform(0, 0.24), s, 0.6 * s, varied((96, 90, 94), r, 14))
    b.box(0.06, 0.26, 0.94, 1, varied((88, 62, 58), r, 8))
    b.polygon(((0.0, 0.28), (0.5, 0.06), (1.0, 0.28)), (62, 48, 50))
    for k in range(4):
        x, y = (0.12 + 0.24 * k), 0.36
        b.box(x, y, x + 0.13, y + 0.17, (250, 200, 70), (40, 30, 30))
    for _ in range(9):
        x, foot, s = r.random(), r.choice((0.38, 0.55, 0.78, 1.0)), r.uniform(0.09, 0.2)
        for colour, f in (((232, 92, 30), 1.0), ((250, 190, 50), 0.6)):
            w = 0.4 * s * f
            b.polygon(
                (
                    (x - w, foot),
                    (x - 0.9 * w, foot - 0.5 * s * f),
                    (x - 0.3 * w, foot - 0.4 * s * f),
                    (x, foot - s * f),
                    (x + 0.4 * w, foot - 0.45 * s * f),
                    (x + w, foot - 0.6 * s * f),
                    (x + w, foot),
                ),
                colour,
            )


def courtroom(b: Brush, r: Random) -> None:
    """Dark wooden panels between white columns, and a pair of scales."""
    wood = varied((126, 78, 46), r, 8)
    b.backdrop(0, 1, lighter(wood, 0.08), darker(wood, 0.12), r, 6)
    shift = r.uniform(-0.05, 0.05)
    for k in range(5):
        for y0, y1 in ((0.12, 0.44), (0.5, 0.9)):
            b.box(0.04 + 0.2 * k + shift, y0, 0.16 + 0.2 * k + shift, y1, lighter(wood, 0.14), darker(wood, 0.45))
    for x in (0.02 + shift, 0.86 + shift):
        b.box(x, 0.08, x + 0.12, 1, (230, 224, 210), (150, 140, 124))
        b.box(x - 0.02, 0.04, x + 0.14, 0.1, (238, 232, 220), (150, 140, 124))
        b.boxes([(x + 0.03 + 0.04 * k, 0.12, x + 0.045 + 0.04 * k, 1) for k in range(2)], (196, 188, 172))
    x, gold = r.choice((0.27, 0.73)), (230, 190, 80)
    b.box(x - 0.008, 0.1, x + 0.008, 0.32, gold)
    b.box(x - 0.1, 0.12, x + 0.1, 0.138, gold)
    for side in (-1, 1):
        b.polygon(((x + side * 0.1, 0.13), (x + side * 0.1 - 0.045, 0.24), (x + side * 0.1 + 0.045, 0.24)), gold)


def garage(b: Brush, r: Random) -> None:
    """A grey wall with tools, a stack of tyres, a rolling door."""
    meet = _room(b, r, (140, 146, 152), (96, 94, 94))
    x = r.choice((0.02, 0.64))
    for k in range(7):
        b.box(x, 0.16 + 0.075 * k, x + 0.34, 0.225 + 0.075 * k, (186, 190, 194), (120, 124, 130))
    x = 0.44 if x < 0.5 else 0.06
    b.box(x, 0.08, x + 0.48, 0.36, (196, 150, 96), (110, 80, 50))
    for k in range(6):
        b.box(x + 0.04 + 0.075 * k, 0.12, x + 0.065 + 0.075 * k, r.uniform(0.24, 0.33), (86, 90, 98))
        b.ellipse(x + 0.052 + 0.075 * k, 0.13, 0.022, 0.022, (86, 90, 98))
    x = r.choice((0.1, 0.88))
    for k in range(4):
        b.ellipse(x, meet + 0.1 - 0.085 * k, 0.13, 0.05, (44, 44, 48), (92, 92, 96))
    b.ellipse(0.5, 0.93, 0.2, 0.03, (66, 62, 66))


def airport(b: Brush, r: Random) -> None:
    """A runway, a white airliner, a control tower."""
    b.backdrop(0, 0.6, varied((120, 176, 226), r, 10), (206, 224, 236), r, 4)
    b.backdrop(0.6, 0.7, varied((130, 166, 96), r, 8), (120, 154, 88), r, 6)
    b.backdrop(0.7, 1, varied((118, 120, 126), r, 8), (104, 106, 112), r, 6)
    b.boxes([(0.2 * k - 0.05, 0.84, 0.2 * k + 0.06, 0.87) for k in range(6)], (238, 236, 226))
    mirrored = r.random() < 0.5
    tower = 0.9 if not mirrored else 0.1
    b.box(tower - 0.03, 0.26, tower + 0.03, 0.64, (196, 196, 200))
    b.polygon(
        ((tower - 0.08, 0.16), (tower + 0.08, 0.16), (tower + 0.05, 0.28), (tower - 0.05, 0.28)),
        (84, 120, 140),
        (226, 226, 226),
    )
    p = b.at(
        r.uniform(0.3, 0.36) if not mirrored else r.uniform(0.64, 0.7), r.uniform(0.3, 0.42), 0.62, -0.12, mirrored
    )
    blue, white, edge = (50, 90, 170), (244, 246, 248), (130, 140, 150)
    p.polygon(((-0.5, -0.2), (-0.4, -0.2), (-0.28, 0.0), (-0.46, 0.0)), blue)
    p.ellipse(0, 0.02, 0.5, 0.075, white, edge)
    p.polygon(((-0.06, 0.02), (0.1, 0.02), (-0.14, 0.22), (-0.24, 0.22)), (200, 206, 214), edge)
    p.boxes([(-0.26 + 0.1 * k, -0.02, -0.22 + 0.1 * k, 0.02) for k in range(6)], (70, 90, 120))


def restaurant(b: Brush, r: Random) -> None:
    """A warm wall, hanging lamps, tables with white cloths, bottles on a shelf."""
    meet = _room(b, r, (150, 74, 66), (112, 78, 58))
    shift, first = r.uniform(-0.06, 0.06), r.randrange(3)
    for k in range(4):
        x = 0.1 + 0.27 * k + shift
        b.box(x - 0.005, 0, x + 0.005, 0.1, (50, 40, 40))
        b.polygon(
            ((x - 0.03, 0.08), (x + 0.03, 0.08), (x + 0.075, 0.17), (x - 0.075, 0.17)), (250, 214, 120), (150, 110, 50)
        )
    b.box(0, 0.42, 1, 0.445, (92, 56, 40))
    for k, glass in enumerate(((60, 110, 70), (196, 160, 90), (110, 60, 80))):
        xs = [0.03 + 0.085 * place for place in range(12) if (place + first) % 3 == k]
        bottles = [
            (
                (x, 0.42),
                (x, 0.3),
                (x + 0.012, 0.29),
                (x + 0.012, 0.26),
                (x + 0.023, 0.26),
                (x + 0.023, 0.29),
                (x + 0.035, 0.3),
                (x + 0.035, 0.42),
            )
            for x in xs
        ]
        b.polygons(bottles, varied(glass, r, 14))
    for x in (0.1 + shift, 0.9 + shift):
        b.ellipse(x, meet, 0.2, 0.05, (250, 246, 238), (196, 186, 176))
        b.polygon(((x - 0.2, meet), (x + 0.2, meet), (x + 0.15, meet + 0.16), (x - 0.15, meet + 0.16)), (240, 234, 224))
        b.polygon(((x - 0.03, meet - 0.11), (x + 0.03, meet - 0.11), (x, meet - 0.03)), (196, 60, 80))


BUILT: dict[str, Place] = {
    "road": road, "street": street, "showroom": showroom, "living room": living_room, "stage": stage,
    "kitchen": kitchen, "hospital": hospital, "construction site": construction_site, "burning house": burning_house,
    "courtroom": courtroom, "garage": garage, "airport": airport, "restaurant": restaurant,
}  # fmt: skip
