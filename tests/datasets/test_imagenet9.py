"""ImageNet-9: nine classes in the release's folders, and how an ImageNet classifier is scored on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xaikit.datasets import imagenet9
from xaikit.datasets.imagenet9 import (
    CLASS_FOLDERS,
    CLASS_NAMES,
    IMAGENET_CLASSES,
    NONE,
    VARIANTS,
    read_imagenet9,
    read_in9l,
    read_mapping,
    to_in9,
)

# One class of ImageNet for each of the nine, as everybody numbers them, and one that is in none (tennis ball).
KNOWN = {217: 0, 9: 1, 817: 2, 39: 3, 291: 4, 301: 5, 402: 6, 367: 7, 1: 8, 852: NONE}


def write_classes(folder: Path, per_class: int = 2) -> None:
    """The nine folders with so many pictures each, whose red is ten times the class."""
    for label, name in enumerate(CLASS_FOLDERS):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture = Image.new("RGB", (7, 5), (10 * label, number, 0))
            picture.save(folder / name / f"n0{label}_{number}.JPEG", format="PNG")


def write_mapping(path: Path) -> dict[str, int]:
    """A file in the form of the release's, with as many classes of each kind: keys are strings in no order."""
    left = [label for label, count in enumerate(IMAGENET_CLASSES) for _ in range(count - 1)]
    left += [NONE] * (1_000 - len(KNOWN) - len(left))
    others = np.random.default_rng(0).permutation([number for number in range(1_000) if number not in KNOWN])
    mapping = {str(number): label for number, label in KNOWN.items()}
    mapping |= {str(number): label for number, label in zip(others.tolist(), left, strict=True)}
    path.write_text(json.dumps(mapping))
    return mapping


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_nine_classes_in_their_order(tmp_path, variant) -> None:
    write_classes(tmp_path / variant / "val")
    images = read_imagenet9(tmp_path, variant, check=False)
    assert images.names == CLASS_NAMES and images.labels.tolist() == [label for label in range(9) for _ in range(2)]
    for image in images:
        assert CLASS_FOLDERS[image.label] == image.id.split("/")[0] and image.image.dtype == torch.uint8
        assert int(image.image[0, 0, 0]) == 10 * image.label and image.image.shape == (3, 5, 7)


def test_the_classes_are_those_of_the_release() -> None:
    assert CLASS_FOLDERS[0] == "00_dog" and CLASS_FOLDERS[8] == "08_fish" and len(CLASS_FOLDERS) == 9
    assert CLASS_FOLDERS[2] == "02_wheeled vehicle" and CLASS_FOLDERS[6] == "06_musical instrument"
    assert sum(IMAGENET_CLASSES) == 370 and len(VARIANTS) == 8


def test_a_class_with_an_image_too_few_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(imagenet9, "PER_CLASS", 2)
    write_classes(tmp_path / "mixed_rand" / "val")
    assert len(read_imagenet9(tmp_path, "mixed_rand")) == 18
    (tmp_path / "mixed_rand" / "val" / "03_reptile" / "n03_1.JPEG").unlink()
    with pytest.raises(
        ValueError, match=r"holds \[2, 2, 2, 1, 2, 2, 2, 2, 2\] images .* where 2 of each belong; unpack"
    ):
        read_imagenet9(tmp_path, "mixed_rand")
    assert len(read_imagenet9(tmp_path, "mixed_rand", check=False)) == 17


def test_the_published_sets_have_450_images_a_class(tmp_path) -> None:
    write_classes(tmp_path / "no_fg" / "val")
    with pytest.raises(ValueError, match="where 450 of each belong"):
        read_imagenet9(tmp_path, "no_fg")


def test_in9l_has_a_training_and_a_validation_set(tmp_path) -> None:
    write_classes(tmp_path / "train", 3)
    write_classes(tmp_path / "val", 1)
    train, val = read_in9l(tmp_path, "train"), read_in9l(tmp_path, "val")
    assert len(train) == 27 and len(val) == 9 and train.names == CLASS_NAMES and val.labels.tolist() == list(range(9))
    with pytest.raises(ValueError, match="IN-9L has no split 'test': choose train or val"):
        read_in9l(tmp_path, "test")


def test_unknown_variants_and_missing_folders_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="Unknown variant 'mixed' of ImageNet-9; choose one of original, only_bg_b"):
        read_imagenet9(tmp_path, "mixed")
    with pytest.raises(FileNotFoundError, match="only_fg/val is missing"):
        read_imagenet9(tmp_path, "only_fg")
    write_classes(tmp_path / "only_fg" / "val")
    (tmp_path / "only_fg" / "val" / "05_insect").rename(tmp_path / "only_fg" / "val" / "05_insects")
    with pytest.raises(ValueError, match="differ in '05_insect"):
        read_imagenet9(tmp_path, "only_fg")


def test_a_prediction_is_the_class_of_the_highest_of_all_logits(tmp_path) -> None:
    written = write_mapping(tmp_path / "in_to_in9.json")
    mapping = read_mapping(tmp_path / "in_to_in9.json")
    assert mapping.dtype == torch.int64 and mapping.tolist() == [written[str(number)] for number in range(1_000)]
    logits = torch.randn(200, 1_000, generator=torch.Generator().manual_seed(0))
    # The reference goes through each row by hand. The second highest does not count, even where the highest is none.
    expected = [written[str(row.index(max(row)))] for row in logits.tolist()]
    assert to_in9(logits, mapping).tolist() == expected and {NONE, 0} < set(expected)
    for number, label in KNOWN.items():
        raised = logits[:1].clone()
        raised[0, number] = 100
        assert to_in9(raised, mapping).tolist() == [label]


def test_logits_that_are_nan_are_refused(tmp_path) -> None:
    write_mapping(tmp_path / "in_to_in9.json")
    logits = torch.zeros(2, 1_000)
    logits[1, 7] = torch.nan
    with pytest.raises(ValueError, match="Some logits are NaN"):
        to_in9(logits, read_mapping(tmp_path / "in_to_in9.json"))


def test_a_mapping_that_is_not_the_releases_is_refused(tmp_path) -> None:
    path = tmp_path / "in_to_in9.json"
    with pytest.raises(FileNotFoundError, match=r"in_to_in9\.json is missing; take in_to_in9\.json from"):
        read_mapping(path)
    written = write_mapping(path)
    for damaged in (path.read_text()[:-20], "[]", json.dumps({k: v for k, v in written.items() if k != "7"})):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"does not map 1,000 classes .*; take in_to_in9\.json again"):
            read_mapping(path)
    for number, label in (("217", 8), ("217", 9), ("217", "0"), ("217", False)):
        path.write_text(json.dumps(written | {number: label}))
        with pytest.raises(ValueError, match=r"does not map \{0: 116, .* -1: 630\} classes to the nine"):
            read_mapping(path)
