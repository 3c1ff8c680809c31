"""A kill at a random second, and a second start that finishes with the same record."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

NOTEBOOK = """# %% tags=["parameters"]
profile = "mini"
seed = 0

# %% [markdown]
# ## Two networks

# %%
import pandas as pd
import torch

from xaikit.companion import profiles
from xaikit.companion.record import Record
from xaikit.models.classifiers import Recipe, predict, train_all

profiles.prepare(seed)
record = Record("01_small", profile, seed)
labels = torch.arange(24) % 2
images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
images = images * torch.eye(3)[labels][:, :, None, None]
recipe = Recipe(pixels=16, epochs=4, measurements=4, batch=8, learning_rate=1e-3)
job = {"recipe": recipe, "images": images, "labels": labels, "watched": {"all": (images, labels)}}
trained = train_all({f"network {number}": {**job, "seed": number} for number in range(2)})

# %% [markdown]
# ## What they are

# %%
rows = [{"network": name, **row} for name, each in trained.items() for row in each.curves]
record.table("curves", pd.DataFrame(rows), item="curves")
for name, each in trained.items():
    slug = name.replace(" ", "-")
    logits = each.model(images)
    record.number(f"small.{slug}.logit", logits.abs().mean(), unit="logit", item="t", protocol="exact")
    right = predict(each.model, images).eq(labels).double().mean()
    record.number(f"small.{slug}.right", right, unit="fraction", item="t", protocol="exact")
record.save()
"""


def run(checkout: Path, cache: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XAIKIT_CACHE": str(checkout / "build" / cache)}
    command = [sys.executable, "-m", "xaikit", "run", "01_small"]
    return subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def recorded(checkout: Path) -> dict:
    """All that a run leaves but its seconds."""
    folder = checkout / "figures" / "mini" / "01_small"
    record = json.loads((folder / "numbers.json").read_text())
    return {**record, "seconds": 0, "machine": {}, "table": (folder / "curves.csv").read_text()}


def test_a_kill_at_a_random_second_and_a_second_start_give_the_same_record(checkout: Path) -> None:
    (checkout / "notebooks" / "01_small.py").write_text(NOTEBOOK)
    start = time.monotonic()
    whole = run(checkout, "one")
    said = whole.communicate(timeout=600)[0]
    assert whole.returncode == 0, said
    seconds, expected = time.monotonic() - start, recorded(checkout)
    shutil.rmtree(checkout / "figures")
    shutil.rmtree(checkout / "build" / "mini")

    after = random.SystemRandom().uniform(0.1, 0.95) * seconds
    with run(checkout, "two") as killed:
        with suppress(subprocess.TimeoutExpired):
            killed.wait(after)
        with suppress(psutil.NoSuchProcess):  # by chance it was quicker than the first one
            process = psutil.Process(killed.pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
    again = run(checkout, "two")
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, f"killed after {after:.1f} of {seconds:.1f} s: {said}"
    assert recorded(checkout) == expected, f"killed after {after:.1f} of {seconds:.1f} s"
