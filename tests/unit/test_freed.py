"""What is free in the process is given back."""

from pathlib import Path

from secgroupd.freed import give_back

BLOCK, BLOCKS = 64 << 10, 1000
"""Blocks that the C library does not return by itself while one that came later is held."""


def _resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    held = blocks[-1]
    del blocks
    before = _resident()
    give_back()
    assert before - _resident() > BLOCK * BLOCKS // 2
    assert len(held) == BLOCK
