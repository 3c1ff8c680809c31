"""Pools of short texts in the vocabulary of the world, for methods that put a direction into words (TextSpan)."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from xaikit.arguments import Count, public
from xaikit.world.language import NUMBERS, OPENERS, article
from xaikit.world.palette import COLOURS
from xaikit.world.places import PHRASES
from xaikit.world.scene import Scene
from xaikit.world.scene_birds import GENERAL, LANDBIRDS, WATERBIRDS
from xaikit.world.scene_cars import MAKES, MODELS
from xaikit.world.scene_nine import NOUNS, PATTERNS
from xaikit.world.scene_people import HELD, PRESENTATIONS, WORKPLACES, WORN


@public
def descriptions(rng: np.random.Generator, n: Count) -> list[str]:
    """`n` different short descriptions of anything in the world. Raises ValueError where there are fewer."""
    pool = [opener.format(phrase) for phrase, opener in product(dict.fromkeys(_phrases()), OPENERS)]
    if not 0 < n <= len(pool):
        raise ValueError(f"{n} different descriptions are wanted; ask for 1 to {len(pool)}.")
    return [pool[i] for i in rng.permutation(len(pool))[:n]]


@public
def class_descriptions(family: type[Scene], rng: np.random.Generator, n: Count) -> list[str]:
    """`n` different captions of random scenes that name their class, the classes in turn.

    Raises ValueError where so many different ones are not found.
    """
    classes = family.values(family.CLASS)
    found: dict[str, None] = {}
    for _ in range(20 * n + 1000):
        if len(found) == n:
            return list(found)
        wanted = classes[len(found) % len(classes)]
        values = {name: family.values(name)[rng.integers(len(family.values(name)))] for name in family.factor_names()}
        scene = family(seed=int(rng.integers(2**62)), **{**values, family.CLASS: wanted})
        fresh = [text for text in scene.captions if str(wanted) in text and text not in found]
        if fresh:
            found[fresh[rng.integers(len(fresh))]] = None
    raise ValueError(f"{n} different captions of {family.__name__} were not found; ask for fewer than {len(found)}.")


@public
def one_topic_descriptions(rng: np.random.Generator, n: Count) -> dict[str, list[str]]:
    """`n` different short descriptions of each topic that say that one thing alone, by topic, in random order.

    They are `one_topic_phrases` after an opener such as "a photo of". Raises ValueError where a topic has fewer.
    """
    found = {}
    for topic, phrases in one_topic_phrases().items():
        texts = [opener.format(phrase) for phrase, opener in product(phrases, OPENERS) if opener != "{}"]
        if not 0 < n <= len(texts):
            raise ValueError(f"{n} different texts on {topic} are wanted; ask for 1 to {len(texts)}.")
        found[topic] = [texts[i] for i in rng.permutation(len(texts))[:n]]
    return found


@public
def one_topic_phrases() -> dict[str, list[str]]:
    """All short phrases that say one thing alone, by its topic.

    Looks, names on doors and counts are of people, cars and birds alone, so these name them too, and say nothing else
    of them. Clothes and tools are objects.
    """
    birds, things = (*WATERBIRDS, *LANDBIRDS), [noun for nouns in NOUNS.values() for noun in nouns]
    nouns = (*birds, "waterbird", "landbird", *things, *MODELS, *MAKES, "car", "person", *WORKPLACES)
    places = [phrase for phrases in (*GENERAL.values(), *PHRASES.values()) for phrase in phrases]
    return {
        "object": [
            *dict.fromkeys(article(noun) for noun in nouns),
            *(f"a person wearing {worn}" for worn in WORN.values()),
            *(f"a person holding {article(held)}" for held in HELD.values()),
        ],
        "colour": [f"something {name}" for name in COLOURS],
        "count": ["one bird", "two birds", "three birds", "a pair of birds", "a group of three birds"],
        "place": [f"something {phrase}" for phrase in dict.fromkeys(places)],
        "pattern": [f"something {name}" for name in PATTERNS],
        "looks": [f"a person with {looks}" for looks in (*PRESENTATIONS, "a hidden face", "a clear face")],
        "text": [*(f"a car with the name {make} on it" for make in MAKES), "a car with no name on it"],
    }


def _phrases() -> Iterator[str]:
    """Every short phrase once or more: one factor, or two of them."""
    birds, things = (*WATERBIRDS, *LANDBIRDS), [noun for nouns in NOUNS.values() for noun in nouns]
    subjects = ("something", "a bird", "a person", "a car")
    for adjective in (*COLOURS, *PATTERNS):
        yield f"something {adjective}"
    for pattern, colour in product(PATTERNS, COLOURS):
        yield f"something {pattern} and {colour}"
    for noun in (*birds, "bird", "waterbird", "landbird", *things, *MODELS, *MAKES, "car", "person", *WORKPLACES):
        yield article(noun)
    for colour, noun in product(COLOURS, (*birds, "bird", *things, *MODELS, "car")):
        yield f"a {colour} {noun}"
    for pattern, noun in product(PATTERNS, things):
        yield f"a {pattern} {noun}"
    for number, noun in product(NUMBERS.values(), (*birds, "bird", "waterbird", "landbird")):
        yield f"{number} {noun}" + ("" if number == "one" else "s")
    for phrases, subject in product((*GENERAL.values(), *PHRASES.values()), subjects):
        for phrase in phrases:
            yield f"{subject} {phrase}"
    for looks in (*PRESENTATIONS, "a hidden face", "a clear face"):
        yield f"a person with {looks}"
    for worn in WORN.values():
        yield f"a person wearing {worn}"
    for held in HELD.values():
        yield f"a person holding {article(held)}"
    for make in MAKES:
        yield f"a car with the name {make} on it"
        yield f"a car made by {make}"
    yield "a car with no name on it"
