"""The tests here are for the guest's kernel; anywhere else they fail rather than mislead."""

import os

import pytest
from tests.vm.plan import GUEST


@pytest.fixture(autouse=True)
def _in_the_guest() -> None:
    if GUEST not in os.environ:
        pytest.fail("this test is for the kernel of the guest: make test-vm runs it", pytrace=False)
