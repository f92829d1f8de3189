"""`python -m engine.generate`: a prompt in, an answer and its joules out.

stdout is the answer as it streams (`--json`: one object); stderr is progress, live joules and one summary
line. Exit status: 0 done, 1 failed, 2 wrong usage, 130 cancelled with Ctrl-C.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import TokenjouleError, UsageError

CANCELLED = 130
CLOSED_PIPE = 141  # what a shell reports for a program ended by SIGPIPE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line; `--help` prints it."""
    cli = _Parser(prog="python -m engine.generate", description=__doc__.split("\n\n")[0], allow_abbrev=False)
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
    model.add_argument("--model", metavar="DIR|HF-ID|preset:NAME", help="default: the bundled model")
    model.add_argument("--random-weights", action="store_true", help="shape only; what presets need")
    model.add_argument("--backend", choices=("auto", "gpu", "cpu", "torch"), default="auto")
    model.add_argument(
        "--device", metavar="N", help="CUDA device, or cpu (default: first CUDA device, else cpu)"
    )
    model.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
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
        metavar="none|FILE:CLASS",
        help="a stop policy; may be repeated",
    )
    energy = cli.add_argument_group("energy")
    energy.add_argument(
        "--energy-source",
        default="auto",
        metavar="SOURCE",
        help="auto, nvml, nvml-power, rapl, estimate, simulated[:PROFILE] or replay:FILE",
    )
    energy.add_argument("--require-measured", action="store_true", help="refuse estimates and simulations")
    output = cli.add_argument_group("output")
    output.add_argument("--trace", metavar="FILE.jsonl", help="every step and every reading of the meter")
    output.add_argument("--plot", metavar="FILE.png", help="joules per token, drawn (needs matplotlib)")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout, and nothing else")
    output.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        options = parser().parse_args(argv)
        _check(options)
        return _run(options)
    except UsageError as error:
        return _complain(error, 2)
    except TokenjouleError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("cancelled", CANCELLED)
    except BrokenPipeError:
        # Nobody reads any more. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        return _complain(f"cannot write: {error.strerror or error}", 1)


def _complain(message: object, status: int) -> int:
    line = " ".join(str(message).split())
    print(f"tokenjoule: {line}", file=sys.stderr)
    return status


def _check(options: argparse.Namespace) -> None:
    """What can be refused before a model is loaded."""
    given = [options.prompt is not None, options.prompt_file is not None, options.prompts is not None]
    if sum(given) != 1:
        raise UsageError("give exactly one of a prompt, --prompt-file or --prompts")
    if options.output and not options.prompts:
        raise UsageError("--output goes with --prompts")
    if options.plot and options.prompts:
        raise UsageError("--plot draws one request; it does not go with --prompts")
    if options.system is not None and not options.chat:
        raise UsageError("--system goes with --chat")
    for path in (options.trace, options.output):
        if path:
            _writable(path, keep=path == options.output)
    if options.plot:
        _writable(options.plot, keep=True)
        from engine.plot import require_matplotlib

        require_matplotlib()


def _writable(path: str, *, keep: bool) -> None:
    existed = os.path.exists(path)
    try:
        with open(path, "a" if keep else "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error
    if keep and not existed:
        os.remove(path)


def _prompt(options: argparse.Namespace) -> str:
    text: str
    if options.prompt is not None:
        text = options.prompt
    else:
        name = "stdin" if options.prompt_file == "-" else options.prompt_file
        try:
            stdin = options.prompt_file == "-"
            raw = sys.stdin.buffer.read() if stdin else Path(options.prompt_file).read_bytes()
            text = raw.decode("utf-8")
        except OSError as error:
            raise TokenjouleError(f"cannot read {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TokenjouleError(f"{name} is not valid UTF-8: byte {error.start} is wrong") from error
    if not text.strip():
        raise UsageError("the prompt is empty")
    return text


def _policies(options: argparse.Namespace) -> list[Any]:
    from engine.stop import StepBudget, load_policy

    policies: list[Any] = [load_policy(name) for name in options.stop if name != "none"]
    if options.budget_steps is not None:
        policies.append(StepBudget(options.budget_steps))
    return policies


def _run(options: argparse.Namespace) -> int:
    from engine.prompts import run_prompts
    from engine.requests import Requests, run_one

    prompt = None if options.prompts else _prompt(options)
    policies = _policies(options)
    with Requests.open(options, policies) as requests:
        if prompt is None:
            return run_prompts(requests, options.prompts, options.output)
        return run_one(requests, prompt, stdout=sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
