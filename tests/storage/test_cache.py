import copy
import dataclasses
import logging
import multiprocessing
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rounding import assert_equal_up_to_rounding
from torch import nn

from xaikit.companion.profiles import Settings
from xaikit.decomposition.decompose import coefficients
from xaikit.metrics import Interval
from xaikit.models.clip import load_from
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage import cache, paths
from xaikit.world import nine

calls: list[dict[str, Any]] = []


def produce(**inputs: Any) -> dict[str, Any]:
    calls.append(inputs)
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    return {
        "text": "words",
        "half": base.to(torch.bfloat16),
        "transposed": base.T,
        "row": base[0],
        "scalar": torch.tensor(3),
        "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.int64),
        "nested": {"numbers": (1, 2.5, None)},
    }


def fail(**inputs: Any) -> dict[str, Any]:
    raise RuntimeError("no luck")


def odd(what: Any) -> dict[str, Any]:
    return {"good": 1, "odd": {"object": object(), "text": np.array(["a"])}[what]}


def slow(folder: str) -> dict[str, Any]:
    with open(f"{folder}/calls.txt", "a") as file:
        file.write("called\n")
    time.sleep(0.3)
    return {"value": 1}


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert list(a) == list(b)
    for key in a:
        assert type(a[key]) is type(b[key])
        if isinstance(a[key], torch.Tensor | np.ndarray):
            assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape
            assert (a[key] == b[key]).all()
        else:
            assert a[key] == b[key]


def files() -> list[Path]:
    return sorted(paths.CACHE.glob("*.safetensors"))


def test_a_hit_gives_what_computing_gave(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = cache.fetch(produce, n=1), cache.fetch(produce, n=1)
    assert len(calls) == len(files()) == 1
    assert_same(first, second)
    expected = produce()
    assert_same(
        {key: value for key, value in first.items() if key != "nested"},
        {key: value for key, value in expected.items() if key != "nested"},
    )
    assert first["nested"] == {"numbers": [1, 2.5, None]}  # json knows no tuples, on the first call either
    assert [record.getMessage().split()[0] for record in caplog.records] == ["computed", "read"]
    first["row"].zero_()  # what a caller does to a result is not kept
    assert_same(cache.fetch(produce, n=1), second)


@dataclasses.dataclass(frozen=True)
class Data:
    image: torch.Tensor
    n: int


def net(seed: int = 0, stride: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=stride), nn.BatchNorm2d(2))


DIFFERENT: dict[str, list[Any]] = {
    "values": [None, True, 1, 1.0, "1", b"1", float("nan")],
    "sequences": [[1, 2], [2, 1], [[1], 2], [1, [2]], []],
    "mappings": [{"a": 1}, {"a": 2}, {"b": 1}, {"a": {"a": 1}}, Settings({"a": 3}, "x")],
    "arrays": [np.zeros(4), np.zeros((2, 2)), np.zeros(8, np.float32), np.array([0, 0, 0, -0.0])],
    "tensors": [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4).int(), torch.zeros(8).half()],
    "modules": [net(), net(seed=1), net(stride=2), net().eval()],
    "dataclasses": [Data(torch.zeros(2), 1), Data(torch.zeros(2), 2), Data(torch.ones(2), 1)],
    "torch": [torch.float32, torch.float16, torch.device("cpu")],
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_each_input_has_its_own_key_and_its_copy_the_same(kind: str) -> None:
    keys = [cache._key(produce, {"x": value}) for value in DIFFERENT[kind]]
    assert len(set(keys)) == len(keys)
    assert keys == [cache._key(produce, {"x": copy.deepcopy(value)}) for value in DIFFERENT[kind]]
    assert keys[0] != cache._key(produce, {"y": DIFFERENT[kind][0]})


def test_paths_count_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    file = tmp_path / "a" / "deep" / "file.txt"
    keys = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        keys.append((cache._key(produce, {"x": file}), cache._key(produce, {"x": tmp_path / "a"})))
    assert keys[0] == keys[2]
    assert all(a != b for a, b in zip(keys[0], keys[1], strict=True))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        cache.fetch(produce, x=tmp_path / "nowhere")


def _load(file: Path) -> Any:
    module = ModuleType("loaded")
    module.__file__ = str(file)
    sys.modules["loaded"] = module
    exec(compile(file.read_text(), file, "exec"), module.__dict__)
    return module.made


