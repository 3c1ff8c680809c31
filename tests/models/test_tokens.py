"""Texts that are cut and words that are not known are counted and named, wherever texts go in."""

import inspect
import warnings

import open_clip
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from xaikit.models.captioner import load_captioner
from xaikit.models.clip import Clip, load_clip
from xaikit.models.clip_training import word_tokenizer
from xaikit.models.generator import load_generator
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.tokens import report_losses
from xaikit.storage.paths import WEIGHTS
from xaikit.studies.texplain import encoded
from xaikit.texplain.text_overlap import mean_pooled


@pytest.fixture(scope="module")
def bytes_clip() -> Clip:
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 16, "patch_size": 8}
    model = open_clip.CLIP(32, vision, {"width": 32, "heads": 2, "layers": 1}).eval()
    return Clip(Preprocessed(nn.Identity(), 32, (0.0,) * 3, (1.0,) * 3), model, open_clip.get_tokenizer("ViT-B-32"))


def test_texts_beyond_a_clips_context_are_named(bytes_clip) -> None:
    fits, long = "a " * 75, "a photo of " + "very " * 90
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bytes_clip.encode_texts([fits, "zebra"])
    with pytest.warns(UserWarning, match=r"2 of 3 texts have more than 77 tokens and are cut \('a photo of very"):
        bytes_clip.encode_texts([long + "red bird", "a dog", long + "blue car"])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        bytes_clip.encode_texts([fits + "a"])
    for strict in (True, False):  # warnings are errors in tests
        with pytest.raises(ValueError, match="1 of 1 texts have more than 77 tokens"):
            bytes_clip.encode_texts([long], strict=strict)


def test_words_that_a_clip_does_not_know_are_named_once_a_call() -> None:
    clip = load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")
    texts = ["a photo of a zebra", "a photo of a xylophone", "a photo of a zebra and a bird"]
    with pytest.warns(UserWarning, match=r"2 words are not known .* \(zebra, xylophone\)") as said:
        clip.encode_texts(texts)
    assert len(said) == 1
    with pytest.raises(ValueError, match="zebra"):
        clip.encode_texts(texts, strict=True)
    many = ["qa qb qc qd qe qf"]
    with pytest.warns(UserWarning, match=r"6 words .* \(qa, qb, qc, qd, qe, …\)"):
        clip.encode_texts(many)


def tokenizer(longest: int = 8):
    return word_tokenizer(["a photo of a dog", "two cats"], longest)


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer()), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=8)  # fmt: skip
    return BertModel(config).eval()


def captioner_mini():
    return load_captioner(str(WEIGHTS / "captioner-mini")).language


# Every entry of texts into a model.
ENTRIES = {
    "clip": lambda texts, **how: load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}").encode_texts(texts, **how),
    "captioner": lambda texts, **how: captioner_mini().encode(texts, 100, **how),
    "generator": lambda texts, **how: load_generator(WEIGHTS / "generator-mini").generate(
        texts, seed=0, steps=1, **how
    ),
    "translator's captions": lambda texts: encoded(captioner_mini(), texts, 35),
    "sentence embeddings": lambda texts, **how: mean_pooled(bert(), tokenizer(), texts, **how),
    "any tokenizer": lambda texts, **how: report_losses(texts, tokenizer(), **how),
}
STRICT = [entry for entry in ENTRIES if entry != "translator's captions"]  # where cutting is what is asked for


@pytest.mark.parametrize("entry", ENTRIES)
def test_unknown_words_are_named_wherever_texts_go_in(entry) -> None:
    with pytest.warns(UserWarning, match="not known to the tokenizer and all count as one .*zyzzyva"):
        ENTRIES[entry](["a photo of a zyzzyva"])


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry != "captioner"])  # it refuses them
def test_texts_that_are_cut_are_named_wherever_texts_go_in(entry) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts have more than .* tokens and are cut"):
        ENTRIES[entry](["a photo " * 60, "a photo"])


@pytest.mark.filterwarnings("ignore::xaikit.models.tokens.LossWarning")
@pytest.mark.parametrize("entry", STRICT)
def test_what_is_lost_is_refused_where_it_must_be_whole(entry) -> None:
    for text in ("a photo of a zyzzyva", "a photo " * 60):
        with pytest.raises(ValueError, match=r"zyzzyva\): give other texts|are cut .*: give other texts|makes 1"):
            ENTRIES[entry]([text], strict=True)
    assert ENTRIES[entry](["a photo of a zyzzyva"]) is not False  # warned of, and done


def test_one_string_is_no_list() -> None:
    with pytest.raises(ValueError, match="give a list of texts"):
        inspect.unwrap(report_losses)("a dog", tokenizer())
