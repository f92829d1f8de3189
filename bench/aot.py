"""Every Triton kernel that a model launches, compiled for GPUs that are not here, and judged by its code.

    python -m bench.aot --model preset:llama-3.2-1b,preset:llama-3.1-8b --arch 80,89,90

A row a variant: registers and stack (bytes) of a thread, shared memory (bytes) of a program, programs on an
SM, bits of the loads of what is streamed, whether weights are asked for before the wait for the kernel before
it and how many bytes a thread, and below it what gates find. The last line of stdout is one JSON object; exit
status 1 where a gate does not hold. Nothing runs and nothing is timed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.aot_launches import CHIPS, SELECTIONS, Use, variants
from bench.arguments import counts, names
from bench.lineup import SCHEMES, known
from bench.record import Arm, Case, Record, Stamp, Value, append
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.config import ModelConfig
from engine.errors import TokenjouleError, UsageError
from engine.locate import locate
from engine.placement import DTYPES
from engine.source import read_config
from kernels.aot import gates
from kernels.aot.ceilings import ceiling_of
from kernels.aot.compile import Code, Refusal, compile_all
from kernels.aot.contracts import contract_of, judged
from kernels.aot.record import Variant
from kernels.gpu.tiles import MOST_ROWS

MODELS = ("preset:llama-3.2-1b", "preset:llama-3.1-8b")
_COLUMNS = {
    "kernel": 22,
    "sm": 2,
    "registers": 9,
    "ceiling": 7,
    "stack": 5,
    "shared": 6,
    "per SM": 6,
    "loads": 6,
    "ahead": 10,
    "warps": 5,
    "holds": 5,
    "for": 0,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a variant, where it is used, and what is wrong with it, a line each."""

    variant: Variant
    uses: Sequence[Use]
    code: Code | None
    wrong: tuple[str, ...]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.aot", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("--model", type=names, default=MODELS, metavar="DIR|HF-ID|bundled:NAME|preset:NAME,…")
    cli.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    cli.add_argument("--quantize", type=names, default=SCHEMES, metavar="none,int8,int4")
    cli.add_argument("--rows", type=counts, default=(1, 8), metavar="N,N", help="default: 1,8")
    cli.add_argument(
        "--select",
        type=names,
        default=("greedy", "filtered"),
        metavar="KIND,KIND",
        help=f"of {', '.join(SELECTIONS)} (default: greedy,filtered)",
    )
    cli.add_argument("--arch", type=counts, default=tuple(CHIPS), metavar="N,N", help="default: 80,89,90")
    cli.add_argument("--only", default="", metavar="PATTERN", help="kernels whose name holds this")
    cli.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="add the records to this file")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _main(parser().parse_args(arguments), arguments))


