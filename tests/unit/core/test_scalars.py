"""Names and interfaces: what is taken literally, and what is refused."""

import json

import pytest
from tests.documents import accepted, in_port, port, problems

NAMED = "version: 1\nvpcs: [{id: v, name: %s}]\n"


@pytest.mark.parametrize(
    "value",
    ['"a\\"b"', "a'b", '"a\\nb"', "a*b", "a;b", '"a}b"', '"a\\0b"', '"a\\x7fb"', '"a{b"', "a`b",
     '"a\\\\b"', '"a\\u2028b"', "80", "true", "[a]", "n" * 256],
)  # fmt: skip
def test_names_that_mean_something_elsewhere_are_refused(value: str) -> None:
    found = problems(NAMED % value)
    assert [(p.file, p.line, p.column) for p in found] == [("f0.yaml", 2, 22)]
    assert found[0].code in {"name", "control-character", "not-a-scalar"}


@pytest.mark.parametrize("value", ["Müller", "网络", "no", "10.10", "a b (c)#1", '""', "n" * 255])
def test_names_are_free_otherwise(value: str) -> None:
    assert accepted(NAMED % value).state.vpcs[0].name == value.strip('"')


@pytest.mark.parametrize(
    "name",
    ['tap"x', "tap*", "a;drop}", "x" * 15, "é", "a@b", "-x", "{", "\\", "a'b", "\x01", "..."],
)
def test_interfaces_are_literally_what_the_kernel_accepts(name: str) -> None:
    assert port(f"interface: {json.dumps(name)}").interface == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "x" * 16, "é" * 8, "a/b", "a:b", "a b", "a\tb", "a\nb", "a\0b", "a%b", "à"],
)
def test_interfaces_that_the_kernel_refuses(name: str) -> None:
    found = problems(in_port(f"interface: {json.dumps(name)}"))
    assert [(p.line, p.column, p.code) for p in found] == [(5, 43, "interface")]
    assert "write a name" in found[0].message
