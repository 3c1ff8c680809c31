"""Extraction: the same result from any number of processes, killed or not, and nothing that is damaged is believed."""

import copy
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rounding import assert_equal_up_to_rounding
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from xaikit.__main__ import app
from xaikit.datasets.imagenet import read_validation
from xaikit.decomposition.decompose import Coefficients, coefficients
from xaikit.models import cards, clip_resnet_mini
from xaikit.models.clip import load_clip
from xaikit.storage.paths import ROOT
from xaikit.studies import extract as E
from xaikit.studies.extract import extract, extraction_key, merge

BLOCK, BATCH = 8, 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes of these tests have, so that blocks made here and there may be asked for the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Drawing:
    id: str
    image: Tensor


class Drawings:
    """Noise of many sizes, in an order that is not that of the ids."""

    def __init__(self, count: int = 45) -> None:
        self.ids = [f"{number:03d}.png" for number in np.random.default_rng(0).permutation(count)]
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Drawing:
        self.read.append(index)
        noise = np.random.default_rng(int(self.ids[index][:3]))
        size = (3, *noise.integers(8, 20, 2).tolist())
        return Drawing(self.ids[index], torch.from_numpy(noise.integers(0, 256, size, dtype=np.uint8)))


def prepare(image: Tensor) -> Tensor:
    return image[:, :8, :8] / 255


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(216, 5)).requires_grad_(False)


class Features:
    """An extractor that takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.model, self.seconds, self.images = network(), seconds, 0

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        time.sleep(self.seconds)
        self.images += len(images)
        return {"features": self.model(images), "brightness": images.mean((1, 2, 3))}


def run(folder: Path, rank: int = 0, world_size: int = 1, extractor: Callable | None = None, **options: object) -> int:
    settings = {"key": "k", "prepare": prepare, "block": BLOCK, "batch": BATCH, "workers": 2, **options}
    data = settings.pop("data", None) or Drawings()
    return extract(extractor or Features(), data, folder, rank=rank, world_size=world_size, **settings)


def run_slowly(folder: Path, rank: int, world_size: int, seconds: float) -> None:
    """What a process of the tests does."""
    torch.set_num_threads(1)
    run(folder, rank, world_size, Features(seconds))


def start(folder: Path, world_size: int, seconds: float) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xaikit.studies.extract"])  # imported once for all of them
    processes = [
        context.Process(target=run_slowly, args=(folder, rank, world_size, seconds)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Tensor]:
    """The result of one undisturbed process."""
    run(tmp_path / "whole")
    return merge(tmp_path / "whole").load()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def agree(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Processes with another number of threads add in another order: the same up to rounding, no more."""
    torch.testing.assert_close(dict(one), dict(other), atol=1e-6, rtol=1e-5)


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob("block-*.safetensors"))


def test_the_result_is_that_of_every_image_alone_in_the_order_of_the_ids(tmp_path) -> None:
    extractor = Features()
    assert run(tmp_path / "new", extractor=extractor) == 6 and extractor.images == 45
    merged = merge(tmp_path / "new")
    assert merged.ids == tuple(f"{number:03d}.png" for number in range(45)) and len(merged) == 45
    data, model, result = Drawings(), network().double(), merged.load()
    for position, name in enumerate(merged.ids):
        image = prepare(data[data.ids.index(name)].image)
        assert abs(result["brightness"][position] - image.double().mean()) < 1e-6
        expected = model(image[None].double())[0]
        torch.testing.assert_close(result["features"][position].double(), expected, atol=1e-6, rtol=0)
    assert result["features"].shape == (45, 5) and result["features"].dtype == torch.float32


def test_four_processes_agree_with_one(tmp_path, whole) -> None:
    processes = start(tmp_path / "four", 4, 0.0)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    agree(merge(tmp_path / "four").load(), whole)


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_any_number_of_processes_in_any_order_gives_the_same(tmp_path, whole, world_size) -> None:
    done = [run(tmp_path / "many", rank, world_size) for rank in reversed(range(world_size))]
    assert sum(done) == 6 and max(done) - min(done) <= 1
    assert len(blocks(tmp_path / "many")) == 6
    assert same(merge(tmp_path / "many").load(), whole)


