"""How each public function, class and method is called rightly, in small: what wrong calls are made from.

A call is found by the label that messages give it, and made anew each time: some of them change what they are given.
"""

import copy
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel

from xaikit import audit, datasets, decomposition, metrics, models, perturbation, saliency, surgery, texplain, world
from xaikit.models.captioner import ImageTokens
from xaikit.storage.paths import WEIGHTS
from xaikit.texplain import mitigation, training

Call = tuple[Callable[..., Any], dict[str, Any]]
CALLS: dict[str, Callable[[Path], Call]] = {}
SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def of(label: str, function: Callable[..., Any], /, **arguments: Any) -> None:
    """Keep a call, of which each argument is a value, or a function of a folder for files that makes one."""

    def make(folder: Path) -> Call:
        made = {
            name: value(folder) if isinstance(value, _Made) else copy.deepcopy(value)
            for name, value in arguments.items()
        }
        return function(folder) if isinstance(function, _Made) else function, made

    CALLS[label] = make


class _Made:
    """An argument that is made for each call."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, folder: Path) -> Any:
        return self.make(folder) if self.make.__code__.co_argcount else self.make()


def drawn(*shape: int) -> Tensor:
    """Numbers in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """A classifier of two classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@cache
def vit() -> VisionTransformer:
    """A small image tower."""
    torch.manual_seed(0)
    return VisionTransformer(32, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=4.0, output_dim=8).eval()


@cache
def resnet_tower() -> ModifiedResNet:
    """An open_clip ResNet."""
    return ModifiedResNet(layers=(1, 1, 1, 1), output_dim=8, heads=4, image_size=32, width=8).eval()


@cache
def decoder() -> BertLMHeadModel:
    """A language model with cross-attention."""
    torch.manual_seed(0)
    return BertLMHeadModel(BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)).eval()


@cache
def _looking() -> BertLMHeadModel:
    """The same, which gives its attentions."""
    torch.manual_seed(0)
    looks = {"is_decoder": True, "add_cross_attention": True, "attn_implementation": "eager"}
    return BertLMHeadModel(BertConfig(**SIZES, **looks)).eval()


@cache
def clip() -> models.Clip:
    """The small CLIP that ships."""
    return models.load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")


@cache
def captioner() -> models.Captioner:
    """The small captioner that ships."""
    return models.load_captioner(str(WEIGHTS / "captioner-mini"))


@cache
def painter() -> models.Generator:
    """The small generator that ships."""
    return models.load_generator(WEIGHTS / "generator-mini")


images = drawn(2, 3, 32, 32)
score = models.class_score(network(), torch.tensor([0, 1]), softmax=1.0)
recipe = perturbation.Recipe(steps=2, side=4, blur=2.0, jitter=1)
maps = drawn(2, 32, 32)
rng = np.random.default_rng(0)

# --- surgery ----------------------------------------------------------------------------------------------------------

plain = network()
layers = surgery.Maps(plain, {"0": plain[0]})
statistics = surgery.activation_statistics(layers, [images])
similarity = drawn(4, 4)
said = surgery.Captions({"shape": ("a 5", "an 8"), "colour": ("red", "green")})
right = torch.tensor([0, 1, 0, 1])
choice = surgery.choose_maps(drawn(4, 4))
of("Captions", surgery.Captions, cues=said.cues)
of("Captions.columns", said.columns, cue="shape")
of("similarities", surgery.similarities, encoder=network(), text_features=drawn(3, 2), batches=[images])
of("cue_contrast", surgery.cue_contrast, similarity=similarity, captions=said, cue="shape", label=right)
of("dominant_captions", surgery.dominant_captions, values=similarity, captions=said,
   labels={"shape": right, "colour": right})  # fmt: skip
of("cue_share", surgery.cue_share, shares={"correct shape": 0.5, "wrong shape": 0.5}, cue="shape")
of("published_values", surgery.published_values, first=drawn(5, 2, 4), swapped=similarity)
of("stale_edits", surgery.stale_edits, first=drawn(5, 2, 4), swapped=similarity)
of("published_columns", surgery.published_columns, similarity=drawn(5, 2, 4))
of("Maps", surgery.Maps, model=_Made(lambda: plain), layers=_Made(lambda: {"0": plain[0]}))
of("convolutions", surgery.convolutions, model=network(), images=images)
of("stages", surgery.stages, model=_Made(resnet_tower.__wrapped__))
of("ActivationStatistics", surgery.ActivationStatistics, channels={"0": 4}, mean=drawn(4), std=drawn(4))
of("ActivationStatistics.standardise", statistics.standardise, layer="0", activation=drawn(2, 4, 8, 8))
of("ActivationStatistics.centred", statistics.centred, layer="0", activation=drawn(2, 4, 8, 8))
of("map_shapes", surgery.map_shapes, maps=layers, images=images)
of("activation_statistics", surgery.activation_statistics, maps=layers, batches=[images], as_published=True,
   published_batch=2)  # fmt: skip
of("match_activations", surgery.match_activations, source=layers, source_statistics=statistics, target=layers,
   target_statistics=statistics, batches=[images])  # fmt: skip
of("upsampling_adjoint", surgery.upsampling_adjoint, maps=drawn(2, 4, 8, 8), size=(4, 4))
of("Choice", surgery.Choice, source=torch.arange(4), score=drawn(4), swapped=torch.ones(4, dtype=torch.bool))
of("choose_maps", surgery.choose_maps, scores=drawn(4, 4), rule="random", generator=_Made(lambda: torch.Generator()))
of("shuffled", surgery.shuffled, choice=choice, statistics=statistics, generator=_Made(lambda: torch.Generator()))
of("strongest", surgery.strongest, choice=choice, statistics=statistics, fraction=0.5)
of("network_surgery", _Made(lambda: _entering(surgery.network_surgery)), target=layers, target_statistics=statistics,
   source=_Made(lambda: copy.deepcopy(layers)), source_statistics=statistics, choice=choice, only=("0",),
   interpolation="bilinear")  # fmt: skip
of("from_stage_on", surgery.from_stage_on, tower=_Made(resnet_tower.__wrapped__), stage="layer4", shape=(256, 1, 1))


def _entering(manager: Callable[..., Any]) -> Callable[..., Any]:
    def enter(**arguments: Any) -> None:
        with manager(**arguments):
            pass

    return enter


# --- texplain ---------------------------------------------------------------------------------------------------------

tokens = drawn(2, 9, 16)
sentences = torch.tensor([[[1, 5, 6, 2], [1, 7, 5, 2]]] * 2)
labels, groups = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])
frequencies = {"bird": 0.5, "sea": 0.25}
question = texplain.Question("q", drawn(3, 8, 8), ("red", "bird"), "bird", "red")
answers = pd.DataFrame(
    [[rater, name, "red", word] for rater in "ab" for name, word in (("q", "yes"), ("r", "no"))],
    columns=["rater", "question", "matching", "relevant"],
)
questions = [question, texplain.Question("r", drawn(3, 8, 8), ("red", "bird"), "bird", "red")]
translator = texplain.Translator(tokens=9, width=16, to_width=16)
memory = training.InMemory(tokens, sentences, batch=2, seed=0)
of("Features", texplain.Features, model=network(), layer="0", pooled=False)
of("Features.forward", texplain.Features(network(), "0").forward, images=images)
of("Translator", texplain.Translator, tokens=9, width=16, to_width=16, variant="token", hidden=8, activation=True)
of("Translator.forward", translator.forward, features=tokens)
of("log_probabilities", texplain.log_probabilities, decoder=_Made(decoder.__wrapped__), conditioning=tokens,
   sentences=sentences[:, 0], pad=0)  # fmt: skip
of("sentence_loss", texplain.sentence_loss, decoder=_Made(decoder.__wrapped__), conditioning=tokens,
   sentences=sentences[:, 0], prompt=1, pad=0)  # fmt: skip
of("sample", texplain.sample, decoder=_Made(decoder.__wrapped__), conditioning=tokens, n=2, prompt=[1], end=2, pad=0,
   seed=0, top_p=0.9, min_new_tokens=1, max_new_tokens=3, repetition_penalty=1.1, rows=8)  # fmt: skip
of("InMemory", training.InMemory, features=tokens, sentences=sentences, batch=2, seed=0, process=0, processes=1)
of("InMemory.__call__", memory, epoch=0)
of("train", texplain.train, translator=translator, decoder=_Made(decoder.__wrapped__), batches=memory,
   recipe=training.Recipe(epochs=1, batch=2), prompt=1, pad=0, steps_an_epoch=1, seed=0, encoder=None,
   checkpoint=_Made(lambda folder: folder / "checkpoint"), checkpoint_steps=5, after_epoch=None)  # fmt: skip
of("write_translator", texplain.write_translator, path=_Made(lambda folder: folder / "t"), translator=translator)
of("read_translator", texplain.read_translator, path=_Made(lambda folder: _translator(folder)), device="cpu")
of("token_cam", texplain.token_cam, features=tokens, gradient=tokens, grid=(3, 3), weights="grad")
of("word_grad_cam", texplain.word_grad_cam, decoder=_Made(decoder.__wrapped__), translator=translator, features=tokens,
   sentences=sentences, says=sentences == 5, grid=(3, 3), pad=0, prompt=1, most=2)  # fmt: skip
of("word_attention", texplain.word_attention, decoder=_Made(_looking.__wrapped__), translator=translator,
   features=tokens, sentences=sentences, says=sentences == 5, grid=(3, 3), pad=0, prompt=1, most=2,
   layer=0)  # fmt: skip
of("first_said", texplain.first_said, sentences=sentences, words=[["bird"], ["sea"]],
   tokenizer=_Made(lambda: captioner().language.tokenizer), word_of=texplain.words_of)  # fmt: skip
of("classifier_grad_cam", texplain.classifier_grad_cam, model=_Made(lambda: _of_tokens()), layer="1", images=images,
   target=torch.tensor([0, 1]), grid=(4, 4), weights="grad")  # fmt: skip
of("words_of", texplain.words_of, sentence="a red bird")
of("document_frequency", texplain.document_frequency, sentences=["a red bird"], ignore=["red"],
   concepts={"animal": ["bird"]})  # fmt: skip
of("dominant", texplain.dominant, frequencies=frequencies, least=0.1)
of("top_word", texplain.top_word, frequencies=frequencies)
of("explained_by_prior", texplain.explained_by_prior, frequencies=frequencies, prior=frequencies)
of("flagged", texplain.flagged, top_words=["bird", None, "sea", "bird"], labels=labels,
   lexicons={0: ["bird"], 1: ["bird"]})  # fmt: skip
of("salient", texplain.salient, maps=maps, size=(16, 16))
of("masked", texplain.masked, images=images, maps=maps)
of("randomly_masked", texplain.randomly_masked, images=images, areas=torch.tensor([4, 9]), seed=0, ids=["a", "b"])
of("fine_tune", texplain.fine_tune, model=network(), images=drawn(4, 3, 32, 32), labels=labels,
   recipe=mitigation.Recipe(epochs=1, batch=2, learning_rate=0.1), seed=0, weights=torch.ones(4), parameters=["4"],
   device="cpu")  # fmt: skip
of("group_weights", texplain.group_weights, groups=groups)
of("retrain_last_layer", texplain.retrain_last_layer, features=drawn(4, 3), labels=labels, groups=groups, l2=0.1,
   steps=100)  # fmt: skip
of("Averages", texplain.Averages, micro=0.5, macro=0.5, train_weighted=0.5)
of("averages", texplain.averages, correct=[True, False, True], groups=[0, 1, 1], train_groups=[0, 1])
of("Question", texplain.Question, name="q", image=drawn(3, 8, 8), words=("red", "bird"), prediction="bird",
   top_word="red")  # fmt: skip
of("read_answers", texplain.read_answers, folder=_Made(lambda folder: _answers(folder)))
of("agreement", texplain.agreement, answers=answers, questions=questions, seed=0)
of("krippendorff_alpha", texplain.krippendorff_alpha, ratings=np.array([[0, 0], [1, 1], [0, 1]]))


def _translator(folder: Path) -> Path:
    texplain.write_translator(folder / "written", translator)
    return folder / "written"


def _answers(folder: Path) -> Path:
    answers.to_csv(folder / "a.csv", index=False)
    return folder


def _of_tokens() -> nn.Module:
    class Head(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.mean(1)

    class Tokens(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.flatten(2).mT

    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 8, 8), Tokens()), nn.Linear(4, 4), nn.GELU(), Head())


# --- perturbation -----------------------------------------------------------------------------------------------------

probe = perturbation.LinearProbe(network(), nn.Linear(2, 2))
zero_shot = perturbation.ZeroShot(network(), drawn(3, 2))
curves = perturbation.RemovalCurves(drawn(2, 3), torch.linspace(0, 1, 3))
boxes = {"a": [(0.0, 0.0, 4.0, 4.0)]}
of("LinearProbe", perturbation.LinearProbe, encoder=network(), head=nn.Linear(2, 2))
of("LinearProbe.forward", probe.forward, images=images)
of("LinearProbe.classify", probe.classify, embeddings=drawn(2, 2))
of("ZeroShot", perturbation.ZeroShot, encoder=network(), classes=drawn(3, 2))
of("ZeroShot.forward", zero_shot.forward, images=images)
of("ZeroShot.classify", zero_shot.classify, embeddings=drawn(2, 2))
of("embed", perturbation.embed, encoder=network(), batches=[images], device="cpu")
of("train_head", perturbation.train_head, embeddings=drawn(4, 3), labels=labels, classes=2, seed=0, epochs=2,
   learning_rate=0.1, batch=2)  # fmt: skip
of("RemovalCurves", perturbation.RemovalCurves, scores=drawn(2, 3), fractions=torch.linspace(0, 1, 3))
of("RemovalCurves.areas", curves.areas, normalise="none")
of("removal_curves", perturbation.removal_curves, score=score, images=images, attributions=maps,
   substitutes=torch.zeros(1, 3, 32, 32), step=512, insertion=True, seed=0, batch=4)  # fmt: skip
of("removal_order", perturbation.removal_order, attributions=maps, seed=0)
of("substitute", perturbation.substitute, images=images, kind="mean", mean=(0.5, 0.5, 0.5), blur=2.0)
of("random_attribution", perturbation.random_attribution, images=2, size=(8, 8), seed=0)
of("centre_attribution", perturbation.centre_attribution, images=2, size=(8, 8))
of("Recipe", perturbation.Recipe, **vars(recipe))
of("Recipe.at", recipe.at, pixels=64)
of("meaningful_perturbation", perturbation.meaningful_perturbation, score=score, images=images, recipe=recipe, seed=0,
   ids=["a", "b"], batch=2, patience=1, autocast=False, start=drawn(2, 4, 4))  # fmt: skip
of("deletions", perturbation.deletions, recipe=recipe)
of("check_masks", perturbation.check_masks, score=score, images=images, masks=drawn(2, 4, 4), recipe=recipe, batch=2,
   autocast=False)  # fmt: skip
of("MaskChecks", perturbation.MaskChecks, highest=drawn(2), before=drawn(2), after=drawn(2), lowest=drawn(2),
   loss=drawn(2))  # fmt: skip
of("attribution", perturbation.attribution, masks=drawn(2, 4, 4), size=(32, 32), recipe=recipe)
of("variation", perturbation.variation, masks=drawn(2, 4, 4), recipe=recipe)
of("blurred", perturbation.blurred, images=images, recipe=recipe)
of("find_faces", perturbation.find_faces, photographs=[("a", np.zeros((8, 8, 3), np.uint8))],
   detector=lambda photograph: [])  # fmt: skip
of("write_boxes", perturbation.write_boxes, file=_Made(lambda folder: folder / "boxes.json"), boxes=boxes)
of("read_boxes", perturbation.read_boxes, file=_Made(lambda folder: _boxes(folder)))


def _boxes(folder: Path) -> Path:
    perturbation.write_boxes(folder / "written.json", boxes)
    return folder / "written.json"


# --- decomposition ----------------------------------------------------------------------------------------------------

readout = decomposition.Readout.of(vit())
parts = decomposition.decompose(vit(), images)
by_token = decomposition.decompose(vit(), images, "token")
means = decomposition.mean_contributions([parts])
numbers = decomposition.coefficients(vit(), images)
heads = drawn(20, 2, 8)
span = decomposition.textspan(heads, torch.eye(8), 2)
of("image_tower", decomposition.image_tower, model=_Made(lambda: vit()))
of("Readout", decomposition.Readout, **{**vars(readout), "pooled": drawn(8, 8)})
of("Readout.of", decomposition.Readout.of, tower=_Made(lambda: vit()), own_mean=True)
of("Contributions", decomposition.Contributions, **vars(parts))
of("Coefficients", decomposition.Coefficients, **vars(numbers))
of("Coefficients.__getitem__", numbers.__getitem__, rows=slice(1))
of("Coefficients.contributions", numbers.contributions, readout=readout, level="head")
of("coefficients", decomposition.coefficients, tower=_Made(lambda: vit()), images=images)
of("decompose", decomposition.decompose, tower=_Made(lambda: vit()), images=images, level="head-token", readout=readout,
   heads=[(0, 1)])  # fmt: skip
of("mean_contributions", decomposition.mean_contributions, batches=[parts])
of("ablate", decomposition.ablate, contributions=parts, means=means, mlps=True, layers=[0], heads=[(1, 0)])
of("ablate_attention_cumulatively", decomposition.ablate_attention_cumulatively, contributions=parts, means=means)
of("replace_heads", decomposition.replace_heads, contributions=parts, heads=[(1, 0)], replacements=drawn(2, 1, 8))
of("neighbours", decomposition.neighbours, queries=drawn(3, 8), gallery=drawn(4, 8), k=2, similarity="cosine",
   same=False)  # fmt: skip
of("precision_at_k", decomposition.precision_at_k, found=torch.tensor([[0, 1]]), query_labels=torch.tensor([1]),
   gallery_labels=labels)  # fmt: skip
of("heatmaps", decomposition.heatmaps, tokens=by_token.attention, texts=drawn(3, 8), size=(32, 32), grid=(4, 4),
   contrast=True, before=1)  # fmt: skip
of("class_heatmaps", decomposition.class_heatmaps, contributions=by_token, classes=drawn(3, 8), size=(32, 32),
   chosen=torch.tensor([0, 2]), grid=(4, 4))  # fmt: skip
of("DecomposedDataset", decomposition.DecomposedDataset, tower=_Made(lambda: vit()), images=images, ids=["a", "b"],
   shard_size=2, batch_size=2, workers=0)  # fmt: skip
of("fill", decomposition.fill, stores=_Made(lambda: [decomposition.DecomposedDataset(vit(), images)]), rank=0,
   world_size=1)  # fmt: skip
store = decomposition.DecomposedDataset(vit(), images)
of("DecomposedDataset.path", store.path, shard=0)
of("DecomposedDataset.has", store.has, shard=0, whole=False)
of("DecomposedDataset.read", store.read, shard=0)
of("DecomposedDataset.write", _Made(lambda folder: decomposition.DecomposedDataset(vit(), images, folder=folder).write),
   shard=0, found=_Made(lambda: decomposition.coefficients(vit(), images)))  # fmt: skip
of("DecomposedDataset.__getitem__", decomposition.DecomposedDataset(vit(), images).__getitem__, shard=0)
of("ContributionMoments", decomposition.ContributionMoments, basis=drawn(2, 3, 8))
of("ContributionMoments.add", decomposition.ContributionMoments().add, coordinates=heads)
of("TextSpan", decomposition.TextSpan, **vars(span))
of("TextSpan.reconstruct", span.reconstruct, contributions=heads, m=1)
of("textspan", decomposition.textspan, contributions=heads, pool=torch.eye(8), m=2, texts=list("abcdefgh"), rank=4)
of("textspan_as_published", decomposition.textspan_as_published, contributions=heads, pool=torch.eye(8), m=2, rank=4)

# --- saliency ---------------------------------------------------------------------------------------------------------

directions = drawn(2, 8)
classifier = network()
of("cam", saliency.cam, features=drawn(2, 4, 8, 8), class_weights=drawn(2, 4))
of("grad_cam", saliency.grad_cam, model=_Made(lambda: classifier), layer=_Made(lambda: classifier[0]), images=images,
   target=torch.tensor([0, 1]), upsample=False)  # fmt: skip
of("rise", saliency.rise, score=score, images=images, substitutes=torch.zeros(1, 3, 32, 32), seed=0, masks=4, cells=3,
   keep=0.5, batch=2)  # fmt: skip
of(
    "random_masks",
    saliency.random_masks,
    count=2,
    size=(8, 8),
    cells=3,
    keep=0.5,
    draw=_Made(lambda: torch.Generator()),
)
of("integrated_gradients", saliency.integrated_gradients, score=score, images=images,
   baselines=torch.zeros(1, 3, 32, 32), steps=2, batch=4)  # fmt: skip
of("linear_relevance", saliency.linear_relevance, inputs=drawn(2, 4), weight=drawn(3, 4), relevance=drawn(2, 3))
of("product_relevance", saliency.product_relevance, left=drawn(2, 3, 4), right=drawn(2, 4, 5), relevance=drawn(2, 3, 5))
of("sum_relevance", saliency.sum_relevance, one=drawn(2, 4), other=drawn(2, 4), relevance=drawn(2, 4))
of("text_directions", saliency.text_directions, texts=drawn(3, 8), labels=torch.tensor([0, 2]), minus_mean=True)
of("raw_attention", saliency.raw_attention, tower=_Made(lambda: vit()), images=images)
of("attention_rollout", saliency.attention_rollout, tower=_Made(lambda: vit()), images=images, start=0)
of("partial_lrp", saliency.partial_lrp, tower=_Made(lambda: vit()), images=images, directions=directions)
of("lrp", saliency.lrp, tower=_Made(lambda: vit()), images=images, directions=directions)
of(
    "chefer",
    saliency.chefer,
    tower=_Made(lambda: vit()),
    images=images,
    directions=directions,
    rule="cvpr2021",
    start=0,
)

# --- metrics ----------------------------------------------------------------------------------------------------------

interval = metrics.Interval(0.5, 0.4, 0.6, 40)
masks = drawn(2, 8, 8) > 0.5
scored = metrics.segmentation_scores(drawn(2, 8, 8), masks)
pointing = metrics.pointing_game(drawn(2, 8, 8), masks)
values = [0.1, 0.4, 0.35, 0.8, 0.7, 0.2]
binary = [0, 1, 0, 1, 1, 0]
of("mcnemar", metrics.mcnemar, first=binary, second=binary[::-1])
of(
    "permutation_p",
    metrics.permutation_p,
    statistic=lambda a, b: float(np.dot(a, b)),
    values=values,
    labels=binary,
    seed=0,
    permutations=10,
)
of("fisher", metrics.fisher, successes=3, n=10, other_successes=5, other_n=10)
of("GroupAccuracy", metrics.GroupAccuracy, groups={"a": interval}, overall=interval)
of("group_accuracy", metrics.group_accuracy, correct=binary, groups=list("aabbcc"))
of("normalise", metrics.normalise, maps=drawn(2, 8, 8))
of("Interval", metrics.Interval, value=0.5, low=0.4, high=0.6, n=40)
of("Interval.within", interval.within, low=0.0, high=1.0)
of("Runs", metrics.Runs, value=0.5, low=0.4, high=0.6, n=4, sd=0.1)
of("verdict", metrics.verdict, interval=interval, threshold=0.0)
of("proportion", metrics.proportion, successes=3, n=10)
of("over_runs", metrics.over_runs, values=[0.1, 0.2, 0.3])
of("bootstrap", metrics.bootstrap, statistic=np.mean, seed=0, resamples=10, paired=True)
of("bootstrap_mean", metrics.bootstrap_mean, values=values, seed=0, resamples=10)
of("cluster_bootstrap", metrics.cluster_bootstrap, groups=[np.array(values), np.array(values)], statistic=np.mean,
   seed=0, crossed=True, resamples=10)  # fmt: skip
of("Pointing", metrics.Pointing, **vars(pointing))
of("pointing_game", metrics.pointing_game, attributions=drawn(2, 8, 8), regions=masks, tolerance=1.0, fraction=0.1)
of("box_masks", metrics.box_masks, boxes=[(0, 0, 4, 4)], size=(8, 8))
of("auc", metrics.auc, score=values, label=binary)
of("bootstrap_auc", metrics.bootstrap_auc, score=values, label=binary, seed=0, resamples=10)
of("spearman", metrics.spearman, x=values, y=values[::-1])
of("defined", metrics.defined, values=values, what="correlations")
of("SegmentationScores", metrics.SegmentationScores, **vars(scored))
of("SegmentationScores.join", metrics.SegmentationScores.join, batches=[scored])
of("SegmentationScores.interval", scored.interval, measure="map", seed=0)
of("SegmentationScores.minus", scored.minus, other=scored, measure="map", seed=0)
of("segmentation_scores", metrics.segmentation_scores, heatmaps=drawn(2, 8, 8), masks=masks, clip=True, ignore=None)
of("foreground", metrics.foreground, heatmaps=drawn(2, 8, 8), clip=True)
of("average_precision", metrics.average_precision, scores=drawn(2, 6), labels=torch.tensor([binary, binary]).bool(),
   known=torch.ones(2, 6, dtype=torch.bool))  # fmt: skip
CALLS["bootstrap"] = lambda folder: (lambda statistic, **rest: metrics.bootstrap(statistic, values, **rest),
                                     {"statistic": np.mean, "seed": 0, "resamples": 10, "paired": True})  # fmt: skip

# --- models -----------------------------------------------------------------------------------------------------------

prepared = models.Preprocessed(network(), 32, (0.5,) * 3, (0.5,) * 3)
of("Captioner", models.Captioner, image_encoder=ImageTokens(nn.Identity(), 8, [0.5] * 3, [0.5] * 3),
   language=_Made(lambda: captioner().language))  # fmt: skip
of("LanguageModel", models.LanguageModel, decoder=_Made(decoder.__wrapped__), prompt=[1], end=2, pad=0,
   tokenizer=_Made(lambda: captioner().language.tokenizer))  # fmt: skip
of("LanguageModel.encode", _Made(lambda: captioner().language.encode), texts=["a red bird"], longest=12)
of("LanguageModel.decode", _Made(lambda: captioner().language.decode), sentences=sentences[0])
of("load_captioner", models.load_captioner, name=str(WEIGHTS / "captioner-mini"), prompt="a", device="cpu")
of("predict", models.predict, model=network(), images=images, batch=2)
of(
    "Clip",
    models.Clip,
    image_encoder=prepared,
    model=_Made(lambda: clip().model),
    tokenizer=_Made(lambda: clip().tokenizer),
)
of("Clip.encode_texts", _Made(lambda: clip().encode_texts), texts=["a red bird"], strict=True)
of("load_clip", models.load_clip, name=f"local-dir:{WEIGHTS / 'clip-vit-mini'}", pretrained=None, device="cpu")
of("Generator", models.Generator, pipeline=_Made(lambda: painter().pipeline))
of(
    "Generator.generate",
    _Made(lambda: painter().generate),
    prompts=["a red bird"],
    seed=0,
    steps=1,
    guidance=1.0,
    batch=1,
)
of("Generator.encode", _Made(lambda: painter().encode), batch=1,
   images=_Made(lambda: drawn(1, 3, painter().size, painter().size)))  # fmt: skip
of("load_generator", models.load_generator, name=WEIGHTS / "generator-mini", device="cpu")
of("Preprocessed", models.Preprocessed, model=network(), size=32, mean=(0.5,) * 3, std=(0.5,) * 3, grey=True,
   resize="squash", scale=(32, 32), interpolation="bilinear", fill=0.5, floor=True)  # fmt: skip
of("Preprocessed.of", models.Preprocessed.of, model=_Made(lambda: clip().model))
of("Preprocessed.prepare", prepared.prepare, images=images)
of("class_score", models.class_score, outputs=network(), targets=torch.tensor([0, 1]), softmax=1.0)

# --- data sets --------------------------------------------------------------------------------------------------------


def photograph(folder: Path, name: str = "a.png") -> Path:
    """A file."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(folder / name)
    return folder / name


