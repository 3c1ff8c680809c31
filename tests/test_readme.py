"""What README and docs say is so: commands, paths, artefacts and papers are there, and the examples run."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.audit import run as audit_run
from xaikit.companion import accept, download, preflight, references, report, review, run, states
from xaikit.storage.paths import DATA, NOTEBOOKS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", CONTRIBUTING, ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
ALL = "\n".join(PAGES.values())
ARTEFACTS = PAGES[ROOT / "docs" / "artefacts.md"]
LONGEST = 250  # lines of the README
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCK.findall(PAGES[ROOT / "docs" / "methods.md"]) if language == "python"]
SPANS = re.findall(r"`([^`\n]+)`", BLOCK.sub("", ALL))
SHELL = "\n".join(code for language, code in BLOCK.findall(ALL) if not language)
COMMANDS = [re.sub(r"\s+#.*", "", line).split() for line in [*SPANS, *SHELL.splitlines()]]
BUILT = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.py"))


class Row(NamedTuple):
    """A row of the table of artefacts."""

    notebook: str
    artefacts: list[str]
    state: str


ROWS = [
    Row(notebook, re.findall(r"`(\w+)`", artefacts), state)
    for notebook, artefacts, state in re.findall(
        r"^\| `(\d\d_\w+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \|$", ARTEFACTS, re.MULTILINE
    )
]


# ---- commands ----


def targets_named() -> set[str]:
    words = [word for command in COMMANDS if command[:1] == ["make"] for word in command[1:]]
    return {word for word in words if "=" not in word and not word.startswith("-")}


def targets_documented() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_make_target_named_exists():
    assert targets_named() - targets_documented() - set(BUILT) == set()


def test_every_make_target_is_named():
    assert targets_documented() | set(BUILT) <= targets_named()


def test_every_module_run_exists():
    run = [command[command.index("-m") + 1] for command in COMMANDS if "-m" in command]
    assert run
    for module in run:
        assert find_spec(module) is not None, module


def test_the_command_takes_what_it_is_given():
    """Parsed, and not run: an option that is not there, or a value of another type, is an error."""
    shell = [line for language, code in BLOCK.findall(ALL) if not language for line in code.splitlines()]
    lines = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", ALL))] + shell
    found = [re.match(r"(?:\S*/|.* -m )?xaikit ([a-z].*?)(?:\s+#.*)?$", line) for line in lines]
    given = [each[1] for each in found if each]
    group = get_command(app)
    with group.make_context("xaikit", ["run"]) as context:
        for line in given:
            name, command, arguments = group.resolve_command(context, shlex.split(line))
            if arguments:
                command.make_context(name, arguments, parent=context)
    assert {line.split()[0] for line in given} >= {"run", "report", "download", "extract", "train-translator"}


# ---- paths ----


def is_made_by_a_run(path: str) -> bool:
    folders = ("build/", "figures/", "data/downloads", "data/accepted/", ".venv")
    return path.startswith(folders) or path.endswith(".ipynb") or path == "numbers.json"


def paths_named(page: Path) -> list[str]:
    suffixes = (".py", ".toml", ".md", ".yml", ".cff", ".lock", ".json", ".ipynb")
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", PAGES[page]))
    spans = [span for span in spans if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", span)]
    return [span for span in spans if "/" in span or span.endswith(suffixes)]


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    return [link.partition("#")[0] for link in found if not link.startswith(("https:", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_link_of_a_page_leads_somewhere(page: Path):
    for path in paths_named(page) if page.parent != DATA else ():  # that page names files inside of downloads
        places = [folder / path.rstrip("/") for folder in (ROOT, page.parent)]
        there = any(list(place.parent.glob(place.name)) for place in places)
        assert there or is_made_by_a_run(path), path
    for link in links(page):
        target = (page.parent / link).resolve()
        assert is_made_by_a_run(str(target.relative_to(ROOT.resolve()))) or target.exists(), link
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", PAGES[page]), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGES[page])) <= anchors


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.splitlines()) <= LONGEST
    named = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    assert {page.resolve() for page in PAGES} - named == {(ROOT / "README.md").resolve()}


def test_every_picture_and_page_is_of_a_notebook_that_is_here():
    pictures = re.findall(r"!\[[^]]*\]\(figures/mini/(\w+)/(\w+)\.png\)", README)
    audits = [
        picture for picture in re.findall(r"!\[[^]]*\]\((docs/audit/\S+)\)", README) if (ROOT / picture).is_file()
    ]
    assert pictures and README.count("![") == len(pictures) + len(audits)
    for notebook, name in pictures:
        assert name in recorded_artefacts(NOTEBOOKS / f"{notebook}.py"), name
    for page in re.findall(r"notebooks/(\w+)\.ipynb", ALL):
        assert page in BUILT


# ---- artefacts ----


def recorded_artefacts(script: Path) -> set[str]:
    """Names that a notebook hands to `record.figure` and `record.table`, itself or through its own functions."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    calls = {node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    direct = {call for call in calls if ast.unparse(call.func) in ("record.figure", "record.table")}
    helpers, inside = {}, set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        parameters = [argument.arg for argument in function.args.args]
        for call in direct & set(ast.walk(function)):
            if isinstance(call.args[0], ast.Name) and call.args[0].id in parameters:
                helpers[function.name] = parameters.index(call.args[0].id)
                inside.add(call)
    names = [call.args[0] for call in direct - inside]
    names += [call.args[helpers[ast.unparse(call.func)]] for call in calls if ast.unparse(call.func) in helpers]
    claims = {"claims"} if any(ast.unparse(call.func) == "record.decide" for call in calls) else set()
    return {ast.literal_eval(name) for name in names} | claims


