"""The LM head and the embedding against the reference; the greedy choice where the logits are made."""

import pytest
import torch

from kernels.api import HeadWeights
from kernels.gpu.embed import embed
from kernels.gpu.head import head_logits, head_select
from kernels.gpu.head_scratch import GpuHead, HeadScratch
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import Selected, StepState
from kernels.gpu.stream import Stream, begin
from kernels.gpu.tiles import Chip, Tile
from kernels.quantize import Format, Matrix, Quantized, dequantize, quantize
from kernels.reference import linear, rmsnorm
from tests.kernels.interpreted.where import DEVICE, bound

EPS = 1e-5
FORMS: dict[str, torch.dtype | Format] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": Format(8, 32),
    "int8-128": Format(8, 128),
    "int4": Format(4, 32),
    "int4-64": Format(4, 64),
}
ALL = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def randn(*shape: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, device="cpu").to(DEVICE)


def held(weight: torch.Tensor, form: torch.dtype | Format) -> Matrix:
    return quantize(weight, form) if isinstance(form, Format) else weight.to(form)


def wide(weight: Matrix) -> torch.Tensor:
    return dequantize(weight) if isinstance(weight, Quantized) else weight.float()


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Both add up products in fp32, in different orders; of packed numbers with 136 or 384 added to each."""
    tolerance = bound(2.0**-14) * expected.abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance)


class Case:
    """A head of 1/√E weights, so that logits are of the order of one, and what the reference makes of it.

    Kernels are given fp32 vectors, whatever their weights: the interpreter then differs by fp32's roundings.
    """

    def __init__(
        self, rows: int, vocabulary: int, columns: int, form: torch.dtype | Format, programs: int = 3
    ) -> None:
        weight = held(randn(vocabulary, columns, seed=1) / columns**0.5, form)
        norm = 1 + 0.2 * randn(columns, seed=2)
        self.head = GpuHead.of(HeadWeights(norm, weight), EPS, Chip(programs, 80))
        self.x = 3 * randn(rows, columns, seed=3)
        self.expected = linear(rmsnorm(self.x, norm, EPS), wide(weight))

    def stream(self) -> Stream:
        stream = Stream.make(*self.x.shape, torch.float32, DEVICE)
        begin(self.x, self.head.norm, stream, dependent=False)
        return stream

    def logits(self) -> torch.Tensor:
        out = torch.full((len(self.x), self.head.matrix.shape[0]), float("nan"))
        head_logits(self.stream(), self.head, out, dependent=False)
        return out


SIZES = pytest.mark.parametrize(
    ("rows", "vocabulary", "columns"),
    [(1, 131, 46), (3, 131, 46), (16, 65, 200), (9, 330, 32), (1, 64, 264)],
    ids=str,
)


@SIZES
@ALL
def test_logits_are_the_references(
    rows: int, vocabulary: int, columns: int, form: torch.dtype | Format
) -> None:
    case = Case(rows, vocabulary, columns, form)
    assert close(case.logits(), case.expected)


@ALL
def test_errors_would_be_seen(form: torch.dtype | Format) -> None:
    case = Case(2, 131, 72, form)
    kept, case.x = case.x, case.x.clone()
    case.x[:, -1] *= 1.01  # one column of 72, by a hundredth
    assert not close(case.logits(), case.expected)
    case.x = kept
    if isinstance(form, Format):
        case.head.matrix.scales[0, -1, 3] *= 1.1  # another scale for one group of one row
        assert not close(case.logits(), case.expected)


def test_many_rows_are_the_same_rows() -> None:
    case = Case(8, 131, 46, torch.bfloat16)
    together = case.logits()
    case.x = case.x[[7]].contiguous()
    assert torch.equal(case.logits(), together[[7]])


# Programs whose parts are of one tile, of several, and of more logits than one takes in at a time.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the row that rests
@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize(
    ("rows", "vocabulary", "programs", "form"),
    [
        (2, 40, 3, torch.bfloat16),
        (3, 330, 3, torch.bfloat16),
        (3, 330, 4, Format(8, 32)),
        (16, 330, 1, torch.bfloat16),
    ],
    ids=str,
)
def test_the_choice_is_of_these_logits(
    rows: int, vocabulary: int, programs: int, form: torch.dtype | Format, penalised: bool
) -> None:
    case = Case(rows, vocabulary, 32, form, programs)
    logits = case.logits()
    case.x[1] = float("nan")  # a row that rests holds anything
    selection = Selection.make(Kind.GREEDY, rows, vocabulary, penalised=penalised, device=DEVICE)
    expected = logits
    if selection.seen is not None:
        selection.penalty[:] = 1.5
        selection.seen[:, ::3] = 1
        less = torch.where(logits > 0, logits / 1.5, logits * 1.5)
        expected = torch.where(selection.seen != 0, less, logits)
    state, scratch = StepState.make(rows, DEVICE), HeadScratch.make(case.head, selection)
    positions = torch.arange(7, 7 + rows, dtype=torch.int32)
    positions[1] = -1
    head_select(case.stream(), case.head, selection, state, positions, scratch, dependent=False)
    active = [row for row in range(rows) if row != 1]
    assert torch.equal(scratch.logits[active], logits[active])
    selected = Selected.of(state.ring[0])
    tokens = expected.argmax(-1)
    assert torch.equal(selected.tokens[active].long(), tokens[active])
    assert torch.equal(selected.logits[active], logits.gather(1, tokens[:, None])[active, 0])
    assert torch.equal(selected.highest[active], logits.amax(-1)[active])
    torch.testing.assert_close(selected.logsumexp[active], logits.logsumexp(-1)[active])
    assert selected.tokens[1] == -1 and positions[1] == -1
    assert positions[active].tolist() == [8 + row for row in active]


@ALL
@pytest.mark.parametrize("columns", [46, 1100])
def test_embeddings_are_rows_of_the_table(form: torch.dtype | Format, columns: int) -> None:
    table = held(randn(70, columns, seed=4), form)
    tokens = torch.tensor([0, 69, 17, -1, 16], dtype=torch.int32)
    out = torch.full((5, columns), float("nan"))
    embed(tokens, table, out, dependent=False)
    expected = wide(table)[tokens.long()]
    expected[3] = 0
    assert torch.equal(out, expected)
    rounded = torch.empty(5, columns, dtype=torch.bfloat16)
    embed(tokens, table, rounded, dependent=False)
    # The interpreter cuts fp32 off where it should round to bf16: a unit in the last place, not half of one.
    assert ((rounded.float() - expected).abs() <= 2.0**-7 * expected.abs()).all()


def test_what_does_not_fit_is_refused() -> None:
    head = GpuHead.of(HeadWeights(torch.ones(8), torch.ones(9, 8)), EPS, Chip(3, 80))
    stream = Stream.make(2, 8, torch.float32, DEVICE)
    with pytest.raises(ValueError, match="16 columns"):
        head_logits(Stream.make(2, 16, torch.float32, DEVICE), head, torch.empty(2, 9), dependent=False)
    with pytest.raises(ValueError, match="logits are"):
        head_logits(stream, head, torch.empty(2, 8), dependent=False)
    with pytest.raises(ValueError, match="does not fit"):
        embed(torch.zeros(2, dtype=torch.int32), torch.ones(9, 8), torch.empty(3, 8), dependent=False)
    filtered = Selection.make(Kind.FILTERED, 2, 9, penalised=False, device=DEVICE)
    state, positions = StepState.make(2, DEVICE), torch.zeros(2, dtype=torch.int32)
    greedy = HeadScratch.make(head, filtered.of_kind(Kind.GREEDY))
    with pytest.raises(ValueError, match="filters"):
        head_select(stream, head, filtered, state, positions, greedy, dependent=False)
    tile = Tile(rows=16, columns=32, warps=1, programs=7)
    with pytest.raises(ValueError, match="programs"):
        head_select(stream, head, filtered, state, positions, greedy, tile=tile, dependent=False)
