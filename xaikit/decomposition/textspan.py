"""TextSpan: name what an attention head writes by a few texts that span it (Gandelsman et al., Algorithm 1).

Of the contributions C [images, features] of a head and the embeddings R [texts, features] of a pool of texts, taken
into the span of C, the algorithm picks again and again the text along which the contributions vary most,
j* = argmax Var(C R_j), and makes C and R orthogonal to it. The directions that it picks span a basis; projecting C onto
the first m of them keeps V_explained of its variance.

Here the images are seen once, to sum up the covariance S of C in the r ≤ head_width + 3 coordinates that a head really
uses (`Readout.heads`). The rest happens there: Var(C R_j) = R_jᵀ S R_j, and one pick q changes all variances by two
products of R with a vector, so a pick costs O(texts · r) and no longer O(images · texts · features). All is in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from xaikit.arguments import Count, Natural, Texts, public

_BLOCK = 8  # after so many picks the coordinates are cut down to what is left; costs nothing, and rounding starts anew
_NUMBERS_AT_ONCE = 2**25  # the pool in the coordinates of some heads, 256 MiB: that of all may not fit


@public
class ContributionMoments:
    """Mean and covariance of each head's contributions, summed up batch by batch in float64 (Chan et al.).

    With `basis`, such as some heads of `Readout.heads`, contributions are given as `coordinates` in it, and the
    moments have its few rows in place of all features. `precision` is the relative rounding of what was added.
    """

    def __init__(self, basis: Float[Tensor, "heads rows features"] | None = None) -> None:
        self.basis = None if basis is None else basis.double()
        self.count, self.precision = 0, 0.0
        self.mean = self.scatter = torch.zeros((), dtype=torch.float64)

    def add(self, coordinates: Float[Tensor, "batch heads rows"]) -> "ContributionMoments":
        """Add the contributions of some images. Raises ValueError for another shape than before, and for NaN."""
        expected = self.basis.shape[:2] if self.basis is not None else self.mean.shape or coordinates.shape[1:]
        if coordinates.shape[1:] != expected or not len(coordinates):
            raise ValueError(
                f"Contributions of shape {tuple(coordinates.shape)}: give [images, {', '.join(map(str, expected))}]."
            )
        if not coordinates.isfinite().all():
            raise ValueError("Some contributions are NaN or infinite: look for them in the images and the tower.")
        self.basis = None if self.basis is None else self.basis.to(coordinates.device)
        self.precision = max(self.precision, torch.finfo(coordinates.dtype).eps)
        # One head at a time where they are wide, so that the copy in float64 stays small.
        x = coordinates.transpose(0, 1)
        mean = torch.stack([head.double().mean(0) for head in x])
        scatter = torch.stack([_scatter(head.double() - centre) for head, centre in zip(x, mean, strict=True)])
        count, total = len(coordinates), self.count + len(coordinates)
        shift = mean - self.mean.to(mean)
        self.scatter = self.scatter.to(mean) + scatter + _outer(shift) * (self.count * count / total)
        self.mean = self.mean.to(mean) + shift * (count / total)
        self.count = total
        return self


def _scatter(x: Tensor) -> Tensor:
    return x.mT @ x


def _outer(x: Tensor) -> Tensor:
    return x[..., :, None] * x[..., None, :]


@public
@dataclass(frozen=True, eq=False)
class TextSpan:
    """The texts that span each head, in the order of their picks; every prefix is the result for a smaller m.

    `picks` are rows of the pool, -1 where the head's span was exhausted before; `explained` is V_explained of the first
    1, 2, … m texts as a fraction of the whole variance; `basis` has the orthonormal directions (zeros where exhausted).
    """

    picks: Int64[Tensor, "heads m"]
    explained: Float[Tensor, "heads m"]
    mean: Float[Tensor, "heads features"]
    basis: Float[Tensor, "heads m features"]

    def reconstruct(
        self, contributions: Float[Tensor, "images heads features"], m: Natural | None = None
    ) -> Float[Tensor, "images heads features"]:
        """C' = mean + (C − mean) QᵀQ with the first `m` directions Q; the mean is that of the images of the fit.

        Raises ValueError for an m that was not fitted.
        """
        fitted = self.picks.shape[1]
        if m is not None and not 0 <= m <= fitted:
            raise ValueError(f"m is {m}; the basis has {fitted} directions: choose at most that many.")
        if contributions.shape[1:] != self.mean.shape:
            expected = tuple(self.mean.shape)
            raise ValueError(
                f"The contributions are {tuple(contributions.shape)}: give [images, {expected}] as fitted."
            )
        mean, basis = self.mean.to(contributions), self.basis[:, :m].to(contributions)
        centred = (contributions - mean).transpose(0, 1)
        return mean + (centred @ basis.mT @ basis).transpose(0, 1)


@public
def textspan(
    contributions: ContributionMoments | Float[Tensor, "images heads features"],
    pool: Float[Tensor, "texts features"],
    m: Count,
    *,
    texts: Texts | None = None,
    rank: Count | None = None,
) -> TextSpan:
    """Pick `m` of the texts whose embeddings are `pool` for each head (Algorithm 1).

    Contributions are taken as they are, or summed up in `ContributionMoments`, which for many images or heads is far
    less. `pool` holds unit text embeddings; what is compared is the raw variance of the projection onto a text's part
    in the head's span, as in the paper, so texts that lie in the span are preferred to others. `rank` limits the span
    to its first directions in an uncentred SVD of C; it never goes past the numerical rank, as beyond it rounding
    would choose. `texts` are the pool's words, for messages only.

    Raises ValueError for an empty pool or one of fewer than m texts, the same text twice, m below 1, a head that
    contributes the same to each image, fewer than two images, sizes that do not fit, and NaN.

    >>> import torch
    >>> from xaikit import textspan
    >>> pool = torch.eye(4)  # four texts that have nothing in common
    >>> written = torch.randn(100, 1, 4) * torch.tensor([3.0, 0.1, 1.0, 0.1])  # by one head, into 100 images
    >>> span = textspan(written, pool, 2)
    >>> span.picks, bool(span.explained[0, -1] > 0.95)
    (tensor([[0, 2]]), True)
    """
    moments = contributions
    if not isinstance(moments, ContributionMoments):
        moments = ContributionMoments().add(contributions)
    width = moments.basis if moments.basis is not None else moments.mean
    _check_pool(pool, m, texts, width.shape[-1])
    if moments.count < 2:
        raise ValueError(f"There are {moments.count} images to see a head's variance in; give at least two.")
    pool = pool.to(moments.mean)
    results = []
    heads_at_once = max(1, _NUMBERS_AT_ONCE // (len(pool) * min(moments.mean.shape[-1], pool.shape[1])))
    for heads in torch.arange(len(moments.mean)).split(heads_at_once):
        axes, covariance, mean = _span(moments, heads.to(moments.mean.device), rank)
        variance = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        floor = _tolerance(moments) ** 2
        if dead := heads[(variance <= floor * mean.square().sum(-1)).cpu()].tolist():
            raise ValueError(f"Heads {dead} contribute the same to every image: leave them out.")
        picks, directions, explained = _greedy(covariance, pool @ axes, m, floor)
        results.append((picks, explained / variance[:, None], mean, directions @ axes.mT))
    return TextSpan(*map(torch.cat, zip(*results, strict=True)))


def _check_pool(pool: Tensor, m: int, texts: Sequence[str] | None, features: int) -> None:
    if not len(pool):
        raise ValueError("The pool of texts is empty: give at least one text.")
    if not 1 <= m <= len(pool):
        raise ValueError(f"m is {m} and the pool has {len(pool)} texts: choose m from 1 to that number.")
    if pool.shape[1] != features:
        raise ValueError(f"The texts have {pool.shape[1]} features and the contributions {features}: use one model.")
    if not pool.isfinite().all():
        raise ValueError("Some text embeddings are NaN or infinite: look for them in the text tower.")
    if texts is not None and len(texts) != len(pool):
        raise ValueError(f"There are {len(texts)} texts for {len(pool)} embeddings: give one for each.")
    names = texts or [f"row {row}" for row in range(len(pool))]
    first: dict[object, str] = {}
    for name, vector in zip(names, pool.cpu().contiguous().view(torch.uint8).numpy(), strict=True):
        for key in {vector.tobytes(), name}:
            if key in first:
                raise ValueError(f"The pool holds {first[key]!r} and {name!r}, which are the same: keep one of them.")
            first[key] = name


def _tolerance(moments: ContributionMoments) -> float:
    """Relative size below which a direction is rounding; a covariance in float64 resolves no less than 1e-7."""
    return max(moments.precision * moments.mean.shape[-1] ** 0.5, 1e-7)


def _span(moments: ContributionMoments, heads: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Right singular vectors of the uncentred C [heads, features, r], its covariance in them, and its mean."""
    mean, covariance = moments.mean[heads], moments.scatter[heads] / moments.count
    values, vectors = torch.linalg.eigh(covariance + _outer(mean))
    root = vectors * values.clamp_min(0).sqrt()[:, None]  # root rootᵀ is the second moment
    if moments.basis is None:
        singular, axes = values.clamp_min(0).sqrt().flip(-1), vectors.flip(-1)
        to_axes = axes
    else:
        basis = moments.basis[heads]
        _, singular, axes = torch.linalg.svd(root.mT @ basis, full_matrices=False)
        axes = axes.mT
        to_axes = basis @ axes
        mean = (mean[:, None] @ basis)[:, 0]
    real = singular > singular[:, :1] * _tolerance(moments)
    if rank is not None:
        real[:, rank:] = False
    kept = int(real.sum(-1).max())
    axes, to_axes = (x[..., :kept] * real[:, None, :kept] for x in (axes, to_axes))
    return axes, to_axes.mT @ covariance @ to_axes, mean