def test_artefacts_are_found_in_a_script(tmp_path: Path):
    script = tmp_path / "01_small.py"
    script.write_text(
        "record.figure('fig1', figure)\n"
        "def panels(rows, name):\n    record.figure(name, rows)\n"
        "panels(rows, 'layers')\n"
        "record.table('table1', rows)\n"
    )
    assert recorded_artefacts(script) == {"fig1", "layers", "table1"}
    script.write_text("plots.style_claims(record.decide())\n")
    assert recorded_artefacts(script) == {"claims"}


@pytest.mark.parametrize("notebook", BUILT)
def test_the_table_names_what_a_notebook_records(notebook: str):
    named = [name for row in ROWS if row.notebook == notebook for name in row.artefacts]
    assert sorted(named) == sorted(recorded_artefacts(NOTEBOOKS / f"{notebook}.py"))


MINUTES = re.compile(r"(\| `make [^`|]*` \|) \d+ \|")  # of the table "evaluation"


def test_the_table_has_the_states_of_the_records():
    assert {row.notebook for row in ROWS} == set(BUILT)
    assert all(row.state.count(" · ") == 2 for row in ROWS)
    for name in states.PAGES:
        shown = PAGES[ROOT / name]
        made_here = states.filled(shown)
        if not all(as_accepted(notebook) for notebook in BUILT):  # another machine's digits may give other verdicts
            made_here, shown = (references.REFERENCE.sub("", states.TABLE.sub("", page)) for page in (made_here, shown))
        made_here, shown = (MINUTES.sub(r"\1 – |", page) for page in (made_here, shown))  # of runs here, maybe slower
        assert made_here == shown, "write it anew with: xaikit states"


def test_every_measured_number_of_the_article_is_by_reference():
    """A number with decimals is one that was measured, or printed in a paper, or it is a rule's, told here."""
    rules = {"99.9"}  # per cent, of bands
    prose = BLOCK.sub("", references.REFERENCE.sub("", states.TABLE.sub("", PAGES[ROOT / "docs" / "article.md"])))
    assert set(re.findall(r"\d+[.]\d+", prose)) == rules
    results = README.partition("## Results so far")[2].partition("\n## ")[0]
    assert set(re.findall(r"\d+[.]\d+", references.REFERENCE.sub("", states.TABLE.sub("", results)))) == set()
    assert not re.search(r"^\s*<!-- (number|n|band|published|verdict|count|rows|cell):", ALL, re.MULTILINE), (
        "a line that begins with a mark is none of its paragraph"
    )


def as_accepted(notebook: str) -> bool:
    """Whether the record that lies here is that of the accepted run, to the last digit."""
    record = json.loads((ROOT / "figures" / "mini" / notebook / "numbers.json").read_text(encoding="utf-8"))
    return accept.drift(record, "mini").same


