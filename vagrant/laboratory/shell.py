"""Commands on this machine, and on the lab's by ssh."""

import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


class LabError(Exception):
    """The lab cannot go on; the message says why."""


def run(command: Sequence[str | Path], *, given: bytes | None = None, seconds: float = 900) -> str:
    """Run a command here and return what it printed.

    Raises:
        LabError: it failed, with the end of what it said.
    """
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(map(str, command))}: not done in {seconds:.0f} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        raise LabError(f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{said}")
    return done.stdout.decode(errors="replace")


class Ssh:
    """The way to one machine: ssh with a given configuration file, over one lasting connection."""

    def __init__(self, name: str, config: Path) -> None:
        self.name = name
        self._start = ["ssh", "-F", str(config)]

    def command(self, *words: str) -> list[str]:
        """Return the command that runs something there (nothing: a shell)."""
        return [*self._start, self.name, *words]

    def run(self, script: str, *, given: bytes | None = None, seconds: float = 900) -> str:
        """Run a shell script there as root and return what it printed."""
        return run(
            self.command("sudo", "sh", "-ec", shlex.quote(script)),
            given=given if given is not None else b"",
            seconds=seconds,
        )

    def code(self, script: str) -> tuple[int, str]:
        """Run a shell script there as root; return its exit code and what it printed.

        Raises:
            LabError: it does not come to its end.
        """
        try:
            done = subprocess.run(
                self.command("sudo", "sh", "-c", shlex.quote(script)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: {script}: not done in 300 s") from error
        return done.returncode, done.stdout + done.stderr

    def forget(self) -> None:
        """Drop the lasting connection, because the machine is about to go."""
        subprocess.run([*self._start, "-O", "exit", self.name], capture_output=True, check=False)

    def connect(self, port: int) -> subprocess.Popen[bytes]:
        """Return a process whose input and output are a TCP connection to the machine's loopback."""
        return subprocess.Popen(
            [*self._start, "-W", f"127.0.0.1:{port}", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def wait(self, seconds: float = 600) -> None:
        """Wait until the machine answers.

        Raises:
            LabError: it never does.
        """
        until = time.monotonic() + seconds
        while True:
            done = subprocess.run(
                self.command("true"), stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            if done.returncode == 0:
                return
            if time.monotonic() > until:
                raise LabError(f"{self.name} does not answer: {done.stderr.decode()[-500:]}")
            time.sleep(1)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
