"""The record on disk: written whole or not at all, and never trusted without its checksum.

A record that cannot be read costs connections their standing, not safety: everything is judged
again. So whatever is wrong with the file, it is set aside for a person to look at, and the agent
goes on with an empty record.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from secgroupd.core.codec import CodecError, Texts, decode, encode, encode_known
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations
from secgroupd.core.model import State
from secgroupd.errors import StoreError
from secgroupd.ownership import Distrust, check_mode, check_owner, hand_over
from secgroupd.reconcile import Memory, Record

FILE = "accepted.json"
FORMAT = 1
"""Version of the file's format; one with another is set aside."""

KEPT_BEFORE = 4
"""Records of documents that were in force before, by which connections that they let in are known."""

KEPT_ASIDE = 3
"""Broken files that are kept; the oldest goes first."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """The part of a record that is small and changes often."""

    generations: Generations
    bindings: Mapping[str, Binding]


class FileMemory:
    """Keeps the record in ``accepted.json`` of a directory that must be there when it is saved.

    The file has two lines or more: a header with format and checksum, and the record.

    Attributes:
        trouble: why the last ``load`` gave an empty record although there was a file; else None.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / FILE
        self._texts: list[tuple[State, str]] = []
        self._known: Texts = {}
        self._saved: Record | None = None
        self.trouble: str | None = None

    def load(self) -> Record:
        """Return the record; an empty one when there is none, or none that can be read."""
        self.trouble = None
        try:
            content = self._content(self._path)
        except FileNotFoundError:
            return Record()
        except Distrust as error:
            return self._refuse(str(error))
        except OSError as error:
            return self._refuse(f"it cannot be read: {error.strerror}")
        try:
            self._saved = self._decoded(content)
        except ValueError as error:
            return self._refuse(str(error))
        return self._saved

    def before(self) -> Iterator[Record]:
        """Yield the records of documents that were in force before, the youngest first.

        What cannot be read is left out: nothing but explanations depends on it.
        """
        for number in range(1, KEPT_BEFORE + 1):
            try:
                yield self._decoded(self._content(self._earlier(number)))
            except (OSError, ValueError, Distrust):
                continue

    def _earlier(self, number: int) -> Path:
        return self._path.with_name(f"{FILE}.{number}")

    def _content(self, path: Path) -> bytes:
        # A link would be followed with more rights than whoever made it has.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Distrust("it is not a regular file")
            check_owner(found, self._directory.stat().st_uid)
            check_mode(found)
            return file.read()

    def save(self, record: Record) -> None:
        """Keep a record: it is on the disk when this returns, or the one before still is.

        Raises:
            StoreError: the directory is missing, read-only or full.
        """
        content = self._encoded(record)
        if _leaves(self._saved, record):
            self._keep_earlier()
        fresh = self._path.with_name(f"{FILE}.new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(fresh, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(content)
                file.flush()
                hand_over(file.fileno(), self._directory)
                os.fsync(file.fileno())
            fresh.replace(self._path)
            self._sync_directory()
        except OSError as error:
            raise StoreError(f"cannot keep the record in {self._path}: {error.strerror}") from error
        self._saved = record

    def _keep_earlier(self) -> None:
        """Keep what is in force as a record of before; if that cannot be, it is not worth trouble."""
        try:
            for number in range(KEPT_BEFORE - 1, 0, -1):
                with suppress(FileNotFoundError):
                    self._earlier(number).replace(self._earlier(number + 1))
            self._earlier(1).hardlink_to(self._path)
        except OSError:
            return

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _encoded(self, record: Record) -> bytes:
        standing = _Standing(record.generations, record.bindings)
        lines = [
            self._text(record.accepted),
            self._text(record.intended),
            encode(_Standing, standing),
        ]
        kept = [state for state in (record.accepted, record.intended) if state is not None]
        self._texts = [
            (known, text) for known, text in self._texts if any(known is k for k in kept)
        ]
        body = "".join(f"{line}\n" for line in lines).encode()
        header = {"format": FORMAT, "checksum": _checksum(body)}
        return json.dumps(header).encode() + b"\n" + body

    def _text(self, state: State | None) -> str:
        # A state is most of the file, and mostly the same one is saved again with other bindings.
        if state is None:
            return "null"
        for known, text in self._texts:
            if known is state:
                return text
        text, self._known = encode_known(State, state, self._known)
        self._texts.append((state, text))
        return text

    def _decoded(self, content: bytes) -> Record:
        head, _, body = content.partition(b"\n")
        try:
            header = json.loads(head)
            version, checksum = header["format"], header["checksum"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CodecError("it is torn or damaged: its first line is not a header") from None
        if version != FORMAT:
            raise CodecError(f"its format is {str(version)[:20]}, and only {FORMAT} is understood")
        if checksum != _checksum(body):
            raise CodecError("it is torn or damaged: its checksum does not fit")
        accepted, intended, standing = body.splitlines()
        small = decode(_Standing, standing)
        return Record(_state(accepted), _state(intended), small.generations, small.bindings)

    def _refuse(self, reason: str) -> Record:
        aside = self._set_aside()
        self.trouble = f"{self._path} is not used: {reason}; {aside}"
        return Record()

    def _set_aside(self) -> str:
        try:
            suffixes = (
                path.name.rpartition("-")[2] for path in self._directory.glob(f"{FILE}.broken-*")
            )
            numbers = sorted(int(each) for each in suffixes if each.isascii() and each.isdecimal())
            name = f"{FILE}.broken-{numbers[-1] + 1 if numbers else 1}"
            self._path.rename(self._path.with_name(name))
            for number in numbers[: -(KEPT_ASIDE - 1)]:
                self._path.with_name(f"{FILE}.broken-{number}").unlink()
        except OSError as error:
            return f"it stays where it is ({error.strerror})"
        return f"it was set aside as {name}"


class PatientMemory:
    """A memory whose ``save`` always succeeds: what the store does not take now is kept for later.

    So a full disk does not stop enforcement. Should the agent die meanwhile, the next one begins
    from an older record, which at worst clears more connections.

    Attributes:
        trouble: why the store has not taken the newest record; None when it has.
    """

    def __init__(self, store: Memory) -> None:
        self._store = store
        self._pending: Record | None = None
        self.trouble: str | None = None

    def load(self) -> Record:
        """Return what is remembered."""
        return self._store.load() if self._pending is None else self._pending

    def save(self, record: Record) -> None:
        """Keep a record, in the store if it takes it."""
        self._pending = record
        self.retry()

    def retry(self) -> None:
        """Try once more to save what the store has not taken yet, if anything."""
        if self._pending is None:
            return
        try:
            self._store.save(self._pending)
        except StoreError as error:
            self.trouble = str(error)
        else:
            self._pending = self.trouble = None


def _leaves(saved: Record | None, record: Record) -> bool:
    """Tell whether a record is the first one by which the saved one's document may be out of force."""
    if saved is None or saved.accepted is None or saved.intended is not None:
        return False
    others = (state for state in (record.accepted, record.intended) if state is not None)
    return any(state is not saved.accepted and state != saved.accepted for state in others)


def _state(line: bytes) -> State | None:
    return None if line == b"null" else decode(State, line)


def _checksum(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()
