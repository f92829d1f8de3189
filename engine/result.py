"""What a request gives back, and its JSON form, schema `tokenjoule.generation/1`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.energy.report import EnergyReport
from engine.probe import TRUNCATE
from engine.profile import StageTime
from engine.steps import StopReason

SCHEMA = "tokenjoule.generation/1"


def format_j(joules: float | None) -> str:
    """Three digits, or a question mark for what is not known."""
    return "?" if joules is None else f"{joules:.3g}"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Which model ran. `shape_only`: its weights are random, figures are about shape and cost alone."""

    id: str
    architecture: str
    parameters: int
    dtype: str
    quantization: str
    shape_only: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """A stop policy that was in force: name, what it was made with, and what it says of how it decided."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a row ended. `reason` is the first cause: of the end of its thinking where that was cut short.

    `policy`: name of the policy that asked for it. `forced_answer`: the closer was injected.
    `answer_end`: why the answer itself ended; differs from `reason` only after a forced answer. `policies`:
    all that were in force. `probes`: how many were read on this row, `probes_ridden` of them by steps it took
    anyway; `probe_j`: its joules for them, None where the meter told nothing. `probe_mode`: how they are
    read, "truncate" or "piggyback", and why where not as asked.
    """

    reason: StopReason
    policy: str | None
    forced_answer: bool
    answer_end: StopReason
    policies: tuple[Applied, ...] = ()
    probes: int = 0
    probe_j: float | None = None
    probes_ridden: int = 0
    probe_mode: str = TRUNCATE


@dataclass(frozen=True, slots=True)
class Budget:
    """A joule budget and what came of it.

    `spent_j` is the request's own energy (the report's `window_j`) once the meter has settled, with the
    half-width of its 95 % interval where the source allows one; None where the meter told nothing.
    `reserve_j` was held back for the answer. `predictor`: what the joules to come were told by, "curve" (the
    operating curve of this model on this device), "warm-up" (the roofline, scaled by two warm-up forwards) or
    "warm-up (curve refused)", where the curve is too far off on requests it had not seen, or
    "warm-up (curve of another device or source)", where the one that was named is.
    """

    joules: float
    source: str
    spent_j: float | None
    reserve_j: float
    uncertainty_j: float | None
    predictor: str | None = None

    @property
    def overshoot_j(self) -> float | None:
        return None if self.spent_j is None else max(0.0, self.spent_j - self.joules)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `weight_bandwidth_gb_per_s`: bytes that decode had to read over the time it took."""

    load_s: float
    first_token_s: float
    prefill_s: float
    decode_s: float
    decode_tokens_per_s: float
    weight_bandwidth_gb_per_s: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One row's outcome. With several rows in a request each has its own, and they share `energy`.

    `per_token_j` has one entry per new token: the row's joules of the forward that chose it, None for the
    first (prefill chose it) and for injected ones (no forward chose them). `per_token_model_j`: the same by
    the power model, without the noise of the ticks; None where no model attributed. `category`: of the
    question, as the request named it.
    """

    row: int
    model: ModelCard
    backend: str
    device: str
    prompt_tokens: int
    token_ids: tuple[int, ...]
    text: str
    answer: str | None
    stop: Ended
    energy: EnergyReport
    per_token_j: tuple[float | None, ...]
    per_token_sd_j: tuple[float | None, ...]
    phases_by_token: tuple[str, ...]
    budget: Budget | None
    timing: Timing
    error: str | None = None
    profile: tuple[StageTime, ...] | None = None
    per_token_model_j: tuple[float | None, ...] | None = None
    category: str | None = None

    @property
    def joules_per_token(self) -> float | None:
        """The paper's Eq. 1: joules of the request over prompt and new tokens.

        Of the request itself (`window_j`): the meter's ticks also cover what was before and after it. Among
        several rows a row has its share of the steps and an equal part of what lies between them.
        """
        return self._per(self.prompt_tokens + len(self.token_ids))

    @property
    def joules_per_new_token(self) -> float | None:
        return self._per(len(self.token_ids))

    def _per(self, tokens: int) -> float | None:
        if not tokens or self.energy.window_j is None:
            return None
        rows = self.energy.rows
        if len(rows) < 2:
            return self.energy.window_j / tokens
        between_j = self.energy.window_j - sum(row.total_j for row in rows.values())
        return (rows[self.row].total_j + between_j / len(rows)) / tokens

    def to_json(self) -> dict[str, Any]:
        """A plain object, ready for json.dumps. Numbers in joules and seconds."""
        budget: Mapping[str, Any] | None = None
        if self.budget:
            budget = {
                "joules": self.budget.joules,
                "source": self.budget.source,
                "spent_j": self.budget.spent_j,
                "reserve_j": self.budget.reserve_j,
                "overshoot_j": self.budget.overshoot_j,
                "uncertainty_j": self.budget.uncertainty_j,
                "predictor": self.budget.predictor,
            }
        return {
            "schema": SCHEMA,
            "model": {
                "id": self.model.id,
                "architecture": self.model.architecture,
                "parameters": self.model.parameters,
                "dtype": self.model.dtype,
                "quantization": self.model.quantization,
                "shape_only": self.model.shape_only,
            },
            "backend": self.backend,
            "device": self.device,
            "category": self.category,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": len(self.token_ids),
            "token_ids": list(self.token_ids),
            "text": self.text,
            "answer": self.answer,
            "stop": {
                "reason": str(self.stop.reason),
                "policy": self.stop.policy,
                "forced_answer": self.stop.forced_answer,
                "answer_end": str(self.stop.answer_end),
                "policies": [asdict(policy) for policy in self.stop.policies],
                "probes": self.stop.probes,
                "probe_j": self.stop.probe_j,
                "probes_ridden": self.stop.probes_ridden,
                "probe_mode": self.stop.probe_mode,
            },
            "energy": {
                **self.energy.to_json(),
                "per_token_j": list(self.per_token_j),
                "per_token_sd_j": list(self.per_token_sd_j),
                "per_token_model_j": None if self.per_token_model_j is None else list(self.per_token_model_j),
                "joules_per_token": self.joules_per_token,
                "joules_per_new_token": self.joules_per_new_token,
            },
            "budget": budget,
            "timing": {
                "load_s": self.timing.load_s,
                "first_token_s": self.timing.first_token_s,
                "prefill_s": self.timing.prefill_s,
                "decode_s": self.timing.decode_s,
                "decode_tokens_per_s": self.timing.decode_tokens_per_s,
                "weight_bandwidth_gb_per_s": self.timing.weight_bandwidth_gb_per_s,
            },
            "profile": None if self.profile is None else [stage.to_json() for stage in self.profile],
            "error": self.error,
        }
