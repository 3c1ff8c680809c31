"""The small grammar that all captions share."""

from collections.abc import Collection, Sequence
from random import Random

NUMBERS = {1: "one", 2: "two", 3: "three"}
OPENERS = ("{}", "a photo of {}", "an image of {}", "a picture of {}", "this shows {}", "we see {}")


def article(noun: str) -> str:
    """`noun` with a or an before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def opened(phrase: str, random: Random) -> str:
    return random.choice(OPENERS).format(phrase)


def chosen(names: Sequence[str], random: Random, everything: bool, always: Collection[str] = ()) -> set[str]:
    """All of `names`, or `always` and a random half of the others, at least one of all."""
    if everything:
        return set(names)
    some = {name for name in names if name in always or random.random() < 0.5}
    return some or {random.choice(names)}


def joined(*words: str | None) -> str:
    return " ".join(word for word in words if word)
