"""How Sphinx makes the site of what `pages.py` has gathered. Nothing is imported of the package, and nothing is run."""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from astroid.nodes import Const, NodeNG
from autoapi import _astroid_utils
from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.util.osutil import relative_uri
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from docs.site import docstrings, pages  # noqa: E402

LOG = getLogger(__name__)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project, author = PROJECT["name"], PROJECT["authors"][0]["name"]
version = release = PROJECT["version"]
project_copyright = f"the {author}, under the MIT licence"
extensions = ["myst_nb", "autoapi.extension"]
exclude_patterns = ["**/*.html"]
language = "en"
highlight_language = "none"  # of a block that names none: commands and what they print
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # torch's and the standard library's names are described elsewhere

# Notebooks are shown as they were executed.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # the still picture of a widget is enough, and nothing is fetched
nb_output_stderr = "remove-warn"
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False

# The package is read, not imported: no torch is needed. A docstring is short plain text, with `names` in backticks.
autoapi_dirs = [str(ROOT / "xaikit")]
autoapi_ignore = ["*/companion/*", "*/studies/*", "*/storage/*", "*/__main__.py", "*.pyi"]
autoapi_file_patterns = ["*.py"]
autoapi_generate_api_docs = False  # the pages in api/ say what stands where
autoapi_add_toctree_entry = False
autoapi_add_objects_to_toctree = False
add_module_names = False
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
# Folders that no page describes are not read; what is imported from them is not found.
suppress_warnings = ["autoapi.python_import_resolution"]

html_theme = "sphinx_book_theme"
html_title = "xaikit"
templates_path = ["templates"]
html_static_path = ["static", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = True
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search is in the bar at the side
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

FORMULA = re.compile(r"\$\$(.+?)\$\$([,.;:]?)", re.DOTALL)
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
LIST = re.compile(r"<(/?)(dl|dd)>")
BARS = "&#x02016;"
SHAPE = re.compile(r"[ a-z0-9_*#+.-]+")  # of jaxtyping: names and sizes of axes
MODULES = re.compile(r"\b(?:jaxtyping|torch|torch\.nn|collections\.abc|pathlib|typing|xaikit(?:\.[a-z_]+)+)\.(?=[A-Z])")


def as_pages(_app: Sphinx, docname: str, source: list[str]) -> None:
    """A notebook as a reader gets it.

    A formula between two `$$` is one in JupyterLab wherever it stands; here it has to be a paragraph of its own.
    Solutions are not on the site.
    """
    if docname.startswith("notebooks/"):
        page = json.loads(source[0])
        page["cells"] = pages.shown(page["cells"])
        for cell in page["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = FORMULA.sub(_apart, "".join(cell["source"]))
        source[0] = json.dumps(page)


def _apart(formula: re.Match[str]) -> str:
    return f"\n\n$${' '.join(formula[1].split())}{formula[2]}$$\n\n"


def restructured(_app: Sphinx, _what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Hand a docstring on as the API pages want it."""
    lines[:] = docstrings.restructured("\n".join(lines), name).splitlines()


def by_last_names(_app: Sphinx, doctree: nodes.document) -> None:
    """A type stands in a signature as in the code, by its last name."""
    for signature in doctree.findall(addnodes.desc_signature):
        for text in list(signature.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(MODULES.sub("", text)))


def pages_are_opened(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A link to a page that is whole in itself (the review, an audit) leads to it, and does not download it."""
    for link in list(doctree.findall(addnodes.download_reference)):
        if link["reftarget"].endswith(".html"):
            file = (Path(app.srcdir, docname).parent / link["reftarget"]).resolve().relative_to(app.srcdir)
            address = relative_uri(app.builder.get_target_uri(docname), file.as_posix())
            link.replace_self(nodes.reference("", "", *link.children, refuri=address, internal=True))


def with_whole_pages(app: Sphinx, exception: Exception | None) -> None:
    """Put those pages where they lie in the repository."""
    for file in Path(app.srcdir).rglob("*.html") if exception is None else ():
        place = Path(app.outdir, file.relative_to(app.srcdir))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _as_span(tag: re.Match[str]) -> str:
    return "</span>" if tag[1] else f'<span class="sig-{"arguments" if tag[2] == "dl" else "argument"}">'


def mathml(node: nodes.math | nodes.math_block, display: str) -> str:
    """A formula as MathML: browsers draw it, screen readers read it, and nothing is fetched."""
    found = convert(re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", node.astext()), display=display)
    found = found.replace(f"<mo>{BARS}</mo>", f'<mo stretchy="false">{BARS}</mo>')  # no higher than what they enclose
    if "\\" in found:
        LOG.warning("%s is no formula that can be drawn.", node.astext(), location=node)
    return found


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def displayed(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula on its own, which scrolls where it is too wide."""
    translator.body.append(f'<div class="formula" tabindex="0">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def as_it_is_read(_app: Sphinx, _name: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """The arguments of a long signature are lines, and not a list of definitions without terms.

    What opens a folded cell is called what it says, and not something else for who hears it.
    """
    body = context.get("body", "").replace(' aria-label="Toggle hidden content"', "")
    context["body"] = SIGNATURE.sub(lambda found: LIST.sub(_as_span, found[0]), body)


# Two things would be lost on the way: the alt texts that lie in a notebook beside its pictures, of which myst-nb takes
# width and height alone, and the quotes around shapes, which autoapi takes for names of classes.


def with_alt(render: Callable[..., list[nodes.Element]]) -> Callable[..., list[nodes.Element]]:
    """The same, with the alt text."""

    def render_image(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
        found = render(self, data)
        for image in found:
            image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
        return found

    return render_image


def with_shapes(resolve: Callable[[NodeNG], str]) -> Callable[[NodeNG], str]:
    """The same, with quotes around shapes."""

    def resolve_annotation(annotation: NodeNG) -> str:
        text = annotation.value if isinstance(annotation, Const) else None
        return repr(text.strip()) if isinstance(text, str) and SHAPE.fullmatch(text) else resolve(annotation)

    return resolve_annotation


NbElementRenderer.render_image = with_alt(NbElementRenderer.render_image)
_astroid_utils._resolve_annotation = with_shapes(_astroid_utils._resolve_annotation)


def setup(app: Sphinx) -> dict[str, bool]:
    """Hand the above to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    app.connect("source-read", as_pages)
    app.connect("autodoc-process-docstring", restructured)
    app.connect("doctree-read", by_last_names)
    app.connect("doctree-resolved", pages_are_opened)
    app.connect("html-page-context", as_it_is_read)
    app.connect("build-finished", with_whole_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
