"""Tasks whose causes are known, and classifiers of which it is known what they use."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xaikit.companion import profiles, sections
from xaikit.models.clip import load_from
from xaikit.studies import zoo
from xaikit.studies.zoo import PLACEBO, Spec
from xaikit.studies.zoo_tasks import GRAIN, PIXELS, TAG, TASKS, Pictures, _Digits, deal

EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


@EVERY
def test_counts_are_exact_and_what_is_not_named_is_independent(task) -> None:
    name = task.shortcuts[0]
    for share in (0.5, 0.7, 0.9, 1.0):
        dealt = deal(task, 40, 3, "train", {name: share})
        codes = dealt.codes
        assert codes[:, 0].sum() == 20
        for column, factor in enumerate(task.names[1:], start=1):
            for label in (0, 1):
                agreed = (codes[codes[:, 0] == label, column] == label).sum()
                assert agreed == round(20 * (share if factor == name else 0.5))


@EVERY
def test_a_picture_depends_on_its_seed_and_values_alone(task) -> None:
    some = deal(task, 6, 0, "test")
    assert torch.equal(some[2:5].pixels(), some.pixels()[2:5])
    assert (
        len(np.unique(np.concatenate([deal(task, 50, 0, split).seeds for split in ("train", "test", "explained")])))
        == 150
    )


@EVERY
def test_redrawing_a_factor_changes_what_shows_it_and_redrawing_twice_nothing(task) -> None:
    """Nothing moves but what a factor is seen in, before and after; the light of a scene is on all of it alike."""
    some = deal(task, 8, 1, "test")
    before, masks = some.pixels().int(), some.masks()
    for column, name in enumerate(task.names):
        other = some.redrawn_in(name)
        assert (other.codes != some.codes).sum(0).tolist() == [8 * (own == name) for own in task.names]
        assert torch.equal(other.redrawn_in(name).pixels(), some.pixels())
        changed = (other.pixels().int() - before).abs().amax(1) > 2
        assert changed.flatten(1).any(1).all()
        seen = masks[column] | other.masks()[column]
        # A mask is where a part is most of a pixel: it shows in pixels beside it too, and others come out behind it.
        near = nn.functional.max_pool2d(seen[:, None].float(), 5, 1, 2)[:, 0] > 0
        assert (changed & ~near).float().mean() < 0.02, name


def test_the_tag_is_where_it_is_said_to_be() -> None:
    for task in TASKS.values():
        some = deal(task, 6, 0, "test")
        inside = (some.redrawn_in("tag").pixels().int() - some.pixels().int()).abs().amax(1) > 30
        where = torch.zeros(PIXELS, PIXELS, dtype=torch.bool)
        where[TAG, TAG] = True
        assert not (inside & ~where).any() and (inside & where).float().sum((1, 2)).min() > 60


def test_digits_to_learn_from_are_not_tested_on() -> None:
    task = TASKS["digits"]
    strokes = {}
    for split in ("train", "test", "explained"):
        codes = np.zeros((200, len(task.factors)), np.int64)
        of = Pictures(task, deal(task, 200, 0, split).seeds, codes)
        strokes[split] = {row.numpy().tobytes() for row in _Digits(of).strokes}
    assert len(strokes["train"]) > 100
    assert not strokes["train"] & (strokes["test"] | strokes["explained"])


def test_only_the_static_is_drawn_anew_for_the_placebo() -> None:
    some = deal(TASKS["cars"], 6, 0, "test")
    other = Pictures(some.task, some.seeds, some.codes, grain=1)
    apart = (other.images() - some.images()).flatten()
    assert not torch.equal(other.pixels(), some.pixels())
    assert float(apart.std()) == pytest.approx(GRAIN * 2**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("split", "agreement"),
    [("corpus", {}), ("train", {"nose": 1.0}), ("train", {"tag": 1.2}), ("train", {"species": 1.0})],
)
def test_what_cannot_be_dealt_is_refused(split, agreement) -> None:
    with pytest.raises(ValueError, match=r"none of|outside"):
        deal(TASKS["birds"], 4, 0, split, agreement)


def test_logistic_regression_is_scikit_learns() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=draw) * torch.tensor([1.0, 5.0, 0.1, 1.0, 1.0, 2.0]) + 3
    labels = (x[:, 0] + 10 * x[:, 2] + torch.randn(200, generator=draw) > 33).long()
    found = zoo.logistic(x, labels)
    scaled = ((x - x.mean(0)) / x.std(0)).double().numpy()
    theirs = LogisticRegression(C=1 / (0.01 * 200), tol=1e-10, max_iter=1000).fit(scaled, labels)
    mine = (x.double() @ (found["weight"][1] - found["weight"][0]).double()) + (found["bias"][1] - found["bias"][0])
    np.testing.assert_allclose(mine, theirs.decision_function(scaled), atol=2e-3)
    with pytest.raises(ValueError, match="1 classes"):
        zoo.logistic(x, torch.ones(200, dtype=torch.int64))


class ReadsTheTag(nn.Module):
    """Class 1 where the corner is pink."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        corner = images[:, :, TAG, TAG].mean((2, 3))
        pink = corner[:, 0] - corner[:, 1] - 0.4
        return torch.stack([-pink, pink], 1)


