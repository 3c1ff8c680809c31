"""What sampled sentences are mostly about: the share of them that hold a word (paper 2, section 2.3).

The paper does not say how words are taken from sentences. Here: runs of letters in lower case, without stop words and
the words that captions use about themselves, plurals as singulars, each word once a sentence. For a class, pass the
sentences of all its images, joined: each image then weighs as many sentences as it has.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from xaikit.arguments import Probability, public
from xaikit.texplain.splitting import is_unspaced, split_words


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


STOP_WORDS = _split(
    """
    a an the this that these those some any no every each either neither both all half several many much more most few
    fewer little less least other others another such same own enough various whole one ones
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves who whom whose which what whatever whoever whichever
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing none
    aboard about above across after against along alongside amid among amongst around as aside at atop away before
    behind below beneath beside besides between beyond by despite down during except for from in inside into like near
    nearby next of off on onto opposite out outside over past per round since than through throughout to toward towards
    under underneath unlike until till up upon versus via with within without apart
    and but or nor so yet if then else because although though while whereas whether unless once when whenever where
    wherever why how however therefore thus hence otherwise
    am is are was were be been being do does did done doing have has had having can could may might must shall should
    will would ought need cannot let lets get gets got getting go goes going gone went come comes coming came make
    makes made making become becomes keep keeps seem seems use uses used using
    not never always often sometimes usually also just only even still already again almost very too quite rather
    really perhaps maybe ever now here there together etc eg ie well forward forwards backward backwards upward
    upwards downward downwards afterwards instead
    aren couldn didn doesn don hadn hasn haven isn mustn needn shan shouldn wasn weren won wouldn ain ll re ve
    arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt shouldnt wasnt werent wont wouldnt
    com http https www
    """
)

# What captions say of themselves, and of where in the frame things are.
FILLERS = _split(
    """
    picture photo photograph photography pic image snapshot shot view closeup close portrait depiction illustration
    drawing painting sketch rendering artwork footage video scene camera caption
    background foreground front back side top bottom middle center centre left right
    show shown showing showed see seen seeing depict depicted depicting feature featured featuring capture captured
    capturing displayed displaying photographed pictured taken take taking contain containing represent
    representing appear appearing visible look looking viewed
    kind type sort lot bunch thing stuff
    """
)

_EXCEPTIONS = {
    **dict(
        pair.split(":")
        for pair in _split(
            """
            men:man people:person salespeople:salesperson mice:mouse dormice:dormouse titmice:titmouse lice:louse
            oxen:ox lives:life elves:elf cacti:cactus fungi:fungus octopi:octopus larvae:larva antennae:antenna
            vertebrae:vertebra nebulae:nebula quizzes:quiz crises:crisis oases:oasis analyses:analysis tvs:tv cds:cd
            """
        )
    ),
    # Singular already, or without a singular: "glasses" are mostly worn.
    **{
        word: word
        for word in _split(
            """
            abdomen acumen albumen amen bitumen cyclamen hymen lumen omen ramen regimen semen specimen stamen yemen
            adidas angeles arkansas asbestos athens atlas barracks bias biceps canvas chaos charles christmas corps
            cosmos crossroads dallas forceps gallows headquarters james kansas lens mars means mercedes molasses news
            nicholas pancreas rabies rhinoceros series species swiss texas thermos thomas triceps triceratops vegas
            acrobatics aerobics athletics electronics gymnastics mathematics physics politics
            binoculars clothes earphones eyeglasses glasses goggles headphones jeans leggings overalls pajamas panties
            pants pliers pyjamas scissors shorts sunglasses tights tongs trousers tweezers undies
            downstairs indoors outdoors overseas sideways upstairs
            """
        )
    },
    # They add -s alone, where the table below would take more or less away.
    **{
        word: word[:-1]
        for word in _split(
            """
            aunties barbies beanies birdies bookies bowties brasseries brownies budgies calories collies cookies cuties
            dies eyries foodies freebies genies goalies groupies hippies hoodies junkies laddies lassies lies magpies
            menageries movies neckties newbies nighties onesies patisseries pies pinkies pixies potpies prairies
            rookies rotisseries selfies smoothies sorties sweeties ties townies veggies yorkies zombies
            aloes canoes floes foes hoes oboes roes sloes throes tiptoes toes woes
            aches avalanches axes backaches battleaxes brioches caches cliches creches headaches moustaches mustaches
            niches pickaxes quiches toothaches
            abuses accuses amuses confuses excuses fuses muses recluses refuses ruses
            bayous bureaus caribous chateaus emus gnus gurus menus plateaus tutus
            alibis bikinis bonsais broccolis corgis jacuzzis kepis khakis kiwis martinis okapis paninis rabbis safaris
            samurais saris semis skis sushis taxis yetis zucchinis
            """
        )
    },
    **{
        word: word[:-2]
        for word in _split(
            "atlases canvases chrysalises gases ibises irises lenses mantises rhinoceroses thermoses topazes trellises"
        )
    },
}
# The first ending that fits decides.
_ENDINGS = (
    *(("ss", "ss"), ("us", "us"), ("is", "is")),  # singular already
    *(("men", "man"), ("children", "child"), ("feet", "foot"), ("teeth", "tooth"), ("geese", "goose")),
    *(("leaves", "leaf"), ("loaves", "loaf"), ("thieves", "thief"), ("wives", "wife"), ("knives", "knife")),
    *(("wolves", "wolf"), ("shelves", "shelf"), ("calves", "calf"), ("halves", "half"), ("hooves", "hoof")),
    *(("scarves", "scarf"), ("dwarves", "dwarf"), ("shoes", "shoe")),
    *(("ouses", "ouse"), ("auses", "ause"), ("uses", "us"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch")),
    *(("xes", "x"), ("zzes", "zz"), ("tzes", "tz"), ("oes", "o"), ("ies", "y"), ("s", "")),
)
_DROPPED = frozenset(STOP_WORDS + FILLERS)


def singular(word: str) -> str:
    """The singular of an English noun in lower case, by a table of endings and lists of exceptions.

    A word that is no plural stays: grass, bus, chassis. So do words without a singular: scissors, glasses.
    """
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    if len(word) <= 3:
        return word
    for ending, replacement in _ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    return word


@lru_cache(maxsize=2**16)
def _content(token: str) -> str | None:
    """The word that a token counts as; none for a single letter, a stop word and a filler, in either number."""
    word = singular(token)
    single = len(token) < 2 and not is_unspaced(token)
    return None if single or token in _DROPPED or word in _DROPPED else word


@public
@lru_cache(maxsize=2**16)
def words_of(sentence: str) -> frozenset[str]:
    """The content words of a sentence, in lower case and as singulars; of a script without spaces its characters."""
    return frozenset(map(_content, split_words(sentence, digits=False))) - {None}


@public
def document_frequency(
    sentences: Iterable[str], *, ignore: Iterable[str] = (), concepts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, float]:
    """The share of the sentences that hold each word, the most frequent first, equal ones by the alphabet.

    Arguments: words to `ignore`, say colours and numbers; `concepts`, a name and the words that count as one under it,
    once a sentence ({"water": ["sea", "ocean", "lake"]}).
    Result: a sentence counts a word once, however often it says it. Sentences without any content word count as well.
    Raises ValueError for no sentence, and a concept's word that is none, is dropped or belongs to another concept.
    Source: paper 2, section 2.3, which takes the most frequent words.

    >>> from xaikit import document_frequency
    >>> sentences = ["a red bird on the sea", "two birds", "a dog by the lake", "birds"]
    >>> document_frequency(sentences, concepts={"water": ["sea", "lake"]})
    {'bird': 0.75, 'water': 0.5, 'dog': 0.25, 'red': 0.25, 'two': 0.25}
    """
    distinct = Counter(sentences)
    if not distinct:
        raise ValueError("There is no sentence to count words in: give at least one.")
    ignored = frozenset().union(*map(words_of, ignore))
    concept_of = _concept_of(concepts or {}, ignored)
    counts: Counter[str] = Counter()
    for sentence, times in distinct.items():
        for word in {concept_of.get(word, word) for word in words_of(sentence) - ignored}:
            counts[word] += times
    total = distinct.total()
    return _ranked({word: count / total for word, count in counts.items()})


@public
def dominant(frequencies: Mapping[str, Probability], least: Probability = 0.05) -> list[str]:
    """The words that at least the share `least` of the sentences hold, in order: those of the paper's word clouds.

    Raises ValueError unless 0 <= `least` <= 1.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"A share of {least} of the sentences does not exist: give a number from 0 to 1.")
    return [word for word, frequency in _ranked(frequencies).items() if frequency >= least]


