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
# # Which explanation tells what a classifier uses?
#
# Four papers say that their words explain a classifier. Do they? Where nobody knows what a classifier uses, a
# convincing explanation and a right one look alike. So here the question is put where the answer is known: to a **zoo**
# of small classifiers of drawn scenes and real digits, some with a shortcut of a known strength, some with two of which
# they learned one, some with one that lies in the data and that they ignore, some that learned nothing at all.
#
# Every method has to say the same thing: **one number for each factor** of the pictures, the class itself, the
# background, a colour, a tag in the corner, and so on. And beside the methods stand **nulls** that say it *without a
# look at the model*: what goes with the class in the training data, how large a factor is, what a captioner says of
# the pictures. A method that is no better than they are explains the data, not the model.
#
# You will
# 1. see how it is known what a classifier uses,
# 2. ask one method by hand,
# 3. ask all of them, and see which beat the nulls,
# 4. look at false alarms, at heads on one backbone, and at what repairs a method,
# 5. add a method of your own in a few lines.
#
# > No paper stands behind this notebook. Its nearest relatives are FunnyBirds (Hesse et al., 2023), which asks maps
# > about parts of drawn birds, and CoSy (Kopf et al., 2024), which asks what texts say of neurons.

# %% tags=["parameters"]
profile = "mini"
seed = 0

# %%
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from xaikit.companion import plots, profiles
from xaikit.companion.record import Record
from xaikit.importance import METHODS, importance, method
from xaikit.models.clip import load_from
from xaikit.studies import which_explanation as study
from xaikit.studies import which_explanation_figures as figures
from xaikit.studies import zoo
from xaikit.studies.zoo_tasks import TASKS, deal

cfg = profiles.load(profile, "05_which_explanation", seed)
profiles.prepare(seed)
plots.use_style()
record = Record("05_which_explanation", profile, seed)


