"""From variants to facts, in processes of their own, with nothing of earlier runs and no device."""

import pytest
import torch
import triton.runtime.jit as triton_jit

from kernels.aot.compile import Code, Refusal, compile_all, read
from kernels.aot.record import recording
from tests.kernels.aot import toys


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Code | Refusal]:
    """Of sm_80, sm_89, sm_90 a kernel each with parameters of many sizes, then one that does not compile."""
    variants = []
    for capability in (80, 89, 90):
        with recording(capability) as launches:
            toys.mixed[(1,)](True, toys.meta(64), 0.5, toys.meta(64), 7)
        variants.append(launches[0].variant)
    with recording(90) as launches:
        toys.redefined[(1,)](toys.meta(64), 2)
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        found = list(compile_all([*variants, launches[0].variant]))
    assert list(cache.iterdir()) == []
    return found


def test_accesses_are_those_of_the_parameters_wherever_they_stand(compiled):
    for code in compiled[:3]:
        seen = [(access.kind, access.bits, set(access.pointers)) for access in code.accesses]
        assert seen == [("load", 16, {"source"}), ("store", 16, {"target"})]
        assert (code.stack, code.spills, code.shared, code.matrix) == (0, 0, 0, 0)
        assert 0 < code.registers < 32
    assert [code.variant.capability for code in compiled[:3]] == [80, 89, 90]


def test_what_does_not_compile_is_refused_in_one_line(compiled):
    refusal = compiled[3]
    assert isinstance(refusal, Refusal)
    assert "redefines" in refusal.reason and "\n" not in refusal.reason


def test_no_device_is_started(compiled):
    assert len(compiled) == 4
    assert not torch.cuda.is_initialized()
    assert getattr(triton_jit.driver, "_active", None) is None


def test_usage_that_is_not_told_is_no_zero(compiled):
    with pytest.raises(ValueError, match="no resource usage"):
        read(compiled[0].variant, "", "nothing", "", 0)
