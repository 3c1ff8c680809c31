"""Audits of classifiers of which it is known what they use; the whole of it is run by hand (docs/audit.md)."""

import numpy as np
import pytest
import torch

from xaikit.companion import profiles
from xaikit.studies import audited_zoo
from xaikit.studies.audited_zoo import Case, audited, concepts_of, seen_of
from xaikit.studies.zoo import Spec, truths, zoo
from xaikit.studies.zoo_tasks import TASKS, deal

SEED = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """One classifier that learned the tag in the corner, and one that learned birds."""
    specs = [Spec("birds", "resnet", (("tag", 1.0),)), Spec("birds", "resnet")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xaikit.storage.paths.CACHE", tmp_path_factory.mktemp("cache"))
        cfg = profiles.load("mini", "05_which_explanation", SEED)
        members = zoo(cfg, specs)
        known = truths(cfg, members)
    names = ("biased", "unbiased")
    return {
        sort: Case(sort, spec, spec.shortcut, members[spec.name].classifier.model, known[spec.name])
        for sort, spec in zip(names, specs, strict=True)
    }


def test_what_redrawing_shows_decides_what_a_case_is(made: dict[str, Case]) -> None:
    assert audited_zoo._is(made["biased"]) and audited_zoo._is(made["unbiased"])
    other = made["biased"]
    assert not audited_zoo._is(Case("biased", other.spec, "background", other.model, other.truth))
    assert not audited_zoo._is(Case("unlearned", other.spec, "tag", other.model, other.truth))


@pytest.mark.parametrize("independent", [False, True])
def test_the_planted_cue_is_claimed_and_nothing_else_is(made: dict[str, Case], independent: bool) -> None:
    found = audited(made["biased"], SEED, independent=independent)
    assert [each.concept for each in found if each.claimed] == ["tag"]
    assert not [each.concept for each in audited(made["unbiased"], SEED, independent=independent) if each.claimed]


@pytest.mark.parametrize("task", audited_zoo.PLANTED)
def test_every_planted_cue_can_be_asked_and_each_region_has_its_masks(task: str) -> None:
    names = {concept.name for concept in concepts_of(task)}
    assert {*audited_zoo.PLANTED[task], *audited_zoo.LABELS_BY.get(task, ())} <= names
    seen = seen_of(deal(TASKS[task], 12, 0, "test"))
    for concept in concepts_of(task):
        if concept.region:
            masks = seen.region(concept.region, slice(None))
            assert masks.flatten(1).any(1).float().mean() > 0.8 and masks.float().mean() < 0.9
    square = torch.zeros(64, 64, dtype=torch.bool)
    square[audited_zoo.TAG, audited_zoo.TAG] = True
    assert not (seen.masks["object"] & square).any() and seen.pixels.dtype == torch.uint8
    assert np.isfinite(seen.images(slice(0, 2)).numpy()).all()
