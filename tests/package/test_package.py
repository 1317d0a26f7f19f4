"""The Debian package: built, installed into a fresh Debian, booted there, removed and purged."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.package.guest import REPORT, add_modules, booted
from tests.vm.debian import Kernel

ROOT = Path(__file__).parents[2]
SUITE, NEXT = "bookworm", "trixie"
DEPENDENCIES = "nftables,netbase,python3,python3-nftables,python3-prometheus-client,python3-yaml"
BESIDES = "dbus,iproute2,kmod,python3-pyroute2,systemd,systemd-sysv"

OFFLINE = """
mount -t proc proc /proc
[ -c /dev/null ] || mknod -m 666 /dev/null c 1 3
ip link set lo up
as_agent() {
    setpriv --reuid secgroupd --regid secgroupd --clear-groups --no-new-privs \\
        --bounding-set -all,+net_admin --inh-caps -all,+net_admin --ambient-caps -all,+net_admin "$@"
}
say() { echo "$1=$(echo $2)"; }
install -d -o secgroupd -g secgroupd -m 750 /run/secgroupd
say owners "$(stat -c '%U:%G:%a' /etc/secgroupd/state.d /var/lib/secgroupd)"
say enabled "$(ls /etc/systemd/system/libvirtd.service.requires)"
say guard "$(as_agent secgroupctl guard)"
say apply "$(secgroupctl apply /root/cloud.yaml >/dev/null && as_agent secgroupctl guard)"
say kernel "$(secgroupctl test --kernel /root/cloud.yaml /root/tests.yaml | tail -1)"
nft add table ip other
nft 'add chain ip other secgroupd'
dpkg --remove secgroupd >/dev/null
say removed "$(nft list tables inet; nft list tables ip) $(ls -d /etc/systemd/system/*.requires/* 2>/dev/null)"
dpkg -i /root/secgroupd.deb >/dev/null 2>&1
say again "$(ls /etc/systemd/system/libvirtd.service.requires) $(as_agent secgroupctl guard)"
dpkg --purge secgroupd >/dev/null 2>&1
say purged "$(nft list tables) $(ls -d /var/lib/secgroupd /run/secgroupd 2>/dev/null)"
say settings "$(ls /etc/secgroupd 2>/dev/null)"
"""

PROBE = """#!/bin/sh
exec >/root/out 2>&1
say() { echo "$1=$(echo $2)"; }
is() { systemctl is-active "$@"; }
pid() { systemctl show -p MainPID --value secgroupd; }
count() { journalctl -u secgroupd | grep -c "$1"; }
await() { for _ in $(seq 300); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; }
say active "$(is secgroupd-guard secgroupd libvirtd)"
say seen-by-libvirtd "$(cat /run/seen)"
say process "$(grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$(pid)/status)"
say user "$(stat -c %U /proc/$(pid))"
say healthy "$(secgroupctl status --json | grep -o '"healthy": true')"
before=$(pid)
systemctl reload secgroupd
await '[ $(count settings-reloaded) = 1 ]'
say reloaded "$(is secgroupd) $([ $before = $(pid) ] && echo same-process)"
systemctl restart secgroupd
say restarted "$(is secgroupd) $(nft list tables inet; nft list tables ip)"
said() { systemctl show -p StatusText --value secgroupd | sed -E 's/ error: .* \\[/ [/; s/ revision [0-9a-f]+/ revision/'; }
cp /etc/secgroupd/state.d/cloud.yaml /root/good
printf 'version: 1\\nnonsense: true\\n' >/etc/secgroupd/state.d/cloud.yaml
systemctl restart secgroupd
say refused "$(is secgroupd) $(said)"
systemctl stop secgroupd
rm /var/lib/secgroupd/*.json*
nft flush ruleset
systemctl start secgroupd
say refused-without-record "$(is secgroupd) $(said) $(nft list tables inet)"
cp /root/good /etc/secgroupd/state.d/cloud.yaml
await '[ "$(said)" = "in force: revision, 0 ports enforced" ]'
before=$(pid)
kill -KILL $before
await '[ $(pid) != $before ] && is --quiet secgroupd'
say killed "$(is secgroupd) $(nft list tables inet; nft list tables ip)"
before=$(pid)
kill -STOP $before
await '[ $(pid) != $before ] && is --quiet secgroupd'
say hung "$(journalctl -u secgroupd | grep -o 'Watchdog timeout') $(is secgroupd)"
systemctl stop secgroupd-guard 2>/dev/null || say guard-stays "$(is secgroupd-guard libvirtd)"
before=$(pid)
dpkg -i /root/secgroupd.deb >/dev/null 2>&1
say upgraded "$(is secgroupd) $([ $before != $(pid) ] && echo another-process)"
systemctl stop secgroupd
dpkg -i /root/secgroupd.deb >/dev/null 2>&1
say upgraded-while-stopped "$(is secgroupd) $(nft list tables inet; nft list tables ip)"
systemctl start secgroupd
dpkg --remove secgroupd >/dev/null
say removed "$(is secgroupd) $(nft list tables inet; nft list tables ip)"
systemctl restart libvirtd
say libvirtd-without-it "$(is libvirtd)"
dpkg --purge secgroupd >/dev/null 2>&1
say purged "$(nft list tables)"
sync
systemctl --force --force poweroff
"""

BOOTED = """#!/bin/sh
exec >/root/out 2>&1
say() { echo "$1=$(echo $2)"; }
await() { for _ in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; }
say system "$(ps -p 1 -o comm= 2>/dev/null || cat /proc/1/comm) $(uname -r)"
say guarded-before-network "$(cat /run/seen-by-network)"
say guarded-before-libvirtd "$(cat /run/seen)"
say active "$(systemctl is-active secgroupd-guard secgroupd libvirtd)"
say failed "$(systemctl --failed --plain --no-legend | cut -d' ' -f1)"
await '[ "$(secgroupctl status --json | grep -c revision)" = 1 ]'
say problems "$(secgroupctl status --json | grep -c nonsense)"
say ports "$(nft list ruleset | grep -c 'tapweb1')"
before=$(systemctl show -p MainPID --value secgroupd)
kill -STOP $before
# In this order: a new process is not active before it says so; the old one was, up to its end.
await '[ $(systemctl show -p MainPID --value secgroupd) != $before ] && systemctl is-active --quiet secgroupd'
say hung "$(journalctl -u secgroupd | grep -o 'Watchdog timeout') $(systemctl is-active secgroupd)"
nft delete table inet secgroupd
await 'nft list tables | grep -q "inet secgroupd"'
say repaired "$(journalctl -u secgroupd | grep -o 'drift-repaired by=nft' | sort -u)"
before=$(systemctl show -p MainPID --value secgroupd)
systemctl reload secgroupd
await 'journalctl -u secgroupd | grep -q settings-reloaded'
say reloaded "$([ $before = $(systemctl show -p MainPID --value secgroupd) ] && echo same-process)"
systemctl restart secgroupd
say restarted "$(systemctl is-active secgroupd)"
systemctl stop secgroupd
say stopped "$(nft list ruleset | grep -c 'tapweb1' | sed 's/[1-9].*/rules stay/')"
systemctl start secgroupd
say started "$(systemctl is-active secgroupd)"
sync
cat /root/out >REPORT
systemctl --force --force poweroff
"""

NETWORK = """[Unit]
DefaultDependencies=no
After=network-pre.target
Wants=network-pre.target
Before=network.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'nft list ruleset | grep -c COUNTED > /run/seen-by-network; true'
"""

PROBE_UNIT = """[Unit]
After=secgroupd.service libvirtd.service
Wants=libvirtd.service
[Service]
Type=oneshot
ExecStart=/root/probe
"""

LIBVIRTD = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'nft list tables inet > /run/seen'
"""


