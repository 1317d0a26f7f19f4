"""``check`` and ``compile``: what can be said about a document without looking at the host."""

import argparse

from secgroupd.commands.arguments import DOCUMENT, DOCUMENTS, json_option
from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.output import complain, complain_of_doubts, counted, write, write_json
from secgroupd.core.bindings import bind
from secgroupd.core.compiler import compile_host
from secgroupd.core.host import Generations, Host
from secgroupd.core.policy import Policy
from secgroupd.dataplane.links import Links
from secgroupd.errors import DocumentError, Problem
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

PAGE = "docs/warnings.md"
"""The page with a section for each code of a warning."""

EXIT_FINE, EXIT_REFUSED = 0, 1


def run_check(args: argparse.Namespace) -> int:
    """Print every error and warning of a document."""
    settings = load_settings(args.config)
    problems: tuple[Problem, ...]
    revision: str | None = None
    try:
        parsed = read(args.paths, settings)
        problems, revision = parsed.warnings, parsed.state.revision
    except DocumentError as error:
        problems = error.problems
    errors = sum(problem.severity == "error" for problem in problems)
    doubts = len(problems) - errors
    refused = bool(errors or (args.strict and doubts))
    if args.json:
        found_problems = [_as_json(problem) for problem in problems]
        write_json({"ok": not refused, "revision": revision, "problems": found_problems})
    else:
        for problem in problems:
            write(str(problem))
        if doubts:
            write(f"Each warning's [code] is explained in {PAGE}.")
        found = f"{counted(errors, 'error')}, {counted(doubts, 'warning')}"
        if doubts and args.strict:
            found += ", counted as errors (--strict)"
        write(f"{'refused' if refused else 'fine'}: {found}")
    return EXIT_REFUSED if refused else EXIT_FINE


CHECK = Verb(
    name="check",
    summary="validate a document, and find what is doubtful in it",
    run=run_check,
    description=(
        "Every error and warning is printed as *FILE*:*LINE*:*COLUMN*. Warnings are about rules that "
        "never decide, that others make redundant or that contradict each other, outbound denies "
        "behind a group that allows everything, management ports open to the world, peers that are "
        "nobody, empty and unused groups, load balancers that exempt nothing, and the cloud's limits; "
        "none changes what is enforced. "
        f"[{PAGE}](warnings.md) explains each by its code."
    ),
    arguments=(
        Argument(("--strict",), "count warnings as errors", settings={"action": "store_true"}),
        json_option("one JSON object, also with the revision that agents will report"),
        DOCUMENTS,
    ),
    exits={"": {EXIT_FINE: "fine", EXIT_REFUSED: "refused (with `--strict` also by a warning)"}},
    examples=(
        Example("secgroupctl check --strict /etc/secgroupd/state.d", "what a pipeline asks"),
    ),
)


def _as_json(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "severity": problem.severity,
        "code": problem.code,
        "message": problem.message,
    }


def run_compile(args: argparse.Namespace) -> int:
    """Print the ruleset as nft text."""
    settings = load_settings(args.config)
    parsed = read([args.path], settings)
    complain_of_doubts(parsed.warnings)
    policy = Policy(parsed.state)
    # What the document names is compiled, whether this host has it or not.
    with Links() as links:
        bound = bind(policy, settings.host_id, links.read())
    for port in policy.ports.values():
        if port.host_id in {None, settings.host_id} and port.id not in bound.bindings:
            complain(f"left out: {port.id}: {bound.waiting.get(port.id, 'it names no interface')}")
    host = Host(bound.bindings, settings.managed_interfaces, settings.timeouts)
    tables = compile_host(policy, host, Generations(mode=settings.clearing))
    write("\n\n".join(table.text().rstrip("\n") for table in tables.values()))
    return 0


COMPILE = Verb(
    name="compile",
    summary="print the complete nft ruleset that this host would get",
    run=run_compile,
    description=(
        "Ports of this host that the document gives no interface are named on standard error."
    ),
    arguments=(DOCUMENT,),
    exits={"": {0: "printed", EXIT_ERROR: ERROR}},
)
