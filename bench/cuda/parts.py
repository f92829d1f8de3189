"""The parts of `bench.gpu` in the order in which they are run: what is most worth knowing comes first."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from bench.cuda.setting import Setting
from engine.errors import UsageError

LIMIT_S = 480.0  # of any part


@dataclass(frozen=True, slots=True)
class Part:
    """`name`: of the module of `bench.cuda` whose `run` it is. `expected_s`: an estimate, not measured."""

    name: str
    expected_s: float
    what: str

    def load(self) -> Callable[[Setting], None]:
        """Imports the part's module only."""
        found: Callable[[Setting], None] = import_module(f"bench.cuda.{self.name}").run
        return found


PARTS = (
    Part("smoke", 120, "every kernel against the reference, graphs, tokens of whole engines, the meter"),
    Part(
        "decode", 300, "steps of the 1B and the 8B at three contexts beside torch and transformers, J/token"
    ),
    Part("kernels", 300, "every decode kernel cold, share of the read bandwidth, beside torch's own"),
    Part("ablations", 70, "graph, dependent launch, fused kernels, late host left out; 8 steps a graph"),
    Part("quantized", 75, "int8 and int4 decode beside our own bf16"),
    Part("rows", 90, "samples of a shared prompt in one batch, and whether rows change each other"),
    Part("overhead", 60, "what hooks and the meter cost, in time and in joules"),
    Part("sensor", 70, "period, window and lag of the power sensor, idle power; keeps recording, profiles"),
    Part("energy_truth", 260, "joules of single requests beside the same work repeated for seconds"),
    Part("fidelity", 60, "KL and NLL against fp32 beside transformers' bf16"),
    Part("prefill", 45, "512 and 4096 tokens at once beside transformers"),
    Part("figures", 300, "the paper's figures 1 to 4 on five architectures, random weights: shape only"),
)


def chosen(names: tuple[str, ...]) -> tuple[Part, ...]:
    """Those named, in the order given; all for none. Raises `UsageError` for an unknown name."""
    known = {part.name: part for part in PARTS}
    foreign = next((name for name in names if name not in known), None)
    if foreign is not None:
        raise UsageError(f"unknown part {foreign!r}; known: {', '.join(known)}")
    return tuple(known[name] for name in names) or PARTS
