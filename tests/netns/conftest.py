"""A host with one port, and a daemon for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.agents import Agent, agent_on

from secgroupd.proving.namespaces import Lab


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab, agent_on(lab, tmp_path) as made:
        yield made
