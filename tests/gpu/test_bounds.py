"""The bounds of the tests on a device leave room for its rounding; here, that they still catch errors."""

import dataclasses

import pytest

from tests.kernels.interpreted import decode_layer, paged, test_attention, test_mlp, test_prefill

pytestmark = pytest.mark.usefixtures("on_the_device")


def test_a_block_of_positions_too_few_is_caught() -> None:
    bench = test_attention.Bench(test_attention.Case((900, 300)))
    found, expected = bench.attend(), bench.expected(lengths=(836, 236))
    for row in range(2):
        with pytest.raises(AssertionError):
            paged.assert_close(found[row], expected[row])


def test_pages_of_another_row_are_caught() -> None:
    bench = test_attention.Bench(test_attention.Case((900, 70, 130)))
    expected = bench.expected()
    bench.rows.pages[0, :4] = bench.rows.pages[2, :4].clone()
    found = bench.attend()
    paged.assert_close(found[1], expected[1])
    with pytest.raises(AssertionError):
        paged.assert_close(found[0], expected[0])


def test_a_window_twice_as_wide_is_caught() -> None:
    bench = test_prefill.Bench(test_prefill.Case(((200, 70),), window=50))
    with pytest.raises(AssertionError):
        paged.assert_close(bench.attend(), bench.expected(window=100))


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("part", ["last pair", "gate for up"])
def test_a_wrong_row_of_the_mlp_is_caught(part: str, form: str) -> None:
    bench = test_mlp.Bench(test_mlp.Case(hidden=96, wide=70), decode_layer.FORMS[form])
    weight = bench.expected.weights.gate_up.clone()
    if part == "last pair":
        weight[69] = 0
    else:
        weight = weight.roll(70, 0)
    changed = dataclasses.replace(bench.expected.weights, gate_up=weight)
    wrong = dataclasses.replace(bench.expected, weights=changed)
    found = test_mlp.run(bench)[1].x
    assert decode_layer.close(found, bench.torch.mlp(bench.x, bench.expected), decode_layer.FORMS[form])
    assert not decode_layer.close(found, bench.torch.mlp(bench.x, wrong), decode_layer.FORMS[form])
