"""Images with captions: COCO in its own layout, tar shards as img2dataset writes them, and batches of both."""

import gzip
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections import Counter
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_files import BESIDE, written_or_real
from torch import Tensor

from xaikit import world
from xaikit.companion.download import read_manifest
from xaikit.datasets.captions import (
    BAD_CAPTION,
    BAD_IMAGE,
    LONGEST,
    READ,
    CocoCaptions,
    batches,
    captions_naming,
    captions_of_category,
    read_categories,
    read_coco,
    read_shards,
)
from xaikit.datasets.images import read_image
from xaikit.storage.paths import ROOT

EVERY_DIVISION = pytest.mark.parametrize(("processes", "workers"), [(1, 0), (3, 0), (1, 2), (2, 2)])


def png(number: int) -> bytes:
    """A picture whose every pixel is its number: what an image shows tells which one it is."""
    content = io.BytesIO()
    Image.new("RGB", (6 + number % 3, 6), (number, number, number)).save(content, format="PNG")
    return content.getvalue()


def prepare(image: Tensor, size: int = 4) -> Tensor:
    return image[:, :size, :size].float() / 255


def encode(captions: list[str]) -> Tensor:
    """The two numbers in each caption, "picture 7, sentence 3"."""
    return torch.tensor([[int(number) for number in re.findall(r"\d+", caption)] for caption in captions])


def seen(batches_of_one: list[tuple[Tensor, Tensor]]) -> list[int]:
    """The numbers of the pictures, in order; each with its own caption."""
    for images, ids in batches_of_one:
        assert (images * 255).round()[:, 0, 0, 0].tolist() == ids[:, 0].tolist()
        assert images.shape[1:] == (3, 4, 4) and images.dtype == torch.float32 and images.max() <= 1
    return [number for _, ids in batches_of_one for number in ids[:, 0].tolist()]