def class_folders(folder: Path) -> Path:
    """Two classes of a photograph each."""
    for name in ("cat", "dog"):
        photograph(folder, f"classes/{name}/1.png")
    return folder / "classes"


def _photographs(folder: Path) -> datasets.Photographs:
    return datasets.read_class_folders(class_folders(folder))


def _coco(folder: Path) -> datasets.CocoCaptions:
    return datasets.CocoCaptions((photograph(folder), photograph(folder, "b.png")), (("a cat",), ("a dog",)))


def _imagenet(folder: Path) -> datasets.ImageNet:
    return datasets.ImageNet((photograph(folder),), torch.tensor([0]))


def _birds(folder: Path) -> datasets.Waterbirds:
    photograph(folder, "a.png")
    return datasets.Waterbirds(folder, ("a.png",), torch.tensor([0]), torch.tensor([1]))


shards = datasets.Shards(("a.tar",), 10)
segmented = datasets.ImageNetSegmentation(Path("a.mat"), ("1",), 224, "aligned")
of("Photograph", datasets.Photograph, id="a", image=torch.zeros(3, 8, 8, dtype=torch.uint8), label=0)
of("read_image", datasets.read_image, source=_Made(lambda folder: photograph(folder)), exif=True, changes=Counter())
of("Photographs", datasets.Photographs, root=Path("r"), paths=(Path("r/a.png"),), labels=torch.tensor([0]),
   names=("a",), exif=True)  # fmt: skip