def test_killed_processes_are_taken_up_by_others_where_they_stopped(tmp_path, whole) -> None:
    folder = tmp_path / "killed"
    processes = start(folder, 2, 0.3)
    deadline = time.monotonic() + 60
    while len(blocks(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [-9, -9]
    finished = {path: path.stat().st_mtime_ns for path in blocks(folder)}
    assert 2 <= len(finished) < 6
    with pytest.raises(ValueError, match=rf"killed lacks {6 - len(finished)} of 6 blocks, block-0000\d"):
        merge(folder)

    assert sum(run(folder, rank, 3) for rank in range(3)) == 6 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    agree(merge(folder).load(), whole)
    extractor = Features()
    assert run(folder, extractor=extractor) == 0 and extractor.images == 0


def test_an_error_leaves_what_was_finished_and_nothing_half_written(tmp_path, whole) -> None:
    class Broken(Drawings):
        def __getitem__(self, index: int) -> Drawing:
            if self.ids[index] == "020.png":
                raise ValueError("020.png is no image that can be read")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match=r"020\.png is no image"):
        run(tmp_path / "new", data=Broken())
    assert [path.name for path in blocks(tmp_path / "new")] == ["block-00000.safetensors", "block-00001.safetensors"]
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {*map(name_of, range(2)), ".lock", E.PLAN}
    assert run(tmp_path / "new") == 4
    assert same(merge(tmp_path / "new").load(), whole)


def name_of(number: int) -> str:
    return f"block-{number:05d}.safetensors"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.with_name(name_of(3)).read_bytes()),
    ],
)
def test_a_damaged_block_alone_is_computed_anew(tmp_path, whole, damage) -> None:
    folder = tmp_path / "whole"
    damage(folder / name_of(2))
    with pytest.raises(ValueError, match=r"block-00002\.safetensors is damaged .*; run the extraction again"):
        merge(folder).load()
    with pytest.warns(UserWarning, match=r"block-00002\.safetensors is damaged and is computed anew"):
        assert run(folder) == 1
    assert same(merge(folder).load(), whole)


@pytest.mark.parametrize(
    ("options", "different"), [({"key": "other"}, "key"), ({"block": 16}, "block"), ({"data": Drawings(44)}, "ids")]
)
def test_a_folder_holds_one_extraction(tmp_path, whole, options, different) -> None:
    before = {path: path.read_bytes() for path in blocks(tmp_path / "whole")}
    with pytest.raises(ValueError, match=rf"holds another extraction, with another {different} .*name another folder"):
        run(tmp_path / "whole", **options)
    assert {path: path.read_bytes() for path in blocks(tmp_path / "whole")} == before


def test_results_are_streamed_and_chosen_by_name(tmp_path, whole) -> None:
    merged = merge(tmp_path / "whole")
    streamed = list(merged.blocks())
    assert [len(part["features"]) for part in streamed] == [8, 8, 8, 8, 8, 5]
    assert torch.equal(torch.cat([part["brightness"] for part in streamed]), whole["brightness"])
    assert same(merged.load("features"), {"features": whole["features"]})
    with pytest.raises(ValueError, match="holds no 'colour'; choose among brightness, features"):
        merged.load("colour")


def test_images_are_read_a_few_batches_ahead_and_no_more(tmp_path) -> None:
    data, waiting = Drawings(), []
    features = Features(0.02)

    def watching(images: Tensor) -> Mapping[str, Tensor]:
        result = features(images)
        waiting.append(len(data.read) - features.images)
        return result

    run(tmp_path / "new", extractor=watching, data=data)
    assert 0 < max(waiting) <= E.BATCHES_AHEAD * BATCH
    assert sorted(data.read) == list(range(45))


def test_an_extraction_that_was_never_begun_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"extraction\.json is missing; extract into this folder first"):
        merge(tmp_path)
    (tmp_path / E.PLAN).write_text("{}")
    with pytest.raises(ValueError, match=r"extraction\.json is damaged"):
        merge(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, "Process 2 is none of 2"),
        ({"batch": 0}, "a batch of 0"),
        ({"data": Drawings(0)}, "The data set is empty"),
        ({"prepare": lambda image: image / 255}, "prepare all images to one size"),
        ({"extractor": lambda images: {}}, "The extractor gave no tensor"),
        ({"extractor": lambda images: {"f": images.mean()}}, r"f has the shape \(\) for 3 images"),
        ({"extractor": lambda images: {"f": images[1:]}}, r"f has the shape \(2, 3, 8, 8\) for 3 images"),
        ({"extractor": lambda images: {"f": images.log() * 0}}, r"f is not finite for the images from 000\.png to 002"),
    ],
)
def test_what_cannot_be_extracted_is_said(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "new", **options)
    assert blocks(tmp_path / "new") == []


def test_repeated_ids_are_refused(tmp_path) -> None:
    data = Drawings()
    data.ids[3] = data.ids[7]
    with pytest.raises(ValueError, match=f"The id '{data.ids[7]}' is there twice"):
        run(tmp_path / "new", data=data)
    assert not (tmp_path / "new").exists()


def test_the_key_is_the_content_of_what_a_result_depends_on() -> None:
    ids, code = ["a", "b", "c"], [coefficients, Coefficients]
    key = extraction_key(network(), ids, code, size=8)
    assert key == extraction_key(network(), ids[::-1], code[::-1], size=8)
    changed = network()
    changed[3].bias[0] += 1e-6
    others = [
        extraction_key(changed, ids, code, size=8),
        extraction_key(nn.Sequential(*network()[:1], nn.ReLU(), *network()[2:]), ids, code, size=8),
        extraction_key(network(), ["a", "b", "d"], code, size=8),
        extraction_key(network(), ids, code, size=9),
        extraction_key(network(), ids, [Coefficients], size=8),
    ]
    assert len({key, *others}) == 6


