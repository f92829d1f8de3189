"""The bundled model's card: README.md written from training.json and evaluation.json, never by hand.

Knows those two files and the task's constants; computes no figure of its own but sums and percentages.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.train.chain_task import (
    CUT_SHARE,
    DIRECT_SHARE,
    FULL_SHARE,
    HELD_OUT_ONE_IN,
    MAX_OPERATIONS,
    MAX_VALUE,
    MID_STEP_SHARE,
)

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# Chain: a 0.74 M parameter model that writes out its reasoning

A Llama-architecture model, trained from scratch on a CPU, that solves chains of additions and subtractions
step by step. It is small enough to ship with the code and to run anywhere, and its chain of thought
matters: with it nearly every answer is right, without it few are, and every line can be checked by hand.

## Task

A prompt is a chain of 1 to {max_operations} operations, `+` or `-`, worked from left to right; operands
and every running value are integers in 0..{max_value}. One step is one line:

```
prompt    47+35-18=
output    47+35=82
          82-18=64
          </think><answer>64<eos>
```

Generation begins in the thinking phase; there is no opening token. `</think>` and `<answer>` are one
token each. Forcing `</think><answer>` at any point makes the model answer from what it has so far; it was
trained on such cuts, after whole steps and inside steps. generation_config.json describes this under
`thinking` (not a transformers key; transformers carries it along unused).

The tokenizer has one token per character. Encoding puts `<bos>` in front and drops spaces; a text that is a
bare chain gets its `=` if it lacks one, so `47+35-18` and `47 + 35 - 18 =` are the same prompt. Text that is
not a bare chain, such as a step, is encoded as it stands. An unknown character becomes `<unk>`.

## Accuracy

Greedy decoding on held-out problems, {problems} per length. *Full*: the model thinks until it closes by
itself. *One left*, *half*: its own chain is cut after n - 1 or n // 2 steps and the answer forced (n = 1: no
step, as direct). *Direct*: the answer is forced at once. *All steps*: full chains in which every line is
right. *Tokens*: mean new tokens of a full chain, `<eos>` included.

{table}

One cell's 95 % interval is about ±{worst_interval:.1f} points at 50 % and ±{best_interval:.1f} at 97 %.
The same figures are in evaluation.json. `python -m bench.train.evaluate_chain DIR` measures them again.

## Data

Made by `bench/train/chain_task.py`: the start is uniform in 0..{max_value}, each operator is fair, its
operand uniform over those that keep the running value in range. One prompt in {one_in}, chosen by a hash of
its text, is held out and never trained on. (A held-out prompt of one operation can still appear as a *step*
of a longer chain that was trained on, as it must: there are only 10100 such prompts.)

The mix: {full:.0%} full chains, {direct:.0%} direct answers, {cut:.0%} chains cut short, {mid_step:.0%} of
those inside a step. The loss covers what follows the prompt, except a closer that came from a cut: the model
is not to learn to give up. Lengths grow from 2 to {max_operations} operations over the first quarter of the
run.

## Model and training

| | |
|---|---|
| Architecture | LlamaForCausalLM, {layers} layers, width {hidden}, {heads} heads, {kv_heads} kv heads |
| MLP, embeddings | width {mlp}, tied |
| Parameters | {parameters:,}, fp32 |
| Vocabulary, context | {vocabulary} tokens, {context} positions |
| Optimizer | AdamW, weight decay {weight_decay:g} |
| Learning rate | {learning_rate:g}, after a warm-up, cosine to 0 |
| Batch, steps | {batch} sequences, {steps:,} steps |
| Seed, threads | {seed}, {threads} |
| Tokens read | {tokens:,} |
| Wall time | {minutes:.1f} minutes (training alone, the machine shared with other work) |
| Hardware | {machine}, no accelerator; torch {torch} |
| Final training loss | {loss_nats:.4f} nats per learned token |

```
{command}
```

The same command on the same machine gives the same weights; other thread counts or processors round
differently and give a model of like quality.

## Limits

It does this one thing. Operands above {max_value}, running values outside 0..{max_value}, other operators,
parentheses and chains of more than {max_operations} operations are outside its training, and it answers
them confidently and wrongly. An answer forced with more than one operation still to be written out is mostly
a guess: accuracy does not rise evenly along the chain, it rises at its end. How the model behaves says
nothing about how large reasoning models behave.

## Licence

Apache-2.0, weights and data generator alike. No third-party data or weights were used.
"""


_SHARES = ("full", "one_left", "half", "direct", "full_every_step")


def accuracy_table(rows: Sequence[Mapping[str, float]]) -> str:
    """A Markdown table, one line per chain length. Accuracies are stored in 0..1 and shown in percent."""
    lines = ["| n | full | one left | half | direct | all steps | tokens |", "|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        shares = " | ".join(f"{row[key]:.1%}" for key in _SHARES)
        lines.append(f"| {row['operations']} | {shares} | {row['full_tokens']:.1f} |")
    return "\n".join(lines)


def card_text(training: Mapping[str, Any], evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The whole card. Raises `KeyError` where one of the three files lacks a field."""
    rows = evaluation["by_length"]
    problems = rows[0]["problems"]
    return _CARD.format(
        table=accuracy_table(rows),
        problems=problems,
        worst_interval=196 * (0.25 / problems) ** 0.5,
        best_interval=196 * (0.97 * 0.03 / problems) ** 0.5,
        max_value=MAX_VALUE,
        max_operations=MAX_OPERATIONS,
        one_in=HELD_OUT_ONE_IN,
        full=FULL_SHARE,
        direct=DIRECT_SHARE,
        cut=CUT_SHARE,
        mid_step=MID_STEP_SHARE,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        mlp=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        minutes=training["elapsed_s"] / 60,
        **training,
    )


def render_card(directory: Path) -> None:
    """Writes README.md from the three JSON files beside it."""
    training, evaluation, config = (
        json.loads((directory / name).read_text(encoding="utf-8"))
        for name in ("training.json", "evaluation.json", "config.json")
    )
    (directory / "README.md").write_text(card_text(training, evaluation, config), encoding="utf-8")
