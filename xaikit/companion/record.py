"""What a run leaves behind: figures, tables, numbers and the claims that they decide."""

import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from operator import index
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xaikit.companion import accept, claims, plots, profiles
from xaikit.companion.claims import Protocol, Verdict
from xaikit.companion.glyphs import missing_glyphs_named
from xaikit.companion.progress import NUMBERS, SO_FAR, record_text
from xaikit.companion.units import RANGES, rounded
from xaikit.datasets import intake
from xaikit.storage import arithmetic, paths, sources
from xaikit.storage.files import read_toml, replacing, write_text

LEAST_WORDS = 5  # of an alt text
_VERSIONED = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy")
_CONVERTED = {
    ("percent", "fraction"): 0.01,
    ("fraction", "percent"): 100.0,
    ("percent", "difference"): 0.01,
    ("percent", "relative difference"): 0.01,
}


def published(id: str, unit: str | None = None) -> float:
    """The published number `id` of `data/published.toml`, as printed or converted to `unit`.

    Raises ValueError for an unknown id, and where the units cannot be converted.
    """
    known = _published_numbers(paths.DATA / "published.toml")
    if id not in known:
        raise ValueError(f"no published number {id!r}: add it to data/published.toml, or pass None")
    value, printed = float(known[id]["value"]), known[id]["unit"]
    if unit in (None, printed):
        return value
    if (printed, unit) not in _CONVERTED:
        raise ValueError(f"the published number {id!r} is in {printed}, which cannot be converted to {unit}")
    return rounded(value * _CONVERTED[printed, unit])


def is_published(id: str) -> bool:
    """Whether `data/published.toml` has a number of that id."""
    return id in _published_numbers(paths.DATA / "published.toml")


@cache
def _published_numbers(file: Path) -> dict[str, dict[str, Any]]:
    return {number["id"]: number for number in read_toml(file)["number"]}


