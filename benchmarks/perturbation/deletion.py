"""How fast are deletion curves, steps and images at once, against the loop that removes pixels step by step?

The loop is the usual one: one image, one step, one pass through the model at a time. Both are checked to agree.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from benchmarks.perturbation.search import encoder
from xaikit.models.scores import class_score
from xaikit.perturbation.removal import removal_curves, substitute
from xaikit.storage.arithmetic import cores


def loop(model: torch.nn.Module, images, maps, targets, other, step: int) -> torch.Tensor:
    """Deletion one image and one step at a time."""
    curves = []
    for image, own, target, end in zip(images, maps, targets, other, strict=True):
        order = own.flatten().argsort(descending=True, stable=True)
        left, curve = image.clone(), []
        for done in range(0, order.numel() + step, step):
            left.flatten(1)[:, order[max(0, done - step) : done]] = end.flatten(1)[:, order[max(0, done - step) : done]]
            with torch.inference_mode():
                curve.append(model(left[None])[0, target])
        curves.append(torch.stack(curve))
    return torch.stack(curves)


def compare(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tower, pixels, width = encoder(options.model)
    draw = torch.Generator().manual_seed(0)
    classes = F.normalize(torch.randn(10, width, generator=draw), dim=1).to(device)
    head = torch.nn.Linear(width, 10, bias=False).requires_grad_(False)
    head.weight.copy_(classes)
    model = torch.nn.Sequential(tower, head).to(device).eval()
    images = torch.rand(options.images, 3, pixels, pixels, generator=draw).to(device)
    maps = torch.rand(options.images, pixels, pixels, generator=draw).to(device)
    targets = torch.randint(10, (options.images,), generator=draw)
    other, step = substitute(images, "black"), pixels * pixels // 32
    score = class_score(model, targets)
    taken: dict[str, list[float]] = {"loop": [], "at once": []}
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        plain = loop(model, images, maps, targets, other, step)
        middle = time.perf_counter()
        curves = removal_curves(score, images, maps, other, step=step)
        end = time.perf_counter()
        taken["loop"].append(middle - start)
        taken["at once"].append(end - middle)
    ratio = statistics.median(a / b for a, b in zip(taken["loop"][1:], taken["at once"][1:], strict=True))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{options.model}, {options.images} images, 33 points, {where}, {options.rounds} rounds after a first")
    for name, each in taken.items():
        print(f"{name:10}{statistics.median(each[1:]) / options.images * 1e3:>10.1f} ms / image")
    print(f"ratio {ratio:.1f}, largest difference {float((curves.scores - plain.cpu()).abs().max()):.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("mini", "b32"), default="mini")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    compare(arguments)
