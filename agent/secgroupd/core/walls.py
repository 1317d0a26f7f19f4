"""Between VPCs that no peering connects, nothing passes, whatever the rules say.

A host that carries several VPCs would route between them, or bridge. What it forwards is therefore
asked for both of its interfaces, at the only hook that knows both for routed and bridged packets: the
interface that it came from leads to a chain, which knows what its VPC may reach.

An interface is a VPC's because it is a port's or an uplink. A bridge, where the host routes into it or
from it, is all its ports': between ports of one bridge that the host routes nothing tells whose a
packet was, and only rules stand there.
"""

from collections.abc import Iterable, Mapping

from secgroupd.core import names
from secgroupd.core.draft import Binding, Draft, InterfaceMap, LocalPort
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import digest

INSIDE = "inside"
"""The set of the interfaces of every VPC; what leaves by another one is no VPC's business."""

Vpcs = frozenset[str]


def add_walls(
    draft: Draft, policy: Policy, local: Iterable[LocalPort], bridged: Iterable[LocalPort]
) -> InterfaceMap | None:
    """Make the chains, and the map that leads into them what the host forwards.

    Args:
        draft: the table.
        policy: the resolved document.
        local: the ports of the table.
        bridged: ports behind whose bridges the host may route.

    Returns:
        None where all VPCs of this host see each other, so that there is nothing to do.
    """
    inside = _interfaces(policy, local, bridged)
    seen = {vpcs: frozenset[str]().union(*map(policy.visible_vpcs, vpcs)) for vpcs in inside}
    if all(seen[one] & other for one in inside for other in inside):
        return None
    carrying: dict[str, list[Vpcs]] = {}
    for vpcs in inside:
        for vpc_id in vpcs:
            carrying.setdefault(vpc_id, []).append(vpcs)
    everything = [binding for bindings in inside.values() for binding in bindings]
    denied = [f"{told} goto {names.APART}" for told in draft.leaving(INSIDE, everything)]
    verdicts: dict[Binding, str] = {}
    for vpcs, bindings in inside.items():
        stem = digest(*sorted(vpcs))
        others = dict.fromkeys(o for vpc in sorted(seen[vpcs]) for o in carrying.get(vpc, ()))
        reached = [binding for other in others for binding in inside[other]]
        passing = [f"{told} return" for told in draft.leaving(f"reached_{stem}", reached)]
        draft.chain(f"vpc_{stem}", [*passing, *denied], f"VPC {', '.join(sorted(vpcs))}")
        verdicts |= dict.fromkeys(bindings, f"jump vpc_{stem}")
    return draft.interface_map("walls", verdicts)


def _interfaces(
    policy: Policy, local: Iterable[LocalPort], bridged: Iterable[LocalPort]
) -> Mapping[Vpcs, list[Binding]]:
    """Return the interfaces by the VPCs that they carry."""
    carried: dict[Binding, set[str]] = {}
    for port, binding in local:
        carried.setdefault(binding, set()).add(port.vpc_id)
    for port, binding in bridged:
        if binding.bridge is not None:
            carried.setdefault(Binding(binding.bridge), set()).add(port.vpc_id)
    for vpc in sorted(policy.state.vpcs, key=lambda vpc: vpc.id):
        for uplink in vpc.uplinks:
            carried.setdefault(Binding(uplink), set()).add(vpc.id)
    found: dict[Vpcs, list[Binding]] = {}
    for binding, vpcs in carried.items():
        found.setdefault(frozenset(vpcs), []).append(binding)
    return found
