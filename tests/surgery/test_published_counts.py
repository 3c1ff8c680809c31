"""The public notebook's loop, cell by cell on toy networks, counts the same twelve as `published_values` does."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaikit.surgery.captions import Captions, dominant_captions, published_values, similarities
from xaikit.surgery.matching import Maps, activation_statistics, match_activations
from xaikit.surgery.transplant import choose_maps, network_surgery

BATCH, STAGES = 25, ("layer1", "layer2", "layer3", "layer4")
CAPTIONS = Captions({"shape": ("five", "eight"), "colour": ("red", "green")})


class Tower(nn.Module):
    """Four stages and a pooling that sees the last one alone, as CLIP's does."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 4, 6, 6)
        for stage, (before, after) in zip(STAGES, pairwise(widths), strict=True):
            setattr(self, stage, nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU()))
        self.project = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        for stage in STAGES:
            images = getattr(self, stage)(images)
        return self.project(images.mean((2, 3)))


def public_notebook(
    tower: Tower, source: nn.Sequential, swap: dict[str, tuple[Tensor, ...]], texts: Tensor, images: Tensor
) -> list[dict[str, Tensor]]:
    """For each batch the captions' similarities "before", "after" and their difference, [4, 25], as it has them.

    `swap` holds for each stage what its maps are made of: chosen maps, μ_i, σ_i, μ_j and σ_j.
    """
    edits: dict[str, Tensor] = {}  # nethook's; made empty here, once, and never again

    def edited(name: str):
        return lambda _module, _inputs, output: edits.get(name, output)

    hooks = [getattr(tower, name).register_forward_hook(edited(name)) for name in STAGES]
    found = []
    for batch in images.split(BATCH):
        maps = source(batch)
        columns = []
        for layers in range(len(STAGES) + 1):
            if layers:
                name = STAGES[layers - 1]
                chosen, source_mean, source_std, target_mean, target_std = swap[name]
                standard = (maps[:, chosen] - source_mean[:, None, None]) / source_std[:, None, None]
                edits[name] = standard * target_std[:, None, None] + target_mean[:, None, None]
            embedding = F.normalize(tower(batch), dim=-1)
            columns.append(texts @ embedding.T)
        similarity = torch.cat(columns, dim=1)
        zero, swapped = similarity[:, ::5], similarity[:, 4::5]
        found.append({"zero": zero, "swapped": swapped, "influence": swapped - zero})
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twelve_counts_are_those_of_the_public_notebook(seed: int) -> None:
    torch.manual_seed(seed)
    tower, source = Tower().eval().requires_grad_(False), nn.Sequential(nn.Conv2d(3, 20, 3, padding=1)).eval()
    source.requires_grad_(False)
    images, texts = torch.rand(75, 3, 8, 8), F.normalize(torch.randn(4, 5), dim=-1)
    labels = {cue: torch.randint(2, (75,)) for cue in CAPTIONS.cues}
    own, other = Maps(source, {"0": source[0]}), Maps(tower, {name: getattr(tower, name) for name in STAGES})
    statistics = [activation_statistics(maps, images.split(BATCH)) for maps in (own, other)]
    choice = choose_maps(match_activations(own, statistics[0], other, statistics[1], images.split(BATCH)))

    swap = {}
    for name, span in statistics[1].span.items():
        chosen = choice.source[span]
        mean, std = statistics[0].mean[chosen], statistics[0].std[chosen].clamp_min(1e-5)
        swap[name] = chosen, mean, std, statistics[1].mean[span], statistics[1].std[span].clamp_min(1e-5)
    counts: Counter[tuple[str, str]] = Counter()
    for batch, seen in enumerate(public_notebook(tower, source, swap, texts, images)):
        for column, values in seen.items():
            for n in range(BATCH):
                top = int(values[:, n].argmax())
                cue = "shape" if top < 2 else "colour"
                right = top % 2 == int(labels[cue][batch * BATCH + n])
                counts[column, f"{'correct' if right else 'wrong'} {cue}"] += 1

    def operated(data: Tensor, layers: int) -> Tensor:
        with network_surgery(other, statistics[1], own, statistics[0], choice, only=STAGES[:layers]):
            return similarities(tower, texts, [data])

    first = torch.stack([operated(images[:BATCH], layers) for layers in range(5)])
    values = published_values(first, torch.cat([operated(part, 4) for part in images.split(BATCH)]))
    shares = {column: dominant_captions(each, CAPTIONS, labels) for column, each in values.items()}
    ours = {(column, key): round(75 * share) for column, each in shares.items() for key, share in each.items()}
    assert len(ours) == 12 and sum(ours.values()) == 3 * 75
    assert ours == {key: counts[key] for key in ours}
