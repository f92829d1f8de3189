"""Policies made of policies: any of them, all of them, one of them later."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from engine.errors import UsageError
from engine.probe import merged
from engine.steps import Context, Inject, Phase, Probe, ProbeReading, Step, Stop, StopPolicy
from engine.stop.base import Policy, Wrapper, name_of
from engine.stop.checkpoints import Checkpoints
from engine.stop.joule import JouleBudget


class _Several(Policy, ABC):
    """Asks its members at every token, and reads one probe for all that want one behind the same text.

    A joule budget bounds a request and is given beside other policies, not as a member: `UsageError`.
    """

    def __init__(self, *members: StopPolicy) -> None:
        if len(members) < 2:
            raise UsageError(f"{type(self).__name__} takes at least two policies")
        if any(isinstance(member, JouleBudget) for member in members):
            raise UsageError(f"a joule budget is given beside {type(self).__name__}, not inside it")
        self._members = members
        self.needs = frozenset[str]().union(*(member.needs for member in members))
        self._probing: list[int] = []

    @property
    def parameters(self) -> Mapping[str, object]:
        return {
            "members": [
                {"name": name_of(member), "parameters": dict(getattr(member, "parameters", {}))}
                for member in self._members
            ]
        }

    def reset(self, context: Context) -> None:
        self._asked: dict[int, Stop] = {}
        for member in self._members:
            member.reset(context)

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        probe: Probe | None = None
        inject: Inject | None = None
        self._probing = []
        for number, member in enumerate(self._members):
            action = member.on_token(step)
            if isinstance(action, Stop):
                self._asked[number] = action
            elif isinstance(action, Probe):
                both = action if probe is None else merged(probe, action)
                if both is not None:  # behind another text: the first goes first, as in the decode loop
                    probe, self._probing = both, [*self._probing, number]
            elif isinstance(action, Inject):
                inject = inject or action
        return self._verdict() or probe or inject

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        for number in self._probing:
            action = self._members[number].on_probe(step, reading)
            if action is None:
                self._asked.pop(number, None)
            else:
                self._asked[number] = action
        return self._verdict()

    @abstractmethod
    def _verdict(self) -> Stop | None:
        """What the members' stops so far, `_asked` by number, come to."""


class Any(_Several):
    """Stops when one of its members would, for that one's reason."""

    def __init__(self, *members: StopPolicy) -> None:
        super().__init__(*members)
        self.bounds_thinking = any(getattr(member, "bounds_thinking", False) for member in members)
        self.reads_price = any(getattr(member, "reads_price", False) for member in members)

    def _verdict(self) -> Stop | None:
        return next(iter(self._asked.values()), None)


class All(_Several):
    """Stops when every member has asked for it, for the last one's reason.

    What a member asked for stays asked until a later probe of its own says otherwise.
    """

    def _verdict(self) -> Stop | None:
        return list(self._asked.values())[-1] if len(self._asked) == len(self._members) else None


class After(Wrapper):
    """`inner`, but not before `tokens` of thinking, or `steps` written out. It sees all tokens."""

    def __init__(self, inner: StopPolicy, *, tokens: int | None = None, steps: int | None = None) -> None:
        limit = tokens if tokens is not None else steps
        if (tokens is None) == (steps is None) or limit is None or limit < 1:
            raise UsageError("After needs either tokens or steps, at least 1")
        super().__init__(inner)
        self.after_tokens, self.after_steps = tokens, steps
        self._ends = Checkpoints()

    def reset(self, context: Context) -> None:
        super().reset(context)
        self._ends.begin(context)
        self._thought = 0

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        self._thought += step.phase is Phase.THINK
        self._ends.reached(step)
        action = super().on_token(step)
        early = self._thought < (self.after_tokens or 0) or self._ends.count < (self.after_steps or 0)
        return None if early and step.phase is Phase.THINK else action
