"""Where a CLIP image tower looks: the six saliency baselines that Gandelsman et al. compare their decomposition with.

Each explains one number an image, the dot product of its unit embedding with a direction (`text_directions`), on the
tower as it is written out in `saliency.tower`. What reads attention alone (raw attention, rollout, Grad-CAM, Chefer's
rule iccv2021) takes any ViT that pools its class token; docs/towers.md lists them.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xaikit.arguments import Natural, public
from xaikit.models.hooks import in_own_precision
from xaikit.saliency.cam import cam
from xaikit.saliency.relevance import hand_out, sum_relevance
from xaikit.saliency.tower import (
    Directions,
    Images,
    Maps,
    check_tower,
    constant,
    count_layers,
    embed,
    on_grid,
    precision,
    walk_down,
)


@public
def text_directions(
    texts: Float[Tensor, "texts dimensions"], labels: Int[Tensor, " batch"], *, minus_mean: bool = False
) -> Directions:
    """The direction to explain for each image: the text embedding of its label, less the texts' mean if `minus_mean`.

    Raises ValueError for a label that is no text, and for the mean of a single text, which would leave nothing.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= len(texts):
        raise ValueError(f"The labels are none, or not among the {len(texts)} texts: give rows of the texts.")
    if minus_mean and len(texts) < 2:
        raise ValueError("The mean over one text is the text itself: give two texts or more.")
    return (texts - texts.mean(0) if minus_mean else texts)[labels]


