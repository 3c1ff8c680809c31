"""What an explanation explains: one number an image."""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated

from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.arguments import Positive, Within, public
from xaikit.models.hooks import at_least_float32

_LOG = logging.getLogger(__name__)

# Images and which of all images they are, to one number each, from that image alone. The second argument is there
# because each image may have a class of its own, and comes many times: perturbed, masked, with pixels removed.
Score = Callable[[Float[Tensor, "batch 3 height width"], Int64[Tensor, " batch"]], Float[Tensor, " batch"]]


def is_one_each(values: object, count: int) -> bool:
    """Whether a score has given one number an image, none of them NaN or infinite."""
    return isinstance(values, Tensor) and tuple(values.shape) == (count,) and bool(values.isfinite().all())


def shape_of(values: object) -> str:
    """What a score has given, for messages."""
    return str(tuple(values.shape)) if isinstance(values, Tensor) else f"a {type(values).__name__}"


def name_saturated(ids: Sequence[str | int], total: int, result: str) -> None:
    """Log which images have a score that does not change with them, as if it were saturated; nothing where none has.

    Such an image does not stop the others; `result` says what there is of it then.
    """
    if ids:
        named = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
        _LOG.warning(
            "The score of %d of %d images (%s) does not change with the image, as if it were saturated: %s.",
            len(ids), total, named, result,
        )  # fmt: skip


@public
def class_score(
    outputs: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch classes"]],
    targets: Annotated[Int64[Tensor, " images"], Within(0)],
    *,
    softmax: Positive | None = None,
) -> Score:
    """The score of each image for its own class, `targets`.

    `outputs` are cosine similarities, or logits. They are taken as they are (Agarwal's zero-shot score), or times
    `softmax` through a softmax over classes: 1 for a classifier's logits (his fine-tuned score), CLIP's exp(logit
    scale) for cosines; in float32 at least. Raises ValueError for a target that is no class, when the score is first
    taken.
    Source: Agarwal, section 2.2, both settings.

    >>> import torch
    >>> from xaikit import class_score
    >>> images = torch.tensor([0.2, 0.5, 0.3]).expand(2, 8, 8, 3).permute(0, 3, 1, 2)
    >>> score = class_score(lambda images: images.mean((2, 3)), torch.tensor([0, 1]))  # classes: red, green, blue
    >>> score(images, torch.arange(2))
    tensor([0.2000, 0.5000])
    """

    def score(images: Tensor, which: Tensor) -> Tensor:
        values = outputs(images)
        target = targets[which.to(targets.device)].to(values.device)
        if target.min() < 0 or target.max() >= values.shape[1]:
            raise ValueError(f"A target is not among the {values.shape[1]} classes: give positions of classes.")
        if softmax is not None:
            values = (softmax * at_least_float32(values)).softmax(1)
        return values.gather(1, target[:, None])[:, 0]

    return score
