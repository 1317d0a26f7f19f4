"""``rules``: how often each rule has decided, as the running agent knows it."""

import argparse
from typing import Any

from secgroupd.commands.arguments import json_option
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import WIDTH, fitted, write, write_json
from secgroupd.control import ask
from secgroupd.core.model import Direction
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

SORTS = ("order", "hits")


def run(args: argparse.Namespace) -> int:
    """Print the rules."""
    answer: dict[str, Any] = ask(load_settings(args.config).run_dir, "rules")
    rules = [rule for rule in answer["rules"] if _wanted(rule, args)]
    if args.sort == "hits":
        rules.sort(key=lambda rule: -rule["packets"])
    if args.json:
        write_json(rules)
        return 0
    if not rules:
        write("no such rules on this host")
        return 0
    write(f"{'HITS':>9} {'PRI':>3} ACTION  MATCHES")
    group = None
    for rule in rules:
        if args.sort == "order" and rule["security_group"] != group:
            group = rule["security_group"]
            write(f"\n{fitted(group, WIDTH)}")
        write(_row(rule, named=args.sort == "hits"))
    return 0


RULES = Verb(
    name="rules",
    summary="list the rules that judge ports of this host, with the packets that each has decided",
    run=run,
    description=(
        "Counted since the agent started: first packets of connections, and those that were judged "
        "again. Groups come by id, their rules as they are evaluated. The running agent is asked, as "
        "for `status`."
    ),
    arguments=(
        Argument(
            ("--unused",),
            "only rules that have decided nothing",
            settings={"action": "store_true"},
        ),
        Argument(("--group",), "only rules of this security group", "ID"),
        Argument(
            ("--direction",),
            "only rules of this direction",
            settings={"choices": tuple(each.value for each in Direction)},
        ),
        Argument(
            ("--sort",),
            "by evaluation (as without it), or the busiest first",
            settings={"choices": SORTS, "default": "order"},
        ),
        json_option("a JSON array of objects, one a rule"),
    ),
    exits={"": {0: "listed", EXIT_ERROR: ERROR}},
    examples=(Example("secgroupctl rules --unused --direction ingress", "what might be removed"),),
)


def _wanted(rule: dict[str, Any], args: argparse.Namespace) -> bool:
    return (
        (not args.unused or not rule["packets"])
        and args.group in {None, rule["security_group"]}
        and args.direction in {None, rule["direction"]}
    )


def _row(rule: dict[str, Any], *, named: bool) -> str:
    head = f"{rule['packets']:>9} {rule['priority']:>3} {rule['action']:6}  {rule['matches']}"
    name = fitted(f"{rule['security_group']} {rule['rule']}" if named else rule["rule"], 36)
    room = WIDTH - len(name) - 2
    return f"{fitted(head, room):{min(room, 58)}}  {name}"
