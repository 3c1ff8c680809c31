"""Claims and the instruments that they rest on, as data/claims.toml states them before a run decides them.

An instrument is anything that turns a model into a number on which a claim rests. It has controls, numbers of the same
run: positive ones, where the answer is known and must be found, and negative ones, where there is nothing to find. A
claim is decided by bounds on numbers, and only if its instruments pass. Texts, rules and bounds stand in the file
alone, and the hash of a run's source holds its part of it: git's order shows that a rule came before the result.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, get_args

from xaikit.storage.files import read_toml

Protocol = Literal["as-published", "corrected", "control", "exact"]
Verdict = Literal["holds", "fails", "inconclusive", "no-instrument", "not-run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

FEWEST = {"images": 20, "runs": 3}  # nothing is decided on fewer; a run has its own training
POWER, LEVEL = 0.8, 0.95
MOST = 10**6  # where more observations than that would be needed, another design is

_RELATIONS = (">", "<", "=")
_ID = r"[a-z][a-z0-9._-]*"


@dataclass(frozen=True)
class Bound:
    """What the number `id` must do: its whole interval above, below, or its value equal to `limit`."""

    id: str
    relation: str
    limit: float | str  # a value, or the id of another number

    @classmethod
    def read(cls, id: str, text: Any) -> "Bound":
        """From the text "> 0.5", "< 0.1", "= 3840" or "= another.number"; raises ValueError for what is none."""
        relation, _, limit = str(text).strip().partition(" ")
        value: float | str = limit.strip()
        try:
            value = float(value)
        except ValueError:
            known = re.fullmatch(_ID, str(value)) is not None
        else:
            known = math.isfinite(value)
        if not known or relation not in _RELATIONS:
            raise ValueError(f'the bound {text!r} of {id!r} is none: write "> 0.5", "< 0.1", "= 3840" or "= a.number"')
        return cls(id, relation, value)

    def __str__(self) -> str:
        return f"{self.relation} {self.limit if isinstance(self.limit, str) else f'{self.limit:g}'}"

    @property
    def numbers(self) -> tuple[str, ...]:
        """The ids that have to be recorded before it can be looked at."""
        return (self.id, self.limit) if isinstance(self.limit, str) else (self.id,)

    def at(self, numbers: Mapping[str, Mapping[str, Any]]) -> float:
        """The limit as a value."""
        return float(numbers[self.limit]["value"] if isinstance(self.limit, str) else self.limit)

    def kept(self, numbers: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """Whether it is kept for sure (True), is not for sure (False), or neither can be said (None).

        A p-value that is not small says nothing: of it only the first can be said for sure.
        """
        number = numbers[self.id]
        low, high = ((number[end] if number[end] is not None else number["value"]) for end in ("low", "high"))
        limit = self.at(numbers)
        if self.relation == "=":
            return bool(number["value"] == limit)
        if number["unit"] == "p-value" and self.relation == "<":
            return True if high < limit else None  # what a test does not show it does not refute
        if self.relation == "<":
            low, high, limit = -high, -low, -limit
        return True if low > limit else False if high < limit else None

    def needed(self, numbers: Mapping[str, Mapping[str, Any]]) -> int | None:
        """About how many observations would settle it with a power of 80 %, if value and spread stay as they are.

        None where it is settled, where the value lies on the limit, and where it would be more than a million.
        """
        number = numbers[self.id]
        if self.relation == "=" or number["low"] is None or not number["n"]:
            return None
        half, effect = (number["high"] - number["low"]) / 2, abs(number["value"] - self.at(numbers))
        if effect == 0 or half == 0:
            return None
        outer, inner = NormalDist().inv_cdf((1 + LEVEL) / 2), NormalDist().inv_cdf(POWER)
        found = number["n"] * ((outer + inner) / outer * half / effect) ** 2
        return math.ceil(found) if found <= MOST else None


@dataclass(frozen=True)
class Instrument:
    """`what` is measured, and the `rule` in words by which it is trusted: each control keeps its bound."""

    id: str
    what: str
    rule: str
    positive: tuple[Bound, ...] = ()
    negative: tuple[Bound, ...] = ()
    each_model: bool = False  # there is one for each model, where a run has several


@dataclass(frozen=True)
class Claim:
    """A sentence, the `rule` in words that decides it and the bounds, all of which must be kept."""

    id: str
    item: str
    text: str
    protocol: Protocol
    rule: str
    decided_by: tuple[Bound, ...]
    n: int | None = None  # the fewest observations on which it is decided, of the kind `of`
    of: str = ""
    instruments: tuple[str, ...] = ()
    by_construction: bool = False  # nothing could have come out otherwise
    exploratory: bool = False  # found after looking
    each_model: bool = False  # it is decided for each model, where a run has several


@dataclass(frozen=True)
class Stated:
    """What the file states for one notebook, in its order."""

    instruments: dict[str, Instrument] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)


def stated(file: Path, notebook: str) -> Stated:
    """What `file` states for a notebook; raises ValueError, naming the entry and the mend, where it is not whole."""
    return _stated(file).get(notebook, Stated())


def with_model(stated: Stated, name: str) -> Stated:
    """The same, and what it states of each model for one more: the ids of its claims and numbers end in `.name`."""

    def own(bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
        return tuple(
            replace(each, id=f"{each.id}.{name}", limit=f"{limit}.{name}" if isinstance(limit, str) else limit)
            for each in bounds
            for limit in [each.limit]
        )

    instruments, claims = dict(stated.instruments), dict(stated.claims)
    for id, instrument in stated.instruments.items():
        if instrument.each_model:
            bounds = {"positive": own(instrument.positive), "negative": own(instrument.negative)}
            instruments[f"{id}.{name}"] = replace(instrument, id=f"{id}.{name}", **bounds)
    for id, claim in stated.claims.items():
        if claim.each_model:
            rests_on = tuple(
                f"{each}.{name}" if stated.instruments[each].each_model else each for each in claim.instruments
            )
            claims[f"{id}.{name}"] = replace(
                claim, id=f"{id}.{name}", decided_by=own(claim.decided_by), instruments=rests_on
            )
    return Stated(instruments, claims)


def together(reached: Iterable[Verdict]) -> Verdict:
    """One verdict of several runs: theirs where those that ran it agree, else inconclusive."""
    run = {verdict for verdict in reached if verdict != "not-run"}
    return run.pop() if len(run) == 1 else "inconclusive" if run else "not-run"


def decided(claim: Claim, numbers: Mapping[str, Mapping[str, Any]]) -> tuple[Verdict, str]:
    """What recorded numbers say of a claim, whatever its instruments are worth, and a reason where none says it better.

    Raises ValueError where a number that decides has neither an interval nor is exact, or is over other things than
    the claim is decided on: a hundred images are no three runs.
    """
    missing = [id for bound in claim.decided_by for id in bound.numbers if id not in numbers]
    if missing:
        return "not-run", f"{', '.join(missing)} was not measured in this run"
    for bound in claim.decided_by:
        number = numbers[bound.id]
        if not _is_sure(number):
            raise ValueError(f"the claim {claim.id!r} rests on {bound.id!r}, which has no interval: record it with one")
        if number["low"] is None:
            continue
        if claim.n is None or number["n"] is None:
            raise ValueError(f"of the claim {claim.id!r} or of {bound.id!r} it is not said on how many: give both an n")
        if number["of"] != claim.of:
            raise ValueError(f"the claim {claim.id!r} is decided on {claim.of}, and {bound.id!r} is of {number['of']}")
        if number["n"] < claim.n:
            return "inconclusive", f"on {number['n']} {claim.of}, and it is decided on {claim.n} or more"
    kept = [bound.kept(numbers) for bound in claim.decided_by]
    return ("fails" if False in kept else "inconclusive" if None in kept else "holds"), ""


def needed(claim: Claim, numbers: Mapping[str, Mapping[str, Any]]) -> int | None:
    """About how many observations would decide an undecided claim; None where no number can be said."""
    open_bounds = [bound for bound in claim.decided_by if bound.kept(numbers) is None]
    found = [bound.needed(numbers) for bound in open_bounds]
    known = [each for each in found if each is not None]
    return max(known) if found and len(known) == len(found) else None


def passes(instrument: Instrument, numbers: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether an instrument has controls of both kinds, and all keep their bounds; if not, why.

    Raises ValueError for a control that has neither an interval nor is exact.
    """
    for kind, bounds in (("positive", instrument.positive), ("negative", instrument.negative)):
        if not bounds:
            return False, f"it has no {kind} control"
    both = (*instrument.positive, *instrument.negative)
    if missing := [bound.id for bound in both if bound.id not in numbers]:
        return False, f"its control {', '.join(missing)} was not measured in this run"
    if bare := [bound.id for bound in both if not _is_sure(numbers[bound.id])]:
        raise ValueError(f"the control {bare[0]!r} of {instrument.id!r} has no interval: record it with one")
    said = {None: "is not surely", False: "is not"}
    broken = [f"{bound.id} {said[kept]} {bound}" for bound in both if not (kept := bound.kept(numbers))]
    return not broken, "; ".join(broken)


