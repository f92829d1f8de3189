"""The command line's requests: options to an engine, sessions to stdout, trace and plot."""

import argparse
import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from engine.engine import Engine
from engine.errors import EXIT_CANCELLED, TokenjouleError
from engine.loading import LoadingLine
from engine.plot import draw_request
from engine.progress import Progress, announce
from engine.result import Generation
from engine.steps import StopPolicy, StopReason
from engine.stop.names import AUTO
from engine.strategy.base import Outcome, Strategy
from engine.strategy.names import default_strategy
from engine.trace import Trace


class Runner:
    """An engine loaded as the options say, and what each request is run with."""

    def __init__(
        self,
        engine: Engine,
        options: argparse.Namespace,
        policies: Sequence[StopPolicy | str],
        strategy: Strategy | None = None,
    ) -> None:
        self.engine, self.options, self.policies = engine, options, list(policies)
        self.strategy = strategy or default_strategy(engine)
        self.trace = Trace(options.trace, keep=options.output is not None) if options.trace else None

    @classmethod
    def open(
        cls,
        options: argparse.Namespace,
        policies: Sequence[StopPolicy | str],
        strategy: Strategy | None = None,
    ) -> "Runner":
        if not options.quiet:
            print(f"loading {options.model or 'the bundled model'}", file=sys.stderr, flush=True)
        with LoadingLine(quiet=options.quiet) as line:
            engine = Engine.load(
                options.model,
                backend=options.backend,
                device=options.device,
                dtype=options.dtype,
                quantize=options.quantize,
                random_weights=options.random_weights,
                energy_source=options.energy_source,
                require_measured_energy=options.require_measured,
                profile=options.profile,
                graph_steps=options.graph_steps,
                curve=options.curve,
                on_progress=line,
            )
        if not options.quiet:
            announce(engine)
        return cls(engine, options, policies, strategy)

    def __enter__(self) -> "Runner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()
        if self.trace:
            self.trace.close()

    def run(self, prompt: str, *, stdout: TextIO | None, category: str | None = None) -> Outcome:
        """One request to its end; the text streams to `stdout` where that is given. Ctrl-C ends it early.

        `category`: the prompt's own, in place of the one of all.
        """
        options = self.options
        attempt = self.strategy.begin(
            self.engine,
            prompt,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
            answer_temperature=options.answer_temperature,
            stop_sequences=options.stop_sequence,
            ignore_eos=options.ignore_eos,
            policies=self.policies,
            probe_share=options.probe_share,
            probe_mode=options.probe_mode,
            category=category or options.category,
            price_joules=self._price(),
            budget_joules=options.budget_joules,
            budget_tokens=options.budget_tokens,
            answer_tokens=options.answer_tokens,
            chat=options.chat,
            system=options.system,
        )
        source = self.engine.poller.meter.name
        with Progress(
            stdout,
            quiet=options.quiet,
            budget_j=options.budget_joules,
            source=source,
            streams=self.strategy.streams,
        ) as progress:
            try:
                for step in attempt.steps():
                    progress.on_step(step)
                    if self.trace:
                        self.trace.on_step(step)
            except KeyboardInterrupt:
                attempt.cancel()
            outcome = attempt.outcome()
            of_all = None if outcome.samples is None else outcome.new_tokens
            progress.finish(outcome.result, outcome.line(), of_all)
        if self.trace:
            self.trace.on_end(attempt.session.ledger, outcome.result, outcome.to_json())
        return outcome

    def _price(self) -> float | None:
        """For stop policies: where a vote ends at the price, `auto` alone weighs it as well."""
        options = self.options
        return options.price_joules if options.vote_until != "price" or AUTO in options.stop else None


def run_one(runner: Runner, prompt: str, *, stdout: TextIO) -> int:
    """One prompt to stdout; the exit status."""
    options = runner.options
    outcome = runner.run(prompt, stdout=None if options.json else stdout)
    result = outcome.result
    if options.json:
        stdout.write(json.dumps(outcome.to_json()) + "\n")  # ASCII: any terminal or locale can print it
        stdout.flush()
    if options.plot:
        draw_request(result, options.plot)
    if runner.trace and runner.trace.failure:
        raise TokenjouleError(runner.trace.failure)
    failure = failure_of(result, measured=options.require_measured)
    if failure is not None:
        raise TokenjouleError(failure)  # the text is out by now
    return EXIT_CANCELLED if outcome.cancelled or result.stop.answer_end is StopReason.CANCELLED else 0


def failure_of(result: Generation, *, measured: bool) -> str | None:
    """Why a run counts as failed. `measured`: a measurement was required, so an incomplete one fails."""
    if result.error is not None:
        return result.error
    if measured and not result.energy.complete:
        return f"the energy was not measured completely: {result.energy.problem}"
    return None
