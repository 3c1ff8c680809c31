"""What words say of a scene: the words that captions use for each value of each factor."""

from collections.abc import Iterable, Mapping

from xaikit.texplain.words import words_of
from xaikit.world.palette import COLOURS
from xaikit.world.places import PHRASES
from xaikit.world.scene import Scene, Value
from xaikit.world.scene_birds import GENERAL, LANDBIRDS, SCENERY, WATERBIRDS, Birds
from xaikit.world.scene_nine import HOMES, NOUNS, PATTERNS, Nine

_COLOURS = {name: (name,) for name in COLOURS}
_SAID: dict[type[Scene], dict[str, Mapping[Value, Iterable[str]]]] = {
    Birds: {
        "species": {name: (name,) for name in (*WATERBIRDS, *LANDBIRDS)},
        "kind": {name: (name,) for name in ("landbird", "waterbird")},
        "colour": _COLOURS,
        "count": {1: (), 2: ("two", "pair"), 3: ("three", "group")},  # "one" is a stop word
        "background": GENERAL,
        "place": {name: PHRASES[name] for names in SCENERY.values() for name in names},
    },
    Nine: {
        "category": NOUNS,
        "colour": _COLOURS,
        "pattern": {name: (name,) for name in PATTERNS},
        "place": {name: PHRASES[name] for name in HOMES.values()},
    },
}
_OBJECT = ("category", "colour", "pattern")  # factors of Nine that are not seen without its object


def named_factors(family: type[Scene]) -> tuple[str, ...]:
    """The factors of a family that captions name. Raises ValueError for a family whose words are not listed."""
    if family not in _SAID:
        raise ValueError(f"The words of {family.__name__} are not listed; choose Birds or Nine.")
    return tuple(_SAID[family])


def words_for(family: type[Scene], factor: str) -> dict[Value, frozenset[str]]:
    """The content words of captions for each value of a factor. Raises ValueError for one that no caption names."""
    if factor not in named_factors(family):
        known = ", ".join(named_factors(family))
        raise ValueError(f"No caption of {family.__name__} names {factor!r}; choose from {known}.")
    said = _SAID[family][factor]
    return {value: frozenset().union(*map(words_of, phrases)) for value, phrases in said.items()}


def true_words(scene: Scene) -> frozenset[str]:
    """The content words that captions may use for what the scene shows."""
    family, factors = type(scene), scene.factors
    hidden = _OBJECT if factors.get("variant", "").startswith("only_bg") else ()
    found = [words_for(family, name)[factors[name]] for name in named_factors(family)
             if name not in hidden and factors[name] is not None]  # fmt: skip
    return frozenset({"bird"} if family is Birds else ()).union(*found)


def concepts(family: type[Scene]) -> dict[str, list[str]]:
    """The words of each class and of each place, as names and what counts as the same: kinds of birds, not species."""
    if family is Birds:
        kinds = {"waterbird": ("waterbird", *WATERBIRDS), "landbird": ("landbird", *LANDBIRDS)}
        places = {
            name: words_for(Birds, "background")[name].union(*(words_for(Birds, "place")[each] for each in sceneries))
            for name, sceneries in SCENERY.items()
        }
        found = {**kinds, **places}
    else:
        found = {**words_for(family, family.CLASS), **words_for(family, "place")}
    return {str(name): sorted(words) for name, words in found.items()}
