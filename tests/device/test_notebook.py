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


def test_the_small_settings_change_what_the_mini_profile_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("01_caption_driven", "02_texplain", "03_vlm_explanations", "04_clip_decomposition"):
        own = profiles.load("mini", name, 0).as_dict()
        small = notebook.merged(own, notebook.tiny()[name])
        assert small != own and small.keys() == own.keys()
    with pytest.raises(ValueError, match="changes colour, which the mini profile does not have"):
        notebook.merged({"size": 3}, {"colour": 3})
