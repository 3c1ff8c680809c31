import copy
import dataclasses
import errno
import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from rounding import assert_equal_up_to_rounding
from torch import nn

from xaikit.companion.profiles import Settings
from xaikit.decomposition.decompose import coefficients
from xaikit.metrics import Interval
from xaikit.models.captioner import load_captioner
from xaikit.models.clip import load_from
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage import cache, keys, paths
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
        monkeypatch.setattr(keys, "_text_loaded", {})  # as in a new process
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
    code = keys.code_of
    for name, value in inputs.items():
        before = cache._key(produce, {"x": value})
        keys._code_of_class.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(keys, "code_of", lambda thing: code(thing) + ("edited" if isinstance(thing, type) else ""))
            assert cache._key(produce, {"x": value}) != before, name
        keys._code_of_class.cache_clear()
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


# --- what counts --------------------------------------------------------------------------------------------------

NOTEBOOK = """
import torch
from torch import nn

POWER = {power}

def raised(x, by=2):
    return x ** by + POWER

class Net(nn.Module):
    SCALE = {scale}

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.times = {times}
        self.register_buffer("mask", torch.full((2,), {mask}), persistent=False)

    def forward(self, x):
        return raised(self.layer(x)) {operator} self.times * self.SCALE
"""
SETTINGS = {"power": 1, "scale": 3, "times": 2, "mask": 0.0, "operator": "*"}


