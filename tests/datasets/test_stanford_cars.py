"""StanfordCars: the official layout and that of the mirrors, on small pictures and files like the real kit's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from xaikit.datasets.stanford_cars import read_cars

# In the order of their names, with a slash in one of them, as in the real list.
NAMES = [f"Make {number:03d} Sedan 2012" for number in range(195)] + ["Ram C/V Cargo Van Minivan 2012"]
ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
UNLABELLED = (*FIELDS[:4], "fname")  # what the kit has of the test photographs in a file of its own


def write_annotations(path: Path, rows: list[tuple[int, str]], fields: tuple[str, ...] = FIELDS) -> None:
    """Classes that count from 1 and file names, as the kit has them: structs in one row, small numbers as uint8."""
    values = [(1, 2, 7, 5, np.uint8(number), file) for number, file in rows]
    kept = [tuple(row[FIELDS.index(field)] for field in fields) for row in values]
    table = np.array(kept, dtype=[(field, "O") for field in fields])
    savemat(path, {"annotations": table[None]}, do_compression=True)


def write_names(path: Path, names: list[str]) -> None:
    savemat(path, {"class_names": np.array(names, dtype=object)[None]}, do_compression=True)


def mirrored(name: str) -> str:
    return name.replace("/", "-")


def write_both(folder: Path, split: str, seed: int) -> None:
    """200 photographs of 196 classes in random order: numbered with a kit, and in class folders."""
    rng = np.random.default_rng(seed)
    order = rng.permutation([*range(196), 3, 3, 190, 195]).tolist()
    official, mirror = folder / "official", folder / "mirror"
    (official / f"cars_{split}").mkdir(parents=True)
    (official / "devkit").mkdir(exist_ok=True)
    rows = []
    for position, label in enumerate(order, start=1):
        file = official / f"cars_{split}" / f"{position:05d}.jpg"
        copy = mirror / split / mirrored(NAMES[label]) / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(file)
        shutil.copy(file, copy)
        rows.append((label + 1, file.name))
    write_annotations(official / "devkit" / ANNOTATIONS[split], rows)
    write_names(official / "devkit" / "cars_meta.mat", NAMES)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    for seed, split in enumerate(ANNOTATIONS):
        write_both(folder, split, seed)
    return folder


@pytest.fixture
def both_layouts(written, tmp_path) -> tuple[Path, Path]:
    """A copy of both layouts that a test may spoil."""
    shutil.copytree(written, tmp_path / "cars")
    return tmp_path / "cars" / "official", tmp_path / "cars" / "mirror"


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_layouts_give_the_same_photographs_with_the_same_labels(written, split) -> None:
    official, mirror = (read_cars(written / layout, split) for layout in ("official", "mirror"))
    assert official.ids == tuple(f"{position:05d}.jpg" for position in range(1, 201))
    assert official.names == tuple(NAMES) and mirror.names == tuple(mirrored(name) for name in NAMES)
    by_name = {name.split("/")[1]: position for position, name in enumerate(mirror.ids)}
    assert len(by_name) == len(mirror) == 200 and official.labels.unique().tolist() == list(range(196))
    assert not torch.equal(official.labels, official.labels.sort().values)
    for photograph in official:
        other = mirror[by_name[photograph.id]]
        assert photograph.label == other.label and torch.equal(photograph.image, other.image)
        assert other.id == f"{mirrored(NAMES[photograph.label])}/{photograph.id}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_annotations_may_lie_beside_the_kit(both_layouts, split) -> None:
    official = both_layouts[0]
    expected = read_cars(official, split).labels
    (official / "devkit" / ANNOTATIONS[split]).rename(official / ANNOTATIONS[split])
    assert torch.equal(read_cars(official, split).labels, expected)


def test_labels_follow_the_kit_where_its_names_are_in_no_order(both_layouts) -> None:
    official = both_layouts[0]
    expected = read_cars(official, "train").labels
    write_names(official / "devkit" / "cars_meta.mat", NAMES[::-1])
    data = read_cars(official, "train")
    assert torch.equal(data.labels, expected) and data.names == tuple(NAMES[::-1])


def test_one_annotation_alone_is_read_as_well(both_layouts) -> None:
    """scipy's squeezing leaves no list of one."""
    write_annotations(both_layouts[0] / "devkit" / ANNOTATIONS["train"], [(196, "00007.jpg")])
    with pytest.warns(UserWarning, match="holds 199 files .* the kit has no label for them"):
        data = read_cars(both_layouts[0], "train")
    assert data.ids == ("00007.jpg",) and data.labels.tolist() == [195]


