"""``vagrant/lab``: start, provision, enter, push to, test and end the lab."""

import argparse
import os
import sys
from pathlib import Path
from typing import Protocol

from laboratory import qemu, vagrant
from laboratory.cluster import Cluster, hosts_that_are_asked
from laboratory.scenario import PARTS, prove
from laboratory.shell import LabError, Ssh
from laboratory.tables import HERE, Host, hosts


class Driver(Protocol):
    """What makes the machines: Vagrant, or qemu alone."""

    PROVISIONS: bool
    """Whether ``up`` has also run the provisioning scripts."""

    def up(self, hosts: list[Host], /) -> None:
        """Start machines."""

    def down(self, hosts: list[Host], /) -> None:
        """End machines."""

    def running(self, hosts: list[Host], /) -> list[Host]:
        """Return those that run."""

    def ssh(self, name: str, /) -> Ssh:
        """Return the way to one."""


DRIVERS: dict[str, Driver] = {"qemu": qemu, "vagrant": vagrant}


def main() -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="vagrant/lab", description=__doc__)
    parser.add_argument(
        "--driver",
        choices=DRIVERS,
        default=os.environ.get("LAB_DRIVER", "qemu"),
        help="what makes the machines (the variable LAB_DRIVER, or qemu)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start the machines, provision them and push vagrant/policy")
    up.add_argument("hosts", nargs="*", metavar="HOST", help="only these (all)")
    push = verbs.add_parser(
        "push", help="push a policy to all hosts, and wait until it is in force"
    )
    push.add_argument("directory", nargs="?", type=Path, default=HERE / "policy")
    test = verbs.add_parser("test", help="run the scenario (vagrant/lab-test)")
    test.add_argument("--keep", type=Path, metavar="FILE", help="also write the report there")
    test.add_argument("--only", nargs="+", default=[], choices=PARTS, help="only these parts")
    verbs.add_parser("down", help="end the machines and throw them away")
    enter = verbs.add_parser("ssh", help="a shell on a machine, or one command")
    enter.add_argument("host")
    enter.add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        return _do(args, DRIVERS[args.driver])
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _do(args: argparse.Namespace, driver: Driver) -> int:
    table = hosts()
    if args.verb == "up":
        chosen = hosts_that_are_asked(args.hosts, table)
        driver.up(list(chosen.values()))
        cluster = Cluster(chosen, driver.ssh)
        if not driver.PROVISIONS:
            print("provisioning", flush=True)
            cluster.provision()
        print(f"in force: revision {cluster.push(HERE / 'policy')}", flush=True)
    elif args.verb == "down":
        driver.down(list(table.values()))
    elif args.verb == "ssh":
        hosts_that_are_asked([args.host], table)
        command = driver.ssh(args.host).command(*args.words)
        os.execvp(command[0], command)
    else:
        found = {host.name: host for host in driver.running(list(table.values()))}
        if not found:
            raise LabError("nothing runs: make lab-up")
        cluster = Cluster(found, driver.ssh)
        if args.verb == "test":
            return prove(cluster, args.keep, args.only)
        print(f"in force: revision {cluster.push(args.directory)}")
    return 0
