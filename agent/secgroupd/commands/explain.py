"""``explain``: the verdict on one question, and which rule of which group decided it."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from secgroupd.commands.arguments import (
    DESTINATION,
    DOCUMENT_HELP,
    DPORT,
    SOURCE,
    byte_argument,
    family_argument,
    json_option,
    protocol_option,
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
from secgroupd.commands.standing import EXIT_CUT, EXIT_GO_ON, EXIT_NONE, run_live
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
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

EXIT_ALLOW, EXIT_DENY = 0, 3

_MARKER = "->"


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


EXPLAIN = Verb(
    name="explain",
    summary="say whether a connection is allowed, and which group and rule decide it",
    run=run,
    description=(
        "With `--live`, find such connections that exist, and say which rule let them in (under one "
        "of the last five documents), what the rules say of them now, and what becomes of their next "
        "packet. Without *PATH* the rules are then those in force."
    ),
    arguments=(
        Argument(
            ("--live",), "ask about connections that exist", settings={"action": "store_true"}
        ),
        SOURCE,
        DESTINATION,
        protocol_option(required=True),
        DPORT,
        Argument(("--icmp-type",), "an echo request if left out", "N", {"type": byte_argument}),
        Argument(("--icmp-code",), "needs a type", "N", {"type": byte_argument}),
        Argument(
            ("--ethertype",),
            "which, where both ends have both; IPv4 if left out",
            "IPv4|IPv6",
            {"type": family_argument},
        ),
        Argument(
            ("--through",),
            "a load balancer that brings it, and passes its clients' addresses on",
            "LB",
        ),
        json_option(),
        Argument(
            ("path",),
            f"{DOCUMENT_HELP}; with `--live` it can be left out",
            "PATH",
            {"type": Path, "nargs": "?"},
        ),
    ),
    exits={
        "": {EXIT_ALLOW: "allow", EXIT_DENY: "deny", EXIT_ERROR: ERROR},
        "--live": {
            EXIT_GO_ON: "they go on",
            EXIT_CUT: "one will be cut",
            EXIT_NONE: "there is none",
            EXIT_ERROR: ERROR,
        },
    },
    examples=(
        Example(
            "secgroupctl explain examples/cloud.yaml --from web-1 --to app-1 --protocol tcp --dport 8080",
            "whether one instance reaches another",
        ),
        Example(
            "secgroupctl explain --live --from 203.0.113.9 --to web-1 --protocol tcp",
            "why a connection that should be cut lives on",
        ),
    ),
)


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
