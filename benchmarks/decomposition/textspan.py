"""How much faster is TextSpan in head coordinates than the greedy loop over all images? One head, then 48 at once.

The loop is `textspan_as_published` at the head's true rank, in float32, on the same contributions and texts; its time
grows in proportion to the number of picks, so with `--loop` fewer are timed and the rest is reckoned.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import timed
from xaikit.decomposition.textspan import ContributionMoments, textspan, textspan_as_published
from xaikit.storage.arithmetic import cores

RANK = 64 + 3  # of a head of width 64


def draw(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and basis of heads with a falling spectrum and a mean, and unit texts."""
    random = torch.Generator().manual_seed(0)
    coordinates = torch.randn(options.images, options.heads, RANK, generator=random) * torch.logspace(0, -2, RANK) + 0.1
    basis = torch.randn(options.heads, RANK, options.features, generator=random) / options.features**0.5
    return coordinates, basis, F.normalize(torch.randn(options.texts, options.features, generator=random), dim=1)


def compare(options: argparse.Namespace) -> None:
    coordinates, basis, texts = draw(options)
    one = torch.einsum("kgr,grf->kgf", coordinates[:, :1], basis[:1])
    textspan(one[:500], texts, 2), textspan_as_published(one[:500], texts, 2)  # warm up
    picks = options.loop or options.m
    few, _ = timed(lambda: textspan_as_published(one, texts, 1, rank=RANK))
    loop, expected = timed(lambda: textspan_as_published(one, texts, picks, rank=RANK))
    if picks > 1:
        loop = few + (loop - few) * (options.m - 1) / (picks - 1)
    fast = min(timed(lambda: textspan(one, texts, options.m))[0] for _ in range(3))
    found = textspan(one, texts, options.m)
    compact, summed = timed(lambda: textspan(ContributionMoments(basis[:1]).add(coordinates[:, :1]), texts, options.m))
    many, _ = timed(lambda: textspan(ContributionMoments(basis).add(coordinates), texts, options.m))

    print(f"{options.images:,} images, {options.features} features, {options.texts:,} texts, m = {options.m}, ", end="")
    print(f"{torch.get_num_threads()} threads")
    print(f"{'one head':34}{'s':>8}{'loop / this':>14}")
    reckoned = "greedy loop" + (f" (from {picks} picks)" if picks < options.m else "")
    for name, seconds in ((reckoned, loop), ("from contributions", fast), ("from head coordinates", compact)):
        print(f"{name:34}{seconds:>8.2f}{loop / seconds:>14.0f}")
    print(f"{f'{options.heads} heads at once, coordinates':34}{many:>8.2f}{loop * options.heads / many:>14.0f}")
    same = (found.picks[0, :picks] == expected.picks[0]).sum().item()
    print(f"picks as in the loop: {same} of {picks}; both forms alike: {torch.equal(found.picks, summed.picks)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--texts", type=int, default=3_498)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--m", type=int, default=60)
    parser.add_argument("--loop", type=int, help="picks of the loop that are timed, by default all")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(cores())
    compare(arguments)
