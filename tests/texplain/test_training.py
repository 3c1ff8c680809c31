"""The training against a plain loop, against itself after a kill, and in two processes against one."""

import errno
import inspect
import io
import json
import math
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipTextLMHeadModel
from typer.testing import CliRunner, Result

from xaikit.__main__ import app
from xaikit.models.clip_training import word_tokenizer
from xaikit.storage import cache, paths
from xaikit.texplain import training
from xaikit.texplain.training import PAPER, InMemory, Recipe, read_translator, train, write_translator
from xaikit.texplain.translator import Translator, sentence_loss

PAD, START, END, WORDS, PROMPT = 0, 1, 2, 6, 1
IMAGES, TOKENS, WIDTH = 40, 3, 8
RECIPE = Recipe(epochs=2, batch=8, learning_rate=0.01, warm_up=0.2)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=3 + WORDS, hidden_size=16, encoder_hidden_size=12, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=START, sep_token_id=END, pad_token_id=PAD,
        initializer_range=0.5,
    )  # fmt: skip
    return BlipTextLMHeadModel(config).eval().requires_grad_(False)


def translator(**changes: object) -> Translator:
    torch.manual_seed(1)
    return Translator(TOKENS, WIDTH, 12, **changes)


def pairs() -> tuple[Tensor, Tensor]:
    """Features that say which word comes, with two captions each: the word once, and three times."""
    draw = torch.Generator().manual_seed(2)
    word = torch.randint(WORDS, (IMAGES,), generator=draw)
    directions = torch.randn(WORDS, TOKENS, WIDTH, generator=draw)
    features = directions[word] + 0.3 * torch.randn(IMAGES, TOKENS, WIDTH, generator=draw)
    sentences = torch.tensor([[[START, w, END, PAD, PAD], [START, w, w, w, END]] for w in (3 + word).tolist()])
    return features, sentences


def fitted(
    model: Translator,
    batches: Callable | None = None,
    recipe: Recipe = RECIPE,
    *,
    speaker: nn.Module | None = None,
    **changes: object,
) -> list[float]:
    batches = InMemory(*pairs(), recipe.batch, seed=3) if batches is None else batches
    common = {"prompt": PROMPT, "pad": PAD, "steps_an_epoch": 5, "seed": 3, "accelerator": Accelerator(cpu=True)}
    return train(model, decoder() if speaker is None else speaker, batches, recipe, **{**common, **changes})


def plain(model: Translator, recipe: Recipe) -> list[float]:
    """The same training, written out."""
    speaker, batches, curve = decoder(), InMemory(*pairs(), recipe.batch, seed=3), []
    steps = recipe.epochs * len(batches)
    optimiser = torch.optim.AdamW(model.train().parameters(), weight_decay=recipe.weight_decay)
    for features, sentences in (batch for epoch in range(recipe.epochs) for batch in batches(epoch)):
        optimiser.param_groups[0]["lr"] = recipe.rate(len(curve), steps)
        loss = sentence_loss(speaker, model(features), sentences, prompt=PROMPT, pad=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    return curve


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


def test_the_training_is_that_of_a_plain_loop() -> None:
    found, expected = translator(), translator()
    curve = fitted(found)
    torch.testing.assert_close(curve, plain(expected, RECIPE), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=1e-5)
    assert not found.training and len(curve) == 10


def test_it_trains_where_it_is_asked_to_whichever_device_the_process_had_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "device", property(lambda self: torch.device("meta")))
    found, expected = translator(), translator()
    curve = fitted(found, accelerator=None, device="cpu")
    assert curve == pytest.approx(plain(expected, RECIPE), abs=1e-6)
    assert {tensor.device.type for tensor in found.state_dict().values()} == {"cpu"}


def test_who_looks_after_each_epoch_changes_nothing_and_may_end_it() -> None:
    watched, alone, stopped, seen = translator(), translator(), translator(), []

    def look(epoch: int) -> bool:
        watched.eval()  # as one does to look at the loss of other pairs
        seen.append(epoch)
        return False

    assert fitted(watched, after_epoch=look) == fitted(alone) and same(watched, alone)
    assert seen == [1, 2] and not watched.training
    assert len(fitted(stopped, after_epoch=lambda epoch: epoch == 1)) == 5 and not stopped.training


def test_padding_behind_all_sentences_of_a_batch_changes_nothing() -> None:
    features, sentences = pairs()
    padded = nn.functional.pad(sentences, (0, 4), value=PAD)
    found, expected = translator(), translator()
    curve = fitted(found, InMemory(features, padded, RECIPE.batch, seed=3))
    assert curve == fitted(expected) and same(found, expected)


