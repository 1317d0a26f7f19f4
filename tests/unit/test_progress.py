"""What a person at a terminal is told, and nobody else."""

import io
import os
import pty
import select
from collections.abc import Iterator
from typing import TextIO

import pytest

from secgroupd.commands.output import Colour, painted
from secgroupd.commands.progress import CLEAR, working


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as stream:  # noqa: PTH123
        yield master, stream
    os.close(master)


def test_what_takes_long_says_so_and_leaves_nothing_behind(terminal: tuple[int, TextIO]) -> None:
    master, stream = terminal
    with working("reading the document", stream):
        assert select.select([master], [], [], 10)[0]
    said = os.read(master, 1000).decode()
    while not said.endswith(CLEAR):
        said += os.read(master, 1000).decode()
    assert said.startswith(f"{CLEAR}reading the document ... 1 s")


def test_what_is_quick_says_nothing(terminal: tuple[int, TextIO]) -> None:
    master, stream = terminal
    with working("reading the document", stream):
        pass
    assert not select.select([master], [], [], 0)[0]


def test_programs_are_told_nothing() -> None:
    stream = io.StringIO()
    with working("reading the document", stream):
        assert not select.select([], [], [], 1.1)[0]
    assert stream.getvalue() == ""


def test_colour_is_for_terminals_alone(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream = terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert painted("DENY", Colour.BAD, stream) == "\x1b[31mDENY\x1b[0m"
    assert painted("DENY", Colour.BAD, io.StringIO()) == "DENY"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("DENY", Colour.BAD, stream) == "DENY"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert painted("DENY", Colour.BAD, stream) == "DENY"
