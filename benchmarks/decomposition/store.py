"""Paper 4's experiments from a store at the paper's size: seconds and memory, and the picks of the obvious way.

50,000 images by the last four layers of a ViT-L-14 (64 heads of width 64, 768 features) with random weights, 3,498
texts and 60 picks a head. The coefficients are drawn, not computed, with a falling spectrum in each head, and kept in
float16 as `xaikit extract` keeps them; from then on all is as in notebook 04: moments in one pass, TextSpan of all
heads, means in one pass, and all ablations in one pass. On a small part the same is done as Algorithm 1 stands, over
all images and features in float64, and the picks are compared. Beside the seconds stand those of all cores together,
which say on a busy machine what a quiet one would take.

Texts tie where their variances are 1e-9 of each other or nearer; the closest two of those compared are printed.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from benchmarks.timing import Result, timed
from xaikit.decomposition.decompose import Coefficients, Readout
from xaikit.decomposition.heads import mean_contributions
from xaikit.decomposition.store import DecomposedDataset
from xaikit.decomposition.textspan import textspan
from xaikit.storage.arithmetic import cores
from xaikit.studies.clip_decomposition import Ablation, Classes, Decomposed, predictions

LAYERS, HEADS, WIDTH, FEATURES, CLASSES = 4, 16, 64, 768, 1_000


class Unread:
    """Images that nobody needs, as the store is full."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        raise AssertionError(f"image {index} was asked for")


def tower() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(224, 14, HEADS * WIDTH, LAYERS, HEADS, 4, output_dim=FEATURES).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # as they are only before training: 0, or 1
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def draw(count: int, random: torch.Generator, mixing: Tensor, means: Tensor) -> Coefficients:
    """Coefficients of some images: heads with means and a spectrum of their own, MLPs, and norms about one."""
    heads = torch.einsum("blhr,lhrs->blhs", torch.randn(count, LAYERS, HEADS, WIDTH, generator=random), mixing) + means
    mlps = torch.randn(count, LAYERS + 1, FEATURES, generator=random)
    mean, std, norm = (1 + 0.1 * torch.randn(3, count, generator=random)).clamp_min(0.5)
    embedding = F.normalize(torch.randn(count, FEATURES, generator=random), dim=1)
    return Coefficients(heads, mlps, mlps.mean(-1), mean - 1, std, norm, embedding, embedding[:, None][:, :0])


def written(folder: Path, images: int) -> Decomposed:
    """A store that is full, and what reads contributions from it."""
    model, random = tower(), torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -1.5, WIDTH)[:, None] * torch.randn(LAYERS, HEADS, WIDTH, WIDTH, generator=random)
    means = torch.randn(LAYERS, HEADS, WIDTH, generator=random)
    store = DecomposedDataset(
        model, Unread(images), ids=list(map(str, range(images))), dtype=torch.float16, folder=folder
    )
    for number, rows in enumerate(store.ranges):
        store.write(number, draw(len(rows), random, falling / WIDTH**0.5, means))
    return Decomposed(store, Readout.of(model), "drawn coefficients")


def obvious(contributions: Tensor, pool: Tensor, m: int, rank: int) -> tuple[list[int], list[float]]:
    """Algorithm 1 on one head in float64, word for word: the picks, and how far each lay above the next text."""
    c, r = contributions.double(), pool.double()
    axes = torch.linalg.svd(c, full_matrices=False).Vh[:rank]
    r, c = r @ axes.T @ axes, c - c.mean(0)
    picks, leads = [], []
    for _ in range(m):
        best = (r @ c.T).var(1).topk(2)
        picks.append(int(best.indices[0]))
        leads.append(1 - (best.values[1] / best.values[0]).item())
        q = F.normalize(r[picks[-1]], dim=0)
        c, r = c - torch.outer(c @ q, q), r - torch.outer(r @ q, q)
    return picks, leads


def peak() -> float:
    """GiB of memory that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def show(what: str, run: Callable[[], Result]) -> Result:
    """The result of `run`, whose seconds, seconds of all cores and memory so far are printed."""
    before = time.process_time()
    seconds, result = timed(run)
    print(f"{what:52}{seconds:>8.1f}{time.process_time() - before:>10.1f}{peak():>8.2f} GiB", flush=True)
    return result


def compare(options: argparse.Namespace, folder: Path) -> None:
    every = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    random = torch.Generator().manual_seed(1)
    pool = F.normalize(torch.randn(options.texts, FEATURES, generator=random), dim=1)
    print(f"{options.images:,} images, {len(every)} heads, {FEATURES} features, {options.texts:,} texts, ", end="")
    print(f"m = {options.m}, {torch.get_num_threads()} threads")
    print(f"{'':52}{'seconds':>8}{'of cores':>10}{'most':>8}")
    parts = show("coefficients drawn and written", lambda: written(folder / "all", options.images))
    moments = show("moments of all heads, one pass", lambda: parts.moments(every))
    span = show("TextSpan of all heads", lambda: textspan(moments, pool, options.m))
    means = show("means of all terms, one pass", lambda: mean_contributions(parts))
    labels = F.normalize(torch.randn(CLASSES, FEATURES, generator=random), dim=1)
    classes = Classes(labels, torch.ones(1, CLASSES, dtype=torch.bool).expand(options.images, -1))
    ablations = {
        "nothing": Ablation(), "MLPs": Ablation(mlps=True), "attention": Ablation(layers=tuple(range(LAYERS))),
        "heads": Ablation(mlps=True, heads=tuple(every[::7])),
    }  # fmt: skip
    name = f"answers under {len(ablations)} ablations, one pass"
    answers = show(name, lambda: predictions(parts, classes, means, ablations))
    assert all(len(given) == options.images for given in answers.values())
    size = sum(file.stat().st_size for file in (folder / "all").iterdir()) / 2**30
    print(f"the store takes {size:.1f} GiB; V_explained by {options.m} texts {span.explained[:, -1].mean():.3f}")

    few = written(folder / "few", options.part)
    chosen = every[:: len(every) // options.heads][: options.heads]
    found = show(
        f"{options.part:,} images, {len(chosen)} heads", lambda: textspan(few.moments(chosen), pool, options.m)
    )
    rows, columns = torch.tensor(chosen).T
    bases = few.readout.heads[rows, columns].double()
    coordinates = torch.cat([shard.coordinates()[:, rows, columns].double() for shard in few.store])
    expected = show(
        "the same in the obvious way",
        lambda: [obvious(coordinates[:, i] @ bases[i], pool, options.m, len(bases[i])) for i in range(len(chosen))],
    )
    same = sum(a == b for one, (other, _) in zip(found.picks.tolist(), expected, strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip
    closest = min(min(leads) for _, leads in expected)
    print(f"same picks: {same} of {len(chosen) * options.m}; the closest two texts were {closest:.0e} apart")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--texts", type=int, default=3_498)
    parser.add_argument("--m", type=int, default=60)
    parser.add_argument("--part", type=int, default=1_000, help="images of the obvious way")
    parser.add_argument("--heads", type=int, default=2, help="heads of the obvious way")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as temporary:
        compare(arguments, Path(temporary))
