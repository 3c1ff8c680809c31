"""Images with captions for paper 2 (Taghanaki et al.): COCO, and web-scale sets in tar shards, as batches for training.

The translator learns from Visual Genome, CC3M, CC12M and SBU, and then from COCO (section 3). COCO's captions of a
category are also the prompts from which images are generated (section 4.3).
"""

import json
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from glob import escape, glob
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from xaikit.arguments import Count, Natural, Seed, public
from xaikit.datasets.images import is_picture, read_image
from xaikit.datasets.intake import Intake
from xaikit.storage.extras import extra
from xaikit.storage.seeding import generator, rng, seed_for

SPLITS = ("train", "val")
LONGEST = 1_000  # characters; what is longer is the text of a page, no caption
READ, BAD_IMAGE, BAD_CAPTION = "read", "bad image", "bad caption"  # what `batches` counts
_IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_CAPTION_ENDING = "txt"
_ADDRESS = re.compile(r"\w+://")
_END_OF_TAR = 1024  # zero bytes

Pair = tuple[UInt8[Tensor, "3 height width"], str]
Batch = tuple[Float[Tensor, "batch 3 size size"], Int64[Tensor, "batch length"]]
Prepare = Callable[[UInt8[Tensor, "3 height width"]], Tensor]
Join = Callable[[list[Tensor]], Float[Tensor, "batch 3 size size"]]
Encode = Callable[[list[str]], Int64[Tensor, "texts length"]]


@dataclass(frozen=True, eq=False)
class CaptionedPhotograph:
    """One image: its file name, its pixels as they are in the file, and all its captions."""

    id: str
    image: UInt8[Tensor, "3 height width"]
    captions: tuple[str, ...]


@public
@dataclass(frozen=True, eq=False)
class CocoCaptions(Sequence):
    """Images in the order of their file names, read from disk one by one as they are asked for, with their captions.

    `intake` tells what was done to those that were read and which have no caption.
    """

    paths: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    intake: Intake | None = None

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.captions):
            raise ValueError(
                f"{len(self.paths)} images and captions of {len(self.captions)} differ; give each its own."
            )
        if not self.paths:
            raise ValueError("No image is left in the selection; choose positions that exist.")

    @property
    def ids(self) -> tuple[str, ...]:
        """The file names."""
        return tuple(path.name for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> CaptionedPhotograph:
        """Read one image. Raises ValueError or FileNotFoundError, naming the file, where it cannot be read."""
        path = self.paths[index]
        return CaptionedPhotograph(path.name, read_image(path, exif=False, intake=self.intake), self.captions[index])

    def select(self, positions: Iterable[int]) -> "CocoCaptions":
        """The images at `positions`, in that order. Raises ValueError where there is none."""
        chosen = list(positions)
        return CocoCaptions(tuple(self.paths[i] for i in chosen), tuple(self.captions[i] for i in chosen), self.intake)

    def pairs(
        self, seed: Seed, epoch: Natural, share: int, shares: int, counts: Counter[str], least: int | None = None
    ) -> Iterator[Pair]:
        """Every `shares`-th image in the random order of this epoch, each with one of its captions, drawn anew."""
        draw = rng(seed, "captions", epoch)
        order, choice = draw.permutation(len(self)), draw.random(len(self))
        for position in order[share::shares].tolist():
            captions = self.captions[position]
            image = read_image(self.paths[position], exif=False, changes=counts, least=least)
            counts[READ] += 1
            yield image, captions[int(choice[position] * len(captions))]


@public
@dataclass(frozen=True, eq=False)
class Shards:
    """Tar files of images and captions, streamed; `buffer` samples, still compressed, are held to be shuffled."""

    urls: tuple[str, ...]
    buffer: Count

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.urls)

    def pairs(
        self, seed: Seed, epoch: Natural, share: int, shares: int, counts: Counter[str], least: int | None = None
    ) -> Iterator[Pair]:
        """The pairs of every `shares`-th shard in the random order of this epoch, shuffled within the buffer.

        Samples without a caption or an image that can be read are passed over; `counts` says how many.
        """
        with extra("paper"):
            import webdataset

        order = rng(seed, "shards", epoch).permutation(len(self))[share::shares].tolist()
        samples = chain.from_iterable(_samples(self.urls[position]) for position in order)
        draws = seed_for(seed, "samples of shards", epoch, share)
        for sample in webdataset.shuffle(self.buffer, initial=self.buffer, seed=draws)(samples):
            try:
                caption = _tidy(sample.get(_CAPTION_ENDING, b"").decode())
            except ValueError:
                counts[BAD_CAPTION] += 1
                continue
            found = next((sample[ending] for ending in _IMAGE_ENDINGS if ending in sample), b"")
            image = _decoded(found, counts, least)
            if image is None:
                counts[BAD_IMAGE] += 1
                continue
            counts[READ] += 1
            yield image, caption


