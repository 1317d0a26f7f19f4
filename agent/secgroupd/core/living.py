"""A tracked connection -> who let it in, what the rules say of it now, and what becomes of it.

A stamp tells the generation in which the responder's rules last allowed a connection; the records
of the documents that were in force in that generation tell which rule it was. Of the originator's
judgement the kernel keeps one bit, so that there every kept document comes into question.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core.compiler import JUDGED_OUT
from secgroupd.core.host import Generations
from secgroupd.core.model import Clearing, Direction
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Judge
from secgroupd.core.verdict import Decision, decide


class Fate(StrEnum):
    """What becomes of a connection at its next packet, as far as one port has a say."""

    PASSES = "passes"
    """It passes without being judged: nothing has asked for a new judgement."""
    JUDGED_AND_PASSES = "judged-and-passes"
    """It is judged again, passes, and is stamped."""
    CUT = "cut"
    """It is judged again, and dropped."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A document while it was in force: its revision and rules, and what was stamped then."""

    revision: str
    policy: Policy
    generations: Generations


@dataclass(frozen=True, slots=True)
class Standing:
    """How a connection stands at one port of this host.

    ``admitted`` are the judgements that may have let it in, the youngest first, with the revision of
    each; one where that is known, none where no document of that time is kept, or none let it in.
    """

    connection: Connection
    direction: Direction
    admitted: tuple[tuple[str, Decision], ...]
    now: Decision
    fate: Fate


def standings(connection: Connection, judge: Judge, epochs: Sequence[Epoch]) -> Iterator[Standing]:
    """Yield how a connection stands at each of its ends that is a port of this host.

    Args:
        connection: an entry of the connection table.
        judge: knows the policy and generations in force.
        epochs: the documents that are kept, the one in force first.
    """
    strict = judge.generations.mode is Clearing.STRICT
    ends = {
        Direction.EGRESS: judge.originator(connection),
        Direction.INGRESS: judge.responder(connection),
    }
    for direction, port in ends.items():
        if port is None:
            continue
        packet = connection.first_packet(direction)
        inbound = direction is Direction.INGRESS
        if inbound:
            fresh = connection.stamp >= judge.generations.of(port.id)
            asked = [one for one in epochs if one.generations.current == connection.stamp]
        else:
            fresh = bool(connection.mark & JUDGED_OUT)
            asked = list(epochs) if fresh else []
        then: dict[tuple[str | None, str | None], tuple[str, Decision]] = {}
        for one in asked:
            if port.id in one.policy.ports:
                found = decide(one.policy, one.policy.ports[port.id], direction, packet)
                if found.allowed:
                    then.setdefault((found.group_id, found.rule_id), (one.revision, found))
        now = decide(judge.policy, port, direction, packet)
        fate = Fate.PASSES
        if strict or not fresh:
            fate = Fate.JUDGED_AND_PASSES if now.allowed else Fate.CUT
        yield Standing(connection, direction, tuple(then.values()), now, fate)
