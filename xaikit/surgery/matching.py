"""Which maps of one network look like which maps of another? (Koller et al., sections 2.2 and 2.3)

`Maps` names the layers, `activation_statistics` standardises them (Eq. 2), `match_activations` scores every pair
of maps (Eq. 3). Nothing here knows CLIP or digits: any two convolutional networks that take the same images will do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from xaikit.arguments import Count, Side, public
from xaikit.models.batches import Batches, checked
from xaikit.models.hooks import at_least_float32, check_hookable, evaluating, in_own_precision, listening
from xaikit.models.shortcuts import trunk

# Standard deviations below this count as this: a dead map is not blown up into noise. The published code adds the
# same number to every standard deviation, which would make even a map swapped for itself change a little.
SMALLEST_STD = 1e-5


@public
@dataclass(frozen=True, eq=False)
class Maps:
    """The activation maps of some `layers` of `model`, numbered through in the layers' order."""

    model: nn.Module
    layers: dict[str, nn.Module]

    def __post_init__(self) -> None:
        inside = set(self.model.modules())
        strays = [name for name, layer in self.layers.items() if layer not in inside]
        if strays or not self.layers:
            which = f"{', '.join(strays)} is" if strays else "No layer is"
            raise ValueError(f"{which} part of the {type(self.model).__name__}; name layers of this model.")


@public
def convolutions(model: nn.Module, images: Float[Tensor, "batch channels height width"] | None = None) -> Maps:
    """Every convolution of a classifier but the projections on its shortcuts (49 layers, 22,720 maps in ResNet-50).

    These are raw outputs, before batch norm and ReLU, as in the published code. Which ones are projections is seen from
    a pass in evaluation mode (`trunk`), and those that it does not run, as heads that only training has, are not among
    them; a model that takes no grey squares of usual sizes is tried with `images`. Raises ValueError for a model
    without convolutions, and as `trunk` does.
    Source: Koller et al., section 2.1.

    >>> from torchvision.models import resnet18
    >>> from xaikit import convolutions
    >>> maps = convolutions(resnet18())
    >>> len(maps.layers), sum(layer.out_channels for layer in maps.layers.values())
    (17, 3904)
    """
    layers: dict[str, nn.Module] = dict(trunk(model, images))
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution, so it has no activation maps to swap.")
    return Maps(model, layers)


@public
def stages(model: nn.Module) -> Maps:
    """The outputs of the four stages of an open_clip ResNet image tower (3,840 maps in RN50), after their last ReLU.

    `model` is the tower or a module around it. The paper calls these "the last convolutional layers of stages 2 to
    5"; the published code hooks the whole stage. Raises ValueError where there are no such stages.
    Source: Koller et al., section 2.1.

    >>> from open_clip.modified_resnet import ModifiedResNet
    >>> from xaikit import stages
    >>> tower = ModifiedResNet(layers=(1, 1, 1, 1), output_dim=8, heads=4, image_size=32, width=8)
    >>> list(stages(tower).layers)
    ['layer1', 'layer2', 'layer3', 'layer4']
    """
    wanted = ("layer1", "layer2", "layer3", "layer4")
    check_hookable(model)
    found: dict[str, list[nn.Module]] = {name: [] for name in wanted}
    for name, module in model.named_modules():
        found.get(name.rsplit(".", 1)[-1], []).append(module)
    if strange := [name for name, modules in found.items() if len(modules) != 1]:
        number = "no" if any(not found[name] for name in strange) else "more than one"
        raise ValueError(
            f"{type(model).__name__} has {number} {', '.join(strange)}; give an open_clip ResNet image tower, such as "
            "RN50."
        )
    return Maps(model, {name: module for name, (module,) in found.items()})


@public
@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Mean and standard deviation of every map over images and space, and how many maps each layer has."""

    channels: dict[str, int]
    mean: Float[Tensor, " maps"]
    std: Float[Tensor, " maps"]

    def __post_init__(self) -> None:
        if self.mean.shape != self.std.shape or sum(self.channels.values()) != len(self.mean):
            raise ValueError("Statistics and channel counts are of different models; compute them together.")

    @property
    def span(self) -> dict[str, slice]:
        """Where the maps of each layer stand among all maps."""
        ends = list(accumulate(self.channels.values()))
        return {name: slice(end - count, end) for (name, count), end in zip(self.channels.items(), ends, strict=True)}

    def standardise(
        self, layer: str, activation: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """N = (A − μ) / σ (Eq. 2), with σ at least `SMALLEST_STD`; in float32 at least."""
        mean, std = (self._of(layer, activation, values)[:, None, None] for values in (self.mean, self.std))
        return (at_least_float32(activation) - mean) / std.clamp_min(SMALLEST_STD)

    def centred(
        self, layer: str, activation: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "channels batch height width"]:
        """A − μ, map by map, in float32 at least: Eq. 2 without its denominator, which may wait."""
        mean = self._of(layer, activation, self.mean)[:, None, None, None]
        maps = at_least_float32(activation).transpose(0, 1)
        return torch.sub(maps, mean, out=torch.empty_like(maps, memory_format=torch.contiguous_format))

    def _of(self, layer: str, activation: Tensor, values: Tensor) -> Tensor:
        """A layer's part of `mean` or `std`, where the activation lies, in float32 at least."""
        if self.channels.get(layer) != activation.shape[1]:
            raise ValueError(
                f"The layer {layer!r} has {self.channels.get(layer, 'no')} maps in these statistics, the activation "
                f"{activation.shape[1]}; give a layer's own."
            )
        return values[self.span[layer]].to(activation.device, torch.promote_types(activation.dtype, torch.float32))


