"""Runs questions and asks at every checkpoint what the answer would be: the entries of the checkpoint log.

Thinking is sampled at temperature 1, answers are read greedily. A probe leaves the row as it was, so one run
tells of every place where it could have been stopped. One question at a time: its draws are then those of a
user's own request with the same seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.calibration.log import Entry
from bench.calibration.priced import Pricer
from bench.calibration.states import taken
from bench.testbed.question import Question, accepts
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.result import Generation
from engine.session import Session
from engine.steps import Context, Phase, Probe, ProbeReading, Step, StopPolicy
from engine.stop.base import Policy
from engine.stop.signals import SignalReader, Signals
from engine.stop.token import TokenBudget

ANSWER_TOKENS = 4  # answers of the test bed are one or two characters and an end


class Recorder(Policy):
    """Stops nothing; keeps what a probe reads at each checkpoint of its one row, and the states there."""

    def __init__(self, layers: Sequence[int] = ()) -> None:
        self.needs = frozenset({"probe", "logprob", *(f"hidden:{layer}" for layer in layers)})
        self._layers, self._reader = layers, SignalReader(scored=True)

    def __deepcopy__(self, memo: object) -> "Recorder":
        return self  # the row's copy is the one whose readings are asked for

    def reset(self, context: Context) -> None:
        self._reader.begin(context)
        self.readings: list[tuple[Signals, ProbeReading, dict[str, str]]] = []

    def on_token(self, step: Step) -> Probe | None:
        self._at = self._reader.read(step)
        if self._at is None:
            return None
        self._states = taken(step, self._layers)
        return Probe(max_tokens=ANSWER_TOKENS)

    def on_probe(self, step: Step, reading: ProbeReading) -> None:
        assert self._at is not None
        self.readings.append((self._at, reading, self._states))


def ask(
    engine: Engine, question: Question, policies: Sequence[StopPolicy | str]
) -> tuple[Session, Generation]:
    """One question under the experiments' protocol. Raises `TokenjouleError` where the run failed.

    Thinking that would fill the context ends in time for an answer, whatever the policies do.
    """
    in_time = TokenBudget(engine.model.config.max_context)
    session = engine.start(
        [question.prompt],
        temperature=1.0,
        answer_temperature=0.0,
        seed=question.seed,
        policies=[*policies, in_time],
        answer_tokens=ANSWER_TOKENS,
        category=question.category,
    )
    for _ in session.steps():
        pass
    [result] = session.results()
    if result.error is not None:
        raise TokenjouleError(f"question {question.seed} of {question.category}: {result.error}")
    return session, result


def entries_of(
    engine: Engine, pricer: Pricer, question: Question, split: str, layers: Sequence[int] = ()
) -> list[Entry]:
    """Run one question: its lines of the log, with the states behind these layers."""
    recorder = Recorder(layers)
    _, result = ask(engine, question, [recorder])
    thought = sum(phase == Phase.THINK for phase in result.phases_by_token)
    closed = not result.stop.forced_answer and result.answer is not None
    if closed:  # the closer itself is no place to stop
        recorder.readings = [read for read in recorder.readings if read[0].think_tokens < thought]
    found = [
        replace(_entry(engine, pricer, question, split, result, at, reading), states=states or None)
        for at, reading, states in recorder.readings
    ]
    return [*found, _end(engine, pricer, question, split, result, thought, closed, found)]


def injected_tokens(engine: Engine) -> int:
    """Of closer and answer prefix. Raises `UsageError` for a model that does not think."""
    if engine.thinking is None:
        raise UsageError(f"{engine.origin.card.id} does not mark its thinking: there is nothing to stop")
    closer, prefix = (
        engine.thinking.closer_ids(engine.tokenizer),
        engine.thinking.answer_prefix_ids(engine.tokenizer),
    )
    return len(closer) + len(prefix)


def _entry(
    engine: Engine,
    pricer: Pricer,
    question: Question,
    split: str,
    result: Generation,
    at: Signals,
    reading: ProbeReading,
) -> Entry:
    length, injected = result.prompt_tokens + at.think_tokens, injected_tokens(engine)
    read = len(reading.token_ids)
    return Entry(
        **_common(engine, pricer, question, split, result),
        checkpoint=at.checkpoint,
        think_tokens=at.think_tokens,
        answer=reading.answer,
        correct=accepts(question, reading.answer),
        confidence=reading.confidence,
        entropy=reading.entropy,
        stability=at.stability,
        tail=at.tail,
        surprisal=at.surprisal,
        closed=False,
        energy_j=pricer.written_j(result.prompt_tokens, at.think_tokens),
        probe_j=pricer.probe_j(length, injected, read),
        answer_j=pricer.answer_j(length, injected, read),
    )


def _end(
    engine: Engine,
    pricer: Pricer,
    question: Question,
    split: str,
    result: Generation,
    thought: int,
    closed: bool,
    before: Sequence[Entry],
) -> Entry:
    """The run's own end. Its stability and tail are those of its last step."""
    prompt, new = result.prompt_tokens, len(result.token_ids)
    energy_j = pricer.written_j(prompt, thought)
    if closed:
        answer_j = pricer.written_j(prompt, new) - energy_j
    elif result.stop.forced_answer:
        injected = injected_tokens(engine)
        answer_j = pricer.answer_j(prompt + thought, injected, new - thought - injected)
    else:  # it ended without an answer
        answer_j = 0.0
    last = before[-1] if before else None
    return Entry(
        **_common(engine, pricer, question, split, result),
        checkpoint=len(before),
        think_tokens=thought,
        answer=result.answer or "",
        correct=accepts(question, result.answer),
        confidence=None,
        entropy=None,
        stability=last.stability if last else 0,
        tail=last.tail if last else "",
        surprisal=last.surprisal if last else 0.0,
        closed=closed,
        energy_j=energy_j,
        probe_j=0.0,
        answer_j=answer_j,
        ledger_j=result.energy.window_j,
    )


def _common(
    engine: Engine, pricer: Pricer, question: Question, split: str, result: Generation
) -> dict[str, Any]:
    return {
        "model": engine.origin.card.id,
        "quantization": engine.origin.card.quantization,
        "category": question.category,
        "question": question.prompt,
        "seed": question.seed,
        "split": split,
        "prompt_tokens": result.prompt_tokens,
        "energy_source": pricer.source,
    }