def write_coco(folder: Path, images: int = 22) -> dict:
    """COCO's layout: image n shows n and has five captions; every third holds a bus, and image 4 two of them."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    order = np.random.default_rng(0).permutation(images).tolist()
    content = {
        "images": [{"id": 1000 + n, "file_name": f"{n:012d}.jpg"} for n in order],
        "annotations": [
            {"id": 5 * n + k, "image_id": 1000 + n, "caption": f" Picture {n},  sentence {k}. \n"}
            for k in range(5)
            for n in order
        ],
    }
    instances = {
        "images": content["images"],
        "annotations": [{"image_id": 1000 + n, "category_id": 6} for n in [*range(0, images, 3), 4, 4]],
        "categories": [{"id": 6, "name": "bus"}, {"id": 90, "name": "toothbrush"}],
    }
    for n in order:
        (folder / "val2017" / f"{n:012d}.jpg").write_bytes(png(n))
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    return content


def draw_coco(folder: Path, split: str, images: int) -> None:
    """COCO's layout with drawn birds: JPEGs of two sizes, categories and captions as the scenes have them."""
    scenes = world.birds(images, seed=0, split={"val": "validation"}.get(split, split))
    listed = [{"id": 7 * n, "file_name": f"{(5 * n) % images:012d}.jpg"} for n in range(images)]
    told = [
        {"image_id": image["id"], "caption": f"{caption[0].upper()}{caption[1:]} in  picture {n}. \n"}
        for n, (image, scene) in enumerate(zip(listed, scenes, strict=True))
        for caption in scene.captions
    ]
    outlined = [
        {"image_id": image["id"], "category_id": label + 1}
        for image, label in zip(listed, scenes.labels("species").tolist(), strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(scenes.values("species"), start=1)]
    (folder / f"{split}2017").mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image, scene in zip(listed, scenes, strict=True):
        size = 112 + image["id"] % 2 * 16
        Image.fromarray(scene.image(size)).save(folder / f"{split}2017" / image["file_name"])
    for name, content in (
        ("captions", {"images": listed, "annotations": told}),
        ("instances", {"images": listed, "annotations": outlined, "categories": categories}),
    ):
        (folder / "annotations" / f"{name}_{split}2017.json").write_text(json.dumps(content))


# What each kind of files holds: images of both splits, categories, one of these, and a word of some captions.
COCO = {
    "written": ({"train": 24, "val": 16}, 8, "duck", "bird"),
    "real": ({"train": 80, "val": 79}, 80, "bus", "kitchen"),
}


def coco_folder(kind: str, folder: Path, split: str) -> Path:
    if kind == "real":
        return BESIDE / "coco-mini"
    draw_coco(folder, split, COCO[kind][0][split])
    return folder


def write_shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """Samples file by file under their keys, as img2dataset writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for ending, content in files.items():
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def sample(number: int, ending: str = "jpg") -> tuple[str, dict[str, bytes]]:
    text = f"Picture {number},\n sentence {number % 5}"
    return f"{number:09d}", {ending: png(number), "json": b"{", "txt": text.encode()}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four shards of 8, 7, 6 and 1 samples."""
    start = 0
    for number, count in enumerate((8, 7, 6, 1)):
        endings = ("jpg", "JPG", "png", "webp", "jpeg")
        write_shard(tmp_path / f"{number:05d}.tar", [sample(n, endings[n % 5]) for n in range(start, start + count)])
        start += count
    return tmp_path


def test_coco_has_the_captions_of_each_image_in_the_order_of_file_names(coco) -> None:
    data = read_coco(coco, "val")
    assert len(data) == 22 and data.ids == tuple(f"{n:012d}.jpg" for n in range(22))
    for n, photograph in enumerate(data):
        assert photograph.id == data.ids[n] and photograph.image.dtype == torch.uint8
        assert photograph.image.shape == (3, 6, 6 + n % 3) and bool((photograph.image == n).all())
        assert photograph.captions == data.captions[n] == tuple(f"Picture {n}, sentence {k}." for k in range(5))


def test_coco_images_are_read_one_by_one_when_asked_for(coco) -> None:
    data = read_coco(coco, "val")
    data.paths[3].write_bytes(b"no picture")
    data.paths[4].unlink()
    assert data[2].image.shape == (3, 6, 8)
    with pytest.raises(ValueError, match=r"000003\.jpg is no image that can be read .*; restore it"):
        data[3]
    with pytest.raises(FileNotFoundError, match=r"000004\.jpg is missing; restore it"):
        data[4]
    with pytest.raises(ValueError, match=r"000003\.jpg is no image that can be read"):
        list(batches(data.select([2, 3]), prepare, encode, 4, seed=0))


def test_selected_images_keep_their_captions(coco) -> None:
    few = read_coco(coco, "val").select([7, 2])
    assert few.ids == ("000000000007.jpg", "000000000002.jpg") and few[1].captions[0] == "Picture 2, sentence 0."
    with pytest.raises(ValueError, match="No image is left"):
        few.select([])
    with pytest.raises(ValueError, match="2 images and captions of 1 differ"):
        CocoCaptions(few.paths, few.captions[:1])


def test_captions_of_a_category_are_all_those_of_its_images(coco) -> None:
    data, categories = read_coco(coco, "val"), read_categories(coco, "val")
    assert list(categories) == ["bus", "toothbrush"]
    buses = sorted({*range(0, 22, 3), 4})
    expected = [f"Picture {n}, sentence {k}." for n in buses for k in range(5)]
    assert captions_of_category(data, categories, "bus") == expected
    assert captions_of_category(data.select([4, 5]), categories, "bus") == expected[10:15]
    with pytest.raises(
        ValueError, match="COCO outlines no 'kitchen'; choose one of bus, toothbrush, or use captions_n"
    ):
        captions_of_category(data, categories, "kitchen")
    with pytest.raises(ValueError, match="None of the 22 images is of the category 'toothbrush'"):
        captions_of_category(data, categories, "toothbrush")


def test_a_word_is_named_whole_and_in_any_case(tmp_path) -> None:
    sentences = ("A KITCHEN.", "a kitchenette", "Kitchen-sink drama", "two kitchens", "in the kitchen of c++")
    data = CocoCaptions((tmp_path / "a.jpg", tmp_path / "b.jpg"), (sentences[:3], sentences[3:]))
    assert captions_naming(data, "kitchen") == [sentences[0], sentences[2], sentences[4]]
    with pytest.raises(ValueError, match=r"No caption of the 2 images holds the word 'kit\.hen'"):
        captions_naming(data, "kit.hen")


@written_or_real("coco-mini")
@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_have_the_captions_and_categories_of_their_files(split, kind, tmp_path) -> None:
    folder, (counts, count, category, word) = coco_folder(kind, tmp_path, split), COCO[kind]
    data, categories = read_coco(folder, split), read_categories(folder, split)
    assert len(data) == counts[split] and {len(captions) for captions in data.captions} == {5}
    assert len(categories) == count
    written = json.loads((folder / "annotations" / f"captions_{split}2017.json").read_text())
    kept = json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
    (number,) = [entry["id"] for entry in kept["categories"] if entry["name"] == category]
    expected = []
    for image in sorted(written["images"], key=lambda image: image["file_name"]):
        own = [entry["caption"] for entry in written["annotations"] if entry["image_id"] == image["id"]]
        own = [re.sub(r"\s+", " ", caption).strip() for caption in own]
        assert list(data.captions[data.ids.index(image["file_name"])]) == own
        if any(entry["image_id"] == image["id"] and entry["category_id"] == number for entry in kept["annotations"]):
            expected += own
    assert captions_of_category(data, categories, category) == expected and expected
    naming = captions_naming(data, word)
    assert len(naming) >= 5 and all(word in caption.lower() for caption in naming)
    assert torch.equal(data[5].image, read_image(data.paths[5]))


@written_or_real("coco-mini")
def test_pictures_come_in_batches(kind, tmp_path) -> None:
    data = read_coco(coco_folder(kind, tmp_path, "val"), "val")
    known = [{caption: n for n, captions in enumerate(data.captions) for caption in captions}]
    pixels = []
    for images, ids in batches(data, partial(prepare, size=100), partial(_positions, known[0]), 32, seed=0):
        pixels += list(zip(ids[:, 0].tolist(), images, strict=True))
    assert sorted(n for n, _ in pixels) == list(range(len(data)))
    for n, image in pixels[:5]:
        assert torch.equal(image, read_image(data.paths[n])[:, :100, :100].float() / 255)


def _positions(known: dict[str, int], captions: list[str]) -> Tensor:
    return torch.tensor([[known[caption]] for caption in captions])


def test_an_epoch_has_each_image_once_with_one_of_its_captions(coco) -> None:
    data = read_coco(coco, "val")
    orders, chosen = [], Counter()
    for epoch in range(40):
        epoch_batches = list(batches(data, prepare, encode, 10, seed=0, epoch=epoch))
        orders.append(seen(epoch_batches))
        assert sorted(orders[-1]) == list(range(22)) and [len(ids) for _, ids in epoch_batches] == [10, 10, 2]
        chosen.update(tuple(row) for _, ids in epoch_batches for row in ids.tolist())
    assert len(set(map(tuple, orders))) == 40
    assert set(chosen) == {(n, k) for n in range(22) for k in range(5)}
    # Of 880 draws, 176 are expected of each of the five, with a standard deviation of 12.
    assert all(abs(sum(chosen[n, k] for n in range(22)) - 176) < 50 for k in range(5))


@EVERY_DIVISION
@pytest.mark.parametrize("kind", ["coco", "shards"])
def test_processes_and_workers_see_different_images_and_together_all(request, kind, processes, workers) -> None:
    folder = request.getfixturevalue(kind)
    data = read_coco(folder, "val") if kind == "coco" else read_shards(folder / "*.tar", buffer=5)
    everything = []
    for process in range(processes):
        arguments = {"seed": 3, "epoch": 2, "process": process, "processes": processes, "workers": workers}
        counts = Counter()
        own = list(batches(data, prepare, encode, 4, counts=counts, **arguments))
        assert all(len(ids) == 4 for _, ids in own[:-1]) and 1 <= len(own[-1][1]) <= 4
        assert counts == {READ: len(seen(own))}
        if kind == "coco":
            assert len(seen(own)) - 22 // processes in (0, 1)
        everything += seen(own)
        again = list(batches(data, prepare, encode, 4, **arguments))
        assert [ids.tolist() for _, ids in again] == [ids.tolist() for _, ids in own]
        assert all(torch.equal(one, other) for (one, _), (other, _) in zip(own, again, strict=True))
    assert sorted(everything) == list(range(22))


def test_shards_hold_what_tarfile_reads_in_them(shards) -> None:
    expected = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {entry.name: tar.extractfile(entry).read() for entry in tar}
        for name, content in files.items():
            if not name.endswith(("txt", "json")):
                picture = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
                expected[" ".join(files[name.split(".")[0] + ".txt"].decode().split())] = picture
    found = list(read_shards(shards / "*.tar").pairs(0, 0, 0, 1, Counter()))
    assert len(found) == len(expected) == 22
    for image, caption in found:
        assert image.dtype == torch.uint8 and np.array_equal(image.permute(1, 2, 0).numpy(), expected[caption])


def test_the_order_of_shards_repeats_with_the_seed_and_changes_with_the_epoch(shards) -> None:
    data = read_shards(shards / "*.tar", buffer=100)
    orders = [
        seen(list(batches(data, prepare, encode, 4, seed=seed, epoch=epoch)))
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1] and len(set(map(tuple, orders))) == 3
    # Without a buffer to speak of, only whole shards change their places.
    unshuffled = seen(list(batches(read_shards(shards / "*.tar", buffer=1), prepare, encode, 4, seed=0)))
    parts = [list(range(0, 8)), list(range(8, 15)), list(range(15, 21)), [21]]
    assert any(unshuffled == list(chain(*order)) for order in _orders(parts)) and unshuffled != sorted(unshuffled)
    # With one that holds everything, neighbours come from different shards.
    shard_of = [next(i for i, part in enumerate(parts) if n in part) for n in orders[0]]
    assert sum(one != other for one, other in pairwise(shard_of)) > 8


def _orders(parts: list) -> list:
    return (
        [parts]
        if len(parts) < 2
        else [[p, *rest] for i, p in enumerate(parts) for rest in _orders(parts[:i] + parts[i + 1 :])]
    )


BAD = [
    ("100", {"jpg": b"no picture", "txt": b"Picture 100, sentence 0"}, BAD_IMAGE),
    ("101", {"jpg": png(101)[:45], "txt": b"Picture 101, sentence 0"}, BAD_IMAGE),
    ("102", {"txt": b"Picture 102, sentence 0"}, BAD_IMAGE),
    ("103", {"jpg": png(103)}, BAD_CAPTION),
    ("104", {"jpg": png(104), "txt": b" \n"}, BAD_CAPTION),
    ("105", {"jpg": png(105), "txt": b"\xff\xfe"}, BAD_CAPTION),
    ("106", {"jpg": png(106), "txt": b"x" * (LONGEST + 1)}, BAD_CAPTION),
    ("107", {"jpg": b"", "txt": b""}, BAD_CAPTION),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_cannot_be_used_are_passed_over_and_counted(tmp_path, workers) -> None:
    for number in range(2):
        good = [sample(10 * number + n) for n in range(5)]
        write_shard(tmp_path / f"{number}.tar", good + [(key, files) for key, files, _ in BAD])
    counts = Counter()
    data = read_shards(tmp_path / "{0..1}.tar")
    assert sorted(seen(list(batches(data, prepare, encode, 3, seed=0, workers=workers, counts=counts)))) == [
        *range(5),
        *range(10, 15),
    ]
    assert counts == {READ: 10, BAD_IMAGE: 6, BAD_CAPTION: 10}
    list(batches(data, prepare, encode, 3, seed=0, epoch=1, workers=workers, counts=counts))
    assert counts == {READ: 20, BAD_IMAGE: 12, BAD_CAPTION: 20}


def test_the_longest_caption_that_is_allowed_is_read(tmp_path) -> None:
    write_shard(tmp_path / "0.tar", [("0", {"png": png(0), "txt": b"x" * LONGEST})])
    assert [len(caption) for _, caption in read_shards(tmp_path / "0.tar").pairs(0, 0, 0, 1, Counter())] == [LONGEST]


def test_shards_of_nothing_that_can_be_used_are_refused(tmp_path) -> None:
    write_shard(tmp_path / "0.tar", [(key, files) for key, files, _ in BAD])
    write_shard(tmp_path / "1.tar", [("1", {"json": b"{}"})])
    with pytest.raises(ValueError, match=r"No pair could be read \(3 bad images, 5 bad captions\); check that images"):
        list(batches(read_shards(tmp_path / "*.tar"), prepare, encode, 3, seed=0))


class _Mark:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_no_pickle_in_a_shard_is_opened(tmp_path) -> None:
    key, files = sample(7)
    bad = {ending: pickle.dumps(_Mark(tmp_path / "opened")) for ending in ("pyd", "pickle", "pkl", "pth", "ten")}
    write_shard(tmp_path / "0.tar", [(key, bad | files)])
    assert seen(list(batches(read_shards(tmp_path / "0.tar"), prepare, encode, 3, seed=0))) == [7]
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 1024, 2000, 3000, 5 * 512, -9000])
def test_a_shard_that_breaks_off_is_named_before_anything_is_read(shards, keep) -> None:
    """Among them the end between two files, which tarfile takes for the end of the whole."""
    path = shards / "00001.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"00001\.tar does not end as a tar file does: it breaks off; download it again"
    ):
        read_shards(shards / "*.tar")


