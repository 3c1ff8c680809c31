"""The site has all that is committed: figures with their texts, pages, notebooks, terms, and every public function."""

import csv
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site import check, docstrings, pages
from xaikit.importance import METHODS
from xaikit.storage.paths import ROOT

SITE = ROOT / "docs" / "site"
PYTHON = ROOT / "build" / "site-env" / "bin" / "python"
ARTICLE = Path("docs") / "article.pdf"
RECORDS = [path for profile in ("mini", "full") for path in sorted((ROOT / "figures" / profile).glob("*/numbers.json"))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Sphinx is given, gathered by a Python without any package; the article where the site's own one is there."""
    place = tmp_path_factory.mktemp("site") / "source"
    subprocess.run([sys.executable, "-I", "-S", SITE / "pages.py", place], check=True)
    if PYTHON.is_file():
        subprocess.run([PYTHON, SITE / "article.py", place / ARTICLE], check=True)
    return place


# ---- what is on it ----


def test_every_figure_of_the_committed_records_is_in_the_gallery_with_its_text(source: Path) -> None:
    gallery = (source / "gallery.md").read_text(encoding="utf-8")
    assert RECORDS
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        drawn = {name: shown["alt"] for name, shown in record["shown"].items() if "alt" in shown}
        assert drawn and len(drawn) == sum(name.endswith(".png") for name in record["artefacts"])
        for name, alt in drawn.items():
            picture = f"figures/{record['profile']}/{record['notebook']}/{name}.png"
            assert f"{{figure}} {picture}\n:alt: {json.dumps(alt, ensure_ascii=False)}\n" in gallery, picture
            assert (source / picture).is_file()


def test_every_table_of_the_committed_records_is_in_the_gallery(source: Path) -> None:
    gallery = (source / "gallery.md").read_text(encoding="utf-8")
    for path in RECORDS:
        for name in json.loads(path.read_text(encoding="utf-8"))["artefacts"]:
            if name.endswith(".csv"):
                assert f"({(path.parent / name).relative_to(ROOT).as_posix()})" in gallery, name


def test_every_page_and_notebook_is_in_the_contents(source: Path) -> None:
    index = (source / "index.md").read_text(encoding="utf-8")
    named = {name for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL)
             for name in re.findall(r"^(?:.* <)?([\w/*-]+)>?$", block, re.MULTILINE)}  # fmt: skip
    there = {file.relative_to(source).with_suffix("").as_posix() for file in source.rglob("*.md")} - {"index"}
    assert there == named - {"notebooks/*"}
    assert "notebooks/*" in named
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {path.stem for path in (source / "notebooks").glob("*.ipynb")} == notebooks != set()


def test_a_page_that_the_index_does_not_name_comes_under_more() -> None:
    index = (SITE / "index.md").read_text(encoding="utf-8")
    assert pages.unlisted(index) == []
    assert pages.unlisted(index.replace("\ndocs/scale\n", "\n")) == ["docs/scale"]


