"""Every public function that takes tensors works on a GPU: a pretended one here, and a real one where there is one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import CASES
from pretend_gpu import pretend_gpu
from reached import functions, watching

from xaikit.companion import profiles

REACHED = json.loads((Path(__file__).parent / "reached.json").read_text(encoding="utf-8"))
EXCEPTIONS = {
    "models.clip_vit_mini": "trains weights that ship",
    "models.clip_resnet_mini": "trains weights that ship",
    "models.train": "trains weights that ship",
    "models.generator.train_": "trains weights that ship",
    "models.muon": "trains weights that ship",
    "models.captioner.": "trains weights that ship",
    "models.cards.": "writes weights that ship",
    "texplain.rating.": "shows pictures to people, from the CPU",
    "studies.extract": "has tests of its own, with processes of its own",
    "models.preprocessing.Preprocessed.extra_repr": "is a text",
}


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
