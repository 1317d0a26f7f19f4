"""Run pytest in a guest with Debian's own kernel: ``python -m tests.vm.run [PYTEST ARGUMENT...]``.

Without arguments the tier's own selection runs. The exit code is that of the first run of pytest
that did not succeed, or 0; it is GUEST_LOST when there is no guest or it did not come to its end.
"""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.vm.debian import Kernel, KernelMissing
from tests.vm.machine import CPUS, GuestFailed, ProgramMissing, boot
from tests.vm.plan import Plan

THROUGH_NAT = (
    "tests/netns/test_clearing_edges.py::"
    "test_flows_through_the_hosts_nat_are_judged_by_what_the_instance_sees"
)
WORKERS = ("-n", str(CPUS))

BETWEEN_VPCS = (
    "tests/netns/test_vpcs.py::test_between_vpcs_nothing_passes_without_a_peering",
    "tests/netns/test_vpcs.py::test_a_peering_that_goes_takes_its_connections_with_it",
)

UNTRACKED = "tests/vm/test_untracked.py"

SELECTION = (
    (UNTRACKED,),
    (*WORKERS, "tests/vm", f"--ignore={UNTRACKED}"),
    (
        *WORKERS,
        "tests/netns/test_enforcement.py",
        "tests/netns/test_kernel_agrees.py",
        "tests/netns/test_clearing_kernel.py",
    ),
    (
        *(*WORKERS, "--wiring=switched"),
        "tests/netns/test_closed.py",
        "tests/netns/test_enforcement.py",
        "tests/netns/test_kernel_agrees.py",
        "tests/netns/test_worked_examples_kernel.py",
        "tests/netns/test_clearing_kernel.py",
        "tests/netns/test_clearing_edges.py",
        "tests/netns/test_stale_replies.py",
        "tests/netns/test_wirings.py",
        "tests/netns/test_drops.py",
        "tests/netns/test_trace.py",
        "tests/netns/test_load_balancer.py",
        *BETWEEN_VPCS,
        # Behind switched ports there is no NAT of the host's.
        f"--deselect={THROUGH_NAT}",
    ),
    (
        *(*WORKERS, "--wiring=gateway"),
        "tests/netns/test_enforcement.py",
        "tests/netns/test_worked_examples_kernel.py",
        "tests/netns/test_load_balancer.py",
        *BETWEEN_VPCS,
        THROUGH_NAT,
    ),
)
"""What belongs to the tier: the arguments of each run of pytest, all in one guest."""

GUEST_LOST = 100
"""The exit code when pytest did not get to say its own."""

CHECKOUT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = Plan(
        runs=(tuple(arguments),) if arguments else SELECTION,
        columns=shutil.get_terminal_size().columns,
        color=sys.stdout.isatty(),
    )
    try:
        with tempfile.TemporaryDirectory(prefix="secgroupd-vm-") as scratch:
            kernel = Kernel.newest()
            sys.stdout.write(f"vm: starting {kernel.release} under qemu, without KVM\n")
            sys.stdout.flush()
            return boot(kernel, plan, CHECKOUT, Path(sys.executable), Path(scratch))
    except (KernelMissing, ProgramMissing, GuestFailed) as error:
        sys.stderr.write(f"vm: {error}\n")
        return GUEST_LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
