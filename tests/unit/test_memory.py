"""The record on disk: kept whole, or not trusted at all."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest
from tests.builders import group, port, rule, state

from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations
from secgroupd.core.marks import LAST_GENERATION
from secgroupd.core.model import State
from secgroupd.errors import StoreError
from secgroupd.memory import KEPT_BEFORE, FileMemory, PatientMemory
from secgroupd.reconcile import Record

ONE = state(
    [group("g", rule("ingress", "tcp", "80"))], [port("p", ["g"], ["10.0.0.1", "2001:db8::1"])]
)
OTHER = state([group("g")], [port("p", ["g"], ["10.0.0.2"])], revision="other")
RECORD = Record(
    ONE,
    OTHER,
    Generations(7, 6, {"p": 5}),
    {"p": Binding("tap-p"), "q": Binding('"', 3)},
    {"p": 2, "q": 3},
    (5, 7),
)


def path_in(directory: Path) -> Path:
    return directory / "accepted.json"


def broken_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.broken-*"))


@pytest.mark.parametrize(
    "record", [RECORD, Record(), Record(ONE), Record(None, ONE), Record(ONE, ONE)], ids=range(5)
)
def test_a_record_is_remembered_by_the_next_process(tmp_path: Path, record: Record) -> None:
    FileMemory(tmp_path).save(record)
    memory = FileMemory(tmp_path)
    assert memory.load() == record
    assert memory.trouble is None


def test_the_newest_record_is_remembered(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    for record in (Record(ONE), Record(OTHER), Record(ONE, OTHER), RECORD):
        memory.save(record)
        assert FileMemory(tmp_path).load() == record
    assert {path.name.rstrip(".0123456789") for path in tmp_path.iterdir()} == {"accepted.json"}
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_few_documents_of_before_are_kept_the_youngest_first(tmp_path: Path) -> None:
    states = [state([group("g")], [], revision=str(at)) for at in range(8)]
    memory = FileMemory(tmp_path)
    for at, one in enumerate(states):
        # As a cycle does: the intent, the same again, the result, and other bindings.
        before = states[at - 1] if at else None
        for record in (
            Record(before, one, Generations(at + 1, 1)),
            Record(before, one, Generations(at + 1, 1)),
            Record(one, None, Generations(at + 1, 1)),
            Record(one, None, Generations(at + 1, 1), {"p": Binding("tap-p")}),
        ):
            memory.save(record)
            # Another process goes on where this one ends.
            memory = FileMemory(tmp_path)
            assert memory.load() == record
    kept = list(FileMemory(tmp_path).before())
    assert [one.accepted for one in kept] == states[-2 : -2 - KEPT_BEFORE : -1]
    assert [one.generations.current for one in kept] == [7, 6, 5, 4]
    (tmp_path / "accepted.json.2").write_bytes(b"torn")
    assert [one.accepted for one in FileMemory(tmp_path).before()] == [
        one.accepted for one in (kept[0], *kept[2:])
    ]


def test_what_was_before_is_no_reason_not_to_keep_what_is(tmp_path: Path) -> None:
    (tmp_path / "accepted.json.1").mkdir()
    (tmp_path / "accepted.json.1" / "full").touch()
    (tmp_path / "accepted.json.2").mkdir()
    (tmp_path / "accepted.json.2" / "full").touch()
    memory = FileMemory(tmp_path)
    memory.save(Record(ONE))
    memory.save(Record(OTHER))
    assert FileMemory(tmp_path).load() == Record(OTHER)
    assert len(list(memory.before())) <= 1


INTENT = "intended.json"
CHANGED = replace(ONE, security_groups=(*ONE.security_groups, *OTHER.security_groups))
BEFORE = Record(ONE, None, Generations(7, 6, {"p": 5}), {"p": Binding("tap-p")})
INTENTS = [
    replace(BEFORE, intended=CHANGED, generations=Generations(8, 6, {"p": 5})),
    replace(BEFORE, accepted=None, intended=OTHER),
]


@pytest.mark.parametrize("record", INTENTS, ids=["of a change", "while another may be in force"])
def test_an_intent_adds_to_the_record(tmp_path: Path, record: Record) -> None:
    FileMemory(tmp_path).save(BEFORE)
    there = path_in(tmp_path).read_bytes()
    memory = FileMemory(tmp_path)
    found = memory.load()
    if record.accepted is not None:
        groups = (*found.accepted.security_groups, *OTHER.security_groups) if found.accepted else ()
        changed = replace(found.accepted or State(), security_groups=groups)
        memory.save(replace(found, intended=changed, generations=record.generations))
    else:
        memory.save(replace(found, accepted=None, intended=OTHER))
    assert path_in(tmp_path).read_bytes() == there
    assert (tmp_path / INTENT).stat().st_size < len(there)
    assert FileMemory(tmp_path).load() == record
    memory.save(Record(record.intended, None, record.generations, record.bindings))
    assert not (tmp_path / INTENT).exists()
    assert FileMemory(tmp_path).load().accepted == record.intended


def test_an_intent_to_another_record_is_void(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    memory.save(BEFORE)
    memory.save(INTENTS[0])
    left = (tmp_path / INTENT).read_bytes()
    done = Record(CHANGED, None, INTENTS[0].generations, BEFORE.bindings)
    memory.save(done)
    (tmp_path / INTENT).write_bytes(left)
    (tmp_path / INTENT).chmod(0o600)
    assert FileMemory(tmp_path).load() == done


def test_what_an_intent_does_not_say_is_in_the_record_or_the_record_is_written(
    tmp_path: Path,
) -> None:
    memory = FileMemory(tmp_path)
    for record in (
        replace(INTENTS[0], bindings={}),
        replace(INTENTS[0], accepted=OTHER),
        replace(INTENTS[0], generations=Generations(8, 8)),
        replace(INTENTS[0], intended=None),
    ):
        memory.save(BEFORE)
        memory.save(record)
        assert FileMemory(tmp_path).load() == record


def test_an_intent_with_any_byte_changed_or_cut_off_is_not_passed_over(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    memory.save(BEFORE)
    memory.save(INTENTS[0])
    record, whole = path_in(tmp_path).read_bytes(), (tmp_path / INTENT).read_bytes()
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        for content in (flipped, whole[:place]):
            for path, said in ((path_in(tmp_path), record), (tmp_path / INTENT, content)):
                path.write_bytes(said)
                path.chmod(0o600)
            assert FileMemory(tmp_path).load() in (Record(), INTENTS[0]), place


def test_no_file_is_no_trouble(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "not-made-yet")
    assert memory.load() == Record()
    assert memory.trouble is None


def test_a_file_cut_at_any_byte_is_set_aside(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    whole = path_in(tmp_path).read_bytes()
    for length in range(len(whole)):
        path_in(tmp_path).write_bytes(whole[:length])
        memory = FileMemory(tmp_path)
        assert memory.load() == Record(), length
        assert memory.trouble is not None and "set aside" in memory.trouble
        assert not path_in(tmp_path).exists()
    assert len(broken_in(tmp_path)) <= 3


def test_a_file_with_any_byte_changed_is_set_aside_or_says_the_same(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    whole = path_in(tmp_path).read_bytes()
    for place in range(len(whole)):
        path_in(tmp_path).write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        )
        assert FileMemory(tmp_path).load() in (Record(), RECORD), place


def test_a_record_from_before_links_were_kept_is_read(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    *states, standing = path_in(tmp_path).read_bytes().splitlines(keepends=True)[1:]
    older = json.loads(standing)
    assert older.pop("links") == RECORD.links
    body = b"".join([*states, json.dumps(older).encode() + b"\n"])
    header = {"format": 1, "checksum": blake2b(body, digest_size=16).hexdigest()}
    path_in(tmp_path).write_bytes(json.dumps(header).encode() + b"\n" + body)
    assert FileMemory(tmp_path).load() == replace(RECORD, links=None)


def test_only_the_newest_broken_files_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        path_in(tmp_path).write_text(f"broken {number}")
        FileMemory(tmp_path).load()
    assert broken_in(tmp_path) == [f"accepted.json.broken-{number}" for number in (4, 5, 6)]
    assert (tmp_path / "accepted.json.broken-6").read_text() == "broken 5"


def test_another_format_is_set_aside(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    head, _, body = path_in(tmp_path).read_bytes().partition(b"\n")
    header = json.loads(head) | {"format": 2}
    path_in(tmp_path).write_bytes(json.dumps(header).encode() + b"\n" + body)
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble is not None and "format is 2" in memory.trouble


@pytest.mark.parametrize("body", [b"", b"null\n", b"null\nnull\n{}\n", b"null\nnull\nnull\nnull\n"])
def test_content_that_fits_its_checksum_and_is_no_record_is_set_aside(
    tmp_path: Path, body: bytes
) -> None:
    header = {"format": 1, "checksum": blake2b(body, digest_size=16).hexdigest()}
    path_in(tmp_path).write_bytes(json.dumps(header).encode() + b"\n" + body)
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble is not None


def test_a_record_of_a_generation_that_no_mark_can_hold_is_set_aside(tmp_path: Path) -> None:
    """Nothing was ever stamped with it, and nothing above it could be."""
    FileMemory(tmp_path).save(RECORD)
    body = path_in(tmp_path).read_bytes().partition(b"\n")[2]
    body = body.replace(b'"current":7', b'"current":%d' % (LAST_GENERATION + 1))
    header = {"format": 1, "checksum": blake2b(body, digest_size=16).hexdigest()}
    path_in(tmp_path).write_bytes(json.dumps(header).encode() + b"\n" + body)
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble is not None and "no mark can hold" in memory.trouble


def test_what_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    path_in(tmp_path).mkdir()
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble is not None and "cannot be read" in memory.trouble
    memory.save(RECORD)
    assert memory.load() == RECORD


def test_a_write_that_was_cut_short_leaves_the_record_before(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    (tmp_path / "accepted.json.new").write_bytes(path_in(tmp_path).read_bytes()[:100])
    memory = FileMemory(tmp_path)
    assert memory.load() == RECORD
    memory.save(Record(ONE))
    assert FileMemory(tmp_path).load() == Record(ONE)


def test_a_directory_that_takes_nothing_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot keep the record"):
        FileMemory(tmp_path / "missing").save(RECORD)


@contextmanager
def gone(directory: Path) -> Iterator[None]:
    hidden = directory.with_name("hidden")
    directory.rename(hidden)
    yield
    hidden.rename(directory)


def test_patience_keeps_what_the_store_does_not_take_and_tries_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    memory = PatientMemory(FileMemory(store))
    memory.save(Record(ONE))
    assert memory.trouble is None
    with gone(store):
        memory.save(RECORD)
        assert memory.trouble is not None
        assert memory.load() == RECORD
        memory.retry()
        assert memory.trouble is not None
    assert FileMemory(store).load() == Record(ONE)
    memory.retry()
    assert memory.trouble is None
    assert FileMemory(store).load() == RECORD


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond a size; as on a full disk, a write is done in part or refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1, 100, 500])
def test_a_disk_without_room_leaves_the_record_before(tmp_path: Path, size: int) -> None:
    memory = FileMemory(tmp_path)
    memory.save(Record(ONE))
    with room_for(size), pytest.raises(StoreError, match="cannot keep the record"):
        memory.save(RECORD)
    assert FileMemory(tmp_path).load() == Record(ONE)
    memory.save(RECORD)
    assert FileMemory(tmp_path).load() == RECORD


def test_a_link_in_the_place_of_the_fresh_file_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "accepted.json.new").symlink_to(victim)
    with pytest.raises(StoreError):
        FileMemory(tmp_path).save(RECORD)
    assert victim.read_text() == "mine"


def test_a_file_that_nests_without_end_is_set_aside(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(Record())
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"[" * 100_000)
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble


def _linked(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to(path.with_name("kept"))


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm",
    [lambda path: os.chown(path, 4711, 0), lambda path: path.chmod(0o646), _linked, _piped],
    ids=["another's", "writable for all", "a link", "a pipe"],
)
def test_a_record_that_anybody_else_can_have_written_is_set_aside(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    FileMemory(tmp_path).save(RECORD)
    harm(path_in(tmp_path))
    memory = FileMemory(tmp_path)
    assert memory.load() == Record() and memory.trouble is not None
    assert "set aside" in memory.trouble and not os.path.lexists(path_in(tmp_path))


def test_a_record_of_the_owner_of_its_directory_is_believed(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 0)
    FileMemory(tmp_path).save(RECORD)
    assert path_in(tmp_path).stat().st_uid == 4711
    assert FileMemory(tmp_path).load() == RECORD
