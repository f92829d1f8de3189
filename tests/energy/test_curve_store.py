"""A curve's file: what was written is read, and nothing else is taken for a curve or for this device's."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import load_config
from engine.energy import curve_store
from engine.energy.curve import TERMS, OperatingCurve
from engine.energy.curve_json import from_json, to_json
from engine.energy.curve_store import (
    choose_curve,
    content_digest,
    file_name,
    find_curve,
    fingerprint,
    load_curve,
    save_curve,
    user_curves,
)
from engine.energy.power_model import Noise, PowerModel
from engine.errors import TokenjouleError, UsageError
from engine.locate import BUNDLED
from tests import curves
from tests.curves import KEY


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"measured": True},
        {"accuracy": {"version": 1, "anything": [1, 2]}},
        {"power": PowerModel(("idle",), (90.0,), ((4.0,),), {}, Noise(), 1.0, 12, 3)},
        {"fits": replace(KEY, peak_w=None)},
    ],
)
def test_what_was_written_is_read(change: dict[str, Any]) -> None:
    made = replace(curves.curve(), **change)
    assert from_json(json.loads(json.dumps(to_json(made)))) == made
    save_curve(made)
    assert find_curve(made.fits) == made


def test_it_is_kept_where_the_engine_looks_readable_and_whole() -> None:
    path = save_curve(curves.curve())
    assert path.parent == user_curves()
    assert path.name.startswith("toy-none-cpu-a-chip-simulated-")
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path], "nothing unfinished is left beside it"
    with pytest.raises(TokenjouleError, match="cannot write"):
        save_curve(curves.curve(), path / "below-a-file.json")


def test_a_write_that_fails_leaves_the_old_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_curve(curves.curve())
    before = path.read_bytes()

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TokenjouleError, match="No space left"):
        save_curve(replace(curves.curve(), measured=True))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", list(KEY.__dataclass_fields__))
def test_a_curve_of_another_device_or_model_is_not_found(name: str) -> None:
    save_curve(curves.curve())
    assert find_curve(KEY) is not None
    assert find_curve(replace(KEY, **{name: 1.0 if name == "peak_w" else "another"})) is None


def test_a_copied_file_is_refused_by_what_it_says() -> None:
    other = replace(KEY, device_uuid="GPU-2")
    path = save_curve(curves.curve(), user_curves() / file_name(other))
    with pytest.raises(TokenjouleError, match="device_uuid '', this run has 'GPU-2'") as caught:
        find_curve(other)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_curve_is_the_one_kept_here_none_or_the_one_named(tmp_path: Path) -> None:
    kept, named = curves.curve(), replace(curves.curve(), measured=True)
    save_curve(kept)
    path = save_curve(named, tmp_path / "named.json")
    assert choose_curve("auto", KEY) == kept
    assert choose_curve("none", KEY) is None
    assert choose_curve(path, KEY) == choose_curve(str(path), KEY) == named
    assert choose_curve("auto", replace(KEY, device="another")) is None


@pytest.mark.parametrize("name", list(KEY.__dataclass_fields__))
def test_a_named_curve_is_of_this_model_and_may_be_of_elsewhere(tmp_path: Path, name: str) -> None:
    path = save_curve(curves.curve(), tmp_path / "named.json")
    here = replace(KEY, **{name: 1.0 if name == "peak_w" else "another"})
    if name in ("model", "fingerprint", "quantization", "dtype"):
        with pytest.raises(UsageError, match=f"the operating curve is of {name} ") as caught:
            choose_curve(path, here)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    else:
        found = choose_curve(path, here)
        assert found is not None and f"of {name} " in found.mismatch(here) and not found.mismatch(KEY)


def test_a_curves_digest_is_of_its_content(tmp_path: Path) -> None:
    one, two = (save_curve(curves.curve(), tmp_path / name) for name in ("one.json", "two.json"))
    assert content_digest(str(one)) == content_digest(str(two)) is not None
    save_curve(replace(curves.curve(), measured=True), two)
    assert content_digest(str(one)) != content_digest(str(two))
    assert content_digest(None) is content_digest(str(tmp_path / "none.json")) is None


def test_the_users_own_curve_comes_before_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_store, "BUNDLED", tmp_path / "package")
    shipped, own = curves.curve(), replace(curves.curve(), measured=True)
    save_curve(shipped, tmp_path / "package" / file_name(KEY))
    assert find_curve(KEY) == shipped
    save_curve(own)
    assert find_curve(KEY) == own


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], Any]:
    def apply(content: dict[str, Any]) -> Any:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return content

    return apply


def without(*path: str) -> Callable[[dict[str, Any]], Any]:
    def apply(content: dict[str, Any]) -> Any:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return content

    return apply


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: [content], "the file is no object"),
        (change("schema", to="tokenjoule.curve/2"), "its schema is 'tokenjoule.curve/2'"),
        (without("schema"), "its schema is None"),
        (change("extra", to=1), "unknown: extra"),
        (without("tested"), "missing or unknown: tested"),
        (without("fits", "backend"), "missing or unknown: fits.backend"),
        (change("fits", "gpu", to="x"), "unknown: fits.gpu"),
        (change("measured", to="yes"), "measured must be a bool, found 'yes'"),
        (change("energy", "coefficients", "step", to="much"), r"energy.coefficients\[4\] must be a float"),
        (change("energy", "coefficients", "step", to=-1.0), "not negative"),
        (
            change("seconds", "coefficients", to={**dict.fromkeys(TERMS, 0.0), "step": 1e-300}),
            "a decode step must cost something",
        ),
        (change("energy", "coefficients", "extra", to=1.0), "wrong names: extra"),
        (without("seconds", "coefficients", "base"), "seconds.coefficients: wrong names: base"),
        (without("seconds", "coefficients"), "seconds.coefficients is no object"),
        (change("seconds", "covariance", to=[[0.0]]), "7 coefficients and their covariance"),
        (change("tested", "rows", to=[1]), "tested.rows has 1 values, not 2"),
        (change("tested", "fitted", to=True), "tested.fitted must be a int"),
        (change("accuracy", to={"points": []}), "accuracy has no version"),
        (change("accuracy", to=[]), "accuracy is no object"),
        (change("power", to=3), "power is no object"),
        (change("power", to={"features": ["idle"]}), "missing or unknown: power.covariance"),
        (change("fits", "peak_w", to=float("nan")), "NaN is not a number"),
    ],
)
def test_anything_else_is_refused_in_one_line(spoil: Callable[[Any], Any], said: str) -> None:
    path = save_curve(curves.curve())
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(TokenjouleError, match=said) as caught:
        find_curve(KEY)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert "remove the file, or fit the curve anew" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    path = save_curve(curves.curve())
    path.write_text(text)
    with pytest.raises(TokenjouleError, match="is no operating curve"):
        load_curve(path)
    with pytest.raises(TokenjouleError, match="cannot read"):
        load_curve(path.with_name("absent.json"))


def test_sections_of_later_parts_may_be_absent() -> None:
    content = to_json(curves.curve())
    del content["accuracy"], content["power"]
    made: OperatingCurve = from_json(content)
    assert (made.accuracy, made.power) == (None, None)


def test_a_fingerprint_is_of_the_shape_and_not_of_the_weights() -> None:
    config = load_config(BUNDLED)
    assert fingerprint(config) == fingerprint(replace(config, shape_only=True, eos_ids=(1,)))
    assert fingerprint(config) != fingerprint(replace(config, intermediate_size=353))
