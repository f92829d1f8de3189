import numpy as np
import pytest

from bench.routing.baselines import CategoryMean, paper_arm


def test_a_category_mean_is_drawn_to_the_overall_share_by_ten_questions():
    names = ["a"] * 90 + ["b"] * 10
    correct = np.array([[1.0]] * 90 + [[0.0]] * 10)
    found = CategoryMean.fit(names, correct)
    assert found.predict(["a", "b", "c"])[:, 0] == pytest.approx([0.99, 0.45, 0.9])


@pytest.mark.parametrize(
    ("category", "arm"),
    [
        ("Humanities", "1B"),
        ("Natural Sciences", "1B"),
        ("economics", "1B"),
        ("Math", "8B"),
        ("Engineering", "8B"),
        ("computer_science", "8B"),
        ("Health", None),
        (None, None),
    ],
)
def test_the_papers_rules(category, arm):
    assert paper_arm(category, small="1B", large="8B") == arm


def test_the_paper_keeps_chains_of_thought_for_critical_maths():
    assert paper_arm("Math", small="1B", large="8B", cot="cot", critical=True) == "cot"
