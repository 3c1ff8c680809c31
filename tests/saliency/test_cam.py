"""Grad-CAM, integrated gradients and RISE agree with slow loops and with the grad-cam and captum packages."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import resnet18

from xaikit.metrics.heatmaps import normalise
from xaikit.models.scores import class_score
from xaikit.perturbation.removal import removal_curves
from xaikit.perturbation.search import Recipe, meaningful_perturbation
from xaikit.saliency.cam import cam, grad_cam
from xaikit.saliency.masking import random_masks, rise
from xaikit.saliency.path_gradients import integrated_gradients
from xaikit.storage.seeding import generator


class Net(nn.Module):
    """A small classifier with batch norm, an in-place ReLU used twice, and a branch that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.side = nn.Conv2d(8, 2, 1)
        self.unused = nn.Conv2d(8, 2, 1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv1(x)))
        x = self.relu(self.conv2(x))
        self.side(x)
        return self.head(self.dropout(x.mean((2, 3))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model.norm.running_mean.uniform_(-0.5, 0.5)
    model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 18, 22, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=7).eval()


def reference(net: Net, images: Tensor, target: Tensor, layer: str) -> Tensor:
    """Eq. 1 and 2 with loops: one image, one channel at a time, in float64, on a forward pass written out."""
    net = net.double()
    maps = []
    for image, label in zip(images.double(), target, strict=True):
        first = net.conv1(image[None])
        normed = net.norm(first)
        second = net.conv2(normed.relu())
        activation = {"conv1": first, "norm": normed, "conv2": second}[layer]
        y = net.head(second.relu().mean((2, 3)))[0, label]
        (gradient,) = torch.autograd.grad(y, activation)
        total = torch.zeros_like(activation[0, 0])
        for channel in range(activation.shape[1]):
            alpha = gradient[0, channel].sum() / gradient[0, channel].numel()
            total += alpha * activation[0, channel]
        total = total.clamp(min=0)
        maps.append(F.interpolate(total[None, None], image.shape[1:], mode="bilinear")[0, 0].detach())
    net.float()
    return torch.stack(maps)


@pytest.mark.parametrize("layer", ["conv1", "norm", "conv2"])
def test_grad_cam_equals_the_slow_reference(net, images, layer) -> None:
    target = torch.tensor([0, 1, 2, 3, 1])
    maps = grad_cam(net, net.get_submodule(layer), images, target)
    expected = reference(net, images, target, layer)
    assert maps.shape == (5, 18, 22) and expected.amax() > 0
    torch.testing.assert_close(maps.double(), expected, atol=1e-6, rtol=1e-5)


def test_grad_cam_explains_the_highest_logit_by_default(net, images) -> None:
    chosen = net(images).argmax(1)
    torch.testing.assert_close(grad_cam(net, net.conv2, images), grad_cam(net, net.conv2, images, chosen))
    assert not torch.allclose(grad_cam(net, net.conv2, images), grad_cam(net, net.conv2, images, (chosen + 1) % 4))


def test_grad_cam_without_upsampling_has_the_size_of_the_layer(net, images) -> None:
    small = grad_cam(net, net.conv2, images, upsample=False)
    assert small.shape == (5, 9, 11)
    large = F.interpolate(small[:, None], (18, 22), mode="bilinear")[:, 0]
    torch.testing.assert_close(grad_cam(net, net.conv2, images), large)


@pytest.mark.parametrize("layer", ["layer2", "layer3.0.conv1", "layer4"])
def test_grad_cam_equals_the_grad_cam_package(resnet, images, layer) -> None:
    images = F.interpolate(images, (64, 96))
    target = torch.tensor([3, 0, 6, 1, 3])
    module = resnet.get_submodule(layer)
    with GradCAM(resnet, [module]) as package:
        scaled = package(images, [ClassifierOutputTarget(int(label)) for label in target])
        recorded = package.activations_and_grads
        activations, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
        raw = np.maximum(package.get_cam_image(images, module, [], activations, gradients), 0)
    raw = torch.from_numpy(raw)
    assert raw.amax() > 1e-4
    ours = grad_cam(resnet, module, images, target, upsample=False)
    torch.testing.assert_close(ours, raw, atol=1e-5 * raw.amax().item(), rtol=1e-5)
    # The package scales each map to 0..1, with 1e-7 in the denominator, before and after resizing it.
    resized = normalise(grad_cam(resnet, module, images, target))
    np.testing.assert_allclose(resized.numpy(), scaled, atol=2e-3)


def test_grad_cam_is_cam_over_the_number_of_places_where_a_linear_head_follows_pooling(resnet, images) -> None:
    features: list[Tensor] = []
    with resnet.layer4.register_forward_hook(lambda module, inputs, output: features.append(output)):
        images = F.interpolate(images, (96, 96))
        target = resnet(images).argmax(1)
    places = features[0].shape[2] * features[0].shape[3]
    expected = cam(features[0], resnet.fc.weight[target]).relu() / places
    assert places == 9 and expected.amax() > 0
    ours = grad_cam(resnet, resnet.layer4, images, upsample=False)
    torch.testing.assert_close(ours, expected.detach(), atol=1e-6, rtol=1e-4)


def test_cam_equals_explicit_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, generator=generator)
    maps = cam(features, weights)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                expected = sum(weights[b, k] * features[b, k, y, x] for k in range(3))
                torch.testing.assert_close(maps[b, y, x], expected)


