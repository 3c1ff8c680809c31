"""ImageNet-9, the Background Challenge: nine classes with backgrounds exchanged (Xiao et al., 2021), for paper 2.

How much a classifier leans on the background is its accuracy on "mixed_same" less that on "mixed_rand".
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.arguments import public
from xaikit.datasets.class_folders import Photographs, read_class_folders

CLASS_NAMES = (
    "dog", "bird", "wheeled vehicle", "reptile", "carnivore", "insect", "musical instrument", "primate", "fish",
)  # fmt: skip
CLASS_FOLDERS = tuple(f"{label:02d}_{name}" for label, name in enumerate(CLASS_NAMES))
PER_CLASS = 450
VARIANTS = {
    "original": "the photograph",
    "only_bg_b": "the background; the object's box is black",
    "only_bg_t": "the background; the object's box is tiled over with background",
    "no_fg": "the background; the object is cut out and black",
    "only_fg": "the object on black",
    "mixed_same": "the object on the background of another image of its class",
    "mixed_rand": "the object on the background of a random image of a random class",
    "mixed_next": "the object on the background of a random image of the next class",
}
NONE = -1  # a class of ImageNet that is in none of the nine
IMAGENET_CLASSES = (116, 52, 42, 36, 35, 27, 26, 20, 16)  # of ImageNet's 1,000, in each of the nine


@public
def read_imagenet9(folder: Path, variant: str, *, check: bool = True) -> Photographs:
    """The test images of one of VARIANTS, labelled by their positions in CLASS_NAMES, by class and file name.

    `folder` is the bg_challenge of the release, which holds <variant>/val/00_dog to <variant>/val/08_fish. Raises
    ValueError for an unknown variant, for other classes, and, with `check`, where a class has not 450 images, and
    FileNotFoundError where the variant or the images of a class are missing.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r} of ImageNet-9; choose one of {', '.join(VARIANTS)}.")
    images = _read(folder / variant / "val")
    counts = torch.bincount(images.labels, minlength=len(CLASS_NAMES)).tolist()
    if check and set(counts) != {PER_CLASS}:
        raise ValueError(
            f"{images.root} holds {counts} images of the nine classes where {PER_CLASS} of each belong; unpack "
            "backgrounds_challenge_data.tar.gz again."
        )
    return images


@public
def read_in9l(folder: Path, split: str) -> Photographs:
    """The images of IN-9L, the larger training set ("train") and its validation images ("val"), which no one cleaned.

    `folder` is the in9l of the release. Raises ValueError for another split and for other classes, FileNotFoundError
    where the split or the images of a class are missing.
    """
    if split not in ("train", "val"):
        raise ValueError(f"IN-9L has no split {split!r}: choose train or val.")
    return _read(folder / split)


def read_mapping(path: Path) -> Int64[Tensor, "1000"]:
    """Which of the nine each of ImageNet's 1,000 classes is in, or NONE, from the release's in_to_in9.json.

    Raises FileNotFoundError where the file is missing and ValueError where it is not that of the release.
    """
    try:
        content = json.loads(path.read_bytes())
        mapping = [content[str(number)] for number in range(1_000)]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; take in_to_in9.json from the Background Challenge.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not map 1,000 classes ({error!r}); take in_to_in9.json again.") from error
    expected = {**dict(enumerate(IMAGENET_CLASSES)), NONE: 1_000 - sum(IMAGENET_CLASSES)}
    if Counter(map(repr, mapping)) != {repr(label): count for label, count in expected.items()}:
        raise ValueError(f"{path} does not map {expected} classes to the nine and to none; take in_to_in9.json again.")
    return torch.tensor(mapping)


def to_in9(logits: Float[Tensor, "batch 1000"], mapping: Int64[Tensor, "1000"]) -> Int64[Tensor, " batch"]:
    """The predictions of an ImageNet classifier among the nine classes, as the Background Challenge scores them.

    The class of the highest of all 1,000 logits, mapped: where it is in none of the nine, the prediction is NONE, which
    is no label and so counts as wrong. Raises ValueError for logits of NaN.
    """
    if logits.isnan().any():
        raise ValueError("Some logits are NaN; look for images or weights that are.")
    return mapping.to(logits.device)[logits.argmax(dim=1)]


def _read(root: Path) -> Photographs:
    return replace(read_class_folders(root, CLASS_FOLDERS, exif=False), names=CLASS_NAMES)
