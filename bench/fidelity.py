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

from bench.contender import CPU
from bench.divergence import Divergence, Mean, divergence
from bench.fidelity_table import PEER as TRANSFORMERS
from bench.fidelity_table import Z, fidelity_table, kept
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

BUNDLED = "bundled"
SHORT = {str(kind).removeprefix("torch."): name for name, kind in DTYPES.items()}
REFERENCE = Arm("torch none", "tokenjoule", "torch", NONE, "float32")
PEER = Arm("transformers none", TRANSFORMERS, "torch", NONE, "bfloat16")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's directory, the text it is judged on, and for each passage the reference's logits of it."""

    id: str
    directory: Path
    passages: tuple[Passage, ...]
    expected: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: str, text: Path | None = None, device: torch.device = CPU) -> "Subject":
        """Raises `UsageError` for a model without trained weights or known text, or else as `Engine.load`."""
        where = locate(None if model == BUNDLED else model)
        if where.directory is None:
            raise UsageError(f"{where.id} has no trained weights to be faithful to")
        with _load(where.directory, REFERENCE, device) as engine:
            if engine.origin.card.shape_only:
                raise UsageError(f"{where.id} has random weights; there is nothing to be faithful to")
            context = engine.model.config.max_context
            passages = tuple(passages_for(where.directory, text, engine.tokenizer, context))
            return cls(where.id, where.directory, passages, tuple(paths(engine.model)["prefill"](passages)))


def fidelity(subject: Subject, forced: Mapping[str, Forced]) -> Iterator[tuple[str, Divergence]]:
    """(path, distance from the reference) for each path of an arm, as `bench.forced.paths` gives them."""
    for path, logits in forced.items():
        yield path, divergence(subject.expected, logits(subject.passages), subject.passages)


def default_models() -> list[str]:
    """Those whose text is known: the bundled model, and with test data its TinyStories model."""
    stories = stories_directory()
    return [BUNDLED] if stories is None else [BUNDLED, str(stories)]


def records(
    arms: Sequence[Arm],
    subject: Subject,
    run: Stamp,
    failed: Callable[[Arm, str], None],
    device: torch.device = CPU,
) -> Iterator[Record]:
    """Every arm on both paths on `device`; `failed` hears of those that do not run."""
    for arm in arms:
        print(f"fidelity of {arm.name} on {subject.id}", file=sys.stderr, flush=True)
        try:
            if arm.engine == PEER.engine:
                theirs = transformers_logits.paths(subject.directory, DTYPES[SHORT[arm.dtype]], device)
                for path, found in fidelity(subject, theirs):
                    yield record(subject, arm, path, found, run)
                continue
            with _load(subject.directory, arm, device) as engine:
                for path, found in fidelity(subject, paths(engine.model)):
                    yield record(subject, arm, path, found, run)
        except (TokenjouleError, ImportError) as error:
            failed(arm, str(error))


def record(subject: Subject, arm: Arm, path: str, found: Divergence, run: Stamp) -> Record:
    """Samples are the passages' means; intervals are ±1.96 standard errors over tokens."""

    def mean(values: Tensor) -> Value:
        over = Mean.of(values)
        half = Z * over.error
        return Value("nat", over.value, over.value - half, over.value + half, source="fp32")

    def samples(values: Tensor) -> Metric:
        return Metric("nat", tuple(part.mean().item() for part in values.split(list(found.sizes))))

    return Record(
        benchmark="fidelity",
        stamp=run,
        arm=arm,
        case=Case(subject.id, False, path, rows=1, context=0, new_tokens=len(found.kl)),
        group=f"{run.run}/{subject.id} {path}",
        metrics={"kl": samples(found.kl), "nll": samples(found.nll)},
        derived={
            "kl": mean(found.kl),
            "kl_max": Value("nat", found.kl.max().item(), source="fp32"),
            "nll": mean(found.nll),
            "nll_over_reference": mean(found.nll - found.reference_nll),
            "top1": Value("1", found.top1, source="fp32"),
        },
    )


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
    subjects = [Subject.of(model, options.text) for model in options.model or default_models()]
    run = stamp("bench.fidelity", argv, torch.device("cpu"))
    sound = True

    def failed(arm: Arm, reason: str) -> None:
        nonlocal sound
        sound &= arm.engine == PEER.engine  # a peer may be missing, what was asked of us may not
        skip(arm, reason)

    for subject in subjects:
        found = []
        for done in records(arms, subject, run, failed):
            found.append(done)
            if options.out is not None:
                append(options.out, [done])
        print(fidelity_table(found), end="\n\n", flush=True)
        sound &= all(kept(done, found) is not False for done in found)
    return 0 if sound else 1


def skip(arm: Arm, reason: str) -> None:
    """One line on stderr."""
    print(f"skipped fidelity of {arm.name} {SHORT[arm.dtype]}: {reason}", file=sys.stderr, flush=True)


def _load(directory: Path, arm: Arm, device: torch.device) -> Engine:
    # No joules are asked for, but an engine has a meter, and the estimate is of CPUs alone.
    source = "estimate" if device.type == "cpu" else "auto"
    return Engine.load(
        directory,
        backend=arm.backend,
        device="cpu" if device.type == "cpu" else device.index or 0,
        dtype=SHORT[arm.dtype],
        quantize=arm.quantization,
        energy_source=source,
    )


if __name__ == "__main__":
    leave(main())
