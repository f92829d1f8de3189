"""A policy that does nothing: subclass it and write the one method you need."""

from engine.steps import Context, Inject, Probe, ProbeReading, Step, Stop


class Policy:
    """See `engine.steps.StopPolicy`. What `needs` does not name is neither computed nor paid for.

    `bounds_thinking`: the row's thinking also ends in time for an answer within the request's tokens.
    """

    needs: frozenset[str] = frozenset()
    bounds_thinking = False

    def reset(self, context: Context) -> None:
        """A row begins."""

    def on_token(self, step: Step) -> Stop | Probe | Inject | None:
        """A token was added to the row."""
        return None

    def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
        """The probe asked for at `step` was read."""
        return None