of("Photographs.__getitem__", _Made(lambda folder: _photographs(folder).__getitem__), index=0)
of("Photographs.readable", _Made(lambda folder: _photographs(folder).readable))
of("Photographs.select", _Made(lambda folder: _photographs(folder).select), positions=[1])
of("read_class_folders", datasets.read_class_folders, root=_Made(class_folders), names=["cat", "dog"], exif=False)
of("CocoCaptions", datasets.CocoCaptions, paths=(Path("a.png"),), captions=(("a cat",),))
of("CocoCaptions.__getitem__", _Made(lambda folder: _coco(folder).__getitem__), index=0)
of("CocoCaptions.select", _Made(lambda folder: _coco(folder).select), positions=[1])
of(
    "CocoCaptions.pairs",
    _Made(lambda folder: _coco(folder).pairs),
    seed=0,
    epoch=0,
    share=0,
    shares=1,
    counts=Counter(),
)
of("Shards", datasets.Shards, urls=("a.tar",), buffer=10)
of("Shards.pairs", shards.pairs, seed=0, epoch=0, share=0, shares=1, counts=Counter())
of("ImageNet", datasets.ImageNet, paths=(Path("a.png"),), labels=torch.tensor([0]))
of("ImageNet.__getitem__", _Made(lambda folder: _imagenet(folder).__getitem__), index=0)
of("ImageNet.select", _Made(lambda folder: _imagenet(folder).select), positions=[0])
of("ImageNetSegmentation", datasets.ImageNetSegmentation, path=Path("a.mat"), ids=("1",), size=224, alignment="aligned")
of("Waterbirds", datasets.Waterbirds, folder=Path("r"), ids=("a.png",), labels=torch.tensor([0]),
   backgrounds=torch.tensor([1]))  # fmt: skip