@public
def read_coco(folder: Path, split: str) -> CocoCaptions:
    """COCO 2017's images of `split`, "train" or "val", with their captions, usually five each.

    `folder` holds annotations/captions_train2017.json and train2017/, as the archives unpack. White space within and
    around captions becomes single spaces. Raises FileNotFoundError where the annotations or images are missing,
    ValueError for another split, for damaged annotations, and for a caption that is empty or longer than LONGEST.
    """
    path, names, annotations, _ = _annotations(folder, "captions", split, "caption")
    captions: dict[str, list[str]] = {name: [] for name in sorted(names.values())}
    for position, (name, caption) in enumerate(annotations):
        try:
            captions[name].append(_tidy(caption))
        except ValueError as error:
            raise ValueError(f"{path}, annotation {position}, of image {name}: {error}; download it again.") from error
    if bare := [name for name, sentences in captions.items() if not sentences]:
        raise ValueError(f"{path} has no caption of {len(bare):,} images, {bare[0]} first; download it again.")
    images = folder / f"{split}2017"
    # One look at the folder: asking for each of 118,287 files takes minutes on a disk in the network.
    there = set(os.listdir(images) if images.is_dir() else ())
    if missing := sorted(captions.keys() - there):
        raise FileNotFoundError(
            f"{images} lacks {len(missing):,} of the {len(captions):,} images that {path.name} lists, {missing[0]} "
            f"first; unpack {images.name}.zip there."
        )
    intake = Intake(images)
    beside = [images / name for name in sorted(there - captions.keys()) if is_picture(Path(name))]
    intake.skip("they have no caption", beside)
    return CocoCaptions(tuple(images / name for name in captions), tuple(map(tuple, captions.values())), intake)


def read_categories(folder: Path, split: str) -> dict[str, frozenset[str]]:
    """The file names of the images with an outlined object of each of COCO's 80 categories, by the category's name.

    Read from annotations/instances_train2017.json or instances_val2017.json in `folder`. Raises as `read_coco` does.
    """
    path, _, annotations, content = _annotations(folder, "instances", split, "category_id")
    try:
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images: dict[str, set[str]] = {name: set() for name in categories.values()}
        for name, category in annotations:
            images[categories[category]].add(name)
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    return {category: frozenset(names) for category, names in images.items()}


def captions_of_category(data: CocoCaptions, categories: Mapping[str, Set[str]], category: str) -> list[str]:
    """All captions of the images of one of the `categories` that `read_categories` gives (section 4.3: "bus").

    Raises ValueError for an unknown category and where `data` has no image of it.
    """
    if category not in categories:
        raise ValueError(
            f"COCO outlines no {category!r}; choose one of {', '.join(categories)}, or use captions_naming."
        )
    chosen = [captions for name, captions in zip(data.ids, data.captions, strict=True) if name in categories[category]]
    if not chosen:
        raise ValueError(f"None of the {len(data):,} images is of the category {category!r}; take more images.")
    return list(chain.from_iterable(chosen))


def captions_naming(data: CocoCaptions, word: str) -> list[str]:
    """All captions that hold `word` as a whole word, in any case (section 4.3: "kitchen" is no category of COCO).

    Raises ValueError where there is none.
    """
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    found = [caption for captions in data.captions for caption in captions if pattern.search(caption)]
    if not found:
        raise ValueError(
            f"No caption of the {len(data):,} images holds the word {word!r}; take another or more images."
        )
    return found


@public
def read_shards(*patterns: str | Path, buffer: Count = 1_000) -> Shards:
    """Tar shards as img2dataset writes them: of each sample, an image (000000000.jpg) and its caption (000000000.txt).

    Patterns are paths with * and with braces ("cc3m/{00000..00331}.tar"), or addresses with braces
    ("https://.../{00000..00331}.tar"). Nothing but images and text is read: no pickles, no metadata. `buffer` is the
    number of samples, still compressed, that are shuffled among each other.

    Raises FileNotFoundError where a pattern matches no shard, ValueError for a shard that is there twice, for one of
    no tar file's end (a download that broke off), and for a buffer of none.
    """
    with extra("paper"):
        from webdataset.shardlists import expand_urls

    if buffer < 1:
        raise ValueError(f"A buffer of {buffer} samples holds none; give at least 1.")
    urls: list[str] = []
    for pattern in patterns:
        for url in expand_urls(str(pattern)):
            found = [url] if _ADDRESS.match(url) or Path(url).is_file() else _matching(Path(url))
            if not found:
                raise FileNotFoundError(f"No shard matches {url}; download the shards or correct the pattern.")
            urls += found
    if twice := [url for url, count in Counter(urls).items() if count > 1]:
        raise ValueError(f"The shard {twice[0]} is there twice; let the patterns not overlap.")
    for url in urls:
        if url.endswith(".tar") and not _ADDRESS.match(url):
            _check_end(Path(url))
    return Shards(tuple(urls), buffer)


