"""The settings: defaults, every key, and every problem at its place."""

from pathlib import Path

import pytest

from secgroupd.config import Settings, load, parse
from secgroupd.core.document import Limits
from secgroupd.core.model import Clearing, Timeout
from secgroupd.errors import SettingsError

EVERYTHING = """
source: {directory: /srv/state}
host_id: hv9
state_dir: /srv/lib
run_dir: /srv/run
managed_interfaces: ["tap*", eth7]
metrics: {listen: "[::1]:9999"}
clearing: strict
adoption_grace: 5
resync_interval: 7.5
timeouts: {tcp_established: 600, udp_stream: 180}
limits: enforce
log_level: debug
"""


def test_every_key_has_a_default() -> None:
    assert parse("f", "") == Settings()


def test_every_key_is_read() -> None:
    assert parse("f", EVERYTHING) == Settings(
        source_directory=Path("/srv/state"),
        host_id="hv9",
        state_dir=Path("/srv/lib"),
        run_dir=Path("/srv/run"),
        managed_interfaces=("tap*", "eth7"),
        metrics_listen=("::1", 9999),
        clearing=Clearing.STRICT,
        adoption_grace=5.0,
        resync_interval=7.5,
        timeouts={Timeout.TCP_ESTABLISHED: 600, Timeout.UDP_STREAM: 180},
        limits=Limits.ENFORCE,
        log_level="DEBUG",
    )


@pytest.mark.parametrize("listen", ["''", "null"])
def test_metrics_can_be_switched_off(listen: str) -> None:
    assert parse("f", f"metrics: {{listen: {listen}}}").metrics_listen is None


WRONG = """\
source: {directory: relative}
managed_interfaces: ["*", 'a"b', "a*b"]
metrics: {listen: nowhere}
clearing: sometimes
adoption_grace: -1
timeouts: {tcp_established: 0, icmp: 3}
colour: red
"""


def test_every_problem_is_named_at_its_place() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("settings.yaml", WRONG)
    places = [(problem.line, problem.column) for problem in caught.value.problems]
    assert {line for line, _ in places} == {1, 2, 3, 4, 5, 6, 7}
    assert [line for line, _ in places].count(2) == 3
    assert [line for line, _ in places].count(6) == 2
    assert all(str(p).startswith(f"settings.yaml:{p.line}:") for p in caught.value.problems)


def test_a_missing_file_is_an_error_only_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml:1:1"):
        load(tmp_path / "none.yaml")
