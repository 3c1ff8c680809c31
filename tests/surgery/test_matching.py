"""Statistics and matching agree with slow references in float64; the maps of the real networks are counted."""

import copy
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torchvision.models import resnet50

from xaikit.surgery.matching import (
    SMALLEST_STD,
    ActivationStatistics,
    Maps,
    activation_statistics,
    convolutions,
    map_shapes,
    match_activations,
    stages,
    upsampling_adjoint,
)


class Net(nn.Module):
    """Convolutions with an in-place ReLU right behind each, as in VGG, and dropout and batch norm in the head."""

    def __init__(self, channels: list[int], strides: list[tuple[int, int]]) -> None:
        super().__init__()
        pairs = zip([3, *channels], channels, strict=False)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1) for (a, b), stride in zip(pairs, strides, strict=True)
        )
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(channels[-1])
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.relu(conv(x))
        return self.dropout(self.norm(x)).mean((2, 3))

    def activations(self, images: Tensor) -> list[Tensor]:
        """The convolutions' outputs, by hand."""
        found, x = [], images
        for conv in self.convs:
            found.append(conv(x))
            x = found[-1].clamp(min=0)
        return [activation.detach() for activation in found]


@pytest.fixture
def source() -> Net:
    torch.manual_seed(0)
    return Net([5, 4, 6], [(1, 2), (2, 1), (2, 2)])  # from 12 x 20: 12 x 10, 6 x 10, 3 x 5


@pytest.fixture
def target() -> Net:
    torch.manual_seed(1)
    return Net([4, 7, 5], [(1, 1), (2, 1), (1, 4)])  # from 12 x 20: 12 x 20, 6 x 20, 6 x 5


@pytest.fixture
def images() -> Tensor:
    """Smooth ones, so that maps of different sizes have much in common."""
    noise = torch.randn(9, 3, 16, 24, generator=torch.Generator().manual_seed(2)) + 0.3
    return F.avg_pool2d(noise, 5, stride=1)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def just_looking() -> Maps:
    """A network whose one map layer shows the images themselves."""
    model = nn.Sequential(nn.Identity())
    return Maps(model, {"pixels": model[0]})


# --- which maps -------------------------------------------------------------------------------------------------


def test_resnet50_has_49_convolutions_and_22720_maps_where_the_published_code_has_them() -> None:
    with torch.device("meta"):
        maps = convolutions(resnet50())
    shapes = map_shapes(maps, torch.zeros(1, 3, 224, 224, device="meta"))
    assert len(shapes) == 49 and sum(channels for channels, _, _ in shapes.values()) == 22_720
    expected = [
        "conv1",
        *(f"layer{s}.{b}.conv{c}" for s, n in enumerate([3, 4, 6, 3], 1) for b in range(n) for c in (1, 2, 3)),
    ]
    assert list(shapes) == expected
    assert shapes["conv1"] == (64, 112, 112) and shapes["layer4.2.conv3"] == (2048, 7, 7)
    channels = {name: shape[0] for name, shape in shapes.items()}
    span = ActivationStatistics(channels, torch.zeros(22_720), torch.ones(22_720)).span
    for part, first, last in [
        ("conv1", 0, 63),
        ("layer1", 64, 1_215),
        ("layer2", 1_216, 4_287),
        ("layer3", 4_288, 13_503),
        ("layer4", 13_504, 22_719),
    ]:
        numbers = [
            number
            for name, where in span.items()
            if name.split(".")[0] == part
            for number in range(where.start, where.stop)
        ]
        assert numbers == list(range(first, last + 1))


def test_clips_rn50_has_3840_maps_in_four_stages() -> None:
    with torch.device("meta"):
        tower = ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32)
    for model in (tower, nn.Sequential(tower)):
        shapes = map_shapes(stages(model), torch.zeros(1, 3, 224, 224, device="meta"))
        assert shapes == {
            "layer1": (256, 56, 56),
            "layer2": (512, 28, 28),
            "layer3": (1024, 14, 14),
            "layer4": (2048, 7, 7),
        }
        assert sum(channels for channels, _, _ in shapes.values()) == 3_840


