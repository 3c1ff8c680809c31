"""A user's pictures come in whole, or what is left out is said: labels, masks, groups and captions with them."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from xaikit.audit.photographs import NO_LABEL, Pictures, read_pictures
from xaikit.models.preprocessing import Preprocessed

LOOK = Preprocessed(nn.Identity(), 16, (0.0,) * 3, (1.0,) * 3, interpolation="bilinear")


def folder_of(root: Path, names: tuple[str, ...] = ("cat", "dog"), each: int = 3, side: int = 24) -> Path:
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (side, side), (60 * place, 20 * number, 100)).save(root / name / f"{number}.png")
    return root


def read(*arguments, **options) -> Pictures:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_pictures(*arguments, **options)


def test_folders_are_classes_by_the_names_of_the_classifier(tmp_path: Path) -> None:
    found = read(folder_of(tmp_path), LOOK, names=("Dog, hound", "bird", "Cat"))
    assert found.ids == tuple(f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(3))
    assert found.labels.tolist() == [2, 2, 2, 0, 0, 0] and found.seen.pixels.shape == (6, 3, 16, 16)
    assert not found.notes


def test_wordnet_ids_are_those_of_imagenet(tmp_path: Path) -> None:
    found = read(folder_of(tmp_path, ("n01440764", "n02102040")), LOOK, names=(), classes=1000)
    assert found.labels.tolist() == [0, 0, 0, 217, 217, 217]


def test_numbers_are_positions_and_as_many_folders_as_classes_are_taken_in_order_and_said(tmp_path: Path) -> None:
    assert read(folder_of(tmp_path / "a", ("1", "0")), LOOK, classes=3).labels.tolist() == [0, 0, 0, 1, 1, 1]
    found = read(folder_of(tmp_path / "b"), LOOK, classes=2)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1] and "taken to be cat, dog" in found.notes[0]


def test_labels_that_the_classifier_does_not_have_are_none_and_said(tmp_path: Path) -> None:
    found = read(folder_of(tmp_path), LOOK, names=("cat", "cow"))
    assert found.labels.tolist() == [0, 0, 0, *[NO_LABEL] * 3] and "dog" in found.notes[0]


def test_a_csv_has_labels_groups_and_captions_in_any_order(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pictures", ("all",), 4)
    (tmp_path / "labels.csv").write_text("label,file\ndog,all/2.png\ncat,1.png\ncat,0.png\ndog,elsewhere.png\n")
    (tmp_path / "groups.csv").write_text("file,place,night\nall/0.png,NA,01\nall/1.png,land,no\nall/2.png,sea,yes\n")
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f'{n}.png,"a cat, {n}"\n' for n in range(4)))
    found = read(root, LOOK, names=("cat", "dog"), labels=tmp_path / "labels.csv", groups=tmp_path / "groups.csv",
                 captions=tmp_path / "captions.csv")  # fmt: skip
    assert found.labels.tolist() == [0, 0, 1, NO_LABEL]
    assert found.groups["place"].tolist() == ["NA", "land", "sea", ""] and found.captions[3] == "a cat, 3"
    said = " ".join(found.notes)
    assert "elsewhere.png" in said and "no groups of 1" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,label\na,b\n", "no column file"),
        ("file,kind\n0.png,b\n", "no column label"),
        ("file,label\n0.png,a\n0.png,b\n", "twice"),
        ("file,label\nother.png,a\n", "names none of the 6"),
        ("", "cannot be read"),
    ],
)
def test_a_csv_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read(folder_of(tmp_path / "pictures"), LOOK, labels=tmp_path / "labels.csv")


def test_masks_are_cut_as_the_pictures_are(tmp_path: Path) -> None:
    """A square of a picture and its mask, white on black, come out in the same place."""
    for folder in ("pictures/cat", "masks/cat", "regions/tail/cat", "regions/ear/cat"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(2):
        pixels = np.zeros((40, 60), np.uint8)
        pixels[4 + 8 * number : 20 + 8 * number, 14:40] = 255
        for folder in ("pictures", "masks", "regions/tail"):
            Image.fromarray(pixels).save(tmp_path / folder / "cat" / f"{number}.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "regions/ear/cat/0.png")
    look = Preprocessed(nn.Identity(), 16, (0.0,) * 3, (1.0,) * 3, scale=20, interpolation="bilinear")
    found = read(tmp_path / "pictures", look, masks=tmp_path / "masks")
    bright = found.seen.pixels.float().mean(1) > 127
    assert list(found.seen.masks) == ["object"] and (bright != found.seen.masks["object"]).float().mean() < 0.03
    regions = read(tmp_path / "pictures", look, masks=tmp_path / "regions")
    assert set(regions.seen.masks) == {"tail", "ear"} and not regions.seen.masks["ear"].any()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks/cat/0.png")
    with pytest.raises(ValueError, match="40 x 60"):
        read(tmp_path / "pictures", look, masks=tmp_path / "masks")


def test_coco_has_regions_by_category_and_all_of_them_as_object(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pictures", ("all",), 2, 32)
    held = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 32, "width": 32} for n in range(2)],
        "categories": [{"id": 1, "name": "tail"}, {"id": 2, "name": "ear"}],
        "annotations": [
            {"image_id": 0, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 16, 0, 16, 32, 0, 32]]},
            {"image_id": 0, "category_id": 2, "iscrowd": 0, "segmentation": [[16, 0, 32, 0, 32, 16, 16, 16]]},
            {"image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": {"counts": [], "size": [32, 32]}},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(held))
    whole = read(root, LOOK, masks=tmp_path / "coco.json")
    found = whole.seen.masks
    assert any(note.startswith("1 crowds have no outlines and are left out (ear)") for note in whole.notes)
    assert set(found) == {"object", "tail", "ear"} and (found["object"] == (found["tail"] | found["ear"])).all()
    assert found["tail"][0, :, :7].all() and not found["tail"][0, :, 10:].any() and not found["object"][1].any()
    held["annotations"][0]["segmentation"] = {"counts": [3], "size": [32, 32]}  # run lengths, of no crowd
    (tmp_path / "coco.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="no COCO json"):
        read(root, LOOK, masks=tmp_path / "coco.json")
    (tmp_path / "coco.json").write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="no COCO json"):
        read(root, LOOK, masks=tmp_path / "coco.json")


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    (root / "cat" / "9.png").write_bytes(b"no picture")
    (root / "cat" / "notes.txt").write_text("x")
    Image.new("L", (30, 30), 99).save(root / "dog" / "grey.jpg")
    found = read(root, LOOK, names=("cat", "dog"))
    assert len(found) == 7 and len(found.labels) == 7
    said = " ".join(found.notes)
    assert "9.png" in said and "notes.txt" in said


@pytest.mark.parametrize("most", [4, 5, 100])
def test_of_many_some_of_each_class_are_taken_at_even_steps(tmp_path: Path, most: int) -> None:
    found = read(folder_of(tmp_path, each=7), LOOK, names=("cat", "dog"), most=most)
    assert len(found) == min(14, 2 * (most // 2)) and found.labels.sum() * 2 == len(found)


def test_no_folder_and_no_pictures_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        read(tmp_path / "none", LOOK)
    with pytest.raises(FileNotFoundError, match="no pictures"):
        read(tmp_path, LOOK)
    with pytest.raises(FileNotFoundError, match=r"masks is missing"):
        read(folder_of(tmp_path / "x"), LOOK, masks=tmp_path / "masks")
