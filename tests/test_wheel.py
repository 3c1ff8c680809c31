"""What is installed from a wheel has its weights, settings and notebooks with it, and writes where one works."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_notebook import CLAIMS, NOTEBOOK

from xaikit.storage import paths, sources

SHIPPED = "xaikit/shipped"
GIVEN = (
    "data/accepted/*.json",
    "data/*.toml",
    "notebooks/*.py",
    "requirements.lock",
    "figures/full/05_which_explanation/leaderboard.csv",
)
USES = """
import json
from pathlib import Path

import xaikit
from xaikit.companion import profiles, record, run
from xaikit.models.clip import load_clip
from xaikit.storage import paths, sources

clip = load_clip(f"local-dir:{paths.WEIGHTS / 'clip-vit-mini'}")
print(json.dumps({
    "xaikit": xaikit.__file__,
    "features": list(clip.encode_texts(["a red bird"]).shape),
    "settings": list(vars(profiles.load("mini", "01_caption_driven", 0))),
    "published": record.published(next(iter(record._published_numbers(paths.DATA / "published.toml")))),
    "sources": {job.name: sources.notebook_source(job.name, "mini") for job in run.jobs([], "mini")},
    "written": [str(path) for path in (paths.BUILD, paths.FIGURES, paths.CACHE, paths.DATASETS)],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a connection."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, paths.ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def run_in(folder: Path, site: Path, code: str) -> str:
    """What the code prints, run in an empty folder by a Python that finds the wheel's xaikit first."""
    folder.mkdir()
    variables = {**os.environ, "PYTHONPATH": str(site)}
    variables.pop("XAIKIT_CACHE", None), variables.pop("XAIKIT_DATA", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_all_that_is_given_and_nothing_that_is_made(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    suffixes = (".py", ".pyi", ".toml", ".typed", ".html")
    code = [path for path in (paths.ROOT / "xaikit").rglob("*") if path.suffix in suffixes]
    given = [path for pattern in GIVEN for path in paths.ROOT.glob(pattern)]
    given += [path for path in paths.WEIGHTS.rglob("*") if path.is_file()]
    expected = {str(path.relative_to(paths.ROOT)) for path in code}
    expected |= {f"{SHIPPED}/{path.relative_to(paths.ROOT)}" for path in given}
    assert names == expected
    assert {
        "xaikit/py.typed",
        "xaikit/companion/profiles/mini.toml",
        f"{SHIPPED}/data/weights/clip-vit-mini/card.json",
    } <= names


def test_an_installed_xaikit_has_what_it_reads_with_it(installed: Path, tmp_path: Path):
    found = json.loads(run_in(tmp_path / "empty", installed, USES))
    assert Path(found["xaikit"]).is_relative_to(installed)
    assert found["features"][0] == 1 and found["settings"] and isinstance(found["published"], float)
    assert all(Path(path).is_relative_to(tmp_path / "empty") for path in found["written"])
    checkout = {path.stem: path for path in paths.NOTEBOOKS.glob("[0-9]*.py")}
    assert found["sources"] == {name: sources.notebook_source(name, "mini") for name in checkout}
    assert not list((tmp_path / "empty").iterdir())


def test_an_installed_xaikit_runs_a_notebook_and_writes_to_the_current_folder(installed: Path, tmp_path: Path):
    (installed / SHIPPED / "notebooks" / "01_small.py").write_text(NOTEBOOK.replace("build/runs.txt", "runs.txt"))
    stated = installed / SHIPPED / "data" / "claims.toml"
    stated.write_text(stated.read_text(encoding="utf-8") + CLAIMS, encoding="utf-8")
    settings = installed / "xaikit" / "companion" / "profiles" / "mini.toml"
    settings.write_text(settings.read_text() + "\n[01_small]\nimages = 3\n")
    before = {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
    work = tmp_path / "empty"
    run_in(work, installed, "from xaikit.companion.run import run_notebook; run_notebook('01_small')")
    assert (work / "figures" / "mini" / "01_small" / "numbers.json").exists()
    assert {path.name for path in work.iterdir()} == {"build", "figures", "runs.txt"}
    assert {path for path in installed.rglob("*") if "__pycache__" not in path.parts} == before


def test_what_changes_the_repository_is_refused_elsewhere(installed: Path, tmp_path: Path):
    code = (
        "from xaikit.companion.accept import accept\ntry:\n    accept('mini')\nexcept RuntimeError as e:\n    print(e)"
    )
    said = run_in(tmp_path / "empty", installed, code)
    assert said == "Numbers are accepted only in a checkout: clone the repository and do it there.\n"
