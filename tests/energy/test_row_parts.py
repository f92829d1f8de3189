"""A step among its rows: the weights evenly, the cache by length, and all of it."""

import pytest

from engine.energy.attribution import Share, StepMark
from engine.energy.row_parts import row_parts
from kernels import cost
from kernels.cost import RowWork
from tests.simulation import DIMS


def step(*rows: RowWork) -> StepMark:
    shares = tuple(Share(number, "answer", row.new) for number, row in enumerate(rows))
    return StepMark("decode", 0.0, 1.0, shares, rows)


def test_rows_of_one_length_share_evenly():
    assert row_parts(step(*[RowWork(1, 700)] * 4), DIMS) == pytest.approx([0.25] * 4)


def test_a_longer_row_pays_for_what_it_reads_and_no_more():
    short, long = row_parts(step(RowWork(1, 100), RowWork(1, 5000)), DIMS)
    assert short + long == pytest.approx(1.0)
    both = cost.forward(DIMS, [RowWork(1, 100), RowWork(1, 5000)]).bytes
    read = [cost.attention(DIMS, [RowWork(1, n)]).bytes * DIMS.n_layers for n in (100, 5000)]
    assert long - short == pytest.approx((read[1] - read[0]) / both, rel=1e-2)


def test_a_row_that_feeds_more_tokens_pays_for_the_weights_by_tokens():
    one, three = row_parts(step(RowWork(1, 100), RowWork(3, 100)), DIMS)
    assert three / one == pytest.approx(3, rel=0.03)


def test_without_dims_or_work_the_tokens_decide():
    mark = step(RowWork(1, 100), RowWork(3, 5000))
    assert row_parts(mark) == [0.25, 0.75]
    unsaid = StepMark("decode", 0.0, 1.0, mark.shares)
    assert row_parts(unsaid, DIMS) == [0.25, 0.75]