def run(*command: str | Path, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for name in ("agent", "completion", "debian", "docs", "man", "systemd"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("CHANGELOG.md", "LICENSE", "Makefile", "README.md"):
        shutil.copy(ROOT / name, copy)
    run("make", "-C", copy, "deb")
    (found,) = (copy / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def debian(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A fresh Debian that has installed the package with apt."""
    suite = getattr(request, "param", SUITE)
    root = tmp_path_factory.mktemp("debian") / "root"
    deb = shutil.copy(package, package.parents[1] / "secgroupd.deb")
    # The next release is fetched from where mmdebstrap knows it to be.
    sources = Path("/etc/apt/sources.list.d").glob("debian.sources") if suite == SUITE else ()
    install = "apt-get install -y -q --no-install-recommends /root/secgroupd.deb"
    files = f"{deb} {ROOT}/examples/cloud.yaml {ROOT}/examples/tests.yaml"
    options = [
        "--mode=root",
        "--variant=apt",
        f"--include={DEPENDENCIES},{BESIDES}",
        f"--customize-hook=copy-in {files} /root",
        f'--customize-hook=chroot "$1" {install}',
    ]
    run("mmdebstrap", *options, suite, root, *sources)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def fresh(debian: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "root"
    run("cp", "-a", debian, copy)
    yield copy
    shutil.rmtree(copy)


def said(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z-]+)=(.*)$", text, re.MULTILINE))


def test_the_package_is_a_good_one(package: Path) -> None:
    run("lintian", "--allow-root", "--fail-on=error,warning", package)


@pytest.mark.parametrize("debian", [SUITE, NEXT], indirect=True)
def test_it_is_installed_guards_and_goes(fresh: Path) -> None:
    (fresh / "root" / "offline").write_text(OFFLINE)
    isolated = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
    found = said(run(*isolated, "chroot", fresh, "sh", "-u", "/root/offline"))
    revision = found["apply"].split(",")[0]
    assert re.fullmatch("enforced: revision [0-9a-f]+", revision), found
    assert found == {
        "owners": "root:secgroupd:750 secgroupd:secgroupd:700",
        "enabled": "secgroupd-guard.service",
        "guard": "closed: tap*, vnet*",
        "apply": f"{revision}, 4 ports",
        "kernel": "14 tests: all as expected",
        "removed": "table inet secgroupd table ip other",
        "again": f"secgroupd-guard.service {revision}, 4 ports",
        "purged": "table ip other",
        "settings": "",
    }


def prepare(root: Path, script: str, watchdog: int, **more: str) -> None:
    """Have a root directory run a script when everything else is there, and other units before."""
    units = root / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    for name, text in {"probe": PROBE_UNIT, **more}.items():
        (units / f"{name}.service").write_text(text)
        (wanted / f"{name}.service").symlink_to(f"../{name}.service")
    (units / "secgroupd.service.d").mkdir()
    short = f"[Service]\nWatchdogSec={watchdog}\n"
    (units / "secgroupd.service.d" / "short.conf").write_text(short)
    probe = root / "root" / "probe"
    probe.write_text(script)
    probe.chmod(0o755)


@pytest.mark.parametrize("debian", [SUITE, NEXT], indirect=True)
def test_systemd_starts_watches_reloads_and_stops_it(fresh: Path) -> None:
    """With systemd as process 1 of a container that has a network namespace of its own."""
    prepare(fresh, PROBE, 3, libvirtd=LIBVIRTD)
    shutil.copy(ROOT / "examples/cloud.yaml", fresh / "etc/secgroupd/state.d")
    container = ("systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--quiet")
    console = ("--capability=CAP_NET_ADMIN", "--console=pipe", f"--directory={fresh}")
    log = run("timeout", "180", *container, *console, "/lib/systemd/systemd", check=False)
    out = fresh / "root" / "out"
    assert out.exists(), log
    assert said(out.read_text()) == {
        "active": "active active active",
        "seen-by-libvirtd": "table inet secgroupd",
        "process": "CapEff: 0000000000001000 CapBnd: 0000000000001000 NoNewPrivs: 1 Seccomp: 2",
        "user": "secgroupd",
        "healthy": '"healthy": true',
        "reloaded": "active same-process",
        "restarted": "active table inet secgroupd",
        "refused": "active document refused: /etc/secgroupd/state.d/cloud.yaml:2:1: [unknown-field]; "
        "in force: revision, 0 ports enforced",
        "refused-without-record": "active document refused: /etc/secgroupd/state.d/cloud.yaml:2:1: "
        "[unknown-field]; no document was ever accepted: managed interfaces are closed "
        "table inet secgroupd",
        "killed": "active table inet secgroupd",
        "hung": "Watchdog timeout active",
        "guard-stays": "active active",
        "upgraded": "active another-process",
        "upgraded-while-stopped": "inactive table inet secgroupd",
        "removed": "inactive table inet secgroupd",
        "libvirtd-without-it": "active",
        "purged": "",
    }, out.read_text()


@pytest.mark.parametrize("remembers", [True, False], ids=["a record", "no record"])
def test_booted_under_debians_kernel_it_guards_before_anything_can_start(
    fresh: Path, tmp_path: Path, remembers: bool
) -> None:
    """With systemd as process 1 of a guest: with a record and a refused document, or with neither."""
    if remembers:
        apply = "mount -t proc proc /proc; ip link set lo up; secgroupctl apply /root/cloud.yaml"
        run("unshare", "--net", "--mount", "--pid", "--fork", "chroot", fresh, "sh", "-c", apply)
        (fresh / "etc/secgroupd/state.d/cloud.yaml").write_text("version: 1\nnonsense: true\n")
    counted = "tapweb1" if remembers else "goto.closed"
    seen = LIBVIRTD.replace("list tables inet", f"list ruleset | grep -c {counted}")
    network = NETWORK.replace("COUNTED", counted)
    prepare(fresh, BOOTED.replace("REPORT", REPORT), 20, libvirtd=seen, network=network)
    add_modules(fresh, Kernel.newest())
    report = booted(fresh, tmp_path)
    found = said(report)
    early = found.pop("guarded-before-network"), found.pop("guarded-before-libvirtd")
    assert all(int(count) > 0 for count in early), report
    assert (int(found.pop("ports")) > 0) is remembers
    assert found == {
        "system": f"systemd {Kernel.newest().release}",
        "active": "active active active",
        "failed": "",
        "problems": "1" if remembers else "0",
        "hung": "Watchdog timeout active",
        # Without a document it is not repaired, but closed again.
        "repaired": "drift-repaired by=nft" if remembers else "",
        "reloaded": "same-process",
        "restarted": "active",
        "stopped": "rules stay" if remembers else "0",
        "started": "active",
    }, report
