"""The most registers that a thread of each kernel may use, and why that many.

An SM has 65,536 registers, given out by 256 a warp: two programs of 8 warps fit at 128 a thread, of 4 warps
eight at 64, four at 128 and three at 168. Nothing here is told to the compiler: that is `Tile.registers`.
Where a figure of today stands in a reason it is of Triton 3.7.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kernels.aot.record import Variant


@dataclass(frozen=True, slots=True)
class Ceiling:
    """`registers` a thread of `kernel`, where its constants are as in `where`, on `capability` 8 or 9."""

    kernel: str
    registers: int
    reason: str
    where: Mapping[str, object] = field(default_factory=dict)
    capability: int | None = None

    def covers(self, variant: Variant) -> bool:
        """Whether the variant is of this kernel, these constants and this capability."""
        if self.kernel != variant.name or self.capability not in (None, variant.capability // 10):
            return False
        constants = variant.named_constants
        return all(name in constants and constants[name] == value for name, value in self.where.items())


_TWO = "two programs of 8 warps on an SM: the next kernel's first tile is on its way beside this one's last"
_PLAIN_ON_8 = "150 to 164 where several vectors meet bf16, spilt at 128; more shows that more is held"
_SIXTEEN = "sums of 16 vectors: one program on an SM; 15 below the 255 there are, where the compiler spills"
_NORMS = "it also norms whole heads of several rows: one program on an SM; 180 with the 8 rows of a Qwen3-8B"
_BY_SHARED = "shared memory, not registers, is to decide how many programs an SM of capability 9 holds"
_TALL = "one program of 8 warps on an SM, with 128 queries or those of all rows; an eighth below 255"
_FEW = "programs of one short wave, or two: what counts is that the next kernel's first ones fit beside them"
_SHORT = "it waits for a token, then for its row: 32 warps on an SM, whatever else is there"


def _streams(kernel: str, where: Mapping[str, object] | None = None) -> tuple[Ceiling, ...]:
    """Of a kernel that streams a matrix past vectors, `kernels.gpu.gemv`."""
    also = where or {}
    return (
        Ceiling(kernel, 240, _SIXTEEN, {"BATCH": 16, **also}),
        Ceiling(kernel, 168, _PLAIN_ON_8, {"BATCH": 8, "FORM": "bf16", **also}, 8),
        Ceiling(kernel, 168, _PLAIN_ON_8, {"BATCH": 4, "FORM": "bf16", **also}, 8),
        Ceiling(kernel, 128, _TWO, also),
    )


# The first that covers a variant counts.
CEILINGS: tuple[Ceiling, ...] = (
    *_streams("attention_input_kernel", {"q_norm": None}),
    Ceiling("attention_input_kernel", 128, _TWO, {"BATCH": 1}),
    Ceiling("attention_input_kernel", 192, _NORMS),
    *_streams("add_kernel"),
    *_streams("gate_up_kernel"),
    *_streams("head_kernel"),
    Ceiling("decode_kernel", 128, _BY_SHARED, {"WIDTH": 64}),
    Ceiling("decode_kernel", 168, _BY_SHARED, {"WIDTH": 128}),
    Ceiling("shared_parts_kernel", 224, _TALL, {"QUERIES": 128}),
    Ceiling("shared_parts_kernel", 224, _TALL, {"QUERIES": 64}),
    Ceiling("shared_parts_kernel", 128, _BY_SHARED, {"WIDTH": 64}),
    Ceiling("shared_parts_kernel", 168, _BY_SHARED, {"WIDTH": 128}),
    Ceiling("prefill_kernel", 128, _BY_SHARED, {"QUERIES": 16}),
    Ceiling("prefill_kernel", 128, _BY_SHARED, {"QUERIES": 128, "WIDTH": 64}, 9),
    Ceiling("prefill_kernel", 224, _TALL, {"QUERIES": 128}),
    Ceiling("merge_kernel", 168, _FEW),
    Ceiling("narrow_kernel", 128, _FEW),
    Ceiling("choose_kernel", 128, _FEW),
    Ceiling("dense_kernel", 64, _SHORT),
    Ceiling("packed_kernel", 64, _SHORT),
    Ceiling("begin_kernel", 64, _SHORT),
)


def ceiling_of(variant: Variant) -> Ceiling | None:
    """The ceiling of a variant, None where nobody has set one."""
    return next((ceiling for ceiling in CEILINGS if ceiling.covers(variant)), None)