of("Waterbirds.__getitem__", _Made(lambda folder: _birds(folder).__getitem__), index=0)
of("Waterbirds.select", _Made(lambda folder: _birds(folder).select), positions=[0])

# --- world ------------------------------------------------------------------------------------------------------------

scenes = world.birds(4, seed=0)
of("Birds", world.Birds, **vars(scenes[0]))
of("Nine", world.Nine, **vars(world.nine(1, seed=0)[0]))
of("People", world.People, **vars(world.people(1, seed=0)[0]))
of("Cars", world.Cars, **vars(world.cars(1, seed=0)[0]))
of("Several", world.Several, **vars(world.several(1, seed=0)[0]))
of("Scene.values", world.Birds.values, name="species")
of("Scene.shown", world.Birds.shown, name="kind")
of("Scene.stream", scenes[0].stream, part="light")
of("Scene.draw", scenes[0].draw, size=16, without=["bird1"])
of("Scene.image", scenes[0].image, size=16, without=["bird1"])
of("Scene.masks", scenes[0].masks, size=16)
of("Scene.coverage", scenes[0].coverage, size=16)
of("Scene.boxes", scenes[0].boxes, size=16)
of("Drawing", world.Drawing, **{name: vars(scenes[0].draw(16))[name]
                                for name in ("subpixels", "halvings", "gain", "parts", "several")})  # fmt: skip
