"""What the long jobs take: hours and memory, from shapes, decode rates and the cards' public peak figures.

`xaikit cost` prints the table of jobs × machines, `docs/scale.md` holds it, and `xaikit run --check` asks for sections.
Nothing here was measured on a GPU: every result is *estimated*, by

    hours = max(FLOPs / (cards × peak × share reached), images × seconds an image / cores) + what no card does

and on a machine without a card by the sum of both, as one processor decodes and computes. Left out are the first start
of libraries, what disks and networks take, and passes of less than a hundredth of a job.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from xaikit.companion import towers
from xaikit.companion.towers import Number

GB = 1e9
HOUR = 3_600.0
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Card:
    """A GPU: FLOP/s by precision (float32 without TF32, bfloat16 on tensor cores without sparsity) and bytes."""

    name: str
    float32: Number
    bfloat16: Number
    memory: Number


# The makers' data sheets.
CARDS = {
    card.name: card
    for card in (
        Card("H200", 67e12, 989e12, 141 * GB),
        Card("H100", 67e12, 989e12, 80 * GB),
        Card("A100", 19.5e12, 312e12, 80 * GB),
        Card("L40S", 91.6e12, 362e12, 48 * GB),
        Card("RTX 4090", 82.6e12, 165.2e12, 24 * GB),
        Card("RTX 3090", 35.6e12, 71e12, 24 * GB),
        Card("A10", 31.2e12, 125e12, 24 * GB),
        Card("L4", 30.3e12, 121e12, 24 * GB),
    )
}
SMALLEST = 24 * GB  # the card that every section of the paper profile has to fit

# The share of its peak that a card reaches, by what is done: assumed, as nothing was measured on one. Sampling word by
# word reads all weights for a few numbers.
REACHED = {"float32": 0.5, "bfloat16": 0.35}
SAMPLING = 0.1

# Measured with this package on two cores of a server; seconds of one core.
DECODE = 0.0103  # a JPEG of ImageNet's size
PREPARE = 0.0186  # to resize and crop it on the CPU
PAIR = 0.0058  # a photograph of COCO's size to decode, which a card resizes and crops
# benchmarks/texplain/translator.py: two threads of a CPU do so many images of the translator's training a second.
CPU_PAIRS = 0.77

CORES_A_CARD = 14  # as in a DGX H100: 112 for 8


@dataclass(frozen=True)
class Machine:
    """Cards and cores of all nodes together; without a card the cores compute as well."""

    name: str
    cards: int
    cores: int
    card: Card | None = None

    def rate(self, precision: Precision, share: Number | None = None) -> Number:
        """The FLOP/s that all its cards are thought to reach, or its cores."""
        if self.card is None:
            return self.cores * cpu_rate()
        return self.cards * getattr(self.card, precision) * (REACHED[precision] if share is None else share)


def cpu_rate() -> Number:
    """FLOP/s of one core: what it did of the translator's training (`CPU_PAIRS`)."""
    return CPU_PAIRS * pair_flops(20) / 2


LAPTOP = Machine("a laptop, 2 cores", 0, 2)
ONE = Machine("one H100", 1, CORES_A_CARD, CARDS["H100"])
EIGHT = Machine("8 GPUs (H100)", 8, 8 * CORES_A_CARD, CARDS["H100"])
FOUR_NODES = Machine("4 nodes of 8", 32, 32 * CORES_A_CARD, CARDS["H100"])
MACHINES = (LAPTOP, ONE, EIGHT, FOUR_NODES)


def machine_with(card: Card, cores: int = CORES_A_CARD) -> Machine:
    """One card and its share of cores."""
    return Machine(f"one {card.name}", 1, cores, card)


