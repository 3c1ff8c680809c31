"""The words of a text: the one splitter for word counts, ROUGE and METEOR."""

import re
import unicodedata

# Thai, Lao, Myanmar, Khmer, and the scripts of Chinese and Japanese: they put no spaces between words.
_UNSPACED = re.compile(
    "[\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3005\\u3040-\\u30ff\\u31f0-\\u31ff\\u3400-\\u4dbf\\u4e00-\\u9fff"
    "\\uf900-\\ufaff\\U00020000-\\U000323af]"
)


def split_words(text: str, *, digits: bool = True) -> list[str]:
    """Runs of letters, with their accents, and digits, in lower case; of ASCII those that the original ROUGE takes.

    Apostrophes and hyphens, of whatever form, end a word as any other sign does ("don't" is don, t). Letters count as
    they look, however they are encoded (Unicode's NFC); what has no width is left out. In scripts without spaces
    between words (`is_unspaced`) each character counts as a word. Without `digits` these end a word too.
    """
    text = unicodedata.normalize("NFC", text.lower())
    if text.isascii():
        return re.findall("[a-z0-9]+" if digits else "[a-z]+", text)
    words, kinds, inside = [], "LMN" if digits else "LM", False
    for sign in text:
        kind = unicodedata.category(sign)
        if kind == "Cf":
            continue
        if kind[0] not in kinds:
            inside = False
        elif inside and (kind[0] == "M" or not (is_unspaced(sign) or is_unspaced(words[-1][0]))):
            words[-1] += sign
        else:
            words.append(sign)
            inside = True
    return words


def is_unspaced(text: str) -> bool:
    """Whether a text has signs of a script that puts no spaces between words, so that words cannot be told apart."""
    return _UNSPACED.search(text) is not None
