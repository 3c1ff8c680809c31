"""How the public functions are called on a device, with small models: a case a paper and a kind of model."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import to_pil_image

from xaikit import audit as audits
from xaikit.audit import batches, changes, questions, readings, shards
from xaikit.audit import maps as audit_maps
from xaikit.audit.load import outputs
from xaikit.companion.known_towers import small
from xaikit.companion.notes import Notes
from xaikit.companion.profiles import Settings
from xaikit.companion.record import Record
from xaikit.decomposition import heads as by_heads
from xaikit.decomposition.decompose import LEVELS, Readout, coefficients, decompose
from xaikit.decomposition.store import DecomposedDataset, fill
from xaikit.decomposition.textspan import ContributionMoments, textspan, textspan_as_published
from xaikit.metrics import heatmaps as metric_heatmaps
from xaikit.metrics import pointing, segmentation
from xaikit.metrics.intervals import proportion
from xaikit.models import captioner, classifiers, clip_training, generator, vit_classifier
from xaikit.models.batches import checked
from xaikit.models.clip import Clip, load_from
from xaikit.models.hooks import evaluating, listening
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.scores import class_score
from xaikit.models.streams import describe
from xaikit.perturbation import linear_probe, removal, search
from xaikit.saliency import masking, path_gradients, relevance, vit
from xaikit.saliency import tower as tower_parts
from xaikit.saliency.cam import cam
from xaikit.saliency.cam import grad_cam as cam_of_layer
from xaikit.storage.paths import WEIGHTS
from xaikit.studies import (
    audited_zoo,
    clip_pictures,
    clip_waterbirds,
    texplain_mitigation,
    vlm_figures,
    vlm_numbers,
    vlm_pictures,
    vlm_planted,
)
from xaikit.studies import caption_driven_tied as tied
from xaikit.studies import clip_asked as asked
from xaikit.studies import clip_decomposition as study
from xaikit.studies import clip_instruments as instruments
from xaikit.studies import texplain_figures as told
from xaikit.studies import texplain_tables as tables
from xaikit.studies import vlm_explanations as explanations
from xaikit.studies.texplain_instruments import OnBirds
from xaikit.studies.zoo import Spec, Truth
from xaikit.surgery import captions, matching, transplant
from xaikit.texplain import mitigation, sampling, text_overlap, training, translator, word_maps

CASES: dict[str, Callable[[str], None]] = {}


def case(function: Callable[[str], None]) -> Callable[[str], None]:
    """Keep a function that calls others on a device."""
    CASES[function.__name__] = function
    return function


def drawn(device: str, *shape: int) -> Tensor:
    """Numbers in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


def labels(device: str, count: int, classes: int = 2) -> Tensor:
    """Each class in turn."""
    return (torch.arange(count) % classes).to(device)


def clip_of(weights: str, device: str) -> Clip:
    """A CLIP that ships."""
    return load_from({"weights": weights}, device)


def resnet(device: str) -> Preprocessed:
    """A small classifier of images, with random weights."""
    torch.manual_seed(0)
    return Preprocessed(resnet18(num_classes=2), 32, (0.5,) * 3, (0.5,) * 3).to(device).eval().requires_grad_(False)


@cache
def _words() -> list[str]:
    return ["a red bird", "two birds on a lake"]


# --- paper 1 --------------------------------------------------------------------------------------------------------


