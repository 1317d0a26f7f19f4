"""From nodes to values: what a field is, and how a mapping's fields are read, all problems at once.

A table of ``Field`` describes a mapping once, for the parser and for the JSON Schema alike.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

from secgroupd.core.tree import ListNode, MapNode, Node, ScalarNode
from secgroupd.errors import Problem

MAX_PROBLEMS = 10_000
"""After so many problems reading ends: nobody reads them, and they too take memory."""


class Refusal(Exception):
    """A value is refused; whoever knows the node that it stands at turns it into a problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class TooManyProblems(Exception):
    """``MAX_PROBLEMS`` have been found."""


class Place(NamedTuple):
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def spot(self) -> str:
        """The place without its column."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Reader:
    """What readers share: the file that they are in, what the document declares, and the problems.

    ``declared`` maps a kind (``vpc``, ``port``, ...) to the places of its ids. ``complete`` is False
    when some file or section could not be read, so that a missing id proves nothing.
    """

    file: str = ""
    complete: bool = True
    problems: list[Problem] = field(default_factory=list)
    declared: dict[str, dict[str, Place]] = field(default_factory=dict)
    families: dict[str, Any] = field(default_factory=dict)
    """The IP version of each address group, as it is written."""
    places: dict[str, Place] = field(default_factory=dict)
    """Where the objects stand, by ``kind:id``."""
    asked: set[tuple[str, str]] = field(default_factory=set)
    """Kind and id of each object that was asked for."""
    families_asked: dict[str, Any] = field(default_factory=dict)
    """The address groups whose IP version was asked for, with the answers."""
    _claims: dict[Hashable, Place] = field(default_factory=dict)
    _bindings: dict[str, dict[str | None, Place]] = field(default_factory=dict)

    def place(self, node: Node) -> Place:
        """Return where a node of the current file stands."""
        return Place(self.file, node.line, node.column)

    def report(self, node: Node | Place, code: str, message: str) -> None:
        """Take down a problem at a node of the current file, or at a place."""
        file = node.file if isinstance(node, Place) else self.file
        self.problems.append(Problem(file, node.line, node.column, code, message))
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooManyProblems

    def claim(self, key: Hashable, node: Node, code: str, what: str, remedy: str) -> None:
        """Report a problem that names both places, if the key has been claimed before."""
        place = self.place(node)
        first = self._claims.setdefault(key, place)
        if first is not place:
            self.report(node, code, f"{what} is already given at {first}: {remedy}")

    def bind(self, what: str, host: str | None, node: Node, code: str, remedy: str) -> None:
        """Report a problem if something is bound twice on one host; None stands for any host."""
        place = self.place(node)
        hosts = self._bindings.setdefault(what, {})
        first = (
            next(iter(hosts.values()), None) if host is None else hosts.get(host, hosts.get(None))
        )
        if first is None:
            hosts[host] = place
        else:
            self.report(node, code, f"{what} is already given at {first}: {remedy}")

    @property
    def claims(self) -> frozenset[Hashable]:
        """What has been claimed."""
        return frozenset(self._claims)

    @property
    def bindings(self) -> dict[str, frozenset[str | None]]:
        """What has been bound, with its hosts."""
        return {what: frozenset(hosts) for what, hosts in self._bindings.items()}

    def family(self, address_group_id: str) -> Any:
        """Return the IP version of an address group; None where it is not known."""
        found = self.families.get(address_group_id)
        self.families_asked[address_group_id] = found
        return found

    def missing(self, kind: str, object_id: str) -> bool:
        """Return whether the document surely declares no such object."""
        self.asked.add((kind, object_id))
        return self.complete and object_id not in self.declared.get(kind, ())


Read = Callable[[Node, Reader], Any]
"""Turns a node into a value; raises ``Refusal`` for it whole, or reports problems inside it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field's value can be: how it is read, and the same as JSON Schema."""

    read: Read
    schema: Mapping[str, object]
    shape: "Shape | None" = None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a mapping; an optional one may be null, which is the same as absent."""

    kind: Kind
    help: str
    required: bool = False
    default: object = None
    """What absence means, for the schema; None when it cannot be said as a value."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A mapping with known fields."""

    name: str
    help: str
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Values:
    """The fields of one mapping that are given and valid, and the names of those that are not."""

    node: MapNode
    given: dict[str, Any]
    bad: set[str]

    def at(self, name: str) -> Node:
        """Return the node of a given field."""
        return self.node.entries[name]

    def complete(self, *names: str) -> bool:
        """Return whether none of these fields was refused or is missing."""
        return self.bad.isdisjoint(names)


