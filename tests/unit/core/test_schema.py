"""The published JSON Schema: it is the one in the repository, and says what the parser says."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgroupd.core import schema
from secgroupd.core.document import DOCUMENT, Source, parse
from secgroupd.core.reading import Shape
from secgroupd.errors import DocumentError

PUBLISHED = Path(schema.__file__).parents[1] / "state.schema.json"
VALIDATOR = jsonschema.Draft7Validator(schema.schema())

FULL: dict[str, Any] = {
    "version": 1,
    "allow_default_group_changes": True,
    "vpcs": [{"id": "v", "name": "V", "uplinks": ["bond0.100", 'tap"x']}, {"id": "w"}],
    "peerings": [{"id": "q", "vpc_ids": ["v", "w"]}],
    "address_groups": [
        {"id": "a", "name": "A", "description": "", "ip_version": 4,
         "ip_set": ["10.0.0.1", "10.0.0.0/8", "10.0.0.1-10.0.0.9"]},
    ],
    "security_groups": [
        {"id": "g", "name": "G", "description": "x", "preset": "fast-add", "preset_ports": "22,80",
         "preset_icmp": True, "rules": [
            {"id": "r", "direction": "ingress", "action": "deny", "priority": "7",
             "ethertype": "ipv4", "protocol": "TCP", "multiport": 80,
             "remote_ip_prefix": "10.0.0.0/8", "enabled": False, "description": "d"},
            {"direction": "egress", "protocol": 1, "icmp_type": 8, "icmp_code": "0",
             "remote_group_id": "g"},
            {"direction": "egress", "ethertype": "IPv4", "remote_address_group_id": "a",
             "multiport": None, "priority": None},
         ]},
    ],
    "instances": [
        {"id": "i", "name": "I", "ports": [
            {"id": "p", "interface": "tap0", "host_id": "h", "vpc_id": "v",
             "mac_address": "fa:16:3E:00:00:01", "private_ips": ["10.0.0.1", "::5"],
             "security_groups": ["g"], "port_security_enabled": True,
             "allowed_address_pairs": [
                {"ip_address": "1.1.1.1/0"},
                {"ip_address": "10.0.0.2", "mac_address": "fa:16:3e:00:00:02"}]},
        ]},
    ],
    "load_balancers": [
        {"id": "b", "name": "B", "vpc_id": "v", "forwards_through": {"fwmark": 1}, "listeners": [
            {"id": "l", "protocol": "Tcp", "protocol_port": 80, "transfer_client_ip": True,
             "members": [{"port_id": "p", "protocol_port": 8080}]}]},
        {"id": "c", "vpc_id": "v", "forwards_through": {"interface": "lb0"}},
        {"id": "d", "vpc_id": "v", "forwards_through": {"mac_address": "02:00:00:00:00:01"}},
    ],
}  # fmt: skip


def accepted(document: object) -> bool:
    try:
        parse([Source("f.json", json.dumps(document))])
    except DocumentError:
        return False
    return True


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of every mapping in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if isinstance(value, dict) else []
    for key, each in inner:
        if isinstance(each, dict | list):
            found += mappings(each, (*path, key))
    return found


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def shapes(shape: Shape) -> dict[str, Shape]:
    found = {shape.name: shape}
    for field in shape.fields.values():
        if field.kind.shape is not None:
            found |= shapes(field.kind.shape)
    return found


def test_the_published_schema_is_up_to_date() -> None:
    assert PUBLISHED.read_text() == schema.text(), (
        "write secgroupd.core.schema.text() to agent/secgroupd/state.schema.json"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(schema.text()))


def test_a_document_with_every_field_is_valid_for_both() -> None:
    VALIDATOR.validate(FULL)
    assert accepted(FULL)


def test_the_full_document_has_every_field() -> None:
    used = {key for path in mappings(FULL) for key in at(FULL, path)}
    known = {name for shape in shapes(DOCUMENT).values() for name in shape.fields}
    assert used == known


@pytest.mark.parametrize("path", mappings(FULL), ids=str)
def test_an_unknown_field_is_refused_by_both(path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(FULL)
    at(document, path)["unheard_of"] = 1
    assert not VALIDATOR.is_valid(document)
    assert not accepted(document)


@pytest.mark.parametrize("path", mappings(FULL), ids=str)
def test_required_fields_are_the_same_for_both(path: tuple[str | int, ...]) -> None:
    for name in at(FULL, path):
        document = copy.deepcopy(FULL)
        del at(document, path)[name]
        absent, absent_is_valid = accepted(document), VALIDATOR.is_valid(document)
        at(document, path)[name] = None
        assert accepted(document) is absent
        assert VALIDATOR.is_valid(document) is absent_is_valid
        # Only the parser knows references, and that some file must state the version.
        assert absent_is_valid or not absent
        if any(
            name in shape.fields and shape.fields[name].required
            for shape in shapes(DOCUMENT).values()
        ) and name not in {"id", "protocol"}:
            assert not absent


def test_every_field_is_described() -> None:
    for name, shape in shapes(DOCUMENT).items():
        published: Any = schema.schema()
        if shape is not DOCUMENT:
            published = published["definitions"][name]
        assert published["description"] == shape.help
        assert list(published["properties"]) == list(shape.fields)
        assert all(each["description"] for each in published["properties"].values())
        assert published["additionalProperties"] is False


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("security_groups", 0, "rules", 0, "direction"), "in"),
        (("security_groups", 0, "rules", 0, "priority"), 101),
        (("security_groups", 0, "rules", 0, "priority"), True),
        (("security_groups", 0, "rules", 0, "multiport"), "22,,23"),
        (("security_groups", 0, "rules", 0, "multiport"), ",".join("1" * 21)),
        (("security_groups", 0, "rules", 0, "ethertype"), "IPv5"),
        (("security_groups", 0, "rules", 0, "description"), "a<b"),
        (("security_groups", 0, "rules", 1, "icmp_type"), 256),
        (("security_groups", 0, "name"), "a;b"),
        (("security_groups", 0, "preset"), "none"),
        (("instances", 0, "ports", 0, "interface"), "a/b"),
        (("instances", 0, "ports", 0, "mac_address"), "fa-16-3e-00-00-01"),
        (("address_groups", 0, "ip_version"), 5),
        (("peerings", 0, "vpc_ids"), ["v"]),
        (("load_balancers", 0, "forwards_through"), {}),
        (("load_balancers", 0, "listeners", 0, "protocol"), "icmp"),
    ],
)
def test_an_editor_underlines_what_the_parser_refuses(
    path: tuple[str | int, ...], value: object
) -> None:
    document = copy.deepcopy(FULL)
    at(document, path[:-1])[path[-1]] = value
    assert not VALIDATOR.is_valid(document)
    assert not accepted(document)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from(["g", "10.0.0.0/8", "80", "tcp", "ipv6", "IPV4", "egress", "1.1.1.1/0", "é",
                     "fast-add", "22-24,25", "x" * 256]),
)  # fmt: skip


@given(data=st.data())
def test_what_the_parser_accepts_is_valid(data: st.DataObject) -> None:
    document = copy.deepcopy(FULL)
    target = at(document, data.draw(st.sampled_from(mappings(FULL))))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES)
    if accepted(document):
        VALIDATOR.validate(document)
