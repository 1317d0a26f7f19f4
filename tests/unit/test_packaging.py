"""What is installed beside the program: units, settings, pages, completion."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgroupd import __version__
from secgroupd.cli import VERBS
from secgroupd.commands.importing import CLOUDS
from secgroupd.config import SETTINGS, Settings, parse
from secgroupd.core.reading import Shape
from secgroupd.dataplane.nft import COMMIT_SECONDS

ROOT = Path(__file__).parents[2]
UNITS = ("secgroupd.service", "secgroupd-guard.service")
DEFAULTS = ROOT / "systemd" / "secgroupd.yaml"
PAGES = sorted((ROOT / "man").iterdir())
WORST_EXPOSURE = 2.0


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    run("make", "-C", str(ROOT), "install", f"DESTDIR={root}", "PREFIX=/usr")
    return root


def setting(unit: str, name: str) -> list[str]:
    text = (ROOT / "systemd" / unit).read_text()
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    path = str(ROOT / "systemd" / unit)
    found = run("systemd-analyze", "security", "--offline=true", "--no-pager", path)
    score = re.search(r"Overall exposure level for .*: ([0-9.]+)", found)
    assert score is not None and float(score[1]) <= WORST_EXPOSURE, found


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_one_capability_and_a_user_of_its_own(unit: str) -> None:
    assert setting(unit, "User") == setting(unit, "Group") == ["secgroupd"]
    assert setting(unit, "AmbientCapabilities") == ["CAP_NET_ADMIN"]
    assert setting(unit, "CapabilityBoundingSet") == ["CAP_NET_ADMIN"]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_a_unit(unit: str, installed: Path) -> None:
    path = installed / "usr/lib/systemd/system" / unit
    path.write_text(path.read_text().replace("=/usr/", f"={installed}/usr/"))
    found = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path))
    assert "secgroupd" not in found


def test_the_daemon_is_started_again_for_ever_and_never_removes_rules() -> None:
    unit = "secgroupd.service"
    assert setting(unit, "Restart") == ["always"]
    assert setting(unit, "StartLimitIntervalSec") == ["0"]
    for each in UNITS:
        assert not setting(each, "ExecStop") and not setting(each, "ExecStopPost")


def test_the_watchdog_waits_longer_than_a_transaction_may_take() -> None:
    (text,) = setting("secgroupd.service", "WatchdogSec")
    minutes = re.fullmatch(r"(\d+)min", text)
    assert minutes is not None and int(minutes[1]) * 60 > COMMIT_SECONDS


def test_the_guard_stands_before_the_network_and_before_what_starts_instances() -> None:
    before = " ".join(setting("secgroupd-guard.service", "Before")).split()
    required_by = " ".join(setting("secgroupd-guard.service", "RequiredBy")).split()
    assert {"network-pre.target", "libvirtd.service", "virtqemud.service"} <= set(before)
    assert {*required_by, "network-pre.target", "shutdown.target"} == set(before)
    assert setting("secgroupd-guard.service", "After")[-1] == "nftables.service"


def uncommented() -> str:
    """Return the file of defaults as if every key of it were taken into use."""
    return re.sub(r"^# ( *[a-z_]+:( .*)?)$", r"\1", DEFAULTS.read_text(), flags=re.MULTILINE)


def test_the_file_of_defaults_changes_nothing() -> None:
    assert parse("secgroupd.yaml", DEFAULTS.read_text()) == Settings()


def test_what_the_file_of_defaults_shows_is_what_the_code_does() -> None:
    assert parse("secgroupd.yaml", uncommented()) == Settings()


def keys(shape: Shape, indent: str = "") -> Iterator[str]:
    for name, field in shape.fields.items():
        yield f"{indent}{name}"
        if field.kind.shape is not None:
            yield from keys(field.kind.shape, indent + "  ")


def test_every_key_is_in_the_file_of_defaults() -> None:
    shown = re.findall(r"^( *[a-z_]+):", uncommented(), re.MULTILINE)
    assert shown == list(keys(SETTINGS))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_manual_page_is_well_formed(page: Path) -> None:
    assert run("groff", "-t", "-man", "-ww", "-z", str(page)) == ""


def completed(installed: Path, *words: str) -> list[str]:
    script = f"""
        . /usr/share/bash-completion/bash_completion
        . {installed}/usr/share/bash-completion/completions/secgroupctl
        COMP_WORDS=(secgroupctl {" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words)} COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
        secgroupctl() {{ {ROOT}/.venv/bin/python -m secgroupd.cli "$@"; }}
        _secgroupctl secgroupctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return sorted(run("bash", "-c", script, PYTHONPATH=str(ROOT / "agent")).split())


def test_completion_offers_what_the_program_takes(installed: Path) -> None:
    assert completed(installed, "") == sorted(verb.name for verb in VERBS)
    assert completed(installed, "--config", "/x", "ch") == ["check"]
    assert completed(installed, "check", "--") == ["--config", "--help", "--json", "--strict"]
    assert "--ethertype" in completed(installed, "explain", "--")
    assert completed(installed, "explain", "--ethertype", "") == ["IPv4", "IPv6"]
    assert completed(installed, "rules", "--direction", "") == ["egress", "ingress"]
    assert completed(installed, "rules", "--sort", "") == ["hits", "order"]
    assert completed(installed, "import", "") == sorted(CLOUDS)


def test_what_is_for_developers_is_not_installed(installed: Path) -> None:
    library = installed / "usr/share/secgroupd/secgroupd"
    assert (library / "cli.py").exists()
    assert not [name for name in ("demo", "reference") if (library / name).exists()]


def test_what_is_installed_runs_from_there_whatever_the_environment_says(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "secgroupd").mkdir()
    (tmp_path / "secgroupd" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    program = installed / "usr/bin/secgroupctl"
    library = f"{installed}/usr/share/secgroupd"
    program.write_text(program.read_text().replace('"/usr/share/secgroupd"', f'"{library}"'))
    done = subprocess.run(
        [program, "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"secgroupctl {__version__}\n"), done.stderr


def test_settings_that_are_there_survive_an_installation(tmp_path: Path) -> None:
    settings = tmp_path / "etc/secgroupd/secgroupd.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("host_id: mine\n")
    run("make", "-C", str(ROOT), "install", f"DESTDIR={tmp_path}")
    assert settings.read_text() == "host_id: mine\n"
    unit = (tmp_path / "usr/local/lib/systemd/system/secgroupd.service").read_text()
    assert "ExecStart=/usr/local/sbin/secgroupd\n" in unit


def test_the_package_has_the_programs_version() -> None:
    first = (ROOT / "debian" / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"secgroupd ({__version__}) ")
