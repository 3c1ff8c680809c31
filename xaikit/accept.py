"""Accepted values of every number, with bands from the spread over seeds, and a run's drift from them."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaikit.files import write_text
from xaikit.paths import ROOT

# A variance from four seeds is itself uncertain, so each is drawn towards the typical one of its unit, which
# weighs as much as this many degrees of freedom (Smyth 2004, the moderated t statistic, with a fixed prior).
PRIOR_DEGREES = 4
COVERAGE = 0.999
EXACT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Drift:
    """How the numbers of a run lie to the accepted ones."""

    within: list[str] = field(default_factory=list)
    outside: list[tuple[str, float, float, float]] = field(default_factory=list)  # id, value, low, high
    unknown: list[str] = field(default_factory=list)  # in the run, not accepted
    missing: list[str] = field(default_factory=list)  # accepted, not in the run


def drift(record: Mapping[str, Any], profile: str, root: Path = ROOT) -> Drift:
    """Compare a run's record (the content of its numbers.json) with the accepted values of the profile."""
    accepted = {id: band for id, band in read(profile, root).items() if band["notebook"] == record["notebook"]}
    values = {number["id"]: number["value"] for number in record["numbers"]}
    placed = [(id, values[id], accepted[id]["low"], accepted[id]["high"]) for id in values if id in accepted]
    return Drift(
        within=[id for id, value, low, high in placed if low <= value <= high],
        outside=[(id, value, low, high) for id, value, low, high in placed if not low <= value <= high],
        unknown=[id for id in values if id not in accepted],
        missing=[id for id in accepted if id not in values],
    )


def read(profile: str, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The accepted values of a profile by the number's id; none where nothing was accepted yet."""
    file = _file(profile, root)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def bands(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The accepted values of one notebook, from its records at several seeds, the ordinary one first.

    A band is the 99.9 % prediction interval for one more seed,
    mean +- t(0.9995, d + d0) s sqrt(1 + 1/n), s^2 = (d s_i^2 + d0 s_0^2) / (d + d0), d = n - 1,
    with s_0^2 the median of the variances s_i^2 > 0 over the notebook's numbers in the same unit, and wide
    enough to hold all seeds' values. An exact identity that no seed changes keeps a relative tolerance of 1e-4,
    a count none; a saturated accuracy may move like its peers, since other machines train other models.
    Raises ValueError for fewer than two records, and where they do not hold the same numbers.
    """
    import numpy as np
    from scipy import stats

    from xaikit.record import rounded

    if len(records) < 2:
        raise ValueError("a band needs the spread over at least two seeds: give more --seeds")
    by_seed = [{number["id"]: number["value"] for number in record["numbers"]} for record in records]
    for record, values in zip(records, by_seed, strict=True):
        if differing := sorted(by_seed[0].keys() ^ values.keys()):
            raise ValueError(
                f"{record['notebook']} records other numbers at seed {record['seed']} than at seed "
                f"{records[0]['seed']}: {', '.join(differing)}"
            )
    units = {number["id"]: number["unit"] for number in records[0]["numbers"]}
    values = {id: np.array([each[id] for each in by_seed]) for id in units}
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

    accepted = {}
    for id, seen in values.items():
        centre = float(seen.mean() if id in variances else seen[0])
        half = half_width(id)
        accepted[id] = {
            "notebook": records[0]["notebook"],
            "value": float(seen[0]),
            "low": min(rounded(centre - half), float(seen.min())),
            "high": max(rounded(centre + half), float(seen.max())),
            "unit": units[id],
        }
    return accepted


def accept(profile: str, seeds: Sequence[int], names: Sequence[str] = (), root: Path = ROOT) -> Path:
    """Run the notebooks (all by default) at every seed and write data/accepted/<profile>.json.

    Seed 0 is the ordinary run, whose values are the accepted ones. The other notebooks' values stay.
    """
    from xaikit import run

    if len(set(seeds)) != len(seeds) or 0 not in seeds:
        raise ValueError("the seeds must be different, and 0, the ordinary run, among them")
    ordered = sorted(seeds, key=lambda seed: seed != 0)
    chosen = run.jobs(names, profile, root=root)
    accepted = read(profile, root) if names else {}
    for job in chosen:
        folders = [run.run_notebook(job.name, profile, seed=seed, root=root) for seed in ordered]
        records = [json.loads((folder / "numbers.json").read_text(encoding="utf-8")) for folder in folders]
        others = {id: band for id, band in accepted.items() if band["notebook"] != job.name}
        accepted = others | bands(records)
    file = _file(profile, root)
    write_text(file, json.dumps(dict(sorted(accepted.items())), indent=1) + "\n")
    return file


def _file(profile: str, root: Path) -> Path:
    return root / "data" / "accepted" / f"{profile}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m xaikit.accept`: returns 0, or 1 after saying what went wrong."""
    from xaikit import run

    parser = argparse.ArgumentParser(prog="python -m xaikit.accept", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="all of them by default")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args(arguments)
    return run.guarded(lambda: print(f"wrote {accept(options.profile, options.seeds, options.names)}"))


if __name__ == "__main__":
    raise SystemExit(main())