class Located(NamedTuple):
    """A value and the node that it was read from."""

    value: Any
    node: Node


def scalar_kind(parse: Callable[[str | int | bool], Any], **schema: object) -> Kind:
    """Return the kind of a scalar that ``parse`` reads (or refuses by raising ``Refusal``)."""

    def read(node: Node, _: Reader) -> Any:
        if node.__class__ is not ScalarNode or not isinstance(node, ScalarNode):
            raise Refusal("not-a-scalar", "a single value belongs here: write no list or mapping")
        if node.value is None:
            raise Refusal("null", "a value is missing here: write one, or remove the entry")
        return parse(node.value)

    return Kind(read, schema)


def reference_kind(target: str, parse: Kind) -> Kind:
    """Return the kind of a scalar that must be the id of an object of the document."""

    def read(node: Node, reader: Reader) -> Any:
        object_id = parse.read(node, reader)
        if reader.missing(target, object_id):
            what = target.replace("_", " ")
            message = f"there is no {what} {shown(object_id)}: define it, or correct the id"
            raise Refusal("unknown-" + target.replace("_", "-"), message)
        return object_id

    return Kind(read, parse.schema)


def list_kind(item: Kind, **schema: object) -> Kind:
    """Return the kind of a list; it reads as ``Located`` items, without those that are refused."""

    def read(node: Node, reader: Reader) -> list[Located]:
        if not isinstance(node, ListNode):
            raise Refusal("not-a-list", "a list belongs here: write [...], or entries after dashes")
        result = []
        read_item = item.read
        for entry in node.items:
            try:
                value = read_item(entry, reader)
            except Refusal as refusal:
                reader.report(entry, refusal.code, refusal.message)
                continue
            if value is not None:
                result.append(Located(value, entry))
        return result

    return Kind(read, {"type": "array", "items": item.schema, **schema}, item.shape)


def mapping_kind(shape: Shape, build: Callable[[Values, Reader], Any]) -> Kind:
    """Return the kind of a mapping; ``build`` makes its value, or None when a field is missing."""

    def read(node: Node, reader: Reader) -> Any:
        return build(read_fields(shape, node, reader), reader)

    return Kind(read, {"$ref": f"#/definitions/{shape.name}"}, shape)


def read_fields(shape: Shape, node: Node, reader: Reader) -> Values:
    """Read a mapping's fields and report every one that is unknown, missing or refused.

    Raises:
        Refusal: the node is not a mapping.
    """
    if not isinstance(node, MapNode):
        what = shape.name.replace("_", " ")
        names = ", ".join(
            [name for name, entry in shape.fields.items() if entry.required] or ["id"]
        )
        message = f"a {what} belongs here: write a mapping with its fields ({names}, ...)"
        raise Refusal("not-a-mapping", message)
    fields = shape.fields
    given: dict[str, Any] = {}
    bad: set[str] = set()
    for index, (name, entry) in enumerate(node.entries.items()):
        known = fields.get(name)
        if known is None:
            place = Place(reader.file, *node.key_places[2 * index : 2 * index + 2])
            reader.report(place, "unknown-field", _unknown(name[:70], shape.name, tuple(fields)))
        elif entry.__class__ is not ScalarNode or entry.value is not None:
            try:
                given[name] = known.kind.read(entry, reader)
            except Refusal as refusal:
                reader.report(entry, refusal.code, refusal.message)
                bad.add(name)
    for name, known in fields.items():
        if known.required and name not in given and name not in bad:
            what = shape.name.replace("_", " ")
            message = f"the {what} has no {name}: add {name} ({known.help})"
            reader.report(node, "missing-field", message)
            bad.add(name)
    return Values(node, given, bad)


def shown(value: object) -> str:
    """Return a value from the document as messages quote it: printable, and not long."""
    text = value if isinstance(value, str) else str(value).lower()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def close_to(word: str, known: tuple[str, ...], likeness: float = 0.6) -> str | None:
    """Return the known word that was probably meant, or None; ``likeness`` is difflib's ratio."""
    matches = get_close_matches(word, known, n=1, cutoff=likeness) if len(word) <= 40 else []
    return matches[0] if matches else None


@lru_cache(maxsize=256)
def _unknown(name: str, shape: str, known: tuple[str, ...]) -> str:
    what = shape.replace("_", " ")
    match = close_to(name, known, 0.75)
    if match is not None:
        return f"a {what} has no field {shown(name)}: did you mean {match}?"
    return f"a {what} has no field {shown(name)}: remove it, or write one of {', '.join(known)}"
