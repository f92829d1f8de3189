"""Which parameter's pointer a load goes through, found in machine code.

What a register may hold is followed through branches and loops to a fixed point. Loaded data is no pointer:
an index read from a table leaves the address that it is added to what it was.
"""

from collections.abc import Iterable, Mapping, Sequence

from kernels.aot.sass import Instruction

_DATA = {"LDG", "LD", "LDSM", "ATOMG", "ATOM", "ATOMS"}  # what they give is no pointer
# Addresses change threads by way of shared memory, or are spilled: each memory counts as one register.
_SPACES = {"LDS": "shared", "STS": "shared", "LDL": "local", "STL": "local"}

_State = dict[str, int]  # of each register the pointers that it may hold or be a part of, a bit each


def pointers(code: Sequence[Instruction], parameters: Mapping[int, str]) -> list[frozenset[str]]:
    """For each instruction the parameters that what it reads may be computed from.

    `parameters`: names of the pointers by offset in constant bank 0. A 64-bit pointer is two halves.
    """
    bits = {offset + half: 1 << place for place, offset in enumerate(parameters) for half in (0, 4)}
    direct = [_union(bits.get(offset, 0) for offset in instruction.constants) for instruction in code]
    jumps = _jumps(code)
    starts = {0, *(target for targets in jumps for target in targets)}
    found = [0] * len(code)
    begins: dict[int, _State] = {0: {}}  # what registers may hold where a block begins
    todo = [0]
    while todo and code:
        index = todo.pop()
        state = dict(begins[index])
        guarded: _State = {}  # within the block: "R2@!P0" is R2 where P0 does not hold
        while True:
            instruction = code[index]
            held = (
                guarded.get(f"{name}@{instruction.guard}", state.get(name, 0)) for name in instruction.reads
            )
            found[index] |= direct[index] | _union(held)
            _apply(instruction, found[index], state, guarded)
            following = list(jumps[index])
            goes_on = not instruction.ends and index + 1 < len(code)
            if goes_on and index + 1 in starts:
                following.append(index + 1)
                goes_on = False
            todo += (target for target in following if _merge(state, target, begins))
            if not goes_on:
                break
            index += 1
    names = list(parameters.values())
    return [frozenset(name for place, name in enumerate(names) if may >> place & 1) for may in found]


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def _apply(instruction: Instruction, read: int, state: _State, guarded: _State) -> None:
    """What registers may hold after the instruction, whose sources may hold `read`."""
    space = _SPACES.get(instruction.name)
    if space and not instruction.writes:
        state[space] = state.get(space, 0) | read
    if instruction.name in _DATA:
        read = 0
    elif space:
        read = state.get(space, 0)
    changed = {*instruction.writes, *instruction.operands}  # a predicate among these may be a result
    for name in [name for name in guarded if changed & {*name.replace("!", "").split("@")}]:
        del guarded[name]
    for register in instruction.writes:
        if instruction.guard:
            guarded[f"{register}@{instruction.guard}"] = read
        state[register] = read | (state.get(register, 0) if instruction.guard else 0)


def _merge(state: _State, target: int, begins: dict[int, _State]) -> bool:
    """Whether a block that is come to with `state` learns anything by it."""
    known = begins.get(target)
    if known is None:
        begins[target] = dict(state)
        return True
    news = {name: may for name, may in state.items() if may & ~known.get(name, 0)}
    for name, may in news.items():
        known[name] = known.get(name, 0) | may
    return bool(news)


def _jumps(code: Sequence[Instruction]) -> list[list[int]]:
    """Where each instruction may continue but for the next: BSYNC at the label of the BSSY before it."""
    labels = {instruction.label: index for index, instruction in enumerate(code) if instruction.label}
    barriers: dict[str, list[int]] = {}
    jumps = []
    for instruction in code:
        targets = [labels[target] for target in instruction.targets if target in labels]
        if instruction.name == "BSSY":
            barriers[instruction.operands[0]], targets = targets, []
        elif instruction.name == "BSYNC":
            targets = barriers.get(instruction.operands[0], [])
        jumps.append(targets)
    return jumps
