"""ImageNet: the same labels from either layout, by the sorted WordNet ids, on files like the real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_files import BESIDE, written_or_real
from scipy.io import savemat

from xaikit.datasets import imagenet
from xaikit.datasets.imagenet import CLASS_NAMES, ImageNet, prompts, read_validation, wordnet_ids
from xaikit.datasets.images import read_image

# Some of the 1,000 classes, as everybody numbers them, and their ILSVRC2012_ID, which has another order.
KNOWN = {
    "n01440764": (0, "tench", 449),
    "n02102040": (217, "English Springer Spaniel", 66),
    "n02979186": (482, "cassette player", 229),
    "n03028079": (497, "church", 271),
    "n03888257": (701, "parachute", 12),
    "n15075141": (999, "toilet paper", 1),
}


def write_picture(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, format="JPEG")


def write_devkit(folder: Path, numbers: list[int]) -> None:
    """The two files of the development kit that matter, in its own layout: inner nodes of WordNet follow the leaves."""
    rows = [(number, wordnet_id, 0) for wordnet_id, (_, _, number) in KNOWN.items()] + [(1001, "n00001740", 3)]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(number, name, name, "a thing", children) for number, name, children in rows], dtype=fields)
    (folder / "data").mkdir(parents=True)
    savemat(folder / "data" / "meta.mat", {"synsets": synsets[:, None]})
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in numbers))


@pytest.fixture
def both_layouts(tmp_path: Path) -> tuple[Path, Path]:
    """Two images of each known class in random order: in class folders, and flat with the development kit."""
    order = np.random.default_rng(0).permutation(list(KNOWN) * 2).tolist()
    for position, wordnet_id in enumerate(order, start=1):
        name = f"ILSVRC2012_val_{position:08d}.JPEG"
        write_picture(tmp_path / "sorted" / "val" / wordnet_id / name, position)
        write_picture(tmp_path / "flat" / name, position)
    write_devkit(tmp_path / "flat" / "ILSVRC2012_devkit_t12", [KNOWN[wordnet_id][2] for wordnet_id in order])
    return tmp_path / "sorted", tmp_path / "flat"


def test_classes_are_the_sorted_wordnet_ids() -> None:
    ids = wordnet_ids()
    assert len(ids) == len(CLASS_NAMES) == 1000 and list(ids) == sorted(ids)
    for wordnet_id, (label, name, _) in KNOWN.items():
        assert ids[label] == wordnet_id and CLASS_NAMES[label] == name


def test_prompts_are_openais_eighty() -> None:
    sentences = prompts("tench")
    assert len(set(sentences)) == 80 and all("tench" in sentence for sentence in sentences)
    assert "a photo of a tench." in sentences and "itap of the tench." in sentences


def test_both_layouts_give_the_same_images_with_the_same_labels(both_layouts) -> None:
    by_folder, flat = (read_validation(folder, subset=True) for folder in both_layouts)
    assert by_folder.ids == flat.ids == tuple(f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 13))
    assert torch.equal(by_folder.labels, flat.labels) and by_folder.labels.dtype == torch.int64
    for one, other, path in zip(by_folder, flat, by_folder.paths, strict=True):
        assert one.id == other.id and torch.equal(one.image, other.image)
        assert one.label == other.label == KNOWN[path.parent.name][0]
    assert read_validation(both_layouts[0] / "val", subset=True).ids == flat.ids


def test_the_development_kit_may_lie_elsewhere(both_layouts, tmp_path) -> None:
    flat = both_layouts[1]
    expected = read_validation(flat, subset=True).labels
    (flat / "ILSVRC2012_devkit_t12").rename(tmp_path / "kit")
    with pytest.raises(FileNotFoundError, match=r"meta\.mat is missing; unpack ILSVRC2012_devkit_t12"):
        read_validation(flat, subset=True)
    assert torch.equal(read_validation(flat, devkit=tmp_path / "kit", subset=True).labels, expected)


def test_a_subset_must_be_asked_for(both_layouts) -> None:
    for folder in both_layouts:
        with pytest.raises(ValueError, match="holds 12 images of 6 classes where 50 images of each of 1,000 belong"):
            read_validation(folder)


def test_the_whole_set_is_taken_as_it_is_and_one_image_too_few_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(imagenet, "CLASSES", 6)
    monkeypatch.setattr(imagenet, "PER_CLASS", 2)
    for position, wordnet_id in enumerate(list(KNOWN) * 2):
        write_picture(tmp_path / wordnet_id / f"{position}.jpg", position)
    assert len(read_validation(tmp_path)) == 12
    (tmp_path / "n01440764" / "0.jpg").unlink()
    with pytest.raises(ValueError, match="holds 11 images of 6 classes"):
        read_validation(tmp_path)


def test_images_are_read_one_by_one_when_asked_for(both_layouts) -> None:
    data = read_validation(both_layouts[0], subset=True)
    data.paths[3].write_bytes(b"no picture")
    assert data[2].image.shape == (3, 12, 20) and data[2].image.dtype == torch.uint8
    with pytest.raises(ValueError, match=r"val_00000004\.JPEG is no image that can be read .*; restore it"):
        data[3]
    data.paths[4].unlink()
    with pytest.raises(FileNotFoundError, match=r"val_00000005\.JPEG is missing; restore it"):
        data[4]
    with pytest.raises(IndexError):
        data[12]


def test_a_truncated_image_is_named(tmp_path) -> None:
    write_picture(tmp_path / "a.JPEG", 0, size=(200, 200))
    content = (tmp_path / "a.JPEG").read_bytes()
    (tmp_path / "a.JPEG").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.JPEG is no image that can be read"):
        read_image(tmp_path / "a.JPEG")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path, mode) -> None:
    write_picture(tmp_path / "a.JPEG", 0, mode)
    image = read_image(tmp_path / "a.JPEG")
    expected = torch.from_numpy(np.array(Image.open(tmp_path / "a.JPEG").convert("RGB")))
    assert torch.equal(image.permute(1, 2, 0), expected)
    assert mode != "L" or torch.equal(image[0], image[1])


def test_selected_images_keep_their_labels(both_layouts) -> None:
    data = read_validation(both_layouts[0], subset=True)
    few = data.select([7, 2])
    assert few.ids == (data.ids[7], data.ids[2]) and few.labels.tolist() == data.labels[[7, 2]].tolist()
    assert torch.equal(few[1].image, data[2].image)
    with pytest.raises(ValueError, match="No image is left"):
        data.select([])


def test_a_folder_without_images_says_what_belongs_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is missing; put ImageNet's validation images there"):
        read_validation(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds neither class folders such as n01440764 nor images"):
        read_validation(tmp_path)


def test_a_class_that_is_not_imagenets_is_named(tmp_path) -> None:
    write_picture(tmp_path / "n00000001" / "a.JPEG", 0)
    with pytest.raises(ValueError, match="names n00000001, which is none of the 1,000 classes"):
        read_validation(tmp_path, subset=True)


def test_one_name_twice_is_refused(tmp_path) -> None:
    for wordnet_id in list(KNOWN)[:2]:
        write_picture(tmp_path / wordnet_id / "same.JPEG", 0)
    with pytest.raises(ValueError, match=r"The file name same\.JPEG is there twice"):
        read_validation(tmp_path, subset=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda kit: (kit / "meta.mat").write_bytes(b"MATLAB"), "is damaged .*; unpack ILSVRC2012_devkit_t12"),
        (lambda kit: (kit / "meta.mat").write_bytes((kit / "meta.mat").read_bytes()[:500]), "is damaged"),
        (lambda kit: truth(kit).write_text("449\nx\n"), "is damaged"),
        (lambda kit: truth(kit).write_text("449\n66\n"), r"has no label for .*\.JPEG"),
        (lambda kit: truth(kit).write_text("77\n" * 12), r"has no label for .*\.JPEG"),
        (lambda kit: truth(kit).write_text("1001\n" * 12), "names n00001740, which is none of the 1,000"),
    ],
)
def test_damaged_labels_are_named(both_layouts, spoil, message) -> None:
    spoil(both_layouts[1] / "ILSVRC2012_devkit_t12" / "data")
    with pytest.raises(ValueError, match=message):
        read_validation(both_layouts[1], subset=True)


def truth(kit: Path) -> Path:
    return kit / "ILSVRC2012_validation_ground_truth.txt"


def test_an_image_before_the_first_has_no_label(both_layouts) -> None:
    """Counting from 0 instead of 1 would take the last label for it, as Python counts -1 from the end."""
    write_picture(both_layouts[1] / "ILSVRC2012_val_00000000.JPEG", 0)
    with pytest.raises(ValueError, match=r"has no label for .*00000000\.JPEG"):
        read_validation(both_layouts[1], subset=True)


def test_labels_belong_to_images_one_to_one() -> None:
    with pytest.raises(ValueError, match="There are 1 images and 2 labels"):
        ImageNet((Path("a.JPEG"),), torch.tensor([0, 1]))


# The ten classes of Imagenette, a subset of ImageNet that is easy to come by.
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English Springer Spaniel",
    "n02979186": "cassette player",
    "n03000684": "chainsaw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@written_or_real("imagenette-val")
def test_a_subset_of_ten_classes(kind: str, tmp_path: Path) -> None:
    folder = BESIDE / "imagenette-val" if kind == "real" else tmp_path
    for number, wordnet_id in enumerate(list(IMAGENETTE) * 2 if kind == "written" else ()):
        write_picture(folder / wordnet_id / f"ILSVRC2012_val_{number + 1:08d}.JPEG", number, size=(160, 100 + number))
    data = read_validation(folder, subset=True)
    assert len(data) == (400 if kind == "real" else 20) and list(data.ids) == sorted(data.ids)
    assert {CLASS_NAMES[label] for label in data.labels.tolist()} == set(IMAGENETTE.values())
    for position in range(0, len(data), len(data) // 10):
        photograph = data[position]
        assert photograph.label == wordnet_ids().index(data.paths[position].parent.name)
        assert min(photograph.image.shape[1:]) >= 100 and photograph.image.float().std() > 5