def stacked(images: Sequence[Tensor]) -> Float[Tensor, "batch 3 size size"]:
    """Images of one shape as a batch. Raises ValueError where they are not floats, or of several shapes."""
    if odd := [i for i in images if not i.is_floating_point() or i.ndim != 3 or i.shape != images[0].shape]:
        raise ValueError(
            f"`prepare` gave {odd[0].dtype} {tuple(odd[0].shape)} after {tuple(images[0].shape)}; let it give floats "
            "in one shape [3, size, size]."
        )
    return torch.stack(list(images))


def batches(
    pairs: CocoCaptions | Shards,
    prepare: Prepare,
    encode: Encode,
    batch: int,
    *,
    join: Join = stacked,
    least: int | None = None,
    seed: int,
    epoch: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    counts: Counter[str] | None = None,
) -> Iterator[Batch]:
    """One epoch of images, in [0, 1] as `join` gives them, and of captions as the token ids that `encode` gives.

    The processes see different images (of `Shards`: different shards) and together all of them, in another order and
    with other captions of COCO's five each epoch. The same arguments give the same batches. Only the last batch of a
    process may be smaller, and processes may have different numbers of batches.

    `prepare` takes an image as it is in the file and works in as many processes as there are `workers` (0: in this
    one); where these are spawned, on Windows and macOS, it must be possible to pickle it. What it gives, of any shapes
    but one dtype, `join` makes a batch of: here, so on a GPU where that is better. `encode` takes the captions of a
    batch and works here. `least` is `read_image`'s, for images that are made small anyway. `counts` grows by the
    numbers of pairs that were READ and passed over as BAD_IMAGE or BAD_CAPTION, and of images that were changed
    (`images.TURNED`, …).

    Raises ValueError for numbers that make no sense, for fewer images or shards than processes, for prepared images of
    differing shapes, for a shard that is damaged or breaks off, and, at the end, where no pair could be read. Raises
    RuntimeError where a worker is lost.
    """
    if batch < 1 or workers < 0 or not 0 <= process < processes:
        raise ValueError(
            f"A batch of {batch} with {workers} workers in process {process} of {processes} is none; give a batch of 1 "
            "or more, 0 workers or more, and count processes from 0."
        )
    if len(pairs) < processes:
        raise ValueError(f"{len(pairs)} shards or images are too few for {processes} processes; use fewer processes.")
    share = _Share(pairs, prepare, least, batch, seed, epoch, process, processes)
    order = generator(seed, "workers of captions", epoch, process)
    loader = DataLoader(share, batch_size=None, num_workers=workers, generator=order)
    return _joined(loader, join, encode, batch, counts if counts is not None else Counter())