def upsample(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch height width"]:
    """Patch maps at the size (height, width) of the images, bilinearly; maps of that size stay as they are."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


# --- the six baselines ------------------------------------------------------------------------------------------
#
# All take images as the tower does (normalised, of its size) and one direction an image, and give maps that are not
# normalised: [batch, rows, columns] of patches, or of pixels (`lrp`), in the tower's precision, float32 at least.
# Relevance (`lrp`, `partial_lrp`, `chefer` by default) is computed in float64: it needs a GPU with that.
# All raise ValueError for a tower of another design, no image, images of another size, NaN or infinity in images,
# directions or weights, and directions that are zero or do not fit.


@public
@in_own_precision()
def raw_attention(tower: nn.Module, images: Images) -> Maps:
    """How much the class token attends to each patch in the last block, mean over heads; knows no direction."""
    layer = next(walk_down(tower, images))
    return _patch_map(tower, images, layer.attention[:, :, 0].mean(1))


@public
@in_own_precision()
def attention_rollout(tower: nn.Module, images: Images, *, start: Natural = 1) -> Maps:
    """Attention rollout: the class row of Â_L · … · Â_start, where Â = (E_h A + I) / 2; knows no direction.

    `start` is the first block that counts, from 0: 1 in the evaluations of Chefer et al., 0 in the paper.
    Images [batch, 3, height, width] are as the tower takes them; maps [batch, rows, columns] are at least 0.
    Raises ValueError for another kind of tower, no image, images of another size, NaN, and a block that is not there.
    Source: Abnar and Zuidema (2020), section 3.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import attention_rollout
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> attention_rollout(tower, torch.rand(2, 3, 32, 32)).shape  # 4 × 4 patches
    torch.Size([2, 4, 4])
    """
    # Rows of A sum to 1, so dividing by 2 is the paper's row normalisation; E_h A is half of that, I the rest.
    layers = islice(walk_down(tower, images), _count(tower, start))
    return _roll_out(tower, images, (layer.attention.mean(1) for layer in layers), share=0.5)


@in_own_precision()
def grad_cam(tower: nn.Module, images: Images, directions: Directions) -> Maps:
    """Grad-CAM with heads as channels: ReLU of E_h(α_h A_h), A_h the class row of the last block's attention.

    α_h is the mean over patches of dy/dA_h. Source: Selvaraju et al. (2017), Eq. 1 and 2, on attention as Chefer et
    al. (2021a, section 4) evaluate it.
    """
    layer = next(walk_down(tower, images, directions, gradients=True))
    attention = on_grid(tower, images, layer.attention[:, :, 0])
    alpha = on_grid(tower, images, layer.gradient[:, :, 0]).flatten(2).mean(2)
    return _finished(tower, cam(attention, alpha / attention.shape[1]).relu())


@public
@in_own_precision()
def partial_lrp(tower: nn.Module, images: Images, directions: Directions) -> Maps:
    """The class row of the relevance of the last block's attention, clipped at 0, mean over heads.

    Relevance as in `lrp`, stopped there. Source: Voita et al. (2019), with the rules of Chefer et al. (2021a).
    """
    layer = next(walk_down(tower, images, directions, relevances=True))
    return _patch_map(tower, images, layer.attention_relevance[:, :, 0].clamp(min=0).mean(1))


@public
@in_own_precision()
def lrp(tower: nn.Module, images: Images, directions: Directions) -> Float[Tensor, "batch height width"]:
    """Layer-wise relevance propagation down to the pixels, signed, summed over colours: [batch, height, width].

    Relevance 1 starts at the score and is handed down by these rules, each of which keeps its sum:
    - linear layers: among the products x_j w_ij > 0 in proportion to them, biases left out (`linear_relevance`);
      the last one is the head, `proj` times the direction, as in a classifier with that row;
    - both factors of a matrix product, QKᵀ and AV, half each (`product_relevance`);
    - the terms of a residual sum and of tokens + positions (`sum_relevance`), which then share an input by adding up;
    - layer norms, softmax, GELU and QuickGELU, the unit length: the identity; LayerScale is part of its linear layer;
    - the pixels: the z-box rule, between the least and the greatest value in the image.
    What the class embedding and the positions receive belongs to no pixel: the map sums to 1 less that.
    Source: Chefer et al. (2021a), sections 3.1 and 3.2, image by image; their released code for the halves and the
    identities; Montavon et al. (2017), the z^B rule of deep Taylor decomposition, for the pixels.
    """
    for layer in walk_down(tower, images, directions, relevances=True):
        relevance = layer.entry_relevance
    with torch.no_grad():
        images, size = images.to(relevance), tower.patch_size
        tokens, positions = embed(tower, images)
        patches = sum_relevance(tokens, positions, relevance)[0][:, 1:]
        pixels = F.unfold(images, size, stride=size).mT
        low, high = images.flatten(1).aminmax(dim=1)
        kernel = constant(tower.conv1.weight, images).flatten(1)
        pixels = hand_out(pixels - low[:, None, None], pixels - high[:, None, None], kernel, patches)
        return _finished(tower, F.fold(pixels.mT, tower.image_size, size, stride=size).sum(1))


@public
@in_own_precision()
def chefer(
    tower: nn.Module,
    images: Images,
    directions: Directions,
    *,
    rule: Literal["cvpr2021", "iccv2021"] = "cvpr2021",
    start: Natural = 1,
) -> Maps:
    """The class row of Ā_L · … · Ā_start, where Ā = I + E_h(∇A ⊙ R)⁺, and ∇A = dy/dA.

    R is the relevance of the attention (`rule` cvpr2021, the default: Gandelsman et al. compare with this one) or the
    attention A itself (iccv2021, which the authors' own CLIP demonstration uses: no LRP, some five times faster).
    `start` is the first block that counts, from 0: 1 in the authors' evaluation, 0 in the papers.
    The length of the directions matters against I: for CLIP's logits as y, multiply unit ones by exp(logit_scale).
    Source: Chefer et al. (2021a), Eq. 13 and 14; Chefer et al. (2021b), Eq. 5 and 6.
    """
    if rule not in ("cvpr2021", "iccv2021"):
        raise ValueError(f"There is no rule {rule!r}: take cvpr2021 or iccv2021.")
    by_relevance = rule == "cvpr2021"
    layers = walk_down(tower, images, directions, gradients=True, relevances=by_relevance)
    weighted = (
        (layer.gradient * (layer.attention_relevance if by_relevance else layer.attention)).clamp(min=0).mean(1)
        for layer in islice(layers, _count(tower, start, by_relevance))
    )
    return _roll_out(tower, images, weighted)


# By their names in the table of Gandelsman et al., all called as f(tower, images, directions).
BASELINES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "LRP": lrp,
    "partial-LRP": partial_lrp,
    "rollout": lambda tower, images, directions: attention_rollout(tower, images),
    "raw attention": lambda tower, images, directions: raw_attention(tower, images),
    "GradCAM": grad_cam,
    "Chefer et al.": chefer,
}


# --- maps and checks --------------------------------------------------------------------------------------------


def _roll_out(tower: nn.Module, images: Images, matrices: Iterable[Tensor], share: float = 1.0) -> Maps:
    """The class row of the product, from the last block down, of `share` · (I + matrix): row by matrix, O(L N²)."""
    row = None
    for matrix in matrices:
        if row is None:
            row = torch.zeros_like(matrix[:, :1])
            row[..., 0] = 1
        row = share * (row + row @ matrix)
    return _patch_map(tower, images, row[:, 0])


def _patch_map(tower: nn.Module, images: Images, row: Float[Tensor, "batch tokens"]) -> Maps:
    return _finished(tower, on_grid(tower, images, row))


def _finished(tower: nn.Module, maps: Maps) -> Maps:
    if not maps.isfinite().all():
        raise ValueError("The saliency maps hold NaN or infinity: look for them in the tower's weights.")
    return maps.to(precision(tower))


def _count(tower: nn.Module, start: int, relevances: bool = False) -> int:
    """How many blocks there are from `start` on, of a tower whose relevance can be had if that is asked for."""
    if relevances:
        check_tower(tower)
    layers = count_layers(tower)
    if not 0 <= start < layers:
        raise ValueError(f"There is no block {start} to start from: the tower has blocks 0 to {layers - 1}.")
    return layers - start