def net_of_a_notebook(**changes: Any) -> nn.Module:
    """A module of a class without a file, as a cell of a notebook makes it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(NOTEBOOK.format(**SETTINGS | changes), "<cell>", "exec"), names)
    torch.manual_seed(0)
    return names["Net"]()


CHANGES = [{"power": 5}, {"scale": 4}, {"times": 7}, {"mask": 1.0}, {"operator": "+"}]


def test_all_that_a_notebooks_class_reaches_is_part_of_the_key() -> None:
    keys_ = [cache._key(produce, {"x": net_of_a_notebook(**changes)}) for changes in [{}, *CHANGES]]
    assert len(set(keys_)) == len(keys_)
    assert keys_[0] == cache._key(produce, {"x": net_of_a_notebook()})
    lines_above = NOTEBOOK.replace("POWER =", "\n\n# a comment\nPOWER =").format(**SETTINGS)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(lines_above, "<another cell>", "exec"), names)
    torch.manual_seed(0)
    assert keys_[0] == cache._key(produce, {"x": names["Net"]()})


def changed(change: str) -> nn.Module:
    made = net_of_a_notebook()
    match change:
        case "parameter":
            made.layer.bias.data[0] += 1
        case "buffer":
            made.mask[0] = 9.0
        case "attribute":
            made.times = 2.0
        case "attribute of a part":
            made.layer.note = ("a", {"b": 1})
        case "frozen":
            made.layer.bias.requires_grad = False
        case "mode of a part":
            made.layer.eval()
        case "dtype":
            made.double()
        case "hook":
            made.layer.register_forward_hook(doubling)
        case "class as attribute":
            made.act = nn.ReLU
        case "function as attribute":
            made.act = doubling
        case "closure":
            made.act = scaled_by(2)
        case "other closure":
            made.act = scaled_by(3)
        case "method replaced":
            made.forward = made.layer.forward
        case "settings":
            made.config = Plain(1)
        case "other settings":
            made.config = Plain(2)
        case "order of layers":
            made.layers = nn.Sequential(nn.ReLU(), nn.Tanh())
        case "other order of layers":
            made.layers = nn.Sequential(nn.Tanh(), nn.ReLU())
    return made


def doubling(*given: Any) -> Any:
    return given[-1] * 2


def scaled_by(factor: int) -> Any:
    return lambda x: x * factor


class Plain:
    def __init__(self, value: int) -> None:
        self.value = value


CASES = (
    "nothing", "parameter", "buffer", "attribute", "attribute of a part", "frozen", "mode of a part", "dtype", "hook",
    "class as attribute", "function as attribute", "closure", "other closure", "method replaced", "settings",
    "other settings", "order of layers", "other order of layers",
)  # fmt: skip


def test_the_whole_state_of_a_module_is_part_of_the_key() -> None:
    found = {case: cache._key(produce, {"x": changed(case)}) for case in CASES}
    assert len(set(found.values())) == len(CASES)
    assert found == {case: cache._key(produce, {"x": changed(case)}) for case in CASES}


def test_the_kind_of_device_counts_and_not_its_number() -> None:
    first, second, other = (cache._key(produce, {"x": torch.device(name)}) for name in ("cuda:0", "cuda:1", "cpu"))
    assert first == second != other


def test_a_librarys_classes_count_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache._key(produce, {"x": nn.ReLU})
    monkeypatch.setattr(torch, "__version__", "99")
    assert keys.digest(nn.ReLU) != before and cache._key(produce, {"x": nn.ReLU}) != before


def test_another_process_has_the_same_key(tmp_path: Path) -> None:
    """Hashes of strings, addresses and the place of a model differ there."""
    script = (
        "from xaikit.storage import keys\nfrom xaikit.models import captioner\n"
        "import sys\nprint(keys.digest(captioner.load_captioner(sys.argv[1]).language.decoder))"
    )
    folder = shutil.copytree(paths.WEIGHTS / "captioner-mini", tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=paths.ROOT, env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = load_captioner(str(paths.WEIGHTS / "captioner-mini")).language.decoder
    assert done.stdout.strip() == keys.digest(here)


class Holder(nn.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (threading.Lock(), "an object of type lock"),
        (torch.Generator(), "an object of type Generator"),
        (iter([1]), "an object of type list_iterator"),
        (torch.zeros(2, device="meta"), "tensor on the device meta"),
        (np.array([object()]), "an object of type ndarray"),
    ],
    ids=["lock", "generator", "iterator", "meta", "objects"],
)
def test_what_a_module_holds_and_has_no_hash_is_named(held: Any, named: str) -> None:
    for value, where in ((held, ""), (nn.Sequential(Holder(held)), ", as 'held' of a Holder")):
        with pytest.raises(TypeError, match=f"its argument 'x' holds .*{re.escape(named)}{where}"):
            cache.fetch(produce, x=value)
    with pytest.raises(TypeError, match="a compiled or scripted"):
        cache.fetch(produce, x=torch.compile(nn.Identity()))
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(TypeError, match="something that holds itself"):
        cache.fetch(produce, x=itself)
    assert not calls


# --- where results lie ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_results_are_readable_as_the_umask_says(mask: int) -> None:
    before = os.umask(mask)
    try:
        cache.fetch(produce, n=1)
    finally:
        os.umask(before)
    assert [file.stat().st_mode & 0o777 for file in files()] == [0o666 & ~mask]


def test_a_shared_cache_below_is_read_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.fetch(produce, n=1)
    shared = paths.CACHE.rename(tmp_path / "shared")
    before = {path: path.stat().st_size for path in shared.iterdir()}
    monkeypatch.setattr(paths, "SHARED_CACHE", shared)
    shared.chmod(0o555)
    assert_same(cache.fetch(produce, n=1), first)
    assert len(calls) == 1 and not files()
    cache.fetch(produce, n=2)
    assert len(calls) == 2 and len(files()) == 1
    assert {path: path.stat().st_size for path in shared.iterdir()} == before
    shared.chmod(0o755)
    (damaged,) = shared.glob("*.safetensors")
    damaged.write_bytes(b"no such thing")
    with pytest.warns(UserWarning, match="shared.* is damaged and is computed anew"):
        assert_same(cache.fetch(produce, n=1), first)


@pytest.mark.parametrize(
    ("number", "named"), [(errno.EROFS, "Read-only"), (errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota")]
)
def test_what_cannot_be_kept_is_said_and_returned(number: int, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "save_file", refuse)
    with pytest.warns(UserWarning, match=f"produce cannot be kept and will be computed again: .*{named}"):
        result = cache.fetch(produce, n=1)
    assert [path for path in paths.CACHE.iterdir() if path.suffix != ".lock"] == []
    monkeypatch.undo()
    monkeypatch.setattr(paths, "CACHE", paths.CACHE)
    assert result["text"] == "words"


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """The kernel's own limit of a file's size stands for the disk; safetensors calls it an error of its own."""
    script = (
        "import resource, signal, sys, torch\nfrom pathlib import Path\nfrom xaikit.storage import cache\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
        "try:\n    cache.write(Path(sys.argv[1]), 'a translator', {'a': torch.zeros(9999)})\n"
        "except OSError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.safetensors"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert "a.safetensors cannot be written: " in done.stdout and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS, errno.EACCES])
def test_a_file_system_without_locks_will_do(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    first = cache.fetch(produce, n=1)
    assert_same(cache.fetch(produce, n=1), first)
    assert len(calls) == 1
    with pytest.raises(OSError), monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        cache.fetch(produce, n=2)


def test_two_machines_that_share_a_folder_never_write_to_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of two machines may have one number."""
    parts: list[Path] = []
    save = cache.save_file
    monkeypatch.setattr(
        cache, "save_file", lambda tensors, part, about: parts.append(part) or save(tensors, part, about)
    )
    for n in (1, 1):
        cache.fetch(produce, n=n)
        for file in files():
            file.unlink()
    assert len(set(parts)) == 2


