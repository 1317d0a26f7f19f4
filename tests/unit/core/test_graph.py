"""Who may talk to whom, as edges and as a picture that Graphviz draws."""

import subprocess
from collections.abc import Iterable
from xml.etree import ElementTree as ET

import pytest
from tests.builders import address_group, both, group, port, rule, state

from secgroupd.core.graph import Edge, Node, dot, edges, lets_all_out
from secgroupd.core.model import (
    AddressGroup,
    AddressGroupPeer,
    Family,
    GroupPeer,
    PrefixPeer,
    Preset,
    SecurityGroup,
)
from secgroupd.core.policy import Policy

HOSTILE = (
    'a"]; evil [label="x',
    "back\\slash\\",
    "\\N\\G\\l",
    "line\nbreak\r\x00\x1b\u2028",
    "<b>bold</b><script>alert(1)</script>",
    "&lt;&amp;&#60;",
    "{a|b}",
    "\udc80 alone",
    "/* // # */",
    "é ü 漢 🔥",
)


def called(node: Node) -> str:
    match node:
        case GroupPeer(group_id):
            return group_id
        case AddressGroupPeer(group_id):
            return f"ag:{group_id}"
        case PrefixPeer(network):
            return str(network)


def said(edge: Edge) -> str:
    ends = f"{called(edge.source)} -> {called(edge.target)}"
    return f"{ends} {edge.kind.value}: {'; '.join(edge.label)}"


def told(
    *groups: SecurityGroup,
    members: str = "",
    address_groups: Iterable[AddressGroup] = (),
    ips: tuple[str, ...] = ("10.0.0.{}",),
) -> list[str]:
    """Return the edges in words; ``members`` has the groups of a port in each word: ``a,b c``."""
    ports = [
        port(f"p{number}", names.split(","), [ip.format(number) for ip in ips])
        for number, names in enumerate(members.split(), 1)
    ]
    policy = Policy(state(groups, ports, address_groups=address_groups))
    return [said(edge) for edge in edges(policy)]


def test_what_both_groups_allow_is_one_edge() -> None:
    web = group("web", rule("egress", "tcp", "8080", "sg:app"))
    app = group("app", rule("ingress", "tcp", "8080", "sg:web"))
    assert told(web, app, members="web app") == ["web -> app allow: tcp 8080"]


def test_rules_of_one_pair_are_one_edge() -> None:
    everywhere = (
        rule("ingress", "tcp", "443", "0.0.0.0/0"),
        rule("ingress", "tcp", "80", None),
        rule("ingress", "udp", "53-54", None),
        rule("ingress", "icmp", None, None, icmp=(8, 0)),
    )
    assert told(group("web", *everywhere)) == [
        "0.0.0.0/0 -> web allow: icmp type 8 code 0; tcp 80,443; udp 53-54"
    ]


def test_everything_takes_in_the_rest() -> None:
    rules = (rule("ingress", "tcp", "80"), rule("ingress"))
    assert told(group("web", *rules)) == ["0.0.0.0/0 -> web allow: all"]


def test_outside_peers_are_told_apart() -> None:
    rules = (
        rule("ingress", "tcp", "22", "ag:office"),
        rule("ingress", "tcp", "22", "2001:db8::/32"),
        rule("ingress", "tcp", "22", "::/0"),
        rule("ingress", "tcp", "22", "192.0.2.1"),
        rule("egress", "udp", "123", "192.0.2.0/24"),
    )
    office = address_group("office", "203.0.113.0/28")
    assert told(group("a", *rules), members="a", address_groups=[office]) == [
        "ag:office -> a allow: tcp 22",
        "2001:db8::/32 -> a allow: tcp 22",
        "::/0 -> a allow: tcp 22",
        "192.0.2.1/32 -> a allow: tcp 22",
        "a -> 192.0.2.0/24 allow: udp 123",
    ]


def test_a_deny_is_an_edge_of_its_own() -> None:
    rules = (rule(action="deny"), rule(protocol="tcp", multiport="80"))
    assert told(group("a", *rules)) == [
        "0.0.0.0/0 -> a deny: all",
        "0.0.0.0/0 -> a allow: tcp 80",
    ]


def test_switched_off_rules_are_not_there() -> None:
    assert told(group("a", rule(enabled=False))) == []


def test_what_a_group_lets_out_to_everybody_is_no_edge() -> None:
    a = group("a", *both("egress"))
    assert told(a, members="a") == []
    assert lets_all_out(a) == (Family.IPV4, Family.IPV6)
    assert "out: everything" in dot(Policy(state([a])))
    assert "out: everything (IPv6)" in dot(Policy(state([group("a", both("egress")[1])])))


def test_a_peer_group_that_lets_nothing_out() -> None:
    app = group("app", rule("ingress", "tcp", "8080", "sg:web"))
    assert told(group("web"), app, members="web app") == ["web -> app not let out: tcp 8080"]
    assert told(group("web"), group("base", *both("egress")), app, members="web,base app") == [
        "web -> app allow: tcp 8080"
    ]


def test_what_is_let_out_in_part_is_told_in_parts() -> None:
    web = group("web", rule("egress", "tcp", "443", "10.0.0.0/8"))
    some = group("app", rule("ingress", "tcp", "440-445", "sg:web"))
    assert told(web, some, members="web app")[:2] == [
        "web -> app not let out: tcp 440-442,444-445",
        "web -> app allow: tcp 443",
    ]
    every = group("app", rule("ingress", None, None, "sg:web"))
    assert told(web, every, members="web app")[:2] == [
        "web -> app allow: tcp 443",
        "web -> app not let out: all but tcp 443",
    ]


