"""What an audit found: the numbers, the tables, and the answer in three sentences."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from xaikit.audit.load import Loaded
from xaikit.audit.maps import Maps
from xaikit.audit.measures import FEW, Calibration, Grouping, calibration, grouping, margins_by_group, within_classes
from xaikit.audit.mends import Mend
from xaikit.audit.photographs import NO_LABEL, Pictures
from xaikit.audit.questions import ALPHA, LEAST, Concept, Effect, holm
from xaikit.audit.readings import Readings
from xaikit.metrics.groups import GroupAccuracy, group_accuracy

APART = 0.1  # of a column's variance within classes, below which it goes with the class


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found of a classifier on some pictures; `table()` is a row a question.

    `answers` [pictures] are the classes of the highest logit, `confidence` [pictures] their probabilities; `known` says
    of which pictures the right answer is known. `logits` [pictures, classes], maps, mends, and the pixels that are
    shown, are of the first shard's pictures alone where there are several shards.
    """

    loaded: Loaded
    pictures: Pictures
    concepts: tuple[Concept, ...]
    logits: Float[np.ndarray, "first classes"] = field(repr=False)
    answers: Int64[np.ndarray, " pictures"] = field(repr=False)
    confidence: Float[np.ndarray, " pictures"] = field(repr=False)
    effects: tuple[Effect, ...]
    removals: tuple[Effect, ...]
    maps: Maps | None
    readings: Readings | None
    mends: tuple[Mend, ...]
    keywords: pd.DataFrame
    seed: int
    seconds: float
    notes: tuple[str, ...]
    command: str = ""

    @property
    def known(self) -> Bool[np.ndarray, " pictures"]:
        """Of which pictures the right answer is known."""
        return self.pictures.labels != NO_LABEL

    @property
    def correct(self) -> Bool[np.ndarray, " known"]:
        """Of those, which are answered right."""
        return (self.answers == self.pictures.labels)[self.known]

    @property
    def claimed(self) -> list[Effect]:
        """The cues that it is said to use, the largest effect first."""
        return sorted((each for each in self.effects if each.claimed), key=lambda each: -each.net.value)

    @cached_property
    def by_class(self) -> GroupAccuracy | None:
        """The accuracy of each class, where the right answers are known."""
        if not self.known.any():
            return None
        return group_accuracy(self.correct, [self.name(label) for label in self.pictures.labels[self.known]])

    @cached_property
    def calibration(self) -> Calibration | None:
        """How far confidence and accuracy are apart, where the right answers are known."""
        if self.known.sum() < FEW:
            return None
        return calibration(self.confidence[self.known].astype(float), self.correct, self.seed)

    @cached_property
    def groupings(self) -> list[Grouping]:
        """The accuracy by class and each column of the groups; p allows for the number of columns (Holm)."""
        if self.known.sum() < FEW:
            return []
        labels, found = self.pictures.labels[self.known], []
        for name, column in self.pictures.groups.items():
            own = [f"{self.name(label)}, {value}" for label, value in zip(labels, column[self.known], strict=True)]
            found.append(grouping(str(name), own, self.correct, labels, self.seed))
        adjusted = holm([each.p for each in found])
        return [replace(each, adjusted=p) for each, p in zip(found, adjusted, strict=True)]

    @cached_property
    def variances(self) -> pd.DataFrame:
        """For each column of the groups, the share of the logits' variance within answers that goes with it.

        Of a column that goes with the class hardly anything is left within classes, so that nothing can be read there.
        """
        rows, tied, first = [], [], slice(0, len(self.logits))
        for name, column in self.pictures.groups.items():
            labels = np.where(self.known, self.pictures.labels, self.answers)
            rows.append((name, *margins_by_group(str(name), column[first], self.logits, labels[first], self.seed)))
            tied.append(within_classes(column[first], labels[first]) < APART)
        found = pd.DataFrame(rows, columns=["column", "share of variance", "p"])
        return found.assign(**{"adjusted p": holm(found["p"].tolist()), "goes with the class": tied})

    def name(self, label: int | np.integer) -> str:
        """What a class is called."""
        return self.loaded.names[label] if 0 <= label < len(self.loaded.names) else f"class {label}"

    def look_at(self, effect: Effect, most: int = 8) -> list[int]:
        """The pictures whose answers a change turns and its control does not: where to look."""
        turned = effect.flips & ~np.any(list(effect.controls.values()), axis=0)
        return effect.rows[turned][:most].tolist()

    def summary(self) -> list[str]:
        """The answer in three sentences at most."""
        asked = [each for each in self.effects if not each.why and not each.expected]
        if not asked:
            return [
                "Nothing could be asked: " + (self.effects[0].why if self.effects else "no concept has a change") + "."
            ]
        if not self.claimed:
            power = max((each.detectable for each in asked), key=lambda value: math.inf if math.isnan(value) else value)
            named = ", ".join(each.concept for each in asked)
            could = f"an effect on {power:.0%} of the answers" if not math.isnan(power) else "no effect of any size"
            small = [each for each in asked if each.adjusted <= ALPHA]
            return [
                f"Nothing found: of {len(asked)} questions ({named}), none surely turns {LEAST:.0%} of the answers "
                "beyond its control.",
                f"What could have been found: {could} would have been in four of five such audits.",
                "What was not asked may be used all the same.",
                *([f"Surely there, and below the {LEAST:.0%} from which on it counts as used: "
                   + ", ".join(f"{each.concept} ({each.net.value:.1%})" for each in small) + "."] if small else []),
            ]  # fmt: skip
        first = self.claimed[0]
        does = f"It uses {first.concept}: changing it"
        if first.unseen:
            does = f"It answers to {first.concept}, which no picture here shows: adding it"
        said = [
            f"{does} turns {first.shares['the change'].value:.0%} of the answers, its "
            f"control {first.shares[first.strongest].value:.0%}, a difference of {_percent(first)} "
            f"(p {'< 0.001' if first.adjusted < 0.001 else f'= {first.adjusted:.3f}'}, of {first.questions} questions)."
        ]
        for does, unseen in (("It also uses ", False), ("Added, it also answers to ", True)):
            if others := [f"{each.concept} ({_percent(each)})" for each in self.claimed[1:] if each.unseen == unseen]:
                said.append(f"{does}{', '.join(others)}.")
        rows = self.look_at(first)
        towards = max(first.towards, key=lambda label: first.towards[label])
        part = first.towards[towards] / sum(first.towards.values())
        to = f", and at answers that become {self.name(towards)} ({part:.0%} of those that turn)" if part > 0.6 else ""
        said.append(f"Look at {', '.join(self.pictures.ids[row] for row in rows[:3])}{to}.")
        return said

    def table(self) -> pd.DataFrame:
        """A row a question: how many answers the change turns, its control, the difference, p, what is claimed."""
        rows = []
        for each in self.effects:
            row: dict[str, Any] = {"concept": each.concept, "change": each.change, "pictures": len(each.rows)}
            if not each.why:
                net = each.net
                row |= {
                    "flips": each.shares["the change"].value, "control": each.strongest,
                    "control flips": each.shares[each.strongest].value, "net": net.value, "low": net.low,
                    "high": net.high, "p": each.p, "adjusted p": each.adjusted, "detectable": each.detectable,
                }  # fmt: skip
            row["verdict"] = verdict_of(each)
            rows.append(row)
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """All numbers, to be read by a program."""
        accuracy = self.by_class
        found: dict[str, Any] = {
            "summary": self.summary(), "source": self.loaded.source, "digest": self.loaded.digest,
            "pictures": len(self.pictures), "seed": self.seed, "seconds": round(self.seconds, 1),
            "command": self.command, "notes": [*self.pictures.notes, *self.notes],
            "effects": json.loads(self.table().to_json(orient="records")),
            "removals": json.loads(removal_table(self.removals).to_json(orient="records")),
            "keywords": json.loads(self.keywords.to_json(orient="records")),
            "mends": [
                {"concept": each.concept, "why": each.why}
                | ({} if each.why else {"before": vars(each.before.net), "after": vars(each.after.net)}
                   | {"right before": vars(each.right_before), "right after": vars(each.right_after)})
                for each in self.mends
            ],
            "readings": self.readings.to_json() if self.readings is not None else None,
            "variances": json.loads(self.variances.to_json(orient="records")),
        }  # fmt: skip
        if accuracy is not None:
            found["accuracy"] = {"overall": vars(accuracy.overall), "worst class": str(accuracy.worst_group)} | {
                "worst": vars(accuracy.worst), "classes": {str(k): vars(v) for k, v in accuracy.groups.items()}
            }  # fmt: skip
        if (own := self.calibration) is not None:
            found["calibration"] = {"error": own.error, "by chance": own.by_chance, "p": own.p}
        found["groups"] = {
            each.column: {"worst": str(each.accuracy.worst_group), "p": each.p, "adjusted p": each.adjusted}
            | {str(name): vars(value) for name, value in each.accuracy.groups.items()}
            for each in self.groupings
        }
        return found

    def answer_table(self) -> pd.DataFrame:
        """A row a picture: the right answer, the one given, and whether each change turns it."""
        table = pd.DataFrame({
            "file": self.pictures.ids,
            "label": [self.name(label) if label != NO_LABEL else "" for label in self.pictures.labels],
            "answer": [self.name(label) for label in self.answers], "confidence": self.confidence.round(4),
        })  # fmt: skip
        for each in self.effects:
            if not each.why:
                turned = pd.Series(pd.NA, index=table.index, dtype="object")
                turned.iloc[each.rows] = each.flips.astype(int)
                table[f"turned by {each.concept}"] = turned
        return table


def _percent(effect: Effect) -> str:
    net = effect.net
    return f"{net.value:.0%} [{net.low:.0%}, {net.high:.0%}]"


def verdict_of(effect: Effect) -> str:
    """What is said of a question, in a few words."""
    if effect.why:
        return f"not asked: {effect.why}"
    if effect.claimed:
        return "answers to it" if effect.unseen else "used"
    if effect.expected:
        return "expected"
    if effect.adjusted <= 0.05:
        return "a small effect"
    return "not found"


def removal_table(removed: Sequence[Effect]) -> pd.DataFrame:
    """A row a region and filling: the answers that its removal turns, and those that two other masks turn."""
    rows = []
    for each in removed:
        net = each.net
        rows.append({
            "removed": each.concept, "filled with": each.change.removeprefix("removed: "), "pictures": len(each.rows),
            "flips": each.shares["the change"].value,
            **{name: share.value for name, share in each.shares.items() if name != "the change"},
            "net": net.value, "low": net.low, "high": net.high, "p": each.p,
        })  # fmt: skip
    return pd.DataFrame(rows)
