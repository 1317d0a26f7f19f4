"""Arguments that several verbs take."""

import argparse
from pathlib import Path

from secgroupd.core.model import Family
from secgroupd.core.ports import protocol
from secgroupd.core.reading import Refusal
from secgroupd.usage import Argument


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


def json_option(what: str = "one JSON object") -> Argument:
    """Return ``--json`` of a verb that prints so."""
    return Argument(("--json",), f"print {what}", settings={"action": "store_true"})


DOCUMENT_HELP = "the state document: a file or a directory"
DOCUMENT = Argument(("path",), DOCUMENT_HELP, "PATH", {"type": Path})
DOCUMENTS = Argument(
    ("paths",), f"{DOCUMENT_HELP}; several are merged", "PATH", {"type": Path, "nargs": "+"}
)


def protocol_option(*, required: bool) -> Argument:
    """Return ``--protocol``."""
    meaning = "`tcp`, `udp`, `icmp` and the like, or 0 to 255"
    settings = {"type": protocol_argument, "required": required}
    return Argument(("--protocol",), meaning, "P", settings)


_END = "a port's id, an instance's id or an address"
SOURCE = Argument(
    ("--from",), f"where it comes from: {_END}", "X", {"dest": "source", "required": True}
)
DESTINATION = Argument(
    ("--to",), "where it goes to: the same", "Y", {"dest": "destination", "required": True}
)
DPORT = Argument(("--dport",), "the destination port", "N", {"type": port_argument})
