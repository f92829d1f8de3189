"""What the command lines share: errors as one line, exit statuses, and Ctrl-C that breaks no import."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from engine.errors import EXIT_CANCELLED, Cancelled, TokenjouleError, UsageError

CLOSED_PIPE = 141  # what a shell reports for a program ended by SIGPIPE


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def seed(text: str) -> int:
    """The type of a `--seed`: what torch and numpy take alike."""
    if not (text.isascii() and text.isdigit() and int(text[:20]) < 2**63):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0 and below 2^63, not {text!r}")
    return int(text)


def guarded(run: Callable[[], int]) -> int:
    """The exit status of `run`, or of the error it raises, which becomes one line on stderr."""
    if sys.stdout is None:
        return _complain("stdout is closed", 1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows "?"
    try:
        return run()
    except UsageError as error:
        return _complain(error, 2)
    except Cancelled as error:
        return _complain(error, EXIT_CANCELLED)
    except TokenjouleError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("cancelled", EXIT_CANCELLED)
    except BrokenPipeError:
        # Nobody reads any more. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        return _complain(f"cannot write: {error.strerror or error}", 1)


def leave(status: int) -> NoReturn:
    """End the process: all is said, and torch takes a moment to leave, in which Ctrl-C has no meaning."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def _complain(message: object, status: int) -> int:
    line = " ".join(str(message).split())
    print(f"tokenjoule: {line}", file=sys.stderr)
    return status


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Ctrl-C in here takes effect at the end: torch's and numpy's modules do not survive a broken import."""
    pressed = False

    def remember(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:  # not the main thread: Ctrl-C does not arrive here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
