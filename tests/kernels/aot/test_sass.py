"""Reading of machine code."""

from kernels.aot import sass
from tests.kernels.aot.listings import AMPERE, HOPPER


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


def ends(listing: str) -> list[int | None]:
    """The addresses of what the loads have to have come for; None for nothing."""
    code = sass.instructions(listing)
    until = sass.until(code).values()
    return [code[index].address if index < len(code) else None for index in until]


def test_a_load_is_under_way_until_something_reads_any_of_its_result():
    assert ends(HOPPER) == [0x1E0, None, None]
    assert ends(HOPPER.replace("ACQBULK ;", "FADD R52, R5, R11 ;")) == [0x170, 0x170, None]
    assert ends(HOPPER.replace("ACQBULK ;", "LDC.64 R10, c[0x0][0x218] ;")) == [0x1E0, 0x170, None]


def test_a_copy_to_shared_memory_is_under_way_until_its_group_is_waited_for():
    # Of three groups of one copy two may stay; two more copies are asked for in the loop.
    assert ends(AMPERE) == [0x5E0, None, None, None, None]
    assert ends(AMPERE.replace("SB0, 0x2", "SB0, 0x0")) == [0x5E0, 0x5E0, 0x5E0, None, None]
