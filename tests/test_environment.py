"""The environment files agree with one another and with what is installed; the Makefile does what it says."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from torchvision.ops import nms
from typer.main import get_command

from xaikit import __version__
from xaikit.__main__ import app
from xaikit.storage.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def named(requirements: list[str]) -> dict[str, Requirement]:
    """The requirements by name, without the project itself, by which one extra takes in others."""
    found = {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, requirements)}
    return {name: requirement for name, requirement in found.items() if name != PROJECT["name"]}


CORE = named(PROJECT["dependencies"])
EXTRAS = {name: named(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
# No lock has it: onnxruntime and onnxruntime-gpu, which exclude each other, are chosen by the machine.
BY_MACHINE = {"onnx"}
DECLARED = CORE | {
    name: bound for extra, own in EXTRAS.items() if extra not in BY_MACHINE for name, bound in own.items()
}
LOCK_LINES = [
    re.split(r"\s+--hash=sha256:", line)
    for line in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    if not line.startswith("#")
]
LOCK = [Requirement(line) for line, *_ in LOCK_LINES]
# The systems that the lock is for.
SYSTEMS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.7",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": system.lower(),
        "platform_system": system,
        "platform_machine": machine,
        "os_name": "posix",
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
]


def pinned(requirement: Requirement) -> str:
    """The version of an exact pin."""
    (specifier,) = requirement.specifier
    return specifier.version


def lock_for(system: dict[str, str] | None = None) -> dict[str, Requirement]:
    """The lock's lines for a system, by default this one, by name."""
    here = [line for line in LOCK if line.marker is None or line.marker.evaluate(system)]
    found = {canonicalize_name(line.name): line for line in here}
    assert len(found) == len(here), "a package is pinned twice"
    return found


