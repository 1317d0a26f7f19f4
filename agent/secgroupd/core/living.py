"""A tracked connection -> who let it in, what the rules say of it now, and what becomes of it.

A stamp tells the generation in which the responder's rules last allowed a connection; the records
of the documents that were in force in that generation tell which rule it was. Of the originator's
judgement the kernel keeps one bit, and of what a load balancer has brought the way, so that there
every kept document comes into question.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core.host import Generations
from secgroupd.core.marks import JUDGED_OUT
from secgroupd.core.model import Clearing, Direction, Port
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Judge, kept_apart
from secgroupd.core.verdict import Decision, Reason, decide


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
        apart = judge.apart(connection)
        now = kept_apart(port) if apart else _decision(connection, judge.policy, port, direction)
        asked, fresh = _known(connection, judge, epochs, port, direction)
        exempt = now.reason is Reason.LOAD_BALANCER
        fate = Fate.PASSES
        if not exempt and (strict or apart or not fresh):
            fate = Fate.JUDGED_AND_PASSES if now.allowed else Fate.CUT
        admitted = _admitted(connection, asked, port, direction)
        yield Standing(connection, direction, tuple(admitted), now, fate)


def _known(
    connection: Connection, judge: Judge, epochs: Sequence[Epoch], port: Port, direction: Direction
) -> tuple[Iterable[Epoch], bool]:
    """Return in which documents' time a port may have let a connection in, and whether that counts."""
    if direction is Direction.EGRESS:
        judged = bool(connection.mark & JUDGED_OUT)
        return (epochs if judged else ()), judged
    if connection.brought:
        return [one for one in epochs if connection.brought_by(one.policy, port)], False
    stamped = [one for one in epochs if one.generations.current == connection.stamp]
    return stamped, connection.stamp >= judge.generations.of(port.id)


def _admitted(
    connection: Connection, asked: Iterable[Epoch], port: Port, direction: Direction
) -> Iterable[tuple[str, Decision]]:
    """Return the judgements of documents that let a connection in, each once, the youngest first."""
    found: dict[tuple[str | None, str | None], tuple[str, Decision]] = {}
    for one in asked:
        then = one.policy.ports.get(port.id)
        decision = then and _decision(connection, one.policy, then, direction)
        if decision and decision.allowed:
            found.setdefault((decision.group_id, decision.rule_id), (one.revision, decision))
    return found.values()


def _decision(connection: Connection, policy: Policy, port: Port, direction: Direction) -> Decision:
    return decide(policy, port, direction, connection.brought_packet(policy, port, direction))
