"""What is closed when its ``with`` block ends."""

from types import TracebackType
from typing import Self


class Closing:
    """Makes a class with ``close`` a context manager that calls it."""

    def close(self) -> None:
        """Let go of everything that is held open."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
