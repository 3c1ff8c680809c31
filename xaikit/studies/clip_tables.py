"""The tables of notebook 04: each function records the intervals of one table or figure, and hands on its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xaikit.companion.notes import Notes
from xaikit.companion.record import Protocol, published
from xaikit.metrics.intervals import Interval, bootstrap_mean, proportion
from xaikit.metrics.segmentation import SegmentationScores
from xaikit.studies.clip_asked import MEASURES, METHODS
from xaikit.studies.clip_decomposition import (
    Backbone,
    Classes,
    ClassToken,
    Head,
    Labels,
    Pool,
    accuracy,
    accuracy_change,
    name_of,
)
from xaikit.studies.clip_pictures import named_heads, published_id

Row = dict[str, Any]
NO_ROLE = "no clear role"
# The kinds of texts that heads are labelled by, and whose way that is.
KINDS: dict[str, Protocol] = {"two-topic": "as-published", "one-topic": "corrected"}
OF_SEVERAL = "pictures of several things"  # what values of the table "asked" are of
_TABLE1 = {"base": "table1.{model}.base", "MLPs": "table1.{model}.mlp-ablated"}


def of_models(rows: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows of each model, by its name, below each other; where there are several, the first column names it."""
    several = len(rows) > 1
    return pd.DataFrame([({"model": name} if several else {}) | row for name, own in rows.items() for row in own])


def printed(source: str | None) -> float:
    """The published number of that id as a fraction, NaN where there is none."""
    return published(source, "fraction") if source else np.nan


# --- ablations ----------------------------------------------------------------------------------------------------


def ablated(
    note: Notes,
    model: Backbone,
    answers: Mapping[Protocol, Mapping[str, Int64[Tensor, " images"]]],
    labels: Int64[Tensor, " images"],
) -> list[Row]:
    """Table 1: accuracy with each part replaced by its mean, and how far that is from "base", for each kind of means.

    `answers` are the classes given to the images, `labels` the right ones.
    """
    rows, seed = [], note.record.seed
    for protocol, each in answers.items():
        for name, given in each.items():
            interval = accuracy(given, labels, seed)
            source = published_id(model, _TABLE1.get(name))
            rows.append(_replaced(name, protocol, interval, source))
            if name != "base":
                change = accuracy_change(given, each["base"], labels, seed)
                note(f"table1.{name.lower()}-change.{protocol}", change, "Table 1", protocol, "difference")
            elif protocol == "as-published":
                continue  # nothing is replaced, so it is the same number with any means
            right = (given == labels).numpy()
            note(f"table1.{name.lower()}.{protocol}", interval, "Table 1", protocol, published=source, values=right)
    return rows


def ablated_class_token(
    note: Notes, classes: Classes, own: ClassToken, others: ClassToken, labels: Int64[Tensor, " images"]
) -> list[Row]:
    """Table 1 for what the class token's attention to itself adds, alone and with the MLPs, on a part of the images.

    Its mean is that over `others`, or as published over its `own` images; `labels` are of all images.
    """
    rows, seed = [], note.record.seed
    labels, base = labels[own.rows], classes.of_some(own.rows, own.embeddings)
    for protocol, means in class_token_means(own, others).items():
        for name, mlps in (("class token", False), ("class token and MLPs", True)):
            given = classes.of_some(own.rows, own.without(means, mlps=mlps))
            slug = name.lower().replace(" ", "-")
            change = accuracy_change(given, base, labels, seed)
            note(f"table1.{slug}-change.{protocol}", change, "Table 1", protocol, "difference")
            rows.append(_replaced(name, protocol, accuracy(given, labels, seed), None))
    return rows


def class_token_means(own: ClassToken, others: ClassToken) -> dict[Protocol, ClassToken]:
    """Over which images the mean of the class token's term is taken: others, or as published the very same."""
    return {"corrected": others, "as-published": own}


def _replaced(name: str, protocol: Protocol, interval: Interval, source: str | None) -> Row:
    return {"replaced by its mean": name, "means": protocol, **vars(interval), "published": printed(source)}


def cumulatively_ablated(
    note: Notes,
    answers: Mapping[Protocol, Int64[Tensor, "replaced images"]],
    labels: Int64[Tensor, " images"],
) -> list[Row]:
    """The MSA figure: accuracy with the attention of the first 0, 1, …, L layers replaced by its mean."""
    rows = []
    for protocol, each in answers.items():
        for count, given in enumerate(each):
            interval = accuracy(given, labels, note.record.seed)
            if count:  # none replaced is table1's base
                note(f"fig-msa.{count}.{protocol}", interval, "MSA figure", protocol)
            rows.append({"layers": count, "means": protocol, **vars(interval)})
    return rows


# --- texts and roles ----------------------------------------------------------------------------------------------


