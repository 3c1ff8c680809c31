"""Accepted values of every number, with bands from its spread over seeds and arithmetics, and a run's drift from them.

A training is chaotic: another order of summation makes another network, as another seed does. So each of the runs
that make the bands has a seed of its own under an arithmetic of its own, and a band says what any machine may give.

data/accepted/<profile>.json keeps what each of these runs gave, all values and verdicts with the hash of the source
that gave them, so that other machines and days can add runs. Bands follow from it alone (`bands`) and stand there
too, so that a report needs no statistics. A run under a variant that is there takes its place.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from filelock import FileLock

from xaikit.companion import claims, profiles
from xaikit.companion.units import RANGES, rounded
from xaikit.storage import sources
from xaikit.storage.arithmetic import ARITHMETICS, NATIVE
from xaikit.storage.files import write_text
from xaikit.storage.paths import ROOT, must_be_checkout, shipped, workplace

# A variance from a few runs is itself uncertain, so each is drawn towards the typical one of its unit, which
# weighs as much as this many degrees of freedom (Smyth 2004, the moderated t statistic, with a fixed prior).
PRIOR_DEGREES = 4
COVERAGE = 0.999
EXACT_TOLERANCE = 1e-4
WIDEST = 1 / 3  # of a number's range: a wider band checks nothing

# None is the profile's own arithmetic; the seed counts on, and seed 0 is the ordinary run.
_ARITHMETICS: tuple[str | None, ...] = (None, *(name for name in ARITHMETICS if name not in ("portable", NATIVE)))
VARIANTS = len(_ARITHMETICS)  # of each notebook, where no other number is asked for


class Variant(TypedDict):
    """One of the runs that made the bands. Without `source` it is one of earlier days, of which no values were kept."""

    seed: int
    arithmetic: str
    source: NotRequired[str]
    cpu: NotRequired[str]


class Number(TypedDict):
    """A number in the ordinary run, in each of the runs (None: it had none), and its band (None: it is not checked)."""

    value: float
    low: float | None
    high: float | None
    unit: str
    exact: NotRequired[bool]
    values: NotRequired[list[float | None]]


class Accepted(TypedDict):
    """What is kept of one notebook: the ordinary run's digest, and what each of the `runs` gave, in their order."""

    digest: str
    runs: list[Variant]
    verdicts: dict[str, list[str | None]]
    numbers: dict[str, Number]


@dataclass(frozen=True)
class Drift:
    """How the numbers of a run lie to the accepted ones."""

    within: list[str] = field(default_factory=list)
    outside: list[tuple[str, float, float, float]] = field(default_factory=list)  # id, value, low, high
    unchecked: list[str] = field(default_factory=list)  # their bands are too wide to say anything
    unknown: list[str] = field(default_factory=list)  # in the run, not accepted
    missing: list[str] = field(default_factory=list)  # checked, not in the run
    same: bool = False  # all numbers and verdicts are those accepted, to the last digit


def drift(record: Mapping[str, Any], profile: str, root: Path = ROOT) -> Drift:
    """Compare a run's record (the content of its numbers.json) with the accepted values of the profile."""
    notebook: Mapping[str, Any] = read(profile, root).get(record["notebook"], {})
    accepted = notebook.get("numbers", {})
    values = {number["id"]: number["value"] for number in record["numbers"]}
    checked = [id for id in values if id in accepted and accepted[id]["low"] is not None]
    placed = [(id, values[id], accepted[id]["low"], accepted[id]["high"]) for id in checked]
    return Drift(
        within=[id for id, value, low, high in placed if low <= value <= high],
        outside=[(id, value, low, high) for id, value, low, high in placed if not low <= value <= high],
        unchecked=[id for id in values if id in accepted and id not in checked],
        unknown=[id for id in values if id not in accepted],
        missing=[id for id in accepted if id not in values and accepted[id]["low"] is not None],
        same="digest" in record and record["digest"] == notebook.get("digest"),
    )


def read(profile: str, root: Path = ROOT) -> dict[str, Accepted]:
    """What is accepted for a profile, by notebook; empty where nothing was accepted yet.

    Raises ValueError, naming the file, where it is damaged.
    """
    file = _file(profile, root)
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); restore it from the repository.") from error


def verdict_counts(
    notebook: Accepted, source: str | None = None, without: tuple[int, str] | None = None
) -> dict[str, Counter[str]]:
    """How often each claim came to each verdict: {"a.claim": {"holds": 5, "fails": 1}}.

    Counted are the runs that have the claim; with `source`, those of them alone that this source made, and not the one
    `without`, its seed and arithmetic.
    """
    chosen = [
        each
        for each, run in enumerate(notebook["runs"])
        if source in (None, run.get("source")) and (run["seed"], run["arithmetic"]) != without
    ]
    return {
        id: Counter(verdict for each in chosen if (verdict := reached[each]) is not None)
        for id, reached in notebook["verdicts"].items()
    }


