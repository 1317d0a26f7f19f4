"""What is sent and what became of it, as values."""

from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core.model import ICMP, ICMPV6, PORT_PROTOCOLS, SCTP, TCP, UDP, Address
from secgroupd.proving.netns import Namespace

ECHO_REQUEST, ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
"""ICMP types by IP version."""

NATIVE_ICMP = {4: ICMP, 6: ICMPV6}
"""ICMP's protocol number by IP version."""

EXTENSION_HEADERS = frozenset({0, 43, 44, 51, 60})
"""Numbers that the kernel skips in an IPv6 packet, so that none has them as its protocol."""


def has_identity(version: int, protocol: int) -> bool:
    """Return whether every kernel tracks the protocol by ports or identifiers.

    Kernels that no longer know DCCP or UDP-Lite track them by addresses alone, as all the rest.
    """
    return protocol in {TCP, UDP, SCTP, NATIVE_ICMP[version]}


def check_fields(
    version: int, protocol: int, dport: int | None, icmp_type: int | None, icmp_code: int | None
) -> None:
    """Check that a packet can have these fields.

    Raises:
        ValueError: It cannot.
    """
    if not 0 <= protocol <= 255:
        raise ValueError(f"there is no IP protocol {protocol}")
    if version == 6 and protocol in EXTENSION_HEADERS:
        raise ValueError(f"{protocol} is an extension header in IPv6, not a protocol")
    if protocol not in PORT_PROTOCOLS:
        if dport is not None:
            raise ValueError(f"protocol {protocol} has no ports")
    elif dport is None or not 1 <= dport <= 65535:
        raise ValueError(f"protocol {protocol} needs a destination port, 1 to 65535")
    if protocol not in {ICMP, ICMPV6} and icmp_type is not None:
        raise ValueError("only ICMP has types")
    if icmp_code is not None and icmp_type is None:
        raise ValueError("an ICMP code needs a type")
    if not all(0 <= number <= 255 for number in (icmp_type or 0, icmp_code or 0)):
        raise ValueError("an ICMP type or code is 0 to 255")


class Method(StrEnum):
    """How a probe is made."""

    HANDSHAKE = "TCP handshake"
    EXCHANGE = "UDP exchange"
    ECHO = "ICMP echo"
    ONE_WAY = "one packet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One new connection to attempt, from one namespace to another.

    ``protocol`` is an IP protocol number. ``dport`` is needed with TCP, UDP, SCTP, DCCP and
    UDP-Lite and refused elsewhere. ``icmp_type`` None means an echo request, ``icmp_code`` None
    means 0; both belong to ICMP and ICMPv6 only.

    ``source_address`` need not belong to the source: such a probe is spoofed, and whatever answers
    it goes to the true owner. ``destination_address`` need not belong to the destination either,
    as long as the host routes it there: then the probe can be delivered, but not answered.

    Raises:
        ValueError: The fields do not go together.
    """

    source: Namespace
    source_address: Address
    destination: Namespace
    destination_address: Address
    protocol: int
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None

    def __post_init__(self) -> None:
        if self.source is self.destination:
            raise ValueError("a probe that stays in one namespace meets no ruleset")
        if self.source_address.version != self.destination_address.version:
            raise ValueError("source and destination address are of different families")
        if self.destination.filters and self.protocol == 0:
            raise ValueError("the host has no way to hear protocol 0")
        check_fields(self.version, self.protocol, self.dport, self.icmp_type, self.icmp_code)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source_address.version

    @property
    def sent_type(self) -> int:
        """The ICMP type that is sent, if the protocol is ICMP or ICMPv6."""
        return ECHO_REQUEST[self.version] if self.icmp_type is None else self.icmp_type

    @property
    def method(self) -> Method:
        """How the probe is made: whatever can be answered is made so that it is answered."""
        if self.protocol == TCP:
            return Method.HANDSHAKE
        if self.protocol == UDP:
            return Method.EXCHANGE
        if (
            self.protocol == NATIVE_ICMP[self.version]
            and self.sent_type == ECHO_REQUEST[self.version]
        ):
            return Method.ECHO
        return Method.ONE_WAY


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of a probe.

    ``delivered``: its first packet arrived in the destination namespace. ``answered``: the whole
    exchange was completed (TCP: the destination accepted, so all three packets of the handshake
    passed; UDP and echo: the answer arrived at the source); None where nothing answers.
    ``refused``: an error came back at once instead (a reset, an ICMP error, or the sending host's
    own filter); only TCP and UDP notice ICMP errors.
    """

    method: Method
    delivered: bool
    answered: bool | None
    refused: bool = False

    @property
    def connected(self) -> bool:
        """Whether it went as an allowed connection does: delivered, and answered if it can be."""
        return self.delivered and self.answered is not False
