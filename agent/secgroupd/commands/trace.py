"""``trace``: one packet's way through the tables, in words."""

import argparse
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from secgroupd.commands.arguments import (
    DESTINATION,
    DPORT,
    SOURCE,
    json_option,
    protocol_option,
)
from secgroupd.commands.documents import in_force, load_settings
from secgroupd.commands.output import (
    WIDTH,
    Colour,
    complain,
    fitted,
    painted,
    write,
    write_json,
)
from secgroupd.commands.reasons import because, decision_as_json
from secgroupd.config import Settings
from secgroupd.configured import configure
from secgroupd.core import names
from secgroupd.core.compiler import compile_host
from secgroupd.core.drops import Drop, Logged, explained
from secgroupd.core.headers import Headers
from secgroupd.core.model import PORT_PROTOCOLS, Address, Direction
from secgroupd.core.plan import Line, Plan
from secgroupd.core.policy import Policy
from secgroupd.core.reachability import addresses
from secgroupd.core.ruleset import TABLE, Ruleset
from secgroupd.core.traced import Event, Step, packets, steps
from secgroupd.core.verdict import Decision, decide
from secgroupd.core.wording import protocol_name
from secgroupd.dataplane.nft import Nft
from secgroupd.dataplane.nft_trace import Trace
from secgroupd.errors import QuestionError
from secgroupd.reconcile import Reconciler, Record
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

EXIT_PASSED, EXIT_DROPPED, EXIT_NONE = 0, 3, 4

TRACING = f"{TABLE}_trace"
"""The table that marks packets. It belongs to this process, with which it goes."""

BEFORE_ALL = -500
"""Priority of the chains that mark: before the agent's own, and before defragmentation."""

PATIENCE_SECONDS = 60.0
"""How long a packet is waited for unless another time is asked for."""

SETTLE_SECONDS = 0.3
"""After so long without news of a packet its way has come to an end."""

MOST_PAIRS = 256
"""Pairs of addresses that a question may mean."""


def run(args: argparse.Namespace) -> int:
    """Mark matching packets, and tell of the first one that comes."""
    settings = load_settings(args.config)
    _, record, state = in_force(settings)
    policy = Policy(state)
    lines = marking(policy, args)
    with ExitStack() as opened:
        nft, trace = opened.enter_context(Nft()), opened.enter_context(Trace())
        tables = _tables(nft, settings, policy, record)
        nft.commit(Plan(tuple(Line(text) for text in lines)))
        complain("waiting for a packet: interrupt to end")
        told = _first(trace, args.wait)
        counters = {
            names.counter(group.id, rule.id): f"rule {rule.id} of group {group.id}"
            for group in policy.groups.values()
            for rule in group.rules
        }
        shown = list(steps(told, nft.handles(), tables, counters))
    if not told:
        write("no such packet came")
        return EXIT_NONE
    end = _end(policy, record, told)
    if args.json:
        write_json(_as_json(told, shown, end))
    else:
        for line in _lines(told, shown, end):
            write(line)
    return EXIT_DROPPED if isinstance(end, Drop) else EXIT_PASSED


TRACE = Verb(
    name="trace",
    summary="wait for a packet and show its way through the tables, rule by rule",
    run=run,
    description=(
        "It also says which group and rule decided. Packets are marked by a table that goes with this "
        "process."
    ),
    arguments=(
        SOURCE,
        DESTINATION,
        protocol_option(required=False),
        DPORT,
        Argument(
            ("--wait",),
            f"how long to wait for a packet; {PATIENCE_SECONDS:g} if left out",
            "SECONDS",
            {"type": float, "default": PATIENCE_SECONDS},
        ),
        json_option(),
    ),
    exits={
        "": {
            EXIT_PASSED: "it passed",
            EXIT_DROPPED: "it was dropped",
            EXIT_NONE: "none came",
            EXIT_ERROR: ERROR,
        }
    },
    examples=(
        Example(
            "secgroupctl trace --from web-1 --to 192.0.2.53 --protocol udp --dport 53",
            "what becomes of an instance's questions to its name server",
        ),
    ),
)


def marking(policy: Policy, args: argparse.Namespace) -> Iterator[str]:
    """Yield the commands that mark the packets of a question.

    Raises:
        QuestionError: an end means nothing, or the two have no IP version in common.
    """
    pairs = [
        (one, other)
        for one in sorted(addresses(policy, args.source), key=str)
        for other in sorted(addresses(policy, args.destination), key=str)
        if one.version == other.version
    ][:MOST_PAIRS]
    if not pairs:
        raise QuestionError(f"{args.source} and {args.destination} have no IP version in common")
    if args.dport is not None and args.protocol not in PORT_PROTOCOLS:
        raise QuestionError("a destination port goes with tcp, udp and the like: add --protocol")
    for family in ("inet", "bridge"):
        yield f"add table {family} {TRACING} {{ flags owner; }}"
        for hook in ("prerouting", "output"):
            base = f"{{ type filter hook {hook} priority {BEFORE_ALL}; }}"
            yield f"add chain {family} {TRACING} {hook} {base}"
            for pair in pairs:
                yield f"add rule {family} {TRACING} {hook} {_match(*pair, args)} meta nftrace set 1"


