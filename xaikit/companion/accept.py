"""Accepted values of every number, with bands from its spread over seeds and arithmetics, and a run's drift from them.

A training is chaotic: another order of summation makes another network, as another seed does. So each of the runs
that make the bands has a seed of its own under an arithmetic of its own, and a band says what any machine may give.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaikit.companion.units import RANGES
from xaikit.storage.arithmetic import ARITHMETICS, NATIVE
from xaikit.storage.files import write_text
from xaikit.storage.paths import ROOT, must_be_checkout, shipped

# A variance from a few runs is itself uncertain, so each is drawn towards the typical one of its unit, which
# weighs as much as this many degrees of freedom (Smyth 2004, the moderated t statistic, with a fixed prior).
PRIOR_DEGREES = 4
COVERAGE = 0.999
EXACT_TOLERANCE = 1e-4
WIDEST = 1 / 3  # of a number's range: a wider band checks nothing

# Seed 0 is the ordinary run, under the profile's own arithmetic (None).
VARIANTS: tuple[tuple[int, str | None], ...] = (
    (0, None),
    *enumerate((name for name in ARITHMETICS if name not in ("portable", NATIVE)), start=1),
)


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
    notebook = read(profile, root).get(record["notebook"], {})
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


def read(profile: str, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """What is accepted for a profile, by notebook (see `accepted`); empty where nothing was accepted yet."""
    file = _file(profile, root)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def accepted(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is accepted for one notebook, from its records by the name of the variant, the ordinary run's first.

    `digest` is the ordinary run's, `variants` names the runs, `verdicts` has the verdict of each claim in each of
    them, and `numbers` the bands (`bands`).
    """
    runs = list(records.values())
    verdicts = [{claim["id"]: claim["verdict"] for claim in record["claims"]} for record in runs]
    return {
        "digest": runs[0]["digest"],
        "variants": list(records),
        "verdicts": {id: [each.get(id, "none") for each in verdicts] for id in verdicts[0]},
        "numbers": bands(runs),
    }


def bands(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The band of each number of one notebook, from its records under several variants, the ordinary run's first.

    A band is the 99.9 % prediction interval for one more run,
    mean +- t(0.9995, d + d0) s sqrt(1 + 1/n), s^2 = (d s_i^2 + d0 s_0^2) / (d + d0), d = n - 1,
    with s_0^2 the median of the variances s_i^2 > 0 over the notebook's numbers in the same unit, wide
    enough to hold all runs' values, and within the range of its unit. An exact identity that no run changes keeps a
    relative tolerance of 1e-4, a count none; a saturated accuracy may move like its peers.
    A number is not checked, low and high are None, where its band covers more than a third of its range, where it is a
    p-value that is not exact, and where a run has none, as there was nothing to measure.
    Raises ValueError for fewer than two records.
    """
    import numpy as np
    from scipy import stats

    from xaikit.companion.record import rounded

    if len(records) < 2:
        raise ValueError("a band needs the spread over at least two runs: give more variants")
    by_run = [{number["id"]: number["value"] for number in record["numbers"]} for record in records]
    units = {number["id"]: number["unit"] for number in records[0]["numbers"]}
    everywhere = set(units).intersection(*by_run)
    values = {id: np.array([each[id] for each in by_run if id in each]) for id in units}
    variances = {id: float(np.var(seen, ddof=1)) for id, seen in values.items() if np.ptp(seen) > 0}
    typical = {
        unit: float(np.median([variance for id, variance in variances.items() if units[id] == unit]))
        for unit in {units[id] for id in variances}
    }
    exact = {number["id"] for number in records[0]["numbers"] if number["protocol"] == "exact"}
    n, degrees = len(records), len(records) - 1
    reach = float(stats.t.ppf((1 + COVERAGE) / 2, degrees + PRIOR_DEGREES)) * (1 + 1 / n) ** 0.5

    def half_width(id: str) -> float:
        if id not in variances and (id in exact or units[id] == "count" or units[id] not in typical):
            return 0.0 if units[id] == "count" else EXACT_TOLERANCE * abs(float(values[id][0]))
        moderated = degrees * variances.get(id, 0.0) + PRIOR_DEGREES * typical[units[id]]
        return reach * (moderated / (degrees + PRIOR_DEGREES)) ** 0.5

    found: dict[str, dict[str, Any]] = {}
    for id, seen in values.items():
        centre = float(seen.mean() if id in variances else seen[0])
        half = half_width(id)
        least, most = map(float, RANGES.get(units[id], (-math.inf, math.inf)))
        low = max(least, min(rounded(centre - half), float(seen.min())))
        high = min(most, max(rounded(centre + half), float(seen.max())))
        checks = id in everywhere and high - low <= WIDEST * (most - least)
        checks = checks and (units[id] != "p-value" or id in exact)
        found[id] = {
            "value": float(seen[0]),
            "low": low if checks else None,
            "high": high if checks else None,
            "unit": units[id],
        }
    return found


def accept(
    profile: str,
    variants: Sequence[tuple[int, str | None]] = VARIANTS,
    names: Sequence[str] = (),
    root: Path = ROOT,
) -> Path:
    """Run the notebooks (all by default) under every variant and write data/accepted/<profile>.json.

    A variant is a seed and an arithmetic; the first is the ordinary run, (0, None), whose values are the accepted
    ones. Runs that are up to date are not repeated, so that what was stopped goes on. The other notebooks' values stay.
    """
    from xaikit.companion import run

    must_be_checkout(root, "Numbers are accepted")
    if len({seed for seed, _ in variants}) != len(variants) or tuple(variants[:1]) != ((0, None),):
        raise ValueError("the seeds must be different, and the first seed 0, the ordinary run")
    chosen = run.jobs(names, profile, root=root)
    everything = read(profile, root) if names else {}
    for job in chosen:
        records = {}
        for seed, arithmetic in variants:
            folder = run.run_notebook(job.name, profile, seed=seed, arithmetic=arithmetic, root=root)
            variant = f"seed {seed}, {arithmetic or 'as the profile says'}"
            records[variant] = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        everything[job.name] = accepted(records)
    file = _file(profile, root)
    write_text(file, json.dumps(dict(sorted(everything.items())), indent=1) + "\n")
    return file


def _file(profile: str, root: Path) -> Path:
    return shipped(root) / "data" / "accepted" / f"{profile}.json"
