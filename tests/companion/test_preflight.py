"""What is missing, cut short or in the wrong size is found before anything starts, quickly and without torch."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.companion import download, preflight, run
from xaikit.companion.preflight import Item, examine, require
from xaikit.storage import paths
from xaikit.storage.paths import ROOT

ALL = [job.name for job in run.jobs((), "paper")]
FEW = 3  # images of each set that the profile here takes


def profile_folder(folder: Path, text: str) -> Path:
    """Profiles beside which the real ones lie."""
    shutil.copytree(ROOT / "xaikit" / "companion" / "profiles", folder / "profiles")
    (folder / "profiles" / "few.toml").write_text(text)
    return folder / "profiles"


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile like the paper's that takes a few images, and an empty place for data and for weights."""
    monkeypatch.setattr(paths, "DATASETS", tmp_path / "data")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return profile_folder(tmp_path, f'like = "paper"\n[common]\nsubset = {FEW}\n')


def write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_data(data: Path) -> None:
    """A handful of files in the place of each that the paper profile reads."""
    for split in ("train", "test"):
        for kind in ("images-idx3", "labels-idx1"):
            write(data / "emnist" / "gzip" / f"emnist-mnist-{split}-{kind}-ubyte.gz")
    birds = data / "waterbirds" / "waterbird_complete95_forest2water2"
    write(birds / "metadata.csv")
    folders = [birds, data / "stanford_cars" / "cars_train", data / "idenprof" / "idenprof" / "train" / "chef"]
    folders += [data / "imagenet" / "val" / "n01440764", data / "coco2017" / "train2017", data / "coco2017" / "val2017"]
    folders += [data / "imagenet9" / "bg_challenge" / variant / "val" / "dog" for variant in ("original", "only_bg_t")]
    for folder in folders:
        for number in range(FEW):
            write(folder / f"{number}.JPEG")
    for split in ("train", "val"):
        write(data / "coco2017" / "annotations" / f"captions_{split}2017.json")
    write(data / "imagenet9" / "in_to_in9.json")
    write(data / "imagenet_segmentation" / "gtsegs_ijcv.mat")
    write(data / "idenprof" / "idenprof" / "faces.json", b"{}")
    for name in ("image_descriptions_general", "image_descriptions_per_class"):
        write(data / "text_pools" / f"{name}.txt")


def items(few: Path, kind: str, names: list[str] = ALL) -> dict[str, Item]:
    return {item.name: item for item in examine(names, "few", few).items if item.kind == kind}


# ---- files ----


def test_nothing_is_there_at_first(few: Path):
    files = items(few, "files")
    assert {item.state for item in files.values()} == {"missing"} and len(files) == 15
    for item in files.values():
        assert item.licence and "xaikit download --profile paper --only" in item.command, item.name
    by_hand = [name for name, item in files.items() if item.command.startswith("by hand, into")]
    assert sorted(by_hand) == ["imagenet", "stanford_cars", "text_pools/image_descriptions_general.txt"]
    assert files["coco2017/train2017"].size == 19_336_861_798


def test_what_is_there_is_found(few: Path, tmp_path: Path):
    write_data(tmp_path / "data")
    files = items(few, "files")
    lacks = {name for name, item in files.items() if item.state != "there"}
    assert lacks == {"text_pools/google_3498_english.txt"}
    assert "at most 3 are read" in files["imagenet"].note


def test_every_folder_has_to_be_whole(few: Path, tmp_path: Path):
    write_data(tmp_path / "data")
    found = {item.name: item for item in examine(ALL, "paper", few).items if item.kind == "files"}
    assert found["imagenet"].state == "incomplete" and found["imagenet"].note == "3 of 50,000 images"
    assert found["coco2017/val2017"].note == "3 of 5,000 images"
    assert found["text_pools/image_descriptions_general.txt"].note == "1 of 3,498 texts"
    assert found["emnist/gzip"].state == "there"


