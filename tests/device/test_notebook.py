"""The runner of notebooks for devices: sections, seconds, what fails, and settings that are not there."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import notebook
import pytest

from xaikit.companion import profiles
from xaikit.storage import paths

SCRIPT = """# %% tags=["parameters"]
profile = "mini"

# %% [markdown]
# # One
# %%
assert profile == "paper"
kept = [1]
# %% [markdown]
# ## Two
# %%
kept[1]
# %%
kept.append(2)
"""


def test_cells_run_in_order_and_what_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.py").write_text(SCRIPT)
    for owner, name in ((notebook, "ROOT"), (plt, "show"), (paths, "CACHE")):
        monkeypatch.setattr(owner, name, tmp_path if name == "ROOT" else getattr(owner, name))
    monkeypatch.setenv("XAIKIT_OUT", "")
    (failed,) = notebook.run("01_x", tmp_path / "out", profile="paper", keep_going=True)
    assert failed.startswith("Two: IndexError: list index out of range") and failed.endswith("line 1: kept[1])")
    assert json.loads((tmp_path / "out" / "seconds.json").read_text()).keys() == {"the start", "One", "Two"}
    with pytest.raises(IndexError):
        notebook.run("01_x", tmp_path / "out", profile="paper")
    with pytest.raises(AssertionError):
        notebook.run("01_x", tmp_path / "out")


def test_a_notebook_is_given_the_smallest_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    own = profiles.load("mini", "03_vlm_explanations", 0)
    monkeypatch.setattr(profiles, "load", profiles.load)  # as it was, when this test is over
    notebook.make_tiny()
    small = profiles.load("mini", "03_vlm_explanations", 0)
    assert own.keys() <= small.keys() and small.explained < own.explained