def _main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    known(options.quantize, SCHEMES, "scheme")
    known(options.select, tuple(SELECTIONS), "selection")
    known([str(arch) for arch in options.arch], [str(arch) for arch in CHIPS], "compute capability")
    if max(options.rows) > MOST_ROWS:
        raise UsageError(f"decode kernels take 1 to {MOST_ROWS} rows, not {max(options.rows)}")
    if options.jobs < 1:
        raise UsageError(f"at least 1 job is needed, not {options.jobs}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UsageError("TRITON_INTERPRET is set: the interpreter and the compiler do not share a process")
    models = {name: _config(name) for name in options.model}
    where = stamp("bench.aot", arguments, torch.device("cpu"))
    found = []
    print(_row(_COLUMNS))
    for verdict in judge(_asked(options, models), jobs=options.jobs):
        print(_row(_cells(verdict)), *(f"    FAILS: {line}" for line in verdict.wrong), sep="\n", flush=True)
        found.append(verdict)
        if options.out:
            append(options.out, [_record(verdict, options.dtype, where)])
    if not found:
        raise UsageError(f"no kernel's name holds {options.only!r}")
    failed = sum(bool(verdict.wrong) for verdict in found)
    result = {
        "schema": "tokenjoule.bench.aot/1",
        "run": where.run,
        "variants": len(found),
        "failed": failed,
        "holds": not failed,
        "file": None if options.out is None else str(options.out),
    }
    print(json.dumps(result))
    return 1 if failed else 0


def _config(name: str) -> ModelConfig:
    config = read_config(locate(name), random_weights=name.startswith("preset:"))
    if config.quantization is not None:
        raise TokenjouleError(f"{name} is packed already; --quantize says how matrices are packed")
    return config


def _asked(options: argparse.Namespace, models: Mapping[str, ModelConfig]) -> dict[Variant, list[Use]]:
    """What the options ask for; kernels compiled for another capability are other variants."""
    asked: dict[Variant, list[Use]] = {}
    for capability in options.arch:
        every = variants(
            models, DTYPES[options.dtype], options.quantize, options.rows, options.select, capability
        )
        asked |= {variant: uses for variant, uses in every.items() if options.only in variant.name}
    return asked


def judge(asked: Mapping[Variant, Sequence[Use]], *, jobs: int) -> Iterator[Verdict]:
    """Compiles, `jobs` at a time, and judges; progress goes to stderr."""
    compiled = compile_all(asked, workers=jobs)
    for number, ((variant, uses), code) in enumerate(zip(asked.items(), compiled, strict=True), 1):
        print(f"{number}/{len(asked)} {variant.name} sm_{variant.capability}", file=sys.stderr, flush=True)
        if isinstance(code, Refusal):
            yield Verdict(variant, uses, None, (f"does not compile: {code.reason}",))
        else:
            wrong = tuple(line for lines in judged(code).values() for line in lines)
            yield Verdict(variant, uses, code, wrong)


def _widths(code: Code) -> str:
    """Bits of the loads of what the kernel streams, of each width once; "-" where it streams nothing."""
    streamed = frozenset[str]().union(*contract_of(code.variant).streams)
    bits = {load.bits for load in code.accesses if load.kind == "load" and load.pointers & streamed}
    return "/".join(map(str, sorted(bits))) or "-"


def _cells(verdict: Verdict) -> list[str]:
    code, variant = verdict.code, verdict.variant
    first, ceiling = verdict.uses[0], ceiling_of(variant)
    more = f" (+{len(verdict.uses) - 1})" if len(verdict.uses) > 1 else ""
    shown, holds = ["-"] * 7, "NO" if verdict.wrong else "yes"
    if code is not None:
        weights = contract_of(variant).weights
        ahead = _ahead(gates.ahead(code, weights)) if weights and variant.dependent else "-"
        limit = "none" if ceiling is None else str(ceiling.registers)
        counted = [str(code.registers), limit, str(code.stack), str(code.shared), str(gates.residents(code))]
        shown = [*counted, _widths(code), ahead]
    return [variant.name, str(variant.capability), *shown, str(variant.warps), holds, f"{first}{more}"]


def _ahead(size: int) -> str:
    return f"yes, {size} B" if size else "no"


def _row(cells: Iterable[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _record(verdict: Verdict, dtype: str, where: Stamp) -> Record:
    """Of a variant's first use. Counted by the compiler, not measured: there are no samples."""
    code, variant, use = verdict.code, verdict.variant, verdict.uses[0]
    note = f"compiled for sm_{variant.capability}, not run; {variant.label}"
    arm = Arm(
        f"{variant.name} sm_{variant.capability}", "tokenjoule", "gpu", use.quantization, dtype, note=note
    )
    case = Case(use.model, True, use.what, use.rows, use.context, use.new_tokens)
    failing = "; ".join(verdict.wrong)
    derived = {"holds": Value("1", float(not verdict.wrong), source=failing)}
    weights = contract_of(variant).weights
    figures = {
        "registers": ("1", None if code is None else code.registers),
        "stack": ("B", None if code is None else code.stack),
        "shared": ("B", None if code is None else code.shared),
        "programs_per_sm": ("1", None if code is None else gates.residents(code)),
        "weights_before_wait": ("B", None if code is None else gates.ahead(code, weights)),
        "weights_in_flight": ("B", None if code is None else gates.in_flight(code, weights)),
    }
    for figure, (unit, value) in figures.items():
        derived[figure] = Value(unit, value, source="machine code", reason=failing if value is None else None)
    return Record("aot", where, arm, case, f"{where.run}/sm_{variant.capability}", {}, derived)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
