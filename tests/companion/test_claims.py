"""data/claims.toml, and how what it states is read and decided."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xaikit.companion import claims
from xaikit.companion.claims import Bound, Stated
from xaikit.storage import paths

FILE = paths.DATA / "claims.toml"
NOTEBOOKS = sorted(script.stem for script in paths.NOTEBOOKS.glob("[0-9]*.py"))
WITHOUT_CLAIMS = {"00_start_here"}  # it shows the way, and decides nothing
INSTRUMENT = '[[instrument]]\nid = "p.i"\nnotebook = "01_x"\nwhat = "w"\nrule = "r"\n'
CLAIM = {
    "id": '"p.c"', "notebook": '"01_x"', "item": '"t"', "text": '"c"', "protocol": '"corrected"', "rule": '"r"',
    "decided_by": '{ "n" = "> 0.5" }', "n": "20", "of": '"images"', "instruments": '["p.i"]',
}  # fmt: skip


def written(tmp_path: Path, instrument: str = INSTRUMENT, **changed: str) -> Path:
    lines = [f"{key} = {text}" for key, text in {**CLAIM, **changed}.items() if text]
    file = tmp_path / "claims.toml"
    file.write_text(instrument + "[[claim]]\n" + "\n".join(lines) + "\n")
    return file


def number(value: float, low: float | None = None, high: float | None = None, n: int | None = 200) -> dict[str, Any]:
    return {
        "value": value, "low": low, "high": high, "n": n, "of": "images", "protocol": "corrected", "unit": "fraction",
    }  # fmt: skip


def test_what_is_stated_is_whole_for_every_notebook() -> None:
    for notebook in NOTEBOOKS:
        found = claims.stated(FILE, notebook)
        assert bool(found.claims) == (notebook not in WITHOUT_CLAIMS), notebook
        for claim in found.claims.values():
            assert claim.text.endswith(".") and claim.rule and claim.item, claim.id


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_records_are_of_what_is_stated(notebook: str) -> None:
    """Every claim is in the record of the ordinary run, in the very words, and decided by the bounds of its rule."""
    record = json.loads((paths.FIGURES / "mini" / notebook / "numbers.json").read_text(encoding="utf-8"))
    found = claims.stated(FILE, notebook)
    assert [claim["id"] for claim in record["claims"]] == sorted(found.claims)
    assert [each["id"] for each in record["instruments"]] == sorted(found.instruments)
    numbers = {each["id"]: each for each in record["numbers"]}
    passed = {id: claims.passes(instrument, numbers)[0] for id, instrument in found.instruments.items()}
    assert {each["id"]: each["passes"] for each in record["instruments"]} == passed
    for kept in record["claims"]:
        claim = found.claims[kept["id"]]
        assert [kept[key] for key in ("text", "rule", "item", "protocol")] == [
            claim.text, claim.rule, claim.item, claim.protocol,
        ]  # fmt: skip
        measured = claims.decided(claim, numbers)[0]
        failed = not all(passed[each] for each in claim.instruments)
        if kept["this_run"] != "not-run":
            assert kept["this_run"] == ("no-instrument" if failed else measured), claim.id
        assert kept["verdict"] == claims.together(kept["seeds"]), claim.id


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if name not in WITHOUT_CLAIMS])
def test_no_negative_control_is_one_value_whatever_was_measured(notebook: str) -> None:
    """Nothing at all is what such a control should be. Another value that all pictures have is a convention, the
    lift of an empty map, say, which any instrument would give."""
    negative = {bound.id for each in claims.stated(FILE, notebook).instruments.values() for bound in each.negative}
    for file in sorted((paths.FIGURES / "mini" / notebook).glob("values_*.csv")):
        values = pd.read_csv(file)
        for id in negative & set(values):
            found = values[id].dropna().unique()
            assert len(found) > 1 or found[0] <= 0, f"{id} is {found[0]} in all rows of {file.name}"


# Instruments with controls that are of one model, and why that is enough: it is not one that the run trains.
SHIPPED = {
    "taghanaki.category": "the shipped captioner",
    "taghanaki.raters": "the shipped captioner",
    "taghanaki.mentions": "the shipped captioner",
    "taghanaki.overlap": "the shipped captioner",
    "taghanaki.map.grad-cam": "the shipped captioner, and several untrained translators",
    "taghanaki.map.attention": "the shipped captioner, and several untrained translators",
    "agarwal.accuracy": "the shipped CLIP, and several heads of each control",
    "agarwal.deletion.cars.as-published": "known orders of pixels",
    "agarwal.deletion.cars.corrected": "known orders of pixels",
    "agarwal.deletion.occupation.as-published": "known orders of pixels",
    "agarwal.deletion.occupation.corrected": "known orders of pixels",
    "agarwal.deletion.masked.as-published": "known orders of pixels",
    "agarwal.deletion.masked.corrected": "known orders of pixels",
    "agarwal.text": "planted readers over trainings, and the maps that are compared, of the shipped CLIP",
    "agarwal.text.attack": "planted readers over trainings, and the maps that are compared, of the shipped CLIP",
    **{
        f"agarwal.size.{task}.{score}": "the shipped CLIP beside itself, and planted readers over trainings"
        for task in ("cars", "occupation")
        for score in ("own", "softmax", "matched")
    },
    "gandelsman.ablation": "the shipped CLIP, into which terms are planted",
    "gandelsman.silencing": "the shipped CLIP",
    "gandelsman.silencing.recipe": "the shipped CLIP",
    "gandelsman.texts": "the shipped CLIP",
    "gandelsman.segmentation": "the shipped CLIP",
    "gandelsman.asked": "the shipped CLIP",
}


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if name not in WITHOUT_CLAIMS])
def test_no_instrument_that_passes_rests_on_one_training(notebook: str) -> None:
    """A network is one draw of what training gives: an interval over its pictures says nothing of the next one."""
    record = json.loads((paths.FIGURES / "mini" / notebook / "numbers.json").read_text(encoding="utf-8"))
    numbers = {each["id"]: each for each in record["numbers"]}
    for instrument in record["instruments"]:
        if instrument["passes"] and instrument["id"] not in SHIPPED:
            of_one = [
                each["number"]
                for each in instrument["controls"]
                if numbers[each["number"]]["low"] is not None
                and numbers[each["number"]]["of"] in ("images", "prompts", "batches")
            ]
            assert not of_one, f"{instrument['id']} rests on one model each: {', '.join(of_one)}"


@pytest.mark.parametrize(
    ("text", "value", "low", "high", "kept"),
    [
        ("> 0.5", 0.7, 0.51, 0.9, True), ("> 0.5", 0.7, 0.5, 0.9, None), ("> 0.5", 0.3, 0.1, 0.49, False),
        ("< 0.5", 0.3, 0.1, 0.49, True), ("< 0.5", 0.3, 0.1, 0.5, None), ("< 0.5", 0.7, 0.51, 0.9, False),
        ("> -0.05", -0.02, -0.04, 0.0, True), ("= 3840", 3840, None, None, True), ("= 3840", 503, None, None, False),
        ("= other", 7, None, None, True), ("> other", 8, 7.5, 9, True), ("< other", 8, 6.5, 9, None),
        ("> 1", 2, None, None, True), ("> 1", 1, None, None, None),
    ],
)  # fmt: skip
def test_a_bound_is_for_whole_intervals(
    text: str, value: float, low: float | None, high: float | None, kept: bool | None
) -> None:
    bound = Bound.read("n", text)
    assert bound.kept({"n": number(value, low, high), "other": number(7)}) is kept
    assert str(bound) == text


@pytest.mark.parametrize(("p", "kept"), [(0.049, True), (0.05, None), (0.5, None), (1.0, None)])
def test_a_p_value_that_is_not_small_refutes_nothing(p: float, kept: bool | None) -> None:
    assert Bound.read("n", "< 0.05").kept({"n": number(p) | {"unit": "p-value"}}) is kept
    assert Bound.read("n", "< 0.05").kept({"n": number(1 - p) | {"unit": "fraction"}}) is (p > 0.95)


@pytest.mark.parametrize("text", ["0.5", ">", "> ", ">= 1", "> nan", "= inf", "> A b", "", "> 0.5 0.6", 3])
def test_what_is_no_bound_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="of 'n' is none: write"):
        Bound.read("n", text)


def test_the_number_needed_has_the_power_that_it_says() -> None:
    """Against a simulation: with so many draws of that spread a t test decides four times of five."""
    rng = np.random.default_rng(0)
    effect, spread, n = 0.2, 1.0, 50
    half = stats.t.ppf(0.975, n - 1) * spread / n**0.5
    needed = Bound.read("n", "> 0.5").needed({"n": number(0.5 + effect, 0.7 - half, 0.7 + half, n)})
    assert needed is not None
    decided = [stats.ttest_1samp(rng.normal(effect, spread, needed), 0).pvalue < 0.05 for _ in range(2000)]
    assert 0.77 < np.mean(decided) < 0.85
    for value, low, high, size in (
        (0.5, 0.4, 0.6, 50),
        (0.6, 0.6, 0.6, 50),
        (0.6, None, None, None),
        (0.5001, 0, 1, 50),
    ):
        assert Bound.read("n", "> 0.5").needed({"n": number(value, low, high, size)}) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"instruments": ""}, "names no instrument: give instruments, or by_construction = true"),
        ({"instruments": '["p.other"]'}, r"the claim 'p.c' of claims\.toml names the instrument 'p\.other'"),
        ({"decided_by": ""}, "is decided by nothing: give decided_by"),
        ({"decided_by": '{ "n" = "0.5" }'}, "the bound '0.5' of 'n' is none"),
        ({"n": "19"}, "is to be decided on 19 'images': say of what, and give 20 or more"),
        ({"n": "2", "of": '"runs"'}, "is to be decided on 2 'runs': say of what, and give 3 or more"),
        ({"of": ""}, "is to be decided on 20 '': say of what"),
        ({"protocol": '"mine"'}, "has the protocol 'mine': choose one of"),
        ({"text": ""}, r"the claim 'p\.c' of claims\.toml is not whole: .*'text'"),
        ({"txt": '"c"'}, r"the claim 'p\.c' of claims\.toml is not whole: .*'txt'"),
        ({"notebook": ""}, "needs a notebook and an id of its own"),
        ({"id": '"P c"'}, "needs a notebook and an id of its own"),
        ({"id": '"p.i"'}, "needs a notebook and an id of its own"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    assert claims.stated(written(tmp_path), "01_x").claims["p.c"].n == 20
    claims._stated.cache_clear()
    with pytest.raises(ValueError, match=message):
        claims.stated(written(tmp_path, **changed), "01_x")
    claims._stated.cache_clear()


def test_another_table_is_refused_and_no_file_states_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has claims: it holds \[\[instrument\]\] and \[\[claim\]\]"):
        claims.stated(written(tmp_path, INSTRUMENT + "[[claims]]\nid = 1\n"), "01_x")
    assert claims.stated(tmp_path / "none.toml", "01_x") == Stated()


def test_what_holds_by_construction_needs_no_instrument(tmp_path: Path) -> None:
    file = written(tmp_path, instruments="", by_construction="true", n="", of="")
    claim = claims.stated(file, "01_x").claims["p.c"]
    assert claims.decided(claim, {"n": {**number(0.6), "protocol": "exact"}}) == ("holds", "")


def test_a_claim_is_decided_on_what_it_says_it_is(tmp_path: Path) -> None:
    claim = claims.stated(written(tmp_path, n="3", of='"runs"'), "01_x").claims["p.c"]
    runs = number(0.9, 0.8, 1.0, n=3) | {"of": "runs"}
    assert claims.decided(claim, {"n": runs}) == ("holds", "")
    with pytest.raises(ValueError, match="is decided on runs, and 'n' is of images"):
        claims.decided(claim, {"n": number(0.9, 0.8, 1.0, n=100)})


def test_a_second_model_has_its_own_claims_numbers_and_instruments(tmp_path: Path) -> None:
    each = INSTRUMENT + 'positive = { "a" = "> 1" }\nnegative = { "b" = "< a" }\neach_model = true\n'
    one = claims.stated(written(tmp_path, each, each_model="true"), "01_x")
    both = claims.with_model(one, "l14")
    claim, instrument = both.claims["p.c.l14"], both.instruments["p.i.l14"]
    assert [bound.id for bound in claim.decided_by] == ["n.l14"] and claim.instruments == ("p.i.l14",)
    assert instrument.negative == (Bound("b.l14", "<", "a.l14"),)
    assert both.claims["p.c"] == one.claims["p.c"]
    claims._stated.cache_clear()
    shared = claims.stated(written(tmp_path, each_model="true"), "01_x")
    assert claims.with_model(shared, "l14").claims["p.c.l14"].instruments == ("p.i",)
    claims._stated.cache_clear()
    assert claims.with_model(claims.stated(written(tmp_path), "01_x"), "l14").claims.keys() == {"p.c"}


def test_runs_that_differ_decide_nothing() -> None:
    assert claims.together(["holds", "holds"]) == "holds"
    assert claims.together(["holds", "fails"]) == claims.together(["holds", "no-instrument"]) == "inconclusive"
    assert claims.together(["no-instrument"]) == "no-instrument"
    assert claims.together(["not-run", "fails"]) == "fails"
    assert claims.together([]) == claims.together(["not-run"]) == "not-run"


def test_an_instrument_needs_controls_of_both_kinds(tmp_path: Path) -> None:
    def passes(kinds: str, **numbers: dict[str, Any]) -> tuple[bool, str]:
        claims._stated.cache_clear()
        return claims.passes(claims.stated(written(tmp_path, INSTRUMENT + kinds), "01_x").instruments["p.i"], numbers)

    positive, negative = 'positive = { "a" = "> 1" }\n', 'negative = { "b" = "< 1" }\n'
    assert passes(positive, a=number(2, 1.5, 3)) == (False, "it has no negative control")
    assert passes(negative, b=number(0, -1, 0.5)) == (False, "it has no positive control")
    both = positive + negative
    assert passes(both, a=number(2, 1.5, 3), b=number(0, -1, 0.5)) == (True, "")
    assert passes(both, a=number(2, 0.5, 3), b=number(0, -1, 0.5)) == (False, "a is not surely > 1")
    assert passes(both, a=number(2, 1.5, 3)) == (False, "its control b was not measured in this run")
