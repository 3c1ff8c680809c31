"""The papers beside the rerun, on one page that needs nothing else: for each table and figure, in the paper's order.

    xaikit review

Every picture, every published value beside the rerun's with its interval, every claim with its verdict, its instruments
and the runs that agree, how old the result is and what makes it anew. Written from the records; nothing is run.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from xaikit.companion import freshness, profiles, verdicts
from xaikit.companion.claims import VERDICTS
from xaikit.companion.freshness import State, Status
from xaikit.companion.progress import duration
from xaikit.companion.run import Job, jobs
from xaikit.storage import paths, sources
from xaikit.storage.files import read_toml, write_text

WIDEST = 1_100  # pixels of a picture on the page; the files themselves are larger
QUALITY = 80  # of a picture in WebP, of 100: letters stay sharp
LONGEST = 40  # rows of a table that are shown; the file has all
NOT_PUBLISHED = "not in the paper"
PAGE = Path("build") / "review.html"


@dataclass(frozen=True)
class Picture:
    """A figure of the run, small enough for the page."""

    name: str
    alt: str
    data: str  # of a data: address
    width: int
    height: int


@dataclass(frozen=True)
class Table:
    name: str
    columns: list[str]
    rows: list[list[str]]
    left_out: int


@dataclass
class Item:
    """A figure, table or section of the paper, or a control of our own: what became of it."""

    name: str
    where: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)  # numbers that the paper has too
    others: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.pictures or self.tables or self.beside or self.others or self.claims)


@dataclass(frozen=True)
class Paper:
    """One paper with its notebook, and the state of that notebook's results."""

    title: str
    authors: str
    source: str
    url: str
    notebook: str
    state: str
    why: str
    facts: list[tuple[str, str]]
    counts: dict[str, int]
    items: list[Item]
    instruments: list[dict[str, Any]]
    skipped: dict[str, str]


