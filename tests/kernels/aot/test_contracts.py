"""What is asked of the project's own kernels, and that each thing asked for can be missed."""

import dataclasses
import pkgutil
from importlib import import_module

import pytest
from triton.runtime.jit import JITFunction

import kernels.gpu
from kernels.aot import ceilings
from kernels.aot.ceilings import CEILINGS, Ceiling, ceiling_of
from kernels.aot.compile import Code, compile_variant
from kernels.aot.contracts import CONTRACTS, judged
from kernels.aot.record import recording
from kernels.gpu.stream import Stream, begin
from kernels.gpu.tiles import Chip, tile_for
from tests.kernels.aot import toys


@pytest.fixture(scope="module")
def codes() -> list[Code]:
    """`begin_kernel` of 2048 columns, launched dependently, and a kernel that is not the project's."""
    with recording(90) as launches:
        made = [toys.meta(1, n, dtype=toys.torch.float32) for n in (2048, 128)]
        stream = Stream(made[0], toys.meta(1, 2048), made[1])
        begin(made[0], toys.meta(2048), stream, dependent=True)
        toys.copy[(1,)](toys.meta(64), toys.meta(64), 2)
    return [compile_variant(launch.variant) for launch in launches]


def wrong(code: Code) -> dict[str, list[str]]:
    return {gate: lines for gate, lines in judged(code).items() if lines}


def test_every_kernel_has_a_contract_and_a_ceiling():
    found = set()
    for module in pkgutil.iter_modules(kernels.gpu.__path__, "kernels.gpu."):
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found.add(f"{value.fn.__module__}:{name}")
    assert found == set(CONTRACTS)
    assert {name.partition(":")[2] for name in found} == {ceiling.kernel for ceiling in CEILINGS}


def test_a_contract_names_parameters_that_the_kernel_has():
    for kernel, contract in CONTRACTS.items():
        module, _, name = kernel.partition(":")
        parameters = set(getattr(import_module(module), name).arg_names)
        assert contract.frozen <= parameters
        assert frozenset[str]().union(*contract.streams) <= parameters


def test_a_kernel_that_holds_to_its_contract_is_not_blamed(codes):
    assert codes[0].variant.name == "begin_kernel"
    assert wrong(codes[0]) == {}
    assert CONTRACTS[codes[0].variant.kernel].weights == {"gain"}


def test_a_kernel_without_contract_and_ceiling_is(codes):
    assert wrong(codes[1]) == {
        "contract": ["nothing is said of what it streams"],
        "registers": ["no ceiling is set for its registers"],
    }


def test_each_thing_that_is_asked_for_can_be_missed(codes):
    good = codes[0]
    late = [dataclasses.replace(access, before_wait=False) for access in good.accesses]
    narrow = [dataclasses.replace(access, bits=64) for access in good.accesses]
    mistakes = {
        "stack": dataclasses.replace(good, stack=16),
        "fits": dataclasses.replace(good, shared=300 << 10),
        "loads": dataclasses.replace(good, accesses=tuple(narrow)),
        "wait": dataclasses.replace(good, accesses=tuple(late)),
        "registers": dataclasses.replace(good, registers=65),
    }
    for gate, code in mistakes.items():
        assert gate in wrong(code)
        assert wrong(code).keys() <= {gate, "wait"}, "a narrow load is not one of 128 bits before the wait"


def test_the_first_ceiling_that_covers_a_variant_counts(codes, monkeypatch):
    variant = codes[0].variant
    general = Ceiling("begin_kernel", 64, "")
    rows = (
        Ceiling("begin_kernel", 1, "", {"E": 4096}),
        Ceiling("begin_kernel", 2, "", {"F": None}),
        Ceiling("begin_kernel", 3, "", {"E": 2048}, 8),
        Ceiling("other_kernel", 4, ""),
        general,
        Ceiling("begin_kernel", 5, ""),
    )
    monkeypatch.setattr(ceilings, "CEILINGS", rows)
    assert ceiling_of(variant) is general
    monkeypatch.setattr(ceilings, "CEILINGS", (Ceiling("begin_kernel", 6, "", {"E": 2048}, 9), *rows))
    assert ceiling_of(variant).registers == 6
    monkeypatch.setattr(ceilings, "CEILINGS", rows[:4])
    assert ceiling_of(variant) is None


@pytest.mark.parametrize(
    ("form", "batch", "capability", "registers"),
    [
        ("bf16", 1, 90, 128),
        ("bf16", 8, 90, 128),
        ("bf16", 16, 90, None),
        ("bf16", 1, 80, 128),
        ("bf16", 8, 80, None),  # spills at 128
        ("int8", 8, 80, 128),  # spills unless it is told
        ("int4", 8, 89, 128),
    ],
)
def test_what_the_compiler_is_told_of_registers(form, batch, capability, registers):
    assert tile_for(4096, 4096, form, batch, Chip(132, capability)).registers == registers
