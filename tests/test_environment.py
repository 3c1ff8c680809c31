"""The environment files agree with one another and with what is installed; the Makefile does what it says."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from xaikit import __version__
from xaikit.storage.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
RUNTIME = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["dependencies"])}
TEST = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["optional-dependencies"]["test"])}
DECLARED = RUNTIME | TEST
LOCK_LINES = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.strip() and not line.startswith("#")
]
LOCK = {canonicalize_name(r.name): r for r in map(Requirement, LOCK_LINES)}
# The system that `make lock` ran on, which its marks and its completeness are relative to.
LOCK_SYSTEM = {
    "python_version": "3.11",
    "python_full_version": "3.11.7",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}


def pinned(requirement: Requirement) -> str:
    """The version of an exact pin."""
    (specifier,) = requirement.specifier
    return specifier.version


def is_for_this_system(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def reachable_from(roots: list[str]) -> set[str]:
    """Names of all packages that the roots need, themselves included, on the system of the lock."""
    found: set[tuple[str, str]] = set()
    waiting = [(name, "") for name in roots]
    while waiting:
        item = waiting.pop()
        if item in found:
            continue
        found.add(item)
        name, extra = item
        try:
            needs = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            if need.marker is None or need.marker.evaluate(LOCK_SYSTEM | {"extra": extra}):
                waiting += [(canonicalize_name(need.name), wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in found}


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == __version__ == citation["version"]


def test_citation_names_the_four_papers():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    first_authors = [reference["authors"][0]["family-names"] for reference in references]
    assert first_authors == ["Koller", "Taghanaki", "Agarwal", "Gandelsman"]


def test_conda_environment_has_the_dependencies_and_bounds_of_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = [item["pip"] for item in conda if isinstance(item, dict)]
    options = [line for line in from_pip if line.startswith("-")]
    requirements = [Requirement(line) for line in from_pip if not line.startswith("-")]
    assert options == ["--constraint requirements.lock", "--editable ."]
    assert {canonicalize_name(r.name): r.specifier for r in requirements} == {
        name: requirement.specifier for name, requirement in DECLARED.items()
    }
    (python,) = [item for item in conda if isinstance(item, str) and item.startswith("python=")]
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])


def test_makefile_accepts_the_pythons_of_pyproject():
    low, high = re.search(r"\((3, \d+)\) <= \S+ <= \((3, \d+)\)", (ROOT / "Makefile").read_text()).groups()
    accepted = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(30) if f"3.{minor}" in accepted]
    assert (low, high) == (f"3, {minors[0]}", f"3, {minors[-1]}")


def test_lock_pins_everything_exactly_and_once():
    for line, requirement in zip(LOCK_LINES, map(Requirement, LOCK_LINES), strict=True):
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == ["=="] and "*" not in line and requirement.url is None, line
    assert len(LOCK) == len(LOCK_LINES)


def test_every_dependency_is_pinned_within_its_bounds():
    for name, requirement in DECLARED.items():
        assert pinned(LOCK[name]) in requirement.specifier, name


def test_every_pin_is_what_is_installed():
    for name, requirement in LOCK.items():
        if is_for_this_system(requirement):
            assert metadata.version(name) in requirement.specifier, name


def test_lock_has_what_the_dependencies_need_and_nothing_else():
    here = {name for name, requirement in LOCK.items() if is_for_this_system(requirement)}
    elsewhere = set(LOCK) - here
    assert here == reachable_from(list(DECLARED)) - elsewhere


def test_torch_and_torchvision_belong_together():
    import torch
    from torchvision.ops import nms

    needs = {r.name: r for r in map(Requirement, metadata.requires("torchvision"))}
    assert pinned(LOCK["torch"]) in needs["torch"].specifier
    # torchvision's compiled operators load only beside the torch that they were built for.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    assert nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]


def imported_packages(folder: Path) -> set[str]:
    """Top-level names that the scripts below a folder import, in functions too."""
    names = set()
    for path in folder.rglob("*.py"):
        lines = path.read_text().splitlines()
        code = "\n".join("" if line.startswith(("%", "!")) else line for line in lines)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    local = {path.stem for path in folder.rglob("*.py")} | {"xaikit", "tests", "benchmarks"}
    return names - set(sys.stdlib_module_names) - local


# Not declared: its own pins would take numpy, Pillow and torch years back. Who wants faces found installs it by hand.
BY_HAND = {"facenet_pytorch"}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [("xaikit", RUNTIME), ("notebooks", RUNTIME), ("benchmarks", DECLARED), ("tests", DECLARED)],
)
def test_what_is_imported_is_declared(folder: str, allowed: dict[str, Requirement]):
    providers = metadata.packages_distributions()
    for name in imported_packages(ROOT / folder) - BY_HAND:
        assert {canonicalize_name(p) for p in providers.get(name, [name])} & set(allowed), name


# ---- the Makefile, in a small copy whose Python only writes down what it is asked ----

FAKE_PYTHON = """#!/bin/sh
here={here}
case "$1 $2" in
  "-c "*) exec {python} -c "import sys; sys.version_info = ({version}); $2" ;;