def slug(name):
    """A method's name as it stands in the ids of its numbers."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def note(id, by_task, unit, item):
    """Record the mean over tasks with its interval; fewer than three have none, and stay in the table alone."""
    interval = study.over_tasks(by_task)
    if interval is not None:
        record.number(id, interval.value, low=interval.low, high=interval.high, n=len(by_task), unit=unit, item=item,
                      protocol="control")  # fmt: skip


# %% [markdown]
# ## Pictures with known causes
#
# A task has five factors of two values each; the first is the **class**. In the pictures that methods are given, and in
# those that classifiers are tested on, all five are independent. In training another factor may *agree* with the class
# in more than half of the pictures: that is a shortcut, and the share is its strength.

# %%
for name in cfg.tasks:
    pictures = deal(TASKS[name], 1, seed, "test")
    changed = [pictures.redrawn_in(factor).images() for factor in TASKS[name].names]
    shown = torch.cat([pictures.images(), *changed])
    titles = [f"{name}: a picture", *(f"other {factor}" for factor in TASKS[name].names)]
    plots.show(plots.image_grid(shown, titles, columns=6), f"A picture of {name}, and it with each factor redrawn.")

# %% [markdown]
# ## The zoo, and what it uses
#
# $$\text{flips}(f) = \frac1n \sum_{i=1}^{n} \big[\,\text{answer}(x_i) \ne \text{answer}(x_i \text{ with } f
#   \text{ redrawn})\,\big]$$
#
# is the **truth**: the share of answers that change when one factor, and nothing else, is redrawn. The *placebo* draws
# nothing anew but the static on the pixels.
#
# *Before you look:* a tag is in all pictures of one class and in none of the other. Will a network use the tag, the
# class, or both?

# %%
specs = {spec.name: spec for spec in zoo.specs(cfg)}
members = zoo.zoo(cfg, list(specs.values()))
known = zoo.truths(cfg, members)
cards = pd.DataFrame([zoo.card(specs[name], truth, seed) for name, truth in known.items()])
record.table("zoo", cards, item="zoo")
record.figure(
    "fig_truth", figures.truth(known, specs), item="zoo",
    alt="Heat maps, one a task: a row for every classifier, a column for every factor and the placebo; bright where "
    "redrawing the factor changes many answers.",
)  # fmt: skip

# %% [markdown]
# **Notice.** The same shortcut at the same strength is used by one classifier and ignored by another; and of two
# perfect shortcuts (in the profile `full`) mostly one is learned. So *that a cue is in the data* is not *that it is
# used*: this is what an explanation has to tell.
#
# **Instrument.** Does redrawing find what is there? Several heads on *one* backbone, each told to tell another factor,
# must be flipped by that factor more than the others are. And the placebo must flip nothing.

# %%
placebo = {task: [known[name].share(zoo.PLACEBO) for name in specs if specs[name].task == task] for task in cfg.tasks}
note("which.truth.placebo", {task: float(np.mean(each)) for task, each in placebo.items()}, "fraction", "zoo")
note("which.truth.heads", study.apart_by_heads(known, specs), "difference", "zoo")
display(record.instrument("which.truth"))

# %% [markdown]
# ## One method by hand
#
# A method gets a classifier, some images, and what may be known of the factors: their values in each image, where they
# are seen, what they are called, and what the training data were. It gives a number for each factor. Here is TCAV, and
# beside it the simplest null: how each factor went with the right answer in training.

# %%
clip = load_from(cfg.clip, cfg.device)
example = next(name for name in specs if specs[name].shortcut and specs[name].make == "trained")
_, images, concepts = study.evidence_of(specs[example].task, cfg.as_dict(), [], clip, cfg.device)
concepts = replace(concepts, learned_from=zoo.training_pictures(specs[example], cfg.learned_from, seed))
by_hand = pd.DataFrame(
    {name: importance(METHODS[name], members[example].classifier, images, concepts)
     for name in ("TCAV", "co-occurrence")}, index=concepts.names,
)  # fmt: skip
by_hand["truth"] = [known[example].share(factor) for factor in concepts.names]
print(example)
display(by_hand.round(2))

# %% [markdown]
# ## All methods
#
# | form | which |
# |---|---|
# | as published | the four papers' own: surgery, translated features, perturbation, heads and TextSpan |
# | tied to the decision | the same, where the classifier's head enters |
# | baseline | maps, directions of the features, what the answers go with |
# | null | what never sees the model |
# | ceiling | what may redraw: intervention, SHAP over factors |
#
# Surgery can be asked of digits alone, as the CLIP that takes its maps knows nothing else; heads of probes on CLIP.

# %%
said = study.asked(cfg, members)
board = study.Board(said, known, specs, cfg.uses, cfg.ignores, cfg.apart)
record.table("said", board.rows[["method", "classifier", "factor", "importance", "flips"]], item="leaderboard")
display(pd.DataFrame([{"method": name, "form": METHODS[name].form, "its number": METHODS[name].what}
                      for name in board.methods]))  # fmt: skip

# %% [markdown]
# ## The leaderboard
#
# *Before you look:* which of the four papers' methods will beat a table of the training data?
#
# For each classifier, the factors have an order in truth, and one by the method. The score is a rank correlation,
# $$D = \frac{\#\{\text{pairs in the right order}\} - \#\{\text{pairs in the wrong order}\}}
#   {\#\{\text{pairs whose flips are apart}\}}$$
# (Somers' D): 0 for a method that gives all factors the same, and nothing is asked of two factors that do not matter.
# It is averaged within a task, and its interval is over tasks, as tasks are what may differ. A method **explains**
# where it beats the best null on the same classifiers, with an interval above 0.

# %%
scores = {name: board.within(name) for name in board.methods}
aucs = {name: board.uses_it(name) for name in board.methods}
alarms = {name: board.alarms(name) for name in board.methods}
rows = []
for name in board.methods:
    best, beyond = board.beyond_nulls(name)
    for score, by_task, unit in (
        ("rank", scores[name], "rank correlation"), ("auc", aucs[name], "fraction"),
        ("heads", board.heads(name), "fraction"),
    ):  # fmt: skip
        note(f"which.{slug(name)}.{score}", by_task, unit, "leaderboard")
    # A difference of two rank correlations lies between -2 and 2.
    note(f"which.{slug(name)}.beyond-nulls", beyond, "rank correlation, difference", "leaderboard")
    rows.append(study.row(board, name, best, beyond))
leaderboard = pd.DataFrame(rows).sort_values("rank", ascending=False, ignore_index=True)
display(record.table("leaderboard", leaderboard, item="leaderboard"))

# %%
means = {name: float(np.mean(list(scores[name].values()))) for name in board.methods}
intervals = {name: study.over_tasks(scores[name]) for name in board.methods}
best_null = max(means[name] for name in means if METHODS[name].form == "null")
record.figure(
    "fig_leaderboard", figures.leaderboard(means, intervals, best_null), item="leaderboard",
    alt="Points with intervals: every method's rank correlation with the truth, nulls below; a dashed line at the best "
    "null.",
)  # fmt: skip
for score, by_task in zip(("rank", "auc"), board.by_chance(cfg.chance, seed), strict=True):
    unit = "rank correlation" if score == "rank" else "fraction"
    note(f"which.random.{score}", by_task, unit, "leaderboard")
for id in ("which.rank", "which.auc"):
    display(record.instrument(id))

# %% [markdown]
# **Where do the nulls fail?** A table of the training data cannot know *which* cues a network took up. So the same
# scores by what classifiers did with the cues of their data:

# %%
groups = board.by_group()
record.table("by_group", groups.reset_index(names="method"), item="leaderboard")
display(groups.round(2))

# %% [markdown]
# *Exercise.* Leave the class out of the ranking: which nulls fall, and which methods rise? (`board.rows[~is_class]`)
#
# ## Importance against truth
#
# A method may order the factors of one classifier and still say the same of all. Here every point is a factor of a
# classifier; for a good method they rise from the lower left to the upper right.

# %%
record.figure(
    "fig_scatter", figures.scatter(board), item="scatter",
    alt="Small panels, one a method: share of answers that a factor flips over its importance by the method.",
)  # fmt: skip

# %% [markdown]
# ## Does it answer to the strength of a shortcut?
#
# The stronger the shortcut was in training, the more it is used (left). Do methods follow? Grey lines are single tasks,
# architectures and shortcuts.

# %%
shown = [name for name in ("co-occurrence", "variance of the margin", "text-to-concept", "Grad-CAM",
                           "words of TExplain", "perturbation") if name in board.methods]  # fmt: skip
record.figure(
    "fig_strength", figures.strength(board, shown), item="strength",
    alt="Line plots: share of answers that a shortcut flips, and its importance by six methods, over its strength in "
    "training.",
)  # fmt: skip

# %% [markdown]
# ## False alarms
#
# Is a factor *used*, yes or no? The threshold is the best one for the classifiers of all *other* tasks. Hits are used
# factors; alarms are ignored ones, counted also by kind: networks that were not trained, that had labels at random,
# that had no shortcut, and those that ignore a cue which lies in their data.

# %%
rates = study.alarm_rates(alarms)
if rates.empty:
    for artefact in ("false_alarms", "fig_false_alarms"):
        record.skip(artefact, "a threshold comes from other tasks, and there are none with factors that are used")
else:
    record.table("false_alarms", rates.reset_index(names="method"), item="false alarms")
    record.figure(
        "fig_false_alarms", figures.false_alarms(rates), item="false alarms",
        alt="Dots joined by lines, a row a method: the share of used factors that it names, and of ignored ones that "
        "it names as well.",
    )  # fmt: skip

# %% [markdown]
# *Exercise.* A null cannot raise a false alarm on an untrained network *because it is untrained*: it says the same of
# it as of a trained one. What does that mean for reading this figure?
#
# ## As published, and tied to the decision
#
# Each paper's method can be asked more closely: surgery with the maps that speak for the answer, the words of the
# direction that the head reads in place of those of a picture, masks that were checked to take the answer away, heads
# weighted by the probe. Does it help?

# %%
PAIRS = [("network surgery", "network surgery, by relevance"), ("words of TExplain", "words of the class direction"),
         ("perturbation", "perturbation, checked"), ("heads and TextSpan", "heads, weighted")]  # fmt: skip
pairs = [pair for pair in PAIRS if all(scores.get(name) for name in pair)]
for (before, after), name in zip(PAIRS, ("surgery", "texplain", "perturbation", "heads"), strict=True):
    gain = {task: scores[after][task] - scores[before][task] for task in scores.get(before, {})}
    note(f"which.repair.{name}", gain, "rank correlation, difference", "fig_repair")
record.figure(
    "fig_repair", figures.repair(pairs, scores, best_null), item="fig_repair",
    alt="Paired points, a panel a paper: rank correlation with the truth as published and tied to the decision, a line "
    "a task; a dashed line at the best null.",
)  # fmt: skip

# %% [markdown]
# ## Six classifiers of which methods disagree
#
# Each row is a classifier: a picture of its task, what the truth is, and what methods say (each scaled to its largest).

# %%
chosen = study.disagreed(board, 6)
WANTED = ("co-occurrence", "words of TExplain", "perturbation", "heads, weighted", "Grad-CAM", "TCAV",
          "text-to-concept", "variance of the margin")  # fmt: skip
compared = [name for name in WANTED if name in board.methods]
pictures = {task: deal(TASKS[task], 1, seed, "explained").images()[0] for task in cfg.tasks}
record.figure(
    "fig_cases", figures.cases(board, chosen, compared, pictures), item="cases",
    alt="Six rows: a picture, and a table in colours of the truth and of what eight methods say of its five factors.",
)  # fmt: skip

# %%
alike = board.agreement()
record.table("table_agreement", alike.reset_index(names="method"), item="agreement")
record.figure(
    "fig_agreement", figures.agreement(alike), item="agreement",
    alt="Heat map: the rank correlation of what every two methods say of the same classifiers.",
)  # fmt: skip

# %% [markdown]
# ## What to use when
#
# - Where factors can be **redrawn**, redraw them: two dozen pictures of each beat everything else here.
# - Where pictures are **labelled** by factor and the factors are independent in them, how the margin goes with each is
#   nearly as good: a balanced labelled set is an experiment that somebody has made already.
# - A word or a map *by itself* is a guess that the training data could have made: set it beside the nulls first. Maps
#   order factors much as their size does.
#
# The leaderboard above has how sure each of these is. They hold of small classifiers of drawn scenes and of digits,
# with five factors of two values; of photographs nothing is said.
#
# ## Add your own
#
# *Exercise (20 minutes).* A method is a function of a classifier, images and concepts. Write one, and see where it
# lands. Here is a start: the mean size of the gradient of the margin where the factor is seen.
# `xaikit score my_method.py` does the same for a file (docs/leaderboard.md).


# %%
@method("gradient size", "baseline")
def gradient_size(classifier, images, concepts):
    """Share of the gradient's size that lies where the factor is seen."""
    seen = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.margin(seen).sum(), seen)
    size = gradient.abs().sum(1).double().cpu()
    return ((size * concepts.masks).sum((2, 3)) / size.sum((1, 2))).T


mine = METHODS.pop("gradient size")
print(importance(mine, members[example].classifier, images, concepts).round(decimals=2).tolist())

# %% [markdown]
# ## What was found
#
# Three tasks, as mini has them, decide nothing: the verdicts are those of the profile `full`, with five tasks and 210
# classifiers (`make 05_which_explanation PROFILE=full`; its figures are in `figures/full/`).

# %%
for name in ("network surgery", "network surgery, by relevance"):
    if len(scores.get(name, {})) < 3:
        record.claim(f"which.explains.{slug(name)}", reason="it can be asked of the digits alone, which are one task")
table = record.decide()
record.save()
plots.style_claims(table)
