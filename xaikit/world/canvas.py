"""Flat shapes in unit coordinates, each with a label, on a canvas a few times finer than the image.

Nothing is blended while drawing: a subpixel belongs to exactly one shape, whose label lies beside its colour in the
fourth channel. So the share of each part in each pixel is known exactly, at any size.
"""

import math
from collections.abc import Collection, Sequence
from random import Random

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Colour = tuple[int, int, int]
Number = float | int
Points = np.ndarray | Sequence[tuple[Number, Number]]

FINEST = 256  # side of the smallest canvas: at 64 px, 4 x 4 subpixels a pixel
_EDGE = 0.007  # width of the line around a shape
_SHIFT = 6  # binary places of a coordinate
_CELLS = 5  # of a backdrop's blotches, a side
_FADE = np.linspace(0, 1, _CELLS, dtype=np.float32)[:, None, None]


def _circle(corners: int) -> Float32[np.ndarray, "1 corners 2"]:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)[None]


_CIRCLE, _SMALL_CIRCLE, _SMALL = _circle(28), _circle(12), 0.03  # half an axis, in unit coordinates


def subpixels(size: int) -> int:
    """How many subpixels a side of a pixel has in an image of `size` pixels: a power of two, at least two."""
    return max(2, 1 << math.ceil(math.log2(FINEST / size)))


def outline(*points: tuple[Number, Number], steps: int = 3) -> Float32[np.ndarray, "n 2"]:
    """The closed smooth curve through `points` (Catmull-Rom), as a polygon with `steps` corners a point."""
    p = np.array(points)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    b, p, a, y = (q[:, None] for q in (before, p, after, beyond))
    curve = p + 0.5 * t * ((a - b) + t * ((2 * b - 5 * p + 4 * a - y) + t * (3 * (p - a) + y - b)))
    return curve.reshape(-1, 2).astype(np.float32)


def mix(colour: Colour, other: Colour, share: Number) -> Colour:
    """`colour` with the given share of `other` in it."""
    r, g, b = (round(c + share * (o - c)) for c, o in zip(colour, other, strict=True))
    return r, g, b


def darker(colour: Colour, share: Number = 0.35) -> Colour:
    return mix(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: Number = 0.35) -> Colour:
    return mix(colour, (255, 255, 255), share)


def varied(colour: Colour, random: Random, amount: Number = 10) -> Colour:
    """`colour`, each channel moved by up to `amount` and clipped to 0..255."""
    r, g, b = (min(255, max(0, round(c + random.uniform(-amount, amount)))) for c in colour)
    return r, g, b


