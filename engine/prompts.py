"""Many prompts from a JSONL file, one result line each; with an output file the work is resumable."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EXIT_CANCELLED, Cancelled, TokenjouleError, UsageError
from engine.runner import Runner, as_line, failure_of
from engine.steps import StopReason


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the input. `id`: its own, or its number among the prompts, from 0."""

    id: str | int
    prompt: str
    category: str | None = None


def run_prompts(runner: Runner, source: str, output: str | None) -> int:
    """Each prompt as a request of its own; a prompt that fails gets a line with `error`, the rest goes on.

    Results go to `output` (appended; ids found there are not run again) or to stdout. A cancelled request
    leaves no line, so that it is run again. Returns 1 when any prompt failed, 130 when cancelled.
    """
    items = read_items(source)
    done = _finished_ids(Path(output), _setting(runner)) if output else set()
    failed = False
    stream = open(output, "a", encoding="utf-8") if output else sys.stdout  # noqa: SIM115
    try:
        for item in items:
            if item.id in done:
                continue
            try:
                found = runner.run(item.prompt, stdout=None, category=item.category)
                if found.cancelled or found.result.stop.answer_end is StopReason.CANCELLED:
                    return EXIT_CANCELLED
                failure = failure_of(found.result, measured=runner.options.require_measured)
                outcome: dict[str, Any] = {**found.to_json(), "error": failure}
            except Cancelled:
                return EXIT_CANCELLED
            except TokenjouleError as error:
                outcome = {"error": str(error)}
            if outcome["error"] is not None:
                failed = True
                print(f"tokenjoule: prompt {item.id}: {outcome['error']}", file=sys.stderr)
            stream.write(as_line(item.id, outcome) + "\n")
            stream.flush()
    finally:
        if output:
            stream.close()
    if runner.trace and runner.trace.failure:
        raise TokenjouleError(runner.trace.failure)
    return 1 if failed else 0


def read_items(source: str) -> list[Item]:
    """The prompts of a JSONL file. Raises `TokenjouleError` naming the line that is wrong."""
    try:
        # Not splitlines(): U+2028 and its like may stand inside a JSON string.
        lines = Path(source).read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise TokenjouleError(f"cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenjouleError(f"{source} is not valid UTF-8: byte {error.start} is wrong") from error
    items: list[Item] = []
    seen: set[str | int] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _item(line, len(items), f"{source}, line {number}")
        if item.id in seen:
            raise TokenjouleError(f"{source}, line {number}: the id {item.id!r} was there before")
        seen.add(item.id)
        items.append(item)
    if not items:
        raise TokenjouleError(f"{source} holds no prompts")
    return items


def _item(line: str, number: int, where: str) -> Item:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TokenjouleError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str) or not value["prompt"].strip():
        raise TokenjouleError(f'{where}: needs an object with a "prompt" that is not empty')
    unknown = sorted(set(value) - {"prompt", "id", "category"})
    if unknown:
        raise TokenjouleError(f"{where}: unknown key {unknown[0]!r}; known: prompt, id, category")
    identity = value.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise TokenjouleError(f"{where}: id must be a string or a whole number")
    category = value.get("category")
    if not isinstance(category, str | None):
        raise TokenjouleError(f"{where}: category must be a string")
    return Item(identity, value["prompt"], category)


def _setting(runner: Runner) -> dict[str, Any]:
    """What results of one file must have in common, as each of them says it."""
    options, card = runner.options, runner.engine.origin.card
    found = {"model": card.id, "quantization": card.quantization, "strategy": runner.strategy.name}
    if options.answer_temperature is None:
        found["temperature"] = options.temperature
    return found


def _check_setting(value: dict[str, Any], setting: dict[str, Any], where: str) -> None:
    """Raises `UsageError` for a result of another setting: a file that mixes both would tell of neither."""
    card = value.get("model")
    said = {**value, "model": card.get("id"), "quantization": card.get("quantization")} if card else value
    for name, asked in setting.items():
        if said.get(name, asked) != asked:
            raise UsageError(
                f"{where}: {name} was {said[name]}, and is {asked} now: results of another setting need "
                "another --output"
            )


def _finished_ids(output: Path, setting: dict[str, Any]) -> set[str | int]:
    """Ids with a result in `output`; failed ones run again. Raises `UsageError` for those of another setting.

    A last line that a kill cut short is removed, once everything before it has proved to be ours.
    """
    if not output.is_file():
        return set()
    *lines, rest = output.read_bytes().split(b"\n")
    done: set[str | int] = set()
    for number, line in enumerate(lines, start=1):
        foreign = TokenjouleError(f"{output}, line {number}: not a result of --prompts")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise foreign from problem
        if not isinstance(value, dict) or not {"id", "error"} <= value.keys():
            raise foreign
        if not isinstance(value["id"], str | int):
            raise foreign
        if value["error"] is None:
            _check_setting(value, setting, f"{output}, line {number}")
            done.add(value["id"])
    if rest and not rest.startswith(b'{"id":'[: len(rest)]):
        raise TokenjouleError(f"{output}, line {len(lines) + 1}: not a result of --prompts")
    if rest:
        os.truncate(output, sum(len(line) + 1 for line in lines))
    return done
