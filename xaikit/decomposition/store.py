"""The decomposition of a whole data set, streamed shard by shard to the cache and back (Gandelsman et al.)."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from xaikit.arguments import Count, Natural, public
from xaikit.decomposition.decompose import Coefficients, coefficients, image_tower
from xaikit.storage import cache
from xaikit.storage.hashing import feed


@public
class DecomposedDataset(Sequence[Coefficients]):
    """The `Coefficients` of a data set, in shards that are computed once and then read from the cache.

    `images[i]` is the i-th image as a tensor [channels, height, width]: a tensor of images or a torch data set. Shard k
    holds the images of `ranges[k]`; asking for it computes it or reads it, so processes may share out the shards in any
    way, a killed run goes on where it was, and a loop over all shards needs the memory of one. A damaged shard is
    computed anew, with a warning.

    A shard's key is the content of its images and of the tower, not the device. `ids`, one a sample, stand for the
    images where they say all about them (say a file's hash and how it is prepared); without them all images are loaded
    to find a shard that is there already.

    Raises ValueError for no image, sizes below 1, `ids` that do not fit, and as `coefficients` does.
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
        self.tower, self.images, self.ids, self.batch_size, self.workers = tower, images, ids, batch_size, workers
        self.ranges = [range(i, min(i + shard_size, len(images))) for i in range(0, len(images), shard_size)]
        self._tower_hash, self._device = _hash_of_tower(tower), next(tower.parameters()).device

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, shard: int) -> Coefficients:
        """One shard, on the tower's device."""
        rows = self.ranges[shard]
        if self.ids is not None:
            samples = repr([str(self.ids[row]) for row in rows])
        else:
            digest = hashlib.sha256()
            for batch in self._batches(rows):
                for image in batch:  # so that the size of the batches does not count
                    feed(digest, {"image": image})
            samples = digest.hexdigest()
        found = cache.fetch(image_coefficients, shard=_Shard(self._tower_hash, samples, self._compute(rows)))
        return Coefficients(**{name: values.to(self._device) for name, values in found.items()})

    def _compute(self, rows: range) -> Callable[[], dict[str, Tensor]]:
        def compute() -> dict[str, Tensor]:
            parts = [vars(coefficients(self.tower, batch.to(self._device))) for batch in self._batches(rows)]
            return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

        return compute

    def _batches(self, rows: range) -> Iterator[Tensor]:
        # A generator of its own, as a loader would otherwise draw from the global one.
        order = torch.Generator()
        loader = DataLoader(Subset(self.images, rows), self.batch_size, num_workers=self.workers, generator=order)
        for batch in loader:
            if not isinstance(batch, Tensor):
                raise ValueError(
                    f"The data set gives a {type(batch).__name__}: let it give the image alone, as a tensor."
                )
            yield batch


@dataclass
class _Shard:
    """What a shard is made from, which is its key in the cache; how to make it is no part of that."""

    tower: str
    samples: str
    how: InitVar[Callable[[], dict[str, Tensor]]]

    def __post_init__(self, how: Callable[[], dict[str, Tensor]]) -> None:
        self.compute = how


def image_coefficients(shard: _Shard) -> dict[str, Tensor]:
    """Compute a shard of a `DecomposedDataset`; the cache's files are named after this."""
    return shard.compute()


def _hash_of_tower(tower: nn.Module) -> str:
    """All that the coefficients depend on: weights, build, and what neither weights nor repr show."""
    vit = image_tower(tower)
    heads = [block.attn.num_heads for block in vit.transformer.resblocks]
    digest = hashlib.sha256(f"{re.sub('0x[0-9a-f]+', '', repr(tower))} {vit.pool_type} {heads}".encode())
    feed(digest, tower.state_dict())
    return digest.hexdigest()
