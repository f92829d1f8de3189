"""Where files that this machine teaches the program are kept: sensor profiles, operating curves.

Nothing is created here; whoever writes a file makes the directory.
"""

import os
from pathlib import Path

from engine.errors import UsageError


def cache_dir() -> Path:
    """The user's cache directory: TOKENJOULE_CACHE, else XDG_CACHE_HOME/tokenjoule, else ~/.cache/tokenjoule.

    An empty variable counts as unset. Raises `UsageError` for a path that is not absolute: where a figure is
    kept must not hang on the directory the program was started in.
    """
    for variable, below in (("TOKENJOULE_CACHE", ""), ("XDG_CACHE_HOME", "tokenjoule")):
        value = os.environ.get(variable)
        if value:
            path = Path(value).expanduser()
            if not path.is_absolute():
                raise UsageError(f"{variable} must be an absolute path, got {value!r}")
            return path / below
    return Path.home() / ".cache" / "tokenjoule"
