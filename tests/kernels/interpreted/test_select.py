"""Tokens chosen on the device against the host's sampler: the same filters, the same distribution."""

import dataclasses

import pytest
import torch
import triton
import triton.language as tl

from engine.sampler import Sampling, filtered, penalised
from kernels.api import HeadWeights
from kernels.gpu.filters import FilterScratch
from kernels.gpu.head import head_select
from kernels.gpu.head_scratch import GpuHead, HeadScratch
from kernels.gpu.random import gumbel
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import Selected, StepState
from kernels.gpu.stream import Stream, begin
from kernels.gpu.tiles import Chip, Tile
from tests.kernels.interpreted.where import DEVICE, INTERPRETED

COLUMNS = 16
# Beside one column of 1 in 16: a norm of exactly 1/2, so that logits are to the bit what is asked for.
EPS = 3 / 16
# So tall that the interpreter has few of them to do; what is compiled holds a tile in registers.
TILE = Tile(rows=1024 if INTERPRETED else 16, columns=32, warps=1, programs=3)


def randn(size: int, *, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=draw, device="cpu").to(DEVICE)


class Rows:
    """A head whose logits are those given, (V,) for all rows, and the state of rows that select from them."""

    def __init__(
        self,
        logits: torch.Tensor,
        rows: list[Sampling],
        *,
        kind: Kind,
        positions: list[int],
        seen: tuple[int, ...] = (),
    ) -> None:
        weight = torch.zeros(len(logits), COLUMNS)
        weight[:, 0] = logits / 2
        self.head = GpuHead.of(HeadWeights(torch.ones(COLUMNS), weight), EPS, Chip(3, 80))
        x = torch.zeros(len(rows), COLUMNS)
        x[:, 0] = 1
        self.stream = Stream.make(len(rows), COLUMNS, torch.float32, DEVICE)
        begin(x, self.head.norm, self.stream, dependent=False)
        self.state = dataclasses.replace(
            StepState.make(len(rows), DEVICE), ring=torch.zeros(4, len(rows), 4, dtype=torch.int32)
        )
        self.positions = torch.tensor(positions, dtype=torch.int32)
        some = any(row.repetition_penalty != 1 for row in rows)
        self.selection = Selection.make(kind, len(rows), len(logits), penalised=some, device=DEVICE)
        for b, row in enumerate(rows):
            asked = dataclasses.asdict(row)
            del asked[
                "answer_temperature"
            ]  # of a later phase, in which the host puts it in temperature's place
            self.selection.set_row(b, stream=b, **asked, seen=seen)
        self.scratch = HeadScratch.make(self.head, self.selection, TILE)

    def step(self) -> list[int]:
        """One step; -1 for a row that rests."""
        step = int(self.state.steps[0])
        head_select(
            self.stream,
            self.head,
            self.selection,
            self.state,
            self.positions,
            self.scratch,
            tile=TILE,
            dependent=False,
        )
        return Selected.of(self.state.ring[step % len(self.state.ring)]).tokens.tolist()


