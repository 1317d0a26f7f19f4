"""The ids that a document declares, in all its files, before anything refers to them."""

from collections.abc import Iterator, Sequence

from secgroupd.core.groupfields import VERSIONS
from secgroupd.core.reading import Place, Reader, shown
from secgroupd.core.tree import ListNode, MapNode, Node, ScalarNode

SECTIONS = {
    "vpcs": "vpc",
    "peerings": "peering",
    "address_groups": "address_group",
    "security_groups": "security_group",
    "instances": "instance",
    "load_balancers": "load_balancer",
}
"""The lists at the top of a document, and what one entry of each is called in places."""


def declare(roots: Sequence[tuple[str, Node]], reader: Reader) -> None:
    """Enter every object's id and place into the reader, and report ids that are given twice."""
    for kind in (*SECTIONS.values(), "port"):
        reader.declared[kind] = {}
    for file, root in roots:
        reader.file = file
        if not isinstance(root, MapNode):
            reader.complete = False
            continue
        for section, kind in SECTIONS.items():
            for entry in _entries(root, section, reader):
                _declare(kind, entry, reader)
                if kind == "instance":
                    for port in _entries(entry, "ports", reader):
                        _declare("port", port, reader)


def _entries(parent: MapNode, name: str, reader: Reader) -> Iterator[MapNode]:
    section = parent.entries.get(name)
    if isinstance(section, ListNode):
        for entry in section.items:
            if isinstance(entry, MapNode):
                yield entry
    elif section is not None and not (isinstance(section, ScalarNode) and section.value is None):
        reader.complete = False


def _declare(kind: str, entry: MapNode, reader: Reader) -> None:
    node = entry.entries.get("id")
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
        return
    known = reader.declared[kind]
    if (first := known.get(node.value)) is not None:
        what = f"{kind.replace('_', ' ')} {shown(node.value)}"
        message = f"{what} is already given at {first}: give one of them another id"
        reader.report(node, "duplicate-id", message)
        return
    known[node.value] = reader.place(node)
    reader.places[f"{kind}:{node.value}"] = Place(reader.file, entry.line, entry.column)
    if kind == "address_group":
        version = entry.entries.get("ip_version")
        if isinstance(version, ScalarNode) and not isinstance(version.value, bool | None):
            family = VERSIONS.get(version.value)
            if family is not None:
                reader.families[node.value] = family
