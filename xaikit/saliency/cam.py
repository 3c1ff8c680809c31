"""Where a convolutional classifier looks: CAM and Grad-CAM."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xaikit.arguments import public
from xaikit.models.hooks import at_least_float32, evaluating, hooked, in_own_precision, with_gradients
from xaikit.models.scores import name_saturated


@public
def cam(
    features: Float[Tensor, "batch channels height width"], class_weights: Float[Tensor, "batch channels"]
) -> Float[Tensor, "batch height width"]:
    """Class activation map: sum_k w_k f_k, signed, at the resolution of the features.

    `class_weights` holds, for each image, the row of the linear head (after average pooling) of its class.
    Source: Zhou et al. (2016), Eq. 2.
    """
    return torch.einsum("bkhw,bk->bhw", features, class_weights)


@public
@in_own_precision()
def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    target: Int[Tensor, "batch"] | None = None,
    *,
    upsample: bool = True,
) -> Float[Tensor, "batch map_height map_width"]:
    """Grad-CAM of each image: ReLU(sum_k alpha_k A_k), where alpha_k is the spatial mean of dy/dA_k.

    Arguments: `model` gives logits [batch, classes]; `layer` is a module inside it, used once, with an output
    A [batch, channels, h, w]; `target` holds the class whose logit is y, by default the highest one.
    Result: maps >= 0, not normalised, bilinearly resized to the images unless `upsample` is false. The model
    runs in eval mode and is left as it was: training flags, gradients, hooks.
    Raises ValueError if there is no image, images or maps hold NaN, a target is no class, or the layer is not
    in the model, not 4-D in its output, or not on the way to the logits; and as `hooked` does, for one that is not used
    exactly once.
    Source: Selvaraju et al. (2017), Eq. 1 and 2.

    >>> import torch
    >>> from torch import nn
    >>> from xaikit import grad_cam
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> maps = grad_cam(model, model[1], torch.rand(2, 3, 16, 16), torch.tensor([0, 4]))
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([2, 16, 16]), True)
    """
    names = [name for name, module in model.named_modules() if module is layer]
    if not names:
        raise ValueError(f"The {type(layer).__name__} is no layer of this model: pick one from model.modules().")
    if not len(images) or not images.isfinite().all():
        raise ValueError("The images are none, or hold NaN or infinity: leave such images out.")
    kind = "is not 4-D: pick a convolution or a stage"
    features, gradient = class_gradient(model, names[0], layer, images, target, lambda found: found.ndim == 4, kind)
    if gradient is None:
        raise ValueError(f"The output of {names[0]!r} does not reach the logits: pick a layer on the way.")
    alpha = gradient.mean((2, 3))  # Eq. 1
    maps = cam(features, alpha).relu()  # Eq. 2
    if not maps.isfinite().all():
        raise ValueError("The Grad-CAM maps hold NaN or infinity: look for them in the model's weights.")
    if not upsample:
        return maps
    return F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def class_gradient(
    model: nn.Module,
    name: str,
    layer: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    target: Int[Tensor, " targets"] | None,
    fits: Callable[[Tensor], bool],
    otherwise: str,
) -> tuple[Tensor, Tensor | None]:
    """What a layer gives, and the gradient of each image's logit of its class with respect to it; float32 at least.

    To be called `in_own_precision`. The gradient is None where the layer does not reach the logits. Raises
    ValueError as `hooked` does, for an output that is no tensor or not such that it `fits`, and a target that is no
    class.
    """
    outputs: list[Tensor] = []

    def start_graph_here(_name: str, _inputs: tuple, output: object) -> Tensor:
        # Cutting the graph lets frozen parameters do no harm; the clone may be changed in place further on.
        if not isinstance(output, Tensor) or not fits(output):
            raise ValueError(f"The output of {name} {otherwise}.")
        if not torch.is_grad_enabled():
            raise ValueError(f"The layer {name!r} runs without gradients: leave out no_grad and reentrant checkpoints.")
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    with torch.enable_grad(), evaluating(model):
        with hooked(model, {name: layer}, start_graph_here):
            logits = model(with_gradients(model, images))
        target = logits.argmax(1) if target is None else target.to(logits.device).long().clone()
        if len(target) != len(images) or target.min() < 0 or target.max() >= logits.shape[1]:
            raise ValueError(f"The targets are not one of the classes 0 to {logits.shape[1] - 1} for each image.")
        y = logits.gather(1, target[:, None]).sum()  # no image's logit depends on another image
        gradient = torch.autograd.grad(y, outputs, allow_unused=True)[0] if y.requires_grad else None
    if gradient is None:
        return at_least_float32(outputs[0].detach()), None
    name_saturated((gradient == 0).flatten(1).all(1).nonzero()[:, 0].tolist(), len(images), "its map is 0")
    return at_least_float32(outputs[0].detach()), at_least_float32(gradient)
