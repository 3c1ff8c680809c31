"""The words for what scenes show are those of their captions."""

import pytest

from xaikit import world
from xaikit.studies.lexicon import concepts, named_factors, true_words, words_for
from xaikit.texplain.words import words_of
from xaikit.world.scene_birds import Birds
from xaikit.world.scene_cars import Cars
from xaikit.world.scene_nine import Nine

# What captions say of any picture, or of what is not there.
GENERAL = {"place", "empty"}


@pytest.mark.parametrize("maker", [world.birds, world.nine])
def test_every_word_of_a_scene_s_captions_is_true_of_it(maker) -> None:
    for scene in maker(300, seed=3, alignment=0.5):
        for caption in scene.captions:
            assert words_of(caption) <= true_words(scene) | GENERAL, caption


@pytest.mark.parametrize("variant", ["only_bg_t", "only_bg_b", "mixed_next", "no_fg"])
def test_words_follow_what_a_variant_shows(variant) -> None:
    for scene in world.nine(60, seed=3, variant=variant):
        for caption in scene.captions:
            assert words_of(caption) <= true_words(scene) | GENERAL, caption


def test_words_of_other_values_are_not_true() -> None:
    scene = world.birds(1, seed=0)[0].replace(species="duck", colour="red", count=2, background="water", scenery=0)
    assert {"duck", "waterbird", "bird", "red", "two", "sea"} <= true_words(scene)
    assert not {"owl", "landbird", "blue", "three", "forest", "lake"} & true_words(scene)


def test_a_background_alone_has_no_thing_and_only_fg_no_place() -> None:
    scene = world.nine(1, seed=0)[0].replace(category="fish", background="reef")
    assert "fish" not in true_words(scene.replace(variant="only_bg_t"))
    assert "reef" not in true_words(scene.replace(variant="only_fg"))


def test_each_word_has_one_concept() -> None:
    for family in (Birds, Nine):
        every = [word for words in concepts(family).values() for word in words]
        assert len(every) == len(set(every))
    assert "gull" in concepts(Birds)["waterbird"] and "sea" in concepts(Birds)["water"]


def test_factors_and_families_without_words_are_refused() -> None:
    assert "pattern" in named_factors(Nine)
    with pytest.raises(ValueError, match="names 'scenery'; choose from species"):
        words_for(Birds, "scenery")
    with pytest.raises(ValueError, match="Cars are not listed"):
        named_factors(Cars)
