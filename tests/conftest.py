"""Fixtures that several tests share."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from jaxtyping import install_import_hook

import xaikit.arguments  # noqa: F401 - as users have it: the hook would check each step of its checks

# Shapes and types of all calls are checked. (Its option for pytest refuses a package of which a module is loaded.)
install_import_hook("xaikit", "beartype.beartype")

import seconds_taken  # noqa: E402
from small_notebook import CLAIMS, NOTEBOOK  # noqa: E402

from xaikit.companion import plots, report, run  # noqa: E402
from xaikit.companion.notes import Notes  # noqa: E402
from xaikit.companion.record import Record  # noqa: E402
from xaikit.storage import arithmetic, paths, side_by_side  # noqa: E402

SECONDS = paths.BUILD / "seconds_of_tests.json"
BEGAN = pytest.StashKey[float | None]()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves anything in the checkout's cache, or finds anything there."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("XAIKIT_OUT", raising=False)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that ship were trained in bfloat16 where a CPU has it. Tests must not depend on that, nor wait for it:
    without AVX-512, as the portable arithmetic has it, libraries emulate it."""
    for name in ("captioner", "clip_vit_mini", "generator"):
        if module := sys.modules.get(f"xaikit.models.{name}"):
            monkeypatch.setattr(module, "training_precision", arithmetic.training_precision)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done side by side is done here: other processes take seconds to start, for each test anew, and check no
    shapes and types. Tests of such processes ask for two cores."""
    monkeypatch.setattr(side_by_side, "cores", lambda: 1)


@pytest.fixture(scope="session", autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No test writes into the checkout; what the notebooks' runs leave in figures/ is theirs."""
    before = _not_in_git()
    yield
    left = sorted(_not_in_git() - before)
    assert not left, f"tests have left these in the checkout: {', '.join(left)}; write to tmp_path."


def _not_in_git() -> set[str]:
    """Files of the checkout that git neither has nor ignores; none where this is no checkout of git."""
    listed = ["git", "ls-files", "--others", "--exclude-standard", "-z", "--", ":!figures"]
    try:
        found = subprocess.run(listed, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(found.stdout.split("\0")) - {""}


@pytest.fixture
def style() -> Iterator[None]:
    """Figures as the notebooks draw them, of which none stays open."""
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture
def note(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """The notes of the notebook that a module of tests names, NOTEBOOK and PAPER; `noted` says what they hold."""
    monkeypatch.setenv("XAIKIT_OUT", str(tmp_path))
    return Notes(Record(request.module.NOTEBOOK, "mini", 3), request.module.PAPER)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say first what is run before the tests of the notebooks can be, and how long all of it may take."""
    if hasattr(session.config, "workerinput"):
        return
    asked, otherwise, first = _asked(session.config), "", ""
    places = [Path(argument.partition("::")[0]).resolve() for argument in session.config.args]
    if any(Path(__file__).with_name("companion").joinpath("test_notebooks.py").is_relative_to(path) for path in places):
        first = report.to_run(run.jobs([], "mini"))
        otherwise = "The tests themselves take about 20 minutes on two cores."
    if words := f"{first} {seconds_taken.said(asked, SECONDS, otherwise)}".strip():
        print(words)
    session.config.stash[BEGAN] = time.monotonic() if "Runs first" not in first else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep how long it took, where all that was asked for was run and no notebook was run with it."""
    began = session.config.stash.get(BEGAN, None)
    if began is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        seconds_taken.keep(_asked(session.config), time.monotonic() - began, SECONDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks' runs come first: while one worker is at them, which takes longest, the other does all else."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


def _asked(config: pytest.Config) -> list[str]:
    """What selects the tests, on the command line or by default."""
    chosen = {"-m": config.option.markexpr, "-k": config.option.keyword}
    return [*config.args, *(word for flag, words in chosen.items() if words for word in (flag, words))]


@pytest.fixture
def checkout(tmp_path: Path, small_checkout: Path) -> Path:
    """A checkout in small: this package, one notebook that runs in a second, and a profile for it."""
    shutil.copytree(small_checkout, tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.fixture(scope="session")
def small_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `checkout` is a copy of; nobody changes it."""
    root = tmp_path_factory.mktemp("small") / "checkout"
    shutil.copytree(paths.ROOT / "xaikit", root / "xaikit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "data", "build", "xaikit/companion/profiles"):
        (root / folder).mkdir(exist_ok=True)
    (root / "notebooks" / "01_small.py").write_text(NOTEBOOK)
    (root / "data" / "claims.toml").write_text(CLAIMS)
    (root / "requirements.lock").write_text("numpy==2.0.0\n")
    (root / "xaikit" / "companion" / "profiles" / "mini.toml").write_text("[01_small]\nimages = 3\n")
    (root / "xaikit" / "companion" / "profiles" / "paper.toml").write_text("[01_small]\nimages = 300\n")
    return root
