"""What notebook 03 writes down: each number under its id, from the values that it is of."""

import numpy as np
import pandas as pd
import pytest
import torch
from noted import recorded

from xaikit.companion.notes import Notes
from xaikit.metrics.intervals import proportion
from xaikit.metrics.pointing import pointing_game
from xaikit.studies import vlm_numbers as numbers
from xaikit.studies.vlm_explanations import FINE_TUNED, SETTINGS, ZERO_SHOT, DeletionControls, Removal

NOTEBOOK, PAPER = "03_vlm_explanations", "agarwal"


def removal(published: list[float], corrected: list[float]) -> Removal:
    return Removal(np.array(published), np.array(corrected), 0.0)


def test_deletion_is_of_maps_and_of_other_orders_under_both_protocols(note: Notes) -> None:
    quality = {("cars", ZERO_SHOT): removal([0.1, 0.3], [0.4, 0.6]), ("cars", FINE_TUNED): removal([0.3, 0.5], [1, 1])}
    orders = {setting: {"random": removal([0.5, 0.7], [1.0, 1.2])} for setting in SETTINGS}
    gaps = {("corrected", "random"): np.array([0.1, 0.3])}
    table = numbers.deletion(note, quality, {"cars": DeletionControls(orders, gaps)})
    assert table.order.tolist() == ["map", "map", "random", "random"] * 2
    assert table.value.tolist() == pytest.approx([0.2, 0.5, 0.6, 1.1, 0.4, 1.0, 0.6, 1.1])
    better = numbers.deletes_better(note, quality)
    found = recorded(note)
    assert found["instruments.deletion.cars.corrected.random"] == pytest.approx(0.2)
    assert found["fig4.cars.zero-shot-minus-fine-tuned.corrected"] == pytest.approx(-0.5)
    assert found["fig4.cars.improvement.as-published"] == pytest.approx(0.5)
    assert better["the paper says"].tolist() == [0.1852] * 2


def test_a_patch_is_compared_setting_by_setting_and_with_one_order_on_both(note: Notes) -> None:
    quality = {(setting, kind): removal([worse + 0.2, worse + 0.4], [worse, worse])
               for setting, more in ((ZERO_SHOT, 0.0), (FINE_TUNED, 0.5))
               for kind, worse in (("original", 0.4 + more), ("masked", 0.2 + more))}  # fmt: skip
    centred = {key: removal([0.1, 0.1], [0.5, 0.5] if key[1] == "masked" else [0.4, 0.4]) for key in quality}
    table = numbers.masked_faces(note, quality, centred)
    assert table.value.tolist() == pytest.approx([0.7, 0.5, 1.2, 1.0, 0.4, 0.2, 0.9, 0.7])
    numbers.masked_delete_better(note, quality)
    found = recorded(note)
    assert found["fig5.fine-tuned.masked-minus-original.corrected"] == pytest.approx(-0.2)
    assert found["fig5.improvement.corrected"] == pytest.approx(1 - 0.45 / 0.65, abs=1e-5)
    same = [found[f"instruments.deletion.masked.corrected.same-map{way}"] for way in ("", "-back")]
    assert same == pytest.approx([0.1, -0.1])


def test_text_is_compared_on_the_pictures_that_both_have(note: Notes) -> None:
    shares = {(ZERO_SHOT, "own"): np.array([0.2, 0.4, 0.6]), (FINE_TUNED, "own"): np.array([0.1, 0.1, 0.4]),
              (ZERO_SHOT, "softmax"): np.array([0.5, 0.7])}  # fmt: skip
    table = numbers.on_text(note, shares, np.array([0.1, 0.2, 0.3]))
    assert table.value.tolist() == pytest.approx([0.2, 0.4, 0.2, 0.6])
    found = recorded(note)
    assert found["fig2.zero-shot-minus-fine-tuned.own"] == pytest.approx(0.2)
    assert found["fig2.zero-shot-minus-fine-tuned.softmax"] == pytest.approx(0.5)  # the first two of three


