"""All capitals, for the words of signs: those of the names on cars, and the others in the same strokes."""

from xaikit.world.canvas import Brush, Colour
from xaikit.world.scene_cars import _LETTERS

_OTHERS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "B": (
        ((0.0, 0.0), (0.3, 0.0), (0.45, 0.12), (0.45, 0.36), (0.3, 0.48), (0.0, 0.48), (0.0, 0.0)),
        ((0.0, 0.48), (0.35, 0.48), (0.5, 0.62), (0.5, 0.86), (0.35, 1.0), (0.0, 1.0), (0.0, 0.48)),
    ),
    "C": (((0.5, 0.15), (0.3, 0.0), (0.1, 0.08), (0.0, 0.35), (0.0, 0.65), (0.1, 0.92), (0.3, 1.0), (0.5, 0.85)),),
    "D": (((0.0, 0.0), (0.25, 0.0), (0.45, 0.2), (0.5, 0.5), (0.45, 0.8), (0.25, 1.0), (0.0, 1.0), (0.0, 0.0)),),
    "F": (((0.5, 0.0), (0.0, 0.0), (0.0, 1.0)), ((0.0, 0.5), (0.4, 0.5))),
    "H": (((0.0, 0.0), (0.0, 1.0)), ((0.5, 0.0), (0.5, 1.0)), ((0.0, 0.5), (0.5, 0.5))),
    "J": (((0.45, 0.0), (0.45, 0.75), (0.35, 0.98), (0.1, 0.98), (0.0, 0.8)),),
    "N": (((0.0, 1.0), (0.0, 0.0), (0.5, 1.0), (0.5, 0.0)),),
    "P": (((0.0, 1.0), (0.0, 0.0), (0.35, 0.0), (0.5, 0.14), (0.5, 0.38), (0.35, 0.52), (0.0, 0.52)),),
    "Q": (
        ((0.25, 0.0), (0.45, 0.12), (0.5, 0.5), (0.45, 0.88), (0.25, 1.0), (0.05, 0.88), (0.0, 0.5), (0.05, 0.12),
         (0.25, 0.0)),
        ((0.3, 0.7), (0.5, 1.0)),
    ),
    "W": (((0.0, 0.0), (0.12, 1.0), (0.25, 0.45), (0.38, 1.0), (0.5, 0.0)),),
    "X": (((0.0, 0.0), (0.5, 1.0)), ((0.5, 0.0), (0.0, 1.0))),
    "Y": (((0.0, 0.0), (0.25, 0.5), (0.5, 0.0)), ((0.25, 0.5), (0.25, 1.0))),
    "Z": (((0.0, 0.0), (0.5, 0.0), (0.0, 1.0), (0.5, 1.0)),),
}  # fmt: skip
CAPITALS = {**_LETTERS, **_OTHERS}
ADVANCE, STROKE = 0.7, 0.16  # from one letter to the next, and the width of a line, in heights of a letter


def write_word(b: Brush, word: str, colour: Colour) -> None:
    """Write a word in capitals around the origin, 1 high."""
    left = -width(word) / 2
    for place, letter in enumerate(word.upper()):
        for stroke in CAPITALS[letter]:
            b.line([(left + ADVANCE * place + x, y - 0.5) for x, y in stroke], STROKE, colour)


def width(word: str) -> float:
    """How wide a word is where its letters are 1 high."""
    return ADVANCE * (len(word) - 1) + 0.5