of("SceneSet", world.SceneSet, **vars(scenes))
of("SceneSet.of", world.SceneSet.of, scenes=[scenes[0]])
of("SceneSet.__getitem__", scenes.__getitem__, index=0)
of("SceneSet.values", scenes.values, name="species")
of("SceneSet.labels", scenes.labels, name="species")
of("SceneSet.pixels", scenes.pixels, size=16)
of("SceneSet.images", scenes.images, size=16)
of("SceneSet.masks", scenes.masks, part="birds", size=16)
of("SceneSet.batches", scenes.batches, size=16, batch=2)
both = world.several(4, seed=0)
of("SeveralSet.of", world.SeveralSet.of, scenes=[both[0]])
of("SeveralSet.__getitem__", both.__getitem__, index=0)
of("SeveralSet.pixels", both.pixels, size=16)
of("SeveralSet.masks", both.masks, part="thing1", size=16)
of("birds", world.birds, n=4, seed=0, split="test", alignment=0.5, waterbirds=0.5)
of("nine", world.nine, n=9, seed=0, split="test", alignment=0.5, variant="original")
of("people", world.people, n=10, seed=0, split="test", alignment=0.5, workplace=0.5, masked=0.5)
of("cars", world.cars, n=8, seed=0, split="test", written=0.5, alignment=0.5)
of("several", world.several, n=6, seed=0, split="test", things=2, asked=("dog",), others=("duck", "van", "owl"),
   size="tiny", twins=0.5, written=0.5, alignment=0.5, distractors=1)  # fmt: skip
