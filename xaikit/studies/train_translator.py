"""Train paper 2's translator on the papers' pairs: `accelerate launch -m xaikit train-translator --help`."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms import Normalize

from xaikit.datasets import captions
from xaikit.models.captioner import load_captioner
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.files import write_text
from xaikit.storage.seeding import seed_for
from xaikit.studies.texplain import encoded
from xaikit.texplain.training import PAPER, Batch, train, write_translator
from xaikit.texplain.translator import Features, Translator


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
    network = timm.create_model(classifier, pretrained=True).requires_grad_(False)
    data = timm.data.resolve_model_data_config(network)
    size, share = data["input_size"][-1], batch // processes
    encoder = nn.Sequential(Normalize(data["mean"], data["std"]), Features(network, layer)).to(device)
    with torch.no_grad():
        _, tokens, width = encoder(torch.zeros(1, 3, size, size, device=device)).shape
    speaker = load_captioner(language, prompt, device).language
    torch.manual_seed(seed_for(seed, "translator", "weights"))
    translator = Translator(tokens, width, speaker.width, variant=variant)

    odd: Counter[str] = Counter()
    pairs_read: Counter[str] = Counter()  # and those that were not

    def batches(stage: str, epoch: int) -> Iterator[Batch]:
        """Full batches; a process whose pairs are at an end starts them again."""
        for turn in count():
            given = 0
            for images, sentences in captions.batches(
                stages[stage][0], partial(_fitted, size=size), partial(encoded, speaker, longest=longest, counts=odd),
                share, seed=seed_for(seed, "translator", stage, turn), epoch=epoch,
                process=accelerator.process_index, processes=processes, workers=workers, counts=pairs_read,
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


def _fitted(image: UInt8[Tensor, "3 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """An image as the classifier takes it, but for its normalisation."""
    return Preprocessed(nn.Identity(), size, (0.0,) * 3, (1.0,) * 3).prepare(image[None].float() / 255)[0]
