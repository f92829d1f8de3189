"""Which model a name means, and one clear line for each way of not getting it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from engine import locate as module
from engine.errors import TokenjouleError, UsageError
from engine.locate import Location, locate

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> str:
        raise AssertionError("only org/name may reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_nothing_is_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.BUNDLED == ROOT / "engine/models/chain"
    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    assert locate(None) == Location(tmp_path.name, tmp_path, None)
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "gone")
    with pytest.raises(TokenjouleError, match="bundled model is missing"):
        locate(None)


def test_a_bundled_model_has_a_name() -> None:
    assert locate("bundled:chain") == locate(None)
    with pytest.raises(
        UsageError, match=r"unknown bundled model '\.\./chain'; there are chain, testbed-l, testbed-s"
    ):
        locate("bundled:../chain")


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    assert locate(str(folder)) == Location("name", folder, None)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == Location("name", Path("org/name"), None)  # before it is a Hugging Face id
    assert locate("org").directory == Path("org")
    assert locate(".").id == tmp_path.name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/org").directory == tmp_path / "org"


@pytest.mark.parametrize("model", ["/no/such", "./no", "../no", "~/no", ".no", "a/b/c", "no/such/", "no", ""])
def test_what_looks_like_a_path_is_never_downloaded(model: str) -> None:
    with pytest.raises(TokenjouleError, match=r"^no such directory: "):
        locate(model)


def test_a_bare_name_is_told_the_form_of_an_id() -> None:
    with pytest.raises(
        TokenjouleError, match=r"no such directory: llama \(a Hugging Face id has the form org/name\)"
    ):
        locate("llama")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(TokenjouleError, match=r"model\.gguf is a file; a model is a directory"):
        locate(str(tmp_path / "model.gguf"))


def test_presets() -> None:
    assert locate("preset:llama-3.2-1b") == Location("preset:llama-3.2-1b", None, "llama-3.2-1b")
    with pytest.raises(UsageError, match=r"unknown preset 'llama'; there are .*llama-3\.2-1b.*, qwen3-8b"):
        locate("preset:llama")


def test_download_asks_for_what_is_read_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(repository: str, **options: list[str]) -> str:
        calls.append((repository, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("org/name") == Location("org/name", tmp_path, None)
    [(repository, options)] = calls
    assert repository == "org/name"
    files = [
        "config.json",
        "model-00001-of-2.safetensors",
        "chat_template.jinja",
        "README.md",
        "onnx/config.json",
    ]
    files += ["consolidated.safetensors", "pytorch_model.bin", "original/params.json", ".gitattributes"]
    assert list(huggingface_hub.utils.filter_repo_objects(files, **options)) == files[:3]


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(f"{status} Client Error.\n\nMore lines.", response=response)  # type: ignore[arg-type]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            http_error(errors.GatedRepoError, 403),
            r"gated; ask for it at https://huggingface.co/org/name, .*login",
        ),
        (
            http_error(errors.RepositoryNotFoundError, 401),
            r"no such directory, and no such repository or a private",
        ),
        (errors.HFValidationError("Repo id must use alphanumeric chars"), r"not a valid Hugging Face id$"),
        (
            caused(errors.LocalEntryNotFoundError("Got: …\nAn error"), OSError("Unknown host")),
            r"not complete in the .* cache, and the Hub is out of reach \(OSError: Unknown host\)$",
        ),
        (http_error(errors.HfHubHTTPError, 500), r"download failed: HfHubHTTPError: 500 Client Error\.$"),
        (OSError(28, "No space left on device"), r"download failed: OSError: .*No space left on device$"),
    ],
)
def test_hub_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    def fail(repository: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(TokenjouleError, match=rf"^org/name: .*{line}") as caught:
        locate("org/name")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, UsageError)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_offline_uses_the_cache_and_nothing_else(tmp_path: Path) -> None:
    code = """
from engine.locate import locate
from engine.errors import TokenjouleError
for name in ("org/absent", "org/cached"):
    try:
        print(locate(name).directory)
    except TokenjouleError as error:
        print(error)
"""
    repository = tmp_path / "models--org--cached"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    absent, cached = run(code, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path)).splitlines()
    assert absent.startswith(
        "org/absent: no such directory, not complete in the Hugging Face cache, and HF_HUB_OFFLINE"
    )
    assert cached == str(snapshot)


def test_the_hub_is_imported_only_for_a_download() -> None:
    code = "import sys, engine.locate as m; m.locate('engine'); print('huggingface_hub' in sys.modules)"
    assert run(code) == "False"
