"""Every public function that takes tensors works on a GPU: a pretended one here, and a real one where there is one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from cases import CASES
from pretend_gpu import pretend_gpu
from reached import EXCEPTIONS, functions, missing

from xaikit.companion import profiles

REACHED = json.loads((Path(__file__).parent / "reached.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["pretended", "real"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "real" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    deterministic = torch.are_deterministic_algorithms_enabled()
    if request.param == "real":
        profiles.prepare(0)
        yield "cuda"
    else:
        with pretend_gpu():
            torch.use_deterministic_algorithms(True)
            yield "cuda"
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu(name: str, device: str) -> None:
    CASES[name](device)


def test_an_audit_on_a_gpu_follows_one_on_the_cpu() -> None:
    """accelerate keeps the first device of a process; what is told has to come from the one that was asked for."""
    Accelerator(cpu=True)
    with pretend_gpu():
        CASES["what_words_say_of_a_classifier"]("cuda")


def test_every_function_that_takes_tensors_was_called_on_a_gpu() -> None:
    known = {name for name, _ in functions()}
    assert not missing({name: tuple(how) for name, how in REACHED.items()})
    assert REACHED.keys() <= known, "tests/device/reached.json is of another version: `make pretend-gpu` writes it anew"
    assert len(EXCEPTIONS) <= 10 and all(any(name.startswith(each) for name in known) for each in EXCEPTIONS)
