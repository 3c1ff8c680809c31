"""The rating page without a browser, its files, and Krippendorff's alpha by published examples and its definition."""

import io
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xaikit.texplain.rating import COLUMNS, MISSING, Question, agreement, krippendorff_alpha, read_answers
from xaikit.texplain.rating_widgets import rating_page

WORDS = ["water", "bird", "sky", "boat", "tree", "sand", "wave", "wing", "sun", "rock"]


def question(name: str, words: list[str] = WORDS, top_word: str = "water") -> Question:
    image = torch.rand(3, 8, 6, generator=torch.Generator().manual_seed(len(name)))
    return Question(name, image, words, "gull", top_word)


QUESTIONS = [question(name) for name in ("one", "two", "three")]


def answer(page, ticked: list[str], relevant: str) -> None:
    for box in page.boxes:
        box.value = box.description in ticked
    page.relevant.value = relevant
    page.forward.click()


def test_each_answer_is_in_the_file_as_soon_as_next_is_clicked(tmp_path: Path) -> None:
    page = rating_page(QUESTIONS, tmp_path, "Ann")
    file = tmp_path / "Ann.csv"
    assert not file.exists() and page.progress.value == "Question 1 of 3, 0 answered"
    answer(page, ["bird", "water"], "yes")
    assert file.read_text() == "rater,question,matching,relevant\nAnn,one,water bird,yes\n"
    assert page.progress.value == "Question 2 of 3, 1 answered"
    answer(page, [], "no")
    assert file.read_text().splitlines()[2] == "Ann,two,,no"
    answer(page, ["rock"], "yes")
    assert page.message.value == "All questions are answered."
    found = read_answers(tmp_path)
    assert list(found.columns) == COLUMNS
    assert found.to_numpy().tolist() == [
        ["Ann", "one", "water bird", "yes"],
        ["Ann", "two", "", "no"],
        ["Ann", "three", "rock", "yes"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["Ann.csv"]


def test_the_page_shows_the_image_and_its_words(tmp_path: Path) -> None:
    page = rating_page(QUESTIONS, tmp_path, "Ann")
    shown = np.asarray(Image.open(io.BytesIO(page.picture.value)))
    np.testing.assert_allclose(shown / 255, QUESTIONS[0].image.permute(1, 2, 0).numpy(), atol=0.5 / 255 + 1e-6)
    assert [box.description for box in page.boxes] == WORDS and set(page.boxes) <= set(page.children)
    assert any(
        "“water” go with the prediction “gull”" in getattr(child, "value", b"").__str__() for child in page.children
    )


def test_without_yes_or_no_the_page_neither_turns_nor_saves(tmp_path: Path) -> None:
    page = rating_page(QUESTIONS, tmp_path, "Ann")
    page.boxes[0].value = True
    page.forward.click()
    assert page.progress.value.startswith("Question 1") and page.message.value == "Choose yes or no first."
    assert page.boxes[0].value and not list(tmp_path.iterdir())


def test_back_shows_the_earlier_answer_and_saves_a_changed_one(tmp_path: Path) -> None:
    page = rating_page(QUESTIONS, tmp_path, "Ann")
    assert page.back.disabled
    answer(page, ["sky"], "no")
    assert not page.back.disabled and page.relevant.value is None and not any(box.value for box in page.boxes)
    page.back.click()
    assert page.relevant.value == "no" and [box.description for box in page.boxes if box.value] == ["sky"]
    answer(page, ["boat"], "yes")
    page.relevant.value = "no"
    page.back.click()
    assert read_answers(tmp_path)[["question", "matching", "relevant"]].to_numpy().tolist() == [
        ["one", "boat", "yes"],
        ["two", "", "no"],
    ]


def test_a_page_goes_on_where_it_was_left(tmp_path: Path) -> None:
    answer(rating_page(QUESTIONS, tmp_path, "Ann"), ["sky", "sun"], "no")
    page = rating_page(QUESTIONS, tmp_path, "Ann")
    assert page.progress.value == "Question 2 of 3, 1 answered"
    page.back.click()
    assert page.relevant.value == "no" and [box.description for box in page.boxes if box.value] == ["sky", "sun"]
    assert rating_page(QUESTIONS, tmp_path, "Bob").progress.value == "Question 1 of 3, 0 answered"
    for _ in range(2):
        page.forward.click()
        page.relevant.value = "yes"
    page.forward.click()
    assert rating_page(QUESTIONS, tmp_path, "Ann").message.value == "All questions are answered."


def test_an_answer_that_cannot_be_saved_is_said_and_stays_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    page = rating_page(QUESTIONS, tmp_path / "folder", "Ann")
    answer(page, ["sky"], "yes")
    assert "not saved" in page.message.value and page.progress.value.startswith("Question 1")


@pytest.mark.parametrize("rater", ["", "  ", "a/b", "a\\b", "..", ".hidden", "a:b"])
def test_a_raters_name_must_be_a_file_name(rater: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file name"):
        rating_page(QUESTIONS, tmp_path, rater)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "each row needs the columns"),
        (b"rater,question\nAnn,one\n", "each row needs the columns"),
        (b"rater,question,matching,relevant\nAnn,one,sky\n", "each row needs the columns"),
        (b"rater,question,matching,relevant\nAnn,one,sky,yes,more\n", "each row needs the columns"),
        (b'rater,question,matching,relevant\nAnn,one,"sky,yes\n', "no table of answers"),
        (b"\xff\xfe\x00", "no table of answers"),
        (b"rater,question,matching,relevant\nAnn,one,sky,maybe\n", "'maybe': make it yes or no"),
        (b"rater,question,matching,relevant\nAnn,one,sky,yes\nAnn,one,,no\n", "'one' twice"),
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "Ann.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rating_page(QUESTIONS, tmp_path, "Ann")
    with pytest.raises(ValueError, match=message):
        read_answers(tmp_path)
    assert (tmp_path / "Ann.csv").read_bytes() == content


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Ann,four,sky,yes", "'four', which is no question here"),
        ("Ann,one,horse,yes", "words that question 'one' lacks"),
        ("Bob,one,sky,yes", "answers of another rater"),
    ],
)
def test_a_file_of_other_questions_or_raters_is_refused(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "Ann.csv").write_text(f"rater,question,matching,relevant\n{row}\n")
    with pytest.raises(ValueError, match=message):
        rating_page(QUESTIONS, tmp_path, "Ann")


