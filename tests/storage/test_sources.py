from pathlib import Path

import pytest
from packages import write_files

from xaikit.storage import sources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "xaikit/__init__.py": "",
        "xaikit/a.py": "from xaikit.deep.inner import f\ndef run(): return f()\ndef other(): pass\n",
        "xaikit/unused.py": "x = 1\n",
        "xaikit/deep/__init__.py": "",
        "xaikit/deep/inner.py": "from ..c import g\ndef f():\n    from .lazy import h\n    return g() + h()\n",
        "xaikit/deep/lazy.py": "def h(): return 1\n",
        "xaikit/c.py": "def g(): return 1\n",
        "xaikit/companion/profiles/mini.toml": '[01_x]\nclip = { weights = "tiny" }\n',
        "notebooks/01_x.py": SCRIPT,
        "data/weights/tiny/model.safetensors": "weights",
        "data/weights/tiny/deep/config.json": "{}",
        "data/weights/tiny/card.json": "{}",
        "requirements.lock": "torch==1\n",
    }
    return write_files(tmp_path, files)


SCRIPT = """# ---
# jupyter: of Jupytext
# ---

# %% [markdown]
# # A title

# %% tags=["parameters"]
seed = 0

# %%
%matplotlib inline
!ls
import xaikit.a as a

# %%
# A comment.
a.run()
a.run(seed)
"""


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("notebooks/01_x.py", "# # A title", "# # Another title"),
        ("notebooks/01_x.py", "a.run()", "a.other()"),
        ("notebooks/01_x.py", "seed = 0", "seed = 1"),
        ("notebooks/01_x.py", 'tags=["parameters"]', ""),
        ("notebooks/01_x.py", "a.run()\n", "a.run()\n# %%\n"),  # shows what this call gives
        ("notebooks/01_x.py", "%matplotlib inline", "%matplotlib agg"),
        ("xaikit/a.py", "return f()", "return f() + 1"),
        ("xaikit/deep/lazy.py", "return 1", "return 2"),
        ("xaikit/c.py", "def g", "print()\ndef g"),
        ("xaikit/companion/profiles/mini.toml", "[01_x]", "[01_x]\nxyz = 1"),
        ("xaikit/companion/profiles/mini.toml", "[01_x]", "[common]\nxyz = 1\n[01_x]"),
        ("requirements.lock", "torch==1", "torch==2"),
        ("data/weights/tiny/model.safetensors", "weights", "others"),
        ("data/weights/tiny/deep/config.json", "{}", "[]"),
    ],
)
def test_notebook_source_changes_with_each_input(root: Path, file: str, old: str, new: str) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    edit(root / file, old, new)
    assert sources.notebook_source("01_x", "mini", root) != before


def test_notebook_source_ignores_what_the_notebook_does_not_use(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    (root / "xaikit" / "unused.py").write_text("x = 2\n")
    edit(root / "xaikit" / "a.py", "def other(): pass", "def other(): return 7")
    edit(root / "xaikit" / "c.py", "def g", "import math  # a comment\ndef g")
    with (root / "xaikit" / "companion" / "profiles" / "mini.toml").open("a") as text:
        text.write("# a comment\n[02_y]\nclip = { weights = 'other' }\n")
    (root / "data" / "weights" / "other").mkdir()
    (root / "data" / "weights" / "other" / "model.safetensors").write_text("")
    (root / "data" / "weights" / "tiny" / "card.json").write_text("{'a': 1}")
    edit(root / "notebooks" / "01_x.py", "# A comment.", "# Another comment.")
    edit(root / "notebooks" / "01_x.py", "jupyter: of Jupytext", "jupyter: of another Jupytext")
    assert sources.notebook_source("01_x", "mini", root) == before


def test_notebook_source_stays_when_code_moves(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    (root / "xaikit" / "a.py").rename(root / "xaikit" / "deep" / "moved.py")
    edit(root / "notebooks" / "01_x.py", "import xaikit.a as a", "from xaikit.deep import moved as a")
    assert sources.notebook_source("01_x", "mini", root) == before


def test_weights_that_are_missing_are_named(root: Path) -> None:
    edit(root / "xaikit" / "companion" / "profiles" / "mini.toml", "tiny", "large")
    with pytest.raises(FileNotFoundError, match="large is missing; run `make models`"):
        sources.notebook_source("01_x", "mini", root)


def test_the_hash_of_weights_is_of_every_file_but_the_card(root: Path) -> None:
    folder = root / "data" / "weights" / "tiny"
    found = [sources.weights_hash(folder)]
    for change in (
        lambda: (folder / "deep" / "config.json").write_text("[]"),
        lambda: (folder / "model.safetensors").rename(folder / "other.safetensors"),
        lambda: (folder / "tokenizer.json").write_text("{}"),
        lambda: (folder / "deep" / "card.json").write_text("{}"),
    ):
        change()
        found.append(sources.weights_hash(folder))
    assert len(set(found)) == 5
    (folder / "card.json").unlink()
    (folder / ".DS_Store").write_text("")
    assert sources.weights_hash(folder) == found[-1]
    assert sources.weights_hash(folder.rename(root / "elsewhere")) == found[-1]


def test_text_hash_knows_which_file_is_which(tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("1"), files[1].write_text("2")
    before = sources.text_hash(files, tmp_path)
    assert before == sources.text_hash(files[::-1], tmp_path)
    files[0].write_text("2"), files[1].write_text("1")
    assert before != sources.text_hash(files, tmp_path)
