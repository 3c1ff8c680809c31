"""Projections on shortcuts are known by what is connected with what, whatever they are called."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from xaikit.models.shortcuts import trunk


def left_out(model: nn.Module) -> set[str]:
    """The convolutions that are not of the trunk; order and names of the others are the model's."""
    every = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found = trunk(model)
    assert list(found) == [name for name in every if name in found]
    assert all(model.get_submodule(name) is layer for name, layer in found.items())
    return set(every) - set(found)


@pytest.mark.parametrize(
    ("name", "projections"),
    [
        ("resnet18", {f"layer{n}.0.downsample.0" for n in (2, 3, 4)}),
        ("resnet50d", {f"layer{n}.0.downsample.1" for n in (1, 2, 3, 4)}),  # behind an average pooling
        ("resnetv2_50", {f"stages.{n}.blocks.0.downsample.conv" for n in range(4)}),  # norms before convolutions
        ("nfnet_l0", {f"stages.{n}.0.downsample.conv" for n in range(4)}),  # weights are standardised on the way
        ("regnetx_002", {f"s{n}.b1.downsample.conv" for n in (1, 2, 3, 4)}),
        ("convnext_atto", set()),  # its "downsample" layers are on the only way there is
        ("mobilenetv2_100", set()),  # the last convolution of a block is next to an addition, but on the trunk
        ("efficientnet_b0", set()),
        ("vgg11", set()),
        ("repvgg_a0", set()),  # two convolutions side by side, neither of which goes around the other
    ],
)
def test_projections_of_timm_networks(name, projections) -> None:
    assert left_out(timm.create_model(name, pretrained=False)) == projections


def test_projections_of_torchvision_and_transformers_networks() -> None:
    expected = {f"layer{n}.0.downsample.0" for n in (1, 2, 3, 4)}
    assert left_out(torchvision.models.resnet50()) == expected
    with torch.device("meta"):
        assert left_out(torchvision.models.resnet50()) == expected
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic")
    assert left_out(ResNetModel(config)) == {"encoder.stages.1.layers.0.shortcut.convolution"}


class Block(nn.Module):
    """A residual block with names that say nothing."""

    def __init__(self, *, in_place: bool, equal: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 4 if equal else 8, 3, 1, 1)
        self.c = nn.Conv2d(4, 4 if equal else 8, 1, 2)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        way, around = self.b(self.a(x).relu()), self.c(x)
        if self.in_place:
            way += around
            return way.relu_()
        return torch.add(around, way).relu()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_names_sizes_and_gradients_do_not_matter(in_place, equal, frozen) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Block(in_place=in_place, equal=equal), nn.Flatten())
    assert left_out(net.requires_grad_(not frozen)) == {"2.c"}


def test_a_convolution_called_shortcut_on_the_only_way_is_of_the_trunk() -> None:
    net = nn.Sequential()
    net.add_module("shortcut", nn.Conv2d(3, 4, 3))
    net.add_module("downsample", nn.Conv2d(4, 4, 1))
    assert left_out(net) == set()


def test_convolutions_that_only_training_runs_are_left_out() -> None:
    net = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    assert left_out(net) == {"aux1.conv.conv", "aux2.conv.conv"}


def test_a_head_for_one_size_of_image_does_no_harm() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 17 * 19, 2))
    assert left_out(net) == set()


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 57:
            raise ValueError("57 pixels wide, please")
        return self.conv(x)


def test_a_model_that_cannot_be_run_is_named_and_run_with_images_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"The Picky does not get to 'conv' \(57 pixels wide, please\): give a few"):
        trunk(Picky())
    assert list(trunk(Picky(), torch.rand(1, 3, 57, 57))) == ["conv"]
    assert trunk(nn.Linear(2, 2)) == {}


def test_the_model_is_left_as_it_was() -> None:
    net = timm.create_model("resnet18", pretrained=False).train()
    net.bn1.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        trunk(net)
    assert net.training and not net.bn1.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