@dataclass(eq=False)
class _Share(IterableDataset):
    """What one worker of one process makes: full batches, a last one, and what it counted since the one before."""

    source: CocoCaptions | Shards
    prepare: Prepare
    least: int | None
    batch: int
    seed: int
    epoch: int
    process: int
    processes: int

    def __iter__(self) -> Iterator[tuple[Tensor, list[list[int]], list[str], dict[str, int]]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # Processes change fastest, so that their numbers of images differ by one at most, whatever the workers.
        share, shares = worker * self.processes + self.process, workers * self.processes
        counts: Counter[str] = Counter()
        images: list[Tensor] = []
        captions: list[str] = []
        for image, caption in self.source.pairs(self.seed, self.epoch, share, shares, counts, self.least):
            images.append(self.prepare(image))
            captions.append(caption)
            if len(captions) == self.batch:
                yield *_packed(images), captions, dict(counts)
                counts.clear()
                images, captions = [], []
        yield *_packed(images), captions, dict(counts)


def _joined(loader: DataLoader, join: Join, encode: Encode, batch: int, counts: Counter[str]) -> Iterator[Batch]:
    """The workers' full batches, and then their last ones, joined and divided again."""
    total: Counter[str] = Counter()
    rest: list[Tensor] = []
    texts: list[str] = []
    for packed, shapes, captions, seen in _from_workers(loader):
        images = _unpacked(packed, shapes)
        counts.update(seen)
        total.update(seen)
        if len(captions) == batch:
            yield join(images), encode(captions)
        elif captions:
            rest += images
            texts += captions
    if not total[READ]:
        raise ValueError(
            f"No pair could be read ({total[BAD_IMAGE]:,} bad images, {total[BAD_CAPTION]:,} bad captions); check that "
            "images and captions lie under the same name, such as 000000000.jpg and 000000000.txt."
        )
    for start in range(0, len(texts), batch):
        yield join(rest[start : start + batch]), encode(texts[start : start + batch])


def _from_workers(loader: DataLoader) -> Iterator:
    """What the workers send. When one is lost, torch says so or a pipe breaks: the moment decides."""
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        # What a worker raises of itself comes as "Caught … in DataLoader worker".
        if not loader.num_workers or str(error).startswith("Caught "):
            raise
        raise RuntimeError(
            f"A worker that reads the captions was lost ({error or type(error).__name__}); start again, with fewer "
            "workers where memory ran out."
        ) from error


def _packed(images: Sequence[Tensor]) -> tuple[Tensor, list[list[int]]]:
    """Images as one tensor, for a worker to send: hundreds of tensors would be as many open files."""
    return torch.cat([image.flatten() for image in images]) if images else torch.empty(0), [
        list(image.shape) for image in images
    ]


def _unpacked(packed: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    parts = packed.split([math.prod(shape) for shape in shapes]) if shapes else ()
    return [part.view(*shape) for part, shape in zip(parts, shapes, strict=True)]


def _tidy(caption: object) -> str:
    """A caption with single spaces. Raises ValueError where it is no text, empty or too long."""
    words = " ".join(caption.split()) if isinstance(caption, str) else ""
    if not 0 < len(words) <= LONGEST:
        raise ValueError(f"the caption has {len(words):,} characters, not 1 to {LONGEST:,}")
    return words


def _decoded(content: bytes, counts: Counter[str], least: int | None) -> UInt8[Tensor, "3 height width"] | None:
    """The pixels in RGB, or nothing where they cannot be read."""
    try:
        return read_image(content, changes=counts, least=least)
    except ValueError:
        return None


def _samples(url: str) -> Iterator[dict[str, bytes]]:
    """The samples of one shard: its images and texts by their endings, undecoded."""
    with extra("paper"):
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        # Opened here because webdataset leaves what it opens itself to the garbage collector.
        with gopen(url) if _ADDRESS.match(url) else open(url, "rb") as stream:
            files = tar_file_expander([{"url": url, "stream": stream}], select_files=_is_read)
            yield from group_by_keys(files)
    except (tarfile.TarError, OSError, ValueError) as error:
        # webdataset adds the stream and the address to what was raised, or puts the command before it.
        said = str(error.args[0] if error.args else type(error).__name__)
        reason = getattr(error, "strerror", None) or said.partition(" @ ")[0].rpartition("}): ")[2]
        raise ValueError(f"The shard {url} is damaged or breaks off ({reason}); download it again.") from error


def _matching(pattern: Path) -> list[str]:
    """The files of a pattern, whose folders may have brackets in their own names: what is there is no pattern."""
    there = next(parent for parent in pattern.parents if parent.is_dir())
    rest = pattern.relative_to(there).as_posix()
    return sorted(glob(f"{escape(str(there))}/{rest}"))


def _is_read(name: str) -> bool:
    return name.rpartition(".")[2].lower() in (*_IMAGE_ENDINGS, _CAPTION_ENDING)


def _check_end(path: Path) -> None:
    """A tar file ends in zeros; tarfile takes one that is cut off between two files for a complete one."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_OF_TAR))
        if file.read() != bytes(_END_OF_TAR):
            raise ValueError(f"The shard {path} does not end as a tar file does: it breaks off; download it again.")


def _annotations(
    folder: Path, kind: str, split: str, field: str
) -> tuple[Path, dict[int, str], list[tuple[str, object]], dict]:
    """One of COCO's files: its path, file names by image id, each annotation's image and `field`, and all of it."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    path = folder / "annotations" / f"{kind}_{split}2017.json"
    try:
        content = json.loads(path.read_bytes())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [(names[annotation["image_id"]], annotation[field]) for annotation in content["annotations"]]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; unpack annotations_trainval2017.zip in {folder}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    return path, names, rows, content


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is no complete file of COCO's annotations ({error!r}); download it again.")
