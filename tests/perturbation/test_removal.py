"""Deletion and insertion against a loop that takes one pixel at a time."""

import pytest
import torch
from torch import Tensor, nn

from xaikit.models.scores import class_score
from xaikit.perturbation.removal import (
    centre_attribution,
    random_attribution,
    removal_curves,
    removal_order,
    substitute,
)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.GELU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3)
    ).eval()


def explained(count: int = 4, side: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    images = torch.rand(count, 3, side, side, generator=draw)
    return images, torch.rand(count, side, side, generator=draw), torch.randint(3, (count,), generator=draw)


@pytest.mark.parametrize("insertion", [False, True])
@pytest.mark.parametrize("step", [1, 7, 144])
def test_removal_curves_equal_a_sequential_loop(classifier: nn.Module, insertion: bool, step: int) -> None:
    images, maps, targets = explained()
    substitutes = substitute(images, "blur", blur=2.0)
    found = removal_curves(
        class_score(classifier, targets, softmax=1.0),
        images,
        maps,
        substitutes,
        step=step,
        insertion=insertion,
        batch=5,
    )
    for i in range(len(images)):
        start, end = (substitutes[i], images[i]) if insertion else (images[i], substitutes[i])
        pixels = sorted(range(144), key=lambda p, i=i: -float(maps[i].flatten()[p]))
        image, scores, fractions = start.clone().flatten(1), [], []
        for done in range(0, 144 + step, step):
            for p in pixels[max(0, done - step) : done]:
                image[:, p] = end.flatten(1)[:, p]
            with torch.no_grad():
                scores.append(float(classifier(image.view(1, 3, 12, 12)).softmax(1)[0, targets[i]]))
            fractions.append(min(done, 144) / 144)
        torch.testing.assert_close(found.scores[i], torch.tensor(scores), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.fractions, torch.tensor(fractions))
        area = sum(
            (a + b) / 2 * (v - u) for a, b, u, v in zip(scores, scores[1:], fractions, fractions[1:], strict=False)
        )
        assert float(found.areas()[i]) == pytest.approx(area, abs=1e-6)
        assert float(found.areas("max")[i]) == pytest.approx(area / max(scores), abs=1e-6)
        assert float(found.areas("initial")[i]) == pytest.approx(area / scores[0], abs=1e-6)
        low, high = min(scores), max(scores)
        # A narrow range makes the rounding of its ends larger by as much.
        assert float(found.areas("minmax")[i]) == pytest.approx((area - low) / (high - low), abs=1e-6 / (high - low))


def test_each_image_is_scored_as_itself(classifier: nn.Module) -> None:
    images, maps, targets = explained()
    score = class_score(classifier, targets, softmax=1.0)
    other = substitute(images, "black")
    together = removal_curves(score, images, maps, other, step=20, batch=6)
    alone = removal_curves(
        class_score(classifier, targets[2:3], softmax=1.0), images[2:3], maps[2:3], other[2:3], step=20
    )
    torch.testing.assert_close(alone.scores[0], together.scores[2], rtol=0, atol=1e-6)


def test_several_scores_have_a_curve_each(classifier: nn.Module) -> None:
    images, maps, targets = explained()
    scores = [class_score(classifier, targets), class_score(classifier, targets, softmax=1.0)]
    other = substitute(images, "black")
    both = removal_curves(lambda x, which: torch.stack([s(x, which) for s in scores], 1), images, maps, other, step=20)
    for kind, score in enumerate(scores):
        alone = removal_curves(score, images, maps, other, step=20)
        torch.testing.assert_close(both.scores[..., kind], alone.scores)
        torch.testing.assert_close(both.areas("minmax")[:, kind], alone.areas("minmax"))


def test_ties_are_shuffled_by_their_seed_and_nothing_else_is() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[:, 1, 2], maps[:, 3, 3] = 2.0, 1.0
    plain = removal_order(maps)
    assert plain[0, :4].tolist() == [6, 15, 0, 1]
    first, again, other = removal_order(maps, 0), removal_order(maps, 0), removal_order(maps, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for order in (first, other):
        assert order[:, :2].tolist() == [[6, 15]] * 2
        assert torch.equal(order.sort(1).values, torch.arange(16).expand(2, -1))
    distinct = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(removal_order(distinct), removal_order(distinct, 5))


def test_shuffled_ties_come_first_equally_often() -> None:
    first = torch.stack([removal_order(torch.zeros(50, 1, 4), seed)[:, 0] for seed in range(20)])
    counts = torch.bincount(first.flatten(), minlength=4)
    assert counts.sum() == 1000 and (counts - 250).abs().max() < 60  # 4 standard deviations


def test_a_better_order_has_the_lower_deletion_and_the_higher_insertion() -> None:
    images, _, _ = explained(3)
    weight = torch.linspace(0, 1, 144).view(12, 12)

    def score(x: Tensor, which: Tensor) -> Tensor:
        return (x.mean(1) * weight).mean((1, 2))

    good, bad = weight.expand(3, -1, -1), (-weight).expand(3, -1, -1)
    black = substitute(images, "black")
    chance = random_attribution(3, (12, 12), 0)
    areas = [removal_curves(score, images, maps, black, step=6).areas() for maps in (good, chance, bad)]
    assert (areas[0] < areas[1]).all() and (areas[1] < areas[2]).all()
    put_in = [
        removal_curves(score, images, maps, black, step=6, insertion=True).areas() for maps in (good, chance, bad)
    ]
    assert (put_in[0] > put_in[1]).all() and (put_in[1] > put_in[2]).all()


def test_substitutes() -> None:
    images, _, _ = explained()
    assert substitute(images, "black").eq(0).all()
    assert substitute(images, "mean", mean=(0.1, 0.2, 0.3))[1, 2].eq(0.3).all()
    soft = substitute(images, "blur", blur=2.0)
    assert soft.shape == images.shape and soft.std() < images.std() / 2
    centre = centre_attribution(2, (9, 5))
    assert centre.shape == (2, 9, 5) and centre[0].argmax() == 4 * 5 + 2 and centre.min() == centre[0, 0, 0]


def test_bad_input_of_removal(classifier: nn.Module) -> None:
    images, maps, targets = explained()
    score, other = class_score(classifier, targets), substitute(images, "black")
    with pytest.raises(ValueError, match="do not fit images"):
        removal_curves(score, images, maps[:, :5], other, step=3)
    with pytest.raises(ValueError, match="step of removal_curves"):
        removal_curves(score, images, maps, other, step=0)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        removal_curves(score, images, maps * torch.nan, other, step=3)
    for wrong in (
        lambda x, which: x.sum((1, 2, 3))[:1],
        lambda x, which: x,
        lambda x, which: x.sum((1, 2, 3)) * torch.nan,
    ):
        with pytest.raises(ValueError, match="give one number each"):
            removal_curves(wrong, images, maps, other, step=30)
    flat = removal_curves(lambda x, which: torch.zeros(len(x)), images, maps, other, step=30)
    for kind in ("initial", "max", "minmax"):
        with pytest.raises(ValueError, match="cannot be normalised"):
            flat.areas(kind)
    with pytest.raises(ValueError, match="colour to take as mean"):
        substitute(images, "mean")
