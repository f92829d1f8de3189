"""The study's tables together, for terminal, README and the test bed's results: from records alone."""

from collections.abc import Sequence

from bench.record import Record
from bench.routing.promise_tables import certificate, checks, pressures, promises, unseen
from bench.routing.record import BENCHMARK, CHARGE, FROZEN, of_group, studies
from bench.routing.requirements import requirements_table, shown
from bench.routing.rule_tables import categories, over, points, verdicts
from bench.tables import origin


def router_tables(records: Sequence[Record]) -> str:
    """Verdicts, single points, checks and certificate of every study; empty without any."""
    parts = []
    for name, these in studies(records).items():
        if these[0].benchmark == FROZEN:
            parts.append(_required(name, these))
        parts += [verdicts(name, these), over(name, these), points(name, these)]
        parts += [categories(name, these), checks(name, these)]
        parts += [unseen(name, these), certificate(these), promises(these), pressures(name, these)]
        parts.append(worth(these))
    return "\n\n".join(part for part in parts if part)


def router_section(records: Sequence[Record]) -> str:
    """The README's part: the verdicts of every study, and where they are from."""
    found = studies(records, BENCHMARK)
    if not found:
        return "Not measured.\n"
    parts = [f"{verdicts(name, these)}\n\n{worth(these)}" for name, these in found.items()]
    stamp = next(iter(found.values()))[0].stamp
    return "\n\n".join([*parts, origin(stamp, False)]) + "\n"


def testbed_section(records: Sequence[Record]) -> str:
    """The README's part: on the bundled models' arms, what has to hold, verdicts, pressures, provenance."""
    parts = []
    for name, these in studies(records, FROZEN).items():
        parts += [_required(name, these), verdicts(name, these), points(name, these, brief=True)]
        parts += [categories(name, these), unseen(name, these)]
        parts += [pressures(name, these), worth(these), origin(these[0].stamp, False)]
    return "\n\n".join(part for part in parts if part) + "\n" if parts else "Not measured.\n"


def _required(name: str, records: Sequence[Record]) -> str:
    (charge,) = of_group(records, CHARGE)
    said = shown(charge.derived["energy"], "{:.3g}")
    net = f"{name}: reading and deciding, charged, net: {said} J a query."
    if (again := charge.derived.get("again")) is not None and again.value is not None:
        net += f" Of {charge.case.rows} questions {again.value:.0f} have a text that was learnt from."
    return f"{requirements_table(records)}\n\n{net}"


def worth(records: Sequence[Record]) -> str:
    """Whether the joules were measured, and where they are from."""
    energy = records[0].derived["energy"]
    return f"Joules {'measured' if energy.measured else 'NOT MEASURED here'}: {energy.source}."
