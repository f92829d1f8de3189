"""The two ways a run can end before it has an answer. Everything a user can cause is one of these."""

EXIT_CANCELLED = 130  # what a shell reports for a program ended by SIGINT


class TokenjouleError(Exception):
    """A failure with one clear line for the user: the CLI prints it and exits with status 1."""


class UsageError(TokenjouleError, ValueError):
    """The request itself is wrong (a flag, a value, an impossible combination): exit status 2."""


class Cancelled(TokenjouleError):
    """The caller ended the request before it came to anything: exit status 130."""


class MeterError(TokenjouleError):
    """An energy source cannot be opened, or stopped giving readings."""
