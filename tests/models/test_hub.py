"""Models from folders and from the hub: pinned or as first seen, whole, without code of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, BlipForConditionalGeneration

from xaikit.models import captioner, generator, hub
from xaikit.models.clip import load_clip
from xaikit.storage import paths

FIRST, SECOND = "1" * 40, "2" * 40
NAME = "owner/model"


class Hub:
    """Repositories of this machine in the layout of the hub's cache; `main` moves."""

    def __init__(self, root: Path) -> None:
        self.root, self.main, self.asked = root, FIRST, []

    def add(self, commit: str, **files: str) -> Path:
        folder = self.root / "snapshots" / commit
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name.replace("_json", ".json")).write_text(text)
        return folder

    def download(self, repository: str, file: str, revision: str | None = None) -> str:
        self.asked.append((repository, file, revision))
        path = self.root / "snapshots" / (revision or self.main) / file
        if not path.is_file():
            raise LocalEntryNotFoundError("it is not on this disk and cannot be reached")
        return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(paths, "DATASETS", tmp_path / "data")
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "hf_hub_download", found.download)
    return found


def seen() -> dict:
    return json.loads((paths.DATASETS / hub.FIRST_SEEN).read_text())


def test_what_is_not_pinned_stays_at_the_commit_that_was_first_seen(here: Hub) -> None:
    folder = here.add(FIRST, config_json="{}", weights="one")
    here.add(SECOND, config_json="{}", weights="two")
    source = hub.find(NAME)
    assert (source.name, source.options, source.folder) == (NAME, {"revision": FIRST}, folder)
    hub.remember(source)
    assert seen()[NAME]["commit"] == FIRST and set(seen()[NAME]["files"]) == {"config.json", "weights"}
    here.main = SECOND
    assert hub.find(NAME) == source
    (folder / "weights").write_text("onf")
    with pytest.raises(ValueError, match=r"weights is not the file that was first seen here; delete it, or its entry"):
        hub.find(NAME)
    (paths.DATASETS / hub.FIRST_SEEN).write_text("{")
    with pytest.raises(ValueError, match=r"first-seen-models\.json is damaged"):
        hub.find(NAME)


def test_a_pinned_commit_is_the_one_that_is_asked_for(here: Hub) -> None:
    here.add(FIRST, config_json="{}")
    here.add(SECOND, config_json="{}")
    pinned = hub.named({"name": NAME, "revision": SECOND})
    assert pinned == f"{NAME}@{SECOND}" and hub.named({"name": NAME}) == NAME
    source = hub.find(pinned)
    assert source.options == {"revision": SECOND} and here.asked == [(NAME, "config.json", SECOND)]
    hub.remember(source)
    hub.remember(hub.find(NAME))
    assert {name: each["commit"] for name, each in seen().items()} == {pinned: SECOND, NAME: FIRST}
    for branch in ("main", "v1.0", "12345678"):
        with pytest.raises(ValueError, match=f"pins '{branch}', which may move; pin a commit"):
            hub.find(f"{NAME}@{branch}")
    with pytest.raises(ValueError, match=f"The model {NAME}@{'3' * 40} cannot be loaded: it is not on this disk"):
        hub.find(f"{NAME}@{'3' * 40}")


def test_where_nothing_can_be_written_it_is_said(here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here.add(FIRST, config_json="{}")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(hub, "write_text", refuse)
    with pytest.warns(UserWarning, match=rf"That {NAME} was seen here cannot be recorded .*Read-only"):
        hub.remember(hub.find(NAME))


CUSTOM = {
    "auto_map": {"auto_map": {"AutoModel": "modelling.Own"}},
    "trust_remote_code": {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}},
    "custom_pipelines": {"custom_pipelines": {"own": {"impl": "own.py"}}},
    "unet of own_module": {"_diffusers_version": "0.36", "vae": ["diffusers", "A"], "unet": ["own_module", "Net"]},
}


@pytest.mark.parametrize(("wanted", "config"), CUSTOM.items(), ids=list(CUSTOM))
def test_a_model_with_code_of_its_own_is_refused(here: Hub, tmp_path: Path, wanted: str, config: dict) -> None:
    folder = here.add(FIRST, config_json=json.dumps(config))
    for name in (NAME, str(folder), folder):
        with pytest.raises(
            ValueError, match=rf"config\.json asks for code of its own \({wanted}\), and code that comes"
        ):
            hub.find(name)


def test_parts_of_the_librarys_own_pipelines_are_no_foreign_code(here: Hub) -> None:
    parts = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "feature_extractor": [None, None]}
    here.add(FIRST, config_json=json.dumps({"_diffusers_version": "0.36", "unet": ["diffusers", "Net"], **parts}))
    assert hub.find(NAME).revision == FIRST


