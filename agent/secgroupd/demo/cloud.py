"""The cloud of the demonstration: a document, its instances as namespaces, and who asks what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from secgroupd.commands.output import write
from secgroupd.core.model import Action
from secgroupd.core.policy import Policy
from secgroupd.core.reachability import Answer, End, Flow, Question, explain
from secgroupd.demo.conversation import Conversation
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, run_probes

ON_A_TAP = "web-1"
"""The instance whose interface is a tap device, as under a virtual machine monitor."""

OUTSIDERS = {
    "the world": "198.51.100.7",
    "a scanner": "198.51.100.200",
    "the office": "203.0.113.5",
}
"""Clients outside, by the name that the demonstration gives them."""


class Service(NamedTuple):
    """What can be asked of an instance."""

    instance: str
    protocol: int
    dport: int | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One question, what the rules answer, and what a real packet did."""

    source: str
    service: Service
    expected: bool
    seen: bool


class Cloud:
    """The instances of a document, each in a namespace behind an interface of the lab's host."""

    def __init__(self, lab: Lab, policy: Policy) -> None:
        self._lab = lab
        self._instances = sorted(
            policy.state.instances, key=lambda one: min(int(a) for a in one.ports[0].private_ips)
        )
        for instance in self._instances:
            for port in instance.ports:
                lab.add_port(
                    interface=port.interface or "",
                    addresses=port.private_ips,
                    mac=port.mac_address,
                    kind="tap" if instance.id == ON_A_TAP else "veth",
                    alias=port.id,
                )
        for address in OUTSIDERS.values():
            lab.outside_address(address)

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who can ask, outside and inside."""
        return (*OUTSIDERS, *(instance.id for instance in self._instances))

    def introduce(self, policy: Policy) -> None:
        """Print who is there."""
        for instance in self._instances:
            for port in instance.ports:
                kind = self._lab.ports[port.interface or ""].kind
                groups = ", ".join(policy.groups_of(port))
                address = str(port.private_ips[0])
                write(f"  {instance.id:12}{address:16}{kind:5}{port.interface:9} groups {groups}")
        for name, address in OUTSIDERS.items():
            write(f"  {name:12}{address:16}outside")

    def ask(self, policy: Policy, source: str, service: Service) -> Answer:
        """Answer by the rules whether somebody reaches a service."""
        return explain(
            policy,
            Question(
                source=OUTSIDERS.get(source, source),
                destination=service.instance,
                protocol=service.protocol,
                dport=service.dport,
            ),
        )

    def try_all(self, policy: Policy, services: Sequence[Service]) -> list[Cell]:
        """Let everybody try every service (but their own), with real packets."""
        asked = [
            (source, service, self.ask(policy, source, service))
            for source in self.names
            for service in services
            if source != service.instance
        ]
        observed = run_probes([self._probe(answer.flow) for _, _, answer in asked])
        return [
            Cell(source, service, answer.verdict is Action.ALLOW, seen.connected)
            for (source, service, answer), seen in zip(asked, observed, strict=True)
        ]

    def converse(self, flow: Flow) -> Conversation:
        """Open a TCP connection that stays."""
        return Conversation(flow, self._namespace(flow.source), self._namespace(flow.destination))

    def _namespace(self, end: End) -> Namespace:
        if end.port is None:
            return self._lab.outside_address(end.address)
        return self._lab.ports[end.port.interface or ""].namespace

    def _probe(self, flow: Flow) -> Probe:
        return Probe(
            source=self._namespace(flow.source),
            source_address=flow.source.address,
            destination=self._namespace(flow.destination),
            destination_address=flow.destination.address,
            protocol=flow.protocol,
            dport=flow.dport,
        )
