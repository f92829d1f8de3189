"""llama.cpp through llama-cpp-python's low-level API: load, fill a context, decode, prefill, quantise a file.

Its OpenMP threads spin for some milliseconds after each step and then sleep; whoever times something else
next pauses first, as `bench.decode` does.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine.errors import TokenjouleError

# llama.h's llama_ftype
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2}
PAD = 256  # cells of a sequence are allotted in these


def library() -> ModuleType:
    """The low-level module, its log silenced. Raises `ImportError` where it is not installed."""
    import llama_cpp.llama_cpp as llama

    global _silence
    if _silence is None:
        _silence = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(_silence, None)
        llama.llama_backend_init()
    return llama


_silence: Any = None  # the callback must outlive the library's use of it


def quantise(source: Path, path: Path, kind: str) -> None:
    """Write `source`, a GGUF in bf16, as Q8_0 or Q4_0 the way llama.cpp's own tool does. Replaces `path`."""
    llama = library()
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = FILE_TYPES[kind]
    partial = path.with_suffix(".partial")
    failed = llama.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(settings))
    if failed:
        raise TokenjouleError(f"llama.cpp could not quantise {source} to {kind}: status {failed}")
    partial.replace(path)


class LlamaModel:
    """A GGUF file, memory-mapped; weights repacked where llama.cpp does so by default. Close it."""

    def __init__(self, path: Path) -> None:
        self._llama = library()
        settings = self._llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.handle = self._llama.llama_model_load_from_file(str(path).encode(), settings)
        if not self.handle:
            raise TokenjouleError(f"llama.cpp cannot load {path}")
        self.vocabulary = self._llama.llama_vocab_n_tokens(self._llama.llama_model_get_vocab(self.handle))

    def close(self) -> None:
        """Free the weights; contexts must be closed before."""
        if self.handle:
            self._llama.llama_model_free(self.handle)
            self.handle = None


class LlamaContext:
    """`rows` sequences of up to `length` positions each, F16 keys and values. Close it.

    Each sequence has its own stretch of cells (`kv_unified` off): with one shared stretch every row would
    attend over all rows' cells, masked.
    """

    def __init__(
        self, model: LlamaModel, *, rows: int, length: int, threads: int, batch: int = 512, flash: int = -1
    ) -> None:
        self._llama, self._model = library(), model
        self.rows, self.length = rows, length
        settings = self._llama.llama_context_default_params()
        settings.n_ctx = rows * (-(-length // PAD) * PAD)
        settings.n_seq_max = rows
        settings.n_batch = settings.n_ubatch = batch
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = flash
        settings.kv_unified = False
        settings.no_perf = True
        self.handle = self._llama.llama_init_from_model(model.handle, settings)
        if not self.handle:
            raise TokenjouleError(f"llama.cpp cannot make a context of {rows} rows of {length} positions")
        self._memory = self._llama.llama_get_memory(self.handle)
        self._batch = self._llama.llama_batch_init(batch, 0, 1)
        self._size = batch

    def set_threads(self, count: int) -> None:
        """For decoding and prefill."""
        self._llama.llama_set_n_threads(self.handle, count, count)

    def held(self, row: int) -> int:
        """How many positions the row has."""
        return self._llama.llama_memory_seq_pos_max(self._memory, row) + 1

    def truncate(self, length: int) -> None:
        """Forget the positions of every row from `length` on."""
        for row in range(self.rows):
            if not self._llama.llama_memory_seq_rm(self._memory, row, length, -1):
                raise TokenjouleError(f"llama.cpp cannot cut a row back to {length} positions")

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> list[int]:
        """One token per row at its position -> the next token of each row, greedily."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            self._place(row, token, position, row, last=True)
        self._run()
        return [int(self._logits(row).argmax()) for row in range(len(tokens))]

    def prefill(self, tokens: Sequence[int], *, row: int = 0, first: int = 0) -> np.ndarray:
        """Feed tokens from position `first` on, in batches -> the last token's logits (V,) fp32, a view."""
        for start in range(0, len(tokens), self._size):
            some = tokens[start : start + self._size]
            self._batch.n_tokens = len(some)
            for index, token in enumerate(some):
                last = start + index + 1 == len(tokens)
                self._place(index, token, first + start + index, row, last=last)
            self._run()
        return self._logits(-1)

    def state(self, row: int = 0) -> bytes:
        """The row's keys and values, as `restore` of a context of as many rows takes them."""
        size = self._llama.llama_state_seq_get_size(self.handle, row)
        blob = (ctypes.c_uint8 * size)()
        if self._llama.llama_state_seq_get_data(self.handle, blob, size, row) != size:
            raise TokenjouleError("llama.cpp gave an incomplete state")
        return bytes(blob)

    def restore(self, state: bytes, row: int) -> None:
        """Make the row what `state` held; of a model of the same shape, whatever its weights."""
        blob = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if not self._llama.llama_state_seq_set_data(self.handle, blob, len(blob), row):
            raise TokenjouleError("llama.cpp refuses the state: another shape, or too long for this context")

    def close(self) -> None:
        """Free the keys and values."""
        if self.handle:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self.handle)
            self.handle = None

    def _place(self, index: int, token: int, position: int, row: int, *, last: bool) -> None:
        batch = self._batch
        batch.token[index], batch.pos[index] = token, position
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
        batch.logits[index] = last

    def _run(self) -> None:
        status = self._llama.llama_decode(self.handle, self._batch)
        if status:
            raise TokenjouleError(f"llama.cpp could not decode: status {status}")

    def _logits(self, index: int) -> np.ndarray:
        pointer = self._llama.llama_get_logits_ith(self.handle, index)
        return np.ctypeslib.as_array(pointer, shape=(self._model.vocabulary,))


def state_for_rows(state: bytes, one: bytes, many: bytes) -> bytes:
    """A state of a context of one row, as a context of more rows takes it.

    A state says how many rows its context has room for, and lists the empty ones behind it. `one` and `many`:
    states of the same single token in a context of one row and in one of as many as wanted; they show where.
    Raises `TokenjouleError` where they differ in more than that.
    """
    at = next((i for i, (x, y) in enumerate(zip(one, many, strict=False)) if x != y), 0)
    count, empty = many[at : at + 4], many[len(one) :]
    if one[:at] + count + one[at + 4 :] + empty != many or any(empty):
        raise TokenjouleError("this version of llama.cpp writes the state of a row in another way")
    return state[:at] + count + state[at + 4 :] + empty
