"""How much does the decomposition cost over the bare forward pass? ViT-B-16 with random weights, at its real size.

The bare pass and the decompositions take turns, so that whatever else the machine does falls on all of them; what is
printed is the median over the rounds, and the median of the ratios to the bare pass of the same round. The readout,
which only depends on the weights, is made once.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from open_clip.transformer import VisionTransformer

from benchmarks.timing import timed
from xaikit.decomposition.decompose import Readout, coefficients, decompose
from xaikit.storage.arithmetic import cores

SIZES = {  # patch, width, layers, output
    "ViT-B-16": (16, 768, 12, 512),
    "ViT-L-14": (14, 1024, 24, 768),
}


def tower(name: str) -> VisionTransformer:
    torch.manual_seed(0)
    patch, width, layers, output = SIZES[name]
    return VisionTransformer(224, patch, width, layers, width // 64, 4, output_dim=output).eval()


def compare(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = tower(options.model).to(device)
    images = torch.randn(options.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    readout = Readout.of(model)
    ways: dict[str, Callable[[], object]] = {
        "bare forward pass": lambda: model(images),
        "coefficients": lambda: coefficients(model, images),
        "level layer": lambda: decompose(model, images, "layer", readout),
        "level head": lambda: decompose(model, images, "head", readout),
        "level token": lambda: decompose(model, images, "token", readout),
        "level head-token": lambda: decompose(model, images, "head-token", readout),
        "readout (once)": lambda: Readout.of(model),
    }
    for run in ways.values():
        run()  # warm up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():
            times[name].append(timed(run)[0])
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{options.model}, batches of {options.batch}, float32, {where}, {options.rounds} rounds")
    print(f"{'':20}{'ms / image':>12}{'over the bare pass':>20}")
    bare = times["bare forward pass"]
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, bare, strict=True))
        print(f"{name:20}{statistics.median(taken) / options.batch * 1e3:>12.1f}{ratio:>20.2f}")
    error = decompose(model, images, "head", readout)
    print(f"largest error of the sum: {(error.total() - error.embedding).abs().max().item():.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(cores())
    compare(arguments)
