"""Debian's kernel on this machine: which one the guest gets, and its modules in order of loading."""

import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BOOT = Path("/boot")
MODULES = Path("/lib/modules")

REMEDY = "apt-get install linux-image-amd64"


class KernelMissing(Exception):
    """This machine has no kernel that the guest could run; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel image of Debian's with its modules.

    Attributes:
        release: What ``uname -r`` says when it runs.
        image: The compressed kernel, as a boot loader takes it.
        modules: The directory of its modules.
    """

    release: str
    image: Path
    modules: Path

    @classmethod
    def newest(cls, boot: Path = BOOT, modules: Path = MODULES) -> Self:
        """Return the newest of Debian's kernels that has its modules beside it.

        Raises:
            KernelMissing: There is none.
        """
        found = [
            cls(release, image, modules / release)
            for image in boot.glob("vmlinuz-*-amd64")
            if (modules / (release := image.name.removeprefix("vmlinuz-")) / "modules.dep").exists()
        ]
        if not found:
            raise KernelMissing(
                f"no kernel of Debian's: {boot}/vmlinuz-*-amd64 with {modules}/*-amd64 is missing;"
                f" {REMEDY}"
            )
        return max(found, key=lambda kernel: _by_number(kernel.release))

    def load_order(self, names: list[str]) -> list[Path]:
        """Return the files of these modules and of all that they need, each after what it needs.

        Raises:
            KernelMissing: The kernel has no such module, neither as a file nor built in.
        """
        needs = dict(
            line.split(":", 1)
            for line in (self.modules / "modules.dep").read_text().splitlines()
        )  # fmt: skip
        files = {_module_name(file): file for file in needs}
        built_in = {
            _module_name(line) for line in (self.modules / "modules.builtin").read_text().split()
        }
        order: dict[str, None] = {}
        for name in names:
            if name in files:
                # modules.dep lists what a module needs from the nearest to the deepest.
                order |= dict.fromkeys([*reversed(needs[files[name]].split()), files[name]])
            elif name not in built_in:
                raise KernelMissing(f"kernel {self.release} has no module {name}; {REMEDY}")
        return [self.modules / file for file in order]


def uncompressed(module: Path) -> bytes:
    """Return a module as the kernel takes it; later releases of Debian compress them."""
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


def _module_name(file: str) -> str:
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def _by_number(release: str) -> list[tuple[int, str]]:
    """Order 6.1.0-9 before 6.1.0-10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", release)
    ]
