"""``secgroupctl``: everything that a person or a script asks of secgroupd."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

from secgroupd import __version__
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
from secgroupd.commands.arguments import add_config
from secgroupd.commands.output import abandon_stdout, complain, complain_of, counted
from secgroupd.errors import DocumentError, SecgroupdError

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 130, 141


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
    made = argparse.ArgumentParser(
        prog="secgroupctl",
        description="Check, explain, test and enforce cloud security groups on this host.",
    )
    made.add_argument("--version", action="version", version=f"secgroupctl {__version__}")
    add_config(made, default=None)
    verbs = made.add_subparsers(title="verbs", metavar="VERB", required=True)
    for group in (
        check,
        explain,
        graph,
        reach,
        importing,
        enforce,
        guard,
        status,
        rules,
        drops,
        trace,
    ):
        group.add(verbs)
    return made


if __name__ == "__main__":
    sys.exit(main())
