"""What an import could not carry over, said to people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from secgroupd.core.reading import shown

Item = Mapping[str, object]
T = TypeVar("T")


class Unsaid(Exception):
    """A value of an answer has no counterpart in a document; carries why."""


@dataclass(frozen=True, slots=True)
class Where:
    """An object of an answer: the file that it is in, and what it is called."""

    file: str
    thing: str


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that was not carried over as it is."""

    where: Where
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.where.file}: {self.where.thing}: {self.what}: {self.why}"


@dataclass(slots=True)
class Notes:
    """The notes of an import, in the order in which they arose, none twice."""

    taken: dict[Note, None] = field(default_factory=dict)

    def take(self, where: Where, what: str, why: object) -> None:
        """Take down what became of something, and why."""
        self.taken[Note(where, what, str(why))] = None

    def tried(self, where: Where, what: str, read: Callable[[], T]) -> T | None:
        """Return what a reader returns; None, and a note of what became of it, if it cannot."""
        try:
            return read()
        except Unsaid as why:
            self.take(where, what, why)
            return None


def told(value: object) -> str:
    """Return a value of an answer as notes quote it; of a list or mapping only what it is."""
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else shown(value)


def named(kind: str, value: object) -> str:
    """Return what an object is called in notes."""
    return f"{kind} without an id" if value is None else f"{kind} {told(value)}"
