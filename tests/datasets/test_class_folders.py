"""Photographs in one folder a class: labels by name on every machine, whatever else lies in the folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.datasets.class_folders import Photographs, read_class_folders
from xaikit.datasets.images import ALPHA, TURNED
from xaikit.datasets.intake import HIDDEN


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")  # loses nothing; readers look at the content, not at the ending


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """Three classes whose names sort otherwise where case is ignored, and the same file names in two of them."""
    names = ["Volvo/2.jpg", "Acura/9.JPG", "Acura/10.jpeg", "AM General/2.jpg", "Volvo/1.PNG"]
    for seed, name in enumerate(names):
        write_picture(tmp_path / "cars" / name, seed)
    return tmp_path / "cars"


SORTED = ("AM General/2.jpg", "Acura/10.jpeg", "Acura/9.JPG", "Volvo/1.PNG", "Volvo/2.jpg")
SEEDS = (3, 2, 1, 4, 0)


def test_classes_and_photographs_come_in_the_order_of_their_names(cars) -> None:
    data = read_class_folders(cars)
    assert data.names == ("AM General", "Acura", "Volvo") and data.ids == SORTED
    assert data.labels.tolist() == [0, 1, 1, 2, 2] and data.labels.dtype == torch.int64
    for photograph, name, seed in zip(data, SORTED, SEEDS, strict=True):
        assert photograph.id == name and data.names[photograph.label] == name.split("/")[0]
        expected = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        assert np.array_equal(photograph.image.permute(1, 2, 0).numpy(), expected)


def test_given_classes_keep_their_order(cars) -> None:
    data = read_class_folders(cars, ("Volvo", "AM General", "Acura"))
    assert data.names == ("Volvo", "AM General", "Acura") and data.labels.tolist() == [0, 0, 1, 2, 2]
    assert data.ids == (*SORTED[3:], *SORTED[:3])


def test_what_is_no_photograph_of_a_class_is_left_out(cars) -> None:
    for name in ("Acura/Thumbs.db", "Acura/._9.JPG", "index.jpg", ".cache/1.jpg"):
        (cars / name).parent.mkdir(exist_ok=True)
        (cars / name).write_bytes(b"no picture")
    (cars / "Acura" / "notes.txt").write_text("no picture", encoding="utf-8")
    (cars / "Volvo" / "more").mkdir()
    with pytest.warns(UserWarning) as said:
        data = read_class_folders(cars)
    assert data.ids == SORTED
    assert [str(each.message).partition(" holds ")[2] for each in said] == [
        "1 files or folders that are not read: they lie beside the classes' folders (index.jpg).",
        "1 files or folders that are not read: they are no pictures by their names (Acura/notes.txt).",
        "1 files or folders that are not read: they are no pictures by their names (Volvo/more).",
    ]
    assert sorted(data.intake.skipped.values()) == [1, 2, 2] and data.intake.skipped[HIDDEN] == 2
    report = data.intake.report()
    assert report.startswith("Of the files in cars: ") and "2 not read, hidden (.cache, Acura/._9.JPG)" in report
    assert "Acura/notes.txt, Volvo/more" in report and data.select([0]).intake is data.intake


@pytest.mark.parametrize("ending", [".webp", ".bmp", ".tif", ".TIFF", ".gif", ".jpe", ".jfif", ".ppm", ".tga"])
def test_pictures_under_any_name_that_pillow_reads_are_there(cars, ending) -> None:
    write_picture(cars / "Acura" / f"1{ending}", 7)
    data = read_class_folders(cars)
    assert f"Acura/1{ending}" in data.ids and len(data) == len(SORTED) + 1
    assert data[data.ids.index(f"Acura/1{ending}")].image.shape == (3, 6, 8)


def test_a_folder_says_what_was_changed_in_its_photographs(cars) -> None:
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(cars / "Acura" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(cars / "Volvo" / "b.jpg", exif=exif)
    data = read_class_folders(cars)
    assert len(list(data)) == len(list(data)) == 7 and data.intake.changes == {ALPHA: 1, TURNED: 1}
    assert tuple(data[-1].image.shape) == (3, 3, 2)
    published = read_class_folders(cars, exif=False)
    assert tuple(published[-1].image.shape) == (3, 2, 3) and not published.intake.changes


def test_photographs_that_cannot_be_read_can_be_left_out_by_name(cars) -> None:
    (cars / "Acura" / "a.jpg").write_bytes(b"")
    (cars / "Acura" / "b.jpg").write_bytes(b"<!doctype html><html>Log in</html>")
    whole = (cars / "Volvo" / "1.PNG").read_bytes()
    (cars / "Volvo" / "c.png").write_bytes(whole[: len(whole) // 2])
    (cars / "Volvo" / "d.png").symlink_to(cars / "gone.png")
    data = read_class_folders(cars)
    assert len(data) == len(SORTED) + 4
    with pytest.warns(UserWarning) as said:
        good = data.readable()
    assert good.ids == SORTED and len(said) == 4 and good.labels.tolist() == [0, 1, 1, 2, 2]
    report = good.intake.report()
    whys = {
        "Acura/a.jpg": "it is empty",
        "Acura/b.jpg": "it is a web page",
        "Volvo/c.png": "is no image",
        "Volvo/d.png": "a link to what is not there",
    }
    for file, why in whys.items():
        assert any(file in part and why in part for part in report.split("; 1 not read")), (file, report)
    assert len(list(good)) == len(SORTED)


def test_photographs_are_read_one_by_one_when_asked_for(cars) -> None:
    data = read_class_folders(cars)
    data.paths[1].write_bytes(b"no picture")
    data.paths[2].unlink()
    assert data[0].image.shape == (3, 6, 8) and data[0].image.dtype == torch.uint8
    with pytest.raises(ValueError, match=r"10\.jpeg is no image that can be read"):
        data[1]
    with pytest.raises(FileNotFoundError, match=r"9\.JPG is missing"):
        data[2]


def test_selected_photographs_keep_their_labels(cars) -> None:
    data = read_class_folders(cars)
    few = data.select([4, 1])
    assert few.ids == (SORTED[4], SORTED[1]) and few.labels.tolist() == [2, 1] and few.names == data.names
    assert torch.equal(few[0].image, data[4].image)
    with pytest.raises(ValueError, match="No photograph is left"):
        data.select([])


def test_labels_belong_to_photographs_one_to_one(tmp_path) -> None:
    with pytest.raises(ValueError, match="There are 1 photographs and 2 labels"):
        Photographs(tmp_path, (tmp_path / "a.jpg",), torch.tensor([0, 0]), ("Acura",))


@pytest.mark.parametrize("names", [("AM General", "Acura"), ("AM General", "Acura", "Saab", "Volvo")])
def test_folders_that_are_others_than_the_classes_are_named(cars, names) -> None:
    with pytest.raises(ValueError, match=r"the list of classes differ in '(Volvo|Saab)'; take the folders of"):
        read_class_folders(cars, names)


def test_missing_folders_and_photographs_are_named(cars, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is missing; put one folder a class there"):
        read_class_folders(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for names in (None, ("Acura",)):
        with pytest.raises(FileNotFoundError, match="empty holds no folders; put one a class there"):
            read_class_folders(tmp_path / "empty", names)
    (cars / "Saab").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Saab holds no photographs \(\.jpg, \.png, …\); unpack it again"):
        read_class_folders(cars)
