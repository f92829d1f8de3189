"""A request as JSON lines: every step as it happens, then the meter's readings and every forward's joules.

The file is also a recording: `--energy-source replay:FILE` reads its `reading` lines.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from engine.energy.ledger import Ledger
from engine.errors import TokenjouleError
from engine.result import Generation
from engine.steps import Step

SCHEMA = "tokenjoule.trace/1"


class Trace:
    """Writes a file anew, or appends to it with `keep`.

    When writing fails the run goes on without a trace, and `failure` says what happened. Raises
    `TokenjouleError` for a file that cannot be opened.
    """

    def __init__(self, path: str, *, keep: bool = False) -> None:
        self._path = path
        self._request = 0
        self.failure: str | None = None
        try:
            self._file: IO[str] = open(path, "a" if keep else "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise TokenjouleError(f"cannot write {path}: {error.strerror}") from error
        self._write({"event": "trace", "schema": SCHEMA})

    def on_step(self, step: Step) -> None:
        """One token, with the joules as far as they were known then."""
        self._write(
            {
                "event": "step",
                "request": self._request,
                "time_s": time.monotonic(),
                "row": step.row,
                "index": step.index,
                "token_id": step.token_id,
                "text": step.text,
                "phase": str(step.phase),
                "forced": step.forced,
                "spent_j": step.energy().spent_j,
            }
        )

    def on_end(self, ledger: Ledger, result: Generation, outcome: Mapping[str, Any]) -> None:
        """The readings of this request, its forwards with their joules, and the outcome as JSON has it."""
        for reading in ledger.readings():
            self._write(
                {
                    "event": "reading",
                    "request": self._request,
                    "time_s": reading.time_s,
                    "energy_uj": reading.energy_uj,
                }
            )
        energies: dict[int, list[float]] = {}
        for row in result.energy.rows.values():
            for number, (joules, _) in row.by_forward.items():
                energies.setdefault(number, []).append(joules)
            for number, joules in row.probes.items():
                energies.setdefault(number, []).append(joules)
        for number, mark in enumerate(ledger.marks):
            known = energies.get(number)
            self._write(
                {
                    "event": "forward",
                    "request": self._request,
                    "number": number,
                    "kind": mark.kind,
                    "start_s": mark.start_s,
                    "end_s": mark.end_s,
                    "rows": [[share.row, str(share.phase), share.tokens] for share in mark.shares],
                    "energy_j": sum(known) if known else None,
                }
            )
        self._write({"event": "end", "request": self._request, "result": outcome})
        self._request += 1

    def close(self) -> None:
        with suppress(OSError):  # what is left in the buffer of a full disk; known by then
            self._file.close()

    def _write(self, event: dict[str, Any]) -> None:
        if self.failure is None:
            try:
                self._file.write(json.dumps(event) + "\n")
            except OSError as error:
                self.failure = f"cannot write {self._path}: {error.strerror}"
