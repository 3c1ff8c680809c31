"""What can be said of a notebook's results: whether they are of the code that is here, and were made here.

Only what is fresh counts. A record that came with the repository was made on another machine, perhaps by other code;
and the results that lie there after a failure are an earlier run's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from xaikit.companion import progress, run
from xaikit.companion.run import Job
from xaikit.storage import sources
from xaikit.storage.files import read_json


class State(StrEnum):
    FRESH = "fresh"  # code, settings and a whole run on this machine agree
    COMMITTED = "committed, not run here"  # of this code and these settings, by another machine
    STALE = "stale"  # of other code or settings, or changed by hand
    FAILED = "failed"  # the last run did not come to its end
    RUNNING = "running"
    DAMAGED = "damaged"  # the record cannot be read
    MISSING = "no run"


@dataclass(frozen=True)
class Status:
    state: State
    why: str = ""  # in words, where the state alone does not say it
    record: Mapping[str, Any] | None = None  # the content of numbers.json, where it can be read


def status(job: Job, parameters: Mapping[str, Any] | None = None) -> Status:
    """What the results of a run are, to somebody who asks for it with these parameters (by default with none)."""
    record, damage = None, ""
    try:
        record = read_record(job)
    except ValueError as error:
        damage = str(error)
    last = progress.read(job.file(".run.json"))
    if run.is_running(job):
        return Status(State.RUNNING, f"running, in section {last.section or 'the start'!r}" if last else "", record)
    if last:
        return Status(State.FAILED, _unfinished(job, last), record)
    if damage:
        return Status(State.DAMAGED, damage)
    if record is None:
        return Status(State.MISSING)
    try:
        source = sources.notebook_source(job.name, job.profile, job.root)
    except (OSError, SyntaxError, ValueError) as error:
        return Status(State.STALE, f"stale, as what it is made from cannot be read: {error}", record)
    made_from = {"source": source, "parameters": dict(parameters or {})}
    if run.is_fresh(job, made_from):
        return Status(State.FRESH, record=record)
    return _not_fresh(job, made_from, record)


def read_record(job: Job) -> dict[str, Any] | None:
    """The content of a run's numbers.json, or None where there is none.

    Raises ValueError, naming the file, where it is damaged: no JSON, or no record.
    """
    file = job.results / progress.NUMBERS
    if not file.exists():
        return None
    record = read_json(file)
    try:
        fits = {"notebook", "source", "versions", "device"} <= record.keys() and record["seconds"] >= 0
        fits &= all(isinstance(name, str) for name in record["artefacts"])
        fits &= isinstance(record.get("skipped", {}), dict)
        fits &= all(
            isinstance(number["id"], str) and number["value"] == float(number["value"]) for number in record["numbers"]
        )
        fits &= all(isinstance(claim["id"], str) and isinstance(claim["verdict"], str) for claim in record["claims"])
    except (AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{file} is damaged (it is no record of a run): run {job.name} again, or restore it")
    return record


def _unfinished(job: Job, last: progress.Progress) -> str:
    said = f"{last.where}; log: {job.file('.log')}"
    if not last.artefacts:
        return said
    said += f"; what it finished, {progress.some(last.artefacts, 'file')}, is in {last.folder}"
    # One that was killed had no time to mark its record as that of an unfinished run.
    return said + (f", its numbers so far in {progress.SO_FAR}" if (last.folder / progress.SO_FAR).is_file() else "")


def _not_fresh(job: Job, made_from: Mapping[str, Any], record: Mapping[str, Any]) -> Status:
    if record["source"] != made_from["source"]:
        return Status(State.STALE, "stale, as code or settings have changed since", record)
    stamp, files = run.stamp(job), run.checksums(job)
    there = (stamp or {}).get("files") or {}
    if there.get(progress.NUMBERS) != files[progress.NUMBERS]:
        if missing := sorted({*record["artefacts"]} - files.keys()):
            return Status(State.STALE, f"stale, as {', '.join(missing)} is gone", record)
        return Status(State.COMMITTED, record=record)
    if stamp is not None and stamp.get("parameters") != made_from["parameters"]:
        return Status(State.STALE, f"stale, as it was made with the parameters {stamp.get('parameters')}", record)
    changed = sorted(name for name in {*there, *files} if there.get(name) != files.get(name))
    return Status(State.STALE, f"stale, as these were changed since the run: {', '.join(changed)}", record)
