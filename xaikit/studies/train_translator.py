"""Train paper 2's translator on the papers' pairs: `accelerate launch -m xaikit train-translator --help`."""

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms import Normalize

from xaikit.datasets import captions
from xaikit.models.captioner import LanguageModel, load_captioner
from xaikit.models.hub import timm_model
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.arithmetic import cores, training_precision
from xaikit.storage.files import write_text
from xaikit.storage.seeding import seed_for
from xaikit.studies.texplain import encoded
from xaikit.texplain.training import PAPER, Batch, train, write_translator
from xaikit.texplain.translator import Features, Translator, sentence_loss

TRIED = 64  # images at most, to see how long a training will take


def train_translator(
    output: Path,
    *,
    shards: Sequence[str] = (),
    pairs: int = 0,
    coco: Path | None = None,
    classifier: str = "vit_base_patch16_384.orig_in21k_ft_in1k",
    layer: str = "norm",
    language: str = "Salesforce/blip-image-captioning-base",
    prompt: str = "a picture of",
    longest: int = 40,
    variant: str = "token",
    epochs: tuple[int, int] | None = None,
    learning_rates: tuple[float, float] | None = None,
    batch: int = PAPER["web"].batch,
    workers: int = 4,
    seed: int = 0,
) -> None:
    """The paper's training: on `shards` of web pairs, `pairs` of them an epoch, then on COCO of 2017 in `coco`.

    The folder `output` gets translator.safetensors, training.json, and checkpoints, from which a killed run goes on.
    `classifier` is timm's name, `layer` the module of it that gives the features; `language` is transformers' name or
    folder of a BLIP, which starts every caption with `prompt`, and cuts it off after `longest` tokens. `batch` images
    make a step, of all processes together; `workers` read them, for each process. `epochs` and `learning_rates` are of
    both stages, by default those of `PAPER`.
    Raises ValueError where there is nothing to train on, or too little, and what the readers and `train` raise.
    """
    epochs = epochs or tuple(recipe.epochs for recipe in PAPER.values())
    learning_rates = learning_rates or tuple(recipe.learning_rate for recipe in PAPER.values())
    options = dict(locals())  # before there is anything else
    stages = {}
    if shards:
        stages["web"] = captions.read_shards(*shards), pairs
    if coco is not None:
        told = captions.read_coco(coco, "train")
        stages["coco"] = told, len(told)
    accelerator = Accelerator()
    device, processes = str(accelerator.device), accelerator.num_processes
    if not stages:
        raise ValueError("There is nothing to train on: give --shards with --pairs, --coco, or both.")
    if batch % processes:
        raise ValueError(f"A batch of {batch} cannot be shared by {processes} processes: choose another.")
    network = timm_model(classifier).requires_grad_(False)
    data = timm.data.resolve_model_data_config(network)
    size, share = data["input_size"][-1], batch // processes
    encoder = nn.Sequential(Normalize(data["mean"], data["std"]), Features(network, layer)).to(device)
    with torch.no_grad():
        _, tokens, width = encoder(torch.zeros(1, 3, size, size, device=device)).shape
    speaker = load_captioner(language, prompt, device).language
    torch.manual_seed(seed_for(seed, "translator", "weights"))
    translator = Translator(tokens, width, speaker.width, variant=variant)

    odd: Counter[str] = Counter()
    crop = Preprocessed(nn.Identity(), size, (0.0,) * 3, (1.0,) * 3).prepare
    # A GPU resizes a picture in less time than a core takes to decode it; without one the workers do it.
    fitted, whole = partial(_fitted, crop), device == "cpu"
    reading = {
        "prepare": fitted if whole else _as_read,
        "join": captions.stacked if whole else lambda images: torch.stack([fitted(i.to(device)) for i in images]),
        "least": size,  # `read_image` says what it changes; pictures below twice this size, as COCO's, are read whole
    }
    told_in = partial(encoded, speaker, longest=longest, counts=odd)
    pairs_read: Counter[str] = Counter()  # and those that were not

    def batches(stage: str, epoch: int) -> Iterator[Batch]:
        """Full batches; a process whose pairs are at an end starts them again."""
        for turn in count():
            given = 0
            for images, sentences in captions.batches(
                stages[stage][0], encode=told_in, batch=share, seed=seed_for(seed, "translator", stage, turn),
                epoch=epoch, process=accelerator.process_index, processes=processes, workers=workers, counts=pairs_read,
                **reading,
            ):  # fmt: skip
                if len(images) == share:
                    given += 1
                    yield images, sentences
            if not given:
                raise ValueError(f"A process has fewer than {share} pairs: give more, or a smaller batch.")

    curves = {}
    for stage, turns, rate in zip(PAPER, epochs, learning_rates, strict=True):
        if stage in stages:
            recipe = replace(PAPER[stage], epochs=turns, learning_rate=rate, batch=batch)
            source, told = stages[stage]
            if accelerator.is_main_process:
                tried = partial(_tried, translator, speaker, encoder, recipe.precision, device)
                told_of = partial(encoded, speaker, longest=longest)
                read, trained = _seconds_an_image(source, reading, told_of, tried, min(TRIED, share))
                together = max(1, min(workers, cores() // min(processes, torch.cuda.device_count() or processes)))
                print(f"{stage}: {expected(told, turns, processes * together / read, processes / trained)}", flush=True)
            curves[stage] = train(
                translator, speaker.decoder, partial(batches, stage), recipe, prompt=len(speaker.prompt),
                pad=speaker.pad, steps_an_epoch=stages[stage][1] // batch, seed=seed, encoder=encoder,
                checkpoint=output / f"{stage}.checkpoint.safetensors", accelerator=accelerator,
            )  # fmt: skip
    if accelerator.is_main_process:
        write_translator(output / "translator.safetensors", translator)
        about = {"options": {key: str(value) for key, value in options.items()}, "captions": odd, "pairs": pairs_read}
        about["losses"] = curves
        write_text(output / "training.json", json.dumps(about, indent=1) + "\n")
        if len(pairs_read) > 1:
            print(f"pairs: {', '.join(f'{number:,} {what}' for what, number in pairs_read.most_common())}")
        for stage, curve in curves.items():
            print(f"{stage}: a loss of {curve[-1]:.4f} nats a token in the last of {len(curve):,} steps")


def expected(pairs: int, epochs: int, read: float, trained: float) -> str:
    """How long a training will take at these rates of reading and of training, in images a second, and what bounds it.

    >>> expected(14_000_000, 20, read=1_900, trained=4_000)
    '14,000,000 pairs × 20 epochs at 1,900 images/s: 41 h; bound by decoding'
    """
    rate = min(read, trained)
    seconds = pairs * epochs / rate
    unit, size = next(
        (unit, size) for unit, size in (("h", 3_600), ("min", 60), ("s", 1)) if seconds >= size or size == 1
    )
    by = "decoding" if read < trained else "the device"
    return f"{pairs:,} pairs × {epochs} epochs at {rate:,.0f} images/s: {seconds / size:.0f} {unit}; bound by {by}"


def _seconds_an_image(
    source: captions.CocoCaptions | captions.Shards,
    reading: Mapping[str, Any],
    encode: captions.Encode,
    step: Callable[[Tensor, Tensor], None],
    few: int,
) -> tuple[float, float]:
    """How long one worker takes to read an image, and the device to train with one; of a few of the first."""
    images, texts, counts = [], [], Counter()
    if isinstance(source, captions.Shards):
        source = replace(source, buffer=1)  # a large one is filled before the first pair comes
    start = time.monotonic()
    for image, caption in islice(source.pairs(0, 0, 0, 1, counts, reading["least"]), few):
        images.append(reading["prepare"](image))
        texts.append(caption)
    read = (time.monotonic() - start) / max(1, len(images))
    if len(images) < 2:
        raise ValueError("The first pairs cannot be read: check that images and captions lie under the same names.")
    sentences = encode(texts, counts=counts)
    for _ in range(2):  # the first call of anything on a GPU takes long
        start = time.monotonic()
        step(reading["join"](images), sentences)
    return read, (time.monotonic() - start) / len(images)


def _tried(
    translator: Translator,
    speaker: LanguageModel,
    encoder: nn.Module,
    precision: str,
    device: str,
    images: Tensor,
    sentences: Tensor,
) -> None:
    """A step of training that changes nothing."""
    copied = copy.deepcopy(translator).to(device).train()
    with training_precision(device, precision):
        with torch.no_grad():
            features = encoder(images.to(device)).float()
        told = {"prompt": len(speaker.prompt), "pad": speaker.pad}
        loss = sentence_loss(speaker.decoder, copied(features), sentences.to(device), **told)
    loss.backward()
    loss.item()  # waits for the GPU


def _as_read(image: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 height width"]:
    return image


def _fitted(crop: Callable[[Tensor], Tensor], image: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 size size"]:
    """An image as the classifier takes it, but for its normalisation."""
    return crop(image[None].float() / 255)[0]
