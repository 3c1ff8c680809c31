import copy
import pickle
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.companion import profiles
from xaikit.companion.run import jobs
from xaikit.storage.paths import ROOT

NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9]*.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mini.toml").write_text(
        "[common]\nthreads = 2\nimages = 9\n"
        "[01_x]\nimages = 3\ngrid = [[1, 2], [3, 4]]\n[01_x.standalone]\nepochs = 5\n[02_y]\n"
    )
    (tmp_path / "paper.toml").write_text("[01_x]\nimages = 300\n")
    return tmp_path


def test_settings_are_read_by_name(folder: Path) -> None:
    cfg = profiles.load("mini", "01_x", 7, folder)
    assert (cfg.threads, cfg.images, cfg.standalone.epochs) == (2, 3, 5)
    assert cfg.grid == ((1, 2), (3, 4))
    assert (cfg.seed, cfg.profile) == (7, "mini")
    assert cfg.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert profiles.load("mini", "02_y", 0, folder).images == 9
    assert profiles.load("paper", "01_x", 0, folder).images == 300
    assert cfg.as_dict()["standalone"] == {"epochs": 5}
    assert type(cfg.as_dict()["standalone"]) is dict


def test_settings_can_be_copied_but_not_changed(folder: Path) -> None:
    cfg = profiles.load("mini", "01_x", 7, folder)
    assert copy.deepcopy(cfg) == cfg == pickle.loads(pickle.dumps(cfg))
    with pytest.raises(AttributeError, match=r"images is read-only"):
        cfg.images = 4


def test_mistakes_are_named(folder: Path) -> None:
    assert profiles.names(folder) == ["mini", "paper"]
    with pytest.raises(ValueError, match=r"^unknown profile 'huge': choose one of mini, paper$"):
        profiles.load("huge", "01_x", 0, folder)
    with pytest.raises(ValueError, match=r"profile 'mini' has no section '03_z': it has 01_x, 02_y"):
        profiles.load("mini", "03_z", 0, folder)
    cfg = profiles.load("mini", "01_x", 0, folder)
    with pytest.raises(AttributeError, match=r"section '01_x'.standalone has no setting 'epoch': it has epochs"):
        cfg.standalone.epoch  # noqa: B018


def test_prepare_makes_every_generator_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "kept")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        drawn = []
        for seed in (3, 3, 4):
            profiles.prepare(seed)
            drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
        assert drawn[0] == drawn[1]
        assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def test_precisions_are_found_in_every_table_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "mini.toml"
    file.write_text('[01_x]\nprecision = "float32"\n[01_x.train]\nprecision = "bfloat16"\n[01_x.test]\nbatch = 3\n')
    assert profiles.precisions("mini", "01_x", tmp_path) == {"01_x": "float32", "train": "bfloat16"}
    assert profiles.precisions("mini", "02_y", tmp_path) == {}
    file.write_text('[01_x]\nprecision = "half"\n')
    with pytest.raises(ValueError, match="Unknown precision 'half'"):
        profiles.precisions("mini", "01_x", tmp_path)


def test_paper_1_is_trained_in_float32_as_published() -> None:
    assert profiles.precisions("paper", "01_caption_driven") == {}
    assert set(profiles.precisions("mini", "03_vlm_explanations").values()) == {"float32"}


def test_prepare_leaves_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        profiles.prepare(0)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_a_profile_says_whether_it_rehearses_or_one_that_it_is_like(folder: Path) -> None:
    (folder / "rehearsal.toml").write_text('like = "paper"\n[common]\nstand_ins = true\n')
    (folder / "smaller.toml").write_text('like = "rehearsal"\n[01_x]\nimages = 1\n')
    found = {name: profiles.rehearses(name, folder) for name in profiles.names(folder)}
    assert found == {"mini": False, "paper": False, "rehearsal": True, "smaller": True}
    with pytest.raises(ValueError, match=r"^unknown profile 'huge': choose one of mini, paper, rehearsal, smaller$"):
        profiles.rehearses("huge", folder)
    assert {name for name in profiles.names() if profiles.rehearses(name)} == {"rehearsal"}


def test_a_subset_is_a_profiles_or_a_sections_own(folder: Path) -> None:
    (folder / "few.toml").write_text("[common]\nsubset = 9\n[01_x]\nsubset = 2\n[02_y]\n")
    assert profiles.subset("few", "01_x", folder) == 2 and profiles.subset("few", "02_y", folder) == 9
    assert profiles.subset("mini", "01_x", folder) is None and profiles.subset("none", "01_x", folder) is None


def paths_of(table: dict, before: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every setting of a table of tables, as the names that lead to it."""
    found = set()
    for key, value in table.items():
        found |= paths_of(value, (*before, key)) if isinstance(value, dict) else {(*before, key)}
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_smallest_profile_changes_what_mini_has(name: str) -> None:
    mini, smoke = (paths_of(profiles.load(profile, name, 0).as_dict()) for profile in ("mini", "smoke"))
    assert smoke - mini <= {("time_limit",), ("subset",)} and mini <= smoke
    assert profiles.load("smoke", name, 0).as_dict() != profiles.load("mini", name, 0).as_dict()


def test_a_profile_of_some_notebooks_runs_these_alone() -> None:
    assert [job.name for job in jobs((), "full")] == ["05_which_explanation"]
    assert [job.name for job in jobs((), "mini")] == NOTEBOOKS
    ours = (
        "00_start_here",
        "06_audit",
    )  # on the drawn world alone: of the papers' models and data there is nothing in them
    for profile in ("paper", "rehearsal"):
        assert [job.name for job in jobs((), profile)] == [name for name in NOTEBOOKS if name not in ours]
    with pytest.raises(ValueError, match="'full' has no 01_caption_driven: it has 05_which_explanation"):
        jobs(["01_caption_driven"], "full")


def test_make_asks_for_the_notebooks_of_the_profile() -> None:
    for profile in ("full", "mini", "paper", "rehearsal"):
        expected = [job.name for job in jobs((), profile)]
        done = subprocess.run(["make", "-pn", "help", f"PROFILE={profile}"], cwd=ROOT, capture_output=True, text=True)
        (line,) = [each for each in done.stdout.splitlines() if each.startswith("NOTEBOOKS := ")]
        assert sorted(line.split()[2:]) == expected
