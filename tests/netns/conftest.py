"""A host with one port, and a daemon for it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.agents import SERVER, Agent

from secgroupd.proving.namespaces import Lab


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab:
        lab.add_port(interface="tap1", addresses=[SERVER], alias="p1", mac="fa:16:3e:00:00:01")
        made = Agent(lab, tmp_path)
        try:
            yield made
        finally:
            if made.process is not None:
                made.stop(signal.SIGKILL)
