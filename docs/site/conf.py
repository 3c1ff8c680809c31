"""How Sphinx makes the site of what `pages.py` has gathered. Nothing is imported of the package, and nothing is run."""

import builtins
import re
import shutil
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.core.render import NbElementRenderer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
import docstrings  # noqa: E402

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
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "mathml"
html_copy_source = True
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

SHAPE = re.compile(r"[ a-z0-9_*#+.]+(?<! )")  # of jaxtyping: names and sizes of axes
MODULES = re.compile(r"\b(?:jaxtyping|torch|torch\.nn|collections\.abc|pathlib|typing|xaikit(?:\.[a-z_]+)+)\.(?=[A-Z])")


def restructured(_app: Sphinx, _what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Hand a docstring on as the API pages want it."""
    lines[:] = docstrings.restructured("\n".join(lines), name).splitlines()


def as_in_the_code(_app: Sphinx, doctree: nodes.document) -> None:
    """Types in signatures by their last names, and shapes as the strings that they are: `Float[Tensor, "images 3"]`."""
    for signature in doctree.findall(addnodes.desc_signature):
        for link in list(signature.findall(addnodes.pending_xref)):
            if SHAPE.fullmatch(link["reftarget"]) and not hasattr(builtins, link["reftarget"]):
                link.replace_self(nodes.Text(f'"{link["reftarget"]}"'))
        for text in list(signature.findall(nodes.Text)):
            if short := MODULES.sub("", text):
                text.parent.replace(text, nodes.Text(short))


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


def inline(translator, node: nodes.math) -> None:
    """A formula in a line, as MathML: browsers draw it, screen readers read it, and nothing is fetched."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed(translator, node: nodes.math_block) -> None:
    """A formula on its own."""
    translator.body.append(f'<div class="math" tabindex="0">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def with_alt(render):
    """The pictures of notebooks keep their alt texts, which myst-nb passes over."""

    def render_image(self, data):
        found = render(self, data)
        for image in found:
            image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
        return found

    return render_image


NbElementRenderer.render_image = with_alt(NbElementRenderer.render_image)


def setup(app: Sphinx) -> dict[str, bool]:
    """Hand the above to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    app.connect("autodoc-process-docstring", restructured)
    app.connect("doctree-read", as_in_the_code)
    app.connect("doctree-resolved", pages_are_opened)
    app.connect("build-finished", with_whole_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
