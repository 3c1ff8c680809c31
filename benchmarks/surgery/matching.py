"""How much does the adjoint save? Activation matching of two ResNet-50s at their real sizes, with random weights.

Three ways to the score matrix Z (Koller et al., Eq. 3), on the same recorded activations: the direct one (upsample
the smaller map, multiply at the larger size), `match_activations` (multiply at the smaller size), and the bare
matrix products at the smaller size, which nothing can beat. The networks' own forward passes are timed apart. Peak
memory is that of a fresh process for each way, which runs the networks batch by batch.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torchvision.models import resnet50

from benchmarks.timing import timed
from xaikit.models.hooks import evaluating, listening
from xaikit.storage.arithmetic import cores
from xaikit.surgery.matching import (
    ActivationStatistics,
    Maps,
    activation_statistics,
    convolutions,
    map_shapes,
    match_activations,
    stages,
    upsampling_adjoint,
)

Activations = dict[str, Tensor]  # of each layer, for one batch
Pair = tuple[Activations, Activations]  # of the source, of the target
Statistics = tuple[ActivationStatistics, ActivationStatistics]


class Replay(nn.Module):
    """A network whose layers give recorded activations, batch after batch, in no time."""

    def __init__(self, recorded: list[Activations]) -> None:
        super().__init__()
        self.recorded = cycle(recorded)
        self.layers = nn.ModuleList(nn.Identity() for _ in recorded[0])
        self.names = list(recorded[0])

    def forward(self, images: Tensor) -> None:
        for layer, activation in zip(self.layers, next(self.recorded).values(), strict=True):
            layer(activation)

    def maps(self) -> Maps:
        return Maps(self, dict(zip(self.names, self.layers, strict=True)))


def record(maps: Maps, images: Tensor) -> Activations:
    found: Activations = {}
    with listening(maps.model, maps.layers, found.__setitem__), evaluating(maps.model), torch.no_grad():
        maps.model(images)
    return found


def as_matrix(maps: Tensor) -> Tensor:
    return maps.transpose(0, 1).flatten(1)


def match_directly(statistics: Statistics, recorded: Iterable[Pair]) -> Tensor:
    """Eq. 3 as it is written, layer pair by layer pair; each map is upsampled once to each size."""
    source, target = statistics
    scores = torch.zeros(len(source.mean), len(target.mean))
    count = 0
    for source_maps, target_maps in recorded:
        standard = {stage: target.standardise(stage, activation) for stage, activation in target_maps.items()}
        upsampled: dict[tuple, Tensor] = {}
        for layer, activation in source_maps.items():
            a = source.standardise(layer, activation)
            for stage, c in standard.items():
                size = max(a.shape[-1], c.shape[-1])
                left = as_matrix(a if a.shape[-1] == size else F.interpolate(a, size, mode="bilinear"))
                if (stage, size) not in upsampled:
                    large = c if c.shape[-1] == size else F.interpolate(c, size, mode="bilinear")
                    upsampled[stage, size] = as_matrix(large)
                block = scores[source.span[layer], target.span[stage]]
                block.addmm_(left, upsampled[stage, size].T, alpha=1 / size**2)
        count += len(a)
    return scores.div_(count)


def products(statistics: Statistics, recorded: Pair) -> Callable[[], Tensor]:
    """Prepare the factors of one batch at the smaller sizes; what is returned only multiplies them."""
    source, target = statistics
    factors: list[tuple[slice, slice, Tensor, Tensor]] = []
    small: dict[tuple, Tensor] = {}

    def at(side: int, name: str, size: int) -> Tensor:
        if (side, name, size) not in small:
            standard = statistics[side].standardise(name, recorded[side][name])
            small[side, name, size] = as_matrix(upsampling_adjoint(standard, (size, size))).contiguous()
        return small[side, name, size]

    for layer, a in recorded[0].items():
        for stage, c in recorded[1].items():
            size = min(a.shape[-1], c.shape[-1])
            factors.append((source.span[layer], target.span[stage], at(0, layer, size), at(1, stage, size)))
    scores = torch.zeros(len(source.mean), len(target.mean))

    def multiply() -> Tensor:
        for rows, columns, left, right in factors:
            scores[rows, columns].addmm_(left, right.T)
        return scores

    return multiply


def operations(source: Maps, target: Maps, pixels: int) -> dict[str, float]:
    """Floating-point operations an image: the products at the larger and the smaller size, and the adjoints."""
    images = torch.zeros(1, 3, pixels, pixels, device="meta")
    sources, targets = map_shapes(source, images).values(), map_shapes(target, images).values()
    pairs = [(a, c) for a in sources for c in targets]
    taken_down = {("source", i, c[1]) for i, a in enumerate(sources) for c in targets if c[1] < a[1]}
    taken_down |= {("target", i, a[1]) for i, c in enumerate(targets) for a in sources if a[1] < c[1]}
    shapes = {"source": list(sources), "target": list(targets)}
    adjoints = 0
    for side, index, small in taken_down:
        channels, large, _ = shapes[side][index]
        adjoints += 2 * channels * (large * large * small + large * small * small)
    return {
        "direct": 2.0 * sum(a[0] * c[0] * max(a[1], c[1]) ** 2 for a, c in pairs),
        "products": 2.0 * sum(a[0] * c[0] * min(a[1], c[1]) ** 2 for a, c in pairs),
        "adjoints": float(adjoints),
    }


def networks(pixels: int) -> tuple[Maps, Maps]:
    torch.manual_seed(0)
    tower = ModifiedResNet(layers=[3, 4, 6, 3], output_dim=1024, heads=32, image_size=pixels, width=64)
    return convolutions(resnet50().eval()), stages(tower.eval())


def draw(images: int, batch: int, pixels: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, batch):
        yield torch.randn(min(batch, images - start), 3, pixels, pixels, generator=generator)


def run_alone(way: str, options: argparse.Namespace) -> None:
    """One way in this process, the networks included; print the process's peak memory in bytes."""
    size = options.images, options.batch, options.pixels
    source, target = networks(options.pixels)
    statistics = activation_statistics(source, draw(*size)), activation_statistics(target, draw(*size))
    if way == "direct":
        match_directly(statistics, ((record(source, images), record(target, images)) for images in draw(*size)))
    elif way == "adjoint":
        match_activations(source, statistics[0], target, statistics[1], draw(*size))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def peak_memory(way: str, options: argparse.Namespace) -> int:
    sizes = [f"--{name}={getattr(options, name)}" for name in ("images", "batch", "pixels")]
    command = [sys.executable, "-m", __spec__.name, f"--alone={way}", *sizes]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(options: argparse.Namespace) -> None:
    with torch.device("meta"):
        flop = operations(*networks(options.pixels), options.pixels)
    memory = {way: peak_memory(way, options) for way in ("networks", "direct", "adjoint")}

    source, target = networks(options.pixels)
    batches = list(draw(options.images, options.batch, options.pixels))
    record(source, batches[0]), record(target, batches[0])  # warm up
    forward, recorded = timed(lambda: [(record(source, images), record(target, images)) for images in batches])
    statistics = activation_statistics(source, batches), activation_statistics(target, batches)
    replays = [Replay([pair[side] for pair in recorded]).maps() for side in (0, 1)]
    multiply = products(statistics, recorded[0])

    def adjoint(images: list[Tensor]) -> Tensor:
        return match_activations(replays[0], statistics[0], replays[1], statistics[1], images)

    multiply(), match_directly(statistics, recorded[:1])  # warm up
    for _ in recorded:  # a whole round, so that the replays start from the first batch again
        adjoint(batches[:1])
    bare, _ = timed(lambda: [multiply() for _ in recorded])
    direct, expected = timed(lambda: match_directly(statistics, recorded))
    ours, scores = timed(lambda: adjoint(batches))
    difference = (scores - expected).abs().amax().item()

    print(f"{len(scores):,} source maps x {scores.shape[1]:,} target maps, {options.pixels} px, float32, ", end="")
    print(f"{options.images} images in batches of {options.batch}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'s / image':>12}{'GFLOP / image':>16}{'peak memory':>14}")
    rows = [
        ("direct", direct, flop["direct"], memory["direct"]),
        ("match_activations", ours, flop["products"] + flop["adjoints"], memory["adjoint"]),
        ("bare matrix products", bare, flop["products"], None),
        ("both forward passes", forward, None, memory["networks"]),
    ]
    for name, seconds, operations_, peak in rows:
        gflop = "" if operations_ is None else f"{operations_ / 1e9:.1f}"
        gigabytes = "" if peak is None else f"{peak / 1e9:.2f} GB"
        print(f"{name:24}{seconds / options.images:>12.3f}{gflop:>16}{gigabytes:>14}")
    print(f"direct / match_activations: {direct / ours:.2f} in time, ", end="")
    print(f"{flop['direct'] / (flop['products'] + flop['adjoints']):.2f} in operations")
    print(f"match_activations / bare products: {ours / bare:.2f} in time")
    print(f"largest difference of the two Z: {difference:.1e} (scores up to {expected.abs().amax().item():.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=224, help="side of the images, a multiple of 32")
    parser.add_argument("--alone", choices=("networks", "direct", "adjoint"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.images % arguments.batch:
        parser.error("--images must be a multiple of --batch")
    torch.set_grad_enabled(False)
    torch.set_num_threads(cores())
    if arguments.alone:
        run_alone(arguments.alone, arguments)
    else:
        compare(arguments)
