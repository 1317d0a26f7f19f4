"""Has a Python process die when it is to write into a directory named lib, while a file is there."""

import os
import signal
import sys
from pathlib import Path

POISON = Path(os.environ["SECGROUPD_POISON"])


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """Die at the first such file that is opened for writing."""
    if event != "open" or not isinstance(arguments[2], int) or not arguments[2] & os.O_WRONLY:
        return
    if "/lib/" in os.fsdecode(str(arguments[0])) and POISON.exists():
        os.kill(os.getpid(), signal.SIGSEGV)


sys.addaudithook(watch)
