"""What each backend and each packing costs in fidelity: KL and NLL against our own fp32, on real text.

    python -m bench.fidelity [--backends torch,cpu] [--quantize none,int8,int4] [--out FILE.jsonl]

Every arm reads the same text with teacher forcing, all of it at once (prefill) and token by token through its
cache (decode). Exit status 1 where an arm failed or broke its bound: int8 at most 0.005 nats of KL, bf16 no
further from fp32 than transformers' bf16. int4 is reported.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.divergence import Divergence, Mean, divergence
from bench.forced import Forced, paths
from bench.passages import DATA, Passage, passages_for, stories_directory
from bench.peers import transformers_logits
from bench.record import Arm, Case, Metric, Record, Stamp, Value, append
from bench.stamp import stamp
from engine.cli import Parser, guarded, leave
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.locate import locate
from engine.placement import DTYPES
from engine.schemes import NONE, SCHEMES
from kernels.api import BACKENDS

INT8_BOUND = 0.005  # nats of KL per token
SHORT = {str(kind).removeprefix("torch."): name for name, kind in DTYPES.items()}
REFERENCE = Arm("torch none", "tokenjoule", "torch", NONE, "float32")
PEER = Arm("transformers none", "transformers", "torch", NONE, "bfloat16")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's directory, the text it is judged on, and for each passage the reference's logits of it."""

    id: str
    directory: Path
    passages: tuple[Passage, ...]
    expected: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: str | None, text: Path | None) -> "Subject":
        """Raises `UsageError` for a model without trained weights or known text, or else as `Engine.load`."""
        where = locate(model)
        if where.directory is None:
            raise UsageError(f"{where.id} has no trained weights to be faithful to")
        with _load(where.directory, REFERENCE) as engine:
            if engine.origin.card.shape_only:
                raise UsageError(f"{where.id} has random weights; there is nothing to be faithful to")
            context = engine.model.config.max_context
            passages = tuple(passages_for(where.directory, text, engine.tokenizer, context))
            return cls(where.id, where.directory, passages, tuple(paths(engine.model)["prefill"](passages)))


def fidelity(subject: Subject, forced: Mapping[str, Forced]) -> Iterator[tuple[str, Divergence]]:
    """(path, distance from the reference) for each path of an arm, as `bench.forced.paths` gives them."""
    for path, logits in forced.items():
        yield path, divergence(subject.expected, logits(subject.passages), subject.passages)


@dataclass(frozen=True, slots=True)
class Result:
    """One arm on one path; `verdict` "" where nothing is asked of it."""

    model: str
    arm: Arm
    path: str
    divergence: Divergence
    verdict: str = ""

    @property
    def broken(self) -> bool:
        return self.verdict.startswith("NO")

    def record(self, run: Stamp) -> Record:
        """Samples are the passages' means, intervals ±1.96 standard errors over tokens."""
        found = self.divergence
        tokens = len(found.kl)
        extra = Mean.of(found.nll - found.reference_nll)
        return Record(
            benchmark="fidelity",
            stamp=run,
            arm=self.arm,
            case=Case(self.model, False, self.path, rows=1, context=0, new_tokens=tokens),
            group=f"{self.model} {self.path}",
            metrics={
                "kl": Metric("nat", _by_passage(found.kl, found.sizes)),
                "nll": Metric("nat", _by_passage(found.nll, found.sizes)),
            },
            derived={
                "kl": _value(Mean.of(found.kl)),
                "kl_max": Value("nat", found.kl.max().item(), source="fp32"),
                "nll": _value(Mean.of(found.nll)),
                "nll_over_reference": _value(extra),
                "top1": Value("1", found.top1, source="fp32"),
            },
        )


def measure(arms: Sequence[Arm], subject: Subject, failed: Callable[[Arm, str], None]) -> Iterator[Result]:
    """Every arm on both paths; `failed` hears of those that do not run."""
    peers: dict[str, Divergence] = {}
    for arm in arms:
        try:
            if arm.engine == PEER.engine:
                theirs = transformers_logits.paths(subject.directory, torch.bfloat16)
                for path, found in fidelity(subject, theirs):
                    peers[path] = found
                    yield Result(subject.id, arm, path, found)
                continue
            with _load(subject.directory, arm) as engine:
                for path, found in fidelity(subject, paths(engine.model)):
                    yield Result(subject.id, arm, path, found, verdict(arm, found, peers.get(path)))
        except (TokenjouleError, ImportError) as error:
            failed(arm, str(error))


