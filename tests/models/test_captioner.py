"""The captioner: a BLIP whose image tower starts from the mini CLIP, and its language model."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertTokenizerFast,
    BlipForConditionalGeneration,
    BlipVisionConfig,
    BlipVisionModel,
)

from xaikit import world
from xaikit.models import captioner
from xaikit.models.clip import load_clip
from xaikit.storage.paths import WEIGHTS
from xaikit.studies.lexicon import true_words
from xaikit.texplain.sampling import sample
from xaikit.texplain.words import words_of

FOLDER = WEIGHTS / captioner.NAME


@pytest.fixture(scope="module")
def mini() -> captioner.Captioner:
    return captioner.load_captioner(str(FOLDER))


def test_texts_survive_the_tokens(mini) -> None:
    language, texts = mini.language, ["a photo of two red ducks on the sea", "three owls"]
    tokens = language.encode(texts, 20)
    assert tokens[:, 0].tolist() == language.prompt * 2 and tokens[1, -1] == language.pad
    assert [row[row != language.pad][-1].item() for row in tokens] == [language.end] * 2
    assert language.decode(tokens[:, 1:]) == texts


@pytest.mark.parametrize("text", ["", "a very long caption of many ducks"])
def test_captions_that_are_empty_or_too_long_are_refused(mini, text) -> None:
    with pytest.raises(ValueError, match=r"makes \d tokens; give texts of 1 word to 5 tokens"):
        mini.language.encode([text], 5)


def test_sampled_captions_are_mostly_true(mini) -> None:
    scenes = world.birds(24, seed=11, split="test", alignment=0.5)
    with torch.no_grad():
        tokens = mini.image_encoder(scenes.images())
    language = mini.language
    sentences = sample(language.decoder, tokens, 8, prompt=language.prompt, end=language.end, pad=language.pad, seed=0,
                       min_new_tokens=3, max_new_tokens=26)  # fmt: skip
    own, others = [], []
    for index, scene in enumerate(scenes):
        said = frozenset().union(*map(words_of, language.decode(sentences[index])))
        own.append(len(said & true_words(scene)) / len(said))
        others.append(len(said & true_words(scenes[index - 1])) / len(said))
    assert sum(own) / len(own) > 0.75 > 0.5 > sum(others) / len(others)


def test_the_image_tower_starts_where_the_mini_clip_is() -> None:
    clip = load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")
    images = clip.image_encoder.prepare(world.nine(12, seed=5).images())
    config = BlipVisionConfig(hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8,
                              image_size=64, patch_size=8)  # fmt: skip
    tower = BlipVisionModel(config).eval()
    visual = clip.model.visual
    tower.load_state_dict(captioner.blip_weights(visual, images))
    with torch.no_grad():
        found = tower(pixel_values=images).last_hidden_state
        expected = visual.ln_post(visual.transformer(visual._embeds(images)))
    error = (found - expected).square().mean() / expected.var()
    assert error < 0.1  # not exact: one deviation a position stands in for the first norm


def test_a_norm_that_is_constant_is_taken_over_exactly() -> None:
    """Where every token of a position has the same deviation, nothing is lost."""
    clip = load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")
    visual = clip.model.visual
    image = clip.image_encoder.prepare(torch.full((1, 3, 64, 64), 0.5))
    with torch.no_grad():
        visual.positional_embedding[1:] = visual.positional_embedding[1]
        state = captioner.blip_weights(visual, image)
        patches = torch.nn.functional.conv2d(image, state["embeddings.patch_embedding.weight"], stride=8)
        found = patches.flatten(2).mT + state["embeddings.position_embedding"][:, 1:]
        own = visual.conv1(image).flatten(2).mT + visual.positional_embedding[1:]
        torch.testing.assert_close(found, visual.ln_pre(own), rtol=1e-3, atol=1e-3)


def test_half_precision_on_disk_is_float32_in_use(mini) -> None:
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in mini.language.decoder.parameters())
    saved = BlipForConditionalGeneration.from_pretrained(FOLDER, dtype="auto")
    assert saved.dtype == torch.float16


def test_a_plain_bert_becomes_a_decoder_whose_cross_attention_is_new(tmp_path) -> None:
    words = BertTokenizerFast(
        vocab={word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"))}
    )
    config = BertConfig(vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    language, again = captioner.load_plain_bert(str(tmp_path)), captioner.load_plain_bert(str(tmp_path))
    assert language.width == 16 and language.decoder.config.add_cross_attention
    assert language.decode(language.encode(["a dog"], 5)[:, 1:]) == ["a dog"]
    key = "bert.encoder.layer.0.crossattention.self.key.weight"
    assert torch.equal(language.decoder.state_dict()[key], again.decoder.state_dict()[key])
    with pytest.raises(ValueError, match="cannot be loaded"):
        captioner.load_plain_bert("no-such/bert")


def test_a_folder_without_a_captioner_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json, so no whole model; restore it"):
        captioner.load_captioner(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be loaded"):
        captioner.load_captioner("no-such/captioner")
