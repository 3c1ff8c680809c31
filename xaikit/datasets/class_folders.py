"""Photographs in one folder a class, as IdenProf and the mirrors of StanfordCars are laid out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from xaikit.datasets.photographs import Photograph, read_image

ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class Photographs(Sequence):
    """Photographs read from disk one by one as they are asked for; a label is a position in `names`.

    `root` is the folder to which their ids, paths with slashes, are relative.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: Int64[Tensor, " n"]
    names: tuple[str, ...]

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
        return Photograph(path.relative_to(self.root).as_posix(), read_image(path), int(self.labels[index]))

    def select(self, positions: Iterable[int]) -> "Photographs":
        """The photographs at `positions`, in that order. Raises ValueError where there is none."""
        chosen = list(positions)
        return Photographs(self.root, tuple(self.paths[index] for index in chosen), self.labels[chosen], self.names)


def read_class_folders(root: Path, names: Sequence[str] | None = None) -> Photographs:
    """All photographs below `root` by class, classes and photographs in the order of their names.

    With `names`, these are the classes, in this order. Hidden files and folders are left out. Raises FileNotFoundError
    where there is no folder or a class has no photograph, ValueError where the folders are others than `names`.

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
    order = tuple(folders if names is None else names)
    found = []
    for label, name in enumerate(order):
        files = sorted(path.name for path in (root / name).iterdir() if path.suffix.lower() in ENDINGS)
        # Unpacked on a Mac, an archive can leave a hidden "._a.jpg" beside "a.jpg" that holds no picture.
        visible = [file for file in files if not file.startswith(".")]
        if not visible:
            raise FileNotFoundError(f"{root / name} holds no photographs ({', '.join(ENDINGS)}); unpack it again.")
        found += [(root / name / file, label) for file in visible]
    return Photographs(root, tuple(path for path, _ in found), torch.tensor([label for _, label in found]), order)
