# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explaining CLIP twice: with words, and without
#
# CLIP can classify in two ways. **Zero-shot**, it compares a picture with a sentence for each class. **Fine-tuned**,
# its frozen image tower gets a new linear layer, and the sentences are gone. Agarwal asks whether explanations of the
# two differ, and finds those of zero-shot CLIP *more faithful*, *better at finding text* in the picture, and *less
# biased*: they look less at faces.
#
# This notebook reruns all of it, and asks one question more. The two settings are explained through two different
# scores, a cosine and a probability, which move over different ranges. How much of the difference is the models', and
# how much the scores'? In the mini profile the pictures are **drawn**, so what each answer really depends on is known:
# we change one cause and look.
#
# The paper asks three questions, and so do we: **Q1** are explanations more faithful to the zero-shot or to the
# fine-tuned classifier (Figures 1 and 4), **Q2** what does language change in them (Figure 2), **Q3** do the
# classifiers rely on protected attributes (Figures 3 and 5, Table 1)?
#
# You will
# 1. find out which part of a picture an answer needs, by blurring it away,
# 2. measure how good such a map is: deletion, insertion, the pointing game, each beside chance,
# 3. put every measure to models of which the answer is known: only one that passes is an *instrument*,
# 4. compare what the maps say with what the answers really depend on,
# 5. take the score's scale out of the comparison, and see which claims are left.
#
# **After it you can** search for a mask, measure it by deletion and beside chance, and say when two scores may be
# compared.
#
# **Time**: about 45 minutes to read, 95 for the exercises at the end, 9 to run on two cores.
#
# > C. Agarwal: *Intriguing Properties of Visual-Language Model Explanations*.

# %% tags=["parameters"]
profile = "mini"
seed = 0

# %%
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from xaikit.companion import plots, profiles
from xaikit.companion.record import Record, published
from xaikit.metrics.exact_tests import fisher, mcnemar
from xaikit.metrics.intervals import bootstrap_mean, proportion
from xaikit.metrics.pointing import pointing_game
from xaikit.metrics.ranking import defined
from xaikit.models.clip import load_from
from xaikit.perturbation.linear_probe import embed
from xaikit.perturbation.removal import centre_attribution, random_attribution
from xaikit.storage.seeding import seed_for
from xaikit.studies import vlm_explanations as study
from xaikit.studies import vlm_pictures as pictures
from xaikit.studies import vlm_planted as planted

cfg = profiles.load(profile, "03_vlm_explanations", seed)
profiles.prepare(seed)
plots.use_style()
record = Record("03_vlm_explanations", profile, seed)
ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"
COLOURS = {ZERO_SHOT: plots.BLUE, FINE_TUNED: plots.ORANGE}


def note(id, interval, item, protocol="corrected", unit="fraction", published=None):
    """Record an interval under its id, and hand it on."""
    record.number(
        f"agarwal.{id}", interval.value, low=interval.low, high=interval.high, n=interval.n,
        unit=unit, item=item, protocol=protocol, published=published,
    )  # fmt: skip
    return interval


def note_mean(id, values, item, protocol="corrected", unit="fraction", published=None, of=None):
    """Record a mean over pictures with its interval (exact, of verdicts), and keep the values that it is of."""
    verdicts = unit == "fraction" and np.isin(values, (0, 1)).all()
    interval = proportion(int(values.sum()), len(values)) if verdicts else bootstrap_mean(values, seed)
    note(id, interval, item, protocol, unit, published)
    record.values(f"agarwal.{id}", values, of=of or f"{len(values)} pictures")
    return interval


# %% [markdown]
# ## Table 2: one encoder, two classifiers
#
# Zero-shot, class $k$ scores $\cos(\mathcal I(x), \mathcal T(\text{“a photo of a }k\text{”}))$ (`ZeroShot`).
# Fine-tuned, it scores $w_k\cdot\mathcal I(x) + b_k$, with $w$ and $b$ learned from labelled pictures by Adam at 0.01
# (`LinearProbe`). Two tasks: **cars**, some with their name on the door, and **occupations**, people at work.
#
# Of drawn pictures both get all right, and between 1.00 and 1.00 nothing can be decided. Table 2 is therefore of the
# harder pictures (`pictures.harder`), in training and in the test: with noise on every pixel, and with half of the
# people where another profession works. All explanations are of pictures without either.

# %%
clip = load_from(cfg.clip, cfg.device)
train = {name: pictures.task(name, cfg, seed, "train") for name in pictures.TASKS}
test = {name: pictures.task(name, cfg, seed, "test") for name in pictures.TASKS}
settings = {
    name: study.settings(clip, train[name], device=cfg.device, seed=seed_for(seed, name), epochs=cfg.epochs)
    for name in pictures.TASKS
}
embeddings = {name: embed(clip.image_encoder, data.batches(), cfg.device) for name, data in test.items()}
answers = {(name, setting.name): setting.answers(embeddings[name]) for name in test for setting in settings[name]}
harder = {name: [pictures.harder(name, cfg, seed, split) for split in ("train", "test")] for name in test}
hard = {name: study.table2(clip, *both, cfg, seed) for name, both in harder.items()}
rows = []
for name, each in hard.items():
    for setting, right in each.right.items():
        source = f"agarwal.table2.{name}.{setting}"
        interval = note_mean(f"table2.{name}.{setting}", right, "Table 2", "as-published", published=source,
                             of=f"{name} of table 2")  # fmt: skip
        easy = (answers[name, setting] == test[name].labels).double().mean().item()
        rows.append({"task": name, "setting": setting, **vars(interval), "of easy pictures": easy,
                     "published": published(source, "fraction")})  # fmt: skip
    note_mean(f"table2.{name}.gain", each.right[FINE_TUNED] - each.right[ZERO_SHOT], "Table 2", "as-published",
              "difference", of=f"{name} of table 2")  # fmt: skip
    for control, values in each.controls.items():
        unit = "fraction" if control == "best" else "difference"
        note_mean(f"instruments.accuracy.{name}.{control}", values, "Table 2", "control", unit,
                  of=f"{name} of table 2")  # fmt: skip
display(record.table("table2", pd.DataFrame(rows), item="Table 2"), record.instrument("agarwal.accuracy"))

# %% [markdown]
# As in the paper, only pictures are explained that *both* get right; drawn people also with the black patch over the
# face that comes later. Here are some.

# %%
everyone = pictures.portraits(test["occupation"], cfg, seed)
both = [embed(clip.image_encoder, part.split(128), cfg.device) for part in (everyone.original, everyone.masked)]
both_ways = [setting.answers(each) for setting in settings["occupation"] for each in both]
right = {name: [answers[name, setting] for setting in (ZERO_SHOT, FINE_TUNED)] for name in test}
if test["occupation"].scenes is not None:  # the portraits are the test pictures themselves
    right["occupation"] = both_ways
choice = {"seed": seed, "rehearsing": "stand_ins" in cfg}
chosen = {name: study.right_in_all(right[name], test[name].labels, cfg.explained, **choice) for name in test}
images = {name: test[name].stack(chosen[name].tolist()).to(cfg.device) for name in test}
labels = {name: test[name].labels[chosen[name]] for name in test}
some = [(name, i) for name in test for i in range(min(8, len(chosen[name])))]
figure = plots.image_grid(
    torch.stack([images[name][i] for name, i in some]),
    [test[name].names[labels[name][i]].replace(" ", "\n") for name, i in some],
)
plots.show(figure, "Pictures of cars and of people at work that both settings classify rightly, with their classes.")

# %% [markdown]
# ## Meaningful perturbation
#
# Which part of a picture does an answer need? Look for the smallest smooth region that, blurred, takes the score
# $\hat y$ away (Eq. 1, `meaningful_perturbation`):
# $$A^\ast = \arg\min_A\; \lambda_1\lVert A\rVert_1 + \lambda_2\,\mathrm{TV}(A) +
#   \hat y\big((1-A)\odot x + A\odot\mathrm{blur}(x)\big),\qquad A\in[0,1]^{28\times 28}.$$
# In the zero-shot setting the paper's $\hat y$ is the **cosine** itself, in the fine-tuned one the **softmax
# probability**. To delete everything costs $784\,\lambda_1 = 0.078$. What can a blurred picture repay? At most what the
# score can drop. And *can* it drop? From a softmax that is saturated no gradient leads anywhere. So the search starts
# from that of several deletions which has the lowest loss (`Recipe.start`), a picture of which none lowers the
# probability by 0.05 is searched by its log-odds, which do not saturate, and every mask is checked (`check_masks`): is
# there anything in it, and what share of the score's range does it take away?
#
# **Predict.** The cosine of a picture and its caption falls by little, a probability from 1 to 0. Which setting will
# get the larger masks, at the same price?

