"""Captions are true, different, and written in few words; prompts and descriptions use no others."""

import re
from collections.abc import Iterable

import pytest

from xaikit.storage.seeding import rng
from xaikit.world import (
    FAMILIES,
    Birds,
    Nine,
    Scene,
    SceneSet,
    birds,
    cars,
    class_descriptions,
    descriptions,
    nine,
    one_topic_descriptions,
    one_topic_phrases,
    people,
)
from xaikit.world.language import OPENERS
from xaikit.world.palette import COLOURS
from xaikit.world.places import PHRASES
from xaikit.world.scene_birds import GENERAL
from xaikit.world.scene_nine import NOUNS, VARIANTS
from xaikit.world.scene_people import HELD, PRESENTATIONS, WORN

CORPUS = {
    "birds": birds(500, seed=0, alignment=0.5),
    "nine": nine(500, seed=0, alignment=0.3),
    "people": people(500, seed=0, workplace=0.5, masked=0.3),
    "cars": cars(500, seed=0, alignment=0.3),
}
NUMBERS = {"one": 1, "two": 2, "pair": 2, "three": 3, "group": 3}


def places(text: str) -> set[str]:
    """The places that a caption speaks of, by the longest phrase that it holds."""
    phrases = [(phrase, name) for name, known in {**PHRASES, **GENERAL}.items() for phrase in known]
    found = [(phrase, name) for phrase, name in phrases if re.search(rf"\b{phrase}\b", text)]
    return {name for phrase, name in found if not any(phrase != other and phrase in other for other, _ in found)}


def read(scene: Scene, text: str) -> dict[str, object]:
    """What a caption says of a scene's factors, read word by word and without a look at the scene."""
    said: dict[str, object] = {}
    words = text.split()

    def note(factor: str, values: Iterable[object], tokens: Iterable[object] = words) -> None:
        for token in tokens:
            if token in values:
                said[factor] = token

    match type(scene).__name__:
        case "Birds":
            singular = [word if word == "grass" else word.removesuffix("s") for word in words]
            note("species", scene.values("species"), singular)
            note("kind", ("waterbird", "landbird"), singular)
            note("colour", scene.values("colour"))
            note("count", (1, 2, 3), [NUMBERS.get(word) for word in words])
            for place in places(text):
                said["background" if place in GENERAL else "place"] = place
            nouns = (*scene.values("species"), "bird", "waterbird", "landbird")
            said["several"] = any(noun + "s" in words for noun in nouns)
        case "Nine":
            categories = {noun: name for name, known in NOUNS.items() for noun in known}
            note("category", NOUNS, [categories.get(word) for word in words])
            note("colour", scene.values("colour"))
            note("pattern", scene.values("pattern"))
            note("place", PHRASES, places(text))
        case "People":
            note("profession", [name for name in WORN if f" {name} " in f" {text} "], WORN)
            note("clothing", [name for name, worn in WORN.items() if f"wearing {worn}" in text], WORN)
            note("tool", [name for name, held in HELD.items() if re.search(rf"holding an? {held}\b", text)], HELD)
            note("presentation", [looks for looks in scene.values("presentation") if looks in text], PRESENTATIONS)
            if face := re.search(r"(hidden|clear) face", text):
                said["face_mask"] = face[1] == "hidden"
            note("place", PHRASES, places(text))
        case "Cars":
            written = re.search(r"with (no name|the name (\w+)) on it", text)
            if written:
                said["text"] = written[2]
            rest = text.replace(written[0], "") if written else text
            note("make", scene.values("make"), rest.split())
            note("model", scene.values("model"))
            note("colour", scene.values("colour"))
            note("place", PHRASES, places(text))
    return said


def truth(scene: Scene) -> dict[str, object]:
    known = dict(scene.factors)
    if isinstance(scene, Birds):
        known["several"] = scene.count > 1
    known.setdefault("place", known["background"])
    return known


@pytest.mark.parametrize("name", FAMILIES)
def test_captions_are_five_true_and_different(name: str) -> None:
    data = CORPUS[name]
    for scene in data:
        assert len(set(scene.captions)) == 5
        for caption in scene.captions:
            assert caption == caption.lower() and re.fullmatch(r"[a-z]+( [a-z]+)*", caption)
            said, known = read(scene, caption), truth(scene)
            assert said and all(known[factor] == value for factor, value in said.items()), (scene, caption, said)


@pytest.mark.parametrize(
    ("name", "everything"),
    [
        ("birds", {"species", "colour", "count", "place", "several"}),
        ("nine", {"category", "colour", "pattern", "place"}),
        ("people", {"profession", "clothing", "tool", "presentation", "face_mask", "place"}),
        ("cars", {"make", "model", "colour", "text", "place"}),
    ],
)
def test_one_caption_names_every_factor_and_all_factors_are_sometimes_left_out(name: str, everything: set[str]) -> None:
    left_out: set[str] = set()
    for scene in CORPUS[name]:
        said = [set(read(scene, caption)) for caption in scene.captions]
        if name == "birds" and scene.count == 1:  # "a duck": one is not spelt out
            said[0].add("count")
        assert everything <= said[0], (scene, scene.captions[0])
        left_out |= {factor for factor in everything for some in said[1:] if factor not in some}
    assert left_out >= everything - {"several"}