def test_a_stream_that_breaks_off_is_named(shards) -> None:
    """Of an address or a compressed file, the end is not seen before it comes."""
    path = shards / "00001.tar"
    for name, content in (
        ("cut.tar.gz", gzip.compress(path.read_bytes())[:-200]),
        ("text.tar.gz", b"no tar file"),
        ("empty.tar.gz", b""),
    ):
        (shards / name).write_bytes(content)
        data = read_shards(shards / "00000.tar", shards / name, buffer=1)
        with pytest.raises(ValueError, match=rf"{name} is damaged or breaks off \([^<]+\); download it again"):
            list(batches(data, prepare, encode, 2, seed=0))
    path.write_bytes(path.read_bytes()[:2000])
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"00001\.tar is damaged or breaks off \(unexpected end of data\)"):
            list(batches(read_shards(path.as_uri()), prepare, encode, 2, seed=0, workers=workers))


def test_a_sample_that_is_there_twice_is_named(tmp_path) -> None:
    write_shard(tmp_path / "0.tar", [sample(1), sample(1)])
    with pytest.raises(ValueError, match=r"0\.tar is damaged or breaks off \(.*duplicate file name in tar file"):
        list(batches(read_shards(tmp_path / "0.tar"), prepare, encode, 2, seed=0))


