"""The machine image of the emulated lab: a Debian with a role's packages, built once."""

import hashlib
import os
import shutil
from pathlib import Path

from laboratory.shell import LabError, run
from laboratory.tables import WORK, packages

SIZE = "3G"
MODULES = ("virtio_pci", "virtio_blk", "ext4")
BASE = (
    *("systemd", "systemd-sysv", "dbus", "udev", "openssh-server", "sudo", "apt"),
    *("initramfs-tools", "linux-image-amd64"),
)
HOOKS = (
    # The kernel's first files with the modules that these machines need, and no others: they are
    # unpacked at each start, by an emulated processor.
    'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"',
    'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"',
    f"echo {' '.join(MODULES)} | tr ' ' '\\n' >$1/usr/share/initramfs-tools/modules.d/lab",
)
SETTINGS = (
    'echo "/dev/vda / ext4 defaults 0 1" >"$1/etc/fstab"',
    # The first card is for ssh, the second one gets its address when the machine is made.
    "printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\n' >\"$1/etc/systemd/network/10-ssh.network\"",
    'chroot "$1" systemctl -q enable systemd-networkd ssh',
    'chroot "$1" systemctl -q disable apt-daily.timer apt-daily-upgrade.timer',
    'chroot "$1" systemctl -q mask fstrim.timer e2scrub_all.timer getty@tty1.service',
)


class Image:
    """One image, of a suite and a role, with its kernel beside it."""

    def __init__(self, suite: str, role: str) -> None:
        self.suite, self.role = suite, role
        self.directory = WORK / "images" / f"{suite}-{role}"
        self.disk = self.directory / "disk"
        self.kernel = self.directory / "vmlinuz"
        self.first_files = self.directory / "initrd"
        self._stamp = self.directory / "stamp"

    def make(self, key: Path) -> None:
        """Build it, unless it is there and made of the same."""
        wanted = [*BASE, *packages(self.role)]
        recipe = repr((wanted, HOOKS, SETTINGS, SIZE, key.read_text()))
        stamp = hashlib.sha256(recipe.encode()).hexdigest()
        if self._stamp.exists() and self._stamp.read_text() == stamp:
            return
        print(f"building the image of a {self.role} with {self.suite}", flush=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        root = self.directory / "root"
        hooks = [
            *(f"--essential-hook={hook}" for hook in HOOKS),
            *(f"--customize-hook={hook}" for hook in SETTINGS),
            f"--customize-hook=install -D -m 600 {key} $1/root/.ssh/authorized_keys",
        ]
        # Files of other owners take root to make, to read and to remove.
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        run(
            [
                *as_root,
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
                *(f"--include={','.join(wanted)}", *hooks, self.suite, str(root)),
            ],
            seconds=3600,
        )
        for name, copy in (("vmlinuz", self.kernel), ("initrd.img", self.first_files)):
            found = sorted((root / "boot").glob(f"{name}-*"))
            if not found:
                raise LabError(f"the image of {self.suite} has no /boot/{name}-*")
            shutil.copy(found[-1], copy)
        run([*as_root, "mke2fs", "-q", "-t", "ext4", "-d", root, self.disk, SIZE])
        run([*as_root, "rm", "-rf", root])
        self._stamp.write_text(stamp)