@pytest.mark.parametrize(
    ("damage", "name", "state", "note"),
    [
        (lambda data: (data / "coco2017/annotations/captions_val2017.json").unlink(), "coco2017/annotations",
         "incomplete", "no captions_val2017.json"),
        (lambda data: (data / "imagenet9/in_to_in9.json").write_bytes(b""), "imagenet9/in_to_in9.json", "damaged",
         "is empty"),
        (lambda data: (data / "emnist/gzip/emnist-mnist-test-labels-idx1-ubyte.gz").write_bytes(b""), "emnist/gzip",
         "damaged", "is empty"),
        (lambda data: write(data / "text_pools/google_3498_english.txt", b"a\n" * 9),
         "text_pools/google_3498_english.txt", "damaged", "18 bytes where 25,078 belong"),
        (lambda data: write(data / "text_pools/google_3498_english.txt", b"ab" * 12_539),
         "text_pools/google_3498_english.txt", "damaged", "sha256"),
        (lambda data: shutil.rmtree(data / "imagenet/val") or (data / "imagenet/val").mkdir(), "imagenet",
         "incomplete", "0 of 50,000"),
        (lambda data: shutil.rmtree(data / "emnist/gzip") or write(data / "emnist/gzip.zip"), "emnist/gzip",
         "damaged", "gzip.zip has 1 bytes where 561,753,746 belong"),
        (lambda data: shutil.rmtree(data / "emnist/gzip") or write(data / "emnist/gzip.zip.part"), "emnist/gzip",
         "missing", "broken off"),
        (lambda data: shutil.rmtree(data / "waterbirds") or
         write(data / "waterbirds/waterbird_complete95_forest2water2.tar.gz"),
         "waterbirds/waterbird_complete95_forest2water2", "missing", "not unpacked"),
        (lambda data: (data / "waterbirds/waterbird_complete95_forest2water2/metadata.csv").unlink(),
         "waterbirds/waterbird_complete95_forest2water2", "incomplete", "no metadata.csv"),
    ],
)  # fmt: skip
def test_damages_are_named(few: Path, tmp_path: Path, damage: Callable[[Path], None], name: str, state: str, note: str):
    write_data(tmp_path / "data")
    damage(tmp_path / "data")
    item = items(few, "files")[name]
    assert item.state == state and note in item.note, item
    assert item.command


def test_the_other_digits_are_asked_for_where_the_profile_names_them(few: Path):
    text = 'like = "paper"\n[01_caption_driven]\ndigits = "mnist"\nfolder = "mnist"\n'
    (few / "few.toml").write_text(text)
    (item,) = items(few, "files", ["01_caption_driven"]).values()
    write(paths.DATASETS / "mnist" / "t10k-images-idx3-ubyte.gz")
    assert item.name == "mnist" and items(few, "files", ["01_caption_driven"])["mnist"].state == "incomplete"


def test_every_data_set_of_the_profile_is_in_the_manifest(few: Path):
    entries = {entry.name for entry in download.read_manifest()}
    for item in examine(ALL, "paper", few).items:
        if item.kind == "files":
            assert item.command.split("--only ")[1] in entries, item
        if item.kind == "weights":
            assert item.licence and item.size, item


# ---- weights and packages ----


def slot(hub: Path, repository: str) -> Path:
    base = hub / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("0" * 40)
    return base / "snapshots" / preflight.pinned("paper")[repository]


def test_weights_are_looked_for_in_the_caches(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "open_clip: ViT-B-32-quickgelu, pretrained openai"
    item = items(few, "weights")[name]
    assert item.state == "to be fetched" and not item.blocks
    repository = "timm/vit_base_patch32_clip_224.openai"
    pinned = preflight.pinned("paper")[repository]
    assert item.command == f"hf download {repository} open_clip_model.safetensors --revision {pinned}"
    assert item.size == pytest.approx(4 * 151_277_313, rel=0.02)  # open_clip counts so many parameters
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert items(few, "weights")[name].state == "missing" and items(few, "weights")[name].blocks
    file = slot(tmp_path / "hub", "timm/vit_base_patch32_clip_224.openai") / "open_clip_model.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"a": torch.zeros(100)}, file)
    assert items(few, "weights")[name].state == "there"
    os.truncate(file, 200)
    assert items(few, "weights")[name].state == "damaged"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    assert items(few, "weights")[name].state == "missing"


def test_the_paper_profile_pins_commits_of_repositories_that_the_manifest_names():
    pinned = preflight.pinned("paper")
    named = {entry.repository or entry.argument for entry in download.read_manifest() if entry.kind == "weights"}
    assert pinned.keys() <= named and len(pinned) == 8
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in pinned.values())
    assert preflight.pinned("rehearsal") == pinned and preflight.pinned("mini") == {}


