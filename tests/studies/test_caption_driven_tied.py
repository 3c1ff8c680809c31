"""Surgery tied to the answer: gradient × activation by finite differences, and two heads that are told apart."""

import copy

import pytest
import torch
from torch import Tensor, nn

from xaikit.studies.caption_driven_tied import answer_contributions, answer_relevance, dimmed, relevant_maps
from xaikit.surgery.matching import ActivationStatistics, Maps, activation_statistics, convolutions, match_activations
from xaikit.surgery.transplant import choose_maps, network_surgery


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def margin(logits: Tensor) -> Tensor:
    """The answer's logit minus the mean of the other classes', of one image."""
    answer = int(logits.argmax())
    others = [float(value) for index, value in enumerate(logits) if index != answer]
    return logits[answer] - sum(others) / len(others)


def test_contributions_are_departures_times_finite_differences(model, images) -> None:
    maps = convolutions(model, images)
    statistics = activation_statistics(maps, images.split(2))
    found = answer_contributions(maps, statistics, images)
    step = 1e-6
    for name, at in (("0", 1), ("2", 3)):
        head, tail = model[:at], model[at:]
        mean = statistics.mean[statistics.span[name]].double()
        for row, image in enumerate(images):
            activation = head(image[None])
            answer = int(tail(activation.clone()).argmax())
            for place in torch.cartesian_prod(*[torch.arange(side) for side in activation.shape[1:]]).tolist():
                values = []
                for sign in (1, -1):
                    moved = activation.clone()
                    moved[(0, *place)] += sign * step
                    logits = tail(moved)[0]
                    assert int(logits.argmax()) == answer
                    values.append(margin(logits))
                slope = (values[0] - values[1]) / (2 * step)
                expected = (activation[(0, *place)] - mean[place[0]]) * slope
                assert found[name][(row, *place)].item() == pytest.approx(expected.item(), abs=1e-6)


def test_relevance_is_the_mean_contribution_as_a_share_of_the_layers_largest(model, images) -> None:
    maps = convolutions(model, images)
    statistics = activation_statistics(maps, [images])
    total = {name: torch.zeros(channels).double() for name, channels in statistics.channels.items()}
    for image in images:
        for name, each in answer_contributions(maps, statistics, image[None]).items():
            for channel in range(each.shape[1]):
                total[name][channel] += each[0, channel].sum() / len(images)
    expected = [torch.tensor([max(float(value), 0.0) for value in each]) for each in total.values()]
    expected = torch.cat([each / max(float(each.max()), 1e-300) for each in expected])
    for size in (1, 2, 5):
        torch.testing.assert_close(answer_relevance(maps, statistics, images.split(size)), expected.float())


def two_heads(images: Tensor) -> list[nn.Sequential]:
    """One backbone of two maps, red and green, and heads that look at one each."""
    backbone = nn.Conv2d(3, 2, 1, bias=False)
    backbone.weight.data = torch.eye(3)[:2, :, None, None]
    models = []
    for map_of in (0, 1):
        head = nn.Linear(2, 2, bias=False)
        head.weight.data = torch.zeros(2, 2)
        head.weight.data[:, map_of] = torch.tensor([-1.0, 1.0])
        own = [copy.deepcopy(backbone), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
        models.append(nn.Sequential(*own).eval().requires_grad_(False))
    return models


def test_two_heads_on_one_backbone_have_other_maps_and_one_explanation_as_published(images) -> None:
    images = images.float()
    chosen, changed = [], []
    torch.manual_seed(0)
    target_model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for model, own in zip(two_heads(images), (0, 1), strict=True):
        source, target = convolutions(model, images), Maps(target_model, {"0": target_model[0]})
        statistics = [activation_statistics(maps, [images]) for maps in (source, target)]
        relevance = answer_relevance(source, statistics[0], [images])
        assert relevance[own] == 1 and relevance[1 - own] == 0
        scores = match_activations(source, statistics[0], target, statistics[1], [images]).abs() + 0.1
        chosen.append(choose_maps(scores))
        assert relevant_maps(scores, relevance).source.tolist() == [own, own]
        swapped = choose_maps(torch.eye(2))  # each map for its namesake
        with network_surgery(target, statistics[1], source, dimmed(statistics[0], relevance), swapped), torch.no_grad():
            changed.append(target_model(images))
        still = changed[-1][:, 1 - own]  # the map that the head ignores is its mean for every image
        torch.testing.assert_close(still, statistics[1].mean[1 - own].expand(5), rtol=1e-4, atol=1e-4)
        assert changed[-1][:, own].std() > 1e-2
    assert torch.equal(chosen[0].source, chosen[1].source) and not torch.allclose(changed[0], changed[1])


def test_a_weight_of_one_dims_nothing_and_half_halves_what_is_transplanted() -> None:
    statistics = ActivationStatistics({"conv": 3}, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 2.0, 0.0]))
    activation = torch.rand(2, 3, 4, 4)
    weight = torch.tensor([1.0, 0.5, 0.25])
    found = dimmed(statistics, weight).standardise("conv", activation)
    torch.testing.assert_close(found, statistics.standardise("conv", activation) * weight[:, None, None])


@pytest.mark.parametrize("weight", [[1.0, -0.1], [1.0, float("nan")]])
def test_bad_weights_are_named(weight) -> None:
    statistics = ActivationStatistics({"conv": 2}, torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="negative or NaN"):
        dimmed(statistics, torch.tensor(weight))
    with pytest.raises(ValueError, match="negative or NaN"):
        relevant_maps(torch.ones(2, 4), torch.tensor(weight))


def test_the_model_is_left_as_it_was_and_needs_logits(model, images) -> None:
    model.train()
    maps = convolutions(model, images)
    statistics = activation_statistics(maps, [images])
    with torch.no_grad():
        answer_contributions(maps, statistics, images)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    pictures = nn.Sequential(model[0], nn.ReLU())
    bare = Maps(pictures, {"0": pictures[0]})
    with pytest.raises(ValueError, match="does not give logits"):
        answer_contributions(bare, activation_statistics(bare, [images]), images)


def test_a_layer_that_does_not_reach_the_answer_is_named(images) -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.idle, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Linear(2, 2)

        def forward(self, images: Tensor) -> Tensor:
            self.idle(images)
            return self.head(self.seen(images).mean((2, 3)))

    model = Aside().double().eval()
    maps = Maps(model, {"seen": model.seen, "idle": model.idle})
    with pytest.raises(ValueError, match="'idle' does not reach"):
        answer_contributions(maps, activation_statistics(maps, [images]), images)
