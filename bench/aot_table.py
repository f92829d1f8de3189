"""The records of `bench.aot` as markdown: what the machine code of every kernel holds, by architecture."""

from collections.abc import Callable, Sequence

from bench import tables
from bench.record import Record
from bench.tables import markdown

ABSENT = "–"
HEADER = (
    *("Kernel", "for", "variants that hold", "registers", "stack, B"),
    *("shared, KB", "programs an SM", "least ahead, B"),
)


def aot_section(records: Sequence[Record]) -> str:
    """A document's part: the table, what fails, and where it is from."""
    found = [r for r in records if r.benchmark == "aot"]
    if not found:
        return "Not compiled.\n"
    stamps = {r.stamp.run: r.stamp for r in found}
    origins = [tables.origin(stamp, shape_only=False) for stamp in stamps.values()]
    return "\n\n".join([aot_tables(found), *origins]) + "\n"


def aot_tables(records: Sequence[Record]) -> str:
    """A row a kernel and architecture, over its variants, and a row a variant that fails; "" without any."""
    found = [r for r in records if r.benchmark == "aot"]
    if not found:
        return ""
    names = {r.arm.name for r in found}
    rows = [_row(name, [r for r in found if r.arm.name == name]) for name in sorted(names)]
    for architecture in sorted({name.partition(" ")[2] for name in names}):
        rows.append(_row(f"all {architecture}", [r for r in found if r.arm.name.endswith(architecture)]))
    failing = [[r.arm.name, r.arm.note, r.derived["holds"].source] for r in found if not _holds(r)]
    parts = [markdown(HEADER, rows)]
    parts += [markdown(("Fails", "variant", "what is wrong"), failing)] if failing else []
    return "\n\n".join(parts)


def _holds(record: Record) -> bool:
    return record.derived["holds"].value == 1


def _row(name: str, variants: Sequence[Record]) -> list[str]:
    """Of a kernel and architecture. Ahead: bytes that a thread asks for before it waits, where it does."""

    def values(name: str) -> list[float]:
        return [value for r in variants if (value := r.derived[name].value) is not None]

    def between(name: str, form: Callable[[float], str] = "{:.0f}".format) -> str:
        found = values(name)
        if not found:
            return ABSENT
        low, high = form(min(found)), form(max(found))
        return low if low == high else f"{low}–{high}"

    ahead = [size for size in values("weights_before_wait") if size]
    return [
        *name.split(),
        f"{sum(map(_holds, variants))} of {len(variants)}",
        between("registers"),
        between("stack"),
        between("shared", lambda size: f"{size / 1024:.0f}"),
        between("programs_per_sm"),
        f"{min(ahead):.0f}" if ahead else ABSENT,
    ]
