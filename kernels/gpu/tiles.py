"""How a matrix is cut for the kernels that stream it: pure arithmetic, and a value that can be measured
against.

What decides: bytes that a multiprocessor has asked for and not yet got. 4.3 TB/s over 132 of them and about
0.8 µs from asking to getting are 26 KB each on average; a tile is asked for at once and runs dry until the
next one is, so that tiles of 64 KB keep twice that under way. A program of 8 warps that has 64 KB in
registers takes 128 registers a thread, half of those there are: the first tile of the next kernel fits
beside it.
"""

from dataclasses import dataclass

import torch

from kernels.quantize import Quantized

MOST_ROWS = 16  # vectors at a time
_WARPS = 8
_IN_FLIGHT = 64 << 10  # bytes of one multiprocessor
_WASTE = 1.15  # columns computed over columns there are

# For each form: rows of a tile, the least a product takes; chunks of 32 columns of a warp at a time, as
# many as fit in 128 registers with what unpacking takes; programs of a multiprocessor at most.
_FORMS = {"bf16": (16, 8, 4), "fp16": (16, 4, 2), "fp32": (16, 2, 2), "int8": (32, 4, 2), "int4": (32, 4, 2)}
_BITS = {"bf16": 16, "fp16": 16, "fp32": 32, "int8": 8, "int4": 4}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, slots=True)
class Chip:
    """What of a device decides how kernels are launched. `capability`: 90 is compute capability 9.0."""

    multiprocessors: int
    capability: int

    @classmethod
    def of(cls, device: torch.device) -> "Chip":
        """Of a CUDA device; of any other, where kernels are interpreted, a small one that never was."""
        if device.type != "cuda":
            return cls(3, 80)
        found = torch.cuda.get_device_properties(device)
        return cls(found.multi_processor_count, 10 * found.major + found.minor)

    @property
    def dependent(self) -> bool:
        """Whether a kernel can be launched while the one before it still runs."""
        return self.capability >= 90


@dataclass(frozen=True, slots=True)
class Tile:
    """A program takes `rows` of a matrix at a time, `columns` of them in a step, with `warps`.

    `programs` of them share the tiles of rows. `registers` of a thread at most, None for no limit. Order and
    grouping of a row's sums follow from `columns` and `warps`: where two tiles have them in common, results
    are the same to the bit. Raises `ValueError` for sizes that no kernel takes.
    """

    rows: int
    columns: int
    warps: int
    programs: int
    registers: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} of a tile must be a power of two, not {value}")
        if self.rows < 16 or self.columns < 32 * self.warps or self.programs < 1:
            raise ValueError(f"a tile has 16 rows, 32 columns a warp and a program at least: {self}")

    @property
    def chunks(self) -> int:
        """Of 32 columns, that a warp takes in a step."""
        return self.columns // (32 * self.warps)

    def steps(self, columns: int) -> int:
        """How many times `columns` it takes to cover a matrix of so many."""
        return -(-columns // self.columns)


def form_of(weight: torch.Tensor | Quantized) -> str:
    """bf16, fp16, fp32, int8 or int4. Raises `ValueError` for another dtype."""
    if isinstance(weight, Quantized):
        return f"int{weight.format.bits}"
    if weight.dtype not in _NAMES:
        raise ValueError(f"matrices are bf16, fp16, fp32 or packed, not {weight.dtype}")
    return _NAMES[weight.dtype]


def tile_for(
    rows: int,
    columns: int,
    form: str,
    batch: int,
    chip: Chip,
    *,
    half: int | None = None,
    norms: bool = False,
) -> Tile:
    """For a matrix (rows, columns) of `form` and `batch` vectors. `half`: of `kernels.gpu.gemv`, None for
    plain.

    `norms`: whether its kernel norms whole heads, too, which takes registers of its own. `columns` and
    `warps` of what it returns do not depend on `batch` or `chip`: a row of a batch gets the same sums in
    any batch.
    """
    tall, chunks, resident = _FORMS[form]
    wide = 32 * _WARPS * chunks
    while wide > 32 and -(-columns // wide) * wide > columns * _WASTE:
        wide //= 2
    warps = min(_WARPS, max(wide // (32 * chunks), wide // 128, 1))
    tile_bytes = tall * wide * _BITS[form] // 8
    at_once = min(max(_IN_FLIGHT // tile_bytes, 1), resident) * chip.multiprocessors
    tiles = tiles_of(rows, tall, half)
    rounds = -(-tiles // at_once)
    spare = batch == 1 or not norms
    # Compute capability 8 has 150 to 164 registers to fill where 8 vectors meet bf16, and spills at 128. Of
    # packed weights it needs no more than 128, but is told to: left alone, ptxas spills 8 bytes at 128.
    fits = chip.dependent or batch == 1 or form in ("int8", "int4")
    limited = fits and spare and batch <= 8 and warps == _WARPS and form != "fp32"
    return Tile(tall, wide, warps, -(-tiles // rounds), 128 if limited else None)


def tiles_of(rows: int, tall: int, half: int | None) -> int:
    """How many tiles of `tall` rows there are: each run of `half` pairs is padded to whole ones."""
    if half is None:
        return -(-rows // tall)
    return rows // (2 * half) * -(-half // (tall // 2))