@public
@in_own_precision()
def map_shapes(maps: Maps, images: Float[Tensor, "batch channels height width"]) -> dict[str, tuple[int, int, int]]:
    """Channels, height and width of each layer's maps for such images; works on the meta device too."""
    shapes: dict[str, tuple[int, int, int]] = {}
    with (
        listening(maps.model, maps.layers, lambda name, maps: shapes.update({name: tuple(maps.shape[1:])})),
        evaluating(maps.model),
        torch.no_grad(),
    ):
        maps.model(images)
    return shapes


class _Moments:
    """Running mean and sum of squared deviations of each channel, merged batch by batch in float64 (Chan et al.)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, activation: Tensor) -> None:
        mean, squares = _mean_and_squares(activation)
        count = activation[:, 0].numel()
        total, shift = self.count + count, mean - self.mean.to(mean)
        self.squares = self.squares.to(mean) + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean.to(mean) + shift * (count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        return self.mean, (self.squares / self.count).sqrt()


class _PublishedMoments:
    """What the published code keeps: the mean of batch means, the root of the mean variance *within* batches."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch
        self.batches, self.mean, self.variance = 0, torch.zeros(()), torch.zeros(())

    def add(self, activation: Tensor) -> None:
        for part in activation.split(self.batch or len(activation)):
            mean, squares = _mean_and_squares(part)
            self.batches += 1
            self.mean = self.mean.to(mean) + mean
            self.variance = self.variance.to(mean) + squares / (part[:, 0].numel() - 1)

    def result(self) -> tuple[Tensor, Tensor]:
        return self.mean / self.batches, (self.variance / self.batches).sqrt()


