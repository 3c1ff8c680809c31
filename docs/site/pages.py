"""Gather what the site is made of: the pages as they lie in the repository, and those that follow from data.

    python docs/site/pages.py build/site-source

README, docs/, notebooks/ and what they link to keep their places, so that a relative link leads to the same thing on
the site as in the repository. Beside them stand a gallery of all figures, the leaderboard, an API page for each public
folder, and a glossary that says where its terms are used. It needs nothing but Python.
"""

import ast
import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent, indent
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).resolve().parent
PACKAGE = ROOT / "xaikit"
PROFILES = ("mini", "full")  # those whose results are committed
FOLDERS = ("surgery", "texplain", "perturbation", "decomposition", "saliency", "metrics", "importance", "audit",
           "models", "datasets", "world")  # fmt: skip
LEADERBOARD = ROOT / "figures" / "full" / "05_which_explanation" / "leaderboard.csv"
GLOSSARY = ROOT / "docs" / "glossary.md"
TERM = re.compile(r"^- \*\*(?P<term>[^*]+)\*\*: (?P<meaning>.+?)(?=\n- |\n\n|\Z)", re.MULTILINE | re.DOTALL)
SOLUTIONS = {"solution", "wrong"}
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
MOST_USES = 4  # pages named under a term


# ---- what lies in the repository ----


def documents() -> list[Path]:
    """Every page of the repository: Markdown and executed notebooks, in the places that they keep."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "data" / "README.md"]
    return [*pages, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]


def shown(cells: list[dict]) -> list[dict]:
    """The cells of a notebook without solutions, right and wrong, which `xaikit course` writes for teachers."""
    return [cell for cell in cells if not SOLUTIONS & {*cell["metadata"].get("tags", ())}]


@cache
def prose(document: Path) -> str:
    """The Markdown of a page; of a notebook that of its cells."""
    text = document.read_text(encoding="utf-8")
    if document.suffix != ".ipynb":
        return text
    cells = [cell for cell in shown(json.loads(text)["cells"]) if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def title(document: Path) -> str:
    """A page's first heading; that of the README is the project's name."""
    if document.name == "README.md" and document.parent == ROOT:
        return "README"
    found = re.search(r"^# (.+)$", prose(document), re.MULTILINE)
    return found[1] if found else document.stem


def links(document: Path) -> list[Path]:
    """What a page links to in the repository; whether it is there is another question."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", prose(document), flags=re.MULTILINE | re.DOTALL)
    targets = [unquote(link).partition("#")[0] for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link)]
    return [(document.parent / target).resolve() for target in targets]


# ---- figures and the leaderboard ----


@dataclass(frozen=True)
class Figure:
    """A figure of a committed run."""

    name: str
    item: str
    alt: str
    files: tuple[Path, ...]  # the picture, for print, and the table of what it shows where there is one


@dataclass(frozen=True)
class Run:
    """A committed run of a notebook: its figures, and the tables that have none."""

    notebook: str
    profile: str
    figures: tuple[Figure, ...]
    tables: tuple[Path, ...]


def runs() -> list[Run]:
    """All committed runs, notebook by notebook."""
    names = sorted({path.name for path in (ROOT / "figures").glob("*/*")})
    found = [ROOT / "figures" / profile / name / "numbers.json" for name in names for profile in PROFILES]
    return [_run(path) for path in found if path.is_file()]


def _run(path: Path) -> Run:
    record, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
    there = set(record["artefacts"])
    figures = [
        Figure(name, shown["item"], shown["alt"], _files(folder, name, there))
        for name, shown in record["shown"].items()
        if "alt" in shown
    ]
    drawn = {figure.name for figure in figures}
    tables = [folder / file for file in sorted(there) if file.endswith(".csv") and file[:-4] not in drawn]
    return Run(record["notebook"], record["profile"], tuple(figures), tuple(tables))


