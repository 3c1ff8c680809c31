"""How fast are a thousand sentences for one feature by nucleus sampling, against transformers' own `generate`?

A BLIP text decoder with random weights: small (`mini`), or of BLIP's size with the 577 tokens of a ViT-B/16 at 384
pixels (`base`). Its distributions are nearly flat, but for the end, which comes with the chance `--ending` at every
token from the 21st on; with 0 all sentences are 30 tokens long. Both ways do what the paper does: top_p = 0.95, no
top-k, 20 to 30 tokens. They take turns; printed are medians over the rounds. Processor time is printed as well, because
it hears less of what else the machine does. Each way's memory is measured in a process of its own.
"""

import argparse
import math
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from decomposition import timed
from transformers import BlipTextConfig, BlipTextLMHeadModel, DynamicCache, EncoderDecoderCache

from xaikit.nucleus_sampling import sample

SIZES = {  # layers, width, heads, vocabulary, tokens, sentences
    "mini": (4, 128, 4, 1_000, 65, 1_000),
    "base": (12, 768, 12, 30_524, 577, 16),
}
START, END, PAD = 1, 2, 0
LEAST, MOST, TOP_P = 20, 30, 0.95


class Ways:
    """A decoder, one feature, and the two ways to sample sentences for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        layers, width, heads, vocabulary, tokens, _ = SIZES[options.model]
        torch.manual_seed(0)
        config = BlipTextConfig(
            vocab_size=vocabulary, hidden_size=width, encoder_hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=heads, bos_token_id=START, eos_token_id=END,
            sep_token_id=END, pad_token_id=PAD,
        )  # fmt: skip
        decoder = BlipTextLMHeadModel(config).eval().requires_grad_(False)
        odds = max(options.ending / (1 - options.ending), 1e-30)
        decoder.cls.predictions.bias[END] = math.log(odds * vocabulary)
        self.decoder = decoder.to(options.device)
        self.feature = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0)).to(options.device)
        self.n, self.rows = options.sentences, options.rows

    def ours(self) -> torch.Tensor:
        return sample(
            self.decoder, self.feature, self.n, prompt=[START], end=END, pad=PAD, seed=0, top_p=TOP_P,
            min_new_tokens=LEAST, max_new_tokens=MOST, rows=self.rows,
        )[0]  # fmt: skip

    def generate(self) -> torch.Tensor:
        start = torch.full((1, 1), START, device=self.feature.device)
        config = self.decoder.config
        return self.decoder.generate(
            input_ids=start, attention_mask=torch.ones_like(start), encoder_hidden_states=self.feature,
            encoder_attention_mask=torch.ones_like(self.feature[:, :, 0], dtype=torch.int64), do_sample=True,
            top_p=TOP_P, top_k=0, min_new_tokens=LEAST, max_new_tokens=MOST, num_return_sequences=self.n,
            eos_token_id=END, pad_token_id=PAD,
            past_key_values=EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
        )[:, 1:]  # fmt: skip


def growth(options: argparse.Namespace, way: str) -> float:
    """By how many bytes sampling raises the peak of what this process, or the GPU, holds; NaN where none can tell."""
    ways, status = Ways(options), Path("/proc/self/status")
    if options.device == "cuda":
        before = torch.cuda.memory_allocated()
        getattr(ways, way)()
        return torch.cuda.max_memory_allocated() - before
    if not status.exists():
        return math.nan

    def held(line: str) -> int:
        return int(re.search(rf"{line}:\s+(\d+) kB", status.read_text())[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = held("VmRSS")
    getattr(ways, way)()
    return held("VmHWM") - before


def compare(options: argparse.Namespace) -> None:
    names = {"generate": "transformers' generate", "ours": "xaikit"}
    grown = {}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            grown[name] = alone.submit(growth, options, name).result()
    ways = Ways(options)
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.rounds + 1):
        for name in names:
            before = time.process_time()
            seconds = timed(getattr(ways, name))
            if turn:  # the first is to warm up
                wall[name].append(seconds)
                processor[name].append(time.process_time() - before)
    words = (ways.ours() != PAD).sum(1).double().mean()
    layers, width, _, vocabulary, tokens, _ = SIZES[options.model]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(
        f"{options.model}: {options.sentences} sentences of {words:.1f} tokens on average, vocabulary {vocabulary},"
        f" {layers} layers x {width}, {tokens} tokens to look at, {where}, {options.rounds} rounds"
    )
    print(f"{'':24}{'seconds':>10}{'ratio':>8}{'processor s':>14}{'ratio':>8}{'peak grows by':>16}")
    for name, label in names.items():
        print(f"{label:24}", end="")
        for taken, space in ((wall, 10), (processor, 14)):
            ratio = statistics.median(a / b for a, b in zip(taken["generate"], taken[name], strict=True))
            print(f"{statistics.median(taken[name]):>{space}.2f}{ratio:>8.1f}", end="")
        print(f"{grown[name] / 1e6:>13.0f} MB")
    feature, sentence = 2 * layers * tokens * width * 4, 2 * layers * MOST * width * 4
    print(f"keys and values of cross-attention: 2 x {layers} layers x {tokens} tokens x {width} x 4 bytes =", end=" ")
    print(f"{feature / 1e6:.1f} MB; xaikit has them once a feature, generate once a sentence")
    print(f"of self-attention: 2 x {layers} layers x {MOST} positions x {width} x 4 bytes =", end=" ")
    print(f"{sentence / 1e6:.2f} MB a sentence; xaikit holds {options.rows} sentences or fewer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="mini")
    parser.add_argument("--sentences", type=int, help="for the feature; by default 1000 (mini) or 16 (base)")
    parser.add_argument("--rows", type=int, default=4096, help="sentences that xaikit holds at once")
    parser.add_argument("--ending", type=float, default=0.2, help="chance of the end, from the 21st token on")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.sentences = arguments.sentences or SIZES[arguments.model][5]
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    compare(arguments)
