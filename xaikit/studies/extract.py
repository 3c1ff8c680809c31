"""Decompose a whole data set, on as many processes or GPUs as there are.

    torchrun --nproc-per-node 4 -m xaikit extract --model ViT-B-16 --pretrained laion2b_s34b_b88k \\
        --data imagenet --folder build/extracted/vit-b-16-imagenet

The images, sorted by their ids, fall into blocks of fixed size, and each process takes every n-th block; so the blocks
are the same however many processes there are. A block is one file, which is there whole or not at all: what a killed
process finished is not computed again, by however many processes the work is taken up. The processes need not know of
each other. Where they differ in threads, or work is taken up on another CPU, blocks agree within rounding only:
`xaikit.storage.cache` says by how much.
"""

import hashlib
import json
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from filelock import FileLock
from jaxtyping import Float, Shaped, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.companion import profiles
from xaikit.datasets.imagenet import read_validation
from xaikit.datasets.waterbirds import FOLDER, read_waterbirds
from xaikit.decomposition.decompose import coefficients, image_tower
from xaikit.models.clip import load_clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.canonical import digest_of
from xaikit.storage.files import replacing, write_text
from xaikit.storage.hashing import feed
from xaikit.storage.paths import DATASETS

PLAN = "extraction.json"
BATCHES_AHEAD = 2  # read from disk while the model works
_DAMAGES = (SafetensorError, OSError, ValueError, KeyError)

Extractor = Callable[[Float[Tensor, "batch 3 height width"]], Mapping[str, Shaped[Tensor, "batch ..."]]]


@runtime_checkable
class Record(Protocol):
    """What a data set yields: at least an id, which no other image has, and the pixels."""

    id: str
    image: UInt8[Tensor, "3 height width"]


@runtime_checkable
class Images(Protocol):
    """A data set: the ids are known before any image is read."""

    @property
    def ids(self) -> Sequence[str]: ...
    def __getitem__(self, index: int) -> Record: ...


def extraction_key(
    model: nn.Module, ids: Iterable[str], code: Iterable[Callable[..., object] | type], **settings: object
) -> str:
    """What a result depends on, as one hash: weights, the images' ids in any order, functions or classes and settings.

    The ids stand for the images: where pixels may change under the same names, put a hash of the files into `settings`.
    """
    said = {
        "model": re.sub(r"0x[0-9a-f]+", "", repr(model)),  # addresses differ in every process
        "ids": sorted(ids),
        "code": digest_of(*code),
        "torch": torch.__version__,
        "settings": settings,
    }
    digest = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=32)
    feed(digest, model.state_dict())
    return digest.hexdigest()


def extract(
    extractor: Extractor,
    data: Images,
    folder: Path,
    key: str,
    *,
    prepare: Callable[[UInt8[Tensor, "3 height width"]], Float[Tensor, "3 size size"]],
    block: int = 512,
    batch: int = 32,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 4,
) -> int:
    """Compute this process's blocks of `data` that `folder` lacks, and return how many these were.

    `prepare` brings an image to the model's size and works in `workers` threads; `extractor` takes such images stacked
    and gives tensors whose first axis is the images. `key` says what the result depends on (see `extraction_key`).
    A damaged block is computed anew, with a warning. Never more than a block of results and a few batches of images
    are in memory.

    Raises ValueError where `folder` holds another extraction, for ids that repeat, and for results or prepared images
    of the wrong shape; whatever reading an image raises, and nothing is then left of its block.
    """
    ids, order = _sorted_ids(data)
    if not 0 <= rank < world_size:
        raise ValueError(f"Process {rank} is none of {world_size}; ranks count from 0.")
    if block < 1 or batch < 1 or workers < 1:
        raise ValueError(f"A block of {block}, a batch of {batch} and {workers} workers: give at least 1 of each.")
    _claim(folder, _Plan(key, block, ids))
    blocks = [range(start, min(start + block, len(ids))) for start in range(0, len(ids), block)]
    missing = [
        number
        for number in range(rank, len(blocks), world_size)
        if not _is_done(_block_path(folder, number), key, [ids[i] for i in blocks[number]])
    ]
    batches = [
        (number, blocks[number][start : start + batch])
        for number in missing
        for start in range(0, len(blocks[number]), batch)
    ]

    def read(position: int) -> Tensor:
        return prepare(data[order[position]].image)

    results: list[dict[str, Tensor]] = []
    with tqdm(total=sum(len(blocks[number]) for number in missing), unit="image", disable=None) as bar:
        for (number, positions), images in zip(
            batches, _read_ahead(read, [positions for _, positions in batches], workers), strict=True
        ):
            names = [ids[position] for position in positions]
            results.append(_checked(extractor(_stacked(images, names)), names))
            bar.update(len(images))
            if positions.stop == blocks[number].stop:
                merged = {name: torch.cat([result[name] for result in results]) for name in results[0]}
                _write_block(_block_path(folder, number), key, [ids[i] for i in blocks[number]], merged)
                results.clear()
    return len(missing)


