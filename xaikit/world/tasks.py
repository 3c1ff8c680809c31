"""Tasks that are neither solved nor hopeless: comparisons of two methods can be decided on them.

On the families as they are, a linear probe is right nearly always, so that no method errs where another does not. Four
knobs make a task harder: classes that look alike, static over the pictures, small things among others, few pictures to
learn from. `TASKS` are settings with an accuracy of 70 to 95 %; docs/world.md has how much each knob does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.arguments import Count, Pixels, Seed, Within, public
from xaikit.storage.seeding import generator
from xaikit.world.scene import Value, listed
from xaikit.world.scene_several import KINDS, SPECIES
from xaikit.world.sets import SceneSet, birds, cars, nine, people
from xaikit.world.sets_several import several

Noise = Annotated[float | int, Within(0)]


@public
@dataclass(frozen=True, eq=False)
class Task:
    """Which value of `factor` is it? To be learnt from `train`, and asked of `test`.

    `noise` is the deviation of the static on every channel of every pixel, of pictures in [0, 1]. Each scene has its
    own, whatever its factors, so that counterfactuals differ in what was changed alone.
    """

    train: SceneSet
    test: SceneSet
    factor: str
    noise: Noise = 0.0

    @property
    def classes(self) -> tuple[Value, ...]:
        """The values of the factor that occur, in training or in the test."""
        codes = torch.cat([scenes.labels(self.factor) for scenes in (self.train, self.test)]).unique()
        return tuple(self.train.values(self.factor)[code] for code in codes)

    def labels(self, part: Literal["train", "test"]) -> Int64[Tensor, " n"]:
        """For each picture the position of its class among `classes`."""
        position = {self.train.values(self.factor).index(value): k for k, value in enumerate(self.classes)}
        return torch.tensor([position[int(code)] for code in getattr(self, part).labels(self.factor)])

    def images(self, part: Literal["train", "test"], size: Pixels = 64) -> Float[Tensor, "n 3 size size"]:
        """The pictures with their static, in [0, 1]."""
        return self.seen(getattr(self, part), size)

    def seen(self, scenes: SceneSet, size: Pixels = 64) -> Float[Tensor, "n 3 size size"]:
        """Any scenes as the pictures of this task are, in [0, 1]: counterfactuals of its own, say."""
        images = scenes.images(size)
        if self.noise:
            for image, seed in zip(images, scenes.seeds, strict=True):
                draw = generator(int(seed), "world", "static")
                image.add_(torch.randn(image.shape, generator=draw), alpha=float(self.noise))
        return images.clamp_(0, 1)


@dataclass(frozen=True)
class Preset:
    """How a task is dealt: the dealer with its settings, the factor, how many pictures to learn from, the noise."""

    deal: Callable[..., SceneSet]
    settings: Mapping[str, Any]
    factor: str
    n: int
    noise: float


def _one_of(*asked: str) -> Preset:
    """One of some birds, large, among things that are no birds."""
    others = tuple(kind for kind in KINDS if kind not in SPECIES)
    settings = {"asked": asked, "others": others, "size": "large", "written": 0.0, "distractors": 0}
    return Preset(several, settings, "kind1", 1000, 0.0)


TASKS: dict[str, Preset] = {
    "species": Preset(birds, {"alignment": 0.5}, "species", 200, 0.15),
    "categories": Preset(nine, {"alignment": 1 / 9}, "category", 200, 0.15),
    "professions": Preset(people, {"workplace": 0.1}, "profession", 200, 0.35),
    "makes": Preset(cars, {"written": 0.0}, "make", 200, 0.35),
    "duck or swan": _one_of("duck", "swan"),
    "crow or robin": _one_of("crow", "robin"),
}


@public
def task(name: str, *, seed: Seed, n: Count | None = None, test: Count = 500, noise: Noise | None = None) -> Task:
    """The task of that name in `TASKS`, with `n` pictures to learn from and `test` to answer.

    The knobs `n` and `noise` are, with None, such that a linear probe on the mini CLIP is right in 70 to 95 %.
    Raises ValueError for an unknown name.

    >>> from xaikit.world import task
    >>> asked = task("makes", seed=0, n=8, test=4, noise=0.1)
    >>> asked.classes, asked.images("test").shape
    (('vega', 'orso', 'lumo', 'kite'), torch.Size([4, 3, 64, 64]))
    """
    if name not in TASKS:
        raise ValueError(f"There is no task {name!r}; choose from {listed(TASKS)}.")
    preset = TASKS[name]
    train = preset.deal(preset.n if n is None else n, seed=seed, split="train", **preset.settings)
    asked = preset.deal(test, seed=seed, split="test", **preset.settings)
    return Task(train, asked, preset.factor, preset.noise if noise is None else noise)