def _is_sure(number: Mapping[str, Any]) -> bool:
    """Whether it is known how far a number can be trusted: it has an interval, is counted or exact."""
    return number["low"] is not None or number["protocol"] == "exact" or number["unit"] == "count"


@cache
def _stated(file: Path) -> dict[str, Stated]:
    if not file.exists():
        return {}
    entries = read_toml(file)
    if unknown := entries.keys() - {"instrument", "claim"}:
        raise ValueError(f"{file} has {', '.join(sorted(unknown))}: it holds [[instrument]] and [[claim]]")
    found: dict[str, Stated] = {}
    seen: set[str] = set()
    for kind, make in (("instrument", _instrument), ("claim", _claim)):
        for entry in entries.get(kind, ()):
            notebook, id = entry.pop("notebook", ""), entry.get("id", "")
            where = f"the {kind} {id!r} of {file.name}"
            if not notebook or not re.fullmatch(_ID, id) or id in seen:
                raise ValueError(f"{where} needs a notebook and an id of its own, in lower case")
            seen.add(id)
            of = found.setdefault(notebook, Stated())
            try:
                made = make(entry)
            except (TypeError, AttributeError) as error:
                raise ValueError(f"{where} is not whole: {error}") from None
            if isinstance(made, Instrument):
                of.instruments[id] = made
                continue
            if unknown_ones := [each for each in made.instruments if each not in of.instruments]:
                raise ValueError(f"{where} names the instrument {unknown_ones[0]!r}, which its notebook has not")
            of.claims[id] = made
    return found