def test_variants_are_described_by_what_is_seen() -> None:
    hidden = {
        "only_bg_b": {"category", "colour", "pattern"},
        "only_bg_t": {"category", "colour", "pattern"},
        "no_fg": {"colour", "pattern"},
        "only_fg": {"place"},
    }
    for scene in CORPUS["nine"][:40]:
        for variant in VARIANTS:
            shown = scene.replace(variant=variant)
            assert len(set(shown.captions)) == 5
            for caption in shown.captions:
                said = read(shown, caption)
                assert not set(said) & hidden.get(variant, set())
                assert all(truth(shown)[factor] == value for factor, value in said.items())


def words(texts) -> set[str]:
    return {word for text in texts for word in text.split()}


def vocabulary() -> set[str]:
    return words(caption for data in CORPUS.values() for scene in data for caption in scene.captions)


def test_the_vocabulary_is_small_and_prompts_and_descriptions_keep_to_it() -> None:
    known = vocabulary()
    variants = words(
        caption for v in VARIANTS for scene in CORPUS["nine"][:40].replace(variant=v) for caption in scene.captions
    )
    assert 150 < len(known | variants) < 300
    for family in FAMILIES.values():
        assert words(text for prompts in family.PROMPTS.values() for text in prompts.values()) <= known
    assert words(descriptions(rng(0, "descriptions"), 1500)) <= known


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_cover_all_values_in_their_order_and_say_just_that(name: str) -> None:
    family, data = FAMILIES[name], CORPUS[name]
    for factor, prompts in family.PROMPTS.items():
        if factor in family.DERIVED or factor in family.factor_names():
            assert tuple(prompts) == data.values(factor)
        for value, prompt in prompts.items():
            said = read(data[0], prompt)
            said.pop("several", None)
            expected = PHRASE_OWNER.get((name, factor), factor)
            assert len(said) == 1, prompt
            ((key, told),) = said.items()
            assert key == expected
            if expected == factor:
                assert told == value
    openers = {opener.format("") for opener in OPENERS}
    assert all(text.startswith("a photo of ") for prompts in family.PROMPTS.values() for text in prompts.values())
    assert "a photo of " in openers


# The place is what a prompt of the background speaks of, where that has another name.
PHRASE_OWNER = {("nine", "background"): "place", ("people", "background"): "place", ("cars", "background"): "place"}


def test_descriptions_are_different_repeatable_and_refused_beyond_the_pool() -> None:
    pool = descriptions(rng(0, "pool"), 1000)
    assert len(set(pool)) == 1000
    assert pool == descriptions(rng(0, "pool"), 1000) != descriptions(rng(1, "pool"), 1000)
    with pytest.raises(ValueError, match=r"9999999 different descriptions are wanted; ask for 1 to \d+\."):
        descriptions(rng(0, "pool"), 9_999_999)


def test_one_topic_descriptions_say_one_thing_in_words_of_the_world() -> None:
    found = one_topic_descriptions(rng(0, "pool"), 12)
    assert set(found) == {"object", "colour", "count", "place", "pattern", "looks", "text"}
    assert {len(set(texts)) for texts in found.values()} == {12}
    assert found == one_topic_descriptions(rng(0, "pool"), 12) != one_topic_descriptions(rng(1, "pool"), 12)
    everything = one_topic_descriptions(rng(0, "pool"), 15)
    phrases = one_topic_phrases()
    assert set(phrases) == set(found) and all(len(set(each)) == len(each) > 2 for each in phrases.values())
    assert not {text for texts in phrases.values() for text in texts} & {
        text for texts in found.values() for text in texts
    }
    assert {word for text in everything["colour"] for word in text.split()} & {*COLOURS} == {*COLOURS}
    for topic, texts in everything.items():
        for text in texts:
            words = {*text.split()}
            assert bool(words & {*COLOURS}) == (topic == "colour") or "wearing" in text
            assert bool(words & {"plain", "striped", "spotted"}) == (topic == "pattern")
    with pytest.raises(ValueError, match=r"16 different texts on pattern are wanted; ask for 1 to 15\."):
        one_topic_descriptions(rng(0, "pool"), 16)


@pytest.mark.parametrize("name", FAMILIES)
def test_class_descriptions_name_their_classes_in_turn(name: str) -> None:
    family = FAMILIES[name]
    classes = family.values(family.CLASS)
    found = class_descriptions(family, rng(0, "class"), 60)
    assert len(set(found)) == 60 and found == class_descriptions(family, rng(0, "class"), 60)
    for index, text in enumerate(found):
        assert str(classes[index % len(classes)]) in text


def test_sets_of_all_families_give_captions() -> None:
    for data in CORPUS.values():
        assert isinstance(data, SceneSet)
        assert data[:3].captions == [scene.captions for scene in data[:3]]
    assert Nine(0, "dog", "red", "plain", "sky").captions[0].count("dog") == 1