def _match(source: Address, destination: Address, args: argparse.Namespace) -> str:
    word = "ip" if source.version == 4 else "ip6"
    words = [f"{word} saddr {source} {word} daddr {destination}"]
    if args.protocol is not None:
        words.append(f"meta l4proto {args.protocol}")
    if args.dport is not None:
        words.append(f"th dport {args.dport}")
    return " ".join(words)


def _tables(nft: Nft, settings: Settings, policy: Policy, record: Record) -> Mapping[str, Ruleset]:
    """Return what the compiler makes of what is in force."""
    reconciler = Reconciler(nft)
    configure(reconciler, settings)
    host = reconciler.host(record.bindings, record.left)
    return compile_host(policy, host, record.generations)


def _first(trace: Trace, seconds: float) -> Sequence[Event]:
    """Return what is told of the first packet that comes in so many seconds, if any."""
    found: list[Event] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([trace], [], [], left)[0]:
            break
        found += trace.events()
        if found:
            deadline = time.monotonic() + SETTLE_SECONDS
    first = found[0].packet if found else 0
    return packets(found).get(first, ())


def _end(policy: Policy, record: Record, told: Sequence[Event]) -> Drop | tuple[Decision, ...]:
    """Return why a packet was dropped, or what allowed it at each of its ends that is a port."""
    ports = {binding.interface: port_id for port_id, binding in record.bindings.items()}
    came_from = next((one.came_from for one in told if one.came_from), None)
    leaves_into = next((one.leaves_into for one in reversed(told) if one.leaves_into), None)
    shown = next((one for one in told if one.payload), told[0])
    last = told[-1]
    if last.table == TABLE and last.verdict == "drop":
        logged = Logged(
            time=time.time(),
            chain=last.chain,
            came_from=came_from,
            leaves_into=leaves_into,
            ethertype=shown.ethertype,
            payload=shown.payload,
        )
        return explained(policy, ports, logged)
    headers = shown.headers
    found = []
    if isinstance(headers, Headers):
        for interface, direction in (
            (came_from, Direction.EGRESS),
            (leaves_into, Direction.INGRESS),
        ):
            port = policy.ports.get(ports.get(interface or "", ""))
            if port is not None:
                found.append(decide(policy, port, direction, headers.first_packet(direction)))
    return tuple(found)


def _lines(
    told: Sequence[Event], shown: Iterable[Step], end: Drop | tuple[Decision, ...]
) -> Iterator[str]:
    yield _named(told)
    for step in shown:
        where = f"{step.family} {step.chain}"
        yield fitted(f"\n  {where}: {step.meaning}" if step.meaning else f"\n  {where}", WIDTH)
        yield fitted(f"    {step.rule}", WIDTH)
        if step.verdict not in {"", "continue"}:
            yield fitted(f"    => {step.verdict}", WIDTH)
    yield ""
    if isinstance(end, Drop):
        at = f" at {end.port_id}" if end.port_id else ""
        by = f"rule {end.rule_id} of group {end.group_id}" if end.rule_id else end.reason.value
        yield f"{painted('DROPPED', Colour.BAD)} ({end.direction.value}{at}): {by}"
        return
    last = told[-1]
    if last.verdict == "drop":
        yield f"{painted('DROPPED', Colour.BAD)} by somebody else's rules: table {last.family} {last.table}, {last.chain}"
        return
    yield painted("PASSED", Colour.GOOD)
    for decision in end:
        yield f"  a new connection at {decision.port_id}: {decision.verdict.value} {because(decision)}"


def _named(told: Sequence[Event]) -> str:
    headers = next((one.headers for one in told if one.headers), None)
    if not isinstance(headers, Headers):
        return "a packet"
    protocol = protocol_name(headers.protocol)
    ports = "" if headers.dport is None else f", {headers.sport} -> {headers.dport}"
    return f"{protocol} {headers.source} -> {headers.destination}{ports}"


def _as_json(
    told: Sequence[Event], shown: Iterable[Step], end: Drop | tuple[Decision, ...]
) -> Mapping[str, object]:
    dropped = isinstance(end, Drop) or told[-1].verdict == "drop"
    return {
        "packet": _named(told),
        "steps": [step.as_json() for step in shown],
        "end": "dropped" if dropped else "passed",
        "drop": end.as_json() if isinstance(end, Drop) else None,
        "decisions": [] if isinstance(end, Drop) else [decision_as_json(one) for one in end],
    }
