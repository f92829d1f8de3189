"""Many prompts from a JSONL file, one result line each; with an output file the work is resumable."""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from engine.errors import EXIT_CANCELLED, Cancelled, TokenjouleError, UsageError
from engine.line_file import alone, mend
from engine.runner import Runner, failure_of
from engine.steps import StopReason
from engine.strict import read_lines

# Options that do not decide what a result says, or that the setting tells as what came of them.
_ELSEWHERE = {
    *("prompt", "prompt_file", "prompts", "output", "trace", "plot", "json", "quiet"),
    *("model", "quantize", "dtype", "backend", "device", "energy_source"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the input. `id`: its own, or its number among the prompts, from 0."""

    id: str | int
    prompt: str
    category: str | None = None


def run_prompts(runner: Runner, items: list[Item], output: str | None) -> int:
    """Each prompt as a request of its own; a prompt that fails gets a line with `error`, the rest goes on.

    Results go to `output` (appended; ids found there are not run again) or to stdout; each line begins with
    `id`, `prompt` and `setting`. A cancelled request leaves no line, so that it is run again. Returns 1 when
    any prompt failed, 130 when cancelled.
    """
    setting = _setting(runner)
    failed = False
    with ExitStack() as held:
        stream: TextIO = sys.stdout
        if output:
            held.enter_context(alone(Path(output)))
            stream = held.enter_context(open(output, "a", encoding="utf-8"))
        done = _finished_ids(Path(output), setting, items) if output else set()
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
            line = {"id": item.id, "prompt": item.prompt, "setting": setting, **outcome}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
    if runner.trace and runner.trace.failure:
        raise TokenjouleError(runner.trace.failure)
    return 1 if failed else 0


def read_items(source: str) -> list[Item]:
    """The prompts of a JSONL file. Raises `TokenjouleError` naming the line that is wrong."""
    seen: set[str | int] = set()

    def item(value: Any) -> Item:
        found = _item(value, len(seen))
        if found.id in seen:
            raise ValueError(f"the id {found.id!r} was there before")
        seen.add(found.id)
        return found

    return read_lines(Path(source), item)


def _item(value: Any, number: int) -> Item:
    """Raises `ValueError`."""
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str) or not value["prompt"].strip():
        raise ValueError('needs an object with a "prompt" that is not empty')
    unknown = sorted(set(value) - {"prompt", "id", "category"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known: prompt, id, category")
    identity = value.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError("id must be a string or a whole number")
    category = value.get("category")
    if not isinstance(category, str | None):
        raise ValueError("category must be a string")
    return Item(identity, value["prompt"], category)


def _setting(runner: Runner) -> dict[str, Any]:
    """What all results of one file have in common; each line says it."""
    engine, options = runner.engine, vars(runner.options)
    card = engine.origin.card
    found = {
        "model": card.id,
        "quantization": card.quantization,
        "dtype": card.dtype,
        "backend": engine.model.backend.name,
        "energy_source": engine.poller.meter.name,
        **{name: value for name, value in options.items() if name not in _ELSEWHERE},
    }
    return dict(json.loads(json.dumps(found)))  # as it comes back from a file


def _check_setting(said: object, setting: dict[str, Any], where: str) -> None:
    """Raises `UsageError` for a result of another setting: a file that mixes both would tell of neither."""
    if not isinstance(said, dict):
        raise UsageError(f"{where}: no setting is told, so nothing can be added: name another --output")
    for name in (*setting, *(name for name in said if name not in setting)):
        was, now = said.get(name), setting.get(name)
        if was != now:
            raise UsageError(
                f"{where}: {name} was {was}, and is {now} now: another setting needs another --output"
            )


def _finished_ids(output: Path, setting: dict[str, Any], items: list[Item]) -> set[str | int]:
    """Ids with a result in `output`; failed ones run again.

    Raises `UsageError` for results of another setting, and of another prompt under the same id.

    A last line that a kill cut short is removed, once everything before it has proved to be ours.
    """
    if not output.is_file():
        return set()
    *lines, _ = output.read_bytes().split(b"\n")
    asked = {item.id: item.prompt for item in items}
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
            where = f"{output}, line {number}"
            _check_setting(value.get("setting"), setting, where)
            if asked.get(value["id"], value.get("prompt")) != value.get("prompt"):
                raise UsageError(f"{where}: id {value['id']!r} was another prompt: name another --output")
            done.add(value["id"])
    mend(output, '{"id":', "a result of --prompts")
    return done
