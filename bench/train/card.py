"""The model's card: README.md written from training.json, evaluation.json and config.json, never by hand.

Knows those files and the test bed's constants; computes no figure of its own but sums and percentages.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.testbed.chain import MAX_VALUE, OPERATIONS
from bench.testbed.folds import FOLDS, HELD_OUT
from bench.testbed.recall import FACTS, LINES, RANK_OFFSET
from bench.testbed.search import MOST_TRIES, UNSOLVABLE_SHARE
from bench.testbed.verify import RATES
from bench.train.examples import FIRST_LENGTH, Kind

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {name}: a {millions:.2f} M parameter model with four ways of thinking

A Llama-architecture model, trained from scratch, for studying when reasoning should stop. It thinks aloud
about four families of small tasks: one where every step is needed, one where further checking first helps
and then hardly does, one where it searches without knowing how long, and one where thinking is useless. Every
answer can be checked, and what the thinking *should* look like is known.

## Tasks

Generation begins in the thinking phase; there is no opening token. A thought is lines; `</think>` and
`<answer>` are one token each. Forcing `</think><answer>` at any point makes the model answer from what it has
so far; it was trained on such cuts, after whole lines and inside lines. generation_config.json describes this
under `thinking` (not a transformers key; transformers carries it along unused).

- **chain**, `a+5b-8>47=`: 47 + 5 - 8; 1 to {max_operations} operations with operands of one digit, values in
  0..{max_value}. One line per operation, `a+5=52` and `b-8=44`; the answer is `44`.
- **verify**, `3859~`: the last digit of the digits' sum. Lines of the digits with the running sum's last
  digit behind each but the first, `3815695`: an attempt, then checking passes, {verify_lines} lines in all.
  The answer is the last line's last digit, right or wrong.
- **search**, `3852>4+?`: the two digits whose product ends in 4. Lines of random pairs and products, `326-`,
  until one hits, `384+`, at most {tries}; the answer is `38`, or `N` for none ({unsolvable:.0%} of all).
- **recall**, `qzt:`: the digit of one of {facts} keys. {recall_lines} lines of dots, `...`, no information.

Each family also comes with four options, every value before its letter: `a+5b-8>44A52B39C47D>47=`,
`38595A2B3C4D~`, `3852>4+38A32B85CND?`, `qzt7A2B3C4D:`; the answer is a letter. There a chain's last line,
every line of verify (`N` for a digit that is not among the options) and a hit of a search end in the letter
of their value: `b-8=44a`, `3815695a`, `384a`. No two options of a chain end in the same digit.

The thoughts of *verify* come from a known Markov chain: the attempt is wrong with probability {epsilon:g}, a
pass over a wrong line corrects it with {fix:g}, a pass over a right line spoils it with {break_:g}. The model
is taught to answer what its last line says; with no line, what an attempt might have said. In *search* pairs
are drawn with replacement, and an answer forced early is taught the truth, so that its probability can become
a posterior. In *recall* a fact of rank r is met in proportion to 1/(r + {rank_offset}).

The tokenizer has one token per character, but one for an option's last character and its letter (`2A` of
`52A`), so that the letter of a value is one look-up away. Encoding puts `<bos>` in front and drops spaces. An
unknown character becomes `<unk>`.

## Accuracy

Thinking sampled at temperature 1, answers greedy, {questions} questions a row. *Full*: after the model's own
thought. *Half*: forced after half of that thought's lines. *Direct*: forced at once. *Closed*: thoughts that
closed by themselves. *Tokens*: mean new tokens of a full answer, `<eos>` included. Difficulty: operations,
1, digits, and the quarter of all draws that the fact's rank falls into (0 the best known).

{table}

One row's 95 % interval is about ±{worst_interval:.1f} points at 50 %. Questions are of development folds,
never trained on, except for recall: its facts are those that were trained on, as they must be.

## Behaviour of the thoughts

Verify, the Markov chain as the model writes it (what it was taught: {epsilon:g}, {fix:g}, {break_:g}):

{transitions}

Search: lines that are a pair of the question with its right product; thoughts that end with the first hit;
thoughts without a hit that end after exactly {tries} tries:

{tries_table}

## Data

Made by `bench/testbed` and `bench/train/examples.py`. {held_out} in {folds} questions, chosen by a hash of
their text without options, are held out and never trained on. Shares of the sequences, and how they reach
their answers:

{mix_table}

*Full*: a whole thought. *Direct*: none. *Cut*: cut short, {mix[cut_inside_a_line]:.0%} of those inside a
line. The loss covers what follows the prompt, except a closer that came from a cut: the model is not to learn
to give up. It weighs tokens by their place, never by what was chosen there: answers {mix[weights][answer]:g};
values and letters of chains, sums and letters of verify, products and hit or miss of search
{mix[weights][decision]:g}; all else 1. In verify {mix[planted]:.0%} of the lines are planted: wrong whatever
stood before, and of no weight up to their last sum, so that passes over wrong lines, and letters that differ
from the line before, are seen often enough to be learned. Besides, {mix[drill]:.0%} of all sequences are
drill: behind a question with options its values in any order, of which the letters alone are learned.
{history}

## Model and training

| | |
|---|---|
| Architecture | LlamaForCausalLM, {layers} layers, width {hidden}, {heads} heads, {kv_heads} kv heads |
| MLP, embeddings | width {mlp}, tied |
| Parameters | {parameters:,}, stored as {dtype} |
| Vocabulary, context | {vocabulary} tokens, {context} positions |
| Optimizer | Muon for hidden matrices, weight decay {weight_decay:g}; AdamW for embeddings and norms |
| Learning rate | {learning_rate:g}, after a warm-up, cosine to 0 |
| Batch, steps | {batch} sequences, {steps_done:,} of {steps:,} steps |
| Seed, workers | {seed}, {workers} |
| Tokens read | {tokens:,} |
| Wall time | {minutes:.1f} minutes (the machine shared with other work) |
| Hardware | {machine}; torch {torch} |
| Final training loss | {loss_nats:.4f} nats per learned token, most of it the texts' own randomness |

```
{command}
```

The same command on the same machine gives the same weights; other numbers of workers or processors round
differently and give a model of like quality.

## Limits

It does these four things, in these spellings. Anything else it answers confidently and wrongly. How it
behaves says nothing about how large reasoning models behave.

## Licence

Apache-2.0, weights and data generator alike. No third-party data or weights were used.
"""


