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
# **After it you can** measure what a classifier uses by redrawing, rank explanations against it, and name the nulls
# that any explanation has to beat.
#
# **Time**: about 30 minutes to read, 115 for the exercises at the end, 6 to run on two cores.
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

# %%
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
        record.number(id, interval.value, low=interval.low, high=interval.high, n=len(by_task), of="tasks", unit=unit,
                      item=item, protocol="control")  # fmt: skip


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
#
# **Predict.** A shortcut holds in all training pictures. Will every architecture take it up?

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
record.table("said", board.table(), item="leaderboard")
record.table("said_pictures", study.in_words(said), item="leaderboard")
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
#
# **Predict.** Which will order the factors better: the four papers' methods, or a table of the training data that
# never sees a model?

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
# *Question.* Leave the class out of the ranking: which nulls fall, and which methods rise? (`board.rows[~is_class]`)
#
# ## Importance against truth
#
# A method may order the factors of one classifier and still say the same of all. Here every point is a factor of a
# classifier; for a good method they rise from the lower left to the upper right.
#
# **Predict.** In which panel will the points rise? In which will they stand in columns, the same for all classifiers?

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
#
# **Predict.** The use of a shortcut rises with its strength in training. Which methods will follow?

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
#
# **Predict.** Which methods will name a cue of a network that has learned nothing?

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
# *Question.* A null cannot raise a false alarm on an untrained network *because it is untrained*: it says the same of
# it as of a trained one. What does that mean for reading this figure?
#
# ## As published, and tied to the decision
#
# Each paper's method can be asked more closely: surgery with the maps that speak for the answer, the words of the
# direction that the head reads in place of those of a picture, masks that were checked to take the answer away, heads
# weighted by the probe. Does it help?
#
# **Predict.** Does it help a method to look at what the answer needs? Which of the four has most to gain?

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
# *Try it (20 minutes).* A method is a function of a classifier, images and concepts. Write one, and see where it
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

# %% [markdown]
# ## Exercises
#
# Each stands on its own cells: run the first one, complete the second, and the check below says whether it is right
# and, if not, what is wrong. Nothing above has to be run before.

# %% [markdown] tags=["exercise"]
# ### Exercise 1: rank correlation, with ties
# *Difficulty 1 of 3 · 15 minutes*
#
# Many factors flip no answer at all, so the truth has ties. Spearman's correlation is Pearson's of the ranks, where
# equal values share the **mean** of the ranks that they take up.

# %% tags=["given"]
import numpy as np

from xaikit.companion import check
from xaikit.metrics import spearman

truth = np.array([0.0, 0.0, 0.0, 0.4, 0.9, 0.0])
method = np.array([0.3, 0.1, 0.2, 0.5, 0.9, 0.0])
backwards = -method


# %% tags=["exercise"]
def rank_correlation(x, y):
    """Spearman's rank correlation of two rows of numbers."""
    ...


# %% tags=["check"]
def reference(x, y):
    return spearman(x, y).value


check.function(
    rank_correlation, reference, (method, method**3), (method, backwards), name="rank_correlation, without ties"
)
check.function(
    rank_correlation,
    reference,
    (truth, method),
    (truth, backwards),
    (truth, truth),
    name="rank_correlation",
    hint="which ranks do the four zeros get?",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# The mean rank of $x_i$: how many are smaller, plus half of how many are equal. `np.corrcoef(a, b)[0, 1]` is Pearson's.
#
# </details>


# %% tags=["solution"]
def rank_correlation(x, y):
    """Spearman's rank correlation of two rows of numbers."""

    def ranks(values):
        return (values[:, None] > values).sum(1) + 0.5 * (values[:, None] == values).sum(1)

    return np.corrcoef(ranks(x), ranks(y))[0, 1]


# %% tags=["wrong"]
def rank_correlation(x, y):  # equal values get different ranks, by where they stand
    return np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]


# %% tags=["wrong"]
def rank_correlation(x, y):  # Pearson's, of the values
    return np.corrcoef(x, y)[0, 1]


# %% [markdown] tags=["exercise"]
# ### Exercise 2: redraw and count the flips
# *Difficulty 2 of 3 · 20 minutes*
#
# The truth of this notebook: of a factor, the share of pictures whose answer changes when the factor is redrawn and all
# else stays. Scenes of `xaikit.world` can do that: `scene.replace(colour="red")`, `scene.image(32)`. Redraw to a value
# that the scene does **not** have.

