"""The page of the papers beside the rerun: what it shows is what the records say, all of it, and nothing else."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from xaikit.companion import accept, claims, review
from xaikit.companion.run import Job, run_notebooks
from xaikit.storage import paths
from xaikit.storage.files import read_toml

VOLATILE = re.compile(r"data:image/webp;base64,[^\"]*|<dt>which took</dt><dd>[^<]*</dd>")

TABLE_WITH_SECONDS = re.compile(r"<table>(?:(?!</table>).)*?>seconds</th></tr>.*?</table>", re.DOTALL)
LAST_CELL = re.compile(r"<td>[^<]*</td></tr>")


def lasting(page: str) -> str:
    """A page without its pictures and what took how long."""
    timeless = TABLE_WITH_SECONDS.sub(lambda table: LAST_CELL.sub("</tr>", table[0]), page)
    return VOLATILE.sub("", timeless)


class Page(HTMLParser):
    """What a reader finds: pictures with their alt texts, words, and claims with their verdicts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.claims: list[str | None] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.pictures.append(given)
        if tag == "article":
            self.claims.append(given["data-verdict"])
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the results, which stays as it is where another process runs the notebooks meanwhile."""
    root = tmp_path_factory.mktemp("review")
    for name in ("xaikit", "notebooks", "data"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copytree(paths.WEIGHTS, root / "data" / "weights")
    shutil.copy(paths.ROOT / "requirements.lock", root)
    for attempt in range(3):
        try:
            shutil.copytree(paths.ROOT / "figures" / "mini", root / "figures" / "mini", dirs_exist_ok=True)
            break
        except shutil.Error:
            if attempt == 2:
                raise
    return root


@pytest.fixture(scope="module")
def records(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "figures" / "mini").glob("*/numbers.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert [each["notebook"] for each in found if not each["claims"]] == ["00_start_here"]  # nothing to review
    return [each for each in found if each["claims"]]


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return review.page("mini", root=root, committed=True)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_claim_is_there_with_its_verdict(page: Page, text: str, records: list) -> None:
    stated = [claim for record in records for claim in record["claims"]]
    assert sorted(filter(None, page.claims)) == sorted(claim["verdict"] for claim in stated)
    assert all(f"<code>{claim['id']}</code>" in text for claim in stated)


def test_every_number_is_there_and_the_papers_beside_it(page: Page, text: str, records: list) -> None:
    for record in records:
        for number in record["numbers"]:
            assert f"<code>{number['id']}</code>" in text
    beside = sum(number["published"] is not None for record in records for number in record["numbers"])
    words = " ".join(page.words)
    assert words.count("same data and size") + words.count("other data or size") == beside > 100


def test_every_control_says_what_its_interval_is_over(text: str, records: list) -> None:
    rows = re.findall(r"<tr><td>(?:positive|negative)</td><td><code>([^<]+)</code></td>(.*?)</tr>", text)
    numbers = {number["id"]: number for record in records for number in record["numbers"]}
    assert {id for id, _ in rows} == {
        control["number"] for record in records for each in record["instruments"] for control in each["controls"]
    }
    assert any(f"<td>{numbers[id]['n']} runs</td>" in row for id, row in rows)
    for id, row in rows:
        if numbers[id]["n"]:
            assert f"<td>{numbers[id]['n']:,} {numbers[id]['of']}</td>" in row


def test_every_picture_is_there_with_an_alt_text(page: Page, records: list) -> None:
    shown = [(record, name) for record in records for name in record["shown"]]
    drawn = [each for record, name in shown if "alt" in (each := record["shown"][name])]
    assert [picture["alt"] for picture in page.pictures] and len(page.pictures) == len(drawn)
    assert {picture["alt"] for picture in page.pictures} == {each["alt"] for each in drawn}


def test_it_needs_nothing_else(page: Page, text: str) -> None:
    outside = [each for each in page.addresses if not each.startswith(("#", "data:", "https://arxiv.org/"))]
    assert not outside and len(text) < 8_000_000
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and {each[1:] for each in page.addresses if each.startswith("#")} <= set(ids)


def test_the_items_of_a_paper_are_those_of_its_record_and_in_its_order(text: str) -> None:
    known = read_toml(paths.DATA / "published.toml")["papers"]
    headings = re.findall(r"<h3>([^<]+) <small>([^<]+)</small></h3>", text)
    for paper in known.values():
        wanted = [(each["name"], each["where"]) for each in paper["items"]]
        start = headings.index(wanted[0])
        assert headings[start : start + len(wanted)] == wanted
    assert ("Instruments", review.NOT_PUBLISHED) in headings


def test_the_committed_page_is_that_of_the_records(text: str, records: list) -> None:
    """Pictures and seconds are left out: another library or a slower day may give others."""
    if not all(accept.drift(record, "mini").same for record in records):
        pytest.skip("the results that lie here are another machine's, with digits of their own")
    committed = (paths.ROOT / "docs" / "review.html").read_text(encoding="utf-8")
    assert lasting(committed) == lasting(text), "run .venv/bin/xaikit review --committed --output docs/review.html"


def test_a_run_is_shown_as_it_is(checkout: Path) -> None:
    with pytest.raises(ValueError, match="No notebook has results of the profile 'mini': run `make figures"):
        review.page("mini", root=checkout)
    assert not run_notebooks([Job("01_small", "mini", root=checkout)])
    fresh = review.page("mini", root=checkout)
    assert "<dd>fresh</dd>" in fresh and 'alt="A line that rises from the left to the right."' in fresh
    assert "<dd>committed, not run here</dd>" in review.page("mini", root=checkout, committed=True)
    script = checkout / "notebooks" / "01_small.py"
    script.write_text(script.read_text().replace("[0, 1]", "[0, 2]"))
    stale = review.page("mini", root=checkout, committed=True)
    assert "<dd>stale</dd>" in stale and "stale, as code or settings have changed since" in stale
    stated = claims.stated(checkout / "data" / "claims.toml", "01_small").claims
    assert len(Page(stale).claims) == len(Page(fresh).claims) == len(stated) > 0


@pytest.mark.parametrize(
    ("number", "comparable", "inside"),
    [
        ({"protocol": "exact"}, "same data and size", None),
        ({"protocol": "exact", "low": 0.1, "high": 0.4}, "same data and size", True),
        ({"protocol": "exact", "low": 0.35, "high": 0.4}, "same data and size", False),
        ({"protocol": "corrected", "low": 0.1, "high": 0.4}, "other data or size", None),
    ],
)
def test_values_are_compared_only_where_they_are_of_the_same(
    number: dict, comparable: str, inside: bool | None
) -> None:
    base = {"id": "x", "n": 3, "unit": "fraction", "value": 0.36, "low": None, "high": None, "published": 0.3}
    row = review._row({**base, **number}, "mini")
    assert (row["comparable"], row["inside"]) == (comparable, inside)
    assert review._row({**base, "protocol": "corrected"}, "paper")["comparable"] == "same data and size"
