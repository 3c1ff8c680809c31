"""The one store of paper 4: a data set's decomposition, streamed shard by shard to a folder and back."""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.arguments import Count, Natural, public
from xaikit.decomposition.decompose import Coefficients, coefficients, image_tower
from xaikit.models.streams import describe
from xaikit.storage import cache, paths
from xaikit.storage.canonical import digest_of
from xaikit.storage.hashing import feed

BATCHES_AHEAD = 2  # read from disk while the model works
_LARGE = "heads", "mlps"  # nearly all of the numbers; the others always stay as they are


@public
class DecomposedDataset(Sequence):  # not of [Coefficients], as who checks types would then ask for one
    """The `Coefficients` of a data set, in a folder of shards that are computed once and then read.

    `images[i]` is the i-th image as a tensor [channels, height, width]: a tensor of images or a torch data set. Shard k
    holds the images of `ranges[k]`; asking for it reads it, or computes it, so a killed run goes on where it was, and a
    loop over all shards needs the memory of one. A damaged shard is computed anew, with a warning. `fill` computes all
    that are missing, on as many processes and machines as share the folder.

    `ids`, one an image, stand for the images where they say all about them (say a file's name and size); without them
    the content of each image does, and all images are loaded once. `about` (backbone, preprocessing, revision, …) and
    the ids are in the header of each shard. The folder is by default one of the cache, whose name is all that the
    coefficients depend on: tower, ids, `about`, code, sizes and `dtype`, but not the device.

    `dtype` is what the two large tensors, heads and MLPs, are kept in, by default as they are computed. `torch.float16`
    halves the store; each number is then within 2**-11 of itself, embeddings and norms stay exact, and
    what float16 cannot hold is kept as it is. Whatever they are kept in, float32 or more is read. In tests on the mini
    CLIP this turned none of 16 TextSpan's picks a head and moved V_explained by 2e-5 at the most.

    Raises ValueError for no image, sizes below 1, `ids` that do not fit, a folder that holds another store, and as
    `coefficients` does.
    Source: Gandelsman et al., section 3, image by image.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import DecomposedDataset
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> shards = DecomposedDataset(tower, torch.rand(6, 3, 32, 32), shard_size=4)
    >>> len(shards), shards[1].heads.shape  # 2 images, 2 layers, 2 heads, 8 numbers
    (2, torch.Size([2, 2, 2, 8]))
    """

    def __init__(
        self,
        tower: nn.Module,
        images: Any,
        *,
        ids: Sequence[str] | None = None,
        about: Mapping[str, str] | None = None,
        dtype: torch.dtype | None = None,
        folder: Path | None = None,
        shard_size: Count = 512,
        batch_size: Count = 32,
        workers: Natural = 0,
    ) -> None:
        image_tower(tower)
        if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or isinstance(images, str):
            raise TypeError(f"images is a {type(images).__name__}; give a tensor of images or a data set.")
        if not len(images):
            raise ValueError("There are no images in the data; choose a split that is not empty.")
        if ids is not None and len(ids) != len(images):
            raise ValueError(f"There are {len(ids)} ids for {len(images)} images: give one for each.")
        if min(shard_size, batch_size) < 1:
            raise ValueError(f"A shard of {shard_size} and a batch of {batch_size} images: both must be at least 1.")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"Coefficients cannot be kept in {dtype}: choose float16 or another floating point type.")
        self.tower, self.images, self.dtype = tower, images, dtype
        self.batch_size, self.workers = batch_size, workers
        self.ids = _contents(images) if ids is None else tuple(map(str, ids))
        self.ranges = [range(i, min(i + shard_size, len(images))) for i in range(0, len(images), shard_size)]
        self.about = dict(about or {})
        self.key = self._key(shard_size)
        self.folder = folder or paths.CACHE / f"{cache.STORES}{self.key}"

    def _key(self, shard_size: int) -> str:
        arithmetic = os.environ.get("XAIKIT_ARITHMETIC", "native")
        code = digest_of(image_tower, coefficients, Coefficients)
        made_from = [self.about, self.ids, shard_size, str(self.dtype), code, torch.__version__, arithmetic]
        digest = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16)
        digest.update(_hash_of_tower(self.tower).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, shard: int) -> Coefficients:
        """One shard, on the tower's device."""
        number = range(len(self))[shard]
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of two processes one computes, and the other reads
            found = self.read(number)
            if found is None:
                (found,) = _computed([self], number)
                self.write(number, found)
                found = self._rounded(found)
        device = next(self.tower.parameters()).device
        return Coefficients(**{name: _wide(values).to(device) for name, values in vars(found).items()})

    def path(self, shard: Natural) -> Path:
        """The file of a shard. Raises ValueError for one that there is not."""
        if shard >= len(self):
            raise ValueError(f"There is no shard {shard}: there are {len(self)}, counted from 0.")
        return self.folder / f"shard-{shard:05d}.safetensors"

    def read(self, shard: Natural) -> Coefficients | None:
        """A shard as it lies on disk, on the CPU; None where it is not there, or damaged, which warns.

        Raises ValueError where the folder holds another store.
        """
        found = cache.kept(self.path(shard))
        if found is None:
            return None
        header = found.pop("header")
        if header["key"] != self.key:
            raise ValueError(
                f"{self.folder} holds another store (of other weights, images, settings or code): name another folder."
            )
        return Coefficients(**found)

    def has(self, shard: Natural, *, whole: bool = True) -> bool:
        """Whether a shard is there, and, with `whole`, undamaged."""
        return self.read(shard) is not None if whole else self.path(shard).exists()

    def write(self, shard: Natural, found: Coefficients) -> None:
        """Keep a shard that was computed, whole or not at all; in the cache, what was not asked for longest makes room.

        Raises ValueError for another number of images, and OSError where it cannot be written.
        """
        rows = self.ranges[shard]
        if len(found) != len(rows):
            raise ValueError(f"Shard {shard} is of {len(rows)} images, and the coefficients are of {len(found)}.")
        header = {**self.about, "ids": list(self.ids[rows.start : rows.stop]), "dtype": str(self.dtype)}
        kept, path = vars(self._rounded(found)), self.path(shard)
        try:
            cache.write(path, "shard", {**kept, "header": {**header, "key": self.key}})
        except OSError as error:
            size = sum(values.nbytes for values in kept.values()) * len(self.ids) / len(rows) / 1e9
            raise OSError(
                f"Shard {shard} of {len(self)} cannot be kept in {self.folder} ({error}): it takes {size:.2g} GB in "
                "all; make room, and go on where it was."
            ) from error
        cache.make_room(path)

    def _rounded(self, found: Coefficients) -> Coefficients:
        kept = {name: values.detach().cpu() for name, values in vars(found).items()}
        if self.dtype is not None:
            for name in _LARGE:
                small = kept[name].to(self.dtype)
                kept[name] = small if small.isfinite().all() else kept[name]
        return Coefficients(**kept)