# %%
recipe = study.recipe_of(cfg, cfg.size)
options = {"seed": seed, "batch": cfg.batch, "autocast": cfg.precision == "bfloat16"}
few = {name: slice(0, cfg.controlled) for name in test}
found, conditions = {}, {}
for name in test:
    zero_shot, fine_tuned = settings[name]
    for setting in settings[name]:
        found[name, setting.name, "own"] = study.maps(
            setting.model, images[name], labels[name], recipe, softmax=setting.published, **options
        )
    start = found[name, ZERO_SHOT, "own"].masks[few[name]]  # found for a similar score, so a few steps are enough
    warm = {"start": start, **options}
    sooner = dataclasses.replace(recipe, steps=-(-recipe.steps // 2))
    shown, target = images[name][few[name]], labels[name][few[name]]
    found[name, ZERO_SHOT, "softmax"] = study.maps(
        zero_shot.model, shown, target, sooner, softmax=zero_shot.scale, **warm
    )
    cosine, probability = (found[name, setting, "own"].checks for setting in (ZERO_SHOT, FINE_TUNED))
    taken = [(each.before - each.after).mean().item() for each in (cosine, probability)]
    if min(taken) > 0:  # else masks take nothing away that could be matched
        matched = study.scaled(sooner, taken[0] / taken[1])
        found[name, ZERO_SHOT, "matched"] = study.maps(zero_shot.model, shown, target, matched, softmax=None, **warm)
    # The start that the paper does not give, and code for it often has: half a blur everywhere.
    half = dataclasses.replace(recipe, start="half")
    third = slice(0, max(2, cfg.controlled // 3))
    for setting in settings[name]:
        found[name, setting.name, "half a blur"] = study.maps(
            setting.model, images[name][third], labels[name][third], half, softmax=setting.published, **options
        )
maps = {key: each.maps for key, each in found.items()}

# %%
rows, searched = [], {}
for (name, setting, score), each in found.items():
    checks, slug = each.checks, f"search.{name}.{setting}.{score.replace(' ', '-')}"
    protocol = "as-published" if score in ("own", "half a blur") else "control"
    empty = note_mean(f"{slug}.empty", checks.empty.double().numpy(), "search", protocol)
    lowered = note_mean(f"{slug}.lowered", checks.lowered.double().numpy(), "search", protocol, "share of the range")
    size = note_mean(f"{slug}.size", each.size, "search", protocol)
    rows.append({"task": name, "setting": setting, "score": score, "n": len(each.maps), "empty maps": empty.value,
                 "highest": checks.highest.mean().item(), "score before": checks.before.mean().item(),
                 "after": checks.after.mean().item(), "share of its range": lowered.value, "size": size.value,
                 "saturated": int(each.saturated.sum())})  # fmt: skip
display(record.table("search", pd.DataFrame(rows), item="search"))

# %% [markdown]
# **Notice.** The column *empty maps*: a map that is nowhere above 0.05 says that nothing has to go. And where a score
# falls less, deleting repays less at the same price: its maps *must* be smaller, whatever the model looks at. So there
# are maps under four conditions: both settings as published, zero-shot through the softmax like the other one, and
# zero-shot with both $\lambda$ scaled to what masks really lower the two scores by ("matched").
#
# ## Figure 1: the maps
#
# Bright is what has to go.
#
# **Predict.** A car with its name on the door, a person at work. What has to go for each answer to go?


# %%
def gallery(parts, columns):
    """Triples of picture, zero-shot map and fine-tuned map, `columns` triples a row."""
    rows = -(-len(parts) // columns)
    figure, axes = plt.subplots(rows, 3 * columns, figsize=(3.3 * columns, 1.3 * rows + 0.2), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for place, (title, image, *both) in enumerate(parts):
        row, start = axes[place // columns], 3 * (place % columns)
        plots.overlay(row[start], image, torch.zeros(image.shape[1:]), alpha=0.0)
        row[start].set_title(title, fontsize=9)
        for ax, own in zip(row[start + 1 : start + 3], both, strict=True):
            plots.overlay(ax, image, own).set_clim(0, 1)
    for start in range(0, 3 * columns, 3):
        axes[0, start + 1].set_title("zero-shot", fontsize=9, color=plots.BLUE)
        axes[0, start + 2].set_title("fine-tuned", fontsize=9, color=plots.VERMILLION)
    return figure


def triples(name, which):
    """What `gallery` shows of those of the pictures `which` that a task has."""
    both = [maps[name, setting, "own"] for setting in (ZERO_SHOT, FINE_TUNED)]
    names, there = test[name].names, [i for i in which if i < len(images[name])]
    return [(names[labels[name][i]], images[name][i].cpu(), *(each[i] for each in both)) for i in there]


figure = gallery([part for name in test for part in triples(name, range(4))], 2)
record.figure(
    "fig1", figure, item="Figure 1",
    alt="Eight pictures of cars and of people at work, each beside its attribution map from the zero-shot and from "
    "the fine-tuned classifier, laid over it.",
)  # fmt: skip

# %% [markdown]
# More of them, as in the paper's appendix (Figure 7).

# %%
if more := [part for name in test for part in triples(name, range(4, 4 + cfg.gallery))]:
    figure = gallery(more, 3)
    record.figure(
        "fig7", figure, item="Figure 7",
        alt="More pictures of cars and of people at work, each beside its zero-shot and its fine-tuned attribution "
        "map.",
    )  # fmt: skip
else:
    record.skip("fig7", "there are no more pictures than those of Figure 1")

# %% [markdown]
# ## Instruments: models of which it is known what they read
#
# Does such a map lie where a model looks? Four small networks are trained on drawn scenes whose factors have nothing to
# do with each other: one to read the **text** on the door, one the car's **body**, one whether a **face** is hidden by
# a patch, one the **clothing** (`vlm_planted`). Redrawing that factor changes their answers, redrawing any other one
# does not. Their maps come from the very same search. *Lift* is how many times more of the map lies on the part than
# its area, by chance 1. Beside each the same network **before training**, which reads nothing.
#
# **Predict.** A network that reads the text on the door, and one that reads the body. Will their maps show it? And
# what will the map of a network show that has learned nothing?

# %%
read, readers = planted.read(cfg, seed)
for id, values in read.items():
    parts = id.rsplit(".", 1)
    unit = {"lift": "ratio", "rank": "score", "smaller-than-body": "difference"}.get(parts[1], "fraction")
    note_mean(f"instruments.planted.{id}", values, "Instruments", "control", unit, of=f"{len(values)} planted")
rows = []
for name in planted.READERS:
    for slug in (name, f"{name}.untrained"):
        row = {"network": slug.replace(".", ", "), "reads": name}
        row |= {"flips: own": read[f"{name}.flips.own"].mean(), "flips: other": read[f"{name}.flips.other"].mean()}
        row |= {"size of its maps": read[f"{slug}.size"].mean()}
        rows.append(row | {key: read[f"{slug}.{key}"].mean() for key in ("lift", "hit", "rank")})
display(record.table("planted", pd.DataFrame(rows), item="Instruments"))
figure, axes = plt.subplots(2, 12, figsize=(12, 2.3))
for place, (name, (reader, each)) in enumerate(readers.items()):
    for column in range(min(3, len(each.maps))):
        shown = reader.scenes[column].image(cfg.planted["size"])
        image = torch.from_numpy(shown.copy()).permute(2, 0, 1).float() / 255
        top, below = axes[:, 3 * place + column]
        plots.overlay(top, image, torch.zeros(image.shape[1:]), alpha=0.0)
        plots.overlay(below, image, each.maps[column]).set_clim(0, 1)
    axes[0, 3 * place + 1].set_title(f"reads only the {name}", fontsize=9)
for ax in axes.flat:
    ax.axis("off")
record.figure(
    "planted", figure, item="Instruments",
    alt="Twelve pictures, and below each the map of a small network that is known to read one thing alone: the name "
    "on a car, the face, the clothes, the place.",
)  # fmt: skip
for instrument in ("search", "text", "face.energy", "face.hit", "face.rank", "object"):
    display(record.instrument(f"agarwal.{instrument}"))

# %% [markdown]
# ## Figure 4: deletion
#
# Replace the pixels of a picture, those of highest attribution first, and watch the score. The area under that curve is
# the **deletion** score: low is good (`removal_curves`). Two ways to take it:
#
# - *as published*: each setting by its own score, divided by the curve's maximum, as the author's earlier code does;
# - *corrected*: both by the probability, and divided by the area that **random** orders give on the same picture. 1 is
#   chance. Only so can two models be compared whose probabilities fall at different speeds.
#
# A mask at 0 or 1 has many equal pixels: their order is shuffled.
#
# **Controls.** Maps of what intervention says is used (*oracle*: emblem and body of a car, clothing and headwear of a
# person) have to score better than random orders and than the picture's edges, which need no model; a map better than
# another picture's; two random orders alike; and one and the same order (from the centre outwards) alike for both
# models.
#
# **Predict.** Which setting deletes faster as published? And will it be the same one when both are measured by the
# probability, beside random orders?

# %%
measured = {"mean": cfg.mean, "step": cfg.step, "seed": seed, "ties": cfg.ties}
judges = {
    (name, setting.name): study.RemovalTest(setting, images[name], labels[name], **measured)
    for name in test for setting in settings[name]
}  # fmt: skip
quality = {key: judge.deletion(maps[*key, "own"]) for key, judge in judges.items()}
tested = {name: slice(0, cfg.tested) for name in test}
controls = {
    name: study.deletion_controls(settings[name], images[name][tested[name]], labels[name][tested[name]],
                                  [maps[name, setting.name, "own"][tested[name]] for setting in settings[name]],
                                  pictures.oracle(test[name], name, cfg.size)[chosen[name][tested[name]]], measured)
    for name in test
}  # fmt: skip
for name, each in controls.items():
    for (protocol, control), values in each.gaps.items():
        note_mean(f"instruments.deletion.{name}.{protocol}.{control}", values, "Figure 4", "control",
                  "difference of ratios", of=f"{name} of controls")  # fmt: skip
rows, better = [], {}
for (name, setting), own in quality.items():
    for order, each in (("map", own), *controls[name].orders[setting].items()):
        for protocol, values in (("as-published", each.published), ("corrected", each.corrected)):
            interval = note_mean(f"fig4.{name}.{setting}.{order}.{protocol}", values, "Figure 4", protocol, "ratio",
                                 of=f"{name} of figure 4" if order == "map" else f"{name} of controls")  # fmt: skip
            rows.append({"task": name, "setting": setting, "order": order, "protocol": protocol, **vars(interval)})
for name in test:
    ours, other = (quality[name, setting] for setting in (ZERO_SHOT, FINE_TUNED))
    for protocol, field in (("as-published", "published"), ("corrected", "corrected")):
        pair = getattr(ours, field), getattr(other, field)
        better[name, protocol] = note_mean(
            f"fig4.{name}.zero-shot-minus-fine-tuned.{protocol}", pair[0] - pair[1], "Figure 4", protocol,
            "difference of ratios", of=f"{name} of figure 4",
        )  # fmt: skip
        note(f"fig4.{name}.improvement.{protocol}", study.improvement(*pair, seed), "Figure 4", protocol,
             "relative difference", published=f"agarwal.fig4.{name}.improvement")  # fmt: skip
fig4 = pd.DataFrame(rows)
record.table("fig4", fig4, item="Figure 4")
figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex="col")
for column, protocol in zip(axes.T, ("as-published", "corrected"), strict=True):
    for ax, name in zip(column, test, strict=True):
        mine = fig4[(fig4.protocol == protocol) & (fig4.task == name)]
        for place, (order, group) in enumerate(mine.groupby("order", sort=False)):
            for shift, row in zip((-0.2, 0.2), group.itertuples(), strict=True):
                ax.bar(place + shift, row.value, 0.36, color=COLOURS[row.setting], alpha=1 if order == "map" else 0.35,
                       label=row.setting if not place else None)  # fmt: skip
                ax.plot([place + shift] * 2, [row.low, row.high], color=plots.BLACK, linewidth=1.2)
        ax.set_xticks(range(mine.order.nunique()), [each.replace(" ", "\n") for each in mine.order.unique()])
        ax.set_title(f"{name}, {protocol.replace('-', ' ')}")
        ax.axhline(1 if protocol == "corrected" else 0, color=plots.GREY, linestyle="--", linewidth=1)
        ax.set_ylabel("probability / random" if protocol == "corrected" else "own score / its maximum")
axes[0, 0].legend(loc="upper left")
record.figure(
    "fig4", figure, item="Figure 4",
    alt="Four bar charts, cars and occupations as published and corrected: how far scores fall, with intervals, when "
    "pixels go in the order of the map, of other orders and of controls; zero-shot beside fine-tuned, chance as a "
    "dashed line.",
)  # fmt: skip
said = {(name, pr): study.improvement(*(getattr(quality[name, s], field) for s in (ZERO_SHOT, FINE_TUNED)), seed)
        for name in test for pr, field in (("as-published", "published"), ("corrected", "corrected"))}  # fmt: skip
pd.DataFrame([{"task": name, "protocol": pr, "zero-shot is lower by": str(each),
               "the paper says": published(f"agarwal.fig4.{name}.improvement", "fraction")}
              for (name, pr), each in said.items()])  # fmt: skip

# %% [markdown]
# **Notice.** The pale bars are controls; *centre* needs neither model nor picture. And look at what changes between the
# left and the right, with the very same maps. A cosine can fall below zero, and the area under it with it: on the left
# a bar may be missing or hang down. The paper's 18.52 and 5.44 % stand in the table; it does not say of what.
#
# **Three fills, and insertion.** Deletion leaves a colour that was not there, so it may measure how strange a picture
# looks. The same maps with other fills, and the other way round (insertion, where high is good), over random orders:

# %%
rows = []
for name in test:
    shown, target = images[name][tested[name]], labels[name][tested[name]]
    for setting in settings[name]:
        own, row = maps[name, setting.name, "own"][tested[name]], {"task": name, "setting": setting.name}
        row["mean colour"] = float(quality[name, setting.name].corrected[tested[name]].mean())
        for fill in ("black", "blur"):
            judge = study.RemovalTest(setting, shown, target, **measured, fill=fill)
            row[fill] = note_mean(f"fills.{name}.{setting.name}.{fill}", judge.deletion(own).corrected, "Figure 4",
                                  "corrected", "ratio", of=f"{name} of controls").value  # fmt: skip
        row["insertion"] = note_mean(f"fills.{name}.{setting.name}.insertion", judge.insertion(own).corrected,
                                     "Figure 4", "corrected", "ratio", of=f"{name} of controls").value  # fmt: skip
        rows.append(row)
display(record.table("fills", pd.DataFrame(rows), item="Figure 4"))

# %% [markdown]
# *Question.* By which of the columns is the zero-shot setting the better one? Would you have chosen the fill before?
#
# ## Figure 2: text in the picture
#
# Half of the cars have the name of their make on the door. Do zero-shot maps find it? Measured: the share of the
# attribution that lies on the text, beside the share of the picture that the text covers.
#
# **Predict.** Which of the two has more of its map on the text: the setting that knows sentences, or the probe that
# has learned from pictures?

# %%
texts, unknown = pictures.text_regions(test["cars"], chosen["cars"], cfg)
with_text = texts.flatten(1).any(1)
finds, no_text = {}, unknown or "fewer than two of the explained pictures show text"
if with_text.sum() < 2:
    for name in ("fig2", "fig8"):
        record.skip(name, no_text)
else:
    if unknown:
        record.remark(f"Of some pictures nobody knows whether they show text: {unknown}.")
    controlled = with_text & (torch.arange(len(with_text)) < cfg.controlled)  # those that have a softmax map
    shares = {}
    for setting, score, those in ((ZERO_SHOT, "own", with_text), (FINE_TUNED, "own", with_text),
                                  (ZERO_SHOT, "softmax", controlled)):  # fmt: skip
        own = maps["cars", setting, score].cpu()
        if those.sum() > 1:
            shares[setting, score] = study.energy_in(own[those[: len(own)]], texts[those])
    area = texts[with_text].double().mean((1, 2)).numpy()
    rows = [{"map": "chance (area of the text)",
             **vars(note_mean("fig2.area", area, "Figure 2", of="cars with text"))}]  # fmt: skip
    for (setting, score), share in shares.items():
        protocol, of = ("as-published", "cars with text") if score == "own" else ("control", "few cars with text")
        interval = note_mean(f"fig2.{setting}.{score}", share, "Figure 2", protocol, of=of)
        rows.append({"map": f"{setting}, {score} score", **vars(interval)})
    display(record.table("fig2", pd.DataFrame(rows), item="Figure 2"))
    note_mean("fig2.zero-shot-minus-fine-tuned.own", shares[ZERO_SHOT, "own"] - shares[FINE_TUNED, "own"], "Figure 2",
              "as-published", "difference", of="cars with text")  # fmt: skip
    finds["own"] = True
    if (ZERO_SHOT, "softmax") in shares:
        other = shares[FINE_TUNED, "own"][controlled[with_text].numpy()]
        gap = shares[ZERO_SHOT, "softmax"] - other
        note_mean("fig2.zero-shot-minus-fine-tuned.softmax", gap, "Figure 2", "control", "difference",
                  of="few cars with text")  # fmt: skip
        finds["softmax"] = True
    written = with_text.nonzero()[:, 0].tolist()
    figure = gallery(triples("cars", written[:4]), 2)
    record.figure(
        "fig2", figure, item="Figure 2",
        alt="Cars with the name of their make on the door, each beside its zero-shot and its fine-tuned attribution "
        "map.",
    )  # fmt: skip
    figure = gallery(triples("cars", written[4 : 4 + cfg.gallery] or written), 3)
    record.figure(
        "fig8", figure, item="Figure 8",
        alt="More cars with names on their doors, each beside its zero-shot and its fine-tuned attribution map.",
    )  # fmt: skip

# %% [markdown]
# **A word that lies.** On these cars the word says what the whole car says, so that a map need not find it. Now it is
# the name of *another* make, a typographic attack (Goh et al., 2021). Does the answer follow it? And when the other
# make is what has to be explained, the word alone speaks for it: how much of the map lies there?

# %%
if test["cars"].scenes is None:
    record.skip("attack", "a name cannot be put on a photograph's car by hand")
else:
    attacked = pictures.attacked(test["cars"], chosen["cars"][: cfg.attacked])
    lying, shown = embed(clip.image_encoder, attacked.batches(), cfg.device), attacked.images.to(cfg.device)
    region, rows, follows, told = pictures.regions(attacked, "text", cfg.size), [], {}, {}
    for setting in settings["cars"]:
        follows[setting.name] = (setting.answers(lying) == attacked.labels).double().numpy()
        for score, factor in (("own", setting.published), ("softmax", setting.scale)):
            if (setting.name, score) == (FINE_TUNED, "softmax"):  # that is its own
                continue
            start = {} if score == "own" else {"start": own.masks}
            how = sooner if start else recipe
            own = study.maps(setting.model, shown, attacked.labels, how, softmax=factor, **options, **start)
            told[setting.name, score] = study.energy_in(own.maps.cpu(), region)
            share = note_mean(
                f"attack.{setting.name}.{score}", told[setting.name, score], "Figure 2", of="attacked cars"
            )
            followed = note_mean(f"attack.flips.{setting.name}.{score}", follows[setting.name], "Figure 2", "control",
                                 of="attacked cars")  # fmt: skip
            rows.append({"setting": setting.name, "score": score, "answers that follow the word": str(followed),
                         "attribution on it": str(share), "its area": region.double().mean().item(),
                         "empty maps": own.checks.empty.double().mean().item()})  # fmt: skip
    for score in ("own", "softmax"):
        note_mean(f"attack.zero-shot-minus-fine-tuned.{score}", told[ZERO_SHOT, score] - told[FINE_TUNED, "own"],
                  "Figure 2", "corrected", "difference", of="attacked cars")  # fmt: skip
    note_mean("attack.flips.zero-shot-minus-fine-tuned", follows[ZERO_SHOT] - follows[FINE_TUNED], "Figure 2",
              "corrected", "difference", of="attacked cars")  # fmt: skip
    display(record.table("attack", pd.DataFrame(rows), item="Figure 2"), record.instrument("agarwal.word"))

# %% [markdown]
# ## Figures 3, 5, 6 and 9: faces behind a patch
#
# A black patch hides each face. Who still "attributes importance" to it? Beware: **inside the patch there is nothing to
# blur**, black stays black. A map can point there only by its coarse cells, which reach over the patch's edge.
#
# **Predict.** Behind a black patch nothing is left to be seen. How can a map still point there?

# %%
those = study.right_in_all(both_ways, everyone.labels, cfg.portraits, **choice)
people = everyone.select(those)
figure = plots.image_grid(people.masked[:16], [test["occupation"].names[label] for label in people.labels[:16]])
record.figure(
    "fig6", figure, item="Figure 6",
    alt="Sixteen drawn people at work, each with a black patch over the face.",
)  # fmt: skip

# %%
faces, face_quality, centred = {}, {}, {}
known = torch.searchsorted(chosen["occupation"], those).clamp(max=len(chosen["occupation"]) - 1)
again = test["occupation"].scenes is not None and torch.equal(chosen["occupation"][known], those)  # the same pictures
for setting in settings["occupation"]:
    for kind, given in (("original", people.original), ("masked", people.masked)):
        given = given.to(cfg.device)
        if kind == "original" and again:
            faces[setting.name, kind] = maps["occupation", setting.name, "own"].cpu()[known]
        else:
            own = study.maps(setting.model, given, people.labels, recipe, softmax=setting.published, **options)
            faces[setting.name, kind] = own.maps.cpu()
        judge = study.RemovalTest(setting, given, people.labels, **measured)
        face_quality[setting.name, kind] = judge.deletion(faces[setting.name, kind])
        centred[setting.name, kind] = judge.deletion(centre_attribution(len(people), (cfg.size,) * 2))


def faced(which):
    """Pairs of triples for `gallery`: a person as they are, and behind the patch."""
    parts = []
    for i in [i for i in which if i < len(people)]:
        for kind, given in (("original", people.original), ("masked", people.masked)):
            title = test["occupation"].names[people.labels[i]]
            parts.append((title, given[i], *(faces[setting, kind][i] for setting in (ZERO_SHOT, FINE_TUNED))))
    return parts


figure = gallery(faced(range(3)), 2)
record.figure(
    "fig3", figure, item="Figure 3",
    alt="People at work as they are and with a patch over the face, each beside its zero-shot and its fine-tuned "
    "attribution map.",
)  # fmt: skip
if more := faced(range(3, 9)):
    figure = gallery(more, 2)
    record.figure(
        "fig9", figure, item="Figure 9",
        alt="More people as they are and with a patch over the face, each beside its zero-shot and its fine-tuned "
        "attribution map.",
    )  # fmt: skip
else:
    record.skip("fig9", "there are no more people than those of Figure 3")

# %% [markdown]
# Does the patch make explanations better, that is, the deletion score lower (Figure 5)?

# %%
rows, masking = [], {}
for protocol, field in (("as-published", "published"), ("corrected", "corrected")):
    for setting in (ZERO_SHOT, FINE_TUNED):
        for kind in ("original", "masked"):
            values = getattr(face_quality[setting, kind], field)
            interval = note_mean(
                f"fig5.{setting}.{kind}.{protocol}", values, "Figure 5", protocol, "ratio", of="people"
            )
            rows.append({"setting": setting, "pictures": kind, "protocol": protocol, **vars(interval)})
        gap = getattr(face_quality[setting, "masked"], field) - getattr(face_quality[setting, "original"], field)
        masking[setting, protocol] = note_mean(
            f"fig5.{setting}.masked-minus-original.{protocol}", gap, "Figure 5", protocol, "difference of ratios",
            of="people",
        )  # fmt: skip
    # One order, from the centre outwards, on both kinds of pictures: nothing of it is about explanations.
    same = np.mean([getattr(centred[s, "masked"], field) - getattr(centred[s, "original"], field)
                    for s in (ZERO_SHOT, FINE_TUNED)], axis=0)  # fmt: skip
    for control, values in (("same-map", same), ("same-map-back", -same)):
        note_mean(f"instruments.deletion.masked.{protocol}.{control}", values, "Figure 5", "control",
                  "difference of ratios", of="people")  # fmt: skip
    both = [np.mean([getattr(face_quality[s, kind], field) for s in (ZERO_SHOT, FINE_TUNED)], axis=0)
            for kind in ("masked", "original")]  # fmt: skip
    lower = note(f"fig5.improvement.{protocol}", study.improvement(*both, seed), "Figure 5", protocol,
                 "relative difference", published="agarwal.fig5.masked.improvement")  # fmt: skip
    print(f"{protocol.replace('-', ' ')}, masked faces lower the deletion score by a share of {lower}; "
          f"the paper says {published('agarwal.fig5.masked.improvement', 'fraction'):.4f}")  # fmt: skip
fig5 = pd.DataFrame(rows)
record.table("fig5", fig5, item="Figure 5")
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
for ax, protocol in zip(axes, ("as-published", "corrected"), strict=True):
    for place, row in enumerate(fig5[fig5.protocol == protocol].itertuples()):
        ax.bar(place, row.value, color=COLOURS[row.setting], hatch="///" if row.pictures == "masked" else None,
               edgecolor="white")  # fmt: skip
        ax.plot([place] * 2, [row.low, row.high], color=plots.BLACK, linewidth=1.2)
    ax.set_xticks(range(4), [f"{s}\n{k}" for s in (ZERO_SHOT, FINE_TUNED) for k in ("original", "masked")], fontsize=8)
    ax.set_title(protocol.replace("-", " "))
axes[0].set_ylabel("deletion, own score / its maximum")
axes[1].set_ylabel("deletion, probability / random order")
record.figure(
    "fig5", figure, item="Figure 5",
    alt="Bar charts of deletion for people as they are and with a patch over the face, zero-shot and fine-tuned, as "
    "published and corrected, with intervals.",
)  # fmt: skip

# %% [markdown]
# ## Table 1: fairness accuracy
#
# The share of pictures in which a pixel of the highest attribution lies on the face (*hit*). The paper gives four
# percentages and no more; its counts can be worked out from them (11 of 88, 18 of 88, 18 of 85 and 25 of 85 are the
# only ones of at most 200 pictures that fit), and so can their significance.
#
# A saturated mask has many pixels that are equally high, so a hit says little. Beside it: how much of these pixels lies
# on the face (*highest*), how much of the top 5 %, and how much of all attribution (*energy*, `pointing_game`). For
# these three **chance** is the area of the face: a map that knows nothing scores that. *Rank* is the chance that a
# pixel of the face stands higher in the map than one outside: 0.5 by chance, for small maps and for large ones.
#
# **Q3** has a second part: more hits among men, "highlighting gender disparity". What do the counts say of that?
#
# **Predict.** The paper finds 12.5 and 20.5 %, of 88 pictures each. Is that a difference?

# %%
pointing = {
    (setting, kind): pointing_game(faces[setting, kind], people.faces, fraction=cfg.top)
    for setting in (ZERO_SHOT, FINE_TUNED) for kind in ("original", "masked")
}  # fmt: skip
hit = {key: each.hit > 0 for key, each in pointing.items()}
rank = {key: study.rank_in(own, people.faces) for key, own in faces.items()}
groups = {"all": torch.ones(len(people), dtype=torch.bool)}
groups |= {looks: people.presentation == number for number, looks in enumerate(people.presentations)}
groups = {group: members for group, members in groups.items() if members.sum() > 1}  # of one nothing can be said
SAID = {"long hair": "female", "short hair": "male"}  # the drawn world's stand-in for the paper's two columns
rows = []
for group, members in groups.items():
    inside = members.numpy()
    for (setting, kind), each in pointing.items():
        slug = f"{group.replace(' ', '-')}.{setting}.{kind}"
        source = f"agarwal.table1.{SAID[group]}.{setting}" if group in SAID and kind == "masked" else None
        found = note(f"table1.{slug}.hit", proportion(int(hit[setting, kind][inside].sum()), int(inside.sum())),
                     "Table 1", "as-published", published=source)  # fmt: skip
        highest = note(f"table1.{slug}.highest", bootstrap_mean(each.hit[inside], seed), "Table 1")
        energy = note(f"table1.{slug}.energy", bootstrap_mean(each.energy[inside], seed), "Table 1")
        top = note(f"table1.{slug}.top", bootstrap_mean(each.top[inside], seed), "Table 1")
        rows.append({"looks": group, "setting": setting, "pictures": kind, "hit": str(found),
                     "highest": str(highest), "energy": str(energy),
                     f"top {cfg.top:.0%}": str(top), "rank": rank[setting, kind][inside].mean(),
                     "chance": each.area[inside].mean(), "n": int(inside.sum()),
                     "published hit": published(source, "fraction") if source else np.nan})  # fmt: skip
display(record.table("table1", pd.DataFrame(rows), item="Table 1"))
on_faces = {}
for kind in ("original", "masked"):
    ours, other = pointing[ZERO_SHOT, kind], pointing[FINE_TUNED, kind]
    pairs = {
        "hit": (hit[ZERO_SHOT, kind].astype(float), hit[FINE_TUNED, kind].astype(float)),
        "energy": (ours.energy, other.energy),
        "rank": (rank[ZERO_SHOT, kind], rank[FINE_TUNED, kind]),
    }
    for measure, (mine, theirs) in pairs.items():
        protocol = "as-published" if measure == "hit" else "corrected"
        on_faces[kind, measure] = note_mean(f"table1.zero-shot-minus-fine-tuned.{kind}.{measure}", mine - theirs,
                                            "Table 1", protocol, "difference", of="people")  # fmt: skip
if {"short hair", "long hair"} <= groups.keys():
    for setting in (ZERO_SHOT, FINE_TUNED):
        those = [groups[looks].numpy() for looks in ("short hair", "long hair")]
        gap = study.between_groups(hit[setting, "masked"].astype(float), *those, seed)
        note(f"table1.gender-gap.{setting}.hit", gap, "Table 1", "as-published", "difference")
record.number("agarwal.table1.p.mcnemar", mcnemar(hit[ZERO_SHOT, "masked"], hit[FINE_TUNED, "masked"]),
              unit="p-value", item="Table 1", protocol="corrected")  # fmt: skip
for looks in ("female", "male"):
    base = f"agarwal.table1.decoded.{looks}"
    counts = [int(published(f"{base}.{setting}.hits")) for setting in (ZERO_SHOT, FINE_TUNED)]
    size = int(published(f"{base}.images"))
    record.number(f"agarwal.table1.p.published.{looks}", fisher(counts[0], size, counts[1], size), unit="p-value",
                  item="Table 1", protocol="as-published", published=f"agarwal.table1.decoded.p.{looks}")  # fmt: skip
    print(f"published, {looks}: {counts[0]} and {counts[1]} of {size}, Fisher's exact p = "
          f"{fisher(counts[0], size, counts[1], size):.2f}")  # fmt: skip
for setting in (ZERO_SHOT, FINE_TUNED):
    table = [int(published(f"agarwal.table1.decoded.{looks}.{count}")) for looks in ("female", "male")
             for count in (f"{setting}.hits", "images")]  # fmt: skip
    record.number(f"agarwal.table1.p.published.gender.{setting}", fisher(*table), unit="p-value", item="Table 1",
                  protocol="as-published")  # fmt: skip
    print(f"published, {setting}: {table[0]} of {table[1]} women and {table[2]} of {table[3]} men, "
          f"p = {fisher(*table):.2f}")  # fmt: skip

# %% [markdown]
# **Notice.** The published difference is not significant, in either column, nor is that between women and men in either
# row. The right test would pair the two maps of
# each picture (McNemar's); without the pictures only the unpaired one is possible.
#
# ## Score control: is it the model or the score?
#
# The same zero-shot model, explained through three scores. *Size* is the mean of the attribution; *on the object* how
# much of it lies there. The control of *size* needs no other model: **one and the same** model, through two scores.
# Where its maps change their size, a difference in size says nothing of two models.
#
# **Predict.** One and the same model, explained through three scores. What will be the same about its maps, and what
# will not?

# %%
rows, sizes, control, on = [], {}, {}, {}
for name in test:
    region = pictures.regions(test[name], pictures.OBJECTS[name], cfg.size)[chosen[name]]
    for setting in settings[name]:
        for score in ("own", "softmax", "matched"):
            if (name, setting.name, score) not in maps:
                continue
            key, own = (name, setting.name, score), maps[name, setting.name, score]
            count, slug = len(own), f"control.{name}.{setting.name}.{score}"
            protocol, of = ("as-published", name) if score == "own" else ("control", f"few {name}")
            sizes[key] = own.mean((1, 2)).double().cpu().numpy()
            size = note_mean(f"{slug}.size", sizes[key], "score control", protocol, of=of)
            if score == "own":
                control[key] = quality[name, setting.name].corrected
            else:
                judge = study.RemovalTest(setting, images[name][:count], labels[name][:count], **measured)
                control[key] = judge.deletion(own).corrected
            row = {"task": name, "setting": setting.name, "score": score, "n": count, "size": str(size)}
            if region.any():
                on[key] = study.energy_in(own.cpu(), region[:count])
                row["on the object"] = str(note_mean(f"{slug}.on-object", on[key], "score control", protocol, of=of))
                row["object's area"] = region[:count].double().mean().item()
            deletion = note_mean(f"{slug}.deletion", control[key], "score control", protocol, "ratio", of=of)
            rows.append(row | {"deletion / random": str(deletion)})
display(record.table("score_control", pd.DataFrame(rows), item="score control"))
sparser = set()
for name in test:
    for score in ("own", "softmax", "matched"):
        if (name, ZERO_SHOT, score) not in maps:
            continue
        sparser.add((name, score))
        protocol, of = ("as-published", name) if score == "own" else ("control", f"few {name}")
        rest = {"deletion-gap": (control, "difference of ratios"), "size-gap": (sizes, "difference"),
                "on-object-gap": (on, "difference")}  # fmt: skip
        for gap, (values, unit) in rest.items():
            if (name, ZERO_SHOT, score) in values:
                ours = values[name, ZERO_SHOT, score]
                note_mean(f"control.{name}.{gap}.{score}", ours - values[name, FINE_TUNED, "own"][: len(ours)],
                          "score control", protocol, unit, of=of)  # fmt: skip
    zero_shot, shown, target = settings[name][0], images[name][tested[name]], labels[name][tested[name]]
    milder = study.maps(zero_shot.model, shown, target, recipe, softmax=zero_shot.scale / 2, **options)
    again = {"own": sizes[name, ZERO_SHOT, "own"], "matched": sizes.get((name, ZERO_SHOT, "matched")),
             "softmax": milder.size}  # fmt: skip
    for score, values in again.items():
        if values is not None:
            count = min(len(values), cfg.tested, len(sizes[name, ZERO_SHOT, "softmax"]))
            gap = values[:count] - sizes[name, ZERO_SHOT, "softmax"][:count]
            for control_id, each in (("same-model", gap), ("same-model-back", -gap)):
                note_mean(f"instruments.size.{name}.{score}.{control_id}", each, "score control", "control",
                          "difference", of=f"{name} of controls")  # fmt: skip

# %% [markdown]
# *Question.* Choose $\lambda_1$ for the fine-tuned setting so that its maps are as small as the zero-shot ones. Which
# of the two then deletes better?
#
# ## Causal: what the answers really depend on
#
# In the drawn world we need not guess. Change one cause, draw again, and count how often the answer flips; then see how
# much of the attribution lies on that part. A part that flips many answers should get much of it.
#
# **Predict.** Of all parts of a car and of a person, which flip the answer when they are redrawn? Do faces?

# %%
rows = []
for cause in pictures.causes(test, cfg.size):
    inside = cause.region[chosen[cause.task]]
    after = embed(clip.image_encoder, cause.after.batches(), cfg.device)
    there = inside.flatten(1).any(1)
    for setting in settings[cause.task]:
        slug = f"causal.{cause.task}.{cause.part}.{setting.name}"
        flipped = note(f"{slug}.flips", study.flips(setting, embeddings[cause.task][cause.chosen], after), "causal")
        given = dict.fromkeys(("value", "low", "high", "n"), np.nan)  # where no map's picture shows the part
        if there.sum() > 1:
            share = study.energy_in(maps[cause.task, setting.name, "own"].cpu()[there], inside[there])
            given = vars(note_mean(f"{slug}.attribution", share, "causal", of=f"{cause.task} with {cause.part}"))
        rows.append(
            {
                "part": f"{cause.task}: {cause.part}",
                "setting": setting.name,
                "area": inside[there].double().mean().item(),
            }
            | {f"flips {key}": value for key, value in vars(flipped).items()}
            | {f"attribution {key}": value for key, value in given.items()}
        )
causal = pd.DataFrame(rows)
if not rows:
    record.skip("causal", "nothing can be changed in what a photograph shows")
else:
    record.table("causal", causal, item="causal")
    parts = list(dict.fromkeys(causal.part))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
    for ax, measure, title in zip(
        axes, ("flips", "attribution"), ("share of answers that flip", "share of the attribution"), strict=True
    ):
        for shift, (setting, mine) in zip((-0.18, 0.18), causal.groupby("setting", sort=False), strict=True):
            places = [parts.index(part) + shift for part in mine.part]
            ax.barh(places, mine[f"{measure} value"], 0.34, color=COLOURS[setting], label=setting)
            ax.hlines(places, mine[f"{measure} low"], mine[f"{measure} high"], color=plots.BLACK, linewidth=1.2)
        ax.set_title(title)
    area = causal.groupby("part", sort=False).area.first()
    axes[1].vlines(area, np.arange(len(parts)) - 0.4, np.arange(len(parts)) + 0.4, color=plots.GREY, linewidth=3,
                   label="area of the part")  # fmt: skip
    for ax in axes:
        ax.set_xlim(0)
    axes[0].set_yticks(range(len(parts)), parts)
    axes[0].invert_yaxis()
    axes[0].legend(*axes[1].get_legend_handles_labels(), loc="upper right")
    record.figure(
        "causal", figure, item="causal",
        alt="Bars by part of a picture, zero-shot beside fine-tuned: the answers that flip when the part is redrawn, "
        "and the share of the attribution that lies on it, with intervals; a grey tick is the area of the part.",
    )  # fmt: skip

# %% [markdown]
# **Notice.** Faces flip nothing, in either setting: whatever attribution lies on them is not a bias of the *model*. And
# parts that flip answers often share the map with large parts that do not.
#
# ## Sanity: do the maps depend on the model at all?
#
# Adebayo et al. ask that the map of a model with random weights, or one that learned shuffled labels, differ from the
# real one. We compare by the correlation of the pixels, beside the same model explained twice. This time the masks
# start at random, or the same model would give the very same map.
#
# **Predict.** Would the maps of a network with random weights look different from these?

# %%
rows = []
anew = dataclasses.replace(recipe, start="uniform")  # starts at random, so that even the same model is explained anew
for name in test:
    subset = slice(0, cfg.compared)
    for setting in settings[name]:
        reference = maps[name, setting.name, "own"][subset]
        for kind, other in study.randomised(clip, setting, train[name], cfg, seed).items():
            again = study.maps(other.model, images[name][subset], labels[name][subset], anew, softmax=other.published,
                               **(options | {"seed": seed_for(seed, "again")}))  # fmt: skip
            correlations = study.correlation(reference, again.maps)
            if np.isfinite(correlations).sum() < 2:
                record.remark(f"{name}, {setting.name}: next to no map of {kind} can be compared, as they are empty.")
                continue
            pairs = defined(correlations, f"{name}, {kind}")
            alike = note(
                f"sanity.{name}.{setting.name}.{kind.replace(' ', '-')}", bootstrap_mean(pairs, seed), "sanity",
                "control", "correlation",
            )  # fmt: skip
            rows.append({"task": name, "setting": setting.name, "compared with": kind, **vars(alike)})
sanity = pd.DataFrame(rows)
if rows:
    record.table("sanity", sanity, item="sanity")
    display(sanity.pivot(index=["task", "setting"], columns="compared with", values="value").round(2))
else:
    record.skip("sanity", "all maps are empty")

# %% [markdown]
# ## Other explainers
#
# Is the finding one about meaningful perturbation only? The same pictures through Grad-CAM (on the last attention, of
# the cosine or logit), RISE and integrated gradients (both of the probability).

# %%
rows, across = [], {}
for name in test:
    subset = slice(0, cfg.compared)
    shown, target = images[name][subset], labels[name][subset]
    region = pictures.regions(test[name], pictures.OBJECTS[name], cfg.size)[chosen[name][subset]]
    for setting in settings[name]:
        given = {"MP": maps[name, setting.name, "own"][subset]} | study.other_explainers(
            setting, shown, target, cfg, seed
        )
        given["random"] = random_attribution(len(shown), (cfg.size,) * 2, seed_for(seed, "explainers")).to(shown.device)
        judge = study.RemovalTest(setting, shown, target, **(measured | {"ties": 1}))
        for explainer, own in given.items():
            found = {"deletion": judge.deletion(own), "insertion": judge.insertion(own)}
            slug = f"explainers.{name}.{setting.name}.{explainer.lower().replace(' ', '-')}"
            row = {"task": name, "setting": setting.name, "explainer": explainer}
            for kind, each in found.items():
                interval = note(
                    f"{slug}.{kind}", bootstrap_mean(each.corrected, seed), "other explainers", unit="ratio"
                )
                row[kind] = interval.value
            across[name, setting.name, explainer] = found["deletion"].corrected
            if region.any():
                energy = study.energy_in(own.cpu(), region)
                row["on the object"] = note(f"{slug}.on-object", bootstrap_mean(energy, seed), "other explainers").value
            rows.append(row)
explainers = pd.DataFrame(rows)
record.table("explainers", explainers, item="other explainers")
display(explainers.set_index(["task", "setting", "explainer"]).round(3))
for name in test:
    for explainer in ("MP", "Grad-CAM", "RISE", "integrated gradients"):
        gap = across[name, ZERO_SHOT, explainer] - across[name, FINE_TUNED, explainer]
        note(f"explainers.{name}.deletion-gap.{explainer.lower().replace(' ', '-')}", bootstrap_mean(gap, seed),
             "other explainers", "control", "difference of ratios")  # fmt: skip

# %% [markdown]
# ## The claims
#
# Each rule stands in `data/claims.toml` and was written down before its result was seen, with one exception: what a
# *hit* is. At first half of the equally high pixels had to lie on the face, which no map managed. How many pictures and
# steps there are was set by the time that they take. A claim that fails here is a result; one that was thought of after
# looking is marked *exploratory*.
#
# A claim rests on an **instrument**, and an instrument decides nothing before it has passed two kinds of controls: it
# has to find what is there, and to find nothing where nothing is. Where one fails the verdict is *no-instrument*; what
# the numbers alone would say is kept beside it in `numbers.json` (`measured`).


# %%
for name in test:
    for score in ("own", "softmax", "matched"):
        if (name, score) not in sparser:
            record.claim(f"agarwal.zero-shot-is-more-localised.{name}.{score}",
                         reason="masks do not lower one of the scores")  # fmt: skip
for score in ("own", "softmax"):
    if score not in finds:
        record.claim(f"agarwal.zero-shot-finds-text.{score}", reason=no_text)
plots.style_claims(record.decide())

# %%
record.save()
record.numbers()

# %% [markdown]
# ## Exercises
#
# Each stands on its own cells: run the first one, complete the second, and the check below says whether it is right
# and, if not, what is wrong. Nothing above has to be run before.

# %% [markdown] tags=["exercise"]
# ### Exercise 1: deletion
# *Difficulty 2 of 3 · 25 minutes*
#
# Make pixels black, `step` at a time, those of highest attribution first, until all are black; score the picture at
# every stage, the untouched one included. The area under that curve, over the share of pixels from 0 to 1, is the
# deletion score.

# %% tags=["given"]
import torch

from xaikit import removal_curves
from xaikit.companion import check

draw = torch.Generator().manual_seed(1)
image = torch.rand(3, 6, 6, generator=draw)
on_the_left = torch.arange(6.0, 0.0, -1.0).expand(6, 6) + 0.01 * torch.rand(6, 6, generator=draw)  # no two are equal
anywhere = torch.rand(6, 6, generator=draw)


def score(images):
    """How bright the left half is, for each of [batch, 3, 6, 6]."""
    return images[:, :, :, :3].mean((1, 2, 3))


# %% tags=["exercise"]
def deletion(score, image, attribution, step):
    """The area under the score of [3, height, width] while `step` pixels after `step` pixels go black."""
    ...


# %% tags=["check"]
def reference(score, image, attribution, step):
    black = torch.zeros_like(image)[None]
    return removal_curves(lambda x, which: score(x), image[None], attribution[None], black, step=step).areas()[0]


check.function(
    deletion,
    reference,
    (score, image, on_the_left, 6),
    (score, image, anywhere, 6),
    (score, image, anywhere, 1),
    (score, image, on_the_left, 10),
    name="deletion",
    hint="which pixels go first, and does the curve begin with the untouched picture?",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `attribution.flatten().argsort(descending=True)` is the order. Keep a copy of the picture as `[3, pixels]` and set
# columns to 0. `torch.trapezoid(scores, shares)` is the area; the last step may have fewer pixels than the others.
#
# </details>


# %% tags=["solution"]
def deletion(score, image, attribution, step):
    """The area under the score of [3, height, width] while `step` pixels after `step` pixels go black."""
    order = attribution.flatten().argsort(descending=True)
    pixels, scores, shares = image.flatten(1).clone(), [score(image[None])[0]], [0.0]
    for start in range(0, len(order), step):
        pixels[:, order[start : start + step]] = 0.0
        scores.append(score(pixels.reshape(image.shape)[None])[0])
        shares.append(min(start + step, len(order)) / len(order))
    return torch.trapezoid(torch.stack(scores), torch.tensor(shares))


# %% tags=["wrong"]
def deletion(score, image, attribution, step):  # the least important first
    order = attribution.flatten().argsort()
    pixels, scores, shares = image.flatten(1).clone(), [score(image[None])[0]], [0.0]
    for start in range(0, len(order), step):
        pixels[:, order[start : start + step]] = 0.0
        scores.append(score(pixels.reshape(image.shape)[None])[0])
        shares.append(min(start + step, len(order)) / len(order))
    return torch.trapezoid(torch.stack(scores), torch.tensor(shares))


# %% tags=["wrong"]
def deletion(score, image, attribution, step):  # the mean of the points is no area
    order = attribution.flatten().argsort(descending=True)
    pixels, scores = image.flatten(1).clone(), [score(image[None])[0]]
    for start in range(0, len(order), step):
        pixels[:, order[start : start + step]] = 0.0
        scores.append(score(pixels.reshape(image.shape)[None])[0])
    return torch.stack(scores).mean()


# %% [markdown] tags=["exercise"]
# ### Exercise 2: total variation
# *Difficulty 1 of 3 · 10 minutes*
#
# The second term of Eq. 1 wants smooth masks: over all pairs of neighbours, below each other and side by side, the sum
# of the absolute difference to the power β.

# %% tags=["given"]
import torch

from xaikit.companion import check
from xaikit.perturbation import Recipe, variation

flat = torch.ones(1, 8, 8)
half = (torch.arange(8) < 4).float().expand(1, 8, 8).clone()  # one edge, eight cells high
rough = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(2))


# %% tags=["exercise"]
def roughness(mask, power):
    """TV of masks [masks, height, width]: a number for each."""
    ...


# %% tags=["check"]
def reference(mask, power):
    return variation(mask, Recipe(power=power))


check.function(
    roughness,
    reference,
    (flat, 2.0),
    (half, 3.0),
    (half.transpose(1, 2), 3.0),
    (rough, 1.0),
    (rough, 3.0),
    (torch.cat([half, rough]), 2.0),
    name="roughness",
    hint="is each pair counted once, in both directions?",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `mask.diff(dim=1)` and `mask.diff(dim=2)` are the differences of neighbours. Sum over all but the first axis.
#
# </details>


# %% tags=["solution"]
def roughness(mask, power):
    """TV of masks [masks, height, width]: a number for each."""
    return sum(mask.diff(dim=axis).abs().pow(power).sum((1, 2)) for axis in (1, 2))


# %% tags=["wrong"]
def roughness(mask, power):  # in one direction
    return mask.diff(dim=2).abs().pow(power).sum((1, 2))


# %% tags=["wrong"]
def roughness(mask, power):  # of signed differences
    return sum(mask.diff(dim=axis).pow(power).sum((1, 2)) for axis in (1, 2))


# %% [markdown] tags=["exercise"]
# ### Exercise 3: one step of the search
# *Difficulty 2 of 3 · 25 minutes*
#
# Here $A$ is what is deleted, in [0, 1], at the size of the picture. One step of plain gradient descent on Eq. 1
# without its TV term, $\lambda \sum A + \hat y\big((1 - A) \odot x + A \odot \mathrm{blur}(x)\big)$, and back into
# [0, 1].

# %% tags=["given"]
import torch

from xaikit.companion import check

draw = torch.Generator().manual_seed(3)
image, blurred = torch.rand(3, 6, 6, generator=draw) + 0.5, torch.full((3, 6, 6), 0.2)
start = torch.full((6, 6), 0.5)


def score(image):
    """How bright the two rows in the middle are: they alone speak for the answer."""
    return image[:, 2:4].mean()


# %% tags=["exercise"]
def step(deleted, image, blurred, score, price, rate):
    """What is deleted, [height, width], after a step down the loss, in which `price` is λ."""
    ...


# %% tags=["check"]
middle, outside = torch.arange(6) // 2 == 1, torch.arange(6) // 2 != 1
after = step(start, image, blurred, score, 0.0, 1.0)
check.that(after is not None and after.shape == start.shape, "step", "a map of the size of what is deleted is wanted")
check.that((after[middle] > start[middle]).all(), "where the answer lies", "less is deleted there: is it a step up?")
check.same(after[outside], start[outside], "where nothing counts, and deleting costs nothing")
paid = step(start, image, blurred, score, 0.1, 1.0)
check.same(
    (after - paid)[outside],
    torch.full((4, 6), 0.1),
    "what a price of 0.1 for each cell changes",
    hint="the first term is a sum over cells",
)
far = step(start, image, blurred, score, 0.1, 100.0)
check.that(far.min() >= 0 and far.max() <= 1, "a long step", "a share that is deleted lies between 0 and 1")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `deleted = deleted.clone().requires_grad_()`, build the loss from it, `torch.autograd.grad(loss, deleted)` gives a
# tuple of one. Go *against* the gradient, and `clamp(0, 1)`.
#
# </details>


# %% tags=["solution"]
def step(deleted, image, blurred, score, price, rate):
    """What is deleted, [height, width], after a step down the loss, in which `price` is λ."""
    deleted = deleted.clone().requires_grad_()
    loss = price * deleted.sum() + score((1 - deleted) * image + deleted * blurred)
    (gradient,) = torch.autograd.grad(loss, deleted)
    return (deleted - rate * gradient).detach().clamp(0, 1)


# %% tags=["wrong"]
def step(deleted, image, blurred, score, price, rate):  # keeps what it should delete
    deleted = deleted.clone().requires_grad_()
    loss = price * deleted.sum() + score(deleted * image + (1 - deleted) * blurred)
    (gradient,) = torch.autograd.grad(loss, deleted)
    return (deleted - rate * gradient).detach().clamp(0, 1)


# %% tags=["wrong"]
def step(deleted, image, blurred, score, price, rate):  # leaves [0, 1]
    deleted = deleted.clone().requires_grad_()
    loss = price * deleted.sum() + score((1 - deleted) * image + deleted * blurred)
    (gradient,) = torch.autograd.grad(loss, deleted)
    return (deleted - rate * gradient).detach()


# %% tags=["wrong"]
def step(deleted, image, blurred, score, price, rate):  # a mean in place of the sum: the price is 36 times lower
    deleted = deleted.clone().requires_grad_()
    loss = price * deleted.mean() + score((1 - deleted) * image + deleted * blurred)
    (gradient,) = torch.autograd.grad(loss, deleted)
    return (deleted - rate * gradient).detach().clamp(0, 1)


# %% [markdown] tags=["exercise"]
# ### Exercise 4: random masks of the same size
# *Difficulty 2 of 3 · 20 minutes*
#
# A mask takes the answer away. Would any mask of that size? Shuffle its cells 99 times, and count how often the score
# then falls at least as low: $p = (1 + \#) / (1 + 99)$. What is deleted goes black.

# %% tags=["given"]
import torch

from xaikit.companion import check

image = torch.ones(3, 6, 6)
on_the_thing, beside_it, nearly_all = torch.zeros(3, 6, 6)
on_the_thing[2:4, 2:4] = 1.0
beside_it[:2, :2] = 1.0
nearly_all[1:] = 1.0


def score(image):
    """How much of the thing in the middle is seen."""
    return image[:, 2:4, 2:4].mean()


# %% tags=["exercise"]
def no_better_than_chance(deleted, image, score, seed):
    """The p with which a shuffled mask takes away as much as `deleted` [height, width] does."""
    ...


# %% tags=["check"]
found = no_better_than_chance(on_the_thing, image, score, 0)
check.same(
    found,
    0.01,
    "p of the mask on the thing",
    tolerance=0.01,
    hint="are the other masks as large, and is the one that was found one of the hundred?",
)
check.that(
    no_better_than_chance(beside_it, image, score, 0) > 0.5,
    "p of the mask beside the thing",
    "it takes nothing away, and any mask of its size does as well or better",
)
check.that(
    no_better_than_chance(nearly_all, image, score, 0) > 0.2,
    "p of a mask that deletes nearly all",
    "random masks of its own size hide the thing often: are yours as large?",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `deleted.flatten()[torch.randperm(deleted.numel(), generator=draw)]` has the same cells in other places. With one
# generator for all 99, made from the seed.
#
# </details>


# %% tags=["solution"]
def no_better_than_chance(deleted, image, score, seed):
    """The p with which a shuffled mask takes away as much as `deleted` [height, width] does."""
    draw = torch.Generator().manual_seed(seed)
    found, as_low = score((1 - deleted) * image), 0
    for _ in range(99):
        shuffled = deleted.flatten()[torch.randperm(deleted.numel(), generator=draw)].reshape(deleted.shape)
        as_low += int(score((1 - shuffled) * image) <= found)
    return (1 + as_low) / 100


# %% tags=["wrong"]
def no_better_than_chance(deleted, image, score, seed):  # masks of half the picture, whatever the mask's own size
    draw = torch.Generator().manual_seed(seed)
    found, as_low = score((1 - deleted) * image), 0
    for _ in range(99):
        other = (torch.rand(deleted.shape, generator=draw) > 0.5).float()
        as_low += int(score((1 - other) * image) <= found)
    return (1 + as_low) / 100


# %% tags=["wrong"]
def no_better_than_chance(deleted, image, score, seed):  # one and the same shuffled mask 99 times
    found, as_low = score((1 - deleted) * image), 0
    for _ in range(99):
        draw = torch.Generator().manual_seed(seed)
        shuffled = deleted.flatten()[torch.randperm(deleted.numel(), generator=draw)].reshape(deleted.shape)
        as_low += int(score((1 - shuffled) * image) <= found)
    return as_low / 99


# %% [markdown] tags=["exercise"]
# ### Exercise 5: area as a null
# *Difficulty 1 of 3 · 15 minutes*
#
# 40 % of the attribution lies on faces. Much? If faces cover 40 % of the pictures, it is what a map gives that knows
# nothing. *Lift* is how many times more of each map lies on its region than chance puts there: 1 by chance.

# %% tags=["given"]
import torch

from xaikit import pointing_game
from xaikit.companion import check

draw = torch.Generator().manual_seed(5)
regions = torch.zeros(3, 8, 8, dtype=torch.bool)
regions[0, 2:4, 2:4], regions[1, :, :6], regions[2, :1] = True, True, True  # a small one, most of the picture, a row
maps = torch.rand(3, 8, 8, generator=draw) + 2.0 * regions


# %% tags=["exercise"]
def lift(maps, regions):
    """For each map [maps, height, width], its share on the region over the region's share of the picture."""
    ...


# %% tags=["check"]
def reference(maps, regions):
    found = pointing_game(maps, regions)
    return found.energy / found.area


check.same(
    lift(torch.ones(3, 8, 8), regions),
    torch.ones(3),
    "the lift of maps that are the same everywhere",
    hint="by chance it is 1, for a small region and for a large one",
)
check.function(lift, reference, (maps, regions), (torch.rand(3, 8, 8, generator=draw), regions), name="lift")
check.function(lift, reference, (1_000 * maps, regions), name="the lift of larger numbers")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Share of the map: `(maps * regions).sum((1, 2)) / maps.sum((1, 2))`. Share of the picture: the mean of the region.
#
# </details>


# %% tags=["solution"]
def lift(maps, regions):
    """For each map [maps, height, width], its share on the region over the region's share of the picture."""
    share = (maps * regions).sum((1, 2)) / maps.sum((1, 2))
    return share / regions.float().mean((1, 2))


# %% tags=["wrong"]
def lift(maps, regions):  # how much lies there, with no null
    return (maps * regions).sum((1, 2)) / maps.sum((1, 2))


# %% tags=["wrong"]
def lift(maps, regions):  # one area for all
    share = (maps * regions).sum((1, 2)) / maps.sum((1, 2))
    return share / regions.float().mean()
