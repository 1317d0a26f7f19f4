"""The guest as a process of this machine: qemu without KVM, started, listened to and ended."""

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.vm.debian import Kernel, uncompressed
from tests.vm.initramfs import archive
from tests.vm.plan import PLAN_NAME, Plan

BOOT_SECONDS = 180
"""After so long the guest must have begun to print; it takes 10 seconds on an idle machine."""

RUN_SECONDS = 30 * 60
"""After so long the guest must have ended."""

MEMORY_MIB = 3072
CPUS = 2

_BUSYBOX = Path("/bin/busybox")
_QEMU = "qemu-system-x86_64"
_INIT = Path(__file__).with_name("init.sh")
_MODULES = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "tun"]
"""For the ports and the host's files; and tun, as /dev/net/tun only exists once it is loaded."""

_CONSOLE_LINES = 40


class GuestFailed(Exception):
    """The guest did not start or did not come to its end; the message says what is known."""


class ProgramMissing(Exception):
    """A program that the guest needs is not installed; the message says how to get it."""


def boot(kernel: Kernel, plan: Plan, checkout: Path, python: Path, scratch: Path) -> int:
    """Run a plan in a guest, copying what it prints to standard output; return its exit code.

    Args:
        kernel: What the guest runs.
        plan: What it is to do.
        checkout: The project's directory.
        python: The interpreter that has everything installed.
        scratch: An empty directory for the files of this one guest.

    Raises:
        GuestFailed: It did not start, or ended before the plan was carried out, or took too long.
        ProgramMissing: qemu or busybox is not installed.
        KernelMissing: The kernel lacks a module without which it cannot start.
    """
    initrd, console, status, messages = (
        scratch / name for name in ("initrd", "console", "status", "messages")
    )
    settings = f"checkout={shlex.quote(str(checkout))}\npython={shlex.quote(str(python))}\n"
    initrd.write_bytes(first_files(kernel, settings, {PLAN_NAME: plan.encode()}))
    ports = ["stdio,id=output,signal=off", f"file,id=status,path={status}"]
    command = emulated(kernel, initrd, console, ports, shared=Path("/"))
    with (
        messages.open("wb") as complaints,
        # Its input stays open and silent: when it ends, qemu takes the output for closed as well.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        ) as guest,
    ):
        try:
            trouble = _listen(guest)
        finally:
            guest.kill()
    code = status.read_text() if status.exists() else ""
    if trouble is None and not code:
        trouble = f"ended before its tests did (qemu: {guest.returncode})"
    if trouble is not None:
        raise GuestFailed(f"the guest {trouble}.{_end_of(messages)}{_end_of(console)}")
    return int(code)


def emulated(
    kernel: Kernel, initrd: Path, console: Path, ports: list[str], shared: Path
) -> list[str]:
    """Return the command that starts a guest.

    Args:
        kernel: What it runs.
        initrd: Its first files.
        console: A file for what its kernel prints.
        ports: Character devices, with the ids ``output`` and ``status``, for its two serial ports.
        shared: The directory that it sees, read-only, as its host's files.

    Raises:
        ProgramMissing: qemu or busybox is not installed.
    """
    qemu = shutil.which(_QEMU)
    if qemu is None:
        raise ProgramMissing(f"{_QEMU} is missing; apt-get install qemu-system-x86")
    if not _BUSYBOX.exists():
        raise ProgramMissing(f"{_BUSYBOX} is missing; apt-get install busybox-static")
    output, status = ports
    return [
        # A guest that nobody listens to any more must not go on.
        *("setpriv", "--pdeathsig", "KILL"),
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # Without erms memory is cleared and copied by words; qemu does by bytes what has it.
        # Without avx2 the kernel's sets are looked up in plain C: with qemu's imitation of it, 6.1 once
        # died in nft_pipapo_avx2_lookup, far behind the end of the key.
        *("-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max,-erms,-avx2"),
        *("-smp", str(CPUS), "-m", str(MEMORY_MIB)),
        *("-kernel", str(kernel.image), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 mitigations=off"),
        *("-serial", f"file:{console}"),
        *("-chardev", output, "-chardev", status),
        *("-device", "virtio-serial-pci"),
        *("-device", "virtserialport,nr=1,chardev=output"),
        *("-device", "virtserialport,nr=2,chardev=status"),
        *("-fsdev", f"local,id=host,path={shared},security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
    ]


def first_files(kernel: Kernel, settings: str, more: Mapping[str, bytes]) -> bytes:
    """Return the archive that a guest begins with.

    Args:
        kernel: What it runs, of which some modules are needed at once.
        settings: Shell assignments: ``checkout`` and ``python`` for tests, or ``system`` for a
            program that is to be process 1.
        more: Other files, by name.

    Raises:
        KernelMissing: The kernel lacks a module without which it cannot start.
    """
    modules = kernel.load_order(_MODULES)
    return archive(
        ["bin", "changes", "dev", "host", "modules", "proc", "root"],
        {
            "init": _INIT.read_bytes(),
            "bin/busybox": _BUSYBOX.read_bytes(),
            "settings": settings.encode(),
            **more,
            "modules/order": "".join(f"{module.name}\n" for module in modules).encode(),
            **{f"modules/{module.name}": uncompressed(module) for module in modules},
        },
    )


def _listen(guest: subprocess.Popen[bytes]) -> str | None:
    """Copy the guest's output until it ends; return what is wrong when it takes too long."""
    assert guest.stdout is not None
    begun = time.monotonic()
    limit, trouble = BOOT_SECONDS, f"did not begin within {BOOT_SECONDS} seconds"
    while True:
        left = begun + limit - time.monotonic()
        if not select.select([guest.stdout], [], [], max(left, 0))[0]:
            return trouble
        part = os.read(guest.stdout.fileno(), 65536)
        if not part:
            guest.wait()
            return None
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        limit, trouble = RUN_SECONDS, f"was not done after {RUN_SECONDS} seconds"


def _end_of(file: Path) -> str:
    lines = file.read_text(errors="replace").splitlines()[-_CONSOLE_LINES:] if file.exists() else []
    return "\n".join([f" Its {file.name} ended with:", *lines, ""]) if lines else ""
