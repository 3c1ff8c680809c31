"""What the contributions of heads and tokens are good for (Gandelsman et al.).

Mean ablation says which components matter, retrieval by one head finds images alike in one property, and the tokens'
contributions make heatmaps for texts, which `metrics.foreground` cuts into segmentations. All of it is linear in
`Contributions`.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from xaikit.arguments import Count, Natural, Side, public
from xaikit.decomposition.decompose import Contributions

_SIMILARITIES_AT_ONCE = 2**23

# --- mean ablation ----------------------------------------------------------------------------------------------


@public
def mean_contributions(batches: Iterable[Contributions]) -> Contributions:
    """The mean over all images of every term, as the contributions of one image; memory does not grow with them.

    Summed in float64, so that it does not depend on the batches. Ablating a set with its own means is what the
    published code does; give the means of other images, such as the validation set's, to keep the test set out of it.
    Raises ValueError where there is no image, and for batches of different levels or towers.
    Source: Gandelsman et al., section 3, mean ablation.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import decompose, mean_contributions
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> batches = torch.rand(6, 3, 32, 32).split(4)
    >>> mean_contributions(decompose(tower, images) for images in batches).attention.shape
    torch.Size([1, 2, 2, 8])
    """
    sums: list[Tensor] = []
    count = 0
    for batch in batches:
        parts = [part.double().sum(0) for part in (batch.attention, batch.mlps, batch.embedding)]
        if sums and (batch.level != level or [part.shape for part in parts] != [total.shape for total in sums]):
            raise ValueError("The batches are of different levels or towers: decompose them all in one way.")
        sums = [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts
        count, like, level, before = count + len(batch.embedding), batch.embedding, batch.level, batch.before
    if not count:
        raise ValueError("There is no image to take means over; choose a split that is not empty.")
    return Contributions(*[(total / count).to(like)[None] for total in sums], level, before)


@public
def ablate(
    contributions: Contributions,
    means: Contributions,
    *,
    mlps: bool = False,
    layers: Sequence[int] = (),
    heads: Sequence[tuple[int, int]] = (),
) -> Float[Tensor, "batch features"]:
    """The image embeddings with some components replaced by their `means`, not normalised anew.

    `mlps` replaces z0 and all MLPs, `layers` the whole attention of these layers, `heads` single heads (layer, head);
    what is named twice is replaced once. Contributions are of level "head", or of "layer" where no heads are named.
    Raises ValueError for layers and heads that are not there, and means of another level or tower.
    Source: Gandelsman et al., section 3, mean ablation.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import ablate, decompose, mean_contributions
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> parts = decompose(tower, torch.rand(4, 3, 32, 32))
    >>> embeddings = ablate(parts, mean_contributions([parts]), mlps=True, heads=[(1, 0)])
    >>> embeddings.shape, torch.equal(embeddings, parts.embedding)
    (torch.Size([4, 8]), False)
    """
    _check_means(contributions, means)
    cells = contributions.attention.shape[1:-1]
    if heads:
        _check_level(contributions, "head")
    chosen = torch.zeros(cells, dtype=torch.bool)
    for place in [(layer,) for layer in layers] + list(heads):
        if any(not 0 <= index < size for index, size in zip(place, cells, strict=False)):
            raise ValueError(f"There is no layer or head {place} in {tuple(cells)} layers and heads, counted from 0.")
        chosen[place] = True
    chosen = chosen.to(contributions.attention.device)
    embedding = contributions.embedding
    embedding = embedding + (means.attention[:, chosen] - contributions.attention[:, chosen]).sum(1)
    return embedding + (means.mlps - contributions.mlps).sum(1) if mlps else embedding


@public
def ablate_attention_cumulatively(
    contributions: Contributions, means: Contributions
) -> Float[Tensor, "steps batch features"]:
    """The embeddings with the attention of the first 0, 1, …, L layers replaced by its means, the MLPs left alone.

    Everything is linear, so this is one cumulative sum. Raises ValueError as `ablate` does.
    """
    _check_means(contributions, means)
    change = means.attention - contributions.attention
    steps = change.sum(2) if contributions.level == "head" else change
    steps = torch.cat([contributions.embedding[:, None], steps], 1)
    return steps.cumsum(1).transpose(0, 1)


@public
def replace_heads(
    contributions: Contributions,
    heads: Sequence[tuple[int, int]],
    replacements: Float[Tensor, "batch chosen features"],
) -> Float[Tensor, "batch features"]:
    """The embeddings with heads (layer, head) replaced, say by `TextSpan.reconstruct`.

    To replace in what is ablated already, put that embedding into the contributions first: `dataclasses.replace(
    contributions, embedding=ablate(…))`. Raises ValueError for a head named twice or not there.
    Source: Gandelsman et al., section 4.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import decompose, replace_heads
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> parts = decompose(tower, torch.rand(4, 3, 32, 32))
    >>> silenced = replace_heads(parts, [(1, 0)], torch.zeros(4, 1, 8))
    >>> torch.allclose(parts.embedding - silenced, parts.attention[:, 1, 0], atol=1e-5)
    True
    """
    _check_level(contributions, "head")
    cells = contributions.attention.shape[1:3]
    if (
        not heads
        or len(set(heads)) < len(heads)
        or any(not (0 <= a < cells[0] and 0 <= b < cells[1]) for a, b in heads)
    ):
        raise ValueError(f"The heads are {list(heads)}: name each once, within {tuple(cells)} layers and heads.")
    expected = (len(contributions.embedding), len(heads), contributions.embedding.shape[1])
    if replacements.shape != expected:
        raise ValueError(f"The replacements are {tuple(replacements.shape)}: give {expected}, one a head and image.")
    old = torch.stack([contributions.attention[:, layer, head] for layer, head in heads], 1)
    return contributions.embedding + (replacements - old).sum(1)


def _check_level(contributions: Contributions, *levels: str) -> None:
    if contributions.level not in levels:
        wanted = " or ".join(map(repr, levels))
        raise ValueError(f"The contributions are of level {contributions.level!r}: decompose to {wanted}.")


def _check_means(contributions: Contributions, means: Contributions) -> None:
    _check_level(contributions, "head", "layer")
    kinds = [(c.level, c.attention.shape[1:], c.mlps.shape[1:]) for c in (contributions, means)]
    if kinds[0] != kinds[1] or len(means.embedding) != 1:
        raise ValueError("The means are not those of these contributions: take mean_contributions of the same level.")


# --- retrieval --------------------------------------------------------------------------------------------------


@public
def neighbours(
    queries: Float[Tensor, "queries features"],
    gallery: Float[Tensor, "images features"],
    k: Count,
    *,
    similarity: str = "cosine",
    same: bool = False,
) -> tuple[Int64[Tensor, "queries k"], Float[Tensor, "queries k"]]:
    """The `k` images of the gallery most similar to each query by one head's contributions, and how similar they are.

    "cosine" is the paper's; "dot" the raw product, as in the published notebook; "centred" the cosine after the
    gallery's mean is taken off, so that what a head adds to every image does not count. `same` says that queries and
    gallery are the same images, of which none is its own neighbour. Never holds more than a few million similarities.
    Raises ValueError for a k that the gallery does not have, an unknown similarity, and NaN.
    """
    if similarity not in ("cosine", "dot", "centred"):
        raise ValueError(f"Unknown similarity {similarity!r}: choose 'cosine', 'dot' or 'centred'.")
    if same and len(queries) != len(gallery):
        raise ValueError(f"{len(queries)} queries and {len(gallery)} images are not the same: leave `same` out.")
    if not 1 <= k <= len(gallery) - same:
        raise ValueError(f"k is {k} and there are {len(gallery) - same} other images: choose k from 1 to that number.")
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("Some contributions are NaN or infinite: leave such images out.")
    if similarity == "centred":
        mean = gallery.mean(0)
        queries, gallery = queries - mean, gallery - mean
    if similarity != "dot":
        queries, gallery = F.normalize(queries, dim=1), F.normalize(gallery, dim=1)
    found = []
    for rows in torch.arange(len(queries), device=queries.device).split(max(1, _SIMILARITIES_AT_ONCE // len(gallery))):
        scores = queries[rows] @ gallery.T
        if same:
            scores[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        found.append(scores.topk(k))
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


@public
def precision_at_k(
    found: Int64[Tensor, "queries k"], query_labels: Int[Tensor, " queries"], gallery_labels: Int[Tensor, " images"]
) -> Float[Tensor, " queries"]:
    """For each query, the fraction of the neighbours that have its label. Raises ValueError for images not there."""
    if found.min() < 0 or found.max() >= len(gallery_labels):
        raise ValueError(f"Some images found are not among the {len(gallery_labels)} of the gallery: give its rows.")
    return (gallery_labels[found] == query_labels[:, None]).double().mean(1)


# --- heatmaps ----------------------------------------------------------------------------------


@public
def heatmaps(
    tokens: Float[Tensor, "batch tokens features"],
    texts: Float[Tensor, "texts features"],
    size: Side,
    *,
    grid: Side | None = None,
    contrast: bool = False,
    before: Natural = 1,
) -> Float[Tensor, "batch texts height width"]:
    """How much each place of the image speaks for each text: token contributions times text, at `size` pixels.

    `tokens` are contributions of level "token", or one head's of level "head-token" for a joint map; the first `before`
    (`Contributions.before`: the class token, registers) have no place and are left out. `grid` gives the rows and
    columns of patches, by default a square. `contrast` takes the mean over the texts off each, as the paper's figures
    do. Bilinear, signed, not normalised.
    Raises ValueError for a grid that does not hold the tokens, and for NaN.
    Source: Gandelsman et al., section 5.

    >>> import torch
    >>> from open_clip.transformer import VisionTransformer
    >>> from xaikit import decompose, heatmaps
    >>> tower = VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8)
    >>> tokens = decompose(tower, torch.rand(2, 3, 32, 32), "token").attention
    >>> heatmaps(tokens, torch.randn(3, 8), (32, 32)).shape  # of 2 images for 3 texts
    torch.Size([2, 3, 32, 32])
    """
    patches = tokens.shape[1] - before
    side = round(max(patches, 0) ** 0.5)
    rows, columns = grid or (side, side)
    if rows * columns != patches or patches < 1:
        raise ValueError(
            f"There are {max(patches, 0)} patches and the grid is {rows} by {columns}: give the tower's grid_size."
        )
    if contrast:
        texts = texts - texts.mean(0)
    maps = (tokens[:, before:] @ texts.T).mT.unflatten(-1, (rows, columns))
    if not maps.isfinite().all():
        raise ValueError("The heatmaps hold NaN or infinity: look for them in the contributions and the texts.")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


@public
def class_heatmaps(
    contributions: Contributions,
    classes: Float[Tensor, "classes features"],
    size: Side,
    *,
    chosen: Int[Tensor, " batch"] | None = None,
    grid: Side | None = None,
) -> Float[Tensor, "batch height width"]:
    """One map an image: for its class, less the mean over all classes. Contributions are of level "token".

    The class is `chosen` or else the one that the embedding itself predicts; never the true one, unless it is given.
    Raises ValueError as `heatmaps` does, and for a class that is not there.
    """
    _check_level(contributions, "token")
    if classes.shape[1] != contributions.embedding.shape[1] or (
        chosen is not None and len(chosen) != len(contributions.embedding)
    ):
        raise ValueError(
            f"The classes are {tuple(classes.shape)} and chosen {None if chosen is None else len(chosen)}, for "
            f"{tuple(contributions.embedding.shape)}: give texts of the same model, and a chosen class for each image."
        )
    if chosen is None:
        chosen = (contributions.embedding @ classes.T).argmax(1)
    if chosen.min() < 0 or chosen.max() >= len(classes):
        raise ValueError(f"A chosen class is not among the classes 0 to {len(classes) - 1}.")
    # The map is linear in the text, so one direction an image takes the place of a map for each class.
    directions = classes[chosen.to(classes.device).long()] - classes.mean(0)
    scores = torch.einsum("bnf,bf->bn", contributions.attention, directions)
    return heatmaps(scores[..., None], scores.new_ones(1, 1), size, grid=grid, before=contributions.before)[:, 0]
