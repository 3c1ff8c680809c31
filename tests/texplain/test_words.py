"""Words against a plain count, a thousand class names put into the plural, and sentences whose words are known."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import wordcloud
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from xaikit.texplain.words import (
    FILLERS,
    STOP_WORDS,
    check_class_names,
    document_frequency,
    dominant,
    explained_by_prior,
    singular,
    top_word,
    words_of,
)
from xaikit.world import birds, cars, nine, people

PLURALS = """
    bird:birds bus:buses bush:bushes cherry:cherries person:people man:men woman:women fireman:firemen child:children
    grandchild:grandchildren foot:feet tooth:teeth goose:geese mouse:mice titmouse:titmice leaf:leaves wolf:wolves
    knife:knives penknife:penknives wife:wives shelf:shelves bookshelf:bookshelves loaf:loaves calf:calves half:halves
    hoof:hooves scarf:scarves glove:gloves stove:stoves wave:waves dove:doves olive:olives sleeve:sleeves
    beach:beaches finch:finches branch:branches dish:dishes box:boxes fox:foxes dress:dresses princess:princesses
    hourglass:hourglasses quiz:quizzes waltz:waltzes size:sizes prize:prizes horse:horses house:houses rose:roses
    vase:vases nose:noses cruise:cruises lens:lenses iris:irises gas:gases virus:viruses octopus:octopuses
    blouse:blouses clause:clauses fuse:fuses tomato:tomatoes hero:heroes photo:photos shoe:shoes horseshoe:horseshoes
    toe:toes canoe:canoes pie:pies tie:ties movie:movies baby:babies city:cities monkey:monkeys ski:skis taxi:taxis
    emu:emus menu:menus axe:axes tax:taxes headache:headaches cactus:cacti eye:eyes tv:tvs chassis:chassis grass:grass
    bus:bus glass:glass tennis:tennis canvas:canvas species:species series:series sheep:sheep specimen:specimen
    asparagus:asparagus scissors:scissors glasses:glasses sunglasses:sunglasses pants:pants dog:dog
"""


@pytest.mark.parametrize("pair", PLURALS.split())
def test_plurals_become_singulars_and_singulars_stay(pair: str) -> None:
    one, many = pair.split(":")
    assert singular(many) == one and singular(one) == one


def regular_plural(noun: str) -> str:
    """The plural by the rules of a school book."""
    if re.search("[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if noun.endswith("man"):
        return noun[:-3] + "men"
    return noun + ("es" if re.search("(s|x|z|ch|sh)$", noun) else "s")


def test_regular_plurals_of_the_classes_of_imagenet_become_singulars() -> None:
    nouns = {re.findall("[a-z]+", name.lower())[-1] for name in IMAGENET_CLASSNAMES}
    nouns = {noun for noun in nouns if len(noun) > 2}
    plural_already = {noun for noun in nouns if singular(noun) != noun}
    assert plural_already == {"bars", "clogs", "potatoes"}
    without = {"binoculars", "jeans", "malinois", "pajamas", "shorts", "sunglasses", "tights", "triceratops", "glass"}
    foreign = {"basenji", "borzoi", "indri", "kelpie", "kuvasz", "mau", "saluki", "tzu", "xoloitzcuintli"}
    wrong = {noun for noun in nouns - plural_already if singular(regular_plural(noun)) != noun}
    assert wrong <= without | foreign and len(nouns) > 700


@pytest.fixture(scope="module")
def captions() -> list[str]:
    sets = (birds(60, seed=0, alignment=0.5), nine(60, seed=0, alignment=0.3), cars(60, seed=0, alignment=0.3))
    sets = (*sets, people(60, seed=0, workplace=0.5, masked=0.3))
    return [caption for scenes in sets for several in scenes.captions for caption in several]


def test_a_sentence_gives_its_content_words() -> None:
    assert words_of("A photo of two Birds standing in the bushes; the bird's wings!") == {
        *("two", "bird", "standing", "bush", "wing")
    }
    assert words_of("we see 3 dogs, and this picture shows people who don't run") == {"dog", "person", "run"}
    assert words_of("this is a close up view in the background of it") == frozenset() == words_of("")


def test_all_stop_words_of_a_public_list_are_dropped() -> None:
    assert set().union(*map(words_of, wordcloud.STOPWORDS)) <= {"further"}
    assert words_of(" ".join(STOP_WORDS + FILLERS)) == frozenset()
    assert len(set(STOP_WORDS + FILLERS)) == len(STOP_WORDS) + len(FILLERS)


def test_what_the_drawn_world_is_about_is_kept(captions: list[str]) -> None:
    found = set().union(*map(words_of, captions))
    assert {
        "bird",
        "duck",
        "water",
        "forest",
        "red",
        "two",
        "car",
        "truck",
        "axe",
        "dog",
        "doctor",
        "overalls",
    } <= found
    assert not found & {"photo", "image", "picture", "see", "show", "shows", "ducks", "the", "of"}
    assert {singular(word) for word in found} == found


def plain(sentences: list[str], ignore: list[str], concepts: dict[str, list[str]]) -> dict[str, float]:
    """Each word's share, counted one sentence and one word at a time."""
    name_of = {word: name for name, words in concepts.items() for word in words}
    vocabulary = {name_of.get(word, word) for sentence in sentences for word in words_of(sentence)} - set(ignore)
    shares = {}
    for word in vocabulary:
        held = 0
        for sentence in sentences:
            held += any(name_of.get(each, each) == word for each in words_of(sentence))
        shares[word] = held / len(sentences)
    return {word: shares[word] for word in sorted(shares, key=lambda word: (-shares[word], word))}


