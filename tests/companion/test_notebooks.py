"""The notebooks, run for real under the mini profile: what they leave is whole, current and as accepted."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from PIL import Image

from xaikit.companion import accept, run
from xaikit.companion.units import RANGES
from xaikit.storage import sources
from xaikit.storage.paths import NOTEBOOKS

NAMES = sorted(file.stem for file in NOTEBOOKS.glob("[0-9][0-9]_*.py"))
SHORT = "00_start_here"  # one figure, and no claim
PICTURES = {SHORT: 1, "06_audit": 3}  # at least; of the others six


@pytest.fixture(scope="session", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    """Where one notebook's results are, after a run if they were not up to date."""
    return run.run_notebook(request.param, "mini")


@pytest.fixture(scope="session")
def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "numbers.json").read_text(encoding="utf-8"))


def test_the_record_is_of_the_code_that_is_here(folder: Path, record: dict[str, Any]) -> None:
    assert (record["notebook"], record["profile"], record["seed"]) == (folder.name, "mini", 0)
    assert record["source"] == sources.notebook_source(folder.name, "mini")


def test_the_page_shows_the_script(folder: Path) -> None:
    page = nbformat.read(NOTEBOOKS / f"{folder.name}.ipynb", as_version=4)
    script = jupytext.read(NOTEBOOKS / f"{folder.name}.py")
    assert [(cell.cell_type, cell.source) for cell in page.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    for cell in page.cells:
        if cell.cell_type == "code" and cell.source:
            exercise = sources.of_exercise(sources.counted(cell))
            assert bool(cell.execution_count) != exercise, "not executed: make notebooks"


def test_every_picture_of_a_page_has_a_text_in_its_place(folder: Path) -> None:
    page = nbformat.read(NOTEBOOKS / f"{folder.name}.ipynb", as_version=4)
    outputs = [each for cell in page.cells if cell.cell_type == "code" for each in cell.outputs if "data" in each]
    pictures = [each for each in outputs if "image/png" in each["data"]]
    assert len(pictures) >= PICTURES.get(folder.name, 6)
    assert all(len(each["metadata"].get("image/png", {}).get("alt", "").split()) >= 5 for each in pictures)


def test_every_artefact_is_there_and_opens(folder: Path, record: dict[str, Any]) -> None:
    assert record["artefacts"]
    assert {file.name for file in folder.iterdir()} == {*record["artefacts"], "numbers.json"}
    for name in record["artefacts"]:
        assert (folder / name).stat().st_size > 0, name
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                image.load()
                assert min(image.size) > 50, name


def test_every_claim_rests_on_numbers_with_intervals(record: dict[str, Any]) -> None:
    assert bool(record["claims"]) == (record["notebook"] != SHORT)
    numbers = {number["id"]: number for number in record["numbers"]}
    for claim in record["claims"]:
        if claim["verdict"] == "not-run":
            continue
        assert claim["evidence"], claim["id"]
        for id in claim["evidence"]:
            exact = numbers[id]["protocol"] == "exact" or numbers[id]["unit"] == "count"
            assert exact or numbers[id]["low"] is not None, f"{claim['id']}: {id} has no interval"


def test_every_number_is_as_accepted(record: dict[str, Any]) -> None:
    drift = accept.drift(record, "mini")
    assert (drift.outside, drift.unknown, drift.missing) == ([], [], [])
    assert len(drift.within) + len(drift.unchecked) == len(record["numbers"]) > 0
    assert len(drift.within) > len(record["numbers"]) / 3


def test_bands_lie_within_the_range_of_the_unit(folder: Path) -> None:
    for id, band in accept.read("mini")[folder.name]["numbers"].items():
        least, most = RANGES.get(band["unit"], (-math.inf, math.inf))
        assert least <= band["value"] <= most, id
        if band["low"] is not None:
            assert least <= band["low"] <= band["high"] <= most, id
            assert band["high"] - band["low"] <= accept.WIDEST * (most - least), id


def test_any_number_that_moves_out_of_its_band_is_noticed(record: dict[str, Any]) -> None:
    """From a record whose numbers are the accepted ones, so that a number outside fails one test, not two."""
    accepted = accept.read("mini")[record["notebook"]]["numbers"]
    record = copy.deepcopy(record)
    for number in record["numbers"]:
        number["value"] = accepted[number["id"]]["value"]
    for position, number in enumerate(record["numbers"]):
        band = accepted[number["id"]]
        if band["low"] is None:
            continue
        reach = (band["high"] - band["low"]) or 1.0
        for moved in (band["high"] + 0.01 * reach, band["low"] - 0.01 * reach):
            changed = copy.deepcopy(record)
            changed["numbers"][position]["value"] = moved
            assert accept.drift(changed, "mini").outside == [(number["id"], moved, band["low"], band["high"])]