def reachable_from(roots: Iterable[str], system: dict[str, str]) -> set[str]:
    """Names of all packages that the roots need on a system, themselves included, as those installed here say."""
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
            if need.marker is None or need.marker.evaluate(system | {"extra": extra}):
                waiting += [(canonicalize_name(need.name), wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in found}


def test_what_is_said_of_the_project_is_the_same_everywhere():
    """In pyproject.toml, and in the files that citation managers, software catalogues and archives read."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    codemeta, zenodo = (json.loads((ROOT / name).read_text()) for name in ("codemeta.json", ".zenodo.json"))
    changes = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes, "the newest version of CHANGELOG.md has no heading like '## 0.1.0 (2026-11-30)'"
    versions = [
        PROJECT["version"],
        __version__,
        *(each["version"] for each in (citation, codemeta, zenodo)),
        changes[1],
    ]
    assert len(set(versions)) == 1, versions
    dates = [str(citation["date-released"]), codemeta["datePublished"], zenodo["publication_date"], changes[2]]
    assert len(set(dates)) == 1, dates
    assert PROJECT["name"] == codemeta["name"] == citation["title"].partition(":")[0]
    assert citation["title"] == zenodo["title"]
    assert PROJECT["license"] == citation["license"] == zenodo["license"] == codemeta["license"].rpartition("/")[2]
    assert PROJECT["description"] == codemeta["description"] == zenodo["description"] == citation["abstract"]
    authors = [[author["name"] for author in PROJECT["authors"]], [author["name"] for author in citation["authors"]]]
    authors += [[author["name"] for author in each] for each in (codemeta["author"], zenodo["creators"])]
    assert all(each == authors[0] for each in authors), authors
    assert PROJECT["keywords"] == citation["keywords"] == codemeta["keywords"] == zenodo["keywords"]
    assert codemeta["runtimePlatform"].partition(" ")[2] == PROJECT["requires-python"]


def test_the_papers_are_those_that_are_cited_everywhere():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    papers = json.loads((ROOT / "codemeta.json").read_text())["referencePublication"]
    assert [(each["title"], each.get("url")) for each in references] == [
        (each["name"], each.get("url")) for each in papers
    ]
    archived = json.loads((ROOT / ".zenodo.json").read_text())["related_identifiers"]
    assert [each["url"].rpartition("/")[2] for each in references if "url" in each] == [
        each["identifier"].removeprefix("arXiv:") for each in archived
    ]


def test_the_command_that_is_installed_is_the_one_that_python_runs():
    installed = [metadata.EntryPoint(name, value, "console_scripts") for name, value in PROJECT["scripts"].items()]
    assert [(each.name, each.load()) for each in installed] == [("xaikit", app)]


def test_citation_names_the_four_papers():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    first_authors = [reference["authors"][0]["family-names"] for reference in references]
    assert first_authors == ["Koller", "Taghanaki", "Agarwal", "Gandelsman"]


def test_conda_environment_is_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [item["pip"] for item in conda if isinstance(item, dict)] == [["--requirement requirements.lock"]]
    (python,) = [item for item in conda if isinstance(item, str) and item.startswith("python=")]
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])


def test_makefile_accepts_the_pythons_of_pyproject():
    low, high = re.search(r"\((3, \d+)\) <= \S+ <= \((3, \d+)\)", (ROOT / "Makefile").read_text()).groups()
    accepted = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(30) if f"3.{minor}" in accepted]
    assert (low, high) == (f"3, {minors[0]}", f"3, {minors[-1]}")


def test_lock_pins_everything_exactly_and_has_its_hashes():
    for line, *hashes in LOCK_LINES:
        operators = [specifier.operator for specifier in Requirement(line).specifier]
        assert operators == ["=="] and "*" not in line.partition(";")[0] and Requirement(line).url is None, line
        assert hashes and all(re.fullmatch(r"[0-9a-f]{64}", each) for each in hashes), line
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_every_dependency_is_pinned_within_its_bounds():
    for system in SYSTEMS:
        for name, requirement in DECLARED.items():
            assert pinned(lock_for(system)[name]) in requirement.specifier, name


def test_every_pin_is_what_is_installed():
    for name, requirement in lock_for().items():
        assert metadata.version(name) in requirement.specifier, name


def test_lock_has_what_the_dependencies_need_on_every_system_and_nothing_else_here():
    for system in SYSTEMS:
        assert reachable_from(DECLARED, system) <= set(lock_for(system)), system
    assert set(lock_for()) <= reachable_from(DECLARED, default_environment())


def test_libraries_of_gpus_are_for_linux_alone():
    libraries = re.compile("(cuda|nvidia)-|triton$")
    found = [[name for name in lock_for(system) if libraries.match(name)] for system in SYSTEMS]
    assert all(bool(names) == (system["sys_platform"] == "linux") for names, system in zip(found, SYSTEMS, strict=True))


def test_torch_and_torchvision_belong_together():
    needs = {r.name: r for r in map(Requirement, metadata.requires("torchvision"))}
    assert pinned(lock_for()["torch"]) in needs["torch"].specifier
    # torchvision's compiled operators load only beside the torch that they were built for.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    assert nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]


def imported_names(tree: ast.AST) -> set[str]:
    """Top-level names that are imported somewhere in a tree."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def imported_packages(folder: Path) -> set[str]:
    """Top-level names that the scripts below a folder import, in functions too."""
    names = set()
    for path in folder.rglob("*.py"):
        lines = path.read_text().splitlines()
        names |= imported_names(ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines)))
    local = {path.stem for path in folder.rglob("*.py")} | {"xaikit", "tests", "benchmarks", "docs"}
    return names - set(sys.stdlib_module_names) - local


# Not declared: its own pins would take numpy, Pillow and torch years back. Who wants faces found installs it by hand.
BY_HAND = {"easyocr", "facenet_pytorch"}


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def providers(name: str) -> set[str]:
    """The packages that an imported name may come from."""
    return {canonicalize_name(each) for each in distributions().get(name, [name])}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("xaikit", CORE | EXTRAS["notebooks"] | EXTRAS["paper"] | EXTRAS["slurm"] | EXTRAS["onnx"]),
        ("notebooks", CORE | EXTRAS["notebooks"]),
        ("benchmarks", CORE),
        ("tests", DECLARED | EXTRAS["onnx"]),
    ],
)
def test_what_is_imported_is_declared(folder: str, allowed: dict[str, Requirement]):
    for name in imported_packages(ROOT / folder) - BY_HAND:
        assert providers(name) & set(allowed), name


