"""Who may import whom: the contracts of pyproject.toml hold, and an arrow against them is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packages import copy_package

from xaikit.storage.paths import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(root: Path) -> tuple[int, str]:
    """The exit status and what is printed for the package in `root`."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", LINT], cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold() -> None:
    status, output = lint(ROOT)
    assert status == 0 and "0 broken" in output, output


@pytest.mark.parametrize(
    ("module", "arrow", "broken"),
    [
        ("surgery/matching.py", "from xaikit.datasets import digits", "Methods know no"),
        ("texplain/words.py", "from xaikit.surgery import stages", "Arrows go one way"),
        ("models/hooks.py", "from xaikit.metrics import auc", "Arrows go one way"),
        ("storage/files.py", "from xaikit.storage import cache", "No two modules"),
    ],
)
def test_an_arrow_against_them_is_found(tmp_path: Path, module: str, arrow: str, broken: str) -> None:
    status, output = lint(copy_package(tmp_path, module, arrow))
    found = [line for line in output.splitlines() if " BROKEN" in line]
    assert status != 0 and any(line.startswith(broken) for line in found), output


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest takes a file for a module of that name, and stops at the second."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
