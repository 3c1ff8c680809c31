"""METEOR's alignment of two texts: which word of one is taken for which word of the other.

Stage by stage (exact, stem, synonym), words that no stage before has aligned are aligned where they match: as many as
can be, each with one at most, and of all such choices the one with the fewest crossings: pairs of links that stand in
another order in one text than in the other (Banerjee & Lavie, 2005, section 2). Of choices with equally few crossings
the paper says nothing; here the one with the fewest chunks so far is taken, and of those the one of the first words.

Where words repeat, one has to choose which of them to leave out, and no fast way to the best choice is known. So links
are chosen from the first word on, and of choices that use the same words of the other text only the cheapest is
followed (dynamic programming). Beside the crossings that there are, its cost counts those that must come, so that what
cannot become the best is left out early (branch and bound).
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

WORK = 300_000  # choices that are looked at; where more are needed, others may have fewer crossings than those found
_ENDLESS = 10**9
_FIRST_LOOK = 32  # states beside each other, which are mostly enough

Links = dict[int, int]  # from places in one text to places in the other


def align(matches: Sequence[Sequence[int]], before: Links) -> tuple[Links, bool]:
    """One stage's links, and whether it is certain that none have fewer crossings.

    `matches` has, for each word of one text, the places in the other that it matches, in their order; none for a word
    that a stage `before` has aligned.
    """
    if not any(matches):
        return {}, True
    turned = [[] for _ in range(1 + max(max(others, default=0) for others in (*matches, before.values())))]
    for word, others in enumerate(matches):
        for other in others:
            turned[other].append(word)
    back = {other: word for word, other in before.items()}
    one_way, other_way = _Search(matches, before), _Search(turned, back)
    if one_way.states() <= other_way.states():
        return one_way.best()
    links, certain = other_way.best()
    return {word: other for other, word in links.items()}, certain


class _State(NamedTuple):
    """Choices up to a word: the first three numbers tell which are better."""

    cost: int  # crossings that there are, and that must come
    chunks: int
    places: int  # of all links, summed
    slots: int  # the places that links to come are assumed to take
    last: tuple | None  # link: a word, the other, and the link before


_NOWHERE = _State(_ENDLESS, 0, 0, 0, None)


class _Group:
    """Words of both texts that match each other, directly or by others between; `whole` where each matches each."""

    def __init__(self, words: list[int], others: list[int], whole: bool) -> None:
        self.words, self.others, self.whole = words, others, whole
        self.mask = sum(1 << place for place in others)
        self.place = {word: number for number, word in enumerate(words)}
        self.most = min(len(words), len(others))

    def choices(self, word: int, other: int) -> range:
        """Which of `others` the word may take; two links within a whole group that cross can change places."""
        if len(self.words) >= len(self.others):
            return range(other, min(other + 1, len(self.others)))
        return range(other, len(self.others) - (len(self.words) - word) + 1)

    def may_skip(self, word: int, other: int) -> bool:
        return len(self.words) - word > len(self.others) - other


class _Search:
    def __init__(self, matches: Sequence[Sequence[int]], before: Links) -> None:
        self.matches, self.before = matches, before
        self.groups = list(_groups(matches))
        self.of = {word: group for group in self.groups for word in group.words}
        for group in self.groups:
            if not group.whole:
                group.most = self._most(group, -1, 0)
        self.sure = [
            pair
            for group in self.groups
            if group.whole and len(group.words) == len(group.others)
            for pair in zip(group.words, group.others, strict=True)
        ]
        self.to_come = {id(group): self._fewest(group) for group in self.groups if group.whole}
        self.most = cache(self._most)

    def states(self) -> float:
        """About how many states there can be beside each other, as a logarithm."""
        sizes = [(len(group.words), len(group.others)) for group in self.groups]
        return math.fsum(math.log(math.comb(b, a) if b > a else a - b + 1) for a, b in sizes)

    def best(self) -> tuple[Links, bool]:
        """The links, and whether it is certain that none have fewer crossings."""
        state, missed = self.run(_FIRST_LOOK, _ENDLESS)
        if missed <= state.cost:
            choices = sum(1 + abs(len(group.others) - len(group.words)) for group in self.of.values())
            found, missed = self.run(max(_FIRST_LOOK, WORK // choices), state.cost)
            state = min((found, state), key=lambda each: each[:3])
        return dict(_chain(state.last)), state.cost <= missed

    def run(self, most: int, bound: int) -> tuple[_State, int]:
        """The cheapest end of at most `most` states beside each other, and the least cost of those left out for it."""
        # What is assumed of links to come: that they take the last places of their group. None can cross less.
        slots = sum(1 << place for group in self.groups if group.whole for place in group.others[-group.most :])
        cost = sum(self.to_come[id(group)][0, 0] for group in self.groups if group.whole)
        states: dict[tuple[int, int], _State] = {(0, -2): _State(cost, 0, 0, slots, None)}
        missed = _ENDLESS
        for word in range(len(self.matches)):
            new: dict[tuple[int, int], _State] = {}
            for (used, previous), state in states.items():
                for key, found in self._after(word, used, previous, state):
                    if found.cost <= bound and (key not in new or found[:3] < new[key][:3]):
                        new[key] = found
            if len(new) > most:
                ranked = sorted(new.items(), key=lambda item: item[1][:3])
                missed = min(missed, ranked[most][1].cost)
                new = dict(ranked[:most])
            states = new
        return min(states.values(), key=lambda state: state[:3], default=_NOWHERE), missed

    def _after(self, word: int, used: int, previous: int, state: _State) -> Iterator[tuple[tuple[int, int], _State]]:
        """The states that a word leads to; a state is told by the other words used and by the last word's link."""
        if word in self.before:
            other = self.before[word]
            yield (used, other), state._replace(chunks=state.chunks + (previous != other - 1))
        elif word not in self.of:
            yield (used, -2), state
        elif (group := self.of[word]).whole:
            yield from self._in_whole(group, word, used, previous, state)
        else:
            need = group.most - (used & group.mask).bit_count()
            if self.most(group, word, used & group.mask) >= need:
                yield (used, -2), state
            for other in self.matches[word]:
                taken = used | 1 << other
                if taken != used and self.most(group, word, taken & group.mask) == need - 1:
                    crossed = (used >> other + 1).bit_count() + (state.slots & (1 << other) - 1).bit_count()
                    chunks = state.chunks + (previous != other - 1)
                    link = (word, other, state.last)
                    yield (
                        (taken, other),
                        _State(state.cost + crossed, chunks, state.places + word + other, state.slots, link),
                    )

    def _in_whole(
        self, group: _Group, word: int, used: int, previous: int, state: _State
    ) -> Iterator[tuple[tuple[int, int], _State]]:
        to_come, number = self.to_come[id(group)], group.place[word]
        last = (used & group.mask).bit_length()
        first = (group.mask & (1 << last) - 1).bit_count()
        cost = state.cost - to_come[number, first]
        if group.may_skip(number, first):
            yield (used, -2), state._replace(cost=cost + to_come[number + 1, first])
        own = state.slots & group.mask
        slot = own & -own  # the assumed place that this link now leaves for its real one
        slots, saved = state.slots ^ slot, (used & -slot).bit_count()
        for place in group.choices(number, first):
            other = group.others[place]
            crossed = (used >> other + 1).bit_count() + (slots & (1 << other) - 1).bit_count() - saved
            found = _State(
                cost + to_come[number + 1, place + 1] + crossed,
                state.chunks + (previous != other - 1),
                state.places + word + other,
                slots,
                (word, other, state.last),
            )
            yield (used | 1 << other, other), found

    def _fewest(self, group: _Group) -> dict[tuple[int, int], int]:
        """The fewest crossings of a group's links, from a word and another on, with later links that have no choice."""
        fewest: dict[tuple[int, int], int] = {}
        for number in range(len(group.words), -1, -1):
            for first in range(len(group.others), -1, -1):
                if number == len(group.words) or first == len(group.others):
                    fewest[number, first] = 0
                    continue
                word = group.words[number]
                ways = [fewest[number + 1, first]] if group.may_skip(number, first) else []
                for place in group.choices(number, first):
                    other = group.others[place]
                    crossed = sum(each > word and its < other for each, its in self.sure)
                    ways.append(crossed + fewest[number + 1, place + 1])
                fewest[number, first] = min(ways, default=_ENDLESS)
        return fewest

    def _most(self, group: _Group, word: int, used: int) -> int:
        """How many words of a group behind `word` can be linked to others that are not used (Kuhn's algorithm)."""
        taken: dict[int, int] = {}

        def find(one: int, tried: set[int]) -> bool:
            for other in self.matches[one]:
                if not used >> other & 1 and other not in tried:
                    tried.add(other)
                    if other not in taken or find(taken[other], tried):
                        taken[other] = one
                        return True
            return False

        return sum(find(one, set()) for one in group.words if one > word)


def _groups(matches: Sequence[Sequence[int]]) -> Iterator[_Group]:
    """The connected parts of what matches what."""
    found: list[tuple[set[int], set[int]]] = []
    for word, others in enumerate(matches):
        if others:
            touched = [part for part in found if not part[1].isdisjoint(others)]
            found = [part for part in found if part not in touched]
            found.append(
                ({word}.union(*(each for each, _ in touched)), set(others).union(*(its for _, its in touched)))
            )
    for words, others in found:
        yield _Group(sorted(words), sorted(others), all(len(matches[word]) == len(others) for word in words))


def _chain(link: tuple | None) -> Iterator[tuple[int, int]]:
    while link is not None:
        word, other, link = link
        yield word, other
