"""Order and repetition of images, the order and the scale of maps change what they must, and nothing else."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaikit.surgery import activation_statistics, choose_maps, convolutions, match_activations

quick = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)
scales = st.floats(0.1, 10)


def case(seed: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), torch.rand(5, 3, 8, 8), torch.randperm(5)


@quick
@given(seeds)
def test_statistics_know_neither_order_nor_batches_nor_repetition(seed: int) -> None:
    model, images, order = case(seed)
    maps = convolutions(model, images)
    found = activation_statistics(maps, [images])
    for batches in ([images[order]], images.split(2), [images, images]):
        changed = activation_statistics(maps, batches)
        torch.testing.assert_close(changed.mean, found.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(changed.std, found.std, atol=1e-5, rtol=1e-4)


@quick
@given(seeds, scales)
def test_matching_knows_neither_the_scale_of_maps_nor_the_order_of_images(seed: int, scale: float) -> None:
    model, images, order = case(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight *= scale
        other[0].bias += 1
    a, b = convolutions(model, images), convolutions(other, images)
    own, scaled = activation_statistics(a, [images]), activation_statistics(b, [images])
    found = match_activations(a, own, a, own, [images])
    torch.testing.assert_close(match_activations(b, scaled, a, own, [images]), found, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(match_activations(a, own, a, own, images[order].split(2)), found, atol=1e-5, rtol=1e-4)


@quick
@given(seeds, scales)
def test_choices_follow_the_order_of_maps_and_no_scale(seed: int, scale: float) -> None:
    scores = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed + 1))
    for rule in ("best", "one-to-one"):
        found = choose_maps(scores, rule).source
        assert torch.equal(order[choose_maps(scores[order], rule).source], found)
        assert torch.equal(choose_maps(scale * scores, rule).source, found)
