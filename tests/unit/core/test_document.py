"""The state document as a whole: merged, accepted or refused with every problem, identified."""

import gc
import json
import random
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.documents import EXAMPLE, accepted, in_group, problems

from secgroupd.core.document import Limits, Source, parse
from secgroupd.core.model import (
    ICMP,
    TCP,
    Action,
    AddressGroup,
    AddressGroupPeer,
    AddressPair,
    AddressRange,
    Direction,
    Family,
    Forwarder,
    GroupPeer,
    Instance,
    Listener,
    LoadBalancer,
    Member,
    Peering,
    Port,
    PortRange,
    PrefixPeer,
    Preset,
    Rule,
    SecurityGroup,
    Vpc,
)
from secgroupd.errors import DocumentError, Problem


def test_the_example_means_what_it_says() -> None:
    state = accepted(EXAMPLE).state
    assert state.vpcs == (
        Vpc(id="vpc-x", name="VPC-X", uplinks=("bond0.100",)),
        Vpc(id="vpc-y"),
    )
    assert state.peerings == (Peering(id="peering-ab", vpc_ids=("vpc-x", "vpc-y")),)
    spans = (
        ("192.168.3.2", "192.168.3.2"),
        ("192.168.3.20", "192.168.3.100"),
        ("192.168.5.0", "192.168.5.255"),
    )
    entries = tuple(AddressRange(ip_address(a), ip_address(b)) for a, b in spans)
    assert state.address_groups == (
        AddressGroup(id="ipGroup-A", family=Family.IPV4, entries=entries),
    )
    assert state.security_groups == (
        SecurityGroup(
            id="sg-a",
            name="Sg-A",
            preset=Preset.WEB_SERVER,
            rules=(
                Rule(
                    id="a01",
                    direction=Direction.INGRESS,
                    protocol=TCP,
                    ports=(PortRange(22, 24), PortRange(25, 25)),
                    peer=PrefixPeer(ip_network("192.168.0.0/16")),
                ),
                Rule(id="a02", direction=Direction.INGRESS, peer=GroupPeer("sg-a")),
                Rule(
                    id="a03",
                    direction=Direction.INGRESS,
                    action=Action.DENY,
                    protocol=ICMP,
                    icmp_type=8,
                    peer=AddressGroupPeer("ipGroup-A"),
                ),
            ),
        ),
        SecurityGroup(id="sg-b"),
    )
    only = Port(
        id="port-a01",
        vpc_id="vpc-x",
        mac_address="fa:16:3e:00:00:01",
        interface="tap3f2c1a90-1b",
        host_id="hv1",
        private_ips=(ip_address("192.168.0.11"), ip_address("2001:db8::11")),
        security_groups=("sg-b", "sg-a"),
        allowed_address_pairs=(AddressPair(network=ip_network("192.168.0.21/32")),),
    )
    assert state.instances == (Instance(id="ecs-a01", name="web-1", ports=(only,)),)
    members = (Member(port_id="port-a01", protocol_port=8080),)
    listener = Listener(
        id="l-80", protocol=TCP, protocol_port=80, transfer_client_ip=True, members=members
    )
    assert state.load_balancers == (
        LoadBalancer(
            id="elb-1",
            vpc_id="vpc-x",
            forwards_through=Forwarder(interface="lb0"),
            listeners=(listener,),
        ),
    )
    assert not state.allow_default_group_changes
    assert re.fullmatch("[0-9a-f]{16}", state.revision)


def test_places_are_file_and_line() -> None:
    places = accepted(EXAMPLE).state.places
    assert dict(places) == {
        "vpc:vpc-x": "f0.yaml:3",
        "vpc:vpc-y": "f0.yaml:4",
        "peering:peering-ab": "f0.yaml:6",
        "address_group:ipGroup-A": "f0.yaml:8",
        "security_group:sg-a": "f0.yaml:10",
        "security_group:sg-b": "f0.yaml:19",
        "rule:sg-a/a01": "f0.yaml:14",
        "rule:sg-a/a02": "f0.yaml:16",
        "rule:sg-a/a03": "f0.yaml:17",
        "instance:ecs-a01": "f0.yaml:21",
        "port:port-a01": "f0.yaml:24",
        "load_balancer:elb-1": "f0.yaml:34",
    }


