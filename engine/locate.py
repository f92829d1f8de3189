"""Where a model's files are: the bundled one, a directory, a preset's name, or a Hugging Face repository.

The only module that may touch the network, and only for an id of the form org/name.
"""

from dataclasses import dataclass
from pathlib import Path

from engine.errors import TokenjouleError, UsageError
from engine.presets import PRESETS

MODELS = Path(__file__).parent / "models"
BUNDLED = MODELS / "chain"  # what runs where no model is named
_ALLOWED = ["*.json", "*.safetensors", "*.jinja"]
# Nested folders hold other formats (onnx/, original/), consolidated* a second copy of the weights (Mistral).
_IGNORED = ["*/*", "consolidated*"]


@dataclass(frozen=True, slots=True)
class Location:
    """`id` is the name for reports. Exactly one of `directory` and `preset` is set."""

    id: str
    directory: Path | None
    preset: str | None


def locate(model: str | None) -> Location:
    """Find a model; None is the bundled one that is the default.

    "bundled:NAME" and "preset:NAME" name one that ships with the package and a shape without weights
    (`UsageError` listing them when unknown), an existing directory is itself,
    "org/name" is downloaded into huggingface_hub's cache, or found there when HF_HUB_OFFLINE is set. Raises
    `TokenjouleError` with one line when there is nothing to be had.
    """
    if model is None:
        if not BUNDLED.is_dir():
            raise TokenjouleError(f"the bundled model is missing from this installation: {BUNDLED}")
        return Location(BUNDLED.name, BUNDLED, None)
    if model.startswith("bundled:"):
        name, names = model.removeprefix("bundled:"), bundled()
        if name not in names:
            raise UsageError(f"unknown bundled model {name!r}; there are {', '.join(names)}")
        return Location(name, MODELS / name, None)
    if model.startswith("preset:"):
        name = model.removeprefix("preset:")
        if name not in PRESETS:
            raise UsageError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        return Location(model, None, name)
    directory = Path(model).expanduser()
    if model and directory.is_dir():
        return Location(directory.resolve().name, directory, None)
    if directory.is_file():
        raise TokenjouleError(f"{model} is a file; a model is a directory")
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        hint = (
            ""
            if "/" in model or model.startswith((".", "~"))
            else " (a Hugging Face id has the form org/name)"
        )
        raise TokenjouleError(f"no such directory: {model}{hint}")
    return Location(model, _download(model), None)


def bundled() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def _download(repository: str) -> Path:
    """Snapshot of org/name in huggingface_hub's cache; its token and its HF_HUB_OFFLINE switch apply."""
    import huggingface_hub  # not needed, and slow to import, for a local model

    try:
        path = huggingface_hub.snapshot_download(
            repository, allow_patterns=_ALLOWED, ignore_patterns=_IGNORED
        )
    except Exception as error:  # what its HTTP client raises differs by version
        raise TokenjouleError(f"{repository}: {_reason(error, repository)}") from error
    return Path(path)


def _reason(error: Exception, repository: str) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):  # first, as it is a RepositoryNotFoundError too
        page = f"https://huggingface.co/{repository}"
        return f"access is gated; ask for it at {page}, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such directory, and no such repository or a private one (run `hf auth login`)"
    if isinstance(error, errors.HFValidationError):
        return "no such directory, and not a valid Hugging Face id"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return "no such directory, not complete in the Hugging Face cache, and HF_HUB_OFFLINE is set"
        cause = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
        return (
            f"no such directory, not complete in the Hugging Face cache, and the Hub is out of reach{cause}"
        )
    return f"download failed: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
