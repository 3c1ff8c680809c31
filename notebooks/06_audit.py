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
# # Audit a classifier
#
# Somebody gives you a classifier that is right on most of its pictures. *What does it use?* This notebook walks
# through one audit, by hand first and then by the command that does it for any classifier (`xaikit audit`,
# `docs/audit.md`). There are two classifiers of ducks and crows here. One learned the water in place of the duck, and
# its twin learned birds. The audit does not know which is which.
#
# **You will be able to** say why a change of a picture needs a control; read an audit's table; say what an audit could
# not have found; and, in the exercise, hide a shortcut from it.
#
# **Time**: 15 minutes to read, a minute to run; the exercises take an hour and a half.

# %% tags=["parameters"]
profile = "mini"
seed = 0

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from xaikit.audit import Concept, Loaded, Pictures, audit
from xaikit.audit.questions import effects, examples, smallest_effect
from xaikit.companion import plots, profiles
from xaikit.companion.notes import Notes
from xaikit.companion.record import Record
from xaikit.metrics.intervals import over_runs
from xaikit.studies.audited_zoo import seen_of
from xaikit.studies.zoo import Spec, truths, zoo
from xaikit.studies.zoo_tasks import TASKS, deal

cfg = profiles.load(profile, "06_audit", seed)
profiles.prepare(seed)
plots.use_style()
record = Record("06_audit", profile, seed)

# %% [markdown]
# ## Two classifiers
#
# In the training pictures of the first one every duck is on water and every crow on land; in those of the twin water
# and land mean nothing. They are tested on pictures as a user might have them: most ducks are on water, some are not.

# %%
specs = {"shortcut": Spec("birds", "resnet", (("background", 1.0),)), "twin": Spec("birds", "resnet")}
# For the end: one training says little about what is trained, so there are more, from other pictures and weights.
trainings = {name: [replace(spec, twin=number) for number in range(cfg.trainings)] for name, spec in specs.items()}
members = zoo(cfg, [spec for some in trainings.values() for spec in some])
names = TASKS["birds"].factors[0].values
pictures = deal(TASKS["birds"], cfg.pictures, seed, "test", {"background": cfg.agree})
mine = Pictures(seen_of(pictures), tuple(f"{row:03}" for row in range(len(pictures.codes))), pictures.labels.numpy())
loaded = {name: Loaded.of(members[spec.name].classifier.model, names) for name, spec in specs.items()}
first = [int((pictures.labels == label).nonzero()[0]) for label in (0, 1)]
answers = {name: each.model(mine.seen.images(slice(None), cfg.device)).argmax(1).cpu() for name, each in loaded.items()}
right = {name: float((each == pictures.labels).double().mean()) for name, each in answers.items()}
pd.DataFrame({"right answers": right}).style.format("{:.0%}")

# %% [markdown]
# *Before you go on:* one of them is right less often. Has it learned less, or something else? Accuracy cannot say.
#
# ## One question by hand
#
# Put a duck's background behind a crow: does the answer turn? But the cut-out bird has a seam around it now, and the
# picture is odd; a network might turn for that alone. So the same is done once more with a background from a picture
# that has the **same answer**. It has the same seam, and lacks only what is asked about:
#
# $$\text{effect} = \text{P}(\text{turns} \mid \text{background of the other answer}) -
#   \text{P}(\text{turns} \mid \text{background of the same answer})$$

# %%
CONCEPTS = [
    Concept("background", "background", "object"),
    Concept("colour of the bird", "colour", "object"),
    Concept("the word DUCK", "text", text="DUCK", place="upper left"),
    Concept("the bird", "thing", "object", expected=True),
]
own = answers["shortcut"].numpy()
variants = {"as it is": mine.seen.images(torch.tensor(first))}
variants |= examples(mine.seen, CONCEPTS[0], CONCEPTS, own, first, seed)
titles = []
for name, images in zip(("as it is", "other's ground", "control"), variants.values(), strict=True):
    titles += [f"{name}:\n{names[answer]}" for answer in loaded["shortcut"].model(images.to(cfg.device)).argmax(1)]