@public
def fill(stores: Sequence[DecomposedDataset], *, rank: Natural = 0, world_size: Count = 1) -> int:
    """Compute what `stores` of one data set lack, each image loaded once for all of them; how many shards this made.

    Each may have a tower of its own. Of `world_size` processes, which may be on several machines that share the
    folders, each begins with its own shards, `rank` first, and then takes what the others have not begun; what a killed
    one held is taken up by those that are left. Every shard is there when it returns.
    Raises ValueError for stores of other images or sizes, a rank that does not fit, and as `DecomposedDataset` does.
    """
    if not stores or any((each.ids, each.ranges) != (stores[0].ids, stores[0].ranges) for each in stores):
        raise ValueError("The stores are not of the same images in the same shards: fill one data set at a time.")
    if not 0 <= rank < world_size:
        raise ValueError(f"Process rank {rank} is none of {world_size}; ranks count from 0.")
    count = len(stores[0])
    own = range(rank, count, world_size)
    # The others' from their ends, so that two processes seldom ask for the same one.
    turns = deque((number, False) for number in [*own, *(each for each in reversed(range(count)) if each not in own)])
    made = 0
    with tqdm(total=len(stores[0].ids), unit="image", desc="decomposing", disable=None) as bar:
        while turns:
            number, wait = turns.popleft()
            with ExitStack() as locks:
                try:
                    for store in sorted(stores, key=lambda each: each.folder):  # in one order in all processes
                        store.folder.mkdir(parents=True, exist_ok=True)
                        lock = FileLock(store.path(number).with_suffix(".lock"), timeout=-1 if wait else 0)
                        locks.enter_context(lock)
                except Timeout:  # another process is at it: looked at again at the end, in case that it is killed
                    turns.append((number, True))
                    continue
                # Each process reads its own shards, to see that they are whole; that the others' are there is enough.
                lacking = [store for store in stores if not store.has(number, whole=number in own)]
                if lacking:
                    for store, found in zip(lacking, _computed(lacking, number), strict=True):
                        store.write(number, found)
                    made += 1
            bar.update(len(stores[0].ranges[number]))
    return made


