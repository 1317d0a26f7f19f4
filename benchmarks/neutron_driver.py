"""Neutron's own iptables firewall driver, driven from stdin. Run by a Python that has ``neutron``.

It says ``ready``, then takes one JSON object a line: ``{"do": "prepare" | "update", "groups",
"members", "ports"}``, in the shape in which Neutron's server tells its agents. What is called, and in
which order, is what ``neutron.agent.securitygroups_rpc`` calls. The answer is ``{"wall", "cpu",
"processes"}``: seconds until rules and connections are as they are to be, processor seconds of this
program and all that it started, and how many processes these were. Commands run in this process, as
root, without the privileged daemon and the root helper that an agent goes through: both would cost
more.
"""

import json
import resource
import sys
import tempfile
import threading
import time

from neutron import privileged
from neutron.agent.linux.iptables_firewall import IptablesFirewallDriver
from neutron.conf.agent import common
from neutron.conf.agent.securitygroups_rpc import register_securitygroups_opts
from oslo_concurrency import lockutils
from oslo_config import cfg


class Processes:
    """Counts the processes that this program starts."""

    def __init__(self):
        self.started = 0
        sys.addaudithook(self._heard)

    def _heard(self, event, _arguments):
        self.started += event == "subprocess.Popen"


class Last:
    """What stands behind every update in the queue of connections to be deleted."""

    rule = {"ethertype": "IPv4"}  # noqa: RUF012 - as Neutron's own have it
    remote_ips = ()

    def __init__(self):
        self.reached = threading.Event()

    @property
    def device_info_list(self):
        self.reached.set()
        return []


def cpu() -> float:
    """Return processor seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def enforce(driver, given):
    """Have the driver make true what its server has told."""
    new = given["do"] == "prepare"
    if not new:
        driver.security_group_updated("sg_rule", list(given["groups"]))
    with driver.defer_apply():
        for group, rules in given["groups"].items():
            driver.update_security_group_rules(group, rules)
        for group, members in given["members"].items():
            driver.update_security_group_members(group, members)
        for port in given["ports"]:
            (driver.prepare_port_filter if new else driver.update_port_filter)(port)
    last = Last()
    driver.ipconntrack._queue.put(last)  # noqa: SLF001 - nothing else tells when it is empty
    last.reached.wait()


def main():
    processes = Processes()
    common.register_root_helper(cfg.CONF)
    common.register_iptables_opts(cfg.CONF)
    register_securitygroups_opts()
    cfg.CONF([])
    privileged.default.set_client_mode(False)
    with tempfile.TemporaryDirectory() as locks:
        lockutils.set_defaults(locks)
        driver = IptablesFirewallDriver()
        print("ready", flush=True)
        for line in sys.stdin:
            before, wall, used = processes.started, time.perf_counter(), cpu()
            enforce(driver, json.loads(line))
            answer = {
                "wall": time.perf_counter() - wall,
                "cpu": cpu() - used,
                "processes": processes.started - before,
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