@dataclass(frozen=True, eq=False)
class Extraction:
    """A complete extraction, sorted by id, read from its blocks when it is asked for.

    Reading raises ValueError, naming the file, where a block is damaged: extracting again makes good that block alone.
    """

    folder: Path
    key: str
    ids: tuple[str, ...]
    block: int

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self) -> Iterator[dict[str, Shaped[Tensor, "images ..."]]]:
        """The results block by block, in the order of `ids`, never more than one block in memory."""
        for number, start in enumerate(range(0, len(self), self.block)):
            path = _block_path(self.folder, number)
            try:
                yield _read_block(path, self.key, list(self.ids[start : start + self.block]))
            except _DAMAGES as error:
                raise ValueError(f"{path} is damaged ({error}); run the extraction again.") from error

    def load(self, *names: str) -> dict[str, Shaped[Tensor, "images ..."]]:
        """The tensors called `names`, or all of them, whole, in memory. Raises ValueError for an unknown name."""
        whole: dict[str, Tensor] = {}
        start = 0
        for part in self.blocks():
            if unknown := [name for name in names if name not in part]:
                raise ValueError(f"{self.folder} holds no {unknown[0]!r}; choose among {', '.join(part)}.")
            count = len(next(iter(part.values())))
            for name in names or part:
                if not start:
                    whole[name] = part[name].new_empty(len(self), *part[name].shape[1:])
                whole[name][start : start + count] = part[name]
            start += count
        return whole


def merge(folder: Path) -> Extraction:
    """What all processes together left in `folder`, in the order of the ids.

    Raises FileNotFoundError where no extraction was begun and ValueError where blocks are missing.
    """
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; extract into this folder first.")
    plan = _Plan.read(path)
    count = -(-len(plan.ids) // plan.block)
    if missing := [number for number in range(count) if not _block_path(folder, number).is_file()]:
        first = _block_path(folder, missing[0]).name
        raise ValueError(
            f"{folder} lacks {len(missing)} of {count} blocks, {first} first; run the extraction again: it goes on "
            "where it stopped."
        )
    return Extraction(folder, plan.key, tuple(plan.ids), plan.block)


def _sorted_ids(data: Images) -> tuple[list[str], list[int]]:
    """The ids in order, and where in `data` each of them is."""
    ids = list(data.ids)
    if not ids:
        raise ValueError("The data set is empty; there is nothing to extract.")
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise ValueError(
            f"The id {twice[0]!r} is there twice; results could not be told apart: give every image its own."
        )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [ids[position] for position in order], order


@dataclass(frozen=True)
class _Plan:
    """What a folder is for."""

    key: str
    block: int
    ids: list[str]

    @classmethod
    def read(cls, path: Path) -> "_Plan":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete its folder and extract again.") from error


def _claim(folder: Path, plan: _Plan) -> None:
    """Write what `folder` is for, or see that it is for this."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAN
    with FileLock(folder / ".lock"):
        if not path.exists():
            write_text(path, json.dumps(vars(plan)) + "\n")
        elif (found := _Plan.read(path)) != plan:
            different = next(name for name in vars(plan) if getattr(found, name) != getattr(plan, name))
            raise ValueError(
                f"{folder} holds another extraction, with another {different} (other weights, images, settings or "
                "code); name another folder, or delete this one."
            )


def _block_path(folder: Path, number: int) -> Path:
    return folder / f"block-{number:05d}.safetensors"


def _is_done(path: Path, key: str, ids: list[str]) -> bool:
    if not path.exists():
        return False
    try:
        _read_block(path, key, ids)
        return True
    except _DAMAGES as error:
        warnings.warn(f"{path} is damaged and is computed anew: {error}", stacklevel=3)
        return False


def _write_block(path: Path, key: str, ids: list[str], tensors: dict[str, Tensor]) -> None:
    metadata = {"key": key, "ids": json.dumps(ids), "checksum": _checksum(key, ids, tensors)}
    with replacing(path) as part:
        save_file(tensors, part, metadata)


def _read_block(path: Path, key: str, ids: list[str]) -> dict[str, Tensor]:
    """The tensors of a block. Raises ValueError unless they are what was once computed under `key` for `ids`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copied, as they are maps of the file: were it cut short later, touching them would kill the process.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no dictionary)
    if metadata.get("checksum") != _checksum(key, ids, tensors):
        raise ValueError("its checksum does not agree")
    return tensors


