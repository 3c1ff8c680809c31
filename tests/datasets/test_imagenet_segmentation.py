"""ImageNet-Segmentation: MATLAB's axes put right, and masks that lie where the model sees the object."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xaikit.datasets import imagenet_segmentation
from xaikit.datasets.imagenet_segmentation import fit_mask, read_segmentation
from xaikit.models.preprocessing import Preprocessed

SHAPES = [(40, 60), (60, 40), (50, 50), (33, 90)]


def box_mask(height: int, width: int) -> np.ndarray:
    """A box off the centre, so that no flip or transposition leaves it where it was."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 3 : width * 3 // 4] = 1
    return mask


def write_mat(path: Path, pictures: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """The published layout: references [n, 1]; those to masks go through a cell; all axes in MATLAB's order."""
    with h5py.File(path, "w") as file:
        references = {name: file.create_dataset(f"value/{name}", (len(pictures), 1), h5py.ref_dtype) for name in "ig"}
        file.move("value/i", "value/img")
        file.move("value/g", "value/gt")
        for number, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            image = file.create_dataset(f"#refs#/image{number}", data=picture.transpose(2, 1, 0))
            stored = file.create_dataset(f"#refs#/mask{number}", data=mask.T)
            cell = file.create_dataset(f"#refs#/cell{number}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = stored.ref
            references["i"][number, 0], references["g"][number, 0] = image.ref, cell.ref


def picture_of(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def mat(tmp_path: Path) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    pictures = [picture_of(*shape, seed) for seed, shape in enumerate(SHAPES)]
    masks = [box_mask(*shape) for shape in SHAPES]
    write_mat(tmp_path / "gtsegs_ijcv.mat", pictures, masks)
    return tmp_path / "gtsegs_ijcv.mat", pictures, masks


def test_images_and_masks_stand_upright(mat) -> None:
    path, pictures, masks = mat
    data = read_segmentation(path, 32, check=False)
    assert len(data) == len(list(data)) == 4 and data.ids == ("00000", "00001", "00002", "00003")
    for name, record, picture, mask in zip(data.ids, data, pictures, masks, strict=True):
        assert record.id == name and record.image.dtype == torch.uint8 and record.image.is_contiguous()
        assert np.array_equal(record.image.permute(1, 2, 0).numpy(), picture)
        assert torch.equal(record.mask, fit_mask(torch.from_numpy(mask) > 0, 32))
    assert np.array_equal(data[2].mask.numpy(), by_pil(masks[2], 32, "legacy"))  # square: both are the same


def by_pil(mask: np.ndarray, size: int, alignment: str) -> np.ndarray:
    height, width = mask.shape
    short = min(height, width)
    shape = (size, size) if alignment == "legacy" else (size * width // short, size * height // short)
    fitted = Image.fromarray(mask).resize(shape, Image.Resampling.NEAREST)
    left, top = round((fitted.width - size) / 2), round((fitted.height - size) / 2)
    return np.array(fitted.crop((left, top, left + size, top + size))) > 0


def between_pixels(length: int, resized: int, size: int) -> np.ndarray:
    """Where the centre of a resized pixel falls exactly between two pixels, and PIL's sums take either."""
    start = round((resized - size) / 2)
    return (2 * np.arange(start, start + size) + 1) * length % (2 * resized) == 0


@pytest.mark.parametrize("alignment", ["aligned", "legacy"])
@pytest.mark.parametrize("size", [24, 64, 224])
@pytest.mark.parametrize("shape", [*SHAPES, (107, 161), (375, 500), (500, 333)])
def test_fitted_masks_are_pils(shape, size, alignment) -> None:
    mask = (np.random.default_rng(0).random(shape) < 0.5).astype(np.uint8)
    ours = fit_mask(torch.from_numpy(mask) > 0, size, alignment)
    resized = [size if alignment == "legacy" else size * length // min(shape) for length in shape]
    rows, columns = (between_pixels(*lengths, size) for lengths in zip(shape, resized, strict=True))
    either = rows[:, None] | columns
    assert ours.dtype == torch.bool and either.mean() < 0.1
    assert np.array_equal(ours.numpy()[~either], by_pil(mask, size, alignment)[~either])


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 120)])
def test_aligned_masks_lie_on_their_object_and_legacy_masks_do_not(shape) -> None:
    """The object is painted into the picture; where it is in what the model sees, we know."""
    mask = box_mask(*shape)
    tower = Preprocessed(nn.Identity(), 48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    seen = tower.prepare(torch.from_numpy(mask).float().expand(1, 3, -1, -1))[0, 0] > 0.5

    def overlap(alignment: str) -> float:
        fitted = fit_mask(torch.from_numpy(mask) > 0, 48, alignment)
        return ((fitted & seen).sum() / (fitted | seen).sum()).item()

    assert overlap("aligned") > 0.95 and overlap("legacy") < 0.8


def test_the_alignment_reaches_the_records(mat) -> None:
    path, _, masks = mat
    for alignment in ("aligned", "legacy"):
        records = read_segmentation(path, 20, alignment, check=False)
        for record, mask in zip(records, masks, strict=True):
            assert np.array_equal(record.mask.numpy(), by_pil(mask, 20, alignment))
    with pytest.raises(ValueError, match="Unknown alignment 'squashed' of masks; choose one of aligned, legacy"):
        read_segmentation(path, alignment="squashed", check=False)


def test_the_number_of_images_is_that_of_the_published_file(mat, monkeypatch) -> None:
    with pytest.raises(ValueError, match="holds 4 images and 4 masks, not 4,276"):
        read_segmentation(mat[0])
    monkeypatch.setattr(imagenet_segmentation, "IMAGES", 4)
    assert read_segmentation(mat[0])[0].mask.shape == (224, 224)


def test_a_broken_file_is_named(mat, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.mat is missing"):
        read_segmentation(tmp_path / "other.mat")
    content = mat[0].read_bytes()
    mat[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"gtsegs_ijcv\.mat is not a complete HDF5 file"):
        read_segmentation(mat[0], check=False)
    with h5py.File(tmp_path / "empty.mat", "w"):
        pass
    with pytest.raises(ValueError, match=r"empty\.mat does not hold value/img and value/gt"):
        read_segmentation(tmp_path / "empty.mat", check=False)


def replace(file: h5py.File, name: str, data: np.ndarray) -> None:
    """Let the references of `name` point to other data."""
    del file[name]
    new = file.create_dataset(name, data=data)
    if name.startswith("#refs#/mask"):
        file["#refs#/cell1"][0, 0] = new.ref
    else:
        file["value/img"][1, 0] = new.ref


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: replace(file, "#refs#/image1", np.zeros((3, 40, 61), np.uint8)),
        lambda file: replace(file, "#refs#/image1", np.zeros((3, 40, 60), np.float64)),
        lambda file: replace(file, "#refs#/image1", np.zeros((40, 60), np.uint8)),
        lambda file: replace(file, "#refs#/mask1", np.full((40, 60), 255, np.uint8)),
        lambda file: replace(file, "#refs#/mask1", np.full((40, 60), np.nan)),
        lambda file: replace(file, "#refs#/mask1", np.zeros((60, 40), np.uint8)),
    ],
)
def test_an_image_that_does_not_go_with_its_mask_is_named(mat, spoil: Callable[[h5py.File], None]) -> None:
    path = mat[0]
    with h5py.File(path, "r+") as file:
        spoil(file)
    data = read_segmentation(path, check=False)
    assert data[0].mask.any()
    with pytest.raises(ValueError, match=r"Image 00001 of .*gtsegs_ijcv\.mat is .*not 8-bit"):
        data[1]


def test_a_lost_image_is_named(mat) -> None:
    path = mat[0]
    with h5py.File(path, "r+") as file:
        file["value/gt"][1, 0] = h5py.Reference()
    data = read_segmentation(path, check=False)
    with pytest.raises(ValueError, match=r"Image 00001 of .*gtsegs_ijcv\.mat cannot be read"):
        data[1]