@pytest.mark.parametrize(
    ("line", "column", "code", "remedy"),
    [
        ("vpcs: [{id: v}, {id: v}]", 22, "duplicate-id", "another id"),
        ("vpcs: [{name: v}]", 8, "missing-field", "add id"),
        ("vpcs: [{id: null}]", 8, "missing-field", "add id"),
        ("vpcs: [v]", 8, "not-a-mapping", "write a mapping"),
        ("vpcs: {id: v}", 7, "not-a-list", "write [...]"),
        ("vpcs: [{id: v, uplink: [a]}]", 16, "unknown-field", "did you mean uplinks?"),
        ("vpcs: [{id: v, xyzzy: [a]}]", 16, "unknown-field", "write one of id, name, uplinks"),
        ("vpcs: [{id: v, uplinks: [a]}, {id: w, uplinks: [b, a]}]", 52, "uplink-twice", "remove"),
        ("vpcs: [{id: v, uplinks: [a/b]}]", 26, "interface", "write a name"),
        ("vpc: []", 1, "unknown-field", "did you mean vpcs?"),
        ("peerings: [{id: p, vpc_ids: [a]}]", 30, "unknown-vpc", "define it"),
        ("address_groups: [{id: a, ip_version: 5}]", 38, "ip-version", "write 4 or 6"),
        ("address_groups: [{id: a, ip_version: true}]", 38, "ip-version", "write 4 or 6"),
        ("address_groups: [{id: a}]", 18, "missing-field", "add ip_version"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: ['::']}]", 50, "entry-family", "remove"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: [10.0.0.1/8]}]", 50, "host-bits",
         "write 10.0.0.0/8"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: [1.0.0.9-1.0.0.2]}]", 50,
         "address-range", "write 1.0.0.2-1.0.0.9"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: ['1.0.0.9-::2']}]", 50,
         "address-range", "one version"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: [1.0.0.0/8-2.0.0.0]}]", 50, "address",
         "write the bare address"),
        ("address_groups: [{id: a, ip_version: 4, ip_set: [1.0.0.1 - 1.0.0.2]}]", 50, "address",
         "write one such as"),
        ("security_groups: [{id: default@v}]", 24, "id", "write another id"),
        ("security_groups: [{id: a, preset: everything}]", 35, "preset", "write general-purpose"),
        ("security_groups: [{id: a, preset_ports: '80'}]", 41, "preset-field", "remove it"),
        ("security_groups: [{id: a, preset: all-ports-open, preset_icmp: true}]", 64,
         "preset-field", "remove it"),
        ("security_groups: [{id: a, rules: [{id: r}]}]", 35, "missing-field", "add direction"),
        ("security_groups: [{id: a, rules: [{direction: egress, port: 80}]}]", 55,
         "unknown-field", "multiport"),
        ("security_groups: [{id: a, project_id: x}]", 27, "unknown-field", "remove it"),
        ("instances: [{id: i, ports: [{id: p, vpc_id: v}]}]", 45, "unknown-vpc", "define it"),
        ("instances: [{id: i, ports: [{id: p}]}]", 29, "missing-field", "add vpc_id"),
        ("instances: [{id: i}, {id: j}, {id: i}]", 36, "duplicate-id", "f0.yaml:2:18"),
        ("version: 2", 10, "version", "write version: 1"),
        ("version: '1'", 10, "version", "write version: 1"),
        ("version: true", 10, "version", "write version: 1"),
        ("allow_default_group_changes: 1", 30, "boolean", "write true or false"),
    ],
)  # fmt: skip
def test_hostile_objects_are_refused_in_their_place(
    line: str, column: int, code: str, remedy: str
) -> None:
    found = problems(f"{'# ' if line.startswith('version') else ''}version: 1\n{line}\n")
    assert [(p.file, p.line, p.column, p.code) for p in found] == [("f0.yaml", 2, column, code)]
    assert remedy in found[0].message


