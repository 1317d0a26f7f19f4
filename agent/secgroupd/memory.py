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
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from secgroupd.core.codec import (
    CodecError,
    Texts,
    decode,
    decode_since,
    encode,
    encode_known,
    encode_since,
)
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations
from secgroupd.core.model import State
from secgroupd.errors import StoreError
from secgroupd.ownership import Distrust, check_mode, check_owner, hand_over
from secgroupd.reconcile import Memory, Record

FILE, INTENT = "accepted.json", "intended.json"
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
    links: Mapping[str, int] | None = None
    """A record that was kept before there were any says nothing of them."""
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Intent:
    """What a cycle adds to the record before it commits.

    Attributes:
        base: the checksum of the record that it adds to; with another one in its place it is void.
        accepted: whether the record's document still counts as accepted.
        current: the generation that is about to be stamped.
    """

    base: str
    accepted: bool
    current: int


class FileMemory:
    """Keeps the record in ``accepted.json`` of a directory that must be there when it is saved.

    The file has two lines or more: a header with format and checksum, and the record. A commit waits
    for its intent to be on the disk, which therefore has a file of its own, ``intended.json``: like the
    other, and no larger than what changes.

    Attributes:
        trouble: why the last ``load`` gave an empty record although there was a file; else None.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / FILE
        self._known: Texts = {}
        self._whole: Record | None = None
        """What is in the record's file, without regard to the intent's."""
        self._sum = ""
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
            self._sum, body = _checked(content)
            self._whole = self._decoded(body)
        except ValueError as error:
            return self._refuse(str(error))
        return self._with_intent(self._whole)

    def _with_intent(self, whole: Record) -> Record:
        path = self._directory / INTENT
        try:
            _, body = _checked(self._content(path))
            head, document = body.splitlines()
            intent = decode(_Intent, head)
            if intent.base != self._sum:
                return whole
            intended = decode_since(State, document, whole.accepted or State())
            generations = replace(whole.generations, current=intent.current)
        except FileNotFoundError:
            return whole
        except (ValueError, OSError, Distrust) as error:
            # What may have been let in meanwhile cannot be known: nothing counts.
            self._discard_intent()
            return self._refuse(f"{path} is not to be believed: {error}")
        accepted = whole.accepted if intent.accepted else None
        return replace(whole, accepted=accepted, intended=intended, generations=generations)

    def before(self) -> Iterator[Record]:
        """Yield the records of documents that were in force before, the youngest first.

        What cannot be read is left out: nothing but explanations depends on it.
        """
        for number in range(1, KEPT_BEFORE + 1):
            try:
                yield self._decoded(_checked(self._content(self._earlier(number)))[1])
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
        try:
            if self._adds_intent(record):
                self._write(self._directory / INTENT, self._encoded_intent(record))
                return
            body = self._encoded(record)
            if _leaves(self._whole, record):
                self._keep_earlier()
            self._write(self._path, body)
        except OSError as error:
            raise StoreError(f"cannot keep the record in {self._path}: {error.strerror}") from error
        self._whole, self._sum = record, _checksum(body)
        self._discard_intent()

    def _adds_intent(self, record: Record) -> bool:
        """Tell whether the record's file need only be added to: all the rest of it stays true."""
        whole = self._whole
        if whole is None or whole.intended is not None or record.intended is None:
            return False
        if record.accepted is not None and record.accepted is not whole.accepted:
            return False
        same = replace(record.generations, current=whole.generations.current) == whole.generations
        same = same and record.left == whole.left
        return same and record.bindings is whole.bindings and record.links is whole.links

    def _encoded_intent(self, record: Record) -> bytes:
        assert self._whole is not None
        intent = _Intent(self._sum, record.accepted is not None, record.generations.current)
        base = self._whole.accepted or State()
        document = encode_since(State, record.intended or State(), base)
        return f"{encode(_Intent, intent)}\n{document}\n".encode()

    def _discard_intent(self) -> None:
        # Where it stays, it adds to another record than the one there is, and is void.
        with suppress(OSError):
            (self._directory / INTENT).unlink()

    def _write(self, path: Path, body: bytes) -> None:
        fresh = path.with_name(f"{path.name}.new")
        header = {"format": FORMAT, "checksum": _checksum(body)}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(fresh, flags, 0o600), "wb") as file:  # noqa: PTH123
            file.write(json.dumps(header).encode() + b"\n")
            file.write(body)
            file.flush()
            hand_over(file.fileno(), self._directory)
            os.fsync(file.fileno())
        fresh.replace(path)
        self._sync_directory()

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
        standing = _Standing(record.generations, record.bindings, record.links, record.left)
        lines = [
            self._text(record.accepted),
            self._text(record.intended),
            encode(_Standing, standing),
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    def _text(self, state: State | None) -> str:
        if state is None:
            return "null"
        text, known = encode_known(State, state, self._known)
        self._known = known
        return text

    @staticmethod
    def _decoded(body: bytes) -> Record:
        accepted, intended, standing = body.splitlines()
        small = decode(_Standing, standing)
        return Record(
            _state(accepted),
            _state(intended),
            small.generations,
            small.bindings,
            small.links,
            small.left,
        )

    def _refuse(self, reason: str) -> Record:
        self._whole, aside = None, self._set_aside()
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


def _checked(content: bytes) -> tuple[str, bytes]:
    """Return the checksum of a file, and what it says.

    Raises:
        CodecError: it is torn, or of another format.
    """
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
    return checksum, body


def _state(line: bytes) -> State | None:
    return None if line == b"null" else decode(State, line)


def _checksum(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()
