"""The update switch of the golden bundles: `pytest tests/workload --update-golden`."""

import pytest
from hypothesis import HealthCheck, settings

# Property tests on a busy machine: their time is no part of what they show.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is built into tests/workload/golden")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether to write what is built. pytest reads this file's option only when it is asked to run this folder."""
    return bool(request.config.getoption("--update-golden", default=False))
