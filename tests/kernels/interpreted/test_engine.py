"""The whole engine on the Triton kernels: the reference backend's tokens, with steps that run ahead."""

from pathlib import Path
from typing import Any

import pytest

from engine.engine import Engine
from engine.steps import Inject, Phase, Probe, ProbeReading, Step, Stop, StopReason
from engine.stop import Policy
from tests import letters
from tests.kernels.interpreted.where import DEVICE, ON_DEVICE
from tests.letters import CountedMeter

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17]]


def load(path: Path, backend: str, **options: Any) -> Engine:
    meter: Any = CountedMeter(watts=20.0)
    where = DEVICE.index if ON_DEVICE else "cpu"
    return Engine.load(path, backend=backend, device=where, meter=meter, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("letters")
    letters.write(path, "llama-shallow")  # a step takes the interpreter a second a layer
    return path


@pytest.fixture(scope="module")
def reference(path: Path) -> Any:
    with load(path, "torch") as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(path: Path) -> Any:
    with load(path, "gpu") as engine:
        yield engine


def test_greedy_tokens_are_the_references(engine: Engine, reference: Engine) -> None:
    expected = reference.generate_many(PROMPTS, max_new_tokens=5)
    found = engine.generate_many(PROMPTS, max_new_tokens=5)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    assert found[0].backend == "gpu"
    assert Phase.DISCARDED not in found[0].energy.phases


def test_a_row_that_ends_by_itself_costs_one_step_more(engine: Engine, reference: Engine) -> None:
    class Ends(Policy):
        def on_token(self, step: Step) -> Stop | None:
            return Stop(StopReason.GIVE_UP) if (step.row, step.index) == (1, 2) else None

    expected = [r.token_ids for r in reference.generate_many(PROMPTS, max_new_tokens=6)]
    found = engine.generate_many(PROMPTS, max_new_tokens=6, policies=[Ends()])
    assert [r.token_ids for r in found] == [expected[0], expected[1][:3], expected[2]]
    assert found[0].energy.phases[Phase.DISCARDED].tokens == 1


@pytest.mark.slow
def test_policies_that_need_to_know_get_to_know(engine: Engine, reference: Engine) -> None:
    class Asks(Policy):
        needs = frozenset({"logits", "probe"})

        def __init__(self) -> None:
            self.read: list[tuple[int, ...]] = []

        def on_token(self, step: Step) -> Probe | Inject | None:
            assert int(step.logits().argmax()) == step.token_id
            if step.index == 2:
                return Probe(text="ab", max_tokens=2)
            return Inject("xy") if step.index == 4 else None

        def on_probe(self, step: Step, reading: ProbeReading) -> None:
            print(reading.token_ids)

    options: dict[str, Any] = {"max_new_tokens": 9, "policies": [Asks()]}
    assert (
        engine.generate(PROMPTS[0], **options).token_ids
        == reference.generate(PROMPTS[0], **options).token_ids
    )


def test_hidden_states_come_from_single_forwards(engine: Engine, reference: Engine) -> None:
    class Looks(Policy):
        needs = frozenset({"hidden:0"})

        def on_token(self, step: Step) -> None:
            assert step.hidden(0).shape == (48,)

    found = engine.generate(PROMPTS[0], max_new_tokens=4, policies=[Looks()])
    assert found.error is None
    assert found.token_ids == reference.generate(PROMPTS[0], max_new_tokens=4).token_ids


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.7, "repetition_penalty": 1.3}])
def test_sampled_tokens_depend_on_seed_and_row_alone(engine: Engine, settings: dict[str, Any]) -> None:
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1.2, "seed": 7, **settings}
    both = [r.token_ids for r in engine.generate_many(PROMPTS[:2], **options)]
    assert [r.token_ids for r in engine.generate_many(PROMPTS[:2], **options)] == both
    assert engine.generate(PROMPTS[0], **options).token_ids == both[0], "its neighbour changes nothing"
    assert engine.generate(PROMPTS[0], **{**options, "seed": 8}).token_ids != both[0]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_packed_weights_give_the_references_tokens(path: Path, scheme: str) -> None:
    with load(path, "torch", quantize=scheme) as reference, load(path, "gpu", quantize=scheme) as engine:
        expected = reference.generate(PROMPTS[0], max_new_tokens=4)
        assert engine.generate(PROMPTS[0], max_new_tokens=4).token_ids == expected.token_ids


@pytest.mark.slow
def test_the_pool_outlives_requests_and_grows(engine: Engine, reference: Engine) -> None:
    first = engine.generate(PROMPTS[0], max_new_tokens=3)
    long = list(range(20, 60)) * 2
    for new in (3, 5):
        expected = reference.generate(long, max_new_tokens=new).token_ids
        assert engine.generate(long, max_new_tokens=new).token_ids == expected
    assert engine.generate(PROMPTS[0], max_new_tokens=3).token_ids == first.token_ids
