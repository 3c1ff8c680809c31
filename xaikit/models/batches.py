"""Batches of images, looked at before they are used."""

from collections.abc import Iterable, Iterator

from jaxtyping import Float
from torch import Tensor

Batches = Iterable[Tensor]  # of images, Float[Tensor, "batch channels height width"], all of one size


def checked(batches: Batches) -> Iterator[Float[Tensor, "batch channels height width"]]:
    """Pass the batches on, each looked at first: images there, of one size, with no NaN."""
    size = None
    for images in batches:
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"A batch has shape {tuple(images.shape)}; give images [batch, channels, height, width].")
        size = size or tuple(images.shape[1:])
        if tuple(images.shape[1:]) != size:
            raise ValueError(f"There are images of size {tuple(images.shape[1:])} and {size}; resize them to one size.")
        if not images.isfinite().all():
            raise ValueError("Some pixels are NaN or infinite; clean the images first.")
        yield images
    if size is None:
        raise ValueError("There is no image in the data; choose a split that is not empty.")