def test_the_ranking_has_every_method_of_the_leaderboard(source: Path) -> None:
    with pages.LEADERBOARD.open(encoding="utf-8", newline="") as file:
        methods = [row["method"] for row in csv.DictReader(file)]
    shown = re.findall(r"^\| (.+?) \| .*\|$", (source / "ranking.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown == ["method", *methods]


# ---- the glossary ----


def test_terms_are_unique_in_order_and_used() -> None:
    terms = pages.terms()
    names = [name for term in terms for name in term.split(", ")]
    assert len(terms) == pages.prose(pages.GLOSSARY).count("\n- **") > 50
    assert len({name.casefold() for name in names}) == len(names)
    assert list(terms) == sorted(terms, key=str.casefold)
    assert [term for term in terms if not pages.uses(term)] == []


def test_a_term_that_stands_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "prose", lambda _: "# Glossary\n\n- **seed**: one.\n- **seed**: another.\n")
    with pytest.raises(ValueError, match="twice"):
        pages.terms()


def test_a_term_is_found_in_all_its_names_and_not_within_words(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a.md": "Two word\nmaps.", "b.md": "A keyword map.", "c.md": "Its WMs."}
    monkeypatch.setattr(pages, "documents", lambda: [Path(name) for name in texts])
    monkeypatch.setattr(pages, "prose", lambda page: texts[page.name])
    assert [page.name for page in pages.uses("word map, WM")] == ["a.md", "c.md"]


# ---- the API ----


def test_every_folder_with_public_names_has_a_page() -> None:
    inner = {"companion", "studies", "storage"}  # of the notebooks and of this repository; they hand nothing on
    there = {init.parent.name for init in (ROOT / "xaikit").glob("*/__init__.py")}
    assert set(pages.FOLDERS) == there - inner


@pytest.mark.parametrize("folder", pages.FOLDERS)
def test_every_public_name_stands_once_on_the_page_of_its_folder(folder: str) -> None:
    init = ROOT / "xaikit" / folder / "__init__.py"
    stub = init.with_suffix(".pyi")
    listed = re.search(r"__all__ = \[(.*?)\]", init.read_text(encoding="utf-8"), re.DOTALL)
    names = re.findall(r'"(\w+)"', listed[1]) if listed else re.findall(r" as (\w+)", stub.read_text(encoding="utf-8"))
    found = re.findall(r"^\.\. autoapi\w+:: xaikit\.([\w.]+)$|^## `(\w+)`$", page := pages.api(folder), re.MULTILINE)
    shown = [path.rpartition(".")[2] for path, _ in found if path]
    modules = [name for _, name in found if name in names and name not in shown]  # in `importance`, a section each
    assert sorted(shown + modules) == sorted(names)
    for path in (path for path, _ in found if path):
        assert (ROOT / "xaikit" / f"{path.rpartition('.')[0].replace('.', '/')}.py").is_file(), path
    assert "<!-- names" not in page


def test_every_method_of_notebook_05_is_on_the_page() -> None:
    page = pages.api("importance")
    assert METHODS and [name for name in METHODS if f"| {name} |" not in page] == []


def test_docstrings_get_what_restructured_text_wants() -> None:
    plain = "As `decompose` does, |W| of `tower`s:\n- one\n  more\n- two\nSo.\n\n    a = b\n\n>>> 1 | 2\n3"
    assert docstrings.restructured(plain, "xaikit.metrics.ranking.auc") == (
        "As :py:obj:`decompose <xaikit.decomposition.decompose.decompose>` does, \\|W\\| of ``tower``\\ s:\n\n"
        "- one\n  more\n\n- two\n\nSo.\n\n::\n\n    a = b\n\n>>> 1 | 2\n3"
    )
    near = docstrings.named("grad_cam", "xaikit.saliency.cam.cam")
    assert near == "xaikit.saliency.cam.grad_cam"
    assert docstrings.named("heatmaps", "xaikit.metrics.segmentation.foreground") is None  # what it takes
    assert docstrings.named("nothing", "xaikit.saliency.cam.cam") is None


# ---- links, and what makes the site ----


def test_every_relative_link_leads_to_something_on_the_site(source: Path) -> None:
    found = 0
    for page in [*source.rglob("*.md"), *source.rglob("*.ipynb")]:
        for target in pages.links(page):
            assert target.is_file() or target == source / ARTICLE, f"{page} links to {target.relative_to(source)}"
            found += 1
    assert found > 300


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">x</a> <a href="#here">x</a> <a href="c.html">x</a>'
        '<img src="b.html" alt="x"><a href="https://example.org">x</a></p>'
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="a.html#gone">x</a><img src="a.html"></p>')
    (tmp_path / "d.html").write_text('<script src="https://example.org/x.js"></script>')
    assert check.wrong(tmp_path) == [
        "a.html: c.html leads nowhere.",
        "b.html: the picture a.html has no text.",
        "b.html: a.html#gone leads nowhere.",
        "d.html loads https://example.org/x.js: the site must work without a connection.",
    ]
    assert check.main(tmp_path) == 1


def test_the_lock_pins_what_the_site_asks_for_with_hashes_and_is_not_that_of_results() -> None:
    lock = (SITE / "requirements.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    asked = re.findall(r"^([\w-]+)>=", (SITE / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
    assert asked and set(asked) <= set(pinned)
    assert lock.count("==") >= len(pinned) and "://" not in lock
    blocks = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pinned) and all("--hash=sha256:" in block for block in blocks)
    assert "\nsphinx==" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


needs_site_env = pytest.mark.skipif(not PYTHON.is_file(), reason="build/site-env is not there: `make site` makes it")


@needs_site_env
def test_the_article_is_a_pdf_of_six_pages_without_marks(source: Path) -> None:
    content = (source / ARTICLE).read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) == 6


@needs_site_env
@pytest.mark.parametrize(
    ("text", "said"),
    [("# A\n\nx \u2265 1", "have no"), ("# A\n\n[x](nowhere.md)", "nothing is there"), ("# A\n\n*x* [y][z", "")],
)
def test_what_no_pdf_can_show_is_said(text: str, said: str) -> None:
    code = "import sys; from docs.site import article; print(article.read(sys.argv[1]).astext())"
    made = subprocess.run([PYTHON, "-c", code, text], cwd=ROOT, capture_output=True, text=True)
    assert said in made.stderr and (made.returncode != 0) == bool(said)


@needs_site_env
def test_the_site_is_made_without_a_warning(source: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ["-q", "-E", "-W", "--keep-going", "-d", tmp_path / "trees", "-c", SITE]
    made = subprocess.run([PYTHON, "-m", "sphinx", *options, source, site], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert check.wrong(site) == []
    assert (site / "docs" / "review.html").is_file()
    signatures = re.sub("<[^>]+>", "", (site / "api" / "surgery.html").read_text(encoding="utf-8"))
    assert "Float[Tensor, 'batch channels height width']" in signatures
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        given = [output.get("metadata", {}).get("image/png", {}).get("alt") for cell in cells
                 for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]  # fmt: skip
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert page.count('<div class="formula"') == pages.prose(notebook).count("$$") / 2
        words = re.sub(r"<(pre|code|script|style)\b.*?</\1>|<[^>]+>", "", page, flags=re.DOTALL)
        assert re.findall(r"\S*(?:\$|\\[a-z])\S*", words) == []  # no formula is left as it was typed
        code = html.unescape(re.sub("<[^>]+>", "", page))
        solved = ["".join(cell["source"]) for cell in cells if "solution" in cell["metadata"].get("tags", ())]
        assert not [each for each in solved if each in code]
        assert given and given == [html.unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', page)]
