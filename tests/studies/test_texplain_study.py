"""The experiments of paper 2 on inputs whose outcome is known."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import world
from xaikit.companion import profiles
from xaikit.models import captioner, vit_classifier
from xaikit.storage.paths import WEIGHTS
from xaikit.storage.seeding import rng
from xaikit.studies import texplain as study
from xaikit.studies import texplain_mitigation as repair
from xaikit.studies import texplain_pictures as pictures
from xaikit.studies.lexicon import words_for
from xaikit.studies.vlm_pictures import Classified
from xaikit.texplain.mitigation import Recipe
from xaikit.texplain.training import write_translator
from xaikit.texplain.translator import Features, Translator

needs_captioner = pytest.mark.skipif(
    not (WEIGHTS / captioner.NAME).exists(), reason=f"{captioner.NAME} does not ship yet: `make models` trains it"
)


@pytest.fixture(scope="module")
def cfg() -> profiles.Settings:
    return profiles.load("mini", "02_texplain", 0)


@pytest.fixture(scope="module")
def language() -> captioner.LanguageModel:
    return captioner.load_captioner(str(WEIGHTS / captioner.NAME)).language


def things(n: int = 27, **options: object) -> Classified:
    scenes = world.nine(n, seed=4, split="test", **options)
    names = tuple(str(value) for value in scenes.values("category"))
    return Classified(scenes.images(), scenes.labels("category"), names, names, scenes)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_variants_are_of_the_same_things(cfg) -> None:
    original, background = (pictures.nine(cfg, 0, "test", variant) for variant in ("original", "only_bg_t"))
    assert torch.equal(original.labels, background.labels)
    assert [scene.seed for scene in original.scenes] == [scene.seed for scene in background.scenes]
    assert not torch.equal(original.images, background.images)


def test_birds_are_mostly_at_home_in_training_and_half_of_them_in_the_test(cfg) -> None:
    for split, share in (("train", 0.95), ("test", 0.5)):
        data = pictures.birds(cfg, 0, split)
        home = [name in ("landbird on land", "waterbird on water") for name in data.named_groups()]
        assert np.mean(home) == pytest.approx(share, abs=0.01)
        assert [data.names[label] for label in data.labels.tolist()] == [scene.kind for scene in data.scenes]


def test_pairs_have_captions_of_their_own_picture(cfg) -> None:
    pairs = pictures.captioned(cfg, ("nine",))
    assert len(pairs) == cfg.pairs == len(pairs.images) and all(len(each) == 5 for each in pairs.captions)
    scenes = pictures.clip_vit_mini.corpus()["nine"][:3]
    assert torch.equal(torch.stack([pairs.images[i] for i in range(3)]), scenes.images())
    assert list(pairs.captions[:3]) == list(scenes.captions)


def test_the_generator_is_asked_for_each_category(cfg) -> None:
    prompts = pictures.generator_prompts(cfg, 0)
    assert list(prompts) == list(cfg.categories) and {len(each) for each in prompts.values()} == {cfg.generated}


def test_each_prompt_of_the_generator_is_drawn_several_times(cfg) -> None:
    for texts in pictures.generator_prompts(cfg, 0).values():
        assert len(set(texts)) == cfg.generated / cfg.images_a_prompt
        assert texts[: cfg.images_a_prompt] == [texts[0]] * cfg.images_a_prompt


def test_pairs_that_are_skipped_come_never(cfg) -> None:
    first, later = pictures.captioned(cfg, count=30), pictures.captioned(cfg, count=30, skip=30)
    both = pictures.captioned(cfg, count=60)
    assert len(first) == len(later) == 30 and set(first.captions) | set(later.captions) == set(both.captions)


# --- words --------------------------------------------------------------------------------------------------------


def test_matching_counts_the_first_words_only() -> None:
    found = [{"red": 0.9, "bird": 0.5, "sea": 0.1}, {"dog": 1.0}]
    assert study.matching(found, [{"bird", "sea"}, {"cat"}], 2).tolist() == [1, 0]
    assert study.relevant(found, [{"red"}, {"cat"}]).tolist() == [1, 0]
    assert study.relevant([{}], [{"red"}]).tolist() == [0]


def test_mentions_are_shares_of_sentences() -> None:
    texts = [["two red birds", "a bird on the sea"], ["a dog", "dogs"]]
    assert study.mentioned(texts, {"bird"}).tolist() == [1, 0]
    assert study.mentioned(texts, {"sea", "dog"}).tolist() == [0.5, 1]


def test_the_most_likely_class_adds_up_its_words() -> None:
    found = {"fish": 0.4, "lion": 0.3, "carnivore": 0.3}
    assert study.most_likely(found, {"fish": {"fish"}, "carnivore": {"lion", "carnivore"}}) == "carnivore"


def test_words_of_classes_and_homes() -> None:
    data = things(9)
    assert study.class_words(data)["vehicle"] == {"vehicle", "truck"}
    assert study.home_words(data)["fish"] == {"reef", "water"}
    photographs = Classified([], torch.zeros(0, dtype=torch.int64), ("musical instrument",), ("",))
    assert study.class_words(photographs)["musical instrument"] == {"musical", "instrument"}
    photographs = Classified([], torch.zeros(0, dtype=torch.int64), ("musical instrument", "primate"), ("", ""))
    outputs = ("grand piano", "titi monkeys", "toilet paper")
    found = study.class_words(photographs, study.NineClassifier(nn.Identity(), outputs, torch.tensor([0, 1, -1])))
    assert found["musical instrument"] == {"musical", "instrument", "piano"} and "monkey" in found["primate"]
    assert not any("paper" in words for words in found.values())
    with pytest.raises(ValueError, match="not known: have people rate it"):
        study.truths(photographs)


def test_rank_agreement_is_of_the_dominant_words() -> None:
    reference = {"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.01}
    assert study.rank_agreement({"a": 0.5, "b": 0.4, "c": 0.1, "d": 0.9}, reference) == pytest.approx(1)
    assert study.rank_agreement({"c": 0.5, "b": 0.4, "a": 0.1}, reference) == pytest.approx(-1)
    for same in ({}, {"a": 0.3, "b": 0.3, "c": 0.3}):
        assert np.isnan(study.rank_agreement(same, reference))


def test_differences_and_covariances_are_those_of_numpy() -> None:
    draw = rng(0, "test")
    first, second = draw.random(40), draw.random(30)
    assert study.difference(first, second, 0).value == pytest.approx(first.mean() - second.mean())
    assert study.covariance(first[:30], second, 0).value == pytest.approx(np.cov(first[:30], second, bias=True)[0, 1])
    nothing = study.covariance(np.zeros(30), second, 0)
    assert nothing.low == nothing.value == nothing.high == 0


# --- what the classifier depends on -------------------------------------------------------------------------------


class Redness(nn.Module):
    """Whether a picture is red, a matter of the thing's colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = (images[:, 0] - images[:, 1:].amax(1)).clamp(min=0.25).sub(0.25).sum((1, 2))
        return torch.stack([red, torch.full_like(red, 2.0)], 1)


