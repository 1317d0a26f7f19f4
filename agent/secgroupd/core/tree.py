"""A parsed file as nodes that know their place, whatever its syntax was.

``yamltree`` and ``jsontree`` feed a ``TreeBuilder``; the field readers walk what it built. Scalars
are already text, whole numbers, booleans or null, and nothing else.
"""

import re
from dataclasses import dataclass

from secgroupd.errors import Problem

MAX_DEPTH = 32
"""Levels of nesting; the deepest legal document has 8, and recursion stays far from its limit."""

MAX_TREE_PROBLEMS = 100
"""After so many duplicate keys, aliases and tags a file is not read on."""

MAX_NODES = 4_000_000
"""Values in all files together: 250,000 rules with every field, in some 600 MB while parsing."""

MAX_RULES = 250_000
"""Rules in all files together: ten times the largest set-up that is measured, 25,000 rules."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""What no text value may hold: control characters, line separators and halves of surrogates."""

_UNREADABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]"
)
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})").fullmatch
_CONSTANTS: dict[str, bool | None] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
}

Value = str | int | bool | None


@dataclass(slots=True)
class ScalarNode:
    """One value. Not frozen, like its siblings: a frozen one takes three times as long to make."""

    line: int
    column: int
    value: Value


@dataclass(slots=True)
class ListNode:
    """A list of nodes."""

    line: int
    column: int
    items: "list[Node]"


@dataclass(slots=True)
class MapNode:
    """A mapping; ``key_places`` holds line and column of each key, flat, in order of ``entries``."""

    line: int
    column: int
    entries: "dict[str, Node]"
    key_places: list[int]

    def key_place(self, key: str) -> tuple[int, int]:
        """Return line and column of a key that is in ``entries``."""
        index = 2 * list(self.entries).index(key)
        return self.key_places[index], self.key_places[index + 1]


Node = ScalarNode | ListNode | MapNode