def test_grad_cam_needs_neither_trainable_parameters_nor_the_callers_grad_mode(net, images) -> None:
    expected = grad_cam(net, net.conv2, images)
    net.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(net, net.conv2, images), expected)
        assert not torch.is_grad_enabled()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def state(net: nn.Module) -> dict[str, object]:
    return {
        "training": [module.training for module in net.modules()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()],
        "requires_grad": [parameter.requires_grad for parameter in net.parameters()],
        "gradients": [None if p.grad is None else p.grad.sum().item() for p in net.parameters()],
        "values": [value.sum().item() for value in net.state_dict().values()],
    }


def test_grad_cam_leaves_the_model_as_it_was(net, images) -> None:
    net.train()
    net.norm.eval()  # a frozen batch norm in a training model keeps its own flag
    net.conv1.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = state(net)
    maps = grad_cam(net, net.conv2, images)
    assert state(net) == before and not maps.requires_grad
    torch.testing.assert_close(maps, grad_cam(net.eval(), net.conv2, images))  # no dropout, no batch statistics

    net.train()
    before = state(net)
    net.head.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        grad_cam(net, net.conv2, images)
    assert state(net) == before


def test_grad_cam_refuses_layers_that_it_cannot_explain(net, images) -> None:
    with pytest.raises(ValueError, match="no layer of this model"):
        grad_cam(net, nn.Conv2d(3, 3, 1), images)
    with pytest.raises(ValueError, match="not 4-D"):
        grad_cam(net, net.head, images)
    with pytest.raises(ValueError, match="used 2 times"):
        grad_cam(net, net.relu, images)
    with pytest.raises(ValueError, match="used 0 times"):
        grad_cam(net, net.unused, images)
    for trainable in (True, False):
        with pytest.raises(ValueError, match="does not reach the logits"):
            grad_cam(net.requires_grad_(trainable), net.side, images)


def test_grad_cam_refuses_bad_images_and_targets(net, images) -> None:
    with pytest.raises(ValueError, match="images of grad_cam"):
        grad_cam(net, net.conv2, images[:0])
    for bad in (-1, 4):
        with pytest.raises(ValueError, match="classes 0 to 3"):
            grad_cam(net, net.conv2, images, torch.full((5,), bad))
    images[2, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        grad_cam(net, net.conv2, images)
    net.conv1.weight.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="maps hold NaN"):
        grad_cam(net, net.conv2, images[:2])


def test_normalise_stretches_each_map_and_turns_constant_ones_to_zero() -> None:
    maps = torch.stack([torch.tensor([[1.0, 2], [3, 5]]), torch.full((2, 2), 7.0), torch.zeros(2, 2)])
    expected = torch.stack([torch.tensor([[0, 0.25], [0.5, 1]]), torch.zeros(2, 2), torch.zeros(2, 2)])
    torch.testing.assert_close(normalise(maps), expected)


# --- integrated gradients and RISE --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3)]
    return nn.Sequential(*layers).double()


