"""Independent trainings: in turn on all cores, as torch does by itself, against side by side on one thread each.

    python -m benchmarks.storage.side_by_side [--busy]

With --busy a loop runs on each core beside it: what waits by spinning then suffers most. Each way is a process of its
own, as an arithmetic is chosen when a process starts.
"""

import argparse
import subprocess
import sys
import time

from xaikit.storage.arithmetic import NATIVE, PORTABLE, cores, environment

WAYS = {
    "in turn, torch's own threads": (NATIVE, "in turn"),
    "in turn, portable": (PORTABLE, "in turn"),
    "side by side, portable": (PORTABLE, "side by side"),
}


def training(seed: int, steps: int) -> float:
    """The last loss of a small ResNet."""
    import torch
    from torch import nn
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    model, images, labels = resnet18(num_classes=2), torch.rand(32, 3, 28, 28), torch.arange(32) % 2
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
    return loss.item()


def run(way: str, jobs: int, steps: int) -> None:
    """What a process does: prints the seconds, without those of loading torch."""
    import torchvision  # noqa: F401

    from xaikit.storage.side_by_side import side_by_side

    given = {str(seed): {"seed": seed, "steps": steps} for seed in range(jobs)}
    start = time.perf_counter()
    if way == "in turn":
        for job in given.values():
            training(**job)
    else:
        dict(side_by_side(training, given))
    print(time.perf_counter() - start)


def main() -> None:
    """Time all ways and print them as ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--busy", action="store_true", help="a busy loop on each core beside it")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return run(options.way, options.jobs, options.steps)

    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores() * options.busy)]
    try:
        seconds = {}
        for label, (arithmetic, way) in WAYS.items():
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                "--way",
                way,
                "--jobs",
                str(options.jobs),
                "--steps",
                str(options.steps),
            ]
            done = subprocess.run(command, env=environment(arithmetic), capture_output=True, text=True, check=True)
            seconds[label] = float(done.stdout)
            print(f"{label:32} {seconds[label]:6.1f} s   {seconds[label] / next(iter(seconds.values())):.2f}")
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    main()