def _instrument(entry: Mapping[str, Any]) -> Instrument:
    return Instrument(**{**entry, **{kind: _bounds(entry.get(kind, {})) for kind in ("positive", "negative")}})


def _claim(entry: Mapping[str, Any]) -> Claim:
    where, protocol = f"the claim {entry['id']!r}", entry.get("protocol")
    if protocol not in get_args(Protocol):
        raise ValueError(f"{where} has the protocol {protocol!r}: choose one of {', '.join(get_args(Protocol))}")
    named = {"decided_by": _bounds(entry.get("decided_by", {})), "instruments": tuple(entry.get("instruments", ()))}
    claim = Claim(**{**entry, **named})
    if not claim.decided_by:
        raise ValueError(f"{where} is decided by nothing: give decided_by")
    if not claim.instruments and not claim.by_construction:
        raise ValueError(f"{where} names no instrument: give instruments, or by_construction = true")
    least = FEWEST.get(claim.of, 2)
    if claim.n is not None and not (claim.of and claim.n >= least):
        raise ValueError(f"{where} is to be decided on {claim.n} {claim.of!r}: say of what, and give {least} or more")
    return claim


def _bounds(table: Mapping[str, Any]) -> tuple[Bound, ...]:
    return tuple(Bound.read(id, text) for id, text in table.items())
