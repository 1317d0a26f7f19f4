"""The nouns of a state document, as frozen values.

Nothing here parses or checks: ``document`` builds these values from text and refuses what does not
fit, ``policy`` resolves the references between them. Names and meanings are those of the cloud's
v3 network API; addresses, networks and port numbers are typed, protocols are IP protocol numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Family(Enum):
    """An IP version; the value is how rules spell it (their ``ethertype``)."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if self is Family.IPV4 else 6

    @property
    def bits(self) -> int:
        """Length of an address in bits."""
        return 32 if self is Family.IPV4 else 128


def family_of(address: Address | Network) -> Family:
    """Return the family of an address or network."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


class Direction(StrEnum):
    """Which way a connection's first packet travels, seen from the port: ingress is towards it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Action(StrEnum):
    """What a rule does with a connection that matches it."""

    ALLOW = "allow"
    DENY = "deny"


class Preset(StrEnum):
    """Rule sets that a group can start from."""

    WEB_SERVER = "general-purpose-web-server"
    ALL_OPEN = "all-ports-open"
    FAST_ADD = "fast-add"


class Clearing(StrEnum):
    """Which connections a change of policy judges again."""

    DOCUMENTED = "documented"
    STRICT = "strict"


class Timeout(StrEnum):
    """A connection tracking timeout that the settings may change; each is in seconds.

    nftables sets them for TCP and UDP; the kernel's own for ICMP is the cloud's 30 seconds already.
    """

    TCP_ESTABLISHED = "tcp_established"
    TCP_FIN_WAIT = "tcp_fin_wait"
    UDP = "udp"
    UDP_STREAM = "udp_stream"


ICMP, TCP, UDP, DCCP, GRE, AH, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 47, 51, 58, 132, 136
PORT_PROTOCOLS = frozenset({TCP, UDP, SCTP, DCCP, UDPLITE})
"""The protocols whose header has a destination port, so that a rule may name ports."""

PROTOCOL_NUMBERS: Mapping[str, int] = MappingProxyType({
    "icmp": ICMP, "igmp": 2, "ipip": 4, "tcp": TCP, "egp": 8, "udp": UDP, "dccp": DCCP,
    "ipv6": 41, "rsvp": 46, "gre": GRE, "esp": 50, "ah": AH, "icmpv6": ICMPV6, "ospf": 89,
    "pim": 103, "vrrp": 112, "pgm": 113, "l2tp": 115, "sctp": SCTP, "udplite": UDPLITE,
})  # fmt: skip
"""Names that a rule's ``protocol`` may use (IANA's numbers); every other one is given as 0..255."""


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports ``first`` to ``last``, both included, 1..65535."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class AnyPeer:
    """Every address of the rule's family (no peer was given)."""


@dataclass(frozen=True, slots=True)
class PrefixPeer:
    """The addresses of one network (``remote_ip_prefix``; a bare IP is a /32 or /128)."""

    network: Network


@dataclass(frozen=True, slots=True)
class GroupPeer:
    """The private addresses of a security group's members (``remote_group_id``)."""

    group_id: str


@dataclass(frozen=True, slots=True)
class AddressGroupPeer:
    """The entries of an address group (``remote_address_group_id``)."""

    address_group_id: str


Peer = AnyPeer | PrefixPeer | GroupPeer | AddressGroupPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a security group.

    ``protocol`` is an IP protocol number or None for all; ``ports`` is sorted and empty for all;
    ``icmp_type`` and ``icmp_code`` are None for any.
    """

    id: str
    direction: Direction
    action: Action = Action.ALLOW
    priority: int = 1
    family: Family = Family.IPV4
    protocol: int | None = None
    ports: tuple[PortRange, ...] = ()
    icmp_type: int | None = None
    icmp_code: int | None = None
    peer: Peer = AnyPeer()
    enabled: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityGroup:
    """A security group as written: ``rules`` are its own, those of ``preset`` come before them.

    ``preset_ports`` are the TCP ports that the fast-add preset opens, ``preset_icmp`` whether it
    opens ICMP.
    """

    id: str
    name: str = ""
    description: str = ""
    rules: tuple[Rule, ...] = ()
    preset: Preset | None = None
    preset_ports: tuple[PortRange, ...] = ()
    preset_icmp: bool = False


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """Addresses ``first`` to ``last``, both included, of one family."""

    first: Address
    last: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressGroup:
    """A named list of addresses of one family; entries may overlap and nest."""

    id: str
    family: Family
    entries: tuple[AddressRange, ...] = ()
    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vpc:
    """A virtual private cloud; ``uplinks`` are host interfaces that carry this VPC only."""

    id: str
    name: str = ""
    uplinks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peering:
    """Two VPCs whose group peers see each other's members; not transitive."""

    id: str
    vpc_ids: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPair:
    """An address or network that a port may send from besides its own, perhaps with another MAC."""

    network: Network
    mac_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One network interface of an instance.

    ``mac_address`` is lower case with colons. ``security_groups`` is in order of evaluation; empty
    means the VPC's default group. ``interface`` None means that the port is bound by MAC address or
    link alias. ``host_id`` None means any host: the port is here if its interface is.
    """

    id: str
    vpc_id: str
    mac_address: str | None = None
    interface: str | None = None
    host_id: str | None = None
    private_ips: tuple[Address, ...] = ()
    security_groups: tuple[str, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    source_check: bool = True
    port_security_enabled: bool = True

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its private addresses, and others that it may send from one by one: virtual ones, say."""
        pairs = (pair.network for pair in self.allowed_address_pairs)
        single = (net.network_address for net in pairs if net.prefixlen == net.max_prefixlen)
        return (*self.private_ips, *single)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A cloud server with its ports."""

    id: str
    name: str = ""
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarder:
    """How a load balancer's traffic is told apart on this host: exactly one field is set."""

    interface: str | None = None
    mac_address: str | None = None
    fwmark: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A listener's backend: the port and the destination port that traffic reaches there."""

    port_id: str
    protocol_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listener of a load balancer; ``protocol`` is an IP protocol number (TCP or UDP)."""

    id: str
    protocol: int
    protocol_port: int
    transfer_client_ip: bool = False
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer:
    """A load balancer and how its traffic reaches this host."""

    id: str
    vpc_id: str
    forwards_through: Forwarder
    listeners: tuple[Listener, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A whole, valid state document: what is to be enforced.

    ``revision`` identifies the content (a digest of the parsed document, independent of the order
    of its lists and files where order means nothing). Every tuple is sorted by id.
    """

    revision: str = ""
    vpcs: tuple[Vpc, ...] = ()
    peerings: tuple[Peering, ...] = ()
    address_groups: tuple[AddressGroup, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    instances: tuple[Instance, ...] = ()
    load_balancers: tuple[LoadBalancer, ...] = ()
    allow_default_group_changes: bool = False
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """``FILE:LINE`` of the objects, by ``kind:id``, for messages about them."""
