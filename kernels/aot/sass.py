"""Machine code (SASS) as `nvdisasm -g -c` prints it: what is read, written and waited for, and loops.

Knows nothing of Triton. Instructions stand in the order of their addresses, which is that of the loads before
a wait, though not always that of execution.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = re.compile(r'//## File "(?:[^"]*/)?([^"/]+)", line (\d+)')
_LABEL = re.compile(r"^\.?(L_\w+):")
_CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\d|!?U?PT)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_FIRST = re.compile(r"(U?R)(\d+)\b")
_REGISTER = re.compile(r"\bU?R\d+\b")
_DESCRIPTOR = re.compile(r"g?desc\[\w+\]")
_CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_TARGET = re.compile(r"`\(\.(L_\w+)\)")
_PREDICATE = re.compile(r"!?U?P(\d|T)")
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
# Their first register is read: what they write is predicates.
_NO_RESULT = {"ISETP", "UISETP", "FSETP", "DSETP", "HSETP2", "PLOP3", "UPLOP3", "FCHK", "R2P"}
MATRIX = {"HMMA", "IMMA", "HGMMA", "IGMMA", "QGMMA"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """`opcode` with its modifiers, `name` without. `guard`: the predicate under which it takes effect, or "".

    `reads`, `writes`: registers; of a vector that is read, the first. The descriptor of memory, desc[UR4], is
    not counted. `constants`: offsets in bank 0. `targets`: labels it may continue at, or tells a later
    instruction to. `ends`: the next instruction does not follow it. `line`: "file.py:12" or "".
    """

    address: int
    opcode: str
    name: str
    operands: tuple[str, ...]
    guard: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    constants: tuple[int, ...]
    targets: tuple[str, ...]
    ends: bool
    label: str
    line: str

    @property
    def bits(self) -> int:
        """What one thread moves, for an access to memory."""
        return next((_WIDTHS[part] for part in self.opcode.split(".")[1:] if part in _WIDTHS), 32)


def instructions(listing: str) -> list[Instruction]:
    """In the order of their addresses."""
    found, line, label = [], "", ""
    for text in listing.splitlines():
        if at := _LINE.search(text):
            line = f"{at[1]}:{at[2]}"
        elif at := _LABEL.match(text):
            label = at[1]
        elif at := _CODE.search(text):
            found.append(_instruction(at, label, line))
            label = ""
    return found


def _instruction(at: re.Match[str], label: str, line: str) -> Instruction:
    opcode, name = at[3], at[3].partition(".")[0]
    operands = tuple(part.strip() for part in at[4].split(",")) if at[4].strip() else ()
    guard = "" if at[2] in (None, "PT", "UPT") else at[2]
    registers = [operand for operand in operands if not _PREDICATE.fullmatch(operand)]
    result = None if name in _NO_RESULT or not registers else _FIRST.match(registers[0])
    read = " ".join(_DESCRIPTOR.sub("", operand) for operand in registers[result is not None :])
    writes = [f"{result[1]}{int(result[2]) + i}" for i in range(_size(opcode, name))] if result else []
    conditional = guard or len(registers) < len(operands) or opcode in ("BRA.DIV", "BRA.CONV")
    return Instruction(
        int(at[1], 16),
        opcode,
        name,
        operands,
        guard,
        tuple(_REGISTER.findall(read)),
        tuple(writes),
        tuple(int(offset, 16) for offset in _CONSTANT.findall(read)),
        tuple(_TARGET.findall(at[4])),
        name in ("EXIT", "BRA", "RET") and not conditional,
        label,
        line,
    )


def _size(opcode: str, name: str) -> int:
    """Of a result, in registers."""
    parts = set(opcode.split("."))
    if "128" in parts or name in MATRIX or (name == "LDSM" and "4" in parts):
        return 4
    return 2 if parts & {"64", "WIDE"} or opcode == "CS2R" else 1


def until(code: Sequence[Instruction]) -> dict[int, int]:
    """For the index of each load of global memory that of the first instruction that needs it to have come.

    In order of addresses: the first that reads or overwrites some of its result; for a copy to shared memory
    the first wait that leaves fewer groups under way than were made after it; else the end of the code.
    """
    owners: dict[str, int] = {}  # register -> the load that fills it
    groups: list[list[int]] = [[]]  # copies, the last group still open
    found: dict[int, int] = {}
    for index, instruction in enumerate(code):
        for register in (*instruction.reads, *instruction.writes):
            if register in owners:
                found.setdefault(owners.pop(register), index)
        if instruction.name == "LDG":
            owners.update(dict.fromkeys(instruction.writes, index))
        elif instruction.name == "LDGSTS":
            groups[-1].append(index)
        elif instruction.name == "LDGDEPBAR":
            groups.append([])
        elif instruction.opcode.startswith("DEPBAR.LE"):
            left = int(instruction.operands[1], 0)  # that many whole groups may still be under way
            done = max(0, len(groups) - 1 - left)
            found.update((copy, index) for group in groups[:done] for copy in group)
            del groups[:done]
    loads = (index for index, instruction in enumerate(code) if instruction.name in ("LDG", "LDGSTS"))
    return {index: found.get(index, len(code)) for index in loads}


def looped(code: Sequence[Instruction], index: int) -> bool:
    """Whether the instruction stands between a label and a branch back to it."""
    labels = {instruction.label: at for at, instruction in enumerate(code) if instruction.label}
    return any(
        labels.get(target, len(code)) <= index
        for later in code[index:]
        if later.name == "BRA"
        for target in later.targets
    )
