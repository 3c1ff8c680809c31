"""The tables of README and docs follow from records, and keep what records that are not committed have said."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xaikit.companion import states
from xaikit.companion.states import PRETENDED, filled, note, noted, write
from xaikit.storage import sources

NAME = "01_small"
PAGE = "# A page\n\n| notebook | artefact | what it shows | state |\n|---|---|---|---|\n{rows}\n\nThe end.\n"
ROWS = "\n".join(
    f"| `01_small` | {row} |" for row in ("`fig1` | a line | {0}", "`fig2`, `fig3` | two | {1}", "`claims` | c | {2}")
)
NOWHERE = "not in mini · not rehearsed · not run on a GPU"


@pytest.fixture
def root(checkout: Path) -> Path:
    """A checkout in small, with a profile that rehearses."""
    folder = checkout / "xaikit" / "companion" / "profiles"
    (folder / "rehearsal.toml").write_text('like = "paper"\n[common]\nstand_ins = true\n')
    (checkout / "README.md").write_text(PAGE.format(rows=ROWS.format("", "", "by hand")))
    return checkout


def record(
    root: Path, profile: str, device: str, artefacts: list[str], *, skipped: Mapping[str, str] | None = None,
    source: str | None = None, where: str = "figures", digest: str = "d1",
) -> None:  # fmt: skip
    folder = root / where / profile / NAME
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "notebook": NAME, "profile": profile, "device": device, "digest": digest,
        "source": source or sources.notebook_source(NAME, profile, root),
        "artefacts": [f"{name}.png" for name in artefacts], "claims": [{"id": "a"}], "skipped": skipped or {},
    }  # fmt: skip
    (folder / "numbers.json").write_text(json.dumps(content))


def shown(root: Path) -> list[str]:
    write(root)
    page = (root / "README.md").read_text()
    assert filled(page, root) == page
    assert page.startswith("# A page\n") and page.endswith("\n\nThe end.\n")
    return [row["state"] for row in states.ROW.finditer(page)]


def test_without_a_record_nothing_has_run(root: Path):
    assert shown(root) == [NOWHERE] * 3
    assert noted(root) == []


def test_states_are_those_of_the_records(root: Path):
    record(root, "mini", "cpu", ["fig1", "fig2"])
    record(root, "rehearsal", PRETENDED, ["fig1"], skipped={"fig2": "no photographs", "fig3": "none"})
    one, two, claims = shown(root)
    assert one.startswith("mini · rehearsed 20") and one.endswith(" · not run on a GPU")
    assert two.startswith("not in mini · left out in the rehearsal of 20")  # fig3 is in no record of mini
    assert claims.startswith("mini · rehearsed 20")
    (ran,) = noted(root)
    assert (ran.device, ran.artefacts, ran.digest) == (PRETENDED, ("claims", "fig1"), "d1")


def test_what_was_noted_stays_when_the_record_is_gone(root: Path):
    record(root, "rehearsal", "cpu", ["fig1", "fig2", "fig3"])
    before = shown(root)
    (root / "figures" / "rehearsal" / NAME / "numbers.json").unlink()
    assert shown(root) == before and "rehearsed" in before[1]


def test_a_card_is_named_with_profile_and_date(root: Path):
    record(root, "mini", "NVIDIA L4", ["fig1"], where="build/gpu")
    assert shown(root)[0].startswith("not in mini · not rehearsed · GPU: NVIDIA L4, mini, 20")
    record(root, "paper", "NVIDIA H100", ["fig1"])
    one, two, _ = shown(root)
    assert "GPU: NVIDIA H100, paper, 20" in one and two.endswith("not run on a GPU")
    assert {(run.profile, run.on_gpu) for run in noted(root)} == {("mini", True), ("paper", True)}


def test_a_pretended_gpu_is_none_and_mini_on_a_cpu_is_not_noted(root: Path):
    record(root, "mini", "cpu", ["fig1"])
    record(root, "rehearsal", PRETENDED, ["fig1"])
    shown(root)
    assert [(run.profile, run.on_gpu) for run in noted(root)] == [("rehearsal", False)]


def test_records_of_other_code_are_passed_over(root: Path, capsys: pytest.CaptureFixture[str]):
    record(root, "rehearsal", "cpu", ["fig1"], source="other")
    assert shown(root) == [NOWHERE] * 3
    assert "figures/rehearsal/01_small/numbers.json is of other code" in capsys.readouterr().out


def test_records_of_runs_that_did_not_end_are_passed_over(root: Path, capsys: pytest.CaptureFixture[str]):
    record(root, "rehearsal", "cpu", ["fig1"])
    file = root / "figures" / "rehearsal" / NAME / "numbers.json"
    file.with_name("unfinished.json").write_text(file.read_text())
    so_far = {"notebook": NAME, "profile": "rehearsal", "unfinished": "failed in section 'Two'", "artefacts": ["a.png"]}
    file.write_text(json.dumps(so_far))
    assert shown(root) == [NOWHERE] * 3
    assert f"{NAME}/numbers.json is of a run that did not end (failed in section 'Two')" in capsys.readouterr().out
    file.write_text("{")
    with pytest.raises(ValueError, match=r"rehearsal/01_small/numbers\.json is damaged"):
        note(root)


def test_the_same_run_is_noted_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    record(root, "rehearsal", "cpu", ["fig1"])
    monkeypatch.setattr(states, "_commit", lambda root: "first")
    first = note(root)
    monkeypatch.setattr(states, "_commit", lambda root: "second")
    assert note(root) == first == noted(root)
    record(root, "rehearsal", "cpu", ["fig1"], digest="d2")
    assert [run.commit for run in note(root)] == ["second"]


def test_a_damaged_file_is_named(root: Path):
    (root / "data" / "ran.json").write_text("{")
    with pytest.raises(ValueError, match=r"ran\.json is damaged"):
        noted(root)


def test_claims_and_instruments_are_those_of_the_record(root: Path):
    def claim(text: str, protocol: str, verdict: str, **more: Any) -> dict[str, Any]:
        return {"text": text, "protocol": protocol, "verdict": verdict, **more}

    record = {
        "notebook": "01_x",
        "claims": [
            claim("A | b.", "as-published", "holds", seeds={"holds": 6}),
            claim("A | b.", "corrected", "inconclusive", seeds={"fails": 1, "holds": 5}),
            claim("C.", "corrected", "no-instrument", seeds={"no-instrument": 1}),
            claim("D.", "as-published", "fails", by_construction=True, seeds={"fails": 3}),
        ],
        "instruments": [
            {"id": "p.i", "what": "w", "rule": "r", "passes": True},
            {"id": "p.j", "what": "v", "rule": "q", "passes": False, "why": "n is not < 1"},
        ],
        "artefacts": [],
    }
    folder = root / "figures" / "mini" / "01_x"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.json").write_text(json.dumps(record))
    summary = filled("<!-- verdicts: mini -->\nold\n<!-- end -->", root).splitlines()
    assert summary[4] == "| `01_x` | 1 of 2 | 1 | 0 | 1 | 1 | 0 | 1 |" and summary[-1] == "<!-- end -->"
    page = "before\n<!-- claims: 01_x -->\nold\n<!-- end -->\nx\n<!-- instruments: 01_x -->\n<!-- end -->\nafter\n"
    expected = """before
<!-- claims: 01_x -->

| claim | as published | corrected |
| --- | --- | --- |
| A \\| b | holds (6 of 6 runs) | inconclusive (5 holds, 1 fails of 6 runs) |
| C | – | no-instrument |
| D | fails, by construction | – |

<!-- end -->
x
<!-- instruments: 01_x -->

| instrument | measures | is trusted if | here |
| --- | --- | --- | --- |
| `p.i` | w | r | passes |
| `p.j` | v | q | fails: n is not < 1 |

<!-- end -->
after
"""
    assert filled(page, root) == expected == filled(expected, root)
    assert filled(page.replace("01_x", "09_none"), root) == page.replace("01_x", "09_none")
