"""The numbers of notebook 03, written down under their ids, and the tables that show them.

`note` is the notebook's own. Most measures come by task, setting and the score that was explained: "own" is the
setting's published one, "softmax" and "matched" are the controls of the same model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from xaikit.companion.notes import Notes
from xaikit.companion.record import published
from xaikit.metrics.exact_tests import fisher, mcnemar
from xaikit.metrics.intervals import Interval, bootstrap_mean, over_runs, proportion
from xaikit.metrics.pointing import Pointing
from xaikit.studies.vlm_explanations import (
    FINE_TUNED,
    PROTOCOLS,
    SETTINGS,
    ZERO_SHOT,
    Accuracies,
    DeletionControls,
    Found,
    Removal,
    between_groups,
    energy_in,
    improvement,
)
from xaikit.studies.vlm_planted import READERS

Key = tuple[str, str, str]  # task, setting, score
SCORES = ("own", "softmax", "matched")


def table2(note: Notes, hard: Mapping[str, Accuracies], easy: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Accuracies of the harder pictures by task and setting, with those of the easy ones; and the controls."""
    rows = []
    for task, each in hard.items():
        of = f"{task} of table 2"
        for setting, right in each.right.items():
            id = f"table2.{task}.{setting}"
            interval = note.mean(id, right, "Table 2", "as-published", published=f"agarwal.{id}", of=of)
            rows.append({"task": task, "setting": setting, **vars(interval), "of easy pictures": easy[task, setting],
                         "published": published(f"agarwal.{id}", "fraction")})  # fmt: skip
        gain = each.right[FINE_TUNED] - each.right[ZERO_SHOT]
        note.mean(f"table2.{task}.gain", gain, "Table 2", "as-published", "difference", of=of)
        for control, values in each.controls.items():
            unit = "fraction" if control == "best" else "difference"
            note.mean(f"instruments.accuracy.{task}.{control}", values, "Table 2", "control", unit, of=of)
    return pd.DataFrame(rows)


def search(note: Notes, found: Mapping[Key, Found]) -> pd.DataFrame:
    """What the masks do, task by task: how many are empty, and what share of the score's range they take away."""
    rows = []
    tasks = list(dict.fromkeys(task for task, _, _ in found))
    for (task, setting, score), each in sorted(found.items(), key=lambda item: tasks.index(item[0][0])):
        checks, slug = each.checks, f"search.{task}.{setting}.{_slug(score)}"
        protocol, of = _protocol(score), f"{len(each.maps)} pictures"
        empty = note.mean(f"{slug}.empty", checks.empty.double().numpy(), "search", protocol, of=of)
        share = checks.lowered.double().numpy()
        lowered = note.mean(f"{slug}.lowered", share, "search", protocol, "share of the range", of=of)
        size = note.mean(f"{slug}.size", each.size, "search", protocol, of=of)
        rows.append({"task": task, "setting": setting, "score": score, "n": len(each.maps), "empty maps": empty.value,
                     "highest": checks.highest.mean().item(), "score before": checks.before.mean().item(),
                     "after": checks.after.mean().item(), "share of its range": lowered.value, "size": size.value,
                     "saturated": int(each.saturated.sum())})  # fmt: skip
    return pd.DataFrame(rows)


def planted(note: Notes, read: Mapping[str, np.ndarray], pictures: int) -> pd.DataFrame:
    """What `vlm_planted.read` found of each reader, trained and not: means over trainings, each of some `pictures`."""
    units = {"lift": "ratio", "rank": "fraction", "more": "difference of ratios", "smaller": "difference"}
    for id, values in read.items():
        unit = units.get(id.rpartition(".")[2].partition("-than-")[0], "fraction")
        # Sizes and ranks are no verdicts, but where every map of all trainings is empty, that is one of each.
        verdicts = unit == "fraction" and (id.rpartition(".")[2] not in ("size", "rank") or not values.any())
        interval: Interval = over_runs(values.tolist(), rows=len(values) * pictures if verdicts else None)
        if unit == "fraction":
            interval = interval.within(0, 1)
        note(f"instruments.planted.{id}", interval, "Instruments", "control", unit, values=values, of="trainings")
    rows = []
    for name in READERS:
        for slug, reads in ((name, name), (f"{name}.untrained", "nothing")):
            measured = {"flips: own": "flips.own", "flips: other": "flips.other", "size of its maps": "size",
                        "lift": "lift", "hit": "hit", "rank": "rank"}  # fmt: skip
            own = {key: read[f"{slug}.{id}"].mean() for key, id in measured.items() if f"{slug}.{id}" in read}
            rows.append({"network": slug.replace(".", ", "), "reads": reads, **own})
    return pd.DataFrame(rows)


