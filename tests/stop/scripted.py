"""A model that writes what a script says, on a device whose every joule is known.

Its key/value cache holds the tokens themselves, so that forks, copies and truncation are real; what follows a
row's text is the script's to say.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch

from engine.cache import KVCache, new_pool
from engine.decode import Decoder
from engine.energy.ledger import Ledger
from engine.energy.predict import StepPredictor
from engine.energy.simulated import SimulatedProfile
from engine.result import Generation, ModelCard
from engine.rows import Request, own_copy
from engine.sampler import Sampling
from engine.session import Origin, Session
from engine.steps import Step, StopPolicy
from engine.stop.dial import Dial
from tests.simulation import DIMS, FORMAT, TOKENIZER, WARM_UP, Device

EOS, PROMPT = 0, "what?"
Script = Callable[[str], str | Mapping[str, float]]  # the row's text behind the prompt -> what comes next
STEP_S, TOKEN_S, WATTS = 0.01, 0.0005, 200.0


def thinker(
    steps: Sequence[str], answers: Sequence[str], confidence: Sequence[float] = (1.0,), *, closes: bool = True
) -> Script:
    """Writes `steps` (and begins again unless it `closes`); answers by how many steps were written.

    The first token of an answer has the probability `confidence`, by steps as well; "z" has the rest.
    """
    thought = "".join(step + "\n" for step in steps)

    def script(text: str) -> str | Mapping[str, float]:
        if "{" in text:
            done, _, said = text.partition("}{")
            written = done.count("\n")
            answer = answers[min(written, len(answers) - 1)]
            sure = confidence[min(written, len(confidence) - 1)]
            if not said and sure < 1:
                return {answer[0]: sure, "z": 1 - sure}
            return (answer + chr(EOS))[min(len(said), len(answer))]
        if text.endswith("}"):
            return "{"
        return "}" if closes and len(text) == len(thought) else thought[len(text) % len(thought)]

    return script


class ScriptedModel:
    """Runs a script. `forwards`: (new tokens of each row) of every forward. `tokens`: see `Riders`."""

    def __init__(
        self, device: Device, script: Script, *, tokens: int = 0, jitter: Callable[[], float]
    ) -> None:
        self.device, self.script, self.jitter = device, script, jitter
        self.config = SimpleNamespace(n_layers=1, max_context=8192, vocab_size=256)
        self.backend = SimpleNamespace(
            device=torch.device("cpu"), name="scripted", batch_invariant_tokens=tokens
        )
        self.forwards: list[list[int]] = []

    def dims(self) -> Any:
        return DIMS

    kept_bytes = 0

    def cache_bytes(self, tokens: int, *, rows: int = 1) -> int:
        return 0

    def request_cache(self, tokens: int, *, rows: int) -> KVCache:
        pages = tokens // 16 + 1 + rows
        return KVCache(
            new_pool(1, (pages * 16, 1, 1), torch.int64, torch.device("cpu")),
            pages=pages,
            page_size=16,
            frequencies=torch.ones(1),
            rope_factor=1.0,
            device=torch.device("cpu"),
        )

    def device_loop(self, *given: Any, **options: Any) -> None:
        return None

    def forward(self, tokens: Any, layout: Any, cache: KVCache, *, taps: Any = ()) -> Any:
        [layer] = cache.layers
        layer.keys[layout.slots] = torch.tensor(tokens).view(-1, 1, 1)
        self.forwards.append([row.stop - row.start for row in layout.rows])
        self.device.spend(WATTS, (STEP_S + TOKEN_S * len(tokens)) * self.jitter())
        logits, states = [], []
        for row in layout.rows:
            pages = row.pages.tolist()
            slots = [pages[at // 16] * 16 + at % 16 for at in range(row.length)]
            text = "".join(map(chr, layer.keys[slots].flatten().tolist()))[len(PROMPT) :]
            found = self.script(text)
            odds = {found: 1.0} if isinstance(found, str) else found
            line = torch.full((256,), -30.0)
            for letter, probability in odds.items():
                line[ord(letter)] = math.log(probability)
            logits.append(line)
            states.append(torch.tensor([float(text.count("\n")), 1.0]))
        return torch.stack(logits), {layer: torch.stack(states) for layer in taps}


def play(
    script: Script,
    *policies: StopPolicy,
    rows: int = 1,
    max_new_tokens: int = 600,
    answer_tokens: int = 8,
    sampling: Sampling | None = None,
    category: str | None = None,
    dial: Dial | None = None,
    jitter: Callable[[], float] = lambda: 1.0,
    during: Callable[[Session, Step], None] = lambda session, step: None,
    **options: Any,
) -> tuple[list[Generation], ScriptedModel]:
    """One request with its own device. `during` is called with every step. Returns (results, model)."""
    tokens = options.pop("tokens", 0)
    device = Device(SimulatedProfile(period_s=0.0, lag_s=0.0, window_s=0.0))
    model = ScriptedModel(device, script, tokens=tokens, jitter=jitter)
    requests = [
        Request(
            prompt_ids=tuple(map(ord, PROMPT)),
            max_new_tokens=max_new_tokens,
            sampling=sampling or Sampling(),
            eos_ids=frozenset({EOS}),
            policies=tuple(own_copy(policy) for policy in policies),
            category=category,
        )
        for _ in range(rows)
    ]
    ledger = Ledger(device.poller, predictor=StepPredictor(DIMS, WARM_UP), prior_w=WATTS, dims=DIMS)
    decoder = Decoder(
        model,  # type: ignore[arg-type]
        TOKENIZER,
        requests,
        ledger,
        thinking=FORMAT,
        answer_tokens=answer_tokens,
        dial=dial,
        **options,
    )
    card = ModelCard("scripted", "none", 0, "float32", "none", True)
    session = Session(decoder, ledger, Origin(card, "none", "simulated", DIMS, 0.0), (), Lock())
    for step in session.steps():
        during(session, step)
    return session.results(), model


def thought(result: Generation) -> str:
    """What was written before the closer."""
    return result.text.partition("}")[0]
