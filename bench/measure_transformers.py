"""An example of `engine.energy.measure`: the same ledger around transformers' own generate.

    python -m bench.measure_transformers "47+35-18="

Prints one JSON object: joules of prefill, of decode, and of every decode step of transformers.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from engine.energy import Window, measure
from engine.errors import TokenjouleError
from engine.locate import locate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    cli = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    cli.add_argument("prompt")
    cli.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME", help="default: bundled:chain")
    cli.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    options = cli.parse_args(argv)
    try:
        print(json.dumps(run(options.prompt, options.model, options.max_new_tokens, options.energy_source)))
    except TokenjouleError as error:
        print(f"measure_transformers: {error}", file=sys.stderr)
        return 1
    return 0


def run(prompt: str, model: str | None, max_new_tokens: int, source: str) -> dict[str, object]:
    """Text and joules of one greedy generation."""
    import torch
    import transformers
    from transformers.generation.streamers import BaseStreamer

    directory = locate(model).directory
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    cuda = torch.cuda.is_available()
    theirs.to("cuda" if cuda else "cpu")
    inputs = tokenizer(prompt, return_tensors="pt").to(theirs.device)
    inputs.pop("token_type_ids", None)

    class Marks(BaseStreamer):  # type: ignore[misc]
        """generate calls `put` with the prompt, then with every token as it is chosen."""

        def __init__(self, window: Window) -> None:
            self.window, self.tokens = window, -1

        def put(self, value: torch.Tensor) -> None:
            self.tokens += 1
            if self.tokens == 0:
                self.window.skip()
            elif self.tokens == 1:
                self.window.mark("prefill", tokens=inputs["input_ids"].shape[1])
            else:
                self.window.mark("decode")

        def end(self) -> None:
            self.window.skip()

    with measure(source, cuda_device=theirs.device.index if cuda else None) as window:
        ids = theirs.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=Marks(window)
        )
    report = window.report
    steps = [joules for joules, _ in report.rows[0].by_forward.values()]
    return {
        "text": tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True),
        "energy": report.to_json(),
        "decode_step_j": steps[1:],
    }


if __name__ == "__main__":
    sys.exit(main())
