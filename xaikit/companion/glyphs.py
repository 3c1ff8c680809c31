"""Letters that a figure's font lacks: named in one sentence, where matplotlib warns of each in each file."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST = 10
_MISSING = re.compile(r"Glyph (\d+) .*missing from")


@contextmanager
def missing_glyphs_named(figure: str) -> Iterator[None]:
    """Warn once, at the end of the block, of all letters that it drew as boxes; other warnings pass as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    signs: dict[str, None] = {}
    for each in caught:
        if found := _MISSING.match(str(each.message)):
            signs[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if signs:
        named = " ".join([*signs][:_FIRST]) + (" …" if len(signs) > _FIRST else "")
        warnings.warn(f"The font has no {named}: boxes stand in figure {figure} for {len(signs)} signs.", stacklevel=3)
