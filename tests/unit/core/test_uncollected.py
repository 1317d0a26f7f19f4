"""The garbage collector is off as long as anybody needs it so, and then as it was."""

import gc
from collections.abc import Iterator

import pytest

from secgroupd.core.uncollected import uncollected


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_blocks_that_overlap_leave_it_as_it_was_before_the_first(*, enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    first, second = uncollected(), uncollected()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled(), "the second still needs it"
    second.__exit__(None, None, None)
    assert gc.isenabled() is enabled


def test_an_error_in_a_block_leaves_it_as_it_was() -> None:
    gc.enable()
    with pytest.raises(ValueError, match="odd"), uncollected():
        raise ValueError("odd")
    assert gc.isenabled()
