"""`xaikit extract` fills the very stores that notebook 04 reads, by several processes, and says what it cannot do."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from rounding import assert_equal_up_to_rounding
from torch import Tensor
from typer.testing import CliRunner, Result

from xaikit import __main__ as main
from xaikit.__main__ import app
from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.datasets import imagenet
from xaikit.decomposition.decompose import coefficients
from xaikit.models import cards, clip_resnet_mini
from xaikit.models.clip import load_clip
from xaikit.storage import paths
from xaikit.studies import clip_decomposition as study
from xaikit.studies import clip_pictures as pictures
from xaikit.studies import extract as module
from xaikit.studies.extract import SECTION, extract

FEW = {"per_class": 1, "birds": {"test": 12, "validation": 8}}

# What torchrun starts: the command, under the mini profile with few pictures.
SCRIPT = f"""
import sys
from xaikit.companion import profiles
load = profiles.load
def few(*names):
    cfg = load(*names)
    return profiles.Settings(cfg.as_dict() | {FEW!r}, "few")
profiles.load = few
from xaikit.__main__ import app
app(sys.argv[1:])
"""


@pytest.fixture
def few() -> Settings:
    return Settings(profiles.load("mini", SECTION, 0).as_dict() | FEW, "few")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def passes(model: study.Backbone) -> list[Tensor]:
    """Grows by each batch that goes through the image tower."""
    seen: list[Tensor] = []
    model.clip.image_encoder.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    return seen


def test_torchrun_fills_the_stores_that_the_notebook_then_reads(tmp_path: Path, few: Settings) -> None:
    (tmp_path / "few.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "few.py")]
    variables = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(paths.ROOT),
        "XAIKIT_CACHE": str(paths.CACHE),
    }
    command = [*torchrun, "extract", "--profile", "mini", "--batch", "7", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stderr
    for what in ("scenes test", "Waterbirds validation"):
        assert f"{what}: process 0 of 2 computed" in done.stdout and f"{what}: process 1 of 2 computed" in done.stdout

    (model,) = study.backbones(few)
    seen = passes(model)
    for read in (pictures.classification, pictures.waterbirds):
        for split in ("test", "validation"):
            data = read(few, 0, split)
            parts = pictures.decomposed(few, model, data)
            (shard,) = parts.store
            assert not seen  # nothing was computed here
            images = torch.stack([data.images[index] for index in range(len(data))])
            assert_equal_up_to_rounding(vars(shard), vars(coefficients(model.clip.image_encoder, images)))
            seen.clear()


def test_what_was_not_extracted_the_notebook_computes(few: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "load", lambda *_: few)
    extract("mini", data=["waterbirds"])
    (model,) = study.backbones(few)
    seen = passes(model)
    assert sum(len(part.embedding) for part in pictures.decomposed(few, model, pictures.waterbirds(few, 0))) == 12
    assert not seen
    data = pictures.classification(few, 0)
    assert sum(len(part.embedding) for part in pictures.decomposed(few, model, data)) == 43
    assert sum(map(len, seen)) == 43


# --- photographs --------------------------------------------------------------------------------------------------


def save_clip(folder: Path, seed: int, **vision: int) -> Path:
    """A small CLIP-ViT with random weights."""
    torch.manual_seed(seed)
    config = copy.deepcopy(clip_resnet_mini.config())
    config["model_cfg"]["vision_cfg"] = {
        "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0
    } | vision  # fmt: skip
    model = open_clip.CLIP(**config["model_cfg"])
    cards.save_clip(folder, model, clip_resnet_mini.tokenizer(), config)
    return folder


def test_photographs_are_decoded_once_for_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    for number in range(23):
        path = tmp_path / "imagenet" / "val" / imagenet.wordnet_ids()[number % 2] / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (*noise.integers(40, 90, 2), 3), dtype=np.uint8)).save(path)
    monkeypatch.setattr(pictures, "DATASETS", tmp_path)
    read: list[Path] = []
    read_image = imagenet.read_image
    monkeypatch.setattr(imagenet, "read_image", lambda path, **how: read.append(path) or read_image(path, **how))
    clips = [
        {"name": f"local-dir:{save_clip(tmp_path / name, seed, width=width)}", "pretrained": ""}
        for seed, (name, width) in enumerate({"one": 32, "two": 48}.items())
    ]
    own = {"size": 32, "subset": 30, "clip": clips[0], "more_clips": clips[1:], "workers": 3}
    cfg = Settings(profiles.load("paper", SECTION, 0).as_dict() | own, "small")
    monkeypatch.setattr(profiles, "load", lambda *_: cfg)
    extract("paper", data=["classification"])
    assert len(read) == len(set(read)) == 23  # all of both splits

    for settings, model in zip(clips, study.backbones(cfg), strict=True):
        data = pictures.classification(cfg, 0)
        parts = pictures.decomposed(cfg, model, data)
        (shard,) = parts.store
        assert len(read) == 23 and parts.store.dtype == torch.float16
        assert parts.store.about["backbone"] == settings["name"] and "32 pixels" in parts.store.about["preprocessing"]
        for index in (0, 19):
            photograph = imagenet.read_validation(tmp_path / "imagenet", subset=True)
            position = photograph.ids.index(data.ids[index].split()[0])
            expected = coefficients(load_clip(settings["name"]).image_encoder, photograph[position].image[None] / 255)
            for name, values in vars(expected).items():
                torch.testing.assert_close(getattr(shard, name)[index], values[0], rtol=1e-3, atol=2e-4)
        read[:] = read[:23]
    # A photograph that is another one under the same name is another store.
    before = parts.store.key
    Image.fromarray(noise.integers(0, 256, (50, 61, 3), dtype=np.uint8)).save(path)
    assert pictures.decomposed(cfg, model, pictures.classification(cfg, 0, "test")).store.key != before


# --- the command --------------------------------------------------------------------------------------------------


def command(*options: str) -> Result:
    return CliRunner().invoke(app, ["extract", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--profile", "huge"), "unknown profile 'huge': choose one of full, mini, paper"),
        (
            ("--profile", "mini", "--data", "cars"),
            "no data set 'cars' in this profile: choose from classification, wat",
        ),
        (
            ("--profile", "mini", "--model", "ViT-L-14"),
            "no model 'ViT-L-14' in this profile: choose from clip-vit-mini",
        ),
        (("--model", "clip-vit-mini"), "choose from ViT-B-16, ViT-L-14, ViT-H-14"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_a_sentence(options: tuple[str, ...], message: str) -> None:
    refused = command(*options)
    assert refused.exit_code == 1 and message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1 and refused.stdout == ""


def test_the_command_starts_anew_as_the_kernel_of_a_notebook_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(main.os, "execve", lambda _file, _command, variables: started.append(variables))
    called = SimpleNamespace(times=0)
    monkeypatch.setattr(module, "extract", lambda *_a, **_k: setattr(called, "times", called.times + 1))
    monkeypatch.delenv("XAIKIT_ARITHMETIC", raising=False)
    assert command("--profile", "mini").exit_code == 0
    assert [each["XAIKIT_ARITHMETIC"] for each in started] == ["portable"]
    monkeypatch.setenv("XAIKIT_ARITHMETIC", "portable")  # as it is then
    assert command("--profile", "mini").exit_code == 0
    assert len(started) == 1 and called.times == 2
