"""Greedy accuracy of the bundled model on held-out problems, by chain length and by how it was cut.

    python -m bench.train.evaluate_chain DIR

Four ways to an answer: `full`, the model thinks until it closes by itself; `one_left` and `half`, its own
chain is cut after n - 1 or n // 2 steps and the answer forced; `direct`, the answer is forced at once.
Writes evaluation.json and the card.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from bench.train.chain_card import render_card
from bench.train.chain_task import (
    ANSWER_PREFIX,
    BOS,
    CLOSER,
    EOS,
    MAX_OPERATIONS,
    PAD,
    STEP_SEPARATOR,
    TOKEN_ID,
    VOCABULARY,
    Chain,
    sample_chain,
)

EVALUATION_SEED = 1_000_003
ANSWER_TOKENS = 4  # two digits and <eos>, and one to see a third digit
# A step is at most `47+35=82\n`: 9 tokens. One step more than the chain has, to see it run on.
STEP_TOKENS = 9


def held_out_problems(operations: int, count: int) -> list[Chain]:
    """`count` different held-out chains; the same ones on every call."""
    rng = random.Random(EVALUATION_SEED + operations)
    found: dict[str, Chain] = {}
    while len(found) < count:
        chain = sample_chain(rng, operations, held_out=True)
        found[chain.prompt] = chain
    return list(found.values())


def token_ids(text: Sequence[str]) -> list[int]:
    """Ids of a text given token by token; a plain string counts as its characters."""
    return [TOKEN_ID[token] for token in text]


@torch.inference_mode()
def continue_greedily(model: LlamaForCausalLM, prefixes: list[list[int]], new_tokens: int) -> list[list[str]]:
    """The tokens after each prefix, at most `new_tokens`, up to and without `<eos>`. Lengths may differ."""
    width = max(len(prefix) for prefix in prefixes)
    pads = [width - len(prefix) for prefix in prefixes]
    rows = [[TOKEN_ID[PAD]] * pad + prefix for pad, prefix in zip(pads, prefixes, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    output = model.generate(
        input_ids=torch.tensor(rows),  # (B, width), padded on the left
        attention_mask=torch.tensor(mask),
        max_new_tokens=new_tokens,
        do_sample=False,
    )
    texts = [[VOCABULARY[token] for token in row] for row in output[:, width:].tolist()]
    return [text[: text.index(EOS)] if EOS in text else text for text in texts]


def answer_in(text: Sequence[str]) -> str | None:
    """What follows the answer prefix, or None where there is none."""
    return "".join(text[text.index(ANSWER_PREFIX) + 1 :]) if ANSWER_PREFIX in text else None


def first_steps(text: Sequence[str], count: int) -> list[str]:
    """A generated thought up to its `count`-th newline, or up to the closer if that comes sooner."""
    thought = list(text[: text.index(CLOSER)]) if CLOSER in text else list(text)
    ends = [index + 1 for index, token in enumerate(thought) if token == STEP_SEPARATOR]
    if count == 0:
        return []
    return thought[: ends[count - 1]] if len(ends) >= count else thought


def evaluate_length(model: LlamaForCausalLM, operations: int, problems: int) -> dict[str, float]:
    """Accuracy in 0..1 of the four ways at one length, and the mean new tokens of `full` with `<eos>`."""
    chains = held_out_problems(operations, problems)
    prompts = [token_ids([BOS, *chain.prompt]) for chain in chains]
    full = continue_greedily(model, prompts, STEP_TOKENS * (operations + 1) + ANSWER_TOKENS + 2)
    results = [str(chain.result) for chain in chains]
    solutions = ["".join(chain.steps) for chain in chains]

    def share(hits: Sequence[bool]) -> float:
        return round(sum(hits) / problems, 4)

    def forced_after(steps: int) -> float:
        kept = [[*first_steps(text, steps), CLOSER, ANSWER_PREFIX] for text in full]
        prefixes = [[*ids, *token_ids(text)] for ids, text in zip(prompts, kept, strict=True)]
        answers = continue_greedily(model, prefixes, ANSWER_TOKENS)
        return share(["".join(text) == result for text, result in zip(answers, results, strict=True)])

    return {
        "operations": operations,
        "problems": problems,
        "full": share([answer_in(text) == result for text, result in zip(full, results, strict=True)]),
        "full_every_step": share(
            ["".join(text).split(CLOSER)[0] == steps for text, steps in zip(full, solutions, strict=True)]
        ),
        "one_left": forced_after(operations - 1),
        "half": forced_after(operations // 2),
        "direct": forced_after(0),
        "full_tokens": round(sum(len(text) + 1 for text in full) / problems, 1),
    }


def evaluate(directory: Path, *, problems: int, report: Callable[[str], None]) -> list[dict[str, float]]:
    """Evaluates the model in `directory` at 1..12 operations and writes its evaluation.json."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    report("  n    full  1 left    half  direct  tokens")
    rows = []
    for operations in range(1, MAX_OPERATIONS + 1):
        row = evaluate_length(model, operations, problems)
        rows.append(row)
        shares = "  ".join(f"{row[key]:6.1%}" for key in ("full", "one_left", "half", "direct"))
        report(f" {operations:2d}  {shares}  {row['full_tokens']:6.1f}")
    document = {"seed": EVALUATION_SEED, "decoding": "greedy", "by_length": rows}
    (directory / "evaluation.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Evaluates a model directory. Returns 0, or 1 where there is no model; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="bench.train.evaluate_chain", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="model directory; its evaluation and card are rewritten")
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per length, <= 900")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    if not 1 <= options.problems <= 900:
        parser.error(f"--problems must be in 1..900 (n = 1 has some 1000 held out), found {options.problems}")
    if not (options.directory / "config.json").is_file():
        print(f"{options.directory} has no config.json: not a model directory", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    evaluate(options.directory, problems=options.problems, report=lambda line: print(line, file=sys.stderr))
    render_card(options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