def test_the_cache_stays_below_its_bound(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(5):
        cache.fetch(produce, n=n)
    by_call = {n: cache.path_of(produce, {"n": n}) for n in range(6)}
    for n in range(5):
        os.utime(by_call[n], (n, n))
    cache.fetch(produce, n=0)  # asked for again
    size = by_call[0].stat().st_size
    monkeypatch.setenv("XAIKIT_CACHE_GB", str(3.5 * size / 1e9))
    left = paths.CACHE / ".old.part"
    left.touch()
    os.utime(left, (0, 0))
    cache.fetch(produce, n=5)
    assert {n for n, path in by_call.items() if path.exists()} == {0, 4, 5} and not left.exists()
    assert "removed the 3 results that were not asked for longest" in caplog.text
    monkeypatch.setenv("XAIKIT_CACHE_GB", "0")
    cache.fetch(produce, n=6)
    assert files() == [cache.path_of(produce, {"n": 6})]  # what was just made always stays
    for wrong in ("many", "-1", "nan"):
        monkeypatch.setenv("XAIKIT_CACHE_GB", wrong)
        with pytest.raises(ValueError, match=f"XAIKIT_CACHE_GB is '{wrong}': give the gigabytes"):
            cache.fetch(produce, n=7)


def test_checkpoints_and_stores_count_and_stores_in_use_stay(tmp_path: Path) -> None:
    cache.fetch(produce, n=0)
    newest, old = cache.path_of(produce, {"n": 0}), time.time() - 100_000
    checkpoint, unused, used, foreign = (
        paths.CACHE / name for name in ("_trained-1.checkpoint", "coefficients-a", "coefficients-b", "other")
    )
    checkpoint.write_bytes(bytes(3000))
    for folder, at in ((unused, old), (used, old + 90_000), (foreign, old)):
        folder.mkdir()
        for number in range(2):
            (shard := folder / f"shard-{number:05d}.safetensors").write_bytes(bytes(10_000))
            os.utime(shard, (at, at))
    os.utime(checkpoint, (old, old))
    elsewhere = tmp_path / "results" / "translator.safetensors"
    elsewhere.parent.mkdir()
    (elsewhere.parent / "mine.safetensors").write_bytes(bytes(10_000))
    cache.make_room(elsewhere, 0.0)  # what lies beside a result that is not in the cache is not the cache's
    assert (elsewhere.parent / "mine.safetensors").exists() and unused.exists()
    bound = (20_000 + newest.stat().st_size) / 1e9
    cache.make_room(newest, bound)
    assert not checkpoint.exists() and not unused.exists() and used.exists() and foreign.exists()
    with pytest.warns(UserWarning, match=f"more than the 1e-06 GB of XAIKIT_CACHE_GB, .* in use: .*{used.name}; give"):
        cache.make_room(newest, 1e-6)
    assert len(list(used.iterdir())) == len(list(foreign.iterdir())) == 2 and newest.exists()


def test_what_another_process_removes_meanwhile_is_computed_and_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = cache.fetch(produce, n=1)
    (file,) = files()
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path, **_: path == file or exists(path))
    file.unlink()
    assert_same(cache.fetch(produce, n=1), first)
    assert len(calls) == 2
