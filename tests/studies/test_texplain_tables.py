"""The rows of notebook 02: each number under its id, with the value that was measured."""

import numpy as np
import pytest
import torch
from noted import numbers, recorded

from xaikit.companion.record import published
from xaikit.metrics.intervals import Interval, proportion
from xaikit.studies import texplain_tables as tables
from xaikit.studies.texplain import Dependence, category_leads
from xaikit.studies.texplain_instruments import OnBirds
from xaikit.studies.texplain_planted import Heard

NOTEBOOK, PAPER = "02_x", "taghanaki"

YES, NO = ["a duck by the lake"], ["a dog"]


@pytest.mark.parametrize(("name", "id"), [
    ("RandMask, attention", "randmask-attention"), ("only_bg_t", "only-bg-t"), ("planted 0.6", "planted-0.6"),
])  # fmt: skip
def test_names_become_parts_of_ids(name, id) -> None:
    assert tables.slug(name) == id


def test_the_leading_category_is_the_one_whose_words_are_said_most() -> None:
    found = [{"duck": 0.5, "lake": 0.4, "dog": 0.7}, {"dog": 0.2}, {}]
    words = {"bird": {"duck", "lake"}, "dog": {"dog"}}
    assert category_leads(found, ["bird", "bird", "dog"], words).tolist() == [True, False, False]


def test_categories_of_one_picture_or_without_a_known_home_are_left_out(note) -> None:
    texts = {"bird": [YES, NO], "dog": [NO], "fish": [YES, YES]}
    words = {"class": {"bird": {"duck"}, "dog": {"dog"}, "fish": {"fish"}},
             "home": {"bird": {"lake"}, "dog": {"lake"}, "fish": set()}}  # fmt: skip
    rows = tables.homes(note, texts, words)
    assert recorded(note) == {"fig5.bird.class-word": 0.5, "fig5.bird.home-word": 0.5, "fig5.fish.class-word": 0.0}
    assert rows["category"].tolist() == list(texts) and rows.isna().sum().tolist() == [0, 1, 2]


def test_controls_say_what_their_words_are_and_whose_translator_spoke(note) -> None:
    conditions = {"classifier": [{"bird": 0.5}, {"bird": 0.4}, {"dog": 1.0}], "zeros": [{}, {}, {}]}
    named = {"classifier": np.array([1.0, 1, 0]), "zeros": np.zeros(3)}
    rows = tables.controls(
        note, conditions, {"classifier": np.array([3.0, 4, 5])}, named, dict.fromkeys(conditions, "8 pairs")
    )
    assert recorded(note) == {
        "controls.classifier.matching-words": 4, "controls.classifier.category-named": pytest.approx(2 / 3, abs=1e-6),
        "controls.zeros.category-named": 0,
    }  # fmt: skip
    assert rows["usual first words"].tolist() == ["bird, dog", "(none)"]
    assert rows["translator learned from"].tolist() == ["8 pairs"] * 2


def test_what_is_heard_of_the_same_network_has_no_answers_of_its_own(note) -> None:
    def heard(said: float) -> Heard:
        return Heard(np.full(4, said), np.zeros(4), np.array([1.0, 0, 1, 1]), np.ones(6), np.array([1.0, 1, 1, 0]))

    rows = tables.planted(note, "vit", {"twin": heard(0.1), "planted 1": heard(0.6), "zeros": heard(0.2)})
    found = recorded(note)
    assert found["planted.vit.planted-1.word"] == pytest.approx(0.6) and found[
        "planted.vit.zeros.over-twin"
    ] == pytest.approx(0.1)
    assert found["planted.vit.twin.flips"] == 0.75 and "planted.vit.zeros.flips" not in found
    assert isinstance(rows["flips"][1], Interval) and rows[["flips", "decodes", "right"]].isna().sum().tolist() == [
        1,
        1,
        1,
    ]


def test_a_shift_is_the_test_minus_training_and_stands_beside_the_captioners(note) -> None:
    texts = {"TExplain": {"train": [NO, NO, NO, NO], "test": [YES, YES, YES, NO]},
             "captioner": {"train": [NO * 2] * 4, "test": [YES + NO, NO + YES, NO * 2, NO * 2]}}  # fmt: skip
    rows = tables.shifts(note, "landbird", "water", texts, {"lake"})
    found = recorded(note)
    assert found["fig7.landbird.water.test.texplain"] == 0.75 == found["fig7.landbird.water.shift.texplain"]
    assert found["fig7.landbird.water.shift.captioner"] == 0.25 and found["instruments.mentions.landbird.halves"] == 0
    assert found["fig7.landbird.water.shift-over-captioner"] == 0.5
    assert rows["said by"].tolist() == ["TExplain", "captioner"]


