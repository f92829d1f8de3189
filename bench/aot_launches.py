"""Every kernel launch that a model makes, recorded without a GPU: what `bench.aot` compiles.

A decode step of every number of rows, length and kind of selection, and of rows that share a prefix where
that pays; attention of a prefill, and of a few injected tokens. Layers of one kind launch the same kernels:
one of each is recorded.
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
from kernels.gpu.selection import Kind
from kernels.gpu.shared_prefix import pays
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
                positions = pages * PAGE_SIZE
                cases = {f"decode {name}": StepShape(count, pages, *SELECTIONS[name])}
                if index == 0 and pays(count, positions, parts.layers[0].shape, parts.caches[0].keys.dtype):
                    cases["shared prefix"] = replace(cases[f"decode {name}"], shared=True)
                for what, shape in cases.items():
                    with recording(capability) as launches:
                        DecodeStep(parts, shape).run()
                    yield what, count, positions, 1, launches
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


def _prefill(parts: Parts, new: int) -> None:
    pages = torch.empty(-(-new // PAGE_SIZE), dtype=torch.int64, device=META)
    places = torch.empty(new, dtype=torch.int64, device=META)
    row = RowSpan(start=0, stop=new, length=new, pages=pages, first_slot=0)
    layout = Layout((row,), places, places, parts.cos[:new], parts.sin[:new], PAGE_SIZE)
    for layer, cache in zip(parts.layers, parts.caches, strict=True):
        shape = layer.shape
        q = torch.empty(new, shape.n_heads, shape.head_dim, dtype=cache.keys.dtype, device=META)
        parts.backend.attention(q, layer, cache, layout)
