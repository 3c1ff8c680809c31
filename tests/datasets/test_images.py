"""Whatever a file holds comes in as 8 bits of RGB, with a word about what was changed, or is refused with one."""

import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_files import BESIDE

from xaikit import world
from xaikit.datasets.images import ALPHA, COLOURS, DEEP, FRAMES, TURNED, is_picture, pictures_among, read_image
from xaikit.datasets.intake import HIDDEN, Intake
from xaikit.models.preprocessing import Preprocessed

DRAWN = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def read(path: Path, **options: bool) -> tuple[np.ndarray, dict[str, int]]:
    changes: Counter[str] = Counter()
    image = read_image(path, changes=changes, **options)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert torch.equal(read_image(path.read_bytes(), **options), image)
    return image.permute(1, 2, 0).numpy(), dict(changes)


@pytest.mark.parametrize(
    ("mode", "ending", "said"),
    [
        ("RGB", "png", {}), ("L", "png", {}), ("1", "png", {}), ("P", "gif", {}), ("CMYK", "jpg", {COLOURS: 1}),
        ("CMYK", "tif", {COLOURS: 1}), ("YCbCr", "tif", {COLOURS: 1}), ("LAB", "tif", {COLOURS: 1}),
        ("RGB", "webp", {}),
    ],
)  # fmt: skip
def test_colours_become_rgb(tmp_path, mode, ending, said) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(DRAWN).convert(mode).save(path)
    found, changes = read(path)
    with Image.open(path) as picture:
        assert np.array_equal(found, np.array(picture.convert("RGB")))
    assert changes == said


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_keep_their_greys(tmp_path, ending) -> None:
    levels = np.linspace(0, 65_535, 35).astype(np.uint16).reshape(5, 7)
    Image.fromarray(levels).save(tmp_path / f"a.{ending}")
    found, changes = read(tmp_path / f"a.{ending}")
    assert np.abs(found - levels[:, :, None] / 257).max() <= 0.5 and changes == {DEEP: 1}


def test_floats_between_black_and_white_are_read_and_others_refused(tmp_path) -> None:
    levels = np.linspace(0, 1, 35).astype(np.float32).reshape(5, 7)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    found, changes = read(tmp_path / "a.tif")
    assert np.abs(found - 255 * levels[:, :, None]).max() <= 0.5 and changes == {DEEP: 1}
    for bad in (300 * levels, levels - 0.5, levels * np.nan):
        Image.fromarray(bad).save(tmp_path / "b.tif")
        with pytest.raises(ValueError, match="are not in 0 to 1"):
            read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_lies_over_white(tmp_path, mode) -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "P":
        flat = Image.new("P", (2, 1), 0)
        flat.putpalette([0, 0, 0, 9, 9, 9])
        flat.putpixel((1, 0), 1)
        flat.save(path, transparency=1)
    else:
        (picture.convert("LA") if mode in ("LA", "PA") else picture).save(path)
    found, changes = read(path)
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255]]] and changes == {ALPHA: 1}


