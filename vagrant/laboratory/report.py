"""What the scenario prints: sections, lines, and checks that hold or do not."""

import time
from pathlib import Path


class Report:
    """Prints as it goes, and keeps what it printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed: list[str] = []
        self.checks = 0
        self._begun = time.monotonic()

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)
        self.lines.append(text)

    def title(self, text: str) -> None:
        """Begin a section."""
        self.line()
        self.line(f"== {text}")
        self.line()

    def check(self, what: str, holds: object, otherwise: str = "") -> None:
        """Say whether something holds; ``otherwise`` says what was found instead."""
        self.checks += 1
        if not holds:
            self.failed.append(what)
        found = f": {otherwise}" if not holds and otherwise else ""
        self.line(f"{'ok    ' if holds else 'WRONG '}  {what}{found}")

    def done(self, what: str) -> None:
        """Say that something has come about; had it not, the scenario would not be here."""
        self.check(what, holds=True)

    def end(self) -> int:
        """Print the sum; return an exit code."""
        minutes = (time.monotonic() - self._begun) / 60
        self.line()
        held = self.checks - len(self.failed)
        self.line(f"{held} of {self.checks} checks hold; {minutes:.0f} minutes")
        for each in self.failed:
            self.line(f"WRONG   {each}")
        return 1 if self.failed else 0

    def keep(self, file: Path) -> None:
        """Write it down as a page."""
        text = "\n".join(self.lines).strip("\n")
        file.write_text(
            f"# The lab's last report\n\nWritten by `make lab`; [docs/lab.md](../docs/lab.md) says what it is.\n\n"
            f"```\n{text}\n```\n"
        )
