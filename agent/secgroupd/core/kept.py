"""What one compile has made, kept for the next: a part is made again only where its inputs differ.

Parts have names. A part that is asked for is compared by what it was made from, by value; values that
are the identical objects compare at once, which is why whoever makes inputs keeps what is the same.
What a compile did not ask for is not kept beyond it.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Part:
    inputs: object
    made: Any
    within: Mapping[Hashable, "_Part"]
    """The parts that were made for this one."""


_NONE: Mapping[Hashable, _Part] = MappingProxyType({})
"""Most parts have none within them, and there are tens of thousands."""


@dataclass(slots=True)
class Kept:
    """The parts of a compile, and those of the one before.

    Attributes:
        made: the names of the parts that were made anew, in order: what a change costs.
    """

    _before: Mapping[Hashable, _Part] = field(default_factory=dict)
    _parts: dict[Hashable, _Part] = field(default_factory=dict)
    made: list[Hashable] = field(default_factory=list)

    def next(self) -> "Kept":
        """Return what the next compile is handed."""
        return Kept(self._parts)

    def part(self, name: Hashable, inputs: object, make: Callable[["Kept"], T]) -> T:
        """Return a part: what was made before of equal inputs, or what is made now.

        Args:
            name: tells it from the other parts.
            inputs: everything that it depends on, and that can be another the next time.
            make: makes it; is handed what keeps the parts of the part.
        """
        part = self._parts.get(name) or self._before.get(name)
        if part is None or part.inputs != inputs:
            self.made.append(name)
            within = Kept(part.within if part else _NONE, made=self.made)
            part = _Part(inputs, make(within), within._parts or _NONE)
        self._parts[name] = part
        found: T = part.made
        return found
