import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from engine.energy.grid import Grid
from engine.errors import UsageError
from tests import bad_server
from tests.bad_server import MISBEHAVIOURS, serving

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def csv_grid(tmp_path, text: str, now: datetime = NOON) -> Grid:
    path = tmp_path / "grid.csv"
    path.write_text(text)
    return Grid(str(path), clock=lambda: now)


SERIES = """time,average_g_per_kwh
2026-03-01T10:30:00+00:00,180
2026-03-01T12:30:00+01:00,210.5
2026-03-01T13:00:00Z,400
"""


def test_a_figure_as_given():
    found = Grid("250").now()
    assert (found.g_per_kwh, found.kind, found.problem) == (250.0, "average", None)
    assert Grid("0").now().g_per_kwh == 0.0


def test_a_series_tells_the_latest_of_the_past(tmp_path):
    assert csv_grid(tmp_path, SERIES).now().g_per_kwh == 210.5
    assert csv_grid(tmp_path, SERIES, NOON + timedelta(hours=1)).now().g_per_kwh == 400.0


def test_marginal_figures_are_never_taken_for_average_ones(tmp_path):
    grid = csv_grid(tmp_path, SERIES.replace("average", "marginal"))
    assert "average intensities are wanted" in (grid.now().problem or "")
    found = Grid(grid.spec, "marginal", clock=lambda: NOON).now()
    assert (found.g_per_kwh, found.kind) == (210.5, "marginal")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SERIES.replace("average_g_per_kwh", "g"), "and one of"),
        ("time,average_g_per_kwh,marginal_g_per_kwh\n2026-03-01T10:30:00Z,1,2\n", "and one of"),
        (SERIES.replace("210.5", "many"), "no intensity"),
        (SERIES.replace("210.5", "-3"), "no intensity"),
        (SERIES.replace("210.5", "nan"), "no intensity"),
        (SERIES.replace("2026-03-01T10:30:00+00:00", "yesterday"), "isoformat"),
        (SERIES.replace("+01:00", ""), "offset"),
        ("time,average_g_per_kwh\n2026-03-02T10:30:00Z,1\n", "no time before now"),
        ("time,average_g_per_kwh\n2026-03-01T08:30:00Z,1\n", "stale"),
        ("average_g_per_kwh\n7\n", "a column time"),
        ("", "needs rows"),
        ("\x00\x00", "grid.csv"),
        (f"time,average_g_per_kwh\n{'7' * 200_000},1\n", "field larger"),
        ("time,average_g_per_kwh\n0001-01-01T00:00:00+23:00,1\n", "grid.csv"),
    ],
)
def test_what_is_wrong_with_a_series_is_one_line_and_no_figure(tmp_path, text, said):
    found = csv_grid(tmp_path, text).now()
    assert found.g_per_kwh is None and said in (found.problem or "")


def test_a_missing_series_is_one_line(tmp_path):
    path = tmp_path / "none.csv"
    assert Grid(str(path)).now().problem == f"{path}: No such file or directory"


@pytest.mark.parametrize("spec", ["", "watttime:CAISO", "-5", "nan", "france", "electricitymaps:", "uk:x"])
def test_what_is_no_source_is_refused(spec):
    with pytest.raises(UsageError, match="carbon intensity"):
        Grid(spec)


def served(value: object) -> bad_server.Reply:
    return lambda handler: handler.send(200, json.dumps(value).encode())


def maps(**changes: object) -> dict[str, object]:
    return {
        "zone": "FR",
        "carbonIntensity": 58,
        "datetime": "2026-03-01T11:00:00.000Z",
        "isEstimated": False,
        **changes,
    }


@pytest.fixture
def _token(monkeypatch):
    pytest.importorskip("httpx", reason="services need httpx")
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", "t0ken")


def asked(value: object, spec: str = "electricitymaps:FR"):
    with serving(served(value)) as server:
        grid = Grid(spec, clock=lambda: NOON, url=server.url)
        return grid.now(), grid.now(), server.seen


@pytest.mark.usefixtures("_token")
def test_electricity_maps_is_asked_once_in_five_minutes():
    first, second, seen = asked(maps())
    assert first == second and (first.g_per_kwh, first.estimated, first.problem) == (58.0, False, None)
    assert len(seen) == 1 and seen[0][1]["auth-token"] == "t0ken"


@pytest.mark.usefixtures("_token")
def test_estimated_and_stale_figures_are_found_out():
    assert asked(maps(isEstimated=True))[0].estimated
    stale = asked(maps(datetime="2026-03-01T09:00:00Z"))[0]
    assert stale.g_per_kwh is None and "3.0 h old" in (stale.problem or "")


@pytest.mark.usefixtures("_token")
def test_a_reading_that_is_dated_ahead_is_none():
    ahead = asked(maps(datetime="2026-03-01T13:00:00Z"))[0]
    assert ahead.g_per_kwh is None and "dated 1.0 h ahead" in (ahead.problem or "")
    assert asked(maps(datetime="2026-03-01T12:04:00Z"))[0].g_per_kwh == 58.0, "clocks differ"


@pytest.mark.usefixtures("_token")
def test_an_answer_that_is_nested_without_end_is_no_figure():
    with serving(lambda handler: handler.send(200, b"[" * 200_000)) as server:
        found = Grid("electricitymaps:FR", clock=lambda: NOON, url=server.url).now()
    assert found.g_per_kwh is None and found.problem


@pytest.mark.usefixtures("_token")
@pytest.mark.parametrize(
    "value",
    [{}, [], None, maps(carbonIntensity=None), maps(datetime=5), maps(datetime="noon"), maps(zone="DE")],
)
def test_a_malformed_answer_is_no_figure(value):
    found = asked(value)[0]
    assert found.g_per_kwh is None and found.problem


def test_no_token_is_one_line(monkeypatch):
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)
    assert "ELECTRICITY_MAPS_TOKEN" in (Grid("electricitymaps:FR").now().problem or "")


@pytest.mark.usefixtures("_token")
@pytest.mark.parametrize(("actual", "grams", "estimated"), [(231, 231.0, False), (None, 240.0, True)])
def test_the_uk_service_forecasts_where_it_knows_no_actual_figure(actual, grams, estimated):
    entry = {
        "from": "2026-03-01T11:30Z",
        "to": "2026-03-01T12:00Z",
        "intensity": {"forecast": 240, "actual": actual},
    }
    found = asked({"data": [entry]}, "uk")[0]
    assert (found.g_per_kwh, found.estimated) == (grams, estimated)


@pytest.mark.usefixtures("_token")
@pytest.mark.parametrize("reply", MISBEHAVIOURS, ids=lambda reply: reply.__name__)
def test_a_service_that_misbehaves_is_one_line_in_time(reply, monkeypatch):
    monkeypatch.setattr("engine.energy.grid.TIMEOUT_S", 0.3)
    begun_s = time.monotonic()
    with serving(reply) as server:
        found = Grid("uk", url=server.url).now()
    assert time.monotonic() - begun_s < 4.0
    assert found.g_per_kwh is None and found.problem and "\n" not in found.problem