def test_patterns_of_shards_are_expanded(shards) -> None:
    names = [str(shards / f"{number:05d}.tar") for number in range(4)]
    assert list(read_shards(shards / "*.tar").urls) == list(read_shards(f"{shards}/{{00000..00003}}.tar").urls) == names
    assert list(read_shards(names[2], shards / "0000[01].tar").urls) == [names[2], *names[:2]]
    far = read_shards("https://example.org/cc3m/{00000..00331}.tar")
    assert len(far) == 332 and far.urls[331] == "https://example.org/cc3m/00331.tar"
    (shards / "[a]").mkdir()
    (shards / "[a]" / "0.tar").write_bytes((shards / "00000.tar").read_bytes())
    assert len(read_shards(shards / "[a]" / "0.tar")) == 1


def test_patterns_that_match_no_shard_or_one_twice_are_named(shards) -> None:
    for pattern in ("{00003..00004}.tar", "1*.tar", "00004.tar"):
        with pytest.raises(FileNotFoundError, match=r"No shard matches .*; download the shards or correct the pattern"):
            read_shards(shards / pattern)
    with pytest.raises(FileNotFoundError, match="No shard matches pipe:cat"):
        read_shards(f"pipe:cat {shards}/00000.tar")
    with pytest.raises(ValueError, match=r"The shard .*00001\.tar is there twice; let the patterns not overlap"):
        read_shards(shards / "*.tar", shards / "00001.tar")
    with pytest.raises(ValueError, match="buffer of read_shards is 0"):
        read_shards(shards / "*.tar", buffer=0)


