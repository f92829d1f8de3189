"""Probes read alone and riding along: the same answers, the same tokens, the joules in their place."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.engine import Engine
from engine.probing import Probing
from engine.steps import Phase, Probe, ProbeReading, Step, Stop, StopReason
from engine.stop import AnswerStability, Policy
from tests.letters import CountedMeter
from tests.stop.scripted import play, thinker, thought

MODES = ["truncate", "piggyback"]
PROMPT = "47+35-18+6="


class Recording(Policy):
    """Probes at every thinking token and keeps what it hears, in a list that all rows' copies share."""

    needs = frozenset({"probe"})

    def __init__(self, heard: "Shared", max_tokens: int = 1) -> None:
        self.heard, self.max_tokens = heard, max_tokens

    def on_token(self, step: Step) -> Probe | None:
        return Probe(max_tokens=self.max_tokens) if step.phase is Phase.THINK else None

    def on_probe(self, step: Step, reading: ProbeReading) -> None:
        self.heard.append((step.row, step.index, reading))


class Shared(list[tuple[int, int, ProbeReading]]):
    def __deepcopy__(self, memo: object) -> "Shared":
        return self


@pytest.fixture(scope="module")
def chain() -> Any:
    with Engine.load(backend="cpu", meter=CountedMeter(watts=20.0)) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompts", [[PROMPT], [PROMPT, "9-2=", "1+1+1+1+1+1="]])
def test_tokens_are_those_of_a_run_without_probes(chain: Engine, mode: str, prompts: list[str]) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_new_tokens": 60}
    plain = chain.generate_many(prompts, **options)
    for max_tokens in (1, 3):
        heard = Shared()
        probed = chain.generate_many(
            prompts, policies=[Recording(heard, max_tokens)], probe_mode=mode, **options
        )
        assert [r.token_ids for r in probed] == [r.token_ids for r in plain]
        assert len(heard) > 20
        ridden, read = (sum(getattr(r.stop, name) for r in probed) for name in ("probes_ridden", "probes"))
        # Three rows with three riders each would be more tokens than ride at once: some are read alone.
        assert ridden > 0.8 * read if mode == "piggyback" else ridden == 0


def test_both_modes_read_the_same_bit_for_bit(chain: Engine) -> None:
    found = {}
    for mode in MODES:
        heard = Shared()
        chain.generate(PROMPT, policies=[Recording(heard, 3)], probe_mode=mode)
        found[mode] = {index: reading for _, index, reading in heard}
    alone, riding = found["truncate"], found["piggyback"]
    assert len(riding) > 15
    assert riding.keys() <= alone.keys(), "a rider whose row answers before it has read all is dropped"
    for index, reading in riding.items():
        assert reading.token_ids == alone[index].token_ids
        assert reading.answer == alone[index].answer
        assert torch.equal(reading.probabilities, alone[index].probabilities)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_a_row_of_the_cpu_backend_computes_the_same_with_and_without_a_rider(
    dtype: str, quantize: str
) -> None:
    """What the backend's promise is about, in bits; up to the number of tokens that it names."""
    with Engine.load(backend="cpu", dtype=dtype, quantize=quantize, meter=CountedMeter()) as engine:  # type: ignore
        model, most = engine.model, engine.model.backend.batch_invariant_tokens
        ids = engine.encode(PROMPT)
        fed = torch.randint(3, 20, (40,), generator=torch.Generator().manual_seed(0)).tolist()

        def logits(riding: int) -> torch.Tensor:
            cache = model.new_cache(400, rows=8)
            row = cache.add_row()
            model.forward(ids, cache.extend({row: len(ids)}), cache)
            found = []
            for step, token in enumerate(fed):
                new, tokens = {row: 1}, [token]
                if riding and step % 3 == 0:
                    rider = cache.fork(row)
                    new[rider], tokens = riding, [*tokens, *fed[:riding]]
                found.append(model.forward(tokens, cache.extend(new), cache)[0][0])
                if len(new) == 2:
                    cache.free(rider)
            return torch.stack(found)

        alone = logits(0)
        for riding in (1, 3, most - 1):
            assert torch.equal(logits(riding), alone), riding
        if quantize == "none":
            assert not torch.equal(logits(most + 8), alone), "beyond, torch's product is another"


