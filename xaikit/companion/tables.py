"""Tables in Markdown pages that a command writes, between marks that say so."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from xaikit.storage.files import write_text


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A table; the columns numbered in `right` are set to the right."""
    rule = "".join("---:|" if column in right else "---|" for column in range(len(headings)))
    return "\n".join([_line(headings), f"|{rule}", *map(_line, rows)])


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with each table between its marks, `<!-- NAME: written by a command -->` and `<!-- end of NAME -->`.

    Raises ValueError where a mark is missing.
    """
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page has no place for the table {name!r}: put its two marks there")
        text = pattern.sub(lambda marks, table=table: f"{marks[1]}\n{table}\n\n{marks[2]}", text)
    return text


def fill(file: Path, tables: Mapping[str, str]) -> None:
    """Bring the tables of a page up to date. Raises ValueError as `filled` does."""
    write_text(file, filled(file.read_text(encoding="utf-8"), tables))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