def test_a_classifier_of_colours_depends_on_them_and_words_say_what_is_in_the_sentences() -> None:
    data = things(27)
    texts = [[scene.captions[0], "a photo of a place"] for scene in data.scenes]  # names all factors, and none
    found = study.dependences(Redness(), data, texts, 64, "cpu")
    assert set(found) == {"category", "colour", "pattern", "background"}
    flips = {factor: each.flips.mean() for factor, each in found.items()}
    assert flips["colour"] > 0.1 and flips["colour"] > flips["pattern"]  # some backgrounds are red as well
    assert all((each.mentions == 0.5).all() and (each.excess == 0.5).all() for each in found.values())


def test_any_word_for_water_or_land_names_the_background_of_birds() -> None:
    named, words = study.naming(world.Birds, "background")
    assert named == "background" and set(words) == {"water", "land"}
    assert {"water", "sea", "lake"} <= set(words["water"]) and {"land", "forest"} <= set(words["land"])
    assert not set(words["water"]) & set(words["land"])
    assert study.naming(world.Nine, "background")[0] == "place"
    assert study.naming(world.Birds, "colour") == ("colour", words_for(world.Birds, "colour"))


def test_next_values_change_one_factor_and_a_bird_s_kind() -> None:
    scenes = world.birds(8, seed=0)
    changed = study.next_values(scenes, "species")
    assert all(a.kind != b.kind and a.replace(species=b.species) == b for a, b in zip(scenes, changed, strict=True))
    changed = study.next_values(scenes, "background")
    assert all(a.background != b.background for a, b in zip(scenes, changed, strict=True))
    assert study.changeable(scenes) == ["species", "colour", "count", "background"]


def test_parts_are_the_first_images() -> None:
    data, part = things(27), study.part(things(27), 5)
    assert len(part) == 5 and len(part.scenes) == 5
    assert torch.equal(torch.stack(list(part.images)), data.images[:5])
    assert torch.equal(study.pixels(part), (data.images[:5] * 255).round().byte())


# --- sentences ------------------------------------------------------------------------------------------------------


@needs_captioner
def test_an_explainer_says_the_same_for_the_same_seed(cfg, language) -> None:
    torch.manual_seed(0)
    features = Features(vit_classifier.build(cfg.classifier, 0, 9), vit_classifier.TOKENS)
    explainer = study.Explainer(features, Translator(65, 128, 128).eval(), language, cfg.sampling)
    data = things(9)
    known = study.features_of(features, data.images, 3, "cpu", size=2)
    assert known.shape == (3, 65, 128)
    first, again, other = (explainer.texts(known, 5, seed) for seed in (0, 0, 1))
    assert first == again != other and [len(each) for each in first] == [5] * 3


