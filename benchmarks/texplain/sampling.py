"""How fast are a thousand sentences for one feature by nucleus sampling, against transformers' own `generate`?

`captioner` is the one that ships, on a drawn scene, with the lengths of the mini profile: many of its sentences begin
alike. `flat` is the worst case, a decoder as large with random weights, whose sentences part at once but for the end,
which comes with the chance `--ending` at every token from the 21st on; with 0 all sentences are 30 tokens long. `base`
is the same of BLIP's size with the 577 tokens of a ViT-B/16 at 384 pixels. Both ways take top_p = 0.95 and no top-k, as
the paper does. They take turns; printed are medians over the rounds. Processor time is printed as well, because it
hears less of what else the machine does. Each way's memory is measured in a process of its own.
"""

import argparse
import math
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import BlipTextConfig, BlipTextLMHeadModel, DynamicCache, EncoderDecoderCache

from benchmarks.timing import timed
from xaikit.models import captioner
from xaikit.storage.arithmetic import cores
from xaikit.storage.paths import WEIGHTS
from xaikit.texplain.sampling import sample
from xaikit.world import nine

SIZES = {  # of random decoders: layers, width, heads, vocabulary, tokens
    "flat": (4, 128, 4, 1_000, 65),
    "base": (12, 768, 12, 30_524, 577),
}
SENTENCES = {"captioner": 1_000, "flat": 1_000, "base": 16}
START, END, PAD = 1, 2, 0
TOP_P = 0.95


def random_decoder(name: str, ending: float) -> tuple[BlipTextLMHeadModel, torch.Tensor]:
    """A decoder whose distributions are nearly flat, and a feature."""
    layers, width, heads, vocabulary, tokens = SIZES[name]
    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=vocabulary, hidden_size=width, encoder_hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=heads, bos_token_id=START, eos_token_id=END,
        sep_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    decoder = BlipTextLMHeadModel(config).eval().requires_grad_(False)
    odds = max(ending / (1 - ending), 1e-30)
    decoder.cls.predictions.bias[END] = math.log(odds * vocabulary)
    return decoder, torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))


class Ways:
    """A decoder, one feature, and the two ways to sample sentences for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        if options.model == "captioner":
            shipped = captioner.load_captioner(str(WEIGHTS / captioner.NAME))
            [image] = nine(1, seed=0, split="test").images()
            with torch.no_grad():
                feature = shipped.image_encoder(image[None])
            decoder, language, (least, most) = shipped.language.decoder, shipped.language, (4, 26)
            self.prompt, end, pad = language.prompt, language.end, language.pad
        else:
            decoder, feature = random_decoder(options.model, options.ending)
            self.prompt, end, pad, (least, most) = [START], END, PAD, (20, 30)
        self.decoder, self.feature = decoder.to(options.device), feature.to(options.device)
        self.n, self.rows = options.sentences, options.rows
        self.ends = {"end": end, "pad": pad}
        self.lengths = {"min_new_tokens": least, "max_new_tokens": most}

    def ours(self) -> torch.Tensor:
        return sample(
            self.decoder, self.feature, self.n, prompt=self.prompt, **self.ends, seed=0, top_p=TOP_P,
            **self.lengths, rows=self.rows,
        )[0]  # fmt: skip

    def generate(self) -> torch.Tensor:
        start = torch.tensor([self.prompt], device=self.feature.device)
        config = self.decoder.config
        return self.decoder.generate(
            input_ids=start, attention_mask=torch.ones_like(start), encoder_hidden_states=self.feature,
            encoder_attention_mask=torch.ones_like(self.feature[:, :, 0], dtype=torch.int64), do_sample=True,
            top_p=TOP_P, top_k=0, **self.lengths, num_return_sequences=self.n,
            eos_token_id=self.ends["end"], pad_token_id=self.ends["pad"],
            past_key_values=EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
        )[:, len(self.prompt) :]  # fmt: skip


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
        return int(re.search(rf"{line}:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
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
            seconds, _ = timed(getattr(ways, name))
            if turn:  # the first is to warm up
                wall[name].append(seconds)
                processor[name].append(time.process_time() - before)
    words = (ways.ours() != ways.ends["pad"]).sum(1).double().mean()
    config, (_, tokens, _) = ways.decoder.config, ways.feature.shape
    layers, width, longest = config.num_hidden_layers, config.hidden_size, ways.lengths["max_new_tokens"]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(
        f"{options.model}: {options.sentences} sentences of {words:.1f} tokens on average,"
        f" vocabulary {config.vocab_size},"
        f" {layers} layers x {width}, {tokens} tokens to look at, {where}, {options.rounds} rounds"
    )
    print(f"{'':24}{'seconds':>10}{'ratio':>8}{'processor s':>14}{'ratio':>8}{'peak grows by':>16}")
    for name, label in names.items():
        print(f"{label:24}", end="")
        for taken, space in ((wall, 10), (processor, 14)):
            ratio = statistics.median(a / b for a, b in zip(taken["generate"], taken[name], strict=True))
            print(f"{statistics.median(taken[name]):>{space}.2f}{ratio:>8.1f}", end="")
        print(f"{grown[name] / 1e6:>13.0f} MB")
    feature, sentence = 2 * layers * tokens * width * 4, 2 * layers * longest * width * 4
    print(f"keys and values of cross-attention: 2 x {layers} layers x {tokens} tokens x {width} x 4 bytes =", end=" ")
    print(f"{feature / 1e6:.1f} MB; xaikit has them once a feature, generate once a sentence")
    print(f"of self-attention: 2 x {layers} layers x {longest} positions x {width} x 4 bytes =", end=" ")
    print(f"{sentence / 1e6:.2f} MB a sentence; xaikit holds {options.rows} sentences or fewer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SENTENCES, default="captioner")
    parser.add_argument("--sentences", type=int, help="for the feature; by default 1000, or 16 (base)")
    parser.add_argument("--rows", type=int, default=4096, help="sentences that xaikit holds at once")
    parser.add_argument("--ending", type=float, default=0.2, help="chance of the end, from the 21st token on")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.sentences = arguments.sentences or SENTENCES[arguments.model]
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.threads = cores()
    compare(arguments)
