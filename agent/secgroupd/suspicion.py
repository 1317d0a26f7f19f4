"""Which document the agent was taking up when it ended, told from one process to the next.

A document that ends the agent (by a defect, or by what it takes of memory) would end it at every
start, and nothing else would be enforced any more: after a few times, the one before goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TIMES = 5
"""How often a document may end the agent before it is left alone."""

SECONDS = 600.0
"""After how long it gets another chance: it may not have been the document."""


@dataclass(slots=True)
class Suspicion:
    """What is known of documents that something was being done with, in the run directory.

    A directory that cannot be written to knows of none.

    Attributes:
        directory: the run directory.
        what: was being done; names the file.
        now: the time, in seconds.
    """

    directory: Path
    what: str = "taking-up"
    now: Callable[[], float] = time.time

    def taking_up(self, digest: bytes) -> bool:
        """Note that a document is being taken up; False if it had better not be."""
        count, last = self._known(digest)
        if count >= TIMES and self.now() - last < SECONDS:
            return False
        # A second chance is one try, not as many as at first.
        self._write({"digest": digest.hex(), "times": min(count, TIMES - 1) + 1, "at": self.now()})
        return True

    def taken_up(self) -> None:
        """Note that the agent has survived."""
        try:
            self._file.unlink(missing_ok=True)
        except OSError:
            return

    @property
    def _file(self) -> Path:
        return self.directory / self.what

    def _known(self, digest: bytes) -> tuple[int, float]:
        try:
            found = json.loads(self._file.read_text())
            if found["digest"] == digest.hex():
                return int(found["times"]), float(found["at"])
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return 0, 0.0

    def _write(self, content: object) -> None:
        fresh = self.directory / f".{self.what}.new"
        try:
            fresh.write_text(json.dumps(content))
            fresh.replace(self._file)
        except OSError:
            return