def test_torchvisions_weights_are_looked_for_in_torchs_cache(few: Path, tmp_path: Path):
    name = "torchvision: resnet50, weights IMAGENET1K_V2"
    assert items(few, "weights")[name].state == "to be fetched"
    write(tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth")
    assert items(few, "weights")[name].state == "there"


def test_each_notebook_has_its_weights(few: Path):
    found = examine(ALL, "paper", few).items
    loaders = {notebook: {item.name.split(":")[0] for item in found if item.notebook == notebook} for notebook in ALL}
    assert loaders["01_caption_driven"] >= {"open_clip", "torchvision"}
    assert loaders["02_texplain"] >= {"timm", "transformers", "diffusers"}
    (few / "few.toml").write_text(
        'like = "paper"\n[[04_clip_decomposition.more_clips]]\nname = "ViT-H-14"\npretrained = "laion2b_s32b_b79k"\n'
        f'revision = "{"a" * 40}"\n'
    )
    models = items(few, "weights", ["04_clip_decomposition"])
    large = models["open_clip: ViT-H-14, pretrained laion2b_s32b_b79k"]
    assert large.size == pytest.approx(4 * 986_109_441, rel=0.02) and f"--revision {'a' * 40}" in large.command


def test_the_manifest_names_open_clips_own_repositories():
    for entry in download.read_manifest():
        if entry.loader == "open_clip":
            name, _, tag = entry.argument.partition(", pretrained ")
            assert entry.repository == open_clip.get_pretrained_cfg(name, tag)["hf_hub"].rstrip("/")


def test_a_package_is_missed_where_nothing_else_does(few: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    found = items(few, "package")
    assert {name: item.state for name, item in found.items()} == {"facenet_pytorch": "missing", "h5py": "missing"}
    write(paths.DATASETS / "idenprof" / "idenprof" / "faces.json")
    assert set(items(few, "package")) == {"h5py"}


# ---- disk and memory ----


def test_a_full_disk_is_found(few: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    (disk,) = items(few, "disk").values()
    assert disk.state == "too little" and disk.blocks and "1.0 GB are free" in disk.note
    assert disk.size > 2 * 20e9  # COCO's archives, and what they hold
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))
    assert next(iter(items(few, "disk").values())).state == "there"


def test_too_little_memory_is_said_and_stops_nothing(few: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: SimpleNamespace(total=10**9))
    (memory,) = items(few, "memory").values()
    assert memory.state == "too little" and not memory.blocks


# ---- before a run ----


def test_mini_and_a_rehearsal_need_nothing(few: Path):
    for profile in ("mini", "rehearsal"):
        assert examine(ALL, profile, few).items == []
        require(ALL, profile, few)


def test_a_run_stops_with_a_sentence(few: Path, tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        require(["03_vlm_explanations"], "few", few)
    said = str(caught.value)
    assert said.startswith("03_vlm_explanations cannot run under few: stanford_cars (no stanford_cars) and ")
    assert said.endswith("`xaikit run --check --profile few` lists all, with the commands that fetch them")
    assert "\n" not in said
    require(["03_vlm_explanations"], "few", few, skipping=lambda name: True)
    write_data(tmp_path / "data")
    require(["03_vlm_explanations"], "few", few)


def test_no_kernel_is_started_where_something_is_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(paths, "DATASETS", tmp_path / "data")
    mini = checkout / "xaikit" / "companion" / "profiles" / "mini.toml"
    mini.write_text(mini.read_text() + 'digits = "emnist-mnist"\nfolder = "emnist/gzip"\n')
    (job,) = run.jobs(["01_small"], "mini", root=checkout)
    with pytest.raises(RuntimeError, match="01_small cannot run under mini: emnist/gzip"):
        run.run_notebooks([job])
    assert not (checkout / "build" / "runs.txt").exists()
    write_data(tmp_path / "data")
    assert run.run_notebooks([job]) == []
    shutil.rmtree(tmp_path / "data")
    assert run.run_notebooks([job]) == []  # up to date: it needs nothing


def test_the_command_lists_what_is_missing_and_exits_with_1(few: Path):
    result = CliRunner().invoke(app, ["run", "04_clip_decomposition", "--check", "--profile", "paper", "--card", "L4"])
    assert result.exit_code == 1
    for part in ("imagenet", "ImageNet terms", "hf download laion/CLIP-ViT-B-16", "on one L4 of 24 GB", "segmentation"):
        assert part in result.output, part
    assert CliRunner().invoke(app, ["run", "--check", "--profile", "mini"]).exit_code == 0
    result = CliRunner().invoke(app, ["run", "--check", "--profile", "paper", "--card", "toaster"])
    assert result.exit_code == 1 and "toaster" in result.output


def test_the_check_does_without_torch(tmp_path: Path):
    code = (
        "import sys\nfrom xaikit.companion import preflight\n"
        f"preflight.check({ALL!r}, 'paper')\nprint(json.dumps('torch' in sys.modules))"
    ).replace("import sys", "import json, sys")
    environment = os.environ | {"XAIKIT_DATA": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout.splitlines()[-1]) is False


def test_a_gpu_that_the_driver_names_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090'\necho 'NVIDIA L4'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert preflight.gpus() == ["NVIDIA GeForce RTX 4090", "NVIDIA L4"]
    assert preflight._card(None, preflight.gpus()).name == "RTX 4090"
    command.write_text("#!/bin/sh\nexit 9\n")
    assert preflight.gpus() == [] and preflight._card(None, []).name == "H100"
