"""Routers that share one engine."""

from collections.abc import Iterator

import pytest

from router.estimator import Estimator
from router.router import Router
from tests.router.planted_router import NOWHERE, arms_of, planted


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Router]:
    """One that keeps its engine from test to test."""
    with Router(arms_of(tmp_path_factory.mktemp("arms")), energy_source="estimate") as router:
        yield router


@pytest.fixture
def route(shared, tmp_path):
    """A router of these chances over the shared engine."""

    def build(url: str = NOWHERE, estimator: Estimator | None = None, **chances: float) -> Router:
        arms = arms_of(tmp_path, url)
        router = Router(arms, estimator or planted(arms, **chances), energy_source="estimate")
        router.answerers.pool.loaded = shared.answerers.pool.loaded
        return router

    return build
