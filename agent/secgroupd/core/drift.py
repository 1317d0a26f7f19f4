"""Who has changed the ruleset beside the agent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction on a network namespace's ruleset.

    Attributes:
        generation: the ruleset's, after it; None for transactions whose events were lost.
        ours: whether it changed, or may have changed, a table of the agent's name.
        process: the name (``comm``) of the process that committed it; empty when unknown.
        pid: its number.
    """

    generation: int | None
    ours: bool
    process: str = ""
    pid: int = 0

    def __str__(self) -> str:
        """Return the process, as a log line names it."""
        return f"{self.process or 'unknown'}:{self.pid}"
