"""What a port may send as: its own MAC and private IPs, and its allowed address pairs.

The evaluator's word on the source check; ``sourcechains`` compiles the same into chains.
"""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_network

from secgroupd.core.model import Address, Network, Port

LINK_LOCAL = IPv6Network("fe80::/64")
"""What a port may use of IPv6 for its own link when its MAC is not known (RFC 4291, 2.5.6)."""

PORTS_KNOWN = 8192
"""Ports whose senders are remembered: each is asked for several times by every table's compile."""


@dataclass(frozen=True, slots=True)
class Sender:
    """One network that a port may send from, and with which MAC; None for any."""

    mac: str | None
    network: Network


@lru_cache(maxsize=PORTS_KNOWN)
def senders(port: Port) -> tuple[Sender, ...]:
    """Return what a port may send from, without repeats, in a fixed order.

    A pair without a MAC goes with the port's own. With every MAC comes the link-local address that
    is made from it (RFC 4291, appendix A); others must be given as private IP or pair. A port whose
    MAC the document does not name may use any MAC, and any link-local address.
    """
    found = [Sender(port.mac_address, ip_network(address)) for address in port.private_ips]
    found += [
        Sender(p.mac_address or port.mac_address, p.network) for p in port.allowed_address_pairs
    ]
    found += [Sender(mac, ip_network(link_local(mac))) for mac in macs(port)]
    if port.mac_address is None:
        found.append(Sender(None, LINK_LOCAL))
    return tuple(sorted(dict.fromkeys(found), key=_order))


def macs(port: Port) -> tuple[str, ...]:
    """Return the MACs that the document names for a port: its own and those of its pairs."""
    named = {pair.mac_address for pair in port.allowed_address_pairs} | {port.mac_address}
    return tuple(sorted(mac for mac in named if mac is not None))


def may_send(port: Port, address: Address, mac: str | None = None) -> bool:
    """Tell whether a packet or ARP message with this sender passes a port's source check.

    ``mac`` None asks whether there is any MAC with which it does. What comes before an instance has
    an address (DHCP, duplicate address detection) is not asked about here.
    """
    if not (port.source_check and port.port_security_enabled):
        return True
    return any(
        address in sender.network and (mac is None or sender.mac in {None, mac})
        for sender in senders(port)
        if sender.network.version == address.version
    )


def link_local(mac: str) -> IPv6Address:
    """Return the link-local address that is made from a MAC."""
    raw = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return IPv6Address(LINK_LOCAL.network_address.packed[:8] + identifier)


def _order(sender: Sender) -> tuple[int, Network, str]:
    return sender.network.version, sender.network, sender.mac or ""
