"""From pixels in [0, 1] to what a model expects, as a part of the model."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, normalize, resize


class Preprocessed(nn.Module):
    """`model` behind CLIP's preprocessing, so that all models take the same images in [0, 1], of any size.

    Bicubic resize of the shorter side to `size`, centre crop, normalisation with `mean` and `std` of each channel.
    """

    def __init__(self, model: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.size, self.mean, self.std = model, size, list(mean), list(std)

    def prepare(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """What the model sees. Raises ValueError for pixels outside [0, 1], NaN among them."""
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError("Some pixels are NaN or outside [0, 1]; give images in [0, 1], not normalised.")
        if images.shape[-2:] != (self.size, self.size):
            # Bicubic interpolation overshoots; libraries that resize 8-bit pictures clip it to black and white.
            images = resize(images, self.size, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
            images = center_crop(images, self.size)
        return normalize(images, self.mean, self.std)

    def extra_repr(self) -> str:
        return f"size={self.size}, mean={self.mean}, std={self.std}"

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch outputs"]:
        return self.model(self.prepare(images))
