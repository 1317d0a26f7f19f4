"""The emulated lab: qemu machines without KVM, joined by sockets of the loopback."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

from laboratory.image import Image
from laboratory.shell import LabError, Ssh, free_port, run
from laboratory.tables import WORK, Host

CONFIG = WORK / "ssh_config"
KEY = WORK / "key"
MEMORY_MIB = 768
PROVISIONS = False

NETWORK = """
echo {name} >/etc/hostname
hostname {name}
grep -q ' {name}$' /etc/hosts || echo '127.0.1.1 {name}' >>/etc/hosts
printf '[Match]\\nName=eth1\\n[Network]\\nAddress={address}/24\\n' >/etc/systemd/network/20-lab.network
networkctl reload
"""


def up(hosts: list[Host]) -> None:
    """Start the machines that do not run, and give each its name and address."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not KEY.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", KEY])
    if all(_pid(host) for host in hosts):
        return
    if any(_pid(host) for host in hosts):
        raise LabError("some machines run and others do not: make lab-down first")
    images = {host.name: Image(host.suite, host.role) for host in hosts}
    for image in images.values():
        image.make(KEY.with_suffix(".pub"))
    ports = {host.name: free_port() for host in hosts}
    plugs = {host.name: free_port() for host in hosts[1:]}
    _write_config(hosts, ports)
    for host in hosts:
        directory = _directory(host)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        disk, base = directory / "disk", images[host.name].disk
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk])
        network = (
            _sockets(plugs)
            if host is hosts[0]
            else _socket(f"connect=127.0.0.1:{plugs[host.name]}")
        )
        run(_command(host, images[host.name], ports[host.name], network))
    for host in hosts:
        way = ssh(host.name)
        way.wait()
        way.run(NETWORK.format(name=host.name, address=host.address))


def down(hosts: list[Host]) -> None:
    """End the machines; their disks are thrown away when they are started again."""
    for host in hosts:
        if CONFIG.exists():
            ssh(host.name).forget()
        pid = _pid(host)
        if pid is None:
            continue
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if _pid(host) is None:
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)


def running(hosts: list[Host]) -> list[Host]:
    """Return the machines that run."""
    return [host for host in hosts if _pid(host)]


def ssh(name: str) -> Ssh:
    """Return the way to a machine."""
    return Ssh(name, CONFIG)


def _directory(host: Host) -> Path:
    return WORK / "machines" / host.name


def _pid(host: Host) -> int | None:
    """Return the process of a machine that runs."""
    try:
        pid = int((_directory(host) / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(_directory(host)).encode() in command else None


def _write_config(hosts: list[Host], ports: dict[str, int]) -> None:
    lines = [
        *("Host *", f"IdentityFile {KEY}", "IdentitiesOnly yes", "User root"),
        *("HostName 127.0.0.1", "StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"),
        *("LogLevel ERROR", "BatchMode yes", "ConnectTimeout 60", "ServerAliveInterval 30"),
        *("ControlMaster auto", "ControlPath ~/.ssh/secgroupd-lab-%C", "ControlPersist 600"),
    ]
    for host in hosts:
        lines += [f"Host {host.name}", f"Port {ports[host.name]}"]
    Path("~/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)
    CONFIG.write_text("\n".join(lines) + "\n")
    (WORK / "ports.json").write_text(json.dumps(ports))


def _socket(end: str) -> list[str]:
    return ["-netdev", f"socket,id=lab,{end}"]


def _sockets(plugs: dict[str, int]) -> list[str]:
    """Return the first machine's network: a hub with its own card and a plug for each other."""
    network = ["-netdev", "hubport,id=lab,hubid=0"]
    for name, port in plugs.items():
        network += ["-netdev", f"socket,id=to-{name},listen=127.0.0.1:{port}"]
        network += ["-netdev", f"hubport,id=plug-{name},hubid=0,netdev=to-{name}"]
    return network


def _command(host: Host, image: Image, port: int, network: list[str]) -> list[str]:
    directory = _directory(host)
    mac = f"52:54:00:77:{{:02x}}:{host.number:02x}"
    return [
        *("qemu-system-x86_64", "-name", host.name, "-nodefaults", "-no-user-config"),
        *("-display", "none", "-daemonize", "-pidfile", str(directory / "pid")),
        # An old processor, without what qemu's imitation does slowly (erms) or wrongly (avx2): with the
        # newest one less these two, apt's checksums end in an illegal instruction.
        *("-accel", "tcg", "-machine", "q35", "-cpu", "Nehalem"),
        *("-smp", "1", "-m", str(MEMORY_MIB)),
        *("-kernel", str(image.kernel), "-initrd", str(image.first_files)),
        *("-append", "root=/dev/vda console=ttyS0 net.ifnames=0 mitigations=off panic=10"),
        *("-serial", f"file:{directory / 'console'}"),
        *("-drive", f"if=virtio,file={directory / 'disk'},cache=unsafe"),
        *("-device", "virtio-rng-pci"),
        # For ssh alone: the machine reaches nothing through it.
        *("-netdev", f"user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", f"virtio-net-pci,netdev=ssh,mac={mac.format(1)}"),
        *network,
        *("-device", f"virtio-net-pci,netdev=lab,mac={mac.format(2)}"),
    ]
