"""Load balancers that exempt nothing, in whole or in part."""

from collections.abc import Iterator

from secgroupd.core.doubts import Doubt, Finding, listed
from secgroupd.core.model import Listener, LoadBalancer
from secgroupd.core.policy import Policy
from secgroupd.core.reading import shown


def void_exemptions(policy: Policy) -> Iterator[Finding]:
    """Yield load balancers without members, and listeners whose members they do not see."""
    for balancer in policy.state.load_balancers:
        key = f"load_balancer:{balancer.id}"
        if not any(listener.members for listener in balancer.listeners):
            what = "listener has members" if balancer.listeners else "listeners are given"
            message = (
                f"load balancer {shown(balancer.id)} does nothing, because no {what}: "
                "add what is missing, or remove it"
            )
            yield Finding(key, Doubt.IDLE_LOAD_BALANCER, message)
        for listener in balancer.listeners:
            if listener.transfer_client_ip and (unseen := _unseen(policy, balancer, listener)):
                message = (
                    f"listener {shown(listener.id)} of load balancer {shown(balancer.id)} exempts "
                    f"nothing at port {listed(sorted(unseen))}, because no peering connects VPC "
                    f"{listed(sorted(set(unseen.values())))} with its own, {shown(balancer.vpc_id)}: "
                    "peer the VPCs, or correct the member"
                )
                yield Finding(key, Doubt.VOID_EXEMPTION, message)


def _unseen(policy: Policy, balancer: LoadBalancer, listener: Listener) -> dict[str, str]:
    """Return the members that a load balancer does not see: their ports, and these ports' VPCs."""
    seen = policy.visible_vpcs(balancer.vpc_id)
    ports = {member.port_id: policy.ports.get(member.port_id) for member in listener.members}
    return {
        port_id: port.vpc_id
        for port_id, port in ports.items()
        if port is not None and port.vpc_id not in seen
    }
