"""``import``: a state document out of what a cloud's API or command line answers."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.output import complain, write
from secgroupd.core.document import MAX_BYTES, Limits, Parsed, Source, parse
from secgroupd.errors import DocumentError, ImportRefused
from secgroupd.importers import aws, huawei, openstack
from secgroupd.importers.answers import Answer
from secgroupd.importers.answers import read as read_answers
from secgroupd.importers.difference import changes
from secgroupd.importers.draft import Document
from secgroupd.importers.notes import Notes, Where
from secgroupd.importers.rendering import text
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

CLOUDS: Mapping[str, Callable[[Iterable[Answer], Notes], Document]] = {
    "huawei": huawei.convert,
    "openstack": openstack.convert,
    "aws": aws.convert,
}
"""What turns each cloud's answers into a document."""

OUTPUT = "import.yaml"
"""What problems call the document that is being made."""

_STDIN = "-"

EXIT_NOTHING, EXIT_CHANGES = 0, 2


def run(args: argparse.Namespace) -> int:
    """Print the document, or what has changed; say on stderr what was not carried over."""
    notes = Notes()
    answers = [each for file in args.files for each in read_answers(_name(file), _content(file))]
    document = CLOUDS[args.cloud](answers, notes)
    written, parsed = checked(document, notes)
    for note in notes.taken:
        complain(str(note))
    if args.diff is None:
        write(written.rstrip("\n"))
        return EXIT_NOTHING
    old = read([args.diff], load_settings(args.config))
    lines = list(changes(old.state, parsed.state))
    for line in lines:
        write(line)
    return EXIT_CHANGES if lines else EXIT_NOTHING


IMPORT = Verb(
    name="import",
    summary="make a state document out of a cloud's answers, on standard output",
    run=run,
    description=(
        "The answers are what a cloud's API or command line has printed. What a document cannot say is "
        "said on standard error, a line each: an allow is left out, a deny denies more. Nothing is "
        "asked of the cloud. [docs/import.md](import.md) says more."
    ),
    arguments=(
        Argument(
            ("--diff",),
            "print what has changed since this document was made, instead",
            "OLD",
            {"type": Path},
        ),
        Argument(
            ("cloud",),
            "whose answers they are",
            settings={"choices": tuple(CLOUDS)},
        ),
        Argument(
            ("files",),
            f"JSON; several are taken together, and `{_STDIN}` is standard input",
            "FILE",
            {"nargs": "+"},
        ),
    ),
    exits={
        "": {0: "made", EXIT_ERROR: ERROR},
        "--diff": {
            EXIT_NOTHING: "no difference",
            EXIT_CHANGES: "differences",
            EXIT_ERROR: ERROR,
        },
    },
    examples=(
        Example(
            "secgroupctl import openstack groups.json ports.json > document.yaml",
            "what the command line of an OpenStack cloud has answered, as a document",
        ),
        Example(
            "secgroupctl import --diff document.yaml openstack groups.json ports.json",
            "what has changed there since",
        ),
    ),
)


def _name(file: str) -> str:
    return "stdin" if file == _STDIN else file


def _content(file: str) -> bytes:
    """Read a file, which may be a pipe.

    Raises:
        ImportRefused: it cannot be read.
    """
    try:
        if file == _STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{file}: it cannot be read ({error.strerror}): correct its path or its rights"
        raise ImportRefused(message) from error


def checked(document: Document, notes: Notes) -> tuple[str, Parsed]:
    """Return a document's text and what ``check`` makes of it.

    Raises:
        DocumentError: it would be refused, so that nobody is to have it.
    """
    try:
        written = text(document)
        parsed = parse([Source(OUTPUT, written)], limits=Limits.WARN)
    except DocumentError as error:
        if {problem.code for problem in error.problems} != {"default-group"}:
            raise
        document = {"version": 1, "allow_default_group_changes": True, **document}
        written = text(document)
        parsed = parse([Source(OUTPUT, written)], limits=Limits.WARN)
        why = "the cloud's default group has other rules than a document's"
        notes.take(Where(OUTPUT, "the document"), "allow_default_group_changes is set", why)
    for problem in parsed.warnings:
        if problem.code == "over-limit":
            where = Where(OUTPUT, f"line {problem.line}")
            notes.take(where, "over a limit", problem.message)
    return written, parsed