asked = world.task("makes", seed=0, n=8, test=4)
of("Task", world.Task, train=scenes, test=scenes, factor="species", noise=0.1)
of("Task.labels", asked.labels, part="test")
of("Task.images", asked.images, part="test", size=16)
of("Task.seen", asked.seen, scenes=asked.test, size=16)
of("task", world.task, name="makes", seed=0, n=8, test=4, noise=0.1)
of("descriptions", world.descriptions, rng=rng, n=3)
of("one_topic_descriptions", world.one_topic_descriptions, rng=rng, n=3)
of("one_topic_phrases", world.one_topic_phrases)
of("class_descriptions", world.class_descriptions, family=world.Birds, rng=rng, n=3)

# --- audits -----------------------------------------------------------------------------------------------------------


def pictures_of_an_audit() -> Any:
    pixels = (drawn(12, 3, 32, 32) * 255).byte()
    seen = audit.Seen(pixels, {"object": drawn(12, 32, 32) < 0.3})
    return audit.Pictures(seen, tuple(f"{row}.png" for row in range(12)), np.arange(12) % 2)


def a_classifier_file(folder: Path) -> str:
    (folder / "mine.py").write_text(
        "from torch import nn\nfrom xaikit import Preprocessed\n"
        "def model():\n"
        "    return Preprocessed(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 4, (0.5,) * 3, (0.5,) * 3)\n"
    )
    return f"{folder / 'mine.py'}:model"


