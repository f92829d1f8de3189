"""CO2 of results of `engine.generate --json` or `--prompts`, as CodeCarbon's emissions.csv.

    python -m bench.emissions RESULTS.jsonl --country FRA --out emissions.csv

The file is CodeCarbon's own (its `EmissionsData`, written by its `FileOutput`), with the carbon intensity of
the country's grid that CodeCarbon has bundled. What we do not know stays empty in it: RAM, place, host beside
a GPU. `tracking_mode` says where the joules are from and whether they were measured. Needs `codecarbon`.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.cli import Parser, guarded, leave
from engine.errors import TokenjouleError, UsageError
from engine.result import SCHEMA

JOULES_PER_KWH = 3.6e6
PROJECT = "tokenjoule"


@dataclass(frozen=True, slots=True)
class Grid:
    """Carbon intensity of a country's electricity. `year`: None where the data name none.

    `library`: CodeCarbon's version, whose data they are.
    """

    country: str
    name: str
    g_per_kwh: float
    year: int | None
    library: str

    def __str__(self) -> str:
        when = f"{self.year}" if self.year else "year not stated"
        return f"{self.name}: {self.g_per_kwh:g} g CO2e/kWh, {when}, {self.source}"

    @property
    def source(self) -> str:
        return f"global_energy_mix.json of CodeCarbon {self.library}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.emissions", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    cli.add_argument("results", type=Path, metavar="RESULTS.jsonl")
    cli.add_argument("--country", required=True, metavar="ISO", help="three letters: FRA, DEU, USA, …")
    cli.add_argument("--out", type=Path, default=Path("emissions.csv"), metavar="FILE.csv", help="added to")
    cli.add_argument("--require-measured", action="store_true", help="refuse results that are estimates")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    results = list(read_results(options.results))
    estimates = sum(not result["energy"]["measured"] for result in results)
    if estimates and options.require_measured:
        raise TokenjouleError(
            f"{options.results}: the joules of {estimates} of {len(results)} are not measured"
        )
    partial = sum(not result["energy"].get("complete", True) for result in results)
    if partial:
        print(f"INCOMPLETE: the meter failed in {partial} of {len(results)} results", file=sys.stderr)
    found = grid(options.country)
    rows = [row(result, found) for result in results]
    write(rows, options.out)
    total_kwh = sum(each["energy_consumed"] for each in rows)
    print(f"grid: {found}", file=sys.stderr)
    if estimates:
        print(f"NOT MEASURED: the joules of {estimates} of {len(results)} results", file=sys.stderr)
    summary = {
        "schema": "tokenjoule.bench.emissions/1",
        "results": len(results),
        "not_measured": estimates,
        "incomplete": partial,
        "energy_kwh": total_kwh,
        "emissions_kg": sum(each["emissions"] for each in rows),
        "grid_g_per_kwh": found.g_per_kwh,
        "grid_year": found.year,
        "grid_source": found.source,
        "file": str(options.out),
    }
    print(json.dumps(summary))
    return 0


def read_results(path: Path) -> Iterator[Mapping[str, Any]]:
    """Results with joules, one JSON object a line. Raises `TokenjouleError` that names a line without."""
    try:
        # Not splitlines(): U+2028 and its like may stand inside a JSON string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error  # which does not name the path again
        raise TokenjouleError(f"cannot read {path}: {why}") from error
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
            if result["schema"] != SCHEMA:
                raise ValueError(f"its schema is {result['schema']!r}")
            if result["energy"]["window_j"] is None:
                raise ValueError(f"it has no joules: {result['energy']['problem']}")
        except (ValueError, KeyError, TypeError) as error:
            raise TokenjouleError(f"{path}:{number}: not a result of {SCHEMA}: {error}") from error
        found = True
        yield result
    if not found:
        raise UsageError(f"{path} holds no results")


def grid(country: str) -> Grid:
    """Of CodeCarbon's bundled data. Raises `UsageError` for a country that is not in them, `TokenjouleError`
    without CodeCarbon.
    """
    try:
        import codecarbon
        from codecarbon.core.emissions import Emissions
        from codecarbon.core.units import Energy
        from codecarbon.external.geography import GeoMetadata
        from codecarbon.input import DataSource
    except ImportError as error:
        raise TokenjouleError("emissions need codecarbon: pip install -e '.[carbon]'") from error
    data, iso = DataSource(), country.upper()
    mix = data.get_global_energy_mix_data()
    if iso not in mix:
        raise UsageError(f"CodeCarbon has no grid of {country!r}; it wants a country's three ISO letters")
    place = GeoMetadata(country_iso_code=iso, country_name=mix[iso]["country_name"])
    kg = Emissions(data).get_private_infra_emissions(Energy.from_energy(kWh=1.0), place)
    return Grid(iso, mix[iso]["country_name"], kg * 1e3, mix[iso].get("year"), str(codecarbon.__version__))


def row(result: Mapping[str, Any], where: Grid) -> dict[str, Any]:
    """One result as the columns that CodeCarbon has, of those that are known; kWh, kg, W and s.

    The device's joules are the request's own (`window_j`), a measured host's beside a GPU are added to them.
    A result holds no date: the timestamp is that of the row, as CodeCarbon has it.
    """
    energy, timing = result["energy"], result["timing"]
    elapsed_s = timing["first_token_s"] + timing["decode_s"]
    on_gpu = energy["source"].startswith("nvml")
    host_kwh = energy["host_j"] / JOULES_PER_KWH if on_gpu and energy["host_j"] is not None else None
    device_kwh = energy["window_j"] / JOULES_PER_KWH
    kwh = device_kwh + (host_kwh or 0.0)
    kg = kwh * where.g_per_kwh / 1e3
    device, other = ("gpu", "cpu") if on_gpu else ("cpu", "gpu")
    measured = "measured" if energy["measured"] else "NOT measured"
    return {
        "timestamp": datetime.now().strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": PROJECT,
        "run_id": str(result.get("id", "")),
        "experiment_id": result["model"]["id"],
        "duration": elapsed_s,
        "emissions": kg,
        "emissions_rate": kg / elapsed_s if elapsed_s else None,
        f"{device}_power": energy["window_j"] / elapsed_s if elapsed_s else None,
        f"{device}_energy": device_kwh,
        f"{device}_model": result["device"],
        f"{other}_energy": host_kwh,
        "energy_consumed": kwh,
        "country_name": where.name,
        "country_iso_code": where.country,
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "codecarbon_version": where.library,
        "cpu_count": os.cpu_count(),
        "tracking_mode": f"{energy['source']}, {measured}; grid {where}",
        "on_cloud": "N",
        "pue": 1,
    }


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Add rows to a file as CodeCarbon does; columns that it has and a row lacks stay empty.

    Raises `TokenjouleError` where CodeCarbon knows a column no more, or the file cannot be written.
    """
    from codecarbon.output_methods.emissions_data import EmissionsData
    from codecarbon.output_methods.file import FileOutput

    columns = [column.name for column in fields(EmissionsData)]
    foreign = next((name for each in rows for name in each if name not in columns), None)
    if foreign is not None:
        raise TokenjouleError(f"this version of CodeCarbon has no column {foreign!r}")
    try:
        output = FileOutput(path.name, str(path.parent))
        for each in rows:
            output.out(EmissionsData(**{name: each.get(name) for name in columns}), None)
    except OSError as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    leave(main())
