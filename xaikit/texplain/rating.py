"""The human test of paper 2 (section 4.2): which words match the image, and does the top word go with the prediction?

Raters answer on a page of widgets in a notebook (`rating_widgets`). The answers of each are a csv file in one folder.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from xaikit.arguments import UNIT, Seed, public
from xaikit.metrics.intervals import Interval, bootstrap
from xaikit.storage.seeding import seed_for

COLUMNS = ["rater", "question", "matching", "relevant"]  # matching: words with spaces between; relevant: yes or no
MISSING = -1


@public
@dataclass(frozen=True, eq=False)
class Question:
    """One image to judge: its most frequent words (the paper shows ten), the top one, and the classifier's prediction.

    `image` is in [0, 1]; `name` tells the question from others in the files of answers.
    Raises ValueError for values outside [0, 1], a word twice or with a space, and a top word that is not among them.
    """

    name: str
    image: Annotated[Float[Tensor, "3 height width"], UNIT]
    words: Sequence[str]
    prediction: str
    top_word: str

    def __post_init__(self) -> None:
        if not ((self.image >= 0) & (self.image <= 1)).all():  # also so if one is NaN
            raise ValueError(f"The image of question {self.name!r} leaves [0, 1]: give it before normalisation.")
        if len(set(self.words)) < len(self.words) or any(word.split() != [word] for word in self.words):
            raise ValueError(f"The words of question {self.name!r} must differ and hold no space: mend them.")
        if self.top_word not in self.words:
            raise ValueError(
                f"The top word {self.top_word!r} of question {self.name!r} is not among its words: add it."
            )


@public
def read_answers(folder: Path) -> pd.DataFrame:
    """The answers of all raters, from the csv files of a folder, in columns `COLUMNS`.

    Raises ValueError for a folder without a csv file, a file that holds something else, and a question that a rater
    answered twice.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"There are no answers in {folder}: let someone fill in a rating page first.")
    answers = pd.concat([read_file(file) for file in files], ignore_index=True)
    _check(answers)
    return answers


@public
def agreement(answers: pd.DataFrame, questions: Sequence[Question], *, seed: Seed) -> dict[str, Interval | None]:
    """How far raters agree: Krippendorff's alpha of "matching" (each word of each image: ticked or not) and "relevant".

    Arguments: `answers` in columns `COLUMNS`, of people or automatic raters.
    Result: the interval is the bootstrap's over questions that two or more raters answered, `n` in number; None where
    all these answers are equal, so that alpha does not exist.
    Raises ValueError for answers to other questions or with other words, and fewer than two such questions.
    Source: Krippendorff (2011) for alpha; he too keeps the expected disagreement when he resamples.
    """
    answers = of_questions(answers, questions)
    raters = sorted(set(answers["rater"]))
    place = {question.name: row for row, question in enumerate(questions)}
    most = max(len(question.words) for question in questions)
    ratings = {
        "matching": np.full((len(questions), most, len(raters)), MISSING),
        "relevant": np.full((len(questions), 1, len(raters)), MISSING),
    }
    for answer in answers.itertuples():
        row, rater = place[answer.question], raters.index(answer.rater)
        ticked, words = answer.matching.split(), questions[row].words
        ratings["matching"][row, : len(words), rater] = [word in ticked for word in words]
        ratings["relevant"][row, 0, rater] = answer.relevant == "yes"
    several = (ratings["relevant"][:, 0] != MISSING).sum(-1) >= 2
    if several.sum() < 2:
        raise ValueError(f"{several.sum()} questions have answers of two raters: let them answer the same, 2 or more.")
    found: dict[str, Interval | None] = {}
    for name, table in ratings.items():
        observed, pairable, expected = _disagreement(table[several])

        def alpha(
            observed: np.ndarray, pairable: np.ndarray, axis: int = -1, expected: float = expected
        ) -> float | np.ndarray:
            return 1 - observed.sum(axis) / pairable.sum(axis) / expected

        sums = observed.sum(1), pairable.sum(1)
        found[name] = bootstrap(alpha, *sums, seed=seed_for(seed, "agreement", name)) if expected else None
    return found


@public
def krippendorff_alpha(ratings: Int[np.ndarray, "units raters"]) -> float:
    """Krippendorff's alpha for nominal values: 1 is perfect agreement, 0 what chance would give.

    Arguments: the value that each rater gave each unit, or `MISSING`; units with fewer than two values do not count.
    Raises ValueError if no unit has two values, or all of them are equal.
    Source: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C.
    """
    observed, pairable, expected = _disagreement(ratings)
    if not expected:
        raise ValueError("Alpha needs units with two ratings, and two different values among them: add some.")
    return float(1 - observed.sum() / pairable.sum() / expected)


def _counts(ratings: Int[np.ndarray, "*units raters"]) -> Int[np.ndarray, "*units values"]:
    """How many raters gave a unit each value that occurs; none to a unit that fewer than two rated."""
    values = [value for value in np.unique(ratings) if value != MISSING]
    counts = np.stack([(ratings == value).sum(-1) for value in values] or [np.zeros(ratings.shape[:-1], int)], -1)
    return counts * (counts.sum(-1, keepdims=True) >= 2)


def _disagreement(
    ratings: Int[np.ndarray, "*units raters"],
) -> tuple[Float[np.ndarray, "*units"], Int[np.ndarray, "*units"], float]:
    """What the raters of each unit disagree in, how many of its values have a partner, and what chance would give."""
    counts = _counts(ratings)
    pairable = counts.sum(-1)
    observed = (pairable**2 - (counts**2).sum(-1)) / np.maximum(pairable - 1, 1)
    n, totals = pairable.sum(), counts.sum(tuple(range(counts.ndim - 1)))
    return observed, pairable, float((n**2 - (totals**2).sum()) / max(n * (n - 1), 1))


def read_file(file: Path) -> pd.DataFrame:
    """One file of answers, all of them text."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets put a mark in front
            rows = list(csv.reader(stream, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no table of answers: mend it or move it away.") from error
    if rows[:1] != [COLUMNS] or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"{file} is damaged: each row needs the columns {', '.join(COLUMNS)}.")
    return pd.DataFrame(rows[1:], columns=COLUMNS)


def _check(answers: pd.DataFrame) -> None:
    """Raise ValueError for an answer other than yes and no, and one given twice."""
    unclear = answers[~answers["relevant"].isin(["yes", "no"])]
    twice = answers[answers.duplicated(["rater", "question"])]
    if len(unclear):
        raise ValueError(f"{unclear.iloc[0]['rater']!r} answers {unclear.iloc[0]['relevant']!r}: make it yes or no.")
    if len(twice):
        rater, name, *_ = twice.iloc[0][COLUMNS]
        raise ValueError(f"{rater!r} answers question {name!r} twice: keep one of the rows.")


def of_questions(answers: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    """The answers themselves. Raises ValueError for one to no question, one given twice, and words a question lacks."""
    _check(answers)
    words = {question.name: set(question.words) for question in questions}
    for rater, name, matching, _ in answers[COLUMNS].itertuples(index=False):
        if name not in words:
            raise ValueError(f"{rater!r} answers {name!r}, which is no question here: give the questions of the file.")
        if not set(matching.split()) <= words[name]:
            raise ValueError(f"{rater!r} ticks words that question {name!r} lacks: give the questions of the file.")
    return answers
