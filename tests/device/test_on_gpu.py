"""What `make gpu` does around a GPU: the table, the time limit, what it says where there is none."""

import json
import sys
from pathlib import Path

import on_gpu
import pytest
import torch

from xaikit.storage import paths


def test_the_table_has_each_section_and_the_whole_beside_the_cpu() -> None:
    rows = on_gpu.table("04_x (mini)", {"The sum": [1.25, 100], "Table 1": [2.0, 2_500]}, 134.0)
    assert rows == [
        "| 04_x (mini) | The sum | 1.2 | 100 | |",
        "| 04_x (mini) | Table 1 | 2.0 | 2,500 | |",
        "| 04_x (mini) | **all** | 3.2 | 2,500 | 134.0 |",
    ]
    assert on_gpu.table("04_x", {}, None) == ["| 04_x | **all** | 0.0 | 0 | – |"]


def test_the_seconds_beside_it_are_those_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in sorted((paths.FIGURES / "mini").iterdir()):
        assert on_gpu.committed_seconds("mini", folder.name) > 0
    assert on_gpu.committed_seconds("mini", "09_none") is None
    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    file = tmp_path / "figures" / "mini" / "01_x" / "numbers.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"seconds": 5.0, "device": "NVIDIA H100"}))
    assert on_gpu.committed_seconds("mini", "01_x") is None


def test_a_command_passes_fails_or_is_stopped() -> None:
    def attempt(code: str, seconds: float = 60) -> tuple[str, str]:
        return on_gpu.attempt([sys.executable, "-c", code], seconds)

    assert attempt("print('yes')") == ("passed", "yes\n")
    status, said = attempt("raise SystemExit('no')")
    assert status == "failed" and "no" in said
    status, said = attempt("import time; print('begun', flush=True); time.sleep(60)", 3)
    assert status == "not finished" and "begun" in said


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main([]) == 1
    assert "There is no GPU here" in capsys.readouterr().err


def test_it_goes_through_tests_and_notebooks_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With commands that are only said to have run."""
    for file in ("notebooks/01_a.py", "notebooks/02_b.py", "xaikit/companion/profiles/mini.toml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    done = tmp_path / "build" / "gpu" / "mini" / "01_a"
    done.mkdir(parents=True)
    (done / "seconds.json").write_text('{"The start": [4.0, 300]}')

    def attempt(command: list[str], seconds: float) -> tuple[str, str]:
        assert seconds <= 60
        return ("not finished", "it hangs") if "02_b" in command else ("passed", "14 passed")

    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    monkeypatch.setattr(on_gpu, "attempt", attempt)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert on_gpu.main(["--minutes", "1"]) == 1
    text = (tmp_path / "build" / "gpu" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# a card, torch ") and "Device tests: 14 passed" in text
    assert "| 01_a (mini) | **all** | 4.0 | 300 | – |" in text and "02_b (mini): not finished" in text
    assert "failed or not finished: 02_b (mini)" in capsys.readouterr().err