# %% tags=["given"]
import numpy as np

from xaikit.companion import check
from xaikit.world import Several

THINGS = [("duck", "red"), ("duck", "white"), ("owl", "red"), ("owl", "white")]
scenes = [
    Several(seed, thing, "sedan", colour1=colour, pattern1="plain", colour2="black")
    for seed, (thing, colour) in enumerate(3 * THINGS)
]


def answer(image):
    """Whether there is more red than green or blue in a picture: it looks at colour alone."""
    red, green, blue = image.reshape(-1, 3).astype(float).T
    return bool(((red > 1.4 * green) & (red > 1.4 * blue)).mean() > 0.02)


# %% tags=["exercise"]
def flips(answer, scenes, factor, values):
    """The share of the scenes whose answer changes when `factor` takes the other one of two values."""
    ...


# %% tags=["check"]
def never(image):
    return True


asked = []
check.that(
    (flips(answer, scenes, "colour1", ("red", "white")) or 0) > 0.7,
    "flips, of the colour",
    "the answer follows the colour: is it redrawn in every scene?",
)
check.that(
    flips(answer, scenes, "kind1", ("duck", "owl")) < 0.3,
    "flips, of the kind",
    "the answer does not follow the kind: is anything else redrawn?",
)
check.same(flips(never, scenes, "colour1", ("red", "white")), 0.0, "flips, of a classifier that looks at nothing")
flips(lambda image: asked.append(image) or True, scenes, "colour1", ("red", "white"))
pairs = [np.array_equal(one, other) for index, one in enumerate(asked) for other in asked[:index]]
check.that(
    len(asked) == 24 and sum(pairs) == 0,
    "the pictures that were asked about",
    "24 different ones are wanted, each scene as it is and redrawn",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `getattr(scene, factor)` is the value that a scene has; the other one of two is `values[0] if ... else values[1]`.
#
# </details>


# %% tags=["solution"]
def flips(answer, scenes, factor, values):
    """The share of the scenes whose answer changes when `factor` takes the other one of two values."""
    changed = []
    for scene in scenes:
        other = values[1] if getattr(scene, factor) == values[0] else values[0]
        changed.append(answer(scene.image(32)) != answer(scene.replace(**{factor: other}).image(32)))
    return np.mean(changed)


# %% tags=["wrong"]
def flips(answer, scenes, factor, values):  # to one value, which half of the scenes have already
    redrawn = [scene.replace(**{factor: values[0]}) for scene in scenes]
    return np.mean([answer(a.image(32)) != answer(b.image(32)) for a, b in zip(scenes, redrawn, strict=True)])


# %% tags=["wrong"]
def flips(answer, scenes, factor, values):  # compares with another scene, in which all else differs
    others = [*scenes[1:], scenes[0]]
    return np.mean([answer(a.image(32)) != answer(b.image(32)) for a, b in zip(scenes, others, strict=True)])


# %% [markdown] tags=["exercise"]
# ### Exercise 3: a null that knows the training table
# *Difficulty 2 of 3 · 20 minutes*
#
# Write an explanation that never sees a model: how much does each factor tell of the label *in the training data*? As
# mutual information in nats, $\sum p(a, b) \ln \frac{p(a, b)}{p(a)\,p(b)}$. It orders the factors of every classifier
# alike, and well where classifiers use what their data offer. What is better than it knows something of the *model*.

# %% tags=["given"]
import numpy as np
from sklearn.metrics import mutual_info_score

from xaikit.companion import check

draw = np.random.default_rng(3)
label = draw.integers(0, 2, 300)
table = {
    "shape": label,  # the label itself
    "colour": np.where(draw.random(300) < 0.9, label, 1 - label),  # a shortcut that holds in nine of ten pictures
    "place": draw.choice(["sea", "street", "farm"], 300),  # nothing
    "sign": np.array(["none", "STOP", "GO"])[
        np.where(label == 1, 0, draw.integers(1, 3, 300))
    ],  # three values, no order
}


# %% tags=["exercise"]
def told_by_the_table(table, label):
    """For each factor, by its name, the mutual information of its values and the label, in nats."""
    ...


# %% tags=["check"]
found = told_by_the_table(table, label)
check.that(
    isinstance(found, dict) and list(found) == list(table), "told_by_the_table", "a number for each factor is wanted"
)
for name, hint in (
    ("shape", "are they natural logarithms?"),
    ("colour", ""),
    ("place", "pairs that never occur add nothing"),
    ("sign", "its values are names, and have no order"),
):
    check.same(found[name], mutual_info_score(label, table[name]), f"what the {name} tells", tolerance=1e-3, hint=hint)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# For each value $a$ of the factor and each $b$ of the label: `p_ab = ((values == a) & (label == b)).mean()`, and pairs
# with `p_ab == 0` are left out.
#
# </details>


# %% tags=["solution"]
def told_by_the_table(table, label):
    """For each factor, by its name, the mutual information of its values and the label, in nats."""

    def information(values):
        total = 0.0
        for a in np.unique(values):
            for b in np.unique(label):
                both = ((values == a) & (label == b)).mean()
                if both > 0:
                    total += both * np.log(both / ((values == a).mean() * (label == b).mean()))
        return total

    return {name: information(values) for name, values in table.items()}


# %% tags=["wrong"]
def told_by_the_table(table, label):  # a correlation with the numbers that stand for the values
    codes = {name: np.unique(values, return_inverse=True)[1] for name, values in table.items()}
    return {name: abs(np.corrcoef(code, label)[0, 1]) for name, code in codes.items()}


# %% tags=["wrong"]
def told_by_the_table(table, label):  # in bits
    return {name: mutual_info_score(label, values) / np.log(2) for name, values in table.items()}


# %% [markdown] tags=["exercise"]
# ### Exercise 4: false alarms
# *Difficulty 2 of 3 · 20 minutes*
#
# "Is the factor used?" needs a threshold, and a method that always says yes finds everything. So take the threshold
# from networks that were **not trained**: the lowest one of the scores found there above which at most `rate` of them
# lie. Then report which share of the used factors lies above it.

# %% tags=["given"]
import numpy as np

from xaikit.companion import check

draw = np.random.default_rng(4)
untrained = draw.normal(0.0, 1.0, 200)  # a method's scores where nothing was learned
used = draw.normal(2.5, 1.0, 100)  # and where a factor is used
always_high = (np.full(200, 5.0), np.full(100, 5.0))  # a method that says the same of all
no_idea = (draw.normal(size=200), draw.normal(size=100))


# %% tags=["exercise"]
def threshold(untrained, rate):
    """The lowest of the scores above which at most the share `rate` of them lies."""
    ...


def found(used, untrained, rate):
    """The share of the used factors that lies above that threshold."""
    ...


# %% tags=["check"]
check.same(
    threshold(np.arange(1.0, 11.0), 0.1),
    9.0,
    "the threshold of ten scores, at a rate of 0.1",
    hint="one of ten may lie above it",
)
check.same(threshold(np.arange(1.0, 11.0), 0.0), 10.0, "the threshold at a rate of 0")
check.that((untrained > threshold(untrained, 0.05)).mean() <= 0.05, "the alarms on untrained networks", "too many")
check.that(found(used, untrained, 0.05) > 0.6, "found, by a method that knows something", "too few")
check.same(
    found(always_high[1], always_high[0], 0.05),
    0.0,
    "found, by a method that always says the same",
    hint="what lies at the threshold is not above it",
)
check.that(
    found(no_idea[1], no_idea[0], 0.05) < 0.15,
    "found, by a method that knows nothing",
    "as many as there are alarms would be right: from which networks is the threshold?",
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Sort the scores. For the score at place $k$ of $n$, at most $n - 1 - k$ lie above it; look for the first $k$ for which
# that is at most `rate * n`.
#
# </details>


# %% tags=["solution"]
def threshold(untrained, rate):
    """The lowest of the scores above which at most the share `rate` of them lies."""
    return min(score for score in untrained if (untrained > score).mean() <= rate)


def found(used, untrained, rate):
    """The share of the used factors that lies above that threshold."""
    return (used > threshold(untrained, rate)).mean()


# %% tags=["wrong"]
def threshold(untrained, rate):
    return min(score for score in untrained if (untrained > score).mean() <= rate)


def found(used, untrained, rate):  # a threshold that suits the used ones: it knows the answers
    return (used > np.quantile(used, rate)).mean()


# %% tags=["wrong"]
def threshold(untrained, rate):
    return min(score for score in untrained if (untrained > score).mean() <= rate)


def found(used, untrained, rate):  # what lies at the threshold counts
    return (used >= threshold(untrained, rate)).mean()


# %% [markdown] tags=["exercise"]
# ### Exercise 5: a method of your own
# *Difficulty 3 of 3 · 40 minutes*
#
# A world in small: pictures of 8 × 8 in which five factors are drawn, each bright or dark in a place of its own size.
# `classifiers` are twelve functions from pictures to answers (0 or 1). Write a method that gives each factor a number,
# from the classifier, pictures and where each factor is seen. It has to order what each of the twelve really uses with
# a mean rank correlation of at least 0.8, and to be silent on a classifier that looks at nothing. You may change
# pictures as you like; redrawing factors is left to the check, which knows the table.

# %% tags=["given"]
import numpy as np

from xaikit.companion import check
from xaikit.metrics import spearman

draw = np.random.default_rng(5)
SIZES = (1, 2, 3, 4, 4)  # of what is drawn in the four quarters, and of what is left of the middle
PLACES = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
SEEN = np.zeros((5, 8, 8), bool)  # where each factor is seen
for which, ((y, x), size) in enumerate(zip(PLACES, SIZES, strict=True)):
    SEEN[which, y : y + size, x : x + size] = True
SEEN[4] &= ~SEEN[:4].any(0)
factors = draw.integers(0, 2, (64, 5))


def pictures_of(factors):
    """Grey pictures [pictures, 8, 8]: a factor that is 1 is bright where it is seen."""
    shade = draw.random((len(factors), 8, 8)) * 0.1
    return shade + np.einsum("nf,fhw->nhw", factors * 0.8, SEEN)


# %% tags=["given"]
WEIGHTS = draw.permuted(np.tile([0.0, 0.3, 0.7, 1.2, 2.0], (12, 1)), axis=1)


def classifier_of(weights):
    means = SEEN / SEEN.sum((1, 2), keepdims=True)
    return lambda pictures: (np.einsum("nhw,fhw->nf", pictures - 0.45, means) @ weights > 0).astype(int)


classifiers = [classifier_of(weights) for weights in WEIGHTS]
pictures = pictures_of(factors)


# %% tags=["exercise"]
def own_method(classifier, pictures, seen):
    """A number for each factor, seen at `seen` [factors, 8, 8]: how much does this classifier use it?"""
    ...


# %% tags=["check"]
def truth(classifier):
    """What nobody but the check may do: the share of answers that flip when a factor is redrawn."""
    redrawn = [np.where(np.arange(5) == which, 1 - factors, factors) for which in range(5)]
    return [(classifier(pictures) != classifier(pictures_of(each))).mean() for each in redrawn]


said = [own_method(classifier, pictures, SEEN) for classifier in classifiers]
check.that(np.shape(said) == (12, 5), "own_method", "five numbers are wanted, one a factor")
constant = own_method(lambda pictures: np.ones(len(pictures), int), pictures, SEEN)
check.that(
    np.abs(constant).max() < 1e-9,
    "own_method, on a classifier that looks at nothing",
    "it says that something is used; does it ask the classifier at all?",
)
check.that(
    len({tuple(np.argsort(each)) for each in said}) > 3, "own_method", "it orders the factors of all twelve alike"
)
ranks = [spearman(truth(classifier), each).value for classifier, each in zip(classifiers, said, strict=True)]
check.that(np.mean(ranks) >= 0.8, "the mean rank correlation with the truth", "it lies below 0.8")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Change a place and ask again: how many answers change when what is seen there is replaced by the same place of
# *another* picture? That stays within what pictures look like; black squares may not.
#
# </details>


# %% tags=["solution"]
def own_method(classifier, pictures, seen):
    """A number for each factor, seen at `seen` [factors, 8, 8]: how much does this classifier use it?"""
    answers = classifier(pictures)
    importance = []
    for where in seen:
        flipped = []
        for shift in range(1, 16):  # the same place of fifteen other pictures
            swapped = np.where(where, np.roll(pictures, shift, axis=0), pictures)
            flipped.append(classifier(swapped) != answers)
        importance.append(np.mean(flipped))
    return np.array(importance)


# %% tags=["wrong"]
def own_method(classifier, pictures, seen):  # size: it never asks the classifier
    return seen.mean((1, 2))


# %% tags=["wrong"]
def own_method(
    classifier, pictures, seen
):  # how often the answer is 1 where the place is bright, of one picture in two
    answers = classifier(pictures)
    return np.array([answers.mean() * pictures[:, where].mean() for where in seen])