@case
def surgery(device: str) -> None:
    clip, model, images = clip_of("clip-resnet-mini", device), resnet(device), drawn(device, 4, 3, 32, 32)
    source, target = matching.convolutions(model), matching.stages(clip.image_encoder)
    matching.map_shapes(source, images[:1])
    for as_published in (False, True):
        of = {
            maps: matching.activation_statistics(maps, [images, images], as_published=as_published)
            for maps in (source, target)
        }
    name = next(iter(of[source].span))
    of[source].standardise(name, drawn(device, 2, of[source].channels[name], 4, 4))
    matching.upsampling_adjoint(drawn(device, 2, 3, 8, 8), (4, 4))
    scores = matching.match_activations(source, of[source], target, of[target], [images])
    chance = torch.Generator().manual_seed(0)
    chosen = [transplant.choose_maps(scores, rule, generator=chance) for rule in ("best", "one-to-one", "random")]
    chosen += [transplant.shuffled(chosen[0], of[target], chance), transplant.strongest(chosen[0], of[target], 0.5)]
    of[source].centred(name, drawn(device, 2, of[source].channels[name], 4, 4))
    tied.answer_contributions(source, of[source], images)
    relevance = tied.answer_relevance(source, of[source], [images])
    chosen.append(tied.relevant_maps(scores, relevance))
    dimmed = tied.dimmed(of[source], relevance)
    with transplant.network_surgery(target, of[target], source, dimmed, chosen[0]):
        clip.image_encoder(images)
    assert "digit" in clip.words
    text = clip.encode_texts(["a photo of a red digit", "a photo of a green digit"])
    for choice in chosen:
        assert choice.distinct() > 0
        with transplant.network_surgery(target, of[target], source, of[source], choice):
            captions.similarities(clip.image_encoder, text, [images])


@case
def what_captions_say(device: str) -> None:
    said = captions.Captions({"shape": ("a five", "an eight"), "colour": ("red", "green")})
    similarity, label = drawn(device, 50, 4), labels(device, 50)
    captions.cue_contrast(similarity, said, "shape", label)
    captions.dominant_captions(similarity, said, {"shape": label, "colour": label})
    first = drawn(device, 5, 25, 4)
    captions.published_values(first, similarity)
    captions.published_columns(captions.stale_edits(first, similarity)[0])


# --- paper 2 --------------------------------------------------------------------------------------------------------