# --- deletion ---------------------------------------------------------------------------------------------------------


def deletion(
    note: Notes, quality: Mapping[tuple[str, str], Removal], controls: Mapping[str, DeletionControls]
) -> pd.DataFrame:
    """Deletion of each task and setting by its maps and by other orders, under both protocols; and its controls."""
    for task, each in controls.items():
        for (protocol, control), values in each.gaps.items():
            note.mean(f"instruments.deletion.{task}.{protocol}.{control}", values, "Figure 4", "control",
                      "difference of ratios", of=f"{task} of controls")  # fmt: skip
    rows = []
    for (task, setting), own in quality.items():
        for order, each in {"map": own, **controls[task].orders[setting]}.items():
            of = f"{task} of figure 4" if order == "map" else f"{task} of controls"
            for protocol, field in PROTOCOLS.items():
                id = f"fig4.{task}.{setting}.{order}.{protocol}"
                interval = note.mean(id, getattr(each, field), "Figure 4", protocol, "ratio", of=of)
                rows.append({"task": task, "setting": setting, "order": order, "protocol": protocol, **vars(interval)})
    return pd.DataFrame(rows)


def deletes_better(note: Notes, quality: Mapping[tuple[str, str], Removal]) -> pd.DataFrame:
    """Zero-shot minus fine-tuned, and by what share it is lower, beside what the paper says, of the same pictures."""
    rows = []
    for task in dict.fromkeys(task for task, _ in quality):
        for protocol, field in PROTOCOLS.items():
            ours, other = (getattr(quality[task, setting], field) for setting in SETTINGS)
            note.mean(f"fig4.{task}.zero-shot-minus-fine-tuned.{protocol}", ours - other, "Figure 4", protocol,
                      "difference of ratios", of=f"{task} of figure 4")  # fmt: skip
            source = f"agarwal.fig4.{task}.improvement"
            lower = note(f"fig4.{task}.improvement.{protocol}", improvement(ours, other, note.record.seed), "Figure 4",
                         protocol, "relative difference", published=source)  # fmt: skip
            rows.append({"task": task, "protocol": protocol, "zero-shot is lower by": str(lower),
                         "the paper says": published(source, "fraction")})  # fmt: skip
    return pd.DataFrame(rows)


def masked_faces(
    note: Notes, quality: Mapping[tuple[str, str], Removal], centred: Mapping[tuple[str, str], Removal]
) -> pd.DataFrame:
    """Deletion by setting and kind, original or masked, under both protocols; the control is one order on both.

    That order is `centred`, from the centre outwards: nothing of it is about explanations.
    """
    rows = []
    for protocol, field in PROTOCOLS.items():
        values = {key: getattr(each, field) for key, each in quality.items()}
        for setting in SETTINGS:
            for kind in ("original", "masked"):
                id = f"fig5.{setting}.{kind}.{protocol}"
                interval = note.mean(id, values[setting, kind], "Figure 5", protocol, "ratio", of="people")
                rows.append({"setting": setting, "pictures": kind, "protocol": protocol, **vars(interval)})
            gap = values[setting, "masked"] - values[setting, "original"]
            note.mean(f"fig5.{setting}.masked-minus-original.{protocol}", gap, "Figure 5", protocol,
                      "difference of ratios", of="people")  # fmt: skip
        gaps = [getattr(centred[each, "masked"], field) - getattr(centred[each, "original"], field)
                for each in SETTINGS]  # fmt: skip
        same = np.mean(gaps, axis=0)
        for control, gap in (("same-map", same), ("same-map-back", -same)):
            note.mean(f"instruments.deletion.masked.{protocol}.{control}", gap, "Figure 5", "control",
                      "difference of ratios", of="people")  # fmt: skip
    return pd.DataFrame(rows)