def test_a_backend_without_the_promise_reads_probes_alone_and_says_so(letters_directory: Path) -> None:
    heard = Shared()
    with Engine.load(letters_directory, backend="torch", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        plain = engine.generate([5, 6, 7], max_new_tokens=20)
        result = engine.generate(
            [5, 6, 7], max_new_tokens=20, policies=[Recording(heard)], probe_mode="piggyback", answer_tokens=1
        )
    assert result.token_ids == plain.token_ids
    assert (result.stop.probes, result.stop.probes_ridden) == (len(heard), 0)
    assert result.stop.probe_mode == "truncate: rows of the torch backend change with their number"


def test_the_gpu_backend_promises_riders_nothing_and_probes_truncate() -> None:
    """Several new tokens go through torch's products there, whose sums change with the number of rows."""
    pytest.importorskip("triton")
    from kernels.gpu.backend import GpuBackend
    from kernels.gpu.tiles import Chip

    backend = GpuBackend(torch.device("meta"), chip=Chip(132, 90))
    nothing: Any = None
    model: Any = SimpleNamespace(backend=backend)
    probing = Probing(model, nothing, nothing, nothing, "piggyback", wanted=True)
    assert probing.mode == "truncate: rows of the gpu backend change with their number"
    assert not probing.riders.admit([], nothing, nothing, (), nothing)


def test_riders_share_the_forwards_of_their_row() -> None:
    script = thinker(["a=1", "b=2", "c=2"], ["7"])
    heard = Shared()
    [alone], model = play(script, Recording(heard), tokens=0)
    assert [2] in model.forwards
    [riding], model = play(script, Recording(heard), tokens=16, probe_mode="piggyback")
    assert riding.token_ids == alone.token_ids
    assert model.forwards[1] == [1, 3], "the row's token, and behind a fork of it closer and prefix"
    assert [2] not in model.forwards
    energy = riding.energy
    assert energy.phases["probe"].energy_j == pytest.approx(riding.stop.probe_j, abs=1e-6)
    assert sum(reading.energy_j for _, _, reading in heard[len(heard) // 2 :]) == pytest.approx(
        riding.stop.probe_j, rel=0.01
    )
    phases = sum(phase.energy_j or 0.0 for phase in energy.phases.values())
    assert phases + (energy.unattributed_j or 0.0) == pytest.approx(energy.total_j, abs=1e-6)
    known = sum(joules for joules in riding.per_token_j if joules is not None)
    steps = sum(energy.phases[name].energy_j or 0.0 for name in ("think", "answer"))
    assert known == pytest.approx(steps, abs=1e-6), "a token's joules are without its rider's"
    assert (energy.total_j or 0.0) < (alone.energy.total_j or 0.0), "one forward in place of two"


def test_what_does_not_fit_is_read_alone() -> None:
    script = thinker(["a=1", "b=2", "c=2"], ["7"])
    heard = Shared()
    results, model = play(script, Recording(heard), tokens=5, probe_mode="piggyback", rows=2)
    plain, _ = play(script, rows=2)
    assert [r.token_ids for r in results] == [r.token_ids for r in plain]
    assert max(sum(fed) for fed in model.forwards[2:]) <= 5
    assert sum(r.stop.probes_ridden for r in results) > 10
    assert sum(r.stop.probes - r.stop.probes_ridden for r in results) > 10


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_stops_by_what_either_mode_reads(mode: str) -> None:
    script = thinker(["a=1", "b=2", "c=2", "d=2", "e=3", "f=4"], ["1", "5", "42"])
    [result], _ = play(script, AnswerStability(2), tokens=16, probe_mode=mode)
    assert (result.answer, result.stop.reason, result.stop.policy) == (
        "42",
        StopReason.POLICY,
        "AnswerStability",
    )
    # A rider reads one token a step: the answer's two and its end are known two tokens later.
    assert thought(result) == {"truncate": "a=1\nb=2\nc=2\n", "piggyback": "a=1\nb=2\nc=2\nd="}[mode]


@pytest.mark.parametrize("mode", MODES)
def test_two_policies_that_ask_different_things_are_both_told(mode: str) -> None:
    class Other(Recording):
        def on_token(self, step: Step) -> Probe | None:
            return Probe("}{") if step.phase is Phase.THINK else None

    one, other = Shared(), Shared()
    [result], _ = play(thinker(["a=1"], ["7"]), Recording(one), Other(other), tokens=16, probe_mode=mode)
    assert [at for _, at, _ in one] == [0, 1, 2, 3]
    assert [at for _, at, _ in other] == [0, 1, 2, 3, 4], (
        "text of its own may be asked about at the closer, too"
    )
    assert (result.stop.probes, result.token_ids) == (9, play(thinker(["a=1"], ["7"]))[0][0].token_ids)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_asked_of_a_row_that_answers(mode: str) -> None:
    class Late(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe:
            return Probe()

        def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
            assert step.phase is Phase.THINK
            return None

    [result], _ = play(thinker(["a=1"], ["7"]), Late(), tokens=16, probe_mode=mode)
    assert (result.answer, result.error, result.stop.probes) == ("7", None, 4)