def verdict(arm: Arm, found: Divergence, peer: Divergence | None) -> str:
    """Whether one of our arms keeps its bound, in words. `peer`: transformers, None where it did not run."""
    kl = Mean.of(found.kl).value
    if arm.quantization == "int8":
        return f"{'yes' if kl <= INT8_BOUND else 'NO'}: at most {INT8_BOUND:g}"
    if arm.quantization == NONE and arm.dtype == PEER.dtype and peer is not None:
        theirs = Mean.of(peer.kl)
        return f"{'yes' if kl <= theirs.value + theirs.error else 'NO'}: no more than transformers"
    return ""


def chosen_arms(backends: Sequence[str], schemes: Sequence[str], dtypes: Sequence[str]) -> list[Arm]:
    """transformers first, which ours are judged by. Raises `UsageError` for unknown names."""
    for given, known, what in (
        (backends, BACKENDS, "backend"),
        (schemes, (NONE, *SCHEMES), "quantisation"),
        (dtypes, tuple(DTYPES), "dtype"),
    ):
        foreign = next((name for name in given if name not in known), None)
        if foreign is not None:
            raise UsageError(f"unknown {what} {foreign!r}; known: {', '.join(known)}")
    ours = [
        Arm(f"{backend} {scheme}", "tokenjoule", backend, scheme, dtype)
        for scheme in schemes
        for dtype, short in SHORT.items()
        for backend in backends
        if short in dtypes
    ]
    return (
        [PEER, *ours] if any(arm.dtype == PEER.dtype and arm.quantization == NONE for arm in ours) else ours
    )


HEADER = ("arm", "dtype", "path", "KL, nats/token", "max", "NLL", "over fp32", "top-1", "kept?")
ROW = "{:18} {:5} {:8} {:>19} {:>8} {:>7} {:>18} {:>7}  {}"


def row(result: Result) -> str:
    """One line of the table."""
    found = result.divergence
    kl, more = Mean.of(found.kl), Mean.of(found.nll - found.reference_nll)
    return ROW.format(
        result.arm.name,
        SHORT[result.arm.dtype],
        result.path,
        f"{kl.value:.2e} ± {kl.error:.0e}",
        f"{found.kl.max().item():.1e}",
        f"{found.nll.mean().item():.4f}",
        f"{more.value:+.5f} ± {more.error:.0e}",
        f"{found.top1:.2%}",
        result.verdict,
    ).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    cli = Parser(prog="python -m bench.fidelity", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument(
        "--model",
        action="append",
        metavar="DIR|bundled",
        help=f"may be repeated; default: bundled, and models/stories260K of {DATA} where that is set",
    )
    cli.add_argument("--text", type=Path, metavar="FILE", help="UTF-8, passages apart by empty lines")
    cli.add_argument("--backends", default="torch,cpu", metavar="NAMES")
    cli.add_argument("--quantize", default=",".join((NONE, *SCHEMES)), metavar="NAMES")
    cli.add_argument("--dtypes", default="bf16", metavar="NAMES", help="of activations; default: bf16")
    cli.add_argument("--out", type=Path, metavar="FILE.jsonl", help="append a record of each arm and path")
    options = cli.parse_args(argv)
    arms = chosen_arms(*(given.split(",") for given in (options.backends, options.quantize, options.dtypes)))
    models = options.model or ["bundled", *([str(stories)] if (stories := stories_directory()) else [])]
    subjects = [Subject.of(None if model == "bundled" else model, options.text) for model in models]
    run = stamp("bench.fidelity", argv, torch.device("cpu"))
    sound = True

    def failed(arm: Arm, reason: str) -> None:
        nonlocal sound
        sound &= arm.engine == PEER.engine  # a peer may be missing, what was asked of us may not
        print(f"skipped {arm.name} {SHORT[arm.dtype]}: {reason}", file=sys.stderr, flush=True)

    for subject in subjects:
        tokens = sum(len(passage.targets) for passage in subject.passages)
        print(f"{subject.id}: {tokens} tokens of {len(subject.passages)} passages")
        print(ROW.format(*HEADER))
        for result in measure(arms, subject, failed):
            print(row(result), flush=True)
            sound &= not result.broken
            if options.out is not None:
                append(options.out, [result.record(run)])
    return 0 if sound else 1


def _load(directory: Path, arm: Arm) -> Engine:
    return Engine.load(
        directory,
        backend=arm.backend,
        device="cpu",
        dtype=SHORT[arm.dtype],
        quantize=arm.quantization,
        energy_source="estimate",
    )


def _value(mean: Mean) -> Value:
    half = 1.96 * mean.error
    return Value("nat", mean.value, mean.value - half, mean.value + half, source="fp32")


def _by_passage(values: Tensor, sizes: Sequence[int]) -> tuple[float, ...]:
    return tuple(part.mean().item() for part in values.split(list(sizes)))


if __name__ == "__main__":
    leave(main())
