"""Numbers in prose are written from records, as many decimals as stand there, and what no record has is an error."""

import json
from pathlib import Path

import pytest

from xaikit.companion.references import filled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Records of two profiles, a table, an accepted band and a published number."""
    claims = [
        {"id": "a.claim", "verdict": "holds", "seeds": {"holds": 3}},
        {"id": "a.other", "verdict": "fails", "seeds": {"fails": 2}},
        {"id": "a.given", "verdict": "holds", "seeds": {"holds": 3}, "by_construction": True},
    ]
    for profile, value in (("mini", 0.1234), ("full", 0.98)):
        numbers = [
            {"id": "a.share", "value": value, "low": -0.05, "high": 1.0, "n": 200, "unit": "fraction"},
            {"id": "a.maps", "value": 22720, "low": None, "high": None, "n": None, "unit": "count"},
        ]
        record = {"notebook": "01_x", "numbers": numbers, "claims": claims, "instruments": [{"passes": True}]}
        folder = tmp_path / "figures" / profile / "01_x"
        folder.mkdir(parents=True)
        (folder / "numbers.json").write_text(json.dumps(record))
        (folder / "board.csv").write_text('method,a rank\n"words, of it",0.4567\nmaps,0.2\n')
    (tmp_path / "data" / "accepted").mkdir(parents=True)
    accepted = {
        "01_x": {
            "numbers": {
                "a.share": {"low": 0.1, "high": 0.2, "unit": "fraction"},
                "a.maps": {"low": None, "high": None, "unit": "count"},
            }
        }
    }
    (tmp_path / "data" / "accepted" / "mini.json").write_text(json.dumps(accepted))
    (tmp_path / "data" / "published.toml").write_text('[[number]]\nid = "a.share"\nvalue = 70.22\nunit = "percent"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "before", "after"),
    [
        ("number: a.share", "0.0", "0.1"),
        ("number: a.share", "9.999", "0.123"),
        ("number: a.share of full", "0.00", "0.98"),
        ("number: a.share", "0.00 [0.00, 0.00]", "0.12 [-0.05, 1.00]"),
        ("number: a.share", "0 % [0 %, 0 %]", "12 % [-5 %, 100 %]"),
        ("number: a.maps", "0", "22,720"),
        ("number: a.maps", "22,719", "22,720"),
        ("n: a.share", "0", "200"),
        ("band: a.share", "0.00 to 0.00", "0.10 to 0.20"),
        ("published: a.share", "0.0 %", "70.2 %"),
        ("verdict: a.claim", "fails", "holds"),
        ("verdict: a.other", "no-instrument", "fails"),
        ("count: holds", "0", "1"),
        ("count: by construction, 01", "0", "1"),
        ("count: runs", "0", "3"),
        ("count: banded numbers", "0", "1"),
        ("count: passing instruments", "0", "1"),
        ("rows: 01_x/board", "0", "2"),
        ("cell: 01_x/board: words, of it: a rank", "0.00", "0.46"),
        ("cell: 01_x/board: maps: a rank of full", "-1.0", "0.2"),
    ],
)
def test_a_reference_is_filled_and_stays_as_it_is(root: Path, mark: str, before: str, after: str) -> None:
    page = "In all *{}<!-- {} -->*, 3.5 of it."
    expected = page.format(after, mark)
    assert filled(page.format(before, mark), root) == expected == filled(expected, root)


@pytest.mark.parametrize(
    "text",
    [
        "0.1<!-- number: a.none -->",
        "0.1<!-- number: a.share of paper -->",
        "0.1 [0.0, 0.2]<!-- number: a.maps -->",
        "0.1 to 0.2<!-- number: a.share -->",
        "0.1 to 0.2<!-- band: a.maps -->",
        "holds<!-- verdict: a.none -->",
        "0.1<!-- published: a.none -->",
        "3<!-- count: hopes -->",
        "3<!-- count: holds, 01 02 -->",
        "0.1<!-- cell: 01_x/board: none: a rank -->",
        "0.1<!-- cell: 01_x/board: maps: none -->",
        "0.1<!-- cell: 01_x/none: maps: a rank -->",
        "0.1<!-- cell: 01_x/board -->",
        "2<!-- rows: 02_y/board -->",
        "holds<!-- number: a.share -->",
    ],
)
def test_what_no_record_has_is_an_error_that_names_the_mark(root: Path, text: str) -> None:
    mark = text[text.index("<!--") :]
    with pytest.raises(ValueError) as raised:
        filled(f"There {text}.", root)
    assert f"no record has what a page refers to as {mark}" == str(raised.value)


def test_a_mark_without_a_value_before_it_is_an_error(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no value of its kind stands before <!-- number: a\.share -->"):
        filled("Nothing <!-- number: a.share --> there", root)


def test_other_comments_and_tables_are_left_alone(root: Path) -> None:
    page = "<!-- claims: 01_x -->\n\n0.5\n\n<!-- end -->\n0.3<!-- a remark -->"
    assert filled(page, root) == page
