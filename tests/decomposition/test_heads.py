"""Ablation, retrieval and heatmaps do by linear algebra what slow loops do one thing at a time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from xaikit.decomposition.decompose import Contributions, Readout, decompose
from xaikit.decomposition.heads import (
    ablate,
    ablate_attention_cumulatively,
    class_heatmaps,
    heatmaps,
    mean_contributions,
    neighbours,
    precision_at_k,
    replace_heads,
)
from xaikit.decomposition.textspan import textspan
from xaikit.storage.seeding import generator


@pytest.fixture(scope="module")
def tower() -> VisionTransformer:
    torch.manual_seed(0)
    tower = VisionTransformer((24, 32), 8, 32, layers=3, heads=4, mlp_ratio=2, output_dim=20).double().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return tower


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return draw("images", 12, 3, 24, 32)


@pytest.fixture(scope="module")
def heads(tower: VisionTransformer, images: Tensor) -> Contributions:
    return decompose(tower, images)


@pytest.fixture(scope="module")
def tokens(tower: VisionTransformer, images: Tensor) -> Contributions:
    return decompose(tower, images, "token")


@pytest.fixture(scope="module")
def means(tower: VisionTransformer) -> Contributions:
    """Of other images than those that are ablated."""
    readout = Readout.of(tower)
    batches = draw("other images", 17, 3, 24, 32).split(5)
    return mean_contributions(decompose(tower, batch, readout=readout) for batch in batches)


# --- mean ablation ----------------------------------------------------------------------------------------------


def test_means_are_those_of_all_images_whatever_the_batches(tower: VisionTransformer, means: Contributions) -> None:
    whole = decompose(tower, draw("other images", 17, 3, 24, 32))
    for found, expected in ((means.attention, whole.attention), (means.mlps, whole.mlps)):
        torch.testing.assert_close(found[0], expected.mean(0), rtol=0, atol=1e-13)
    torch.testing.assert_close(means.total(), means.embedding, rtol=0, atol=1e-13)


def slowly_ablated(
    contributions: Contributions, means: Contributions, replaced: Callable[[int, int], bool], mlps: bool
) -> Tensor:
    """Every term added up again, one at a time."""
    embedding = torch.zeros_like(contributions.embedding)
    for layer in range(3):
        for head in range(4):
            source = means if replaced(layer, head) else contributions
            embedding = embedding + source.attention[:, layer, head]
    for term in range(4):
        embedding = embedding + (means if mlps else contributions).mlps[:, term]
    return embedding


def test_ablation_adds_up_the_other_terms_and_the_means(heads: Contributions, means: Contributions) -> None:
    for mlps in (False, True):
        for layers, chosen in (((), ()), ((0, 2), ()), ((), ((1, 3), (2, 0))), ((0,), ((0, 1), (0, 1), (2, 2)))):
            found = ablate(heads, means, mlps=mlps, layers=layers, heads=chosen)
            expected = slowly_ablated(
                heads, means, lambda a, b, layers=layers, chosen=chosen: a in layers or (a, b) in chosen, mlps
            )
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(ablate(heads, means), heads.embedding)


def test_ablating_everything_leaves_the_mean_image(heads: Contributions, means: Contributions) -> None:
    found = ablate(heads, means, mlps=True, layers=(0, 1, 2))
    torch.testing.assert_close(found, means.embedding.expand(12, -1), rtol=0, atol=1e-12)


def test_cumulative_ablation_is_layer_after_layer(
    tower: VisionTransformer, images: Tensor, heads: Contributions, means: Contributions
) -> None:
    found = ablate_attention_cumulatively(heads, means)
    assert found.shape == (4, 12, 20)
    for depth in range(4):
        torch.testing.assert_close(found[depth], ablate(heads, means, layers=range(depth)), rtol=0, atol=1e-12)
    layers = decompose(tower, images, "layer")
    by_layer = Contributions(means.attention.sum(2), means.mlps, means.embedding, "layer")
    torch.testing.assert_close(ablate_attention_cumulatively(layers, by_layer), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(ablate(layers, by_layer, layers=(1,)), ablate(heads, means, layers=(1,)))


def test_heads_are_replaced_by_their_textspan_among_ablated_ones(heads: Contributions, means: Contributions) -> None:
    chosen = [(2, 1), (1, 3)]
    old = torch.stack([heads.attention[:, layer, head] for layer, head in chosen], 1)
    span = textspan(old, F.normalize(draw("texts", 30, 20), dim=1), 4)
    ablated = replace(heads, embedding=ablate(heads, means, layers=(0,)))
    found = replace_heads(ablated, chosen, span.reconstruct(old))
    replaced = heads.attention.clone()
    replaced[:, 0] = means.attention[:, 0]
    for place, (layer, head) in enumerate(chosen):
        replaced[:, layer, head] = span.reconstruct(old)[:, place]
    torch.testing.assert_close(found, replaced.sum((1, 2)) + heads.mlps.sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(replace_heads(heads, chosen, old), heads.embedding, rtol=0, atol=0)


# --- retrieval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["cosine", "dot", "centred"])
@pytest.mark.parametrize("same", [False, True])
def test_neighbours_are_those_of_a_loop(similarity: str, same: bool) -> None:
    gallery = draw("gallery", 40, 6) + 1
    queries = gallery if same else draw("queries", 9, 6) + 1
    indices, scores = neighbours(queries, gallery, 5, similarity=similarity, same=same)
    mean = gallery.mean(0) if similarity == "centred" else 0
    for row, query in enumerate(queries):
        values = []
        for other, image in enumerate(gallery):
            a, b = query - mean, image - mean
            value = (a @ b).item() if similarity == "dot" else (a @ b / (a.norm() * b.norm())).item()
            values.append((-torch.inf if same and other == row else value, other))
        best = sorted(values, reverse=True)[:5]
        assert indices[row].tolist() == [other for _, other in best]
        torch.testing.assert_close(scores[row], torch.tensor([v for v, _ in best], dtype=torch.float64))


def test_neighbours_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = draw("gallery", 40, 6)
    whole = neighbours(gallery, gallery, 39, same=True)
    monkeypatch.setattr("xaikit.decomposition.heads._SIMILARITIES_AT_ONCE", 7 * 40)
    parts = neighbours(gallery, gallery, 39, same=True)
    assert torch.equal(whole[0], parts[0])  # in float64 no two similarities are as near as rounding
    assert not (whole[0] == torch.arange(40)[:, None]).any()


def test_precision_counts_neighbours_of_the_same_label() -> None:
    found = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    labels = torch.tensor([7, 7, 8, 9, 8])
    assert precision_at_k(found, torch.tensor([7, 8]), labels).tolist() == [0.5, 0.5]
    assert precision_at_k(found[:, :2], torch.tensor([7, 8]), labels).tolist() == [1, 0.5]


# --- heatmaps ----------------------------------------------------------------------------------


def test_heatmaps_are_token_scores_on_the_grid(tower: VisionTransformer, images: Tensor, tokens: Contributions) -> None:
    texts = F.normalize(draw("texts", 5, 20), dim=1)
    found = heatmaps(tokens.attention, texts, (3, 4), grid=tower.grid_size)
    cells = decompose(tower, images, "head-token").attention
    for place, patch in ((0, (0, 0)), (3, (0, 3)), (9, (2, 1))):
        expected = sum(cells[:, layer, head, 1 + place] @ texts.T for layer in range(3) for head in range(4))
        torch.testing.assert_close(found[:, :, patch[0], patch[1]], expected, rtol=0, atol=1e-12)
    large = heatmaps(tokens.attention, texts, (24, 32), grid=tower.grid_size)
    torch.testing.assert_close(large, F.interpolate(found, (24, 32), mode="bilinear"), rtol=0, atol=1e-12)
    contrast = heatmaps(tokens.attention, texts, (24, 32), grid=tower.grid_size, contrast=True)
    torch.testing.assert_close(contrast, large - large.mean(1, keepdim=True), rtol=0, atol=1e-12)


def test_a_joint_map_of_one_head_sums_to_the_heads_similarity(
    tower: VisionTransformer, images: Tensor, heads: Contributions
) -> None:
    text = F.normalize(draw("text", 1, 20), dim=1)
    joint = decompose(tower, images, "head-token", heads=[(1, 2)]).attention[:, 0]
    found = heatmaps(joint, text, (3, 4), grid=(3, 4))
    whole = found.sum((1, 2, 3)) + (joint[:, 0] @ text.T)[:, 0]
    torch.testing.assert_close(whole, (heads.attention[:, 1, 2] @ text.T)[:, 0], rtol=0, atol=1e-12)


def test_a_class_heatmap_is_that_of_the_class_less_the_mean_over_all(tokens: Contributions) -> None:
    classes = F.normalize(draw("classes", 50, 20), dim=1)
    every = heatmaps(tokens.attention, classes, (24, 32), grid=(3, 4), contrast=True)
    predicted = [max(range(50), key=lambda c, e=e: (e @ classes[c]).item()) for e in tokens.embedding]
    found = class_heatmaps(tokens, classes, (24, 32), grid=(3, 4))
    torch.testing.assert_close(found, every[torch.arange(12), predicted], rtol=0, atol=1e-12)
    chosen = torch.arange(12) * 4
    found = class_heatmaps(tokens, classes, (24, 32), chosen=chosen, grid=(3, 4))
    torch.testing.assert_close(found, every[torch.arange(12), chosen], rtol=0, atol=1e-12)


# --- bad input --------------------------------------------------------------------------------------------------

C = Contributions(draw("a", 2, 3, 4, 5), draw("m", 2, 4, 5), draw("e", 2, 5), "head")
MEANS = mean_contributions([C])
LAYERS = Contributions(C.attention.sum(2), C.mlps, C.embedding, "layer")
TOKENS = Contributions(draw("t", 2, 10, 5), C.mlps, C.embedding, "token")
G = draw("g", 9, 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mean_contributions([]), "no image to take means"),
        (lambda: mean_contributions([C, LAYERS]), "different levels"),
        (lambda: ablate(C, C), "means are not those"),
        (lambda: ablate(C, mean_contributions([LAYERS])), "means are not those"),
        (lambda: ablate(TOKENS, mean_contributions([TOKENS])), "level 'token': decompose to 'head' or 'layer'"),
        (lambda: ablate(LAYERS, mean_contributions([LAYERS]), heads=[(0, 0)]), "level 'layer': decompose to 'head'"),
        (lambda: ablate(C, MEANS, layers=[3]), r"no layer or head \(3,\) in \(3, 4\)"),
        (lambda: ablate(C, MEANS, layers=[-1]), r"no layer or head \(-1,\)"),
        (lambda: ablate(C, MEANS, heads=[(0, 4)]), r"no layer or head \(0, 4\)"),
        (lambda: replace_heads(C, [(0, 1), (0, 1)], draw("r", 2, 2, 5)), "name each once"),
        (lambda: replace_heads(C, [(3, 0)], draw("r", 2, 1, 5)), "within"),
        (lambda: replace_heads(LAYERS, [(0, 1)], draw("r", 2, 1, 5)), "decompose to 'head'"),
        (lambda: neighbours(G, G, 9, same=True), "k is 9 and there are 8 other images"),
        (lambda: neighbours(G, G, 0), "k of neighbours"),
        (lambda: neighbours(G[:3], G, 1, same=True), "3 queries and 9 images"),
        (lambda: neighbours(G, G, 1, similarity="euclidean"), "Unknown similarity 'euclidean'"),
        (lambda: neighbours(G * torch.nan, G, 1), "NaN"),
        (lambda: heatmaps(TOKENS.attention, G, (8, 8), grid=(2, 4)), "9 patches and the grid is 2 by 4"),
        (lambda: heatmaps(TOKENS.attention[:, :8], G, (8, 8)), "7 patches"),
        (lambda: heatmaps(TOKENS.attention[:, :1], G, (8, 8)), "0 patches"),
        (lambda: heatmaps(TOKENS.attention, G * torch.nan, (8, 8)), "NaN"),
        (lambda: class_heatmaps(LAYERS, G, (8, 8)), "level 'layer': decompose to 'token'"),
        (lambda: class_heatmaps(TOKENS, G, (8, 8), chosen=torch.tensor([0, 9])), "classes 0 to 8"),
    ],
)
def test_bad_input_is_said_in_a_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
