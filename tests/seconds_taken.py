"""How long the tests that are asked for took here the last time, for the next run to say."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xaikit.companion.progress import duration
from xaikit.storage.files import write_text

WORTH_SAYING = 20.0  # seconds


def said(asked: Sequence[str], file: Path, otherwise: str) -> str:
    """A sentence: how long they took here, as `file` keeps it, or what is said where that is not known, or a moment."""
    known = _kept(file).get(" ".join(asked), 0.0)
    return otherwise if known < WORTH_SAYING else f"The tests themselves took {duration(known)} here the last time."


def keep(asked: Sequence[str], seconds: float, file: Path) -> None:
    """Keep it for the next time; a run of tests is not lost for want of that."""
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        write_text(file, json.dumps({**_kept(file), " ".join(asked): round(seconds, 1)}, indent=1) + "\n")


def _kept(file: Path) -> dict[str, float]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: seconds for name, seconds in found.items() if isinstance(seconds, int | float)}
    return {}