def test_all_problems_come_at_once_and_in_order() -> None:
    found = problems(
        "version: 1\nvpcs: [{id: v, x: 1}]\nvpcs: []\n",
        in_group("{direction: up, multiport: 0, protocol: tcp}", "{priority: 0}"),
        "instances: [{id: i, ports: [{id: p, vpc_id: v}, {id: p, vpc_id: nowhere}]}]\n",
        "a: [\n",
    )
    assert [(p.file, p.line, p.code) for p in found] == [
        ("f0.yaml", 3, "duplicate-key"),
        ("f1.yaml", 7, "direction"),
        ("f1.yaml", 7, "port-range"),
        ("f1.yaml", 8, "missing-field"),
        ("f1.yaml", 8, "priority"),
        ("f2.yaml", 1, "duplicate-id"),
        ("f3.yaml", 2, "yaml-syntax"),
    ]


def test_one_broken_file_refuses_the_directory_without_blaming_the_others() -> None:
    found = problems(
        "vpcs: [\n",
        "version: 1\ninstances: [{id: i, ports: [{id: p, vpc_id: v, security_groups: [g]}]}]\n",
    )
    assert [(p.file, p.line, p.code) for p in found] == [("f0.yaml", 2, "yaml-syntax")]


def test_files_are_merged() -> None:
    whole = accepted(EXAMPLE).state
    parts = re.split(r"\n(?=[a-z])", EXAMPLE)
    assert len(parts) == 7
    state = accepted(*parts).state
    assert state == whole
    assert state.places["vpc:vpc-x"] == "f1.yaml:2"


def test_a_json_file_says_the_same() -> None:
    fields = '{"direction": "ingress", "protocol": "tcp", "multiport": "22", "id": "r"}'
    text = f'{{"version": 1, "security_groups": [{{"id": "g", "rules": [\n{fields}]}}]}}'
    one, other = parse([Source("f.json", text)]), parse([Source("f.yaml", text.encode())])
    assert one.state == other.state
    assert one.state.places["rule:g/r"] == "f.json:2"


def test_the_same_id_in_two_files_names_both() -> None:
    found = problems("version: 1\nvpcs: [{id: v}]\n", "vpcs:\n- name: x\n  id: v\n")
    assert [(p.file, p.line, p.column) for p in found] == [("f1.yaml", 3, 7)]
    assert "f0.yaml:2:13" in found[0].message


def test_the_same_id_of_another_kind_is_another_thing() -> None:
    text = "version: 1\nvpcs: [{id: x}]\nsecurity_groups: [{id: x}]\ninstances: [{id: x}]\n"
    assert accepted(text).state.instances[0].id == "x"


def test_no_sources_is_no_document() -> None:
    with pytest.raises(DocumentError) as refusal:
        parse([])
    assert [p.code for p in refusal.value.problems] == ["no-document"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "vpcs: []\n", "version: null\n"])
def test_a_version_must_be_stated(text: str) -> None:
    assert [(p.line, p.column, p.code) for p in problems(text)] == [(1, 1, "no-version")]


def test_every_file_may_state_the_version() -> None:
    assert accepted("version: 1\n", "", "version: 1\n").state.vpcs == ()
    assert [(p.file, p.code) for p in problems("version: 1\n", "version: 2\n")] == [
        ("f1.yaml", "version")
    ]


@pytest.mark.parametrize("text", ["[]\n", "x\n", "- version: 1\n"])
def test_the_top_is_a_mapping(text: str) -> None:
    assert [(p.line, p.column, p.code) for p in problems(text)] == [(1, 1, "not-a-mapping")]


