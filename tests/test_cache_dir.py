"""The one place where learnt files are kept."""

from pathlib import Path

import pytest

from engine.cache_dir import cache_dir
from engine.errors import UsageError


def test_the_programs_own_variable_comes_before_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_CACHE", "/some/place")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert cache_dir() == Path("/some/place")
    monkeypatch.setenv("TOKENJOULE_CACHE", "")
    assert cache_dir() == Path("/other/tokenjoule")


def test_without_variables_it_lies_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENJOULE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "tokenjoule"


def test_a_relative_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_CACHE", "here")
    with pytest.raises(UsageError, match="absolute"):
        cache_dir()