def loads(folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "captioner-mini": lambda: captioner.load_captioner(str(folder)),
        "generator-mini": lambda: generator.load_generator(folder),
        "clip-vit-mini": lambda: load_clip(f"local-dir:{folder}"),
    }


CONFIGS = {
    "captioner-mini": ("config.json", ("text_config", "num_hidden_layers")),
    "generator-mini": ("text_encoder/config.json", ("num_hidden_layers",)),
    "clip-vit-mini": ("open_clip_config.json", ("model_cfg", "vision_cfg", "layers")),
}


@pytest.mark.parametrize("more", [1, -1])
@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_card_a_layer_more_or_less_is_still_an_error(name: str, more: int, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(paths.WEIGHTS / name, tmp_path / name))
    (folder / "card.json").unlink()
    file, (*tables, key) = CONFIGS[name]
    config = json.loads((folder / file).read_text())
    table = config
    for each in tables:
        table = table[each]
    table[key] += more
    (folder / file).write_text(json.dumps(config))
    sentence = (
        "cannot be loaded: Error.* in loading state_dict" if "clip" in name else "do not belong together: the weights"
    )
    with pytest.raises(ValueError, match=sentence) as raised:
        loads(folder)[name]()
    assert len(str(raised.value).splitlines()) == 1


def test_weights_of_another_size_and_missing_ones_are_named(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    source = hub.find(tmp_path)
    assert isinstance(hub.load_whole(BertModel, source), BertModel)
    state = load_file(tmp_path / "model.safetensors")
    wide = {**state, "pooler.dense.bias": torch.zeros(9)}
    few = {name: value for name, value in state.items() if "pooler" not in name}
    save_file(wide, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights have another size of pooler\.dense\.bias; restore"):
        hub.load_whole(BertModel, source)
    save_file(few, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights lack pooler\.dense\.bias and 1 others"):
        hub.load_whole(BertModel, source)
    assert isinstance(hub.load_whole(BertModel, source, may_lack="pooler"), BertModel)


def test_pickled_weights_are_not_looked_at(tmp_path: Path) -> None:
    config = BlipForConditionalGeneration.config_class.from_pretrained(paths.WEIGHTS / "captioner-mini")
    config.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded: Error no file named model\.safetensors"):
        captioner.load_captioner(str(tmp_path))


def test_where_a_repository_has_no_safetensors_nothing_but_tensors_is_read_of_its_own_file(here: Hub) -> None:
    """BLIP's has none. The hub is not asked to make some, and what a pickle says is not done."""
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    folder, model = here.add(FIRST), BertModel(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    found = hub.load_whole(BertModel, source := hub.find(NAME))
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert {revision for _, _, revision in here.asked[1:]} == {FIRST}
    few = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    torch.save(few, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights lack pooler\.dense\.bias and 1 others"):
        hub.load_whole(BertModel, source)

    class Says:
        def __reduce__(self) -> tuple:
            return Path.touch, (folder / "was here",)

    torch.save({**model.state_dict(), "more": Says()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"The weights of {NAME} hold more than tensors, which may be code"):
        hub.load_whole(BertModel, source)
    assert not (folder / "was here").exists()
    model.save_pretrained(folder)
    assert not hub._only_pickled(source)  # safetensors are taken where there are some


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_clip_comes_from_the_commit_that_is_pinned(here: Hub, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here.add(SECOND)
    (folder / file).touch()
    monkeypatch.setattr(hub, "find", lambda name, first: _of(here, name, first))
    tag = open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
    before = dict(tag)
    with hub.clip_weights("ViT-B-32", "laion2b_s34b_b79k", SECOND):
        assert open_clip.pretrained.download_pretrained(tag) == str(folder / file)
    assert tag == before
    with (
        pytest.raises(ValueError, match="has no repository whose revision can be pinned"),
        hub.clip_weights("local-dir:/nowhere", None, SECOND),
    ):
        pass


def _of(here: Hub, name: str, first: str) -> hub.Source:
    repository, _, commit = name.partition("@")
    with hub.said(name):
        return hub.Source(repository, commit, Path(here.download(repository, first, commit)).parent, name)


def test_a_timm_model_comes_from_the_commit_that_was_found(here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here.add(FIRST, config_json="{}")
    asked: list[tuple] = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or nn.Identity())
    name = "vit_tiny_patch16_224.augreg_in21k"
    for each in (name, f"{name}@{FIRST}", f"hf-hub:{NAME}"):
        hub.timm_model(each)
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"hf_hub_id": f"timm/{name}@{FIRST}"}}
    assert asked == [(name, overlay), (name, overlay), (f"hf-hub:{NAME}@{FIRST}", {"pretrained": True})]
    assert f"timm/{name}" in seen()