def with_other_runs(record: Mapping[str, Any], root: Path = ROOT) -> dict[str, Any]:
    """A run's record whose claims count the verdicts of all accepted runs of its source, itself among them (`seeds`).

    The verdict of a claim is then theirs: what differs among runs is inconclusive, whatever this run says (`this_run`).
    """
    try:
        notebook = read(record["profile"], root).get(record["notebook"])
    except ValueError as error:  # a run is not lost for that
        print(error, file=sys.stderr)
        notebook = None
    own = record["seed"], record["machine"]["arithmetic"]
    others = verdict_counts(notebook, record["source"], without=own) if notebook else {}
    renewed = []
    for claim in record["claims"]:
        seeds = others.get(claim["id"], Counter()) + Counter([of_this_run(claim)])
        ordered = {verdict: seeds[verdict] for verdict in claims.VERDICTS if seeds[verdict]}
        renewed.append({**claim, "verdict": claims.together(ordered), "seeds": ordered})
    return {**record, "claims": renewed}


def of_this_run(claim: Mapping[str, Any]) -> str:
    return claim.get("this_run", claim["verdict"])


def runs_of(notebook: Accepted, source: str) -> tuple[int, int]:
    """How many of the runs behind a notebook's bands were of this source, and how many there are."""
    made_by = [run.get("source") for run in notebook["runs"]]
    return made_by.count(source), len(made_by)


def with_run(notebook: Accepted | None, record: Mapping[str, Any], arithmetic: str) -> Accepted:
    """What is kept of a notebook, with one more run's record, which takes the place of an earlier one of its variant.

    The ordinary run (seed 0) says which numbers and claims there are, so it has to be the first. Bands of earlier days,
    of runs whose values were not kept, stay until there are two runs with values; then those runs are left out.
    Raises ValueError for another run than the ordinary one where there is none.
    """
    own: Variant = {"seed": record["seed"], "arithmetic": arithmetic, "source": record["source"]}
    if cpu := record.get("machine", {}).get("cpu"):
        own["cpu"] = cpu
    if notebook is None:
        notebook = {"digest": "", "runs": [], "verdicts": {}, "numbers": {}}
    before, key = notebook["runs"], (own["seed"], arithmetic)
    order = [run for run in before if (run["seed"], run["arithmetic"]) != key] + [own]
    order.sort(key=lambda run: (run["seed"], run["arithmetic"]))
    if order[0]["seed"] != 0:
        raise ValueError("the ordinary run, of seed 0, must be accepted first: it says which numbers there are")
    valued = [run for run in order if "source" in run]
    runs = valued if len(valued) > 1 else order
    ordinary = runs[0] is own
    found = {number["id"]: number for number in record["numbers"]}
    reached = {claim["id"]: of_this_run(claim) for claim in record["claims"]}

    def renewed(kept: list[Any] | None, value: Any) -> list[Any]:
        """One value a run."""
        return [value if run is own else kept[before.index(run)] if kept else None for run in runs]

    numbers: dict[str, Number] = {}
    for id in found if ordinary else notebook["numbers"]:
        kept: Mapping[str, Any] = notebook["numbers"].get(id, {})
        values = renewed(kept.get("values"), found[id]["value"] if id in found else None)
        unit, exact = (
            (found[id]["unit"], found[id]["protocol"] == "exact") if ordinary else (kept["unit"], kept.get("exact"))
        )
        numbers[id] = {
            "value": found[id]["value"] if ordinary else kept["value"],
            "low": kept.get("low"),
            "high": kept.get("high"),
            "unit": unit,
            "exact": bool(exact),
            "values": values,
        }
    claims = reached if ordinary else notebook["verdicts"]
    made: Accepted = {
        "digest": record["digest"] if ordinary else notebook["digest"],
        "runs": runs,
        "verdicts": {id: renewed(notebook["verdicts"].get(id), reached.get(id)) for id in claims},
        "numbers": numbers,
    }
    if len(valued) > 1:
        for id, (low, high) in bands(made).items():
            numbers[id]["low"], numbers[id]["high"] = low, high
    return made


