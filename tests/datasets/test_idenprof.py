"""IdenProf: ten professions in two splits, on small folders in the release's layout."""

from pathlib import Path

import pytest
from PIL import Image

from xaikit.datasets.idenprof import PROFESSIONS, read_professions


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two photographs of each profession to train on and one to test with, of different sizes."""
    for split, count, size in (("train", 2, (8, 6)), ("test", 1, (4, 6))):
        for name in PROFESSIONS:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(1, count + 1):
                Image.new("RGB", size).save(tmp_path / split / name / f"{name}-{number}.jpg")
    return tmp_path


@pytest.mark.parametrize(("split", "count", "width"), [("train", 2, 8), ("test", 1, 4)])
def test_every_profession_has_its_label_in_both_splits(release, split, count, width) -> None:
    data = read_professions(release, split)
    assert data.names == PROFESSIONS and data.labels.bincount().tolist() == [count] * 10
    for photograph in data:
        assert photograph.id.startswith(f"{PROFESSIONS[photograph.label]}/{PROFESSIONS[photograph.label]}-")
        assert photograph.image.shape == (3, 6, width)


def test_other_splits_and_other_classes_are_refused(release) -> None:
    with pytest.raises(ValueError, match="IdenProf has no split 'val': choose train or test"):
        read_professions(release, "val")
    (release / "train" / "police").rename(release / "train" / "police officer")
    with pytest.raises(ValueError, match="differ in 'police'"):
        read_professions(release, "train")


def test_missing_folders_and_photographs_are_named(release) -> None:
    with pytest.raises(FileNotFoundError, match="train is missing"):
        read_professions(release / "idenprof", "train")
    (release / "test" / "judge" / "judge-1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="judge holds no photographs"):
        read_professions(release, "test")
