"""The human test of paper 2 (section 4.2): which words match the image, and does the top word go with the prediction?

Raters answer on a page of widgets in a notebook. The answers of each are a csv file in one folder.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from xaikit.metrics.intervals import Interval, bootstrap
from xaikit.storage.files import replacing
from xaikit.storage.seeding import seed_for

COLUMNS = ["rater", "question", "matching", "relevant"]  # matching: words with spaces between; relevant: yes or no
MISSING = -1


@dataclass(frozen=True, eq=False)
class Question:
    """One image to judge: its most frequent words (the paper shows ten), the top one, and the classifier's prediction.

    `image` is in [0, 1]; `name` tells the question from others in the files of answers.
    Raises ValueError for values outside [0, 1], a word twice or with a space, and a top word that is not among them.
    """

    name: str
    image: Float[Tensor, "3 height width"]
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


def rating_page(questions: Sequence[Question], folder: Path, rater: str) -> "RatingPage":
    """The page on which `rater` answers; it goes on where an earlier one was left, and shows what was answered.

    Next saves the answer to the file <rater>.csv in `folder`, and so does Back where yes or no is chosen.
    Raises ValueError for no question, two of one name, a rater's name that is no file name, and a damaged file.
    """
    names = [question.name for question in questions]
    if not names or len(set(names)) < len(names):
        raise ValueError("The page needs questions whose names differ: give at least one, and none twice.")
    if not rater.strip() or rater.startswith(".") or set(rater) & set('/\\:*?"<>|'):
        raise ValueError(f"The rater's name {rater!r} is no file name: choose letters, digits and spaces.")
    file = folder / f"{rater}.csv"
    answers = _of_questions(_read(file), questions) if file.exists() else pd.DataFrame(columns=COLUMNS)
    if set(answers["rater"]) - {rater}:
        raise ValueError(f"{file} holds the answers of another rater: move it away.")
    return RatingPage(questions, file, rater, answers)


class RatingPage(widgets.VBox):
    """One question at a time; `rating_page` makes it.

    `boxes` are the words, `relevant` is yes or no, `back` and `forward` turn the page, `progress` and `message` say
    how it goes.
    """

    def __init__(self, questions: Sequence[Question], file: Path, rater: str, answers: pd.DataFrame) -> None:
        self.questions, self.file, self.rater = questions, file, rater
        columns = zip(answers["question"], answers["matching"], answers["relevant"], strict=True)
        self.answers = {name: (matching.split(), relevant) for name, matching, relevant in columns}
        self.picture = widgets.Image(format="png", layout=widgets.Layout(width="320px"))
        self.boxes: list[widgets.Checkbox] = []
        self.relevant = widgets.RadioButtons(options=["yes", "no"], value=None)
        self.back, self.forward = widgets.Button(description="Back"), widgets.Button(description="Next")
        self.progress, self.message = widgets.Label(), widgets.Label()
        self.back.on_click(lambda _: self._turn(-1))
        self.forward.on_click(lambda _: self._turn(1))
        super().__init__()
        unanswered = [place for place, question in enumerate(questions) if question.name not in self.answers]
        self._show(unanswered[0] if unanswered else len(questions) - 1)

    def _show(self, place: int) -> None:
        self.place, question = place, self.questions[place]
        matching, relevant = self.answers.get(question.name, ([], None))
        buffer = io.BytesIO()
        pixels = (question.image * 255).round().byte().permute(1, 2, 0)
        Image.fromarray(pixels.cpu().numpy()).save(buffer, "png")
        self.picture.value = buffer.getvalue()
        for box in self.boxes:
            box.close()
        self.boxes = [widgets.Checkbox(word in matching, description=word, indent=False) for word in question.words]
        self.relevant.value = relevant
        self.back.disabled = place == 0
        self.progress.value = f"Question {place + 1} of {len(self.questions)}, {len(self.answers)} answered"
        self.message.value = "All questions are answered." if len(self.answers) == len(self.questions) else ""
        asked = f"Does the word “{question.top_word}” go with the prediction “{question.prediction}”?"
        self.children = [
            *(self.progress, self.picture, widgets.Label("Which words match the image?"), *self.boxes),
            *(widgets.Label(asked), self.relevant, widgets.HBox([self.back, self.forward]), self.message),
        ]

    def _turn(self, step: int) -> None:
        if self.relevant.value is not None:
            matching = [box.description for box in self.boxes if box.value]
            self.answers[self.questions[self.place].name] = (matching, self.relevant.value)
            try:
                self._save()
            except OSError as error:  # raised in a callback, it would be seen by no one
                self.message.value = f"The answer is not saved: {error}"
                return
        elif step > 0:
            self.message.value = "Choose yes or no first."
            return
        self._show(min(max(self.place + step, 0), len(self.questions) - 1))

    def _save(self) -> None:
        known = [
            (question.name, *self.answers[question.name])
            for question in self.questions
            if question.name in self.answers
        ]
        rows = [(self.rater, name, " ".join(matching), relevant) for name, matching, relevant in known]
        with replacing(self.file) as part:
            pd.DataFrame(rows, columns=COLUMNS).to_csv(part, index=False, lineterminator="\n")


def read_answers(folder: Path) -> pd.DataFrame:
    """The answers of all raters, from the csv files of a folder, in columns `COLUMNS`.

    Raises ValueError for a folder without a csv file, a file that holds something else, and a question that a rater
    answered twice.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"There are no answers in {folder}: let someone fill in a rating page first.")
    answers = pd.concat([_read(file) for file in files], ignore_index=True)
    _check(answers)
    return answers


