"""Docstrings are plain text with `names` in backticks, of which this makes the reStructuredText of the API pages."""

import re

from docs.site.pages import FOLDERS, arguments, public

NAMES = [each for folder in FOLDERS for each in public(folder) if each.kind in ("class", "function")]
SPAN = re.compile(r"`([^`]+)`(?=(\w?))|\|")


def restructured(text: str, inside: str) -> str:
    """The docstring of the object `inside` with gaps before lists, marks before blocks, and links to public names."""
    blocks = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            blocks.append(f"::\n\n{paragraph}")
        elif paragraph.startswith(">>>"):
            blocks.append(paragraph)
        else:
            blocks.append(SPAN.sub(lambda span: _marked(span, inside), _with_gaps(paragraph)))
    return "\n\n".join(blocks)


def _with_gaps(paragraph: str) -> str:
    lines: list[str] = []
    for line in paragraph.splitlines():
        ends = lines and lines[-1].startswith(("- ", "  ")) and not line.startswith(" ")
        lines += ["", line] if lines and (line.startswith("- ") or ends) else [line]
    return "\n".join(lines)


def _marked(span: re.Match[str], inside: str) -> str:
    name, after = span.groups()
    if name is None:
        return "\\|"
    target = named(name, inside)
    shown = f":py:obj:`{name} <{target}>`" if target and target != inside else f"``{name}``"
    return f"{shown}\\ " if after else shown


def named(name: str, inside: str) -> str | None:
    """The public object that a name means within another: that of the same folder, or the only one of that name."""
    if name in arguments(inside):
        return None
    found = [each for each in NAMES if each.name == name]
    near = [each for each in found if inside.startswith(f"xaikit.{each.folder}.")]
    return (near or found)[0].path if near or len(found) == 1 else None
