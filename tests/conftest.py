"""Fixtures that several tests share."""

import shutil
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import xaikit.arguments  # noqa: F401 - as users have it: the hook would check each step of its checks

# Shapes and types of all calls are checked. (Its option for pytest refuses a package of which a module is loaded.)
install_import_hook("xaikit", "beartype.beartype")

from small_notebook import NOTEBOOK  # noqa: E402

from xaikit.storage import arithmetic, paths  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves anything in the checkout's cache, or finds anything there."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("XAIKIT_OUT", raising=False)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that ship were trained in bfloat16 where a CPU has it. Tests must not depend on that, nor wait for it:
    without AVX-512, as the portable arithmetic has it, libraries emulate it."""
    for name in ("captioner", "clip_vit_mini", "generator"):
        if module := sys.modules.get(f"xaikit.models.{name}"):
            monkeypatch.setattr(module, "training_precision", arithmetic.training_precision)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in small: this package, one notebook that runs in a second, and a profile for it."""
    root = tmp_path / "checkout"
    shutil.copytree(paths.ROOT / "xaikit", root / "xaikit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "data", "build", "xaikit/companion/profiles"):
        (root / folder).mkdir(exist_ok=True)
    (root / "notebooks" / "01_small.py").write_text(NOTEBOOK)
    (root / "requirements.lock").write_text("numpy==2.0.0\n")
    (root / "xaikit" / "companion" / "profiles" / "mini.toml").write_text("[01_small]\nimages = 3\n")
    (root / "xaikit" / "companion" / "profiles" / "paper.toml").write_text("[01_small]\nimages = 300\n")
    return root
