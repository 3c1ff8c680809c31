"""A classifier is loaded by its name or file, and sees and answers what its own library has it see and answer."""

import json
import sys
from pathlib import Path
from urllib.error import URLError

import onnx_files
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from xaikit.audit.load import IMAGENET, Loaded, load_classifier, read_state
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.paths import WEIGHTS


@pytest.fixture
def photograph() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(2, 3, 20, 30, generator=draw), (150, 200), mode="bilinear")


def answers(loaded: Loaded, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(loaded.look.prepare(images))


def test_what_it_sees_and_what_it_makes_of_it_are_together_the_classifier(photograph) -> None:
    for options in ({}, {"resize": "longest", "fill": (0.5, 0.2, 0.1)}, {"resize": "squash"}, {"scale": 40}):
        inner, colours = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        model = Preprocessed(inner, 32, *colours, interpolation="bilinear", **options)
        loaded = Loaded.of(model)
        seen = loaded.look.prepare(photograph)
        assert seen.shape[-2:] == (32, 32) and seen.min() >= 0 and seen.max() <= 1
        with torch.no_grad():
            torch.testing.assert_close(answers(loaded, photograph), model(photograph), rtol=1e-4, atol=1e-4)


def test_grey_is_seen_as_grey(photograph) -> None:
    loaded = Loaded.of(
        Preprocessed(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), 8, (0.5,) * 3, (0.5,) * 3, grey=True)
    )
    seen = loaded.look.prepare(photograph)
    assert torch.equal(seen[:, 0], seen[:, 1])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_and_torchvision_take_a_state_dict_and_find_its_classes(tmp_path: Path, photograph, suffix: str) -> None:
    torch.manual_seed(0)
    for scheme, name, model in (
        ("timm", "resnet10t", timm.create_model("resnet10t", num_classes=5)),
        ("torchvision", "squeezenet1_1", torchvision.models.squeezenet1_1(num_classes=5)),
        ("torchvision", "mobilenet_v3_small", torchvision.models.mobilenet_v3_small(num_classes=5)),
    ):
        file = tmp_path / f"{name}{suffix}"
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state, "epoch": 3}, file)
        loaded = load_classifier(f"{scheme}:{name}:{file}")
        own = Preprocessed.of(model, None if scheme == "timm" else torchvision.models.get_model_weights(name).DEFAULT)
        with torch.no_grad():
            torch.testing.assert_close(answers(loaded, photograph), own(photograph), rtol=1e-3, atol=1e-3)


def test_a_model_of_transformers_brings_its_names(tmp_path: Path, photograph) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
                       patch_size=8, id2label={0: "cat", 1: "dog", 2: "cow"})  # fmt: skip
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "vit")
    loaded = load_classifier(f"hf:{tmp_path / 'vit'}")
    assert loaded.names == ("cat", "dog", "cow")
    image = photograph[:1].mul(255).round()
    wanted = processor(Image.fromarray(image[0].byte().permute(1, 2, 0).numpy()), return_tensors="pt").pixel_values
    with torch.no_grad():
        torch.testing.assert_close(
            answers(loaded, image / 255), model(pixel_values=wanted).logits, rtol=1e-2, atol=1e-2
        )


def test_clip_classifies_by_texts() -> None:
    name = f"open_clip:local-dir:{WEIGHTS / 'clip-vit-mini'}"
    loaded = load_classifier(name, ["a red bird", "a dog"])
    found = answers(loaded, torch.rand(2, 3, 64, 64))
    assert found.shape == (2, 2) and loaded.names == ("a red bird", "a dog")
    with pytest.raises(ValueError, match="--classes"):
        load_classifier(name)


