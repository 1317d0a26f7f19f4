"""Reading what the command line names: settings, state documents, files of tests."""

from collections.abc import Iterable
from pathlib import Path

from secgroupd.commands.progress import working
from secgroupd.config import Settings
from secgroupd.config import load as load_settings
from secgroupd.core.document import Parsed, Source, parse
from secgroupd.core.model import State
from secgroupd.errors import DocumentError, Problem, StoreError
from secgroupd.memory import FileMemory
from secgroupd.reconcile import Record
from secgroupd.sources import files

__all__ = ["in_force", "load_settings", "read", "read_file"]


def read(paths: Iterable[Path], settings: Settings) -> Parsed:
    """Read and parse a state document that is spread over files and directories.

    Raises:
        DocumentError: it is refused, or something cannot be read.
    """
    with working("reading the document"):
        return _read(paths, settings)


def _read(paths: Iterable[Path], settings: Settings) -> Parsed:
    readings = [files.read(path) for path in paths]
    problems = tuple(problem for reading in readings for problem in reading.problems)
    if problems:
        raise DocumentError(problems)
    return parse(
        [source for reading in readings for source in reading.sources], limits=settings.limits
    )


def in_force(settings: Settings) -> tuple[FileMemory, Record, State]:
    """Return the memory, what it remembers, and the document that is in force by it.

    Raises:
        StoreError: nothing is.
    """
    memory = FileMemory(settings.state_dir)
    record = memory.load()
    if record.accepted is None:
        nothing = f"nothing is in force: no record in {settings.state_dir}"
        raise StoreError(memory.trouble or nothing)
    return memory, record, record.accepted


def read_file(path: Path) -> Source:
    """Read one file whole.

    Raises:
        DocumentError: it cannot be read.
    """
    reading = files.read(path)
    if reading.problems:
        raise DocumentError(reading.problems)
    if path.is_dir():
        message = "it is a directory: name the one file that is meant"
        raise DocumentError((Problem(str(path), 1, 1, "unreadable", message),))
    return reading.sources[0]
