"""Tasks: what is asked has the label that it should, and static is the same on whatever is redrawn."""

import pytest
import torch

from xaikit.storage import paths
from xaikit.world import TASKS, Birds, Task, birds, task


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_positions_among_the_classes_that_occur_and_splits_share_no_scene(name: str) -> None:
    asked = task(name, seed=0, n=40, test=40)
    for part, scenes in (("train", asked.train), ("test", asked.test)):
        known = [scene.factors[asked.factor] for scene in scenes]
        assert [asked.classes[label] for label in asked.labels(part)] == known
        assert set(known) == set(asked.classes)
    assert not {scene.seed for scene in asked.train} & {scene.seed for scene in asked.test}
    default = task(name, seed=0, test=1)
    assert len(default.train) == TASKS[name].n and default.noise == TASKS[name].noise


@pytest.mark.parametrize("name", ["duck or swan", "crow or robin"])
def test_of_the_birds_asked_for_one_is_there(name: str) -> None:
    asked = task(name, seed=1, n=30, test=30)
    for scene in asked.test:
        kinds = [scene.factors[f"kind{slot}"] for slot in "123"]
        assert sum(kind in Birds.values("species") for kind in kinds) == 1 and scene.sign is None


def test_static_has_its_deviation_and_each_scene_its_own_whatever_its_factors() -> None:
    scenes = birds(6, seed=0)
    quiet, noisy = Task(scenes, scenes, "species"), Task(scenes, scenes, "species", 0.1)
    assert torch.equal(quiet.images("test", 32), scenes.images(32))
    static = noisy.images("test", 32) - quiet.images("test", 32)
    inside = (quiet.images("test", 32) > 0.4) & (quiet.images("test", 32) < 0.6)  # where none is cut off at 0 or 1
    assert abs(static[inside].std() - 0.1) < 0.01 and abs(static[inside].mean()) < 0.01
    assert noisy.images("test").min() >= 0 and noisy.images("test").max() <= 1
    assert torch.equal(noisy.seen(scenes[3:5], 32), noisy.images("test", 32)[3:5])

    redrawn = scenes.replace(colour="blue")
    changed = (scenes.images(32) != redrawn.images(32)).any(1, keepdim=True)
    differs = (noisy.seen(scenes, 32) != noisy.seen(redrawn, 32)).any(1, keepdim=True)
    assert not (differs & ~changed).any() and differs.any()
    other = noisy.images("test", 32) - quiet.images("test", 32)
    assert torch.equal(other, static) and not torch.equal(static[0], static[1])


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="There is no task 'cats'; choose from 'species', "):
        task("cats", seed=0)
