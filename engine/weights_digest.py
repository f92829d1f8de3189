"""Which weights a directory holds, told from a few bytes of every file: cheap at any size.

Header, middle and end: any training changes those, while size and shapes stay.
"""

import hashlib
from pathlib import Path

_PIECE = 1 << 18  # bytes


def weights_digest(directory: Path) -> str:
    """Of all safetensors files, 16 hex digits. Raises `OSError`."""
    found = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for at in (0, max((size - _PIECE) // 2, 0), max(size - _PIECE, 0)):
                file.seek(at)
                found.update(file.read(_PIECE))
    return found.hexdigest()[:16]