def test_looking_for_maps_where_there_are_none_says_so() -> None:
    with pytest.raises(ValueError, match="Linear has no convolution"):
        convolutions(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="Linear has no layer1, layer2, layer3, layer4"):
        stages(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="stray is part of the Linear"):
        Maps(nn.Linear(3, 2), {"stray": nn.Conv2d(3, 2, 1)})
    with pytest.raises(ValueError, match="No layer is part of the Linear"):
        Maps(nn.Linear(3, 2), {})
    twice = nn.ModuleDict({name: ModifiedResNet([1, 1, 1, 1], 8, 4, 64, 4) for name in ("a", "b")})
    with pytest.raises(ValueError, match="ModuleDict has more than one layer1, layer2, layer3, layer4"):
        stages(twice)


def test_map_shapes_leaves_the_model_as_it_was(source, images) -> None:
    source.train()
    assert list(map_shapes(convolutions(source), images).values()) == [(5, 12, 10), (4, 6, 10), (6, 3, 5)]
    assert hooks(source) == 0 and source.training and source.norm.num_batches_tracked == 0


# --- statistics -------------------------------------------------------------------------------------------------


def slow_statistics(activations: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One channel at a time, over all images and positions at once, in float64."""
    means, stds = [], []
    for activation in activations:
        for channel in range(activation.shape[1]):
            values = activation[:, channel].double().flatten()
            mean = values.sum() / len(values)
            means.append(mean)
            stds.append((((values - mean) ** 2).sum() / len(values)).sqrt())
    return torch.stack(means), torch.stack(stds)


@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 4, 1], [1, 6, 2]])
def test_streamed_statistics_equal_one_big_batch(source, images, sizes) -> None:
    statistics = activation_statistics(convolutions(source), images.split(sizes))
    mean, std = slow_statistics(source.activations(images))
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(statistics.std.double(), std, rtol=1e-6, atol=1e-7)
    assert statistics.channels == {"convs.0": 5, "convs.1": 4, "convs.2": 6}


def test_statistics_keep_a_small_spread_around_a_large_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    level = torch.tensor([1e4, -3e4, 0.0])[:, None, None]
    pixels = (level + torch.randn(12, 3, 8, 8, generator=draw) * 0.02).float()
    mean, std = slow_statistics([pixels])
    assert std.amin() > 0.015 and std.amax() < 0.03
    statistics = activation_statistics(just_looking(), pixels.split([5, 1, 6]))
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(statistics.std.double(), std, rtol=1e-6, atol=0)


def test_statistics_as_published_leave_out_the_variance_between_batches() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 2, 4, 5, generator=draw) + torch.arange(8.0).floor_divide(3)[:, None, None, None] * 5
    batches = pixels.split([3, 3, 2])
    means, variances = [], []
    for batch in batches:
        per_channel = batch.double().transpose(0, 1).flatten(1)
        means.append(per_channel.mean(1))
        variances.append(((per_channel - means[-1][:, None]) ** 2).sum(1) / (per_channel.shape[1] - 1))
    published = activation_statistics(just_looking(), batches, as_published=True)
    torch.testing.assert_close(published.mean.double(), torch.stack(means).mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(published.std.double(), torch.stack(variances).mean(0).sqrt(), rtol=1e-6, atol=0)
    at_once = activation_statistics(just_looking(), [pixels], as_published=True, published_batch=3)
    assert torch.equal(at_once.mean, published.mean) and torch.equal(at_once.std, published.std)
    exact = activation_statistics(just_looking(), batches)
    assert (exact.std > 2 * published.std).all()


def test_statistics_leave_the_model_as_it_was(source, images) -> None:
    source.train()
    source.dropout.eval()
    before = copy.deepcopy(source.state_dict())
    activation_statistics(convolutions(source), images.split(3))
    assert hooks(source) == 0 and source.training and source.norm.training and not source.dropout.training
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


def with_nan(images: Tensor) -> Tensor:
    images = images.clone()
    images[1, 0, 2, 2] = torch.nan
    return images


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda images: [images[:3], with_nan(images)], "Some pixels are NaN or infinite"),
        (lambda images: [images[:3], images / 0], "Some pixels are NaN or infinite"),
        (lambda images: [], "There is no image in the data"),
        (lambda images: [images[:3], images[:0]], r"A batch has shape \(0, 3, 12, 20\)"),
        (lambda images: [images[:3], images[:3, :, :8]], r"images of size \(3, 8, 20\) and \(3, 12, 20\)"),
        (lambda images: [images[:3], images[0]], r"A batch has shape \(3, 12, 20\)"),
    ],
)
def test_bad_images_are_named_and_no_hook_stays(source, target, images, spoil, sentence) -> None:
    one, other = convolutions(source.train()), convolutions(target)
    with pytest.raises(ValueError, match=sentence):
        activation_statistics(one, spoil(images))
    good = activation_statistics(one, [images]), activation_statistics(other, [images])
    with pytest.raises(ValueError, match=sentence):
        match_activations(one, good[0], other, good[1], spoil(images))
    assert hooks(source) == hooks(target) == 0 and source.training and target.training


def test_hooks_go_when_the_data_fail_in_the_middle(source, images) -> None:
    def batches() -> Iterator[Tensor]:
        yield images
        assert hooks(source) > 3
        raise OSError("the disc is gone")

    with pytest.raises(OSError, match="the disc is gone"):
        activation_statistics(convolutions(source), batches())
    assert hooks(source) == 0


def test_activations_that_are_not_finite_are_named(source, images) -> None:
    source.convs[1].weight.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"activations of convs.1 are not finite"):
        activation_statistics(convolutions(source), [images])


def test_statistics_must_fit_their_channels() -> None:
    with pytest.raises(ValueError, match="of different models"):
        ActivationStatistics({"a": 2, "b": 2}, torch.zeros(3), torch.ones(3))


def test_standardising_follows_equation_2_and_does_not_blow_up_dead_maps() -> None:
    statistics = ActivationStatistics({"a": 1, "b": 2}, torch.tensor([9.0, 2.0, 5.0]), torch.tensor([9.0, 4.0, 0.0]))
    activation = torch.tensor([[[[10.0]], [[5.0]]]])
    assert statistics.standardise("b", activation).flatten().tolist() == [2.0, 0.0]
    off = statistics.standardise("b", activation + 1e-3)[0, 1].item()
    assert off == pytest.approx(1e-3 / SMALLEST_STD, rel=1e-3)


@pytest.mark.parametrize("deviation", [1e-4, 1e-3, 1.0])
def test_only_deviations_that_are_rounding_count_as_none(deviation) -> None:
    statistics = ActivationStatistics({"a": 1}, torch.zeros(1), torch.tensor([deviation]))
    assert statistics.standardise("a", torch.full((1, 1, 1, 1), deviation)).item() == pytest.approx(1)


# --- matching ---------------------------------------------------------------------------------------------------


def direct_scores(
    sources: list[Tensor], targets: list[Tensor], one: ActivationStatistics, other: ActivationStatistics
) -> Tensor:
    """Eq. 3 as it is written: upsample the smaller map, multiply position by position, average; in float64."""

    def standardised(activations: list[Tensor], statistics: ActivationStatistics) -> list[Tensor]:
        parts = zip(activations, statistics.span.values(), strict=True)
        return [
            (a.double() - statistics.mean[s].double()[:, None, None]) / statistics.std[s].double()[:, None, None]
            for a, s in parts
        ]

    rows = []
    for a in standardised(sources, one):
        row = []
        for c in standardised(targets, other):
            size = (max(a.shape[2], c.shape[2]), max(a.shape[3], c.shape[3]))
            large_a, large_c = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (a, c))
            row.append(torch.einsum("bixy,bjxy->ij", large_a, large_c) / (len(a) * size[0] * size[1]))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("square", [False, True])
def test_matching_equals_the_direct_way(source, target, images, square) -> None:
    if square:
        images = images[:, :, :, :12].contiguous()
        source, target = Net([5, 6], [(1, 1), (3, 3)]), Net([4, 7, 5], [(2, 2), (1, 1), (4, 4)])
    one, other = convolutions(source), convolutions(target)
    statistics = activation_statistics(one, [images]), activation_statistics(other, [images])
    scores = match_activations(one, statistics[0], other, statistics[1], images.split([4, 4, 1]))
    expected = direct_scores(source.activations(images), target.activations(images), *statistics)
    assert scores.dtype == torch.float32 and expected.abs().amax() > 0.3
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)


def test_matching_does_not_depend_on_the_batches(source, target, images) -> None:
    one, other = convolutions(source), convolutions(target)
    statistics = activation_statistics(one, [images]), activation_statistics(other, [images])
    together = match_activations(one, statistics[0], other, statistics[1], [images])
    for sizes in ([1] * 9, [2, 6, 1]):
        parts = match_activations(one, statistics[0], other, statistics[1], images.split(sizes))
        torch.testing.assert_close(parts, together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("copied", [False, True])
def test_a_network_matched_with_itself_scores_one_on_the_diagonal(target, images, copied) -> None:
    other = copy.deepcopy(target) if copied else target
    one, two = convolutions(target), convolutions(other)
    statistics = activation_statistics(one, images.split(4))
    scores = match_activations(one, statistics, two, statistics, images.split(4))
    torch.testing.assert_close(scores.diagonal(), torch.ones(16), atol=1e-5, rtol=0)
    assert torch.equal(scores.argmax(0), torch.arange(16)) and scores.abs().amax() < 1 + 1e-5


def test_matching_holds_one_batch_at_a_time(source, target, images) -> None:
    """Earlier images are freed, and the tensors alive are as many and as large late as early."""
    one, other = convolutions(source), convolutions(target)
    statistics = activation_statistics(one, [images]), activation_statistics(other, [images])
    alive: list[tuple[int, int]] = []
    given: list[weakref.ref] = []

    def batches() -> Iterator[Tensor]:
        for step in range(10):
            if step in (0, 2, 9):
                gc.collect()
                tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
                alive.append((len(tensors), sum(tensor.numel() for tensor in tensors)))
                del tensors
            assert sum(ref() is not None for ref in given) <= 1
            batch = images + step
            given.append(weakref.ref(batch))
            yield batch
            del batch

    match_activations(one, statistics[0], other, statistics[1], batches())
    assert len(given) == 10 and alive[0] < alive[1] == alive[2]


def test_scores_that_are_not_finite_are_refused(source, target, images) -> None:
    one, other = convolutions(source), convolutions(target)
    good, bad = activation_statistics(one, [images]), activation_statistics(other, [images])
    bad.mean[3] = torch.nan
    with pytest.raises(ValueError, match="matching scores are not finite"):
        match_activations(one, good, other, bad, [images])
    assert hooks(source) == hooks(target) == 0


SIZES = [
    ((7, 7), (56, 56)),
    ((5, 3), (12, 3)),
    ((4, 9), (10, 13)),
    ((1, 2), (6, 5)),
    ((6, 6), (7, 13)),
    ((3, 4), (3, 4)),
]


@pytest.mark.parametrize("seed", range(3))
def test_order_and_copies_of_images_change_nothing_and_scale_only_what_is_linear_in_it(seed, source, target) -> None:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(7, 3, 12, 20, generator=draw)
    maps = convolutions(source), convolutions(target)
    plain = [activation_statistics(each, images.split(3)) for each in maps]
    scores = match_activations(maps[0], plain[0], maps[1], plain[1], images.split(3))
    for other in (images[torch.randperm(7, generator=draw)], torch.cat([images, images])):
        again = [activation_statistics(each, other.split(4)) for each in maps]
        for one, two in zip(plain, again, strict=True):
            torch.testing.assert_close(two.mean, one.mean)
            torch.testing.assert_close(two.std, one.std)
        found = match_activations(maps[0], again[0], maps[1], again[1], other.split(4))
        torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-4)
    first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    one, three = (activation_statistics(convolutions(first), [scale * images]) for scale in (1, 3))
    torch.testing.assert_close(three.mean, 3 * one.mean)
    torch.testing.assert_close(three.std, 3 * one.std)
    own = convolutions(first)
    torch.testing.assert_close(
        match_activations(own, three, own, three, [3 * images]), match_activations(own, one, own, one, [images])
    )


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_the_adjoint_is_autograds_vector_jacobian_product(small, large) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(2, 3, *small, generator=draw, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, 3, *large, generator=draw, dtype=torch.float64)
    upsampled = F.interpolate(a, large, mode="bilinear", align_corners=False)
    (expected,) = torch.autograd.grad(upsampled, a, c)
    adjoint = upsampling_adjoint(c, small)
    torch.testing.assert_close(adjoint, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close((upsampled * c).sum(), (a * adjoint).sum(), atol=1e-10, rtol=0)
    torch.testing.assert_close(upsampling_adjoint(c.float(), small).double(), expected, atol=1e-4, rtol=1e-5)


def test_the_adjoint_leaves_maps_of_the_same_size_alone() -> None:
    maps = torch.randn(2, 3, 4, 5)
    assert upsampling_adjoint(maps, (4, 5)) is maps