def test_dangling_peers_are_warnings() -> None:
    parsed = accepted(in_group(
        "{id: a, direction: ingress, remote_group_id: gone}",
        "{id: b, direction: ingress, remote_address_group_id: gone}",
    ))  # fmt: skip
    assert [(w.line, w.column, w.code, w.severity) for w in parsed.warnings if w.line > 6] == [
        (7, 7, "dangling-security-group", "warning"),
        (8, 7, "dangling-address-group", "warning"),
    ]


SIX_GROUPS = (
    "version: 1\nvpcs: [{id: v}]\nsecurity_groups: [{id: a}, {id: b}, {id: c}, {id: d}, {id: e},"
    " {id: f}]\ninstances:\n- {id: i, ports: [{id: p, vpc_id: v, security_groups: "
    "[a, b, c, d, e, f]}]}\n"
)


def test_limits_warn_or_are_enforced() -> None:
    warned = [(w.line, w.column, w.code) for w in accepted(SIX_GROUPS).warnings]
    assert [each for each in warned if each[2] != "empty-security-group"] == [(5, 19, "over-limit")]
    found = problems(SIX_GROUPS, limits=Limits.ENFORCE)
    assert [(p.line, p.column, p.code, p.severity) for p in found] == [
        (5, 19, "over-limit", "error")
    ]


def test_a_million_rules_are_refused_before_they_are_built() -> None:
    found = problems(in_group() + "    - {direction: ingress}\n" * 1_000_000)
    assert [(p.line, p.column, p.code) for p in found] == [(250_007, 7, "too-many-rules")]


def test_64_mib_are_refused_unread() -> None:
    found = problems("version: 1\n", b"#" * (64 * 2**20))
    assert [(p.file, p.line, p.code) for p in found] == [("f1.yaml", 1, "document-too-large")]