@case
def words_of_features(device: str) -> None:
    speaker = captioner.load_from({"weights": "captioner-mini"}, device)
    language, images = speaker.language, drawn(device, 2, 3, 64, 64)
    tokens = speaker.image_encoder(images)
    sentences = language.encode(_words(), 12).to(device)
    start = {"prompt": language.prompt, "end": language.end, "pad": language.pad}
    found = sampling.sample(language.decoder, tokens, 3, seed=0, min_new_tokens=2, max_new_tokens=5,
                            repetition_penalty=1.1, **start)  # fmt: skip
    language.decode(found[0])
    network = vit_classifier.build({"weights": "clip-vit-mini"}, 0, 2).to(device)
    features = translator.Features(network, vit_classifier.TOKENS)
    seen = features(images)
    between = translator.Translator(*seen.shape[1:], language.width).to(device)
    translator.log_probabilities(language.decoder, between(seen), sentences, pad=language.pad)
    translator.sentence_loss(language.decoder, between(seen), sentences, prompt=1, pad=language.pad)
    batches = training.InMemory(seen.cpu(), sentences.cpu()[:, None], 2, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "translator.safetensors"
        recipe = training.Recipe(1, 2, precision="bfloat16")
        training.train(between, language.decoder, batches, recipe, prompt=1, seed=0, pad=language.pad, steps_an_epoch=1,
                       accelerator=Accelerator(cpu=device == "cpu"),
                       checkpoint=Path(folder) / "checkpoint")  # fmt: skip
        training.write_translator(file, between)
        between = training.read_translator(file, device)
    grid = (8, 8)
    word_maps.word_grad_cam(
        language.decoder, between, seen, sentences[:, None], sentences[:, None] == 3, grid=grid, pad=language.pad
    )
    word_maps.word_attention(
        language.decoder, between, seen, sentences[:, None], sentences[:, None] == 3, grid=grid, pad=language.pad
    )
    word_maps.classifier_grad_cam(network, "model.blocks.-1.norm1", images, labels(device, 2), grid=grid)
    word_maps.token_cam(seen, seen, grid)


@case
def mending(device: str) -> None:
    images, classes, maps = drawn(device, 6, 3, 32, 32), labels(device, 6), drawn(device, 6, 4, 4)
    mitigation.salient(maps, (32, 32))
    mitigation.masked(images, maps)
    mitigation.randomly_masked(images, classes * 4 + 9, 0)
    # Pictures stay in the host's memory, in 8 bits, and go to the device batch by batch.
    pixels, chosen = (255 * drawn("cpu", 6, 3, 32, 32)).byte(), torch.arange(6) % 2 == 0
    light = texplain_mitigation.Masks.of(chosen, pixels, mitigation.masked(pixels[chosen], drawn("cpu", 3, 4, 4)))
    light.black()
    mitigation.fine_tune(resnet(device), light, torch.arange(3) % 2, mitigation.Recipe(1, 3, 1e-3), 0, device=device)
    groups = labels(device, 6, 4)
    mitigation.flagged(["bird"] * 6, classes, {0: ["bird"], 1: ["lake"]})
    for optimizer in ("sgd", "adamw"):
        recipe = mitigation.Recipe(1, 3, 1e-3, optimizer=optimizer, precision="bfloat16")
        for pixels in (images, (255 * images).byte()):
            mitigation.fine_tune(resnet(device), pixels, classes, recipe, 0, weights=mitigation.group_weights(groups),
                                 device=device)  # fmt: skip
    mitigation.retrain_last_layer(drawn(device, 6, 5), classes, groups)


@case
def what_is_told_drawn(device: str) -> None:
    images = drawn("cpu", 3, 3, 16, 16)  # what is drawn lies on the CPU, whatever the device
    words = {"bird": 0.5, "lake": 0.2}
    told.panels([[told.Picture(told.montage(images, 3)), told.Cloud(words)]], (3.0, 4.0), ())
    told.pipeline([told.Example("bird", images[0], drawn("cpu", 5, 4), ["a bird"], words, {"bird"}, True)], ())
    outputs_of = drawn("cpu", 2, 6)
    told.likeliest({"original": images[:2]}, {"original": outputs_of}, list("abcdef"), outputs_of > 0.5)
    interval = proportion(1, 2)
    measured = {"network": "vit", "case": "twin", "word": interval, "flips": interval, "decodes": interval}
    told.planted(images, "training", pd.DataFrame([measured]))
    told.masked([{"image": (255 * images[0]).byte()}], ["a bird"])
    maps = drawn("cpu", 3, 4, 4)
    where = {kind: {"bird": OnBirds(np.ones(3), np.ones(3), maps)} for kind in ("Grad-CAM", "attention")}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", XAIKIT_OUT=folder):
        shares = tables.word_maps(Notes(Record("02_texplain", "mini", 0), "taghanaki"), where)
    told.word_maps(images, {"bird words": maps}, shares, 0.2)
    plt.close("all")


@case
def texts_compared(device: str) -> None:
    clip = clip_of("clip-vit-mini", device)

    class Named(nn.Module):
        """A text encoder as transformers have it."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(2_000, 8)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
            return type("Output", (), {"last_hidden_state": self.embedding(input_ids)})

    text_overlap.mean_pooled(Named().to(device), clip.tokenizer.tokenizer, _words())


# --- paper 3 --------------------------------------------------------------------------------------------------------


@case
def perturbation(device: str) -> None:
    clip, images, classes = clip_of("clip-vit-mini", device), drawn(device, 3, 3, 64, 64), labels(device, 3)
    embeddings = linear_probe.embed(clip.image_encoder, [images], device)
    head = linear_probe.train_head(embeddings.to(device), classes, 2, seed=0, epochs=2)
    models = {
        100.0: linear_probe.ZeroShot(clip.image_encoder, clip.encode_texts(_words())),
        1.0: linear_probe.LinearProbe(clip.image_encoder, head),
    }
    for (softmax, model), preset in zip(models.items(), ("agarwal2023", "jacobgil"), strict=True):
        model.classify(F.normalize(embeddings.to(device), dim=1))
        score = class_score(model, classes, softmax=softmax)
        recipe = replace(search.PRESETS[preset].at(64), steps=2)
        for autocast in (False, True):
            masks = search.meaningful_perturbation(score, images, recipe, seed=0, patience=1, autocast=autocast)
        again = replace(recipe, start="deletions")
        masks = search.meaningful_perturbation(score, images, again, seed=0)
        masks = search.meaningful_perturbation(score, images, recipe, seed=0, start=masks)
        search.check_masks(score, images, masks, recipe).lowered.mean().item()
        maps = search.attribution(masks, (64, 64), recipe)
        search.variation(masks, recipe)
        search.blurred(images, recipe)
        for kind in ("mean", "blur", "black"):
            instead = removal.substitute(images, kind, mean=(0.5, 0.5, 0.5))
        removal.removal_curves(score, images, maps, instead, step=2048, seed=0).areas("max")
        removal.removal_order(maps, 0)
        masking.rise(score, images, instead, seed=0, masks=4)
        path_gradients.integrated_gradients(score, images, instead, steps=2)


@case
def what_notebook_03_shows(device: str) -> None:
    images, faces, known = drawn(device, 4, 3, 64, 64), torch.zeros(4, 64, 64, dtype=torch.bool), labels("cpu", 4)
    faces[:, :8] = True
    recipe, maps, nobody = search.PRESETS["quick"].at(64), drawn(device, 4, 64, 64), torch.zeros(4, dtype=torch.bool)
    checks = search.MaskChecks(*drawn("cpu", 5, 4))
    found = explanations.Found(maps, drawn(device, 4, 28, 28), checks, nobody)
    assert found.taken == (checks.before - checks.after).mean().item()
    vlm_figures.gallery(vlm_figures.triples(["a"] * 4, images, [maps, maps], range(4)), 2)
    vlm_figures.one_picture(images[0].cpu(), {"zero-shot": found}, recipe)
    people = vlm_pictures.Portraits(images.cpu(), images.cpu(), faces, known, known, ("long hair", "short hair"))
    groups, note = vlm_pictures.by_looks(people), Notes(mock.Mock(spec=Record, seed=0), "agarwal")
    settings = ("zero-shot", "fine-tuned")
    vlm_numbers.search(note, {("cars", setting, "own"): found for setting in settings})
    asked = [("zero-shot", "own"), ("zero-shot", "softmax"), ("fine-tuned", "own")]
    vlm_numbers.attack(note, dict.fromkeys(asked, found), faces, dict.fromkeys(settings, np.zeros(4)))
    pointed = pointing.pointing_game(maps, faces.to(device))
    hits = {(setting, kind): pointed for setting in settings for kind in ("original", "masked")}
    vlm_numbers.table1(note, hits, {key: each.energy for key, each in hits.items()}, groups, 0.05)
    vlm_numbers.gender_gap(note, hits, groups)
    sizes = {("cars", *key): found.size for key in asked}
    vlm_numbers.score_control(note, sizes, {}, sizes, {"cars": faces})
    scenes = vlm_planted.mixed("cars", 4, 0, "test")
    reader = vlm_planted.Planted(vlm_planted.READERS["text"], nn.Identity(), scenes, known, faces, {"text": faces})
    vlm_figures.planted({"text": (reader, found)}, 64)
    plt.close("all")


# --- paper 4 --------------------------------------------------------------------------------------------------------


@case
def decomposition(device: str) -> None:
    clip, images = clip_of("clip-vit-mini", device), drawn(device, 6, 3, 64, 64)
    tower = clip.image_encoder
    readout = Readout.of(tower)
    Readout.of(tower, own_mean=True)
    parts = {level: decompose(tower, images, level, readout) for level in LEVELS}
    assert all((each.total() - each.embedding).abs().max() < 1e-4 for each in parts.values())
    decompose(tower, images, "head-token", readout, heads=[(5, 0), (4, 1)])
    found = coefficients(tower, images)
    found[labels(device, 6).bool()].contributions(readout, "layer")
    store = DecomposedDataset(tower, images.cpu(), batch_size=4, dtype=torch.float16, workers=2)
    with tempfile.TemporaryDirectory() as folder:
        store.folder = Path(folder)
        fill([store])
        store.write(0, found)
        assert store.has(0) and store.read(0) is not None
        (stored,) = store
    of_heads, texts = parts["head"], clip.encode_texts(_words())
    means = by_heads.mean_contributions([of_heads, stored.contributions(readout)])
    by_heads.ablate(of_heads, means, mlps=True, layers=(0,), heads=((5, 0),))
    by_heads.ablate_attention_cumulatively(of_heads, means)
    chosen = of_heads.attention[:, 5]
    moments = ContributionMoments(readout.heads[5]).add(found.coordinates()[:, 5])
    pool = F.normalize(drawn(device, 20, texts.shape[1]) - 0.5, dim=1)
    span = textspan(moments, pool, 3)
    textspan(chosen, pool, 3, rank=4)
    textspan_as_published(chosen, pool, 3)
    by_heads.replace_heads(of_heads, [(5, head) for head in range(chosen.shape[1])], span.reconstruct(chosen, 2))
    nearest, _ = by_heads.neighbours(chosen[:, 0], chosen[:, 0], 2, same=True)
    by_heads.precision_at_k(nearest, labels(device, 6), labels(device, 6))
    by_heads.heatmaps(parts["token"].attention, texts, (64, 64), contrast=True)
    by_heads.class_heatmaps(parts["token"], texts, (64, 64), chosen=labels(device, 6))


@case
def any_tower(device: str) -> None:
    for name in ("ViT-B-16-SigLIP", "EVA02-B-16", "EVA02-E-14", "coca_ViT-B-32", "vit_medium_patch16_gap_256"):
        tower = small(name).to(device)
        images = drawn(device, 2, *describe(tower).image)
        for level in LEVELS:
            parts = decompose(tower, images, level)
            assert (parts.total() - parts.embedding).abs().max() < 1e-4
        if name.startswith("EVA"):
            vit.attention_rollout(tower, images)
            vit.chefer(tower, images, parts.embedding, rule="iccv2021")


@case
def study_of_clip(device: str) -> None:
    clip, images, answers = clip_of("clip-vit-mini", device), drawn("cpu", 8, 3, 64, 64), labels("cpu", 8)
    parts = study.Decomposed.of(clip, images, "images", shard_size=4)
    classes = study.Classes(
        study.class_embeddings(clip, [[each] for each in _words()]), torch.ones(8, 2, dtype=torch.bool)
    )
    means = by_heads.mean_contributions(parts)
    heads = study.last_heads(parts.readout, 1)
    given = study.predictions(parts, classes, means, {"heads": study.Ablation(mlps=True, heads=tuple(heads[:2]))})
    study.accuracy(given["heads"], answers, 0)
    study.cumulative_predictions(parts, classes, means)
    texts = [f"a {colour} {thing}" for colour in ("red", "blue", "white") for thing in ("bird", "dog", "car", "fish")]
    pools = {"texts": study.Pool.of(clip, clip_pictures.distinct_texts(clip, texts, "texts"))}
    pools["random"] = study.Pool.random(20, pools["texts"].embeddings.shape[1], torch.Generator().manual_seed(0))
    spans = {name: pool.span(parts.moments(heads), 3) for name, pool in pools.items()}
    study.reconstructed_predictions(parts, classes, means, heads, spans, [1, 3])
    study.roles(spans["texts"], heads, pools["texts"], {"colour": ["red"], "object": ["dog"]}, first=2, least=0.5)
    study.variance_explained([parts.of_heads(heads).to(device)], {"class": answers})
    shares = parts.variance_explained({"class": answers})
    clip_waterbirds.place_variance(parts, answers, heads)
    told = study.Pool(pools["texts"].embeddings, pools["texts"].texts, ("colour",) * 6 + ("object",) * 6)
    families, rule = answers[:8] * 0, {"first": 2, "least": 0.5, "margin": 0.1}
    labels_of = study.Labels.of(
        [told, told], parts.moments(heads, families), heads, {"colour": [], "object": []}, 2, **rule
    )
    token = study.ClassToken.of(clip, parts.readout, images, 4, 0, batch=2)
    classes.of_some(token.rows, token.without(token, mlps=True))
    controls = instruments.ablation_controls(parts, classes, means, answers, 3, 0)
    assert len(controls) == 4
    instruments.dealt_anew(
        labels_of.spans, heads, labels_of.pools, {"colour": [], "object": []}, deals=2, seed=0, **rule
    )
    instruments.planted_found([told], [told], {"colour": [], "object": []}, images=20, seed=0, **rule)
    instruments.turned(told, 0)
    directions = instruments.principal(parts.moments(heads), 2)
    blank = instruments.untrained(clip, 0)
    written = instruments.written_by_heads(blank, images, heads, 4, 2)
    sets = {name: scenes for name, scenes in instruments.unconfounded(3, 0).items()}
    effects = instruments.total_effects(instruments.heads_of(clip, parts.readout, 64, batch=8), sets, 0)
    assert set(effects) == {*instruments.REDRAWN, instruments.REST}
    study.worst_group_gain(answers == 0, [answers == 1] * 2, answers, 0)
    study.mean_worst_group([answers == 0, answers == 1], answers, 0, over=answers == 0)
    masks = torch.zeros(8, 64, 64, dtype=torch.bool)
    masks[:, 8:40, 8:40] = True
    several = asked.put_together(images, masks, torch.arange(8) % 2, (("a dog",), ("a car",), ("a fish",)), 2, 0)
    among = study.class_embeddings(clip, several.prompts)
    wanted = [several.classes[picture][thing] for picture, thing in several.asked]
    tokens = asked.tokens_of(clip, parts.readout, several, 2)
    for maps in (
        asked.our_maps(tokens, several, among, wanted),
        asked.baseline_maps("rollout", clip, several, among, wanted, 2),
        asked.baseline_maps("GradCAM", clip, several, among, wanted, 2),
    ):
        assert {each.device.type for each in maps} == {"cpu"}
    asked.scores(maps, several)
    asked.flatness(maps, maps, several)
    (model,) = study.backbones(Settings({"clip": {"weights": "clip-vit-mini"}, "device": device}, "a test's profile"))
    model.classes((("a dog",), ("a car",)))
    prepared = clip_pictures.Labelled(
        "drawn", images, answers, ("dog", "car"), (("a dog",), ("a car",)), answers[:2], {}
    )
    clip_pictures.decomposed(Settings({"size": 64, "store_dtype": "float16"}, "a test's profile"), model, prepared)
    found = pools["texts"].span(parts.of_heads(heads), 2)
    kept = [
        *vars(found).values(),
        *vars(spans["texts"]).values(),
        *given.values(),
        parts.embeddings(),
        token.embeddings,
        token.class_token,
        directions.basis,
        written,
        *shares.values(),
    ]
    assert {each.device.type for each in kept} == {"cpu"}


# --- explainers and measures ----------------------------------------------------------------------------------------


@case
def saliency(device: str) -> None:
    clip, images, classes = clip_of("clip-vit-mini", device), drawn(device, 2, 3, 64, 64), labels(device, 2)
    prepared = clip.image_encoder.prepare(images)
    directions = vit.text_directions(clip.encode_texts(_words()), classes, minus_mean=True)
    for explain in vit.BASELINES.values():
        vit.upsample(explain(clip.image_encoder.model, prepared, directions), (64, 64))
    vit.chefer(clip.image_encoder.model, prepared, directions, rule="iccv2021")
    model = resnet(device)
    maps = cam_of_layer(model, model.model.layer2, images, classes)
    cam(maps[:, None], drawn(device, 2, 1))
    rows, weight = drawn(device, 2, 3), drawn(device, 4, 3)
    relevance.linear_relevance(rows, weight, drawn(device, 2, 4))
    relevance.product_relevance(drawn(device, 2, 3, 4), drawn(device, 2, 4, 5), drawn(device, 2, 3, 5))
    relevance.sum_relevance(rows, rows, rows)
    tower_parts.check_tower(clip.image_encoder.model)


@case
def measures(device: str) -> None:
    maps, regions = drawn(device, 3, 8, 8), drawn(device, 3, 8, 8) > 0.6
    metric_heatmaps.normalise(maps)
    pointing.pointing_game(maps, regions, tolerance=1.0)
    segmentation.foreground(maps, clip=True)
    segmentation.segmentation_scores(maps, regions.to(torch.uint8), clip=True, ignore=255)
    segmentation.average_precision(maps.flatten(1), regions.flatten(1))


# --- models ---------------------------------------------------------------------------------------------------------


@case
def models(device: str) -> None:
    images, classes = drawn("cpu", 6, 3, 32, 32), labels("cpu", 6)
    recipe = classifiers.Recipe(32, 1, 1, 3, 1e-3, schedule="one-cycle", precise_batch_norm=True, precision="bfloat16")
    trained = classifiers.train(recipe, images, classes, {"test": (images, classes)}, 0, device)
    classifiers.predict(trained.model, images)
    model, seen = resnet(device), []
    with evaluating(model), listening(model, {"stem": model.model.conv1}, lambda _name, maps: seen.append(maps)):
        for batch in checked([images.to(device)]):
            model(batch)
    clip_training.contrastive_loss(drawn(device, 3, 3), torch.eye(3, dtype=torch.bool).to(device))
    assert clip_of("clip-resnet-mini", device).logit_scale > 0


@case
def generated(device: str) -> None:
    pictures = generator.load_from({"weights": "generator-mini"}, device)
    pictures.encode(pictures.generate(["a red bird"], seed=0, steps=2)[1].to(device))


def _full(model: nn.Module, room: int) -> Callable[[Tensor], Tensor]:
    """A GPU that has memory for so many pictures."""

    def work(rows: Tensor) -> Tensor:
        if len(rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(torch.zeros(len(rows), 3, 32, 32, device=next(model.parameters()).device))

    return work


@case
def what_words_say_of_a_classifier(device: str) -> None:
    """Papers 1, 2 and 4 on a classifier of the device; pictures, logits and tables lie on the CPU."""
    pixels = (drawn("cpu", 48, 3, 64, 64) * 255).byte()
    texts = ("a photo of a duck", "a photo of a crow") * 24
    seen, right = audits.Seen(pixels), labels("cpu", 48).numpy()
    pictures = audits.Pictures(seen, tuple(map(str, range(48))), right, captions=texts)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[3].bias.copy_(net[3].bias - net(pixels.float() / 255).median(0).values)
    loaded = audits.Loaded.of(Preprocessed(net.to(device), 64, (0.0,) * 3, (1.0,) * 3))
    language = audits.load_language(["mini"], "mini", device)
    concepts = [audits.Concept("colour", texts=["a red digit"], against=["a green digit"])]
    concepts += [audits.Concept("some", shown=pixels[::2], without=pixels[1::2])]
    clip = f"local-dir:{WEIGHTS / 'clip-vit-mini'}"
    with mock.patch.object(readings, "STEPS", 4):
        for each, tools in (
            (loaded, language),
            (audits.load_classifier(f"open_clip:{clip}", ["a duck", "a crow"], device=device), None),
        ):
            logits = questions.classify(each.model, pictures.seen, device)
            found = readings.readings_of(each, pictures, concepts, tools, logits, device=device)
            assert len(found.concepts) and found.to_json()
    assert len(found.heads) == readings.TOP
    wanted = mock.patch.object(audited_zoo, "cases", lambda *_: [audited_zoo.Case(
        "unbiased", Spec("birds", "resnet"), "", loaded.model, Truth({name: np.zeros(9, bool) for name in
        ("species", "background", "colour", "count", "tag")}, *[np.zeros(9, bool)] * 2))])  # fmt: skip
    with wanted, mock.patch.object(audited_zoo, "PICTURES", 40):
        cfg = Settings({"clip": {"weights": "clip-vit-mini"}, "device": device, "seed": 0}, "a test's profile")
        assert len(audited_zoo.readings_table(cfg, {}))


@case
def an_audit(device: str) -> None:
    """All of an audit, and its page, of a classifier on the device; pictures, answers and results lie on the CPU."""
    masks = torch.zeros(48, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 8:20] = True
    pixels = (drawn("cpu", 48, 3, 32, 32) * 255).byte()
    pixels[::2] //= 2
    known = pd.DataFrame({"x": ["a", "b", "c"] * 16})
    texts = ("dark", "bright") * 24
    pictures = audits.Pictures(
        audits.Seen(pixels, {"object": masks}), tuple(map(str, range(48))), labels("cpu", 48).numpy(), known, texts
    )
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(0.1)  # it tells dark from bright
        net[3].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 8))
        net[3].bias.zero_()
        net[3].bias[0] = 2 * net(pixels.float() / 255)[:, 1].mean()
    behind = Preprocessed(net.to(device), 32, (0.0,) * 3, (1.0,) * 3)
    patch = torch.full((4, 3, 3), 200, dtype=torch.uint8)
    concepts = [audits.Concept(kind, kind, "object") for kind in ("background", "thing", "colour")]
    concepts += [audits.Concept("patch", "patch", patch=patch), audits.Concept("text", "text", text="A")]
    found = audits.audit(audits.Loaded.of(behind), pictures, concepts, device=device)
    assert found.claimed and found.mends and not found.mends[0].why and found.maps is not None
    assert audits.audit(audits.Loaded.of(behind), pictures, device=device, quick=True).effects
    found.table()
    halves = [replace(pictures, seen=audits.Seen(pixels[part], {"object": masks[part]}), ids=pictures.ids[part],
                      labels=pictures.labels[part], groups=known[part], captions=texts[part])
              for part in (slice(0, 24), slice(24, 48))]  # fmt: skip
    counted = [
        shards.counted_shard(found.loaded, half, concepts, device=device, seed=0, quick=False, with_logits=True)
        for half in halves
    ]
    assert len(shards.together(counted, halves[0].seen).answers) == 48
    little = batches.in_batches(_full(behind, 5), 48, behind, (32, 32), device)
    assert max(map(len, little)) <= 5 and batches.at_once(behind, (32, 32), device) <= 5
    assert outputs(found.loaded, device) == 2
    with tempfile.TemporaryDirectory() as folder:
        assert found.save(Path(folder)).is_file()
    with tempfile.TemporaryDirectory() as folder:
        to_pil_image(pixels[0]).save(Path(folder) / "0.png")
        assert len(audits.read_pictures(Path(folder), found.loaded.look)) == 1
        (Path(folder) / "concepts.toml").write_text("[word]\ntexts = ['a bird']\n")
        assert len(audits.read_concepts(Path(folder) / "concepts.toml", found.loaded.look)) == 1
    audit_maps.maps_of(behind, pictures.seen, labels("cpu", 48), range(4), device=device, gradients=False)
    images, region = pictures.seen.images(slice(0, 4), device), masks[:4].to(device)
    for filling in ("mean", "blur", "surroundings"):
        assert changes.without(images, region, filling).device.type == images.device.type
    case = audited_zoo.Case("unbiased", Spec("digits", "resnet"), "", behind, Truth({}, *[np.zeros(1, bool)] * 2))
    assert case.name and audited_zoo.audited(case, 0, device)
    assert questions.smallest_effect(40, 0.1) > 0
