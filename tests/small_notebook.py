"""A notebook that runs in seconds, for tests of what runs notebooks."""

NOTEBOOK = """# %% [markdown]
# # A notebook in small

# %% tags=["parameters"]
profile = "mini"
seed = 0
extra = 1

# %% [markdown]
# ## Figure 1: a line
# Some words about it.

# %%
import matplotlib.pyplot as plt

from xaikit.companion.record import Record

with open("build/runs.txt", "a") as runs:
    runs.write(f"{seed} {extra}\\n")
record = Record("01_small", profile, seed)
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot([0, 1])
record.figure("fig1", figure, item="Figure 1", alt="A line that rises from the left to the right.")
print("drew it")

# %% [markdown]
# ## The record

# %%
record.number("small.value", 0.5 + seed / 100, low=0.4, high=0.6, n=20, unit="fraction", item="t", protocol="exact")
record.number("small.count", 3, unit="count", item="t", protocol="exact")
record.decide()
record.save()
record.claims()
"""

CLAIMS = """# What it claims, for data/claims.toml.
[[instrument]]
id = "small.ruler"
notebook = "01_small"
what = "a value"
rule = "there is something, and not too much"
positive = { "small.value" = "> 0.1" }
negative = { "small.value" = "< 0.9" }

[[claim]]
id = "small.claim"
notebook = "01_small"
item = "t"
text = "c"
protocol = "exact"
rule = "r"
decided_by = { "small.value" = "> 0.3" }
n = 20
of = "images"
instruments = ["small.ruler"]
"""
