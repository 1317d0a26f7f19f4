"""A root directory booted under qemu, with Debian's kernel and systemd as process 1."""

import shutil
import subprocess
from pathlib import Path

from tests.vm.debian import Kernel
from tests.vm.machine import emulated, first_files

SECONDS = 600
"""After so long it must have powered itself off; it takes 90 on an idle machine."""

REPORT = "/dev/vport0p1"
"""Where the guest writes what is to be known of it."""


def add_modules(root: Path, kernel: Kernel) -> None:
    """Give a root directory what a kernel's modules for networks need."""
    there = root / "lib/modules" / kernel.release
    for name in ("net", "lib", "crypto", "drivers/net", "arch/x86/crypto"):
        shutil.copytree(kernel.modules / "kernel" / name, there / "kernel" / name, symlinks=True)
    for index in kernel.modules.glob("modules.*"):
        shutil.copy(index, there)


def booted(root: Path, scratch: Path) -> str:
    """Boot a root directory, which stays as it is; return what the guest reports.

    It must have the kernel's modules, and end by powering itself off.

    Raises:
        AssertionError: it did not; with the end of what its kernel and systemd printed.
    """
    kernel = Kernel.newest()
    initrd, console, report = (scratch / name for name in ("initrd", "console", "report"))
    initrd.write_bytes(first_files(kernel, "system=/lib/systemd/systemd\n", {}))
    ports = [f"file,id=output,path={report}", "null,id=status"]
    command = emulated(kernel, initrd, console, ports, shared=root)
    done = subprocess.run(
        ["timeout", str(SECONDS), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = console.read_text(errors="replace")[-6000:] if console.exists() else ""
    assert done.returncode == 0, done.stderr + printed
    found = report.read_text()
    assert found, printed
    return found
