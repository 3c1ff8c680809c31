"""From pixels in [0, 1] to what a model expects, as a part of the model, and as the model's own library has it."""

from collections.abc import Sequence
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, crop, normalize, pad, resize

from xaikit.arguments import UNIT, Count, Probability, public

Size = int | Sequence[int]  # of a square, or height and width


class ShortestSide(nn.Module):
    """`model` behind CLIP's preprocessing; `Preprocessed` is the same by default, and what all but recipes call.

    The cards of the weights that ship hold a hash of this class: change the other one.

    Bicubic resize of the shorter side to `size`, centre crop, normalisation with `mean` and `std` of each channel.
    With `grey`, each pixel first gets its largest channel in all three: a red or green stroke (v, 0, 0) becomes
    (v, v, v), so that no trace of the colour is left, as brightness of one luminance or another.
    Images are [batch, 3, height, width]; calling it raises ValueError for pixels outside [0, 1], NaN among them.
    """

    def __init__(
        self,
        model: nn.Module,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        grey: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.size, self.mean, self.std, self.grey = model, size, list(mean), list(std), grey

    def prepare(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """What the model sees. Raises ValueError for pixels outside [0, 1], NaN among them."""
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError("Some pixels are NaN or outside [0, 1]; give images in [0, 1], not normalised.")
        if self.grey:
            images = images.amax(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        if images.shape[-2:] != (self.size, self.size):
            height, width = images.shape[-2:]
            # In whole numbers: a quotient just below one would leave a row too few, and the crop would pad it black.
            new_height, new_width = (side * self.size // min(height, width) for side in (height, width))
            wide, high = (height, new_width), (new_height, new_width)
            # Bicubic interpolation overshoots. PIL, which made the pictures that CLIP learned from, clips to black and
            # white after each of its two passes, the horizontal one first.
            for size in (wide, high):
                images = resize(images, list(size), InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
            images = center_crop(images, [self.size])
        return normalize(images, self.mean, self.std)

    def extra_repr(self) -> str:
        """What print shows of the settings."""
        return f"size={self.size}, mean={self.mean}, std={self.std}, grey={self.grey}"

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch outputs"]:
        """What the model gives for images in [0, 1] of any size; raises as `prepare` does."""
        return self.model(self.prepare(images))


@public
class Preprocessed(ShortestSide):
    """`model` behind its preprocessing, so that all models take the same images in [0, 1], of any size.

    First the image is resized. By `resize` "shortest" it just covers `scale` (by default `size`), by "longest" it just
    fits in, both with its own proportions; by "squash" it becomes `scale`. Then `size` is cut out of the centre, or is
    filled up to with the colour `fill` in [0, 1], and each channel is normalised with `mean` and `std`. By default that
    is CLIP's: bicubic, the shorter side to `size`, centre crop. `of` reads all this from a model's own configuration.
    With `grey`, each pixel first gets its largest channel in all three: a red or green stroke (v, 0, 0) becomes
    (v, v, v), so that no trace of the colour is left, as brightness of one luminance or another.
    `floor` is for libraries that round down where the crop begins; others round to the nearest even number.
    Images are [batch, 3, height, width]. Raises ValueError for an unknown way to resize or interpolate, and sizes,
    means or deviations that cannot be; calling it, for pixels outside [0, 1], NaN among them.

    >>> import torch
    >>> from xaikit import Preprocessed
    >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> model = Preprocessed(classifier, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> model(torch.rand(2, 3, 30, 40)).shape, model.prepare(torch.ones(1, 3, 8, 8)).unique()  # white is 2
    (torch.Size([2, 5]), tensor([2.]))
    """

    def __init__(
        self,
        model: nn.Module,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        grey: bool = False,
        resize: str = "shortest",
        scale: Size | None = None,
        interpolation: str = "bicubic",
        fill: Probability | Sequence[Probability] = 0.0,
        floor: bool = False,
    ) -> None:
        super().__init__(model, size, mean, std, grey=grey)
        self.sides = _two(size)
        self.size = self.sides[0] if self.sides[0] == self.sides[1] else self.sides
        self.scale = self.sides if scale is None else _two(scale)
        if resize not in ("shortest", "longest", "squash"):
            raise ValueError(f"Unknown way to resize {resize!r}: choose 'shortest', 'longest' or 'squash'.")
        if interpolation not in _MODES:
            raise ValueError(f"Unknown interpolation {interpolation!r}: choose from {', '.join(_MODES)}.")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(deviation > 0 for deviation in self.std):
            raise ValueError(
                f"The mean {self.mean} and std {self.std} are not of three channels, or std is not above 0."
            )
        self.resize, self.interpolation, self.floor = resize, interpolation, floor
        self.fill = [float(value) for value in (fill if isinstance(fill, Sequence) else [fill] * 3)]
        own = (self.size, self.scale, resize, interpolation, floor)
        self._is_clips = own == (self.sides[0], self.sides, "shortest", "bicubic", False)

    @classmethod
    def of(cls, model: Any, config: Any = None) -> "Preprocessed":
        """The model behind the preprocessing that its own configuration names.

        Found in the model itself where it is open_clip's (`preprocess_cfg`) or timm's (`pretrained_cfg`); else `config`
        is one of these, an image processor of transformers or what it saves, or weights or transforms of torchvision.
        A configuration alone gives the preprocessing without a model. Raises ValueError for one that is none of these,
        or asks for what is not known here.
        """
        found = model if config is None else config
        if config is None and not (isinstance(model, nn.Module) and not hasattr(model, "crop_size")):
            model = nn.Identity()
        if isinstance(visual := getattr(model, "visual", None), nn.Module):  # a whole CLIP
            model = visual
            found = visual if config is None else config
        from xaikit.models.library_configs import read  # late, as it imports these libraries

        return cls(model, **read(found)).eval()

    def prepare(
        self, images: Annotated[Float[Tensor, "batch 3 height width"], UNIT]
    ) -> Float[Tensor, "batch 3 size1 size2"]:
        """What the model sees. Raises ValueError for pixels outside [0, 1], NaN among them, and not three channels."""
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"Images have shape {tuple(images.shape)}; give [batch, 3, height, width].")
        if self._is_clips:
            return super().prepare(images)
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError("Some pixels are NaN or outside [0, 1]; give images in [0, 1], not normalised.")
        if self.grey:
            images = images.amax(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        return normalize(self._cut(self._resized(images)), self.mean, self.std)

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        new_height, new_width = self._new_size(height, width)
        device = images.device
        if self.interpolation == "lanczos":  # torchvision has it on CPUs alone
            images = images.cpu()
        # As PIL does it: an axis after the other, each clipped to black and white.
        for size in ((height, new_width), (new_height, new_width)):
            if tuple(images.shape[-2:]) != size:
                images = resize(images, list(size), _MODES[self.interpolation], antialias=True).clamp(0, 1)
        return images.to(device)

    def _new_size(self, height: int, width: Count) -> tuple[int, int]:
        if self.resize == "squash":
            return self.scale
        if self.resize == "shortest" and self.scale[0] == self.scale[1]:
            # In whole numbers: a quotient just below one would leave a row too few.
            new_height, new_width = (side * self.scale[0] // min(height, width) for side in (height, width))
            return new_height, new_width
        ratios = [side / target for side, target in zip((height, width), self.scale, strict=True)]
        ratio = min(ratios) if self.resize == "shortest" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _cut(self, images: Tensor) -> Tensor:
        missing = [max(0, target - side) for target, side in zip(self.sides, images.shape[-2:], strict=True)]
        if any(missing):
            (top, left), (bottom, right) = ([(each + more) // 2 for each in missing] for more in (0, 1))
            images = pad(images, [left, top, right, bottom], fill=self.fill)
        rest = [side - target for target, side in zip(self.sides, images.shape[-2:], strict=True)]
        top, left = (each // 2 if self.floor else round(each / 2) for each in rest)
        return crop(images, top, left, *self.sides)

    def extra_repr(self) -> str:
        """What its printed form, and so a cache's key, says of it."""
        if self._is_clips:
            return super().extra_repr()
        names = "size", "scale", "resize", "interpolation", "fill", "floor", "mean", "std", "grey"
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


_MODES = {
    "nearest": InterpolationMode.NEAREST_EXACT,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}


def _two(size: Size) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"The size {size} is neither a whole number nor a height and a width.")
    return sides