def card_named(name: str) -> Card | None:
    """The card in a name such as "NVIDIA H100 80GB HBM3"; none where it is not known."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    for card in CARDS.values():
        wanted = card.name.upper().split()
        if all(word in words for word in wanted):
            return card
    return None


@dataclass(frozen=True)
class Work:
    """A part of a job. `decoded` images take `each` seconds of a core; `alone` are seconds that no more cards shorten.

    `gpu` and `host` are the bytes that a process needs at its peak, `disk` what is left there.
    """

    name: str
    flops: Mapping[Precision, Number] = field(default_factory=dict)
    sampling: Number = 0.0  # FLOPs of sentences, in float32
    decoded: Number = 0.0
    each: Number = DECODE + PREPARE
    alone: Number = 0.0
    gpu: Number = 0.0
    host: Number = 0.0
    disk: Number = 0.0


@dataclass(frozen=True)
class Estimate:
    """How long work takes on a machine, and what bounds it: "computing", "decoding" or "the rest"."""

    hours: Number
    bound: str

    def __str__(self) -> str:
        return shown_hours(self.hours)


def estimate(work: Work | Sequence[Work], machine: Machine, *, shared: bool = True) -> Estimate:
    """The time of work, or of several parts one after the other; not `shared`, it uses one card of the machine."""
    parts = [work] if isinstance(work, Work) else list(work)
    if machine.cards > 1 and not shared:
        machine = replace(machine, cards=1, cores=machine.cores // machine.cards)
    total = {"computing": 0.0, "decoding": 0.0, "the rest": 0.0}
    hours = 0.0
    for part in parts:
        computing = sum(flops / machine.rate(precision) for precision, flops in part.flops.items())
        computing += part.sampling / machine.rate("float32", SAMPLING)
        decoding = part.decoded * part.each / machine.cores
        longest = computing + decoding if machine.card is None else max(computing, decoding)
        hours += (longest + part.alone) / HOUR
        total["computing"] += computing
        total["decoding"] += decoding if machine.card is None or decoding > computing else 0.0
        total["the rest"] += part.alone
    return Estimate(hours, max(total, key=lambda name: total[name]))


def shown_hours(hours: Number) -> str:
    """As "3 min", "1.4 h", "41 h" or "12 days": more digits are more than an estimate is worth."""
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    if hours < 10:
        return f"{hours:.1f} h"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def shown_bytes(count: Number) -> str:
    """In GB, with a digit behind the point below 10; less than a tenth in MB or kB."""
    for unit, size in (("kB", 1e3), ("MB", 1e6)):
        if count < 100 * size:
            return f"{count / size:.0f} {unit}"
    return f"{count / GB:.1f} GB" if count < 10 * GB else f"{count / GB:,.0f} GB"


# --- memory -----------------------------------------------------------------------------------------------------------

CONTEXT = 1.0 * GB  # of CUDA, cuBLAS and cuDNN on a card: assumed
SLACK = 1.1  # what an allocator holds above what is asked for: assumed
PROCESS = 3.0 * GB  # of torch, CUDA and the notebook in the machine's memory: assumed
SIZES: Mapping[Precision, int] = {"float32": 4, "bfloat16": 2}


def on_card(*parts: Number) -> Number:
    """Bytes on a card: what is asked for, with an allocator's slack, and CUDA's own."""
    return SLACK * sum(parts) + CONTEXT


def weights(*networks: int, trained: int = 0, moments: int = 2) -> Number:
    """Bytes of frozen parameters, and of `trained` ones with gradients and as many `moments` (2 of Adam)."""
    return 4.0 * (sum(networks) + trained * (2 + moments))


def kept(tower: towers.Tower, batch: int, precision: Precision = "float32", *, frozen: bool = False) -> Number:
    """Bytes that backpropagation keeps of a batch. In bfloat16 norms are in float32 all the same."""
    found = tower.kept(frozen=frozen) * SIZES[precision]
    if precision == "bfloat16" and isinstance(tower, towers.ViT):
        found += 2 * tower.width * tower.tokens * tower.layers * (SIZES["float32"] - SIZES["bfloat16"])
    return float(batch * found)


def passing(tower: towers.Tower | towers.TextTower, batch: int, precision: Precision = "float32") -> Number:
    """Bytes that a forward pass without gradients holds at a time."""
    return float(batch * tower.passing * SIZES[precision])


# --- the long jobs ----------------------------------------------------------------------------------------------------

IMAGENET, WATERBIRDS = 50_000, 4_795 + 1_199 + 5_794
WEB_PAIRS, COCO = 14_000_000, 118_287
WEB_EPOCHS, COCO_EPOCHS = 20, 5
CLIPS = ("ViT-B-16", "ViT-L-14", "ViT-H-14")


def extraction(name: str, images: int = IMAGENET + WATERBIRDS - 4_795, batch: int = 32, size: int = 2) -> Work:
    """Paper 4's decomposition of ImageNet's validation images and Waterbirds, with an image tower of open_clip.

    On disk are, for each image, the values of all heads and what the MLPs and the embedding are, `size` bytes each.
    """
    tower = towers.open_clip_tower(name)
    assert isinstance(tower, towers.ViT)
    per_image = tower.layers * tower.width + (tower.layers + 1) * (tower.output + 1) + tower.output + 2
    held = weights(tower.parameters, towers.open_clip_texts(name).parameters)
    return Work(
        f"extract, {name}",
        {"float32": images * tower.flops},
        decoded=images,
        gpu=on_card(held, passing(tower, batch), batch * tower.attention * 4),
        host=PROCESS + held + 512 * per_image * 4 * 3,
        disk=images * per_image * size,
    )


def translator_flops(tokens: int, width: int, to_width: int) -> Number:
    """Of the token translator, forward, for one image."""
    return 2.0 * tokens * (2 * width**2 + width * to_width)


def pair_flops(words: int, tower: towers.ViT = towers.VIT_B16_384, decoder: towers.Decoder | None = None) -> Number:
    """Of a step of the translator's training, for one image: forward, and back through the frozen decoder."""
    decoder = decoder or towers.Decoder()
    return tower.flops + decoding_flops(words, tower.tokens, tower.width, decoder)