def masked_delete_better(note: Notes, quality: Mapping[tuple[str, str], Removal]) -> pd.DataFrame:
    """By what share the patch lowers deletion, of both settings together, beside what the paper says."""
    rows, source = [], "agarwal.fig5.masked.improvement"
    for protocol, field in PROTOCOLS.items():
        masked, original = (np.mean([getattr(quality[setting, kind], field) for setting in SETTINGS], axis=0)
                            for kind in ("masked", "original"))  # fmt: skip
        lower = note(f"fig5.improvement.{protocol}", improvement(masked, original, note.record.seed), "Figure 5",
                     protocol, "relative difference", published=source)  # fmt: skip
        rows.append({"protocol": protocol, "the patch lowers it by": str(lower),
                     "the paper says": published(source, "fraction")})  # fmt: skip
    return pd.DataFrame(rows)


# --- words ------------------------------------------------------------------------------------------------------------


def on_text(note: Notes, shares: Mapping[tuple[str, str], np.ndarray], area: np.ndarray) -> pd.DataFrame:
    """How much of the maps lies on the text, by setting and score, beside its `area`; and zero-shot minus fine-tuned.

    The pictures of the control, by the softmax, are the first of the others.
    """
    chance = note.mean("fig2.area", area, "Figure 2", of="cars with text")
    rows = [{"map": "chance (area of the text)", **vars(chance)}]
    for (setting, score), share in shares.items():
        interval = note.mean(f"fig2.{setting}.{score}", share, "Figure 2", _protocol(score), of=_with_text(score))
        rows.append({"map": f"{setting}, {score} score", **vars(interval)})
    for (setting, score), share in shares.items():
        if setting == ZERO_SHOT:
            gap = share - shares[FINE_TUNED, "own"][: len(share)]
            note.mean(f"fig2.zero-shot-minus-fine-tuned.{score}", gap, "Figure 2", _protocol(score), "difference",
                      of=_with_text(score))  # fmt: skip
    return pd.DataFrame(rows)


def _with_text(score: str) -> str:
    return "cars with text" if score == "own" else "few cars with text"


