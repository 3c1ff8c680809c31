"""Where things lie: in a checkout beside the package, else within it and in the current folder; no method asks."""

import os
from pathlib import Path


def shipped(root: Path) -> Path:
    """Where notebooks/, data/ and requirements.lock are, of the xaikit that lies in `root`.

    In a checkout that is `root` itself; what was installed from a wheel has them within the package.
    """
    within = root / "xaikit" / "shipped"
    return within if within.is_dir() else root


def workplace(root: Path) -> Path:
    """Where build/, figures/ and data/downloads/ are written: in a checkout `root` itself, else the current folder."""
    return root if shipped(root) == root else Path.cwd()


def must_be_checkout(root: Path, what: str) -> None:
    """Raise RuntimeError, saying `what` asks for one, if the xaikit in `root` was installed from a wheel."""
    if shipped(root) != root:
        raise RuntimeError(f"{what} only in a checkout: clone the repository and do it there.")


ROOT = Path(__file__).resolve().parents[2]
BUILD = workplace(ROOT) / "build"
FIGURES = workplace(ROOT) / "figures"
DATA = shipped(ROOT) / "data"
WEIGHTS = DATA / "weights"
NOTEBOOKS = shipped(ROOT) / "notebooks"
CACHE = Path(os.environ.get("XAIKIT_CACHE", BUILD / "cache"))
SHARED_CACHE = Path(os.environ["XAIKIT_CACHE_SHARED"]) if os.environ.get("XAIKIT_CACHE_SHARED") else None
DATASETS = Path(os.environ.get("XAIKIT_DATA", workplace(ROOT) / "data" / "downloads"))