def test_divisions_that_make_no_sense_are_refused_at_once(coco, shards) -> None:
    data = read_shards(shards / "*.tar")
    with pytest.raises(ValueError, match="4 shards or images are too few for 5 processes; use fewer processes"):
        batches(data, prepare, encode, 4, seed=0, processes=5)
    for wrong in ({"batch": 0}, {"workers": -1}, {"process": 2, "processes": 2}, {"process": -1}):
        with pytest.raises(ValueError, match=r"A batch of .* is none; give a batch of 1 or more"):
            batches(data, prepare, encode, **{"batch": 4, "seed": 0} | wrong)


@pytest.mark.parametrize("wrong", [lambda image: image, lambda image: image.float(), lambda image: image[0].float()])
def test_prepared_images_of_another_kind_are_refused(coco, wrong) -> None:
    with pytest.raises(
        ValueError, match=r"`prepare` gave torch\.\w+ \(.*\) after \(.*\); let it give floats in one sh"
    ):
        list(batches(read_coco(coco, "val"), wrong, encode, 4, seed=0))


@pytest.mark.parametrize(
    ("caption", "said"),
    [("", "has 0"), (" \n\t", "has 0"), ("x" * (LONGEST + 1), "has 1,001"), (None, "has 0"), (7, "has 0")],
)
def test_a_caption_that_is_none_is_named_with_its_position(tmp_path, caption, said) -> None:
    content = write_coco(tmp_path)
    content["annotations"][30]["caption"] = caption
    name = f"{content['annotations'][30]['image_id'] - 1000:012d}.jpg"
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    expected = (
        rf"captions_val2017\.json, annotation 30, of image {name}: the caption {said} characters, not 1 to 1,000; "
    )
    with pytest.raises(ValueError, match=expected):
        read_coco(tmp_path, "val")


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_damaged_annotations_are_named(coco, kind) -> None:
    path = coco / "annotations" / f"{kind}_val2017.json"
    read = {"captions": read_coco, "instances": read_categories}[kind]
    content = json.loads(path.read_text())
    unlisted = [*content["annotations"], content["annotations"][0] | {"image_id": 5}]
    damages = [
        "{",
        "[]",
        "\ud83d".encode("utf-16", "surrogatepass"),
        "{}",
        json.dumps(content | {"annotations": unlisted}),
    ]
    if kind == "instances":
        damages += [json.dumps(content | {"categories": []}), json.dumps(content | {"categories": None})]
    for damage in damages:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        with pytest.raises(
            ValueError, match=rf"{kind}_val2017\.json is no complete file of COCO's annotations \(.*\); d"
        ):
            read(coco, "val")
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{kind}_val2017\.json is missing; unpack annotations_trainval2017\.zip"
    ):
        read(coco, "val")
    with pytest.raises(ValueError, match="Unknown split 'test'; choose one of train, val"):
        read(coco, "test")