def test_an_alpha_channel_that_hides_nothing_is_no_change(tmp_path) -> None:
    Image.fromarray(DRAWN).convert("RGBA").save(tmp_path / "a.png")
    found, changes = read(tmp_path / "a.png")
    assert np.array_equal(found, DRAWN) and changes == {}


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_counts(tmp_path, ending) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **options)
    found, changes = read(tmp_path / f"a.{ending}")
    assert (found == [255, 0, 0]).all() and changes == {FRAMES: 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_unless_the_protocol_says_otherwise(tmp_path, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(DRAWN).save(tmp_path / "a.png", exif=exif)
    found, changes = read(tmp_path / "a.png")
    assert found.shape == ((7, 5, 3) if orientation > 4 else (5, 7, 3))
    assert changes == ({} if orientation == 1 else {TURNED: 1})
    plain, changes = read(tmp_path / "a.png", exif=False)
    assert np.array_equal(plain, DRAWN) and changes == {}
    assert np.array_equal(
        found[0, 0], DRAWN[[0, 0, -1, -1, 0, -1, -1, 0][orientation - 1], [0, -1, -1, 0, 0, 0, -1, -1][orientation - 1]]
    )


def bomb() -> bytes:
    """A file of a hundred bytes that says it has 12,000 times 12,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + struct.pack(">I", 30)
        + b"IDAT"
        + bytes(40)
    )


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Log in</html>", "it is a web page"),
        (b"  <html></html>", "it is a web page"),
        (b"no picture", "is no image that can be read"),
        (png()[:2_000], "is no image that can be read"),
        (png()[:40], "is no image that can be read"),
        (bomb(), "make it smaller"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, sentence) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.jpg .*{sentence}"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=sentence):
        read_image(content)


def test_links_folders_and_missing_files_are_named(tmp_path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"link\.jpg is a link to what is not there"):
        read_image(tmp_path / "link.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is missing"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ValueError, match=r"folder\.jpg .*it is a folder"):
        read_image(tmp_path / "folder.jpg")


def test_which_files_are_pictures(tmp_path) -> None:
    names = [
        "a.jpg",
        "b.JPEG",
        "c.webp",
        "d.tif",
        "._a.jpg",
        ".e.png",
        "f.txt",
        "g.pdf",
        "h.mpg",
        "Thumbs.db",
        "i",
        "j.heic",
    ]
    assert [name for name in names if is_picture(Path(name))] == ["a.jpg", "b.JPEG", "c.webp", "d.tif"]
    intake = Intake(tmp_path)
    with pytest.warns(
        UserWarning, match=r"5 files or folders that are not read: .* \(f.txt, g.pdf, h.mpg, i, j.heic\)"
    ):
        found = pictures_among([tmp_path / name for name in names], intake)
    assert [path.name for path in found] == ["a.jpg", "b.JPEG", "c.webp", "d.tif"]
    assert intake.skipped == {HIDDEN: 2, "they are no pictures by their names": 5}
    assert intake.report().endswith("(f.txt, g.pdf, h.mpg, i, j.heic).")


def test_an_intake_of_nothing_odd_says_nothing(tmp_path) -> None:
    Image.fromarray(DRAWN).save(tmp_path / "a.png")
    intake = Intake(tmp_path)
    read_image(tmp_path / "a.png", intake=intake)
    assert intake.report() == "" and intake.changes == intake.skipped == {}


def photographs() -> list[Image.Image]:
    """Drawn scenes, and real photographs where they lie beside."""
    drawn = [*world.birds(2, seed=0, split="test").pixels(256), *world.nine(2, seed=0, split="test").pixels(256)]
    real = sorted((BESIDE / "coco-mini" / "val2017").glob("*.jpg"))[:4]
    arrays = [each.permute(1, 2, 0).numpy() for each in [*drawn, *map(read_image, real)]]
    return [Image.fromarray(array) for array in arrays]


@pytest.mark.parametrize(
    ("size", "least", "sizes", "most", "mean"),
    [
        (224, 448, {(500, 375): (375, 500), (2000, 1500): (750, 1000), (1000, 3000): (1500, 500)}, 8, 0.4),
        # As the translator's training reads: from the size of what sees it on.
        (384, 384, {(640, 480): (480, 640), (800, 800): (400, 400), (1024, 768): (384, 512), (2000, 1500): (750, 1000)},
         48, 2.0),
    ],
)  # fmt: skip
def test_a_draft_changes_little_of_what_a_model_sees(
    size: int, least: int, sizes: dict[tuple[int, int], tuple[int, int]], most: float, mean: float
) -> None:
    """The bounds that `read_image` states; ImageNet's 500 pixels and COCO's 640 are decoded whole."""
    crop = Preprocessed(torch.nn.Identity(), size, (0.0,) * 3, (1.0,) * 3).prepare
    means = []
    for photograph in photographs():
        for shape, expected in sizes.items():
            content = io.BytesIO()
            photograph.resize(shape, Image.Resampling.LANCZOS).save(content, "JPEG", quality=92)
            whole, draft = (read_image(content.getvalue(), least=each) for each in (None, least))
            assert tuple(draft.shape[1:]) == expected
            difference = 255 * (crop(whole[None] / 255) - crop(draft[None] / 255)).abs()
            assert difference.max() <= most and difference.mean() <= mean
            means.append(difference.mean().item())
    assert max(means) > 0 and min(means) == 0
