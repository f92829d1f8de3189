"""Loads are told by the pointer that they go through, whatever way the address took."""

from kernels.aot import sass
from kernels.aot.pointers import pointers
from tests.kernels.aot.listings import AMPERE, HOPPER


def memory(listing: str, parameters: dict[int, str]) -> list[tuple[str, int, set[str], str]]:
    """(opcode, bits, pointers, line) of what reads or writes global memory."""
    code = sass.instructions(listing)
    names = pointers(code, parameters)
    return [
        (each.opcode, each.bits, set(may), each.line)
        for each, may in zip(code, names, strict=True)
        if each.name in ("LDG", "STG", "LDGSTS")
    ]


def test_loads_have_their_width_their_pointer_and_their_line():
    assert memory(HOPPER, {0x210: "x", 0x218: "weight", 0x228: "out"}) == [
        ("LDG.E.128", 128, {"weight"}, "toys.py:9"),
        ("LDG.E.128", 128, {"weight"}, "toys.py:9"),
        ("LDG.E.U16", 16, {"x"}, "toys.py:12"),
        ("STG.E.64", 64, {"out"}, "toys.py:12"),
    ]


def test_pointers_that_stand_in_operands_are_found():
    assert [(bits, names) for _, bits, names, _ in memory(AMPERE, {0x160: "a", 0x168: "b"})] == [
        (128, {"a"}),
        (128, {"b"}),
        (64, {"b"}),
        (128, {"b"}),
        (128, {"b"}),
    ]


# Written by hand in nvdisasm's form: what straight-line reading would get wrong.
def address_after(*lines: str) -> set[str]:
    """The pointers of the last load."""
    listing = "\n".join(line if line[0] == "." else f"/*{at:04x}*/ {line} ;" for at, line in enumerate(lines))
    found: set[str] = memory(listing, {0x210: "a", 0x218: "b"})[-1][2]
    return found


def test_an_overwritten_address_is_forgotten():
    two = ("LDC.64 R2, c[0x0][0x210]", "LDC.64 R2, c[0x0][0x218]", "LDG.E R4, [R2.64]")
    assert address_after(*two) == {"b"}
    assert address_after(two[0], "@P0 LDC.64 R2, c[0x0][0x218]", two[2]) == {"a", "b"}
    guarded = (two[0], "@P0 LDC.64 R2, c[0x0][0x218]", "@P0 LDG.E R4, [R2.64]")
    assert address_after(*guarded) == {"b"}
    assert address_after(*guarded[:2], "ISETP.GE.AND P0, PT, R8, R9, PT", guarded[2]) == {"a", "b"}
    assert address_after(*guarded[:2], "@!P0 LDG.E R4, [R2.64]") == {"a", "b"}
    assert address_after(two[0], "LDG.E.64 R2, [R2.64]", two[2]) == set()
    assert address_after(two[0], "ISETP.GE.AND P0, PT, R2, R9, PT", two[2]) == {"a"}


def test_addresses_are_followed_around_branches_and_barriers():
    start = ("LDC.64 R2, c[0x0][0x210]", "LDC.64 R8, c[0x0][0x218]")
    load = "LDG.E R4, [R2.64]"
    around = (*start, "BRA `(.L_x_1)", "MOV R2, R8", "EXIT", ".L_x_1:", load)
    assert address_after(*around) == {"a"}
    back = (*start, ".L_x_2:", load, "MOV R2, R8", "@P0 BRA `(.L_x_2)")
    assert address_after(*back) == {"a", "b"}
    branch = (*start, "BSSY B0, `(.L_x_3)", "@P0 BRA `(.L_x_4)", "BSYNC B0")
    joined = (*branch, ".L_x_4:", "MOV R2, R8", "BSYNC B0")
    assert address_after(*joined, "EXIT", ".L_x_3:", load) == {"a", "b"}
    twice = (*start, "BSSY B0, `(.L_x_5)", "BSYNC B0", ".L_x_5:", "BSSY B0, `(.L_x_6)", "MOV R2, R8")
    assert address_after(*twice, "BSYNC B0", ".L_x_6:", load) == {"b"}


def test_the_upper_half_of_a_pointer_is_the_same_pointer():
    assert address_after("MOV R2, c[0x0][0x214]", "LDG.E R4, [R2.64]") == {"a"}
    assert address_after("MOV R2, c[0x0][0x20c]", "LDG.E R4, [R2.64]") == set()


def test_an_address_that_changes_threads_through_shared_memory_is_known():
    start = ("LDC.64 R2, c[0x0][0x210]", "LDC.64 R8, c[0x0][0x218]")
    assert address_after(*start, "STS.64 [R20], R2", "LDS.64 R4, [R21]", "LDG.E R6, [R4.64]") == {"a"}
    assert (
        address_after(*start, "LDG.E R2, [R2.64]", "STS [R20], R2", "LDS R4, [R21]", "LDG.E R6, [R4.64]")
        == set()
    )
