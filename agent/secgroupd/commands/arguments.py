"""Arguments that several verbs take."""

import argparse
from pathlib import Path
from typing import Protocol

from secgroupd.core.model import Family
from secgroupd.core.ports import protocol
from secgroupd.core.reading import Refusal


class Verbs(Protocol):
    """What a verb is added to: argparse's own type for it has no public name."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:  # noqa: A002 - the name is argparse's
        """Add a verb and return its parser."""


def add_verb(verbs: Verbs, name: str, summary: str, exits: str) -> argparse.ArgumentParser:
    """Add a verb with the argument that every verb takes.

    Args:
        verbs: what it is added to.
        name: its name.
        summary: what it does, in a line.
        exits: what its exit codes mean.
    """
    description = f"{summary[0].upper()}{summary[1:]}. Exit code {exits}."
    verb = verbs.add_parser(name, help=summary, description=description)
    # Suppressed, so that --config before the verb is not overwritten by this one's default.
    add_config(verb, default=argparse.SUPPRESS)
    return verb


def add_config(parser: argparse.ArgumentParser, *, default: object) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", default=default, help="the agent's settings"
    )


def add_document(parser: argparse.ArgumentParser) -> None:
    """Add the document that a verb reads."""
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="the state document: a file or a directory"
    )


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def protocol_argument(text: str) -> int:
    """Parse an argument that is a protocol."""
    try:
        return protocol(text)
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def _number(text: str, first: int, last: int) -> int:
    if not text.isdecimal() or not first <= int(text) <= last:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {first} to {last}")
    return int(text)


def port_argument(text: str) -> int:
    """Parse an argument that is a port number."""
    return _number(text, 1, 65535)


def byte_argument(text: str) -> int:
    """Parse an argument that is a number of 0 to 255."""
    return _number(text, 0, 255)


def family_argument(text: str) -> Family:
    """Parse an argument that is an IP version."""
    for family in Family:
        if family.value.lower() == text.lower():
            return family
    raise argparse.ArgumentTypeError(f"{text!r} is neither IPv4 nor IPv6")
