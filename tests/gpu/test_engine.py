"""Whole engines on a device: the cases of the interpreted tests, and what only a device can get wrong."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.engine import Engine
from engine.steps import Step, Stop, StopReason
from engine.stop import Policy
from tests.kernels.interpreted.test_engine import (  # noqa: F401
    PROMPTS,
    always_shared,
    engine,
    load,
    path,
    reference,
    test_a_row_that_ends_by_itself_costs_one_step_more,
    test_forks_of_any_prompt_are_the_references,
    test_forks_read_what_they_share_once_and_go_ways_of_their_own,
    test_greedy_tokens_are_the_references,
    test_hidden_states_come_from_single_forwards,
    test_policies_that_need_to_know_get_to_know,
    test_rows_of_a_request_read_their_prompt_once,
    test_sampled_tokens_depend_on_seed_and_row_alone,
    test_the_pool_outlives_requests_and_grows,
)

BUNDLED_PROMPT = "47+35-18+6="


def bundled(backend: str, **options: Any) -> Engine:
    return Engine.load(backend=backend, device=0, **options)


@pytest.mark.parametrize("scheme", ["none", "int8", "int4"])
def test_the_bundled_model_answers_as_on_the_reference_in_bf16(scheme: str) -> None:
    texts = []
    for backend in ("torch", "gpu"):
        with bundled(backend, dtype="bf16", quantize=scheme) as model:
            texts.append(model.generate(BUNDLED_PROMPT, max_new_tokens=60).text)
    assert texts[0] == texts[1] and "70" in texts[0]


def test_a_graph_is_replayed_over_pages_and_parts(engine: Engine, reference: Engine) -> None:  # noqa: F811
    prompt = [5 + i % 80 for i in range(60)]
    expected = reference.generate(prompt, max_new_tokens=150, ignore_eos=True).token_ids
    assert engine.generate(prompt, max_new_tokens=150, ignore_eos=True).token_ids == expected


@pytest.mark.parametrize("steps", [2, 8])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.1, "seed": 3}, {"stop_sequences": ["a"]}])
def test_graphs_of_several_steps_choose_what_single_ones_do(
    path: Path,  # noqa: F811
    engine: Engine,  # noqa: F811
    steps: int,
    settings: dict[str, Any],
) -> None:
    expected = [r.token_ids for r in engine.generate_many(PROMPTS, max_new_tokens=45, **settings)]
    with load(path, "gpu", graph_steps=steps) as several:
        for _ in range(2):  # the second over the graphs of the first
            found = several.generate_many(PROMPTS, max_new_tokens=45, **settings)
            assert [r.token_ids for r in found] == expected
            assert found[0].energy.steps_timed_together == steps


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("rows", [2, 3, 8, 16])
def test_rows_have_the_same_tokens_alone_and_in_a_batch(path: Path, rows: int, dtype: str) -> None:  # noqa: F811
    prompts = [[3 + row, 9, 20 + 2 * row][: 1 + row % 3] for row in range(rows)]
    with load(path, "gpu", dtype=dtype) as model:
        together = [r.token_ids for r in model.generate_many(prompts, max_new_tokens=24, ignore_eos=True)]
        alone = [model.generate(p, max_new_tokens=24, ignore_eos=True).token_ids for p in prompts]
    assert together == alone


def test_more_rows_than_a_captured_step_takes_go_through_the_library(
    engine: Engine,  # noqa: F811
    reference: Engine,  # noqa: F811
) -> None:
    prompts = [[5 + row, 7] for row in range(17)]
    expected = [r.token_ids for r in reference.generate_many(prompts, max_new_tokens=4)]
    assert [r.token_ids for r in engine.generate_many(prompts, max_new_tokens=4)] == expected


def test_what_a_stop_discards_is_rolled_back(engine: Engine, reference: Engine) -> None:  # noqa: F811
    class Third(Policy):
        def on_token(self, step: Step) -> Stop | None:
            return Stop(StopReason.GIVE_UP) if step.index == 2 else None

    expected = reference.generate(PROMPTS[0], max_new_tokens=12).token_ids
    stopped = engine.generate(PROMPTS[0], max_new_tokens=12, policies=[Third()])
    assert stopped.token_ids == expected[:3]
    discarded = stopped.energy.phases.get("discarded")
    assert discarded is None or discarded.tokens <= 1
    assert engine.generate(PROMPTS[0], max_new_tokens=12).token_ids == expected, "nothing is left of it"


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}])
def test_sampling_is_reproducible(engine: Engine, settings: dict[str, Any]) -> None:  # noqa: F811
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.1, "ignore_eos": True, **settings}
    first = engine.generate(PROMPTS[1], seed=3, **options).token_ids
    assert engine.generate(PROMPTS[1], seed=3, **options).token_ids == first
    assert engine.generate(PROMPTS[1], seed=4, **options).token_ids != first


def test_memory_is_released_with_the_engine(path: Path) -> None:  # noqa: F811
    def once() -> None:
        with load(path, "gpu") as model:
            model.generate_many(PROMPTS, max_new_tokens=4)

    def held() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    once()  # libraries keep workspaces of their own from now on
    before = held()
    once()
    assert held() <= before + (1 << 20)
