"""All randomness starts here: a stream for each purpose, derived from the run's one seed."""

import hashlib

import numpy as np
import torch


def seed_for(root: int, *names: str | int | float) -> int:
    """Derive the seed of the stream `names` from the run's seed `root`.

    Streams with different names are independent, so adding one never shifts another.
    """
    text = "/".join(map(str, (root, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, *names: str | int | float) -> torch.Generator:
    """A CPU `torch.Generator` for the stream `names`."""
    return torch.Generator().manual_seed(seed_for(root, *names))


def rng(root: int, *names: str | int | float) -> np.random.Generator:
    """A `numpy` generator for the stream `names`."""
    return np.random.default_rng(seed_for(root, *names))
