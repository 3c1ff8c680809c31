"""What the notes of a notebook have recorded; the fixture `note` makes some for the notebook that a module names."""

import json
from typing import Any

from xaikit.companion.notes import Notes


def numbers(note: Notes) -> dict[str, dict[str, Any]]:
    """Each number with all that is kept of it, by its id without the paper's name."""
    kept = json.loads((note.record.folder / "unfinished.json").read_text(encoding="utf-8"))
    return {number["id"].removeprefix(f"{note.paper}."): number for number in kept["numbers"]}


def recorded(note: Notes) -> dict[str, float]:
    """The value of each number, by its id without the paper's name."""
    return {id: number["value"] for id, number in numbers(note).items()}
