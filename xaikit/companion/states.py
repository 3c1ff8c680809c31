"""What became of every artefact and claim, for the tables of README and docs: from records, by no hand.

    xaikit states

A rehearsal and a run on a GPU leave records that are not committed. What they say is kept in `data/ran.json`, with
commit and date, for as long as no later run says something else; records of other code than that which is here, and
of runs that did not end, are passed over. The state column of docs/artefacts.md is then
written from that file and from the committed records of mini, and so are the tables of claims and instruments in
docs/results.md, between `<!-- claims: 01_name -->` (or `01_name of full`) and `<!-- end -->`, the README's of verdicts,
and the one at the end of docs/article.md of what it takes to see them. Numbers in their prose are those of records too
(`companion.references`).
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from xaikit.companion import profiles, references, verdicts
from xaikit.storage import sources
from xaikit.storage.files import read_json, write_text
from xaikit.storage.paths import ROOT

PAGES = ("README.md", "docs/article.md", "docs/results.md", "docs/artefacts.md")
TABLE = re.compile(
    r"(?P<start><!-- (?P<kind>claims|instruments|verdicts|evaluation): "
    r"(?P<notebook>\w+)(?: of (?P<profile>\w+))? -->\n).*?(?=<!-- end -->)",
    re.S,
)
PRETENDED = "a pretended GPU"  # the device that tests/device/pretend_gpu.py names
ROW = re.compile(
    r"^\| `(?P<notebook>\d\d_\w+)` \| (?P<artefacts>[^|]+) \| (?P<shows>[^|]+) \| (?P<state>[^|]*) \|$", re.M
)


@dataclass(frozen=True)
class Ran:
    """A run that is not committed: what it made, and what it left out, for which reason."""

    notebook: str
    profile: str
    device: str
    date: str
    commit: str
    source: str
    digest: str
    artefacts: tuple[str, ...]
    skipped: Mapping[str, str]

    @property
    def on_gpu(self) -> bool:
        return self.device not in ("cpu", PRETENDED)


def noted(root: Path = ROOT) -> list[Ran]:
    """The runs that `data/ran.json` keeps. Raises ValueError, naming the file, where it is damaged."""
    file = root / "data" / "ran.json"
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["runs"]
        return [Ran(**{**each, "artefacts": tuple(each["artefacts"])}) for each in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): restore it with git checkout") from None


def note(root: Path = ROOT) -> list[Ran]:
    """Keep what the records of rehearsals and of GPUs say that lie here; the result is all that is kept then."""
    kept = {(each.notebook, each.profile, each.on_gpu): each for each in noted(root)}
    for found in _present(root):
        key = found.notebook, found.profile, found.on_gpu
        same = key in kept and (kept[key].source, kept[key].digest) == (found.source, found.digest)
        kept[key] = kept[key] if same else found
    runs = [kept[key] for key in sorted(kept)]
    write_text(root / "data" / "ran.json", json.dumps({"runs": [asdict(run) for run in runs]}, indent=1) + "\n")
    return runs


def filled(page: str, root: Path = ROOT) -> str:
    """The page with the state of each row of its table of artefacts, its other tables and the numbers in its prose.

    Raises ValueError where its prose refers to what no record has.
    """
    runs = noted(root)

    def with_state(row: re.Match[str]) -> str:
        names = re.findall(r"`(\w+)`", row["artefacts"])
        state = _state(row["notebook"], names, runs, root)
        return f"| `{row['notebook']}` | {row['artefacts']} | {row['shows']} | {state} |"

    def from_record(table: re.Match[str]) -> str:
        if make := {"verdicts": verdicts.summary_table, "evaluation": verdicts.evaluation_table}.get(table["kind"]):
            names = sorted(file.parent.name for file in (root / "figures" / table["notebook"]).glob("*/numbers.json"))
            records = [_record(root / "figures" / table["notebook"] / name) or {} for name in names]
            return f"{table['start']}\n{make(records)}\n\n"
        record = _record(root / "figures" / (table["profile"] or "mini") / table["notebook"])
        make = {"claims": verdicts.claims_table, "instruments": verdicts.instruments_table}[table["kind"]]
        return f"{table['start']}\n{make(record)}\n\n" if record else table[0]

    return references.filled(TABLE.sub(from_record, ROW.sub(with_state, page)), root)


def write(root: Path = ROOT) -> None:
    """Note what has run, and bring the tables of README and docs up to date."""
    note(root)
    for name in PAGES:
        if (file := root / name).is_file():
            write_text(file, filled(file.read_text(encoding="utf-8"), root))


def _state(notebook: str, names: Sequence[str], runs: Sequence[Ran], root: Path) -> str:
    """As "mini · rehearsed 2026-11-29 · GPU: NVIDIA H100, paper, 2026-12-01", or what of it is not so."""
    small = _record(root / "figures" / "mini" / notebook)
    parts = ["mini" if small and set(names) <= _made(small) else "not in mini"]
    own = [run for run in runs if run.notebook == notebook]
    rehearsals = [run for run in own if profiles.rehearses(run.profile, _profiles(root))]
    latest = max(rehearsals, key=lambda run: run.date, default=None)
    if latest is None:
        parts.append("not rehearsed")
    elif set(names) <= {*latest.artefacts}:
        parts.append(f"rehearsed {latest.date}")
    elif set(names) <= {*latest.artefacts, *latest.skipped}:
        parts.append(f"left out in the rehearsal of {latest.date}")
    else:
        parts.append("not rehearsed")
    cards = [run for run in own if run.on_gpu and set(names) <= {*run.artefacts}]
    best = max(cards, key=lambda run: (run.profile == "paper", run.date), default=None)
    parts.append(f"GPU: {best.device}, {best.profile}, {best.date}" if best else "not run on a GPU")
    return " · ".join(parts)


def _present(root: Path) -> Iterator[Ran]:
    """The records here of rehearsals and of runs on a GPU, of the code that is here."""
    for file in sorted([*root.glob("figures/*/*/numbers.json"), *root.glob("build/gpu/*/*/numbers.json")]):
        record = _record(file.parent)
        if record is None or record.get("profile") not in profiles.names(_profiles(root)):
            continue
        if "unfinished" in record:
            print(f"passed over: {file.relative_to(root)} is of a run that did not end ({record['unfinished']})")
            continue
        on_gpu = record["device"] not in ("cpu", PRETENDED)
        if not on_gpu and not profiles.rehearses(record["profile"], _profiles(root)):
            continue
        if record["source"] != sources.notebook_source(record["notebook"], record["profile"], root):
            print(f"passed over: {file.relative_to(root)} is of other code than that which is here")
            continue
        yield Ran(
            record["notebook"], record["profile"], record["device"],
            date.fromtimestamp(file.stat().st_mtime).isoformat(), _commit(root), record["source"], record["digest"],
            tuple(sorted(_made(record))), record.get("skipped", {}),
        )  # fmt: skip


def _made(record: Mapping[str, Any]) -> set[str]:
    return {Path(name).stem for name in record["artefacts"]} | ({"claims"} if record["claims"] else set())


def _record(folder: Path) -> dict[str, Any] | None:
    file = folder / "numbers.json"
    return read_json(file) if file.is_file() else None


def _profiles(root: Path) -> Path:
    return root / sources.PACKAGE / "companion" / "profiles"


def _commit(root: Path) -> str:
    """The commit that is checked out, in short; "" where that is not known."""
    asked = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else ""
