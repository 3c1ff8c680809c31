"""Order, scale and repetition of images change what they must, and nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaikit.models import class_score
from xaikit.perturbation import Recipe, meaningful_perturbation, removal_curves, removal_order, substitute
from xaikit.saliency import grad_cam, integrated_gradients, rise

quick = settings(max_examples=6, deadline=None, derandomize=True)
seeds = st.integers(0, 2**16)
scales = st.floats(0.1, 10)


def case(seed: int) -> tuple[torch.Tensor, torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Images, a classifier of them, the class of each, and an order."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(4 * 10 * 10, 3)]
        model = torch.nn.Sequential(*layers).requires_grad_(False).eval()
        return torch.rand(3, 3, 12, 12), model, torch.randint(3, (3,)), torch.randperm(3)


@quick
@given(seeds, scales)
def test_removal_knows_the_order_of_an_attribution_and_not_its_scale(seed: int, scale: float) -> None:
    images, model, targets, order = case(seed)
    maps, black = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(seed)), torch.zeros(1, 3, 12, 12)
    assert torch.equal(removal_order((scale * maps.double()).exp()), removal_order(maps.double()))
    found = removal_curves(class_score(model, targets), images, maps, black, step=48).scores
    moved = removal_curves(class_score(model, targets[order]), images[order], maps[order], black, step=48).scores
    torch.testing.assert_close(moved, found[order], atol=1e-5, rtol=1e-4)
    twice = torch.tensor([0, 0, 1])
    again = removal_curves(class_score(model, targets[twice]), images[twice], maps[twice], black, step=48).scores
    torch.testing.assert_close(again, found[twice], atol=1e-5, rtol=1e-4)


@quick
@given(seeds)
def test_what_pixels_are_replaced_by_is_of_each_image_alone(seed: int) -> None:
    images, _, _, order = case(seed)
    for kind in ("black", "blur", "mean"):
        found = substitute(images, kind, mean=(0.1, 0.2, 0.3), blur=1.0)
        torch.testing.assert_close(substitute(images[order], kind, mean=(0.1, 0.2, 0.3), blur=1.0), found[order])


@quick
@given(seeds)
def test_a_mask_belongs_to_its_image_and_id(seed: int) -> None:
    images, model, targets, order = case(seed)
    recipe, ids = Recipe(steps=4, side=4, start="uniform", noise=0.1).at(32), ["a", "b", "c"]
    found = meaningful_perturbation(class_score(model, targets), images, recipe, seed=1, ids=ids)
    moved = meaningful_perturbation(
        class_score(model, targets[order]), images[order], recipe, seed=1, ids=[ids[i] for i in order], batch=2
    )
    torch.testing.assert_close(moved, found[order], atol=1e-4, rtol=1e-3)


@quick
@given(seeds, scales)
def test_explainers_follow_the_score_and_the_images_in_their_order(seed: int, scale: float) -> None:
    images, model, targets, order = case(seed)
    black = torch.zeros(1, 3, 12, 12)

    def explained(images: torch.Tensor, targets: torch.Tensor, scale: float = 1.0) -> list[torch.Tensor]:
        plain = class_score(model, targets)
        score = lambda images, which: scale * plain(images, which)  # noqa: E731
        return [
            rise(score, images, black, seed=0, masks=8, cells=3),
            integrated_gradients(score, images, black, steps=4),
        ]

    found = explained(images, targets)
    for moved, straight in zip(explained(images[order], targets[order]), found, strict=True):
        torch.testing.assert_close(moved, straight[order], atol=1e-5, rtol=1e-3)
    for scaled, straight in zip(explained(images, targets, scale), found, strict=True):
        torch.testing.assert_close(scaled, scale * straight, atol=1e-4, rtol=1e-3)
    maps = grad_cam(model, model[0], images, targets)
    torch.testing.assert_close(grad_cam(model, model[0], images[order], targets[order]), maps[order])
