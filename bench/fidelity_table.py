"""What must hold of fidelity, and its table; from records of `bench.fidelity` and nothing else."""

from collections.abc import Sequence

from bench.record import Record, Value
from bench.tables import NOTHING, markdown

INT8_BOUND = 0.005  # nats of KL per token
PEER = "transformers"
Z = 1.96  # half of an interval of 95 %, in standard errors


def kept(record: Record, records: Sequence[Record]) -> bool | None:
    """Whether an arm of ours keeps its bound; None where it has none, or no peer beside it in its run.

    int8: at most `INT8_BOUND`. Unpacked bf16: at most transformers' own and its standard error.
    """
    arm, kl = record.arm, _number(record.derived["kl"])
    if arm.engine == PEER:
        return None
    if arm.quantization == "int8":
        return kl <= INT8_BOUND
    if arm.quantization != "none":
        return None
    beside = [r for r in records if (r.group, r.arm.engine, r.arm.dtype) == (record.group, PEER, arm.dtype)]
    if not beside:
        return None
    return kl <= _number(beside[0].derived["kl"]) + _error(beside[0].derived["kl"])


def fidelity_table(records: Sequence[Record]) -> str:
    """A table for each model; "" where there are no such records."""
    found = [record for record in records if record.benchmark == "fidelity"]
    parts = []
    for model in dict.fromkeys(record.case.model for record in found):
        of_model = [record for record in found if record.case.model == model]
        title = f"{model}, {of_model[0].case.new_tokens} tokens of text"
        header = (
            title,
            "path",
            "KL to fp32, nats",
            "largest",
            "NLL",
            "more than fp32",
            "same top-1",
            "holds",
        )
        parts.append(markdown(header, [_row(record, found) for record in of_model]))
    return "\n\n".join(parts)


def _row(record: Record, records: Sequence[Record]) -> list[str]:
    derived = record.derived
    kl, more = derived["kl"], derived["nll_over_reference"]
    return [
        f"{record.arm.name}, {record.arm.dtype}",
        record.case.phase,
        f"{_number(kl):.2e} ± {_error(kl):.0e}",
        f"{_number(derived['kl_max']):.1e}",
        f"{_number(derived['nll']):.4f}",
        f"{_number(more):+.5f} ± {_error(more):.0e}",
        f"{_number(derived['top1']):.2%}",
        {True: "yes", False: "NO", None: ""}[kept(record, records)],
    ]


def _number(value: Value) -> float:
    if value.value is None:
        raise ValueError(f"{NOTHING}: {value.reason}")
    return value.value


def _error(value: Value) -> float:
    """The standard error that an interval was made of."""
    if value.low is None or value.high is None:
        raise ValueError("a mean without an interval")
    return (value.high - value.low) / (2 * Z)
