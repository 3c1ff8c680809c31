"""What `make rehearse` does around the notebooks: sections, what is lacking, the table."""

import json
import os
import sys
from pathlib import Path

import pytest
import rehearse

CODE = """
import time
print("01_x      0 s  One", flush=True)
kept = bytearray(300 * 2**20)
time.sleep(1.2)
print("a line of its own", flush=True)
print("01_x      1 s  Two: more", flush=True)
raise SystemExit(3)
"""


def test_sections_have_their_seconds_and_their_memory(capsys: pytest.CaptureFixture[str]) -> None:
    status, sections = rehearse.followed([sys.executable, "-c", CODE], os.environ, "01_x")
    assert status == 3 and list(sections) == ["the start", "One", "Two: more"]
    assert sections["One"][0] > 1.1 and sections["One"][2] > 300 and sections["the start"][2] < 300
    assert capsys.readouterr().out == "a line of its own\n"
    rows = rehearse.table("01_x", {"One": [1.26, 0.9, 300.4], "Two": [2.0, 2.2, 2_500.0]})
    assert rows == [
        "| 01_x | One | 1 | 1 | 300 |",
        "| 01_x | Two | 2 | 2 | 2,500 |",
        "| 01_x | **all** | 3 | 3 | 2,500 |",
    ]


def test_what_is_neither_made_nor_skipped_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rehearse, "ROOT", tmp_path)
    records = {
        "mini": {"artefacts": ["fig1.pdf", "fig1.png", "fig2.png", "causal.csv", "causal.png", "table1.csv"]},
        "rehearsal": {"artefacts": ["fig1.pdf", "fig1.png"], "skipped": {"causal": "nothing can be changed"}},
    }
    for profile, record in records.items():
        file = tmp_path / "figures" / profile / "01_x" / "numbers.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(record))
    assert rehearse.missing("01_x") == ["fig2", "table1"]
    assert capsys.readouterr().out == "01_x: without causal: nothing can be changed\n"
