"""Between VPCs that no peering connects, nothing passes, whatever the rules say.

A host that carries several VPCs would route between them, or bridge. What it forwards is therefore
asked for both of its interfaces, at the only hook that knows both for routed and bridged packets: the
interface that it came from leads to a chain, which knows what its VPC may reach.

An interface is a VPC's because it is a port's or an uplink. A bridge, where the host routes into it or
from it, is all its ports'. If these are of several VPCs, addresses tell whose a packet is: what has the
address of no port there (a network that a port may send from, say) is left to the rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from secgroupd.core import names
from secgroupd.core.draft import Binding, Draft, LocalPort, covering, quoted_pattern
from secgroupd.core.model import Family, family_of
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Key, digest

INSIDE = "inside"
"""The set of the interfaces of every VPC; what leaves by another one is no VPC's business."""
SHARED = "shared"
"""The set of the bridges that several VPCs share, and what sets of addresses behind them begin with."""

KEYS = {Family.IPV4: ("ip", Key.IPV4), Family.IPV6: ("ip6", Key.IPV6)}

Vpcs = frozenset[str]


def add_walls(
    draft: Draft,
    policy: Policy,
    local: Sequence[LocalPort],
    bridged: Sequence[LocalPort],
    managed: Sequence[str],
) -> list[str]:
    """Make the chains; return the lines that lead into them what the host forwards.

    Args:
        draft: the table.
        policy: the resolved document.
        local: the ports of the table.
        bridged: ports behind whose bridges the host may route.
        managed: patterns of interfaces' names, which spare most packets a look-up.

    Returns:
        No line where all VPCs of this host see each other, so that there is nothing to do.
    """
    inside = _interfaces(policy, local, bridged)
    here = frozenset[str]().union(*inside)
    if all(here <= policy.visible_vpcs(vpc_id) for vpc_id in here):
        return []
    walls = _Walls(draft, policy, inside, bridged)
    verdicts: dict[Binding, str] = {}
    for vpcs, bindings in inside.items():
        verdicts |= dict.fromkeys(bindings, f"jump {walls.chain(vpcs)}")
    lines = draft.interface_map("walls", verdicts).lines("i")
    patterns = list(map(quoted_pattern, covering(_named(verdicts), managed)))
    if patterns:
        by_name = lines.pop()
        # A link that is found by its index may have another name by now, and no pattern tells it.
        leaving = [""] if lines else [f"oifname {other} " for other in patterns]
        lines += [f"iifname {one} {out}{by_name}" for one in patterns for out in leaving]
    return lines


def _named(bindings: Iterable[Binding]) -> list[str]:
    return [binding.interface for binding in bindings if binding.index is None]


@dataclass
class _Walls:
    draft: Draft
    policy: Policy
    inside: Mapping[Vpcs, Sequence[Binding]]
    bridged: Sequence[LocalPort]

    def chain(self, vpcs: Vpcs) -> str:
        """Make the chain for what comes from some VPCs, or from one of them; return its name."""
        name = f"vpc_{digest(*sorted(vpcs))}"
        if name not in self.draft.chains:
            lines = [*self._by_source(vpcs), *self._by_destination(vpcs), *self._reached(vpcs)]
            self.draft.chain(name, lines, f"VPC {', '.join(sorted(vpcs))}")
        return name

    def _reached(self, vpcs: Vpcs) -> list[str]:
        """Return lines that tell by the interface what is out of reach."""
        seen = sorted(self._seen(vpcs))
        others = dict.fromkeys(other for vpc in seen for other in self._carrying.get(vpc, ()))
        reached = [binding for other in others for binding in self.inside[other]]
        every = [binding for bindings in self.inside.values() for binding in bindings]
        passing = self.draft.leaving(f"reached_{digest(*sorted(vpcs))}", reached)
        return [
            *(f"{told} return" for told in passing),
            *(f"{told} goto {names.APART}" for told in self.draft.leaving(INSIDE, every)),
        ]

    def _by_source(self, vpcs: Vpcs) -> list[str]:
        """Return lines that lead what comes from a port on a shared bridge to its VPC's chain."""
        lines = []
        for family, behind in self._behind.items() if len(vpcs) > 1 else ():
            word, key = KEYS[family]
            owned = {address: owners for address, owners in behind.items() if len(owners) == 1}
            verdicts = {a: f"goto {self.chain(frozenset(o))}" for a, o in owned.items()}
            owners = self.draft.host_map(f"{SHARED}_by{family.version}", key, verdicts)
            lines.append(f"{word} saddr vmap @{owners}")
        return lines

    def _by_destination(self, vpcs: Vpcs) -> list[str]:
        """Return lines that end what goes to a port on a shared bridge and in a VPC out of reach."""
        lines, visible = [], self._seen(vpcs)
        for family, behind in self._behind.items() if len(vpcs) == 1 else ():
            word, key = KEYS[family]
            stem = f"{SHARED}_to{family.version}"
            seen = [address for address, owners in behind.items() if owners & visible]
            reached = self.draft.host_set(f"{stem}_{digest(*vpcs)}", key, seen)
            every = self.draft.host_set(stem, key, behind)
            for told in self.draft.leaving(SHARED, self._shared):
                lines += [
                    f"{told} {word} daddr @{reached} return",
                    f"{told} {word} daddr @{every} goto {names.APART}",
                ]
        return lines

    def _seen(self, vpcs: Vpcs) -> Vpcs:
        return frozenset[str]().union(*map(self.policy.visible_vpcs, vpcs))

    @cached_property
    def _carrying(self) -> Mapping[str, Sequence[Vpcs]]:
        """The keys of ``inside`` by each of their VPCs."""
        found: dict[str, list[Vpcs]] = {}
        for vpcs in self.inside:
            for vpc_id in vpcs:
                found.setdefault(vpc_id, []).append(vpcs)
        return found

    @cached_property
    def _shared(self) -> Sequence[Binding]:
        """The bridges that several VPCs share."""
        return [b for vpcs, found in self.inside.items() if len(vpcs) > 1 for b in found]

    @cached_property
    def _behind(self) -> Mapping[Family, Mapping[bytes, set[str]]]:
        """The VPCs of addresses behind shared bridges, by family; of families that have any."""
        shared = {bridge.interface for bridge in self._shared}
        found: Mapping[Family, dict[bytes, set[str]]] = {family: {} for family in Family}
        for port, binding in self.bridged:
            for address in port.addresses if binding.bridge in shared else ():
                owners = found[family_of(address)].setdefault(address.packed, set())
                owners.add(port.vpc_id)
        return {family: behind for family, behind in found.items() if behind}


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
