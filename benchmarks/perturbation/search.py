"""How many images a minute does meaningful perturbation explain, many at once against one at a time?

With random weights: the architecture of the mini CLIP-ViT (`mini`) or ViT-B-32 at its real size (`b32`). Both ways do
the same steps of the same optimiser; a few steps are timed and scaled to the full number. They take turns; printed is
the median over the rounds.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F

from benchmarks.timing import timed
from xaikit.models import clip_vit_mini
from xaikit.models.scores import class_score
from xaikit.perturbation.search import AGARWAL_2023, meaningful_perturbation
from xaikit.storage.arithmetic import cores


def encoder(model: str) -> tuple[torch.nn.Module, int, int]:
    """An image tower with its image size and the width of its embeddings."""
    torch.manual_seed(0)
    if model == "b32":
        tower = open_clip.create_model("ViT-B-32", None).visual
        return tower.eval().requires_grad_(False), 224, 512
    settings = clip_vit_mini.config()["model_cfg"]
    tower = open_clip.CLIP(**settings).visual
    return tower.eval().requires_grad_(False), clip_vit_mini.PIXELS, settings["embed_dim"]


def compare(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tower, pixels, width = encoder(options.model)
    tower = tower.to(device)
    draw = torch.Generator().manual_seed(0)
    classes = F.normalize(torch.randn(10, width, generator=draw), dim=1).to(device)
    images = torch.rand(options.batch, 3, pixels, pixels, generator=draw).to(device)
    targets = torch.randint(10, (options.batch,), generator=draw).to(device)
    recipe = dataclasses.replace(AGARWAL_2023.at(pixels), steps=options.steps)

    def score(count: int) -> Callable:
        return class_score(lambda x: F.normalize(tower(x), dim=1) @ classes.T, targets[:count])

    ways: dict[str, tuple[int, bool]] = {
        "one at a time": (1, False), f"{options.batch} at once": (options.batch, False),
        f"{options.batch} at once, bfloat16 encoder": (options.batch, True),
    }  # fmt: skip

    def run(count: int, autocast: bool) -> object:
        return meaningful_perturbation(score(count), images[:count], recipe, seed=0, batch=count, autocast=autocast)

    for count, autocast in ways.values():
        run(count, autocast)  # warm up
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (count, autocast) in ways.items():
            taken[name].append(timed(lambda count=count, autocast=autocast: run(count, autocast))[0] / count)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{options.model}, {pixels} pixels, {AGARWAL_2023.steps} steps an image, {where}, {options.rounds} rounds")
    print(f"{'':36}{'s / image':>12}{'images / min':>14}{'ratio':>8}")
    base = taken["one at a time"]
    for name, each in taken.items():
        seconds = statistics.median(each) * AGARWAL_2023.steps / options.steps
        ratio = statistics.median(a / b for a, b in zip(base, each, strict=True))
        print(f"{name:36}{seconds:>12.2f}{60 / seconds:>14.1f}{ratio:>8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("mini", "b32"), default="mini")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    compare(arguments)
