"""The page on which people rate (section 4.2 of paper 2), of widgets for a notebook."""

import io
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from PIL import Image

from xaikit.storage.files import replacing
from xaikit.texplain.rating import COLUMNS, Question, of_questions, read_file


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
    answers = of_questions(read_file(file), questions) if file.exists() else pd.DataFrame(columns=COLUMNS)
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
