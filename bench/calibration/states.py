"""The states that a checkpoint log may hold: behind some layers, at the token that ended a step.

A state is kept as base64 of its numbers as little-endian float32, by the layer's number: what `HiddenProbe`
would see there, to the bit.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.calibration.log import Entry, Trace
from engine.errors import TokenjouleError
from engine.steps import Step

_KIND = "<f4"


def taken(step: Step, layers: Sequence[int]) -> dict[str, str]:
    """Of a step whose policy needs "hidden:L" for these layers."""
    return {
        str(layer): base64.b64encode(
            step.hidden(layer).float().cpu().numpy().astype(_KIND).tobytes()
        ).decode()
        for layer in layers
    }


def layers_of(traces: Sequence[Trace]) -> list[int]:
    """Behind which layers every checkpoint of every run has a state, in rising order."""
    held = [set(entry.states or {}) for trace in traces for entry in trace.checkpoints]
    return sorted(int(layer) for layer in set.intersection(*held) if layer.isdigit()) if held else []


def read_states(entries: Sequence[Entry], layer: int) -> NDArray[np.float32]:
    """(N, E) behind one layer. Raises `TokenjouleError` for what are no states, or not of one width."""
    found = [_read(entry.states or {}, entry, layer) for entry in entries]
    if len({len(state) for state in found}) > 1:
        raise TokenjouleError(f"the states behind layer {layer} are not all of one width")
    return np.array(found, np.float32).reshape(len(found), -1 if found else 0)


def _read(states: Mapping[str, str], entry: Entry, layer: int) -> NDArray[np.float32]:
    where = f"{entry.category} {entry.question}: "
    try:
        state = np.frombuffer(base64.b64decode(states[str(layer)], validate=True), _KIND)
    except KeyError as error:
        raise TokenjouleError(f"{where}the log lacks the state behind layer {layer}") from error
    except (ValueError, TypeError, binascii.Error) as error:
        raise TokenjouleError(f"{where}what stands for layer {layer} is no state: {error}") from error
    if not (len(state) and np.isfinite(state).all()):
        raise TokenjouleError(f"{where}the state behind layer {layer} is empty or not finite")
    return state
