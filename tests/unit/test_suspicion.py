"""Documents that end the agent."""

from pathlib import Path

from secgroupd.suspicion import SECONDS, TIMES, Suspicion


def test_a_document_that_ended_it_often_is_left_alone_for_a_time(tmp_path: Path) -> None:
    now = [1000.0]

    def after_a_restart() -> Suspicion:
        return Suspicion(tmp_path, now=lambda: now[0])

    assert [after_a_restart().taking_up(b"a") for _ in range(TIMES + 2)] == [True] * TIMES + [
        False,
        False,
    ]
    assert after_a_restart().taking_up(b"b"), "another one is innocent"
    for _ in range(TIMES):
        after_a_restart().taking_up(b"a")
    assert not after_a_restart().taking_up(b"a")
    now[0] += SECONDS + 1
    assert after_a_restart().taking_up(b"a") and not after_a_restart().taking_up(b"a")


def test_one_that_it_survived_is_innocent(tmp_path: Path) -> None:
    for _ in range(TIMES * 2):
        assert Suspicion(tmp_path).taking_up(b"a")
        Suspicion(tmp_path).taken_up()


def test_what_is_being_done_is_told_apart(tmp_path: Path) -> None:
    for _ in range(TIMES):
        assert Suspicion(tmp_path, "looking-through").taking_up(b"a")
    assert not Suspicion(tmp_path, "looking-through").taking_up(b"a")
    assert Suspicion(tmp_path).taking_up(b"a")


def test_what_cannot_be_read_or_written_is_no_reason(tmp_path: Path) -> None:
    for content in ("", "[1]", "{}", '{"digest": "61", "times": "x", "at": 1}'):
        (tmp_path / "taking-up").write_text(content)
        assert Suspicion(tmp_path).taking_up(b"a")
    for _ in range(TIMES * 2):
        assert Suspicion(tmp_path / "missing").taking_up(b"a")
