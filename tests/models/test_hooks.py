"""Looking into a model leaves it as it was, whatever happens."""

import pytest
import torch
from torch import Tensor, nn

from xaikit.models.hooks import evaluating, listening


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_gives_each_module_its_own_mode_back(net, fails) -> None:
    net.train()
    net[2].eval()
    before = [module.training for module in net.modules()]
    try:
        with evaluating(net):
            assert not any(module.training for module in net.modules())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [module.training for module in net.modules()] == before and net.training and not net[2].training


def test_evaluating_twice_restores_the_outer_mode_last(net) -> None:
    net.train()
    with evaluating(net):
        with evaluating(net[0]):
            pass
        assert not net[0].training
    assert all(module.training for module in net.modules())


def test_listening_hands_over_what_a_layer_gives_before_it_is_overwritten(net) -> None:
    images, heard = torch.randn(2, 3, 6, 6), []
    net.eval()
    raw = net[0](images)
    with listening({"conv": net[0], "relu": net[1]}, lambda name, maps: heard.append((name, maps.clone()))):
        net(images)
        net(images)
    net(images)
    assert [name for name, _ in heard] == ["conv", "relu"] * 2
    assert raw.min() < 0 and torch.equal(heard[0][1], raw) and torch.equal(heard[1][1], raw.relu())
    assert hooks(net) == 0


def test_listening_does_not_change_what_the_model_gives(net) -> None:
    images = torch.randn(2, 3, 6, 6)
    net.eval()
    expected = net(images)
    with listening({"conv": net[0]}, lambda name, maps: maps + 1):
        assert torch.equal(net(images), expected)


def test_hooks_go_after_an_exception(net) -> None:
    def receive(name: str, maps: Tensor) -> None:
        assert hooks(net) == 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), listening({"conv": net[0], "relu": net[1]}, receive):
        net(torch.randn(1, 3, 6, 6))
    assert hooks(net) == 0


def test_hooks_go_where_a_later_layer_cannot_be_hooked(net) -> None:
    with pytest.raises(AttributeError), listening({"conv": net[0], "none": None}, print):
        pass
    assert hooks(net) == 0


def test_an_output_that_is_no_map_is_named(net) -> None:
    sentence = "output of flat is not made of activation maps"
    with pytest.raises(ValueError, match=sentence), listening({"flat": net[3]}, lambda name, maps: None):
        net(torch.randn(1, 3, 6, 6))
    assert hooks(net) == 0
