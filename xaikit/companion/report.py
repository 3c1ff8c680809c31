"""What the last runs left, in one table."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xaikit.companion import accept
from xaikit.companion.run import Job, variants_run

VERDICTS = ("holds", "fails", "inconclusive", "not-run")


def report(chosen: Sequence[Job], *, seeds: bool = False) -> None:
    """Print a row a notebook: seconds, artefacts, claims by verdict, numbers within and outside their bands.

    "not checked" are numbers whose bands are too wide to say anything, and "digits" tells whether all numbers are the
    accepted ones to the last digit. Below it each number outside of its band, with the band, and what to report of the
    machine. With `seeds` there is a row for every run that lies in build/, of other seeds and arithmetics too, and
    below it the claims whose verdicts differ. Nothing but the records is read.
    """
    table = Table(title=f"profile {chosen[0].profile}")
    table.add_column("notebook", no_wrap=True)
    for heading in ("seconds", "artefacts", *VERDICTS, "within", "outside", "not checked"):
        table.add_column(heading, justify="right")
    table.add_column("digits")
    notes: list[str] = []
    for job in chosen:
        records = {each: record for each in _runs(job, seeds) if (record := _record(each))}
        if not records:
            table.add_row(job.name, "no run")
        for each, record in records.items():
            drift = accept.drift(record, each.profile, each.root)
            reached = [claim["verdict"] for claim in record["claims"]]
            artefacts = {Path(name).stem for name in record["artefacts"]}
            counts = (
                len(artefacts), *map(reached.count, VERDICTS), len(drift.within), len(drift.outside),
                len(drift.unchecked),
            )  # fmt: skip
            label = f"  {each.variant}" if each.variant else each.name
            table.add_row(
                label, f"{record['seconds']:.0f}", *map(str, counts), "as accepted" if drift.same else "other"
            )
            run = f"{each.variant}: " if each.variant else ""
            notes += [
                f"outside: {run}{id} = {value:.6g}, accepted {low:.6g} to {high:.6g}"
                for id, value, low, high in drift.outside
            ]
            notes += [f"not recorded, though accepted: {run}{id}" for id in drift.missing]
            if drift.outside:
                notes.append(f"A number outside is a finding: please report it with this line. {_setting(record)}")
            if drift.unknown:
                notes.append(f"{run}{each.name}: numbers not accepted yet: {len(drift.unknown)} (make accept)")
        if seeds:
            notes += _differing(records)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def _runs(job: Job, seeds: bool) -> Iterator[Job]:
    yield job
    if seeds:
        yield from variants_run(job)


def _record(job: Job) -> dict[str, Any] | None:
    file = job.results / "numbers.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _differing(records: Mapping[Job, Mapping[str, Any]]) -> Iterator[str]:
    """The claims whose verdicts are not the same in all runs."""
    reached: dict[str, list[str]] = {}
    for record in records.values():
        for claim in record["claims"]:
            reached.setdefault(claim["id"], []).append(claim["verdict"])
    for id, verdicts in sorted(reached.items()):
        if len(set(verdicts)) > 1:
            counted = ", ".join(f"{verdict} {verdicts.count(verdict)}" for verdict in VERDICTS if verdict in verdicts)
            yield f"{id}: {counted} of {len(verdicts)} runs"


def _setting(record: Mapping[str, Any]) -> str:
    """What a number may depend on, in one line."""
    machine = record.get("machine", {})
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{record['notebook']}, seed {record['seed']}, source {record['source'][:12]}; {versions}; {record['device']}, "
        f"{machine.get('cpu')}, {machine.get('arithmetic')} arithmetic, {machine.get('threads')} threads on "
        f"{machine.get('cores')} cores, {machine.get('flags')}"
    )