def guarded_imports(tree: ast.AST) -> dict[str, set[str]]:
    """The top-level names that are imported within `with extra(...)`, by the name of the extra."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        call = node.items[0].context_expr if isinstance(node, ast.With) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "extra":
            found.setdefault(ast.literal_eval(call.args[0]), set()).update(imported_names(node))
    return found


def test_what_the_core_lacks_is_imported_by_the_name_of_its_extra():
    used: set[str] = set()
    for path in (ROOT / "xaikit").rglob("*.py"):
        tree = ast.parse(path.read_text())
        guarded = guarded_imports(tree)
        for extra, names in guarded.items():
            for name in names:
                assert providers(name) & set(EXTRAS[extra]), f"{path} says that {name} comes with {extra}"
        outside = imported_names(tree) - set().union(*guarded.values()) - set(sys.stdlib_module_names)
        for name in outside - BY_HAND - {"xaikit"}:
            assert providers(name) & set(CORE), f"{path} imports {name} outside of extra(...)"
        used |= set(guarded)
    assert used == {"notebooks", "paper", "slurm", "onnx"}


WITHOUT_EXTRAS = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import xaikit
for module in pkgutil.walk_packages(xaikit.__path__, "xaikit."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error)
"""


def test_without_the_extras_all_imports_but_what_needs_them_whole():
    brought = set(EXTRAS["notebooks"] | EXTRAS["paper"] | EXTRAS["slurm"] | EXTRAS["onnx"])
    missing = {name for name, by in distributions().items() if set(map(canonicalize_name, by)) & brought}
    code = WITHOUT_EXTRAS.format(missing=missing)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    failed = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(failed) == {
        "xaikit.companion.course", "xaikit.companion.execute", "xaikit.companion.slides", "xaikit.companion.submit",
    }  # fmt: skip
    assert failed["xaikit.companion.execute"] == (
        "nbformat is not installed: pip install 'xaikit[notebooks]' brings it."
    )


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
  "-m xaikit run")
    [ ! -e $here/broken-$4 ] || exit 1
    mkdir -p figures/mini/$4 build/mini && touch figures/mini/$4/numbers.json build/mini/$4.stamp ;;
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
        hidden = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PROFILE", "PYTHON", "TORCH_INDEX")
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
    return [call.split()[3] for call in calls if call.startswith("-m xaikit run 0")]


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
    assert calls[-1].startswith("-m xaikit report --profile mini") and "Nothing to be done" not in output
    copy.age()
    status, output, calls = copy.make(jobs, "figures")
    assert (status, notebooks_run(calls), installs(calls)) == (0, [], 0)
    assert "Nothing to be done" in output


@pytest.mark.parametrize("jobs", ["-j1", "-j2"])
def test_figures_reports_the_others_where_one_fails(copy: Copy, jobs: str):
    (copy.folder / "broken-01_one").touch()
    status, _, calls = copy.make(jobs, "figures")
    assert status != 0
    assert sorted(notebooks_run(calls)) == ["01_one", "02_two"]
    assert calls[-1].startswith("-m xaikit report --profile mini")
    assert copy.make("01_one")[0] != 0 and copy.make("02_two")[0] == 0
    status, _, calls = copy.make(jobs, "figures")
    assert status != 0 and notebooks_run(calls) == ["01_one"] and "xaikit report" in calls[-1]
    (copy.folder / "broken-01_one").unlink()
    assert copy.make(jobs, "figures")[0] == 0


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
    assert calls[-1] == "-m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder PROFILE="


def test_help_names_every_target(copy: Copy):
    status, output, calls = copy.make()
    listed = {
        heading.strip(): re.findall(r"^  make ([\w-]+) +\S", lines, re.MULTILINE)
        for heading, lines in re.findall(r"^(\S.*|)\n((?:  make .*\n)+)", "\n" + output, re.MULTILINE)
    }
    assert (status, calls) == (0, [])
    assert listed == {
        "": ["help"],
        "See results": ["figures", "review", "site", "notebooks"],
        "Try a notebook": ["smoke", "lab", "01_one", "02_two"],
        "Check": [
            "test",
            "test-fast",
            "test-lowest",
            "gpu",
            "pretend-gpu",
            "rehearse",
            "check",
            "audit-deps",
            "chaos",
            "bench",
        ],
        "Change things": ["setup", "format", "models", "accept", "lock", "site-lock", "clean"],
        "The papers' own models and data": ["data"],
    }
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    phony = phony.replace("\\\n", " ").split()
    assert {*phony} - {"$(NOTEBOOKS)", "FORCE"} == {
        name for names in listed.values() for name in names if not name[0].isdigit()
    }


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("data", "download --profile paper"),
        ("accept", "accept --profile paper"),
        ("notebooks", "notebooks"),
        ("models", "train-models"),
        ("lab", "lab"),
        ("smoke", "smoke"),
        ("review", "review --profile paper"),
    ],
)
def test_targets_give_the_command_what_it_takes(copy: Copy, target: str, call: str):
    _, _, calls = copy.make(target, "PROFILE=paper")
    asked = calls[-1].removesuffix(" PROFILE=")
    assert asked == f"-m xaikit {call}"
    context = get_command(app).make_context("xaikit", call.split())
    name, command, arguments = context.command.resolve_command(context, call.split())
    command.make_context(name, arguments, parent=context)