@needs_captioner
def test_a_trained_translator_tells_pictures_apart(cfg, language) -> None:
    """A few epochs on features that are the captions' own words suffice to repeat them."""
    data = things(18)
    said = [f"a {name}" for name in data.names]
    pairs = pictures.Captioned(data.images, [[said[label]] for label in data.labels.tolist()])
    codes = torch.nn.functional.one_hot(data.labels, 9).float()[:, None]

    class Known(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = [(data.images == image).flatten(1).all(1).nonzero()[0, 0] for image in images]
            return codes[torch.stack(rows)]

    settings = profiles.Settings({"longest": 8, "epochs": 150, "batch": 18, "learning_rate": 0.01}, "test")
    translator = study.trained_translator(Known(), pairs, language, settings, 0, "cpu", hidden=32)
    explainer = study.Explainer(Known(), translator, language, {"top_p": 0.5, "min_new_tokens": 1, "max_new_tokens": 8})
    texts = explainer.texts(codes, 1, 0)
    right = [text == f"a {data.names[label]}" for (text,), label in zip(texts, data.labels.tolist(), strict=True)]
    assert np.mean(right) > 0.8


@needs_captioner
def test_long_captions_are_cut_and_counted(language) -> None:
    texts = ["a bird", "a red bird on the water and a red bird on the water", "xyzzy"]
    with pytest.warns(UserWarning, match="1 of 3 texts have more than 6 tokens and are cut.*1 words are not known"):
        rows = study.encoded(language, texts, 6)
    counts = Counter()
    assert torch.equal(study.encoded(language, texts, 6, counts), rows)
    assert counts == {"cut off": 1, "with an unknown word": 1}
    assert rows.shape == (3, 6) and rows[1, -1] == language.end and (rows[1] != language.pad).all()
    assert torch.equal(study.encoded(language, texts[:1], 6), language.encode(texts[:1], 6))
    with pytest.raises(ValueError, match="No word has room"):
        study.encoded(language, texts, 2)


def test_a_translator_from_a_file_is_read_and_without_it_the_pairs_must_do(
    cfg, language, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(study, "DATASETS", tmp_path)
    write_translator(tmp_path / "mine.safetensors", Translator(3, 4, 128))
    job = (nn.Identity(), pictures.Captioned([], []), language, cfg.translator, 0, "cpu")
    assert study.trained_translator(*job, file="mine.safetensors").arguments["width"] == 4
    with pytest.raises(ValueError, match="no image with captions to learn from"):
        study.trained_translator(*job, file="none.safetensors")


# --- masks ------------------------------------------------------------------------------------------------------------


def test_random_masks_have_the_area_of_those_they_stand_beside() -> None:
    pixels = torch.full((4, 3, 64, 64), 200, dtype=torch.uint8)
    chosen = torch.tensor([True, False, True, True])
    own = pixels[chosen].clone()
    for image, side in zip(own, (10, 20, 30), strict=True):
        image[:, :side, :side] = 0
    random = repair.randmasked(repair.Masks.of(chosen, pixels, own), seed=0)
    assert (random[:] == 0).all(1).sum((1, 2)).tolist() == [100, 400, 900]
    assert torch.equal(random.chosen, chosen) and not torch.equal(random[:], own)


def test_masked_pictures_are_made_when_asked_for_and_teach_the_same() -> None:
    """A bit a pixel is kept: the whole set lies in memory once, however many methods and runs mask it."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (9, 3, 20, 24), generator=draw, dtype=torch.uint8)
    pixels[3, :, :9] = 0  # black before
    chosen = torch.arange(9) % 3 != 1
    own = pixels[chosen] * (torch.rand(6, 1, 20, 24, generator=draw) < 0.7)
    light = repair.Masks.of(chosen, pixels, own)
    assert len(light) == 6 and light.bits.nbytes == 6 * 20 * 24 / 8 and light.whole is pixels
    assert all(torch.equal(light[i], each) for i, each in enumerate(own))
    assert torch.equal(light[:], own) and torch.equal(light[torch.tensor([4, 1])], own[[4, 1]])
    assert torch.equal(light.black(), (own != pixels[chosen]).any(1))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    labels, recipe = torch.arange(6) % 2, Recipe(epochs=2, batch=4, learning_rate=0.1)
    tunings = {name: study.Tuning(model, each, labels, recipe, 0) for name, each in (("own", own), ("light", light))}
    tuned = study.fine_tuned(tunings, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(*(each.parameters() for each in tuned.values()), strict=True))
    assert study.fine_tuned(tunings, "cpu").keys() == tuned.keys()  # read from the cache, which knows it


def test_masks_are_located_on_the_birds(cfg) -> None:
    data = pictures.birds(cfg, 0, "validation")
    pixels = study.pixels(data).clamp(min=1)
    bird = data.scenes.masks("birds")
    chosen = torch.arange(len(data)) < 3
    own = pixels[chosen].clone()
    own[0, :, bird[0]] = 0
    own[1, :, ~bird[1]] = 0
    assert repair.on_birds(repair.Masks.of(chosen, pixels, own), data).tolist() == [1, 0, 0]  # the third has no mask


def test_masktune_masks_every_picture_a_little(cfg) -> None:
    data = things(9)
    model = vit_classifier.build(cfg.classifier, 0, 9)
    masks = repair.masktune(model, "model.blocks.-1.norm1", study.pixels(data), tuple(cfg.grid), "cpu")
    share = masks.black().double().mean((1, 2))
    assert masks.chosen.all() and ((share >= 0) & (share < 0.25)).all() and share.max() > 0


def test_lexicons_allow_birds_and_their_own_kind(cfg) -> None:
    data = pictures.birds(cfg, 0, "validation")
    assert repair.lexicons(data) == {0: {"bird", "landbird"}, 1: {"bird", "waterbird"}}


def test_the_last_layer_alone_changes(cfg) -> None:
    data = pictures.birds(cfg, 0, "validation")
    model = vit_classifier.build(cfg.classifier, 0, 2)
    features = Features(model, vit_classifier.TOKENS)
    balanced = repair.balanced_last_layer(model, features, data, "cpu")
    before, after = model.state_dict(), balanced.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.head.weight", "model.head.bias"
    }  # fmt: skip
    right = study.predictions(balanced, data.images, len(data), "cpu").argmax(1) == data.labels
    assert right.double().mean() > 0.8


def test_published_rows_are_found_for_the_papers_own_methods() -> None:
    assert repair.published_table2("texplain", "worst group") == "taghanaki.table2.worst-group.texplain"
    assert repair.published_table2("last-layer", "worst group") is None
    assert repair.published_table2("erm", "masked samples") is None
    table = repair.published_table2_frame()
    assert table.shape == (5, 5) and table.iloc[3, 1].startswith("89.79")


# --- latents --------------------------------------------------------------------------------------------------------


def test_latent_tokens_are_two_by_two_cells_side_by_side() -> None:
    latents = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    tokens = study.LatentTokens.tokens(latents)
    assert tokens.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            block = latents[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(tokens[:, row * 3 + column], block.flatten(1))


def test_overlaps_are_means_over_a_picture_s_pairs() -> None:
    pairs = ["a red bird", "a dog", "x y", "x y"], ["a red bird", "a cat", "x y", "u v"]

    def embed(texts: list[str]) -> np.ndarray:
        return np.eye(len(texts))  # no two sentences are alike

    found = study.overlaps(*pairs, embed, 2)
    assert found["rouge1"].tolist() == pytest.approx([75, 50])
    assert found["cosine"].tolist() == [0.5, 0.5]


def test_a_sampled_padding_ends_a_sentence(monkeypatch) -> None:
    language = SimpleNamespace(decoder=nn.Linear(1, 1), prompt=[5], end=2, pad=0)
    drawn = torch.tensor([[[7, 0, 8, 2], [7, 8, 2, 0], [0, 9, 9, 9], [7, 8, 9, 9]]])
    monkeypatch.setattr(study, "sample", lambda *_, **__: drawn)
    explainer = SimpleNamespace(language=language, sampling={}, condition=lambda features: features)
    found = study.Explainer.sentences(explainer, torch.zeros(1, 1, 1), 4, 0)
    assert found.tolist() == [[[7, 0, 0, 0], [7, 8, 2, 0], [0, 0, 0, 0], [7, 8, 9, 9]]]


def test_in_parts_a_feature_has_the_sentences_that_it_has_in_the_whole(language, monkeypatch) -> None:
    """One by one they differ in rounding alone, which may decide for another token once in many."""
    given = torch.randn(5, 9, language.width, generator=torch.Generator().manual_seed(0))
    sampling = {"top_p": 0.95, "min_new_tokens": 2, "max_new_tokens": 8}
    explainer = study.Explainer(nn.Identity(), nn.Identity(), language, sampling)
    whole = explainer.sentences(given, 8, 3)
    monkeypatch.setattr(study, "TOGETHER", 8)
    apart = explainer.sentences(given, 8, 3)
    assert whole.shape == apart.shape == (5, 8, 8)
    assert (whole != apart).any(2).double().mean() < 0.1
    assert (whole[0] != whole[1]).any()