record.figure(
    "fig_change", plots.image_grid(torch.cat(list(variants.values())), titles, columns=2), item="change",
    alt="Six pictures of birds in three rows: as they are, with the background of a picture with another answer, and "
    "with one of the same answer; above each the answer of the classifier with the shortcut.",
)  # fmt: skip

# %% [markdown]
# The answers are those of the classifier with the shortcut. **Notice** that where the other picture's bird was, the
# ground is filled from around it: an exchange is never perfect, and need not be, as its control is imperfect in the
# same way.
#
# ## The whole audit
#
# All questions at once, of both classifiers, with $p$ by McNemar's exact test, adjusted for their number. *Used* needs
# $p \le 0.05$ **and** an effect of a tenth of the answers.
#
# *Before you look:* the second classifier also answers "duck" more often on water, as its pictures have it so. Will the
# audit say that it uses the water?

# %%
found = {name: audit(each, mine, CONCEPTS, device=cfg.device, seed=seed) for name, each in loaded.items()}
table = pd.concat({name: each.table() for name, each in found.items()}, names=["classifier"]).reset_index("classifier")
record.table("effects", table.round(4), item="effects")
figure, axes = plt.subplots(figsize=(7, 3))
plots.grouped_intervals(
    axes, table.rename(columns={"net": "value"}), place="concept", group="classifier", chance=0,
    places=[each.name for each in CONCEPTS], colours={"shortcut": plots.BLUE, "twin": plots.ORANGE},
)  # fmt: skip
axes.set(xlabel="share of answers that turn, net of the control")
axes.legend()
record.figure(
    "fig_effects", figure, item="effects",
    alt="Dots with intervals, a row a question: the net effect of exchanging the background, the colour of the bird, a "
    "word and the bird itself, for the classifier with the shortcut and for its twin.",
)  # fmt: skip
print(*(f"{name}: {each.summary()[0]}" for name, each in found.items()), sep="\n")

# %% [markdown]
# **Notice.** Turns are counted *net of the control*, so that an effect may lie below 0: pictures of the twin in another
# bird's colours turn less often than in colours as odd that mean nothing. That is an odd picture, and no cue. The bird
# itself is *expected* to matter, so it is shown and not counted among the questions. (The square of magenta in some
# pictures is a tag that the drawn birds may wear. It means nothing here.)
#
# ## Is it true?
#
# In the drawn world that is known: redraw one cause of a picture, and nothing else. If the audit is right, redrawing
# the background turns the first classifier's answers, and not the twin's. Of each there are three trainings, from other
# pictures and weights, as one network may be an odd one: all are asked the same, and intervals are over trainings.

# %%
known, shown, note = truths(cfg, members), {}, Notes(record, "audit")
for name, some in trainings.items():
    turned = [float(known[spec.name].flips["background"].mean()) for spec in some]
    nets = []
    for spec in some:
        one = Loaded.of(members[spec.name].classifier.model, names).model
        told = one(mine.seen.images(slice(None), cfg.device)).argmax(1).cpu()
        (effect,) = effects(one, mine.seen, CONCEPTS[:1], answers=told, device=cfg.device, seed=seed)
        nets.append(effect.net.value)
    truth = over_runs(turned, rows=cfg.tested).within(0, 1)
    note(f"redrawn.{name}", truth, "effects", "control", values=turned, of="trainings")
    note(f"net.{name}", over_runs(nets), "effects", "control", "difference", values=nets, of="trainings")
    claimed = [each.concept for each in found[name].claimed]
    record.number(f"audit.claims.{name}", len(claimed), unit="cues", item="effects", protocol="control")
    shown[name] = {
        "redrawn": turned,
        "asked by the audit": nets,
        "claimed of the first": ", ".join(claimed) or "nothing",
    }
pd.DataFrame(shown).T.map(lambda each: each if isinstance(each, str) else ", ".join(f"{one:.2f}" for one in each))

# %% [markdown]
# ## What could have been found
#
# "Nothing found" is worth as much as the audit could have found. The smallest effect that would have been claimed in
# four of five audits falls with the number of pictures, and rises with the number of questions and with what controls
# turn.

