"""``secgroupctl``: everything that a person or a script asks of secgroupd."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

from secgroupd.commands import (
    check,
    drops,
    enforce,
    explain,
    graph,
    guard,
    importing,
    reach,
    rules,
    status,
    trace,
)
from secgroupd.commands.output import abandon_stdout, complain, complain_of, counted
from secgroupd.errors import DocumentError, SecgroupdError
from secgroupd.prose import sentence
from secgroupd.usage import EXIT_ERROR, EXIT_USAGE, add_verb, options, program

NAME = "secgroupctl"
SUMMARY = "check, explain, test and enforce cloud security groups"

VERBS = (
    check.CHECK,
    check.COMPILE,
    enforce.PLAN,
    enforce.APPLY,
    explain.EXPLAIN,
    reach.TEST,
    graph.GRAPH,
    importing.IMPORT,
    status.STATUS,
    rules.RULES,
    drops.DROPS,
    trace.TRACE,
    enforce.FLUSH,
    guard.GUARD,
)
"""What the program does, in the order in which it is told."""

EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141

EXITS = {
    EXIT_USAGE: "wrong usage",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_BROKEN_PIPE: "nobody reads the output any more",
}
"""What exit codes mean with every verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    Args:
        argv: the arguments without the program's name; None takes the process's own.

    Raises:
        SystemExit: wrong usage (2), or help was asked for (0).
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files and interfaces may be no text at all; that must not stop a report.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        code = run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except DocumentError as error:
        complain_of(error.problems)
        complain(f"secgroupctl: refused: {counted(len(error.problems), 'problem')}")
        return EXIT_ERROR
    except SecgroupdError as error:
        complain(f"secgroupctl: {' '.join(str(error).split())}")
        return EXIT_ERROR
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made = program(NAME, sentence(SUMMARY), options(NAME))
    verbs = made.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        add_verb(verbs, NAME, verb)
    return made


if __name__ == "__main__":
    sys.exit(main())
