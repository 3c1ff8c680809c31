"""ImageNet-Segmentation: 4,276 photographs with the outline of their object (Guillaumin et al., 2014), for paper 4.

The file gtsegs_ijcv.mat is HDF5, as MATLAB writes it from version 7.3 on, so every array is there with its axes
reversed. `value/img` and `value/gt` hold one object reference for each image, in shape [n, 1]: the first to the pixels,
uint8 [3, width, height], the second to a cell [1, 1] that refers to the mask, uint8 [width, height] of 0 and 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from xaikit.arguments import public
from xaikit.storage.extras import extra

IMAGES = 4_276
ALIGNMENTS = ("aligned", "legacy")


@dataclass(frozen=True, eq=False)
class SegmentedPhotograph:
    """One image as it is in the file, and the mask of its object as large as a model sees the image."""

    id: str
    image: UInt8[Tensor, "3 height width"]
    mask: Bool[Tensor, "size size"]


@public
@dataclass(frozen=True, eq=False)
class ImageNetSegmentation(Sequence):
    """The images and masks of `path` in their order there, read one by one; an id is the position, "00000" on."""

    path: Path
    ids: tuple[str, ...]
    size: int
    alignment: str

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> SegmentedPhotograph:
        """Read one image and its mask. Raises ValueError, naming the file and the image, where one is damaged."""
        name = self.ids[index]
        with _opened(self.path) as file:
            try:
                image = torch.from_numpy(file[file["value/img"][int(name), 0]][()])
                mask = torch.from_numpy(file[file[file["value/gt"][int(name), 0]][0, 0]][()])
            except (KeyError, IndexError, ValueError, TypeError, OSError) as error:
                raise ValueError(f"Image {name} of {self.path} cannot be read ({error}); download it again.") from error
        binary = mask.numel() > 0 and bool(((mask == 0) | (mask == 1)).all())
        if image.dtype != torch.uint8 or image.shape != (3, *mask.shape) or not binary:
            raise ValueError(
                f"Image {name} of {self.path} is {image.dtype} {tuple(image.shape)} with a mask {tuple(mask.shape)}, "
                "not 8-bit [3, width, height] with a mask [width, height] of 0 and 1; download it again."
            )
        return SegmentedPhotograph(name, image.mT.contiguous(), fit_mask(mask.T > 0, self.size, self.alignment))


@public
def read_segmentation(
    path: Path, size: int = 224, alignment: str = "aligned", *, check: bool = True
) -> ImageNetSegmentation:
    """The images of gtsegs_ijcv.mat, each with its mask fitted to a model's `size` by `fit_mask`.

    Raises FileNotFoundError where the file is missing, ValueError where it has another form, for an unknown
    alignment, and, with `check`, where it does not hold 4,276 images.
    """
    _check_alignment(alignment)
    with _opened(path) as file:
        try:
            count, masks = len(file["value/img"]), len(file["value/gt"])
        except KeyError as error:
            raise ValueError(f"{path} does not hold value/img and value/gt ({error}); download it again.") from error
    if count != masks or not count or (check and count != IMAGES):
        raise ValueError(f"{path} holds {count:,} images and {masks:,} masks, not {IMAGES:,}; download it again.")
    return ImageNetSegmentation(path, tuple(f"{position:05d}" for position in range(count)), size, alignment)


def fit_mask(
    mask: Bool[Tensor, "height width"], size: int, alignment: str = "aligned"
) -> Bool[Tensor, "{size} {size}"]:
    """A mask at a model's `size`, by nearest neighbour.

    "aligned": shorter side to `size`, then centre crop, which is what the image goes through. "legacy": squashed to
    the square, as published: of any image that is not square, the mask no longer lies where its object does.
    Raises ValueError for another alignment.
    """
    _check_alignment(alignment)
    shorter = min(mask.shape)
    rows, columns = (
        _pixels_under(length, size if alignment == "legacy" else size * length // shorter, size)
        for length in mask.shape
    )
    return mask[rows][:, columns]


def _pixels_under(length: int, resized: int, size: int) -> Int64[Tensor, " {size}"]:
    """Which of `length` pixels lie under the centres of the middle `size` ones when they are resized to `resized`.

    In whole numbers: a centre that falls between two pixels takes the later one, where the rounding of torch and PIL
    takes now this one and now that.
    """
    start = round((resized - size) / 2)
    return (2 * torch.arange(start, start + size) + 1) * length // (2 * resized)


def _check_alignment(alignment: str) -> None:
    if alignment not in ALIGNMENTS:
        raise ValueError(f"Unknown alignment {alignment!r} of masks; choose one of {', '.join(ALIGNMENTS)}.")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The `h5py.File`, opened for each image anew: a handle kept open could not go to other processes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run `make data PROFILE=paper` or name the file.")
    with extra("paper"):
        import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error}); delete it and download it again.") from error
    with file:
        yield file