# %%
counts = np.array([20, 30, 50, 80, 120, 200, 400, 800])
power = pd.DataFrame(
    {f"{questions} question{'s' * (questions > 1)}": [smallest_effect(n, 0.02, 0.05 / questions) for n in counts]
     for questions in (1, 4, 16)}, index=pd.Index(counts, name="pictures"),
)  # fmt: skip
axes = power.plot(logx=True, marker="o", ylim=(0, None), ylabel="smallest effect found in 4 of 5 audits")
axes.set_xticks(counts, counts)
axes.minorticks_off()
record.figure(
    "fig_power", axes.figure, item="power",
    alt="Three falling lines: the smallest effect that is found in four of five audits over the number of pictures, "
    "for 1, 4 and 16 questions.",
)  # fmt: skip
record.table("power", power.reset_index().round(3), item="power")

# %% [markdown]
# ## The page
#
# `found["shortcut"].save(folder)` writes all of it as one page, with where to look, the methods of the four papers with
# their controls on this very classifier, and the cheapest mend with what it does: here, the last layer learned anew on
# exchanged backgrounds. Its right answers become fewer, as most pictures of this folder have their bird where the
# shortcut expects it: what a mend is worth shows where they do not. [The page of such a
# classifier](../docs/audit/report.html) is in the documentation.

# %%
(mended,) = found["shortcut"].mends
pd.DataFrame({
    "effect of the background": [mended.before.net.value, mended.after.net.value],
    "right answers": [mended.right_before.value, mended.right_after.value],
}, index=["before", "after the last layer was learned anew"]).style.format("{:.2f}")  # fmt: skip

# %% [markdown]
# ## What was found

# %%
claims = record.decide()
record.save()
plots.style_claims(claims)

# %% [markdown]
# ## Exercises
#
# Each stands on its own cells: run the first one, complete the second, and the check below says whether it is right
# and, if not, what is wrong. Nothing above has to be run before.

# %% [markdown] tags=["exercise"]
# ### Exercise 1: net of the control
# *Difficulty 1 of 3 · 10 minutes*
#
# Of each picture it is known whether its answer turns with the change, and whether it turns with each control. The
# effect is the share of the change less that of the control which turns **most**.

# %% tags=["given"]
import numpy as np

from xaikit.audit.questions import Effect
from xaikit.companion import check

flips = np.array([True, True, True, False, True, False, True, True])
controls = {
    "from the same answer": np.array([False, True, False, False, True, False, True, False]),
    "in other colours": np.array([True, True, False, True, True, False, False, False]),
}


# %% tags=["exercise"]
def net(flips, controls):
    """The share of answers that the change turns beyond the control that turns most."""
    ...


# %% tags=["check"]
def reference(flips, controls):
    return Effect("a", "colour", np.arange(len(flips)), flips, controls).net.value


one = {"from the same answer": controls["from the same answer"]}
check.function(net, reference, (flips, one), name="net, with one control")
check.function(net, reference, (flips, controls), (~flips, controls), name="net", hint="which control turns most?")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `flips.mean()` is a share. Of the controls' shares take the largest, whichever it is; the result may be below 0.
#
# </details>


# %% tags=["solution"]
def net(flips, controls):
    """The share of answers that the change turns beyond the control that turns most."""
    return flips.mean() - max(each.mean() for each in controls.values())


# %% tags=["wrong"]
def net(flips, controls):  # answers that any control turns: more than the one turns that turns most
    return flips.mean() - np.any(list(controls.values()), axis=0).mean()


# %% tags=["wrong"]
def net(flips, controls):  # only answers that no control turns: the control's own flips are lost
    return (flips & ~np.any(list(controls.values()), axis=0)).mean()


# %% tags=["wrong"]
def net(flips, controls):  # the mean of the controls, which the weaker one makes small
    return flips.mean() - np.mean([each.mean() for each in controls.values()])