def _mean_and_squares(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel, in float64; two passes are faster than torch.var_mean."""
    values = activation.transpose(0, 1).flatten(1).double()
    mean = values.mean(dim=1)
    return mean, (values - mean[:, None]).square_().sum(dim=1)


@public
@in_own_precision()
def activation_statistics(
    maps: Maps, batches: Batches, *, as_published: bool = False, published_batch: Count | None = None
) -> ActivationStatistics:
    """Mean and standard deviation of every map over all images and positions, in one pass (section 2.2).

    Exact: batches are merged with the variance between them, in float64, so the result does not depend on how the
    images are batched. `as_published` leaves that variance out and uses the unbiased variance within each batch of
    `published_batch` images, however many the network is given at once (by default those are the batches).
    Memory does not grow with the number of images.

    Raises ValueError for no image, images of two sizes, NaN pixels, maps that become NaN, and as `hooked` does for
    layers that do not run once a pass.

    >>> import torch
    >>> from xaikit import activation_statistics, convolutions
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> statistics = activation_statistics(convolutions(model), torch.rand(8, 3, 16, 16).split(4))
    >>> statistics.channels, statistics.mean.shape
    ({'0': 4, '2': 2}, torch.Size([6]))
    """
    moments = {name: _PublishedMoments(published_batch) if as_published else _Moments() for name in maps.layers}
    with (
        listening(maps.model, maps.layers, lambda name, activation: moments[name].add(activation)),
        evaluating(maps.model),
        torch.no_grad(),
    ):
        for images in checked(batches):
            maps.model(images)
    results = {name: moment.result() for name, moment in moments.items()}
    for name, (mean, std) in results.items():
        if not (mean.isfinite().all() and std.isfinite().all()):
            raise ValueError(f"The activations of {name} are not finite; check the model's weights and the images.")
    return ActivationStatistics(
        {name: len(mean) for name, (mean, _) in results.items()},
        torch.cat([mean for mean, _ in results.values()]).float(),
        torch.cat([std for _, std in results.values()]).float(),
    )


@public
@in_own_precision()
def match_activations(
    source: Maps,
    source_statistics: ActivationStatistics,
    target: Maps,
    target_statistics: ActivationStatistics,
    batches: Batches,
) -> Float[Tensor, "sources targets"]:
    """Score Z of every source map against every target map: the mean product of the standardised maps (Eq. 3).

    Of two maps the smaller is upsampled bilinearly to the larger, as in the paper, but the upsampled map is never
    made. For an upsampling U, ⟨U a, c⟩ = ⟨a, Uᵀ c⟩: the adjoint Uᵀ takes the *larger* map down once for all its
    partners, and the product over positions runs at the smaller size. At the sizes of two ResNet-50s that is 22 in
    place of 121 GFLOP an image. Memory is Z and one batch of activations, whatever the number of images.

    Interpolation lowers the variance, so Z is a covariance that favours maps of equal size, within [−1, 1] up to
    rounding. Raises ValueError as `activation_statistics` does.

    >>> import torch
    >>> from xaikit import activation_statistics, convolutions, match_activations
    >>> maps, batches = convolutions(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))), torch.rand(8, 3, 16, 16).split(4)
    >>> statistics = activation_statistics(maps, batches)
    >>> scores = match_activations(maps, statistics, maps, statistics, batches)
    >>> torch.allclose(scores.diagonal(), torch.ones(4), atol=1e-3)  # every map is most like itself
    True
    """
    scores = source_statistics.mean.new_zeros(len(source_statistics.mean), len(target_statistics.mean))
    spans = source_statistics.span, target_statistics.span
    targets: dict[str, dict[tuple[int, int], Tensor]] = {}

    def keep_target(name: str, activation: Tensor) -> None:
        targets[name] = _Sizes(target_statistics.centred(name, activation).float())

    def score_source(name: str, activation: Tensor) -> None:
        widths = (each.full[1] for each in targets.values())
        sizes = _Sizes(source_statistics.centred(name, activation).float(), widths)
        for stage, target_sizes in targets.items():
            (height, width), (stage_height, stage_width) = sizes.full, target_sizes.full
            common = min(height, stage_height), min(width, stage_width)
            positions = max(height, stage_height) * max(width, stage_width)
            block = scores[spans[0][name], spans[1][stage]]
            block.addmm_(sizes[common], target_sizes[common].T, alpha=1 / positions)

    count = 0
    with evaluating(target.model), evaluating(source.model), torch.no_grad():
        for images in checked(batches):
            scores = scores.to(images.device)
            # One after the other: where both are the same network, each pass is heard only once.
            with listening(target.model, target.layers, keep_target):
                target.model(images)
            with listening(source.model, source.layers, score_source):
                source.model(images)
            count += len(images)
    # σ is of a whole map, so it may leave the sums over positions and images: two passes over Z in all, not one over
    # each batch of activations.
    scores /= count * source_statistics.std.clamp_min(SMALLEST_STD).to(scores)[:, None]
    scores /= target_statistics.std.clamp_min(SMALLEST_STD).to(scores)
    if not scores.sum().isfinite():  # isfinite of all scores would need more memory than they do
        raise ValueError("Some matching scores are not finite; compute the statistics with the same models and images.")
    return scores


class _Sizes(dict):
    """One layer's maps as matrices [channels, batch·height·width], taken down to each size asked for, once.

    One pass over the maps takes them down to all `widths`, which may be known beforehand.
    """

    def __init__(self, maps: Float[Tensor, "channels batch height width"], widths: Iterable[int] = ()) -> None:
        self.full, width = tuple(maps.shape[-2:]), maps.shape[-1]
        self.narrowed = {width: maps}
        if widths := sorted({each for each in widths if each < width}):
            every = torch.cat([_interpolation(each, width) for each in widths], 1).to(maps)
            self.narrowed |= dict(zip(widths, (maps @ every).split(widths, -1), strict=True))

    def __missing__(self, size: tuple[int, int]) -> Tensor:
        height, width = size
        maps = self.narrowed[width if width in self.narrowed else self.full[1]]
        self[size] = upsampling_adjoint(maps, (height, width)).flatten(1)
        return self[size]


@public
def upsampling_adjoint(
    maps: Float[Tensor, "batch channels height width"], size: Side
) -> Float[Tensor, "batch channels small_height small_width"]:
    """Uᵀ of the bilinear upsampling U from `size` to the size of `maps` (`align_corners=False`).

    U is separable, so Uᵀ X = U_hᵀ X U_w with one matrix for each axis; an axis that keeps its size is left alone.
    """
    height, width = maps.shape[-2:]
    if size[0] > height or size[1] > width:
        raise ValueError(f"The size {tuple(size)} is larger than the maps, {(height, width)}; give a smaller one.")
    if size[1] != width:
        maps = maps @ _interpolation(size[1], width).to(maps)
    if size[0] != height:
        maps = _interpolation(size[0], height).to(maps).T @ maps
    return maps


@cache
def _interpolation(small: int, large: int) -> Float[Tensor, "large small"]:
    """The matrix of linear interpolation from `small` to `large` points, in float64."""
    return F.interpolate(torch.eye(small, dtype=torch.float64)[None], size=large, mode="linear")[0].T.contiguous()
