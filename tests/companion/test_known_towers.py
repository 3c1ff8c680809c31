"""The page of towers says what was tried, and towers are built in small so that nothing in them is trivial."""

import torch

from xaikit.companion import known_towers, tables


def test_the_page_says_what_was_tried() -> None:
    text = known_towers.PAGE.read_text(encoding="utf-8")
    assert tables.filled(text, known_towers.page_tables()) == text, "write it anew with: xaikit towers --write"


def test_no_weight_of_a_small_tower_is_trivial() -> None:
    tower = known_towers.small("ViT-M-16-alt")
    for name, weights in tower.named_parameters():
        assert weights.abs().max() > 0.05 and (weights.numel() < 2 or weights.std() > 0), name
        if weights.ndim == 1:
            assert weights.abs().min() >= 0.3, name
    again = known_towers.small("ViT-M-16-alt")
    assert all(torch.equal(a, b) for a, b in zip(tower.parameters(), again.parameters(), strict=True))
