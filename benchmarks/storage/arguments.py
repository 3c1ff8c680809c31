"""What do the checks of `@public` cost? Their share of calls at the mini profile's sizes, method by method.

A call from outside has its arguments looked at once (`xaikit.arguments`); what it calls itself is not. Both are timed
apart: the look alone, and the function without it, each at its quickest of several times. What takes less than a
millisecond by itself, a mean of a column say, is named apart: no share of it matters, the microseconds do.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import timed
from xaikit import arguments, decomposition, metrics, models, perturbation, saliency, surgery, texplain
from xaikit.models.classifiers import Recipe, build
from xaikit.storage.paths import WEIGHTS

SIZE, BATCH, WIDTH = 64, 32, 128
MOST = 0.01  # of a call
SHORT = 1e-3  # seconds

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def drawn(*shape: int) -> Tensor:
    """Numbers in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@cache
def clip() -> models.Clip:
    """The CLIP that ships: six layers, four heads, 64 patches."""
    return models.load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")


@cache
def classifier() -> nn.Module:
    """Notebook 01's, of 28 pixels."""
    return build(Recipe(pixels=28, epochs=1, measurements=1, batch=32, learning_rate=1e-3)).eval()


def calls() -> dict[str, Callable[[], Call]]:
    """Each method as a notebook calls it; what it is given is made when it is its turn."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
        return function, args, kwargs

    images, digits = drawn(BATCH, 3, SIZE, SIZE), drawn(100, 3, 28, 28)
    labels = torch.arange(BATCH) % 2

    def maps() -> surgery.Maps:
        return surgery.stages(classifier().model)

    def statistics() -> surgery.ActivationStatistics:
        return surgery.activation_statistics(maps(), [digits])

    def score() -> Callable[[Tensor], Tensor]:
        network = perturbation.LinearProbe(clip().image_encoder, nn.Linear(WIDTH, 2))
        return models.class_score(network.eval(), labels, softmax=1.0)

    def tower() -> nn.Module:
        return decomposition.image_tower(clip().image_encoder)

    def speech() -> tuple[models.Captioner, texplain.Translator]:
        captioner = models.load_captioner(str(WEIGHTS / "captioner-mini"))
        return captioner, texplain.Translator(65, WIDTH, captioner.language.width).eval()

    def saying() -> Call:
        captioner, translator = speech()
        told = captioner.language.encode(["a red bird on the water"] * BATCH, 24)
        conditions = translator(drawn(BATCH, 65, WIDTH)).detach()
        prompt, pad = len(captioner.language.prompt), captioner.language.pad
        return call(texplain.sentence_loss, captioner.language.decoder, conditions, told, prompt=prompt, pad=pad)

    def parts(level: str = "head") -> decomposition.Contributions:
        return decomposition.decompose(tower(), images, level)

    heads, texts = drawn(1720, 8, WIDTH), drawn(1500, WIDTH)
    recipe = perturbation.Recipe(steps=5).at(SIZE)
    values, groups = np.random.default_rng(0).random(600), [f"group {i % 4}" for i in range(600)]
    masks = drawn(200, SIZE, SIZE) > 0.5
    substitutes = torch.full((1, 3, SIZE, SIZE), 0.45)
    return {
        "activation_statistics": lambda: call(surgery.activation_statistics, maps(), [digits]),
        "match_activations": lambda: call(
            surgery.match_activations, maps(), statistics(), maps(), statistics(), [digits]
        ),
        "choose_maps": lambda: call(surgery.choose_maps, drawn(1024, 1024)),
        "decompose": lambda: call(decomposition.decompose, tower(), images),
        "coefficients": lambda: call(decomposition.coefficients, tower(), images),
        "mean_contributions": lambda: call(decomposition.mean_contributions, [parts()]),
        "ablate": lambda: call(
            decomposition.ablate, parts(), means=decomposition.mean_contributions([parts()]), layers=[0, 1]
        ),
        "textspan": lambda: call(decomposition.textspan, heads, texts, 16),
        "heatmaps": lambda: call(
            decomposition.heatmaps, parts("token").attention, drawn(6, WIDTH), (SIZE, SIZE), grid=(8, 8)
        ),
        "grad_cam": lambda: call(
            saliency.grad_cam, classifier(), classifier().model.layer2, digits, torch.arange(100) % 2
        ),
        "rise": lambda: call(saliency.rise, score(), images, substitutes, seed=0, masks=4),
        "integrated_gradients": lambda: call(
            saliency.integrated_gradients, score(), images, substitutes, steps=4
        ),
        "attention_rollout": lambda: call(saliency.attention_rollout, tower(), images),
        "meaningful_perturbation": lambda: call(
            perturbation.meaningful_perturbation, score(), images, recipe, seed=0
        ),
        "removal_curves": lambda: call(
            perturbation.removal_curves, score(), images, drawn(BATCH, SIZE, SIZE), substitutes, step=256, seed=0
        ),
        "substitute": lambda: call(perturbation.substitute, images, "mean", mean=(0.45, 0.45, 0.45)),
        "removal_order": lambda: call(perturbation.removal_order, drawn(BATCH, SIZE, SIZE), seed=0),
        "train_head": lambda: call(
            perturbation.train_head, drawn(480, WIDTH), torch.arange(480) % 16, classes=16, seed=0, epochs=5,
            learning_rate=0.1, batch=32,
        ),
        "sentence_loss": saying,
        "masked": lambda: call(texplain.masked, images, drawn(BATCH, 8, 8)),
        "classifier_grad_cam": lambda: call(
            texplain.classifier_grad_cam, tower(), "transformer.resblocks.4", images, grid=(8, 8), weights="xgrad"
        ),
        "segmentation_scores": lambda: call(metrics.segmentation_scores, drawn(200, SIZE, SIZE), masks),
        "pointing_game": lambda: call(metrics.pointing_game, drawn(200, SIZE, SIZE), masks),
        "bootstrap_mean": lambda: call(metrics.bootstrap_mean, values, seed=0),
        "spearman": lambda: call(metrics.spearman, values, values[::-1].copy(), seed=0),
        "group_accuracy": lambda: call(metrics.group_accuracy, values > 0.5, groups),
        "proportion": lambda: call(metrics.proportion, 300, 600),
    }  # fmt: skip


def cost(call: Call, seconds: float) -> tuple[float, float]:
    """The quickest look at the arguments, and the quickest call without one, each tried for so many seconds."""
    function, args, kwargs = call
    look = partial(function._contract.take, args, kwargs)
    look()
    before = arguments._inside.active
    arguments._inside.active = True
    try:
        return _quickest(look, seconds / 4), _quickest(lambda: function(*args, **kwargs), seconds)
    finally:
        arguments._inside.active = before


def _quickest(run: Callable[[], Any], seconds: float) -> float:
    found = [timed(run)[0]]
    while sum(found) < seconds:
        found.append(timed(run)[0])
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of methods; by default all")
    parser.add_argument("--seconds", type=float, default=1.0, help="that each is tried for")
    given = parser.parse_args()
    torch.set_num_threads(1)
    above = []
    print(f"{'method':26}{'checks':>10}{'the call':>12}{'share':>9}")
    for name, make in calls().items():
        if given.names and name not in given.names:
            continue
        looking, calling = cost(make(), given.seconds)
        share = looking / (looking + calling)
        short = calling < SHORT
        print(f"{name:26}{looking * 1e6:7.0f} µs{calling * 1e3:9.2f} ms{share:8.2%} {'(short)' if short else ''}")
        if share > MOST and not short:
            above.append(name)
    print(f"above {MOST:.0%}: {', '.join(above) or 'none'}")


if __name__ == "__main__":
    main()