def _greedy(covariance: Tensor, texts: Tensor, m: int, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 for all heads at once, in coordinates: covariance [heads, r, r], texts [heads, pool, r].

    Gives the picks, the orthonormal directions [heads, m, r] and V_explained of each prefix. With q the new direction,
    t = R q and p = R (1 − QᵀQ) S q, the variances of the texts less their part along q are
    Var − 2 t p + t² qᵀS q. The covariance need not be made orthogonal to the picks, as the texts are.
    """
    heads, _, width = texts.shape
    picks = torch.full((heads, m), -1, device=texts.device)
    directions, explained = texts.new_zeros(heads, m, width), texts.new_zeros(heads, m)
    back = torch.eye(width, dtype=texts.dtype, device=texts.device).expand(heads, -1, -1)  # to the first coordinates
    everyone = torch.arange(heads, device=texts.device)
    # What a text keeps of its variance below this is rounding: the head's span is exhausted, or that of the texts.
    least = floor * covariance.diagonal(dim1=-2, dim2=-1).sum(-1) * texts.square().sum(-1).amax(-1)
    for begin in range(0, min(m, width), _BLOCK):
        variance = ((texts @ covariance) * texts).sum(-1)
        block = texts.new_zeros(heads, 0, texts.shape[-1])
        for pick in range(begin, min(begin + _BLOCK, m, width)):
            best, j = variance.max(-1)
            alive = best > least
            q = _orthogonal(_orthogonal(texts[everyone, j], block), block)  # twice is enough (Parlett)
            q = F.normalize(q, dim=-1) * alive[:, None]
            image = (covariance @ q[..., None])[..., 0]
            gain = (q * image).sum(-1)
            products = texts @ torch.stack([q, _orthogonal(image, block)], -1)
            t, p = products.unbind(-1)
            variance = variance - 2 * t * p + t.square() * gain[:, None]
            variance[everyone, j] = 0  # it lies in the span now
            picks[:, pick] = torch.where(alive, j, -1)
            directions[:, pick] = (back @ q[..., None])[..., 0]
            explained[:, pick] = gain
            block = torch.cat([block, q[:, None]], 1)
        rest = torch.linalg.qr(block.mT, mode="complete").Q[..., block.shape[1] :]
        texts, covariance, back = texts @ rest, rest.mT @ covariance @ rest, back @ rest
    return picks, directions, explained.cumsum(-1)


def _orthogonal(x: Tensor, rows: Tensor) -> Tensor:
    """Each x [heads, r] less its part along the orthonormal `rows` [heads, k, r]."""
    return x - ((x[:, None] @ rows.mT) @ rows)[:, 0]


@public
def textspan_as_published(
    contributions: Float[Tensor, "images heads features"],
    pool: Float[Tensor, "texts features"],
    m: Count,
    *,
    rank: Count = 80,
) -> TextSpan:
    """The greedy loop over all images as the published code runs it: in the data's precision, with a fixed `rank`.

    A head of width 64 has rank at most 67, so of the default 80 directions of the uncentred SVD 13 are rounding; texts
    are compared by the variance along what is left of them, and where that is rounding too, it chooses. This also
    never stops when the span is exhausted. O(m · images · texts · features) for each head; see `textspan`.
    Raises ValueError for pools and contributions as `textspan` does, save for texts that are there twice.
    """
    if len(contributions) < 2 or not contributions.isfinite().all():
        raise ValueError("The contributions are of fewer than two images, or hold NaN or infinity: leave those out.")
    if not 1 <= m <= len(pool) or pool.shape[1] != contributions.shape[2] or not pool.isfinite().all():
        raise ValueError(f"A pool of shape {tuple(pool.shape)} and m = {m}: give m finite texts of the same model.")
    results = [_published_loop(head, pool.to(head), m, rank) for head in contributions.unbind(1)]
    return TextSpan(*map(torch.stack, zip(*results, strict=True)))


def _published_loop(c: Tensor, r: Tensor, m: int, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axes = torch.linalg.svd(c, full_matrices=False).Vh[:rank]
    r = r @ axes.mT @ axes
    mean = c.mean(0)
    c = c - mean
    total = c.square().sum()
    picks, directions, left = [], [], []
    for _ in range(m):
        j = torch.cat([(part @ c.mT).std(1) for part in r.split(1024)]).argmax()
        q = F.normalize(r[j], dim=0)
        c, r = c - (c @ q)[:, None] * q, r - (r @ q)[:, None] * q
        picks.append(j)
        directions.append(q)
        left.append(c.square().sum())
    return torch.stack(picks), 1 - torch.stack(left) / total, mean, torch.stack(directions)
