"""Numbers in prose that stand there by reference to a record: `xaikit states` writes what precedes each mark.

    0.39 [0.34, 0.47]<!-- number: ID -->     a number of the run of seed 0, with its 95 % interval where one is shown
    200<!-- n: ID -->                        how many observations it is of
    0.31 to 0.47<!-- band: ID -->            where its accepted band lies (`companion.accept`)
    0.70<!-- published: ID -->               the paper's own, of data/published.toml
    holds<!-- verdict: ID -->                of a claim, by all accepted runs
    12<!-- count: holds, 01 02 -->           of the claims with that verdict, of all or these notebooks; or of "claims",
                                             "by construction", "instruments", "passing instruments", "numbers",
                                             "banded numbers", and accepted "runs" of each notebook at least
    210<!-- rows: NOTEBOOK/TABLE -->         of a table
    0.40<!-- cell: NOTEBOOK/TABLE: ROW: COLUMN -->

They are those of the profile mini; with ` of full` at the end of the mark, of that one. As many decimals are written as
stand there, and percents where a percent sign does.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from xaikit.companion import accept
from xaikit.companion.claims import VERDICTS
from xaikit.storage.files import read_json, read_toml

_KINDS = ("number", "n", "band", "published", "verdict", "count", "rows", "cell")
_MARK = rf"<!-- (?P<kind>{'|'.join(_KINDS)}): (?P<what>[^\n]+?)(?: of (?P<profile>mini|full|paper))? -->"
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?: %)?"
MARK = re.compile(_MARK)
_SHOWN = "|".join([rf"{_NUMBER} \[{_NUMBER}, {_NUMBER}\]", f"{_NUMBER} to {_NUMBER}", _NUMBER, *VERDICTS])
REFERENCE = re.compile(rf"(?<![\d.])(?P<shown>{_SHOWN}){_MARK}")


def filled(text: str, root: Path) -> str:
    """The page with what each reference stands for.

    Raises ValueError, naming the mark, where no record has what it asks for, and where nothing stands before it.
    """
    sources: dict[str, _Source] = {}

    def value(reference: re.Match[str]) -> str:
        profile = reference["profile"] or "mini"
        source = sources.setdefault(profile, _Source(root, profile))
        try:
            written = getattr(source, reference["kind"])(reference["what"], reference["shown"])
        except (KeyError, StopIteration, FileNotFoundError):
            raise ValueError(f"no record has what a page refers to as {_mark(reference)}") from None
        return written + _mark(reference)

    written = REFERENCE.sub(value, text)
    whole = {reference.end() for reference in REFERENCE.finditer(written)}
    if bare := [_mark(mark) for mark in MARK.finditer(written) if mark.end() not in whole]:
        raise ValueError(
            f"no value of its kind stands before {bare[0]}: write 0.00 there, or 0.00 [0.00, 0.00], or holds"
        )
    return written


def _mark(reference: re.Match[str]) -> str:
    return reference[0][reference[0].index("<!--") :]


class _Source:
    """What the records of one profile say; a method for each kind of reference, which raises KeyError."""

    def __init__(self, root: Path, profile: str) -> None:
        self.root, self.profile = root, profile
        self.folder = root / "figures" / profile

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return [read_json(file) for file in sorted(self.folder.glob("*/numbers.json"))]

    @cached_property
    def numbers(self) -> dict[str, Mapping[str, Any]]:
        return {number["id"]: number for record in self.records for number in record["numbers"]}

    @cached_property
    def accepted(self) -> dict[str, Mapping[str, Any]]:
        kept = accept.read(self.profile, self.root).values()
        return {id: number for notebook in kept for id, number in notebook["numbers"].items()}

    def number(self, id: str, shown: str) -> str:
        found = self.numbers[id]
        ends = ("value", "low", "high") if "[" in shown else ("value",)
        return _like(shown, [found[end] for end in ends], found["unit"])

    def n(self, id: str, shown: str) -> str:
        return _like(shown, [self.numbers[id]["n"]], "count")

    def band(self, id: str, shown: str) -> str:
        found = self.accepted[id]
        return _like(shown, [found["low"], found["high"]], found["unit"])

    def published(self, id: str, shown: str) -> str:
        known = {number["id"]: number for number in read_toml(self.root / "data" / "published.toml")["number"]}
        return _like(shown, [known[id]["value"]], known[id]["unit"])

    def verdict(self, id: str, shown: str) -> str:
        return {claim["id"]: claim["verdict"] for record in self.records for claim in record["claims"]}[id]

    def count(self, what: str, shown: str) -> str:
        what, _, notebooks = what.partition(", ")
        records = [
            next(each for each in self.records if each["notebook"].startswith(begin)) for begin in notebooks.split()
        ] or self.records
        claims = [claim for record in records for claim in record["claims"]]
        reached = Counter(claim["verdict"] for claim in claims if not claim.get("by_construction"))
        tried = [each["passes"] for record in records for each in record["instruments"]]
        ids = [number["id"] for record in records for number in record["numbers"]]
        counts: dict[str, int] = {verdict: reached[verdict] for verdict in VERDICTS} | {
            "claims": len(claims), "by construction": len(claims) - reached.total(), "instruments": len(tried),
            "passing instruments": sum(tried), "numbers": len(ids),
            "banded numbers": sum(self.accepted.get(id, {}).get("low") is not None for id in ids),
            "runs": min(max(sum(claim["seeds"].values()) for claim in record["claims"]) for record in records),
        }  # fmt: skip
        return _like(shown, [counts[what]], "count")

    def rows(self, table: str, shown: str) -> str:
        return _like(shown, [len(self._table(table))], "count")

    def cell(self, what: str, shown: str) -> str:
        table, row, column = (*what.split(": ", 2), "", "")[:3]
        found = next(each for each in self._table(table) if next(iter(each.values())) == row)
        return _like(shown, [float(found[column])], "")

    def _table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def _like(shown: str, values: Sequence[float | int | None], unit: str) -> str:
    """The values in the place of the numbers in `shown`, with as many decimals as each of these.

    Raises KeyError where there is not one value for each.
    """
    places = list(re.finditer(_NUMBER, shown))
    if None in values or len(places) != len(values):
        raise KeyError(shown)

    def written(place: str, value: float | int) -> str:
        percent = place.endswith(" %")
        decimals = len(place.removesuffix(" %").partition(".")[2])
        times = 100 if percent and unit != "percent" else 1
        return f"{times * value:,.{decimals}f}" + (" %" if percent else "")

    for place, value in reversed(list(zip(places, values, strict=True))):
        shown = shown[: place.start()] + written(place[0], value) + shown[place.end() :]
    return shown
