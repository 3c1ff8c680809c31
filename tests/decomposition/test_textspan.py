"""TextSpan picks what a brute-force loop in float64 picks, at any size of the basis, and stops where the span does."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from xaikit.decomposition.decompose import Readout, coefficients
from xaikit.decomposition.textspan import ContributionMoments, TextSpan, textspan, textspan_as_published
from xaikit.storage.seeding import generator


def brute_force(c: Tensor, pool: Tensor, m: int, rank: int) -> tuple[list[int], list[float], Tensor]:
    """Algorithm 1 on one head, word for word: picks, V_explained of each prefix and C' with all m."""
    c, r = c.double(), pool.double()
    axes = torch.linalg.svd(c, full_matrices=False).Vh[:rank]
    r = r @ axes.T @ axes
    mean = c.mean(0)
    c = c - mean
    total, kept = c.square().sum(), torch.zeros_like(c)
    picks, explained = [], []
    for _ in range(m):
        j = int((r @ c.T).var(1).argmax())
        q = r[j] / r[j].norm()
        part = torch.outer(c @ q, q)
        kept, c, r = kept + part, c - part, r - torch.outer(r @ q, q)
        picks.append(j)
        explained.append((kept.square().sum() / total).item())
    return picks, explained, mean + kept


def low_rank(rank: int, heads: int = 3, images: int = 300, features: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Coordinates and basis of heads with a steep spectrum and a mean that is not zero, as real heads have."""
    random = generator(seed, "low rank")
    coordinates = torch.randn(images, heads, rank, generator=random, dtype=torch.float64)
    coordinates = coordinates * torch.logspace(0, -3, rank) + 0.2
    return coordinates, torch.randn(heads, rank, features, generator=random, dtype=torch.float64)


def texts(count: int = 150, features: int = 40, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, features, generator=generator(seed, "texts"), dtype=torch.float64), dim=1)


def contributions(coordinates: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("kgr,grf->kgf", coordinates, basis)


@pytest.mark.parametrize("rank", [5, 19, 40])
def test_picks_explained_variance_and_reconstruction_are_those_of_brute_force(rank: int) -> None:
    coordinates, basis = low_rank(rank)
    c, pool = contributions(coordinates, basis), texts()
    spans = textspan(c, pool, rank), textspan(ContributionMoments(basis).add(coordinates), pool, rank)
    for head in range(3):
        picks, explained, kept = brute_force(c[:, head], pool, rank, rank)
        for span in spans:
            assert span.picks[head].tolist() == picks
            torch.testing.assert_close(
                span.explained[head], torch.tensor(explained, dtype=torch.float64), rtol=0, atol=1e-9
            )
            torch.testing.assert_close(span.reconstruct(c)[:, head], kept, rtol=0, atol=1e-7)
            torch.testing.assert_close(span.mean[head], c[:, head].mean(0), rtol=0, atol=1e-12)


def test_one_run_gives_every_smaller_basis() -> None:
    coordinates, basis = low_rank(30)
    c, pool = contributions(coordinates, basis), texts()
    whole = textspan(c, pool, 25)
    for m in (0, 1, 8, 9, 17, 25):  # at the ends of blocks of picks too
        kept = whole.reconstruct(c, m)
        if m:
            small = textspan(c, pool, m)
            assert torch.equal(small.picks, whole.picks[:, :m])
            torch.testing.assert_close(small.reconstruct(c), kept, rtol=0, atol=1e-10)
        for head in range(3):
            expected = brute_force(c[:, head], pool, m, 30)[2] if m else c[:, head].mean(0).expand(len(c), -1)
            torch.testing.assert_close(kept[:, head], expected, rtol=0, atol=1e-7)
    gram = whole.basis @ whole.basis.mT
    torch.testing.assert_close(gram, torch.eye(25).double().expand(3, -1, -1), rtol=0, atol=1e-12)
    assert (whole.explained.diff() > 0).all() and whole.explained[:, -1].max() <= 1


def test_heads_of_a_small_tower_in_both_forms_and_in_batches() -> None:
    torch.manual_seed(0)
    # In float64, where no two texts explain as much up to rounding: batches and forms must choose the same.
    tower = VisionTransformer(24, 8, 32, layers=3, heads=4, mlp_ratio=2, output_dim=24).double().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    readout = Readout.of(tower)
    moments = ContributionMoments(readout.heads.flatten(0, 1))
    parts = []
    for batch in torch.randn(200, 3, 24, 24, generator=generator(0, "images"), dtype=torch.float64).split(70):
        found = coefficients(tower, batch)
        moments.add(found.coordinates().flatten(1, 2))
        parts.append(found.contributions(readout).attention.flatten(1, 2))
    c, pool = torch.cat(parts), texts(100, 24)
    compact, plain = textspan(moments, pool, 9), textspan(c, pool, 9)
    for head in range(12):
        picks = brute_force(c[:, head], pool, 9, 11)[0]
        assert compact.picks[head].tolist() == picks == plain.picks[head].tolist()
    torch.testing.assert_close(compact.mean, c.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(compact.reconstruct(c), plain.reconstruct(c), rtol=0, atol=1e-9)


def test_moments_do_not_depend_on_the_batches_even_far_from_zero() -> None:
    coordinates, basis = low_rank(7)
    coordinates = coordinates + 1e4
    whole = ContributionMoments(basis).add(coordinates)
    parts = ContributionMoments(basis)
    for part in coordinates.split(41):
        parts.add(part)
    assert parts.count == whole.count == 300
    for head in range(3):
        expected = torch.cov(coordinates[:, head].T, correction=0)
        for moments in (whole, parts):
            torch.testing.assert_close(moments.scatter[head] / 300, expected, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(moments.mean[head], coordinates[:, head].mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_it_stops_where_the_span_of_the_head_is_exhausted(precision: torch.dtype) -> None:
    coordinates, basis = low_rank(12)
    coordinates[:, 1, 4:] = 0  # this head has rank 4 only
    c = contributions(coordinates, basis).to(precision)
    for span in (textspan(c, texts(), 20), textspan(ContributionMoments(basis).add(coordinates), texts(), 20)):
        assert (span.picks >= 0).sum(1).tolist() == [12, 4, 12]
        assert (span.picks[1, 4:] == -1).all() and not span.basis[1, 4:].any()
        torch.testing.assert_close(span.explained[:, -1], torch.ones(3).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(span.reconstruct(c), c, rtol=0, atol=2e-3 if precision is torch.float32 else 1e-6)
        for head, picks in enumerate(span.picks):
            real = picks[picks >= 0].tolist()
            assert real == brute_force(contributions(coordinates, basis)[:, head], texts(), len(real), len(real))[0]


def test_it_stops_where_the_span_of_the_texts_is_exhausted() -> None:
    coordinates, basis = low_rank(12)
    few = texts(3)
    pool = F.normalize(torch.rand(30, 3, generator=generator(0, "mixture"), dtype=torch.float64) @ few, dim=1)
    span = textspan(contributions(coordinates, basis), pool, 10)
    assert (span.picks >= 0).sum(1).tolist() == [3, 3, 3]
    assert (span.explained[:, 2:] == span.explained[:, 2:3]).all() and span.explained.max() < 1


def test_rank_limits_the_span_and_never_exceeds_the_numerical_one() -> None:
    coordinates, basis = low_rank(12)
    c = contributions(coordinates, basis)
    limited = textspan(c, texts(), 8, rank=6)
    assert (limited.picks >= 0).sum(1).tolist() == [6, 6, 6]
    for head in range(3):
        assert limited.picks[head, :6].tolist() == brute_force(c[:, head], texts(), 6, 6)[0]
    assert torch.equal(textspan(c, texts(), 12, rank=30).picks, textspan(c, texts(), 12).picks)


def test_many_heads_are_the_same_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinates, basis = low_rank(20, heads=5)
    together = textspan(ContributionMoments(basis).add(coordinates), texts(), 15)
    for head in range(5):
        one = textspan(ContributionMoments(basis[head, None]).add(coordinates[:, head, None]), texts(), 15)
        assert torch.equal(one.picks[0], together.picks[head])
    for numbers in (1, 2 * 150 * 20):  # one head at a time, and two
        monkeypatch.setitem(textspan.__globals__, "_NUMBERS_AT_ONCE", numbers)
        parts = textspan(ContributionMoments(basis).add(coordinates), texts(), 15)
        assert torch.equal(parts.picks, together.picks)
        torch.testing.assert_close(parts.basis, together.basis, rtol=0, atol=1e-9)


def test_as_published_follows_the_loop_and_rounding_chooses_beyond_the_rank() -> None:
    coordinates, basis = low_rank(12)
    c = contributions(coordinates, basis)
    span = textspan_as_published(c, texts(), 10, rank=12)
    for head in range(3):
        picks, explained, kept = brute_force(c[:, head], texts(), 10, 12)
        assert span.picks[head].tolist() == picks
        torch.testing.assert_close(
            span.explained[head], torch.tensor(explained, dtype=torch.float64), rtol=0, atol=1e-9
        )
        torch.testing.assert_close(span.reconstruct(c)[:, head], kept, rtol=0, atol=1e-7)


def test_beyond_the_rank_rounding_chooses_as_published_and_not_here() -> None:
    coordinates, basis = low_rank(12, features=100)
    c, pool = contributions(coordinates, basis).float(), texts(150, 100)
    published = textspan_as_published(c, pool, 20, rank=40)
    assert (published.picks >= 0).all()  # it goes on picking among what is rounding
    disturbed = c * (1 + 6e-8 * torch.randn(c.shape, generator=generator(0, "rounding")))
    assert not torch.equal(textspan_as_published(disturbed, pool, 20, rank=40).picks, published.picks)
    span = textspan(c, pool, 20)
    assert torch.equal(textspan(disturbed, pool, 20).picks, span.picks)
    assert (span.explained[:, 11] > published.explained[:, 11].double()).all()


def changed(tensor: Tensor, place: tuple, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


COORDINATES, BASIS = low_rank(6)
C, POOL = contributions(COORDINATES, BASIS), texts(20)
TWICE = torch.cat([POOL, POOL[3:4]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: textspan(C, POOL[:0], 1), "pool of textspan"),
        (lambda: textspan(C, POOL, 21), "m is 21 and the pool has 20 texts"),
        (lambda: textspan(C, POOL, 0), "m of textspan"),
        (lambda: textspan(C, TWICE, 2), "'row 3' and 'row 20', which are the same"),
        (lambda: textspan(C, TWICE, 2, texts=[f"a {i}" for i in range(21)]), "'a 3' and 'a 20', which are the same"),
        (lambda: textspan(C, POOL, 2, texts=["red"] * 20), "'red' and 'red'"),
        (lambda: textspan(C, POOL, 2, texts=["red"]), "1 texts for 20 embeddings"),
        (lambda: textspan(ContributionMoments().add(C), POOL[:, :30], 2), "30 features and the contributions 40"),
        (lambda: textspan(C, changed(POOL, (2, 3), torch.nan), 2), "pool of textspan"),
        (lambda: textspan(changed(C, (2, 1, 3), torch.nan), POOL, 2), "contributions of textspan"),
        (lambda: textspan(changed(C, (slice(None), 1), 0.0), POOL, 2), r"Heads \[1\] contribute the same"),
        (lambda: textspan(changed(C.float(), (slice(None), 2), 0.3), POOL, 2), r"Heads \[2\] contribute the same"),
        (lambda: textspan(C[:1], POOL, 2), "1 images"),
        (lambda: ContributionMoments(BASIS).add(C), r"give \[images, 3, 6\]"),
        (lambda: ContributionMoments().add(C).add(C[:, :2]), r"give \[images, 3, 40\]"),
        (lambda: ContributionMoments().add(C[:0]), r"shape \(0, 3, 40\)"),
        (lambda: textspan(C, POOL, 3).reconstruct(C, 4), "m is 4; the basis has 3"),
        (lambda: textspan_as_published(C[:1], POOL, 2), "fewer than two"),
        (lambda: textspan_as_published(C, POOL, 21), "m = 21"),
    ],
)
def test_bad_input_is_said_in_a_sentence(call: Callable[[], TextSpan], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
