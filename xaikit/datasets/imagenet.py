"""ImageNet's validation images for paper 4 (Gandelsman et al.): the zero-shot accuracies and the texts of the heads."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Int64
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from scipy.io import loadmat
from timm.data import ImageNetInfo
from torch import Tensor

from xaikit.arguments import public
from xaikit.datasets.images import Photograph, pictures_among, read_image
from xaikit.datasets.intake import Intake

CLASSES, PER_CLASS = 1_000, 50
CLASS_NAMES = tuple(IMAGENET_CLASSNAMES)  # as OpenAI curated them, in the order of `wordnet_ids`
DEVKIT = "ILSVRC2012_devkit_t12"
_CLASS_FOLDER = re.compile(r"n\d{8}")
_FLAT_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)


@public
@dataclass(frozen=True, eq=False)
class ImageNet(Sequence):
    """Photographs in the order of their file names, read from disk one by one as they are asked for.

    `labels` are positions in the sorted list of the 1,000 WordNet ids, which is the order of `CLASS_NAMES`: also in a
    subset, so that a label means the same class everywhere. `intake` tells what was done to those that were read and
    which files were passed over.
    """

    paths: tuple[Path, ...]
    labels: Int64[Tensor, " n"]
    least: int | None = None
    intake: Intake | None = None

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"There are {len(self.paths)} images and {len(self.labels)} labels; give one label each.")
        if not self.paths:
            raise ValueError("No image is left in the selection; choose positions that exist.")
        if twice := [name for name, count in Counter(self.ids).items() if count > 1]:
            raise ValueError(f"The file name {twice[0]} is there twice; names are what results are told apart by.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The file names."""
        return tuple(path.name for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Photograph:
        """Read one image, not turned, as the published protocol has it.

        Raises ValueError or FileNotFoundError, naming the file, where it cannot be read.
        """
        path = self.paths[index]
        photograph = read_image(path, exif=False, intake=self.intake, least=self.least)
        return Photograph(path.name, photograph, int(self.labels[index]))

    def select(self, positions: Iterable[int]) -> "ImageNet":
        """The images at `positions`, in that order. Raises ValueError where there is none."""
        chosen = list(positions)
        return replace(self, paths=tuple(self.paths[position] for position in chosen), labels=self.labels[chosen])


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of the 1,000 classes, sorted: a class is its position here."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def prompts(class_name: str) -> list[str]:
    """The 80 sentences about one class that OpenAI's zero-shot classifier averages."""
    return [template(class_name) for template in OPENAI_IMAGENET_TEMPLATES]


@public
def read_validation(
    folder: Path, *, devkit: Path | None = None, subset: bool = False, least: int | None = None
) -> ImageNet:
    """The validation images in `folder` or its subfolder `val`, in either of the two common layouts.

    One folder a class, named by its WordNet id, as torchvision unpacks the archive; or all images in one folder, as
    they are in the archive, and the development kit with their labels in `devkit` (by default the folder
    ILSVRC2012_devkit_t12 in `folder`). Both give the same images in the same order. `least` is that of `read_image`.

    Raises FileNotFoundError where there are no images or no labels, ValueError for a class that is none of the 1,000,
    for damaged labels, and, unless a `subset` is asked for, where not all 50 images of all 1,000 classes are there.
    """
    root = folder / "val" if (folder / "val").is_dir() else folder
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is missing; put ImageNet's validation images there or name their folder.")
    class_folders = [path for path in root.iterdir() if path.is_dir() and _CLASS_FOLDER.fullmatch(path.name)]
    intake = Intake(root)
    if class_folders:
        labelled = _from_class_folders(root, class_folders, intake)
    else:
        labelled = _from_devkit(root, devkit or folder / DEVKIT, intake)
    if not labelled:
        raise FileNotFoundError(
            f"{root} holds neither class folders such as n01440764 nor images ILSVRC2012_val_*.JPEG; unpack "
            "ILSVRC2012_img_val.tar there."
        )
    if not subset:
        _check_complete(root, Counter(label for _, label in labelled))
    labelled.sort(key=lambda pair: pair[0].name)
    labels = torch.tensor([label for _, label in labelled])
    return ImageNet(tuple(path for path, _ in labelled), labels, least, intake)


def _from_class_folders(root: Path, folders: Sequence[Path], intake: Intake) -> list[tuple[Path, int]]:
    chosen = set(folders)
    beside = [path for path in root.iterdir() if path not in chosen and not path.name.startswith(DEVKIT)]
    intake.skip("they lie beside the classes' folders", pictures_among(beside, intake))
    return [
        (path, _class_of(folder.name, folder))
        for folder in folders
        for path in pictures_among(folder.iterdir(), intake)
    ]


def _from_devkit(root: Path, devkit: Path, intake: Intake) -> list[tuple[Path, int]]:
    """The images of a flat folder with the labels of the development kit.

    Its ground truth numbers the classes by ILSVRC2012_ID, which does not follow the sorted WordNet ids; meta.mat
    says which id has which number.
    """
    found = [(path, int(match[1])) for path in root.iterdir() if (match := _FLAT_NAME.fullmatch(path.name))]
    if not found:
        return []
    named = {path for path, _ in found}
    beside = [path for path in root.iterdir() if path not in named and not path.name.startswith(DEVKIT)]
    intake.skip("they are not named as ImageNet's", pictures_among(beside, intake))
    meta, truth = devkit / "data" / "meta.mat", devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for path in (meta, truth):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; unpack ILSVRC2012_devkit_t12.tar.gz beside the images.")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wordnet_id = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in truth.read_text(encoding="utf-8").split()]
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise ValueError(f"{devkit} is damaged ({error}); unpack ILSVRC2012_devkit_t12.tar.gz again.") from error
    labelled = []
    for path, position in found:
        if not 1 <= position <= len(numbers) or numbers[position - 1] not in wordnet_id:
            raise ValueError(f"{devkit} has no label for {path}; put the images and the kit of ILSVRC2012 together.")
        labelled.append((path, _class_of(wordnet_id[numbers[position - 1]], meta)))
    return labelled


def _class_of(wordnet_id: str, where: Path) -> int:
    try:
        return _positions()[wordnet_id]
    except KeyError:
        raise ValueError(f"{where} names {wordnet_id}, which is none of the 1,000 classes of ImageNet.") from None


@cache
def _positions() -> dict[str, int]:
    return {wordnet_id: position for position, wordnet_id in enumerate(wordnet_ids())}


def _check_complete(root: Path, counts: Counter[int]) -> None:
    if len(counts) != CLASSES or set(counts.values()) != {PER_CLASS}:
        raise ValueError(
            f"{root} holds {counts.total():,} images of {len(counts):,} classes where {PER_CLASS} images of each of "
            f"{CLASSES:,} belong; complete it, or ask for a subset."
        )
