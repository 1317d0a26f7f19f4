"""Every exception that is raised on purpose, sorted by what its reader can do about it."""

from dataclasses import dataclass


class SecgroupdError(Exception):
    """Root of the tree. Whatever is raised and is not in this tree is a bug."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong (or doubtful) in a file, at a place that an editor can jump to.

    ``line`` and ``column`` count from 1. ``code`` is a stable, lower-case, hyphenated name;
    ``message`` is one sentence that ends with what to write instead.
    """

    file: str
    line: int
    column: int
    code: str
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.severity}: {self.message} [{self.code}]"


class DocumentError(SecgroupdError):
    """A document was refused: whoever wrote it must edit it. It carries every problem at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SettingsError(DocumentError):
    """The agent's own settings were refused."""


class QuestionError(SecgroupdError):
    """A question (an explain call, a reachability test) names something that does not exist."""


class DataplaneError(SecgroupdError):
    """The kernel, or a program between us and it, did not do what was asked."""


class NotCommitted(DataplaneError):
    """A plan was not carried out to its end.

    Attributes:
        made: how many of its transactions the kernel had taken before the one that failed.
    """

    made = 0


class TransactionRefused(NotCommitted):
    """The kernel refused a transaction and is unchanged.

    ``origins`` names the objects of the document whose lines it refused, most telling first.
    """

    def __init__(self, detail: str, origins: tuple[str, ...]) -> None:
        self.detail = detail
        self.origins = origins
        what = ", ".join(origins) if origins else "no object of the document"
        super().__init__(f"the kernel refused the transaction ({what}): {detail}")


class OutcomeUnknown(NotCommitted):
    """The writer died or went silent: whether the kernel committed must be read back."""


class NotConverged(DataplaneError):
    """A transaction was committed, but what was read back differs; carries the rest of the plan."""


class ImportRefused(SecgroupdError):
    """A cloud's answers cannot be imported: whoever fetched them must fetch others."""


class DrawingError(SecgroupdError):
    """The program that draws pictures is missing or failed; nothing else depends on it."""


class StoreError(SecgroupdError):
    """What is to be remembered over a restart cannot be kept; enforcement does not depend on it."""