def test_integrated_gradients_equal_captums(smooth: nn.Module) -> None:
    images = torch.rand(3, 3, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    baseline = torch.full((1, 3, 14, 14), 0.4, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1])
    found = integrated_gradients(class_score(smooth, targets, softmax=1.0), images, baseline, steps=20, batch=7)
    probabilities = nn.Sequential(smooth, nn.Softmax(1))
    expected = IntegratedGradients(probabilities).attribute(
        images, baseline, targets, n_steps=20, method="gausslegendre"
    )
    torch.testing.assert_close(found, expected.sum(1), rtol=0, atol=1e-9)
    with torch.no_grad():
        gain = (probabilities(images) - probabilities(baseline)).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2)), gain, rtol=0, atol=1e-8)  # completeness


def test_rise_is_the_mean_of_masks_weighted_by_their_scores(smooth: nn.Module) -> None:
    network = smooth.float()
    images = torch.rand(2, 3, 14, 18, generator=torch.Generator().manual_seed(0))
    other = torch.full((1, 3, 14, 18), 0.3)
    targets = torch.tensor([0, 2])
    score = class_score(network, targets, softmax=1.0)
    found = rise(score, images, other, seed=5, masks=23, cells=4, keep=0.4, batch=10)
    draw = generator(5, "rise")
    masks = torch.cat([random_masks(count, (14, 18), 4, 0.4, draw) for count in (10, 10, 3)])
    expected = torch.zeros(2, 14, 18, dtype=torch.float64)
    for i in range(2):
        for mask in masks:
            with torch.no_grad():
                value = network((mask * images[i] + (1 - mask) * other[0])[None]).softmax(1)[0, targets[i]]
            expected[i] += value.double() * mask.double() / (23 * 0.4)
    smooth.double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_masks_of_rise_keep_the_share_that_was_asked_for() -> None:
    masks = random_masks(2_000, (30, 40), 5, 0.3, generator(0, "masks"))
    assert masks.shape == (2_000, 30, 40)
    assert masks.min() >= 0 and masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.06
    assert masks.var(0).min() > 0.03  # coarse cells, not noise that averages out


def test_rise_finds_the_part_that_matters() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.8
    black = torch.zeros(1, 3, 24, 24)
    found = rise(lambda x, which: x[:, :, :8, :8].mean((1, 2, 3)), images, black, seed=0, masks=600, cells=6)
    assert (found[:, :6, :6].mean((1, 2)) > found[:, 14:, 14:].mean((1, 2)) * 1.1).all()


def test_bad_input_of_integrated_gradients_and_rise(smooth: nn.Module) -> None:
    images = torch.rand(2, 3, 14, 14)
    with pytest.raises(ValueError, match="images of integrated_gradients"):
        integrated_gradients(lambda x, which: x.sum((1, 2, 3)), images[:0], images[:1])
    with pytest.raises(ValueError, match="has no gradient"):
        integrated_gradients(lambda x, which: torch.ones(len(x)), images, images[:1])
    with pytest.raises(ValueError, match="keep of rise"):
        rise(lambda x, which: torch.ones(len(x)), images, images[:1], seed=0, keep=0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_by_every_explainer(bad: float) -> None:
    """Also where one batch, mask or point of the path alone has it."""
    images = torch.rand(2, 3, 14, 14)
    black = torch.zeros_like(images)

    def first_only(x: Tensor, which: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x)) == 0, bad, x.mean((1, 2, 3)))

    for explain in (
        lambda score: rise(score, images, black, seed=0, masks=8),
        lambda score: integrated_gradients(score, images, black, steps=2),
        lambda score: removal_curves(score, images, torch.rand(2, 14, 14), black, step=50),
        lambda score: meaningful_perturbation(score, images, Recipe(steps=2, side=7, blur=1), seed=0),
    ):
        for score in (first_only, lambda x, which: x.sum((1, 2, 3)) * bad):
            with pytest.raises(ValueError, match="The score of"):
                explain(score)
        with pytest.raises(ValueError, match="one number each"):
            explain(lambda x, which: x.sum((2, 3))[:, :, None])


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    images = torch.rand(2, 3, 14, 14)
    with pytest.raises(ValueError, match="its gradient is NaN or infinite for image 0"):
        integrated_gradients(lambda x, which: (x * 0).sum((1, 2, 3)).sqrt(), images, images[:1] * 0, steps=2)