@EVERY
def test_the_truth_of_a_reader_of_the_tag_is_the_tag(task) -> None:
    truth = zoo.truth_of(ReadsTheTag(), Spec(task.name, "resnet", (("tag", 1.0),)), 40, 0, "cpu")
    assert {name: truth.share(name) for name in truth.flips} == {
        **dict.fromkeys(task.names, 0.0), "tag": 1.0, PLACEBO: 0.0
    }  # fmt: skip
    assert truth.inside.all() and truth.outside.mean() == 0.5


@pytest.mark.parametrize(("profile", "fewest"), [("mini", 8), ("full", 96)])
def test_the_zoo_has_as_many_as_it_should_each_of_its_own(profile, fewest) -> None:
    cfg = profiles.load(profile, "05_which_explanation", 0)
    names = [spec.name for spec in zoo.specs(cfg)]
    assert len(set(names)) == len(names) >= fewest
    makes = {spec.make for spec in zoo.specs(cfg)}
    assert makes >= {"trained", *cfg.controls} - {"competing"}


def test_a_head_tells_what_it_is_told_to_on_the_backbone_of_the_others() -> None:
    recipe = zoo.Recipe(1, 16, 1e-3, 0.05, "adamw")
    common = {"task": "birds", "kind": "resnet", "agreement": {}, "make": "head", "twin": 0, "n": 48, "seed": 0,
              "recipe": recipe, "clip": None, "device": "cpu"}  # fmt: skip
    first, second = (zoo._made(reads=name, **common) for name in ("species", "background"))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {
        "model.fc.weight",
        "model.fc.bias",
    }


def test_what_was_shuffled_or_read_elsewhere_is_what_training_took_for_right() -> None:
    plain, codes = zoo.training_pictures(Spec("birds", "vit"), 60, 0)
    assert torch.equal(plain, codes[:, 0])
    shuffled, _ = zoo.training_pictures(Spec("birds", "vit", make="shuffled"), 60, 0)
    assert shuffled.sum() == plain.sum() and (shuffled == plain).float().mean() < 0.8
    read, codes = zoo.training_pictures(Spec("birds", "resnet", make="head", reads="background"), 60, 0)
    assert torch.equal(read, codes[:, TASKS["birds"].names.index("background")])


def test_what_a_run_is_estimated_by_is_what_the_zoo_has() -> None:
    from_nothing = {kind: zoo.network(kind, 0) for kind in ("resnet", "vit")}
    tower = load_from({"weights": "clip-vit-mini"}).image_encoder
    for kind, model in {**from_nothing, "probe": tower}.items():
        with FlopCounterMode(display=False) as counter:
            model(torch.rand(1, 3, PIXELS, PIXELS))
        flops, parameters = sections.ZOO[kind]
        assert counter.get_total_flops() == flops
        assert sum(p.numel() for p in model.parameters()) <= parameters
