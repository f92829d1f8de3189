from types import SimpleNamespace

import pytest

from engine.errors import MeterError, TokenjouleError, UsageError
from engine.pool import Pool

SHAPES = {
    "small": {"model": "preset:llama-3.2-1b", "random_weights": True, "quantize": "int4"},
    "large": {"model": "preset:llama-3.2-3b", "random_weights": True},
    "middle": {"model": "preset:llama-3.2-1b", "random_weights": True},
}


class Loads:
    """Stands in for `Engine.load`: nothing is loaded, everything is remembered."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []

    def __call__(self, *, energy_source: str, model: str, **options: object) -> SimpleNamespace:
        if energy_source == "nvml":
            raise MeterError("no NVML")
        name = f"{model.removeprefix('preset:')} {options.get('quantize')} {energy_source}"
        self.made.append(name)
        return SimpleNamespace(name=name, close=lambda: self.closed.append(name))


def gigabytes(pool: Pool, *names: str) -> float:
    return sum(map(pool.bytes_of, names)) / 1e9


def test_an_engine_is_loaded_once_when_first_used():
    loads = Loads()
    pool = Pool(SHAPES, load=loads)
    assert loads.made == []
    assert pool.engine("small") is pool.engine("small")
    assert loads.made == ["llama-3.2-1b int4 auto"]
    pool.close()
    assert loads.closed == loads.made


def test_the_one_that_waits_longest_makes_room():
    loads = Loads()
    room = gigabytes(Pool(SHAPES), "small", "large")
    pool = Pool(SHAPES, memory_gb=room * 1.001, load=loads)
    pool.engine("small")
    pool.engine("large")
    assert loads.closed == []
    pool.engine("small")
    pool.engine("middle")
    assert [name.split()[0] for name in loads.closed] == ["llama-3.2-3b"]
    assert list(pool.loaded) == ["small", "middle"]


def test_a_model_larger_than_the_limit_is_refused_and_closes_nothing():
    loads = Loads()
    pool = Pool(SHAPES, memory_gb=gigabytes(Pool(SHAPES), "middle") * 1.001, load=loads)
    pool.engine("small")
    with pytest.raises(TokenjouleError, match="large takes"):
        pool.engine("large")
    assert loads.closed == []


def test_the_smallest_is_told_by_its_weights_and_what_is_missing_is_left_out():
    pool = Pool({"gone": {"model": "./nowhere"}, **SHAPES})
    assert pool.smallest() == "small"
    assert any("gone is left out" in note for note in pool.notes)
    assert Pool({}).smallest() is None


def test_without_a_meter_joules_are_an_estimate_and_that_is_noted():
    loads = Loads()
    pool = Pool(SHAPES, energy_source="nvml", load=loads)
    pool.engine("small")
    assert loads.made == ["llama-3.2-1b int4 estimate"]
    assert pool.notes == ["no energy meter (no NVML): joules are an estimate"]


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(memory_gb):
    with pytest.raises(UsageError, match="GB above 0"):
        Pool(SHAPES, memory_gb=memory_gb)


def test_an_energy_source_that_nobody_knows_is_refused_before_a_model_is_loaded():
    with pytest.raises(UsageError, match="unknown energy source 'foo'"):
        Pool(SHAPES, energy_source="foo")
