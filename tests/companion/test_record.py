import json
import math
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from xaikit.companion import record
from xaikit.companion.record import Record
from xaikit.storage import paths, sources

PUBLISHED = """
[[number]]
id = "p.share"
value = 16.9
unit = "percent"
[[number]]
id = "p.half"
value = 0.5
unit = "fraction"
"""
NUMBER: dict[str, Any] = {"unit": "fraction", "item": "Figure 4", "protocol": "corrected"}
CLAIMS = """
[[instrument]]
id = "p.works"
notebook = "01_x"
what = "what it measures"
rule = "finds it, and is silent"
positive = { "planted" = "> 0.5" }
negative = { "untrained" = "< 0.2" }
[[instrument]]
id = "p.untried"
notebook = "01_x"
what = "what it measures"
rule = "finds it, and is silent"
"""
CLAIM: dict[str, Any] = {"item": "Figure 4", "text": "t", "rule": "r", "protocol": "corrected"}
BOUNDS = {  # of the claims of this file's notebook
    "a.claim": {"z.last": "> 0.2"},
    "a.count": {"a.first": "= 22720"},
    "b.claim": {"no.such": "> 0"},
    "c.undecided": {"z.last": "> 0.35"},
    "d.other": {"z.last": "< a.first"},
}


def stated(**other: str) -> str:
    """The text of a claims.toml that states the claims of BOUNDS, with other lines for some."""
    lines = [CLAIMS]
    for id, bounds in BOUNDS.items():
        bound = ", ".join(f'"{number}" = "{limit}"' for number, limit in bounds.items())
        entry = {"instruments": '["p.works"]', "n": "20", "of": '"images"', **{k: v for k, v in other.items() if v}}
        texts = {**{k: json.dumps(v) for k, v in CLAIM.items()}, **entry, "decided_by": f"{{ {bound} }}"}
        lines += ["[[claim]]", f'id = "{id}"', 'notebook = "01_x"', *(f"{key} = {text}" for key, text in texts.items())]
    return "\n".join(lines) + "\n"