def _files(folder: Path, name: str, there: set[str]) -> tuple[Path, ...]:
    return tuple(folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv") if f"{name}.{kind}" in there)


def gallery() -> str:
    """Every figure of the committed runs with its alt text, its file for print and its values."""
    parts = [
        "# Gallery",
        "Every figure of the committed runs, in the order of the notebooks, with what is to be seen on it in words. "
        "Beside each stand the file for print, and the numbers as a table where there is one.",
    ]
    for run in runs():
        page = ROOT / "notebooks" / f"{run.notebook}.ipynb"
        parts += [f"## {title(page)}" + ("" if run.profile == "mini" else f", profile `{run.profile}`")]
        parts += [f"From [notebook {run.notebook[:2]}]({_address(page)})."]
        parts += [_figure(figure) for figure in run.figures]
        tables = ", ".join(f"[{file.stem}]({_address(file)})" for file in run.tables)
        parts += [f"Tables without a figure: {tables}."] if tables else []
    return "\n\n".join(parts) + "\n"


def _figure(figure: Figure) -> str:
    picture, *others = figure.files
    kinds = {".pdf": "for print", ".csv": "as a table"}
    more = " · ".join(f"[{kinds[file.suffix]}]({_address(file)})" for file in others)
    caption = f"**{figure.item}** (`{figure.name}`). {figure.alt} {more}"
    return f"```{{figure}} {_address(picture)}\n:alt: {json.dumps(figure.alt, ensure_ascii=False)}\n\n{caption}\n```"


def _address(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def leaderboard() -> str:
    """The table of notebook 05 in the profile full, every method with its form and its interval."""
    with LEADERBOARD.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    head = ("method", "form", "rank correlation", "beyond the best null", "false alarms", "seconds")
    lines = [_row(head), "|---|---|---|---|--:|--:|"]
    for row in rows:
        intervals = [_interval(row, *columns) for columns in (("rank", "rank"), ("beyond it", "beyond"))]
        cells = (row["method"], row["form"], *intervals, _number(row["false alarms"]), row["seconds"] or "–")
        lines.append(_row(cells))
    text = f"""
    # The ranking of explanations

    Which explanation tells what a classifier uses? Every method gives one number a factor; what is used is known by
    redrawing. *Rank correlation* is with that, over the factors of a classifier, with its 95 % interval over tasks;
    *beyond the best null* how much better it is than the best of what never sees the model. A method **explains** where
    that interval lies above 0. *False alarms* is the share of ignored factors that it calls used, and *seconds* is what
    one classifier takes.

    From [notebook 05](notebooks/05_which_explanation.ipynb), profile `full`
    ([as a file]({_address(LEADERBOARD)})); [how to add a method](docs/leaderboard.md).
    """
    return f"{dedent(text).strip()}\n\n" + "\n".join(lines) + "\n"


def _interval(row: dict[str, str], value: str, ends: str) -> str:
    low, high = row[f"{ends} low"], row[f"{ends} high"]
    return f"{_number(row[value])} [{_number(low)}, {_number(high)}]" if low else _number(row[value])


def _number(text: str) -> str:
    return f"{float(text):.2f}" if text else "–"


# ---- the glossary ----


def terms() -> dict[str, str]:
    """The terms of docs/glossary.md and what they mean."""
    found = [(match["term"], re.sub(r"\n +", "\n", match["meaning"])) for match in TERM.finditer(prose(GLOSSARY))]
    if len(found) != len(dict(found)):
        raise ValueError(f"A term stands twice in {_address(GLOSSARY)}: join its two meanings.")
    return dict(found)


def uses(term: str) -> list[Path]:
    """The pages that use a term, in any of its names ("CAM, class activation map"), as singular or plural."""
    names = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in term.split(", "))
    pattern = re.compile(rf"(?<![\w-])(?:{names})(?:s|es)?(?![\w-])", re.IGNORECASE)
    others = [page for page in documents() if page != GLOSSARY]
    return sorted((page for page in others if pattern.search(prose(page))), key=lambda page: page.suffix != ".ipynb")


def glossary() -> str:
    """The glossary, in which every term has an address of its own and names pages that use it."""

    def entry(term: str, meaning: str) -> str:
        places = [(title(page), os.path.relpath(page, GLOSSARY.parent)) for page in uses(term)[:MOST_USES]]
        seen = ", ".join(f"[{name}]({place})" for name, place in places)
        return "\n".join([*term.split(", "), indent(f"{meaning}\n\n*Used in* {seen}.", "  ")])

    known = terms()
    block = "\n\n".join(entry(term, known[term]) for term in sorted(known, key=str.casefold))
    before = prose(GLOSSARY).partition("\n- **")[0]
    return f"{before.strip()}\n\n````{{glossary}}\n{block}\n````\n"


# ---- the API ----


@dataclass(frozen=True)
class Name:
    """A public name of a folder, and the module that defines it."""

    module: str
    name: str
    kind: str  # class, function, data or module

    @property
    def path(self) -> str:
        """Its name with that of the module."""
        return f"xaikit.{self.module}.{self.name}"

    @property
    def folder(self) -> str:
        """The folder of that module."""
        return self.module.partition(".")[0]

    @property
    def directive(self) -> str:
        """What describes it."""
        lines = [f".. autoapi{self.kind}:: {self.path}"]
        return "\n".join([*lines, "   :members:", "   :member-order: bysource"] if self.kind == "class" else lines)


def public(folder: str) -> list[Name]:
    """The public names of a folder in the order of its modules, and in theirs."""
    init = next(path for kind in ("pyi", "py") if (path := PACKAGE / folder / f"__init__.{kind}").is_file())
    found = []
    for node in _tree(init).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("xaikit")):
            module = (node.module or "").removeprefix("xaikit.") if not node.level else f"{folder}.{node.module}"
            found += [Name(module, alias.name, _kind(module, alias.name)) for alias in node.names]
    return sorted(found, key=lambda each: (each.module, _line(each)))


