"""The daemon as a process of its own, on a host of its own: its directories, and what one asks of it."""

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from tests.enforcing import kernel

from secgroupd.cli import main
from secgroupd.core.model import UDP
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, probe

CLIENT, SERVER = "203.0.113.9", "10.0.0.1"
PATIENCE = 60.0

OPEN = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: udp, direction: ingress, protocol: udp, multiport: "PORTS", remote_ip_prefix: 0.0.0.0/0}
      - {id: out, direction: egress}
instances:
  - id: i
    ports:
      - {id: p1, IDENTITY, vpc_id: v, private_ips: [10.0.0.1], security_groups: [g]}
"""


def document(ports: str = "1000", identity: str = "interface: tap1") -> str:
    return OPEN.replace("PORTS", ports).replace("IDENTITY", identity)


def with_members(count: int) -> str:
    """Return a document in which a group that a rule names has so many members elsewhere."""
    rule = "      - {id: from, direction: ingress, protocol: udp, multiport: 2000, remote_group_id: many}\n"
    others = "".join(
        f"  - {{id: o{at}, ports: [{{id: o{at}, host_id: other, vpc_id: v, "
        f"private_ips: [10.9.{at >> 8}.{at & 255}], security_groups: [many]}}]}}\n"
        for at in range(count)
    )
    text = document().replace("      - {id: out", f"{rule}      - {{id: out")
    return text.replace("instances:\n", f"  - {{id: many}}\ninstances:\n{others}")


def await_that(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        select.select([], [], [], 0.01)


class Agent:
    """A daemon's directories, and the process while it runs."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        (directory / "state.d").mkdir()
        self.config = directory / "secgroupd.yaml"
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"
        self.environment: dict[str, str] = {}
        self.program = [sys.executable, "-m", "secgroupd.daemon"]

    def configure(self, **settings: object) -> None:
        here = str(self.directory)
        base = {
            "source": {"directory": f"{here}/state.d"},
            "state_dir": f"{here}/lib",
            "run_dir": f"{here}/run",
            "resync_interval": 2,
            "adoption_grace": 0,
        }
        self.config.write_text(json.dumps(base | settings))

    def give(self, text: str) -> None:
        fresh = self.directory / "state.d" / ".new"
        fresh.write_text(text)
        fresh.rename(self.directory / "state.d" / "cloud.yaml")

    def start(self) -> None:
        """Start it, and wait until it says so."""
        before = self.log.read_text().count(" started ") if self.log.exists() else 0
        self.launch()
        await_that(lambda: self.log.read_text().count(" started ") > before or self.ended())

    def launch(self) -> None:
        with self.log.open("ab") as log:
            command = [*self.program, "--config", str(self.config)]
            environment = {**os.environ, **self.environment}
            self.process = self.lab.hv.popen(command, stdout=log, stderr=log, env=environment)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def pause(self) -> None:
        """Stop it as a debugger would, and wait until none of its threads runs."""
        assert self.process
        tasks = Path(f"/proc/{self.process.pid}/task")
        self.process.send_signal(signal.SIGSTOP)
        await_that(
            lambda: (
                {
                    (task / "stat").read_text().rpartition(")")[2].split()[0]
                    for task in tasks.iterdir()
                }
                == {"T"}
            )
        )

    def status(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads(
                (self.directory / "run" / "status.json").read_text()
            )
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def ask(self, verb: str, *arguments: str) -> int:
        """Run a verb on the lab's host, never on the one that the tests run on."""
        with self.lab.hv.enter():
            return main(["--config", str(self.config), verb, *arguments])

    def passes(self, dport: int) -> bool:
        return self.reaches(self.lab.ports["tap1"].namespace, SERVER, dport)

    def reaches(self, server: Namespace, address: str, dport: int) -> bool:
        """Tell whether a datagram from outside reaches an instance."""
        flow = Probe(
            source=self.lab.outside_address(CLIENT),
            source_address=ip_address(CLIENT),
            destination=server,
            destination_address=ip_address(address),
            protocol=UDP,
            dport=dport,
        )
        return probe(flow).delivered

    def get(self, port: int, path: str) -> tuple[int, str]:
        """Ask a server on the host over HTTP; return its status and answer, 0 without a server."""
        with self.lab.hv.enter():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except OSError:
                return 0, ""
            finally:
                connection.close()

    def scrape(self) -> str:
        """What the metrics endpoint says, nothing while it is not there."""
        return self.get(9760, "/metrics")[1]

    def metric(self, sample: str) -> float:
        """A sample by its name (without ``secgroupd_``) and labels; -1 while there is none."""
        start = f"secgroupd_{sample} "
        lines = [line for line in self.scrape().splitlines() if line.startswith(start)]
        return float(lines[0].removeprefix(start)) if lines else -1

    def generation(self) -> int:
        with kernel(self.lab) as nft:
            return nft.generation()


@contextmanager
def agent_on(lab: Lab, directory: Path, addresses: Sequence[str] = (SERVER,)) -> Iterator[Agent]:
    """A daemon for a host with one port, which is killed in the end if it runs."""
    lab.add_port(interface="tap1", addresses=addresses, alias="p1", mac="fa:16:3e:00:00:01")
    made = Agent(lab, directory)
    try:
        yield made
    finally:
        if made.process is not None:
            made.stop(signal.SIGKILL)
