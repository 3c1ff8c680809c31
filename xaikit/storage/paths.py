"""Where things lie in a checkout; methods never import this module."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
FIGURES = ROOT / "figures"
DATA = ROOT / "data"
WEIGHTS = DATA / "weights"
NOTEBOOKS = ROOT / "notebooks"
CACHE = Path(os.environ.get("XAIKIT_CACHE", BUILD / "cache"))
DATASETS = Path(os.environ.get("XAIKIT_DATA", DATA / "downloads"))