def accuracy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, one line per category and difficulty. Stored in 0..1, shown in percent."""
    lines = [
        "| category | difficulty | direct | half | full | closed | tokens |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        shares = " | ".join(f"{row[key]:.1%}" for key in ("direct", "half", "full", "closed"))
        lines.append(f"| {row['category']} | {row['difficulty']} | {shares} | {row['full_tokens']:.1f} |")
    return "\n".join(lines)


def behaviour_table(by_category: Mapping[str, Mapping[str, float]], shares: Sequence[str]) -> str:
    """A Markdown table of some shares of each category."""
    lines = ["| category | " + " | ".join(shares) + " |", "|---|" + "--:|" * len(shares)]
    for category, found in by_category.items():
        cells = " | ".join(f"{found[share]:.4f}" for share in shares)
        lines.append(f"| {category} | {cells} |".replace("nan", "none seen"))
    return "\n".join(lines).replace("_", " ")


def mix_table(families: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of the training sequences: families, options, kinds."""
    columns = {"share": "of all", "with_options": "with options"}
    columns |= {kind.value: kind.value for kind in Kind if kind is not Kind.DRILL}
    lines = ["| family | " + " | ".join(columns.values()) + " |", "|---|" + "--:|" * len(columns)]
    for family, shares in families.items():
        lines.append(f"| {family} | " + " | ".join(f"{shares[column]:.0%}" for column in columns) + " |")
    return "\n".join(lines)


def _history(training: Mapping[str, Any]) -> str:
    """How long the chains were, and the runs that came before this one, the first one first."""
    runs = [training]
    while (before := runs[0].get("before")) is not None:
        runs.insert(0, before)
    if len(runs) == 1:
        grown = f"{training['curriculum']:.0%}"
        return f"Chains grow from {FIRST_LENGTH} to {OPERATIONS[-1]} operations over {grown} of the run."
    stages = (
        f"{run['name']}, {run['steps_done']:,} of {run['steps']:,} steps ({run['tokens']:,} tokens,"
        f" {run['elapsed_s'] / 60:.0f} minutes, `{run['command']}`)"
        for run in runs[:-1]
    )
    other = any(run["mix"] != training["mix"] for run in runs)
    told = f"The run began with the weights of earlier ones: {'; then '.join(stages)}."
    if other:
        told += " Those had shares and weights of their own."
    if runs[-2]["name"] != training["name"]:
        told += (
            f" {training['name']} is that {runs[-2]['name']} with copies of its blocks behind them, which"
            " gave nothing at first (`bench/train/grow.py`)."
        )
    return told


def card_text(training: Mapping[str, Any], evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The whole card. Raises `KeyError` where one of the three files lacks a field."""
    rows = evaluation["accuracy"]
    questions = rows[0]["questions"]
    return _CARD.format(
        millions=training["parameters"] / 1e6,
        table=accuracy_table(rows),
        transitions=behaviour_table(evaluation["transitions"], ("epsilon", "fix", "break", "rewritten")),
        tries_table=behaviour_table(evaluation["tries"], ("right", "ended_at_hit", "ran_through")),
        questions=questions,
        worst_interval=196 * (0.25 / questions) ** 0.5,
        max_value=MAX_VALUE,
        max_operations=OPERATIONS[-1],
        verify_lines=RATES.lines,
        epsilon=RATES.epsilon,
        fix=RATES.fix,
        break_=RATES.break_,
        unsolvable=UNSOLVABLE_SHARE,
        facts=FACTS,
        rank_offset=RANK_OFFSET,
        recall_lines=LINES,
        held_out=len(HELD_OUT),
        folds=FOLDS,
        mix_table=mix_table(training["mix"]["families"]),
        history=_history(training),
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        mlp=config["intermediate_size"],
        dtype=config["dtype"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        minutes=training["elapsed_s"] / 60,
        tries=MOST_TRIES,
        **training,
    )


def render_card(directory: Path) -> None:
    """Writes README.md from the three JSON files beside it."""
    training, evaluation, config = (
        json.loads((directory / name).read_text(encoding="utf-8"))
        for name in ("training.json", "evaluation.json", "config.json")
    )
    (directory / "README.md").write_text(card_text(training, evaluation, config), encoding="utf-8")
