"""Live connections that a change would cut, in words."""

from collections.abc import Iterator, Mapping, Sequence

from secgroupd.core.draft import Binding, covered
from secgroupd.core.model import Port
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Inbound, Judge
from secgroupd.core.wording import end, protocol_name
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.reconcile import Proposal, Record
from secgroupd.sweep import Table, stale


def would_be_cut(
    table: Table, proposal: Proposal, bindings: Mapping[str, Binding]
) -> Iterator[Inbound]:
    """Yield the tracked inbound connections that a change clears and then denies.

    Raises:
        DataplaneError: the connection table cannot be read.
    """
    if not proposal.cleared.keys() & bindings.keys():
        return
    judge = Judge(proposal.policy, proposal.record.generations, bindings)
    for found in stale(table, judge):
        if found.port.id in proposal.cleared and not found.decision.allowed:
            yield found


def would_end(
    table: Conntrack, before: Record, proposal: Proposal, managed: Sequence[str]
) -> Iterator[tuple[Port, Connection]]:
    """Yield the tracked connections of ports that leave an interface which is closed without them.

    Args:
        table: the connection table.
        before: what is in force.
        proposal: what is to be.
        managed: the patterns of interfaces that are closed unless a port has them.

    Raises:
        DataplaneError: the connection table cannot be read.
    """
    had = {binding.interface for binding in proposal.record.bindings.values()}
    gone = {
        port_id
        for port_id, binding in before.bindings.items()
        if port_id not in proposal.record.bindings
        and binding.interface not in had
        and covered(binding.interface, managed)
    }
    if not gone or before.accepted is None:
        return
    judge = Judge(Policy(before.accepted), before.generations, before.bindings)
    for one in table.entries():
        for port in (judge.originator(one), judge.responder(one)):
            if port is not None and port.id in gone:
                yield port, one


def described(inbound: Inbound) -> str:
    """Return one line about a connection: port, protocol, both ends, age, and what denies it."""
    decision = inbound.decision
    by = decision.reason.value
    if decision.group_id is not None:
        by = f"rule {decision.rule_id} of {decision.group_id}"
    return f"{inbound.port.id}: {ends(inbound.connection)}, denied by {by}"


def ends(connection: Connection) -> str:
    """Return a connection's protocol, both ends, and its age where that is known."""
    protocol = protocol_name(connection.protocol)
    peer = end(connection.original.source, connection.original.sport or None)
    own = end(connection.reply.source, connection.reply.sport or None)
    age = "" if connection.age is None else f", {connection.age:.0f} s old"
    return f"{protocol} {peer} -> {own}{age}"
