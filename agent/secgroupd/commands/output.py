"""Writing for people at a terminal and for programs that read JSON."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TextIO

from secgroupd.errors import Problem

DOUBTS_SHOWN = 10
"""How many of a document's warnings verbs show that are about something else."""

WIDTH = 80
"""Columns of the terminal that output is made for."""


class Colour(StrEnum):
    """What a text means, as terminals are told it (ECMA-48, SGR)."""

    GOOD = "32"
    BAD = "31"
    DOUBTFUL = "33"


def painted(text: str, colour: Colour, stream: TextIO | None = None) -> str:
    """Return a text in a colour, where a person at a terminal wants any (https://no-color.org)."""
    stream = sys.stdout if stream is None else stream
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in {None, "dumb"}
    return text if plain or not stream.isatty() else f"\x1b[{colour.value}m{text}\x1b[0m"


def write(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def write_json(value: object) -> None:
    """Write a value as one line of JSON to stdout."""
    write(json.dumps(value, ensure_ascii=False))


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(text + "\n")


def complain_of(problems: Iterable[Problem]) -> None:
    """Write problems to stderr, one a line."""
    for problem in problems:
        complain(str(problem))


def complain_of_doubts(warnings: Sequence[Problem]) -> None:
    """Write the first of a document's warnings to stderr, and where the others are."""
    complain_of(warnings[:DOUBTS_SHOWN])
    if len(warnings) > DOUBTS_SHOWN:
        complain(f"and {len(warnings) - DOUBTS_SHOWN} more: secgroupctl check shows them all")


def abandon_stdout() -> None:
    """Let go of a stdout that nobody reads, so that the flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it belongs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def fitted(text: str, width: int) -> str:
    """Return text that is no longer than ``width``."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
