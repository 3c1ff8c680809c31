"""From pixels in [0, 1] to what a model expects, as a part of the model."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, normalize, resize


class Preprocessed(nn.Module):
    """`model` behind CLIP's preprocessing, so that all models take the same images in [0, 1], of any size.

    Bicubic resize of the shorter side to `size`, centre crop, normalisation with `mean` and `std` of each channel.
    With `grey`, each pixel first gets its largest channel in all three: a red or green stroke (v, 0, 0) becomes
    (v, v, v), so that no trace of the colour is left, as brightness of one luminance or another.
    Images are [batch, 3, height, width]; calling it raises ValueError for pixels outside [0, 1], NaN among them.

    >>> import torch
    >>> from xaikit import Preprocessed
    >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> model = Preprocessed(classifier, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> model(torch.rand(2, 3, 30, 40)).shape, model.prepare(torch.ones(1, 3, 8, 8)).unique()  # white is 2
    (torch.Size([2, 5]), tensor([2.]))
    """

    def __init__(
        self, model: nn.Module, size: int, mean: Sequence[float], std: Sequence[float], *, grey: bool = False
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