@pytest.mark.parametrize("variant", ["token", "bottleneck", "flat"])
def test_the_translator_learns_to_say_the_word(variant: str) -> None:
    model, recipe = translator(variant=variant), Recipe(epochs=10, batch=8, learning_rate=0.01)
    curve = fitted(model, recipe=recipe)
    assert sum(curve[-5:]) < 0.7 * sum(curve[:5])
    features, sentences = pairs()
    told = sentences[:, 0]
    with torch.no_grad():
        wrong = sentence_loss(decoder(), model(features.roll(1, 0)), told, prompt=PROMPT, pad=PAD)
        right = sentence_loss(decoder(), model(features), told, prompt=PROMPT, pad=PAD)
    assert right < 0.7 * wrong


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    recipe = Recipe(epochs=1, batch=2, learning_rate=2.0, warm_up=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    np.testing.assert_allclose(np.diff(rates[:10]), 2 / 11)
    np.testing.assert_allclose(rates[10:], [1 + math.cos(math.pi * i / 90) for i in range(90)])
    assert Recipe(epochs=1, batch=2, learning_rate=2.0, warm_up=0).rate(0, 5) == 2.0


class Encoder(nn.Module):
    """Features of "images", which must not get gradients."""

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return images[:, 0] / 2


def test_an_encoder_makes_the_features_of_what_batches_hold() -> None:
    batches = InMemory(*pairs(), RECIPE.batch, seed=3)

    def images(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for features, sentences in batches(epoch):
            yield 2 * features[:, None], sentences

    found, expected = translator(), translator()
    assert fitted(found, images, encoder=Encoder()) == fitted(expected)
    assert same(found, expected)


@pytest.mark.parametrize("at_once", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("variant", ["token", "bottleneck"])
def test_a_batch_in_parts_takes_the_same_steps_with_batch_norms_of_the_whole(
    variant: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captions differ in length, so that the mean over tokens is no mean of the parts' means."""
    features, sentences = pairs()
    sentences[::3, :, -1] = PAD
    batches = InMemory(features, sentences, RECIPE.batch, seed=3)
    whole, parts, seen = translator(variant=variant), translator(variant=variant), []
    curve = fitted(whole, batches)
    loss = training.sentence_loss
    monkeypatch.setattr(
        training,
        "sentence_loss",
        lambda decoder, part, *rest, **more: seen.append(len(part)) or loss(decoder, part, *rest, **more),
    )
    found = fitted(parts, batches, replace(RECIPE, at_once=at_once))
    assert max(seen) == min(at_once, RECIPE.batch) and sum(seen) == RECIPE.epochs * len(features)
    # In a bottleneck a bias before a batch norm does nothing, and AdamW makes much of its gradient, which is rounding.
    torch.testing.assert_close(found, curve, rtol=0, atol=2e-6 if variant == "token" else 1e-5)
    if variant == "token":
        torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=2e-5)
    if at_once >= RECIPE.batch:
        assert found == curve and same(parts, whole)


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def noisy(stop: int | None = None) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Batches with augmentation out of torch's own stream; in step `stop` the machine fails."""
    batches = InMemory(*pairs(), RECIPE.batch, seed=3)

    def given(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        shift = torch.randn(1)
        for i, (features, sentences) in enumerate(batches(epoch)):
            if epoch * 5 + i == stop:
                raise KeyboardInterrupt
            yield features + 0.1 * torch.randn(features.shape) + shift, sentences

    return given


@pytest.mark.parametrize("stops", [[2], [3], [4, 5, 8]])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, stops: list[int]) -> None:
    whole, checkpoint = translator(), tmp_path / "below" / "checkpoint.safetensors"
    curve = fitted(whole, noisy())
    for stop in stops:
        torch.manual_seed(stop)  # whatever happened before in the new process
        broken = translator()
        with pytest.raises(KeyboardInterrupt):
            fitted(broken, noisy(stop), checkpoint=checkpoint, checkpoint_steps=3)
        assert checkpoint.exists() == (stop >= 3)
    resumed, seen = translator(), []

    def counted(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seen.append(epoch)
        return noisy()(epoch)

    assert fitted(resumed, counted, checkpoint=checkpoint, checkpoint_steps=3) == curve
    assert same(resumed, whole)
    assert seen == ([1] if stops[-1] == 8 else [0, 1])
    finished = translator()
    assert fitted(finished, noisy(0), checkpoint=checkpoint) == curve  # there is nothing left to do
    assert same(finished, whole) and not finished.training
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.safetensors"]


def test_a_full_disk_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, checkpoint, other = translator(), tmp_path / "checkpoint.safetensors", tmp_path / "other.safetensors"
    curve = fitted(whole)
    write_translator(other, whole)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save_file", refuse)
    monkeypatch.setenv("XAIKIT_CACHE_GB", "0")
    with pytest.warns(UserWarning, match="the training so far cannot be kept and will be computed again: .*No space"):
        assert fitted(again := translator(), checkpoint=checkpoint, checkpoint_steps=3) == curve
    assert same(again, whole) and not checkpoint.exists()
    monkeypatch.undo()
    monkeypatch.setenv("XAIKIT_CACHE_GB", "0")
    fitted(translator(), checkpoint=checkpoint)
    assert checkpoint.exists() and other.exists()  # what lies beside a checkpoint is not the cache's to remove


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    fitted(translator(), checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    other = translator()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    blank = decoder()
    blank.cls.predictions.bias.add_(1)
    for model, changes, what in (
        (translator(), {"recipe": Recipe(epochs=3, batch=8, learning_rate=0.01)}, "recipe"),
        (translator(), {"seed": 4}, "seed"),
        (translator(), {"steps_an_epoch": 4}, "number of steps an epoch"),
        (translator(), {"pad": 7}, "prompt or padding"),
        (other, {}, "translator to start from"),
        (translator(), {"speaker": blank}, "decoder"),
        (translator(), {"encoder": nn.BatchNorm1d(TOKENS)}, "encoder"),
        (translator(hidden=5), {}, "translator to start from"),
    ):
        with pytest.raises(ValueError, match=f"of a training with another {what}: delete it"):
            fitted(model, checkpoint=checkpoint, **changes)
    write_translator(checkpoint, translator())
    with pytest.raises(ValueError, match="of a training with another recipe"):
        fitted(translator(), checkpoint=checkpoint)
    checkpoint.write_bytes(before)
    fitted(translator(), checkpoint=checkpoint)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    fitted(translator(), checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for content in (whole[:-10], whole[:30], b"", bytes(flipped)):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged or not of this package"):
            fitted(translator(), checkpoint=checkpoint)
    save_file({"weights": torch.zeros(2)}, checkpoint)
    with pytest.raises(ValueError, match="damaged or not of this package"):
        fitted(translator(), checkpoint=checkpoint)


# --- Several processes ------------------------------------------------------------------------------------------------


class Speaker(nn.Module):
    """A decoder in small, as transformers takes seconds to import: each token and the mean of what it is told."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(vocab_size=9, max_position_embeddings=12)
        self.tokens, self.head = nn.Embedding(9, 12), nn.Linear(12, 9)
        self.crossattention = nn.ModuleDict({"self": nn.ModuleDict({"key": nn.Linear(12, 12)})})

    def forward(self, input_ids, attention_mask, encoder_hidden_states, use_cache):
        told = self.crossattention["self"]["key"](encoder_hidden_states).mean(1, keepdim=True)
        return SimpleNamespace(logits=self.head(torch.tanh(self.tokens(input_ids) + told)))


# What each process runs: `sys.argv` names the file with what all share, and the one for its weights.
PROCESS = """
import json, sys, warnings
warnings.simplefilter("error")
from types import SimpleNamespace
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from xaikit.texplain.translator import Translator
from xaikit.texplain.training import InMemory, Recipe, train

{speaker}
given = load_file(sys.argv[1])
accelerator = Accelerator(cpu=True)
data = InMemory(given.pop("features"), given.pop("sentences"), 8, 3, accelerator.process_index, 2)
model = Translator(**json.loads(sys.argv[3]))
if accelerator.is_main_process:  # the others get its weights
    model.load_state_dict(given)
recipe = Recipe(epochs=2, batch=8, learning_rate=0.01, warm_up=0.2)
curve = train(model, Speaker(), data, recipe, prompt=1, pad=0, steps_an_epoch=5, seed=3, accelerator=accelerator)
save_file({**model.state_dict(), "curve": torch.tensor(curve)}, sys.argv[2])
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    model = translator()
    features, sentences = pairs()
    given, script = tmp_path / "given.safetensors", PROCESS.replace("{speaker}", inspect.getsource(Speaker))
    save_file({"features": features, "sentences": sentences, **model.state_dict()}, given)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
              "OMP_NUM_THREADS": "1"}  # accelerate warns where it is not set  # fmt: skip
    running = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(paths.ROOT)}
        found = tmp_path / f"{rank}.safetensors"
        command = [sys.executable, "-c", script, str(given), str(found), json.dumps(model.arguments)]
        running.append((found, subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)))
    expected = {"curve": torch.tensor(fitted(model, speaker=Speaker())), **model.state_dict()}
    try:
        for found, process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()
            torch.testing.assert_close(load_file(found), expected, rtol=0, atol=1e-4)
    finally:
        for _, process in running:
            process.kill()
            process.communicate()


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_batches_in_memory_hold_each_image_once_an_epoch_with_one_of_its_captions() -> None:
    features = torch.arange(11.0)[:, None, None].expand(11, 2, 3).half()
    sentences = torch.arange(44).view(11, 4, 1).expand(11, 4, 5)
    data = InMemory(features, sentences, 4, seed=0)
    assert len(data) == 3
    orders, chosen = [], []
    for epoch in (0, 1, 2):
        given = list(data(epoch))
        assert sorted(len(part) for part, _ in given) == [3, 4, 4]  # of nearly one size
        images = torch.cat([part[:, 0, 0] for part, _ in given])
        texts = torch.cat([part[:, 0] for _, part in given])
        assert images.dtype == torch.float32 and sorted(images.tolist()) == list(range(11))
        assert torch.equal(texts // 4, images.long())
        orders.append(images.tolist())
        chosen += (texts % 4).tolist()
    assert orders[0] != orders[1] != orders[2] and set(chosen) == {0, 1, 2, 3}
    assert all(torch.equal(a[1], b[1]) for a, b in zip(data(1), data(1), strict=True))
    shares = [InMemory(features, sentences, 4, 0, process, 2) for process in (0, 1)]
    for whole, *parts in zip(data(0), *(share(0) for share in shares), strict=True):
        assert sorted(whole[1][:, 0].tolist()) == sorted(torch.cat([part[1][:, 0] for part in parts]).tolist())


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_a_training_refuses(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    batches = InMemory(*pairs(), RECIPE.batch, seed=3)
    with pytest.raises(ValueError, match="Epoch 1 ended after 5 of its 6 batches"):
        fitted(translator(), batches, steps_an_epoch=6)
    with pytest.raises(ValueError, match="steps_an_epoch of train"):
        fitted(translator(), batches, steps_an_epoch=0, checkpoint=checkpoint)
    speaker = decoder()
    speaker.cls.predictions.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="The loss is nan in step 1; lower the learning rate"):
        fitted(translator(), batches, speaker=speaker, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="NaN or infinity: look at the translator's weights, or lower its learning"):
        fitted(translator(), batches, Recipe(epochs=2, batch=8, learning_rate=1e30, warm_up=0), checkpoint=checkpoint)
    assert not checkpoint.exists()
    features, sentences = pairs()
    for bad in ((features[:1], sentences[:1]), (features, sentences[:5]), (features, sentences[:, :0])):
        with pytest.raises(ValueError, match=r"sentences of InMemory|give both of at least two"):
            InMemory(*bad, 8, seed=0)
    with pytest.raises(ValueError, match="in batches of 1: give"):
        InMemory(features, sentences, 1, seed=0)
    assert [len(rows) for rows, _ in InMemory(features[:5], sentences[:5], 2, seed=0)(0)] == [3, 2]
    for changes in ({"epochs": 0}, {"batch": 1}, {"learning_rate": 0.0}, {"warm_up": 1.0}):
        with pytest.raises(ValueError, match="makes no training"):
            Recipe(**{"epochs": 1, **changes})


def test_a_translator_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, model = tmp_path / "translator.safetensors", translator(variant="bottleneck", hidden=4, activation=True)
    model(torch.randn(2, TOKENS, WIDTH))  # batch norm has seen something
    write_translator(path, model)
    read = read_translator(path)
    assert same(read, model) and read.arguments == model.arguments and not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    fitted(translator(), checkpoint=path.with_name("checkpoint"))
    with pytest.raises(ValueError, match="checkpoint holds no translator"):
        read_translator(path.with_name("checkpoint"))
    with pytest.raises(ValueError, match="absent is damaged or not"):
        read_translator(tmp_path / "absent")


# --- The command ------------------------------------------------------------------------------------------------------

TEXTS = ("a red bird", "one bird on the water", "a blue dog", "the dog in the wood near water and near a red bird")


def jpeg(seed: int) -> bytes:
    buffer, draw = io.BytesIO(), np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """A classifier, a BLIP, COCO and web pairs in small, each in its own layout."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 12, "num_heads": 2, "num_classes": 3}
    classifier = timm.create_model("vit_tiny_patch16_224", **sizes)
    classifier.pretrained_cfg["input_size"] = (3, 32, 32)
    save_for_hf(classifier, str(tmp_path / "vit"), model_args=sizes)

    tokenizer = word_tokenizer([*TEXTS, "a picture of"], 16)
    config = BlipConfig(
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                       "image_size": 16, "patch_size": 8},
        text_config={"vocab_size": len(tokenizer), "hidden_size": 8, "encoder_hidden_size": 8, "intermediate_size": 8,
                     "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 16,
                     "bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id,
                     "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(tmp_path / "blip")
    tokenizer.save_pretrained(tmp_path / "blip")

    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i:012}.jpg"} for i in range(9)]
    for image in images:
        (tmp_path / "coco" / "train2017" / image["file_name"]).write_bytes(jpeg(image["id"]))
    told = [{"image_id": i, "caption": TEXTS[(i + j) % 4]} for i in range(9) for j in range(2)]
    content = json.dumps({"images": images, "annotations": told})
    (tmp_path / "coco" / "annotations" / "captions_train2017.json").write_text(content)

    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05}.tar", "w") as tar:
            for i in range(5):
                for ending, content in ((".jpg", jpeg(100 + 5 * shard + i)), (".txt", TEXTS[i % 4].encode())):
                    entry = tarfile.TarInfo(f"{shard:05}{i:04}{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return tmp_path


def command(folder: Path, *changes: str) -> Result:
    models = ("--classifier", f"local-dir:{folder / 'vit'}", "--language", str(folder / "blip"))
    budget = ("--epochs", "2", "1", "--batch", "4", "--workers", "0", "--longest", "10")
    return CliRunner().invoke(app, ["train-translator", str(folder / "out"), *models, *budget, *changes])


@pytest.mark.slow
def test_the_command_trains_in_two_stages_and_goes_on_where_it_was_killed(downloaded: Path) -> None:
    data = ("--shards", str(downloaded / "{00000..00001}.tar"), "--pairs", "10", "--coco", str(downloaded / "coco"))
    assert "coco: a loss of" in command(downloaded, *data).stdout
    out = downloaded / "out"
    model = read_translator(out / "translator.safetensors")
    assert model.arguments["tokens"] == 5 and model.arguments["width"] == 12 and model.arguments["to_width"] == 8
    report = json.loads((out / "training.json").read_text())
    assert report["options"].items() >= {"epochs": "(2, 1)", "layer": "norm", "pairs": "10"}.items()
    assert report["options"]["learning_rates"] == str(tuple(recipe.learning_rate for recipe in PAPER.values()))
    assert [len(report["losses"][stage]) for stage in ("web", "coco")] == [4, 2]
    assert all(math.isfinite(loss) for curve in report["losses"].values() for loss in curve)
    # As if it had been killed in the second stage.
    for name in ("coco.checkpoint.safetensors", "translator.safetensors"):
        (out / name).unlink()
    assert command(downloaded, *data).exit_code == 0
    assert same(read_translator(out / "translator.safetensors"), model)


def test_a_stage_starts_its_pairs_again_where_they_end_sooner(downloaded: Path) -> None:
    # Ten pairs make two full batches, and the epoch is to have five.
    assert command(downloaded, "--shards", str(downloaded / "*.tar"), "--pairs", "20").exit_code == 0
    report = json.loads((downloaded / "out" / "training.json").read_text())
    assert {stage: len(curve) for stage, curve in report["losses"].items()} == {"web": 10}


def test_the_command_says_in_a_sentence_what_is_wrong(downloaded: Path) -> None:
    for changes, sentence in (
        ((), "nothing to train on"),
        (("--coco", str(downloaded / "absent")), "captions_train2017.json is missing"),
        (("--coco", str(downloaded / "coco"), "--layer", "norn"), "did you mean 'norm'?"),
        (("--coco", str(downloaded / "coco"), "--batch", "32"), "steps_an_epoch of train is 0"),
        (("--coco", str(downloaded / "coco"), "--longest", "5"), "No word has room in 5 tokens"),
        (("--shards", str(downloaded / "*.tar")), "steps_an_epoch of train is 0"),
        (("--shards", str(downloaded / "*.tar"), "--pairs", "99", "--batch", "16"), "fewer than 16 pairs"),
    ):
        refused = command(downloaded, *changes)
        assert refused.exit_code == 1 and sentence in refused.stderr
        assert not list(downloaded.glob("out/*"))