def controls(kept: Record, untrained: float = 0.1) -> None:
    """The numbers of the instrument's controls, and a look at both instruments."""
    kept.number("planted", 0.8, low=0.7, high=0.9, n=30, **NUMBER)
    kept.number("untrained", untrained, low=untrained - 0.05, high=untrained + 0.05, n=30, **NUMBER)
    kept.instrument("p.works")
    kept.instrument("p.untried")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "published.toml").write_text(PUBLISHED)
    (tmp_path / "data" / "claims.toml").write_text(stated())
    monkeypatch.setenv("XAIKIT_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(sources, "notebook_source", lambda *names: "source of " + "/".join(map(str, names[:2])))
    return tmp_path / "out"


SHOWN = {"item": "Figure 4", "alt": "A line that rises from the left to the right."}


def drawing() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot(np.arange(3))
    return figure


def fill(kept: Record) -> None:
    kept.figure("fig4", drawing(), **SHOWN)
    kept.table("table1", pd.DataFrame({"a": [1 / 3, 2.0], "b": ["x", "é"]}), item="Table 1")
    kept.number("z.last", np.float32(1 / 3), low=0.3, high=0.4, n=200, published="p.share", **NUMBER)
    kept.number("a.first", 22720, unit="count", item="text", protocol="exact")
    controls(kept)
    kept.claim("a.claim")
    kept.claim("b.claim", reason="there are no texts")


def test_a_record_is_complete_and_repeats(out: Path) -> None:
    seen = []
    for _ in range(2):
        kept = Record("01_x", "mini", 3)
        fill(kept)
        assert not (out / "numbers.json").exists()
        kept.save()
        content = {file.name: file.read_bytes() for file in out.iterdir()}
        numbers = json.loads(content.pop("numbers.json"))
        assert numbers.pop("seconds") >= 0 and numbers.pop("machine")["arithmetic"]
        seen.append((content, json.dumps(numbers)))
        for file in out.iterdir():
            file.unlink()
    assert seen[0] == seen[1]
    assert sorted(content) == numbers["artefacts"] == ["fig4.pdf", "fig4.png", "table1.csv"]
    assert numbers["shown"] == {"fig4": SHOWN, "table1": {"item": "Table 1"}}
    assert {key: numbers[key] for key in ("notebook", "profile", "seed", "source")} == {
        "notebook": "01_x",
        "profile": "mini",
        "seed": 3,
        "source": "source of 01_x/mini",
    }
    assert {"python", "torch", "torchvision", "open_clip_torch", "transformers", "numpy"} == set(numbers["versions"])
    assert [number["id"] for number in numbers["numbers"]] == ["a.first", "planted", "untrained", "z.last"]
    assert numbers["numbers"][::3] == [
        {"id": "a.first", "value": 22720.0, "low": None, "high": None, "n": None, "unit": "count",
         "item": "text", "protocol": "exact", "published": None},
        {"id": "z.last", "value": 0.333333, "low": 0.3, "high": 0.4, "n": 200, "of": "images", "unit": "fraction",
         "item": "Figure 4", "protocol": "corrected", "published": 0.169},
    ]  # fmt: skip
    assert numbers["claims"] == [
        {"id": "a.claim", **CLAIM, "verdict": "holds", "this_run": "holds", "evidence": ["z.last"],
         "instruments": ["p.works"], "seeds": {"holds": 1}},
        {"id": "b.claim", **CLAIM, "verdict": "not-run", "this_run": "not-run", "evidence": [],
         "instruments": ["p.works"], "reason": "there are no texts", "seeds": {"not-run": 1}},
    ]  # fmt: skip
    works, untried = sorted(numbers["instruments"], key=lambda each: each["passes"], reverse=True)
    assert works == {
        "id": "p.works", "what": "what it measures", "rule": "finds it, and is silent", "passes": True,
        "controls": [{"kind": "positive", "number": "planted", "wanted": "> 0.5", "kept": True},
                     {"kind": "negative", "number": "untrained", "wanted": "< 0.2", "kept": True}],
    }  # fmt: skip
    assert (untried["passes"], untried["why"]) == (False, "it has no positive control")
    assert content["table1.csv"].decode() == "a,b\n0.333333,x\n2,é\n"


def test_a_figure_is_a_picture(out: Path) -> None:
    Record("01_x", "mini", 0).figure("fig1", drawing(), **SHOWN)
    with Image.open(out / "fig1.png") as image:
        assert min(image.size) > 100
        assert "Software" not in image.info
    assert (out / "fig1.pdf").read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in (out / "fig1.pdf").read_bytes()
    assert not plt.get_fignums()


def test_tables_and_numbers_are_shown_readably(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    shown = kept.table(
        "t", pd.DataFrame({"p": [1 / 3], "q": [math.nan]}, index=pd.Index(["row"], name="model")), item="t"
    )
    assert shown.to_dict() == {"p": {"row": "0.3333"}, "q": {"row": "–"}}
    assert (out / "t.csv").read_text() == "model,p,q\nrow,0.333333,\n"
    kept.number("n", 0.25, low=0.125, high=0.5, published="p.share", **NUMBER)
    assert kept.numbers().iloc[0][["here", "published"]].tolist() == ["0.25 [0.125, 0.5]", "0.169"]
    fill(kept)
    assert kept.claims().columns[0] == "verdict"
    assert kept.claims()["evidence"].tolist() == ["z.last = 0.3333 [0.3, 0.4]", "there are no texts"]
    assert kept.instruments()["controls"][0] == (
        "positive: planted = 0.8 [0.7, 0.9], wanted > 0.5; negative: untrained = 0.1 [0.05, 0.15], wanted < 0.2"
    )


@pytest.mark.parametrize(
    ("value", "given", "message"),
    [
        (math.nan, {}, "number 'x' is not finite"),
        (0.5, {"low": 0.1, "high": math.inf}, "number 'x' is not finite"),
        (0.5, {"low": 0.6, "high": 0.7}, "number 'x' lies outside of its interval"),
        (0.5, {"low": 0.4}, "number 'x' has half an interval"),
        (1.2, {}, r"number 'x' is 1.2, and a fraction lies in \[0, 1\]: give its own unit"),
        (-0.1, {"unit": "count"}, "a count lies in"),
        (0.5, {"published": "p.none"}, "no published number 'p.none'"),
        (
            0.5,
            {"published": "p.share", "unit": "count"},
            "'p.share' is in percent, which cannot be converted to count",
        ),
    ],
)
def test_bad_numbers_are_refused(out: Path, value: float, given: dict[str, Any], message: str) -> None:
    kept = Record("01_x", "mini", 0)
    with pytest.raises(ValueError, match=message):
        kept.number("x", value, **{**NUMBER, **given})
    assert kept.numbers().empty


def test_an_interval_ends_where_its_unit_does(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    kept.number("share", 0.95, low=0.8, high=1.04, n=20, **NUMBER)
    kept.number("score", 0.95, low=0.8, high=1.04, n=20, **{**NUMBER, "unit": "score"})
    ends = {each["id"]: (each["low"], each["high"]) for each in json.loads(kept.save().read_text())["numbers"]}
    assert ends == {"share": (0.8, 1), "score": (0.8, 1.04)}


def test_names_are_used_once_and_plain(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    fill(kept)
    before = {file: file.read_bytes() for file in out.iterdir()}
    for name in ("fig4", "Fig 5", "../fig5", ""):
        with pytest.raises(ValueError, match=r"recorded twice|odd characters"):
            kept.figure(name, drawing(), **SHOWN)
    with pytest.raises(ValueError, match=r"the artefact 'table1\.csv' is recorded twice"):
        kept.table("table1", pd.DataFrame({"a": [1]}), item="Table 1")
    with pytest.raises(ValueError, match=r"the number 'a\.first' is recorded twice"):
        kept.number("a.first", 1.0, **NUMBER)
    with pytest.raises(ValueError, match="odd characters"):
        kept.number("A first", 1.0, **NUMBER)
    with pytest.raises(ValueError, match=r"the claim 'a\.claim' is recorded twice"):
        kept.claim("a.claim")
    with pytest.raises(ValueError, match=r"the instrument 'p\.works' is recorded twice"):
        kept.instrument("p.works")
    with pytest.raises(ValueError, match="table 'empty' is empty"):
        kept.table("empty", pd.DataFrame({"a": []}), item="Table 1")
    with pytest.raises(ValueError, match="the alt text of 'fig5' is 'Figure 5': say in a sentence what is to be seen"):
        kept.figure("fig5", drawing(), item="Figure 5", alt="Figure 5")
    with pytest.raises(ValueError, match="figure 'blank' has no axes"):
        kept.figure("blank", Figure(), **SHOWN)
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    kept.table("fig4", pd.DataFrame({"a": [1]}), item="Figure 4")  # a figure and the table behind it may share a name


def test_the_file_decides_all_that_is_left(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Record("01_x", "mini", 0)
    fill(kept)
    table = kept.decide()
    assert table["verdict"].tolist() == ["holds", "not-run", "holds", "inconclusive", "holds"]
    needed = math.ceil(200 * ((1.959964 + 0.841621) / 1.959964 * 0.05 / (0.35 - 0.333333)) ** 2)
    assert table["evidence"][3] == f"z.last = 0.3333 [0.3, 0.4]; about {needed} images would decide it"
    assert "p.untried fails: it has no positive control" in capsys.readouterr().out
    saved = {claim["id"]: claim for claim in json.loads(kept.save().read_text())["claims"]}
    assert saved["c.undecided"]["needs"] == needed
    assert saved["d.other"]["evidence"] == ["z.last", "a.first"]


@pytest.mark.parametrize("untrained", [0.19, 0.4])
def test_without_an_instrument_there_is_no_verdict(out: Path, untrained: float) -> None:
    """Also where it only may pass: its whole interval keeps the bound, or it fails."""
    kept = Record("01_x", "mini", 0)
    controls(kept, untrained)
    kept.number("z.last", 1 / 3, low=0.3, high=0.4, n=200, **NUMBER)
    assert kept.claim("a.claim") == "no-instrument"
    assert kept.claim("b.claim") == "not-run"
    saved = {claim["id"]: claim for claim in json.loads(kept.save().read_text())["claims"]}
    assert saved["a.claim"]["measured"] == "holds"
    said = "is not surely" if untrained < 0.2 else "is not"
    assert saved["a.claim"]["reason"] == f"p.works: untrained {said} < 0.2"
    assert saved["b.claim"]["reason"] == "no.such was not measured in this run"


def test_what_is_not_stated_or_not_looked_at_decides_nothing(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    with pytest.raises(ValueError, match=r"no claim 'e' of 01_x: state it, with its rule, in data/claims\.toml"):
        kept.claim("e")
    with pytest.raises(ValueError, match=r"no instrument 'e' of 01_x: state it in data/claims\.toml"):
        kept.instrument("e")
    with pytest.raises(ValueError, match="no claim"):
        Record("02_y", "mini", 0).claim("a.claim")
    kept.number("z.last", 1 / 3, low=0.3, high=0.4, n=200, **NUMBER)
    with pytest.raises(ValueError, match=r"the claim 'a\.claim' rests on 'p\.works': look at that instrument before"):
        kept.claim("a.claim")
    with pytest.raises(ValueError, match=r"the claim 'a\.claim' is not decided without a reason: give one"):
        kept.claim("a.claim", reason=" ")


def test_few_observations_decide_nothing(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    controls(kept)
    kept.number("z.last", 1 / 3, low=0.3, high=0.4, n=19, **NUMBER)
    assert kept.claim("a.claim") == "inconclusive"
    assert json.loads(kept.save().read_text())["claims"][0]["reason"] == "on 19 images, and it is decided on 20 or more"


def test_a_claim_rests_on_intervals(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    controls(kept)
    kept.number("z.last", 1 / 3, **NUMBER)
    with pytest.raises(ValueError, match=r"rests on 'z\.last', which has no interval: record it with one"):
        kept.claim("a.claim")
    bare = Record("01_x", "mini", 0)
    bare.number("z.last", 1 / 3, low=0.3, high=0.4, **NUMBER)
    bare.number("planted", 0.8, **NUMBER)
    bare.number("untrained", 0.1, **NUMBER)
    with pytest.raises(ValueError, match=r"the control 'planted' of 'p\.works' has no interval"):
        bare.instrument("p.works")


def test_values_lie_beside_their_mean(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    kept.number("m", 0.5, low=0.3, high=0.7, n=4, **NUMBER)
    kept.number("k", 0.25, low=0.1, high=0.4, n=4, **NUMBER)
    kept.values("m", [0.0, 1.0, 1 / 3, 2 / 3], of="pictures")
    kept.values("k", torch.tensor([0.0, 0.0, 0.0, 1.0]), of="pictures")
    assert (out / "values_pictures.csv").read_text() == ("pictures,m,k\n0,0,0\n1,1,0\n2,0.333333,0\n3,0.666667,1\n")
    assert json.loads(kept.save().read_text())["artefacts"] == ["values_pictures.csv"]
    for id, values, message in (
        ("x", [1.0], "the number 'x' of these values is not recorded"),
        ("m", [0.0, 1.0, 1.0, 1.0], "the values of 'm' have the mean 0.75, and the number is 0.5"),
        ("m", [math.nan] * 4, "are no row of finite numbers"),
        ("m", [0.5], "'m' has 1 values of pictures, others have 4: name other things"),
    ):
        with pytest.raises(ValueError, match=message):
            kept.values(id, values, of="pictures")


def test_the_digest_is_of_values_intervals_and_verdicts(out: Path) -> None:
    def saved(value: float, low: float = 0.3, item: str = "Figure 4", reason: str | None = None) -> str:
        kept = Record("01_x", "mini", 0)
        controls(kept)
        kept.number("z.last", value, low=low, high=0.6, n=20, **{**NUMBER, "item": item})
        kept.claim("a.claim", reason=reason)
        return json.loads(kept.save().read_text())["digest"]

    assert saved(0.5) == saved(0.5, item="Figure 5")
    assert len({saved(0.5), saved(0.500001), saved(0.5, 0.29), saved(0.5, reason="no texts")}) == 4


def test_published_numbers_convert(out: Path) -> None:
    assert record.published("p.share") == record.published("p.share", "percent") == 16.9
    assert record.published("p.share", "fraction") == 0.169
    assert record.published("p.half", "percent") == 50.0
    assert record.published("p.share", "difference") == 0.169


def test_a_live_session_may_run_a_cell_again_and_says_where_files_go(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Record("01_x", "mini", 0)
    assert capsys.readouterr().out == ""  # of a run that is headless it is in no page
    monkeypatch.delenv("XAIKIT_OUT")
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    kept = Record("01_x", "mini", 0)
    said = f"Figures, tables and numbers go to {tmp_path / 'build' / 'interactive' / 'mini' / '01_x'}\n"
    assert capsys.readouterr().out == said
    fill(kept)
    fill(kept)
    assert kept.save() == tmp_path / "build" / "interactive" / "mini" / "01_x" / "numbers.json"
    assert os.listdir(out) == []


def test_numbers_of_numpy_and_torch_are_numbers(out: Path) -> None:
    kept = Record("01_x", "mini", np.int64(3))
    kept.number("a", np.float32(0.5), low=torch.tensor(0.25), high=np.float64(1), **NUMBER | {"n": np.int64(4)})
    saved = json.loads(kept.save().read_text())
    assert saved["seed"] == 3
    assert [saved["numbers"][0][key] for key in ("value", "low", "high", "n")] == [0.5, 0.25, 1, 4]
    with pytest.raises(TypeError, match=r"integer|SupportsIndex"):
        kept.number("b", 0.5, **NUMBER | {"n": 4.5})


def test_what_is_skipped_has_a_reason_and_is_said_twice(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is skipped, and beside the claims at the end of the page."""
    kept = Record("01_x", "mini", 0)
    kept.skip("fig2", "there are no texts in photographs")
    kept.skip("table3", "there are no texts in photographs")
    fill(kept)
    assert json.loads(kept.save().read_text())["skipped"] == {
        "fig2": "there are no texts in photographs",
        "table3": "there are no texts in photographs",
    }
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("p.")] == [
        "skipped fig2: there are no texts in photographs",
        "skipped table3: there are no texts in photographs",
        "Not in this run: fig2, as there are no texts in photographs",
        "Not in this run: table3, as there are no texts in photographs",
    ]
    for reason in ("", " \n"):
        with pytest.raises(ValueError, match="'fig5' is skipped without a reason: give one"):
            kept.skip("fig5", reason)
    for artefact in ("fig4", "table1"):
        with pytest.raises(ValueError, match=f"'{artefact}' was recorded, so it is not skipped"):
            kept.skip(artefact, "it is late")
    assert list(json.loads(kept.save().read_text())["skipped"]) == ["fig2", "table3"]


def test_a_record_without_skips_remarks_and_subset_says_nothing_of_them(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    fill(kept)
    assert not {"skipped", "remarks", "subset", "unfinished"} & json.loads(kept.save().read_text()).keys()


def test_a_remark_is_kept_once_and_printed_each_time(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Record("01_x", "mini", 0)
    for text in ("10 captions were cut", "the pairs must do", "10 captions were cut"):
        kept.remark(text)
    assert capsys.readouterr().out.splitlines() == ["10 captions were cut", "the pairs must do", "10 captions were cut"]
    assert json.loads(kept.save().read_text())["remarks"] == ["10 captions were cut", "the pairs must do"]


def test_on_a_subset_nothing_is_decided(out: Path) -> None:
    kept = Record("01_x", "mini", 0)
    kept.subset = 5
    fill(kept)
    kept.decide()
    saved = json.loads(kept.save().read_text())
    assert saved["subset"] == 5
    assert {claim["verdict"] for claim in saved["claims"]} == {"not-run"}
    decided = "on at most 5 of each data set no claim is decided"
    assert [claim["reason"] for claim in saved["claims"]] == [decided, decided, "there are no texts", decided, decided]


def test_what_is_recorded_is_there_before_the_record_is_saved(out: Path) -> None:
    """A run that ends in an error leaves all that it had; numbers.json is of whole runs."""
    kept = Record("01_x", "mini", 3)
    assert os.listdir(out) == []
    fill(kept)
    kept.skip("fig9", "there are no texts")
    kept.remark("10 captions were cut")
    so_far = json.loads((out / "unfinished.json").read_text())
    assert not (out / "numbers.json").exists()
    saved = json.loads(kept.save().read_text())
    assert sorted(os.listdir(out)) == ["fig4.pdf", "fig4.png", "numbers.json", "table1.csv"]
    assert so_far.pop("unfinished") == "the run goes on, or was killed"
    assert so_far.keys() == saved.keys() - {"source", "device", "machine", "precision", "seconds", "versions", "digest"}
    assert sorted(number["id"] for number in so_far["numbers"]) == [number["id"] for number in saved["numbers"]]
    assert {key: so_far[key] for key in ("notebook", "seed", "artefacts", "skipped", "remarks")} == {
        key: saved[key] for key in ("notebook", "seed", "artefacts", "skipped", "remarks")
    }


def test_a_rehearsal_says_in_its_record_and_on_its_page_that_its_numbers_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XAIKIT_OUT", str(tmp_path))
    monkeypatch.setattr(sources, "notebook_source", lambda *_: "")
    for notebook in ("01_caption_driven", "02_texplain", "03_vlm_explanations", "04_clip_decomposition"):
        file = Record(notebook, "rehearsal", 0).save()
        said = capsys.readouterr().out
        for sentence in json.loads(file.read_text())["remarks"]:
            assert sentence in said
        assert "its numbers mean nothing" in said and "no claim is decided" in said
    assert "remarks" not in json.loads(Record("01_caption_driven", "mini", 0).save().read_text())
