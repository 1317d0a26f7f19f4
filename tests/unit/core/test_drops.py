"""What is said of a packet that was dropped."""

import struct
from ipaddress import ip_address

import pytest
from tests.builders import both, group, port, state

from secgroupd.core import names
from secgroupd.core.drops import Logged, explained
from secgroupd.core.model import ICMP, ICMPV6, UDP, Direction
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Endpoint
from secgroupd.core.verdict import Reason
from secgroupd.proving.wire import ip_packet

OPEN = Policy(
    state([group("g", *both("egress"), *both())], [port("p", ["g"], ["10.0.0.1", "fd00::1"])])
)


@pytest.mark.parametrize(
    ("own", "far", "protocol", "kind", "ethertype"),
    [
        ("10.0.0.1", "203.0.113.9", ICMP, 5, 0x0800),
        ("fd00::1", "2001:db8::9", ICMPV6, 137, 0x86DD),
    ],
)
@pytest.mark.parametrize("reply", [False, True])
def test_a_redirect_about_a_connection_is_denied_as_what_it_is(
    own: str, far: str, protocol: int, kind: int, ethertype: int, reply: bool
) -> None:
    ends = ip_address(own), ip_address(far)
    one, other = Endpoint(*ends, 4000, 53), Endpoint(*ends[::-1], 53, 4000)
    first, answer = (other, one) if reply else (one, other)
    told = explained(
        OPEN,
        {"tap-p": "p"},
        Logged(
            time=0.0,
            chain=names.DENY_OUT,
            came_from="tap-p",
            leaves_into=None,
            ethertype=ethertype,
            payload=ip_packet(*ends, protocol, struct.pack("!BBHI", kind, 1, 0, 0)),
            connection=Connection(UDP, first, answer, 1, b""),
            reply=reply,
        ),
    )
    assert (told.reason, told.direction) == (Reason.LINK_SERVICE, Direction.EGRESS)
