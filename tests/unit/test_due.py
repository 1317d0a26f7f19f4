"""When the daemon does what."""

import pytest

from secgroupd.config import Settings
from secgroupd.daemon import FIRST_RETRY, LAST_RETRY, LOOK_SECONDS, Due


@pytest.mark.parametrize("seconds", [0.01, 2.0])
def test_drift_is_not_repaired_again_before_the_time_that_a_cycle_takes_has_passed(
    seconds: float,
) -> None:
    """So a storm of it takes half of a CPU at most; a single one is repaired at once."""
    due = Due(resync=1e9)
    assert due.repair <= 0
    due.done(100.0, 100.0 + seconds, Settings(), well=True)
    assert due.repair == pytest.approx(100.0 + 2 * seconds)
    due.drift = True
    assert due.wait(100.0 + seconds) == pytest.approx(min(seconds, LOOK_SECONDS))


def test_what_fails_is_tried_again_ever_later_and_at_once_when_it_went_well() -> None:
    due, now, waited = Due(resync=1e9), 0.0, []
    for _ in range(12):
        due.done(now, now, Settings(), well=False)
        assert due.retry is not None
        waited.append(due.retry - now)
        now = due.retry
    assert waited[0] == pytest.approx(FIRST_RETRY) and waited[-1] == LAST_RETRY
    assert waited == sorted(waited)
    due.done(now, now, Settings(), well=True)
    assert due.retry is None and due.backoff == FIRST_RETRY
