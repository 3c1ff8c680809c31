"""How many pictures a CPU minute does a short search explain, and are its maps those of a long one?

Drawn people and the mini CLIP that ships. The long way is the paper's: 300 steps from half a blur. The short one is the
preset "quick" of notebook 03, whose maps are compared with those of 300 steps of the paper's optimiser from the same
start; all within one run, and by the CPU seconds of this process, so that other work on the machine matters little.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from xaikit import world
from xaikit.models.clip import load_clip
from xaikit.models.scores import class_score
from xaikit.perturbation.linear_probe import LinearProbe, ZeroShot, embed, train_head
from xaikit.perturbation.search import AGARWAL_2023, PRESETS, Recipe, attribution, check_masks, meaningful_perturbation
from xaikit.storage.paths import WEIGHTS
from xaikit.studies.vlm_explanations import correlation

PIXELS = 64


def compare(options: argparse.Namespace) -> None:
    clip = load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")
    train, test = (world.people(n, seed=0, split=split) for n, split in ((480, "train"), (options.images, "test")))
    images, labels = test.images(PIXELS), test.labels("profession")
    texts = clip.encode_texts([f"a photo of a {name}" for name in test.values("profession")])
    encoder = clip.image_encoder
    head = train_head(embed(encoder, train.images(PIXELS).split(64)), train.labels("profession"), len(texts), seed=0)
    scores = {
        "zero-shot, cosine": class_score(ZeroShot(encoder, texts), labels),
        "fine-tuned, softmax": class_score(LinearProbe(encoder, head), labels, softmax=1.0),
    }
    paper, quick = AGARWAL_2023.at(PIXELS), PRESETS["quick"].at(PIXELS)
    same_start = dataclasses.replace(paper, start="deletions")
    ways: dict[str, tuple[Recipe, int]] = {
        "300 steps, half a blur": (paper, 32),
        "300 steps, deletions": (same_start, 16),
        f"quick, {quick.steps} steps": (quick, 16),
    }
    print(f"{options.images} pictures, {torch.get_num_threads()} threads")
    print(f"{'':44}{'CPU s / picture':>16}{'pictures / min':>16}{'ratio':>8}{'r':>8}{'empty':>8}{'loss':>8}")
    for setting, score in scores.items():
        found = {name: _taken(partial(meaningful_perturbation, score, images, recipe, seed=0, batch=batch))
                 for name, (recipe, batch) in ways.items()}  # fmt: skip
        reference = attribution(found["300 steps, deletions"][1], (PIXELS, PIXELS), paper)
        slowest = found["300 steps, half a blur"][0]
        for name, (seconds, masks) in found.items():
            checks = check_masks(score, images, masks, same_start)
            alike = correlation(attribution(masks, (PIXELS, PIXELS), paper), reference)
            print(f"{setting + ': ' + name:44}{seconds / len(images):>16.2f}{60 * len(images) / seconds:>16.1f}"
                  f"{slowest / seconds:>8.1f}{np.nanmean(alike):>8.3f}{checks.empty.double().mean():>8.2f}"
                  f"{checks.loss.mean():>8.3f}", flush=True)  # fmt: skip


def _taken(run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    compare(parser.parse_args())
