"""What the runner tells the guest, and where the two meet."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

PLAN_NAME = "plan.json"
"""The plan's file: at the root of the first file system, and in the guest's ``/run``."""

OUTPUT_LINE = Path("/dev/ttyS1")
"""The guest's serial line for what pytest prints; the first line is its console."""

STATUS_LINE = Path("/dev/ttyS2")
"""The guest's serial line for the exit code, a decimal number, written once everything has run."""

GUEST = "SECGROUPD_TEST_GUEST"
"""The environment variable that says, in the guest, that this is it; its value is the kernel."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        runs: The arguments of each run of pytest, in order.
        columns: The width of the terminal, in characters.
        color: Whether the output may be coloured.
    """

    runs: tuple[tuple[str, ...], ...]
    columns: int
    color: bool

    def encode(self) -> bytes:
        """Return the content of the plan's file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Return the plan of a file's content."""
        read = json.loads(content)
        runs = tuple(tuple(arguments) for arguments in read["runs"])
        return cls(runs, read["columns"], read["color"])
