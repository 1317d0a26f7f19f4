"""Rules cut into classes: boxes that are disjoint, cover everything, and hold what matches there."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import rule
from tests.drawing import Drawing

from secgroupd.core.model import ICMP, PORT_PROTOCOLS, TCP, UDP, Direction, Family, Rule
from secgroupd.core.services import Box, LinkService, ServiceClass, partition

IN, OUT, V4, V6 = Direction.INGRESS, Direction.EGRESS, Family.IPV4, Family.IPV6
RULES = st.randoms(use_true_random=False).map(
    lambda random: [Drawing(random).rule(at) for at in range(random.randint(0, 9))]
)


def area(boxes: Iterable[Box]) -> int:
    return sum((b.high[0] - b.low[0] + 1) * (b.high[1] - b.low[1] + 1) for b in boxes)


def at(boxes: Iterable[Box], first: int, second: int) -> ServiceClass:
    (found,) = (
        b.service
        for b in boxes
        if b.low[0] <= first <= b.high[0] and b.low[1] <= second <= b.high[1]
    )
    return found


def matches(one: Rule, protocol: int, dport: int) -> bool:
    if one.protocol not in {None, protocol}:
        return False
    ports = one.ports if protocol in PORT_PROTOCOLS else ()
    return not ports or any(span.first <= dport <= span.last for span in ports)


@settings(deadline=None)
@given(RULES, st.sampled_from(Direction), st.sampled_from(Family))
def test_every_packet_is_in_one_box_with_the_rules_that_match_it(
    drawn: list[Rule], direction: Direction, family: Family
) -> None:
    rules = [one for one in drawn if one.direction is direction and one.family is family]
    found = partition(rules, direction, family)
    assert area(found.boxes) == 256 << 16
    assert not found.icmp or area(found.icmp) == 256 << 8
    edges = {0, 65535} | {
        n for r in rules for s in r.ports for n in (s.first - 1, s.first, s.last, s.last + 1)
    }
    for protocol in (0, 1, TCP, UDP, 47, 58, 132, 255):
        for dport in (n for n in edges if n <= 65535):
            wanted = tuple(
                place
                for place, one in enumerate(rules)
                if matches(one, protocol, dport) and one.icmp_type is None
            )
            assert at(found.boxes, protocol, dport).rules == wanted
    for kind in (0, 3, 8, 13, 128, 255) if found.icmp else ():
        for code in (0, 1, 2, 255):
            wanted = tuple(
                place
                for place, one in enumerate(rules)
                if one.protocol in {None, ICMP if family is V4 else 58}
                and one.icmp_type in {None, kind}
                and one.icmp_code in {None, code}
            )
            assert at(found.icmp, kind, code).rules == wanted


def test_without_rules_there_is_little_to_look_up() -> None:
    found = partition([], IN, V4)
    assert {b.service.rules for b in found.boxes} == {()}
    assert at(found.boxes, UDP, 68) == ServiceClass((), LinkService.DHCP_ALLOW, 67)
    assert not found.icmp


@pytest.mark.parametrize("ports", ["1-30,2-5,30-40", "22,22-24", "1-10,11-20"])
def test_overlapping_and_touching_ports_of_a_rule_count_once(ports: str) -> None:
    one = rule("ingress", "tcp", ports)
    found = partition([one], IN, V4)
    first, last = one.ports[0].first, max(span.last for span in one.ports)
    with_rule = [b for b in found.boxes if b.service.rules]
    assert [(b.low, b.high) for b in with_rule] == [((TCP, first), (TCP, last))]


def test_dhcp_is_told_apart_by_the_port_of_the_other_end() -> None:
    boxes = partition([], OUT, V4).boxes
    assert at(boxes, UDP, 67).link_service is LinkService.DHCP_ALLOW
    assert at(boxes, UDP, 68).link_service is LinkService.DHCP_DENY
    six = partition([], OUT, V6).boxes
    assert at(six, UDP, 547) == ServiceClass((), LinkService.DHCP_ALLOW, 546)
    assert at(six, UDP, 67).link_service is None
    assert at(boxes, TCP, 67).link_service is None


def test_dhcp_inside_a_rules_range_keeps_the_rule() -> None:
    boxes = partition([rule("ingress", "udp", "60-70")], IN, V4).boxes
    assert at(boxes, UDP, 68) == ServiceClass((0,), LinkService.DHCP_ALLOW, 67)
    assert at(boxes, UDP, 67) == at(boxes, UDP, 69) == ServiceClass((0,))


def test_the_last_protocol_and_port_are_covered() -> None:
    boxes = partition([rule("ingress", 255), rule("ingress", 0)], IN, V4).boxes
    assert at(boxes, 255, 65535).rules == (0,)
    assert at(boxes, 0, 0).rules == (1,)
