"""What the last runs left, in one table."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xaikit import accept
from xaikit.run import Job


def report(chosen: Sequence[Job]) -> None:
    """Print a row a notebook: seconds, artefacts, claims by verdict, numbers within and outside their bands.

    Below it each number outside of its band, with the band. Nothing but the records is read.
    """
    verdicts = ("holds", "fails", "inconclusive", "not-run")
    table = Table(title=f"profile {chosen[0].profile}")
    table.add_column("notebook")
    for heading in ("seconds", "artefacts", *verdicts, "within", "outside"):
        table.add_column(heading, justify="right")
    notes = []
    for job in chosen:
        file = job.results / "numbers.json"
        if not file.exists():
            table.add_row(job.name, "no run")
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        drift = accept.drift(record, job.profile, job.root)
        reached = [claim["verdict"] for claim in record["claims"]]
        artefacts = {Path(name).stem for name in record["artefacts"]}
        counts = (len(artefacts), *map(reached.count, verdicts), len(drift.within), len(drift.outside))
        table.add_row(job.name, f"{record['seconds']:.0f}", *map(str, counts))
        notes += [
            f"outside: {id} = {value:.6g}, accepted {low:.6g} to {high:.6g}" for id, value, low, high in drift.outside
        ]
        notes += [f"not recorded, though accepted: {id}" for id in drift.missing]
        if drift.unknown:
            notes.append(f"{job.name}: numbers not accepted yet: {len(drift.unknown)} (make accept)")
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