def test_a_ban_on_one_kind_of_icmp_is_told() -> None:
    ban = rule("egress", "icmp", action="deny", icmp=(8, None))
    app = group("app", rule("ingress", "icmp", None, "sg:web"))
    assert told(group("web", *both("egress"), ban), app, members="web app") == [
        "web -> app not let out: icmp type 8",
        "web -> app allow: icmp but icmp type 8",
        "web -> 0.0.0.0/0 deny: icmp type 8",
    ]


def test_what_is_let_out_to_a_group_and_not_let_in() -> None:
    web = group("web", rule("egress", "tcp", "8080", "sg:app"))
    assert told(web, group("app"), members="web app") == ["web -> app not let in: tcp 8080"]


def test_one_member_that_gets_out_is_enough() -> None:
    app = group("app", rule("ingress", "tcp", "8080", "sg:web"))
    groups = (group("web"), group("out", *both("egress")), app)
    assert told(*groups, members="web web,out app") == ["web -> app allow: tcp 8080"]


def test_a_group_without_members_is_taken_at_its_rules_word() -> None:
    app = group("app", rule("ingress", "tcp", "8080", "sg:web"))
    assert told(group("web"), app, members="app") == ["web -> app allow: tcp 8080"]


def test_families_are_told_only_where_they_differ() -> None:
    rules = [
        rule("ingress", "tcp", ports, "sg:a", family=family)
        for ports, family in (("1", Family.IPV4), ("1", Family.IPV6), ("2", Family.IPV6))
    ]
    own = group("a", *rules, *both("egress"))
    dual = ("10.0.0.{}", "2001:db8::{}")
    assert told(own, members="a a", ips=dual) == ["a -> a allow: tcp 1; tcp 1-2 (IPv6)"]
    assert told(own, members="a a") == ["a -> a allow: tcp 1"]


def test_groups_in_vpcs_that_are_not_peered_cannot_talk() -> None:
    groups = (group("web", *both("egress")), group("app", rule(remote="sg:web")))
    ports = [port("p1", ["web"], ["10.0.0.1"], vpc="x"), port("p2", ["app"], ["10.0.0.2"], vpc="y")]
    apart = Policy(state(groups, ports))
    assert [said(edge) for edge in edges(apart)] == ["web -> app VPCs not peered: all"]
    peered = Policy(state(groups, ports, peerings=[("x", "y")]))
    assert [said(edge) for edge in edges(peered)] == ["web -> app allow: all"]


def test_presets_and_default_groups_are_drawn() -> None:
    preset = SecurityGroup(id="web", preset=Preset.WEB_SERVER)
    ports = [port("p1", ["web"], ["10.0.0.1"]), port("p2", [], ["10.0.0.2"])]
    found = [said(edge) for edge in edges(Policy(state([preset], ports)))]
    assert found == [
        "web -> web allow: all",
        "0.0.0.0/0 -> web allow: icmp; tcp 22,80,443,3389",
        "default@vpc -> default@vpc allow: all",
    ]


def texts(text: str) -> list[str]:
    """Return what can be read in the picture that ``dot`` draws, a line each."""
    done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)
    root = ET.fromstring(done.stdout)
    return [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_id_breaks_out_of_the_picture(hostile: str) -> None:
    rules = [rule("ingress", "tcp", "22", f"{kind}:{hostile}x") for kind in ("sg", "ag")]
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in hostile)
    lines = texts(dot(Policy(state([group(hostile, *rules, name=hostile + "y")]))))
    for ending in ("", "y", "x", "x"):
        # Graphviz keeps blanks side by side with spaces that do not break.
        lines = [line.replace("\xa0", " ") for line in lines]
        assert shown + ending in lines
        lines.remove(shown + ending)
    assert sorted(lines)[:3] == [
        "0 ports",
        "An arrow goes from who opens connections to who answers.",
        "Dashed red: denied. Dotted grey: allowed at one end only.",
    ]
    assert len(lines) == 7


def test_a_long_id_is_broken_and_kept_whole() -> None:
    long = "".join(chr(ord("a") + number % 26) for number in range(255))
    assert long in "".join(texts(dot(Policy(state([group(long)])))))


def test_every_group_of_twenty_is_in_the_picture() -> None:
    groups = [
        group(
            f"sg-{n}",
            *both("egress"),
            rule("ingress", "tcp", f"{n}", f"sg:sg-{n - 1}"),
            name=f"tier {n}",
        )
        for n in range(1, 21)
    ]
    ports = [port(f"p{n}", [f"sg-{n}"], [f"10.0.0.{n}"]) for n in range(1, 21)]
    lines = texts(dot(Policy(state(groups, ports))))
    for n in range(1, 21):
        assert {f"sg-{n}", f"tier {n}", f"tcp {n}"} <= set(lines)
    assert lines.count("1 port") == lines.count("out: everything") == 20
    assert "not in the document" in lines


def test_kinds_look_different() -> None:
    groups = (
        group("web"),
        group(
            "app",
            rule("ingress", "tcp", "1", "sg:web"),
            rule(action="deny"),
            rule("egress", "tcp", "2", "192.0.2.1"),
        ),
    )
    ports = [port("p1", ["web"], ["10.0.0.1"]), port("p2", ["app"], ["10.0.0.2"])]
    lines = [line for line in dot(Policy(state(groups, ports))).splitlines() if " -> " in line]
    blocked, denied, allowed = lines
    assert 'label="tcp 1\\n(not let out)"' in blocked and "style=dotted" in blocked
    assert 'label="deny all"' in denied and "style=dashed" in denied and "#c00000" in denied
    assert 'label="tcp 2"' in allowed and "style" not in allowed
