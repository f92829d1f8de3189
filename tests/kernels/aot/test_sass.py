"""Reading of machine code, on lines that nvdisasm printed for small kernels of this project."""

from kernels.aot import sass

# sm_90: a product of matrix and vector, launched dependently; one row of the matrix and the vector.
HOPPER = """
	//## File "/somewhere/toys.py", line 5
        /*0010*/                   ULDC.64 UR6, c[0x0][0x208] ;
        /*0030*/                   LDC.64 R56, c[0x0][0x218] ;
        /*0050*/                   LDC.64 R46, c[0x0][0x210] ;
        /*0070*/                   PREEXIT ;
	//## File "/somewhere/toys.py", line 9
        /*00b0*/                   LEA R56, P0, R0, R56, 0xe ;
        /*00c0*/                   ULDC.64 UR8, c[0x0][0x228] ;
        /*00e0*/                   LEA.HI.X.SX32 R57, R4, R57, 0x1, P0 ;
        /*0100*/                   IMAD.WIDE.U32 R56, R3, 0x2, R56 ;
        /*0110*/                   IMAD.WIDE.U32 R46, R3.reuse, 0x2, R46 ;
        /*0120*/                   LDG.E.128 R4, desc[UR6][R56.64] ;
        /*0140*/                   LDG.E.128 R8, desc[UR6][R56.64+0x1000] ;
        /*0170*/                   ACQBULK ;
	//## File "/somewhere/toys.py", line 12
        /*0180*/                   LDG.E.U16 R20, desc[UR6][R46.64] ;
        /*01e0*/                   SHF.L.U32 R52, R4, 0x10, RZ ;
        /*0210*/              @!P0 LEA R2, P1, R3, UR8, 0x1 ;
        /*0220*/                   STG.E.64 desc[UR6][R2.64], R52 ;
        /*0230*/                   EXIT ;
.L_x_0:
        /*0240*/                   BRA `(.L_x_0);
"""
# sm_80: blocks of two matrices on their way to shared memory, a loop that waits for all but two groups.
AMPERE = """
        /*0160*/                   LEA R56, P0, R5.reuse, c[0x0][0x160], 0xd ;
        /*01d0*/                   IMAD.WIDE.U32 R54, R7, R44, c[0x0][0x168] ;
        /*02b0*/                   LDGSTS.E.BYPASS.128 [R51+0x1000], [R56.64], P0 ;
        /*0300*/                   LDGDEPBAR ;
        /*0330*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0380*/                   LDGDEPBAR ;
        /*0400*/                   LDGSTS.E.LTC128B.64 [R51+0x800], [R54.64+-0x800], P2 ;
        /*0440*/                   LDGDEPBAR ;
.L_x_1:
        /*05e0*/                   DEPBAR.LE SB0, 0x2 ;
        /*0690*/                   LDSM.16.M88.4 R16, [R50+UR8+0x1000] ;
        /*0710*/                   HMMA.16816.F32.BF16 R40, R16.reuse, R4, R40 ;
        /*0720*/                   HFMA2.MMA R44, -RZ, RZ, 0, 0 ;
        /*0730*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0740*/                   LDGSTS.E.BYPASS.128 [R51], [R54.64], P0 ;
        /*0750*/               @P1 BRA `(.L_x_1) ;
        /*0760*/                   EXIT ;
"""


def memory(listing: str, parameters: dict[int, str]) -> list[tuple[str, int, set[str], str]]:
    """(opcode, bits, pointers, line) of what reads or writes global memory."""
    code = sass.instructions(listing)
    names = sass.pointers(code, parameters)
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


def test_the_order_of_dependent_launch():
    names = [each.name for each in sass.instructions(HOPPER)]
    assert names.index("PREEXIT") < names.index("LDG") < names.index("ACQBULK")


def test_half_precision_arithmetic_is_no_matrix_instruction():
    assert [each.opcode for each in sass.instructions(AMPERE) if each.name in sass.MATRIX] == [
        "HMMA.16816.F32.BF16"
    ]


def test_a_loop_is_from_a_label_to_the_branch_back_to_it():
    code = sass.instructions(AMPERE)
    repeated = [each.address for index, each in enumerate(code) if sass.looped(code, index)]
    assert repeated == [each.address for each in code if 0x5E0 <= each.address <= 0x750]


def test_bytes_in_flight_end_with_the_first_use():
    # Two of 16 bytes and one of 2; the first one's result is read by the shift.
    assert sass.in_flight(sass.instructions(HOPPER)) == 34
    early = HOPPER.replace("ACQBULK ;", "FADD R52, R4, R8 ;")
    assert sass.in_flight(sass.instructions(early)) == 32


def test_bytes_in_flight_end_with_the_wait_for_their_group():
    # Of the groups of 16, 16 and 8 bytes two may stay: 24, then two copies of 16 are asked for.
    assert sass.in_flight(sass.instructions(AMPERE)) == 16 + 8 + 32
    every = AMPERE.replace("SB0, 0x2", "SB0, 0x0")
    assert sass.in_flight(sass.instructions(every)) == 16 + 16 + 8


# Written by hand in nvdisasm's form: what straight-line reading would get wrong.
def address_after(*lines: str) -> set[str]:
    """The pointers of the last load."""
    listing = "\n".join(line if line[0] == "." else f"/*0000*/ {line} ;" for line in lines)
    found: set[str] = memory(listing, {0x210: "a", 0x218: "b"})[-1][2]
    return found


def test_an_overwritten_address_is_forgotten():
    two = ("LDC.64 R2, c[0x0][0x210]", "LDC.64 R2, c[0x0][0x218]", "LDG.E R4, [R2.64]")
    assert address_after(*two) == {"b"}
    assert address_after(two[0], "@P0 LDC.64 R2, c[0x0][0x218]", two[2]) == {"a", "b"}
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


def test_the_upper_half_of_a_pointer_is_the_same_pointer():
    assert address_after("MOV R2, c[0x0][0x214]", "LDG.E R4, [R2.64]") == {"a"}
    assert address_after("MOV R2, c[0x0][0x20c]", "LDG.E R4, [R2.64]") == set()
