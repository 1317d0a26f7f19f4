"""The agent's settings: defaults, every key, and every problem at once."""

import json
from pathlib import Path

import pytest

from secgroupd.config import Serving, Settings, load, parse
from secgroupd.core.document import Limits
from secgroupd.core.model import Clearing
from secgroupd.errors import SettingsError

EVERYTHING = """
source: {directory: /srv/state}
host_id: hv7
state_dir: /srv/lib
run_dir: /srv/run
managed_interfaces: [tap*, "veth7", a-very-long-na*]
metrics: {listen: "[::1]:9000", cert_file: /srv/cert, key_file: /srv/key, token_file: /srv/token}
clearing: strict
adoption_grace: 0
resync_interval: 0.5
protect_tables: false
limits: enforce
log_level: debug
"""


def refused(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(SettingsError) as caught:
        parse("s.yaml", text)
    return [(each.line, each.column, each.code) for each in caught.value.problems]


def test_an_empty_file_means_the_defaults() -> None:
    assert parse("s.yaml", "") == Settings() == parse("s.yaml", "# nothing\n")


def test_every_key_is_taken() -> None:
    assert parse("s.yaml", EVERYTHING) == Settings(
        source_directory=Path("/srv/state"),
        host_id="hv7",
        state_dir=Path("/srv/lib"),
        run_dir=Path("/srv/run"),
        managed_interfaces=("tap*", "veth7", "a-very-long-na*"),
        metrics=Serving(
            listen=("::1", 9000),
            cert_file=Path("/srv/cert"),
            key_file=Path("/srv/key"),
            token_file=Path("/srv/token"),
        ),
        clearing=Clearing.STRICT,
        adoption_grace=0.0,
        resync_interval=0.5,
        protect_tables=False,
        limits=Limits.ENFORCE,
        log_level="DEBUG",
    )


def test_json_is_taken_too() -> None:
    assert parse("s.json", json.dumps({"host_id": "hv1"})).host_id == "hv1"


@pytest.mark.parametrize("value", ['""', "null", "~"])
def test_metrics_can_be_switched_off(value: str) -> None:
    assert parse("s.yaml", f"metrics: {{listen: {value}}}").metrics.listen is None


def test_an_empty_section_keeps_its_defaults() -> None:
    assert parse("s.yaml", "metrics: {}\nsource:\n") == Settings()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("metrics:\n  cert_file: /a\n", [(2, 14, "tls-incomplete")]),
        ("metrics: {key_file: /a}", [(1, 21, "tls-incomplete")]),
        ("metrics: {cert_file: a, key_file: /a}", [(1, 22, "path")]),
        ("metrics: {token_file: [a]}", [(1, 23, "not-a-scalar")]),
        ("metrics: {token: secret}", [(1, 11, "unknown-field")]),
    ],
)
def test_encryption_is_whole_or_refused(text: str, problems: list[tuple[int, int, str]]) -> None:
    assert refused(text) == problems


def test_every_problem_is_reported_with_its_place() -> None:
    text = "run_dir: here\nclearing: no\nlimit: warn\nmanaged_interfaces: ['*', 'a\"b', ok]\n"
    assert refused(text) == [
        (1, 10, "path"),
        (2, 11, "clearing"),
        (3, 1, "unknown-field"),
        (4, 22, "interface-pattern"),
        (4, 27, "interface-pattern"),
    ]


@pytest.mark.parametrize("value", ["0.0", "-1", "86401", "soon", "true", "1e3", "[1]"])
def test_a_time_is_seconds_up_to_a_day(value: str) -> None:
    assert len(refused(f"resync_interval: {value}")) == 1


@pytest.mark.parametrize(
    "value",
    ["9760", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "host:80", "1.2.3:80", "::1:80"],
)
def test_a_place_to_listen_is_an_address_and_a_port(value: str) -> None:
    assert refused(f'metrics: {{listen: "{value}"}}') == [(1, 19, "listen")]


@pytest.mark.parametrize("name", ["sixteen-bytes-xx", "a b", "a/b", "a*b", "a\\b", "", "*"])
def test_a_name_that_nft_cannot_say_is_no_pattern(name: str) -> None:
    assert len(refused(f"managed_interfaces: ['{name}']")) == 1


def test_text_that_is_no_mapping_is_refused() -> None:
    assert refused("- a\n") == [(1, 1, "not-a-mapping")]
    assert refused("a: [\n")[0][2] == "yaml-syntax"


def test_a_missing_file_is_an_error_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unreadable"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(SettingsError, match="unreadable"):
        load(tmp_path)


def test_a_named_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("host_id: hv9\n")
    assert load(path).host_id == "hv9"
