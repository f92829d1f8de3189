"""Every kernel launch that a model makes, recorded without a GPU: what `bench.aot` compiles.

A decode step of every number of rows, length and kind of selection; attention of a prefill, of a few injected
tokens, and of rows that share a prefix. Layers of one kind launch the same kernels: one of each is recorded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bench.meta_model import META, meta_parts
from engine.config import ModelConfig
from engine.device_loop import FEWEST_PAGES
from engine.model import PAGE_SIZE
from engine.schemes import SCHEMES
from kernels.aot.record import Launch, Variant, recording
from kernels.api import Layout, RowSpan
from kernels.gpu.decode_step import DecodeStep, Parts, StepShape
from kernels.gpu.rows import Rows
from kernels.gpu.selection import Kind
from kernels.gpu.shared_prefix import SharedPrefixScratch, most_shared_queries, shared_prefix_attention
from kernels.gpu.tiles import Chip

# By compute capability the multiprocessors of a card that has it: A100, L40S, H200. Programs of a launch, and
# with them constants of the head's kernels, follow from it. Source: NVIDIA's data sheets.
CHIPS: Mapping[int, Chip] = {80: Chip(108, 80), 89: Chip(142, 89), 90: Chip(132, 90)}
# (kind of choice, whether there are repetition penalties)
SELECTIONS: Mapping[str, tuple[Kind, bool]] = {
    "greedy": (Kind.GREEDY, False),
    "sampled": (Kind.SAMPLED, False),
    "filtered": (Kind.FILTERED, False),
    "penalised": (Kind.FILTERED, True),
}
PREFILLS = (1, 512)  # new tokens: the small tile of queries, and the large one
PREFIX, OWN = 4096, 1024  # positions of a shared prompt, and of each row behind it


@dataclass(frozen=True, slots=True)
class Use:
    """Where a variant is launched first. `rows` × `new_tokens` tokens over up to `context` positions."""

    model: str
    quantization: str
    what: str
    rows: int
    context: int
    new_tokens: int = 1

    def __str__(self) -> str:
        return f"{self.model} {self.quantization}, {self.what}, {self.rows} rows, context {self.context}"


def variants(
    models: Mapping[str, ModelConfig],
    dtype: torch.dtype,
    schemes: Sequence[str],
    rows: Sequence[int],
    selections: Sequence[str],
    capability: int,
) -> dict[Variant, list[Use]]:
    """What has to be compiled for a device of `capability`, each variant once, with all its uses."""
    found: dict[Variant, list[Use]] = {}
    for model, config in models.items():
        kinds = tuple(dict.fromkeys(config.windows))
        short = replace(config, n_layers=len(kinds), windows=kinds)
        for scheme in schemes:
            longest = -(-config.max_context // PAGE_SIZE)
            parts = meta_parts(short, dtype, SCHEMES.get(scheme), CHIPS[capability], pages=longest)
            for what, count, context, new, launches in _launches(
                parts, rows, selections, longest, capability
            ):
                use = Use(model, scheme, what, count, context, new)
                for launch in launches:
                    found.setdefault(launch.variant, []).append(use)
    return found


def _launches(
    parts: Parts, rows: Sequence[int], selections: Sequence[str], longest: int, capability: int
) -> Iterator[tuple[str, int, int, int, list[Launch]]]:
    """(what, rows, context, new tokens of a row, its launches)."""
    for count in rows:
        for index, name in enumerate(selections):
            # How long a row may get changes attention alone, which does not know of selections.
            for pages in _lengths(longest) if index == 0 else (FEWEST_PAGES,):
                with recording(capability) as launches:
                    DecodeStep(parts, StepShape(count, pages, *SELECTIONS[name])).run()
                yield f"decode {name}", count, pages * PAGE_SIZE, 1, launches
        group = parts.layers[0].shape.n_heads // parts.layers[0].shape.n_kv_heads
        if count > 1 and count * group <= most_shared_queries(parts.caches[0].keys.dtype):
            with recording(capability) as launches:
                _share_prefix(parts, count)
            yield "shared prefix", count, PREFIX + OWN, 1, launches
    for new in PREFILLS:
        with recording(capability) as launches:
            _prefill(parts, new)
        yield "prefill", 1, new, new, launches


def _lengths(longest: int) -> Iterable[int]:
    """Pages of a row that steps are captured for: powers of two."""
    pages = FEWEST_PAGES
    while pages < longest:
        yield pages
        pages *= 2
    yield pages


def _share_prefix(parts: Parts, count: int) -> None:
    pages = (PREFIX + OWN) // PAGE_SIZE
    rows = Rows(_int32(count), _int32(count, pages), parts.cos, parts.sin, PAGE_SIZE)
    for layer, cache in zip(parts.layers, parts.caches, strict=True):
        shape = layer.shape
        heads = torch.empty(count, shape.n_heads, shape.head_dim, dtype=cache.keys.dtype, device=META)
        scratch = SharedPrefixScratch.make(count, shape, PREFIX, OWN, META)
        dependent = parts.backend.dependent
        shared_prefix_attention(
            heads, cache.keys, cache.values, rows, _int32(1), shape, scratch, heads, dependent=dependent
        )


def _prefill(parts: Parts, new: int) -> None:
    pages = torch.empty(-(-new // PAGE_SIZE), dtype=torch.int64, device=META)
    places = torch.empty(new, dtype=torch.int64, device=META)
    row = RowSpan(start=0, stop=new, length=new, pages=pages, first_slot=0)
    layout = Layout((row,), places, places, parts.cos[:new], parts.sin[:new], PAGE_SIZE)
    for layer, cache in zip(parts.layers, parts.caches, strict=True):
        shape = layer.shape
        q = torch.empty(new, shape.n_heads, shape.head_dim, dtype=cache.keys.dtype, device=META)
        parts.backend.attention(q, layer, cache, layout)


def _int32(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int32, device=META)
