"""What is remembered survives whatever can happen to a file."""

from pathlib import Path
from random import Random

import pytest
from tests.drawing import Drawing

from secgroupd.core.compiler import Binding, Generations
from secgroupd.errors import StoreError
from secgroupd.memory import FileMemory, PatientMemory
from secgroupd.reconcile import Record

RECORD = Record(
    accepted=Drawing(Random(1)).state(),
    intended=Drawing(Random(2)).state(),
    generations=Generations(7, 6, {"p1": 5}),
    bindings={"p1": Binding('tap"1', 4), "p2": Binding("tap2")},
)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    FileMemory(tmp_path).save(RECORD)
    fresh = FileMemory(tmp_path)
    assert fresh.load() == RECORD
    assert fresh.trouble is None


def test_without_a_file_the_record_is_empty(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble is None


def test_a_file_cut_at_any_byte_gives_an_empty_record_and_is_set_aside(tmp_path: Path) -> None:
    small = Record(generations=Generations(3, 3, {}), bindings={"p": Binding("tap1")})
    FileMemory(tmp_path).save(small)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        memory = FileMemory(tmp_path)
        assert memory.load() in (Record(), small)
        if memory.trouble is not None:
            assert not file.exists() and "set aside" in memory.trouble
    assert len(list(tmp_path.iterdir())) < 10, "not every broken file is kept"


@pytest.mark.parametrize("at", [0, 10, 60, -5])
def test_a_changed_byte_is_noticed(tmp_path: Path, at: int) -> None:
    FileMemory(tmp_path).save(RECORD)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    memory = FileMemory(tmp_path)
    assert memory.load() == Record()
    assert memory.trouble


def test_what_the_store_refuses_is_kept_until_it_takes_it(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    memory = PatientMemory(FileMemory(directory))
    with pytest.raises(StoreError):
        FileMemory(directory).save(RECORD)
    memory.save(RECORD)
    assert memory.trouble and memory.load() == RECORD
    directory.mkdir()
    memory.retry()
    assert memory.trouble is None
    assert FileMemory(directory).load() == RECORD
