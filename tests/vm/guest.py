"""Process 1 of the guest: runs pytest as often as the plan says, reports, and powers off.

It stays process 1 so that orphans of the tests are waited for, as on any machine.
"""

import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.vm.plan import GUEST, OUTPUT_PORT, PLAN_NAME, STATUS_PORT, Plan

OPTIONS = ("-m", "", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=300")
"""Before the arguments of every run: no test is left out because it is for the guest, and a test
that hangs shows where."""

CATEGORIES = (
    "failed",
    "passed",
    "skipped",
    "deselected",
    "xfailed",
    "xpassed",
    "warnings",
    "error",
)
"""In the order of pytest's closing line."""


class Tally:
    """Writes how many tests ended how to a file, when pytest writes its summary."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        stats = terminalreporter.stats
        counts = {category: len(stats.get(category, ())) for category in CATEGORIES}
        self._file.write_text(json.dumps(counts))


def run(arguments: Sequence[str], tally: Path) -> int:
    """Run pytest in a process of its own, which begins with pytest imported; return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(pytest.main(list(arguments), plugins=[Tally(tally)]))
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def say(line: str) -> None:
    """Print a line at once: the runs of pytest write to the same place."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def closing_line(counts: Counter[str], seconds: float, columns: int) -> str:
    """Return what pytest would have said about all runs together."""
    told = [f"{counts[category]} {category}" for category in CATEGORIES if counts[category]]
    return f" {', '.join(told) or 'no tests ran'} in {seconds:.2f}s ".center(columns, "=")


def run_all(plan: Plan) -> int:
    """Carry out the plan; return the first exit code that is not 0."""
    color = "yes" if plan.color else "no"
    begun = time.monotonic()
    counts = Counter[str]()
    codes = []
    for number, arguments in enumerate(plan.runs):
        say(f"\nvm: pytest {shlex.join(arguments)}")
        tally = Path(f"/run/tally-{number}.json")
        codes.append(run([*OPTIONS, f"--color={color}", *arguments], tally))
        if tally.exists():
            counts.update(json.loads(tally.read_text()))
    if len(plan.runs) > 1:
        say("")
        for arguments, code in zip(plan.runs, codes, strict=True):
            say(f"vm: exit code {code} of pytest {shlex.join(arguments)}")
        say(closing_line(counts, time.monotonic() - begun, plan.columns))
    return next((code for code in codes if code), 0)


def main() -> None:
    output = os.open(OUTPUT_PORT, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    plan = Plan.decode(Path("/run", PLAN_NAME).read_bytes())
    # Daemons that tests start are this checkout's, whichever one the environment was made for.
    agent = str(Path(__file__).parents[2] / "agent")
    os.environ |= {"COLUMNS": str(plan.columns), GUEST: os.uname().release, "PYTHONPATH": agent}
    code = run_all(plan)
    STATUS_PORT.write_text(str(code))


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the end of process 1 would bury it under a panic
        traceback.print_exc()
    Path("/proc/sysrq-trigger").write_text("o")
    signal.pause()
