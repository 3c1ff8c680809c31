"""StanfordCars for paper 3 (Agarwal): photographs of 196 cars, in the layouts in which they are handed round."""

from collections.abc import Iterator
from pathlib import Path

import torch
from scipy.io import loadmat

from xaikit.arguments import public
from xaikit.datasets.class_folders import Photographs, read_class_folders
from xaikit.datasets.images import is_picture, pictures_among
from xaikit.datasets.intake import Intake

CLASSES = 196
DEPTH = 4  # of folders within folders, as Kaggle's archives unpack (car_data/car_data/train)
_ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
_LAYOUTS = "cars_train and cars_test with the development kit, or train and test with one folder a class"


@public
def read_cars(folder: Path, split: str) -> Photographs:
    """The photographs of `split`, train (8,144) or test (8,041); a class is make, model, body and year.

    Two layouts are known, anywhere below `folder`, as archives wrap them in folders of their own. The official one:
    cars_train and cars_test with numbered photographs (also cars_train/cars_train), and the kit's files
    cars_train_annos.mat, cars_test_annos_withlabels.mat and cars_meta.mat. Mirrors: train and test with one folder a
    class, whose names stand for the classes; as a folder's name cannot hold a slash, "Ram C/V Cargo Van" is there with
    another sign. A label counts in the order of the kit, which is not quite alphabetical, or in that of the folders:
    compare `names`.

    Raises ValueError for another split, damaged annotations, and folders of another number than 196 classes;
    FileNotFoundError, saying what is there and what is wanted, where photographs or kit are missing.
    """
    if split not in _ANNOTATIONS:
        raise ValueError(f"StanfordCars has no split {split!r}: choose train or test.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; put StanfordCars there: {_LAYOUTS}.")
    numbered = [place for place in _folders(folder, f"cars_{split}") if _pictures(place)]
    if numbered:
        return _official(folder, numbered[0], split)
    by_class = [place for place in _folders(folder, split) if any(path.is_dir() for path in place.iterdir())]
    if not by_class:
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        parquet = next(folder.rglob("*.parquet"), None)
        mend = f"unpack {parquet.name} into class folders" if parquet else f"put {_LAYOUTS} there"
        raise FileNotFoundError(
            f"{folder} holds neither cars_{split} (the official layout) nor {split} with one folder a class (that of "
            f"the mirrors), but {', '.join(there[:5]) or 'nothing'}; {mend}."
        )
    found = read_class_folders(by_class[0], exif=False)
    if len(found.names) != CLASSES:
        raise ValueError(f"{by_class[0]} has {len(found.names)} classes where StanfordCars has {CLASSES}: complete it.")
    return found


def _folders(folder: Path, name: str, depth: int = DEPTH) -> Iterator[Path]:
    """The folders called `name`, the outermost first."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    yield from (path for path in inside if path.name == name)
    if depth > 1:
        for path in inside:
            yield from _folders(path, name, depth - 1)


def _pictures(folder: Path) -> bool:
    return any(is_picture(path) for path in folder.iterdir())


def _kit(folder: Path, name: str) -> Path:
    """A file of the development kit, wherever below `folder` it lies."""
    found = sorted(path for path in folder.rglob(name) if len(path.relative_to(folder).parts) <= DEPTH)
    if not found:
        missing = folder / "devkit" / name
        raise FileNotFoundError(f"{missing} is missing; put the development kit beside the photographs.")
    return found[0]


def _official(folder: Path, root: Path, split: str) -> Photographs:
    annotations, meta = _kit(folder, _ANNOTATIONS[split]), _kit(folder, "cars_meta.mat")
    try:
        names = tuple(str(each) for each in loadmat(meta, squeeze_me=True)["class_names"])
        rows = loadmat(annotations, squeeze_me=True)["annotations"].reshape(-1)
        labelled = sorted((str(row["fname"]), int(row["class"]) - 1) for row in rows)  # they count from 1
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise ValueError(f"{annotations} or {meta} is damaged ({error}); unpack the development kit again.") from error
    if not labelled or not all(0 <= label < len(names) for _, label in labelled):
        raise ValueError(f"{annotations} does not fit the {len(names)} classes of {meta}: take both from one kit.")
    paths = tuple(root / file for file, _ in labelled)
    if absent := next((path for path in paths if not path.is_file()), None):
        raise FileNotFoundError(f"{absent} is missing; unpack the photographs again.")
    labels, intake, listed = torch.tensor([label for _, label in labelled]), Intake(root), set(paths)
    intake.skip("the kit has no label for them", sorted(set(pictures_among(root.iterdir(), intake)) - listed))
    return Photographs(root, paths, labels, names, False, intake)
