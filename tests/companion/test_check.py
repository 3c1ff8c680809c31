"""What a check says: right where it is, the kind of mistake where it is not, and never the answer."""

from typing import Any

import numpy as np
import pytest
import torch

from xaikit.companion import check
from xaikit.companion.check import NotYet

ROW = [1.0, -2.0, 5.0, 0.5]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (3, 3.0), (3.0001, 3), (torch.tensor(ROW), ROW), (np.array(ROW), torch.tensor(ROW)), (True, True),
        ([True, False], torch.tensor([True, False])), (torch.full((3,), 1e-9), [0, 0, 0]), ("a word", "a word"),
        (["b", "a"], ["b", "a"]), ({"a"}, {"a"}), (torch.ones(2, requires_grad=True), [1.0, 1.0]),
    ],
)  # fmt: skip
def test_what_is_right_is_said_in_one_line(found: Any, wanted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check.same(found, wanted, "it")
    assert capsys.readouterr().out == "it: right.\n"


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (None, 3, "it: nothing yet; put something in place of the dots."),
        (..., ROW, "it: nothing yet; put something in place of the dots."),
        ("three", 3, "it: a str, where a number is wanted."),
        ("three", ROW, "it: a str, where a tensor of shape (4,) is wanted."),
        ([1, [2, 3]], ROW, "it: a list, where a tensor of shape (4,) is wanted."),
        (3, "three", "it: a int, where a str is wanted."),
        (3.01, 3, "it: too large."),
        (torch.tensor([2.0]), [3.0], "it: too small."),
        (torch.zeros(2, 3), torch.zeros(3, 2), "it: the shape (2, 3), where (3, 2) is wanted; are its axes swapped?"),
        (torch.zeros(2), torch.zeros(3), "it: the shape (2,), where (3,) is wanted."),
        (
            torch.tensor([1.0, np.nan]),
            [1.0, 2.0],
            "it: a number that is not finite; is something divided by zero?",
        ),
        (-torch.tensor(ROW), ROW, "it: the wrong sign everywhere."),
        (3 * torch.tensor(ROW), ROW, "it: too large by one and the same factor."),
        (torch.tensor(ROW) / 8, ROW, "it: too small by one and the same factor."),
        (torch.tensor(ROW) + 0.5, ROW, "it: too large by one and the same amount."),
        (ROW[::-1], ROW, "it: the right numbers in the wrong places."),
        ([1.0, -2.0, 4.0, 0.9], ROW, "it: 2 of 4 places differ; at [2] it is too small."),
        (torch.eye(2), torch.ones(2, 2), "it: 2 of 4 places differ; at [0, 1] it is too small."),
        (["a"], ["a", "b"], "it: 1 entries, fewer than there should be."),
        ("b", "a", "it: not what it should be."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(found: Any, wanted: Any, said: str) -> None:
    with pytest.raises(NotYet) as caught:
        check.same(found, wanted, "it")
    assert str(caught.value) == said
    assert caught.value._render_traceback_() == [f"Not yet: {said}"]


def test_a_hint_is_added_and_the_tolerance_is_relative() -> None:
    with pytest.raises(NotYet, match=r"^it: too small; by what is it divided\?$"):
        check.same(1, 2, "it", hint="by what is it divided?")
    check.same(1_009, 1_000, "it", tolerance=0.01)
    with pytest.raises(NotYet):
        check.same(1_011, 1_000, "it", tolerance=0.01)


def test_a_function_is_compared_on_every_input(capsys: pytest.CaptureFixture[str]) -> None:
    check.function(lambda x: x + x, lambda x: 2 * x, (1,), (2.5,), name="double")
    assert capsys.readouterr().out == "double: right.\n"
    with pytest.raises(NotYet, match=r"^double, on input 2 of 2: too large\.$"):
        check.function(lambda x: x**2 + (x == 1), lambda x: 2 * x, (1,), (2.5,), name="double")
    with pytest.raises(NotYet, match=r"^inverse, on input 1 of 2: it raises ZeroDivisionError: division by zero$"):
        check.function(lambda x: 1 / x, lambda x: x, (0,), (1,), name="inverse")


def test_a_function_that_changes_its_input_does_not_disturb_its_reference() -> None:
    given = torch.ones(3)
    check.function(lambda x: x.add_(1), lambda x: x + 1, (given,), (given,), name="more")
    assert torch.equal(given, torch.ones(3))


def test_a_property_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    check.that(torch.tensor(True), "the sum", "it is not 1")
    assert capsys.readouterr().out == "the sum: right.\n"
    with pytest.raises(NotYet, match=r"^the sum: it is not 1\.$"):
        check.that(0 > 1, "the sum", "it is not 1")
