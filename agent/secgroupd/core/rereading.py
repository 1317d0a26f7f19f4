"""Files of a document, each read once: one that has not changed is not read again.

Nearly all that a file says depends on that file alone. What does not is taken down with it: the ids that
it refers to, and what only one object of a document may have. Where all of that fits together and
nothing is wrong in any file, the document is what its files say. Otherwise the whole document must be
read at once, which finds every problem and the places that go with it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from secgroupd.core.declared import SECTIONS, declare
from secgroupd.core.model import Family
from secgroupd.core.reading import Place, Reader, Refusal, Shape, TooManyProblems, read_fields
from secgroupd.core.revision import digest
from secgroupd.core.tree import Budget, Node, TooLarge
from secgroupd.core.yamltree import parse_tree

V = TypeVar("V")


class Unfit(Exception):
    """Something is wrong, in a file or between files."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """What a file says, and what of others it depends on; nothing is wrong in it by itself.

    Attributes:
        text: its content.
        values: its fields, with the objects of each section.
        declared: the ids of its objects by kind, with their places.
        families: the IP versions of the address groups in it.
        places: where its objects stand, by ``kind:id``.
        digests: of the objects in it, by the identity of each.
        asked: kind and id of each object that it refers to.
        families_asked: the address groups whose IP version it asked for, with the answers.
        claims: what no other object may have too.
        bindings: likewise, by hosts.
        nodes: how many values are in it.
        rules: how many of them are rules.
    """

    text: str | bytes
    values: Mapping[str, Any]
    declared: Mapping[str, Mapping[str, Place]]
    families: Mapping[str, Family]
    places: Mapping[str, Place]
    digests: Mapping[int, bytes]
    asked: frozenset[tuple[str, str]]
    families_asked: Mapping[str, Family | None]
    claims: frozenset[Any]
    bindings: Mapping[str, frozenset[str | None]]
    nodes: int
    rules: int


class Together(Mapping[str, V]):
    """Several mappings as one, which is made only when something is looked up: seldom, of very many."""

    __slots__ = ("_parts", "_whole")

    def __init__(self, parts: Sequence[Mapping[str, V]]) -> None:
        self._parts = parts
        self._whole: dict[str, V] | None = None

    def _made(self) -> dict[str, V]:
        if self._whole is None:
            self._whole = {}
            for part in self._parts:
                self._whole.update(part)
            self._parts = ()
        return self._whole

    def __getitem__(self, key: str) -> V:
        return self._made()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


class Spots(Mapping[str, str]):
    """Places as ``FILE:LINE``, each made when it is asked for."""

    __slots__ = ("_places",)

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, key: str) -> str:
        return self._places[key].spot

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_files(
    document: Shape, contents: Mapping[str, str | bytes], before: Mapping[str, FileRead]
) -> Mapping[str, FileRead]:
    """Read the files that are new or have changed; return all that say something, in order.

    Args:
        document: the fields of a file.
        contents: the files' contents by name, in order.
        before: the files as they were read before.

    Raises:
        Unfit: the document must be read as a whole.
    """
    same = {
        name: before[name]
        for name, text in contents.items()
        if name in before and before[name].text == text
    }
    trees = _trees({name: text for name, text in contents.items() if name not in same}, same)
    declaring = [_declaring(name, root) for name, (root, _) in trees.items()]
    declared = {
        kind: _together(
            [*(one.declared[kind] for one in same.values()), *(r.declared[kind] for r in declaring)]
        )
        for kind in (*SECTIONS.values(), "port")
    }
    families = _together(
        [*(one.families for one in same.values()), *(r.families for r in declaring)]
    )
    fresh = {}
    for own, (name, (root, budget)) in zip(declaring, trees.items(), strict=True):
        reader = Reader(name, declared=declared, families=families, places=own.places)
        fresh[name] = _read(document, contents[name], root, reader, own, budget)
    found = {
        name: same.get(name) or fresh[name] for name in contents if name in same or name in fresh
    }
    _check(found.values(), declared, families)
    return found


def _trees(
    contents: Mapping[str, str | bytes], same: Mapping[str, FileRead]
) -> dict[str, tuple[Node, tuple[int, int]]]:
    """Return the trees of files that hold something, each with its numbers of values and rules."""
    budget = Budget()
    budget.nodes -= sum(one.nodes for one in same.values())
    budget.rules -= sum(one.rules for one in same.values())
    found = {}
    for name, text in contents.items():
        nodes, rules = budget.nodes, budget.rules
        try:
            root, problems = parse_tree(name, text, budget)
        except TooLarge as error:
            raise Unfit from error
        if problems or budget.nodes < 0 or budget.rules < 0:
            raise Unfit
        if root is not None:
            found[name] = root, (nodes - budget.nodes, rules - budget.rules)
    return found


def _declaring(name: str, root: Node) -> Reader:
    """Return a reader that knows what a file declares."""
    reader = Reader()
    try:
        declare([(name, root)], reader)
    except TooManyProblems as error:
        raise Unfit from error
    if reader.problems or not reader.complete:
        raise Unfit
    return reader


def _read(
    document: Shape,
    text: str | bytes,
    root: Node,
    reader: Reader,
    declaring: Reader,
    size: tuple[int, int],
) -> FileRead:
    try:
        values = read_fields(document, root, reader)
    except (Refusal, TooManyProblems) as error:
        raise Unfit from error
    if reader.problems:
        raise Unfit
    given = {
        name: tuple(located.value for located in value) if name in SECTIONS else value
        for name, value in values.given.items()
    }
    return FileRead(
        text,
        given,
        declaring.declared,
        declaring.families,
        reader.places,
        {id(each): digest(each) for section in SECTIONS for each in given.get(section, ())},
        frozenset(reader.asked),
        reader.families_asked,
        reader.claims,
        reader.bindings,
        *size,
    )


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one mapping of several that must have no key in common."""
    whole: dict[str, Any] = {}
    for part in parts:
        whole.update(part)
    if len(whole) < sum(map(len, parts)):
        raise Unfit
    return whole


def _check(
    files: Collection[FileRead],
    declared: Mapping[str, Mapping[str, Place]],
    families: Mapping[str, Family],
) -> None:
    """Find out whether files fit together."""
    asked = frozenset[tuple[str, str]]().union(*(one.asked for one in files))
    if any(object_id not in declared[kind] for kind, object_id in asked):
        raise Unfit
    claimed: set[Any] = set()
    bound: dict[str, frozenset[str | None]] = {}
    for one in files:
        if any(families.get(name) is not family for name, family in one.families_asked.items()):
            raise Unfit
        if not claimed.isdisjoint(one.claims):
            raise Unfit
        claimed |= one.claims
        for what, hosts in one.bindings.items():
            others = bound.get(what, frozenset())
            if others and (None in hosts | others or hosts & others):
                raise Unfit
            bound[what] = others | hosts
