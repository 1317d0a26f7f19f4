"""Reading a directory of documents, and seeing it change."""

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secgroupd.sources import files
from secgroupd.sources.files import Watcher, read

PATIENCE = 10.0


def names(path: Path) -> list[str]:
    return [Path(source.name).name for source in read(path).sources]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "etc" / "state.d"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def watcher(directory: Path) -> Iterator[Watcher]:
    with Watcher(directory) as made:
        yield made


def sees(watcher: Watcher) -> bool:
    """Wait for a change; False when the events so far (or none for a while) are none."""
    ready, _, _ = select.select([watcher], [], [], PATIENCE)
    return bool(ready) and watcher.changed()


def silent(watcher: Watcher) -> bool:
    return not watcher.changed()


def test_documents_are_read_in_order_and_nothing_else_is(directory: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", ".h.yaml", "#d.yaml", "e.yaml~", ".f.yaml.swp", "g"):
        (directory / name).write_text(name)
    (directory / ".#link.yaml").symlink_to("someone@somewhere")
    assert names(directory) == ["a.yml", "b.yaml", "c.json"]
    assert [source.text for source in read(directory).sources] == [b"a.yml", b"b.yaml", b"c.json"]
    assert read(directory).problems == ()


def test_a_single_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "cloud").write_text("x")
    assert names(tmp_path / "cloud") == ["cloud"]


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_read(directory: Path) -> None:
    (directory / "a.yaml").write_text("a")
    (directory / "b.yaml").mkdir()
    os.mkfifo(directory / "c.yaml")
    (directory / "d.yaml").symlink_to("nowhere")
    found = read(directory)
    assert [Path(source.name).name for source in found.sources] == ["a.yaml"]
    assert [Path(problem.file).name for problem in found.problems] == ["b.yaml", "c.yaml", "d.yaml"]
    assert {problem.code for problem in found.problems} == {"unreadable"}


def test_a_missing_directory_is_a_problem(tmp_path: Path) -> None:
    found = read(tmp_path / "missing")
    assert found.sources == ()
    assert [problem.code for problem in found.problems] == ["unreadable"]


def test_an_empty_directory_has_no_sources_and_no_problems(directory: Path) -> None:
    assert (read(directory).sources, read(directory).problems) == ((), ())


def test_the_digest_tells_contents_names_and_problems_apart(directory: Path) -> None:
    seen = [read(directory).digest]
    (directory / "a.yaml").write_text("12")
    seen.append(read(directory).digest)
    (directory / "a.yaml").write_text("1")
    seen.append(read(directory).digest)
    (directory / "b.yaml").write_text("2")
    seen.append(read(directory).digest)
    (directory / "b.yaml").rename(directory / "c.yaml")
    seen.append(read(directory).digest)
    (directory / "d.yaml").mkdir()
    seen.append(read(directory).digest)
    assert len(set(seen)) == len(seen)
    os.utime(directory / "a.yaml")
    assert read(directory).digest == seen[-1]


def test_a_file_counts_when_its_writer_is_done(directory: Path, watcher: Watcher) -> None:
    with (directory / "a.yaml").open("w") as file:
        file.write("half")
        file.flush()
        assert silent(watcher)
        file.write("whole")
    assert sees(watcher)
    assert silent(watcher)


def test_moving_linking_and_deleting_count(directory: Path, watcher: Watcher) -> None:
    outside = directory.parent / "new"
    outside.write_text("x")
    assert silent(watcher)
    outside.rename(directory / "a.yaml")
    assert sees(watcher)
    (directory / "b.yaml").symlink_to("a.yaml")
    assert sees(watcher)
    (directory / "c.yaml").hardlink_to(directory / "a.yaml")
    assert sees(watcher)
    (directory / "a.yaml").unlink()
    assert sees(watcher)
    (directory / "b.yaml").rename(outside)
    assert sees(watcher)
    (directory / "c.yaml").chmod(0o600)
    assert sees(watcher)


def test_events_that_are_waiting_grow_until_they_are_taken(
    directory: Path, watcher: Watcher
) -> None:
    assert watcher.queued() == 0
    (directory / "a.yaml").write_text("x")
    first = watcher.queued()
    (directory / "b.yaml").write_text("x")
    assert watcher.queued() > first > 0
    assert watcher.changed()
    assert watcher.queued() == 0


def test_a_directory_that_is_made_later_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "state.d"
    with Watcher(path) as watcher:
        (tmp_path / "other").mkdir()
        assert silent(watcher)
        path.mkdir(parents=True)
        assert sees(watcher)
        (path / "x.yaml").write_text("x")
        assert sees(watcher)


def test_a_directory_that_is_replaced_is_watched(directory: Path, watcher: Watcher) -> None:
    directory.rename(directory.with_name("old"))
    assert sees(watcher)
    (directory.with_name("old") / "x.yaml").write_text("x")
    watcher.changed()
    directory.mkdir()
    assert sees(watcher)
    (directory / "y.yaml").write_text("y")
    assert sees(watcher)
    (directory / "y.yaml").unlink()
    directory.rmdir()
    assert sees(watcher)