@pytest.mark.parametrize("batch", [None, 3])
def test_what_torch_exported_runs_whatever_its_batch(tmp_path: Path, photograph, batch: int | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)).eval()
    dynamic = {0: torch.export.Dim("batch")} if batch is None else None
    program = torch.export.export(
        model, (torch.rand(batch or 2, 3, 32, 32),), dynamic_shapes=(dynamic,) if dynamic else None
    )
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = load_classifier(str(tmp_path / "model.pt2"), preprocessing="unit")
    images = photograph.repeat(2, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(answers(loaded, images), model(loaded.look.prepare(images)), rtol=1e-4, atol=1e-4)
    assert not loaded.gradients
    with pytest.raises(ValueError, match="--preprocessing"):
        load_classifier(str(tmp_path / "model.pt2"))


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def onnxruntime():
    return pytest.importorskip("onnxruntime", reason="it is in no lock: pip install 'xaikit[onnx]' brings it")


@pytest.mark.parametrize("shape", [("batch", 3, 8, 8), (3, 3, 8, 8), (1, 3, 8, 8)])
def test_onnx_runs_whatever_its_batch(tmp_path: Path, photograph, onnxruntime, shape) -> None:
    layer = nn.Linear(3 * 8 * 8, 4)
    (tmp_path / "model.onnx").write_bytes(onnx_files.linear(layer, shape))
    loaded = load_classifier(str(tmp_path / "model.onnx"), preprocessing="imagenet")
    assert not loaded.gradients and loaded.look.sides == (8, 8)
    images = photograph.repeat(2, 1, 1, 1)
    with torch.no_grad():
        seen = Preprocessed(nn.Flatten(), 8, *IMAGENET, interpolation="bilinear")(images)
        wanted = layer(seen)
        torch.testing.assert_close(answers(loaded, images), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="--preprocessing"):
        load_classifier(str(tmp_path / "model.onnx"))


def test_onnx_of_pictures_of_any_size_is_told_which(tmp_path: Path, photograph, onnxruntime) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_files.linear(nn.Linear(3, 2), ("n", 3, "h", "w"), pool=True))
    with pytest.raises(ValueError, match="any size"):
        load_classifier(str(tmp_path / "model.onnx"), preprocessing="unit")
    config = {
        "input_size": [3, 12, 12],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "crop_pct": 1,
    }
    (tmp_path / "look.json").write_text(json.dumps(config))
    loaded = load_classifier(str(tmp_path / "model.onnx"), preprocessing=str(tmp_path / "look.json"))
    assert loaded.look.sides == (12, 12) and answers(loaded, photograph).shape == (2, 2)


def test_the_digest_of_onnx_is_of_all_files_that_hold_it(tmp_path: Path, onnxruntime) -> None:
    layer = nn.Linear(3 * 8 * 8, 2)
    (tmp_path / "model.onnx").write_bytes(onnx_files.linear(layer, elsewhere="weights.bin"))
    digests = []
    for weight in (layer.weight, 2 * layer.weight):
        (tmp_path / "weights.bin").write_bytes(weight.detach().numpy().tobytes())
        digests.append(load_classifier(str(tmp_path / "model.onnx"), preprocessing="unit").digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"twice": True}, r"gives 2 tensors \(logits, again\)"),
        ({"beside": True}, r"takes 2 tensors \(images, more\)"),
        ({"shape": (1, 8, 8, 3)}, r"shape \[1, 8, 8, 3\]: export a model that takes images \[batch, 3,"),
        ({"shape": ("n", 192)}, "export a model that takes images"),
        (None, "nothing that onnxruntime can run"),
    ],
)
def test_onnx_that_is_no_classifier_of_images_is_refused(tmp_path: Path, onnxruntime, options, said: str) -> None:
    content = b"no model" if options is None else onnx_files.linear(nn.Linear(192, 2), **options)
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        load_classifier(str(tmp_path / "model.onnx"), preprocessing="unit")
    assert "\n" not in str(caught.value)


def test_without_onnxruntime_it_is_said_what_brings_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(onnx_files.linear(nn.Linear(192, 2)))
    with pytest.raises(ModuleNotFoundError, match=r"xaikit\[onnx\]"):
        load_classifier(str(tmp_path / "model.onnx"), preprocessing="unit")


# --- a user's own -----------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_gives_a_classifier(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nfrom xaikit import Preprocessed\n"
        "def good():\n"
        "    return Preprocessed(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 4, (0.5,) * 3, (0.5,) * 3)\n"
        "def bare():\n    return nn.Flatten()\n"
    )
    assert answers(load_classifier(f"{file}:good", ["a", "b"]), torch.rand(1, 3, 9, 9)).shape == (1, 2)
    for name, said in (("bare", "xaikit.Preprocessed"), ("none", "no function 'none'")):
        with pytest.raises(ValueError, match=said):
            load_classifier(f"{file}:{name}")
    with pytest.raises(ValueError, match="2 classes, and 3 names"):
        load_classifier(f"{file}:good", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "names no classifier: give timm:NAME"),
        ("timm:", "names no classifier"),
        ("torchvision:resnet5000", "knows no classifier 'resnet5000'"),
        ("timm:no_such_net", "no_such_net"),
        ("missing.py:model", "missing.py is missing"),
        ("torchvision:resnet18:missing.pth", "missing.pth is missing"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        load_classifier(name)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_said_with_the_mend(tmp_path: Path, monkeypatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(ValueError, match=r"cannot be fetched \(Name or service not known\): .*name a file") as caught:
        load_classifier("torchvision:resnet18")
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_and_code_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit"):
        load_classifier(f"torchvision:squeezenet1_1:{tmp_path / 'other.pth'}")
    torch.save(nn.Linear(3, 2), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="may be code"):
        read_state(tmp_path / "whole.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        read_state(tmp_path / "none.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"xx")
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        load_classifier(f"timm:resnet10t:{tmp_path / 'broken.safetensors'}")
