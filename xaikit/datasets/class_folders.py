"""Photographs in one folder a class, as IdenProf and the mirrors of StanfordCars are laid out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from xaikit.arguments import public
from xaikit.datasets.images import Photograph, is_picture, pictures_among, read_image
from xaikit.datasets.intake import Intake


@public
@dataclass(frozen=True, eq=False)
class Photographs(Sequence):
    """Photographs read from disk one by one as they are asked for; a label is a position in `names`.

    `root` is the folder to which their ids, paths with slashes, are relative. With `exif` they are turned as their
    cameras say. `intake` tells what was done to those that were read (`images.TURNED`, …) and what was passed over.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: Int64[Tensor, " n"]
    names: tuple[str, ...]
    exif: bool = True
    intake: Intake | None = None

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"There are {len(self.paths)} photographs and {len(self.labels)} labels: give one each.")
        if not self.paths:
            raise ValueError("No photograph is left in the selection; choose positions that exist.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The path of each photograph below `root`: names alone need not differ between classes."""
        return tuple(path.relative_to(self.root).as_posix() for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Photograph:
        """Read one photograph. Raises ValueError or FileNotFoundError, naming the file, where it cannot be read."""
        path = self.paths[index]
        image = read_image(path, exif=self.exif, intake=self.intake)
        return Photograph(path.relative_to(self.root).as_posix(), image, int(self.labels[index]))

    def select(self, positions: Iterable[int]) -> "Photographs":
        """The photographs at `positions`, in that order. Raises ValueError where there is none."""
        chosen = list(positions)
        return replace(self, paths=tuple(self.paths[index] for index in chosen), labels=self.labels[chosen])

    def readable(self) -> "Photographs":
        """The photographs that can be read, by reading all: a warning and the `intake` name the others, each by why.

        Raises ValueError where none can be.
        """
        good, bad = [], {}
        for index, path in enumerate(self.paths):
            try:
                read_image(path, exif=self.exif)
                good.append(index)
            except (ValueError, FileNotFoundError) as error:
                bad.setdefault(f"they cannot be: {str(error).removeprefix(f'{path} ')}", []).append(path)
        for reason, paths in bad.items():
            (self.intake or Intake(self.root)).skip(reason, paths)
        return self.select(good)


@public
def read_class_folders(root: Path, names: Sequence[str] | None = None, *, exif: bool = True) -> Photographs:
    """All photographs below `root` by class, classes and photographs in the order of their names.

    With `names`, these are the classes, in this order. Pictures are files under any name that Pillow reads; hidden
    files and folders are left out, and warnings name the first of all others: files of other kinds, pictures beside
    the folders and folders in them. `Photographs.intake` keeps the whole list. `exif` is for people's own photographs;
    published data sets do without. Raises FileNotFoundError where there is no folder or a class has no photograph,
    ValueError where the folders are others than `names`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from xaikit import read_class_folders
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     Image.new("RGB", (8, 6)).save(root / name / "1.png")
    >>> photographs = read_class_folders(root)
    >>> photographs.names, photographs[1].label, photographs[1].image.shape
    (('cat', 'dog'), 1, torch.Size([3, 6, 8]))
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is missing; put one folder a class there.")
    # Sorted as strings: paths sort by the rules of the machine, which on Windows ignore case.
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"{root} holds no folders; put one a class there.")
    if names is not None and (odd := sorted(set(folders) ^ set(names))):
        raise ValueError(
            f"{root} and the list of classes differ in {odd[0]!r}; take the folders of the official release."
        )
    order, intake = tuple(folders if names is None else names), Intake(root)
    beside = [path for path in root.iterdir() if not path.is_dir() or path.name.startswith(".")]
    intake.skip("they lie beside the classes' folders", pictures_among(beside, intake))
    found = []
    for label, name in enumerate(order):
        inside = sorted((root / name).iterdir(), key=lambda path: path.name)
        if not any(is_picture(path) and not path.is_dir() for path in inside):
            raise FileNotFoundError(f"{root / name} holds no photographs (.jpg, .png, …); unpack it again.")
        found += [(path, label) for path in pictures_among(inside, intake)]
    paths, labels = zip(*found, strict=True)
    return Photographs(root, paths, torch.tensor(labels), order, exif, intake)
