"""Ten thousand random changes leave nothing behind."""

import json
import subprocess
import sys

import pytest

from secgroupd.proving.netns import Namespace

pytestmark = pytest.mark.netns

CHANGES = 10_000


def test_ten_thousand_changes_grow_neither_memory_nor_descriptors_nor_the_table() -> None:
    host = Namespace("soaked")
    try:
        command = [sys.executable, "-m", "tests.netns.soak", str(CHANGES)]
        done = host.popen(command, stdout=subprocess.PIPE)
        shown, _ = done.communicate()
    finally:
        host.close()
    samples = [json.loads(line) for line in shown.splitlines()]
    assert done.returncode == 0 and samples[-1]["change"] == CHANGES
    first, last = samples[0], samples[-1]
    assert all(sample["objects"] == sample["expected"] for sample in samples)
    assert last["fds"] == first["fds"]
    for process in ("rss", "writer_rss"):
        assert last[process] <= 1.1 * first[process], samples
