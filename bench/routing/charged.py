"""The joules of reading questions, charged to the rules that choose by what reading told."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bench.routing.reading import Reading
from bench.routing.split import Prepared
from bench.routing.ways import parsed
from engine.errors import TokenjouleError
from engine.predict.outcomes import Table


def with_features(table: Table, readings: Mapping[str, Reading]) -> Table:
    """The table with the features that stand beside it. Raises `TokenjouleError` where some are missing."""
    missing = [name for name in table.questions if name not in readings]
    if missing:
        raise TokenjouleError(f"question {missing[0]!r} and {len(missing) - 1} others have no reading")
    found = [readings[name].features for name in table.questions]
    if len({(len(one.features), one.reader) for one in readings.values()}) > 1:
        raise TokenjouleError("the questions were read by different models")
    return replace(table, features=np.array(found, dtype=np.float64))


def charged(data: Prepared, readings: Mapping[str, Reading], deciding_j: float) -> Prepared:
    """`deciding_j`: what choosing by the features takes for each query."""
    these = [readings[name] for name in data.table.questions]
    own = np.array([parsed(arm)[0] == these[0].reader for arm in data.table.arms], dtype=np.float64)
    read_j = np.array([one.energy_j for one in these]) + deciding_j
    spared_j = np.array([one.saved_j for one in these])[:, None] * own
    return replace(data, read_j=read_j, spared_j=spared_j)
