"""A linear probe: CLIP's image tower, frozen, with a new classification layer on its unit embeddings."""

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.arguments import UNIT, Count, Device, Positive, Seed, public
from xaikit.models.hooks import evaluating
from xaikit.storage.seeding import generator


@public
class LinearProbe(nn.Module):
    """Logits of images in [0, 1]: `head` of the unit embedding that the frozen `encoder` gives.

    `encoder` maps [batch, 3, height, width] to [batch, features], `head` (`train_head`) that to [batch, classes]; it
    raises what these raise.
    Source: Agarwal, section 2.1 and appendix A.1.

    >>> import torch
    >>> from xaikit import LinearProbe
    >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> LinearProbe(encoder, torch.nn.Linear(5, 3))(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3])
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Annotated[Float[Tensor, "batch 3 height width"], UNIT]) -> Float[Tensor, "batch classes"]:
        """The logits of images in [0, 1]."""
        return _in_full(self.classify, self.encoder(images))

    def classify(self, embeddings: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """The logits of unit embeddings."""
        _check_width(embeddings, self.head.in_features)
        return self.head(embeddings)


@public
class ZeroShot(nn.Module):
    """Cosine similarities, in [−1, 1], of images in [0, 1] with a unit text embedding for each class.

    `encoder` maps [batch, 3, height, width] to [batch, features]; raises what it raises.
    Source: Agarwal, section 2.1.

    >>> import torch
    >>> from xaikit import ZeroShot
    >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> texts = torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    >>> ZeroShot(encoder, texts)(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3])
    """

    def __init__(self, encoder: nn.Module, classes: Float[Tensor, "classes features"]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("classes", classes)

    def forward(self, images: Annotated[Float[Tensor, "batch 3 height width"], UNIT]) -> Float[Tensor, "batch classes"]:
        """The cosines of images in [0, 1]."""
        return _in_full(self.classify, self.encoder(images))

    def classify(self, embeddings: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """The cosines of unit embeddings."""
        _check_width(embeddings, self.classes.shape[1])
        return embeddings @ self.classes.T


def _check_width(embeddings: Tensor, width: int) -> None:
    if embeddings.shape[1] != width:
        raise ValueError(f"The embeddings have {embeddings.shape[1]} numbers, and the classes {width}: use one model.")


def _in_full(classify: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Classify unit features in float32 at least, also where the tower ran in half precision under autocast."""
    with torch.autocast(features.device.type, enabled=False):
        return classify(F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1))


@public
def embed(
    encoder: nn.Module, batches: Iterable[Annotated[Float[Tensor, "_ 3 height width"], UNIT]], device: Device = "cpu"
) -> Float[Tensor, "images features"]:
    """The unit embeddings of images in [0, 1], on the CPU. Raises ValueError where there is none, or for NaN."""
    with evaluating(encoder), torch.inference_mode():
        found = [F.normalize(encoder(images.to(device)), dim=-1).cpu() for images in batches]
    if not found or not all(part.isfinite().all() for part in found):
        raise ValueError("There are no images to embed, or an embedding is NaN: look at the images and the weights.")
    return torch.cat(found).clone()  # out of inference mode, so that a head can be trained on them


@public
def train_head(
    embeddings: Float[Tensor, "images features"],
    labels: Int64[Tensor, " labels"],
    classes: Count,
    *,
    seed: Seed,
    epochs: Count = 100,
    learning_rate: Positive = 0.01,
    batch: Count = 256,
) -> nn.Linear:
    """The classification layer, trained with Adam and cross-entropy on embeddings that are computed once.

    The paper gives the optimiser, its learning rate and the loss; the number of epochs and the batch are ours.
    Raises ValueError for no image, labels that do not fit, and a class of which there is no image.
    Source: Agarwal, appendix A.1.
    """
    if not len(embeddings) or len(labels) != len(embeddings):
        raise ValueError(
            f"There are {len(labels)} labels for {len(embeddings)} images: give one each, and at least one."
        )
    if labels.min() < 0 or labels.max() >= classes or len(labels.unique()) < classes:
        raise ValueError(f"The labels do not cover the {classes} classes from 0 on: give each class an image.")
    head = nn.Linear(embeddings.shape[1], classes)
    draw = generator(seed, "linear probe")
    with torch.no_grad():  # as nn.Linear starts, but from a stream of its own
        for parameter in head.parameters():
            parameter.uniform_(-1, 1, generator=draw).mul_(embeddings.shape[1] ** -0.5)
    head, labels = head.to(embeddings), labels.to(embeddings.device)
    optimiser = torch.optim.Adam(head.parameters(), learning_rate)
    for _ in tqdm(range(epochs), desc="training the probe", leave=False):
        for rows in torch.randperm(len(labels), generator=draw).split(batch):
            optimiser.zero_grad()
            F.cross_entropy(head(embeddings[rows]), labels[rows]).backward()
            optimiser.step()
    return head.requires_grad_(False).eval()