def test_images_that_are_listed_and_missing_are_named(tmp_path) -> None:
    content = write_coco(tmp_path)
    for n in (9, 8):
        (tmp_path / "val2017" / f"{n:012d}.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks 2 of the 22 images that captions_val2017\.json lists, 0{11}8\.jpg"
    ):
        read_coco(tmp_path, "val")
    (tmp_path / "val2017").rename(tmp_path / "val2014")
    with pytest.raises(FileNotFoundError, match=r"val2017 lacks 22 of the 22 images .*; unpack val2017\.zip there"):
        read_coco(tmp_path, "val")
    bare = [entry for entry in content["annotations"] if entry["image_id"] not in (1003, 1005)]
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content | {"annotations": bare}))
    with pytest.raises(ValueError, match=r"has no caption of 2 images, 0{11}3\.jpg first; download it again"):
        read_coco(tmp_path, "val")


def test_the_archives_leave_the_folders_that_are_read() -> None:
    (entry,) = [entry for entry in read_manifest() if entry.name == "coco2017_captions"]
    assert {file.unpack for file in entry.files} == {"annotations", "train2017", "val2017"}


def test_a_batch_can_be_joined_of_images_of_any_shapes(shards) -> None:
    joined: list[list[torch.Size]] = []

    def join(images: list[Tensor]) -> Tensor:
        assert all(image.dtype == torch.uint8 for image in images)
        joined.append([image.shape for image in images])
        return torch.stack([prepare(image) for image in images])

    data, options = read_shards(shards / "*.tar", buffer=5), {"seed": 3, "workers": 2}
    whole = list(batches(data, as_read, encode, 4, join=join, **options))
    assert len({shape for shapes in joined for shape in shapes}) > 1
    for (one, ids), (other, other_ids) in zip(whole, batches(data, prepare, encode, 4, **options), strict=True):
        assert torch.equal(one, other) and torch.equal(ids, other_ids)


