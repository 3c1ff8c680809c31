"""CLIP's image embedding as a sum over layers, heads and image tokens (Gandelsman et al.).

A vision transformer only ever adds to its residual stream, and what is read from the stream at the end is linear once
the final norm is frozen. So the unit image embedding is a sum of T = 2L + 1 terms: the embedded input z0, the L
attention outputs and the L MLP outputs. Attention is in turn a sum over heads h and tokens i,

    M(I) / ‖M(I)‖ = Σ_l c_mlp[l] + Σ_{l,h,i} c[l,h,i],      c = ((γ ⊙ (r − μ/(T·n))) / σ + β/(T·n)) P / ‖M(I)‖

for a term r in the residual stream that is one of n equal parts of its layer (n = heads · tokens for a cell of
attention, heads for a head, 1 for a whole layer, an MLP and z0). μ and σ are those of the final norm in the actual
forward pass; γ, β are its gain and bias and P the projection. Dividing by T shares out μ and β, which belong to no
term, so that the sum is exact; a value bias goes with its head, an output bias is shared by all cells of its layer.

Everything is read through hooks on stock open_clip towers. Where average pooling takes the place of the class token,
each r is the mean over the patches, and z0 and the MLP terms with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from xaikit.arguments import public
from xaikit.models.batches import checked
from xaikit.models.hooks import evaluating, hooked, in_own_precision

LEVELS = "layer", "head", "token", "head-token"
# Switches of open_clip's custom blocks after which W_O is not the only map between a head and the residual stream, or
# softmax(q·k) not the attention: the module that each one puts into the block's attention or into the block.
_SWITCHES = {
    "logit_scale": "scaled_cosine_attn",
    "head_scale": "scale_heads",
    "ln_q": "qk_norm",
    "ln_k": "qk_norm",
    "ln_inner": "scale_attn_inner",
    "ln_attn": "scale_attn",
}


@public
def image_tower(model: nn.Module) -> VisionTransformer:
    """The open_clip VisionTransformer in `model` (itself, or behind its preprocessing), if it can be decomposed.

    Raises ValueError, with the name of what stands in the way, for a ResNet or timm tower, attentional pooling, a
    norm of each token before average pooling, and blocks whose attention is rescaled or normalised inside.
    """
    found = [module for module in model.modules() if isinstance(module, VisionTransformer)]
    if len(found) != 1:
        name = type(getattr(model, "model", model)).__name__
        raise ValueError(f"{name} is no open_clip VisionTransformer: give a ViT image tower, such as that of ViT-B-16.")
    vit = found[0]
    if vit.attn_pool is not None:
        raise ValueError(
            "The tower has attentional pooling, which is not linear in the stream: give one with tok or avg."
        )
    if vit.pool_type not in ("tok", "avg"):
        raise ValueError(f"The tower has pool_type {vit.pool_type!r}, no pooling: give one with tok or avg.")
    if vit.pool_type == "avg" and not vit.final_ln_after_pool:
        raise ValueError("The tower normalises each token before average pooling: give one with final_ln_after_pool.")
    if vit.proj is None or not isinstance(vit.ln_post, nn.LayerNorm):
        raise ValueError("The tower has no final LayerNorm and projection: give it as open_clip builds it.")
    for block in vit.transformer.resblocks:
        for part, switch in _SWITCHES.items():
            module = getattr(block.attn, part, getattr(block, part, None))
            if module is not None and not isinstance(module, nn.Identity):
                raise ValueError(f"The tower's blocks use {switch}, so heads do not simply add up: give one without.")
    return vit


@contextmanager
def _exactly() -> Iterator[None]:
    """No gradients, and no autocast: the terms would miss their sum by the rounding of half precision."""
    with in_own_precision(), torch.no_grad():
        yield


def _dtype(vit: VisionTransformer) -> torch.dtype:
    """What is computed in: the tower's own precision, but at least float32."""
    return torch.promote_types(vit.proj.dtype, torch.float32)


