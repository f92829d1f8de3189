"""`python -m engine.generate`: a prompt in, an answer and its joules out.

stdout is the answer as it streams (`--json`: one object); stderr is progress, live joules and one summary
line. Exit status: 0 done, 1 failed, 2 wrong usage, 130 cancelled with Ctrl-C.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.cli import Parser, deferred_interrupt, guarded, leave
from engine.errors import TokenjouleError, UsageError
from engine.file_check import refuse_same, writable


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be a share in (0, 1], not {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    cli = Parser(prog="python -m engine.generate", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    source = cli.add_argument_group("prompt")
    source.add_argument("prompt", nargs="?", help="the prompt, as text")
    source.add_argument("--prompt-file", metavar="F", help="read the prompt from a file, or - for stdin")
    source.add_argument(
        "--prompts", metavar="FILE.jsonl", help='one request a line: {"prompt": "…", "id": optional}'
    )
    source.add_argument(
        "--output", metavar="FILE.jsonl", help="append results of --prompts; what it holds is not run again"
    )
    source.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    source.add_argument("--system", metavar="S", help="system message for --chat")
    model = cli.add_argument_group("model")
    model.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME", help="default: bundled:chain")
    model.add_argument("--random-weights", action="store_true", help="shape only; what presets need")
    model.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"), default="auto")
    model.add_argument(
        "--device", metavar="N", help="CUDA device, or cpu (default: first CUDA device, else cpu)"
    )
    model.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    model.add_argument(
        "--quantize",
        choices=("none", "int8", "int4"),
        help="pack the weights (default: as the checkpoint is)",
    )
    model.add_argument(
        "--graph-steps",
        type=_count,
        default=1,
        metavar="K",
        help="steps that a GPU takes in one launch where no policy steers (default 1)",
    )
    text = cli.add_argument_group("generation")
    text.add_argument("--max-new-tokens", type=_count, metavar="N", help="default: 512, context permitting")
    text.add_argument("--ignore-eos", action="store_true", help="go on behind an end-of-sequence token")
    text.add_argument("--stop-sequence", action="append", default=[], metavar="S", help="may be repeated")
    text.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    text.add_argument("--top-p", type=float, metavar="P")
    text.add_argument("--top-k", type=_count, metavar="K")
    text.add_argument("--min-p", type=float, metavar="P")
    text.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    text.add_argument("--seed", type=int, default=0, metavar="S")
    text.add_argument(
        "--answer-temperature",
        type=float,
        metavar="T",
        help="of the answer behind the thinking (default: as --temperature)",
    )
    way = cli.add_argument_group("strategy")
    way.add_argument(
        "--strategy",
        metavar="NAME",
        help="direct, cot, vote or best-of-n (default: cot on a model that thinks, else direct)",
    )
    way.add_argument("--samples", type=_count, metavar="K", help="of vote and best-of-n (default 16)")
    way.add_argument("--choices", metavar="A,B,…", help="answers of one token, read from one forward")
    way.add_argument(
        "--vote-until",
        choices=("all", "decided", "posterior", "unanimous", "price"),
        help="when a vote ends sampling (default: decided)",
    )
    way.add_argument("--independent-samples", action="store_true", help="each sample prefills by itself")
    budget = cli.add_argument_group("budget")
    budget.add_argument("--budget-joules", type=_positive, metavar="J", help="for the whole request")
    budget.add_argument("--budget-tokens", type=_count, metavar="N", help="of thinking")
    budget.add_argument("--budget-steps", type=_count, metavar="N", help="of thinking, written-out steps")
    budget.add_argument(
        "--answer-tokens", type=_count, default=16, metavar="N", help="longest forced answer (default 16)"
    )
    budget.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="none|auto|NAME[:ARG=V,…]|FILE.py:CLASS",
        help="a stop policy; may be repeated. Names: token, step, confidence, stability, tail, eat, hidden, "
        "give-up. auto: what was calibrated for this model, else stability",
    )
    budget.add_argument(
        "--probe-share",
        type=_share,
        metavar="S",
        help="most that probes may take of all joules (default 0.05; of policies from a FILE: no limit)",
    )
    budget.add_argument(
        "--probe-mode",
        choices=("truncate", "piggyback"),
        default="truncate",
        help="read probes behind the row (default), or beside it as one more row, where the backend can",
    )
    budget.add_argument(
        "--price-joules",
        type=float,
        metavar="L",
        help="accuracy points that a joule must gain, for --stop auto and --vote-until price",
    )
    budget.add_argument(
        "--category", metavar="NAME", help="of the question, where a calibration knows several"
    )
    energy = cli.add_argument_group("energy")
    energy.add_argument(
        "--energy-source",
        default="auto",
        metavar="SOURCE",
        help="auto, nvml, nvml-power, rapl, estimate, simulated[:PROFILE] or replay:FILE",
    )
    energy.add_argument(
        "--curve",
        default="auto",
        metavar="auto|none|FILE.json",
        help="the operating curve, with its stopping rule (default: the one kept for this model and device)",
    )
    energy.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    output = cli.add_argument_group("output")
    output.add_argument("--trace", metavar="FILE.jsonl", help="every step and every reading of the meter")
    output.add_argument("--plot", metavar="FILE.png", help="joules per token, drawn (needs matplotlib)")
    output.add_argument(
        "--profile", action="store_true", help="time every stage (slower, and said on stderr)"
    )
    output.add_argument("--json", action="store_true", help="one JSON object on stdout, and nothing else")
    output.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""

    def run() -> int:
        options = parser().parse_args(argv)
        _check(options)
        return _run(options)

    return guarded(run)


def _check(options: argparse.Namespace) -> None:
    """What can be refused before a model is loaded."""
    given = [options.prompt is not None, options.prompt_file is not None, options.prompts is not None]
    if sum(given) != 1:
        raise UsageError("give exactly one of a prompt, --prompt-file or --prompts")
    if options.output and not options.prompts:
        raise UsageError("--output goes with --prompts")
    if options.plot and options.prompts:
        raise UsageError("--plot draws one request; it does not go with --prompts")
    if options.plot and not options.choices and options.strategy in ("vote", "best-of-n"):
        raise UsageError(f"--plot draws one text's joules; {options.strategy} writes several")
    if options.system is not None and not options.chat:
        raise UsageError("--system goes with --chat")
    if any(not sequence for sequence in options.stop_sequence):
        raise UsageError("a stop sequence must not be empty")
    _check_files(options)
    with deferred_interrupt():
        from engine.sampler import Sampling
        from engine.stop.dial import Dial
    Sampling(
        options.temperature,
        options.top_k,
        options.top_p,
        options.min_p,
        options.repetition_penalty,
        options.seed,
        options.answer_temperature,
    )
    _refuse_filters_of_nothing(options)
    Dial(price=options.price_joules)
    _strategy(options)


def _refuse_filters_of_nothing(options: argparse.Namespace) -> None:
    """Where every token is the likeliest, nothing is drawn that could be filtered."""
    if options.temperature > 0 or (options.answer_temperature or 0) > 0:
        return
    for name in ("top_k", "top_p", "min_p"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning without --temperature above 0")


def _strategy(options: argparse.Namespace) -> Any:
    """The strategy asked for; None where none is named, which is for the model to say."""
    with deferred_interrupt():
        from engine.strategy.names import strategy_named

    given = {
        "samples": options.samples,
        "choices": [] if options.choices is None else options.choices.split(","),
        "until": options.vote_until,
        # Another price is for the stop policies to weigh.
        "price_joules": options.price_joules if options.vote_until == "price" else None,
        "independent": options.independent_samples,
    }
    if options.choices:
        _refuse_with_choices(options)
    if options.strategy is None:
        if any(given.values()):
            raise UsageError("samples, choices and what ends a vote go with --strategy")
        return None
    if options.choices == "":
        raise UsageError("--choices needs answers, with commas between them")
    return strategy_named(options.strategy, temperature=options.temperature, **given)


def _refuse_with_choices(options: argparse.Namespace) -> None:
    """A choice is one token, read from one forward: nothing is written that could be bounded or stopped."""
    idle = {
        "--max-new-tokens": options.max_new_tokens is not None,
        "--stop-sequence": bool(options.stop_sequence),
        "--ignore-eos": options.ignore_eos,
        "--stop": any(name != "none" for name in options.stop),
        "--budget-tokens": options.budget_tokens is not None,
        "--budget-steps": options.budget_steps is not None,
    }
    for name, given in idle.items():
        if given:
            raise UsageError(f"{name} has no meaning with --choices, which are read from one forward")


def _check_files(options: argparse.Namespace) -> None:
    """No file may serve twice (one would overwrite the other), and all that is written can be."""
    with deferred_interrupt():
        from engine.energy.curve_store import AUTO, NONE
        from engine.stop.names import is_file
    kind, _, source = options.energy_source.partition(":")
    files = {
        "--prompt-file": None if options.prompt_file == "-" else options.prompt_file,
        "--prompts": options.prompts,
        "--output": options.output,
        "--trace": options.trace,
        "--plot": options.plot,
        "the recording": source if kind == "replay" else None,
        "the profile": source if kind == "simulated" and source else None,
        "--curve": None if options.curve in (AUTO, NONE) else options.curve,
    }
    for number, policy in enumerate(options.stop):
        if is_file(policy):
            files[f"--stop ({number + 1})"] = policy.rpartition(":")[0]
    refuse_same(files)
    if options.plot:
        with deferred_interrupt():
            from engine.plot import check_plot

            check_plot(options.plot)
    writable(options.plot, options.output, options.trace)


def _prompt(options: argparse.Namespace) -> str:
    text: str
    if options.prompt is not None:
        text = options.prompt
    else:
        name = "stdin" if options.prompt_file == "-" else options.prompt_file
        stdin = options.prompt_file == "-"
        if stdin and sys.stdin is None:
            raise TokenjouleError("stdin is closed")
        try:
            raw = sys.stdin.buffer.read() if stdin else Path(options.prompt_file).read_bytes()
            text = raw.decode("utf-8-sig")
        except OSError as error:
            raise TokenjouleError(f"cannot read {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TokenjouleError(f"{name} is not valid UTF-8: byte {error.start} is wrong") from error
    if not text.strip():
        raise UsageError("the prompt is empty")
    return text


def _policies(options: argparse.Namespace) -> list[Any]:
    with deferred_interrupt():
        from engine.stop import StepBudget, policy_named
        from engine.stop.names import AUTO, NONE

    if NONE in options.stop and set(options.stop) != {NONE}:
        raise UsageError("--stop none goes with no other --stop")
    for name in options.stop:  # what is wrong with one is better said before a model is loaded
        if name not in (AUTO, NONE):
            policy_named(name)
    policies: list[Any] = list(options.stop)
    if options.budget_steps is not None:
        policies.append(StepBudget(options.budget_steps))
    return policies


def _run(options: argparse.Namespace) -> int:
    with deferred_interrupt():
        from engine.prompts import read_items, run_prompts
        from engine.runner import Runner, run_one

    items = None if options.prompts is None else read_items(options.prompts)
    prompt = _prompt(options) if items is None else ""
    policies = _policies(options)
    with Runner.open(options, policies, _strategy(options)) as runner:
        if items is not None:
            return run_prompts(runner, items, options.output)
        return run_one(runner, prompt, stdout=sys.stdout)


if __name__ == "__main__":
    leave(main())
