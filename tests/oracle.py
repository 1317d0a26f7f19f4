"""What the evaluator says to a question, as the kernel would show it."""

from dataclasses import dataclass
from ipaddress import ip_address

from secgroupd.core.model import Address, Direction, Port
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Decision, Packet, decide, default_icmp_type
from secgroupd.proving.questions import FlowQuestion


@dataclass(frozen=True)
class Judgement:
    egress: Decision | None
    ingress: Decision | None

    @property
    def allowed(self) -> bool:
        return all(d.allowed for d in (self.egress, self.ingress) if d is not None)


def owner(policy: Policy, address: Address) -> Port | None:
    return next((p for p in policy.ports.values() if address in p.private_ips), None)


def packet(question: FlowQuestion, peer: Address) -> Packet:
    kind = question.icmp_type
    return Packet(
        peer=peer,
        protocol=question.protocol,
        dport=question.dport or 0,
        icmp_type=default_icmp_type(question.protocol) if kind is None else kind,
        icmp_code=question.icmp_code or 0,
    )


def judge(policy: Policy, question: FlowQuestion) -> Judgement:
    source, destination = ip_address(question.source), ip_address(question.destination)
    sender, receiver = owner(policy, source), owner(policy, destination)
    return Judgement(
        decide(policy, sender, Direction.EGRESS, packet(question, destination)) if sender else None,
        decide(policy, receiver, Direction.INGRESS, packet(question, source)) if receiver else None,
    )
