"""The leaderboard's scores, on a small board whose answers are counted by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from xaikit.companion import claims, profiles
from xaikit.companion.profiles import Settings
from xaikit.companion.record import digest
from xaikit.importance import METHODS
from xaikit.storage.paths import ROOT
from xaikit.studies import score_method, zoo
from xaikit.studies import which_explanation as study
from xaikit.studies.zoo import PLACEBO, Spec, Truth
from xaikit.studies.zoo_tasks import TASKS
from xaikit.texplain.words import words_of

TASK_NAMES = ("birds", "nine", "cars")


def a_board(seed: int = 0) -> study.Board:
    """Three tasks, classifiers of all makes; "intervention" says the truth, "TCAV" its opposite, "size" one order."""
    draw = np.random.default_rng(seed)
    specs, known, rows = {}, {}, []
    for task in TASK_NAMES:
        first, second = TASKS[task].shortcuts
        made = [Spec(task, "resnet"), *(Spec(task, "resnet", ((first, share),)) for share in (0.7, 0.9, 1.0)),
                Spec(task, "resnet", ((second, 1.0),), make="unlearned"), Spec(task, "resnet", make="untrained"),
                Spec(task, "resnet", make="head", reads=TASKS[task].names[0]),
                Spec(task, "resnet", make="head", reads=first)]  # fmt: skip
        for spec in made:
            specs[spec.name] = spec
            share = dict(spec.agreement).get(first, 0.5)
            shares = {name: 0.01 * (k + 1) for k, name in enumerate(reversed(TASKS[task].names))}
            shares[TASKS[task].names[0]] = 0.9
            if spec.make == "trained":
                shares[first] = 2 * (share - 0.5) * 0.8
            if spec.reads == first:
                shares |= {first: 0.8, TASKS[task].names[0]: 0.0}
            flips = {name: np.arange(1000) < 1000 * value for name, value in shares.items()} | {
                PLACEBO: np.zeros(1000, bool)
            }
            known[spec.name] = Truth(flips, flips[first], flips[first])
            for column, factor in enumerate(TASKS[task].names):
                true = flips[factor].mean()
                values = {
                    "intervention": true,
                    "TCAV": 1 - true,
                    "size": 5.0 - column,
                    "RISE": 0.3,
                    "B2T": draw.random(),
                }
                rows += [{"method": name, "classifier": spec.name, "task": task, "kind": "resnet", "made": spec.make,
                          "factor": factor, "importance": value, "seconds": 0.0, "queries": 1.0}
                         for name, value in values.items()]  # fmt: skip
    return study.Board(pd.DataFrame(rows), known, specs, 0.1, 0.03, 0.0)


BOARD = a_board()


def test_the_truth_has_the_best_of_every_score_and_its_opposite_the_worst() -> None:
    for score in ("within", "across", "strength"):
        assert all(value == pytest.approx(1) for value in getattr(BOARD, score)("intervention").values()), score
        assert all(value == pytest.approx(-1) for value in getattr(BOARD, score)("TCAV").values()), score
    for score in ("uses_it", "heads"):
        assert set(getattr(BOARD, score)("intervention").values()) == {1.0}
        assert max(getattr(BOARD, score)("TCAV").values()) < 0.5 or score == "heads"
    assert set(BOARD.within("intervention")) == set(TASK_NAMES)


def test_what_says_the_same_of_all_says_nothing() -> None:
    assert set(BOARD.within("RISE").values()) == set(BOARD.across("RISE").values()) == {0.0}
    assert set(BOARD.heads("RISE").values()) == set(BOARD.uses_it("RISE").values()) == {0.5}


def test_ranks_are_somers_d_of_classifiers_that_learned() -> None:
    rows = BOARD.rows[(BOARD.rows.method == "B2T")]
    for each in BOARD.ranks[BOARD.ranks.method == "B2T"].itertuples():
        own = rows[rows.classifier == each.classifier]
        assert each.rank == pytest.approx(stats.somersd(own.flips, own.importance).statistic)
    assert not BOARD.ranks.classifier.str.contains("untrained").any()


@pytest.mark.parametrize("seed", range(6))
def test_somers_d_is_that_of_a_loop_and_without_a_margin_scipys(seed) -> None:
    draw = np.random.default_rng(seed)
    said, true = draw.integers(0, 4, 9).astype(float), draw.integers(0, 5, 9) / 10
    assert study.somers_d(said, true) == pytest.approx(stats.somersd(true, said).statistic)
    apart = [(i, k) for i in range(9) for k in range(9) if true[i] - true[k] > 0.15]
    expected = np.mean([float(said[i] > said[k]) - float(said[i] < said[k]) for i, k in apart])
    assert study.somers_d(said, true, 0.15) == pytest.approx(expected)
    assert study.somers_d(said, np.ones(9)) == 0


def test_ties_among_what_does_not_matter_change_nothing() -> None:
    true = [1.0, 0.0, 0.01, 0.02, 0.0]
    assert study.somers_d([9, 4, 1, 3, 2], true, 0.05) == study.somers_d([1, 0, 0, 0, 0], true, 0.05) == 1


def test_numbers_at_random_have_no_order() -> None:
    ranks, aucs = BOARD.by_chance(30, 0)
    assert ranks.keys() == aucs.keys() == set(TASK_NAMES)
    assert max(map(abs, ranks.values())) < 0.1 and max(abs(value - 0.5) for value in aucs.values()) < 0.07


def test_the_auc_is_scikit_learns_over_clear_cases() -> None:
    rows = BOARD.rows[(BOARD.rows.method == "B2T") & ~BOARD.rows.is_class]
    for task, value in BOARD.uses_it("B2T").items():
        own = rows[(rows.task == task) & ((rows.flips > 0.1) | (rows.flips < 0.03))]
        assert value == pytest.approx(roc_auc_score(own.flips > 0.1, own.importance))


def test_alarms_are_counted_at_a_threshold_of_other_tasks() -> None:
    found = BOARD.alarms("intervention")
    assert all(each["hits"] == 1 and each["all"] == 0 for each in found.values())
    assert all(
        each[f"alarms, {made}"] == 0 for each in found.values() for made in ("untrained", "unlearned", "unbiased")
    )
    rates = study.alarm_rates({name: BOARD.alarms(name) for name in BOARD.methods})
    assert rates.index[0] == "intervention"


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed) -> None:
    draw = np.random.default_rng(seed)
    values, used = draw.integers(0, 8, 30).astype(float), draw.random(30) < 0.4

    def gain(threshold: float) -> float:
        above = values > threshold
        return float(above[used].mean() - above[~used].mean())

    best = max(gain(each) for each in [-np.inf, *np.unique(values)])
    assert gain(study._threshold(values, used)) == pytest.approx(best)


def test_the_best_null_is_that_on_the_same_classifiers() -> None:
    best, beyond = BOARD.beyond_nulls("intervention")
    assert best == "size"
    own = BOARD.within("size")
    assert beyond == pytest.approx({task: 1 - own[task] for task in TASK_NAMES})


def test_methods_that_say_the_opposite_agree_least() -> None:
    table = BOARD.agreement()
    assert table.loc["intervention", "TCAV"] == pytest.approx(-1) and table.loc["size", "size"] == pytest.approx(1)


def test_a_score_of_few_tasks_has_no_interval() -> None:
    assert study.over_tasks({"a": 0.1, "b": 0.2}) is None
    interval = study.over_tasks({"a": 0.1, "b": 0.2, "c": 0.6})
    assert interval.value == pytest.approx(0.3) and interval.low < 0.3 < interval.high


def test_heads_are_flipped_by_what_they_tell() -> None:
    for value in study.apart_by_heads(BOARD.known, BOARD.specs).values():
        assert value > 0.7


def test_the_table_has_what_every_method_says_beside_the_truth() -> None:
    table = BOARD.table()
    assert list(table) == ["classifier", "factor", "flips", *BOARD.methods]
    assert list(dict.fromkeys(table.classifier)) == list(dict.fromkeys(BOARD.said.classifier))
    assert len(table) == len(BOARD.said) / len(BOARD.methods)
    np.testing.assert_array_equal(table["intervention"], table.flips)
    one = table[(table.classifier == "cars, resnet, text 1") & (table.factor == "model")]
    rows = BOARD.said[(BOARD.said.classifier == one.classifier.item()) & (BOARD.said.factor == "model")]
    assert one[BOARD.methods].iloc[0].to_dict() == dict(zip(rows.method, rows.importance, strict=True))


@pytest.mark.slow
def test_what_methods_in_words_say_of_each_picture_is_kept() -> None:
    cfg = tiny()
    members = zoo.zoo(cfg, [Spec("birds", "resnet"), Spec("birds", "resnet", make="untrained")])
    said = study.asked(cfg, members, {name: METHODS[name] for name in (*study.IN_WORDS, "co-occurrence", "size")},
                       kept=False)  # fmt: skip
    one_thing = [each is None for each in said.by_picture]
    assert set(said.method[one_thing]) == {"co-occurrence"} == set(said.method) - set(said.method[~np.array(one_thing)])
    means = [row.importance if row.by_picture is None else np.mean(row.by_picture) for row in said.itertuples()]
    np.testing.assert_allclose(said.importance, means, rtol=1e-12)
    table = study.in_words(said)
    factors = [factor for factor in TASKS["birds"].factors if factor.name != "tag"]  # for which there is no word
    assert table.method.value_counts().to_dict() == {"words of TExplain": 8, "captions of the pictures": 4}
    assert list(table)[:3] == ["method", "classifier", "factor"] and list(table)[3:] == list(range(cfg.explained))
    captions = table[table.method == "captions of the pictures"].set_index("factor")[list(range(cfg.explained))]
    texts = study._captions_of(cfg, "birds")
    expected = [[sum(bool(words_of(text) & words) for text in own for words in factor.words) / len(own)
                 for own in texts] for factor in factors]  # fmt: skip
    assert list(captions.index) == [factor.name for factor in factors] and captions.to_numpy().any()
    np.testing.assert_allclose(captions, expected, atol=5e-3)


def tiny() -> Settings:
    own = {"tasks": ["birds"], "kinds": ["resnet"], "controls": [], "learned_from": 24, "tested": 10, "explained": 8,
           "captions": 1, "pairs": 20, "sentences": 2, "device": "cpu"}  # fmt: skip
    table = profiles.load("mini", score_method.NOTEBOOK, 0).as_dict()
    return Settings({**table, **own, "resnet": {**table["resnet"], "epochs": 1}}, "tiny")


PAGE = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_a_method_of_ones_own_gets_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny()
    monkeypatch.setattr(profiles, "load", lambda *_: cfg)
    file = tmp_path / "mine.py"
    file.write_text(BLOCKS[0])
    try:
        found = score_method.score(file)
    finally:
        METHODS.pop("darkness", None)
    nulls = {name for name, each in METHODS.items() if each.form in ("null", "ceiling")}
    assert set(found.method) == nulls | {"darkness"}
    assert found.set_index("method").loc["darkness", "queries"] == 0


def test_the_page_s_explainer_of_another_library_becomes_a_method(tmp_path: Path) -> None:
    file = tmp_path / "adapted.py"
    file.write_text(BLOCKS[1])
    try:
        assert score_method.read_methods(file) == ["input × gradient"]
    finally:
        METHODS.pop("input × gradient", None)


@pytest.mark.parametrize(("text", "message"), [(None, "is not there"), ("x = 1", "registers no method")])
def test_a_file_without_a_method_is_refused(tmp_path: Path, text, message) -> None:
    file = tmp_path / "none.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        score_method.read_methods(file)


def test_a_sealed_zoo_is_another_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds, cfg = [], tiny()
    monkeypatch.setattr(profiles, "load", lambda _profile, _section, seed: seeds.append(seed) or cfg)
    monkeypatch.setattr(score_method, "_scored", lambda *_: pd.DataFrame())
    monkeypatch.setattr(score_method, "read_methods", lambda _: [])
    for secret in ("", "a", "b", "a"):
        monkeypatch.setenv(score_method.SECRET, secret)
        score_method.score(tmp_path)
    assert seeds[0] == 0 and seeds[1] == seeds[3] != seeds[2] and 0 not in seeds[1:]


def test_what_a_classifier_says_is_the_same_when_its_weights_are_read_again() -> None:
    cfg = tiny()
    spec = Spec("birds", "resnet")
    (member,) = zoo.zoo(cfg, [spec]).values()
    images = torch.rand(3, 3, 64, 64)
    again = zoo.classifier_of("resnet", member.state, None, "cpu")
    assert torch.equal(again.margins(images), member.classifier.margins(images))


def test_classifiers_are_grouped_by_what_they_did_with_their_cues() -> None:
    groups = {BOARD.group(name) for name in BOARD.specs}
    assert groups == {"no cue", "a cue, used", "a cue that training broke", "one of several heads"}
    table = BOARD.by_group()
    assert (table.loc["intervention"] == 1).all() and list(table.index) == BOARD.methods


def test_the_full_run_that_is_committed_is_whole() -> None:
    """All of the zoo, all methods, every claim in the words and by the bounds that are stated, no number changed."""
    folder = ROOT / "figures" / "full" / score_method.NOTEBOOK
    record = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    assert record["digest"] == digest(record["numbers"], record["claims"]) and record["seed"] == 0
    cards, leaderboard = (pd.read_csv(folder / f"{name}.csv") for name in ("zoo", "leaderboard"))
    cfg = profiles.load("full", score_method.NOTEBOOK, 0)
    assert list(cards.classifier) == [spec.name for spec in zoo.specs(cfg)] and len(cards) >= 96
    assert set(leaderboard.method) == set(METHODS) and len(METHODS) >= 18
    stated = claims.stated(ROOT / "data" / "claims.toml", score_method.NOTEBOOK)
    assert [claim["id"] for claim in record["claims"]] == sorted(stated.claims)
    numbers = {each["id"]: {"of": "tasks", **each} for each in record["numbers"]}  # it was made before that was kept
    passed = {each["id"]: each["passes"] for each in record["instruments"]}
    assert passed == {id: claims.passes(each, numbers)[0] for id, each in stated.instruments.items()}
    for claim in record["claims"]:
        verdict = claims.decided(stated.claims[claim["id"]], numbers)[0]
        if verdict != "not-run" and not all(passed[each] for each in claim["instruments"]):
            verdict = "no-instrument"
        assert claim["this_run"] == verdict and claim["text"] == stated.claims[claim["id"]].text