def test_a_file_that_went_through_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "Ann.csv").write_bytes(b"\xef\xbb\xbfrater,question,matching,relevant\r\nAnn,one,sky sun,no\r\n")
    assert read_answers(tmp_path).to_numpy().tolist() == [["Ann", "one", "sky sun", "no"]]


def test_a_folder_without_answers_and_two_files_of_one_rater_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no answers in"):
        read_answers(tmp_path / "nowhere")
    answer(rating_page(QUESTIONS, tmp_path, "Ann"), [], "yes")
    (tmp_path / "copy.csv").write_text((tmp_path / "Ann.csv").read_text())
    with pytest.raises(ValueError, match="'Ann' answers question 'one' twice"):
        read_answers(tmp_path)


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image of Question"):
        Question("one", torch.full((3, 4, 4), 1.5), WORDS, "gull", "water")
    with pytest.raises(ValueError, match="image of Question"):
        Question("one", torch.full((3, 4, 4), torch.nan), WORDS, "gull", "water")
    for words in (["sky", "sky"], ["blue sky", "sky"], ["sky", ""]):
        with pytest.raises(ValueError, match="must differ and hold no space"):
            question("one", words, "sky")
    with pytest.raises(ValueError, match="'horse' of question 'one' is not among its words"):
        question("one", top_word="horse")
    for questions in ([], [question("one"), question("one")]):
        with pytest.raises(ValueError, match="names differ"):
            rating_page(questions, tmp_path, "Ann")


def by_definition(ratings: np.ndarray) -> float:
    """Alpha from all ordered pairs of values: within units, weighted by 1 / (values - 1), and among all values."""
    units = [[value for value in unit if value != MISSING] for unit in ratings.tolist()]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(values)
    expected = sum(a != b for a, b in permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def read_units(*rows: str) -> np.ndarray:
    """Units by raters, from a row of characters a rater, a dot where one is missing."""
    return np.array([[MISSING if value == "." else ord(value) for value in row] for row in rows]).T


@pytest.mark.parametrize(
    ("rows", "alpha"),
    [
        (("0100000010", "1110010000"), 0.095),  # Krippendorff (2011), section A
        (("aabbdcccedda", "babbbccceddd"), 0.692),  # section B
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),  # section C
    ],
)
def test_alpha_equals_the_published_examples(rows: tuple[str, ...], alpha: float) -> None:
    assert krippendorff_alpha(read_units(*rows)) == pytest.approx(alpha, abs=5e-4)