class Unreadable(Exception):
    """A file cannot be read on from here; carries the reason and its place."""

    def __init__(self, line: int, column: int, code: str, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.code, self.message = line, column, code, message


class TooLarge(Unreadable):
    """The document as a whole is over a limit, so that the remaining files need no look."""


@dataclass(slots=True)
class Budget:
    """What may still be read, over all files of a document."""

    nodes: int = MAX_NODES
    rules: int = MAX_RULES


def plain_value(text: str) -> Value:
    """Return what an unquoted scalar means.

    Only ``true``, ``false``, ``null``, ``~``, nothing at all and decimal whole numbers (up to 18
    digits) are more than text: MAC addresses, ``22:22``, ``10.10``, ``010``, ``no`` and dates stay
    as they were written.
    """
    if text[:1] in "-0123456789" and _WHOLE_NUMBER(text):
        return int(text)
    return _CONSTANTS.get(text, text)


def decoded(content: str | bytes) -> str:
    """Return a file's text.

    Raises:
        Unreadable: it is not UTF-8, or holds characters that no editor shows.
    """
    if isinstance(content, bytes):
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line, column = place_of(content[: error.start].decode(errors="replace"), None)
            message = f"byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8"
            raise Unreadable(line, column, "not-utf8", message) from None
    else:
        text = content
    text = text.removeprefix("\ufeff")
    if bad := _UNREADABLE.search(text):
        line, column = place_of(text, bad.start())
        raise Unreadable(line, column, "control-character", control_message(bad.group()))
    return text


def control_message(character: str) -> str:
    """Return the complaint about a character that ``CONTROL`` found."""
    return f"character U+{ord(character):04X} is not allowed: remove it"


def place_of(text: str, offset: int | None) -> tuple[int, int]:
    """Return line and column, from 1, of an offset into a text (None: its end)."""
    end = len(text) if offset is None else offset
    return text.count("\n", 0, end) + 1, end - text.rfind("\n", 0, end)


class TreeBuilder:
    """Puts a tree together from what a parser meets, in order, and keeps it within limits.

    ``problems`` collects what is wrong but does not keep the rest from being read.
    """

    __slots__ = ("_budget", "_entries", "_items", "_key", "_map", "_names", "_stack", "_under", "file",
                 "problems")  # fmt: skip

    def __init__(self, file: str, budget: Budget) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._budget = budget
        self._items: list[Node] = []
        self._entries: dict[str, Node] | None = None
        self._map: MapNode | None = None
        self._key: str | None = None
        self._under: str | None = None
        self._names: dict[str, str] = {}
        self._stack: list[tuple[list[Node], MapNode | None, str | None, str | None]] = []

    @property
    def root(self) -> Node | None:
        """The tree, or None when the file holds nothing."""
        return self._items[0] if self._items else None

    def report(self, line: int, column: int, code: str, message: str) -> None:
        """Take down a problem that does not end the reading."""
        self.problems.append(Problem(self.file, line, column, code, message))
        if len(self.problems) == MAX_TREE_PROBLEMS:
            message = f"there are {MAX_TREE_PROBLEMS} problems like this: correct these first"
            raise Unreadable(line, column, "too-many-problems", message)

    def scalar(self, line: int, column: int, value: Value) -> None:
        """Take a scalar: the next key of a mapping, or a value."""
        if self._entries is None:
            self._items.append(ScalarNode(line, column, value))
        elif self._key is None:
            self._take_key(line, column, value)
            return
        else:
            self._entries[self._key] = ScalarNode(line, column, value)
            self._key = None
        budget = self._budget
        budget.nodes -= 1
        if budget.nodes < 0:
            raise TooLarge(line, column, "document-too-large", _nodes_message())

    def open_list(self, line: int, column: int) -> None:
        """Begin a list."""
        items: list[Node] = []
        under = self._key
        self._add(ListNode(line, column, items))
        self._push(line, column)
        self._items, self._map, self._entries, self._under = items, None, None, under

    def open_map(self, line: int, column: int) -> None:
        """Begin a mapping."""
        if self._under == "rules" and self._entries is None:
            self._budget.rules -= 1
            if self._budget.rules < 0:
                message = f"there are more than {MAX_RULES} rules: remove rules, or use groups"
                raise TooLarge(line, column, "too-many-rules", message)
        node = MapNode(line, column, {}, [])
        self._add(node)
        self._push(line, column)
        self._map, self._entries, self._key = node, node.entries, None

    def close(self) -> None:
        """End the innermost list or mapping."""
        self._items, self._map, self._key, self._under = self._stack.pop()
        self._entries = None if self._map is None else self._map.entries

    def _add(self, node: Node) -> None:
        if self._entries is None:
            self._items.append(node)
        elif self._key is None:
            message = "a list or mapping cannot be a key: write the key as text"
            raise Unreadable(node.line, node.column, "key-not-text", message)
        else:
            self._entries[self._key] = node
            self._key = None
        self._budget.nodes -= 1
        if self._budget.nodes < 0:
            raise TooLarge(node.line, node.column, "document-too-large", _nodes_message())

    def _push(self, line: int, column: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            message = f"more than {MAX_DEPTH} levels are nested: remove levels"
            raise Unreadable(line, column, "too-deep", message)
        self._stack.append((self._items, self._map, self._key, self._under))

    def _take_key(self, line: int, column: int, value: Value) -> None:
        node = self._map
        if node is None or value.__class__ is not str or not isinstance(value, str):
            message = "a key must be text: write a field's name, or put the key in quotes"
            raise Unreadable(line, column, "key-not-text", message)
        # One string for all keys of a name: they are a tenth of a tree's memory otherwise.
        value = self._key = self._names.setdefault(value, value)
        if value in node.entries:
            first = ":".join(map(str, node.key_place(value)))
            message = f"{value[:40]!r} is already given at {first}: keep one of the two"
            self.report(line, column, "duplicate-key", message)
        else:
            # Reserve the slot so that key_places and entries stay in step.
            node.entries[value] = _NOTHING
            node.key_places += (line, column)


_NOTHING = ScalarNode(0, 0, None)


def _nodes_message() -> str:
    return f"there are more than {MAX_NODES} values: remove some, or use groups"
