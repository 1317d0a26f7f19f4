"""The lab in Vagrant: the same machines, made of boxes by the Vagrantfile, which also provisions them."""

import os
import subprocess

from laboratory.shell import LabError, Ssh, run
from laboratory.tables import HERE, WORK, Host

CONFIG = WORK / "ssh_config.vagrant"
PROVISIONS = True
LASTING = """
Host *
  ControlMaster auto
  ControlPath ~/.ssh/secgroupd-lab-%C
  ControlPersist 600
"""


def up(hosts: list[Host]) -> None:
    """Start and provision the machines, with what Vagrant prints.

    Raises:
        LabError: Vagrant fails.
    """
    names = [host.name for host in hosts]
    done = subprocess.run(["vagrant", "up", "--provision", *names], cwd=HERE, check=False)
    if done.returncode:
        raise LabError(f"vagrant up: exit code {done.returncode}")
    WORK.mkdir(parents=True, exist_ok=True)
    settings = "".join(_vagrant("ssh-config", name) for name in names)
    CONFIG.write_text(settings + LASTING)


def down(hosts: list[Host]) -> None:
    """Throw the machines away."""
    _vagrant("destroy", "--force", *(host.name for host in hosts))


def running(hosts: list[Host]) -> list[Host]:
    """Return the machines that run."""
    lines = [line.split(",") for line in _vagrant("status", "--machine-readable").splitlines()]
    states = {words[1]: words[3] for words in lines if len(words) > 3 and words[2] == "state"}
    return [host for host in hosts if states.get(host.name) == "running"]


def ssh(name: str) -> Ssh:
    """Return the way to a machine."""
    return Ssh(name, CONFIG)


def _vagrant(*words: str) -> str:
    directory = os.fspath(HERE)
    return run(["env", "-C", directory, "vagrant", *words])
