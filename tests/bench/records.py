"""Records for the tests of what reads them."""

from bench.record import Arm, Case, Metric, Record, Stamp, Value

STAMP = Stamp(
    run="r1",
    utc="2026-01-02T03:04:05+00:00",
    command=("python", "-m", "bench.decode"),
    commit="0123456789abcdef",
    dirty=False,
    device="a chip",
    cores=2,
    clock_mhz=None,
    versions={"python": "3.11.7", "triton": None},
    environment={},
    reasons={"clock_mhz": "the system does not tell", "triton": "not installed"},
)
OURS = Arm("cpu none", "tokenjoule", "cpu", "none", "bfloat16", 2)
INT8 = Arm("cpu int8", "tokenjoule", "cpu", "int8", "bfloat16", 2)
LLAMA = Arm("llama.cpp BF16", "llama.cpp", "ggml-cpu", "BF16", "bfloat16", 2)
TORCH = Arm("transformers none", "transformers", "torch", "none", "bfloat16", 2)


def decoded(
    arm: Arm,
    seconds: tuple[float, ...],
    *,
    rows: int = 1,
    context: int = 128,
    group: str = "r1/decode",
    stamp: Stamp = STAMP,
    share: float = 0.8,
) -> Record:
    """One arm of `bench.decode` in one case."""
    middle = sorted(seconds)[len(seconds) // 2]
    derived = {
        "rate": Value("tok/s", rows / middle),
        "bandwidth": Value("B/s", 2.5e9 / middle),
        "bytes": Value("B", 2.5e9),
        "read_share": Value("1", share, share - 0.02, share + 0.01, "read: our crew of 2"),
        "energy": Value("J/tok", 0.75, source="estimate, interpolated", measured=False),
    }
    case = Case("preset:llama-3.2-1b", True, "decode", rows, context)
    return Record("decode", stamp, arm, case, group, {"step_s": Metric("s", seconds)}, derived)
