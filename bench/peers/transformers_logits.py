"""transformers' logits of given text, by its own loading of the same directory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contender import CPU
from bench.passages import Passage


def paths(
    directory: Path, dtype: torch.dtype, device: torch.device = CPU
) -> dict[str, Callable[[Sequence[Passage]], list[Tensor]]]:
    """As `bench.forced.paths`. Raises `ImportError` where transformers is not installed."""
    import transformers

    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    model.to(device)
    return {
        "prefill": lambda passages: [_prefill(model, passage) for passage in passages],
        "decode": lambda passages: [_decode(model, passage) for passage in passages],
    }


@torch.inference_mode()
def _prefill(model: Any, passage: Passage) -> Tensor:
    ids = torch.tensor([passage.ids[:-1]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[passage.judged - 1 :].float().cpu()


@torch.inference_mode()
def _decode(model: Any, passage: Passage) -> Tensor:
    rows, cache = [], None
    for tokens in (passage.ids[: passage.judged], *((token,) for token in passage.targets[:-1])):
        ids = torch.tensor([tokens], device=model.device)
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        rows.append(output.logits[0, -1].float().cpu())
    return torch.stack(rows)
