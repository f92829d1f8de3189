"""Stop thinking when a linear probe on the model's own state says that its answer is right."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.errors import TokenjouleError, UsageError
from engine.steps import Context, Step, Stop
from engine.stop.base import Policy
from engine.stop.checkpoints import Checkpoints


class HiddenProbe(Policy):
    """At a step's end, stop when σ(w·h + b) ≥ threshold; h (E,) is the state behind `layer` that wrote it.

    `file`: .npz or .safetensors with w (E,), b and threshold, and layer unless given here, as `layer` and
    `threshold` may be. To be fitted on states at step ends, labelled by whether an answer forced there is
    right (Zhang et al., arXiv 2504.05419). Costs one product of length E, no forward.
    """

    def __init__(
        self, file: str, *, layer: int | None = None, threshold: float | None = None, every: int | None = None
    ) -> None:
        held = _read(Path(file))
        self.file, self.every = file, every
        self._w = np.asarray(_entry(held, "w", file), np.float32)
        if self._w.ndim != 1 or not np.isfinite(self._w).all():
            raise UsageError(
                f"{file}: w must be one finite number for each hidden unit, found {self._w.shape}"
            )
        self._b = _number(held, "b", file)
        self.layer = layer if layer is not None else int(_number(held, "layer", file))
        self.threshold = threshold if threshold is not None else _number(held, "threshold", file)
        if self.layer < 0:
            raise UsageError(f"layer must be at least 0, not {self.layer}")
        if not 0 < self.threshold < 1:
            raise UsageError(f"the threshold of a hidden probe must lie in (0, 1), not {self.threshold}")
        self.needs = frozenset({f"hidden:{self.layer}"})
        self._checkpoints = Checkpoints(every)

    def reset(self, context: Context) -> None:
        self._checkpoints.begin(context)

    def on_token(self, step: Step) -> Stop | None:
        if not self._checkpoints.reached(step):
            return None
        state = step.hidden(self.layer).float().cpu().numpy()
        if state.shape != self._w.shape:
            raise UsageError(f"{self.file} is for {len(self._w)} hidden units, the model has {len(state)}")
        # σ(x) ≥ t where x ≥ ln(t / (1 - t))
        return (
            Stop()
            if float(self._w @ state) + self._b >= math.log(self.threshold / (1 - self.threshold))
            else None
        )


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if path.suffix not in (".npz", ".safetensors"):
        raise UsageError(f"a hidden probe is a .npz or .safetensors file, not {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        from safetensors.numpy import load_file

        held: dict[str, np.ndarray] = load_file(path)
        return held
    except OSError as error:  # a wrong argument, as a policy's missing FILE.py is
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # both libraries raise their own for a file that is not theirs
        raise TokenjouleError(f"{path} is no hidden probe: {error}") from error


def _entry(held: Mapping[str, np.ndarray], name: str, file: str) -> np.ndarray:
    if name not in held:
        raise UsageError(f"{file}: it has no {name}; a hidden probe holds w, b, layer and threshold")
    return held[name]


def _number(held: Mapping[str, np.ndarray], name: str, file: str) -> float:
    entry = _entry(held, name, file)
    if entry.size != 1 or not math.isfinite(float(entry.reshape(())[()])):
        raise UsageError(f"{file}: {name} must be one finite number")
    return float(entry.reshape(())[()])
