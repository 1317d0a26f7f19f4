"""Between VPCs that no peering connects, nothing passes, whatever the rules say.

A host that carries ports of several VPCs would route between them, or bridge. Each VPC has a chain
that only its own ports' packets come to, and in it a set of the ports that it may reach.
"""

from collections.abc import Mapping, Sequence

from secgroupd.core import names
from secgroupd.core.draft import Binding, Draft, LocalPort
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import digest

INSIDE = "inside"
"""The set of the interfaces of every port; what leaves by another one is no VPC's business."""


def add_walls(draft: Draft, policy: Policy, local: Sequence[LocalPort]) -> list[str]:
    """Make the chains; return the lines that lead into them where packets are about to reach ports.

    Where all VPCs of this host's ports see each other there is nothing to do.
    """
    of_vpc: dict[str, list[Binding]] = {}
    for port, binding in local:
        of_vpc.setdefault(port.vpc_id, []).append(binding)
    if all(of_vpc.keys() <= policy.visible_vpcs(vpc_id) for vpc_id in of_vpc):
        return []
    inside = draft.interface_set(INSIDE, [binding for _, binding in local])
    verdicts: Mapping[Binding, str] = {
        binding: f"jump {_chain(draft, policy, vpc_id, of_vpc, inside)}"
        for vpc_id, bindings in of_vpc.items()
        for binding in bindings
    }
    return draft.interface_map("walls", verdicts).lines("i")


def _chain(
    draft: Draft,
    policy: Policy,
    vpc_id: str,
    of_vpc: Mapping[str, Sequence[Binding]],
    inside: str,
) -> str:
    name = f"vpc_{digest(vpc_id)}"
    if name not in draft.chains:
        seen = [b for other in sorted(policy.visible_vpcs(vpc_id)) for b in of_vpc.get(other, ())]
        reached = draft.interface_set(f"reached_{digest(vpc_id)}", seen)
        lines = [f"oifname @{reached} return", f"oifname @{inside} goto {names.DENY_IN}"]
        draft.chain(name, lines, f"VPC {vpc_id}")
    return name