def _computed(stores: Sequence[DecomposedDataset], shard: int) -> list[Coefficients]:
    """A shard of each of the stores, which are of the same images, on the CPU."""
    first = stores[0]
    rows = first.ranges[shard]
    batches = [rows[start : start + first.batch_size] for start in range(0, len(rows), first.batch_size)]
    devices = [next(store.tower.parameters()).device for store in stores]
    parts: list[list[dict[str, Tensor]]] = [[] for _ in stores]
    for images in _read_ahead(lambda row: _one(first.images, row), batches, first.workers):
        batch = _stacked(images)
        for store, device, kept in zip(stores, devices, parts, strict=True):
            found = coefficients(store.tower, batch.to(device))
            kept.append({name: values.cpu() for name, values in vars(found).items()})
    return [Coefficients(**{name: torch.cat([part[name] for part in kept]) for name in kept[0]}) for kept in parts]


def _read_ahead(
    read: Callable[[int], Tensor], batches: Iterable[Sequence[int]], workers: int
) -> Iterator[list[Tensor]]:
    """What `read` gives for each batch, by threads that are a few batches ahead and no more."""
    if workers < 1:
        yield from ([read(row) for row in batch] for batch in batches)
        return
    pending: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                pending.append([pool.submit(read, row) for row in batch])
                if len(pending) > BATCHES_AHEAD:
                    yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _one(images: Any, row: int) -> Tensor:
    image = images[row]
    if not isinstance(image, Tensor):
        raise ValueError(f"The data set gives a {type(image).__name__}: let it give the image alone, as a tensor.")
    return image


def _stacked(images: Sequence[Tensor]) -> Tensor:
    if sizes := {tuple(image.shape) for image in images} - {tuple(images[0].shape)}:
        raise ValueError(f"There are images of {tuple(images[0].shape)} and {sizes.pop()}: prepare all to one size.")
    return torch.stack(list(images))


def _contents(images: Any) -> tuple[str, ...]:
    found = []
    for row in range(len(images)):
        digest = hashlib.blake2b(digest_size=16)
        feed(digest, {"image": _one(images, row)})
        found.append(digest.hexdigest())
    return tuple(found)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _hash_of_tower(tower: nn.Module) -> str:
    """All that the coefficients depend on: weights, build, and what neither weights nor repr show."""
    parts = describe(tower)
    build = [(parts.pools, parts.start, parts.before, parts.each), [block.heads for block in parts.blocks]]
    digest = hashlib.blake2b(f"{re.sub('0x[0-9a-f]+', '', repr(tower))} {build}".encode())
    feed(digest, {**dict(tower.named_buffers()), **tower.state_dict()})  # positions may be in no state
    return digest.hexdigest()
