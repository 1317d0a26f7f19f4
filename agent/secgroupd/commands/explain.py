"""``explain``: the verdict on one question, and which rule of which group decided it."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from secgroupd.commands.arguments import (
    Verbs,
    add_json,
    add_verb,
    byte_argument,
    family_argument,
    port_argument,
    protocol_argument,
)
from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.output import (
    WIDTH,
    Colour,
    counted,
    fitted,
    painted,
    write,
    write_json,
)
from secgroupd.commands.reasons import because, decision_as_json
from secgroupd.commands.standing import run_live
from secgroupd.core.model import (
    Action,
    Direction,
    Port,
)
from secgroupd.core.policy import OrderedRule, Policy
from secgroupd.core.reachability import Answer, End, Flow, Question, explain
from secgroupd.core.verdict import Decision, Reason, considered
from secgroupd.core.wording import PROTOCOL_NAMES, matches
from secgroupd.errors import QuestionError

EXIT_ALLOW, EXIT_DENY = 0, 3

_MARKER = "->"


def add(verbs: Verbs) -> None:
    """Add the verb to the parser."""
    verb = add_verb(
        verbs,
        "explain",
        "say whether a connection is allowed, and which rules decide it",
        "0: allow, 3: deny, 1: error",
    )
    verb.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        nargs="?",
        help="the state document: a file or a directory; with --live, what is in force if left out",
    )
    verb.add_argument(
        "--live",
        action="store_true",
        help="find such connections that exist: who let them in, what becomes of them "
        "(0: they go on, 3: one will be cut, 4: there is none)",
    )
    ends = "a port's id, an instance's id or an address"
    verb.add_argument("--from", dest="source", metavar="X", required=True, help=ends)
    verb.add_argument("--to", dest="destination", metavar="Y", required=True, help=ends)
    verb.add_argument(
        "--protocol",
        metavar="P",
        type=protocol_argument,
        required=True,
        help="tcp, udp, icmp, ... or 0..255",
    )
    verb.add_argument("--dport", metavar="N", type=port_argument, help="the destination port")
    verb.add_argument(
        "--icmp-type", metavar="N", type=byte_argument, help="an echo request if left out"
    )
    verb.add_argument("--icmp-code", metavar="N", type=byte_argument, help="needs a type")
    verb.add_argument(
        "--ethertype",
        type=family_argument,
        metavar="IPv4|IPv6",
        help="where both ends have both (IPv4 if left out)",
    )
    verb.add_argument(
        "--through", metavar="LB", help="a load balancer that passes its clients' addresses on"
    )
    add_json(verb)
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer the question in the arguments."""
    if args.live:
        return run_live(args)
    if args.path is None:
        raise QuestionError(
            "there is no document to ask: name a file or a directory, or ask --live"
        )
    policy = Policy(read([args.path], load_settings(args.config)).state)
    question = Question(
        source=args.source,
        destination=args.destination,
        protocol=args.protocol,
        dport=args.dport,
        icmp_type=args.icmp_type,
        icmp_code=args.icmp_code,
        family=args.ethertype,
        through=args.through,
    )
    answer = explain(policy, question)
    if args.json:
        write_json(answer_as_json(answer))
    else:
        for line in told(policy, answer):
            write(line)
    return EXIT_ALLOW if answer.verdict is Action.ALLOW else EXIT_DENY


def answer_as_json(answer: Answer) -> dict[str, object]:
    """Return an answer as ``explain --json`` prints it."""
    return {
        "verdict": answer.verdict.value,
        "egress": decision_as_json(answer.egress),
        "ingress": decision_as_json(answer.ingress),
    }


def told(policy: Policy, answer: Answer) -> Iterator[str]:
    """Yield an answer as lines for people, each fitting a terminal."""
    flow = answer.flow
    allowed = answer.verdict is Action.ALLOW
    verdict = painted(answer.verdict.value.upper(), Colour.GOOD if allowed else Colour.BAD)
    yield f"{verdict}  {service(flow)}"
    yield fitted(f"  from {_end(flow.source)}", WIDTH)
    yield fitted(f"  to   {_end(flow.destination)}", WIDTH)
    if not flow.connected:
        yield "\nNo packet can travel: the ports are in VPCs that no peering connects."
    if answer.egress and flow.source.port:
        yield ""
        yield from _side(policy, flow, flow.source.port, answer.egress, Direction.EGRESS)
    if answer.ingress and flow.destination.port and flow.connected:
        yield ""
        yield from _side(policy, flow, flow.destination.port, answer.ingress, Direction.INGRESS)


def service(flow: Flow) -> str:
    """Return what a flow consists of: ``tcp 443``, ``icmp type 8``."""
    name = PROTOCOL_NAMES.get(flow.protocol, f"protocol {flow.protocol}")
    if flow.dport is not None:
        return f"{name} {flow.dport}"
    if flow.icmp_type is None:
        return name
    code = "" if flow.icmp_code is None else f" code {flow.icmp_code}"
    return f"{name} type {flow.icmp_type}{code}"


def _end(end: End) -> str:
    return f"{end.address} ({end.port.id if end.port else 'no port of the document'})"


def _side(
    policy: Policy, flow: Flow, port: Port, decision: Decision, direction: Direction
) -> Iterator[str]:
    yield fitted(f"{direction.value} at {port.id}: {decision.verdict.value}", WIDTH)
    yield fitted(f"  {because(decision)}", WIDTH)
    if decision.reason not in {Reason.RULE, Reason.DEFAULT_DENY}:
        return
    rules = considered(policy, port, direction, flow.packet(direction))
    deciding = (decision.group_id, decision.rule_id)
    seen = ""
    for place, ordered in enumerate(rules, 1):
        if ordered.group_id != seen:
            seen = ordered.group_id
            yield fitted(f"    {seen}", WIDTH)
        decides = (ordered.group_id, ordered.rule.id) == deciding
        yield _row(ordered, decides=decides)
        if decides:
            if left := len(rules) - place:
                yield f"       ({counted(left, 'more rule')} not reached)"
            return
    yield f"  {_MARKER}   (nothing matched: deny)"


def _row(ordered: OrderedRule, *, decides: bool) -> str:
    rule = ordered.rule
    marker = _MARKER if decides else ""
    head = f"  {marker:2}   {rule.priority:>3} {rule.action.value:5} {matches(rule)}"
    name = fitted(rule.id, 36)
    room = WIDTH - len(name) - 2
    return f"{fitted(head, room):{min(room, 52)}}  {name}"