def page(profile: str = "mini", *, root: Path = paths.ROOT, committed: bool = False) -> str:
    """The page of one profile, as HTML.

    With `committed` nothing that was run here counts, but the records alone, so that the page is the same everywhere.
    Raises ValueError where no notebook of the profile has results.
    """
    found = [(job, _status(job, committed)) for job in jobs((), profile, root=root)]
    if all(status.record is None for _, status in found):
        raise ValueError(f"No notebook has results of the profile {profile!r}: run `make figures PROFILE={profile}`.")
    known = read_toml(paths.DATA / "published.toml")["papers"]
    # A notebook that decides no claim, as the first one, has nothing to review.
    papers = [_paper(job, status, known) for job, status in found if status.record and status.record["claims"]]
    missing = [job.name for job, status in found if status.record is None]
    environment = Environment(
        loader=PackageLoader("xaikit.companion", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("review.html").render(
        profile=profile,
        small=not profile.startswith("paper"),
        rehearses=profile in profiles.names() and profiles.rehearses(profile),
        papers=papers,
        missing=missing,
        verdicts=VERDICTS,
        meaning=MEANING,
        total=sum((Counter(paper.counts) for paper in papers), Counter()),
    )


def write(profile: str = "mini", output: Path | None = None, *, committed: bool = False) -> Path:
    """Write the page, by default to build/review.html; its path. Raises ValueError as `page` does."""
    file = paths.workplace(paths.ROOT) / PAGE if output is None else output
    text = page(profile, committed=committed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file


MEANING = {
    "holds": "the whole interval lies on the claim's side",
    "fails": "the whole interval lies on the other side",
    "inconclusive": "the interval lies on both sides, a p-value is not small, or runs do not agree",
    "no-instrument": "what measures it fails a control, so nothing is decided",
    "not-run": "it was not measured in this profile",
}


def _status(job: Job, committed: bool) -> Status:
    if not committed:
        return freshness.status(job)
    record = freshness.read_record(job)
    if record is not None and record["source"] != sources.notebook_source(job.name, job.profile, job.root):
        return Status(State.STALE, "stale, as code or settings have changed since", record)
    return Status(State.COMMITTED if record else State.MISSING, record=record)


def _paper(job: Job, status: Status, known: Mapping[str, Any]) -> Paper:
    record = status.record or {}
    key = _key(record, known)
    about = known.get(key, {})
    items = {each["name"]: Item(each["name"], each["where"]) for each in about.get("items", ())}

    def item(name: str) -> Item:
        return items.setdefault(name, Item(name, NOT_PUBLISHED))

    for name, shown in record.get("shown", {}).items():
        here = item(shown["item"])
        if f"{name}.png" in record["artefacts"]:
            here.pictures.append(_picture(job.results / f"{name}.png", name, shown["alt"]))
        if f"{name}.csv" in record["artefacts"]:
            here.tables.append(_table(job.results / f"{name}.csv", name))
    for number in record["numbers"]:
        here = item(number["item"])
        row = _row(number, job.profile)
        (here.others if number["published"] is None else here.beside).append(row)
    tried = {each["id"]: each for each in record["instruments"]}
    for claim in record["claims"]:
        item(claim["item"]).claims.append(_claim(claim, tried))
    counts = Counter(claim["verdict"] for claim in record["claims"] if not claim.get("by_construction"))
    machine = record.get("machine", {})
    facts = [
        ("result", f"{status.state}"),
        ("made anew by", f"make {job.name}" + ("" if job.profile == "mini" else f" PROFILE={job.profile}")),
        ("which took", f"{duration(record['seconds'])} on {machine.get('cpu') or record['device']}"),
        ("device", record["device"]),
        ("seed", str(record["seed"])),
        ("digest of its numbers", record["digest"]),
    ]
    return Paper(
        title=about.get("title") or _heading(job), authors=", ".join(about.get("authors", ())),
        source=", ".join(str(about[each]) for each in ("venue", "year") if each in about), url=about.get("url", ""),
        notebook=job.name, state=str(status.state), why=status.why, facts=facts,
        counts={verdict: counts[verdict] for verdict in VERDICTS}, items=list(items.values()),
        instruments=[_instrument(each, record) for each in record["instruments"]], skipped=record.get("skipped", {}),
    )  # fmt: skip


def _heading(job: Job) -> str:
    """What a notebook that stands for no paper calls itself."""
    script = paths.shipped(job.root) / "notebooks" / f"{job.name}.py"
    found = re.search(r"^# # (.+)$", script.read_text(encoding="utf-8"), re.MULTILINE) if script.is_file() else None
    return found.group(1) if found else job.name


def _key(record: Mapping[str, Any], known: Iterable[str]) -> str:
    """The paper that a record's numbers are of: their ids begin with its name."""
    begins = Counter(each["id"].partition(".")[0] for each in (*record["numbers"], *record["claims"]))
    return next((name for name, _ in begins.most_common() if name in known), "")


def _picture(file: Path, name: str, alt: str) -> Picture:
    with Image.open(file) as image:
        shown = image.convert("RGB")
        shown.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        shown.save(content, "webp", quality=QUALITY)
    return Picture(name, alt, base64.b64encode(content.getvalue()).decode(), *shown.size)


def _table(file: Path, name: str) -> Table:
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    shown = [[_readable(cell) for cell in row] for row in table.head(LONGEST).to_numpy().tolist()]
    return Table(name, list(table.columns), shown, max(0, len(table) - LONGEST))


def _readable(cell: str) -> str:
    """A number with four digits, anything else as it is; a gap as a dash."""
    try:
        value = float(cell)
    except ValueError:
        return cell or "–"
    return cell if value.is_integer() and "." not in cell else f"{value:.4g}"


def _row(number: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """A number of the rerun, beside the paper's where it has one.

    Counts that follow from shapes or arithmetic ("exact") are of the same thing in any profile; all else is comparable
    only where data, models and sizes are the paper's.
    """
    same, inside = number["protocol"] == "exact" or profile == "paper", None
    if same and None not in (number["published"], number["low"]):
        inside = number["low"] <= number["published"] <= number["high"]
    return {
        **{key: number[key] for key in ("id", "n", "unit", "protocol")},
        **{key: _four(number[key]) for key in ("value", "low", "high", "published")},
        "comparable": "same data and size" if same else "other data or size",
        "inside": inside,
    }


def _four(value: float | int | None) -> str:
    return "" if value is None else f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _claim(claim: Mapping[str, Any], tried: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    flags = [name.replace("_", " ") for name in ("by_construction", "exploratory") if claim.get(name)]
    counted = "needs" in claim and claim["verdict"] == "inconclusive"  # without an instrument no number decides
    return {
        **{key: claim[key] for key in ("id", "text", "rule", "protocol", "verdict")},
        "shown": verdicts.shown(claim),
        "flags": flags,
        "instruments": [(each, bool(tried.get(each, {}).get("passes"))) for each in claim["instruments"]],
        "measured": claim.get("measured", ""),
        "reason": claim.get("reason", ""),
        "evidence": claim["evidence"],
        "needs": f"about {claim['needs']:,} {claim['of']} would decide it" if counted else "",
    }


def _instrument(each: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {number["id"]: number for number in record["numbers"]}
    found = [numbers.get(control["number"]) for control in each["controls"]]
    controls = [
        {**control, "found": _found(number), "over": _over(number)}
        for control, number in zip(each["controls"], found, strict=True)
    ]
    used = sum(each["id"] in claim["instruments"] for claim in record["claims"])
    return {**each, "controls": controls, "why": each.get("why", ""), "claims": used}


def _found(number: Mapping[str, Any] | None) -> str:
    if number is None:
        return "not measured"
    interval = "" if number["low"] is None else f" [{_four(number['low'])}, {_four(number['high'])}]"
    return f"{_four(number['value'])}{interval}"


def _over(number: Mapping[str, Any] | None) -> str:
    """What the interval is over; records that were made before it was kept do not say it."""
    return f"{number['n']:,} {number['of']}" if number and number["n"] and "of" in number else ""
