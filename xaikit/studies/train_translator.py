"""Train paper 2's translator on the papers' pairs: `accelerate launch -m xaikit.studies.train_translator --help`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from xaikit.models.captioner import LanguageModel, load_captioner
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.tokens import losses
from xaikit.storage.files import write_text
from xaikit.storage.seeding import seed_for
from xaikit.texplain.training import PAPER, Batch, train, write_translator
from xaikit.texplain.translator import Features, Translator


def main(arguments: Sequence[str] | None = None) -> int:
    """The paper's training: on shards of web pairs, then on COCO; returns 0, or 1 after saying what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m xaikit.studies.train_translator", description=__doc__)
    add = parser.add_argument
    add("output", type=Path, help="folder for translator.safetensors, training.json and checkpoints to go on from")
    add("--shards", nargs="+", metavar="PATTERN", help="webdataset shards of the first stage, cc3m/{00000..00331}.tar")
    add("--pairs", type=int, default=0, help="how many pairs of the shards make an epoch")
    add("--coco", type=Path, metavar="FOLDER", help="COCO of 2017, for the second stage")
    add("--classifier", default="vit_base_patch16_384.orig_in21k_ft_in1k", help="timm's name of it")
    add("--layer", default="norm", help="the module of it that gives the features")
    add("--language", default="Salesforce/blip-image-captioning-base", help="transformers' name or folder of a BLIP")
    add("--prompt", default="a picture of", help="what is put before every caption")
    add("--longest", type=int, default=40, help="tokens of a caption, with prompt and end, after which it is cut off")
    add("--variant", default="token", choices=("token", "bottleneck", "flat"), help="of the translator")
    add("--epochs", type=int, nargs=2, default=[r.epochs for r in PAPER.values()], help="of both stages")
    add("--learning-rates", type=float, nargs=2, default=[r.learning_rate for r in PAPER.values()])
    add("--batch", type=int, default=PAPER["web"].batch, help="images a step, of all processes together")
    add("--workers", type=int, default=4, help="processes that read images, for each process that trains")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    # The command alone needs these, and they take seconds.
    import timm
    from torchvision.transforms import Normalize

    from xaikit.datasets import captions

    stages = {}
    if options.shards:
        stages["web"] = captions.read_shards(*options.shards), options.pairs
    if options.coco is not None:
        coco = captions.read_coco(options.coco, "train")
        stages["coco"] = coco, len(coco)
    accelerator = Accelerator()
    device, processes = str(accelerator.device), accelerator.num_processes
    if not stages:
        raise ValueError("There is nothing to train on: give --shards with --pairs, --coco, or both.")
    if options.batch % processes:
        raise ValueError(f"A batch of {options.batch} cannot be shared by {processes} processes: choose another.")
    classifier = timm.create_model(options.classifier, pretrained=True).requires_grad_(False)
    data = timm.data.resolve_model_data_config(classifier)
    size, share = data["input_size"][-1], options.batch // processes
    encoder = nn.Sequential(Normalize(data["mean"], data["std"]), Features(classifier, options.layer)).to(device)
    with torch.no_grad():
        _, tokens, width = encoder(torch.zeros(1, 3, size, size, device=device)).shape
    language = load_captioner(options.language, options.prompt, device).language
    torch.manual_seed(seed_for(options.seed, "translator", "weights"))
    translator = Translator(tokens, width, language.width, variant=options.variant)

    lost: Counter[str] = Counter()
    encode = partial(_encoded, language, longest=options.longest, lost=lost)

    def batches(stage: str, epoch: int) -> Iterator[Batch]:
        """Full batches; a process whose pairs are at an end starts them again."""
        for turn in count():
            given = 0
            for images, sentences in captions.batches(
                stages[stage][0], partial(_fitted, size=size), encode,
                share, seed=seed_for(options.seed, "translator", stage, turn), epoch=epoch,
                process=accelerator.process_index, processes=processes, workers=options.workers,
            ):  # fmt: skip
                if len(images) == share:
                    given += 1
                    yield images, sentences
            if not given:
                raise ValueError(f"A process has fewer than {share} pairs: give more, or a smaller batch.")

    curves = {}
    for stage, epochs, rate in zip(PAPER, options.epochs, options.learning_rates, strict=True):
        if stage in stages:
            recipe = replace(PAPER[stage], epochs=epochs, learning_rate=rate, batch=options.batch)
            curves[stage] = train(
                translator, language.decoder, partial(batches, stage), recipe, prompt=len(language.prompt),
                pad=language.pad, steps_an_epoch=stages[stage][1] // options.batch, seed=options.seed, encoder=encoder,
                checkpoint=options.output / f"{stage}.checkpoint.safetensors", accelerator=accelerator,
            )  # fmt: skip
    if accelerator.is_main_process:
        write_translator(options.output / "translator.safetensors", translator)
        about = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "losses": curves,
            "lost": dict(lost),
        }
        write_text(options.output / "training.json", json.dumps(about, indent=1) + "\n")
        print(", ".join(f"{number:,} {what}" for what, number in lost.items()))
        for stage, curve in curves.items():
            print(f"{stage}: a loss of {curve[-1]:.4f} nats a token in the last of {len(curve):,} steps")


def _fitted(image: UInt8[Tensor, "3 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """An image as the classifier takes it, but for its normalisation."""
    return Preprocessed(nn.Identity(), size, (0.0,) * 3, (1.0,) * 3).prepare(image[None].float() / 255)[0]


def _encoded(
    language: LanguageModel, texts: list[str], longest: int, lost: Counter[str]
) -> Int64[Tensor, "texts length"]:
    """Prompt, words and end of each text. Of the web's captions some are too long, and are cut off, and some have no
    word that the tokenizer knows; `lost` counts the captions that are cut and the words that are not known."""
    room = longest - len(language.prompt) - 1
    if room < 1:
        raise ValueError(f"No word has room in {longest} tokens with the prompt: give more.")
    tokenizer = language.tokenizer
    cut, unknown, _ = losses(texts, tokenizer, longest, prompt=len(language.prompt) + 1)
    lost.update({"captions cut": len(cut), "unknown words": len(unknown)})
    rows = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=room).input_ids
    sentences = [torch.tensor([*language.prompt, *(row or [tokenizer.unk_token_id]), language.end]) for row in rows]
    return nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=language.pad)


if __name__ == "__main__":
    raise SystemExit(main())
