"""How fast is the drawn world? Scenes a second of each family on one core, at 64 and 256 px, with and without masks.

Counted in processor time of this process alone, so that others on the machine disturb little; the best of several
rounds, as the slower ones measure the machine.
"""

import argparse
import time
from collections.abc import Callable

import cv2

from xaikit.world import Scene, SceneSet, birds, cars, nine, people, several


def rate(scenes: SceneSet, run: Callable[[Scene], object], rounds: int) -> float:
    """Scenes a second of processor time, in the best of `rounds`."""
    made = list(scenes)
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for scene in made:
            run(scene)
        best = min(best, time.process_time() - start)
    return len(made) / best


def picture_and_masks(scene: Scene, size: int) -> None:
    drawing = scene.draw(size)
    _ = drawing.image, drawing.masks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=180, help="of each family")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'scenes a second':16}{'64 px':>9}{'+ masks':>9}{'ratio':>8}{'256 px':>9}{'+ masks':>9}{'captions':>10}")
    for make in (birds, nine, people, cars, several):
        scenes = make(arguments.scenes, seed=0)
        found = [
            rate(scenes, run, arguments.rounds)
            for size in (64, 256)
            for run in (
                lambda scene, size=size: scene.image(size),
                lambda scene, size=size: picture_and_masks(scene, size),
            )
        ]
        found.append(rate(scenes, lambda scene: scene.captions, arguments.rounds))
        small, small_masks, large, large_masks, captions = found
        row = f"{make.__name__:16}{small:>9.0f}{small_masks:>9.0f}{small_masks / small:>8.2f}"
        print(f"{row}{large:>9.0f}{large_masks:>9.0f}{captions:>10.0f}")