def test_the_lines_for_a_gpu_run_in_a_rehearsal(monkeypatch: pytest.MonkeyPatch):
    block = PAGES[ROOT / "docs" / "gpu.md"].partition("```\n")[2].partition("```")[0]
    assert block in README
    lines = [re.sub(r"\s+#.*", "", line).replace("paper", "rehearsal").split()[1:] for line in block.splitlines()]
    assert [line[0] for line in lines] == ["download", "run", "run"] and "--check" in lines[1]
    started = []
    monkeypatch.setattr(run, "run_notebook", lambda name, profile, **_: started.append((name, profile)))
    for line in lines:
        ran = CliRunner().invoke(app, line)
        assert ran.exit_code == 0, ran.output
    assert started == [("04_clip_decomposition", "rehearsal")]


def calls_of_make(target: str) -> list[list[str]]:
    """What `make` would have the command xaikit do."""
    hidden = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PROFILE", "PYTHON", "TORCH_INDEX")
    variables = {key: value for key, value in os.environ.items() if key not in hidden}
    command = ["make", "--dry-run", "--always-make", target]
    said = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout
    return [shlex.split(call) for call in re.findall(r"-m xaikit ([^&;\n]*)", said)]


def test_the_lines_of_every_door_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """All but what takes long, which is only seen to be called; Python has tests of its own, below."""
    if shutil.which("make") is None:
        pytest.skip("GNU make is not here")
    doors = README.partition("## Find your door\n")[2].partition("\n## ")[0]
    blocks = [code.splitlines() for language, code in BLOCK.findall(doors) if not language]
    assert len(blocks) == 4 and all(0 < len(lines) <= 5 for lines in blocks)
    work = {
        "run_notebooks": (run, []), "report": (report, []), "write": (review, "page"), "execve": (os, None),
        "run_audit": (audit_run, MagicMock(seconds=1.0)), "download": (download, None),
        "check": (preflight, MagicMock(missing=[])),
    }  # fmt: skip
    mocks = {name: MagicMock(return_value=result) for name, (_, result) in work.items()}
    for name, (owner, _) in work.items():
        monkeypatch.setattr(owner, name, mocks[name])
    monkeypatch.chdir(tmp_path)  # where a line that is not replaced writes
    for line in (line for lines in blocks for line in lines):
        program, *arguments = shlex.split(line, comments=True)
        calls = calls_of_make(*arguments) if program == "make" else [arguments]
        assert calls, line
        for call in calls:
            ran = CliRunner().invoke(app, call)
            assert ran.exit_code == 0, (line, ran.output)
    assert all(mock.called for mock in mocks.values()), [name for name, mock in mocks.items() if not mock.called]


# ---- the rest ----


def test_the_papers_are_cited_by_title_and_authors():
    text = " ".join(README.split())
    papers = tomllib.loads((DATA / "published.toml").read_text(encoding="utf-8"))["papers"].values()
    for paper in papers:
        assert f"{', '.join(paper['authors'])}: *{paper['title']}.*" in text
        assert paper.get("url", "") in text


def run_example(number: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
    """What a Python example leaves behind that runs in any folder; there are four."""
    assert len(PYTHON) == 4 and PYTHON[1] in README
    monkeypatch.chdir(folder)
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(PYTHON[number], "README.md", "exec"), names)
    return names


def test_the_example_takes_a_model_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = run_example(1, monkeypatch, tmp_path)
    error, *heads = capsys.readouterr().out.splitlines()
    assert float(error.split(": ")[1]) < 1e-6
    assert len(heads) == names["parts"].attention.shape[2] > 1
    assert names["span"].explained.min() > 0


def test_the_example_perturbs_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names = run_example(2, monkeypatch, tmp_path)
    maps, areas = names["maps"], names["curves"].areas("max")
    assert maps.shape == (4, 64, 64) and 0 <= maps.min() < maps.max() <= 1
    assert areas.shape == (4,) and (areas > 0).all() and (areas <= 1).all()


def test_the_example_explains_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = run_example(0, monkeypatch, tmp_path)
    before, after = names["before"], names["after"]
    images, captions = sum(map(len, names["batches"])), names["captions"]
    for similarity in (before, after):
        assert similarity.shape == (images, len(captions))
        assert similarity.isfinite().all() and similarity.abs().max() <= 1 + 1e-6
    assert (after - before).abs().amax(dim=0).min() > 1e-4, "the surgery changed nothing for some caption"
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == captions


def test_nothing_is_left_to_fill_in():
    assert "@@" not in ALL
