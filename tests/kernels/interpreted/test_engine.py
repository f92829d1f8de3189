"""The whole engine on the Triton kernels: the reference backend's tokens, with steps that run ahead."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.cache import KVCache
from engine.device_loop import GpuLoop
from engine.engine import Engine
from engine.rows import Request, Row
from engine.steps import Inject, Phase, Probe, ProbeReading, Step, Stop, StopReason
from engine.stop import Policy
from kernels.gpu import shared_prefix
from tests import letters
from tests.kernels.interpreted.where import DEVICE, ON_DEVICE, bound
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
def test_graphs_of_several_steps_choose_what_single_ones_do(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "temperature": 1.2, "seed": 7}
    expected = engine.generate(PROMPTS[0], **options).token_ids
    sizes: list[int] = []
    right = GpuLoop.launch

    def launch(loop: GpuLoop, steps: int = 1) -> None:
        sizes.append(steps)
        right(loop, steps)

    monkeypatch.setattr(GpuLoop, "launch", launch)
    monkeypatch.setattr(engine.model, "_graph_steps", 3)
    monkeypatch.setattr(engine.model, "_steps", None)  # captured anew
    found = engine.generate(PROMPTS[0], **options)
    assert found.token_ids == expected
    assert sizes == [3, 1] and found.energy.steps_timed_together == 3


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


class Forks:
    """Rows of one prompt of `prompt` tokens, each with a first token of its own, in captured steps.

    The reference computes every row by itself, from its own cache.
    """

    def __init__(
        self, engine: Engine, reference: Engine, prompt: int, rows: int, *, forked: bool = True
    ) -> None:
        common = [5 + (7 * i) % 80 for i in range(prompt)]
        model, self.reference = engine.model, reference.model
        room = rows * (prompt + 32)
        self.cache, self.apart = model.request_cache(room, rows=2 * rows), reference.model.new_cache(room)
        ids: list[int] = []
        for number in range(rows):
            if number and forked:
                ids.append(self.cache.fork(ids[0]))
                continue
            ids.append(self.cache.add_row())
            model.forward(common, self.cache.extend({ids[-1]: prompt}), self.cache)
        self.rows = [
            Row(number, row, Request((*common, 11 + number), 30), engine.tokenizer, None, prompt + 30, 256)
            for number, row in enumerate(ids)
        ]
        loop = model.device_loop(self.cache, self.rows, clock=time.monotonic, keep_logits=True)
        assert isinstance(loop, GpuLoop)
        self.loop = loop

    def step(self) -> None:
        """One more token of every loaded row, from logits that are the reference's."""
        self.loop.launch()
        chosen = self.loop.collect()
        assert chosen.logits is not None
        told = zip(self.loop._rows, chosen.tokens, chosen.log_probabilities, chosen.logits, strict=True)
        for row, token, score, logits in told:
            alone = self.apart.add_row()
            layout = self.apart.extend({alone: len(row.tokens)})
            expected = self.reference.forward(row.tokens, layout, self.apart)[0][0]
            self.apart.free(alone)
            assert (logits - expected).abs().max() <= bound(2.0**-16) * expected.abs().max()
            assert token == int(logits.argmax())
            assert score == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
            row.emit(token, forward=None)


@pytest.fixture
def always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "_LAUNCH_BYTES", 1)


@pytest.mark.usefixtures("always_shared")
def test_forks_read_what_they_share_once_and_go_ways_of_their_own(engine: Engine, reference: Engine) -> None:
    forks = Forks(engine, reference, prompt=47, rows=3)  # two pages; a third begun, which is copied
    forks.loop.load(forks.rows)
    assert forks.loop.read_once == 32
    for _ in range(2):  # the second is the first of another page
        forks.step()
    assert len({tuple(row.tokens) for row in forks.rows}) == 3
    forks.loop.load(forks.rows[1:])  # the row whose pages were forked has ended
    forks.cache.free(forks.rows[0].cache_row)
    assert forks.loop.read_once == 32
    forks.step()
    forks.loop.load(forks.rows[2:])
    assert forks.loop.read_once == 0, "one row reads its own"


@pytest.mark.usefixtures("always_shared")
def test_a_page_taken_for_shared_that_is_not_is_found(
    engine: Engine, reference: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = KVCache.shared
    monkeypatch.setattr(KVCache, "shared", lambda cache, rows: right(cache, rows) + 16)
    forks = Forks(engine, reference, prompt=66, rows=2)
    for row in forks.rows:  # each goes on for more than a page of its own first
        row.tokens += [3 + row.number + i for i in range(16)]
        own = row.tokens[66:-1]
        engine.model.forward(own, forks.cache.extend({row.cache_row: len(own)}), forks.cache)
    forks.loop.load(forks.rows)
    with pytest.raises(AssertionError):
        forks.step()


def test_rows_that_share_little_or_nothing_read_their_own(engine: Engine, reference: Engine) -> None:
    forks = Forks(engine, reference, prompt=46, rows=2)
    forks.loop.load(forks.rows)
    assert forks.loop.read_once == 0, "32 positions of this model are no launch's worth"
    with pytest.raises(ValueError, match="32 shared positions for a step whose rows read their own"):
        forks.loop._captured.step.load([1], [40], [[0, 1, 2]], prefix=32)


@pytest.mark.slow
@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize(("prompt", "rows"), [(16, 2), (31, 5), (130, 4)])
def test_forks_of_any_prompt_are_the_references(
    engine: Engine, reference: Engine, prompt: int, rows: int
) -> None:
    forks = Forks(engine, reference, prompt=prompt, rows=rows)
    forks.loop.load(forks.rows)
    assert forks.loop.read_once == prompt // 16 * 16
    for _ in range(2):
        forks.step()
    last = forks.rows[-1]  # taken back to where it left the others, it goes another way
    forks.cache.truncate(last.cache_row, prompt - 1)
    last.tokens[prompt - 1 :] = [77]
    forks.loop.load(forks.rows)
    assert forks.loop.read_once == (prompt - 1) // 16 * 16
    forks.step()


@pytest.mark.slow
@pytest.mark.usefixtures("always_shared")
def test_rows_of_the_same_prompt_that_are_no_forks_share_nothing(engine: Engine, reference: Engine) -> None:
    forks = Forks(engine, reference, prompt=46, rows=2, forked=False)
    forks.loop.load(forks.rows)
    assert forks.loop.read_once == 0
    forks.step()


@pytest.mark.usefixtures("always_shared")
def test_rows_of_a_request_read_their_prompt_once(
    engine: Engine, reference: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_once: list[int] = []
    right = GpuLoop.load

    def load(loop: GpuLoop, rows: Sequence[Row]) -> None:
        right(loop, rows)
        read_once.append(loop.read_once)

    monkeypatch.setattr(GpuLoop, "load", load)
    prompt = [5 + (7 * i) % 80 for i in range(35)]
    [expected] = reference.generate_many([prompt], max_new_tokens=4)
    found = engine.generate_many([prompt] * 2, max_new_tokens=4)
    assert [row.token_ids for row in found] == [expected.token_ids] * 2
    assert read_once[0] == 32