# ---- torch from an index of its own: folders of tiny wheels in place of the indexes ----

PROJECT_IN_SMALL = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import shutil

def build_editable(folder, config_settings=None, metadata_directory=None):
    return shutil.copy("xaikit-1-py3-none-any.whl", folder).rpartition("/")[2]
"""


def tiny_wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    """A wheel of one line, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return wheel


def in_index(index: Path, name: str, version: str, *needs: str) -> str:
    """Put a tiny wheel into an index; the result is its line in a lock."""
    wheel = tiny_wheel(index / canonicalize_name(name), name, version, *needs)
    page = wheel.with_name("index.html")
    before = page.read_text() if page.exists() else ""
    page.write_text(f'{before}<a href="{quote(wheel.name)}">{wheel.name}</a>\n')
    return f"{canonicalize_name(name)}=={version} \\\n    --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


class Indexes:
    """A checkout in small with an ordinary index, whose wheels its lock has, and one of other builds of torch."""

    def __init__(self, folder: Path):
        self.folder, self.ordinary, self.other = folder / "checkout", folder / "ordinary", folder / "other"
        for name in ("xaikit", "notebooks"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        (self.folder / "pyproject.toml").write_text(PROJECT_IN_SMALL)
        (self.folder / "backend.py").write_text(BACKEND)
        tiny_wheel(self.folder, "xaikit", "1")
        lock = [
            in_index(self.ordinary, "alone", "1.5"),
            in_index(self.ordinary, "nvidia_cuda", "13.0"),
            in_index(self.ordinary, "torch", "2.15.0", "nvidia-cuda", "alone"),
            in_index(self.ordinary, "torchvision", "0.29.2", "torch==2.15.0"),
        ]
        (self.folder / "requirements.lock").write_text("# Some words about it.\n" + "".join(lock))
        in_index(self.other, "alone", "9.0")
        in_index(self.other, "torch", "2.16.0+cpu", "alone")
        in_index(self.other, "torch", "2.15.0+cpu", "alone")
        in_index(self.other, "torchvision", "0.29.2+cpu", "torch==2.15.0")

    def setup(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of `make setup`."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))
        }
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.ordinary.as_uri()}
        done = subprocess.run(
            ["make", "setup", f"PYTHON={sys.executable}", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def installed(self) -> dict[str, str]:
        folders = self.folder.glob(".venv/lib/python*/site-packages/*.dist-info")
        found = dict(folder.name.removesuffix(".dist-info").split("-", 1) for folder in folders)
        return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}


@pytest.fixture
def indexes(tmp_path: Path) -> Indexes:
    if shutil.which("make") is None:
        pytest.skip("GNU make is not here")
    return Indexes(tmp_path)


def test_torch_comes_from_the_index_that_is_given_and_all_else_from_the_lock(indexes: Indexes):
    rest = {"alone": "1.5", "xaikit": "1"}
    by_cpu = rest | {"torch": "2.15.0+cpu", "torchvision": "0.29.2+cpu"}
    assert indexes.setup(f"TORCH_INDEX={indexes.other.as_uri()}")[0] == 0
    assert indexes.installed() == by_cpu
    assert indexes.setup() == (0, ""), "who gives no index keeps the one there is"
    assert indexes.setup("TORCH_INDEX=")[0] == 0
    assert indexes.installed() == rest | {"nvidia_cuda": "13.0", "torch": "2.15.0", "torchvision": "0.29.2"}


def test_a_file_that_is_not_the_locks_is_refused(indexes: Indexes):
    wheel = next(indexes.ordinary.glob("alone/*.whl"))
    tiny_wheel(wheel.parent, "alone", "1.5", "torch")
    status, output = indexes.setup()
    assert status != 0 and "DO NOT MATCH THE HASHES" in output
    assert indexes.installed() == {} and not (indexes.folder / ".venv/requirements.lock").exists()


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
                    re.search(r"(^|\.)open$", called)
                    and not binary
                    and not re.search(r"^(Image|tarfile)\.open$|build_opener", called)
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
