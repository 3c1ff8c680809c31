"""StanfordCars for paper 3 (Agarwal): photographs of 196 cars, in the official layout or that of its mirrors."""

from pathlib import Path

import torch
from scipy.io import loadmat

from xaikit.datasets.class_folders import Photographs, read_class_folders

CLASSES = 196


def read_cars(folder: Path, split: str) -> Photographs:
    """The photographs of `split`, train (8,144) or test (8,041); a class is make, model, body and year.

    Two layouts are known. The official one: cars_train and cars_test with numbered photographs, the annotations in
    devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat (in `folder` or devkit), and the names of the classes
    in devkit/cars_meta.mat. Its address is dead since 2023. Mirrors: train and test with one folder a class, whose
    names stand for the classes; as a folder's name cannot hold a slash, "Ram C/V Cargo Van" is there with another sign.
    A label counts in the order of the kit, which is not quite alphabetical, or in that of the folders: compare `names`.

    Raises ValueError for another split, damaged annotations, and folders of another number than 196 classes;
    FileNotFoundError, naming it, for what is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"StanfordCars has no split {split!r}: choose train or test.")
    if (folder / f"cars_{split}").is_dir():
        return _official(folder, split)
    if not (folder / split).is_dir():
        raise FileNotFoundError(
            f"{folder} holds neither cars_{split} (the official layout) nor {split} with one folder a class (that of "
            "the mirrors); put one of them there."
        )
    found = read_class_folders(folder / split, exif=False)
    if len(found.names) != CLASSES:
        raise ValueError(
            f"{folder / split} has {len(found.names)} classes where StanfordCars has {CLASSES}: complete it."
        )
    return found


def _official(folder: Path, split: str) -> Photographs:
    name = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}[split]
    meta = folder / "devkit" / "cars_meta.mat"
    annotations = next((path for path in (folder / name, folder / "devkit" / name) if path.is_file()), None)
    if annotations is None or not meta.is_file():
        missing = folder / "devkit" / name if annotations is None else meta
        raise FileNotFoundError(f"{missing} is missing; put the development kit beside the photographs.")
    try:
        names = tuple(str(each) for each in loadmat(meta, squeeze_me=True)["class_names"])
        rows = loadmat(annotations, squeeze_me=True)["annotations"].reshape(-1)
        labelled = sorted((str(row["fname"]), int(row["class"]) - 1) for row in rows)  # they count from 1
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise ValueError(f"{annotations} or {meta} is damaged ({error}); unpack the development kit again.") from error
    if not labelled or not all(0 <= label < len(names) for _, label in labelled):
        raise ValueError(f"{annotations} does not fit the {len(names)} classes of {meta}: take both from one kit.")
    root = folder / f"cars_{split}"
    paths = tuple(root / file for file, _ in labelled)
    if absent := next((path for path in paths if not path.is_file()), None):
        raise FileNotFoundError(f"{absent} is missing; unpack the photographs again.")
    return Photographs(root, paths, torch.tensor([label for _, label in labelled]), names, exif=False)
