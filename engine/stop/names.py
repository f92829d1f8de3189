"""Stop policies by name, as `--stop NAME[:ARGUMENT=VALUE,…]` gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import UsageError
from engine.steps import StopPolicy
from engine.stop.confidence import AnswerConfidence
from engine.stop.entropy import EAT
from engine.stop.give_up import GiveUp
from engine.stop.governor import SHARE, ProbeGovernor
from engine.stop.hidden_probe import HiddenProbe
from engine.stop.load import load_policy
from engine.stop.stability import AnswerStability, TailStability
from engine.stop.step import StepBudget
from engine.stop.token import TokenBudget

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True)
class Named:
    """A policy's constructor, and the arguments that the command line may give it, with their types."""

    make: Callable[..., StopPolicy]
    arguments: Mapping[str, type]


NAMES: Mapping[str, Named] = {
    "token": Named(TokenBudget, {"tokens": int}),
    "step": Named(StepBudget, {"steps": int}),
    "confidence": Named(AnswerConfidence, {"threshold": float, "choices": str, "every": int}),
    "stability": Named(AnswerStability, {"k": int, "answer_tokens": int, "every": int}),
    "tail": Named(TailStability, {"k": int}),
    "eat": Named(EAT, {"alpha": float, "delta": float, "least": int, "every": int}),
    "hidden": Named(HiddenProbe, {"file": str, "layer": int, "threshold": float, "every": int}),
    "give-up": Named(GiveUp, {"tokens": int, "steps": int, "below": float}),
}


def is_file(text: str) -> bool:
    """Whether `text` means a user's own policy, FILE:CLASS."""
    return text.rpartition(":")[0].endswith(".py")


def policy_named(text: str) -> StopPolicy:
    """The policy of a name with its arguments, or of FILE:CLASS. Raises `UsageError` of one line."""
    if is_file(text):
        return load_policy(text)
    name, separator, rest = text.partition(":")
    named = NAMES.get(name)
    if named is None:
        raise UsageError(
            f"unknown stop policy {text!r}; known: {AUTO}, {NONE}, {', '.join(NAMES)}, or FILE.py:CLASS"
        )
    values = _values(text, rest, named) if separator else {}
    try:
        inspect.signature(named.make).bind(**values)
    except TypeError as error:
        raise UsageError(f"--stop {name}: {error}; its arguments: {', '.join(named.arguments)}") from error
    return named.make(**values)


def resolved(
    policies: Sequence[StopPolicy | str],
    auto: Callable[[], StopPolicy],
    probe_share: float | None,
    *,
    riding: bool = False,
) -> list[StopPolicy]:
    """Names made policies, "auto" by `auto`; those that probe governed.

    `probe_share`: of the total joules, for all probing policies together; None leaves policies that were
    given as such ungoverned, the user's own by FILE:CLASS, and a rule that prices its probes; names get
    SHARE. `riding`: probes were asked to ride along. Raises `UsageError` for either where nobody probes;
    "auto" may, on another model.
    """
    made = [
        (auto() if policy == AUTO else policy_named(policy), not is_file(policy))
        if isinstance(policy, str)
        else (policy, False)
        for policy in policies
        if policy != NONE
    ]
    probes = AUTO in policies or any("probe" in policy.needs for policy, _ in made)
    if not probes and (probe_share is not None or riding):
        asked = "a probe share" if probe_share is not None else "a way to probe"
        raise UsageError(f"{asked} was given, and no stop policy here probes")
    bounded = [
        probe_share is not None or (named and not getattr(policy, "prices_probes", False))
        for policy, named in made
    ]
    governed = ["probe" in policy.needs and bound for (policy, _), bound in zip(made, bounded, strict=True)]
    each = (SHARE if probe_share is None else probe_share) / max(sum(governed), 1)
    return [
        ProbeGovernor(policy, each) if governs else policy
        for (policy, _), governs in zip(made, governed, strict=True)
    ]


def _values(text: str, rest: str, named: Named) -> dict[str, object]:
    """The arguments behind the colon."""
    values: dict[str, object] = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        kind = named.arguments.get(key)
        if kind is None or not equals:
            known = ", ".join(f"{name}=…" for name in named.arguments)
            raise UsageError(f"--stop {text}: {part!r} is no argument; known: {known}")
        if key in values:
            raise UsageError(f"--stop {text}: {key} is given twice")
        try:
            values[key] = kind(value)
        except ValueError as error:
            expected = {int: "a whole number", float: "a number"}[kind]
            raise UsageError(f"--stop {text}: {key} must be {expected}, not {value!r}") from error
    return values