def bands(notebook: Accepted) -> dict[str, tuple[float, float] | tuple[None, None]]:
    """The band of each number of one notebook, low and high, from the values that its runs gave.

    A band is the 99.9 % prediction interval for one more run,
    mean +- t(0.9995, d + d0) s sqrt(1 + 1/n), s^2 = (d s_i^2 + d0 s_0^2) / (d + d0), d = n - 1,
    with s_0^2 the median of the variances s_i^2 > 0 over the notebook's numbers in the same unit, wide
    enough to hold all runs' values, and within the range of its unit. An exact identity that no run changes keeps a
    relative tolerance of 1e-4, a count none; a saturated accuracy may move like its peers.
    A number is not checked, low and high are None, where its band covers more than a third of its range, where it is a
    p-value that is not exact, where a single run has it, and where a run of the ordinary one's source has none, as
    there was nothing to measure; a run of another source may never have heard of it.
    """
    import numpy as np
    from scipy import special

    numbers, runs = notebook["numbers"], notebook["runs"]
    peers = [each for each, run in enumerate(runs) if run.get("source") == runs[0].get("source")]
    values = {id: np.array([v for v in number["values"] if v is not None]) for id, number in numbers.items()}
    variances = {id: float(np.var(seen, ddof=1)) for id, seen in values.items() if len(seen) > 1 and np.ptp(seen) > 0}
    units = {id: number["unit"] for id, number in numbers.items()}
    typical = {
        unit: float(np.median([variance for id, variance in variances.items() if units[id] == unit]))
        for unit in {units[id] for id in variances}
    }

    def half_width(id: str) -> float:
        n, degrees = len(values[id]), len(values[id]) - 1
        if id not in variances and (numbers[id]["exact"] or units[id] == "count" or units[id] not in typical):
            return 0.0 if units[id] == "count" else EXACT_TOLERANCE * abs(float(values[id][0]))
        moderated = degrees * variances.get(id, 0.0) + PRIOR_DEGREES * typical[units[id]]
        reach = float(special.stdtrit(degrees + PRIOR_DEGREES, (1 + COVERAGE) / 2)) * (1 + 1 / n) ** 0.5
        return reach * (moderated / (degrees + PRIOR_DEGREES)) ** 0.5

    found: dict[str, tuple[float, float] | tuple[None, None]] = {}
    for id, seen in values.items():
        lacking = any(numbers[id]["values"][each] is None for each in peers)
        if len(seen) < 2 or lacking or (units[id] == "p-value" and not numbers[id]["exact"]):
            found[id] = None, None
            continue
        centre, half = float(seen.mean() if id in variances else seen[0]), half_width(id)
        least, most = map(float, RANGES.get(units[id], (-math.inf, math.inf)))
        low = max(least, min(rounded(centre - half), float(seen.min())))
        high = min(most, max(rounded(centre + half), float(seen.max())))
        found[id] = (low, high) if high - low <= WIDEST * (most - least) else (None, None)
    return found


def accept(profile: str, names: Sequence[str] = (), *, more: int | None = None, root: Path = ROOT) -> Path:
    """Run the notebooks (all by default) under variants and keep what they give in data/accepted/<profile>.json.

    A variant is a seed and an arithmetic, each in a process of its own; the first one is the ordinary run. By default
    those of the first `VARIANTS` are run that the present source has not made yet, so that what was stopped goes on;
    `more` of them, in their order, where that is given, beyond those too. Each is kept at once; a run that fails is
    said and stops no other one. Raises ValueError for `more` below 1, and RuntimeError at the end where one failed.
    """
    from xaikit.companion import run

    must_be_checkout(root, "Numbers are accepted")
    if more is not None and more < 1:
        raise ValueError(f"{more} more variants are none: give 1 or more")
    own = profiles.arithmetic(profile, root / sources.PACKAGE / "companion" / "profiles")
    failed = []
    for job in run.jobs(names, profile, root=root):
        source = sources.notebook_source(job.name, profile, root)
        for seed, arithmetic in list(_variants(read(profile, root).get(job.name), source, own, more)):
            try:
                folder = run.run_notebook(job.name, profile, seed=seed, arithmetic=arithmetic, root=root)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                failed.append(f"{job.name} under seed {seed}, {arithmetic or own}")
                if seed == 0:
                    break  # without the ordinary run the others say nothing
                continue
            record = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
            kept = _keep(profile, job.name, record, arithmetic or own, root)
            run.renew_record(job, partial(with_other_runs, root=root))
            print("{}: {} of {} runs are of the present source".format(job.name, *runs_of(kept, source)), flush=True)
    if failed:
        raise RuntimeError(f"failed: {'; '.join(failed)}")
    return _file(profile, root)


def _variants(notebook: Accepted | None, source: str, own: str, more: int | None) -> Iterator[tuple[int, str | None]]:
    """The next variants, seed and arithmetic, that this source has not made."""
    made = {(run["seed"], run["arithmetic"]) for run in (notebook or {}).get("runs", ()) if run.get("source") == source}
    every = ((seed, _ARITHMETICS[seed % VARIANTS]) for seed in (count() if more else range(VARIANTS)))
    return islice((each for each in every if (each[0], each[1] or own) not in made), more)


def _keep(profile: str, name: str, record: Mapping[str, Any], arithmetic: str, root: Path) -> Accepted:
    """Add a run to the file; others may add to it at the same time."""
    file, lock = _file(profile, root), workplace(root) / "build" / f"accepted-{profile}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        everything = read(profile, root)
        everything[name] = with_run(everything.get(name), record, arithmetic)
        notebooks = shipped(root) / "notebooks"
        there = {each: kept for each, kept in sorted(everything.items()) if (notebooks / f"{each}.py").exists()}
        write_text(file, _lines(there) + "\n")
    return everything[name]


def _lines(value: Any, depth: int = 3) -> str:
    """JSON with a line for each run, claim and number."""
    if depth == 0 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    pad = " " * (4 - depth)
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + _lines(each, depth - 1) for each in value) + f"\n{pad[1:]}]"
    rows = (f"{pad}{json.dumps(key)}: {_lines(each, depth - 1)}" for key, each in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{pad[1:]}}}"


def _file(profile: str, root: Path) -> Path:
    return shipped(root) / "data" / "accepted" / f"{profile}.json"
