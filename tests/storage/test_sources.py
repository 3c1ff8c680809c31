from pathlib import Path

import pytest
from packages import write_files

from xaikit.storage import sources
from xaikit.storage.sources import Cell


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
        ("notebooks/01_x.py", "a.run()", "a.other()"),
        ("notebooks/01_x.py", "seed = 0", "seed = 1"),
        ("notebooks/01_x.py", 'tags=["parameters"]', ""),
        ("notebooks/01_x.py", "a.run()\n", "a.run()\n# %%\n"),  # shows what this call gives
        ("notebooks/01_x.py", "%matplotlib inline", "%matplotlib agg"),
        ("notebooks/01_x.py", "%matplotlib inline", "%%capture\n%matplotlib inline"),
        ("notebooks/01_x.py", "!ls", "files = !ls"),
        ("notebooks/01_x.py", "a.run(seed)", "a.run(seed )#\n0"),
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


def test_exercises_count_for_nothing_and_any_other_tag_does(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    script = root / "notebooks" / "01_x.py"
    text = script.read_text()
    for tag in ("given", "exercise", "check", "hint", "solution", "wrong"):
        script.write_text(f'{text}\n# %% tags=["{tag}"]\n1 / 0\n')
        assert sources.notebook_source("01_x", "mini", root) == before, tag
    for tags in ('["folded"]', "[]"):
        script.write_text(f"{text}\n# %% tags={tags}\n1 / 0\n")
        assert sources.notebook_source("01_x", "mini", root) != before, tags


def test_imports_in_a_cell_of_their_own_count_by_what_uses_them(root: Path) -> None:
    before = sources.notebook_source("01_x", "mini", root)
    script = root / "notebooks" / "01_x.py"
    edit(script, "# %%\n%matplotlib", "# %%\nimport math\n\nfrom xaikit import c  # unused\n\n# %%\n%matplotlib")
    assert sources.notebook_source("01_x", "mini", root) == before
    edit(script, "import xaikit.a as a\n", "")
    edit(script, "import math\n", "import xaikit.a as a\n")
    assert sources.notebook_source("01_x", "mini", root) == before
    edit(script, "import xaikit.a as a\n", "import xaikit.c as a\n")
    assert sources.notebook_source("01_x", "mini", root) != before


OTHER_HEADERS = {
    "of another jupytext": """# -*- coding: utf-8 -*-
# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '9.9'
#       jupytext_version: 99.1
#   kernelspec:
#     name: python3
# ---
""",
    "of another format": "# ---\n# jupyter:\n#   jupytext:\n#     text_representation: {format_name: light}\n# ---\n",
    "none": "",
    "not to be parsed": "# ---\n# jupyter: [\n# ---\n",
}
HEADER, BODY = SCRIPT[: SCRIPT.index("\n# %%")], SCRIPT[SCRIPT.index("\n# %%") :]
PROSE = "# %% [markdown]\n# # A title\n"
SAME = {
    **{f"header {what}": header + BODY for what, header in OTHER_HEADERS.items()},
    "a byte order mark": "\ufeff" + SCRIPT,
    "CRLF": SCRIPT.replace("\n", "\r\n"),
    "CR": SCRIPT.replace("\n", "\r"),
    "no last line end": SCRIPT.rstrip("\n"),
    "blank lines at the end": SCRIPT + "\n\n  \n",
    "blank lines before cells": SCRIPT.replace("\n# %%", "\n\n\n# %%"),
    "an empty cell at the end": SCRIPT + "\n# %%\n",
    "a cell of comments": SCRIPT + "\n# %%\n# what is left to do\n",
    "prose": SCRIPT.replace("A title", "Another title"),
    "more prose": SCRIPT.replace(PROSE, f"{PROSE}\n{PROSE}"),
    "no prose": SCRIPT.replace(PROSE, ""),
    "prose in quotes": SCRIPT.replace(PROSE, '# %% [markdown]\n"""\n# A title\n"""\n'),
    "prose in other quotes": SCRIPT.replace(PROSE, "# %% [md]\nr'''\n# A title\n'''\n"),
    "a raw cell": SCRIPT.replace(PROSE, "# %% [raw]\n# A title\n"),
    "ids and metadata": SCRIPT.replace("%% tags", '%% id="4f" collapsed=true jupyter={"x": 1} tags'),
    "tags as JSON": SCRIPT.replace('tags=["parameters"]', '{"tags": ["parameters"], "id": "4f"}'),
    "a title of a cell": SCRIPT.replace('# %% tags', '# %% The parameters tags'),
    "magics as comments": SCRIPT.replace("%matplotlib", "# %matplotlib").replace("!ls", "# !ls"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_a_notebook_is_its_cells(root: Path, what: str) -> None:
    """However Jupyter, jupytext or an editor writes them down."""
    before = sources.notebook_source("01_x", "mini", root)
    assert SAME[what] != SCRIPT
    (root / "notebooks" / "01_x.py").write_bytes(SAME[what].encode())
    assert sources.notebook_source("01_x", "mini", root) == before


def test_the_order_of_tags_does_not_count(root: Path) -> None:
    script, found = root / "notebooks" / "01_x.py", []
    for tags in ('["parameters", "hide"]', '["hide", "parameters"]', '["hide"]'):
        script.write_text(SCRIPT.replace('["parameters"]', tags))
        found.append(sources.notebook_source("01_x", "mini", root))
    assert found[0] == found[1] != found[2]


def test_cells_are_those_of_jupytext_and_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = root / "notebooks" / "01_x.py"
    expected = [
        Cell("markdown", "# A title", ()),
        Cell("code", "seed = 0", ("parameters",)),
        Cell("code", "%matplotlib inline\n!ls\nimport xaikit.a as a", ()),
        Cell("code", "# A comment.\na.run()\na.run(seed)", ()),
    ]
    assert sources.cells(script, root) == expected
    assert not (root / "build").exists()  # where nothing was run nothing is written
    (root / "build").mkdir()
    sources.cells(script, root)
    monkeypatch.setattr(sources, "_parsed", lambda *given: pytest.fail("it was read again"))
    assert sources.cells(script, root) == expected
    monkeypatch.undo()
    edit(script, "A title", "Another title")
    assert sources.cells(script, root)[0].source == "# Another title"
    (root / "build" / "cells" / "01_x.json").write_text("{")
    assert sources.cells(script, root)[0].source == "# Another title"


def test_code_below_a_cell_magic_counts_with_what_it_reaches(root: Path) -> None:
    edit(root / "notebooks" / "01_x.py", "# A comment.", "%%time")
    before = sources.notebook_source("01_x", "mini", root)
    edit(root / "xaikit" / "c.py", "return 1", "return 2")
    assert sources.notebook_source("01_x", "mini", root) != before


def test_a_cell_of_another_language_is_its_text(root: Path) -> None:
    script, found = root / "notebooks" / "01_x.py", []
    for line in ("ls -l | wc", "ls -a | wc"):
        script.write_text(SCRIPT + f"\n# %%\n%%bash\n{line}\n")
        found.append(sources.notebook_source("01_x", "mini", root))
    assert found[0] != found[1]


def test_a_cell_that_is_no_python_is_named(root: Path) -> None:
    edit(root / "notebooks" / "01_x.py", "a.run(seed)", "a.run(seed")
    with pytest.raises(SyntaxError, match=r"01_x\.py, in the cell that begins '# A comment\.': .*never closed"):
        sources.notebook_source("01_x", "mini", root)
    (root / "notebooks" / "01_x.py").write_text(SCRIPT.replace('["parameters"]', '["twice", "twice"]'))
    with pytest.raises(SyntaxError, match=r"01_x\.py is no notebook: .*'twice'.* has non-unique elements"):
        sources.notebook_source("01_x", "mini", root)


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