def test_a_symbolic_link_that_is_turned_round_is_followed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path = tmp_path / "state.d"
    path.symlink_to("one")
    with Watcher(path) as watcher:
        (tmp_path / "next").symlink_to("two")
        assert silent(watcher)
        (tmp_path / "next").rename(path)
        assert sees(watcher)
        (tmp_path / "two" / "x.yaml").write_text("x")
        assert sees(watcher)
        (tmp_path / "one" / "x.yaml").write_text("x")
        assert silent(watcher)


def test_a_single_file_is_watched_while_it_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cloud.yaml"
    path.write_text("one")
    with Watcher(path) as watcher:
        path.write_text("two")
        assert sees(watcher)
        watcher.changed()
        fresh = tmp_path / "fresh"
        fresh.write_text("three")
        assert silent(watcher)
        fresh.rename(path)
        assert sees(watcher)
        watcher.changed()
        path.write_text("four")
        assert sees(watcher)


def test_more_events_than_the_kernel_keeps_are_a_change(directory: Path, watcher: Watcher) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, other = directory / "x", directory / "y"
    one.write_text("")
    for _ in range(limit // 2 + 1):
        one.rename(other)
        one, other = other, one
    assert sees(watcher)
    assert silent(watcher)
    (directory / "a.yaml").write_text("a")
    assert sees(watcher)


STRANGER = 4711


def _foreign_file(directory: Path) -> None:
    os.chown(directory / "a.yaml", STRANGER, 0)


def _foreign_directory(directory: Path) -> None:
    os.chown(directory, STRANGER, 0)


def _foreign_link(directory: Path) -> None:
    (directory / "a.yaml").rename(directory / "kept")
    (directory / "a.yaml").symlink_to("kept")
    os.chown(directory / "a.yaml", STRANGER, 0, follow_symlinks=False)


def _link_to_foreign(directory: Path) -> None:
    _foreign_file(directory)
    (directory / "a.yaml").rename(directory / "kept")
    (directory / "a.yaml").symlink_to("kept")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_foreign_file, "it belongs to user 4711"),
        (_foreign_directory, "it belongs to user 4711"),
        (_foreign_link, "it belongs to user 4711"),
        (_link_to_foreign, "it belongs to user 4711"),
        (lambda directory: (directory / "a.yaml").chmod(0o646), "everybody can write it"),
        (lambda directory: directory.chmod(0o777), "everybody can write it"),
    ],
)
def test_the_wary_believe_only_what_nobody_else_can_have_written(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\n")
    assert not read(tmp_path, wary=True).problems
    harm(tmp_path)
    (problem,) = read(tmp_path, wary=True).problems
    assert problem.code == "untrusted" and reason in str(problem)
    assert not read(tmp_path, wary=True).sources and not read(tmp_path).problems


def test_the_wary_believe_links_of_their_own_and_directories_that_everybody_may_add_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "kept").write_text("version: 1\n")
    (tmp_path / "a.yaml").symlink_to("kept")
    tmp_path.chmod(0o1777)
    found = read(tmp_path, wary=True)
    assert len(found.sources) == 1 and not found.problems


LATER = 10.0
"""Seconds after which a file's times tell whether it has changed."""


def test_a_file_that_has_not_changed_is_the_identical_object(directory: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (directory / name).write_text("one")
    first = read(directory, now=lambda: time.time() + LATER)
    (directory / "b.yaml").write_text("two")
    for trusting in (True, False):
        second = read(directory, before=first, trusting=trusting)
        assert second.sources[0] is first.sources[0]
        assert [source.text for source in second.sources] == [b"one", b"two"]
        assert second.digest != first.digest
        assert second.digest == read(directory).digest


def test_only_a_file_that_has_been_still_for_a_while_is_not_read_again(directory: Path) -> None:
    (directory / "a.yaml").write_text("one")
    assert [one.stamp for one in read(directory).files.values()] == [None]
    first = read(directory, now=lambda: time.time() + LATER)
    assert None not in [one.stamp for one in first.files.values()]


def test_a_file_that_was_cut_off_is_read_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 5)
    for name in ("a.yaml", "b.yaml"):
        (directory / name).write_text("1234")
    later = time.time() + LATER
    first = read(directory, now=lambda: later)
    (directory / "a.yaml").unlink()
    second = read(directory, before=first, now=lambda: later)
    assert [source.text for source in second.sources] == [b"1234"]


def test_trust_is_looked_at_also_where_nothing_is_read(directory: Path) -> None:
    file = directory / "a.yaml"
    file.write_text("one")
    first = read(directory, wary=True, now=lambda: time.time() + LATER)
    assert not first.problems
    file.chmod(0o666)
    assert read(directory, wary=True, before=first).problems
