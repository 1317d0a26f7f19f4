"""What a port may send as, against the plainest statement of it."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import port

from secgroupd.core.model import Address, AddressPair, Port
from secgroupd.core.sourcecheck import LINK_LOCAL, Sender, link_local, macs, may_send, senders

MAC, OTHER, STRANGER = "fa:16:3e:00:00:0a", "00:00:5e:00:01:07", "fa:16:3e:00:00:99"
LOCAL, OTHER_LOCAL = "fe80::f816:3eff:fe00:a", "fe80::200:5eff:fe00:107"


def sending(ips: Iterable[str] = (), *pairs: tuple[str, str | None], mac: str | None = MAC) -> Port:
    return replace(
        port("p", ips=ips),
        mac_address=mac,
        allowed_address_pairs=tuple(
            AddressPair(network=ip_network(network), mac_address=own) for network, own in pairs
        ),
    )


def sender(mac: str | None, network: str) -> Sender:
    return Sender(mac, ip_network(network))


@pytest.mark.parametrize(
    ("mac", "expected"),
    [
        (MAC, LOCAL),
        (OTHER, OTHER_LOCAL),
        ("02:00:00:00:00:00", "fe80::ff:fe00:0"),
        ("ff:ff:ff:ff:ff:ff", "fe80::fdff:ffff:feff:ffff"),
    ],
)
def test_a_link_local_address_is_made_of_the_mac_with_its_local_bit_turned(
    mac: str, expected: str
) -> None:
    assert link_local(mac) == IPv6Address(expected)


def test_a_port_sends_with_its_mac_as_its_addresses_and_its_own_link_local_one() -> None:
    assert senders(sending(["10.0.0.10", "fd00::10"])) == (
        sender(MAC, "10.0.0.10/32"),
        sender(MAC, "fd00::10/128"),
        sender(MAC, f"{LOCAL}/128"),
    )


def test_a_pair_goes_with_its_own_mac_or_else_with_the_ports() -> None:
    one = sending(["10.0.0.10"], ("10.0.8.0/24", None), ("10.0.0.101/32", OTHER))
    assert set(senders(one)) == {
        sender(MAC, "10.0.0.10/32"),
        sender(MAC, "10.0.8.0/24"),
        sender(OTHER, "10.0.0.101/32"),
        sender(MAC, f"{LOCAL}/128"),
        sender(OTHER, f"{OTHER_LOCAL}/128"),
    }
    assert macs(one) == (OTHER, MAC)


def test_without_a_mac_any_will_do_and_any_link_local_address() -> None:
    one = sending(["10.0.0.10"], ("10.0.8.0/24", None), ("10.0.0.101/32", OTHER), mac=None)
    assert set(senders(one)) == {
        sender(None, "10.0.0.10/32"),
        sender(None, "10.0.8.0/24"),
        sender(OTHER, "10.0.0.101/32"),
        sender(OTHER, f"{OTHER_LOCAL}/128"),
        Sender(None, LINK_LOCAL),
    }
    assert macs(one) == (OTHER,)


def test_what_is_said_twice_is_there_once_in_an_order_that_the_document_does_not_change() -> None:
    pairs = (("10.0.0.10/32", None), ("fd00:8::/61", None), ("10.0.8.0/24", OTHER))
    one = sending(["10.0.0.10", "10.0.0.9"], *pairs)
    found = senders(one)
    assert len(found) == len(set(found))
    assert found == senders(sending(["10.0.0.9", "10.0.0.10"], *reversed(pairs)))


CHECKED = sending(["10.0.0.10"])


@pytest.mark.parametrize(
    "free",
    [replace(CHECKED, source_check=False), replace(CHECKED, port_security_enabled=False)],
    ids=["switched off", "port security off"],
)
def test_a_port_without_a_source_check_may_send_as_anybody(free: Port) -> None:
    for address in ("203.0.113.9", "2001:db8::9"):
        assert not may_send(CHECKED, ip_address(address))
        assert may_send(free, ip_address(address), STRANGER)


def test_without_an_address_of_a_family_nothing_of_it_passes_but_link_local() -> None:
    one = sending(["10.0.0.10"])
    assert not may_send(one, ip_address("fd00::10"))
    assert may_send(one, ip_address(LOCAL)) and not may_send(one, ip_address("fe80::1"))
    # 10.0.0.10 as a number is an IPv6 address too.
    assert not may_send(one, ip_address("::a00:a"))


ADDRESSES = tuple(
    map(
        ip_address,
        (
            *("10.0.0.10", "10.0.0.11", "10.0.8.0", "10.0.8.7", "10.0.9.0", "0.0.0.0"),
            *("fd00::10", "fd00::11", "fd00:8::7", "fd00:8:0:8::", "::", "::a00:a"),
            *(LOCAL, OTHER_LOCAL, "fe80::1", "fe80:0:0:1::1"),
        ),
    )
)
NETWORKS = (
    *("10.0.0.10/32", "10.0.0.10/31", "10.0.8.0/24", "10.0.8.0/23", "0.0.0.0/1"),
    *("fd00::10/128", "fd00:8::/61", "fe80::/64", "::/1"),
)
MACS = (MAC, OTHER, STRANGER)


def _is_in(address: Address, network: IPv4Network | IPv6Network) -> bool:
    same = address.version == network.version
    return same and int(network[0]) <= int(address) <= int(network[-1])


def _made_from(mac: str) -> int:
    """EUI-64 by arithmetic: ff:fe in the middle, and the universal bit turned."""
    whole = int(mac.replace(":", ""), 16)
    identifier = (whole >> 24 << 40) + (0xFFFE << 24) + (whole & 0xFFFFFF)
    return (0xFE80 << 112) + (identifier ^ (1 << 57))


def stated(one: Port, address: Address, mac: str) -> bool:
    """The statement: with this MAC, the port may send as this address."""
    if not one.source_check or not one.port_security_enabled:
        return True
    is_own_mac = one.mac_address is None or one.mac_address == mac
    if is_own_mac and address in one.private_ips:
        return True
    named = one.mac_address == mac
    for pair in one.allowed_address_pairs:
        named = named or pair.mac_address == mac
        fits = is_own_mac if pair.mac_address is None else pair.mac_address == mac
        if fits and _is_in(address, pair.network):
            return True
    if address.version == 4:
        return False
    if one.mac_address is None and int(address) >> 64 == 0xFE80 << 48:
        return True
    return named and int(address) == _made_from(mac)


PORTS = st.builds(
    lambda ips, pairs, mac, checked, secure: replace(
        sending(ips, *pairs, mac=mac), source_check=checked, port_security_enabled=secure
    ),
    st.lists(st.sampled_from(("10.0.0.10", "10.0.8.7", "fd00::10", "fe80::1")), unique=True),
    st.lists(st.tuples(st.sampled_from(NETWORKS), st.sampled_from((None, MAC, OTHER))), max_size=3),
    st.sampled_from((None, MAC, OTHER)),
    st.sampled_from((True, True, True, False)),
    st.sampled_from((True, True, True, False)),
)


@given(PORTS)
def test_it_is_what_the_statement_says(one: Port) -> None:
    for address in ADDRESSES:
        for mac in MACS:
            assert may_send(one, address, mac) is stated(one, address, mac), (address, mac)
        some = any(stated(one, address, mac) for mac in MACS)
        assert may_send(one, address) is some, address
