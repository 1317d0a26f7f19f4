"""The guest's kernel is Debian's own, and it refuses nothing of what the agent needs."""

import os

import pytest

from secgroupd.proving.netns import Namespace

pytestmark = pytest.mark.vm

STATEFUL = """
table {family} needs {{
    chain zones {{ type filter hook prerouting priority -300; ct zone set 5; }}
    chain judge {{ type filter hook prerouting priority -150; ct state established accept; }}
}}
"""


def test_the_kernel_is_debians() -> None:
    assert "Debian" in os.uname().version


@pytest.mark.parametrize("family", ["inet", "bridge"])
def test_connection_tracking_in(family: str) -> None:
    namespace = Namespace("needs")
    namespace.run(["nft", "-f", "-"], stdin=STATEFUL.format(family=family))
    assert "ct zone set 5" in namespace.run(["nft", "list", "table", family, "needs"]).stdout
    namespace.close()