# %% [markdown] tags=["exercise"]
# ### Exercise 2: could it be chance?
# *Difficulty 2 of 3 · 20 minutes*
#
# The same pictures get the change and the control, so only pictures in which the two **differ** say anything. If the
# change did no more than its control, either would be as likely to turn alone: the number of pictures that the change
# alone turns would be binomial, with a half. McNemar's one-sided $p$ is the chance of as many or more.

# %% tags=["given"]
import numpy as np
from scipy import stats

from xaikit.audit.questions import beyond
from xaikit.companion import check

draw = np.random.default_rng(0)
change, control = draw.random((2, 40)) < np.array([[0.5], [0.25]])


# %% tags=["exercise"]
def mcnemar(change, control):
    """The chance of as many pictures that the change alone turns, or more, if it did no more than its control."""
    ...


# %% tags=["check"]
check.function(mcnemar, beyond, (change, control), name="mcnemar, of the change")
check.function(
    mcnemar, beyond, (control, change), (change, change), name="mcnemar",
    hint="how many or *more*, and what if the two never differ?",
)  # fmt: skip

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `stats.binom.sf(k - 1, n, 0.5)` is the chance of k or more. With n = 0 there is nothing to see: p is 1.
#
# </details>


# %% tags=["solution"]
def mcnemar(change, control):
    """The chance of as many pictures that the change alone turns, or more, if it did no more than its control."""
    more, less = int((change & ~control).sum()), int((~change & control).sum())
    return float(stats.binom.sf(more - 1, more + less, 0.5)) if more + less else 1.0


# %% tags=["wrong"]
def mcnemar(change, control):  # more, and not as many
    more, less = int((change & ~control).sum()), int((~change & control).sum())
    return float(stats.binom.sf(more, more + less, 0.5))


# %% tags=["wrong"]
def mcnemar(change, control):  # all pictures count, those that say nothing too
    return float(stats.binom.sf(int((change & ~control).sum()) - 1, len(change), 0.5))


# %% [markdown] tags=["exercise"]
# ### Exercise 3: many questions
# *Difficulty 2 of 3 · 20 minutes*
#
# Who asks twenty questions finds one of p ≤ 0.05 by chance. Holm (1979): the smallest p is multiplied by the number of
# questions m, the next one by m - 1, and so on; none may then be smaller than one before it, and none above 1.

# %% tags=["given"]
import numpy as np

from xaikit.audit.questions import holm as reference
from xaikit.companion import check

ps = [0.03, 0.001, 0.6, 0.02, 0.021]


# %% tags=["exercise"]
def holm(ps):
    """The p-values adjusted for their number, in the order in which they came."""
    ...


# %% tags=["check"]
check.function(holm, reference, ([0.001, 0.02, 0.6],), name="holm, of sorted p")
check.function(holm, reference, (ps,), (ps[::-1],), ([0.04],), name="holm", hint="in which order do they come back?")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# `np.argsort` gives the order. Go through it, keep the largest value so far, and write it to where the p came from.
#
# </details>