@public
def top_word(frequencies: Mapping[str, float]) -> str:
    """The most frequent word, the first in the alphabet of equal ones. Raises ValueError if there is no word."""
    if not frequencies:
        raise ValueError("There is no most frequent word: the sentences hold stop words and fillers only.")
    return next(iter(_ranked(frequencies)))


@public
def explained_by_prior(frequencies: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """The share min(f, p) / f of each word's frequency f that the decoder would say anyhow, with frequency p.

    `prior` are the frequencies in sentences sampled without knowledge of the image, say from the features of other
    images: 1 says that a word tells nothing about this image, 0 that only this image brings it up.
    Raises ValueError for a frequency outside (0, 1].
    """
    for word, frequency in frequencies.items():
        if not 0 < frequency <= 1:
            raise ValueError(f"The frequency {frequency} of {word!r} is no share of sentences: give one in (0, 1].")
    return {word: min(frequency, prior.get(word, 0.0)) / frequency for word, frequency in frequencies.items()}


def check_class_names(names: Iterable[str]) -> None:
    """Raise ValueError for class names that no sentence can bring up, as stop words and fillers make up all of them."""
    lost = [name for name in names if not words_of(name)]
    if lost:
        raise ValueError(f"Stop words and fillers are not counted, so rename the classes {', '.join(map(repr, lost))}.")


def _ranked(frequencies: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(frequencies.items(), key=lambda item: (-item[1], item[0])))


def _concept_of(concepts: Mapping[str, Sequence[str]], ignored: frozenset[str]) -> dict[str, str]:
    """The concept of each word that has one."""
    found: dict[str, str] = {}
    for name, words in concepts.items():
        for word in words:
            counted = words_of(word) - ignored
            if len(counted) != 1:
                raise ValueError(f"The concept {name!r} cannot count {word!r}: give one word that is not dropped.")
            other = found.setdefault(*counted, name)
            if other != name:
                raise ValueError(f"The word {word!r} belongs to the concepts {other!r} and {name!r}: leave it in one.")
    for name in concepts:
        if found.get(name, name) != name:
            raise ValueError(f"The concept {name!r} is also a word of the concept {found[name]!r}: rename it.")
    return found
