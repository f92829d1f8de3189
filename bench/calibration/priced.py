"""Joules of one question's forwards by a frozen operating curve: each costs what it would alone on the
device.

So figures do not depend on what else the machine did, nor on which questions were decoded together. What the
meter itself booked stands beside them wherever they are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.energy.attribution import StepMark
from engine.energy.curve import OperatingCurve, request_features
from engine.energy.curve_predict import forward_features
from kernels.cost import RowWork


@dataclass(frozen=True, slots=True)
class Pricer:
    """Of a request of one row; `request_j` of any."""

    curve: OperatingCurve

    @property
    def source(self) -> str:
        """Whose joules these are."""
        worth = "measured" if self.curve.measured else "not measured"
        return f"operating curve, {self.curve.fits.source} ({worth})"

    def written_j(self, prompt_tokens: int, new_tokens: int) -> float:
        """Prefill and steps up to the choice of the last of `new_tokens` that the model wrote one by one."""
        return self.curve.energy.expected(request_features([prompt_tokens], new_tokens, 1))

    def forward_j(self, work: RowWork) -> float:
        """One forward behind the prefill."""
        return self.curve.energy.expected(forward_features([work]))

    def answer_j(self, length: int, injected: int, read: int) -> float:
        """Closing a row of `length` tokens, the last not fed yet, and choosing `read` tokens of an answer.

        `injected`: tokens of closer and answer prefix, fed together with that last one.
        """
        return self._read_j(RowWork(1 + injected, length + injected), read)

    def probe_j(self, length: int, injected: int, read: int) -> float:
        """As `answer_j`, of a probe: the row's own tokens are all fed when it comes."""
        return self._read_j(RowWork(injected, length + injected), read)

    def request_j(self, marks: Sequence[StepMark]) -> float:
        """Of all forwards that a ledger recorded, the rows of each together as they ran."""
        return sum(
            sum(map(self._prefill_j, mark.work))
            if mark.kind == "prefill"
            else self.curve.energy.expected(forward_features(mark.work))
            for mark in marks
        )

    def executed_j(self, marks: Sequence[StepMark], row: int) -> dict[str, float]:
        """By phase, of all forwards that a ledger recorded for a row."""
        spent: dict[str, float] = {}
        for mark in marks:
            for share, work in zip(mark.shares, mark.work, strict=True):
                if share.row == row:
                    joules = self._prefill_j(work) if mark.kind == "prefill" else self.forward_j(work)
                    spent[share.phase] = spent.get(share.phase, 0.0) + joules
        return spent

    def _prefill_j(self, work: RowWork) -> float:
        """A prompt, or a chunk of one."""
        before = work.length - work.new
        whole = self.curve.energy.expected(request_features([work.length], 1, 1))
        return whole - (self.curve.energy.expected(request_features([before], 1, 1)) if before else 0.0)

    def _read_j(self, first: RowWork, read: int) -> float:
        steps = (RowWork(1, first.length + further) for further in range(1, read))
        return self.forward_j(first) + sum(self.forward_j(step) for step in steps)
