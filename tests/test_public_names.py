"""Every public name is one import away, costs nothing before, says what it takes and raises, and shows it."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import xaikit
from xaikit.storage.paths import ROOT

STUBS = sorted((ROOT / "xaikit").rglob("*.pyi"))
FOLDERS = [name for name in xaikit.__all__ if (ROOT / "xaikit" / name).is_dir()]
NAMES = [name for name in xaikit.__all__ if name not in FOLDERS]
named = pytest.mark.parametrize("name", NAMES)
METHODS = tuple(f"xaikit.{name}." for name in ("surgery", "texplain", "perturbation", "decomposition", "saliency"))
SOURCE = r"Eq\. \d|[Ss]ection \d|Algorithm \d|\((19|20)\d\d"
MOST_LINES = 6  # of an example, not counting its imports


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ---- imports ----


@pytest.mark.parametrize("stub", STUBS, ids=[stub.parent.name for stub in STUBS])
def test_a_stub_hands_on_what_its_modules_hold(stub: Path) -> None:
    folder = ".".join(stub.parent.relative_to(ROOT).parts)
    package = importlib.import_module(folder)
    imports = [statement for statement in ast.parse(stub.read_text()).body if isinstance(statement, ast.ImportFrom)]
    for statement in imports:
        (alias,) = statement.names
        assert alias.asname == alias.name, "type checkers take a name without `as` for private"
        if statement.module:
            module = importlib.import_module(f"{folder}.{statement.module}")
            assert getattr(package, alias.name) is getattr(module, alias.name)
        else:
            assert isinstance(getattr(package, alias.name), ModuleType)
    assert len(imports) == len(package.__all__) and set(package.__all__) <= set(dir(package))


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(ImportError, match="decomposed"):
        from xaikit import decomposed  # noqa: F401, PLC0415


def test_importing_the_package_loads_no_library_and_a_data_set_no_models() -> None:
    loaded = "import sys; {}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    assert not {"torch", "numpy", "scipy"} & set(fresh(loaded.format("import xaikit")).split())
    assert not {"torch", "numpy"} & set(fresh(loaded.format("import xaikit; dir(xaikit)")).split())
    photographs = set(fresh(loaded.format("from xaikit import read_class_folders")).split())
    assert "torch" in photographs
    assert not {"transformers", "diffusers", "open_clip", "timm", "torchvision", "scipy"} & photographs


def test_a_function_is_not_hidden_by_its_module() -> None:
    """Whatever is imported first; anew each time, all in one interpreter."""
    code = """
import sys
for name in ("decompose", "textspan"):
    for before in (
        f"import xaikit.decomposition.{name}",
        f"from xaikit.decomposition import store",
        f"from xaikit.decomposition.{name} import {name}",
        f"from xaikit import {name}; import xaikit.decomposition.{name}",
        f"import xaikit; xaikit.decomposition; import xaikit.decomposition.{name}",
    ):
        for module in [each for each in sys.modules if each.partition(".")[0] == "xaikit"]:
            del sys.modules[module]
        exec(f"{before}; from xaikit.decomposition import {name} as a; from xaikit import {name} as b")
        assert a is b and callable(a) and a.__name__ == name, (before, name)
print("right")
"""
    assert fresh(code) == "right"


# ---- docstrings ----


def said_of(item: Callable[..., object]) -> str:
    """The docstring of a function, or of a class with those of its methods."""
    methods = vars(item).values() if inspect.isclass(item) else ()
    of_methods = (inspect.getdoc(getattr(method, "__func__", method)) or "" for method in methods)
    return "\n".join([inspect.getdoc(item) or "", *of_methods])


def takes_tensors(item: Callable[..., object]) -> bool:
    """Whether it, or for a class one of its methods, has an argument with a shape."""
    functions = [item, *(vars(item).values() if inspect.isclass(item) else ())]
    found = [getattr(function, "__func__", function) for function in functions]
    annotations = [
        annotation
        for function in found
        if callable(function) and hasattr(function, "__annotations__")
        for key, annotation in inspect.get_annotations(function).items()
        if key != "return"
    ]
    return any("Tensor" in str(annotation) or hasattr(annotation, "dims") for annotation in annotations)


@named
def test_the_docstring_says_what_it_is_and_raises(name: str) -> None:
    item = getattr(xaikit, name)
    first, *rest = (inspect.getdoc(item) or "").split("\n")
    assert first.endswith((".", "?")) and (not rest or not rest[0]), "one line of purpose, and then a blank one"
    if takes_tensors(item):
        assert "raise" in said_of(item).lower(), "a function of tensors says what it raises"
    if item.__module__.startswith(METHODS):
        assert re.search(SOURCE, inspect.getdoc(item) or ""), "a method says which equation, section or paper it is"


@named
def test_every_tensor_has_its_shape(name: str) -> None:
    item = getattr(xaikit, name)
    signature = inspect.signature(item)
    for parameter in signature.parameters.values():
        bare = parameter.annotation is torch.Tensor
        assert not bare, f"{parameter.name} is a tensor of no shape"
    assert signature.return_annotation is not torch.Tensor


# ---- examples ----


@named
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = getattr(xaikit, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(item, name, globs={})
    assert test.examples, f"{name} has no example"
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)


@named
def test_the_example_is_short_and_shows_the_name(name: str) -> None:
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(xaikit, name)) or "")
    sources = [example.source for example in examples]
    lines = [line for source in sources if not source.startswith(("import ", "from ")) for line in source.splitlines()]
    assert len(lines) <= MOST_LINES
    assert any(f"{name}(" in line or f"{name}." in line for line in lines)
    assert any(source.startswith("from xaikit import") and name in source for source in sources)
    assert any(example.want for example in examples)
