"""Order, scale and repetition of sentences, images and raters change what they must, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaikit.texplain import document_frequency, dominant, group_weights, krippendorff_alpha, salient

quick = settings(max_examples=20, deadline=None, derandomize=True)
words = st.sampled_from(["bird", "sea", "red", "dog", "lake", "the", "picture", "of"])
texts = st.lists(st.lists(words, max_size=5).map(" ".join), min_size=1, max_size=8)


@quick
@given(texts, st.randoms(use_true_random=False))
def test_frequencies_know_neither_order_nor_repetition(sentences: list[str], random) -> None:
    found = document_frequency(sentences)
    mixed = sentences[:]
    random.shuffle(mixed)
    assert document_frequency(mixed) == found == document_frequency(sentences * 3)
    assert document_frequency(iter(mixed)) == found == document_frequency(text.upper() for text in sentences)
    assert set(dominant(found, 0.5)) <= set(dominant(found, 0.2)) <= set(found)


@quick
@given(st.integers(0, 2**16), st.floats(0.1, 10))
def test_salient_pixels_are_of_each_map_alone_whatever_its_scale(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    maps, order = torch.randn(3, 6, 6, generator=draw), torch.randperm(3, generator=draw)
    found = salient(maps.double())
    assert torch.equal(salient(maps[order].double()), found[order])
    assert torch.equal(salient(scale * maps.double()), found)


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_each_group_weighs_the_same(groups: list[int]) -> None:
    members = torch.tensor(groups)
    weights = group_weights(members)
    assert weights.sum().item() == pytest.approx(1)
    for group in set(groups):
        assert weights[members == group].sum().item() == pytest.approx(1 / len(set(groups)))
    torch.testing.assert_close(group_weights(members.repeat(2)), weights.repeat(2) / 2)


@quick
@given(st.integers(0, 2**16))
def test_agreement_knows_neither_raters_nor_units_nor_names_of_values(seed: int) -> None:
    draw = np.random.default_rng(seed)
    ratings = draw.integers(0, 3, (6, 3))
    ratings[0, :2] = 0, 1
    value = krippendorff_alpha(ratings)
    assert krippendorff_alpha(ratings[draw.permutation(6)][:, draw.permutation(3)]) == pytest.approx(value)
    assert krippendorff_alpha(7 - 2 * ratings) == pytest.approx(value)
