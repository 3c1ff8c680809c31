"""What the last runs left, in one table."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xaikit.companion import accept
from xaikit.companion.claims import VERDICTS
from xaikit.companion.freshness import State, status
from xaikit.companion.progress import duration, some
from xaikit.companion.run import Job, page_is_older, variants_run


def report(chosen: Sequence[Job], *, seeds: bool = False, parameters: Mapping[str, Any] | None = None) -> list[str]:
    """Print a row a notebook: its state and, of fresh results, seconds, artefacts, claims by verdict, numbers by band.

    A verdict is that of all accepted runs of this source; what could only come out as it did is not counted. "not
    checked" are numbers whose bands are too wide to say anything, and "digits" tells whether all numbers are the
    accepted ones to the last digit. Below it why results are not fresh, each number outside of its band, with the band,
    what to report of the machine, what was skipped, and which instruments fail. With `seeds` there is a row for every
    run that lies in build/, of other seeds and arithmetics too, and below it the claims whose verdicts differ.
    `parameters` are those that the runs were asked for with. Returns the names of those that failed. Raises ValueError,
    after the table, where the file of the accepted numbers is damaged.
    """
    table = Table(title=f"profile {chosen[0].profile}")
    table.add_column("notebook", no_wrap=True)
    table.add_column("state")
    for heading in ("seconds", "artefacts", *VERDICTS, "within", "outside", "not checked"):
        table.add_column(heading, justify="right")
    table.add_column("digits")
    notes: list[str] = []
    counted: Counter[State] = Counter()
    failed: list[str] = []
    damage: ValueError | None = None
    for job in chosen:
        records: dict[Job, Mapping[str, Any]] = {}
        for each in _runs(job, seeds):
            found = status(each, parameters)
            counted[found.state] += 1
            label, name = (f"  {each.variant}", f"{each.name} ({each.variant})") if each.variant else (each.name,) * 2
            if found.state == State.FAILED:
                failed.append(name)
            if found.why:
                notes.append(f"{name}: {found.why}")
            if found.state != State.FRESH or found.record is None:
                table.add_row(label, found.state)
                continue
            records[each] = found.record
            try:
                drift = accept.drift(found.record, each.profile, each.root)
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                drift, damage = None, _damaged(each, error)
            table.add_row(label, found.state, *_counts(found.record, drift))
            notes += [f"{name}: skipped {what}: {why}" for what, why in found.record.get("skipped", {}).items()]
            notes += _instruments(name, found.record)
            notes += _drifted(each, found.record, drift) if drift else []
        if page_is_older(job):
            notes.append(f"{job.name}: its page shows other cells than its script (make notebooks writes it anew)")
        if seeds:
            notes += _differing(records)
    notes.append(
        f"{some(list(counted.elements()), 'run')}: "
        + ", ".join(f"{counted[state]} {state}" for state in State if counted[state])
    )
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    if damage:
        raise damage
    return failed


def to_run(chosen: Sequence[Job]) -> str:
    """What has to be run before the results of these notebooks are fresh, and about how long that takes."""
    found = {job.name: status(job) for job in chosen}
    missing = {name: each for name, each in found.items() if each.state != State.FRESH}
    if not missing:
        return "Every notebook is up to date: none is run first."
    known = [float(each.record["seconds"]) for each in missing.values() if each.record]
    all_known = len(known) == len(missing)
    time = f"about {duration(sum(known, 0.0))} by their records" if all_known else "how long is not known"
    return f"Runs first ({time}): " + ", ".join(f"{name} ({each.state})" for name, each in missing.items()) + "."


def _damaged(job: Job, error: Exception) -> ValueError:
    file = f"data/accepted/{job.profile}.json"
    said = str(error) if file in str(error) else f"{file} is damaged ({error}): restore it from the repository"
    return ValueError(f"no number was compared: {said}")


def _counts(record: Mapping[str, Any], drift: accept.Drift | None) -> list[str]:
    reached = [claim["verdict"] for claim in record["claims"] if not claim.get("by_construction")]
    artefacts = {Path(name).stem for name in record["artefacts"]}
    counts = [f"{record['seconds']:.0f}", len(artefacts), *map(reached.count, VERDICTS)]
    if drift:
        counts += [len(drift.within), len(drift.outside), len(drift.unchecked)]
        counts.append("as accepted" if drift.same else "other")
    return [str(count) for count in counts]


def _instruments(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """What fails of the controls, and how many claims that leaves without a verdict."""
    for each in record.get("instruments", ()):
        if not each["passes"]:
            rest = [claim["id"] for claim in record["claims"] if each["id"] in claim.get("instruments", ())]
            yield f"{name}: no instrument for {some(rest, 'claim')}: {each['id']} fails, as {each['why']}"
    if given := [claim["id"] for claim in record["claims"] if claim.get("by_construction")]:
        yield f"{name}: not counted, as nothing could have come out otherwise: {some(given, 'claim')}"


def _drifted(job: Job, record: Mapping[str, Any], drift: accept.Drift) -> Iterator[str]:
    run = f"{job.variant}: " if job.variant else ""
    for id, value, low, high in drift.outside:
        yield f"outside: {run}{id} = {value:.6g}, accepted {low:.6g} to {high:.6g}"
    for id in drift.missing:
        yield f"not recorded, though accepted: {run}{id}"
    if drift.outside:
        yield f"A number outside is a finding: please report it with this line. {_setting(record)}"
    if drift.unknown:
        yield f"{run}{job.name}: numbers not accepted yet: {len(drift.unknown)} (make accept)"


def _runs(job: Job, seeds: bool) -> Iterator[Job]:
    yield job
    if seeds:
        yield from variants_run(job)


def _differing(records: Mapping[Job, Mapping[str, Any]]) -> Iterator[str]:
    """The claims whose verdicts are not the same in all runs."""
    reached: dict[str, list[str]] = {}
    for record in records.values():
        for claim in record["claims"]:
            reached.setdefault(claim["id"], []).append(accept.of_this_run(claim))
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