def _values_and_output(block: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_V [heads, head_width, width], b_V [heads, head_width], and W_O, b_O with a LayerScale's gain in them."""
    attention = block.attn
    weight = attention.in_proj_weight.chunk(3)[2].to(dtype).unflatten(0, (attention.num_heads, -1))
    bias = weight.new_zeros(weight.shape[:2])
    if attention.in_proj_bias is not None:
        bias = attention.in_proj_bias.chunk(3)[2].to(dtype).view_as(bias)
    output = attention.out_proj.weight.to(dtype), attention.out_proj.bias.to(dtype)
    if (gain := getattr(block.ls_1, "gamma", None)) is not None:
        output = output[0] * gain.to(dtype)[:, None], output[1] * gain.to(dtype)
    return weight, bias, *output


@public
@dataclass(frozen=True, eq=False)
class Readout:
    """The weights' part of the decomposition: where a head's few numbers point in the joint space of CLIP.

    `heads` holds, for each head, head_width + 3 rows: W_O,h diag(γ) P for its values, and the shares of b_O, of μ and
    of β; a head's contribution is `Coefficients.coordinates()` times these rows, so its rank over any data set is at
    most head_width + 3. `ones` and `beta` are 1·diag(γ) P and β P, for the terms that are no heads.
    `Readout.of` raises ValueError for a tower that cannot be decomposed.
    Source: Gandelsman et al., section 3.

    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import Readout
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> Readout.of(tower).heads.shape  # 2 layers, 2 heads of width 8, 8 features
    torch.Size([2, 2, 11, 8])
    """

    heads: Float[Tensor, "layers heads rows features"]
    ones: Float[Tensor, " features"]
    beta: Float[Tensor, " features"]
    own_mean: bool

    @classmethod
    @_exactly()
    def of(cls, tower: nn.Module, *, own_mean: bool = False) -> "Readout":
        """Read it off the tower's weights.

        By default the mean μ that the final norm takes off is shared out equally, μ/(T·n) a part, as in the published
        code. `own_mean` takes each term's own mean off it instead; the difference is a multiple of one vector 1·diag(γ)
        P, and the sum is the same. Raises ValueError as `image_tower` does.
        """
        vit = image_tower(tower)
        dtype, norm, blocks = _dtype(vit), vit.ln_post, vit.transformer.resblocks
        gain = norm.weight.to(dtype)[:, None] * vit.proj.to(dtype)
        ones, beta = gain.sum(0), norm.bias.to(dtype) @ vit.proj.to(dtype)
        if own_mean:  # (r − mean(r)) diag(γ) P = r (diag(γ) P − 1·ones/d)
            gain = gain - ones / len(gain)
        heads = []
        for block in blocks:
            weight, _, output, bias = _values_and_output(block, dtype)
            count, width = weight.shape[:2]
            parts = (2 * len(blocks) + 1) * count
            shares = torch.stack([bias @ gain / count, ones * (0 if own_mean else -1 / parts), beta / parts])
            values = (output.T @ gain).view(count, width, -1)
            heads.append(torch.cat([values, shares.expand(count, -1, -1)], 1))
        return cls(torch.stack(heads), ones, beta, own_mean)


@public
@dataclass(frozen=True, eq=False)
class Contributions:
    """The terms of unit image embeddings. `attention` has the cells of its level between image and features.

    "layer": [batch, layers, features]; "head": [batch, layers, heads, features]; "token": [batch, tokens, features],
    summed over layers and heads; "head-token": [batch, layers, heads, tokens, features]. Token 0 is the class token.
    `mlps` starts with z0. `embedding` is what the tower itself gave, at unit length.
    """

    attention: Float[Tensor, "batch *cells features"]
    mlps: Float[Tensor, "batch terms features"]
    embedding: Float[Tensor, "batch features"]
    level: str

    def total(self) -> Float[Tensor, "batch features"]:
        """The sum of all terms: `embedding`, up to rounding."""
        return self.attention.flatten(1, -2).sum(1) + self.mlps.sum(1)


@public
@dataclass(frozen=True, eq=False)
class Coefficients:
    """All that images add to the weights: layer and head level are rebuilt from it without loss.

    `heads` holds u = Σ_i α_i v_i, head_width numbers a head in place of `features` ones; `mlps` the terms z0 and the
    MLPs as r diag(γ) P, and `mlp_means` the means of r; `mean` and `std` are μ and σ of the final norm, and `norm` is
    ‖M(I)‖.
    """

    heads: Float[Tensor, "batch layers heads head_width"]
    mlps: Float[Tensor, "batch terms features"]
    mlp_means: Float[Tensor, "batch terms"]
    mean: Float[Tensor, " batch"]
    std: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    embedding: Float[Tensor, "batch features"]

    def __len__(self) -> int:
        return len(self.norm)

    def __getitem__(self, rows: slice | Tensor) -> "Coefficients":
        """The same for some of the images."""
        return Coefficients(**{name: values[rows] for name, values in vars(self).items()})

    def coordinates(self) -> Float[Tensor, "batch layers heads rows"]:
        """Each head's contribution in the coordinates of `Readout.heads`: (s u, s, s μ, 1/‖M‖) with s = 1/(σ ‖M‖)."""
        shares = self._shares()[:, None, None]
        return torch.cat([self.heads * shares[..., :1], shares.expand(*self.heads.shape[:-1], -1)], -1)

    def _shares(self) -> Float[Tensor, "batch 3"]:
        scale = 1 / (self.std * self.norm)
        return torch.stack([scale, scale * self.mean, 1 / self.norm], -1)

    @_exactly()
    def contributions(self, readout: Readout, level: str = "head") -> Contributions:
        """Rebuild level "head" or "layer". Raises ValueError for a level with tokens, and another tower's readout."""
        if level not in ("head", "layer"):
            raise ValueError(f"Coefficients do not hold the tokens of level {level!r}: call decompose with the images.")
        _, layers, heads, width = self.heads.shape
        if readout.heads.shape != (layers, heads, width + 3, self.mlps.shape[-1]):
            raise ValueError("The readout is not of the tower that gave these coefficients: take Readout.of that one.")
        coordinates = self.coordinates()
        if level == "head":
            attention = torch.einsum("blhr,lhrf->blhf", coordinates, readout.heads)
        else:
            attention = torch.einsum("blr,lrf->blf", coordinates.flatten(2), readout.heads.flatten(1, 2))
        return Contributions(attention, self._mlp_contributions(readout), self.embedding, level)

    def _mlp_contributions(self, readout: Readout) -> Tensor:
        terms = 2 * self.heads.shape[1] + 1
        means = self.mlp_means if readout.own_mean else self.mean[:, None] / terms
        centred = self.mlps - means[..., None] * readout.ones
        return centred / (self.std * self.norm)[:, None, None] + readout.beta / (terms * self.norm[:, None, None])


@public
def coefficients(tower: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Coefficients:
    """One forward pass of `tower`, and what `Contributions` are rebuilt from. In float32 for half-precision towers.

    `tower` is an open_clip VisionTransformer or a module around one that prepares its images. It runs in evaluation
    mode without gradients, and is left as it was. Beside the pass this takes O(tokens · heads · width) operations a
    layer: keys and values of the tokens are never projected, as q·(W_K x) = (W_Kᵀ q)·x and Σ_i α_i W_V x_i =
    W_V Σ_i α_i x_i.

    Raises ValueError for a tower that cannot be decomposed (`image_tower`), images of the wrong shape or size or with
    NaN, and terms that do not add up to the embedding.
    """
    return _run(tower, images)


@public
@_exactly()
def decompose(
    tower: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    level: str = "head",
    readout: Readout | None = None,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
) -> Contributions:
    """The contributions of attention, at one level, and of the MLPs to the unit image embedding; they sum to it.

    Several batches share one `readout` (by default `Readout.of(tower)`, a fraction of the work for one image). Level
    "head-token" holds layers · heads · tokens · features numbers an image; with `heads`, pairs (layer, head) counted
    from 0, its `attention` is [batch, chosen, tokens, features] and holds only those.
    Raises ValueError for an unknown level or head, and as `coefficients` does.
    Source: Gandelsman et al., Eq. 1 to 4.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import decompose
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> parts = decompose(tower, torch.rand(4, 3, 32, 32))
    >>> parts.attention.shape  # images, layers, heads, features
    torch.Size([4, 2, 2, 8])
    >>> torch.allclose(parts.total(), parts.embedding, atol=1e-5)
    True
    """
    if level not in LEVELS:
        raise ValueError(f"Unknown level {level!r}: choose 'layer', 'head', 'token' or 'head-token'.")
    if heads is not None and level != "head-token":
        raise ValueError(f"Level {level!r} is of all heads: choose 'head-token' to name some.")
    readout = readout or Readout.of(tower)
    if level in ("layer", "head"):
        return coefficients(tower, images).contributions(readout, level)
    layers, count, rows, _ = readout.heads.shape
    chosen = [(layer, head) for layer in range(layers) for head in range(count)] if heads is None else list(heads)
    if not chosen or any(not (0 <= layer < layers and 0 <= head < count) for layer, head in chosen):
        raise ValueError(f"The heads are {chosen}: name some of layers 0 to {layers - 1}, heads 0 to {count - 1}.")
    cells: dict[tuple[int, int], Tensor] = {}
    sums: list[Tensor] = []

    def keep(layer: int, weighted: Callable[[list[int]], Tensor]) -> None:
        wanted = sorted({head for other, head in chosen if other == layer})
        if not wanted:
            return
        values, maps = weighted(wanted), readout.heads[layer, wanted, : rows - 3]
        if level == "token":  # all heads at once: their sum is one product
            sums[:] = [sum(sums, values.transpose(1, 2).flatten(2) @ maps.flatten(0, 1))]
        else:
            parts = torch.einsum("bhnr,hrf->bhnf", values, maps)
            cells.update(zip([(layer, head) for head in wanted], parts.unbind(1), strict=True))

    found = _run(tower, images, keep)
    shares = torch.stack([readout.heads[layer, head, -3:] for layer, head in chosen])
    if level == "token":
        attention, shares = sums[0][:, None], shares.sum(0, keepdim=True)
    else:
        attention = torch.stack([cells[head] for head in chosen], 1)
    weights = found._shares()  # each token gets the same of b_O, μ and β
    attention.mul_(weights[:, 0, None, None, None])
    attention.add_((torch.einsum("br,hrf->bhf", weights, shares) / attention.shape[2])[:, :, None])
    if level == "token":
        attention = attention[:, 0]
    elif heads is None:
        attention = attention.unflatten(1, (layers, count))
    return Contributions(attention, found._mlp_contributions(readout), found.embedding, level)


@_exactly()
def _run(
    tower: nn.Module,
    images: Tensor,
    receive: Callable[[int, Callable[[list[int]], Tensor]], None] | None = None,
) -> Coefficients:
    """One forward pass; `receive` gets each layer's number, and a function from heads to α_i v_i of their tokens."""
    vit = image_tower(tower)
    dtype, average = _dtype(vit), vit.pool_type == "avg"
    stream: dict[str, Tensor] = {}
    heads, mlps = [], []

    def pool(rows: Tensor) -> Tensor:
        rows = rows.detach()
        # A copy of the one row, as a view would keep all rows alive.
        return rows[:, 1:].to(dtype).mean(1) if average else rows[:, 0].to(dtype, copy=True)

    def batch_first(rows: Tensor) -> Tensor:
        # By attribute and not by shape: a batch may be as large as the number of tokens.
        return rows if getattr(vit.transformer, "batch_first", True) else rows.transpose(0, 1)

    def hear_attention(layer: int, output: Tensor) -> None:
        block, x = vit.transformer.resblocks[layer], batch_first(output.detach()).to(dtype)
        weight, bias, output_weight, output_bias = _values_and_output(block, dtype)
        alpha = _attention(x, block.attn, average)
        u = torch.einsum("bhd,hrd->bhr", alpha @ x, weight) + bias
        heads.append(u)
        stream["sum"] = stream["sum"] + F.linear(u.flatten(1), output_weight, output_bias)

        def weighted(chosen: list[int]) -> Tensor:
            values = F.linear(x, weight[chosen].flatten(0, 1), bias[chosen].flatten())
            return values.unflatten(-1, (len(chosen), -1)).transpose(1, 2) * alpha[:, chosen, :, None]

        if receive is not None:
            receive(layer, weighted)

    def hear(name: str, inputs: tuple, output: Tensor | tuple) -> None:
        kind, _, layer = name.partition(" ")
        if kind == "attention":
            hear_attention(int(layer), output)
        elif kind == "mlp":
            mlps.append(pool(batch_first(output)))
            stream["sum"] = stream["sum"] + mlps[-1]
        elif kind == "start":
            mlps.append(pool(output))
            stream["sum"] = mlps[-1]
        elif kind == "end":
            stream["end"] = inputs[0].detach().to(dtype) if inputs[0].ndim == 2 else pool(inputs[0])
        else:
            stream["output"] = (output[0] if isinstance(output, tuple) else output).detach().to(dtype)

    def check(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        size, channels = tuple(inputs[0].shape[-2:]), vit.conv1.in_channels
        if size != tuple(vit.image_size):
            raise ValueError(f"The image size is {size}; the tower takes {tuple(vit.image_size)}: resize first.")
        if inputs[0].shape[1] != channels:
            raise ValueError(f"The images have {inputs[0].shape[1]} channels; the tower takes {channels}.")

    layers = {"output": vit, "start": vit.ln_pre, "end": vit.ln_post}
    for layer, block in enumerate(vit.transformer.resblocks):
        layers |= {f"attention {layer}": block.ln_1, f"mlp {layer}": block.ls_2}
    (images,) = checked([images])
    with evaluating(tower), vit.register_forward_pre_hook(check), hooked(tower, layers, hear):
        tower(images)

    z, norm = stream["end"], stream["output"].norm(dim=-1)
    mean, std = z.mean(-1), (z.var(-1, correction=0) + vit.ln_post.eps).sqrt()
    gain, bias, projection = vit.ln_post.weight.to(dtype), vit.ln_post.bias.to(dtype), vit.proj.to(dtype)
    embedding = stream["output"] / norm[:, None]
    rebuilt = (((stream["sum"] - mean[:, None]) / std[:, None] * gain + bias) @ projection) / norm[:, None]
    _check_sum(rebuilt, embedding, vit.proj.dtype)
    terms = torch.stack(mlps, 1)
    return Coefficients(torch.stack(heads, 1), (terms * gain) @ projection, terms.mean(-1), mean, std, norm, embedding)


def _attention(x: Tensor, attention: nn.Module, average: bool) -> Float[Tensor, "batch heads tokens"]:
    """α: how much each token is looked at, by the class token or on average by the patches."""
    heads, scale = attention.num_heads, (x.shape[-1] // attention.num_heads) ** -0.5
    query, key, _ = attention.in_proj_weight.to(x).chunk(3)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias.to(x).chunk(3)[0]
    # The keys' bias adds one number to all scores of a query, which the softmax takes out again.
    if not average:
        q = F.linear(x[:, 0], query, bias).unflatten(-1, (heads, -1)) * scale
        directions = torch.einsum("bhr,hrd->bhd", q, key.unflatten(0, (heads, -1)))
        return (directions @ x.mT).softmax(-1)
    q = F.linear(x[:, 1:], query, bias).unflatten(-1, (heads, -1)) * scale
    k = F.linear(x, key).unflatten(-1, (heads, -1))
    # Head by head, so that only one matrix [tokens, tokens] an image is there at a time.
    return torch.stack([(q[:, :, h] @ k[:, :, h].mT).softmax(-1).mean(1) for h in range(heads)], 1)


def _check_sum(rebuilt: Tensor, embedding: Tensor, dtype: torch.dtype) -> None:
    """What makes this safe on a block that is built in a way nobody foresaw."""
    if not (embedding.isfinite().all() and rebuilt.isfinite().all()):
        raise ValueError("The image embedding is not finite, or zero: check the tower's weights.")
    precision = torch.finfo(dtype).eps
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        precision = 2**-10
    error = (rebuilt - embedding).norm(dim=-1).max().item()
    if error > precision**0.5:
        raise ValueError(
            f"The terms miss the embedding by {error:.1e} of its length: the tower's blocks do more than add."
        )
