"""What a tokenizer does not take in: texts beyond a model's context, which it cuts, and words that it does not know."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
from tokenizers.models import WordLevel

_FIRST = 5  # of the texts or words are named


class LossWarning(UserWarning, ValueError):
    """Part of what was given is not taken in. Where warnings are errors it is a ValueError, as all that is refused."""


def report_losses(
    texts: Sequence[str], tokenizer: Any, longest: int | None = None, *, prompt: int | None = None, strict: bool = False
) -> None:
    """Warn, once for all `texts`, of those longer than `longest` tokens and of words that the tokenizer does not know.

    `tokenizer` is of transformers or of open_clip; what it takes at most is the default of `longest`. Counted are a
    text's own tokens with the special ones, or with `prompt` tokens in their place. The first five are named.
    Raises ValueError in place of the warning where it is `strict`, and for texts that are one string.
    """
    if isinstance(texts, str):
        raise ValueError(f"The texts are one string, {texts[:40]!r}: give a list of texts.")
    if longest is None:
        longest = getattr(tokenizer, "context_length", None) or getattr(tokenizer, "model_max_length", None)
    told = _reader(tokenizer, special=prompt is None)
    cut, unknown = [], {}
    for text in dict.fromkeys(texts):
        tokens, strange = told(text)
        if longest is not None and tokens + (prompt or 0) > longest:
            cut.append(repr(text if len(text) <= 60 else f"{text[:59]}…"))
        unknown |= dict.fromkeys(strange)
    said = []
    if cut:
        said.append(f"{len(cut)} of {len(texts)} texts have more than {longest} tokens and are cut ({_some(cut)})")
    if unknown:
        said.append(
            f"{len(unknown)} words are not known to the tokenizer and all count as one ({_some(list(unknown))})"
        )
    if said and strict:
        raise ValueError(f"{'; '.join(said)}: give other texts, or leave strict out.")
    if said:
        warnings.warn(f"{'; '.join(said)}.", LossWarning, stacklevel=3)


def known_words(tokenizer: Any) -> tuple[str, ...]:
    """All words and marks that a tokenizer of whole words knows, sorted; none for one of pieces."""
    own = getattr(tokenizer, "tokenizer", tokenizer)
    if not getattr(own, "is_fast", False) or not isinstance(own.backend_tokenizer.model, WordLevel):
        return ()
    return tuple(sorted(own.get_vocab().keys() - set(own.all_special_tokens)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_FIRST]) + (", …" if len(names) > _FIRST else "")


def _reader(tokenizer: Any, *, special: bool) -> Callable[[str], tuple[int, list[str]]]:
    """A function from a text to the number of its tokens and its unknown words."""
    if isinstance(tokenizer, open_clip.tokenizer.SimpleTokenizer):  # of bytes: it knows every word
        return lambda text: (len(tokenizer.encode(text)) + 2 * special, [])
    clean = getattr(tokenizer, "clean_fn", str)
    own = getattr(tokenizer, "tokenizer", tokenizer)

    def read(text: str) -> tuple[int, list[str]]:
        text = clean(text)
        fast = own.is_fast
        found = own(text, add_special_tokens=special, truncation=False, verbose=False, return_offsets_mapping=fast)
        ids = found["input_ids"]
        if not fast:
            return len(ids), [own.unk_token] * (own.unk_token_id in ids)
        return len(ids), [
            text[start:end]
            for token, (start, end) in zip(ids, found["offset_mapping"], strict=True)
            if token == own.unk_token_id and end > start
        ]

    return read