def test_problems_are_capped() -> None:
    found = problems(in_group() + "    - {direction: up}\n" * 20_000)
    assert len(found) == 10_001
    assert found[-1].code == "too-many-problems" or found[-2].code == "too-many-problems"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(*, enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        accepted(EXAMPLE)
        assert gc.isenabled() is enabled
        problems("[")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@given(text=st.text() | st.text("{}[]:,-'\"a1 \n#") | st.binary())
def test_no_text_raises_anything_else(text: str | bytes) -> None:
    for name in ("f.yaml", "f.json"):
        with pytest.raises(DocumentError):
            parse([Source(name, text)])


def problems_or_none(sources: list[Source]) -> tuple[Problem, ...] | None:
    try:
        parse(sources)
    except DocumentError as refusal:
        return refusal.problems
    return None


FIELD_NAMES = sorted(set(re.findall(r"(\w+):", EXAMPLE)))
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(
    ["10.0.0.0/8", "::/0", "fe80::1%a", "tcp", "ingress", "22-21", "vpc-x", "sg-a", "1.1.1.1/0"]
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELD_NAMES), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(tree=st.dictionaries(st.sampled_from(FIELD_NAMES), TREES, max_size=6))
def test_no_tree_raises_anything_else(tree: dict[str, Any]) -> None:
    found = problems_or_none([Source("f.json", json.dumps(tree))])
    assert found is None or all(p.line == 1 and p.column >= 1 for p in found)


@given(data=st.data())
def test_one_wrong_value_in_the_example_is_refused_or_accepted(data: st.DataObject) -> None:
    values = [m.span(1) for m in re.finditer(r": ([\w\"./-]+)", EXAMPLE)]
    first, last = data.draw(st.sampled_from(values))
    wrong = data.draw(TREES)
    text = EXAMPLE[:first] + json.dumps(wrong) + EXAMPLE[last:]
    assert problems_or_none([Source("f.yaml", text)]) != ()


def shuffled(value: Any, rng: random.Random, key: str = "") -> Any:
    """Reorder everything in which order means nothing: all but a port's security groups."""
    if isinstance(value, dict):
        pairs = [(name, shuffled(each, rng, name)) for name, each in value.items()]
        rng.shuffle(pairs)
        return dict(pairs)
    if isinstance(value, list) and not (key == "security_groups" and isinstance(value[0], str)):
        items = [shuffled(each, rng) for each in value]
        rng.shuffle(items)
        return items
    return value


LARGER: dict[str, Any] = {
    "vpcs": [{"id": "v", "uplinks": ["a", "b"]}, {"id": "w"}],
    "peerings": [{"id": "q", "vpc_ids": ["w", "v"]}],
    "address_groups": [
        {"id": "four", "ip_version": 4, "ip_set": ["10.0.0.0/8", "10.0.0.1", "1.0.0.1-1.0.0.9"]},
        {"id": "six", "ip_version": "6", "ip_set": ["::/0", "fe80::/10"]},
    ],
    "security_groups": [
        {"id": "g", "name": "one", "rules": [
            {"direction": "ingress", "protocol": "tcp", "multiport": "80,22,8000-9000"},
            {"direction": "ingress", "remote_group_id": "h"},
            {"id": "x", "direction": "egress", "remote_address_group_id": "four"},
            {"id": "y", "direction": "egress", "remote_ip_prefix": "10.0.0.0/8", "action": "deny"},
        ]},
        {"id": "h", "preset": "fast-add", "preset_ports": "443,80"},
    ],
    "instances": [
        {"id": "i", "ports": [
            {"id": "p2", "vpc_id": "v", "private_ips": ["10.0.0.3", "::3", "10.0.0.2"],
             "security_groups": ["h", "g"],
             "allowed_address_pairs": [{"ip_address": "10.0.0.9"}, {"ip_address": "::9"},
                                       {"ip_address": "10.0.0.9", "mac_address": "02:0:0:0:0:1"
                                        .replace(":0", ":00").replace(":1", ":01")}]},
            {"id": "p1", "vpc_id": "w", "security_groups": ["g"]},
        ]},
        {"id": "j", "name": "second"},
    ],
    "load_balancers": [
        {"id": "b", "vpc_id": "v", "forwards_through": {"fwmark": 7}, "listeners": [
            {"id": "l2", "protocol": "TCP", "protocol_port": 80, "members": [
                {"port_id": "p1", "protocol_port": 1}, {"port_id": "p2", "protocol_port": 2}]},
            {"id": "l1", "protocol": "udp", "protocol_port": 53},
        ]},
    ],
}  # fmt: skip


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_order_of_lists_and_files_means_nothing(seed: int) -> None:
    plain = parse([Source("f.json", json.dumps({"version": 1, **LARGER}))]).state
    rng = random.Random(seed)
    files: list[dict[str, Any]] = [{"version": 1}, {}, {}]
    for section, entries in shuffled(LARGER, rng).items():
        for entry in entries:
            rng.choice(files).setdefault(section, []).append(entry)
    sources = [Source(f"{i}.json", json.dumps(file)) for i, file in enumerate(files)]
    rng.shuffle(sources)
    again = parse(sources).state
    assert again == plain
    assert again.revision == plain.revision


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: VPC-X", "name: VPC-Z"),
        ("[sg-b, sg-a]", "[sg-a, sg-b]"),
        ("192.168.3.100", "192.168.3.101"),
        ("priority: 1,", "priority: 2,"),
        ("22-24,25", "22-25"),
        ("[192.168.0.11, ", "[192.168.0.12, "),
        ("lb0", "lb1"),
        ("port_security_enabled: true", "port_security_enabled: false"),
        ("transfer_client_ip: true,", ""),
        ("hv1", "hv2"),
    ],
)
def test_every_change_of_content_changes_the_revision(old: str, new: str) -> None:
    assert old in EXAMPLE
    changed = accepted(EXAMPLE.replace(old, new)).state
    assert changed.revision != accepted(EXAMPLE).state.revision


def test_comments_and_spelling_do_not_change_the_revision() -> None:
    other = "# x\n" + EXAMPLE.replace("ethertype: IPv4", "ethertype: ipv4").replace("TCP", "tcp")
    assert accepted(other).state.revision == accepted(EXAMPLE).state.revision