def test_other_splits_and_folders_without_cars_are_refused(written, tmp_path) -> None:
    for layout in ("official", "mirror"):
        with pytest.raises(ValueError, match="StanfordCars has no split 'val': choose train or test"):
            read_cars(written / layout, "val")
    with pytest.raises(FileNotFoundError, match=r"holds neither cars_test \(the official layout\) nor test with one"):
        read_cars(tmp_path, "test")


def test_a_mirror_that_is_not_complete_is_refused(both_layouts) -> None:
    mirror = both_layouts[1]
    for file in (mirror / "test" / NAMES[5]).iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{NAMES[5]} holds no photographs"):
        read_cars(mirror, "test")
    (mirror / "test" / NAMES[5]).rmdir()
    with pytest.raises(ValueError, match="test has 195 classes where StanfordCars has 196: complete it"):
        read_cars(mirror, "test")


@pytest.mark.parametrize(
    ("split", "file"), [("train", ANNOTATIONS["train"]), ("test", ANNOTATIONS["test"]), ("test", "cars_meta.mat")]
)
def test_a_missing_file_of_the_kit_is_named(both_layouts, split, file) -> None:
    (both_layouts[0] / "devkit" / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"devkit.{file} is missing; put the development kit beside the phot"):
        read_cars(both_layouts[0], split)


def test_a_missing_photograph_is_named(both_layouts) -> None:
    (both_layouts[0] / "cars_train" / "00042.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"cars_train.00042\.jpg is missing; unpack the photographs again"):
        read_cars(both_layouts[0], "train")


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("cars_test_annos_withlabels.mat", lambda path: path.write_bytes(b"MATLAB")),
        ("cars_test_annos_withlabels.mat", lambda path: path.write_bytes(path.read_bytes()[:500])),
        ("cars_test_annos_withlabels.mat", lambda path: write_names(path, NAMES)),
        ("cars_test_annos_withlabels.mat", lambda path: write_annotations(path, [(1, "00001.jpg")], UNLABELLED)),
        ("cars_meta.mat", lambda path: path.write_bytes(path.read_bytes()[:200])),
        ("cars_meta.mat", lambda path: write_annotations(path, [(1, "00001.jpg")])),
    ],
)
def test_a_damaged_kit_is_named(both_layouts, file, spoil) -> None:
    spoil(both_layouts[0] / "devkit" / file)
    with pytest.raises(ValueError, match=rf"{file}.* is damaged \(.*\); unpack the development kit again"):
        read_cars(both_layouts[0], "test")


@pytest.mark.parametrize("rows", [[], [(0, "00001.jpg")], [(1, "00001.jpg"), (197, "00002.jpg")]])
def test_annotations_that_do_not_fit_the_classes_are_refused(both_layouts, rows) -> None:
    """A class 0 would be the last one, as Python counts -1 from the end."""
    write_annotations(both_layouts[0] / "devkit" / ANNOTATIONS["train"], rows)
    with pytest.raises(ValueError, match=r"annos\.mat does not fit the 196 classes of .*: take both from one kit"):
        read_cars(both_layouts[0], "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_within_folders_as_archives_unpack_them(written, tmp_path, split) -> None:
    """Kaggle's archives: cars_train/cars_train beside car_devkit/devkit, and car_data/car_data/train."""
    official, mirror = (read_cars(written / layout, split) for layout in ("official", "mirror"))
    kaggle, other = tmp_path / "kaggle", tmp_path / "other"
    for name in ("cars_train", "cars_test"):
        shutil.copytree(written / "official" / name, kaggle / name / name)
    shutil.copytree(written / "official" / "devkit", kaggle / "car_devkit" / "devkit")
    shutil.copytree(written / "mirror", other / "car_data" / "car_data")
    for expected, found in ((official, read_cars(kaggle, split)), (mirror, read_cars(other, split))):
        assert found.ids == expected.ids and found.names == expected.names
        assert torch.equal(found.labels, expected.labels)


def test_what_is_there_is_said_where_it_cannot_be_read(written, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is missing; put StanfordCars there"):
        read_cars(tmp_path / "nowhere", "train")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").touch()
    with pytest.raises(FileNotFoundError, match=r"but data; unpack train-00000-of-00001.parquet into class folders"):
        read_cars(tmp_path, "train")
    shutil.copytree(written / "official" / "cars_test", tmp_path / "cars_test")
    with pytest.raises(FileNotFoundError, match=r"cars_test_annos_withlabels.mat is missing; put the development kit"):
        read_cars(tmp_path, "test")
