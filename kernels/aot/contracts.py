"""What each kernel of `kernels.gpu` streams, what of that never changes, and whether its code holds to it."""

from collections.abc import Mapping
from dataclasses import dataclass

from kernels.aot import gates
from kernels.aot.ceilings import ceiling_of
from kernels.aot.compile import Code
from kernels.aot.record import Variant

Names = frozenset[str]


@dataclass(frozen=True, slots=True)
class Contract:
    """`streams`: what is read as a whole, each by the parameters that point to it. `frozen`: parameters that
    no kernel ever writes while a model runs; a stream of these has to be asked for before the wait.
    """

    streams: tuple[Names, ...] = ()
    frozen: Names = frozenset()

    @property
    def weights(self) -> Names:
        """Parameters of the streams that no kernel writes: matrices, that is."""
        return frozenset[str]().union(*self.streams) & self.frozen


# Scales of packed matrices are 1/64 to 1/8 of the bytes, and come by 64 bits: no stream of their own.
_MATRIX = (frozenset({"words"}),)
_CACHE = frozenset({"keys"}), frozenset({"values"})

# By "module:name". Embedding and merging read a few rows whose places they must first be told: no streams.
CONTRACTS: Mapping[str, Contract] = {
    "kernels.gpu.embed:dense_kernel": Contract((frozenset({"table"}),)),
    "kernels.gpu.embed:packed_kernel": Contract(),
    "kernels.gpu.stream:begin_kernel": Contract((frozenset({"gain"}),), frozenset({"gain"})),
    "kernels.gpu.stream:add_kernel": Contract(_MATRIX, frozenset({"words", "scales", "bias", "gain"})),
    "kernels.gpu.attention_input:attention_input_kernel": Contract(
        _MATRIX, frozenset({"words", "scales", "bias", "q_norm", "k_norm", "cos", "sin"})
    ),
    "kernels.gpu.attention:decode_kernel": Contract(_CACHE),
    "kernels.gpu.mlp:gate_up_kernel": Contract(_MATRIX, frozenset({"words", "scales", "bias"})),
    "kernels.gpu.head:head_kernel": Contract(_MATRIX, frozenset({"words", "scales"})),
    "kernels.gpu.filters:narrow_kernel": Contract((frozenset({"logits"}),)),
    "kernels.gpu.filters:choose_kernel": Contract(),
    "kernels.gpu.shared_prefix:shared_parts_kernel": Contract(_CACHE),
    "kernels.gpu.shared_prefix:merge_kernel": Contract((frozenset({"parts"}),)),
    "kernels.gpu.prefill:prefill_kernel": Contract((frozenset({"q"}), *_CACHE)),
}


def contract_of(variant: Variant) -> Contract:
    """That of its kernel; an empty one where nobody has written any, which `judged` tells."""
    return CONTRACTS.get(variant.kernel, Contract())


def straight_to_registers(code: Code) -> list[str]:
    """No weight of `kernels.gpu.gemv` passes through shared memory, which holds vectors and sums alone."""
    given = code.variant.named_constants
    if "FORM" not in given:
        return []
    columns, element = 32 * given["K"] * given["WARPS"], 4 if given["FORM"] in ("fp16", "fp32") else 2
    vectors = given["BATCH"] * columns * element
    sums = given["WARPS"] * given["ROWS"] * max(given["BATCH"], 8) * 4
    most = max(vectors, sums)
    return [f"{code.shared} bytes of shared memory, {most} without weights"] if code.shared > most else []


def judged(code: Code) -> dict[str, list[str]]:
    """What each gate finds, by its name: nothing but empty lists where the kernel holds to its contract."""
    contract, ceiling = contract_of(code.variant), ceiling_of(code.variant)
    unknown = code.variant.kernel not in CONTRACTS
    return {
        "contract": ["nothing is said of what it streams"] if unknown else [],
        "stack": gates.no_stack(code),
        "fits": gates.fits(code),
        "shared": straight_to_registers(code),
        "loads": gates.wide_loads(code, contract.streams),
        "wait": gates.dependent(code, contract.frozen, contract.streams),
        "registers": ["no ceiling is set for its registers"]
        if ceiling is None
        else gates.registers(code, ceiling.registers),
    }
