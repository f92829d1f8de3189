"""Launches are noted in the variant that Triton would compile, and nothing runs."""

import pickle

import pytest
import triton.runtime.jit as triton_jit

from kernels.aot.record import Launch, recording
from tests.kernels.aot import toys


def launched(x, weight, out, capability: int = 90, **options) -> Launch:
    with recording(capability) as launches:
        toys.launch_gemv(x, weight, out, dependent=True, **options)
    (launch,) = launches
    return launch


def aligned(launch: Launch) -> set[str]:
    """Parameters that are known to be multiples of 16, or to point at such an address."""
    names = [name for name, _ in launch.variant.signature]
    return {names[path[0]] for path, pairs in launch.variant.attributes if ("tt.divisibility", 16) in pairs}


def test_a_launch_is_noted_with_its_grid_and_tensors():
    x, weight, out = toys.operands()
    launch = launched(x, weight, out, num_warps=8)
    assert launch.variant.kernel == "tests.kernels.aot.toys:gemv"
    assert (launch.variant.warps, launch.variant.dependent, launch.variant.capability) == (8, True, 90)
    assert launch.variant.parameters == ("x", "weight", "out")
    assert launch.programs == toys.ROWS // 4
    assert launch.tensors["weight"] is weight
    assert "BLOCK=1024" in launch.variant.label and "weight:*bf16" in launch.variant.label


def test_what_triton_specialises_on_makes_a_variant():
    same = [launched(*toys.operands()).variant for _ in range(2)]
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
    x, weight, out = toys.operands()
    assert aligned(launched(x, weight, out)) == {"x", "weight", "out"}
    shifted = launched(toys.meta(toys.COLUMNS + 1)[1:], weight, out)
    assert aligned(shifted) == {"weight", "out"}
    assert shifted.variant != same[0]
    assert launched(x.float(), weight, out).variant != same[0]
    assert launched(x, weight, out, num_warps=8).variant != same[0]
    assert launched(x, weight, out, capability=80).variant != same[0]


def test_integers_are_specialised_as_triton_does():
    with recording(90) as launches:
        for stride in (1, 7, 48):
            toys.copy[(1,)](toys.meta(64), toys.meta(64), stride)
    one, odd, even = launches
    assert one.variant.parameters == ("source", "target")
    assert odd.variant.parameters == ("source", "target", "stride")
    assert "stride" in aligned(even) and "stride" not in aligned(odd)


def test_a_variant_travels_to_another_process():
    variant = launched(*toys.operands()).variant
    assert pickle.loads(pickle.dumps(variant)) == variant


def test_everything_is_put_back_after_an_error():
    kind = triton_jit.JITFunction
    before = triton_jit.driver, kind.run, kind._do_compile
    with pytest.raises(TypeError), recording(90):
        toys.copy[(1,)](toys.meta(64))
    assert (triton_jit.driver, kind.run, kind._do_compile) == before


def test_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"), recording(90):
        pass
