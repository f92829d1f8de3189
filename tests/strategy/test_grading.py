"""Answers found in text, and what they are worth."""

import json
import threading
from pathlib import Path

import pytest

from engine.errors import TokenjouleError
from engine.strategy import answers, grading
from engine.strategy.grading import Grade, Kind, accuracy, equal, grade


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The best answer is B.", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("B. 42", "B"),
        (" B", "B"),
        ("the answer is **D**", "D"),
        ("The correct answer is option C", "C"),
        ("answer: $\\boxed{\\text{(B)}}$", "B"),
        ("so \\boxed{A}. I hope it is correct.", "A"),
        ("The answer is A because it is", "A"),
        ("The answer is (A) is false. Then the answer is (C).", "C"),
        ("The best answer is [D].", "D"),
        ("C\nbecause of that", "C"),
        ("A cat sat on the mat.", None),
        ("The answer is A good one to ask.", None),
        ("(A) is wrong, and so is (B)", None),
        ("Answer: the third", None),
        ("Both are right", None),
        ("The answer is E.", None),
        ("", None),
    ],
)
def test_a_choice_is_found_where_the_text_settles_on_one(text, letter):
    assert answers.choice(text) == letter


def test_letters_beyond_d_are_found_where_there_are_so_many_choices():
    assert answers.choice("The answer is (J).", "ABCDEFGHIJ") == "J"
    assert answers.choice("The answer is I think", "ABCDEFGHIJ") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 * 2 = $<<9*2=18>>18\n#### 1,234", "1234"),
        ("she earns $18.00 a day", "18.00"),
        ("it costs 5 - 3 = 2 dollars.", "2"),
        ("a loss of -$5", "-5"),
        ("it is −4 degrees", "-4"),
        ("in 10-12", "12"),
        ("The answer is 3/4. It took 5 steps", "3/4"),
        ("\\boxed{70,000} of 90", "70000"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("x = .5", ".5"),
        ("none", None),
    ],
)
def test_the_final_number_is_found_in_its_plain_spelling(text, number):
    assert answers.number(text) == number


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\left\\{1,2\\right\\}}", "\\left\\{1,2\\right\\}"),
        ("\\boxed{3} and \\boxed{unfinished", "3"),
        ("\\boxed{}", None),
        ("The final answer is: $x+1$. I hope it is correct.", "x+1"),
        ("no answer", None),
    ],
)
def test_a_final_expression_is_boxed_or_said_to_be_it(text, inside):
    assert answers.expression(text) == inside


def test_numbers_are_compared_exactly():
    assert equal("18.00", "18", Kind.NUMBER)
    assert equal("1/2", "0.5", Kind.NUMBER)
    assert not equal("0.3333", "1/3", Kind.NUMBER)
    assert not equal("1/0", "1", Kind.NUMBER)


def test_a_text_that_was_cut_before_its_answer_is_censored_and_not_wrong():
    assert grade("First, 3 + 4 = 7", "7", Kind.NUMBER, finished=False) == Grade(None, None, False, True)
    assert grade("B. is one way to", "B", Kind.CHOICE, finished=False).censored
    boxed = grade("so \\boxed{7}. I hope", "7", Kind.NUMBER, finished=False)
    assert boxed == Grade("7", True, unparsed=False, censored=False)


def test_a_finished_text_without_an_answer_is_wrong_and_says_that_it_could_not_be_read():
    assert grade("I cannot tell.", "B", Kind.CHOICE, finished=True) == Grade(None, False, True, False)


def test_censored_answers_are_no_part_of_the_accuracy():
    right, wrong = Grade("A", True, False, False), Grade("B", False, False, False)
    unread, cut = Grade(None, False, True, False), Grade(None, None, False, True)
    assert accuracy([right, wrong, unread, right, cut, cut]) == (0.5, 4, 2, 1)
    assert accuracy([cut])[0] != accuracy([cut])[0]  # NaN: nothing was judged


MATH = [
    ("\\frac{1}{2}", "0.5", True),
    ("10000", "10{,}000", True),
    ("x^2+2x+1", "(x+1)^2", True),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)", True),
    ("\\sqrt{2}", "1.41", False),
    ("2x", "3x", False),
]


@pytest.mark.parametrize(("answer", "reference", "same"), MATH)
def test_mathematics_is_compared_by_value(answer, reference, same):
    pytest.importorskip("math_verify", reason="the extra `grade` is not installed")
    assert equal(answer, reference, Kind.MATH) is same


def test_mathematics_is_compared_in_a_thread_too():
    pytest.importorskip("math_verify", reason="the extra `grade` is not installed")
    found = []
    thread = threading.Thread(target=lambda: found.append(equal("\\frac12", "0.5", Kind.MATH)))
    thread.start()
    thread.join()
    assert found == [True]


def test_without_math_verify_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    assert equal("12", "12", Kind.MATH)  # the same spelling needs no library
    with pytest.raises(TokenjouleError, match="grade"):
        equal("x", "y", Kind.MATH)


def test_the_authors_own_grades_of_stored_gsm8k_solutions_are_ours(shared_data: Path):
    agreed = right = 0
    lines = (shared_data / "data/gsm8k/example_model_solutions.jsonl").read_text().split("\n")[:300]
    for line in map(json.loads, lines):
        reference = line["ground_truth"].rpartition("A:")[2]
        for system in ("6b_finetuning", "175b_verification"):
            made = grading.grade(line[system]["solution"], reference, Kind.NUMBER, finished=True)
            agreed += made.correct == line[system]["is_correct"]
            right += bool(made.correct)
    assert agreed == 600
    assert 0 < right < 600


def test_stored_solutions_of_math_are_graded_as_their_authors_did(shared_data: Path):
    pytest.importorskip("math_verify", reason="the extra `grade` is not installed")
    lines = (shared_data / "data/qwen25math_maj8/math_cot_100.jsonl").read_text().split("\n")[:25]
    differ = []
    for line in map(json.loads, lines):
        for text, score in zip(line["code"], line["score"], strict=True):
            made = grade(text, line["answer"], Kind.MATH, finished=True)
            differ += [made.answer] * (made.correct != bool(score))
    assert len(differ) <= 1  # of 800 there is one: 10{,}000 for 10000
