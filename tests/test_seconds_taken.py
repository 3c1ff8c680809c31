"""What is said before the tests of how long they will take is what they took here."""

from pathlib import Path

import pytest
import seconds_taken


def test_what_they_took_is_said_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "build" / "seconds.json"
    assert seconds_taken.said(["tests"], file, "Not known.") == "Not known."
    seconds_taken.keep(["tests"], 1_234.5, file)
    seconds_taken.keep(["tests/surgery", "-m", "not slow"], 61.2, file)
    assert seconds_taken.said(["tests"], file, "") == "The tests themselves took 21 min here the last time."
    assert "took 61 s here" in seconds_taken.said(["tests/surgery", "-m", "not slow"], file, "")
    assert seconds_taken.said(["tests/surgery"], file, "Not known.") == "Not known."
    seconds_taken.keep(["tests"], 300.0, file)
    assert "5 min" in seconds_taken.said(["tests"], file, "")
    seconds_taken.keep(["tests"], 2.0, file)
    assert seconds_taken.said(["tests"], file, "Not known.") == "Not known."


@pytest.mark.parametrize("content", ["", "{", '{"tests": "long"}'])
def test_a_damaged_file_says_nothing_and_is_written_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "seconds.json"
    file.write_text(content)
    assert seconds_taken.said(["tests"], file, "Not known.") == "Not known."
    seconds_taken.keep(["tests"], 60.0, file)
    assert "60 s" in seconds_taken.said(["tests"], file, "")


def test_where_nothing_can_be_written_no_test_is_lost(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file where the folder would be")
    seconds_taken.keep(["tests"], 60.0, tmp_path / "build" / "seconds.json")