# %% tags=["solution"]
def holm(ps):
    """The p-values adjusted for their number, in the order in which they came."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for place, which in enumerate(np.argsort(ps)):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[which]))
        adjusted[which] = largest
    return adjusted


# %% tags=["wrong"]
def holm(ps):  # Bonferroni: each times their number
    return [min(1.0, len(ps) * p) for p in ps]


# %% tags=["wrong"]
def holm(ps):  # one may be smaller than one before it
    adjusted = [1.0] * len(ps)
    for place, which in enumerate(np.argsort(ps)):
        adjusted[which] = min(1.0, (len(ps) - place) * ps[which])
    return adjusted


# %% [markdown] tags=["exercise"]
# ### Exercise 4: whose background?
# *Difficulty 1 of 3 · 15 minutes*
#
# Every picture needs a donor with **another** answer, and one with the **same** answer, which is not the picture
# itself. Given the answers, list the rows that can be asked at all: those that have both.

# %% tags=["given"]
import numpy as np

from xaikit.audit.questions import donors
from xaikit.companion import check

answers = np.array([2, 0, 0, 1, 0, 2, 3])


# %% tags=["exercise"]
def askable(answers):
    """The rows, in order, that have a donor of the same answer and one of another answer."""
    ...


# %% tags=["check"]
def reference(answers):
    same, other = donors(answers, np.ones(len(answers), bool), 0)
    return np.flatnonzero((same >= 0) & (other >= 0))


check.function(askable, reference, (answers,), name="askable, of four answers")
check.function(
    askable, reference, (answers % 2,), (np.zeros(5, int),), name="askable", hint="and if there is one answer alone?"
)

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# Of a picture's own answer there must be two or more, and there must be two answers or more.
#
# </details>


# %% tags=["solution"]
def askable(answers):
    """The rows, in order, that have a donor of the same answer and one of another answer."""
    alike = (answers[:, None] == answers).sum(1)
    return np.flatnonzero((alike > 1) & (alike < len(answers)))


# %% tags=["wrong"]
def askable(answers):  # the picture itself is taken for its donor
    return np.arange(len(answers))


# %% tags=["wrong"]
def askable(answers):  # nobody looked for another answer
    return np.flatnonzero((answers[:, None] == answers).sum(1) > 1)


# %% [markdown] tags=["exercise"]
# ### Exercise 5: hide a shortcut from the audit
# *Difficulty 3 of 3 · 30 minutes*
#
# Write a classifier of two classes whose answers turn in a fifth of the pictures or more when something **other than
# the species** is redrawn, and of which an audit that asks about the background, the colour of the bird, a word and a
# tag in the corner **claims nothing**. Any function of the pixels will do: `images` [n, 3, 64, 64] in [0, 1]. The
# factors of a picture are its species, background, colour, count and tag.

# %% tags=["given"]
import torch
from torch import nn

from xaikit.audit import Concept
from xaikit.audit.questions import classify, effects
from xaikit.companion import check
from xaikit.studies.audited_zoo import concepts_of, seen_of
from xaikit.studies.zoo_tasks import TASKS, deal

birds = deal(TASKS["birds"], 100, 0, "test")
asked = [each for each in concepts_of("birds") if not each.expected] + [Concept("a word", "text", text="DUCK")]


def two_logits(score):
    """Logits of two classes from a number for each picture: class 1 where it is positive."""
    return torch.stack([-score, score], 1)


# %% tags=["exercise"]
def hidden(images):
    """Logits [n, 2] of a classifier whose shortcut the audit does not find."""
    ...


# %% tags=["check"]
class Model(nn.Module):
    def forward(self, images):
        return hidden(images)


answers = None if hidden(birds.images()) is None else classify(Model(), seen_of(birds)).argmax(1)
check.that(answers is not None, "hidden", "it gives nothing yet")
flips = {
    name: float((hidden(birds.redrawn_in(name).images()).argmax(1) != answers).double().mean())
    for name in TASKS["birds"].names[1:]
}
check.that(max(flips.values()) >= 0.2, "the shortcut", "redrawing any factor but the species turns too few answers")
claimed = [each.concept for each in effects(Model(), seen_of(birds), asked, answers=answers) if each.claimed]
check.that(not claimed, "the audit", f"it finds {', '.join(claimed)}: use something that nobody asks about")

# %% [markdown] tags=["hint"]
# <details><summary>Hint</summary>
#
# An audit finds what it asks about. Which factor is in no question? And what of the pixels goes with it, that neither
# another background, nor the other colour, nor a word in the corner changes?
#
# </details>


# %% tags=["solution"]
def hidden(images):
    """Answers by the number of birds: how much of the picture is as red or as blue as they are, and no tag."""
    red, green, blue = images.unbind(1)
    bird = ((red > 0.5) & (green < 0.3) & (blue < 0.45)) | ((blue > 0.45) & (green < 0.35) & (red < 0.3))
    return two_logits(bird.float().mean((1, 2)) - 0.09)


# %% tags=["wrong"]
def hidden(images):  # the background, which is asked about
    return two_logits(images[:, 2, 50:, :20].mean((1, 2)) - images[:, 1, 50:, :20].mean((1, 2)))


# %% tags=["wrong"]
def hidden(images):  # one answer whatever is shown: there is no shortcut to hide
    return two_logits(torch.ones(len(images)))