def attack(
    note: Notes,
    lied: Mapping[tuple[str, str], Found],
    word: Bool[Tensor, "images height width"],
    follows: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Of cars with a word that lies: how often the answer follows it, and how much of the map lies on it.

    `lied` are the maps by setting and score, `follows` says of each picture whether the setting's answer is the word's.
    """
    rows, told = [], {key: energy_in(each.maps.cpu(), word) for key, each in lied.items()}
    item, of = "Figure 2", "attacked cars"
    for (setting, score), values in told.items():
        share = note.mean(f"attack.{setting}.{score}", values, item, of=of)
        followed = note.mean(f"attack.flips.{setting}.{score}", follows[setting], item, "control", of=of)
        none = lied[setting, score].checks.empty.double().numpy()
        empty = note.mean(f"attack.{setting}.{score}.empty", none, item, "control", of=of)
        rows.append({"setting": setting, "score": score, "answers that follow the word": str(followed),
                     "attribution on it": str(share), "its area": word.double().mean().item(),
                     "empty maps": empty.value})  # fmt: skip
    for score in ("own", "softmax"):
        gap = told[ZERO_SHOT, score] - told[FINE_TUNED, "own"]
        note.mean(f"attack.zero-shot-minus-fine-tuned.{score}", gap, item, unit="difference", of=of)
    gap = follows[ZERO_SHOT] - follows[FINE_TUNED]
    note.mean("attack.flips.zero-shot-minus-fine-tuned", gap, item, unit="difference", of=of)
    return pd.DataFrame(rows)


# --- faces ------------------------------------------------------------------------------------------------------------

SAID = {"long hair": "female", "short hair": "male"}  # the drawn world's stand-in for the paper's two columns


def table1(
    note: Notes,
    pointing: Mapping[tuple[str, str], Pointing],
    rank: Mapping[tuple[str, str], np.ndarray],
    groups: Mapping[str, Bool[Tensor, " people"]],
    top: float,
) -> pd.DataFrame:
    """How maps point at faces, by group of people, setting and kind of picture; `top` of the pixels are the highest."""
    rows = []
    for group, members in groups.items():
        inside = members.numpy()
        for (setting, kind), each in pointing.items():
            slug = f"table1.{group.replace(' ', '-')}.{setting}.{kind}"
            source = f"agarwal.table1.{SAID[group]}.{setting}" if group in SAID and kind == "masked" else None
            hits = proportion(int(each.hits[inside].sum()), int(inside.sum()))
            shown = {"hit": note(f"{slug}.hit", hits, "Table 1", "as-published", published=source)}
            for name, values in (("highest", each.hit), ("energy", each.energy), ("top", each.top)):
                mean = bootstrap_mean(values[inside], seed=note.record.seed)
                shown[f"top {top:.0%}" if name == "top" else name] = note(f"{slug}.{name}", mean, "Table 1")
            rows.append({"looks": group, "setting": setting, "pictures": kind,
                         **{name: str(interval) for name, interval in shown.items()},
                         "rank": rank[setting, kind][inside].mean(), "chance": each.area[inside].mean(),
                         "n": int(inside.sum()),
                         "published hit": published(source, "fraction") if source else np.nan})  # fmt: skip
    return pd.DataFrame(rows)


def on_faces(
    note: Notes, pointing: Mapping[tuple[str, str], Pointing], rank: Mapping[tuple[str, str], np.ndarray]
) -> None:
    """Zero-shot minus fine-tuned, of the same pictures: hits, energy and rank; and McNemar's test of the hits."""
    hit = {key: each.hits.astype(float) for key, each in pointing.items()}
    energy = {key: each.energy for key, each in pointing.items()}
    for kind in ("original", "masked"):
        for measure, values in {"hit": hit, "energy": energy, "rank": rank}.items():
            gap = values[ZERO_SHOT, kind] - values[FINE_TUNED, kind]
            note.mean(f"table1.zero-shot-minus-fine-tuned.{kind}.{measure}", gap, "Table 1",
                      "as-published" if measure == "hit" else "corrected", "difference", of="people")  # fmt: skip
    note.record.number("agarwal.table1.p.mcnemar", mcnemar(hit[ZERO_SHOT, "masked"], hit[FINE_TUNED, "masked"]),
                       unit="p-value", item="Table 1", protocol="corrected")  # fmt: skip


def gender_gap(
    note: Notes, pointing: Mapping[tuple[str, str], Pointing], groups: Mapping[str, Bool[Tensor, " people"]]
) -> None:
    """Hits behind the patch of those with short hair minus those with long hair, where both are known."""
    if SAID.keys() <= groups.keys():
        short, long = (groups[looks].numpy() for looks in ("short hair", "long hair"))
        for setting in SETTINGS:
            hit = pointing[setting, "masked"].hits.astype(float)
            gap = between_groups(hit, short, long, note.record.seed)
            note(f"table1.gender-gap.{setting}.hit", gap, "Table 1", "as-published", "difference")


def published_counts(note: Notes) -> pd.DataFrame:
    """Fisher's exact test of the paper's own counts: of the settings in each column, of the columns in each setting."""
    base, rows = "agarwal.table1.decoded", []
    count = {(looks, setting): (int(published(f"{base}.{looks}.{setting}.hits")),
                                int(published(f"{base}.{looks}.images")))
             for looks in SAID.values() for setting in SETTINGS}  # fmt: skip
    pairs = {looks: [(looks, setting) for setting in SETTINGS] for looks in SAID.values()}
    pairs |= {f"gender.{setting}": [(looks, setting) for looks in SAID.values()] for setting in SETTINGS}
    for name, pair in pairs.items():
        first, second = (count[each] for each in pair)
        p = fisher(*first, *second)
        source = f"{base}.p.{name}" if name in SAID.values() else None
        note.record.number(f"agarwal.table1.p.published.{name}", p, unit="p-value", item="Table 1",
                           protocol="as-published", published=source)  # fmt: skip
        shown = [f"{', '.join(each)}: {hits} of {n}" for each, (hits, n) in zip(pair, (first, second), strict=True)]
        rows.append({"published": shown[0], "and": shown[1], "Fisher's exact p": round(p, 2)})
    return pd.DataFrame(rows)


# --- one model through several scores ---------------------------------------------------------------------------------


def score_control(
    note: Notes,
    sizes: Mapping[Key, np.ndarray],
    on_object: Mapping[Key, np.ndarray],
    deletion: Mapping[Key, np.ndarray],
    regions: Mapping[str, Bool[Tensor, "images height width"]],
) -> pd.DataFrame:
    """Size, share on the object (where that is known) and deletion of the maps; and zero-shot minus fine-tuned.

    `regions` are the objects of the pictures of each task, of which a control has the first ones.
    """
    rows, item = [], "score control"
    for (task, setting, score), size in sizes.items():
        slug, how = f"control.{task}.{setting}.{score}", (item, _protocol(score))
        of = _of(task, score)
        row = {"task": task, "setting": setting, "score": score, "n": len(size)}
        row["size"] = str(note.mean(f"{slug}.size", size, *how, of=of))
        if (on := on_object.get((task, setting, score))) is not None:
            row["on the object"] = str(note.mean(f"{slug}.on-object", on, *how, of=of))
            row["object's area"] = regions[task][: len(size)].double().mean().item()
        deleted = note.mean(f"{slug}.deletion", deletion[task, setting, score], *how, "ratio", of=of)
        rows.append(row | {"deletion / random": str(deleted)})
    gaps = {"deletion": (deletion, "difference of ratios"), "size": (sizes, "difference"),
            "on-object": (on_object, "difference")}  # fmt: skip
    for task, setting, score in sizes:
        for name, (values, unit) in gaps.items():
            if setting == ZERO_SHOT and (task, setting, score) in values:
                ours = values[task, setting, score]
                gap = ours - values[task, FINE_TUNED, "own"][: len(ours)]
                note.mean(f"control.{task}.{name}-gap.{score}", gap, item, _protocol(score), unit, of=_of(task, score))
    return pd.DataFrame(rows)


def same_model(note: Notes, task: str, sizes: Mapping[Key, np.ndarray], milder: np.ndarray, most: int) -> None:
    """The size of the zero-shot maps through each score minus that through the softmax, and turned round.

    The softmax itself stands beside a `milder` one. Of the same pictures, `most` at most.
    """
    reference = sizes[task, ZERO_SHOT, "softmax"]
    through = {score: sizes.get((task, ZERO_SHOT, score)) for score in ("own", "matched")}
    for score, values in {**through, "softmax": milder}.items():
        if values is not None:
            count = min(len(values), most, len(reference))
            gap = values[:count] - reference[:count]
            for control, each in (("same-model", gap), ("same-model-back", -gap)):
                note.mean(f"instruments.size.{task}.{score}.{control}", each, "score control", "control", "difference",
                          of=f"{task} of controls")  # fmt: skip


# --- causes, and other explainers -------------------------------------------------------------------------------------


def causal(
    note: Notes,
    flips: Mapping[Key, Interval],
    shares: Mapping[Key, np.ndarray],
    areas: Mapping[tuple[str, str], float],
) -> pd.DataFrame:
    """How many answers each part of a picture flips, and how much of the maps lies on it, by task, part and setting.

    There are no `shares` where no map's picture shows the part, whose area is that in `areas`.
    """
    rows = []
    for (task, part, setting), interval in flips.items():
        slug = f"causal.{task}.{part}.{setting}"
        flipped, given = note(f"{slug}.flips", interval, "causal"), dict.fromkeys(vars(interval), np.nan)
        if (share := shares.get((task, part, setting))) is not None:
            given = vars(note.mean(f"{slug}.attribution", share, "causal", of=f"{task} with {part}"))
        rows.append(
            {"part": f"{task}: {part}", "setting": setting, "area": areas[task, part]}
            | {f"flips {key}": value for key, value in vars(flipped).items()}
            | {f"attribution {key}": value for key, value in given.items()}
        )
    return pd.DataFrame(rows)


def explainers(note: Notes, found: Mapping[Key, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Deletion, insertion and the share on the object, by task, setting and explainer; and the settings' difference."""
    rows, item, seed = [], "other explainers", note.record.seed
    for (task, setting, explainer), measures in found.items():
        row: dict[str, Any] = {"task": task, "setting": setting, "explainer": explainer}
        for name, values in measures.items():
            unit = "fraction" if name == "on-object" else "ratio"
            id = f"explainers.{task}.{setting}.{_slug(explainer)}.{name}"
            interval = note(id, bootstrap_mean(values, seed=seed), item, unit=unit)
            row["on the object" if name == "on-object" else name] = interval.value
        rows.append(row)
    for task, setting, explainer in found:
        if setting == ZERO_SHOT and explainer != "random":
            gap = found[task, ZERO_SHOT, explainer]["deletion"] - found[task, FINE_TUNED, explainer]["deletion"]
            note(f"explainers.{task}.deletion-gap.{_slug(explainer)}", bootstrap_mean(gap, seed=seed), item, "control",
                 "difference of ratios")  # fmt: skip
    return pd.DataFrame(rows)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def _protocol(score: str) -> str:
    return "as-published" if score in ("own", "half a blur") else "control"


def _of(task: str, score: str) -> str:
    """The pictures that were explained through a score."""
    return task if score == "own" else f"few {task}"
