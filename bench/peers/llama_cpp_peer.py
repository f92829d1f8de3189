"""llama.cpp as an arm of `bench.decode`: the same weights as a GGUF file, F16 keys and values."""

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from bench.contender import Filled, best_threads
from bench.peers.llama_cpp_api import LlamaContext, LlamaModel, state_for_rows
from bench.record import Arm
from bench.source import Source
from bench.timing import fastest

CACHE_BYTES = 2  # of one F16
FLASH = {"flash attention": 1, "plain attention": 0}
PREFILL = 512  # positions that the context for prompts has room for, until a longer one comes


class LlamaCpp:
    """A contender, see `bench.contender`. `kind`: BF16, Q8_0, Q4_0, …

    Prefill runs with flash attention: 512 tokens of the 1B took 4.0, 7.4 and 4.0 s with it, 4.7, 9.3 and
    4.1 without (Q4_0, Q8_0, BF16; 2 cores). For decoding it depends on length and noise; see `start`.
    """

    def __init__(self, source: Source, kind: str) -> None:
        self._source, self._config, self._kind = source, source.config, kind
        path = source.gguf(kind)
        self._model = LlamaModel(path)
        self._weight_bytes = _step_bytes(path, tied=source.config.tied_head)
        self._prompt = LlamaContext(self._model, rows=1, length=PREFILL, threads=1, flash=1)
        self._prompt.prefill([1])
        self.threads = best_threads(self._one_step, self._prompt.set_threads)
        self._prefill_threads = best_threads(lambda: self.prefill([1] * 64), self._prompt.set_threads)
        dtype = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get(kind, kind)
        self.arm = Arm(f"llama.cpp {kind}", "llama.cpp", "ggml-cpu", kind, dtype, self.threads, "F16 cache")

    def start(self, filled: Filled, steps: int) -> "LlamaDecoding":
        """With and without flash attention, each tried for a few steps; the faster stays."""
        kinds = {name: LlamaDecoding(self, filled, steps, name) for name in FLASH}
        best = fastest({name: partial(kind.sample, steps) for name, kind in kinds.items()})
        for name, kind in kinds.items():
            if name != best:
                kind.close()
        return kinds[best]

    def context(self, rows: int, length: int, flash: str) -> LlamaContext:
        """An empty one."""
        kind = FLASH[flash]
        return LlamaContext(self._model, rows=rows, length=length, threads=self.threads, flash=kind)

    def step_bytes(self, rows: int, length: int) -> float:
        """Weights, and the cached positions of each row."""
        config = self._config
        position = 2 * config.n_layers * config.n_kv_heads * config.head_dim * CACHE_BYTES
        return self._weight_bytes + rows * length * position

    def state(self, rows: int, length: int, flash: str) -> bytes:
        """Keys and values of `length` positions of random tokens, for each row of a context of `rows`.

        Really computed, once, by whichever file asks first, and kept on disk: as far as speed goes they do
        not depend on how the weights are packed.
        """
        name = f"{flash.partition(' ')[0]}-{length}.{version('llama-cpp-python')}.state"
        path = self._source.cache / self._source.key / name
        if not path.is_file():
            draw = torch.Generator().manual_seed(length)
            tokens = torch.randint(self._config.vocab_size, (length,), generator=draw).tolist()
            partial_path = path.with_suffix(".partial")
            partial_path.write_bytes(self._state_of(tokens, 1, flash))
            partial_path.replace(path)
        state = path.read_bytes()
        if rows == 1:
            return state
        return state_for_rows(state, self._state_of([1], 1, flash), self._state_of([1], rows, flash))

    def _state_of(self, tokens: Sequence[int], rows: int, flash: str) -> bytes:
        context = self.context(rows, len(tokens), flash)
        context.set_threads(self._prefill_threads)
        context.prefill(tokens)
        state = context.state()
        context.close()
        return state

    def ready(self) -> None:
        self._prompt.set_threads(self._prefill_threads)

    def prefill(self, tokens: Sequence[int]) -> Tensor:
        if len(tokens) > self._prompt.length:
            self._prompt.close()
            threads = self._prefill_threads
            self._prompt = LlamaContext(self._model, rows=1, length=len(tokens), threads=threads, flash=1)
        self._prompt.truncate(0)
        return torch.from_numpy(self._prompt.prefill(tokens).copy())

    def close(self) -> None:
        self._prompt.close()
        self._model.close()

    def _one_step(self) -> None:
        self._prompt.truncate(1)
        self._prompt.decode([1], [1])


class LlamaDecoding:
    """See `bench.contender.Decoding`."""

    def __init__(self, owner: LlamaCpp, filled: Filled, steps: int, flash: str) -> None:
        self.note, self._start, self._rows = flash, filled.start, filled.rows
        self._tokens: list[int] = []
        self.bytes = owner.step_bytes(filled.rows, filled.start + 1 + steps)
        self._context = owner.context(filled.rows, filled.start + 1 + steps, flash)
        state = owner.state(filled.rows, filled.start, flash)
        for row in range(filled.rows):
            self._context.restore(state, row)
        self.rollback()

    def ready(self) -> None:
        """Its threads are its own."""

    def step(self) -> None:
        self._tokens = self._context.decode(self._tokens, [self._position] * self._rows)
        self._position += 1

    def rollback(self) -> None:
        self._context.truncate(self._start)
        self._position, self._tokens = self._start, [1] * self._rows

    def sample(self, steps: int) -> None:
        """As one sample of the benchmark."""
        for _ in range(1 + steps):
            self.step()
        self.rollback()

    def logits(self) -> None:
        return None

    def close(self) -> None:
        self._context.close()


def _step_bytes(path: Path, *, tied: bool) -> int:
    """Bytes of the file's tensors that a step reads: not the embedding, where the head is another."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return sum(int(t.n_bytes) for t in tensors if tied or t.name != "token_embd.weight")
