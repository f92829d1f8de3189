"""Trains the bundled reasoning model and writes its Hugging Face directory.

    python -m bench.train.train_chain --out DIR --minutes 15 --seed 0

Deterministic for a given seed, number of steps and number of threads, on one machine. With --minutes the
number of steps is measured on the spot; the card records it, and --steps repeats it.
"""

import argparse
import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

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
    Example,
    sample_example,
)
from bench.train.chain_tokenizer import write_tokenizer
from bench.train.evaluate_chain import evaluate

CONTEXT = 256
WARMUP_STEPS = 100
GRADIENT_NORM = 1.0
CALIBRATION_BATCHES = 12
# Chains grow from FIRST_LENGTH to 12 operations over this share of the run: single steps are learned
# soonest where nothing else is asked.
CURRICULUM_SHARE, FIRST_LENGTH = 0.25, 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights, besides the machine. `batch`: sequences per optimizer step."""

    seed: int
    steps: int
    batch: int = 64
    micro_batches: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    threads: int = 1  # on a busy machine a second thread waits for the first more than it helps

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batches", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.batch % self.micro_batches:
            raise ValueError(f"batch {self.batch} does not divide into {self.micro_batches} micro-batches")


def model_config() -> LlamaConfig:
    """0.74 M parameters in fp32: 2.9 MB, small enough to ship beside the code."""
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=TOKEN_ID[BOS],
        eos_token_id=TOKEN_ID[EOS],
        pad_token_id=TOKEN_ID[PAD],
    )


def longest_at(step: int, recipe: Recipe) -> int:
    """The curriculum: the most operations a chain has at this step."""
    progress = min(1.0, step / max(1.0, CURRICULUM_SHARE * recipe.steps))
    return FIRST_LENGTH + math.floor(progress * (MAX_OPERATIONS - FIRST_LENGTH))


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return recipe.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def micro_batches(
    rows: list[tuple[list[int], list[bool]]], parts: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields `parts` pairs of ids (B, T) int64 and learned (B, T) bool, padded on the right.

    `rows` come sorted by length: a mixed batch of 64 is more than half padding (mean 60 tokens, longest
    about 150).
    """
    size = len(rows) // parts
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        width = len(part[-1][0])
        ids = torch.full((len(part), width), TOKEN_ID[PAD])
        learned = torch.zeros((len(part), width), dtype=torch.bool)
        for index, (row, mask) in enumerate(part):
            ids[index, : len(row)] = torch.tensor(row)
            learned[index, : len(mask)] = torch.tensor(mask)
        yield ids, learned


def loss_sum(model: LlamaForCausalLM, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy over the learned tokens. Padding is on the right, so causality hides it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # (B, T-1, 128)
    wanted = learned[:, 1:]
    return cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="sum")


def accumulate(model: LlamaForCausalLM, examples: list[Example], parts: int) -> tuple[float, int]:
    """Adds the gradient of the mean loss over a batch. Returns that loss in nats and the tokens read."""
    rows = sorted((example.tokens() for example in examples), key=lambda row: len(row[0]))
    learned_tokens = sum(sum(learned) for _, learned in rows)
    total = 0.0
    for ids, learned in micro_batches(rows, parts):
        loss = loss_sum(model, ids, learned) / learned_tokens
        torch.autograd.backward(loss)
        total += loss.item()
    return total, sum(len(ids) for ids, _ in rows)


def steps_in(minutes: float, recipe: Recipe) -> int:
    """How many optimizer steps fit, timed on full-length batches of a throw-away model."""
    model, rng = LlamaForCausalLM(model_config()), random.Random(recipe.seed)
    start = 0.0
    for index in range(CALIBRATION_BATCHES + 2):
        if index == 2:  # the first passes pay for allocation
            start = time.monotonic()
        accumulate(model, [sample_example(rng) for _ in range(recipe.batch)], recipe.micro_batches)
    return max(1, int(minutes * 60 / ((time.monotonic() - start) / CALIBRATION_BATCHES)))


def train(recipe: Recipe, report: Callable[[str], None]) -> tuple[LlamaForCausalLM, dict[str, object]]:
    """Returns the trained model and the record of the run: recipe, tokens read, elapsed_s, last loss."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model = LlamaForCausalLM(model_config()).train()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    start, tokens, recent = time.monotonic(), 0, 0.0
    for step in range(recipe.steps):
        longest = longest_at(step, recipe)
        examples = [sample_example(rng, longest=longest) for _ in range(recipe.batch)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        loss, read = accumulate(model, examples, recipe.micro_batches)
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += read
        recent = loss if step == 0 else 0.98 * recent + 0.02 * loss
        if step % 100 == 0 or step == recipe.steps - 1:
            elapsed_s = time.monotonic() - start
            report(
                f"step {step:5d}/{recipe.steps} longest {longest:2d} loss {recent:.4f} nats"
                f" tokens {tokens / 1e6:.2f} M elapsed {elapsed_s:.0f} s"
            )
    record = {
        **asdict(recipe),
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "elapsed_s": round(time.monotonic() - start, 1),
        "loss_nats": round(recent, 4),
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} hardware threads",
        "torch": torch.__version__,
        "command": (
            f"python -m bench.train.train_chain --out DIR --steps {recipe.steps} --seed {recipe.seed}"
            f" --batch {recipe.batch} --learning-rate {recipe.learning_rate:g} --threads {recipe.threads}"
        ),
    }
    return model.eval(), record


def write_model(model: LlamaForCausalLM, directory: Path) -> None:
    """Writes weights (fp32 safetensors), config, tokenizer and generation settings."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # saved readable by its owner alone
    write_tokenizer(directory, max_length=CONTEXT)
    settings = {
        "bos_token_id": TOKEN_ID[BOS],
        "eos_token_id": TOKEN_ID[EOS],
        "pad_token_id": TOKEN_ID[PAD],
        # Not a transformers key. `opener` null: generation begins inside the thinking phase.
        "thinking": {
            "opener": None,
            "closer": CLOSER,
            "answer_prefix": ANSWER_PREFIX,
            "step_separator": STEP_SEPARATOR,
        },
    }
    (directory / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Trains, evaluates and writes a model directory. Returns 0; exits with 2 on bad usage."""
    defaults = Recipe(seed=0, steps=1)
    parser = argparse.ArgumentParser(prog="bench.train.train_chain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=15.0, help="time to fill with training steps")
    length.add_argument("--steps", type=int, help="exact number of optimizer steps (repeats a run)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=defaults.batch, help="sequences per optimizer step")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per chain length")
    options = parser.parse_args(argv)

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        fields = {
            "seed": options.seed,
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "threads": options.threads,
        }
        recipe = Recipe(steps=options.steps if options.steps is not None else 1, **fields)
        torch.set_num_threads(recipe.threads)
        if options.steps is None:
            recipe = Recipe(steps=steps_in(options.minutes, recipe), **fields)
    except ValueError as error:
        parser.error(str(error))
    model, record = train(recipe, report)
    write_model(model, options.out)
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    evaluate(options.out, problems=options.problems, report=report)
    render_card(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