esac
echo "$* PROFILE=${{PROFILE-}}" >> $here/log
case "$1 $2 $3" in
  "-m venv"*)
    mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "version = {dotted}.1" > .venv/pyvenv.cfg ;;
  "-m pip install") [ ! -e $here/no-network ] ;;
  "-m xaikit.companion.run --"*) ;;
  "-m xaikit.companion.run"*)
    mkdir -p figures/mini/$3 build/mini && touch figures/mini/$3/numbers.json build/mini/$3.stamp ;;
esac
"""


class Copy:
    """A folder with the Makefile, two notebooks and a Python that logs its calls."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "requirements.lock").write_text("torch==1\n")
        (folder / "xaikit").mkdir()
        (folder / "notebooks").mkdir()
        for name in ("01_one", "02_two"):
            (folder / "notebooks" / f"{name}.py").write_text("")
        self.add_python("python3", "3, 11")

    def add_python(self, name: str, version: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            FAKE_PYTHON.format(
                here=self.folder, python=sys.executable, version=version, dotted=version.replace(", ", ".")
            )
        )
        path.chmod(0o755)
        return path

    def make(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Exit status, output and the logged calls of one `make`."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        hidden = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PROFILE", "PYTHON")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout, log.read_text().splitlines() if log.exists() else []

    def age(self, *paths: str) -> None:
        """Date everything back, so that what is written next is newer, then touch `paths`."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                earlier = path.stat().st_mtime - 10
                os.utime(path, (earlier, earlier))
        for path in paths:
            (self.folder / path).touch()


def notebooks_run(calls: list[str]) -> list[str]:
    return [call.split()[2] for call in calls if call.startswith("-m xaikit.companion.run 0")]


def installs(calls: list[str]) -> int:
    return sum("--requirement requirements.lock" in call for call in calls)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    if shutil.which("make") is None:
        pytest.skip("GNU make is not here")
    return Copy(tmp_path)


@pytest.mark.parametrize("jobs", ["-j1", "-j2"])
def test_figures_runs_each_notebook_once(copy: Copy, jobs: str):
    status, output, calls = copy.make(jobs, "figures")
    assert status == 0, output
    assert (sorted(notebooks_run(calls)), installs(calls)) == (["01_one", "02_two"], 1)
    assert "--report" in calls[-1] and "Nothing to be done" not in output
    copy.age()
    status, output, calls = copy.make(jobs, "figures")
    assert (status, notebooks_run(calls), installs(calls)) == (0, [], 0)
    assert "Nothing to be done" in output


def test_one_edited_notebook_runs_alone(copy: Copy):
    copy.make("figures")
    copy.age("notebooks/02_two.py")
    assert notebooks_run(copy.make("figures")[2]) == ["02_two"]


@pytest.mark.parametrize("change", ["remove", "edit"])
def test_a_changed_record_is_made_again(copy: Copy, change: str):
    copy.make("figures")
    copy.age()
    record = copy.folder / "figures/mini/01_one/numbers.json"
    record.unlink() if change == "remove" else record.write_text("{}")
    assert notebooks_run(copy.make("01_one")[2]) == ["01_one"]
    assert record.exists()


def test_venv_follows_the_content_of_the_lock(copy: Copy):
    assert installs(copy.make("setup")[2]) == 1
    copy.age("requirements.lock")
    assert installs(copy.make("setup")[2]) == 0
    (copy.folder / "requirements.lock").write_text("torch==2\n")
    assert installs(copy.make("setup")[2]) == 1
    assert (copy.folder / ".venv/requirements.lock").read_text() == "torch==2\n"


def test_venv_follows_the_python_that_is_asked_for(copy: Copy):
    copy.add_python("python3.12", "3, 12")
    copy.make("setup")
    assert installs(copy.make("setup", "PYTHON=python3.12")[2]) == 1
    assert installs(copy.make("setup")[2]) == 0, "who asks for none keeps the one there is"
    copy.add_python("../.venv/bin/python", "3, 13")
    assert installs(copy.make("setup")[2]) == 1, "the interpreter was replaced below its packages"


def test_an_installation_cut_short_is_made_again(copy: Copy):
    (copy.folder / "no-network").touch()
    status, _, calls = copy.make("test")
    assert status != 0 and not any("pytest" in call for call in calls)
    (copy.folder / "no-network").unlink()
    assert installs(copy.make("test")[2]) == 1


@pytest.mark.parametrize("python", ["python3.9", "nowhere"])
def test_a_python_that_will_not_do_is_named(copy: Copy, python: str):
    copy.add_python("python3.9", "3, 9")
    status, output, _ = copy.make("setup", f"PYTHON={python}")
    assert status != 0 and output.startswith(f"{python} is not a Python from 3.11 to 3.14")
    assert not (copy.folder / ".venv").exists()


def test_the_profile_stays_out_of_the_tests(copy: Copy):
    _, _, calls = copy.make("test", "PROFILE=paper")
    assert calls[-1] == "-m pytest PROFILE="


def test_help_names_every_target(copy: Copy):
    status, output, calls = copy.make()
    targets = "help setup figures models data notebooks lab test accept check format bench lock clean"
    assert (status, calls) == (0, [])
    assert re.findall(r"^  make (\w+)", output, re.MULTILINE) == [*targets.split(), "01_one", "02_two"]


def test_texts_are_read_and_written_as_utf_8_everywhere() -> None:
    """Without an encoding Python takes the one of the machine."""
    lacking = []
    for file in (file for folder in ("xaikit", "notebooks", "benchmarks") for file in (ROOT / folder).rglob("*.py")):
        lines = file.read_text(encoding="utf-8").split("\n")
        for call in ast.walk(ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines))):
            if isinstance(call, ast.Call) and "encoding" not in {keyword.arg for keyword in call.keywords}:
                words = [word.value for word in ast.walk(call) if isinstance(word, ast.Constant)]
                binary = any(isinstance(word, str) and word in ("rb", "wb", "ab") for word in words)
                called = ast.unparse(call.func)
                if re.search(r"\.read_text$|\.write_text$", called) or (
                    re.search(r"(^|\.)open$", called) and not binary and called not in ("Image.open", "tarfile.open")
                ):
                    lacking.append(f"{file.relative_to(ROOT)}:{call.lineno} {called}")
    assert lacking == []


def test_captions_and_pools_are_read_under_a_c_locale(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("a café\n", encoding="utf-8")
    code = (
        "from pathlib import Path; from xaikit.storage.files import write_text; "
        "write_text(Path('again.txt'), Path('pool.txt').read_text(encoding='utf-8')); "
        "from xaikit.texplain.words import words_of; "
        "assert 'caf\\u00e9' in words_of(Path('again.txt').read_text(encoding='utf-8'))"
    )
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:xaikit", "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
