"""``rules``: how often each rule has decided, as the running agent knows it."""

import argparse
from typing import Any

from secgroupd.commands.arguments import Verbs, add_json, add_verb
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import WIDTH, fitted, write, write_json
from secgroupd.control import ask

SORTS = ("order", "hits")


def add(verbs: Verbs) -> None:
    """Add the verb to the parser."""
    verb = add_verb(
        verbs,
        "rules",
        "show the rules that judge this host's ports, with how many packets each has decided",
        "0, 1: error",
    )
    verb.add_argument("--unused", action="store_true", help="only rules that decided nothing yet")
    verb.add_argument("--group", metavar="ID", help="only rules of a security group")
    verb.add_argument("--direction", choices=("ingress", "egress"), help="only rules of one")
    verb.add_argument(
        "--sort", choices=SORTS, default="order", help="by order of evaluation (default) or hits"
    )
    add_json(verb, "a JSON array of objects, one a rule")
    verb.set_defaults(run=run)


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