# The command


@pytest.fixture(scope="module")
def clip_and_photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small CLIP-ViT with random weights, and a few pictures in ImageNet's layout."""
    root = tmp_path_factory.mktemp("extract")
    torch.manual_seed(0)
    config = copy.deepcopy(clip_resnet_mini.config())
    config["model_cfg"]["vision_cfg"] = {
        "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0
    }  # fmt: skip
    model = open_clip.CLIP(**config["model_cfg"])
    for name, parameter in model.visual.named_parameters():
        if name.endswith("bias") or "ln_" in name:  # as they are only before training: 0, or 1
            parameter.data += 0.2 * torch.randn_like(parameter)
    cards.save_clip(root / "clip", model, clip_resnet_mini.tokenizer(), config)
    noise = np.random.default_rng(0)
    for number in range(11):
        path = root / "val" / ("n01440764", "n03028079")[number % 2] / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (*noise.integers(20, 60, 2), 3), dtype=np.uint8)).save(path)
    return root / "clip", root / "val"


def options_for(clip: Path, images: Path, folder: Path) -> list[str]:
    sizes = ["--block", "4", "--batch", "2", "--workers", "2", "--subset"]
    return [
        "--model",
        f"local-dir:{clip}",
        "--data",
        "imagenet",
        "--images",
        str(images),
        "--folder",
        str(folder),
        *sizes,
    ]


def command(options: list[str]) -> Result:
    return CliRunner().invoke(app, ["extract", *options])


def test_torchrun_leaves_the_decomposition_of_every_image(clip_and_photographs, tmp_path) -> None:
    clip, images = clip_and_photographs
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "xaikit", "extract"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    options = ["--profile", "paper", *options_for(clip, images, tmp_path / "out")]
    done = subprocess.run([*torchrun, *options], capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "process 0 of 2 computed 2 blocks" in done.stdout and "process 1 of 2 computed 1 blocks" in done.stdout

    merged, data = merge(tmp_path / "out"), read_validation(images, subset=True)
    assert merged.ids == data.ids and len(merged) == 11
    found = Coefficients(**merged.load())
    encoder = load_clip(f"local-dir:{clip}").image_encoder
    for position in range(0, 11, 5):
        image = data[position].image[None] / 255
        expected = coefficients(encoder, image)
        for name, tensor in vars(expected).items():
            torch.testing.assert_close(getattr(found, name)[position], tensor[0], atol=1e-5, rtol=1e-4)
        with torch.no_grad():
            embedding = F.normalize(encoder(image), dim=-1)[0]
        torch.testing.assert_close(found.embedding[position], embedding, atol=1e-5, rtol=0)

    # Started once more, in this process and on other threads, with one missing block: the others stay as they are.
    variables = {"RANK": "0", "WORLD_SIZE": "1"}
    torch.set_num_threads(2)
    (tmp_path / "out" / name_of(1)).unlink()
    kept = {path: path.read_bytes() for path in blocks(tmp_path / "out")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        done = command(options)
        assert done.exit_code == 0, done.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert_equal_up_to_rounding(vars(Coefficients(**merge(tmp_path / "out").load())), vars(found))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_waterbirds_are_extracted_too(clip_and_photographs, tmp_path, on_cpu) -> None:
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 90, 20)).save(tmp_path / f"{number}.jpg")
        lines.append(f"{number},{number}.jpg,{number % 2},{1 + (number > 0)},0,x.jpg")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    options = options_for(clip_and_photographs[0], tmp_path, tmp_path / "out")
    options[options.index("imagenet")] = "waterbirds"
    done = command(options)
    assert done.exit_code == 0 and "process 0 of 1 computed 1 blocks" in done.stdout
    assert merge(tmp_path / "out").ids == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    # The validation split is another extraction.
    refused = command([*options, "--split", "val"])
    assert refused.exit_code == 1 and "holds another extraction" in refused.stderr


def test_what_the_command_cannot_do_is_said_in_a_sentence(clip_and_photographs, tmp_path, on_cpu) -> None:
    clip, images = clip_and_photographs
    options = options_for(clip, images, tmp_path / "out")
    assert "there is nothing to extract" in command(["--profile", "mini", *options]).stdout
    for change, message in (
        ({f"local-dir:{clip}": "ViT-B-16"}, "ViT-B-16 would have random weights; name some with --pretrained"),
        ({str(images): str(tmp_path / "nowhere")}, "nowhere is missing"),
        ({"--subset": "--block=4"}, "holds 11 images of 2 classes"),
        ({"--subset": "--profile=huge"}, "unknown profile 'huge': choose one of mini, paper"),
    ):
        refused = command([change.get(option, option) for option in options])
        assert refused.exit_code == 1 and message in refused.stderr
        assert len(refused.stderr.splitlines()) == 1 and refused.stdout == ""
    assert not (tmp_path / "out").exists()
