"""The article as a PDF, from the page of the repository: needs rst2pdf, which lays out what docutils reads.

python docs/site/article.py build/site-source/docs/article.pdf
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser
from rst2pdf.createpdf import RstToPdf

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "article.md"
STYLE = Path(__file__).with_name("article.yaml")
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
WIDEST = 34  # of a column, in letters, if no word is longer
WIDER, MARGIN = 1.4, 2  # a letter of a command or of a head, and what lies beside the text
FONT = "cp1252"  # what the fonts that every reader of PDF has can show


def read(text: str) -> nodes.document:
    """The article's content. A link to a page of the repository is its path: paper has no links.

    Raises ValueError for a letter that the PDF's fonts do not have, and for what is no Markdown.
    """
    try:
        text.encode(FONT)
    except UnicodeEncodeError as error:
        raise ValueError(f"The PDF's fonts have no {text[error.start]!r}: say it in other letters.") from None
    text = LINK.sub(lambda link: f"{link[1]} (`{_path(link[2])}`)", COMMENT.sub("", text))
    settings = {"myst_enable_extensions": ["dollarmath", "deflist"], "halt_level": 2, "report_level": 2}
    tree = publish_doctree(text, source_path=str(PAGE), parser=Parser(), settings_overrides=settings)
    for table in tree.findall(nodes.tgroup):
        fit(table)
    return tree


def _path(link: str) -> str:
    target = (PAGE.parent / link.partition("#")[0]).resolve()
    if not target.exists():
        raise ValueError(f"{PAGE.name} leads to {link}, and nothing is there: mend the link.")
    return target.relative_to(ROOT).as_posix()


def fit(table: nodes.tgroup) -> None:
    """Give each column of a table the width that its longest words and its text ask for."""
    rows = [[entry.astext() for entry in row.findall(nodes.entry)] for row in table.findall(nodes.row)]
    for column, texts in zip(table.findall(nodes.colspec), zip(*rows, strict=True), strict=True):
        word = max((len(word) for text in texts for word in text.split()), default=0)
        column["colwidth"] = max(WIDER * word + MARGIN, min(WIDEST, max(map(len, texts))))


def main(output: str) -> None:
    """Write the PDF."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    made = RstToPdf(stylesheets=[str(STYLE)], breaklevel=0, breakside="any", footer="###Page###")
    made.createPdf(doctree=read(PAGE.read_text(encoding="utf-8")), output=output)


if __name__ == "__main__":
    main(sys.argv[1])
