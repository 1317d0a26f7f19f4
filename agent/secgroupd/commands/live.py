"""Live connections that a change would cut, in words."""

from collections.abc import Iterator, Mapping

from secgroupd.core.draft import Binding
from secgroupd.core.tracked import Connection, Inbound, Judge
from secgroupd.core.wording import end, protocol_name
from secgroupd.reconcile import Proposal
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