def _checksum(key: str, ids: list[str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(json.dumps([key, ids]).encode(), digest_size=32)
    feed(digest, tensors)
    return digest.hexdigest()


def _read_ahead(
    read: Callable[[int], Tensor], batches: Iterable[Sequence[int]], workers: int
) -> Iterator[list[Tensor]]:
    """What `read` gives for each batch, by threads that are a few batches ahead and no more."""
    pending: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                pending.append([pool.submit(read, position) for position in batch])
                if len(pending) > BATCHES_AHEAD:
                    yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _stacked(images: list[Tensor], names: list[str]) -> Tensor:
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{name} was prepared as {tuple(image.shape)} and {names[0]} as {tuple(images[0].shape)}; prepare all "
                "images to one size."
            )
    return torch.stack(images)


def _checked(result: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The results of one batch, on the CPU."""
    if not result:
        raise ValueError("The extractor gave no tensor; give at least one a batch.")
    for name, tensor in result.items():
        if tensor.ndim == 0 or len(tensor) != len(names):
            raise ValueError(
                f"The extractor's {name} has the shape {tuple(tensor.shape)} for {len(names)} images; its first axis "
                "must be the images."
            )
        if not tensor.isfinite().all():
            raise ValueError(f"The extractor's {name} is not finite for the images from {names[0]} to {names[-1]}.")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}


def extract_data_set(
    data: Literal["imagenet", "waterbirds"],
    folder: Path,
    model: str,
    pretrained: str | None = None,
    *,
    profile: str = "paper",
    split: str = "test",
    images: Path | None = None,
    subset: bool = False,
    block: int = 512,
    batch: int = 32,
    workers: int = 4,
) -> None:
    """Write this process's share of the coefficients of CLIP's decomposition for a data set; `merge` reads them.

    torchrun says in RANK and WORLD_SIZE which share that is, and in LOCAL_RANK on which GPU, where there are any.
    `model` is open_clip's name (ViT-B-16), with that of its weights in `pretrained`, or local-dir:FOLDER. The data set
    lies in `images`, by default where `companion.download` puts it, and must be complete unless `subset` is said;
    `split` is of Waterbirds; the sizes are those of `extract`. The mini profile has nothing to extract.
    Raises ValueError for an unknown profile and for a model without weights, and what `extract` and the readers raise.
    """
    profiles.check(profile)
    if profile == "mini":
        print("The notebooks of the mini profile decompose their images as they run: there is nothing to extract.")
        return
    if pretrained is None and not model.startswith("local-dir:"):
        raise ValueError(f"{model} would have random weights; name some with --pretrained.")
    rank, world_size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    gpus = torch.cuda.device_count()
    device = f"cuda:{local_rank % gpus}" if gpus else "cpu"  # more processes than GPUs share them
    if data == "imagenet":
        photographs = read_validation(images or DATASETS / "imagenet", subset=subset)
    else:
        photographs = read_waterbirds(images or DATASETS / "waterbirds" / FOLDER, split, check=not subset)
    clip = load_clip(model, pretrained, device)
    tower = image_tower(clip.image_encoder)
    key = extraction_key(
        clip.image_encoder,
        photographs.ids,
        (image_tower, coefficients, Preprocessed),
        data=data,
        device=torch.device(device).type,
        heads=[block.attn.num_heads for block in tower.transformer.resblocks],  # neither weights nor repr show these
        pooling=tower.pool_type,
    )

    def prepare(image: Tensor) -> Tensor:
        return clip.image_encoder.prepare(image[None] / 255)[0]

    def extractor(batch: Tensor) -> dict[str, Tensor]:
        return vars(coefficients(tower, batch.to(device)))

    count = extract(
        extractor, photographs, folder, key, prepare=prepare, block=block, batch=batch, rank=rank,
        world_size=world_size, workers=workers,
    )  # fmt: skip
    print(f"{folder}: process {rank} of {world_size} computed {count} blocks")