class Brush:
    """Draws shapes with one label in one frame of coordinates; unit coordinates (x right, y down, 0..1) at first.

    `left_out` names labels whose shapes are not drawn: the picture as it would be without them.
    """

    def __init__(self, side: int, left_out: Collection[int] = ()) -> None:
        self.pixels: UInt8[np.ndarray, "side side 4"] = np.zeros((side, side, 4), np.uint8)
        self.left_out = left_out
        self.label = 0
        self._place(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def _place(self, *affine: Number) -> None:
        a, b, c, d, e, f = self._affine = affine  # unit coordinates are (a x + b y + c, d x + e y + f)
        unit = len(self.pixels) * (1 << _SHIFT)
        half = (1 << _SHIFT) / 2  # the centre of a pixel is at its integer coordinate
        self._rows = (a * unit, b * unit, c * unit - half), (d * unit, e * unit, f * unit - half)
        self._matrix = np.array(self._rows, np.float32)
        self._pixels_a_unit = math.sqrt(abs(a * e - b * d)) * len(self.pixels)

    def _copy(self) -> "Brush":
        copy = object.__new__(Brush)
        copy.__dict__.update(self.__dict__)
        return copy

    def labelled(self, label: int) -> "Brush":
        """The same brush, drawing for another label."""
        brush = self._copy()
        brush.label = label
        return brush

    def at(self, x: Number, y: Number, scale: Number = 1.0, turn: Number = 0.0, flip: bool = False) -> "Brush":
        """A brush whose origin is at (x, y), turned by `turn` radians clockwise, mirrored left to right by `flip`."""
        a, b, c, d, e, f = self._affine
        cos, sin, side = scale * math.cos(turn), scale * math.sin(turn), -1.0 if flip else 1.0
        brush = self._copy()
        brush._place(
            side * (a * cos + b * sin), b * cos - a * sin, a * x + b * y + c,
            side * (d * cos + e * sin), e * cos - d * sin, d * x + e * y + f,
        )  # fmt: skip
        return brush

    def _fixed(self, points: Points) -> np.ndarray:
        if isinstance(points, np.ndarray):
            return cv2.transform(points[None], self._matrix).astype(np.int32)
        (a, b, c), (d, e, f) = self._rows  # a few points are moved sooner than an array of them is made
        return np.array([[(int(a * x + b * y + c), int(d * x + e * y + f)) for x, y in points]], np.int32)

    def polygon(self, points: Points, colour: Colour, edge: Colour | None = None) -> None:
        """Fill a polygon, and with `edge` draw a thin line of that colour around it."""
        if self.label not in self.left_out:
            self._fill(self._fixed(points), colour, edge)

    def _fill(self, fixed: np.ndarray, colour: Colour, edge: Colour | None) -> None:
        cv2.fillPoly(self.pixels, fixed, (*colour, self.label), cv2.LINE_8, _SHIFT)
        if edge is not None:
            width = max(1, round(_EDGE * len(self.pixels)))
            cv2.polylines(self.pixels, fixed, True, (*edge, self.label), width, cv2.LINE_8, _SHIFT)

    def polygons(self, many: Sequence[Points], colour: Colour) -> None:
        """Fill polygons with equally many corners and of one colour at once; where two overlap, neither is drawn."""
        if self.label not in self.left_out and len(many):
            fixed = cv2.transform(np.array(many, np.float32), self._matrix).astype(np.int32)
            cv2.fillPoly(self.pixels, fixed, (*colour, self.label), cv2.LINE_8, _SHIFT)

    def box(self, x0: Number, y0: Number, x1: Number, y1: Number, colour: Colour, edge: Colour | None = None) -> None:
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, edge)

    def boxes(self, many: Sequence[tuple[Number, Number, Number, Number]], colour: Colour) -> None:
        """Fill boxes of one colour at once; where two overlap, neither is drawn."""
        self.polygons([((x0, y0), (x1, y0), (x1, y1), (x0, y1)) for x0, y0, x1, y1 in many], colour)

    def ellipse(
        self,
        x: Number,
        y: Number,
        rx: Number,
        ry: Number,
        colour: Colour,
        edge: Colour | None = None,
        turn: Number = 0.0,
    ) -> None:
        """Fill an ellipse with half axes `rx` and `ry`, turned by `turn` radians clockwise."""
        if self.label not in self.left_out:
            (a, b, c), (d, e, f) = self._rows
            cos, sin = math.cos(turn), math.sin(turn)
            axes = [
                [rx * (a * cos + b * sin), ry * (b * cos - a * sin), a * x + b * y + c],
                [rx * (d * cos + e * sin), ry * (e * cos - d * sin), d * x + e * y + f],
            ]
            circle = _SMALL_CIRCLE if max(rx, ry) * self._pixels_a_unit < _SMALL * len(self.pixels) else _CIRCLE
            self._fill(cv2.transform(circle, np.array(axes, np.float32)).astype(np.int32), colour, edge)

    def line(self, points: Points, width: Number, colour: Colour) -> None:
        """Draw a line through `points` with round ends."""
        if self.label not in self.left_out:
            thickness = max(1, round(width * self._pixels_a_unit))
            fixed = self._fixed(points)
            cv2.polylines(self.pixels, fixed, False, (*colour, self.label), thickness, cv2.LINE_8, _SHIFT)

    def backdrop(
        self, y0: Number, y1: Number, top: Colour, bottom: Colour, random: Random, mottle: Number = 10
    ) -> None:
        """Fill the rows from y0 to y1 of the whole canvas: from one colour to another, with soft blotches."""
        if self.label in self.left_out:
            return
        side = len(self.pixels)
        first, last = round(y0 * side), round(y1 * side)
        noise = np.array([random.uniform(-mottle, mottle) for _ in range(_CELLS**2)], np.float32)
        first_colour, last_colour = np.array((top, bottom), np.float32)
        grid = np.empty((_CELLS, _CELLS, 4), np.float32)
        grid[..., :3] = first_colour + _FADE * (last_colour - first_colour) + noise.reshape(_CELLS, _CELLS, 1)
        grid[..., 3] = self.label
        self.pixels[first:last] = cv2.resize(grid.clip(0, 255).astype(np.uint8), (side, last - first))

    def where(self, label: int) -> UInt8[np.ndarray, "side side"]:
        """255 where the shape on top has this label, else 0."""
        return cv2.compare(cv2.extractChannel(self.pixels, 3), label, cv2.CMP_EQ)

    def within(self, label: int, marks: Sequence[Points], colour: Colour) -> None:
        """Fill polygons with equally many corners, but only where the shape on top has this label.

        Where two of them overlap, neither is drawn.
        """
        stencil = self.where(label)
        x, y, width, height = cv2.boundingRect(stencil)
        if not width:
            return
        drawn = np.zeros_like(stencil)
        fixed = cv2.transform(np.array(marks, np.float32), self._matrix).astype(np.int32)
        cv2.fillPoly(drawn, fixed, 255, cv2.LINE_8, _SHIFT)
        box = slice(y, y + height), slice(x, x + width)
        self.pixels[box][cv2.bitwise_and(stencil[box], drawn[box]) > 0] = (*colour, label)

    def blacken(self, where: UInt8[np.ndarray, "side side"]) -> None:
        """Turn what is seen black wherever `where` is not 0; the labels stay."""
        self.pixels[..., :3][where > 0] = 0


def halved(pixels: np.ndarray, times: int) -> np.ndarray:
    """Average blocks of 2 x 2, `times` times over."""
    for _ in range(times):
        pixels = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return pixels
