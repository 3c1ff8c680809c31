"""The one gate through which pictures come in: whatever a file holds becomes 8 bits of red, green and blue, or a word.

What was changed on the way is counted by name, so that a data set can say it.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from xaikit.arguments import public
from xaikit.datasets.intake import HIDDEN, Intake

TURNED = "turned as its EXIF data say"
ALPHA = "transparent, laid over white"
FRAMES = "of several frames, the first one taken"
DEEP = "of more than 8 bits a channel, rounded to 8"
COLOURS = "of other colours, made RGB"
# Formats that Pillow knows by name, but which are films, documents or tables, or need other programs.
_NO_PICTURES = {"MPEG", "EPS", "HDF5", "GRIB", "BUFR", "WMF", "PDF"}
_JUNK = {"thumbs.db", "desktop.ini", "ehthumbs.db", ".ds_store"}  # that systems leave in folders


@public
@dataclass(frozen=True, eq=False)
class Photograph:
    """One image: its name among others, its pixels as they are in the file, 0 to 255, and its class, from 0 on."""

    id: str
    image: UInt8[Tensor, "3 height width"]
    label: int


@public
def read_image(
    source: Path | bytes,
    *,
    exif: bool = True,
    changes: Counter[str] | None = None,
    intake: Intake | None = None,
    least: int | None = None,
) -> UInt8[Tensor, "3 height width"]:
    """The pixels of an image file, or of its content, in RGB, whatever it holds.

    Greys, palettes and CMYK become RGB; 16 bits, and floats in [0, 1], become 8 bits; what is transparent lies over
    white; of several frames the first counts. With `exif` a photograph is turned as its camera says; published
    protocols such as ImageNet's do without. `changes` grows by what was done (`TURNED`, `ALPHA`, …); the data set's
    `intake` notes it with the file.

    A JPEG is decoded to a half, a quarter or an eighth of its size where both sides then still have `least` pixels.
    With twice the size that a model sees, what it sees differs by 0.4 of 255 levels on average and by 8 at an edge at
    the most, as a test of photographs says; it saves two thirds of a large one's time, and 500 pixels stay as they are.
    With that size itself it is 2 of 255 on average and 48 at the most (1.2 and 28 at 1024 x 768 for 384): softer edges,
    as in a picture that was made smaller twice.

    Raises FileNotFoundError where the file is missing, and ValueError where it is damaged, no picture, or of more
    pixels than Pillow takes for safe.
    """
    where = source if isinstance(source, Path) else "The content"
    done: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else BytesIO(source)) as picture:
                if least is not None:
                    picture.draft(None, (least, least))
                pixels = np.array(_in_rgb(picture, exif, done))
    except FileNotFoundError as error:
        if isinstance(source, Path) and source.is_symlink():
            raise FileNotFoundError(f"{where} is a link to what is not there; restore the file.") from error
        raise FileNotFoundError(f"{where} is missing; restore it from its archive.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is no image that can be read ({error}); make it smaller.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        said = _what_else(source) or str(error)
        raise ValueError(f"{where} is no image that can be read ({said}); restore it from its archive.") from error
    if changes is not None:
        changes.update(done)
    if intake is not None and isinstance(source, Path):
        intake.change(source.relative_to(intake.folder).as_posix(), done)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def is_picture(path: Path) -> bool:
    """Whether a file has a name that Pillow reads pictures under, and is not one that systems hide."""
    return path.suffix.lower() in _endings() and not path.name.startswith(".")


def pictures_among(paths: Iterable[Path], intake: Intake) -> list[Path]:
    """The pictures among `paths` by their names; the `intake` notes the others, but not what systems leave behind."""
    paths = [path for path in paths if path.name.lower() not in _JUNK]
    pictures = [path for path in paths if is_picture(path) and not path.is_dir()]
    hidden = [path for path in paths if path.name.startswith(".")]
    intake.skip(HIDDEN, hidden)
    chosen = {*pictures, *hidden}
    intake.skip("they are no pictures by their names", [path for path in paths if path not in chosen])
    return pictures


@cache
def _endings() -> frozenset[str]:
    Image.init()
    return frozenset(
        ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - _NO_PICTURES
    )


def _in_rgb(picture: Image.Image, exif: bool, done: list[str]) -> Image.Image:
    if getattr(picture, "n_frames", 1) > 1:
        done.append(FRAMES)
        picture.seek(0)
    picture.load()
    if exif and picture.getexif().get(0x0112, 1) not in (0, 1):
        done.append(TURNED)
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        done.append(DEEP)
        return Image.fromarray(_eight_bits(np.asarray(picture), picture.mode)).convert("RGB")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        if clear.getchannel("A").getextrema()[0] < 255:
            done.append(ALPHA)
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    if picture.mode not in ("RGB", "L", "1", "P"):
        done.append(COLOURS)
    return picture.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Levels 0 to 255: of floats in [0, 1], or of whole numbers of 16 bits, which Pillow would cut off at 255."""
    most = 1.0 if mode == "F" else 65_535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > most:
        raise ValueError(f"values from {values.min():g} to {values.max():g} are not in 0 to {most:g}")
    return np.round(values.astype(np.float64) * (255 / most)).astype(np.uint8)


def _what_else(source: Path | bytes) -> str:
    """What a file is that has a picture's name, where that is easy to see."""
    if isinstance(source, Path) and not source.is_file():
        return "it is a folder" if source.is_dir() else ""
    if isinstance(source, Path):
        with source.open("rb") as file:
            source = file.read(200)
    if not source:
        return "it is empty"
    start = source[:200].lstrip().lower()
    return "it is a web page" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else ""
