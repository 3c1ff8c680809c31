"""CLIP's image embedding as a sum over layers, heads and image tokens (Gandelsman et al.), for any ViT.

A vision transformer only ever adds to its residual stream, and what is read from the stream at the end is linear once
the final norm is frozen. So the unit image embedding is a sum of T = 2L + 1 terms: the embedded input z0, the L
attention outputs and the L MLP outputs. Attention is in turn a sum over heads h and tokens i,

    M(I) / ‖M(I)‖ = Σ_l c_mlp[l] + Σ_{l,h,i} c[l,h,i],      c = ((γ ⊙ (r − μ/(T·n))) / σ + β/(T·n)) P / ‖M(I)‖

for a term r in the residual stream that is one of n equal parts of its layer (n = heads · tokens for a cell of
attention, heads for a head, 1 for a whole layer, an MLP and z0). μ and σ are those of the final norm in the actual
forward pass; γ, β are its gain and bias and P the projection. Dividing by T shares out μ and β, which belong to no
term, so that the sum is exact; a value bias goes with its head, an output bias is shared by all cells of its layer.

The same holds, with more frozen, for what other ViTs do:
- where the mean over tokens is pooled, r is the mean of what is added to them; where each is normed before, with σ_t,
  the mean with weights w_t ~ 1/σ_t, and 1/σ and μ are the means of 1/σ_t and, so weighted, of μ_t;
- where attention pools (SigLIP, CoCa), each of its heads k reads r with weights w_t of its own, its attention over σ_t,
  and goes on by its own values, P_k in place of P. Its biases and its MLP, and a second norm's, are one term more;
- a norm or gain behind a layer's attention goes with W_O; a norm or gate before W_O stays within a head. What a norm
  takes off, and its bias, belongs to no token, and is shared by all tokens.

Everything is read through hooks on stock towers (`models.streams` has where things lie).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.arguments import ANYTHING, public
from xaikit.models.batches import checked
from xaikit.models.hooks import evaluating, hooked, in_own_precision
from xaikit.models.streams import (
    Block,
    Tower,
    asked_attention,
    bias_of,
    centres,
    describe,
    gain_of,
    normalised,
    statistics,
)

LEVELS = "layer", "head", "token", "head-token"


@public
def image_tower(model: nn.Module) -> nn.Module:
    """The image tower in `model` (itself, or behind its preprocessing), if it can be decomposed.

    A ViT of open_clip, timm or transformers; docs/towers.md lists them. Raises ValueError, with the name of what stands
    in the way, for another network, no pooling, and parts that do not simply add to the stream.
    """
    return describe(model).root


@contextmanager
def _exactly() -> Iterator[None]:
    """No gradients, and no autocast: the terms would miss their sum by the rounding of half precision."""
    with in_own_precision(), torch.no_grad():
        yield


@public
@dataclass(frozen=True, eq=False)
class Readout:
    """The weights' part of the decomposition: where a head's few numbers point in the joint space of CLIP.

    `heads` holds, for each head, head_width + 3 rows: W_O,h diag(γ) P for its values, and the shares of b_O, of μ and
    of β; a head's contribution is `Coefficients.coordinates()` times these rows, so its rank over any data set is at
    most head_width + 3. `ones` and `beta` are 1·diag(γ) P and β P, for the terms that are no heads. (Behind a norm of
    what attention gives, a head has one number more.)
    Behind attention pooling these point to the pooling heads' values, side by side; `pooled` goes on from there to the
    joint space, and is None elsewhere.
    `Readout.of` raises ValueError for a tower that cannot be decomposed.
    Source: Gandelsman et al., section 3.

    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import Readout
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> Readout.of(tower).heads.shape  # 2 layers, 2 heads of width 8, 8 features
    torch.Size([2, 2, 11, 8])
    """

    heads: Float[Tensor, "layers heads rows joint"]
    ones: Float[Tensor, " joint"]
    beta: Float[Tensor, " joint"]
    own_mean: bool
    pooled: Float[Tensor, "joint features"] | None = None

    @classmethod
    @_exactly()
    def of(cls, tower: nn.Module, *, own_mean: bool = False) -> "Readout":
        """Read it off the tower's weights.

        By default the mean μ that the final norm takes off is shared out equally, μ/(T·n) a part, as in the published
        code. `own_mean` takes each term's own mean off it instead; the difference is a multiple of one vector 1·diag(γ)
        P, and the sum is the same. (RMSNorm takes nothing off.) Raises ValueError as `image_tower` does.
        """
        parts = describe(tower)
        own_mean = own_mean and centres(parts.norm)
        dtype, blocks = parts.dtype, parts.blocks
        joint, pooled = parts.maps(dtype)
        gain = gain_of(parts.norm, joint.T)[:, None] * joint
        ones, beta = gain.sum(0), bias_of(parts.norm, joint.T) @ joint
        if parts.adds:
            beta = torch.zeros_like(beta)
        elif parts.bias is not None:
            beta = beta + parts.bias.to(dtype)
        if own_mean:  # (r − mean(r)) diag(γ) P = r (diag(γ) P − 1·ones/d)
            gain = gain - ones / len(gain)
        heads = []
        for block in blocks:
            output, bias, width = block.written(dtype)
            count = block.heads
            shared = (2 * len(blocks) + 1) * count
            shares = torch.stack([bias @ gain / count, ones * (0 if own_mean else -1 / shared), beta / shared])
            values = (output.T @ gain).view(count, width, -1)
            heads.append(torch.cat([values, shares.expand(count, -1, -1)], 1))
        if len({each.shape for each in heads}) > 1:
            raise ValueError(
                "The tower's layers differ in the number or width of their heads: give one with equal ones."
            )
        return cls(torch.stack(heads), ones, beta, own_mean, pooled)


@public
@dataclass(frozen=True, eq=False)
class Contributions:
    """The terms of unit image embeddings. `attention` has the cells of its level between image and features.

    "layer": [batch, layers, features]; "head": [batch, layers, heads, features]; "token": [batch, tokens, features],
    summed over layers and heads; "head-token": [batch, layers, heads, tokens, features]. The first `before` tokens (the
    class token, registers) are no patches. `mlps` starts with z0, and ends with what attention pooling or a second norm
    adds by itself, where there is one. `embedding` is what the tower itself gave, at unit length.
    """

    attention: Float[Tensor, "batch *cells features"]
    mlps: Float[Tensor, "batch terms features"]
    embedding: Float[Tensor, "batch features"]
    level: str
    before: int = 1

    def total(self) -> Float[Tensor, "batch features"]:
        """The sum of all terms: `embedding`, up to rounding."""
        return self.attention.flatten(1, -2).sum(1) + self.mlps.sum(1)


@public
@dataclass(frozen=True, eq=False)
class Coefficients:
    """All that images add to the weights: layer and head level are rebuilt from it without loss.

    `heads` holds u = Σ_i α_i v_i, head_width numbers a head in place of `features` ones; `mlps` the terms z0 and the
    MLPs as r diag(γ) P, and `mlp_means` the means of r; `mean` and `std` are μ and σ of the final norm, and `norm` is
    ‖M(I)‖. `added` is what attention pooling or a second norm adds by itself, one row or none.
    Behind attention pooling there are u, μ, σ and the means of r for each of its heads, and `mlps` are r diag(γ) W_V.
    """

    heads: Float[Tensor, "batch layers heads numbers"]
    mlps: Float[Tensor, "batch terms joint"]
    mlp_means: Float[Tensor, "batch terms *reads"]
    mean: Float[Tensor, "batch *reads"]
    std: Float[Tensor, "batch *reads"]
    norm: Float[Tensor, " batch"]
    embedding: Float[Tensor, "batch features"]
    added: Annotated[Float[Tensor, "batch rows features"], ANYTHING]

    def __len__(self) -> int:
        return len(self.norm)

    def __getitem__(self, rows: slice | Tensor) -> "Coefficients":
        """The same for some of the images."""
        return Coefficients(**{name: values[rows] for name, values in vars(self).items()})

    def coordinates(self) -> Float[Tensor, "batch layers heads rows"]:
        """Each head's contribution in the coordinates of `Readout.heads`: (s u, s, s μ, 1/‖M‖) with s = 1/(σ ‖M‖).

        Raises ValueError behind attention pooling, where heads have no such basis: take their contributions.
        """
        if self.std.ndim > 1:
            raise ValueError("Behind attention pooling, heads have no basis of a few rows: take their contributions.")
        return self._coordinates(self.heads)

    def _coordinates(self, numbers: Tensor) -> Tensor:
        shares = self._shares()[:, None, None]
        return torch.cat([numbers * shares[..., :1], shares.expand(*numbers.shape[:-1], -1)], -1)

    def _shares(self) -> Float[Tensor, "batch *reads 3"]:
        norm = self.norm if self.std.ndim == 1 else self.norm[:, None]
        scale = 1 / (self.std * norm)
        return torch.stack([scale, scale * self.mean, (1 / norm).expand_as(scale)], -1)

    @_exactly()
    def contributions(self, readout: Readout, level: str = "head") -> Contributions:
        """Rebuild level "head" or "layer". Raises ValueError for a level with tokens, and another tower's readout."""
        if level not in ("head", "layer"):
            raise ValueError(f"Coefficients do not hold the tokens of level {level!r}: call decompose with the images.")
        _, layers, heads, width = self.heads.shape
        reads = self.std.shape[1:].numel()
        expected = (layers, heads, width // reads + 3, self.mlps.shape[-1])
        if readout.heads.shape != expected or (readout.pooled is None) != (self.std.ndim == 1):
            raise ValueError("The readout is not of the tower that gave these coefficients: take Readout.of that one.")
        if readout.pooled is not None:
            coordinates = self._coordinates(self.heads.unflatten(-1, (reads, -1)))
            maps = readout.heads.unflatten(-1, (reads, -1))
            attention = torch.einsum("blhkr,lhrkd->blhkd", coordinates, maps).flatten(-2)
            attention = (attention.sum(2) if level == "layer" else attention) @ readout.pooled
        elif level == "head":
            attention = torch.einsum("blhr,lhrf->blhf", self.coordinates(), readout.heads)
        else:
            attention = torch.einsum("blr,lrf->blf", self.coordinates().flatten(2), readout.heads.flatten(1, 2))
        return Contributions(attention, self._mlp_contributions(readout), self.embedding, level)

    def _mlp_contributions(self, readout: Readout) -> Tensor:
        terms = 2 * self.heads.shape[1] + 1
        means = self.mlp_means if readout.own_mean else self.mean[:, None] / terms
        if readout.pooled is None:
            centred = self.mlps - means[..., None] * readout.ones
            found = centred / (self.std * self.norm)[:, None, None] + readout.beta / (terms * self.norm[:, None, None])
        else:
            centred = self.mlps - _each(means, self.mlps) * readout.ones
            found = centred / _each(self.std * self.norm[:, None], self.mlps)[:, None] @ readout.pooled
        return torch.cat([found, self.added / self.norm[:, None, None]], 1) if self.added.shape[1] else found


def _each(numbers: Float[Tensor, "*rows reads"], like: Float[Tensor, "*others joint"]) -> Float[Tensor, "*rows joint"]:
    """A number of each pooling head, once for each of its values."""
    return numbers.repeat_interleave(like.shape[-1] // numbers.shape[-1], -1)


@public
def coefficients(tower: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Coefficients:
    """One forward pass of `tower`, and what `Contributions` are rebuilt from. In float32 for half-precision towers.

    `tower` is a ViT of open_clip, timm or transformers, or a module around one that prepares its images. It runs in
    evaluation mode without gradients, and is left as it was. Beside the pass this takes O(tokens · heads · width)
    operations a layer: where open_clip does not show what heads read, keys and values of the tokens are never
    projected, as q·(W_K x) = (W_Kᵀ q)·x and Σ_i α_i W_V x_i = W_V Σ_i α_i x_i. There are two passes where the weights
    of tokens are only known at the end of one: with attention pooling, and where tokens are normed before their mean.

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
    Raises ValueError for an unknown level or head, levels with tokens where attention is gated or its weights cannot be
    had (it is not PyTorch's scaled_dot_product_attention), and as `coefficients` does.
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
    parts = describe(tower)
    if level in ("layer", "head"):
        return replace(coefficients(tower, images).contributions(readout, level), before=parts.before)
    layers, count, rows, _ = readout.heads.shape
    chosen = [(layer, head) for layer in range(layers) for head in range(count)] if heads is None else list(heads)
    if not chosen or any(not (0 <= layer < layers and 0 <= head < count) for layer, head in chosen):
        raise ValueError(f"The heads are {chosen}: name some of layers 0 to {layers - 1}, heads 0 to {count - 1}.")
    if any(block.gated for block in parts.blocks):
        raise ValueError("The tower's attention is gated, so its tokens are not weighed by numbers: take level 'head'.")
    reads = 1 if parts.pool is None else len(parts.pool.query)
    cells: list[Tensor] = []  # one tensor for all layers, which is large: [chosen, batch, tokens, joint]

    def keep(layer: int, attention: "_Mixed | _Packed") -> None:
        places = [place for place, (other, _) in enumerate(chosen) if other == layer]
        if not places:
            return
        wanted = [chosen[place][1] for place in places]
        # All heads as they stand are not copied together.
        picked = slice(None) if wanted == list(range(count)) else wanted
        found, maps = attention.cells(picked), readout.heads[layer, picked, : rows - 3]
        if level == "token":  # all heads at once: their sum is one product
            cells[:] = [sum(cells, found.summed(maps))]
            return
        if not cells:
            batch, _, tokens, _ = found.values.shape
            cells.append(maps.new_empty(len(chosen), batch, tokens, maps.shape[-1]))
        if heads is None:
            found.mapped(maps, cells[0][places[0] : places[-1] + 1])
        else:
            cells[0][places] = found.mapped(maps)

    found = _run(tower, images, keep)
    shares = torch.stack([readout.heads[layer, head, -3:] for layer, head in chosen])
    if level == "token":
        attention, shares = cells[0][:, None], shares.sum(0, keepdim=True)
    else:
        attention = cells[0].transpose(0, 1)
    weights = found._shares()  # each token gets the same of b_O, μ and β
    if reads == 1 and readout.pooled is None:
        shared = torch.einsum("br,hrf->bhf", weights, shares) / attention.shape[2]
        for start in range(0, attention.shape[1], count):  # a layer at a time, which stays in the CPU's cache
            part = attention[:, start : start + count]
            part.mul_(weights[:, 0, None, None, None]).add_(shared[:, start : start + count, None])
    else:
        attention.mul_(_each(weights[..., 0], attention)[:, None, None])
        shared = torch.einsum("bkr,hrkd->bhkd", weights, shares.unflatten(-1, (reads, -1))).flatten(-2)
        attention = attention.add_((shared / attention.shape[2])[:, :, None]) @ readout.pooled
    if level == "token":
        attention = attention[:, 0]
    elif heads is None:
        attention = attention.unflatten(1, (layers, count))
    return Contributions(attention, found._mlp_contributions(readout), found.embedding, level, parts.before)


@dataclass(frozen=True, eq=False)
class _Cells:
    """What some heads of a layer read from each token: α_i v_i, and a rest that belongs to no token, shared by all."""

    values: Float[Tensor, "batch heads tokens rows"]
    alpha: Float[Tensor, "batch *reads heads tokens"]
    rest: Float[Tensor, "batch *reads heads rows"] | None

    def mapped(
        self, maps: Float[Tensor, "heads rows joint"], out: Float[Tensor, "heads batch tokens joint"] | None = None
    ) -> Float[Tensor, "heads batch tokens joint"]:
        """What heads write for each token, in `out` if it is given."""
        if self.alpha.ndim == 3:
            values = self.values * self.alpha[..., None]
            if self.rest is not None:
                values = values + self.rest[:, :, None] / values.shape[2]
            values = values.transpose(0, 1).flatten(1, 2)
            found = torch.bmm(values, maps, out=None if out is None else out.flatten(1, 2))
            return found.unflatten(1, self.alpha.shape[::2])
        maps = maps.unflatten(-1, (self.alpha.shape[1], -1))
        found = torch.einsum("bhnr,hrkd,bkhn->hbnkd", self.values, maps, self.alpha)
        if self.rest is not None:
            found = found + torch.einsum("bkhr,hrkd->hbkd", self.rest, maps)[:, :, None] / self.values.shape[2]
        return found.flatten(-2) if out is None else out.copy_(found.flatten(-2))

    def summed(self, maps: Float[Tensor, "heads rows joint"]) -> Float[Tensor, "batch tokens joint"]:
        if self.alpha.ndim > 3:
            return self.mapped(maps).sum(0)
        values = self.values * self.alpha[..., None]
        if self.rest is not None:
            values = values + self.rest[:, :, None] / values.shape[2]
        return values.transpose(1, 2).flatten(2) @ maps.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class _Reading:
    """How the stream is read: weights of tokens where there are any, frozen μ and σ, and what is added at the end."""

    weights: Float[Tensor, "batch reads tokens"] | None
    mean: Float[Tensor, "batch *reads"]
    std: Float[Tensor, "batch *reads"]
    added: Float[Tensor, "batch features"] | None


@_exactly()
def _run(
    tower: nn.Module, images: Tensor, receive: "Callable[[int, _Mixed | _Packed], None] | None" = None
) -> Coefficients:
    """One forward pass, or two; `receive` gets each layer's number, and what knows its heads' tokens."""
    (images,) = checked([images])
    run = _Pass(describe(tower), receive)
    with evaluating(tower), run.parts.root.register_forward_pre_hook(run.check):
        if run.parts.ahead:
            with hooked(tower, run.ends, run.hear):
                tower(images)
            run.reading = _read(run.parts, run.stream)
        with hooked(tower, run.layers | run.ends, run.hear), run.listening():
            tower(images)
    return run.coefficients()


class _Pass:
    """What is heard of a tower while it runs."""

    def __init__(self, parts: Tower, receive: "Callable[[int, _Mixed | _Packed], None] | None") -> None:
        self.parts, self.receive, self.dtype = parts, receive, parts.dtype
        self.joint, self.pooled = parts.maps(parts.dtype)
        self.ends: dict[str, nn.Module] = {"output": parts.root, "end": parts.norm}
        if parts.second is not None:
            self.ends["second"] = parts.second
        if parts.pool is not None and parts.pool.mlp is not None:
            self.ends["pooling"] = parts.pool.mlp
        self.layers = {"start": parts.blocks[0].entry}
        for layer, block in enumerate(parts.blocks):
            self.layers[f"attention {layer}"] = block.entry if block.packed else block.output
            self.layers[f"mlp {layer}"] = block.mlp
        self.seen = _Attention()
        self.reading: _Reading | None = None
        self.stream: dict[str, Tensor] = {}
        self.heads: list[Tensor] = []
        self.mlps: list[Tensor] = []

    def listening(self) -> AbstractContextManager[object]:
        """Keeps what attention is asked for, where that is needed: listening costs a little at each function."""
        unpacked = any(block.packed is None for block in self.parts.blocks)
        return self.seen if self.receive is not None and unpacked else nullcontext()

    def check(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Raise ValueError for images that the tower does not take."""
        if self.parts.image is None:
            return
        channels, *sides = self.parts.image
        size = tuple(inputs[0].shape[-2:])
        if size != tuple(sides):
            raise ValueError(f"The image size is {size}; the tower takes {tuple(sides)}: resize first.")
        if inputs[0].shape[1] != channels:
            raise ValueError(f"The images have {inputs[0].shape[1]} channels; the tower takes {channels}.")

    def hear(self, name: str, inputs: tuple, output: object) -> None:
        kind, _, layer = name.partition(" ")
        if kind == "attention":
            self._hear_attention(int(layer), inputs[0].detach(), output.detach())
        elif kind == "mlp":
            self.mlps.append(self.pool(self._batch_first(output)))
            self._add(self.mlps[-1])
        elif kind == "start":
            self.mlps.insert(0, self.pool(self._batch_first(inputs[0])))
            self._add(self.mlps[0])
        elif kind == "output":
            self.stream["output"] = self.parts.embedding(output).detach().to(self.dtype)
        elif kind == "pooling":
            self.stream["pooling"] = output.detach()[:, 0].to(self.dtype)
        else:
            rows = inputs[0].detach()
            if rows.ndim == 3 and not (kind == "end" and self.parts.ahead):
                rows = self.pool(rows) if kind == "end" else rows[:, 0]
            self.stream[kind] = rows.to(self.dtype)

    def _hear_attention(self, layer: int, inputs: Tensor, output: Tensor) -> None:
        block, weights = self.parts.blocks[layer], None if self.reading is None else self.reading.weights
        if block.packed is not None:
            found = _Packed(self.parts, block, weights, self._batch_first(output).to(self.dtype))
        else:
            mixed, scale = block.scaled(inputs.to(self.dtype), output.to(self.dtype))
            u = self.pool(mixed).unflatten(-1, (block.heads, -1))
            found = _Mixed(self.parts, block, weights, u, scale, self.seen.taken())
        self.heads.append(found.u if self.pooled is None else found.u.transpose(1, 2).flatten(2))
        self._add(F.linear(found.u.flatten(-2), *block.written(self.dtype)[:2]))
        if self.receive is not None:
            self.receive(layer, found)

    def pool(self, rows: Tensor) -> Float[Tensor, "batch *reads width"]:
        """What is read of rows: of the class token, or a mean."""
        rows = rows.detach()
        if self.reading is not None:
            found = torch.einsum("bkn,bnw->bkw", self.reading.weights, rows.to(self.dtype))
            return found[:, 0] if self.pooled is None else found
        if self.parts.pools == "mean":
            return rows[:, self.parts.start :].to(self.dtype).mean(1)
        return rows[:, 0].to(self.dtype, copy=True)  # of the one row, as a view would keep all rows alive

    def _batch_first(self, rows: Tensor) -> Tensor:
        # By attribute and not by shape: a batch may be as large as the number of tokens.
        return rows if self.parts.batch_first else rows.transpose(0, 1)

    def _add(self, term: Tensor) -> None:
        # The entry of a block that norms what attention gives is attention itself, which is heard when it has ended.
        self.stream["sum"] = self.stream["sum"] + term if "sum" in self.stream else term

    def coefficients(self) -> Coefficients:
        """All that was heard. Raises ValueError for terms that do not add up to the embedding."""
        parts, joint, stream = self.parts, self.joint, self.stream
        reading = self.reading or _read(parts, stream)
        mean, std, added = reading.mean, reading.std, reading.added
        norm = stream["output"].norm(dim=-1)
        embedding = stream["output"] / norm[:, None]
        gain = gain_of(parts.norm, joint.T)
        rebuilt = (stream["sum"] - mean[..., None]) / std[..., None] * gain
        if self.pooled is not None:
            rebuilt = _by_read(rebuilt, joint) @ self.pooled
        else:
            rebuilt = (rebuilt if parts.adds else rebuilt + bias_of(parts.norm, joint.T)) @ joint
        if added is not None:
            rebuilt = rebuilt + added
        elif parts.bias is not None:
            rebuilt = rebuilt + parts.bias.to(self.dtype)
        _check_sum(rebuilt / norm[:, None], embedding, parts.blocks[0].output.weight.dtype)
        terms = torch.stack(self.mlps, 1)
        written = (terms * gain) @ joint if self.pooled is None else _by_read(terms * gain, joint)
        added = embedding.new_zeros(len(embedding), 0, embedding.shape[1]) if added is None else added[:, None]
        return Coefficients(torch.stack(self.heads, 1), written, terms.mean(-1), mean, std, norm, embedding, added)


def _by_read(
    rows: Float[Tensor, "*rows reads width"], joint: Float[Tensor, "width joint"]
) -> Float[Tensor, "*rows joint"]:
    """What the pooling heads make of rows, each of its own by its own values."""
    return torch.einsum("...kw,wkd->...kd", rows, joint.unflatten(1, (rows.shape[-2], -1))).flatten(-2)


def _read(parts: Tower, stream: Mapping[str, Tensor]) -> _Reading:
    """What is frozen: from the end of the stream, the rows behind the pooling, and the output of its MLP."""
    end, dtype = stream["end"], parts.dtype
    mean, std = statistics(parts.norm, end)
    weights = None
    if parts.ahead:
        mean, std = mean[:, None, parts.reads], std[:, None, parts.reads]
        if parts.pool is None:
            alpha = torch.ones_like(std) / std.shape[-1]
        else:
            alpha = parts.pool.weights(normalised(parts.norm, end)[:, parts.reads])
        each = alpha / std
        total = each.sum(-1)
        weights = each.new_zeros(*total.shape, end.shape[1])
        weights[..., parts.reads] = each / total[..., None]
        mean, std = (weights[..., parts.reads] * mean).sum(-1), 1 / total
        if parts.pool is None:
            mean, std = mean[:, 0], std[:, 0]
    if not parts.adds:
        return _Reading(weights, mean, std, None)
    added = bias_of(parts.norm, end).expand(len(end), -1)
    if parts.pool is not None:
        for weight, bias in (parts.pool.value, parts.pool.output):
            added = F.linear(added, weight.to(dtype), None if bias is None else bias.to(dtype))
    if "pooling" in stream:
        added = added + stream["pooling"]
    if parts.second is not None:
        _, scale = statistics(parts.second, stream["second"])
        std = std * (scale if std.ndim == 1 else scale[:, None])
        added = added - added.mean(-1, keepdim=True) if centres(parts.second) else added
        added = added / scale[:, None] * gain_of(parts.second, added) + bias_of(parts.second, added)
    if parts.projection is not None:
        added = added @ parts.projection.to(dtype)
    return _Reading(weights, mean, std, added if parts.bias is None else added + parts.bias.to(dtype))


# --- what heads read ------------------------------------------------------------------------------------------------


class _Attention(TorchFunctionMode):
    """Keeps queries, keys and values of the last attention that PyTorch was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple, dict]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.calls.append((args, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def taken(self) -> list[tuple[tuple, dict]]:
        """The calls since this was last asked."""
        calls, self.calls = self.calls, []
        return calls


def _queries_keys_values(
    calls: list[tuple[tuple, dict]], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Scaled queries, keys and values [batch, heads, tokens, width] of one call, and what is added to the scores."""
    if len(calls) != 1:
        raise ValueError(
            f"A layer asks {len(calls)} times for scaled_dot_product_attention, so the weights of its tokens are not "
            "known: let it use that (fused_attn, attn_implementation='sdpa'), or take level 'head'."
        )
    ((args, kwargs),) = calls
    return asked_attention(args, kwargs, dtype)


@dataclass(frozen=True, eq=False)
class _Mixed:
    """A layer whose W_O is called, with what its heads mixed; `scale` is what a norm behind W_O multiplies it with."""

    parts: Tower
    block: Block
    weights: Float[Tensor, "batch reads tokens"] | None
    u: Float[Tensor, "batch *reads heads rows"]
    scale: Float[Tensor, "batch tokens 1"] | None
    calls: list[tuple[tuple, dict]]

    def cells(self, chosen: list[int] | slice) -> _Cells:
        block, reads = self.block, self.parts.reads if self.weights is None else slice(None)
        query, key, value, mask = _queries_keys_values(self.calls, self.parts.dtype)

        def attention(head: int, rows: slice) -> Tensor:
            scores = query[:, head, rows] @ key[:, head].mT
            return (scores if mask is None else scores + mask[:, head, rows]).softmax(-1)

        gain = value.new_ones(block.heads, value.shape[-1])
        each = value.new_ones(len(value), query.shape[2], 1) if self.scale is None else self.scale
        if block.head_gain is not None:
            gain = gain * block.head_gain.to(gain).view(-1, 1)
        if block.inner_norm is not None:
            mixed = [attention(head, slice(None)) @ value[:, head] * gain[head] for head in range(block.heads)]
            within = torch.cat(mixed, -1)
            each = each / statistics(block.inner_norm, within)[1][..., None]
            gain = gain * gain_of(block.inner_norm, within).view_as(gain)
        each = each[:, reads].mT
        each = each / each.shape[-1] if self.weights is None else each * self.weights
        # Head by head, so that only one matrix [tokens, tokens] an image is there at a time.
        alpha = torch.stack(
            [each @ attention(head, reads) for head in _numbers(chosen, block.heads)], 2
        )  # [batch, reads, heads, tokens]
        alpha = alpha[:, 0] if self.u.ndim == 3 else alpha
        values = value[:, chosen] * gain[chosen][:, None]
        if block.norm is None and block.inner_norm is None:
            return _Cells(values, alpha, None)
        values = F.pad(values, (0, self.u.shape[-1] - values.shape[-1]))
        told = torch.einsum("b...hn,bhnr->b...hr", alpha, values)
        return _Cells(values, alpha, self.u[..., chosen, :] - told)


class _Packed:
    """The same for an nn.MultiheadAttention that takes `x`, and does not show what its heads read."""

    def __init__(
        self,
        parts: Tower,
        block: Block,
        weights: Float[Tensor, "batch reads tokens"] | None,
        x: Float[Tensor, "batch tokens width"],
    ) -> None:
        attention, self.x = block.packed, x
        self.weight = attention.in_proj_weight.chunk(3)[2].to(x).unflatten(0, (attention.num_heads, -1))
        self.bias = self.weight.new_zeros(self.weight.shape[:2])
        if attention.in_proj_bias is not None:
            self.bias = attention.in_proj_bias.chunk(3)[2].to(x).view_as(self.bias)
        self.alpha = _packed_attention(x, attention, parts, weights)
        if self.alpha.ndim == 3:
            self.u = torch.einsum("bhd,hrd->bhr", self.alpha @ x, self.weight) + self.bias
        else:
            self.u = torch.einsum("bkhd,hrd->bkhr", self.alpha @ x[:, None], self.weight) + self.bias

    def cells(self, chosen: list[int] | slice) -> _Cells:
        values = F.linear(self.x, self.weight[chosen].flatten(0, 1), self.bias[chosen].flatten())
        values = values.unflatten(-1, (len(self.bias[chosen]), -1)).transpose(1, 2)
        return _Cells(values, self.alpha[..., chosen, :], None)


def _numbers(chosen: list[int] | slice, count: int) -> list[int]:
    return list(range(count))[chosen] if isinstance(chosen, slice) else chosen


def _packed_attention(
    x: Tensor, attention: nn.Module, parts: Tower, weights: Tensor | None
) -> Float[Tensor, "batch *reads heads tokens"]:
    """α: how much each token is looked at, by the class token or on average by those that are read."""
    heads, scale = attention.num_heads, (x.shape[-1] // attention.num_heads) ** -0.5
    query, key, _ = attention.in_proj_weight.to(x).chunk(3)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias.to(x).chunk(3)[0]
    # The keys' bias adds one number to all scores of a query, which the softmax takes out again.
    if parts.pools == "class":
        q = F.linear(x[:, 0], query, bias).unflatten(-1, (heads, -1)) * scale
        directions = torch.einsum("bhr,hrd->bhd", q, key.unflatten(0, (heads, -1)))
        return (directions @ x.mT).softmax(-1)
    rows = x[:, parts.start :] if weights is None else x
    q = F.linear(rows, query, bias).unflatten(-1, (heads, -1)) * scale
    k = F.linear(x, key).unflatten(-1, (heads, -1))
    # Head by head, so that only one matrix [tokens, tokens] an image is there at a time.
    each = ((q[:, :, h] @ k[:, :, h].mT).softmax(-1) for h in range(heads))
    if weights is None:
        return torch.stack([alpha.mean(1) for alpha in each], 1)
    found = torch.stack([weights @ alpha for alpha in each], 2)
    return found if parts.pool is not None else found[:, 0]


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
