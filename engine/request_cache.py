"""The key/value cache of one request: room for every row to its limit, a shared prompt counted once."""

from collections.abc import Sequence

from engine.cache import KVCache
from engine.device_errors import failure_line
from engine.errors import TokenjouleError
from engine.memory import available_bytes
from engine.model import Model
from engine.rows import Request


def new_cache(
    model: Model,
    requests: Sequence[Request],
    limits: Sequence[int],
    groups: Sequence[Sequence[int]],
    *,
    room: int,
) -> KVCache:
    """For rows of up to `limits` tokens, and `room` positions more. `groups`: rows that share a prompt.

    Raises `TokenjouleError` where it does not fit: on a CPU its memory is taken only as it is written, and
    too much would end the process in mid-answer.
    """
    again = sum((len(group) - 1) * len(requests[group[0]].prompt_ids) for group in groups)
    positions = sum(limits) - again + room
    # Two pages that a row leaves ragged: its last, and where it is a fork the first that it writes to. The
    # prompt that is forked keeps a begun page of its own.
    rows = 2 * len(requests) + sum(len(group) > 1 for group in groups)
    wanted, free = model.cache_bytes(positions, rows=rows), available_bytes(model.backend.device)
    if free is not None and wanted > free + model.kept_bytes:
        raise TokenjouleError(
            f"a key/value cache of {positions} positions takes {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB of "
            f"memory are free on {model.backend.device}; fewer rows or new tokens need less"
        )
    try:
        return model.request_cache(positions, rows=rows)
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator raises the latter
        line = failure_line(error)
        if line is None:
            raise
        raise TokenjouleError(f"{line} (in a key/value cache of {positions} positions)") from error
