"""Runs the demonstration: ``python -m secgroupd.demo``."""

import signal
import sys
from types import FrameType

from secgroupd.commands.output import abandon_stdout, complain
from secgroupd.demo.story import tell
from secgroupd.errors import SecgroupdError


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demonstration; return 0 if every packet did what the rules say."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        right = tell()
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain("\ninterrupted; everything has been taken down")
        return 130
    except BrokenPipeError:
        abandon_stdout()
        return 141
    except SecgroupdError as error:
        complain(f"demo: {error}")
        return 1
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