def some_concepts(folder: Path) -> Path:
    (folder / "concepts.toml").write_text("[word]\nchange = 'text'\ntext = 'SALE'\n")
    return folder / "concepts.toml"


behind = models.Preprocessed(network(), 32, (0.5,) * 3, (0.5,) * 3)
audited = pictures_of_an_audit()
of("Concept", audit.Concept, name="a", change="patch", region="object", patch=torch.zeros(3, 4, 4, dtype=torch.uint8),
   text="A", place="centre", size=0.2, expected=True, texts=["a red bird"], against=["a blue bird"],
   shown=torch.zeros(12, 3, 4, 4, dtype=torch.uint8), without=torch.zeros(12, 3, 4, 4, dtype=torch.uint8))  # fmt: skip
of("Seen", audit.Seen, pixels=audited.seen.pixels, masks=audited.seen.masks)
of("Seen.images", audited.seen.images, rows=slice(0, 2), device="cpu")
of("Seen.region", audited.seen.region, name="object", rows=slice(0, 2))
of("Pictures", audit.Pictures, **vars(audited))
of("Loaded", audit.Loaded, look=behind, model=behind, names=("a", "b"), source="s", digest="d", gradients=True,
   clip=None)  # fmt: skip
of("Loaded.of", audit.Loaded.of, model=behind, names=("a", "b"), source="s", gradients=True)
of("load_classifier", audit.load_classifier, name=_Made(a_classifier_file), classes=["a", "b"], preprocessing="",
   device="cpu")  # fmt: skip
of("read_concepts", audit.read_concepts, file=_Made(some_concepts), look=behind)
of("Language", audit.Language, clips={}, captioner=None)
of("load_language", audit.load_language, clips=["mini"], captioner="mini", device="cpu")
of("read_pictures", audit.read_pictures, folder=_Made(lambda folder: class_folders(folder)), look=behind,
   names=["cat", "dog"], classes=2, most=4)  # fmt: skip
of("audit", audit.audit, classifier=_Made(lambda: audit.Loaded.of(behind)), pictures=_Made(lambda: audited),
   concepts=[audit.Concept("a", "thing", "object")], language=audit.Language({}), device="cpu", seed=0,
   quick=True, command="")  # fmt: skip
