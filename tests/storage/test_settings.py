from pathlib import Path

import pytest

from xaikit.storage import settings


def write(folder: Path, **profiles: str) -> None:
    for name, text in profiles.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_a_profile_has_its_own_tables(tmp_path: Path) -> None:
    write(tmp_path, mini='[common]\nthreads = 2\n[01_x]\nname = "é"\ngrid = [[1, 2], [3]]\n')
    assert settings.read(tmp_path, "mini") == {"common": {"threads": 2}, "01_x": {"name": "é", "grid": [[1, 2], [3]]}}


def test_one_that_is_like_another_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    write(
        tmp_path,
        paper="[common]\nthreads = 2\n[01_x]\nimages = 300\nlist = [1, 2]\n[01_x.train]\nepochs = 9\nbatch = 8\n",
        small='like = "paper"\n[01_x]\nlist = [3]\n[01_x.train]\nepochs = 1\n[02_y]\nimages = 4\n',
        smallest='like = "small"\n[01_x]\ntrain = 0\n[common.deep]\nx = 1\n',
    )
    assert settings.read(tmp_path, "small") == {
        "common": {"threads": 2},
        "01_x": {"images": 300, "list": [3], "train": {"epochs": 1, "batch": 8}},  # lists are taken whole
        "02_y": {"images": 4},
    }
    assert settings.read(tmp_path, "smallest") == {
        "common": {"threads": 2, "deep": {"x": 1}},
        "01_x": {"images": 300, "list": [3], "train": 0},  # a value takes the place of a table, and the other way round
        "02_y": {"images": 4},
    }
    write(tmp_path, small='like = "smallest"\n[01_x]\n[01_x.train]\nepochs = 2\n', smallest="[01_x]\ntrain = 0\n")
    assert settings.read(tmp_path, "small") == {"01_x": {"train": {"epochs": 2}}}
    assert settings.read(tmp_path, "paper")["01_x"]["train"] == {"epochs": 9, "batch": 8}  # the base stays as it was


@pytest.mark.parametrize(
    ("first", "names"), [("a", "a, b, c"), ("b", "b, c, a"), ("alone", "alone"), ("d", "d, a, b, c")]
)
def test_a_circle_is_named(tmp_path: Path, first: str, names: str) -> None:
    write(tmp_path, a='like = "b"', b='like = "c"', c='like = "a"', d='like = "a"', alone='like = "alone"')
    with pytest.raises(ValueError, match=f"the profiles {names} are like each other in a circle"):
        settings.read(tmp_path, first)


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, small='like = "large"\n')
    with pytest.raises(FileNotFoundError, match=r"large\.toml"):
        settings.read(tmp_path, "small")
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        settings.read(tmp_path, "none")


@pytest.mark.parametrize("content", [b"[01_x\n", b"images = \n", b"\xff\xfe", b"<<<<<<< HEAD\n"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mini.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"mini\.toml is no TOML \(.+\): mend it, or restore it"):
        settings.read(tmp_path, "mini")
