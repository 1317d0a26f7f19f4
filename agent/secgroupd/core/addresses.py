"""Addresses, networks and ranges as the document spells them; what is ambiguous is refused."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from secgroupd.core.model import Address, AddressPair, AddressRange, Network, family_of
from secgroupd.core.reading import Refusal, shown
from secgroupd.core.scalars import Plain

SOURCE_CHECK_OFF = "1.1.1.1/0"
"""The allowed address pair that switches a port's source check off (the cloud's own spelling)."""

_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}").fullmatch
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]").search
_ALL = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def address(value: Plain) -> Address:
    """Return a bare address.

    Raises:
        Refusal: it is none, or one that can be read in two ways: IPv4 with leading zeros, IPv6 with
            a zone, or IPv4 inside IPv6 (``::ffff:10.0.0.1``).
    """
    if not isinstance(value, str):
        raise Refusal("address", _not_an_address(value))
    if "/" in value:
        raise Refusal("address", f"{shown(value)} is a network: write the bare address")
    return _address(value)


def host_address(value: Plain) -> Address:
    """Return an address that a port can have as its own."""
    result = address(value)
    if result.is_unspecified or result.is_multicast or result.is_loopback:
        raise Refusal("address", f"no port can have {shown(value)}: write the port's own address")
    return result


def network(value: Plain) -> Network:
    """Return a CIDR, or a bare address as a /32 or /128.

    Raises:
        Refusal: as for ``address``; the prefix is too long; bits are set behind the prefix.
    """
    if not isinstance(value, str):
        raise Refusal("address", _not_an_address(value))
    text, slash, length = value.partition("/")
    first = _address(text)
    bits = first.max_prefixlen
    if not slash:
        return _network(first, bits)
    if not _PREFIX_LENGTH(length) or int(length) > bits:
        message = f"{shown(value)} has no valid prefix length: write /0 to /{bits}"
        raise Refusal("prefix-length", message)
    try:
        return _network(first, int(length))
    except ValueError:
        right = type(first)(int(first) >> (bits - int(length)) << (bits - int(length)))
        message = f"{shown(value)} has bits behind its prefix: write {right}/{length}"
        raise Refusal("host-bits", message) from None


def address_range(value: Plain) -> AddressRange:
    """Return an entry of an address group: an address, a CIDR or ``first-last``."""
    if not isinstance(value, str) or "-" not in value:
        block = network(value)
        return AddressRange(block.network_address, block.broadcast_address)
    first, last = (address(part) for part in value.split("-", 1))
    if family_of(first) is not family_of(last):
        message = f"{shown(value)} mixes IPv4 and IPv6: write a range of one version"
        raise Refusal("address-range", message)
    if int(first) > int(last):
        raise Refusal("address-range", f"{shown(value)} is backwards: write {last}-{first}")
    return AddressRange(first, last)


def paired_network(value: Plain) -> Network | None:
    """Return the network of an allowed address pair, or None for the source check's switch."""
    if value == SOURCE_CHECK_OFF:
        return None
    result = network(value)
    if result in _ALL:
        message = (
            f"{shown(value)} allows every source: write {SOURCE_CHECK_OFF} to switch the check off"
        )
        raise Refusal("pair-of-all", message)
    return result


def pair_order(pair: AddressPair) -> tuple[int, Network, str]:
    """Return a sort key of pairs, whose order means nothing."""
    return pair.network.version, pair.network, pair.mac_address or ""


def _network(first: Address, length: int) -> Network:
    if isinstance(first, IPv4Address):
        return IPv4Network((int(first), length))
    return IPv6Network((int(first), length))


def _address(text: str) -> Address:
    try:
        if ":" not in text:
            return IPv4Address(text)
        result = IPv6Address(text)
    except ValueError:
        if ":" not in text and _LEADING_ZERO(text):
            message = f"{shown(text)} has leading zeros: write every part without them"
            raise Refusal("leading-zero", message) from None
        raise Refusal("address", _not_an_address(text)) from None
    if result.scope_id is not None:
        message = f"{shown(text)} has a zone: write {text.partition('%')[0]}"
        raise Refusal("zone-id", message)
    if result.ipv4_mapped is not None:
        message = f"{shown(text)} is IPv4 inside IPv6: write {result.ipv4_mapped}"
        raise Refusal("ipv4-mapped", message)
    return result


def _not_an_address(value: object) -> str:
    return f"{shown(value)} is not an IP address: write one such as 192.168.0.11 or 2001:db8::11"
