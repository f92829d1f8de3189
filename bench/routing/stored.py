"""Stored outputs of real models as outcomes, which routers are calibrated and compared on.

    python -m bench.routing.stored zeroeval --out gsm8k.jsonl
    python -m bench.routing.stored mmlu-pro --out mmlu-pro.jsonl

An arm is a model. Tokens are counted by one tokenizer for all; joules are those of ML.ENERGY's table per
token, nothing was measured here. A model that the table does not hold is left out, and named, and so are
questions that not all models were asked in the same words.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.experiments.replay import data_root
from bench.replay.joules import BATCH, GPU, served
from bench.replay.tokens import TokenCounter
from bench.replay.traces import SOURCES, Source, Trace, read_traces, source_of
from bench.tables import markdown
from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError
from engine.predict.outcomes import Outcome, write_outcomes
from engine.strategy import answers

SCHEMA = "tokenjoule.bench.stored/1"
TABLE = "energy_ml_energy_v2/llm_text_generation.jsonl"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(
        prog="bench.routing.stored", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False
    )
    whole = [name for name, source in SOURCES.items() if not source.sampled]
    cli.add_argument("source", choices=whole)
    cli.add_argument("--data", type=Path, metavar="DIR", help="default: data/ of the test data")
    cli.add_argument("--tokenizer", type=Path, metavar="DIR", help="default: Llama 3's in the test data")
    cli.add_argument("--limit", type=int, metavar="N", help="the first N questions")
    cli.add_argument("--energy-gpu", default=GPU, metavar="NAME", help="of the table")
    cli.add_argument("--energy-batch", type=int, default=BATCH, metavar="N", help="of the table")
    cli.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="written anew")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    for name in ("limit", "energy_batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    root, source = data_root(options.data), source_of(options.source)
    counter = TokenCounter(options.tokenizer or root.parent / "models" / "llama3-tokenizer")
    found: list[Outcome] = []
    left_out: list[str] = []
    rows = []
    for traces in of_models(source, root, options.limit):
        model = traces[0].model
        joules = served(root / TABLE, model, gpu=options.energy_gpu, batch=options.energy_batch)
        if joules is None:
            left_out.append(model)
            continue
        source_of_joules = f"table: {joules.per_token_j:.3g} J/token, {joules.where}"
        made = outcomes(traces, counter, joules.per_token_j, source_of_joules)
        found += made
        rows.append([model, *_row(made), joules.note])
    if not found:
        raise TokenjouleError(f"the table has no joules for any of {', '.join(left_out)}")
    differing = asked_differently(found)
    kept = [one for one in found if one.question not in differing]
    try:
        write_outcomes(options.out, kept)
    except OSError as error:
        raise TokenjouleError(f"cannot write {options.out}: {error.strerror}") from error
    header = ("Arm", "questions", "right", "new tokens", "J/question", "joules, NOT MEASURED here")
    print(markdown(header, rows))
    print(f"\nleft out, as the table has no joules for them: {', '.join(left_out) or 'none'}")
    print(f"questions left out, as the models were asked in different words: {len(differing)}\n")
    last = {"outcomes": len(kept), "left_out": left_out, "asked_differently": sorted(differing)}
    print(json.dumps({"schema": SCHEMA, "source": source.name, **last}))
    return 0


def asked_differently(outcomes: Sequence[Outcome]) -> set[str]:
    """Questions whose query differs from one arm to another: other options, in MMLU-Pro."""
    query: dict[str, str] = {}
    return {one.question for one in outcomes if query.setdefault(one.question, one.query) != one.query}


def of_models(source: Source, root: Path, limit: int | None) -> Iterator[list[Trace]]:
    """The traces of each of the source's files. Raises `TokenjouleError` where there are none."""
    files = sorted(root.glob(source.files))
    if not files:
        raise TokenjouleError(f"{root} holds no {source.files}")
    for file in files:
        yield read_traces(source, file, limit)


def outcomes(
    traces: Sequence[Trace], counter: TokenCounter, per_token_j: float, energy_source: str
) -> list[Outcome]:
    """One for each trace. Numbers that are equal are one answer, however they were written."""
    prompts = counter.counts([trace.prompt for trace in traces])
    new = counter.counts([trace.text for trace in traces])
    return [
        Outcome(
            question=trace.question,
            query=trace.query,
            category=trace.category,
            arm=trace.model,
            correct=int(trace.correct),
            answer=canonical(trace.answer),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            energy_j=per_token_j * new_tokens,
            energy_source=energy_source,
        )
        for trace, prompt_tokens, new_tokens in zip(traces, prompts, new, strict=True)
    ]


def canonical(answer: str | None) -> str | None:
    """A number by its value ("18.0" and "18" are "18"), anything else as it is."""
    value = None if answer is None else answers.value(answer)
    return answer if value is None else str(value)


def _row(made: Sequence[Outcome]) -> list[str]:
    n = len(made)
    return [
        str(n),
        f"{sum(one.correct or 0 for one in made) / n:.2%}",
        f"{sum(one.new_tokens for one in made) / n:.0f}",
        f"{sum(one.energy_j or 0.0 for one in made) / n:.1f}",
    ]


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
