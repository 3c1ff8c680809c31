"""`xaikit score`: where does a method of one's own land on the leaderboard of notebook 05?"""

import os
import runpy
from pathlib import Path

import pandas as pd

from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.importance.interface import METHODS
from xaikit.storage.seeding import seed_for
from xaikit.studies import zoo
from xaikit.studies.which_explanation import Board, asked, row

NOTEBOOK = "05_which_explanation"
SECRET = "XAIKIT_SEALED"  # holds a word of which the seeds of a zoo are made that nobody can tune to


def score(file: Path, profile: str = "mini", seed: int = 0) -> pd.DataFrame:
    """The rows of the methods that `file` registers, of the nulls and of the ceilings, the best first.

    With the variable XAIKIT_SEALED the zoo is another one, made from its value. Raises ValueError for a file that is
    not there, that registers nothing, or with a profile that has no zoo.
    """
    mine = read_methods(file)
    secret = os.environ.get(SECRET, "")
    cfg = profiles.load(profile, NOTEBOOK, seed_for(seed, "sealed", secret) % 2**31 if secret else seed)
    profiles.prepare(seed)
    return _scored(cfg, mine)


def read_methods(file: Path) -> list[str]:
    """Run a file, and name the methods that it has registered."""
    if not file.is_file():
        raise ValueError(f"{file} is not there: give a Python file that registers a method.")
    before = set(METHODS)
    runpy.run_path(str(file))
    if not (found := [name for name in METHODS if name not in before]):
        raise ValueError(f"{file} registers no method: put @method(name, form) above its function.")
    return found


def _scored(cfg: Settings, mine: list[str]) -> pd.DataFrame:
    specs = {spec.name: spec for spec in zoo.specs(cfg)}
    members = zoo.zoo(cfg, list(specs.values()))
    known = zoo.truths(cfg, members)
    others = {name: each for name, each in METHODS.items() if each.form in ("null", "ceiling") and name not in mine}
    own = {name: METHODS[name] for name in mine}
    said = pd.concat([asked(cfg, members, own, kept=False), asked(cfg, members, others)], ignore_index=True)
    board = Board(said, known, specs, cfg.uses, cfg.ignores, cfg.apart)
    rows = [row(board, name, *board.beyond_nulls(name)) for name in board.methods]
    return pd.DataFrame(rows).sort_values("rank", ascending=False, ignore_index=True)