def _kind(module: str, name: str) -> str:
    if _file(f"{module}.{name}").is_file():
        return "module"
    kinds = {ast.ClassDef: "class", ast.FunctionDef: "function"}
    return next((kinds[type(node)] for node in _defined(module) if getattr(node, "name", "") == name), "data")


def _defined(module: str) -> list[ast.stmt]:
    return _tree(_file(module)).body


def _file(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def _line(each: Name) -> int:
    if each.kind == "module":
        return 0
    return next((node.lineno for node in _defined(each.module) if getattr(node, "name", "") == each.name), 0)


def arguments(path: str) -> set[str]:
    """What the function, method or class of that path takes or holds, by the names; of a module nothing."""
    outer, _, name = path.rpartition(".")
    if not outer:
        return set()
    if not (file := _file(outer.removeprefix("xaikit."))).is_file():
        return arguments(outer)  # a method: what its class holds
    here = [node for node in _tree(file).body if getattr(node, "name", "") == name]
    inner = [each for node in here for each in ast.walk(node)]
    return {each.arg for each in inner if isinstance(each, ast.arg)} | {
        each.target.id for each in inner if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def said_of(file: Path) -> str:
    """The docstring of a module, as Markdown."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or r"\<", ast.get_docstring(_tree(file)) or "")


def registered(module: str) -> list[tuple[str, str, str]]:
    """The methods that a module of `importance` registers: name, form, and what its number is."""
    found = []
    for node in _defined(module):
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "method":
                name, form = (ast.literal_eval(argument) for argument in call.args)
                found.append((name, form, (ast.get_docstring(node) or "").partition("\n")[0]))
    return found


def api(folder: str) -> str:
    """A folder's page: written by hand, with functions where it says so, or made of what its modules say."""
    page = SITE / "api" / f"{folder}.md"
    names = {f"{each.module.partition('.')[2]}.{each.name}": each for each in public(folder)}
    if page.is_file():
        return re.sub(
            r"^<!-- names: (.+?) -->$", lambda found: _block([names[each] for each in found[1].split()]),
            page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL,
        )  # fmt: skip
    first, _, rest = said_of(PACKAGE / folder / "__init__.py").partition("\n")
    parts = [f"# `xaikit.{folder}`", first, rest.strip()]
    for module in dict.fromkeys(each.module for each in names.values() if each.kind != "module"):
        here = [each for each in names.values() if each.module == module]
        parts += [_section(module), _block(here)]
    for each in names.values():
        if each.kind == "module":
            module = f"{each.module}.{each.name}"
            parts.append(_section(module))
            if rows := registered(module):
                parts.append("\n".join(["| method | form | its number |", "|---|---|---|", *map(_row, rows)]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(module: str) -> str:
    name = module.rpartition(".")[2]
    return f"## `{name}`\n\n{said_of(_file(module))}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _block(names: list[Name]) -> str:
    return "\n".join(["```{eval-rst}", *("\n" + each.directive for each in names), "```"])


def api_index() -> str:
    """What the folders are, in a line each."""
    rows = [f"| [`xaikit.{each}`]({each}.md) | {said_of(PACKAGE / each / '__init__.py').partition(chr(10))[0]} |"
            for each in FOLDERS]  # fmt: skip
    text = (SITE / "api" / "index.md").read_text(encoding="utf-8")
    return text.replace("<!-- folders -->", "\n".join(["| folder | what |", "|---|---|", *rows]))


# ---- all of it ----


def unlisted(index: str) -> list[str]:
    """The pages that no table of contents of the index names, notebooks aside, which it names all."""
    listed = set(re.findall(r"^(?:.* <)?([\w/-]+)>?$", index, re.MULTILINE))
    names = [_address(page.with_suffix("")) for page in documents() if page.suffix == ".md"]
    return [name for name in names if name not in listed]


def pages() -> Iterator[tuple[str, str]]:
    """What is written for the site: a place, and Markdown."""
    index = (SITE / "index.md").read_text(encoding="utf-8")
    index = index.replace("<!-- folders -->", "\n".join(f"api/{folder}" for folder in FOLDERS))
    yield "index.md", index.replace("<!-- other pages -->", "\n".join(unlisted(index)))
    yield "review.md", (SITE / "review.md").read_text(encoding="utf-8")
    yield "gallery.md", gallery()
    yield "ranking.md", leaderboard()
    yield "docs/glossary.md", glossary()
    yield "api/index.md", api_index()
    for folder in FOLDERS:
        yield f"api/{folder}.md", api(folder)


def gather(place: Path) -> None:
    """Lay the sources of the site down in a folder, which is emptied before."""
    shutil.rmtree(place, ignore_errors=True)
    documented = documents()
    beside = {file for document in documented for file in links(document) if file.is_file()}
    beside |= {file for run in runs() for figure in run.figures for file in figure.files}
    beside |= {file for run in runs() for file in run.tables} | {LEADERBOARD}
    for file in sorted({*documented, *beside}):
        to = place / file.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    for name, text in pages():
        to = place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
