"""The books of notebook 01: which numbers go into which table, and under which id they are recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from xaikit.companion.notes import Notes
from xaikit.companion.record import published
from xaikit.datasets.digits import ColouredDigits
from xaikit.metrics.intervals import Interval, bootstrap_mean, proportion
from xaikit.metrics.ranking import spearman
from xaikit.models.classifiers import Trained
from xaikit.studies import caption_driven as study
from xaikit.studies.caption_driven import Matched
from xaikit.studies.caption_driven_grid import INSTRUMENTS, Known, controls, false_alarms
from xaikit.surgery.captions import Captions
from xaikit.surgery.transplant import Choice

Readings = Mapping[str, Mapping[str, Float[np.ndarray, " images"]]]  # by instrument and by network's name


def curves(models: Sequence[Trained]) -> pd.DataFrame:
    """The learning curves of all folds of one model, one measurement a row: epoch, set, accuracy, fold."""
    frames = [pd.DataFrame(each.curves).assign(fold=fold) for fold, each in enumerate(models)]
    return pd.concat(frames, ignore_index=True)


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """Of learning curves (`curves`) the last measurement of each set and fold."""
    return rows[rows.epoch == rows.epoch.max()]


def best_fold(rows: pd.DataFrame) -> int:
    """The fold that is kept, as published: the best validation accuracy in the end, and the first of equal ones."""
    final = at_the_end(rows)
    final = final[final.set == "validation"]
    return int(final.sort_values(["accuracy", "fold"], ascending=[False, True]).fold.iloc[0])


def layers_of(shapes: Mapping[str, Mapping[str, tuple[int, int, int]]]) -> pd.DataFrame:
    """The layers of several networks whose maps are open for swapping, one a row, with number and size of the maps."""
    return pd.DataFrame(
        [(where, layer, *shape) for where, layers in shapes.items() for layer, shape in layers.items()],
        columns=["network", "layer", "maps", "height", "width"],
    )


def of_matching(cases: Mapping[str, Matched]) -> pd.DataFrame:
    """For each model and stage of CLIP: how alike the matched maps are, how many differ, from which layer they come."""
    rows = []
    for name, case in cases.items():
        ends = [span.stop for span in case.source_statistics.span.values()]
        for stage, span in case.target_statistics.span.items():
            chosen, score = case.choice.source[span], case.choice.score[span]
            layer = np.searchsorted(ends, chosen.numpy(), side="right")
            rows.append(
                {
                    "model": name,
                    "CLIP stage": stage,
                    "maps": len(chosen),
                    "median best score": score.median().item(),
                    "highest": score.max().item(),
                    "distinct source maps": len(chosen.unique()),
                    "median source layer": f"{int(np.median(layer)) + 1} of {len(ends)}",
                }
            )
    return pd.DataFrame(rows)


def note_matching(note: Notes, name: str, case: Matched) -> None:
    """Record of one model how many different maps CLIP takes in, which share of all that is, and how alike they are.

    A choice that takes one map for all is the control of the first.
    """
    choice = case.choice
    constant = replace(choice, source=torch.zeros_like(choice.source))
    note_distinct(note, f"matching.distinct.{name}", choice, "matching", "as-published")
    note_distinct(note, f"matching.distinct.constant.{name}", constant, "matching", "exact")
    note.record.number(
        f"{note.paper}.matching.carried.{name}", choice.distinct() / len(case.source_statistics.mean),
        unit="share of maps", item="matching", protocol="exact",
    )  # fmt: skip
    score = bootstrap_mean(choice.score.numpy(), note.record.seed)
    note(f"matching.median-score.{name}", score, "matching", unit="score", over="maps")


def note_distinct(note: Notes, id: str, choice: Choice, item: str, protocol: str) -> None:
    """Record how many different maps of the standalone model a choice carries over, of as many as CLIP has."""
    count = choice.distinct()
    note(id, Interval(count, count, count, len(choice.source)), item, protocol, "count", over="maps")


def influence(
    note: Notes,
    scored: Mapping[tuple[str, str], Mapping[str, Float[Tensor, "images captions"]]],
    scored_on: Mapping[tuple[str, str], ColouredDigits],
) -> pd.DataFrame:
    """The published table: for each (model, set) and column of it the share of each caption, beside what is printed.

    `scored` has the published scores of (model, set), `scored_on` the digits. All shares are recorded.
    """
    rows = []
    for (name, set_name), settings in scored.items():
        data = scored_on[name, set_name]
        colours = ["correct colour", "wrong colour"] if name == "biased" else ["any colour"]
        for setting, values in settings.items():
            for cell in ("correct shape", "wrong shape", *colours):
                id = f"influence.{set_name}.{name}.{setting}.{cell.replace(' ', '-')}"
                share = study.published_share(values, data, cell, note.record.seed)
                note(id, share, "Table influence", "as-published", published=f"{note.paper}.{id}", over="batches")
                rows.append(
                    {"model": name, "set": set_name, "column": setting, "caption": cell, **vars(share)}
                    | {"published": published(f"{note.paper}.{id}", "fraction")}
                )
    return pd.DataFrame(rows)


def beside_printed(rows: pd.DataFrame) -> pd.DataFrame:
    """The table `influence` as the paper sets it out, in percent, with the paper's own in brackets."""
    cells = [f"{100 * row.value:.1f} ({100 * row.published:.1f})" for row in rows.itertuples()]
    wide = rows.assign(cell=cells).pivot(index=["model", "set", "caption"], columns="column", values="cell")
    return wide[["zero", "swapped", "influence"]].rename_axis(columns="percent here (published)")


