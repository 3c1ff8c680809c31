"""What is said of a training before it starts; the training itself is in `make rehearse`, on stand-ins."""

import json
from collections import Counter

import pytest
import torch
from torch import Tensor

from xaikit.datasets.captions import CocoCaptions
from xaikit.studies import texplain
from xaikit.studies.train_translator import _seconds_an_image, expected


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((14_000_000, 20, 1_900.0, 4_000.0), "14,000,000 pairs × 20 epochs at 1,900 images/s: 41 h; bound by decoding"),
        ((5_000, 20, 900.0, 400.0), "5,000 pairs × 20 epochs at 400 images/s: 4 min; bound by the device"),
        ((16, 1, 8.0, 20.0), "16 pairs × 1 epochs at 8 images/s: 2 s; bound by decoding"),
    ],
)
def test_what_bounds_a_training_is_said_before_it(numbers: tuple, sentence: str) -> None:
    assert expected(*numbers) == sentence


class Pairs(CocoCaptions):
    """Pictures without end that take no time to read."""

    def __init__(self, readable: int) -> None:
        object.__setattr__(self, "readable", readable)

    def __len__(self) -> int:
        return 1

    def pairs(self, seed, epoch, share, shares, counts, least):
        for number in range(self.readable):
            yield torch.full((3, least, least), number, dtype=torch.uint8), f"picture {number}"


def test_the_rates_are_of_a_few_pairs_and_the_second_step() -> None:
    steps: list[tuple[int, int]] = []

    def encode(texts: list[str], counts: Counter) -> Tensor:
        return torch.zeros(len(texts), 4).long()

    reading = {"prepare": lambda image: image / 255, "join": torch.stack, "least": 8}
    read, trained = _seconds_an_image(
        Pairs(1_000), reading, encode, lambda images, sentences: steps.append((len(images), len(sentences))), 5
    )
    assert read > 0 and trained > 0 and steps == [(5, 5)] * 2
    with pytest.raises(ValueError, match="The first pairs cannot be read"):
        _seconds_an_image(Pairs(1), reading, encode, lambda images, sentences: None, 5)


def test_what_a_translator_learned_from_is_read_beside_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(texplain, "DATASETS", tmp_path)
    assert texplain.learned_from("") is None and texplain.learned_from("texplain/translator.safetensors") is None
    file = tmp_path / "texplain" / "translator.safetensors"
    file.parent.mkdir()
    file.touch()
    assert texplain.learned_from("texplain/translator.safetensors") == "pairs that nothing tells of"
    options = {"pairs": "14000000", "epochs": "(20, 5)", "coco": "/data/coco2017"}
    for changed, said in (
        ({}, "14,000,000 pairs × 20 epochs and COCO × 5"),
        ({"pairs": "0"}, "COCO × 5"),
        ({"coco": "None"}, "14,000,000 pairs × 20 epochs"),
    ):
        (file.parent / "training.json").write_text(json.dumps({"options": options | changed}))
        assert texplain.learned_from("texplain/translator.safetensors") == said
