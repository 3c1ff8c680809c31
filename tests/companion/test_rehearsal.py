"""Each stand-in weight loads by its real name, offline, with its tokenizer and input size; what is cut is layers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xaikit.companion import profiles, rehearsal
from xaikit.storage import paths

LOADED = """
import json, sys
from xaikit.companion.rehearsal import cut_models
cut_models(sys.argv[1])
import timm, torch
from open_clip import get_tokenizer
from transformers import AutoModel, AutoTokenizer
from xaikit.companion.profiles import load
from xaikit.models import captioner, classifiers, generator, vit_classifier
from xaikit.models.clip import load_clip

found = {}
for name, tag in (("RN50-quickgelu", "openai"), ("ViT-B-32-quickgelu", "openai"), ("ViT-B-16", "laion2b_s34b_b88k"),
                  ("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-H-14", "laion2b_s32b_b79k")):
    clip = load_clip(name, tag)
    tokens = get_tokenizer(name)("a photo of a dog").shape[1]
    texts = clip.encode_texts(["a photo of a dog", "a photo of a cat"])
    found[name] = [list(clip.image_encoder.sides), tokens, list(texts.shape), bool(texts.isfinite().all())]

settings = load("rehearsal", "02_texplain", 0)
blip = captioner.load_from(settings.captioner)
told = blip.language.encode(["a kitchen with a table"], 40)
found["captioner"] = [list(blip.image_encoder(torch.rand(1, 3, 384, 384)).shape[:2]), blip.language.decode(told)]
model = vit_classifier.build(settings.classifier, 0)
found["classifier"] = [list(model.sides), list(model(torch.rand(1, 3, 500, 375)).shape), len(model.model.blocks)]
plain = captioner.load_plain_bert(settings.plain_decoder)
words = AutoTokenizer.from_pretrained(settings.sentence_encoder.partition("@")[0])
found["bert"] = [plain.decoder.config.is_decoder, words.decode(words("A Bird.").input_ids)]
drawn = generator.load_from(settings.generator)
latents, images = drawn.generate(["a dog"], seed=0, steps=1, batch=1)
found["generator"] = [drawn.size, list(latents.shape), list(images.shape)]
recipe = classifiers.Recipe(**load("rehearsal", "01_caption_driven", 0).biased.as_dict())
standalone = classifiers.build(recipe)
found["standalone"] = [list(standalone.sides), len(standalone.model.layer3)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """What leads to the stand-ins; those of `make rehearse`, written now where they are not there."""
    return {**os.environ, **rehearsal.environment(paths.BUILD / "rehearsal")}


def test_each_weight_loads_by_its_name_with_its_tokenizer_and_size(variables) -> None:
    configs = Path(variables["XAIKIT_DATA"]).parent / rehearsal.MODEL_CONFIGS
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, str(configs)], env=variables, cwd=paths.ROOT, capture_output=True, text=True
    )
    assert not ran.returncode, ran.stderr[-3_000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    widths = {"RN50-quickgelu": 1024, "ViT-B-32-quickgelu": 512, "ViT-B-16": 512, "ViT-L-14": 768, "ViT-H-14": 1024}
    for name, width in widths.items():
        assert found[name] == [[224, 224], 77, [2, width], True]
    assert found["captioner"] == [[1, 577], ["a picture of a kitchen with a table"]]
    assert found["classifier"] == [[384, 384], [1, 1000], rehearsal.VIT_LAYERS]
    assert found["bert"] == [True, "[CLS] a bird. [SEP]"]
    assert found["generator"] == [512, [1, 4, 64, 64], [1, 3, 512, 512]]
    assert found["standalone"] == [[224, 224], 1]


def test_the_variables_lead_nowhere_else(variables) -> None:
    folder = str(paths.BUILD / "rehearsal" / f"stand-ins-{rehearsal.VERSION}")
    for name in ("XAIKIT_DATA", "IPYTHONDIR", "HF_HOME", "TORCH_HOME"):
        assert variables[name].startswith(folder) and Path(variables[name]).is_dir()
    assert variables["HF_HUB_OFFLINE"] == "1"


def test_a_rehearsal_cuts_counts_and_layers_but_no_names_and_no_input_sizes() -> None:
    for notebook in ("01_caption_driven", "02_texplain", "03_vlm_explanations", "04_clip_decomposition"):
        small, paper = (profiles.load(name, notebook, 0).as_dict() for name in ("rehearsal", "paper"))
        for key in (
            "clip",
            "captioner",
            "generator",
            "classifier",
            "size",
            "grid",
            "sentence_encoder",
            "plain_decoder",
        ):
            assert small.get(key) == paper.get(key)
        for recipe in ("biased", "unbiased", "dose"):
            if recipe in paper:
                assert small[recipe]["pixels"] == paper[recipe]["pixels"]
        assert small["subset"] and "subset" not in paper
