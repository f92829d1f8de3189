"""A tiny random model that writes single letters, and a meter that gives the same joules on every machine."""

import time
from pathlib import Path

from engine.energy.meter import Reading, Sensor
from engine.errors import MeterError
from engine.tokenizer import Tokenizer
from tests import tiny


class CountedMeter:
    """One joule per reading: fresh, exact, the same on every machine. Or so many watts, until it fails."""

    name, measured, device, note = "estimate", False, "test", ""

    def __init__(self, *, watts: float | None = None) -> None:
        self.sensor = Sensor()
        self.watts = watts
        self.reads, self.fails_after = 0, 10**9

    def read(self) -> Reading:
        self.reads += 1
        if self.reads > self.fails_after:
            raise MeterError("the counter is gone")
        now_s = time.monotonic()
        energy_uj = self.reads * 1_000_000 if self.watts is None else int(now_s * self.watts * 1e6)
        return Reading(now_s, now_s, energy_uj)

    def close(self) -> None:
        pass


def write(path: Path, variant: str = "llama-gqa") -> None:
    """A tiny random model of 97 tokens: letters, a closer (91) and an answer prefix (92)."""
    tiny.write(path, variant)
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    letters = {chr(33 + i): i for i in range(90)}
    backend = Backend(models.WordLevel(letters | {"<unk>": 90}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_tokens([AddedToken("</think>", normalized=False), AddedToken("<answer>", normalized=False)])
    backend.save(str(path / "tokenizer.json"))
    (path / "generation_config.json").write_text(
        '{"thinking": {"opener": null, "closer": "</think>", "answer_prefix": "<answer>", '
        '"step_separator": "x"}}'
    )
    assert Tokenizer.load(path).token_id("</think>") == 91
