"""The numbers of notebook 02 that stand in rows: each is recorded under its id, and handed on in a table."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from xaikit.companion.notes import Notes
from xaikit.companion.record import published
from xaikit.metrics.groups import group_accuracy
from xaikit.metrics.intervals import bootstrap_mean, over_runs
from xaikit.studies.texplain import PUBLISHED_TABLE1, Dependence, difference, mentioned
from xaikit.studies.texplain_instruments import OnBirds
from xaikit.studies.texplain_mitigation import published_table2
from xaikit.studies.texplain_planted import Heard

Texts = Sequence[Sequence[str]]  # the sentences of each picture
FIRST_WORDS = 3  # the most usual ones, of a row of controls
WORST, AVERAGE = "worst group", "average"
SAME_NETWORK = ("another picture", "zeros")  # cases of a planted network that only hear something else of it


def slug(name: str) -> str:
    """A name as a part of an id: "RandMask, attention" is randmask-attention."""
    return re.sub(r"[ ,_]+", "-", name.lower())


def homes(note: Notes, texts: Mapping[str, Texts], words: Mapping[str, Mapping[str, Collection[str]]]) -> pd.DataFrame:
    """How often sentences name the category and its home: a row a category, by `words` of each kind (class, home).

    A category of fewer than two pictures, or of whose home no word is known, is left out.
    """
    rows = []
    for name, own in texts.items():
        row = {"category": name}
        for kind, wanted in words.items():
            if len(own) < 2 or not wanted[name]:
                continue
            share = bootstrap_mean(mentioned(own, wanted[name]), note.record.seed)
            id = f"fig5.{slug(name)}.{kind}-word"
            row[f"sentences with a word for the {kind}"] = str(note(id, share, "Figure 5"))
        rows.append(row)
    return pd.DataFrame(rows)


def controls(
    note: Notes,
    conditions: Mapping[str, Sequence[Mapping[str, float]]],
    true: Mapping[str, Float[np.ndarray, " pictures"]],
    named: Mapping[str, Float[np.ndarray, " pictures"]],
    learned: Mapping[str, str],
) -> pd.DataFrame:
    """What is said from each kind of features: a row each.

    Arguments: the words of each picture under every condition; how many of its first ten are `true`, of some or none;
    whether its category is `named`; and what the translator `learned` from.
    """
    rows = []
    for name, found in conditions.items():
        row = {"features of": name, "translator learned from": learned[name]}
        if name in true:
            id = f"controls.{slug(name)}.matching-words"
            row["true words of ten"] = str(note.mean(id, true[name], "controls", "control", "count"))
        id = f"controls.{slug(name)}.category-named"
        row["category named"] = str(note.mean(id, named[name], "controls", "control"))
        usual = pd.Series([next(iter(each), "(none)") for each in found]).value_counts()
        rows.append(row | {"usual first words": ", ".join(usual.index[:FIRST_WORDS])})
    return pd.DataFrame(rows)


def planted(note: Notes, kind: str, heard: Mapping[str, Heard]) -> pd.DataFrame:
    """What the networks of one kind say, do and hold of the planted colour, as intervals: a row a case.

    Columns: network, case; word, how much more often the colour is named where it is there, and over-twin, that beyond
    the twin's; flips, decodes and right, which are missing for cases that hear something else of the same network.
    """
    twin, rows = heard["twin"], []
    for name, each in heard.items():
        said = {"word": each.word, "over-twin": each.word - twin.word}
        done = {"flips": each.flips, "decodes": each.decodes, "right": each.right}
        row = {"network": kind, "case": name}
        for key, values in (said if name in SAME_NETWORK else said | done).items():
            unit = "difference" if key in said else "fraction"
            of = "told pictures" if key in said else "probed pictures" if key == "decodes" else "planted pictures"
            row[key] = note.mean(f"planted.{kind}.{slug(name)}.{key}", values, "section 4", "corrected", unit, of=of)
        rows.append(row)
    return pd.DataFrame(rows)


def shifts(
    note: Notes, kind: str, away: str, texts: Mapping[str, Mapping[str, Texts]], wanted: Collection[str]
) -> pd.DataFrame:
    """How much more often words for where one kind of bird is not at home are said in the test: a row a speaker.

    Arguments: `texts` of each picture by speaker ("TExplain", "captioner") and split ("train", "test"); the `wanted`
    words. Of the captioner the two halves of its sentences of the same pictures, which ought not to differ, are
    recorded as well; and how far TExplain's shift exceeds the captioner's.
    """
    shares, rows, seed = {}, [], note.record.seed
    for who, protocol in (("TExplain", "as-published"), ("captioner", "control")):
        share = shares[who] = {split: mentioned(each, wanted) for split, each in texts[who].items()}
        for split, each in share.items():
            id = f"fig7.{kind}.{away}.{split}.{who.lower()}"
            note.mean(id, each, "Figure 7", protocol, of=f"{split} {kind}s")
        if who == "captioner":
            halves = [mentioned([text[half::2] for text in texts[who]["test"]], wanted) for half in (0, 1)]
            note.mean(f"instruments.mentions.{kind}.halves", halves[0] - halves[1], "Figure 7", "control", "difference",
                      of=f"test {kind}s")  # fmt: skip
        found = difference(share["test"], share["train"], seed)
        note(f"fig7.{kind}.{away}.shift.{who.lower()}", found, "Figure 7", protocol, "difference")
        rows.append({"birds": kind, "words for": away, "said by": who, "test − training": str(found)})
    beyond = {split: shares["TExplain"][split] - shares["captioner"][split] for split in ("train", "test")}
    over = difference(beyond["test"], beyond["train"], seed)
    note(f"fig7.{kind}.{away}.shift-over-captioner", over, "Figure 7", "corrected", "difference")
    return pd.DataFrame(rows)


def word_maps(note: Notes, where: Mapping[str, Mapping[str, OnBirds]]) -> pd.DataFrame:
    """The share of masked pixels that lie on birds, with its interval, of each kind of map and each kind of word.

    Columns: map, where, value, low, high, n. The share of the map's mass is recorded beside it.
    """
    rows = []
    for kind, found in where.items():
        for name, each in found.items():
            id = f"instruments.map.{kind.lower()}.{slug(name)}"
            share, _ = (
                note.mean(f"{id}.{key}", getattr(each, key), "instruments", "control", of="covered pictures")
                for key in ("pixels", "mass")
            )
            rows.append({"map": kind, "where": name, **vars(share)})
    return pd.DataFrame(rows)


def by_runs(
    correct: Mapping[str, Sequence[Bool[np.ndarray, " pictures"]]], groups: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, Float[np.ndarray, " runs"]]]:
    """The accuracy of each way of tuning in each run: of the groups of these `names`, of the worst, and the average.

    The worst group is the minimum within each run. `correct` says which pictures are right, `groups` their groups.
    """
    measured = {}
    for way, runs in correct.items():
        found = [group_accuracy(each, np.array(groups)) for each in runs]
        values = {name: [each.groups[name].value for each in found] for name in names}
        values[WORST] = [min(each.groups[name].value for name in names) for each in found]
        values[AVERAGE] = [each.overall.value for each in found]
        measured[way] = {key: np.array(each) for key, each in values.items()}
    return measured


def sizes(groups: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """On how many pictures each accuracy of `by_runs` is measured; of the worst group, the smallest that it may be."""
    found = {name: list(groups).count(name) for name in names}
    return {**found, WORST: min(found.values()), AVERAGE: len(groups)}


def table2(
    note: Notes, measured: Mapping[str, Mapping[str, Sequence[float]]], pictures: Mapping[str, int]
) -> pd.DataFrame:
    """Mean and standard deviation over runs of all that is measured of each way of tuning: a row each.

    All are shares, of as many `pictures` as the measure has, the same ones in each run.
    """
    rows = []
    for way, measures in measured.items():
        row = {"method": way}
        for key, values in measures.items():
            runs = over_runs(list(values), rows=pictures[key])
            id = f"table2.{slug(way)}.{slug(key.replace('/', '-on-'))}"
            note(id, runs.within(0, 1), "Table 2", published=published_table2(slug(way), key))
            row[key] = f"{runs.value:.3f} ± {runs.sd:.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def gains(
    note: Notes, measured: Mapping[str, Mapping[str, Float[np.ndarray, " runs"]]], pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """By how much the first of each pair exceeds the second, run by run: in the worst group and on average."""
    rows = []
    for own, other in pairs:
        row = {"method": own, "over": other}
        for key in (WORST, AVERAGE):
            found = over_runs(measured[own][key] - measured[other][key])
            id = f"table2.{slug(own)}-over-{slug(other)}.{slug(key)}"
            row[key] = str(note(id, found, "Table 2", unit="difference"))
        rows.append(row)
    return pd.DataFrame(rows)


def dependence(note: Notes, depends: Mapping[str, Mapping[str, Dependence]]) -> pd.DataFrame:
    """Of each classifier (model) and factor the means of flips, mentions and excess: a row each."""
    rows = []
    for model, factors in depends.items():
        of = "pictures" if model == "nine" else "causal birds"
        for factor, found in factors.items():
            row: dict[str, str | float] = {"model": model, "factor": factor}
            for key, unit in (("flips", "fraction"), ("mentions", "fraction"), ("excess", "difference")):
                id = f"causal.{slug(model)}.{factor}.{key}"
                row[key] = note.mean(id, getattr(found, key), "causal", "control", unit, of=of).value
            rows.append(row)
    return pd.DataFrame(rows)


def table1(
    note: Notes,
    paired: Mapping[str, Float[np.ndarray, " prompts"]],
    shuffled: Mapping[str, Float[np.ndarray, " prompts"]],
    comparable: Collection[str],
) -> pd.DataFrame:
    """The overlap of two texts of the same picture, that with another picture's, and the difference: a row a metric.

    Of the metrics that are `comparable` the published value stands beside it, where there is one.
    """
    rows, each = [], {"of": "prompts", "over": "prompts"}
    for metric, own in paired.items():
        printed, id = PUBLISHED_TABLE1.get(metric) if metric in comparable else None, f"table1.{slug(metric)}"
        unit = "cosine" if metric == "cosine" else "score"
        value = note.mean(id, own, "Table 1", "as-published", unit, printed, **each)
        base = note.mean(f"{id}.shuffled", shuffled[metric], "Table 1", "control", unit, **each)
        gain = note.mean(f"{id}.gain", own - shuffled[metric], "Table 1", unit=f"difference of {unit}s", **each)
        rows.append({
            "metric": metric, "latent against its picture": str(value), "against another picture": str(base),
            "difference": str(gain), "published": published(printed) if printed else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)
