"""Colours that families share, and what stands in front of every scene now and then."""

import math
from random import Random

from xaikit.world.canvas import Brush, Colour, varied

COLOURS: dict[str, Colour] = {
    "red": (205, 35, 40),
    "blue": (45, 75, 215),
    "yellow": (245, 210, 45),
    "white": (243, 243, 243),
    "black": (34, 34, 38),
    "brown": (130, 80, 42),
}


def twigs(brush: Brush, random: Random, chance: float = 0.35) -> None:
    """Now and then a twig from the side, or blades of grass from below: thin, so that little is hidden."""
    if random.random() >= chance:
        return
    if random.random() < 0.5:
        green = varied((70, 105, 45), random, 20)
        x = random.uniform(0.05, 0.95)
        blades = []
        for _ in range(random.randint(4, 7)):
            foot, lean, height = (
                x + random.uniform(-0.12, 0.12),
                random.uniform(-0.12, 0.12),
                random.uniform(0.15, 0.42),
            )
            top = (foot + lean, 1.0 - height)
            blades.append(
                ((foot - 0.011, 1.01), (foot + 0.3 * lean - 0.008, 1 - height / 2), top, (foot + 0.011, 1.01))
            )
        for blade in blades:
            brush.polygon(blade, green)
        return
    bark, leaf = varied((92, 66, 44), random, 12), varied((80, 120, 50), random, 20)
    side, y, reach = random.random() < 0.5, random.uniform(0.1, 0.8), random.uniform(0.35, 0.75)
    twig = brush.at(1.0 if side else 0.0, y, flip=side, turn=random.uniform(-0.35, 0.35))
    twig.polygon(((-0.2, -0.016), (reach, -0.004), (reach, 0.004), (-0.2, 0.016)), bark)
    for k in range(1, 6):
        x, up = reach * k / 5, random.choice((-1, 1))
        twig.ellipse(x, up * 0.028, 0.036, 0.017, leaf, turn=up * random.uniform(0.3, 1.1) * math.pi / 4)
