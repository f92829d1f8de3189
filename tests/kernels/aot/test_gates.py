"""Each gate holds for a good kernel, and names what is wrong with one that has that one mistake."""

import dataclasses

import pytest

from kernels.aot import gates
from kernels.aot.compile import Code, compile_all
from kernels.aot.record import recording
from tests.kernels.aot import toys

WEIGHT = frozenset({"weight"})
CACHE = frozenset({"keys"}), frozenset({"values"})

# By name: options of the launch of `toys.gemv`, how far apart the columns it reads stand, and the gates that
# find something, each with its words.
MISTAKES = {
    "spills": ({"maxnreg": 24}, 1, {"no_stack": ["bytes of stack", "use local memory"]}),
    "strided": (
        {"stride": 4},
        4,
        {"wide_loads": ["loads weight by 16 bits"] * 2, "dependent": ["no 128-bit load of weight"]},
    ),
    "late": ({"ahead": False}, 1, {"dependent": ["no 128-bit load of weight before the wait"]}),
    "early": ({"early": True}, 1, {"dependent": ["load of x before the wait"]}),
    "deaf": (
        {"instructions": False},
        1,
        {"dependent": ["never lets the next kernel start", "waits 0 times", "no 128-bit load of weight"]},
    ),
    "alone": ({"instructions": True, "dependent": False}, 1, {"dependent": ["2 instructions of dependent"]}),
    "again": ({"waits": 3}, 1, {"dependent": ["in a loop"]}),
}


@pytest.fixture(scope="module")
def codes() -> dict[str, Code]:
    """The code of the good kernels and of each mistake, for sm_90."""
    with recording(90) as launches:
        toys.launch_gemv(*toys.operands(), dependent=True)
        toys.launch_gemv(*toys.operands(), dependent=False)
        toys.launch_attend()
        for options, stride, _ in MISTAKES.values():
            toys.launch_gemv(*toys.operands(stride), **{"dependent": True, **options})
    names = ["good", "independent", "attend", *MISTAKES]
    return dict(zip(names, compile_all([launch.variant for launch in launches]), strict=True))


def found(code: Code, *streams: frozenset[str]) -> dict[str, list[str]]:
    """What each gate finds, those that find nothing left out."""
    every = {
        "no_stack": gates.no_stack(code),
        "fits": gates.fits(code),
        "wide_loads": gates.wide_loads(code, streams),
        "dependent": gates.dependent(code, WEIGHT, streams),
        "registers": gates.registers(code, 128),
    }
    return {gate: lines for gate, lines in every.items() if lines}


def test_nothing_is_found_in_good_kernels(codes):
    assert found(codes["good"], WEIGHT) == {}
    assert found(codes["independent"], WEIGHT) == {}
    assert found(codes["attend"], *CACHE) == {}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_by_its_gates_and_no_other(codes, name):
    expected = MISTAKES[name][2]
    lines = found(codes[name], WEIGHT)
    assert lines.keys() == expected.keys()
    for gate, words in expected.items():
        assert len(lines[gate]) == len(words)
        for line, word in zip(lines[gate], words, strict=True):
            assert word in line


def test_a_ceiling_of_registers(codes):
    used = codes["good"].registers
    assert gates.registers(codes["good"], used) == []
    assert gates.registers(codes["good"], used - 1) == [f"{used} registers, at most {used - 1}"]


def test_a_streamed_parameter_that_is_never_loaded_is_found(codes):
    words = frozenset({"words", "scales"})
    assert gates.wide_loads(codes["good"], (WEIGHT, words)) == ["no load of scales or words found"]
    assert gates.wide_loads(codes["good"], (WEIGHT | words,)) == []


def test_a_store_before_the_wait_is_found(codes):
    code = codes["good"]
    early = dataclasses.replace(
        code, accesses=tuple(dataclasses.replace(each, before_wait=True) for each in code.accesses)
    )
    lines = gates.dependent(early, frozenset({"weight", "x", "out"}), (WEIGHT,))
    assert len(lines) == 1 and "store of out before the wait" in lines[0]


def test_programs_of_an_sm_by_each_limit(codes):
    """Occupancy as the CUDA occupancy calculator has it for compute capability 9.0."""
    code = dataclasses.replace(codes["good"], registers=32, shared=0)  # 4 warps
    assert gates.residents(code) == 16  # 2048 threads
    assert gates.residents(dataclasses.replace(code, registers=64)) == 8
    assert gates.residents(dataclasses.replace(code, registers=65)) == 7  # given out by 8
    assert gates.residents(dataclasses.replace(code, shared=100 << 10)) == 2
    largest = dataclasses.replace(code, shared=227 << 10)
    assert gates.fits(largest) == [] and gates.residents(largest) == 1
    (line,) = gates.fits(dataclasses.replace(code, shared=(227 << 10) + 1))
    assert "does not fit" in line


def test_bytes_ahead_of_the_wait_and_in_flight(codes):
    code = codes["good"]
    # Four rows of 1024 columns by 128 threads: 64 bytes a thread.
    assert gates.ahead(code, WEIGHT) == 64
    assert gates.ahead(codes["late"], WEIGHT) == 0
    # They are all under way at the wait, and so are programs on every place.
    assert gates.in_flight(code, WEIGHT) >= 64 * 128 * gates.residents(code)
    assert gates.in_flight(code, frozenset({"out"})) == 0