def note_scores(note: Notes, shares: Mapping[tuple[str, str, str], Interval]) -> pd.DataFrame:
    """Record what three ways of scoring say of (measure, model, cue), and return it as a table, one a row."""
    for (measure, name, cue), share in shares.items():
        if measure == "as published":
            id = f"fig4.test.{name}.{cue}"
            note(id, share, "Figure 4", "as-published", published=f"{note.paper}.{id}", over="batches")
        elif measure == "indexing mended":
            note(f"fig4.mended.{name}.{cue}", share, "Figure 4", "control")
        else:
            unit = "ratio" if measure == "retained" else "fraction"
            note(f"fig4.corrected.{name}.{cue}.{measure}", share, "Figure 4", unit=unit)
    columns = ["measure", "model", "cue", "value", "low", "high", "n"]
    return pd.DataFrame([(*key, *vars(share).values()) for key, share in shares.items()], columns=columns)


def cue_accuracies(
    note: Notes,
    item: str,
    place: str,
    similarities: Mapping[str, Mapping[str, Sequence[Tensor]]],
    data: ColouredDigits,
    captions: Mapping[str, Captions] | None = None,
) -> pd.DataFrame:
    """How often the right caption of each cue wins, for each model and each surgery; recorded as controls under `item`.

    `similarities` has matrices [images, captions], by model and by surgery; the column `place` names the surgery, and
    `captions` those whose captions are others than `CAPTIONS`.
    """
    rows = []
    for name, surgeries in similarities.items():
        for what, matrices in surgeries.items():
            asked = (captions or {}).get(what, study.CAPTIONS)
            for cue, interval in study.cue_accuracy(list(matrices), data, note.record.seed, asked).items():
                id = f"{item.lower()}.{what.replace(',', '').replace(' ', '-')}.{name}.{cue}"
                note(id, interval, item, "control")
                rows.append({place: what, "model": name, "cue": cue, **vars(interval)})
    return pd.DataFrame(rows)


def known_networks(note: Notes, networks: Sequence[Known], readings: Readings) -> pd.DataFrame:
    """Each network with the share of its answers that flip, which is recorded, and what each instrument reads of it."""
    rows = []
    for network in networks:
        name = network.name.replace(" = ", "-").replace(", ", ".").replace(" ", "-")
        flips = proportion(int(network.flips.sum()), len(network.flips))
        note(f"instruments.truth.{name}", flips, "Instruments", "control")
        rows.append(
            {"network": network.name, "kind": network.kind}
            | {"answers that flip": flips.value, "low": flips.low, "high": flips.high}
            | {instrument: readings[instrument][network.name].mean() for instrument in INSTRUMENTS}
        )
    return pd.DataFrame(rows)


def note_controls(
    note: Notes, networks: Sequence[Known], readings: Readings
) -> tuple[dict[str, Interval], dict[str, int]]:
    """Record what the controls say of each instrument: its `controls`, its order of the networks, its `false_alarms`.

    Result: by instrument the rank correlation with the truth, where there is an order, and the false alarms.
    """
    truth = [network.truth for network in networks]
    ranked, alarms = {}, {}
    for instrument, values in readings.items():
        means = [values[network.name].mean() for network in networks]
        for control, interval in controls(values, networks, note.record.seed).items():
            unit = "difference" if control == "gap" else "share of the truth"
            note(f"instruments.{instrument}.{control}", interval, "Instruments", "control", unit)
        if len(set(means)) > 1 and len(set(truth)) > 1:
            rank = spearman(truth, means)
            note(f"instruments.{instrument}.rank", rank, "Instruments", "control", "rank correlation", over="networks")
            ranked[instrument] = rank
        alarms[instrument] = false_alarms(values, networks)
        note.record.number(
            f"{note.paper}.instruments.{instrument}.false-alarms", alarms[instrument], unit="count", item="Instruments",
            protocol="control",
        )  # fmt: skip
    return ranked, alarms


def on_the_stroke(
    note: Notes,
    maps: Mapping[str, Float[Tensor, "images height width"]],
    stroke: Float[Tensor, "images height width"],
) -> pd.DataFrame:
    """The share of each model's saliency maps that lies on the stroke (1 there, else 0), beside the stroke's own share.

    Maps that are zero everywhere have no share and are left out; all shares are recorded.
    """
    rows, seed = [], note.record.seed
    for name, heat in maps.items():
        total = heat.sum((1, 2))
        share = ((heat * stroke).sum((1, 2)) / total)[total > 0]
        row = {"attribution": f"Grad-CAM, {name} model", "value": np.nan, "low": np.nan, "high": np.nan}
        row["n"] = len(share)
        if len(share):
            interval = bootstrap_mean(share.numpy(), seed)
            row |= vars(note(f"saliency.on-stroke.{name}", interval, "Saliency", "control"))
        rows.append(row)
    area = bootstrap_mean(stroke.mean((1, 2)).numpy(), seed)
    note("saliency.stroke-area", area, "Saliency", "control")
    rows.append({"attribution": "spread evenly over the picture", **vars(area)})
    return pd.DataFrame(rows).rename(columns={"value": "share on the stroke"})