def test_maps_of_words_are_told_by_their_share_on_birds(note) -> None:
    where = {"Grad-CAM": {"another picture": OnBirds(np.array([0.1, 0.3]), np.array([0.2, 0.6]), torch.zeros(2, 1, 1))}}
    rows = tables.word_maps(note, where)
    assert recorded(note) == {
        "instruments.map.grad-cam.another-picture.pixels": pytest.approx(0.4),
        "instruments.map.grad-cam.another-picture.mass": pytest.approx(0.2),
    }
    assert rows["value"].tolist() == pytest.approx([0.4])


def runs() -> dict[str, dict[str, np.ndarray]]:
    right = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]], bool)
    return tables.by_runs({"ERM": list(right), "TExplain": list(~right)}, ["a", "a", "b", "b"], ["a", "b"])


def test_the_worst_group_is_the_minimum_within_each_run() -> None:
    found = runs()["ERM"]
    assert found["a"].tolist() == [1, 0.5, 1] and found["b"].tolist() == [0, 1, 0.5]
    assert found["worst group"].tolist() == [0, 0.5, 0.5] and found["average"].tolist() == [0.5, 0.75, 0.75]


def test_a_share_that_no_run_differs_in_is_as_sure_as_its_pictures(note) -> None:
    pictures = tables.sizes(["a", "a", "b", "b", "b"], ["a", "b"])
    assert pictures == {"a": 2, "b": 3, "worst group": 2, "average": 5}
    tables.table2(note, {"ERM": {"b": [1.0, 1.0, 1.0]}}, pictures)
    found = numbers(note)["table2.erm.b"]
    assert (found["low"], found["n"], found["of"]) == (pytest.approx(proportion(3, 3).low, abs=1e-5), 3, "runs")


def test_table_2_has_means_and_deviations_over_runs_and_what_is_published(note) -> None:
    measured = {"ERM": {"worst group": [0.2, 0.4, 0.6]}, "TExplain": {"masked samples": [0.1, 0.1, 0.4]}}
    rows = tables.table2(note, measured, {"worst group": 5, "masked samples": 20})
    assert rows["worst group"][0] == "0.400 ± 0.200" and rows["masked samples"][1] == "0.200 ± 0.173"
    found = numbers(note)
    assert found["table2.erm.worst-group"]["published"] == published("taghanaki.table2.worst-group.erm", "fraction")
    assert found["table2.texplain.masked-samples"]["n"] == 3


def test_gains_are_taken_run_by_run(note) -> None:
    measured = runs()
    tables.gains(note, measured, [("TExplain", "ERM")])
    difference = measured["TExplain"]["average"] - measured["ERM"]["average"]
    assert recorded(note)["table2.texplain-over-erm.average"] == pytest.approx(difference.mean(), abs=1e-6)


def test_dependence_has_a_row_for_each_factor_of_each_classifier(note) -> None:
    one = Dependence(np.array([1.0, 0, 0, 0]), np.array([0.5, 0.7, 0.1, 0.3]), np.array([-0.5, 0.5, 0.1, 0.3]))
    rows = tables.dependence(note, {"nine": {"place": one}, "birds, ERM": {"place": one}})
    assert rows.loc[1].tolist() == ["birds, ERM", "place", 0.25, pytest.approx(0.4), pytest.approx(0.1)]
    assert list(recorded(note))[3] == "causal.birds-erm.place.flips"


def test_table_1_has_what_is_published_of_comparable_metrics_alone(note) -> None:
    paired, shuffled = ({name: np.array([k, k + 0.2]) for name in ("cosine", "rougeL", "rouge1")} for k in (0.5, 0.3))
    rows = tables.table1(note, paired, shuffled, {"rougeL"})
    assert rows["published"].notna().tolist() == [False, True, False]
    found = recorded(note)
    assert found["table1.rougel"] == pytest.approx(0.6) and found["table1.rougel.gain"] == pytest.approx(0.2)
    assert found["table1.cosine.shuffled"] == pytest.approx(0.4)
