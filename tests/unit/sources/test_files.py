"""Reading a state document's files, and seeing them change."""

import os
import select
from pathlib import Path

import pytest

from secgroupd.sources.files import Watcher, read


def names(path: Path) -> list[str]:
    return [Path(source.name).name for source in read(path).sources]


def test_the_files_of_a_directory_are_read_sorted_and_others_left_alone(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", ".hidden.yaml", "#a.yaml", "a.yaml~", "notes.txt"):
        (tmp_path / name).write_text(name)
    assert names(tmp_path) == ["a.yaml", "b.yml", "c.json"]


def test_one_file_may_be_named_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    assert names(tmp_path / "state") == ["state"]


def test_what_cannot_be_read_is_a_problem_with_its_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "dead.yaml").symlink_to("nowhere")
    problems = read(tmp_path).problems
    assert [Path(p.file).name for p in problems] == ["dead.yaml", "pipe.yaml"]
    assert read(tmp_path / "missing").problems


def test_the_digest_tells_contents_and_names_apart(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x")
    first = read(tmp_path).digest
    assert read(tmp_path).digest == first
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    second = read(tmp_path).digest
    (tmp_path / "b.yaml").write_text("y")
    assert len({first, second, read(tmp_path).digest}) == 3


def stirs(watcher: Watcher) -> bool:
    """Wait until there is news; tell whether it means a change."""
    while select.select([watcher.fileno()], [], [], 3)[0]:
        if watcher.changed():
            return True
    return False


def test_a_file_renamed_into_place_is_seen(tmp_path: Path) -> None:
    with Watcher(tmp_path) as watcher:
        (tmp_path / ".new").write_text("x")
        watcher.changed()
        (tmp_path / ".new").rename(tmp_path / "a.yaml")
        assert stirs(watcher)
        (tmp_path / "a.yaml").unlink()
        assert stirs(watcher)
        assert not watcher.changed()


def test_a_directory_that_is_made_or_replaced_later_is_seen(tmp_path: Path) -> None:
    place = tmp_path / "etc" / "state.d"
    with Watcher(place) as watcher:
        place.mkdir(parents=True)
        assert stirs(watcher)
        (place / "a.yaml").write_text("x")
        assert stirs(watcher)
        place.rename(tmp_path / "old")
        assert stirs(watcher)
        place.mkdir()
        assert stirs(watcher)
        (place / "b.yaml").write_text("x")
        assert stirs(watcher)


@pytest.mark.parametrize("name", ["a.yaml"])
def test_a_single_file_is_followed_over_its_replacement(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("x")
    with Watcher(file) as watcher:
        fresh = tmp_path / "fresh"
        fresh.write_text("y")
        fresh.rename(file)
        assert stirs(watcher)
        file.write_text("z")
        assert stirs(watcher)
