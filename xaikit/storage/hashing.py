"""Tensors as a part of a hash."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor


@runtime_checkable
class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def feed(digest: _Digest, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Feed names, types, shapes and contents to a `hashlib` digest, in the order of the names, whatever the device."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
