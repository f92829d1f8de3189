"""Machine code (SASS) as `nvdisasm -g -c` prints it: instructions, what they read, where addresses come from.

Knows nothing of Triton. What a register may hold is followed through branches and loops to a fixed point, so
that a load can be told by the parameter whose pointer it goes through.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LINE = re.compile(r'//## File "(?:[^"]*/)?([^"/]+)", line (\d+)')
_LABEL = re.compile(r"^\.?(L_\w+):")
_CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\d|!?U?PT)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_REGISTER = re.compile(r"\bU?R\d+\b")
_PARAMETER = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_TARGET = re.compile(r"`\(\.(L_\w+)\)")
_PREDICATE = re.compile(r"!?U?P(\d|T)")
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
# Their first register is read: what they write is predicates.
_NO_RESULT = {"ISETP", "UISETP", "FSETP", "DSETP", "HSETP2", "PLOP3", "UPLOP3", "FCHK", "R2P"}
MATRIX = {"HMMA", "IMMA", "HGMMA", "IGMMA", "QGMMA"}
_DATA = {"LDG", "LD", "LDS", "LDSM", "LDL", "ATOMG", "ATOM", "ATOMS"}  # what they give is no pointer


@dataclass(frozen=True, slots=True)
class Instruction:
    """`opcode` with its modifiers, `predicated` where it may not take effect, `line`: "file.py:12" or ""."""

    address: int
    opcode: str
    operands: tuple[str, ...]
    predicated: bool
    label: str
    line: str

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def bits(self) -> int:
        """What one thread moves, for an access to memory."""
        return next((_WIDTHS[part] for part in self.opcode.split(".")[1:] if part in _WIDTHS), 32)

    @property
    def targets(self) -> tuple[str, ...]:
        """Labels it may continue at, or tells a later instruction to."""
        return tuple(_TARGET.findall(" ".join(self.operands)))

    @property
    def result(self) -> tuple[str, ...]:
        """The registers it writes."""
        if self.name in _NO_RESULT:
            return ()
        rest = [operand for operand in self.operands if not _PREDICATE.fullmatch(operand)]
        if not rest or not (found := re.match(r"(U?R)(\d+)\b", rest[0])):
            return ()
        parts = set(self.opcode.split("."))
        if "128" in parts or self.name in MATRIX or (self.name == "LDSM" and "4" in parts):
            size = 4
        else:
            size = 2 if parts & {"64", "WIDE"} or self.opcode == "CS2R" else 1
        return tuple(f"{found[1]}{int(found[2]) + i}" for i in range(size))

    @property
    def sources(self) -> tuple[str, ...]:
        """Operands it reads: all but the result. The descriptor of memory, desc[UR4], is none."""
        own = self.result[:1]
        read = list(self.operands)
        if own:
            read.remove(next(operand for operand in read if re.match(rf"{own[0]}\b", operand)))
        return tuple(re.sub(r"g?desc\[\w+\]", "", operand) for operand in read)


def instructions(listing: str) -> list[Instruction]:
    """In the order of their addresses."""
    found, line, label = [], "", ""
    for text in listing.splitlines():
        if at := _LINE.search(text):
            line = f"{at[1]}:{at[2]}"
        elif at := _LABEL.match(text):
            label = at[1]
        elif at := _CODE.search(text):
            operands = tuple(part.strip() for part in at[4].split(",")) if at[4].strip() else ()
            predicated = at[2] not in (None, "PT", "UPT")
            found.append(Instruction(int(at[1], 16), at[3], operands, predicated, label, line))
            label = ""
    return found


def pointers(code: Sequence[Instruction], parameters: Mapping[int, str]) -> list[frozenset[str]]:
    """For each instruction the parameters that its sources may be computed from, loaded data left out.

    `parameters`: names of the pointers by offset in constant bank 0. A 64-bit pointer is two halves.
    """
    labels = {instruction.label: index for index, instruction in enumerate(code) if instruction.label}
    joins = _joins(code, labels)
    held: list[dict[str, frozenset[str]]] = [{} for _ in code]  # before each instruction
    found = [frozenset[str]()] * len(code)
    todo = list(range(len(code)))[::-1]
    while todo:
        index = todo.pop()
        instruction, state = code[index], held[index]
        found[index] = _origin(instruction, state, parameters)
        after = dict(state)
        for register in instruction.result:
            fresh = frozenset[str]() if instruction.name in _DATA else found[index]
            if instruction.predicated:
                fresh |= state.get(register, frozenset())
            after[register] = fresh
        for following in joins[index]:
            known = held[following]
            news = {name: may | known.get(name, may) for name, may in after.items() if may}
            if any(known.get(name) != may for name, may in news.items()):
                known.update(news)
                todo.append(following)
    return found


def _joins(code: Sequence[Instruction], labels: Mapping[str, int]) -> list[list[int]]:
    """Where each instruction may continue."""
    barriers = {
        instruction.operands[0]: [labels[target] for target in instruction.targets if target in labels]
        for instruction in code
        if instruction.name == "BSSY"
    }
    joins = []
    for index, instruction in enumerate(code):
        next_ones = [labels[target] for target in instruction.targets if target in labels]
        if instruction.name == "BSYNC":
            next_ones += barriers.get(instruction.operands[0], [])
        conditional = instruction.predicated or any(map(_PREDICATE.fullmatch, instruction.operands))
        ends = instruction.name in ("EXIT", "BRA", "RET") and not conditional
        if not ends and index + 1 < len(code):
            next_ones.append(index + 1)
        joins.append(next_ones)
    return joins


def _origin(
    instruction: Instruction, state: Mapping[str, frozenset[str]], parameters: Mapping[int, str]
) -> frozenset[str]:
    """The parameters that its sources hold pointers of, or parts of pointers."""
    found: set[str] = set()
    for operand in instruction.sources:
        for register in _REGISTER.findall(operand):
            found |= state.get(register, frozenset())
        for offset in _PARAMETER.findall(operand):
            at = int(offset, 16)
            found |= {parameters[start] for start in (at, at - 4) if start in parameters}
    return frozenset(found)


def in_flight(code: Sequence[Instruction]) -> int:
    """The most bytes that one thread has asked global memory for and not yet used, in order of addresses.

    A load counts until an instruction reads its result; a copy to shared memory until a wait for its group.
    """
    open_loads: dict[str, int] = {}  # first register of the result -> bytes
    groups = [0]  # bytes of copies, the last group still open
    most = 0
    for instruction in code:
        read = _REGISTER.findall(" ".join(instruction.sources))
        written = instruction.result
        for register in (*read, *written):
            open_loads.pop(register, None)
        if instruction.name == "LDG" and written:
            open_loads[written[0]] = instruction.bits // 8
        elif instruction.name == "LDGSTS":
            groups[-1] += instruction.bits // 8
        elif instruction.name == "LDGDEPBAR":
            groups.append(0)
        elif instruction.opcode.startswith("DEPBAR.LE"):
            left = int(instruction.operands[1], 0)  # that many whole groups may still be on their way
            del groups[: max(0, len(groups) - 1 - left)]
        most = max(most, sum(open_loads.values()) + sum(groups))
    return most


def looped(code: Sequence[Instruction], index: int) -> bool:
    """Whether the instruction stands between a label and a branch back to it."""
    labels = {instruction.label: at for at, instruction in enumerate(code) if instruction.label}
    return any(
        labels.get(target, len(code)) <= index
        for later in code[index:]
        if later.name == "BRA"
        for target in later.targets
    )