def decoding_flops(words: int, tokens: int, width: int, decoder: towers.Decoder) -> Number:
    """The same without the classifier: of features that are kept."""
    return 2 * decoder.flops(words, tokens) + 3 * translator_flops(tokens, width, decoder.width)


def translator_bytes(
    batch: int,
    words: int,
    precision: Precision,
    tokens: int = 577,
    width: int = 768,
    decoder: towers.Decoder | None = None,
    at_once: int | None = None,
) -> Number:
    """What a step keeps of the decoder, of its conditions in both precisions, and of the translator in float32.

    With `at_once` images in the decoder at a time, the gradients of all conditions are kept beside.
    """
    decoder = decoder or towers.Decoder()
    own = tokens * (6 * decoder.width + 16 * width)
    beside = 0 if at_once is None else batch * tokens * decoder.width * 2 * SIZES[precision]
    return batch * own + (at_once or batch) * decoder.kept(words, tokens) * SIZES[precision] + beside


def translator_training(
    pairs: int = WEB_PAIRS,
    epochs: int = WEB_EPOCHS,
    *,
    words: int = 20,
    longest: int = 40,
    batch: int = 512,
    each: Number = PAIR,
    processes: int = 1,
) -> Work:
    """A stage of `xaikit train-translator`; `batch` images a step are shared by the processes."""
    share, tower, decoder = batch // processes, towers.VIT_B16_384, towers.Decoder()
    held = weights(tower.parameters, decoder.parameters, trained=3 * tower.width**2)
    return Work(
        "train-translator",
        {"bfloat16": pairs * epochs * pair_flops(words)},
        decoded=pairs * epochs,
        each=each,
        gpu=on_card(held, passing(tower, share, "bfloat16"), translator_bytes(share, longest, "bfloat16")),
        host=PROCESS + 4 * 0.6 * GB,  # four workers, each with torch and a few batches
    )