def test_faces_are_told_by_group_beside_chance(note: Notes) -> None:
    faces = torch.zeros(4, 4, 4, dtype=torch.bool)
    faces[:, :2] = True
    on, off = torch.eye(4)[0].expand(4, 4).T, torch.eye(4)[3].expand(4, 4).T  # the first row, the last row
    maps = {ZERO_SHOT: torch.stack([on, on, off, off]), FINE_TUNED: torch.stack([on, off, off, off])}
    pointing = {(setting, kind): pointing_game(maps[setting], faces) for setting in SETTINGS
                for kind in ("original", "masked")}  # fmt: skip
    rank = {key: each.energy for key, each in pointing.items()}
    groups = {"all": torch.ones(4, dtype=torch.bool), "short hair": torch.tensor([True, True, False, False]),
              "long hair": torch.tensor([False, False, True, True])}  # fmt: skip
    table = numbers.table1(note, pointing, rank, groups, 0.05).set_index(["looks", "setting", "pictures"])
    numbers.on_faces(note, pointing, rank)
    numbers.gender_gap(note, pointing, groups)
    found = recorded(note)
    hits = [found[f"table1.{group}.{ZERO_SHOT}.masked.hit"] for group in ("all", "short-hair", "long-hair")]
    assert hits == [0.5, 1.0, 0.0] and set(table.chance) == {0.5}
    assert np.isnan(table["published hit"]["all", ZERO_SHOT, "masked"])
    assert table["published hit"]["long hair", ZERO_SHOT, "masked"] == 0.125
    assert found["table1.zero-shot-minus-fine-tuned.masked.hit"] == 0.25 and found["table1.p.mcnemar"] == 1
    assert [found[f"table1.gender-gap.{setting}.hit"] for setting in SETTINGS] == [1.0, 0.5]


def test_the_paper_s_counts_are_no_difference(note: Notes) -> None:
    table = numbers.published_counts(note)
    assert table.published[0] == "female, zero-shot: 11 of 88" and table["and"][0] == "female, fine-tuned: 18 of 88"
    assert table["and"][2] == "male, zero-shot: 18 of 85"
    assert (table["Fisher's exact p"] > 0.05).all() and len(recorded(note)) == 4


def test_one_model_is_compared_with_itself_through_several_scores(note: Notes) -> None:
    scores = [(ZERO_SHOT, "own"), (ZERO_SHOT, "softmax"), (FINE_TUNED, "own")]
    sizes = {("cars", *key): np.full(count, value) for key, count, value in
             zip(scores, (3, 2, 3), (0.2, 0.5, 0.4), strict=True)}  # fmt: skip
    regions = {"cars": torch.ones(3, 2, 2, dtype=torch.bool)}
    table = numbers.score_control(note, sizes, {}, sizes, regions)
    assert table.n.tolist() == [3, 2, 3] and "on the object" not in table
    numbers.same_model(note, "cars", sizes, np.full(2, 0.6), 2)
    found = recorded(note)
    assert found["control.cars.size-gap.own"] == pytest.approx(-0.2)
    assert found["control.cars.deletion-gap.softmax"] == pytest.approx(0.1)
    assert found["instruments.size.cars.own.same-model"] == pytest.approx(-0.3)
    assert found["instruments.size.cars.softmax.same-model-back"] == pytest.approx(-0.1)
    assert "instruments.size.cars.matched.same-model" not in found


def test_a_cause_whose_part_no_map_shows_has_no_attribution(note: Notes) -> None:
    flips = {("cars", part, ZERO_SHOT): proportion(count, 4) for part, count in (("text", 1), ("body", 3))}
    table = numbers.causal(note, flips, {("cars", "body", ZERO_SHOT): np.array([0.2, 0.4])},
                           {("cars", "text"): np.nan, ("cars", "body"): 0.5})  # fmt: skip
    assert table["flips value"].tolist() == [0.25, 0.75] and table.part.tolist() == ["cars: text", "cars: body"]
    assert np.isnan(table["attribution value"][0]) and table["attribution value"][1] == pytest.approx(0.3)


def test_other_explainers_are_compared_setting_by_setting(note: Notes) -> None:
    found = {("cars", setting, explainer): {"deletion": np.full(2, value), "insertion": np.full(2, 1.0)}
             for setting, value in ((ZERO_SHOT, 0.5), (FINE_TUNED, 0.8))
             for explainer in ("Grad-CAM", "integrated gradients", "random")}  # fmt: skip
    table = numbers.explainers(note, found)
    kept = recorded(note)
    assert isinstance(table, pd.DataFrame) and table.deletion.tolist() == [0.5] * 3 + [0.8] * 3
    assert kept["explainers.cars.zero-shot.integrated-gradients.insertion"] == 1
    assert kept["explainers.cars.deletion-gap.grad-cam"] == pytest.approx(-0.3)
    assert "explainers.cars.deletion-gap.random" not in kept