def described_heads(note: Notes, model: Backbone, labels: Mapping[str, Labels]) -> list[Row]:
    """The table "heads": role, roles by draw, first texts and the variance that they explain, by each kind of texts.

    Records that variance for texts as published, and how many of the heads have a role.
    """
    rows = []
    paper = {head: topic for topic, named in named_heads(model).items() for head in named}
    heads = labels["two-topic"].heads
    agreed = {kind: own.agreed for kind, own in labels.items()}
    for place, head in enumerate(heads):
        row: Row = {"head": name_of(head)}
        for kind, name in (("two-topic", "as published"), ("one-topic", "one topic")):
            drawn = [draw[place] for draw in labels[kind].draws]
            row[f"role, {name}"] = agreed[kind].get(head, NO_ROLE)
            row[f"in {len(drawn)} draws, {name}"] = ", ".join(role.topic or "–" for role in drawn)
            row |= {f"{name}, text {rank}": text for rank, text in enumerate(drawn[0].texts, start=1)}
            row[f"variance explained, {name}"] = drawn[0].explained
        rows.append(row | ({"in the paper": paper.get(head, "")} if model.is_the_papers else {}))
        note.record.number(
            note.id(f"heads.{name_of(head).lower()}.explained"), labels["two-topic"].draws[0][place].explained,
            unit="fraction", item="heads", protocol="as-published",
        )  # fmt: skip
    for kind, protocol in KINDS.items():
        share = proportion(len(agreed[kind]), len(heads))
        note(f"heads.with-role.{kind}", share, "heads", protocol, "fraction of heads", over="heads")
    return rows


def role_controls(
    note: Notes,
    kind: str,
    planted: tuple[Sequence[str], Bool[np.ndarray, " planted"]],
    dealt: tuple[Float[np.ndarray, " heads"], Float[np.ndarray, " heads"]],
    untrained: Labels,
) -> None:
    """Record the controls of the rule for roles, of all roles and of that of places by itself.

    Of `planted` heads their topics and whether they were found; of texts `dealt` anew the share of deals with a role,
    and with that of places, for each head; the labels of an `untrained` CLIP.
    """
    topics, found = planted
    places = found[np.array(topics) == "place"]
    nothing = list(untrained.agreed.values())
    any_role, as_place = (bootstrap_mean(each, note.record.seed).within(0.0, 1.0) for each in dealt)
    controls = {
        "planted": proportion(int(found.sum()), len(found)),
        "dealt": any_role,
        "dealt.place": as_place,
        "untrained": proportion(len(nothing), len(untrained.heads)),
        "untrained.place": proportion(nothing.count("place"), len(untrained.heads)),
    } | ({"planted.place": proportion(int(places.sum()), len(places))} if len(places) else {})
    for name, interval in controls.items():
        note(f"instruments.roles.{name}.{kind}", interval, "instrument", "control", over="heads")


def by_pool(
    note: Notes,
    answers: Mapping[tuple[str, int], Int64[Tensor, " images"]],
    pools: Mapping[str, Pool],
    labels: Int64[Tensor, " images"],
) -> pd.DataFrame:
    """The pool figure: accuracy with heads projected onto the first m texts of each pool; `answers` by pool and m."""
    rows = []
    for (name, m), given in answers.items():
        interval = accuracy(given, labels, note.record.seed)
        note(f"fig-pool.{name.replace(' ', '-')}.{m}", interval, "pool figure")
        rows.append({"pool": name, "texts": m, "in the pool": len(pools[name].embeddings), **vars(interval)})
    return pd.DataFrame(rows)


def specialisation(
    effects: Mapping[str, Float[np.ndarray, " heads"]], oracle: Mapping[Head, str], labels: Mapping[str, Labels]
) -> pd.DataFrame:
    """Each head's share of variance by factor (`effects`), the factor with the most (`oracle`), and its labels."""
    table = pd.DataFrame(effects, index=[name_of(head) for head in oracle]).rename_axis("head").reset_index()
    table.insert(1, "moves it most", list(oracle.values()))
    for kind, own in labels.items():
        agreed = own.agreed
        table[f"role, {kind}"] = [agreed.get(head, NO_ROLE) for head in oracle]
        for number, drawn in enumerate(own.draws, start=1):
            table[f"{kind}, draw {number}"] = [role.topic or "" for role in drawn]
    return table


# --- segmentation -------------------------------------------------------------------------------------------------


def segmentation(note: Notes, model: Backbone, scores: Mapping[str, SegmentationScores]) -> pd.DataFrame:
    """The table "segmentation": every measure of every method, with the published number where there is one."""
    rows = []
    for name, score in scores.items():
        by_picture = {"map": score.average_precision, "foreground-ap": score.foreground_average_precision}
        for measure in SegmentationScores.MEASURES:
            interval, id = score.interval(measure, note.record.seed), f"segmentation.{METHODS[name]}.{measure}"
            ours = measure == "foreground-ap"  # the paper has no such measure
            source = None if ours else published_id(model, id)
            note(id, interval, "segmentation", "corrected" if ours else "as-published", published=source,
                 values=by_picture.get(measure), of="pictures of one thing")  # fmt: skip
            rows.append({"method": name, "measure": measure, **vars(interval), "published": printed(source)})
    return pd.DataFrame(rows)


def asked(note: Notes, scored: Mapping[str, Mapping[str, Float[np.ndarray, " pictures"]]]) -> pd.DataFrame:
    """The table "asked": the mean over pictures of every measure of every method."""
    rows = []
    for name, slug in METHODS.items():
        for measure in MEASURES:
            interval = note.mean(f"asked.{slug}.{measure}", scored[name][measure], "segmentation",
                                 of=OF_SEVERAL)  # fmt: skip
            rows.append({"method": name, "measure": measure, **vars(interval.within(0.0, 1.0))})
    return pd.DataFrame(rows)
