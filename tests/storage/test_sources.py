import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xaikit.storage import sources
from xaikit.storage.paths import ROOT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "xaikit/__init__.py": "",
        "xaikit/a.py": "from xaikit import b\nfrom xaikit.deep.inner import f\n",
        "xaikit/b.py": "import math\n",
        "xaikit/unused.py": "x = 1\n",
        "xaikit/deep/__init__.py": "from . import beside\n",
        "xaikit/deep/inner.py": "from ..c import g\ndef f():\n    from .lazy import h\n",
        "xaikit/deep/beside.py": "import xaikit.a\n",
        "xaikit/deep/lazy.py": "",
        "xaikit/c.py": "",
        "xaikit/companion/profiles/mini.toml": '[01_x]\nclip = { weights = "tiny" }\n',
        "notebooks/01_x.py": "# %%\n%matplotlib inline\n!ls\nimport xaikit.a as a\n",
        "data/weights/tiny/model.safetensors": "weights",
        "requirements.lock": "torch==1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_are_reached_through_every_kind_of_import(root: Path) -> None:
    reached = sources.modules_reached(root / "notebooks" / "01_x.py", root)
    names = [path.relative_to(root / "xaikit").as_posix() for path in reached]
    assert names == sorted(
        [
            "__init__.py",
            "a.py",
            "b.py",
            "c.py",
            "deep/__init__.py",
            "deep/inner.py",
            "deep/beside.py",
            "deep/lazy.py",
        ]
    )


def test_a_module_reaches_itself_and_its_packages(root: Path) -> None:
    reached = sources.modules_reached(root / "xaikit" / "deep" / "lazy.py", root)
    assert root / "xaikit" / "deep" / "lazy.py" in reached
    assert root / "xaikit" / "deep" / "__init__.py" in reached
    assert root / "xaikit" / "unused.py" not in reached


def test_static_reach_covers_what_python_really_loads() -> None:
    """The slow, obvious reference: import the module in a fresh interpreter and see what it loaded."""
    show = (
        "import sys, xaikit.companion.record; "
        "print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'xaikit'])"
    )
    ran = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(file) for file in ran.stdout.split()}
    assert loaded and loaded <= set(sources.modules_reached(ROOT / "xaikit" / "companion" / "record.py"))


BASE = '''
"""A module."""
import math

def area(radius: float, *, scale=1.0, **rest) -> float:
    """The area."""
    # pi r squared
    return scale * math.pi * radius ** 2 if rest else {**rest, "a": f"{radius!r:>{3}}"}
'''
SAME = """
import math
def area(radius: float, *,
         scale=1.0, **rest) -> float:
    return (scale * math.pi * radius**2) if rest else {**rest, 'a': f"{radius!r:>{3}}"}
"""


def _code(path: Path, text: str) -> str:
    path.write_text(text)
    return sources.code_hash([path], path.parent)


def test_code_hash_ignores_comments_docstrings_and_format(tmp_path: Path) -> None:
    assert _code(tmp_path / "m.py", BASE) == _code(tmp_path / "m.py", SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("** 2", "** 3"),
        ("scale=1.0", "scale=1"),
        ('"a"', '"b"'),
        ("{**rest, ", "{"),
        ("!r", "!s"),
        ("*, ", ""),
    ],
)
def test_code_hash_sees_every_change_of_meaning(tmp_path: Path, old: str, new: str) -> None:
    assert old in BASE
    assert _code(tmp_path / "m.py", BASE) != _code(tmp_path / "m.py", BASE.replace(old, new))


def test_code_hash_is_the_same_on_every_python(tmp_path: Path) -> None:
    """The value is written down, so that another Python version that gave another one would fail here."""
    text = textwrap.dedent(BASE) + "x: int = -1\nlabel = f'{x=}' 'b' u'c'\nd = b'd'\nmatch x:\n  case None: pass\n"
    assert _code(tmp_path / "m.py", text) == "6389a3da65fd6c12547e16cf1e2132e0cfdc2b9aa5104920890bd6633c3e3b9d"


def test_code_hash_knows_which_file_is_which(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("x = 2\n")
    before = sources.code_hash([tmp_path / "a.py", tmp_path / "b.py"], tmp_path)
    assert before == sources.code_hash([tmp_path / "b.py", tmp_path / "a.py"], tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    (tmp_path / "b.py").write_text("x = 1\n")
    assert before != sources.code_hash([tmp_path / "a.py", tmp_path / "b.py"], tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "notebooks/01_x.py",
        "xaikit/deep/lazy.py",
        "xaikit/companion/profiles/mini.toml",
        "requirements.lock",
        "data/weights/tiny/model.safetensors",
    ],
)
def test_notebook_source_changes_with_each_input(root: Path, file: str) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    with (root / file).open("a") as text:
        text.write("\nxyz = 1\n")  # in a profile: a setting of the notebook's own table
    assert sources.notebook_source("01_x", "mini", root) != before


def test_notebook_source_ignores_what_the_notebook_does_not_use(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    (root / "xaikit" / "unused.py").write_text("x = 2\n")
    (root / "xaikit" / "b.py").write_text("import math  # a comment\n")
    with (root / "xaikit" / "companion" / "profiles" / "mini.toml").open("a") as text:
        text.write("# a comment\n[02_y]\nclip = { weights = 'other' }\n")
    (root / "data" / "weights" / "other").mkdir()
    (root / "data" / "weights" / "other" / "model.safetensors").write_text("")
    assert sources.notebook_source("01_x", "mini", root) == before


def test_notebook_source_changes_with_the_common_settings(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    with (root / "xaikit" / "companion" / "profiles" / "mini.toml").open("a") as text:
        text.write("[common]\nxyz = 1\n")
    assert sources.notebook_source("01_x", "mini", root) != before