def test_the_code_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "loaded", ModuleType("loaded"))
    file = tmp_path / "loaded.py"
    values = []
    for value in ("1", "2", "1)  # (a comment"):
        file.write_text(f"def made():\n    return dict(value={value})\n")
        monkeypatch.setattr(cache, "_text_loaded", {})  # as in a new process
        values.append(cache.fetch(_load(file))["value"])
    assert values == [1, 2, 1]
    assert len(files()) == 2
    stale = _load(file)
    file.write_text("def made():\n    return dict(value=3)\n")
    with pytest.raises(RuntimeError, match=r"loaded\.py was edited after it was loaded: restart Python"):
        cache.fetch(stale)


def test_neither_the_place_of_the_code_nor_what_is_beside_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "loaded", ModuleType("loaded"))
    keys = []
    for name, text in {
        "one": "def made(n):\n    return dict(value=n)\n",
        "two": "import math\ndef other():\n    return 2\ndef made(n: int) -> dict:\n    return dict(value=n)\n",
        "three": "def made(n=0):\n    return dict(value=n)\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        keys.append(cache._key(_load(tmp_path / f"{name}.py"), {"n": 1}))
    assert keys[0] == keys[1] != keys[2]


def test_the_code_of_an_inputs_class_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {
        "module": nn.Sequential(Preprocessed(nn.Identity(), 8, [0.5] * 3, [0.5] * 3)),
        "dataclass": Interval(0.5, 0.4, 0.6, 3),
        "derived": type("Own", (Preprocessed,), {"__module__": "elsewhere"})(nn.Identity(), 8, [0.5] * 3, [0.5] * 3),
    }
    code = cache._code
    for name, value in inputs.items():
        before = cache._key(produce, {"x": value})
        cache._class.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_code", lambda thing: code(thing) + ("edited" if isinstance(thing, type) else ""))
            assert cache._key(produce, {"x": value}) != before, name
        cache._class.cache_clear()
        assert cache._key(produce, {"x": value}) == before


@pytest.mark.parametrize("damage", ["truncate", "flip", "header", "replace", "empty"])
def test_a_damaged_file_is_computed_anew(damage: str) -> None:
    first = cache.fetch(produce, n=1)
    (file,) = files()
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        del content[-5:]
    elif damage == "flip":
        content[-1] ^= 1
    elif damage == "header":
        content[content.index(b"words")] ^= 1
    else:
        content = bytearray(b"no such thing" if damage == "replace" else b"")
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged and is computed anew"):
        again = cache.fetch(produce, n=1)
    assert len(calls) == 2
    assert_same(first, again)
    assert_same(first, cache.fetch(produce, n=1))
    assert len(calls) == 2


def test_errors_leave_nothing() -> None:
    with pytest.raises(RuntimeError, match="no luck"):
        cache.fetch(fail, n=1)
    for what in ("object", "text"):
        with pytest.raises(TypeError, match="odd cannot be cached: its result 'odd' is no tensor, array or json"):
            cache.fetch(odd, what=what)
    assert [file for file in paths.CACHE.iterdir() if file.suffix != ".lock"] == []


def test_what_cannot_be_a_key_is_named() -> None:
    with pytest.raises(TypeError, match=r"produce cannot be cached: its argument 'x' holds an object of type object"):
        cache.fetch(produce, x=[1, object()])
    with pytest.raises(TypeError, match="top of a module"):
        cache.fetch(lambda: {"a": 1})

    def inner() -> dict[str, Any]:
        return {"a": 1}

    with pytest.raises(TypeError, match="inner cannot be cached: make it a function at the top of a module"):
        cache.fetch(inner)
    assert not calls


def _fetch_slow(cache_folder: Path, folder: str) -> None:
    paths.CACHE = cache_folder
    assert cache.fetch(slow, folder=folder) == {"value": 1}


def test_two_processes_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fetch_slow, args=(paths.CACHE, str(tmp_path))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "calls.txt").read_text() == "called\n"


def test_a_forward_pass_is_the_same_within_rounding_in_any_batch_and_on_any_number_of_threads() -> None:
    """As the module says of results that other arithmetics left."""
    images, tower = nine(8, seed=0).images(64), load_from({"weights": "clip-vit-mini"}).image_encoder
    threads, found = torch.get_num_threads(), {}
    try:
        for count, batch in ((1, 1), (1, 8), (2, 1), (2, 8)):
            torch.set_num_threads(count)
            parts = [vars(coefficients(tower, part)) for part in images.split(batch)]
            found[count, batch] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    finally:
        torch.set_num_threads(threads)
    for each in found.values():
        assert_equal_up_to_rounding(each, found[1, 1])
