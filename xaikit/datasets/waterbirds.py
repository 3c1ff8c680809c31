"""Waterbirds: birds of land and water pasted on land and water (Sagawa et al., 2020), for papers 2 and 4.

In training 95 % of the birds are where they belong; in validation and test every class is half on each background.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from xaikit.arguments import public
from xaikit.datasets.images import pictures_among, read_image
from xaikit.datasets.intake import Intake

FOLDER = "waterbird_complete95_forest2water2"  # what the archive leaves
CLASS_NAMES = ("landbird", "waterbird")
BACKGROUNDS = ("land", "water")
GROUP_NAMES = tuple(f"{bird} on {background}" for bird in CLASS_NAMES for background in BACKGROUNDS)
SPLITS = ("train", "val", "test")  # 0, 1 and 2 in the column `split`
# Images of each group in the published data set.
COUNTS = {"train": (3498, 184, 56, 1057), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)}
_COLUMNS = ("img_filename", "y", "split", "place")


@dataclass(frozen=True, eq=False)
class Bird:
    """One image: its file name within the data set, its pixels, and positions in CLASS_NAMES and BACKGROUNDS."""

    id: str
    image: UInt8[Tensor, "3 height width"]
    label: int
    background: int


@public
@dataclass(frozen=True, eq=False)
class Waterbirds(Sequence):
    """Images in the order of metadata.csv, read from disk one by one as they are asked for.

    `ids` are the file names below `folder`; `labels` and `backgrounds` index CLASS_NAMES and BACKGROUNDS.
    `intake` tells what was done to those that were read, and which files the table does not list.
    """

    folder: Path
    ids: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    backgrounds: Int64[Tensor, " n"]
    intake: Intake | None = None

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.labels) == len(self.backgrounds):
            raise ValueError("The names, labels and backgrounds differ in number; give one of each for each image.")
        if not self.ids:
            raise ValueError("No image is left in the selection; choose positions that exist.")
        if twice := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"The image {twice[0]} is there twice; names are what results are told apart by.")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in this order."""
        return tuple(self.folder / name for name in self.ids)

    @property
    def groups(self) -> Int64[Tensor, " n"]:
        """Positions in GROUP_NAMES."""
        return self.labels * len(BACKGROUNDS) + self.backgrounds

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Bird:
        """Read one image. Raises ValueError or FileNotFoundError, naming the file, where it cannot be read."""
        name = self.ids[index]
        image = read_image(self.folder / name, exif=False, intake=self.intake)
        return Bird(name, image, int(self.labels[index]), int(self.backgrounds[index]))

    def select(self, positions: Iterable[int]) -> "Waterbirds":
        """The images at `positions`, in that order. Raises ValueError where there is none."""
        chosen = list(positions)
        names = tuple(self.ids[position] for position in chosen)
        return Waterbirds(self.folder, names, self.labels[chosen], self.backgrounds[chosen], self.intake)


@public
def read_waterbirds(folder: Path, split: str = "test", *, check: bool = True) -> Waterbirds:
    """One split ("train", "val", "test") of Waterbirds from its folder, which holds metadata.csv and the images.

    Files that metadata.csv does not list are not read: a warning names the first, and `Waterbirds.intake` all.
    Raises FileNotFoundError where metadata.csv is missing, ValueError for an unknown split, for a line that cannot
    be understood, and, with `check`, where the groups do not have the numbers of images that were published.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        raise FileNotFoundError(f"{metadata} is missing; run `make data PROFILE=paper` or name its folder.")
    with metadata.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := [column for column in _COLUMNS if column not in (rows.fieldnames or ())]:
            raise ValueError(f"{metadata} has no column {', '.join(missing)}; download it again.")
        columns = [_parse(row, f"{metadata}, line {rows.line_num}") for row in rows]
    chosen = [row for row in columns if SPLITS[row[1]] == split]
    names, _, labels, backgrounds = zip(*chosen, strict=True) if chosen else ((), (), (), ())
    labels, backgrounds = torch.tensor(labels).long(), torch.tensor(backgrounds).long()
    images = Waterbirds(folder, names, labels, backgrounds, _intake(folder, {row[0] for row in columns}))
    found = tuple(torch.bincount(images.groups, minlength=len(GROUP_NAMES)).tolist())
    if check and found != COUNTS[split]:
        raise ValueError(
            f"The {split} split of {metadata} has {found} images in the groups {', '.join(GROUP_NAMES)} where "
            f"{COUNTS[split]} belong; download it again."
        )
    return images


def _intake(folder: Path, listed: set[str]) -> Intake:
    """Of a folder of which the table lists these; it names the other files."""
    intake = Intake(folder)
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir() and path != folder / "metadata.csv")
    beside = [path for path in files if path.relative_to(folder).as_posix() not in listed]
    intake.skip("metadata.csv does not list them", pictures_among(beside, intake))
    return intake


def _parse(row: dict[str, str], where: str) -> tuple[str, int, int, int]:
    """The name, split, label and background of a line."""
    values = []
    for column, largest in (("split", len(SPLITS)), ("y", len(CLASS_NAMES)), ("place", len(BACKGROUNDS))):
        if row[column] not in map(str, range(largest)):
            raise ValueError(f"{where}: {column} is {row[column]!r}, not 0 to {largest - 1}; download it again.")
        values.append(int(row[column]))
    return row["img_filename"], values[0], values[1], values[2]