def as_read(image: Tensor) -> Tensor:
    return image


def test_images_are_read_smaller_where_that_is_enough(tmp_path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 210, 3), dtype=np.uint8))
    content = io.BytesIO()
    picture.save(content, format="JPEG")
    write_shard(tmp_path / "0.tar", [("0", {"jpg": content.getvalue(), "txt": b"picture 0, sentence 0"})])
    for least, shape in ((None, (160, 210)), (81, (160, 210)), (80, (80, 105)), (40, (40, 53))):
        ((images, _),) = batches(
            read_shards(tmp_path / "0.tar"),
            as_read,
            encode,
            4,
            join=lambda images: images[0][None],
            least=least,
            seed=0,
        )
        assert images.shape[2:] == shape


# A process of a training: what it has read it writes down batch by batch; it may lose a worker on its way.
PROCESS = """
import os, re, signal, sys
from multiprocessing import active_children
from pathlib import Path
import torch
from xaikit.datasets.captions import batches, read_shards

def number(image):
    return image[:, :1, :1].float()

pattern, process, log, loses = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "loses"
encode = lambda captions: torch.tensor([int(re.search("[0-9]+", caption)[0]) for caption in captions])
options = {"seed": 5, "epoch": 1, "process": process, "processes": 4, "workers": 2}
for count, (images, ids) in enumerate(batches(read_shards(pattern, buffer=7), number, encode, 3, **options)):
    assert images[:, 0, 0, 0].tolist() == ids.tolist()
    with log.open("a") as file:
        file.write(" ".join(map(str, ids.tolist())) + "\\n")
    if loses and count == 1:
        for worker in active_children():
            os.kill(worker.pid, signal.SIGKILL)
"""


def test_four_processes_read_each_sample_once_and_none_is_lost_with_a_worker(tmp_path) -> None:
    for shard in range(8):
        numbers = range(12 * shard, 12 * shard + 12)
        samples = [(f"{n:05d}", {"png": png(n), "txt": f"picture {n}, sentence 0".encode()}) for n in numbers]
        write_shard(tmp_path / f"{shard}.tar", samples)
    script = tmp_path / "process.py"
    script.write_text(PROCESS)

    def run(process: int, log: Path, how: str = "") -> subprocess.Popen:
        command = [sys.executable, str(script), str(tmp_path / "*.tar"), str(process), str(log), how]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)

    first, second = ([tmp_path / f"{when} {process}" for process in range(4)] for when in ("first", "second"))
    running = [run(process, log, "loses" if process == 2 else "") for process, log in enumerate(first)]
    said = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode == 0 for process in running] == [True, True, False, True], said
    assert "A worker that reads the captions was lost" in said[2]
    again = run(2, second[2])
    said = again.communicate(timeout=300)[1].decode()
    assert again.returncode == 0, said

    def read(log: Path) -> list[list[int]]:
        return [[int(number) for number in line.split()] for line in log.read_text().splitlines()]

    # The second start reads what the first one did, in the same batches, and goes on behind it.
    before, after = read(first[2]), read(second[2])
    assert 2 <= len(before) < len(after) and after[: len(before)] == before
    everything = [n for log in (*first[:2], second[2], first[3]) for batch in read(log) for n in batch]
    assert sorted(everything) == list(range(96))
    assert all(len(batch) == 3 for batch in after[:-1])
