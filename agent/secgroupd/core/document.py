"""Text -> State: a state document, accepted whole or refused whole with every problem in it.

The way of a document: ``yamltree`` and ``jsontree`` make trees of its files, ``declared`` collects
their ids, the ``...fields`` modules read and check the objects, and here the files are merged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from secgroupd.core import lint
from secgroupd.core.declared import SECTIONS, declare
from secgroupd.core.groupfields import (
    ADDRESS_GROUP_KIND,
    SECURITY_GROUP_KIND,
    check_default_groups,
)
from secgroupd.core.model import State
from secgroupd.core.networkfields import LOAD_BALANCER_KIND, PEERING_KIND, VPC_KIND
from secgroupd.core.portfields import INSTANCE_KIND
from secgroupd.core.reading import (
    MAX_PROBLEMS,
    Field,
    Kind,
    Place,
    Reader,
    Refusal,
    Shape,
    TooManyProblems,
    list_kind,
    read_fields,
    scalar_kind,
    shown,
)
from secgroupd.core.rereading import FileRead, Spots, Together, Unfit, read_files
from secgroupd.core.revision import revision
from secgroupd.core.scalars import BOOLEAN, Plain
from secgroupd.core.tree import Budget, Node, TooLarge
from secgroupd.core.uncollected import uncollected
from secgroupd.core.yamltree import parse_tree
from secgroupd.errors import DocumentError, Problem

MAX_BYTES = 64 * 2**20
"""All files together: about ten times the largest set-up that is measured (6 MB of YAML)."""

VERSION = 1
"""The version of the document's format that is understood."""


class Limits(Enum):
    """What going over one of the cloud's limits is: a warning, or an error."""

    WARN = "warn"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a document: its name, as problems are to show it, and its content."""

    name: str
    text: str | bytes


@dataclass(frozen=True)
class Parsed:
    """An accepted document.

    Attributes:
        state: what it says.
        files: its files as they were read, by name, for when some of them change.
        places: where its objects stand, by ``kind:id``.
    """

    state: State
    files: Mapping[str, FileRead]
    places: Mapping[str, Place]

    @cached_property
    def warnings(self) -> tuple[Problem, ...]:
        """What is doubtful in it (dangling groups, shadowed rules, limits); it takes a while."""
        found = (*lint.doubts(self.state, self.places), *lint.excesses(self.state, self.places))
        return tuple(sorted(found))


def parse(
    sources: Sequence[Source], *, limits: Limits = Limits.WARN, before: Parsed | None = None
) -> Parsed:
    """Parse and check a whole document.

    Args:
        sources: its files, in any order.
        limits: what going over one of the cloud's limits is.
        before: the document as it was; what the files say that have not changed since is taken from
            it, the identical objects.

    Raises:
        DocumentError: the document is refused; it carries every problem (up to 10,000).
    """
    with uncollected():
        try:
            parsed = _by_files(sources, before.files if before else {})
        except Unfit:
            parsed = parse_whole(sources)
        if limits is Limits.ENFORCE:
            excesses = tuple(lint.excesses(parsed.state, parsed.places))
            if excesses:
                raise DocumentError(tuple(replace(each, severity="error") for each in excesses))
        return parsed


def _by_files(sources: Sequence[Source], before: Mapping[str, FileRead]) -> Parsed:
    """Read the files that have changed.

    Raises:
        Unfit: something is wrong somewhere.
    """
    contents = {source.name: source.text for source in sources}
    if len(contents) < len(sources) or _refused_at_once(sources) is not None:
        raise Unfit
    files = read_files(DOCUMENT, contents, before)
    reader = Reader()
    digests: dict[int, bytes] = {}
    for one in files.values():
        digests.update(one.digests)
    places = Together([one.places for one in files.values()])
    state = _merged([one.values for one in files.values()], sources, reader, places)
    if reader.problems:
        raise Unfit
    state = replace(state, revision=revision(state, digests), places=Spots(places))
    return Parsed(state, files, places)


def parse_whole(sources: Sequence[Source]) -> Parsed:
    """Parse and check a document without regard to its files; see ``parse``.

    Raises:
        DocumentError: the document is refused.
    """
    reader = Reader()
    try:
        state = _read(sources, reader)
    except TooManyProblems:
        last = reader.problems[-1]
        message = f"there are more than {MAX_PROBLEMS} problems: correct these first"
        reader.problems.append(replace(last, code="too-many-problems", message=message))
        raise DocumentError(tuple(reader.problems)) from None
    if reader.problems:
        raise DocumentError(tuple(reader.problems))
    state = replace(state, revision=revision(state), places=Spots(reader.places))
    return Parsed(state, {}, reader.places)


def _read(sources: Sequence[Source], reader: Reader) -> State:
    if (refused := _refused_at_once(sources)) is not None:
        reader.problems.append(refused)
        return State()
    roots = _trees(sources, reader)
    if roots is None:
        return State()
    declare(roots, reader)
    found: list[Mapping[str, Any]] = []
    for file, root in roots:
        reader.file = file
        try:
            values = read_fields(DOCUMENT, root, reader)
        except Refusal as refusal:
            reader.report(root, refusal.code, refusal.message)
            continue
        given = dict(values.given) | dict.fromkeys({"version"} & values.bad)
        for section in SECTIONS.keys() & given.keys():
            given[section] = [located.value for located in given[section]]
        found.append(given)
    return _merged(found, sources, reader, reader.places)


def _merged(
    files: Sequence[Mapping[str, Any]],
    sources: Sequence[Source],
    reader: Reader,
    places: Mapping[str, Place],
) -> State:
    """Return what files say together, each by its fields, with the places of all objects."""
    merged: dict[str, list[Any]] = {section: [] for section in SECTIONS}
    for given in files:
        for section in SECTIONS:
            merged[section] += given.get(section, ())
    changes_allowed = any(given.get("allow_default_group_changes", False) for given in files)
    if not any("version" in given for given in files) and reader.complete:
        message = f"no file states the document's version: add version: {VERSION}"
        reader.report(Place(sources[0].name, 1, 1), "no-version", message)
    if not reader.problems:
        _check_default_groups(merged, reader, places, changes_allowed=changes_allowed)
    ordered: dict[str, Any] = {
        section: tuple(sorted(objects, key=lambda each: each.id))
        for section, objects in merged.items()
    }
    return State(**ordered, allow_default_group_changes=changes_allowed)


def _refused_at_once(sources: Sequence[Source]) -> Problem | None:
    if not sources:
        message = "there is no document: write at least one file that ends in .yaml, .yml or .json"
        return Problem("-", 1, 1, "no-document", message)
    size = 0
    for source in sources:
        size += len(source.text)
        if size > MAX_BYTES:
            message = f"the document is over {MAX_BYTES >> 20} MiB: remove rules, or use groups"
            return Problem(source.name, 1, 1, "document-too-large", message)
    return None


def _trees(sources: Sequence[Source], reader: Reader) -> list[tuple[str, Node]] | None:
    """Return the files' trees; None when the document is too large for more than saying so."""
    roots, budget = [], Budget()
    for source in sources:
        try:
            root, problems = parse_tree(source.name, source.text, budget)
        except TooLarge as refusal:
            place = Place(source.name, refusal.line, refusal.column)
            reader.report(place, refusal.code, refusal.message)
            return None
        for problem in problems:
            place = Place(problem.file, problem.line, problem.column)
            reader.report(place, problem.code, problem.message)
        if root is not None:
            roots.append((source.name, root))
        elif problems:
            reader.complete = False
    return roots


