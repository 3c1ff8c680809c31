"""One splitter serves word counts, ROUGE and METEOR, in whatever script."""

import unicodedata

import pytest

from xaikit.texplain.splitting import is_unspaced, split_words
from xaikit.texplain.text_overlap import meteor, rouge
from xaikit.texplain.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A cozy café, with a PIÑATA!", "a cozy café with a piñata"),
        ("Straße_und 2 Bäume", "straße und 2 bäume"),
        ("don't stop the t-shirt", "don t stop the t shirt"),
        ("don’t stop the t‑shirt", "don t stop the t shirt"),
        ("кошка на диване", "кошка на диване"),
        (
            "\u0639\u0644\u0649 \u0627\u0644\u0633\u0631\u064a\u0631",
            "\u0639\u0644\u0649 \u0627\u0644\u0633\u0631\u064a\u0631",
        ),
        ("हिन्दी में बिल्ली", "हिन्दी में बिल्ली"),  # vowel signs are no letters, but of the word
        ("고양이가 침대에", "고양이가 침대에"),
        ("一只猫 on 床", "一 只 猫 on 床"),
        ("ネコcat", "ネ コ cat"),
        ("แมวนั่ง", "แ ม ว นั่ ง"),
        ("pho\u00adto\u200bgraph", "photograph"),
        ("😀 !?", ""),
    ],
)
def test_words_of_many_scripts(text, words) -> None:
    assert split_words(text) == words.split()
    for form in ("NFC", "NFD"):
        assert split_words(unicodedata.normalize(form, text)) == words.split()


def test_digits_may_end_words() -> None:
    assert split_words("2nd café4you", digits=False) == ["nd", "café", "you"]
    assert split_words("2nd cafe4you", digits=False) == ["nd", "cafe", "you"]


@pytest.mark.parametrize("text", ["一只猫在床上", "café crème brûlée", "кошка на диване", "แมวนั่ง", "a cat on a bed"])
def test_a_text_equals_itself_in_every_score(text) -> None:
    other = unicodedata.normalize("NFD", text)
    assert all(values.tolist() == [1] for values in rouge([text], [other]).values())
    assert meteor([text], [other])[0] == pytest.approx(1 - 0.5 / len(split_words(text)) ** 3)  # all in one chunk
    assert words_of(text) == words_of(other) and words_of(text)


def test_scripts_without_spaces_are_told() -> None:
    assert is_unspaced("a 猫") and is_unspaced("ネコ") and is_unspaced("แมว")
    assert not is_unspaced("café кошка 고양이 हिन्दी")
