"""The LM head and the embedding against the reference; the greedy choice where the logits are made."""

import pytest
import torch

from kernels.gpu.embed import embed
from kernels.gpu.head import head_logits, head_select
from kernels.gpu.head_scratch import Division, GpuHead, HeadScratch
from kernels.gpu.selection import Kind, Selection
from kernels.gpu.step import Selected, StepState
from kernels.quantize import Format, Matrix, Quantized, dequantize, quantize
from kernels.reference import linear, rmsnorm

CPU = torch.device("cpu")
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
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def held(weight: torch.Tensor, form: torch.dtype | Format) -> Matrix:
    return quantize(weight, form) if isinstance(form, Format) else weight.to(form)


def wide(weight: Matrix) -> torch.Tensor:
    return dequantize(weight) if isinstance(weight, Quantized) else weight.float()


class Case:
    """A head of 1/√E weights, so that logits are of the order of one, and what the reference makes of it."""

    def __init__(self, rows: int, vocabulary: int, columns: int, form: torch.dtype | Format) -> None:
        norm_dtype = torch.float32 if isinstance(form, Format) else form
        weight = held(randn(vocabulary, columns, seed=1) / columns**0.5, form)
        self.head = GpuHead((1 + 0.2 * randn(columns, seed=2)).to(norm_dtype), weight, EPS)
        self.x = 3 * randn(rows, columns, seed=3)
        self.expected = linear(rmsnorm(self.x, self.head.norm.float(), EPS), wide(weight))
        # One row of plain weights meets an fp32 vector; other vectors are rounded to the weights' 16 bits.
        unit = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}.get(norm_dtype, 2.0**-20)
        self.tolerance = 8 * (2.0**-20 if rows == 1 else unit)

    def logits(self) -> torch.Tensor:
        out = torch.full((len(self.x), self.head.weight.shape[0]), float("nan"))
        head_logits(self.x, self.head, out, dependent=False)
        return out

    def close(self, found: torch.Tensor) -> bool:
        return bool((found - self.expected).abs().max() <= self.tolerance)


SIZES = pytest.mark.parametrize(
    ("rows", "vocabulary", "columns"),
    [(1, 131, 46), (1, 2100, 64), (3, 131, 46), (16, 65, 200), (2, 1030, 32), (1, 64, 264)],
    ids=str,
)


@SIZES
@ALL
def test_logits_are_the_references(
    rows: int, vocabulary: int, columns: int, form: torch.dtype | Format
) -> None:
    case = Case(rows, vocabulary, columns, form)
    assert case.close(case.logits())


@ALL
def test_the_tolerance_sees_errors(form: torch.dtype | Format) -> None:
    case = Case(2, 131, 72, form)
    assert case.close(case.logits())
    kept, case.x = case.x, case.x.clone()
    case.x[:, -1] = 0  # the last column left out
    assert not case.close(case.logits())
    case.x = kept
    if isinstance(case.head.weight, Quantized):
        case.head.weight.scales[0, -1, 3] *= 1.5  # another scale for one group of one row
        assert not case.close(case.logits())


def test_x_may_be_of_any_dtype() -> None:
    case = Case(1, 131, 46, torch.bfloat16)
    case.x = case.x.bfloat16()
    case.expected = linear(rmsnorm(case.x.float(), case.head.norm.float(), EPS), wide(case.head.weight))
    assert case.close(case.logits())


def test_many_rows_are_the_same_rows() -> None:
    case = Case(5, 131, 46, torch.bfloat16)
    together = case.logits()
    case.x = case.x[[3, 1]].contiguous()
    assert torch.equal(case.logits(), together[[3, 1]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the row that rests
@pytest.mark.parametrize("form", [torch.bfloat16, Format(8, 32)], ids=["bf16", "int8"])
def test_the_choice_is_of_these_logits(form: torch.dtype | Format) -> None:
    case = Case(3, 2100, 64, form)
    logits = case.logits()
    case.x[1] = float("nan")  # a row that rests holds anything
    selection = Selection.make(Kind.GREEDY, 3, 2100, penalised=False, device=CPU)
    state, scratch = StepState.make(3, CPU), HeadScratch.make(case.head, selection)
    positions = torch.tensor([7, -1, 0], dtype=torch.int32)
    head_select(case.x, case.head, selection, state, positions, scratch, dependent=False)
    assert torch.equal(scratch.logits[[0, 2]], logits[[0, 2]])
    selected = Selected.of(state.ring[0])
    assert selected.tokens.tolist() == [int(logits[0].argmax()), -1, int(logits[2].argmax())]
    assert torch.equal(selected.logits[[0, 2]], logits.amax(-1)[[0, 2]])
    torch.testing.assert_close(selected.logsumexp[[0, 2]], logits.logsumexp(-1)[[0, 2]])
    assert positions.tolist() == [8, -1, 1]


def test_the_last_program_looks_through_few_enough() -> None:
    for rows in (1, 4, 5, 16):
        for vocabulary, columns in ((128256, 2048), (152064, 8192), (151936, 896), (32768, 4096)):
            norm = torch.empty(columns, device="meta")
            weight = torch.empty(vocabulary, columns, dtype=torch.bfloat16, device="meta")
            division = Division.of(GpuHead(norm, weight, EPS), rows)
            assert (
                division.tokens * (division.programs - 1) < vocabulary <= division.tokens * division.programs
            )
            assert division.programs * rows <= 8192


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


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        GpuHead(torch.ones(7), torch.ones(9, 7, dtype=torch.bfloat16), EPS)
    with pytest.raises(ValueError, match="contiguous"):
        GpuHead(torch.ones(8), torch.ones(8, 9).T, EPS)
    head = GpuHead(torch.ones(8), torch.ones(9, 8), EPS)
    with pytest.raises(ValueError, match="17"):
        head_logits(torch.ones(17, 8), head, torch.empty(17, 9), dependent=False)
    with pytest.raises(ValueError, match="x is"):
        head_logits(torch.ones(2, 16)[:, ::2], head, torch.empty(2, 9), dependent=False)
    with pytest.raises(ValueError, match="logits are"):
        head_logits(torch.ones(2, 8), head, torch.empty(2, 8), dependent=False)
    with pytest.raises(ValueError, match="does not fit"):
        embed(torch.zeros(2, dtype=torch.int32), torch.ones(9, 8), torch.empty(3, 8), dependent=False)
    filtered = Selection.make(Kind.FILTERED, 1, 9, penalised=False, device=CPU)
    scratch = HeadScratch.make(head, filtered.of_kind(Kind.GREEDY))
    state, positions = StepState.make(1, CPU), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="filters"):
        head_select(torch.ones(1, 8), head, filtered, state, positions, scratch, dependent=False)