def test_alpha_equals_its_definition_on_random_ratings() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        ratings = random.integers(MISSING, 3, size=(random.integers(4, 12), random.integers(2, 5)))
        assert krippendorff_alpha(ratings) == pytest.approx(by_definition(ratings), abs=1e-12)


@pytest.mark.parametrize("ratings", [[[1, 1], [1, 1]], [[1, MISSING], [MISSING, 0]], [[MISSING, MISSING]]])
def test_alpha_of_equal_or_lone_ratings_does_not_exist(ratings: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="two different values"):
        krippendorff_alpha(np.array(ratings))


def table(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def random_answers(seed: int, raters: int, noise: float) -> tuple[pd.DataFrame, list[Question]]:
    random = np.random.default_rng(seed)
    questions = [question(f"q{place}", WORDS[: 4 + place % 6]) for place in range(12)]
    rows = []
    for each in questions:
        truth, goes = random.random(len(each.words)) < 0.5, random.random() < 0.5
        for rater in range(raters):
            if random.random() < 0.3:
                continue
            ticked = [word for word, t in zip(each.words, truth, strict=True) if t ^ (random.random() < noise)]
            relevant = goes ^ (random.random() < noise)
            rows.append((f"rater {rater}", each.name, " ".join(ticked), "yes" if relevant else "no"))
    return table(*rows), questions


def test_agreement_equals_the_definition_over_words_and_over_questions() -> None:
    answers, questions = random_answers(0, raters=3, noise=0.15)
    found = agreement(answers, questions, seed=0)
    words, relevant = [], []
    for each in questions:
        rows = answers[answers["question"] == each.name]
        if len(rows) < 2:
            continue
        relevant.append([int(value == "yes") for value in rows["relevant"]] + [MISSING] * (3 - len(rows)))
        for word in each.words:
            words.append([int(word in ticked.split()) for ticked in rows["matching"]] + [MISSING] * (3 - len(rows)))
    for name, units in {"matching": words, "relevant": relevant}.items():
        interval = found[name]
        assert interval is not None and interval.n == len(relevant) < 12
        assert interval.value == pytest.approx(by_definition(np.array(units)), abs=1e-12)
        assert interval.low < interval.value < interval.high <= 1
    assert agreement(answers.sample(frac=1, random_state=0), questions, seed=0) == found


def test_the_interval_narrows_with_more_questions() -> None:
    answers, questions = random_answers(1, raters=2, noise=0.1)
    more = [answers.assign(question=answers["question"] + suffix) for suffix in ("a", "b", "c", "d")]
    named = [question(each.name + suffix, list(each.words)) for suffix in ("a", "b", "c", "d") for each in questions]
    once = agreement(answers, questions, seed=0)["matching"]
    often = agreement(pd.concat(more), named, seed=0)["matching"]
    assert once is not None and often is not None
    assert (often.high - often.low) / (once.high - once.low) == pytest.approx(
        0.45, abs=0.15
    )  # four times as many, and the few reach further out


def test_raters_who_all_say_yes_have_no_alpha_there() -> None:
    rows = [(r, q, "sky sun" if q == "one" else "", "yes") for r in ("Ann", "Bob") for q in ("one", "two")]
    found = agreement(table(*rows), QUESTIONS, seed=0)
    assert found["relevant"] is None
    assert found["matching"] is not None and found["matching"].value == 1


def test_agreement_needs_the_same_questions_answered_by_two() -> None:
    with pytest.raises(ValueError, match="1 questions have answers of two raters"):
        agreement(
            table(("Ann", "one", "", "no"), ("Bob", "one", "", "no"), ("Bob", "two", "sky", "no")), QUESTIONS, seed=0
        )
    with pytest.raises(ValueError, match="'four', which is no question here"):
        agreement(table(("Ann", "four", "", "no")), QUESTIONS, seed=0)
    with pytest.raises(ValueError, match="'one' twice"):
        agreement(table(("Ann", "one", "", "no"), ("Ann", "one", "", "no")), QUESTIONS, seed=0)
