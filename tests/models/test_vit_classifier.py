"""Classifiers of timm: the mini one starts from the mini CLIP's image tower."""

import pytest
import torch

from xaikit.models import vit_classifier
from xaikit.models.clip import load_clip
from xaikit.storage.paths import WEIGHTS
from xaikit.texplain.translator import Features

MINI = {"weights": "clip-vit-mini"}


def test_its_tokens_are_those_of_the_mini_clip() -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = load_clip(f"local-dir:{WEIGHTS / MINI['weights']}")
    visual = clip.model.visual
    with torch.no_grad():
        found = Features(vit_classifier.build(MINI, 0, 2), vit_classifier.TOKENS)(images)
        expected = visual.ln_post(visual.transformer(visual._embeds(clip.image_encoder.prepare(images))))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_head_is_new_and_depends_on_the_seed() -> None:
    first, again, other = (vit_classifier.build(MINI, seed, 3).model.head.weight for seed in (0, 0, 1))
    assert first.shape == (3, 128) and torch.equal(first, again) and not torch.equal(first, other)


def test_an_untrained_one_has_other_tokens() -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        trained, untrained = (
            Features(vit_classifier.build(MINI, 0, 2, pretrained=pretrained), vit_classifier.TOKENS)(images)
            for pretrained in (True, False)
        )
    assert not torch.allclose(trained, untrained, atol=0.1)


def test_models_of_timm_bring_their_preprocessing() -> None:
    model = vit_classifier.build({"name": "vit_tiny_patch16_384"}, 0, pretrained=False)
    assert model.size == 384 and model.model.num_classes == 1000


def test_unknown_names_and_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="The timm model 'vit_gigantic' cannot be loaded: Unknown model"):
        vit_classifier.build({"name": "vit_gigantic"}, 0)
    with pytest.raises(ValueError, match="resnet18 is no vision transformer"):
        vit_classifier.build({"name": "resnet18"}, 0, pretrained=False)
