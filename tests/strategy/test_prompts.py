"""The prompts: the paper's schema to the letter, the question first."""

import pytest

from engine.errors import UsageError
from engine.stop import StepBudget, TokenBudget
from engine.strategy.prompts import (
    Directive,
    direct_schema,
    multiple_choice,
    reasoning_schema,
    schema,
    schemas,
)
from engine.thinking import ThinkingFormat

CHOICES = ("0", "4", "2", "6")
OWN = ThinkingFormat("<think>", "</think>", "\n\n", "\n\n")
BUNDLED = ThinkingFormat(None, "</think>", "<answer>", "\n")


def test_meta_s_math_schema_is_quoted_to_the_letter():
    text = schema("llama-math").instruction
    assert text.startswith(
        "Solve the following math problem efficiently and clearly:\n\n- For simple problems (2"
    )
    assert "\n\n## Step 1: [Concise description]\n[Brief explanation and calculations]\n\n## Step 2: " in text
    assert (
        "Therefore, the final answer is: $\\boxed{answer}$. I hope it is correct.\n\nWhere [answer] is"
        in text
    )
    assert text.endswith("just the final number or expression that solves the problem.")


def test_its_twin_for_choices_ends_in_the_answer_line():
    text = schema("llama-mmlu").instruction
    assert (
        "The best answer is [the_answer_letter].\nwhere the [the_answer_letter] is one of A, B, C or D."
        in text
    )
    assert text.endswith("Let's think step by step.")


def test_the_question_comes_first_and_every_technique_shares_it():
    asked = {name: schema(name).prompt("How many?", choices=CHOICES) for name in schemas()}
    shared = multiple_choice("How many?", CHOICES)
    assert shared == "Question: How many?\nA. 0\nB. 4\nC. 2\nD. 6"
    assert all(prompt.startswith(shared) for prompt in asked.values())
    assert len(set(asked.values())) == len(asked)


def test_a_directive_comes_last_and_only_where_there_is_reasoning():
    plain = schema("llama-math").prompt("x?")
    brief, briefer = (
        schema("llama-math").prompt("x?", directive=d) for d in (Directive.BRIEF, Directive.VERY_BRIEF)
    )
    assert brief.startswith(plain) and briefer.startswith(plain)
    assert brief.endswith("Keep the reasoning brief.") and "very brief" in briefer
    for name in ("llama-mmlu-direct", "plain"):
        with pytest.raises(UsageError, match="takes no directive"):
            schema(name).prompt("x?", directive=Directive.BRIEF)


def test_models_get_the_schema_that_goes_with_their_thinking():
    names = {
        thinking: (
            reasoning_schema(thinking, multiple_choice=True).name,
            reasoning_schema(thinking, multiple_choice=False).name,
            direct_schema(thinking, multiple_choice=True).name,
            direct_schema(thinking, multiple_choice=False).name,
        )
        for thinking in (None, OWN, BUNDLED)
    }
    assert names[None] == ("llama-mmlu", "llama-math", "llama-mmlu-direct", "llama-math-direct")
    assert set(names[OWN]) == {"own-thinking"}
    assert set(names[BUNDLED]) == {"plain"}
    assert schema("plain").prompt("47+35=") == "47+35="


def test_unknown_prompts_and_impossible_choices_are_refused():
    with pytest.raises(UsageError, match="there are llama-math, llama-mmlu"):
        schema("llama-maths")
    with pytest.raises(UsageError, match="2 to 26"):
        multiple_choice("x?", ("one",))


@pytest.mark.parametrize("name", ["llama-math", "llama-mmlu"])
def test_no_prompt_holds_the_line_that_ends_its_own_thinking(name):
    asked = schema(name)
    assert asked.thinking is not None
    assert asked.thinking.closer.strip() in asked.prompt(
        "x?"
    )  # the wording is there, its line breaks are not
    assert asked.thinking.closer not in asked.prompt("x?")


@pytest.mark.parametrize("policy", [TokenBudget(10), StepBudget(1)])
def test_steps_that_a_prompt_asked_for_are_thinking_that_a_policy_can_end(shared_data, policy):
    from engine.engine import Engine

    asked = schema("llama-mmlu")
    with Engine.load(shared_data / "models/stories260K", backend="torch", energy_source="estimate") as engine:
        engine.thinking = asked.thinking
        prompt = asked.prompt("Who ran?", choices=("Tim", "Sue"))
        result = engine.generate(prompt, max_new_tokens=60, policies=[policy], answer_tokens=3)
    if isinstance(policy, TokenBudget):
        assert result.stop.forced_answer
        assert result.phases_by_token[:10] == ("think",) * 10
        assert "\n\n\nThe best answer is" in result.text
    else:  # a story has no empty line: the limit of tokens ends it in time for an answer
        assert result.stop.forced_answer and result.answer is not None