def agreement(answers: pd.DataFrame, questions: Sequence[Question], *, seed: int) -> dict[str, Interval | None]:
    """How far raters agree: Krippendorff's alpha of "matching" (each word of each image: ticked or not) and "relevant".

    Arguments: `answers` in columns `COLUMNS`, of people or automatic raters.
    Result: the interval is the bootstrap's over questions that two or more raters answered, `n` in number; None where
    all these answers are equal, so that alpha does not exist.
    Raises ValueError for answers to other questions or with other words, and fewer than two such questions.
    Source: Krippendorff (2011) for alpha; he too keeps the expected disagreement when he resamples.
    """
    answers = _of_questions(answers, questions)
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


def _disagreement(
    ratings: Int[np.ndarray, "*units raters"],
) -> tuple[Float[np.ndarray, "*units"], Int[np.ndarray, "*units"], float]:
    """What the raters of each unit disagree in, how many of its values have a partner, and what chance would give."""
    values = [value for value in np.unique(ratings) if value != MISSING]
    counts = np.stack([(ratings == value).sum(-1) for value in values] or [np.zeros(ratings.shape[:-1], int)], -1)
    counts = counts * (counts.sum(-1, keepdims=True) >= 2)
    pairable = counts.sum(-1)
    observed = (pairable**2 - (counts**2).sum(-1)) / np.maximum(pairable - 1, 1)
    n, totals = pairable.sum(), counts.sum(tuple(range(counts.ndim - 1)))
    return observed, pairable, float((n**2 - (totals**2).sum()) / max(n * (n - 1), 1))


def _read(file: Path) -> pd.DataFrame:
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


def _of_questions(answers: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    """The answers themselves. Raises ValueError for one to no question, one given twice, and words a question lacks."""
    _check(answers)
    words = {question.name: set(question.words) for question in questions}
    for rater, name, matching, _ in answers[COLUMNS].itertuples(index=False):
        if name not in words:
            raise ValueError(f"{rater!r} answers {name!r}, which is no question here: give the questions of the file.")
        if not set(matching.split()) <= words[name]:
            raise ValueError(f"{rater!r} ticks words that question {name!r} lacks: give the questions of the file.")
    return answers
