"""Debian 13's programs in a root directory of their own, which the Makefile makes."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / ".venv" / "debian13"

ENTER = """
set -e
for each in /proc /sys {directory} {agent}; do
    mkdir -p "{root}$each"
    mount --rbind "$each" "{root}$each"
done
export PYTHONPATH={agent}
exec chroot "{root}" "$@"
"""


def command(directory: Path, *words: str) -> list[str]:
    """Return the command that runs one of them, with this project's agent and a directory of the host's."""
    assert (ROOT / "usr/bin/nft").exists(), "make test-host makes it"
    script = ENTER.format(root=ROOT, directory=directory, agent=PROJECT / "agent")
    return ["unshare", "--mount", "sh", "-c", script, "sh", *words]
