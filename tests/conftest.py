"""What every tier shares: how long an example may take, and how the labs' ports are wired."""

import signal

import pytest
from hypothesis import HealthCheck, settings

from secgroupd.proving.namespaces import Lab, Wiring

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# A shell's background jobs ignore it, and whatever they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--wiring",
        type=Wiring,
        choices=list(Wiring),
        default=Wiring.ROUTED,
        help="how the labs' ports are wired where a test does not say (bridges need the vm tier)",
    )


def pytest_configure(config: pytest.Config) -> None:
    Lab.default_wiring = config.getoption("--wiring")