def digest(numbers: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]) -> str:
    """A hash of a record's values, intervals and verdicts: runs with one digest agree to the last digit written."""
    values = [[number[key] for key in ("id", "value", "low", "high", "n")] for number in numbers]
    text = json.dumps([values, [[claim["id"], claim.get("this_run", claim["verdict"])] for claim in claims]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record:
    """The record of one run of one notebook.

    Files go to the folder that `xaikit run` names in XAIKIT_OUT; in a live session (JupyterLab, or papermill's own
    command), where a cell may be run again and then replaces what it wrote, to
    `build/interactive/<profile>/<notebook>/`, as is then said. Until it is saved, what `xaikit run` has it record is
    kept in unfinished.json, so that a run that fails at its end leaves all it had by then.
    """

    def __init__(self, notebook: str, profile: str, seed: SupportsIndex) -> None:
        self.notebook, self.profile, self.seed = notebook, profile, index(seed)
        self.subset = profiles.subset(
            profile, notebook
        )  # so many of each data set at most: such a run decides no claim
        headless = os.environ.get("XAIKIT_OUT")
        self.folder = Path(headless) if headless else paths.BUILD / "interactive" / profile / notebook
        self._live = not headless
        if self._live:
            print(f"Figures, tables and numbers go to {self.folder}")
        self._start = time.monotonic()
        self._files: dict[str, Path] = {}
        self._shown: dict[str, dict[str, str]] = {}  # of each figure and table, in their order: its item, its alt text
        self._numbers: dict[str, dict[str, Any]] = {}
        self._stated = claims.stated(paths.DATA / "claims.toml", notebook)
        self._instruments: dict[str, dict[str, Any]] = {}
        self._claims: dict[str, dict[str, Any]] = {}
        self._by_itself: set[str] = set()  # what `decide` looked at
        self._values: dict[str, dict[str, np.ndarray]] = {}
        self._skipped: dict[str, str] = {}
        self._remarks: list[str] = []
        self._intakes = len(intake.opened())  # of data sets that others opened in this process before
        if profile in profiles.names() and profiles.rehearses(profile):
            self.remark("A rehearsal on stand-ins for data and weights: its numbers mean nothing.")
        if self.subset is not None:
            self.remark(f"On at most {self.subset} of each data set: no claim is decided.")

    def skip(self, artefact: str, reason: str) -> None:
        """Say why a figure or table, or a part of the notebook, is not there in this run.

        Raises ValueError for an empty reason and for a name that was recorded.
        """
        if not reason.strip():
            raise ValueError(f"{artefact!r} is skipped without a reason: give one")
        if any(Path(name).stem == artefact for name in self._files) and not self._live:
            raise ValueError(f"{artefact!r} was recorded, so it is not skipped")
        self._skipped[artefact] = reason
        self._keep()
        print(f"skipped {artefact}: {reason}")

    def remark(self, text: str) -> None:
        """Keep a sentence about what this run did that the numbers do not show, and print it."""
        if text not in self._remarks:
            self._remarks.append(text)
            self._keep()
        print(text)

    def figure(self, name: str, figure: Figure, *, item: str, alt: str) -> None:
        """Write `name`.png (150 dpi) and `name`.pdf, the same bytes for the same figure; show it and close it.

        `item` is the figure or table of the paper that it stands for, or our own name for a control. `alt` says in a
        sentence or two what is to be seen, for those who do not see it; it goes wherever the picture goes.
        Letters that its font lacks are named in one warning. Raises ValueError for a name that is taken or not in lower
        case, for a figure without axes, and for an alt text that says nothing.
        """
        png, pdf = self._file(f"{name}.png"), self._file(f"{name}.pdf")
        if len(alt.split()) < LEAST_WORDS:
            raise ValueError(f"the alt text of {name!r} is {alt!r}: say in a sentence what is to be seen")
        if not figure.axes:
            raise ValueError(f"figure {name!r} has no axes: draw it before recording it")
        with missing_glyphs_named(name), replacing(png) as part, replacing(pdf) as other:
            figure.savefig(part, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
            figure.savefig(other, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
        self._files |= {png.name: png, pdf.name: pdf}
        self._shown[name] = {"item": item, "alt": alt}
        self._keep()
        plots.show(figure, alt)

    def table(self, name: str, table: pd.DataFrame, *, item: str) -> pd.DataFrame:
        """Write `name`.csv with 6 significant digits and return the table for display, with 4 and dashes for NaN.

        `item` is that of `figure`. The index is written unless it only counts the rows.
        Raises ValueError for a name that is taken or not in lower case, and for an empty table.
        """
        csv = self._file(f"{name}.csv")
        if table.empty:
            raise ValueError(f"table {name!r} is empty: fill it before recording it")
        counted = isinstance(table.index, pd.RangeIndex)
        write_text(csv, table.to_csv(index=not counted, float_format="%.6g", lineterminator="\n"))
        self._files[csv.name] = csv
        self._shown.setdefault(name, {"item": item})
        self._keep()
        return table.map(lambda value: f"{value:.4g}".replace("nan", "–") if isinstance(value, float) else value)

    def number(
        self,
        id: str,
        value: SupportsFloat,
        *,
        low: SupportsFloat | None = None,
        high: SupportsFloat | None = None,
        n: SupportsIndex | None = None,
        of: str = "images",
        unit: str,
        item: str,
        protocol: Protocol,
        published: str | None = None,
    ) -> None:
        """Record one number, with its 95 % interval [low, high] from `n` samples where it has one.

        `of` says what was sampled: images, to all of which one model was put, or runs, each with a training of its own,
        or what else a claim is decided on. `unit` is free text; for those of `units.RANGES` the number must lie there,
        and of an interval that part is kept which does. `item` is the figure or table of the paper, `published` the id
        of the paper's value in `data/published.toml`, which is stored in `unit` (percent and fraction convert to each
        other).
        Raises ValueError for an id that is taken or not in lower case, a value that is not finite, outside of its
        interval or of its unit's range, and an unknown protocol or published id; TypeError for an `n` that is no
        whole number.
        """
        self._new(id, self._numbers, "number")
        _one_of(protocol, get_args(Protocol), f"protocol of {id!r}")
        interval = [None if end is None else rounded(float(end)) for end in (low, high)]
        stored = rounded(float(value)) if math.isfinite(float(value)) else math.nan
        if not all(math.isfinite(each) for each in (stored, *interval) if each is not None):
            raise ValueError(f"number {id!r} is not finite: {value} [{low}, {high}]")
        if (low is None) != (high is None):
            raise ValueError(f"number {id!r} has half an interval: give both low and high, or neither")
        if None not in interval and not interval[0] <= stored <= interval[1]:
            raise ValueError(f"number {id!r} lies outside of its interval: {value} [{low}, {high}]")
        least, most = RANGES.get(unit, (-math.inf, math.inf))
        if not least <= stored <= most:
            raise ValueError(f"number {id!r} is {value}, and a {unit} lies in [{least}, {most}]: give its own unit")
        interval = [None if end is None else min(max(end, least), most) for end in interval]
        self._numbers[id] = {
            "id": id,
            "value": stored,
            "low": interval[0],
            "high": interval[1],
            "n": None if n is None else index(n),
            **({} if n is None else {"of": of}),
            "unit": unit,
            "item": item,
            "protocol": protocol,
            "published": None if published is None else _published(published, unit),
        }
        self._keep()

    def values(self, id: str, values: ArrayLike, *, of: str) -> None:
        """Keep the values whose mean is the number `id`, one for each of `of` ("pictures"), in values_<of>.csv.

        All means over the same things go into one file, one column each.
        Raises ValueError for a number that is not recorded or is another one than their mean, for NaN, and where
        another number has as many values for things of that name.
        """
        column = np.asarray(values, dtype=np.float64)
        if id not in self._numbers:
            raise ValueError(f"the number {id!r} of these values is not recorded: record it before")
        if column.ndim != 1 or not np.isfinite(column).all():
            raise ValueError(f"the values of {id!r} are no row of finite numbers: shape {column.shape}")
        if not math.isclose(column.mean(), self._numbers[id]["value"], rel_tol=1e-4, abs_tol=1e-6):
            own = self._numbers[id]["value"]
            raise ValueError(f"the values of {id!r} have the mean {column.mean():.6g}, and the number is {own}")
        columns = self._values.setdefault(of, {})
        lengths = {len(other) for name, other in columns.items() if name != id}
        if lengths - {len(column)}:
            raise ValueError(f"{id!r} has {len(column)} values of {of}, others have {lengths.pop()}: name other things")
        columns[id] = column
        file = self.folder / f"values_{of.replace(' ', '_')}.csv"
        if file.name not in self._files:
            self._file(file.name)
        table = pd.DataFrame(columns)
        write_text(file, table.to_csv(index_label=of, float_format="%.6g", lineterminator="\n"))
        self._files[file.name] = file
        self._keep()

    def also_of(self, model: str) -> None:
        """Decide what is stated of each model for this one too: its numbers are recorded as `id.model`."""
        self._stated = claims.with_model(self._stated, model)

    def instrument(self, id: str) -> pd.DataFrame:
        """Look at the controls of an instrument that data/claims.toml states, and return them, one a row.

        Raises ValueError for an unknown id, one that was looked at already, and a control without an interval. Where a
        control was not measured in this run, it does not pass.
        """
        if id not in self._stated.instruments:
            raise ValueError(f"no instrument {id!r} of {self.notebook}: state it in data/claims.toml")
        self._new(id, self._instruments, "instrument")
        instrument = self._stated.instruments[id]
        passed, why = claims.passes(instrument, self._numbers)
        controls = [
            {"kind": kind, "number": bound.id, "wanted": str(bound), "found": self._found(bound.id)}
            | {"kept": bound.id in self._numbers and bound.kept(self._numbers) is True}
            for kind, bounds in (("positive", instrument.positive), ("negative", instrument.negative))
            for bound in bounds
        ]
        self._instruments[id] = {
            "id": id,
            "what": instrument.what,
            "rule": instrument.rule,
            "passes": passed,
            "controls": [{key: control[key] for key in ("kind", "number", "wanted", "kept")} for control in controls],
            **({"why": why} if why else {}),
        }
        self._keep()
        print(f"{id} {'passes' if passed else 'fails'}" + (f": {why}" if why else "."))
        return pd.DataFrame(controls, columns=["kind", "number", "wanted", "found", "kept"])

    def claim(self, id: str, *, reason: str | None = None) -> Verdict:
        """Decide one claim that data/claims.toml states, by the numbers and instruments of this run.

        Where one of its instruments fails the verdict is "no-instrument", whatever the numbers say (`measured`). It is
        "not-run" with a `reason`, where a number that decides it was not measured, and on a subset of the data.
        Raises ValueError for an unknown id, one that was decided already, an empty reason, and for instruments of it
        that were not looked at.
        """
        if id not in self._stated.claims:
            raise ValueError(f"no claim {id!r} of {self.notebook}: state it, with its rule, in data/claims.toml")
        self._new(id, self._claims, "claim")
        claim = self._stated.claims[id]
        if self.subset is not None and reason is None:
            reason = f"on at most {self.subset} of each data set no claim is decided"
        if reason is None:
            measured, why = claims.decided(claim, self._numbers)
        elif reason.strip():
            measured, why = "not-run", reason
        else:
            raise ValueError(f"the claim {id!r} is not decided without a reason: give one")
        verdict, failed = measured, []
        if measured != "not-run":
            if unseen := [each for each in claim.instruments if each not in self._instruments]:
                raise ValueError(f"the claim {id!r} rests on {unseen[0]!r}: look at that instrument before")
            failed = [each for each in claim.instruments if not self._instruments[each]["passes"]]
        if failed:
            verdict, why = "no-instrument", "; ".join(f"{each}: {self._instruments[each]['why']}" for each in failed)
        known = measured != "not-run"
        more = claims.needed(claim, self._numbers) if known and measured == "inconclusive" else None
        self._claims[id] = {
            "id": id,
            "item": claim.item,
            "text": claim.text,
            "protocol": claim.protocol,
            "rule": claim.rule,
            "verdict": verdict,
            "this_run": verdict,
            "evidence": [each for bound in claim.decided_by for each in bound.numbers if known],
            "instruments": list(claim.instruments),
            **({"measured": measured} if failed else {}),
            **({"by_construction": True} if claim.by_construction else {}),
            **({"exploratory": True} if claim.exploratory else {}),
            **({"needs": more, "of": claim.of} if more else {}),
            **({"reason": why} if why else {}),
        }
        self._keep()
        return verdict

    def decide(self) -> pd.DataFrame:
        """Look at all instruments and decide all claims of this notebook that are left; the table of `claims`."""
        for stated, known, look in (
            (self._stated.instruments, self._instruments, self.instrument),
            (self._stated.claims, self._claims, self.claim),
        ):
            for id in stated:
                if id not in known or id in self._by_itself:  # in a live session cells run again
                    look(id)
                    self._by_itself.add(id)
        return self.claims()

    def numbers(self) -> pd.DataFrame:
        """The recorded numbers, one a row, beside the published ones."""
        rows = [
            {
                "item": number["item"],
                "number": number["id"],
                "protocol": number["protocol"],
                "here": _shown(number),
                "n": f"{number['n']} {number['of']}" if number["n"] else "",
                "published": "" if number["published"] is None else f"{number['published']:.4g}",
                "unit": number["unit"],
            }
            for number in self._numbers.values()
        ]
        return pd.DataFrame(rows)

    def instruments(self) -> pd.DataFrame:
        """The instruments, one a row, with what each control has to do and was found to be."""
        rows = [
            {
                "instrument": each["id"],
                "passes": "passes" if each["passes"] else "fails",
                "measures": each["what"],
                "rule": each["rule"],
                "controls": "; ".join(
                    f"{kind}: {number} = {self._found(number)}, wanted {wanted}"
                    for kind, number, wanted, _ in map(dict.values, each["controls"])
                ),
            }
            for each in self._instruments.values()
        ]
        return pd.DataFrame(rows)

    def claims(self) -> pd.DataFrame:
        """The claims, one a row, verdict first, with the numbers that decided them."""
        rows = [
            {
                "verdict": claim["verdict"],
                "claim": claim["text"],
                "protocol": claim["protocol"],
                "item": claim["item"],
                "rule": claim["rule"],
                "instruments": ", ".join(claim["instruments"]) or "by construction",
                "evidence": "; ".join(
                    [f"{id} = {self._found(id)}" for id in claim["evidence"]]
                    + ([claim["reason"]] if "reason" in claim else [])
                    + (
                        [f"about {claim['needs']} {claim['of']} would decide it"]
                        if "needs" in claim and claim["verdict"] == "inconclusive"
                        else []
                    )
                ),
            }
            for claim in self._claims.values()
        ]
        return pd.DataFrame(rows)

    def save(self) -> Path:
        """Write numbers.json: last, whole, and the same bytes for the same run but for its seconds and `machine`.

        What became of the pictures of the data sets that were opened since the record was made is remarked before.
        """
        for sentence in filter(None, (each.report() for each in intake.opened(self._intakes))):
            self.remark(sentence)
        source = sources.notebook_source(self.notebook, self.profile, paths.ROOT)
        numbers, instruments, decided = (
            [kept[id] for id in sorted(kept)] for kept in (self._numbers, self._instruments, self._claims)
        )
        ran = {
            "source": source,
            "device": _device(),
            "machine": arithmetic.machine(),
            "precision": profiles.precisions(self.profile, self.notebook),
            "seconds": round(time.monotonic() - self._start, 1),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}},
        }
        file = self.folder / NUMBERS
        results = {"numbers": numbers, "instruments": instruments, "claims": decided}
        content = accept.with_other_runs(self._content(ran, {"digest": digest(numbers, decided), **results}))
        write_text(file, record_text(content))
        (self.folder / SO_FAR).unlink(missing_ok=True)
        for artefact, reason in self._skipped.items():
            print(f"Not in this run: {artefact}, as {reason}")
        return file

    def _keep(self) -> None:
        """Leave what there is so far to whom finds a run that did not come to its end."""
        if not self._live:
            ran = {"unfinished": "the run goes on, or was killed"}
            kinds = {"numbers": self._numbers, "instruments": self._instruments, "claims": self._claims}
            so_far = {kind: list(kept.values()) for kind, kept in kinds.items()}
            write_text(self.folder / SO_FAR, json.dumps(self._content(ran, so_far), ensure_ascii=False))

    def _content(self, ran: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "notebook": self.notebook,
            "profile": self.profile,
            "seed": self.seed,
            **ran,
            "artefacts": sorted(self._files),
            "shown": self._shown,
            **({} if self.subset is None else {"subset": self.subset}),
            **({} if not self._skipped else {"skipped": self._skipped}),
            **({} if not self._remarks else {"remarks": self._remarks}),
            **results,
        }

    def _found(self, id: str) -> str:
        return _shown(self._numbers[id]) if id in self._numbers else "not measured"

    def _file(self, name: str) -> Path:
        self._new(name, self._files, "artefact", r"[a-z][a-z0-9_]*\.(png|pdf|csv)")
        return self.folder / name

    def _new(self, id: str, taken: dict[str, Any], what: str, pattern: str = r"[a-z0-9][a-z0-9._-]*") -> None:
        if not re.fullmatch(pattern, id):
            raise ValueError(f"the {what} name {id!r} has odd characters: use lower case letters and digits")
        if id in taken and not self._live:
            raise ValueError(f"the {what} {id!r} is recorded twice: give each its own name")


_published = published  # `Record.number` has an argument of that name


def _one_of(value: str, known: Sequence[str], what: str) -> None:
    if value not in known:
        raise ValueError(f"the {what} cannot be {value!r}: choose one of {', '.join(known)}")


def _shown(number: Mapping[str, Any]) -> str:
    interval = "" if number["low"] is None else f" [{number['low']:.4g}, {number['high']:.4g}]"
    return f"{number['value']:.4g}{interval}"


def _device() -> str:
    torch = sys.modules.get("torch")  # a notebook that never loaded it ran on the CPU
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu"
