"""``drops``: what is being denied on this host, and why."""

import argparse
import sys
import time
from typing import Any

from secgroupd.commands.arguments import json_option
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import complain, write, write_json
from secgroupd.control import follow
from secgroupd.core.ruleset import NAME_LENGTH
from secgroupd.core.wording import end
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

REASONS = {
    "default-deny": "no rule allows it",
    "source-check": "source check",
    "link-service": "only routers may send it",
    "closed": "the interface is closed",
    "strange-frame": "rules cannot judge such frames",
    "vpc-not-peered": "no peering connects its VPC",
    "no-connection": "it belongs to no connection",
    "changed": "denied by rules that have changed since",
}

EXIT_DONE, EXIT_ENDED = 0, EXIT_ERROR


def run(args: argparse.Namespace) -> int:
    """Print denied packets as they come."""
    left = args.count
    lines = follow(load_settings(args.config).run_dir, "drops")
    try:
        for line in lines:
            if "following" in line:
                complain("following denied packets: interrupt to end")
            elif "lost" in line:
                complain(f"{line['lost']} packets were not shown: too many at once")
            elif args.port in {None, line["port"]}:
                write_json(line) if args.json else write(told(line))
                # Whoever it is piped to must not wait for a buffer to fill.
                sys.stdout.flush()
                left = None if left is None else left - 1
                if left == 0:
                    return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_DONE
    complain("secgroupctl: the agent has ended")
    return EXIT_ENDED


DROPS = Verb(
    name="drops",
    summary="follow denied packets live, with the rule, or what else denies them",
    run=run,
    description=(
        "The kernel logs them only while somebody follows, up to 10 a second and port. "
        "[docs/drops.md](drops.md) says more."
    ),
    arguments=(
        Argument(("--port",), "only those of this port", "ID"),
        Argument(("--count",), "end after so many", "N", {"type": int}),
        json_option("one JSON object a line"),
    ),
    exits={
        "": {
            EXIT_DONE: "interrupted, or as many as asked for",
            EXIT_ENDED: f"{ERROR}, or the agent has ended",
        }
    },
    examples=(Example("secgroupctl drops --port port-web-1", "why something does not reach it"),),
)


def told(drop: dict[str, Any]) -> str:
    """Return one line about a denied packet."""
    clock = time.strftime("%H:%M:%S", time.localtime(drop["time"]))
    port = drop["port"] or drop["interface"] or "-"
    reason = REASONS.get(drop["reason"], drop["reason"])
    if drop["rule"] is not None:
        reason = f"rule {drop['rule']} of {drop['security_group']}"
    return f"{clock} {port:{NAME_LENGTH}} {drop['direction']:7} {_packet(drop)}: {reason}"


def _packet(drop: dict[str, Any]) -> str:
    if drop["source"] is None:
        return "(no IP packet)"
    ends = [
        end(drop["source"], drop.get("sport")),
        end(drop["destination"], drop.get("dport")),
    ]
    kind = ""
    if drop.get("icmp_type") is not None:
        kind = f" type {drop['icmp_type']} code {drop['icmp_code']}"
    return f"{drop['protocol']} {' -> '.join(ends)}{kind}"