@triton.jit
def noise_kernel(seed, row, positions, out, V: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    token = tl.arange(0, WIDTH)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    position = tl.load(positions + at)
    noise = gumbel(tl.load(seed), tl.load(row), position[:, None], token[None, :])
    tl.store(out + at[:, None] * V + token[None, :], noise, mask=(token < V)[None, :])


def noise(vocabulary: int, positions: torch.Tensor, *, seed: int = 0, row: int = 0) -> torch.Tensor:
    """The noise of all tokens at each of a power of two of positions, (positions, V)."""
    out = torch.empty(len(positions), vocabulary)
    width = triton.next_power_of_2(vocabulary)
    key = torch.tensor([seed]), torch.tensor([row], dtype=torch.int32)
    each = len(positions) if INTERPRETED else 1  # compiled, 8192 rows of 64 would be 4096 draws a thread
    noise_kernel[(len(positions) // each,)](*key, positions.int(), out, V=vocabulary, WIDTH=width, ROWS=each)
    return out


def telling(vocabulary: int, steepness: float, sampling: Sampling, position: int) -> torch.Tensor:
    """Logits (V,) that fall as the noise at `position` grows, but by less.

    So of any set of the likeliest tokens the least likely is drawn: it tells to the token which are kept.
    """
    noises = noise(vocabulary, torch.tensor([position]), seed=sampling.seed)[0]
    return -steepness * noises * sampling.temperature


def expected(
    logits: torch.Tensor, sampling: Sampling, position: int, *, row: int = 0, seen: tuple[int, ...] = ()
) -> int:
    """What the host's filters keep, and of that the largest of score and noise."""
    logits = penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    kept = filtered(logits / sampling.temperature, sampling)
    return int((kept + noise(len(logits), torch.tensor([position]), seed=sampling.seed, row=row)[0]).argmax())


FILTERS = [
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 50},
    {"top_k": 2000},
    {"top_k": 4999},
    {"top_k": 5000},
    {"top_p": 0.001},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"top_p": 1.0},
    {"min_p": 0.05},
    {"min_p": 0.7},
    {"min_p": 1.0},
    {"top_k": 700, "top_p": 0.8},
    {"top_k": 3, "top_p": 0.5},
    {"top_k": 40, "top_p": 0.99, "min_p": 0.6},
    {"top_p": 0.7, "min_p": 0.4},
]


@pytest.mark.parametrize("steepness", [0.1, 0.95])  # from the first to the last, scores fall by 1, by 11
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_what_is_kept_is_what_the_host_keeps(filters: dict[str, float], steepness: float) -> None:
    position = 12
    sampling = Sampling(0.7, seed=5, **filters)
    logits = telling(5000, steepness, sampling, position)
    kept = filtered(logits / sampling.temperature, sampling)
    least = int(torch.where(kept.isfinite(), kept, torch.inf).argmin())
    assert Rows(logits, [sampling], kind=Kind.FILTERED, positions=[position - 1]).step() == [least]


@pytest.mark.parametrize(
    ("filters", "wider"),
    [
        ({"top_k": 50}, {"top_k": 51}),
        ({"top_p": 0.9}, {"top_p": 0.9005}),
        ({"min_p": 0.2}, {"min_p": 0.1999}),
    ],
    ids=str,
)
def test_one_token_more_would_be_seen(filters: dict[str, float], wider: dict[str, float]) -> None:
    logits = telling(5000, 0.5, Sampling(1.0), 12)
    tokens = [
        Rows(logits, [Sampling(1.0, **some)], kind=Kind.FILTERED, positions=[11]).step()
        for some in (filters, wider)
    ]
    assert tokens[0] != tokens[1]


MANY = [
    Sampling(),
    Sampling(0.8, seed=2**63 - 1),
    Sampling(1.3, top_k=40, top_p=0.9, seed=7),
    Sampling(0.05, top_k=8_000, seed=7),  # a bound behind the last bin's edge
    Sampling(4.0, top_p=0.97, seed=8),
    Sampling(0.6, min_p=0.02, repetition_penalty=1.4, seed=9),
    Sampling(0.9, top_p=0.8, repetition_penalty=0.7, seed=10),
    Sampling(repetition_penalty=3.0),
]


@pytest.mark.parametrize("kind", [Kind.SAMPLED, Kind.FILTERED], ids=str)
def test_rows_of_all_sorts_side_by_side(kind: Kind) -> None:
    logits = randn(9_011, seed=3) * 3
    likeliest = logits.topk(2000).indices
    asked = MANY
    if kind is Kind.SAMPLED:
        asked = [dataclasses.replace(s, top_k=None, top_p=None, min_p=None) for s in MANY]
    positions = [5, 0, 17, 3, 8, 100, 70_000, 2]
    seen = tuple(likeliest[::3].tolist())
    drawn = Rows(logits, asked, kind=kind, positions=positions, seen=seen).step()
    for b, (sampling, position) in enumerate(zip(asked, positions, strict=True)):
        assert drawn[b] == expected(logits, sampling, position + 1, row=b, seen=seen)
    assert len(set(drawn)) > 4


def test_a_draw_depends_on_seed_stream_and_position_alone() -> None:
    logits = randn(600, seed=4)
    sampling = Sampling(1.0, top_p=0.9, seed=6)
    alone = Rows(logits, [sampling], kind=Kind.FILTERED, positions=[30])
    others = [Sampling(2.0, seed=1), Sampling(), sampling, Sampling(0.7, top_k=9)]
    among = Rows(logits, others, kind=Kind.FILTERED, positions=[1, 2, 30, -1])
    among.selection.streams[2] = 0
    tokens = [(alone.step()[0], among.step()[2]) for _ in range(5)]
    assert all(one == other for one, other in tokens)
    assert len({one for one, _ in tokens}) > 3
    among.selection.streams[2] = 1
    assert [alone.step()[0] for _ in range(2)] != [among.step()[2] for _ in range(2)]


def test_a_step_advances_the_state() -> None:
    logits = randn(300, seed=5)
    asked = [Sampling(0.9, repetition_penalty=1.1), Sampling(repetition_penalty=1.1)]
    rows = Rows(logits, asked, kind=Kind.FILTERED, positions=[4, -1])
    kept = len(rows.state.ring)
    history = [rows.step() for _ in range(kept + 3)]
    assert rows.positions.tolist() == [4 + kept + 3, -1]
    assert rows.state.steps.tolist() == [kept + 3] * 2
    assert rows.state.tokens.tolist() == [history[-1][0], 0]
    assert all(resting == -1 for _, resting in history)
    assert rows.selection.seen is not None
    assert set(rows.selection.seen[0].nonzero().flatten().tolist()) == {token for token, _ in history}
    assert rows.selection.seen[1].sum() == 0
    for step in range(3, kept + 3):
        selected = Selected.of(rows.state.ring[step % kept])
        assert selected.tokens.tolist() == history[step]
        assert selected.logits[0] == logits[history[step][0]]
        assert selected.highest[0] == logits.max()
        torch.testing.assert_close(selected.logsumexp[0], logits.logsumexp(0))


@pytest.mark.parametrize("kind", list(Kind), ids=str)
def test_scratch_is_left_as_it_was_made(kind: Kind) -> None:
    logits = randn(3000, seed=6)
    sampling = Sampling(1.0, top_k=90, top_p=0.9) if kind is Kind.FILTERED else Sampling(float(kind))
    rows = Rows(logits, [sampling, sampling], kind=kind, positions=[3, 9])
    rows.step()
    assert rows.scratch.partials.arrived.tolist() == [0]
    made = FilterScratch.make(2, 3000, DEVICE)
    if rows.scratch.filters is not None:
        for name in ("counts", "masses", "listed_counts", "best", "arrived"):
            assert torch.equal(getattr(rows.scratch.filters, name), getattr(made, name)), name


def test_of_equal_logits_at_a_bound_all_are_kept() -> None:
    logits = torch.zeros(700)
    logits[[10, 400, 650]] = 5.0
    for filters in ({"top_k": 1}, {"top_p": 0.001}):
        rows = Rows(logits, [Sampling(1.0, **filters)], kind=Kind.FILTERED, positions=[0])
        assert {rows.step()[0] for _ in range(10)} == {10, 400, 650}
    equal = Rows(torch.zeros(700), [Sampling(1.0, top_k=3)], kind=Kind.FILTERED, positions=[0])
    assert len({equal.step()[0] for _ in range(5)}) > 3


@pytest.mark.parametrize("kind", list(Kind), ids=str)
def test_of_equal_logits_greedy_takes_the_first(kind: Kind) -> None:
    logits = torch.zeros(5000)
    logits[[130, 131, 4900]] = 2.0
    assert Rows(logits, [Sampling()] * 3, kind=kind, positions=[0, 1, 2]).step() == [130] * 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("kind", list(Kind), ids=str)
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_choose_some_token(kind: Kind, strange: float) -> None:
    sampling = Sampling(1.0, top_k=5, top_p=0.9) if kind is Kind.FILTERED else Sampling(float(kind))
    rows = Rows(torch.full((700,), strange), [sampling], kind=kind, positions=[0])
    assert 0 <= rows.step()[0] < 700


def test_tokens_of_no_probability_are_never_drawn() -> None:
    logits = torch.full((700,), float("-inf"))
    logits[[3, 699]] = 0.0
    for filters in ({}, {"top_k": 600}, {"top_p": 0.99}):
        rows = Rows(logits, [Sampling(1.0, **filters)], kind=Kind.FILTERED, positions=[0])
        assert {rows.step()[0] for _ in range(8)} == {3, 699}


def test_a_small_temperature_is_nearly_greedy() -> None:
    logits = randn(2000, seed=7)
    assert (
        0.01 < -logits.topk(2).values.diff() < 0.1
    )  # the second is e^-100 times as likely, or less, and e^-1/3
    cold = Rows(logits, [Sampling(1e-4)], kind=Kind.SAMPLED, positions=[0])
    assert {cold.step()[0] for _ in range(8)} == {int(logits.argmax())}
    warm = Rows(logits, [Sampling(0.3)], kind=Kind.SAMPLED, positions=[0])
    assert len({warm.step()[0] for _ in range(8)}) > 1


def statistic(logits: torch.Tensor, temperature: float) -> float:
    """Chi-square of 8192 draws at temperature 0.7 against softmax(logits / temperature)."""
    positions = torch.arange(8192)
    drawn = (logits / 0.7 + noise(len(logits), positions, seed=11, row=3)).argmax(-1)
    counts = drawn.bincount(minlength=len(logits))
    mean = (logits / temperature).double().softmax(-1) * len(positions)
    return float(((counts - mean).square() / mean).sum())


def test_draws_follow_the_distribution() -> None:
    logits = randn(37, seed=8)
    # 36 degrees of freedom: 36 ± 8.5, and 78 is passed once in 10,000 seeds
    assert statistic(logits, 0.7) < 78
    assert statistic(logits, 0.8) > 100  # another distribution would be seen


def test_neither_rows_nor_seeds_nor_positions_share_noise() -> None:
    positions = torch.arange(256)
    first = noise(64, positions)
    others = [noise(64, positions, row=1), noise(64, positions, seed=1), noise(64, positions + 256)]
    others += [noise(64, positions, seed=1 << 32), first.roll(1, 0), first.roll(1, 1)]
    for other in others:
        # 16384 pairs: the correlation of independent ones is 0 ± 0.008
        assert abs(torch.corrcoef(torch.stack((first.flatten(), other.flatten())))[0, 1]) < 0.04


def philox(key: int, counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Philox 4x32-10 as published (Salmon et al., SC'11)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        high, low = divmod(0xD2511F53 * c0, 1 << 32)
        high_2, low_2 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high_2 ^ c1 ^ k0, low_2, high ^ c3 ^ k1, low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def test_noise_is_that_of_the_published_generator() -> None:
    assert philox(0, (0, 0, 0, 0))[0] == 0x6627E8D5  # Random123's known answer
    seed, row = 0x1234_5678_9ABC_DEF0, 5
    found = noise(5000, torch.tensor([77]), seed=seed, row=row)[0].double()
    words = [philox(seed, (token, 77, row, 0)) for token in range(5000)]
    rest = torch.tensor(
        [(high * 2**32 + low + 0.5) / 2**64 for high, low, _, _ in words], dtype=torch.float64
    )
    # The largest noise here is of 1 - u = 1e-4, which u in fp32 knows to 3e-4 only.
    torch.testing.assert_close(found, -torch.log(-torch.log1p(-rest)), rtol=0, atol=2e-5)


def test_rows_ask_for_what_their_batch_can_do() -> None:
    assert Kind.needed(0, top_k=5, top_p=0.5, min_p=None) is Kind.GREEDY
    assert Kind.needed(1, top_k=None, top_p=None, min_p=None) is Kind.SAMPLED
    assert Kind.needed(1, top_k=None, top_p=0.9, min_p=None) is Kind.FILTERED
    selection = Selection.make(Kind.SAMPLED, 2, 9, penalised=False, device=DEVICE)
    with pytest.raises(ValueError, match="FILTERED"):
        selection.set_row(0, stream=0, seed=0, temperature=1.0, min_p=0.1)
    with pytest.raises(ValueError, match="penalty"):
        selection.set_row(0, stream=0, seed=0, temperature=1.0, repetition_penalty=1.2)