def test_frequencies_equal_a_plain_count(captions: list[str]) -> None:
    some = captions[:: len(captions) // 150] + captions[:10]
    ignore, concepts = ["red", "blue", "two"], {"water": ["sea", "ocean", "lake"], "vehicle": ["car", "truck"]}
    for ignored, merged in (([], {}), (ignore, concepts)):
        found = document_frequency(some, ignore=ignored, concepts=merged)
        expected = plain(some, ignored, merged)
        assert found == expected and list(found) == list(expected) and len(found) > 20


def test_a_word_counts_once_a_sentence_and_an_empty_sentence_counts() -> None:
    found = document_frequency(["a bird and a bird and birds", "the sea", "a photo", "a bird at the sea"])
    assert found == {"bird": 0.5, "sea": 0.5} and list(found) == ["bird", "sea"]
    assert document_frequency(["a view"]) == {}


def test_the_words_of_a_concept_count_as_one_once_a_sentence() -> None:
    sentences = ["ducks on the sea, an ocean of water", "a lake", "seas", "a tree"]
    found = document_frequency(sentences, concepts={"water": ["sea", "ocean", "lakes"]})
    assert found == {"water": 0.75, "duck": 0.25, "tree": 0.25}
    named = document_frequency(sentences, concepts={"open water": ["sea", "ocean", "lake"]})
    assert named == {"open water": 0.75, "duck": 0.25, "tree": 0.25, "water": 0.25}


def test_pooling_a_class_is_the_mean_over_equally_long_images(captions: list[str]) -> None:
    images = [captions[first : first + 20] for first in range(0, 200, 20)]
    pooled = document_frequency([sentence for image in images for sentence in image])
    each = [document_frequency(image) for image in images]
    for word, frequency in pooled.items():
        assert frequency == pytest.approx(np.mean([image.get(word, 0.0) for image in each]), abs=1e-12)


def test_repeats_may_come_from_an_iterator() -> None:
    def stream() -> Iterator[str]:
        for number in range(100_000):
            yield f"a bird in the {'sea' if number % 4 else 'woods'}"

    assert document_frequency(stream()) == {"bird": 1.0, "sea": 0.75, "wood": 0.25}


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "no sentence"),
        (
            ["a"],
            {"concepts": {"water": ["sea"], "blue": ["seas"]}},
            "'seas' belongs to the concepts 'water' and 'blue'",
        ),
        (["a"], {"concepts": {"water": ["the"]}}, "'water' cannot count 'the'"),
        (["a"], {"concepts": {"water": ["open sea"]}}, "'water' cannot count 'open sea'"),
        (["a"], {"concepts": {"water": ["sea"]}, "ignore": ["sea"]}, "'water' cannot count 'sea'"),
        (["a"], {"concepts": {"water": ["sea"], "sea": ["wave"]}}, "'sea' is also a word of the concept 'water'"),
    ],
)
def test_bad_sentences_and_concepts_are_refused(sentences, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        document_frequency(sentences, **options)


def test_dominant_words_have_the_least_share_and_the_top_word_is_the_first() -> None:
    frequencies = {"sea": 0.05, "bird": 0.5, "boat": 0.5, "rock": 0.049}
    assert dominant(frequencies) == ["bird", "boat", "sea"]
    assert dominant(frequencies, least=0) == ["bird", "boat", "sea", "rock"] and dominant({}) == []
    assert top_word(frequencies) == "bird"
    with pytest.raises(ValueError, match="least of dominant"):
        dominant(frequencies, least=5.0)
    with pytest.raises(ValueError, match="no most frequent word"):
        top_word({})


def test_the_prior_explains_what_the_decoder_says_anyhow() -> None:
    found = explained_by_prior({"bird": 0.8, "sea": 0.2, "axe": 0.1}, {"bird": 0.4, "sea": 0.6})
    assert found == {"bird": 0.5, "sea": 1.0, "axe": 0.0}
    with pytest.raises(ValueError, match="'bird' is no share"):
        explained_by_prior({"bird": 0.0}, {})


def test_class_names_that_no_sentence_can_bring_up_are_named() -> None:
    check_class_names(["steam locomotive", "waterbird", "close friend"])
    with pytest.raises(ValueError, match="rename the classes 'Background', 'other'"):
        check_class_names(["bird", "Background", "other"])
