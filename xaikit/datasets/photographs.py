"""Photographs as they lie on a disk: every data set reads its files here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Photograph:
    """One image: its name among others, its pixels as they are in the file, 0 to 255, and its class, from 0 on."""

    id: str
    image: UInt8[Tensor, "3 height width"]
    label: int


def read_image(path: Path) -> UInt8[Tensor, "3 height width"]:
    """The pixels of an image file in RGB, whatever it holds (grey, CMYK, a palette).

    Raises FileNotFoundError where it is missing and ValueError where it is damaged.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; restore it from its archive.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read ({error}); restore it from its archive.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
