"""What would the paper's training of the translator cost on this machine?

At the real sizes, with random weights: ViT-B/16 at 384 pixels, BLIP-base's text decoder, and the token translator
between them. A step is what `translator_training.train` does: features without gradients, then the loss of captions
and the translator's gradients. Printed are images a second, the peak of the memory, and the days that 20 epochs of
14 million pairs and 5 epochs of COCO would take at that rate, on one device.
"""

import argparse
import resource
import statistics

import timm
import torch
from transformers import BlipTextConfig, BlipTextLMHeadModel

from benchmarks.timing import timed
from xaikit.storage.arithmetic import training_precision
from xaikit.texplain.translator import Features, Translator, sentence_loss

WEB_PAIRS, COCO_IMAGES = 14_000_000, 118_287
TOKENS = 20  # of a caption, with both ends


def measure(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = timm.create_model("vit_base_patch16_384", pretrained=False).to(device).eval().requires_grad_(False)
    features = Features(classifier, "norm")
    decoder = BlipTextLMHeadModel(BlipTextConfig()).to(device).eval().requires_grad_(False)
    translator = Translator(577, 768, 768).to(device).train()
    optimiser = torch.optim.AdamW(translator.parameters())
    images = torch.rand(options.batch, 3, 384, 384, device=device)
    sentences = torch.randint(1_000, 30_000, (options.batch, TOKENS), device=device)

    def step() -> None:
        with training_precision(device):
            with torch.no_grad():
                z = features(images).float()
            loss = sentence_loss(decoder, translator(z), sentences, prompt=1, pad=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()  # the first allocates
    seconds = statistics.median(timed(step)[0] for _ in range(options.rounds))
    rate = options.batch / seconds
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    days = (20 * WEB_PAIRS + 5 * COCO_IMAGES) / rate / 86_400
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{name}, batch {options.batch}: {rate:.2f} images a second, {memory:.1f} GB at the peak")
    print(f"the paper's 20 + 5 epochs at that rate: {days:,.0f} days on one such device")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    measure(parser.parse_args())