def _check_default_groups(
    merged: dict[str, list[Any]],
    reader: Reader,
    places: Mapping[str, Place],
    *,
    changes_allowed: bool,
) -> None:
    needing = (
        places[f"port:{port.id}"]
        for instance in merged["instances"]
        for port in instance.ports
        if not port.security_groups
    )
    check_default_groups(
        merged["security_groups"],
        reader,
        places,
        changes_allowed=changes_allowed,
        needed_at=min(needing, default=None),
    )


def _version(value: Plain) -> int:
    if value is True or value != VERSION:
        message = f"version {shown(value)} is not understood: write version: {VERSION}"
        raise Refusal("version", message)
    return VERSION


def _section(kind: Kind, what: str) -> Field:
    return Field(list_kind(kind), what, default=[])


DOCUMENT = Shape(
    "document",
    "A state document of secgroupd: what is to be enforced. Several files are merged into one.",
    {
        "version": Field(
            scalar_kind(_version, const=VERSION), "the format's version; one file must state it"
        ),
        "allow_default_group_changes": Field(
            BOOLEAN, "true lets the document change the default group's rules", default=False
        ),
        "vpcs": _section(VPC_KIND, "the VPCs"),
        "peerings": _section(PEERING_KIND, "pairs of VPCs that see each other's members"),
        "address_groups": _section(ADDRESS_GROUP_KIND, "the IP address groups"),
        "security_groups": _section(SECURITY_GROUP_KIND, "the security groups with their rules"),
        "instances": _section(INSTANCE_KIND, "the instances with their ports"),
        "load_balancers": _section(LOAD_BALANCER_KIND, "the load balancers"),
    },
)
"""The fields at the top of a document."""
