"""Waterbirds: splits and groups from its own table, on a small folder in its layout."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.companion.download import read_manifest
from xaikit.datasets.waterbirds import COUNTS, FOLDER, GROUP_NAMES, SPLITS, read_waterbirds

HEADER = "img_id,img_filename,y,split,place,place_filename"
SMALL = {"train": (6, 1, 1, 3), "val": (2, 2, 1, 1), "test": (3, 2, 2, 1)}


def write_set(folder: Path, counts: dict[str, tuple[int, ...]], pictures: bool = True) -> list[str]:
    """A folder in the published layout with so many images of each group, shuffled. Returns its lines."""
    rows = []
    for split, numbers in enumerate(counts[name] for name in SPLITS):
        for (label, place), count in zip(product((0, 1), (0, 1)), numbers, strict=True):
            rows += [(label, split, place)] * count
    lines = []
    for number, index in enumerate(np.random.default_rng(0).permutation(len(rows)).tolist(), start=1):
        label, split, place = rows[index]
        name = f"{1 + number % 200:03d}.Some_Bird/Some_Bird_{number:04d}.jpg"
        lines.append(f"{number},{name},{label},{split},{place},/o/ocean/{number:08d}.jpg")
        if pictures:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            colour = (255 * label, 100, 255 * place)
            Image.new("RGB", (8 + number % 3, 6), colour).save(folder / name, quality=95)
    folder.mkdir(exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return lines


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_set(tmp_path / "birds", SMALL)
    return tmp_path / "birds"


@pytest.mark.parametrize(
    ("split", "expected"), [("train", [6, 1, 1, 3]), ("val", [2, 2, 1, 1]), ("test", [3, 2, 2, 1])]
)
def test_splits_and_groups_are_those_of_the_table(small, split, expected) -> None:
    birds = read_waterbirds(small, split, check=False)
    assert torch.bincount(birds.groups).tolist() == expected and len(birds) == sum(expected)
    for bird, group in zip(birds, birds.groups.tolist(), strict=True):
        assert GROUP_NAMES[group] == f"{('landbird', 'waterbird')[bird.label]} on {('land', 'water')[bird.background]}"
        # The picture shows its factors: red for a waterbird, blue for water.
        red, _, blue = bird.image.float().mean((1, 2)).tolist()
        assert (red > 128, blue > 128) == (bool(bird.label), bool(bird.background))
        assert bird.image.dtype == torch.uint8 and bird.image.shape[1] == 6


def test_the_splits_are_disjoint_and_in_the_order_of_the_table(small) -> None:
    ids = [read_waterbirds(small, split, check=False).ids for split in SPLITS]
    listed = [line.split(",")[1] for line in (small / "metadata.csv").read_text().splitlines()[1:]]
    assert sorted(name for names in ids for name in names) == sorted(listed)
    for names in ids:
        assert list(names) == [name for name in listed if name in names]


def test_the_full_set_has_the_published_groups(tmp_path) -> None:
    write_set(tmp_path / "full", COUNTS, pictures=False)
    for split, size in (("train", 4_795), ("val", 1_199), ("test", 5_794)):
        birds = read_waterbirds(tmp_path / "full", split)
        assert len(birds) == size and torch.bincount(birds.groups).tolist() == list(COUNTS[split])
    assert COUNTS["test"] == (2255, 2255, 642, 642)


def test_other_numbers_of_images_are_refused(small, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\(3, 2, 2, 1\) images in the groups landbird on land.*\(2255, 2255, 642"):
        read_waterbirds(small)
    lines = write_set(tmp_path / "full", COUNTS, pictures=False)
    moved = next(n for n, line in enumerate(lines) if line.split(",")[2:5] == ["0", "2", "0"])
    lines[moved] = lines[moved].replace(",0,2,0,", ",0,2,1,")
    (tmp_path / "full" / "metadata.csv").write_text("\n".join([HEADER, *lines]))
    with pytest.raises(ValueError, match=r"\(2254, 2256, 642, 642\)"):
        read_waterbirds(tmp_path / "full")
    assert len(read_waterbirds(tmp_path / "full", "val")) == 1_199


def test_selected_birds_keep_their_factors(small) -> None:
    birds = read_waterbirds(small, "train", check=False)
    few = birds.select([5, 0])
    assert few.ids == (birds.ids[5], birds.ids[0]) and few.groups.tolist() == birds.groups[[5, 0]].tolist()
    assert torch.equal(few[0].image, birds[5].image)
    with pytest.raises(ValueError, match="No image is left"):
        birds.select([])


@pytest.mark.parametrize(("old", "new", "message"), [(",y,", ",label,", "has no column y"), (",place,", ",", "place")])
def test_a_table_without_a_column_is_refused(small, old, new, message) -> None:
    metadata = small / "metadata.csv"
    metadata.write_text(metadata.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_waterbirds(small, check=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,a.jpg,2,2,0,b.jpg", "line 2: y is '2', not 0 to 1"),
        ("1,a.jpg,0,3,0,b.jpg", "line 2: split is '3', not 0 to 2"),
        ("1,a.jpg,0,2,land,b.jpg", "line 2: place is 'land'"),
        ("1,a.jpg,0,2", "line 2: place is None"),
        ("1,a.jpg,0,2,0,x\n2,a.jpg,0,2,0,x", r"The image a\.jpg is there twice"),
        ("1,a.jpg,0,1,0,x", "No image is left"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(tmp_path, line, message) -> None:
    (tmp_path / "metadata.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_waterbirds(tmp_path, check=False)


def test_unknown_splits_and_missing_files_are_named(small) -> None:
    with pytest.raises(ValueError, match="Unknown split 'valid'; choose one of train, val, test"):
        read_waterbirds(small, "valid")
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv is missing"):
        read_waterbirds(small / "deeper")
    birds = read_waterbirds(small, check=False)
    (small / birds.ids[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"Some_Bird_\d+\.jpg is missing"):
        birds[1]


def test_the_archive_leaves_the_folder_that_is_read() -> None:
    (entry,) = [entry for entry in read_manifest() if entry.name == "waterbirds"]
    assert entry.files[0].unpack == FOLDER
